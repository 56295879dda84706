//! The sending end. The phases of a migration, top-down; `pipeline.rs` is where a page goes.
//!
//! Mirrors [`crate::destination`], file by file.

mod agree;
mod choose;
mod connect;
mod converge;
mod encode;
mod folder;
mod live;
mod pipeline;
mod probe;
mod qemu;
mod request;
mod rounds;
mod throttle;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::error::{Error, Kind, Result};
use crate::fault::Site;
use crate::image::Guest;
use crate::page::Digest;
use crate::session::{self, Context, PeerFailure, Phase};
use crate::transport::{Stream, TransportError};
use crate::wire::Format;
use crate::wire::native::Message;
pub use crate::writer::WriterChoice;
use crate::writer::{Stopped, Writer};
use connect::Links;
use pipeline::{Pipeline, Shared};
pub use probe::{Peer, probe};
pub use qemu::DEFAULT_MACHINE;
use qemu::Framing;
pub use request::{Live, Request};

/// How long a destination that hung up may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Messages that a destination has reason to send, besides KeepAlive and Failure.
const MESSAGES: usize = 2;

/// Sends a guest's RAM, and returns when it has arrived and is proven; on a link without a way
/// back, when all is written.
///
/// # Errors
/// With [`Kind::OutcomeUnknown`] the destination may have taken over; with any other kind it has
/// not, and the source is as it was; save that the writer of a live guest is still stopped if the
/// destination gave up after Commit, which a notice says.
pub fn run(request: &Request, context: &Context) -> Result<()> {
    let guest = request.open_guest()?;
    let mut writer = match &request.live {
        Some(live) => live.writer.open(&guest, context)?,
        None => None,
    };
    let mut links = connect::connect(request, &guest, context)?;
    let bytes = guest.pages() * crate::page::PAGE_SIZE as u64;
    context.stats.ram(bytes, links.streams.len() as u16);

    let outcome = if let Some(framing) = &links.framing {
        to_qemu(request, framing, &guest, &links, &mut writer, context)
    } else if links.is_two_way() {
        to_a_peer(request, &guest, &links, &mut writer, context)
    } else {
        to_a_reader(request, &guest, &links, &mut writer, context)
    };
    context.stats.bytes(links.sent(), links.received());
    let outcome = outcome.map_err(|error| {
        links.give_up(&error);
        let error = links.explain(error);
        match links.format() {
            Format::Native => error,
            Format::Qemu => qemu::explain(error),
        }
    });
    match outcome {
        Ok(stopped) => {
            links.close()?;
            if let Some(stopped) = stopped {
                stopped.release();
            }
            // What follows, such as unmapping the image, nobody waits for.
            context.end(&Ok(()));
            Ok(())
        }
        Err(error) => {
            if context.stats.snapshot().let_go {
                // Its own word is as good as a Failure before Commit; only the guard is gone.
                let declined = error.cause::<PeerFailure>().is_some();
                context.stats.notice(if declined {
                    "the writer stays stopped, though the destination did not take over: resume it"
                        .to_owned()
                } else {
                    "the writer stays stopped: resume it only if the destination does not run the guest"
                        .to_owned()
                });
            }
            Err(error)
        }
    }
}

/// The rounds are over, and nobody writes.
struct Walked<'w> {
    /// What the destination must hold now.
    digest: Digest,
    /// The guest as it was last.
    guest: Arc<Guest>,
    /// The writer, if one was stopped.
    stopped: Option<Stopped<'w>>,
}

/// Walks all rounds.
fn walk<'w>(
    pipeline: &mut Pipeline<'_, '_>,
    guest: &Arc<Guest>,
    request: &Request,
    writer: &'w mut Option<Box<dyn Writer>>,
    context: &Context,
) -> Result<Walked<'w>> {
    match &request.live {
        Some(live) => {
            let (digest, stopped) =
                live::walk(pipeline, guest, (request, live), writer.as_mut(), context)?;
            Ok(Walked {
                digest,
                guest: Arc::clone(guest),
                stopped,
            })
        }
        None => {
            let (digest, guest) = rounds::walk(pipeline, guest, request)?;
            Ok(Walked {
                digest,
                guest,
                stopped: None,
            })
        }
    }
}

