//! Bytes to whole messages: values of JSON, in whatever pieces they come.
//!
//! A message ends where its brackets and braces are closed, or one more than were opened; so an error
//! within it is reported once, at its end, and the next message is read from there. An invalid token
//! is reported at once, and what came before it is dropped. The error texts and all of this are
//! QEMU's, except beyond the limits: the rest of such a line is skipped and reported once, where QEMU
//! continues in the middle of it.

use std::collections::VecDeque;

use serde_json::{Map, Number, Value};

use super::lexer::{Lexed, Lexer, Token, unquote};

/// Bytes of a message.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// Brackets and braces that are open at a time.
pub(crate) const MOST_NESTING: usize = 1024;
/// Tokens of a message: what a value takes in memory can be a hundred times what it took on its way.
pub(crate) const MOST_TOKENS: usize = 1 << 16;

/// A message, or what is wrong with it.
pub(crate) type Message = Result<Value, String>;

/// An object or a list that is not closed yet.
#[derive(Debug)]
enum Frame {
    Object {
        members: Map<String, Value>,
        key: Option<String>,
        next: Next,
    },
    List {
        values: Vec<Value>,
        next: Next,
    },
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A key or value, or the end.
    FirstOrEnd,
    /// The colon after a key.
    Colon,
    /// A key or value.
    Another,
    /// The value after a colon.
    Value,
    /// A comma, or the end.
    CommaOrEnd,
}

/// Puts messages together.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    lexer: Lexer,
    /// The innermost last.
    stack: Vec<Frame>,
    /// The message's value, when it is whole.
    whole: Option<Value>,
    /// The first thing that is wrong with the message in hand.
    error: Option<String>,
    /// How many more are open than closed.
    braces: isize,
    brackets: isize,
    bytes: usize,
    tokens: usize,
    /// Passing over the rest of a line.
    skips: bool,
}

impl Parser {
    /// Takes bytes until there is a message, and returns how many it took.
    pub(crate) fn push(&mut self, bytes: &[u8], messages: &mut VecDeque<Message>) -> usize {
        let mut taken = 0;
        if self.skips {
            let end = bytes.iter().position(|byte| ends_skipping(*byte));
            self.skips = end.is_none();
            taken = end.map_or(bytes.len(), |end| end + 1);
        }
        for &byte in bytes.iter().skip(taken) {
            self.push_byte(byte, messages);
            self.skips &= !ends_skipping(byte);
            taken += 1;
            if !messages.is_empty() {
                break;
            }
        }
        taken
    }

    fn push_byte(&mut self, byte: u8, messages: &mut VecDeque<Message>) {
        if self.bytes == MOST_BYTES {
            return self.too_much("token size", messages);
        }
        // A number's end is seen only by what comes next.
        let (mut first, mut second) = (None, None);
        self.lexer.push(byte, |lexed| {
            if first.is_none() {
                first = Some(lexed);
            } else {
                second = Some(lexed);
            }
        });
        for lexed in [first, second].into_iter().flatten() {
            if !self.skips {
                self.take(lexed, messages);
            }
        }
        if self.tokens == 0 && self.lexer.is_between() {
            self.bytes = 0;
        } else {
            self.bytes += 1;
        }
    }

    /// Whatever was in hand is forgotten, as is the rest of the line.
    fn too_much(&mut self, what: &str, messages: &mut VecDeque<Message>) {
        self.lexer.reset();
        self.reset();
        self.skips = true;
        messages.push_back(Err(format!("JSON {what} limit exceeded")));
    }

    fn reset(&mut self) {
        self.stack = Vec::new();
        self.whole = None;
        self.error = None;
        (self.braces, self.brackets) = (0, 0);
        (self.bytes, self.tokens) = (0, 0);
    }

    fn take(&mut self, lexed: Lexed, messages: &mut VecDeque<Message>) {
        let token = match lexed {
            Lexed::Token(token) => token,
            Lexed::Stray(text) => {
                self.reset();
                return messages.push_back(Err(format!("JSON parse error, stray '{text}'")));
            }
        };
        self.tokens += 1;
        match token {
            Token::OpenObject => self.braces += 1,
            Token::CloseObject => self.braces -= 1,
            Token::OpenList => self.brackets += 1,
            Token::CloseList => self.brackets -= 1,
            _ => {}
        }
        if self.tokens > MOST_TOKENS {
            return self.too_much("token count", messages);
        }
        if self.braces + self.brackets > MOST_NESTING as isize {
            return self.too_much("nesting depth", messages);
        }
        if self.error.is_none()
            && let Err(error) = self.step(token)
        {
            self.error = Some(error);
            self.stack = Vec::new();
            self.whole = None;
        }
        let (braces, brackets) = (self.braces, self.brackets);
        if braces < 0 || brackets < 0 || (braces == 0 && brackets == 0) {
            let message = match (self.error.take(), self.whole.take()) {
                (None, Some(value)) => Ok(value),
                (error, _) => Err(format!(
                    "JSON parse error, {}",
                    error.as_deref().unwrap_or("expecting value")
                )),
            };
            self.reset();
            messages.push_back(message);
        }
    }

