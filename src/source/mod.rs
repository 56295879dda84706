//! The sending end: the phases of a migration, top-down. `pipeline.rs` is where a page goes.
//!
//! | file | what it knows |
//! |---|---|
//! | `request.rs` | what to send, and where to |
//! | `rounds.rs`, `live.rs`, `converge.rs` | which pages each round sends, and when the last one comes |
//! | `pipeline.rs`, `job.rs`, `encode.rs`, `choose.rs` | batches on their way from the image to a connection |
//! | `wire/` | what is said on the connections; the only place that knows that there is more than one format |
//! | `links.rs`, `throttle.rs` | the connections, of any wire |
//! | `probe.rs` | asking a destination what it supports |

mod choose;
mod converge;
mod encode;
mod job;
mod links;
mod live;
#[cfg(all(test, shuttle))]
pub(crate) mod model;
mod pipeline;
mod probe;
mod request;
mod rounds;
mod throttle;
mod wire;

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::page::PAGE_SIZE;
use crate::pool::{Crew, FirstError, analysis_pool};
use crate::session::{Context, PeerFailure};
use crate::sync::thread;
use crate::transport::Held;
use crate::writer::{Still, Stopped, Writer};
use job::SendState;
use links::Links;
use pipeline::Pipeline;
use wire::{AllSent, Listener, Opened, Wire};

pub use crate::writer::WriterChoice;
pub use probe::{Peer, probe};
pub use request::Live;
pub(crate) use request::Request;
pub use wire::DEFAULT_MACHINE;

/// Sends a guest's RAM, and returns when it has arrived and is proven; on a link without a way
/// back, when everything is written.
///
/// # Errors
/// With [`Kind::OutcomeUnknown`](crate::Kind::OutcomeUnknown) the destination may have taken over.
/// With any other kind it has not, and the source is unchanged, except that the writer of a live
/// guest is still stopped if the destination gave up after Commit; a notice says so.
pub(crate) fn run(request: &Request, context: &Context) -> Result<()> {
    let opened = request.open_guest(|note| context.stats.notice(note));
    let (guest, files) = opened.inspect_err(|_| context.stats.set_owner(None))?;
    if request.live.is_none() {
        files.check_owner(&context.stats)?;
        files.begin(|note| context.stats.notice(note))?;
    }
    let mut writer = match &request.live {
        Some(live) => {
            let terms = (&request.address, live.again);
            live.writer.open(&guest, terms, context)?
        }
        None => None,
    };
    let Opened {
        mut links,
        mut wire,
        caps,
    } = wire::open(request, &guest, context)?;
    let listener = wire.listener();
    let wire = wire.as_ref();
    let bytes = guest.pages() * PAGE_SIZE as u64;
    context.stats.ram(bytes, links.streams.len() as u16);

    let later_rounds = request.has_later_rounds();
    let error = {
        let outcome = SendState::new(context, &links, caps, later_rounds).and_then(|state| {
            let writer = writer.as_mut();
            send(&state, context, wire, listener, |pipeline| {
                send_rounds(pipeline, &state, (&guest, &files), request, writer)
            })
        });
        context.stats.bytes(links.sent(), links.received());
        match outcome {
            Ok(unreleased) => return end(unreleased, links, context),
            Err(error) => error,
        }
    };
    Err(give_up(error, &mut links, wire, writer, context))
}

/// The writer whose stream nothing answers, and what keeps a cancel from taking effect: a command or a
/// pipe that has the whole stream may take over at any moment, and only the command's exit code says
/// whether it did.
type Unreleased<'w, 'c> = (Option<Stopped<'w>>, Option<Held<'c>>);

/// Everything is done, but for the writer of a stored stream: it is released when the stream has its
/// name.
fn end((mut stopped, _held): Unreleased<'_, '_>, links: Links, context: &Context) -> Result<()> {
    if let Some(stopped) = &mut stopped {
        stopped.check()?;
    }
    if let Some(unsynced) = links.close()? {
        context.stats.notice(unsynced.to_string());
    }
    if let Some(stopped) = stopped {
        stopped.release();
    }
    // The clock stops here, because unmapping a large image takes a while and is not part of the
    // migration.
    context.end(&Ok(()));
    Ok(())
}

/// Sends all rounds while the wire listens, and then has the destination take over.
fn send<'w, 'c>(
    state: &SendState<'_>,
    context: &'c Context,
    wire: &dyn Wire,
    listener: Option<Listener>,
    rounds: impl FnOnce(&mut Pipeline<'_, '_>) -> Result<AllSent<'w>>,
) -> Result<Unreleased<'w, 'c>> {
    let links = state.links;
    let errors = FirstError::default();
    let failed = |error| errors.report(error);
    thread::scope(|scope| {
        if let Some(listener) = listener {
            let work = || {
                listener(links.main(), &errors);
                Ok(())
            };
            Crew::new(scope, &failed).spawn(
                "replies".to_owned(),
                "while waiting for replies",
                work,
            );
        }
        let outcome = pipeline::run(state, wire, &errors, rounds)
            .and_then(|all| {
                let is_unanswered = all.stopped.is_some() && !links.is_two_way();
                let hold = || context.abort.hold().ok_or_else(Error::interrupted);
                let held = is_unanswered.then(hold).transpose()?;
                let finish = || wire.finish(all, links, context);
                Ok((Error::catch("while committing", finish)?, held))
            })
            .map_err(|error| wire.explain(error));
        // Without this, the listener would wait for messages that no longer come.
        context.abort_on_error(&outcome);
        outcome
    })
}

/// Sends all rounds; a live guest's writer is stopped before the last one.
fn send_rounds<'w>(
    pipeline: &mut Pipeline<'_, '_>,
    state: &SendState<'_>,
    (guest, files): (&Arc<Guest>, &Still),
    request: &Request,
    writer: Option<&'w mut Box<dyn Writer>>,
) -> Result<AllSent<'w>> {
    let (guest, stopped) = match &request.live {
        Some(live) => {
            let (caps, context) = (state.caps, state.context);
            let stopped = live::send_live(pipeline, guest, live, caps, writer, context)?;
            (Arc::clone(guest), stopped)
        }
        None => {
            let last = rounds::send_snapshots(pipeline, guest, &request.then)?;
            let pool = analysis_pool(state.context.tuning.get().compress_threads)
                .map_err(|error| Error::new(Kind::Failed, error))?;
            let sample = pipeline.sample();
            pool.install(|| files.end(last.ram(), sample))?;
            (last, None)
        }
    };
    Ok(AllSent {
        digest: pipeline.digest(),
        guest,
        stopped,
    })
}

/// The migration failed: tries to tell the destination, and leaves a notice if the writer stays
/// stopped. Returns the error with everything that is known about it.
fn give_up(
    error: Error,
    links: &mut Links,
    wire: &dyn Wire,
    writer: Option<Box<dyn Writer>>,
    context: &Context,
) -> Error {
    let error = context.name_canceller(error);
    links.give_up(&error, &wire.farewell(&error));
    let error = wire.conclude(links.explain(error));
    if context.stats.snapshot().let_go {
        // A destination that reports a failure did not take over, even after Commit; but the guard
        // that would have resumed the writer is gone.
        let declined = error.cause::<PeerFailure>().is_some();
        if let (true, Some(mut writer)) = (declined, writer) {
            writer.declined();
        }
        let what = if declined {
            "the writer stays stopped, though the destination did not take over: resume it"
        } else {
            "the writer stays stopped: resume it only if the destination does not run the guest"
        };
        context.stats.caution(what.to_owned());
    }
    error
}
