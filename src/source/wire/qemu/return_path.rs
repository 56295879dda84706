//! QEMU's messages on the return path.

use crate::error::{Error, Kind, Result};
use crate::transport::{Stream, TransportError};
use crate::wire::qemu::return_path::{self, Reply};

use super::unknown;

/// Waits until the destination confirms that it has loaded the guest.
pub(super) fn wait_for_the_end(stream: &Stream, ping: u32) -> Result<()> {
    // Each is allowed once, so that a destination that keeps talking does not keep us waiting for
    // ever.
    let (mut pong, mut ready) = (false, false);
    loop {
        match read(stream)? {
            Reply::Pong(value) if value == ping && !pong => pong = true,
            Reply::SwitchoverAck if !ready => ready = true,
            other @ (Reply::Pong(_) | Reply::SwitchoverAck) => {
                let what = format!("unexpected message {other:?} from the destination");
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

/// A broken link leaves the outcome unknown. A local abort is reported as such.
fn lost(error: TransportError) -> Error {
    match error {
        TransportError::Aborted => error.into(),
        error => unknown(error),
    }
}
