//! Bytes to the tokens of JSON, as QEMU's monitor takes them: strings in single or double quotes,
//! any white space, and after an invalid token everything up to the next bracket, brace, comma, colon
//! or end of line is skipped.
//!
//! A token may come in any number of pieces. What a string holds is looked at by [`unquote`], when
//! its message is put together.

/// How much of an odd token is shown.
const MOST_SHOWN: usize = 64;

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// `{`
    OpenObject,
    /// `}`
    CloseObject,
    /// `[`
    OpenList,
    /// `]`
    CloseList,
    /// `,`
    Comma,
    /// `:`
    Colon,
    /// What is between the quotes.
    String(Vec<u8>),
    /// A number, to the letter.
    Number(String),
    /// Lower-case letters.
    Keyword(String),
}

/// What the lexer has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lexed {
    /// A token is complete.
    Token(Token),
    /// No token begins, or goes on, like this.
    Stray(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Between tokens.
    #[default]
    Start,
    /// In a string; `escaped`: after a backslash.
    String {
        quote: u8,
        escaped: bool,
    },
    Number(Number),
    Keyword,
    /// After an invalid token.
    Recovery,
}

/// Where in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Sign,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    /// Where the next byte leads, if it belongs to the number.
    fn next(self, byte: u8) -> Option<Number> {
        use Number::*;
        Some(match (self, byte) {
            (Sign, b'0') => Zero,
            (Sign, b'1'..=b'9') | (Digits, b'0'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            _ => return None,
        })
    }

    /// Whether the number may end before this byte.
    fn may_end(self, byte: u8) -> bool {
        match self {
            Number::Zero => !byte.is_ascii_digit(),
            Number::Digits | Number::Fraction | Number::ExponentDigits => true,
            _ => false,
        }
    }
}

/// Cuts bytes into tokens.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    /// The current token, as it came. The caller of `push` limits its length.
    text: Vec<u8>,
}

/// Neither begins a character of UTF-8 nor belongs to one: QEMU resets its parser at one.
fn resets(byte: u8) -> bool {
    byte >= 0xfe
}

fn is_structural(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':')
}

/// Where a token may begin again after an invalid one.
fn ends_recovery(byte: u8) -> bool {
    is_structural(byte) || (byte < 0x20 && byte != b'\t') || resets(byte)
}

impl Lexer {
    /// Whether it is between tokens.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Start | State::Recovery)
    }

    /// Forgets the token in hand.
    pub(super) fn reset(&mut self) {
        self.state = State::Start;
        self.text = Vec::new();
    }

    /// Takes a byte. It may end one token and be another.
    pub(super) fn push(&mut self, byte: u8, mut emit: impl FnMut(Lexed)) {
        loop {
            match self.state {
                State::Start => return self.start(byte, emit),
                State::String { .. } if byte < 0x20 || resets(byte) => {
                    return emit(self.stray(byte));
                }
                State::String { quote, escaped } => {
                    if byte == quote && !escaped {
                        self.state = State::Start;
                        return emit(Lexed::Token(Token::String(std::mem::take(&mut self.text))));
                    }
                    let escaped = byte == b'\\' && !escaped;
                    self.state = State::String { quote, escaped };
                    return self.text.push(byte);
                }
                State::Number(number) => {
                    if let Some(next) = number.next(byte) {
                        self.state = State::Number(next);
                        return self.text.push(byte);
                    }
                    if !number.may_end(byte) {
                        return emit(self.stray(byte));
                    }
                    let text = self.take_text();
                    emit(Lexed::Token(Token::Number(text)));
                }
                State::Keyword if byte.is_ascii_lowercase() => return self.text.push(byte),
                State::Keyword => {
                    let text = self.take_text();
                    emit(Lexed::Token(Token::Keyword(text)));
                }
                State::Recovery if ends_recovery(byte) => {
                    self.state = State::Start;
                }
                State::Recovery => return,
            }
        }
    }

    /// A byte between tokens.
    fn start(&mut self, byte: u8, mut emit: impl FnMut(Lexed)) {
        let token = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return,
            b'{' => Token::OpenObject,
            b'}' => Token::CloseObject,
            b'[' => Token::OpenList,
            b']' => Token::CloseList,
            b',' => Token::Comma,
            b':' => Token::Colon,
            b'"' | b'\'' => {
                let (quote, escaped) = (byte, false);
                self.state = State::String { quote, escaped };
                return;
            }
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                self.state = match byte {
                    b'-' => State::Number(Number::Sign),
                    b'0' => State::Number(Number::Zero),
                    b'1'..=b'9' => State::Number(Number::Digits),
                    _ => State::Keyword,
                };
                return self.text.push(byte);
            }
            _ => return emit(self.stray(byte)),
        };
        emit(Lexed::Token(token));
    }

    /// The byte ends an invalid token.
    fn stray(&mut self, byte: u8) -> Lexed {
        let mut text = match self.state {
            State::String { quote, .. } => vec![quote],
            _ => Vec::new(),
        };
        text.extend(self.text.iter().take(MOST_SHOWN));
        if self.text.len() > MOST_SHOWN {
            text.extend_from_slice("\u{2026}".as_bytes());
        }
        // A zero ends a text where QEMU is written.
        text.extend((byte != 0).then_some(byte));
        self.reset();
        self.state = State::Recovery;
        Lexed::Stray(String::from_utf8_lossy(&text).into_owned())
    }

    /// The token in hand, which is of ASCII.
    fn take_text(&mut self) -> String {
        self.state = State::Start;
        let text = std::mem::take(&mut self.text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What a string means whose quotes are gone.
///
/// # Errors
/// In QEMU's words: an escape sequence that there is not, half of a character beyond the first
/// 65536, a code point without a character, and bytes that are not UTF-8.
pub(super) fn unquote(raw: &[u8]) -> Result<String, String> {
    const BAD_UTF8: &str = "invalid UTF-8 sequence in string";
    let mut rest = std::str::from_utf8(raw).map_err(|_| BAD_UTF8)?;
    if rest.contains(is_noncharacter) {
        return Err(BAD_UTF8.to_owned());
    }
    let mut text = String::with_capacity(rest.len());
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut after_escape = escape.chars();
        text.push(match after_escape.next() {
            Some(plain @ ('"' | '\'' | '\\' | '/')) => plain,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let (character, after) = code_point(after_escape.as_str()).ok_or_else(|| {
                    let shown: String = after_escape.as_str().chars().take(4).collect();
                    format!("\\u{shown} is not a valid Unicode character")
                })?;
                after_escape = after.chars();
                character
            }
            _ => return Err("invalid escape sequence in string".to_owned()),
        });
        rest = after_escape.as_str();
    }
    text.push_str(rest);
    Ok(text)
}

/// The character of four hexadecimal digits, or of two such units for one beyond the first 65536, and
/// what follows it.
fn code_point(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| {
        let digits = text.get(..4)?;
        let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u16::from_str_radix(digits, 16).ok().filter(|_| hex)
    };
    let mut units = vec![unit(text)?];
    let mut rest = text.get(4..)?;
    if (0xd800..0xdc00).contains(&units[0]) {
        rest = rest.strip_prefix("\\u")?;
        units.push(unit(rest)?);
        rest = rest.get(4..)?;
    }
    let character = char::decode_utf16(units).next()?.ok()?;
    (!is_noncharacter(character)).then_some((character, rest))
}

/// Code points that are set aside for ever, and that QEMU declines.
fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}
