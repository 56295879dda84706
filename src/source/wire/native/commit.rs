//! The end of a migration on the native wire. [`Phase`] has the protocol as a diagram.

use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::page::PAGE_SIZE;
use crate::session::{self, Context, PeerFailure, Phase};
use crate::transport::Stream;
use crate::wire::native::Message;
use crate::writer::Stopped;

use super::super::seam::{AllSent, let_go};
use super::replies::Replies;

/// Everything is sent: lets the destination prove it, then lets go.
///
/// Until Commit is written, any failure leaves the source in charge. After that, only the
/// destination knows which end is.
pub(super) fn commit(
    all: AllSent<'_>,
    main: &Stream,
    replies: &Replies,
    context: &Context,
) -> Result<()> {
    let digest = all.digest;
    let ram = all.guest.pages() * PAGE_SIZE as u64;
    let limit = session::patience(main.silence(), ram);
    context.enter(Phase::Switchover)?;
    context.faults.check(Site::Finish)?;
    session::send_message(main, &Message::Finish { digest })?;
    match replies.next("while waiting for the proof", limit)? {
        Message::Proven { digest: held } if held == digest => {}
        Message::Proven { digest: held } => {
            return Err(Error::new(
                Kind::Differs,
                format!("the destination holds RAM with the digest {held}, not {digest}"),
            ));
        }
        other => return Err(session::out_of_place(&other, "a proof was expected")),
    }
    context.stats.proven(digest);
    context.faults.check(Site::Proven)?;
    let _held = let_go(all.stopped, context)?;
    session::send_message(main, &Message::Commit).map_err(unknown)?;
    match replies.next("while waiting for the destination to take over", limit) {
        Ok(Message::Committed) => Ok(()),
        Ok(other) => Err(unknown(session::out_of_place(
            &other,
            "the end was expected",
        ))),
        // The destination itself reports that it did not take over.
        Err(error) if error.cause::<PeerFailure>().is_some() => Err(error),
        Err(error) => Err(unknown(error)),
    }
}

/// Everything is written to a file or a pipe, whose reader checks it. What is stored does not run
/// yet, so the writer is released when the file has its name.
pub(super) fn finish<'w>(
    all: AllSent<'w>,
    main: &Stream,
    context: &Context,
) -> Result<Option<Stopped<'w>>> {
    let digest = all.digest;
    context.enter(Phase::Switchover)?;
    context.faults.check(Site::Finish)?;
    session::send_message(main, &Message::Finish { digest })?;
    context.stats.proven(digest);
    Ok(all.stopped)
}

/// The link broke after the source let go.
fn unknown(error: impl Into<Error>) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "outcome unknown: the destination proved its copy and may have taken over, but did not confirm; \
         if OUTPUT exists there under its final name and not as OUTPUT.partial, it has"
    )]
    struct Unknown(#[source] Error);
    Error::new(Kind::OutcomeUnknown, Unknown(error.into()))
}
