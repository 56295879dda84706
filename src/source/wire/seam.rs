//! What a wire contributes to sending a guest; everything else is the same for all of them.
//!
//! The pipeline knows batches, rounds and connections. A [`Wire`] knows how they look on the link:
//! how a batch is encoded, which bytes mark a round on each connection, how a migration ends. It is
//! called once per batch or mark, never once per page, so dynamic dispatch costs nothing next to a
//! compressor.
//!
//! State that lasts as long as a connection belongs in its [`Channel`]. A format whose connections
//! each carry one long compressed stream compresses there ([`Channel::seal`]), in the order in
//! which the connection is written. A format whose batches are independent compresses in its
//! [`Encode`], on any free thread.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::image::Guest;
use crate::page::{Digest, PAGE_SIZE};
use crate::pool::FirstError;
use crate::round::RoundMark;
use crate::session::{Context, Phase};
use crate::source::job::{Job, Packet, SendState};
use crate::source::links::Links;
use crate::source::request::Request;
use crate::transport::{Held, Stream};
use crate::wire::BlockInfo;
use crate::writer::Stopped;

/// A wire whose connections are open, and negotiated if there is a destination that answers.
pub(crate) struct Opened {
    pub(crate) links: Links,
    pub(crate) wire: Box<dyn Wire>,
    /// The request's capabilities, without those that the destination lacks.
    pub(crate) caps: Caps,
}

/// One wire format, in one migration.
pub(crate) trait Wire: Debug + Send + Sync {
    /// Reads the destination's messages while rounds are under way, in a thread of its own. `None`
    /// if the destination sends nothing before the end.
    fn listener(&mut self) -> Option<Listener> {
        None
    }

    /// How batches are handed to encoders.
    fn batches(&self) -> Batches;

    /// An encoder, for one thread.
    fn encoder<'a>(&'a self, state: &'a SendState<'a>) -> Box<dyn Encode + 'a>;

    /// What one connection writes; its state lasts as long as the connection.
    fn channel(&self, connection: usize) -> Box<dyn Channel + '_>;

    /// All rounds are on the links: ends the migration. Returns the writer if it may only be
    /// released once the links are closed, because a stored stream does not run yet.
    fn finish<'w>(
        &self,
        all: AllSent<'w>,
        links: &Links,
        context: &Context,
    ) -> Result<Option<Stopped<'w>>>;

    /// Replaces an error of the pipeline or of [`Wire::finish`] by the destination's reason, if
    /// that says more.
    fn explain(&self, error: Error) -> Error {
        error
    }

    /// Adds to the final error what it means on this wire.
    fn conclude(&self, error: Error) -> Error {
        error
    }

    /// The message that reports a failure to the destination; empty if the format has none.
    fn farewell(&self, error: &Error) -> Vec<u8>;
}

/// Reads the main connection in a thread of its own; see [`Wire::listener`].
pub(crate) type Listener = Box<dyn FnOnce(&Stream, &FirstError) + Send>;

/// How batches are handed to encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batches {
    /// The most pages of a hole in one batch.
    pub(crate) hole_pages: u64,
    /// Whether batches have to be in the order of their pages.
    pub(crate) in_order: bool,
}

/// Turns jobs into packets. Its buffers and its compressor live as long as its thread.
pub(crate) trait Encode {
    /// Encodes one batch. `busy`: no compressor was free, so it goes uncompressed.
    fn encode(&mut self, job: &Job, busy: bool) -> Result<Packet>;
}

/// The bytes of one connection besides encoded batches.
pub(crate) trait Channel {
    /// What opens a round.
    fn begin_round(&mut self, _mark: RoundMark) -> Vec<u8> {
        Vec::new()
    }

    /// Called with each packet right before it is written on this connection.
    fn seal(&mut self, packet: Packet) -> Result<Packet> {
        Ok(packet)
    }

    /// What closes a round, once all of its batches are on the links.
    fn end_round(&mut self, mark: RoundMark) -> Vec<u8>;

    /// What to write when the connection was idle for a while, so that the destination keeps
    /// waiting.
    fn keep_alive(&self) -> Option<KeepAlive> {
        None
    }
}

/// See [`Channel::keep_alive`].
#[derive(Debug, Clone)]
pub(crate) struct KeepAlive {
    pub(crate) after: Duration,
    pub(crate) bytes: Vec<u8>,
}

/// The rounds are over, and the writer of a live guest is stopped.
pub(crate) struct AllSent<'w> {
    /// What the destination must hold now.
    pub(crate) digest: Digest,
    /// The guest as of the last round.
    pub(crate) guest: Arc<Guest>,
    /// The writer, if one was stopped.
    pub(crate) stopped: Option<Stopped<'w>>,
}

/// The destination is about to take over. From now on the writer is never resumed here, because the
/// guest might then run in two places.
///
/// While what it returns exists, a cancel has no effect: it could only make the outcome unknown, where
/// the destination's answer, the end of the link or a time limit is about to decide it.
///
/// # Errors
/// When the writer was resumed by something else, and [`Kind::Interrupted`](crate::Kind::Interrupted) if
/// the migration was cancelled before: the source then stays in charge.
pub(crate) fn let_go<'c>(
    mut stopped: Option<Stopped<'_>>,
    context: &'c Context,
) -> Result<Held<'c>> {
    if let Some(stopped) = &mut stopped {
        stopped.check()?;
    }
    let held = context.abort.hold().ok_or_else(Error::interrupted)?;
    context.enter(Phase::Commit)?;
    if let Some(stopped) = stopped {
        stopped.release();
        context.stats.let_go();
    }
    Ok(held)
}

/// The guest's blocks as a stream announces them.
pub(crate) fn announced_blocks(guest: &Guest) -> Vec<BlockInfo> {
    guest
        .blocks()
        .iter()
        .map(|block| BlockInfo {
            name: block.name().to_owned(),
            bytes: block.pages() * PAGE_SIZE as u64,
        })
        .collect()
}

/// Notes that the destination cannot be asked what it lacks.
pub(crate) fn no_fallback(request: &Request, context: &Context, why: &str) {
    if request.fallback {
        let notice = format!("fallback has no effect: {why}");
        context.stats.notice(notice);
    }
}
