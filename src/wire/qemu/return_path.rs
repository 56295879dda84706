//! A destination's answers on QEMU's return path: `u16 type, u16 length, payload`.
//!
//! A source that wants answers sends the command OPEN_RETURN_PATH before anything else. The
//! destination answers PING with PONG, and at the end sends SHUT: 0 if it has loaded the guest.
//! A pre-copy source need not understand post-copy's messages (requests for pages, bitmaps).

use crate::wire::WireError;

/// Bytes of a message's type and length.
pub const HEAD_LEN: usize = 4;
/// The most bytes of a payload, as QEMU has it.
pub const MAX_PAYLOAD: usize = 512;

const SHUT: u16 = 1;
const PONG: u16 = 2;
const SWITCHOVER_ACK: u16 = 7;

/// A destination's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The last message: 0 if the guest is loaded.
    Shut(u32),
    /// The value of a PING.
    Pong(u32),
    /// The destination is ready; the source may stop the guest.
    SwitchoverAck,
}

impl Reply {
    /// The message in wire form.
    pub fn to_bytes(self) -> Vec<u8> {
        let (kind, value) = match self {
            Reply::Shut(code) => (SHUT, Some(code)),
            Reply::Pong(value) => (PONG, Some(value)),
            Reply::SwitchoverAck => (SWITCHOVER_ACK, None),
        };
        let mut bytes = kind.to_be_bytes().to_vec();
        let len: u16 = if value.is_some() { 4 } else { 0 };
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend(value.into_iter().flat_map(u32::to_be_bytes));
        bytes
    }
}

/// How many bytes follow a message's head.
///
/// # Errors
/// More than [`MAX_PAYLOAD`].
pub fn payload_len(head: [u8; HEAD_LEN]) -> Result<usize, WireError> {
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if len <= MAX_PAYLOAD {
        return Ok(len);
    }
    Err(WireError::TooLarge {
        field: "the length of a message on the return path",
        given: len as u64,
        allowed: MAX_PAYLOAD as u64,
    })
}

/// Reads a message.
///
/// # Errors
/// A type that pre-copy does not have, and a payload whose length does not fit the type.
pub fn read(head: [u8; HEAD_LEN], payload: &[u8]) -> Result<Reply, WireError> {
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let value = || {
        <[u8; 4]>::try_from(payload)
            .map(u32::from_be_bytes)
            .map_err(|_| WireError::Contradiction {
                field: "the length of a message on the return path",
                given: payload.len() as u64,
                expected: 4,
            })
    };
    match kind {
        SHUT => value().map(Reply::Shut),
        PONG => value().map(Reply::Pong),
        SWITCHOVER_ACK => Ok(Reply::SwitchoverAck),
        other => Err(WireError::Unknown {
            field: "the return path's message type",
            given: other.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_and_bad_ones_named() {
        for reply in [
            Reply::Shut(0),
            Reply::Shut(1),
            Reply::Pong(7),
            Reply::SwitchoverAck,
        ] {
            let bytes = reply.to_bytes();
            let (head, payload) = bytes.split_first_chunk().unwrap();
            assert_eq!(payload_len(*head), Ok(payload.len()));
            assert_eq!(read(*head, payload), Ok(reply));
        }
        assert_eq!(Reply::Shut(0).to_bytes(), [0, 1, 0, 4, 0, 0, 0, 0]);
        assert!(payload_len([0, 1, 2, 1]).is_err());
        assert!(read([0, 4, 0, 0], &[]).is_err());
        assert!(read([0, 1, 0, 2], &[0, 0]).is_err());
    }
}
