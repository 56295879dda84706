//! What a QEMU says on its return path.

use crate::error::{Error, Kind, Result};
use crate::transport::{Stream, TransportError};
use crate::wire::qemu::return_path::{self, Reply};

use super::unknown;

/// Waits for the destination to say that it has loaded the guest.
pub(super) fn wait_for_the_end(stream: &Stream, ping: u32) -> Result<()> {
    // It may say each once: a destination that goes on talking must not keep us for ever.
    let (mut pong, mut ready) = (false, false);
    loop {
        match read(stream)? {
            Reply::Pong(value) if value == ping && !pong => pong = true,
            Reply::SwitchoverAck if !ready => ready = true,
            other @ (Reply::Pong(_) | Reply::SwitchoverAck) => {
                let what = format!("the destination says {other:?}, which nobody asked for");
                return Err(Error::new(Kind::Failed, what));
            }
            Reply::Shut(0) => return Ok(()),
            Reply::Shut(code) => {
                return Err(Error::new(
                    Kind::Refused,
                    format!(
                        "the destination could not load the guest (it shut the return path with {code}); its own messages say why"
                    ),
                ));
            }
        }
    }
}

fn read(stream: &Stream) -> Result<Reply> {
    let mut head = [0; return_path::HEAD_LEN];
    stream.read(&mut head).map_err(lost)?;
    let len = return_path::payload_len(head)?;
    let mut payload = [0; return_path::MAX_PAYLOAD];
    stream.read(&mut payload[..len]).map_err(lost)?;
    Ok(return_path::read(head, &payload[..len])?)
}

/// A link that breaks says nothing of the outcome; a local abort is not even about the link.
fn lost(error: TransportError) -> Error {
    match error {
        TransportError::Aborted => error.into(),
        error => unknown(error),
    }
}
