//! QEMU's messages on the return path.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::session::Context;
use crate::transport::{Stream, TransportError, Woken};
use crate::units::format_duration;
use crate::wire::WireError;
use crate::wire::qemu::return_path::{self, Reply};

use super::unknown;

/// How long the answer to a PING may take before the user is told what it may be waiting for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What keeps a destination from answering. A QEMU with multifd waits for that many connections.
const MULTIFD: &str = "a QEMU whose capability multifd is on waits for further connections, so switch it off there; \
    what only stores the stream needs --capability return-path=off here";

/// Waits until the destination answers the PING in front of RAM.
pub(super) fn wait_for_an_answer(stream: &Stream, ping: u32, context: &Context) -> Result<()> {
    #[derive(Debug, thiserror::Error)]
    #[error("the destination did not answer within {}: {MULTIFD}", format_duration(*limit))]
    struct NoAnswer {
        limit: Duration,
    }
    let limit = stream.silence();
    let is_silent_for = |time| -> Result<bool> {
        let woken = context
            .abort
            .wait_for_any([stream.pollable()?], Some(time))
            .map_err(TransportError::Link)?;
        Ok(woken == Woken::TimedOut)
    };
    if is_silent_for(PATIENCE.min(limit))? {
        let left = limit.saturating_sub(PATIENCE);
        if !left.is_zero() {
            let so_far = format_duration(PATIENCE);
            let notice = format!("the destination has not answered for {so_far}: {MULTIFD}");
            context.stats.notice(notice);
        }
        if left.is_zero() || is_silent_for(left)? {
            return Err(Error::new(Kind::Failed, NoAnswer { limit }));
        }
    }
    let mut reply = read(stream, Error::from)?;
    // QEMU may be ready for the switchover before it looks at the PING.
    if reply == Reply::SwitchoverAck {
        reply = read(stream, Error::from)?;
    }
    match reply {
        Reply::Pong(value) if value == ping => Ok(()),
        Reply::Shut(code) if code != 0 => Err(not_loaded(code)),
        other => Err(unexpected(other)),
    }
}

/// Waits until the destination confirms that it has loaded the guest. It may have: whatever cannot be
/// understood, on a wire without checksums, says nothing of that.
pub(super) fn wait_for_the_end(stream: &Stream) -> Result<()> {
    // Once, so that a destination that keeps talking does not keep us waiting for ever.
    let mut ready = false;
    loop {
        match read(stream, unknown) {
            Ok(Reply::SwitchoverAck) if !ready => ready = true,
            Ok(Reply::Shut(0)) => return Ok(()),
            // QEMU has no other code.
            Ok(Reply::Shut(1)) => return Err(not_loaded(1)),
            Ok(other) => return Err(unknown(unexpected(other))),
            Err(error) if error.cause::<WireError>().is_some() => return Err(unknown(error)),
            Err(error) => return Err(error),
        }
    }
}

fn unexpected(reply: Reply) -> Error {
    let what = format!("unexpected message {reply:?} from the destination");
    Error::new(Kind::Failed, what)
}

fn not_loaded(code: u32) -> Error {
    let what = format!(
        "the destination could not load the guest (it shut the return path with {code}); its own messages say why"
    );
    Error::new(Kind::Refused, what)
}

/// Reads a message; `failed` is what a broken link means.
fn read(stream: &Stream, failed: impl Fn(TransportError) -> Error) -> Result<Reply> {
    let mut head = [0; return_path::HEAD_LEN];
    stream.read(&mut head).map_err(&failed)?;
    let len = return_path::payload_len(head)?;
    let mut payload = [0; return_path::MAX_PAYLOAD];
    stream.read(&mut payload[..len]).map_err(failed)?;
    Ok(return_path::read(head, &payload[..len])?)
}