    /// One token further in the message in hand.
    fn step(&mut self, token: Token) -> Result<(), String> {
        let no_value = || "expecting value".to_owned();
        match self.stack.last_mut() {
            None => self.value(token),
            Some(Frame::List { next, .. }) => match (*next, token) {
                (Next::FirstOrEnd | Next::CommaOrEnd, Token::CloseList) => self.close(),
                (Next::CommaOrEnd, Token::Comma) => {
                    *next = Next::Another;
                    Ok(())
                }
                (Next::CommaOrEnd, _) => Err("expected separator in list".to_owned()),
                (_, token) => self.value(token),
            },
            Some(Frame::Object { key, next, .. }) => match (*next, token) {
                (Next::FirstOrEnd | Next::CommaOrEnd, Token::CloseObject) => self.close(),
                (Next::CommaOrEnd, Token::Comma) => {
                    *next = Next::Another;
                    Ok(())
                }
                (Next::CommaOrEnd, _) => Err("expected separator in dict".to_owned()),
                (Next::FirstOrEnd | Next::Another, Token::String(raw)) => {
                    *key = Some(unquote(&raw)?);
                    *next = Next::Colon;
                    Ok(())
                }
                (Next::FirstOrEnd | Next::Another, token) => match token {
                    Token::OpenObject | Token::OpenList => {
                        Err("key is not a string in object".to_owned())
                    }
                    token => match scalar(token)? {
                        Some(_) => Err("key is not a string in object".to_owned()),
                        None => Err(no_value()),
                    },
                },
                (Next::Colon, Token::Colon) => {
                    *next = Next::Value;
                    Ok(())
                }
                (Next::Colon, _) => Err("missing : in object pair".to_owned()),
                (Next::Value, token) => self.value(token),
            },
        }
    }

    /// A value begins, and may be whole already.
    fn value(&mut self, token: Token) -> Result<(), String> {
        let next = Next::FirstOrEnd;
        match token {
            Token::OpenObject => self.stack.push(Frame::Object {
                members: Map::new(),
                key: None,
                next,
            }),
            Token::OpenList => self.stack.push(Frame::List {
                values: Vec::new(),
                next,
            }),
            token => match scalar(token)? {
                Some(value) => return self.place(value),
                None => return Err("expecting value".to_owned()),
            },
        }
        Ok(())
    }

    /// The innermost object or list is closed.
    fn close(&mut self) -> Result<(), String> {
        let value = match self.stack.pop() {
            Some(Frame::Object { members, .. }) => Value::Object(members),
            Some(Frame::List { values, .. }) => Value::Array(values),
            None => return Err("expecting value".to_owned()),
        };
        self.place(value)
    }

    /// A whole value goes where it belongs.
    fn place(&mut self, value: Value) -> Result<(), String> {
        match self.stack.last_mut() {
            None => self.whole = Some(value),
            Some(Frame::List { values, next }) => {
                values.push(value);
                *next = Next::CommaOrEnd;
            }
            Some(Frame::Object { members, key, next }) => {
                let key = key.take().unwrap_or_default();
                if members.contains_key(&key) {
                    return Err("duplicate key".to_owned());
                }
                members.insert(key, value);
                *next = Next::CommaOrEnd;
            }
        }
        Ok(())
    }
}

/// Where reading begins again: at the end of a line, or where the client wants it to.
fn ends_skipping(byte: u8) -> bool {
    matches!(byte, b'\n' | 0xff)
}

/// The value that a token is by itself, if it is one.
fn scalar(token: Token) -> Result<Option<Value>, String> {
    Ok(Some(match token {
        Token::String(raw) => Value::String(unquote(&raw)?),
        Token::Number(text) => Value::Number(number(&text)?),
        Token::Keyword(word) => match word.as_str() {
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(format!("invalid keyword '{word}'")),
        },
        _ => return Ok(None),
    }))
}

/// A number: an integer of 64 bits if it is written as one and is one.
fn number(text: &str) -> Result<Number, String> {
    if let Ok(integer) = text.parse::<i64>() {
        return Ok(integer.into());
    }
    if let Ok(integer) = text.parse::<u64>() {
        return Ok(integer.into());
    }
    // QEMU takes what is out of range for infinity, which JSON cannot represent in an answer.
    (text.parse().ok().and_then(Number::from_f64)).ok_or_else(|| "number out of range".to_owned())
}