/// The destination is about to take over: whatever happens from now on, nobody here resumes the
/// writer, for it might then run in two places.
fn let_go(stopped: Option<Stopped<'_>>, context: &Context) -> Result<()> {
    context.enter(Phase::Commit)?;
    if let Some(stopped) = stopped {
        stopped.release();
        context.stats.let_go();
    }
    Ok(())
}

/// Sends to somebody who answers: ends with the commit protocol.
fn to_a_peer<'w>(
    request: &Request,
    guest: &Arc<Guest>,
    links: &Links,
    writer: &'w mut Option<Box<dyn Writer>>,
    context: &Context,
) -> Result<Option<Stopped<'w>>> {
    let shared = Shared::new(request, links, context)?;
    // Proven, Committed, and whatever goes wrong: more has no meaning.
    let (reply, replies) = bounded(MESSAGES + 1);
    let (failure, failures) = unbounded();
    thread::scope(|scope| {
        let (main, failed) = (&links.streams[0], failure.clone());
        thread::Builder::new()
            .name("replies".into())
            .spawn_scoped(scope, move || hear(main, &reply, &failed))
            .map_err(|error| Error::new(Kind::Failed, error).in_stage("start a thread"))?;
        let outcome = pipeline::run(&shared, (failure, failures), |pipeline| {
            walk(pipeline, guest, request, writer, context)
        })
        .map_err(|error| explain(error, &replies))
        .and_then(|walked| {
            Error::catch("commit", || {
                folder::send(&walked.guest, links).map_err(|error| explain(error, &replies))?;
                commit(walked, links, &replies, context)
            })
        });
        // Whoever still waits, waits for nothing.
        context.abort_on_error(&outcome);
        outcome.map(|()| None)
    })
}

/// Sends to a file or a pipe: whoever reads it checks alone.
fn to_a_reader<'w>(
    request: &Request,
    guest: &Arc<Guest>,
    links: &Links,
    writer: &'w mut Option<Box<dyn Writer>>,
    context: &Context,
) -> Result<Option<Stopped<'w>>> {
    let shared = Shared::new(request, links, context)?;
    let walked = pipeline::run(&shared, unbounded(), |pipeline| {
        walk(pipeline, guest, request, writer, context)
    })?;
    let digest = walked.digest;
    folder::send(&walked.guest, links)?;
    context.enter(Phase::Switchover)?;
    context.faults.check(Site::Finish)?;
    session::send_message(&links.streams[0], &Message::Finish { digest })?;
    context.stats.proven(digest);
    // What is stored does not run yet: the writer is let go when the file has its name.
    Ok(walked.stopped)
}

/// Sends to a QEMU, or to whoever reads its streams.
fn to_qemu<'w>(
    request: &Request,
    framing: &Framing,
    guest: &Arc<Guest>,
    links: &Links,
    writer: &'w mut Option<Box<dyn Writer>>,
    context: &Context,
) -> Result<Option<Stopped<'w>>> {
    let shared = Shared::new(request, links, context)?;
    let stream = &links.streams[0];
    let walked = pipeline::run(&shared, unbounded(), |pipeline| {
        walk(pipeline, guest, request, writer, context)
    })?;
    context.enter(Phase::Switchover)?;
    context.faults.check(Site::Finish)?;
    let devices = framing.finish(&walked.guest, request.has_later_rounds())?;
    // Without its last byte no QEMU takes the stream: until then the source is in charge.
    let (last, rest) = devices
        .split_last()
        .map_or((&[][..], &[][..]), |(last, rest)| {
            (std::slice::from_ref(last), rest)
        });
    stream.write(rest, &[])?;
    if context.abort.is_raised() {
        return Err(Error::interrupted());
    }
    let stopped = if links.is_two_way() {
        let_go(walked.stopped, context)?;
        None
    } else {
        walked.stopped
    };
    let heard = stream.write(last, &[]).map_err(Error::from);
    let heard = heard.and_then(|()| qemu::hear_the_end(stream, framing));
    heard.map_err(|error| match error.kind() {
        Kind::Refused | Kind::OutcomeUnknown => error,
        // The last byte may be under way: cancelling comes too late.
        Kind::Interrupted if links.is_two_way() => qemu::unknown(error),
        // Whoever looks at the writer, which stays stopped, must look at the destination, too.
        _ if context.stats.snapshot().let_go => qemu::unknown(error),
        _ => error,
    })?;
    context.stats.proven(walked.digest);
    Ok(stopped)
}

