//! Text from outside on its way to a terminal.
//!
//! Peers, files and their names are hostile: an escape sequence in a block's name must not clear the
//! user's screen, and a bidirectional override must not make a line read as another one.

use std::fmt;

/// The text without control characters and without characters that reorder or break a line.
pub(crate) fn printable(text: &str) -> String {
    text.replace(is_unsafe, " ")
}

/// As [`printable`] for a JSON document. There such characters occur in strings only, where they are
/// escaped.
#[cfg(feature = "cli")]
pub(crate) fn printable_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && c != '\n' {
            plain.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Whether a terminal may act on the character instead of showing it.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value from outside in a message: bare if it is plain to read, quoted and escaped if it is empty
/// or holds blanks or control characters. This keeps messages on one line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        if !self.0.is_empty() && self.0.chars().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}
