//! The JSON of a monitor. serde_json does not do: QEMU's dialect has strings in single quotes, a
//! message may come in any pieces, and after an error both ends have to agree on where the next
//! message begins.

mod lexer;
mod parser;

#[cfg(test)]
pub(super) use parser::{MOST_BYTES, MOST_NESTING, MOST_TOKENS};
pub(crate) use parser::{Message, Parser};