/// Everything is sent: lets the destination prove it, then lets go.
///
/// Until Commit is written, any failure leaves the source in charge. From then on only the
/// destination knows who is.
fn commit(
    walked: Walked<'_>,
    links: &Links,
    replies: &Receiver<Result<Message>>,
    context: &Context,
) -> Result<()> {
    let (main, digest) = (&links.streams[0], walked.digest);
    context.enter(Phase::Switchover)?;
    let reply = || {
        replies
            .recv()
            .unwrap_or_else(|_| Err(TransportError::Closed.into()))
            .map_err(|error| error.in_stage("prove"))
    };
    context.faults.check(Site::Finish)?;
    session::send_message(main, &Message::Finish { digest })
        .map_err(|error| explain(error.into(), replies))?;
    match reply()? {
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
    if context.abort.is_raised() {
        return Err(Error::interrupted());
    }
    let_go(walked.stopped, context)?;
    session::send_message(main, &Message::Commit).map_err(unknown)?;
    match reply() {
        Ok(Message::Committed) => Ok(()),
        Ok(other) => Err(unknown(session::out_of_place(
            &other,
            "the end was expected",
        ))),
        // The destination itself says that it did not take over.
        Err(error) if error.cause::<PeerFailure>().is_some() => Err(error),
        Err(error) => Err(unknown(error)),
    }
}

/// The link broke after the source let go.
fn unknown(error: impl Into<Error>) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error(
        "outcome unknown: the destination proved its copy and was told to take over, but did not \
         confirm; if OUTPUT exists there under its final name and not as OUTPUT.partial, it has"
    )]
    struct Unknown(#[source] Error);
    Error::new(Kind::OutcomeUnknown, Unknown(error.into()))
}

/// Reads what the destination says, until it says its last word.
fn hear(stream: &Stream, reply: &Sender<Result<Message>>, failed: &Sender<Error>) {
    let mut messages = 0;
    loop {
        let error = match session::receive_message(stream) {
            Ok(Message::KeepAlive) => continue,
            Ok(Message::Failure { reason, text }) => session::peer_failure(reason, &text),
            Ok(message) => {
                messages += 1;
                if messages <= MESSAGES {
                    let last = message == Message::Committed;
                    if reply.send(Ok(message)).is_err() || last {
                        return;
                    }
                    continue;
                }
                session::out_of_place(&message, "nothing of the kind was asked for")
            }
            Err(error) => error,
        };
        // Whoever of the two still listens must know; errors cannot be cloned.
        let told = if error.cause::<PeerFailure>().is_some() {
            let text = error.cause::<PeerFailure>().map_or("", |said| &said.0);
            failed.send(Error::new(error.kind(), PeerFailure(text.to_owned())))
        } else if let Some(TransportError::Aborted) = error.cause() {
            failed.send(TransportError::Aborted.into())
        } else {
            failed.send(TransportError::Closed.into())
        };
        drop(told);
        let _ = reply.send(Err(error));
        return;
    }
}

/// A link that breaks while it is written to is mostly a destination that gave up: its reason
/// says more than ours.
fn explain(error: Error, replies: &Receiver<Result<Message>>) -> Error {
    if matches!(
        error.cause(),
        Some(TransportError::Closed | TransportError::Link(_))
    ) {
        while let Ok(reply) = replies.recv_timeout(LAST_WORDS) {
            if let Err(reason) = reply {
                // "Closed" is also what this side is told of a peer that fell silent or spoke nonsense.
                let worse = matches!(
                    reason.cause(),
                    Some(
                        TransportError::Closed | TransportError::Link(_) | TransportError::Aborted
                    )
                );
                return if worse { error } else { reason };
            }
        }
    }
    error
}
