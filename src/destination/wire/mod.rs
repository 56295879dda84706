//! What a wire contributes to receiving a guest; everything else is the same for all of them.
//!
//! A wire is one folder here. The rest of the destination knows no wire, but for two places: which
//! one a source speaks is recognised when it is [greeted](super::greet), and [`run`](super::run)
//! receives with that.
//!
//! A further wire is:
//!
//! 1. its format, in [`crate::wire`], and its magic in `src/sniff.rs`;
//! 2. a folder or a file here, with an `impl` of [`Wire`] and of [`Decode`]. Readers of several
//!    connections, a barrier at a round's end, and decoders whose state lasts as long as a lane are
//!    the pipeline's already;
//! 3. a variant of [`Source`](super::lobby::Source), made where the lobby or `accept` recognises it,
//!    and an arm in `run`.

pub(super) mod native;
pub(super) mod qemu;

use crate::error::{Error, Result};
use crate::image::Output;
use crate::page::Digest;
use crate::round::{Baseline, Round};
use crate::session::Context;
use crate::stats::Tally;

use super::barrier::NotEnded;
use super::links::Links;
use super::prove::Proof;

/// How work may be spread over decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Pieces of a round do not depend on each other.
    Any,
    /// The work of a lane has to be done in order, by one decoder.
    Lanes {
        lanes: usize,
        /// How many pieces may wait for each lane's decoder.
        depth: usize,
    },
}

/// A source that has connected, and its format. The methods are called in this order.
pub(super) trait Wire: Sync + Sized {
    /// What a reader hands to a decoder at once.
    type Work: Send;

    fn links(&self) -> &Links;

    fn links_mut(&mut self) -> &mut Links;

    /// Does `work`, and meanwhile whatever keeps the source from timing out.
    fn attend<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        work()
    }

    /// Reads everything that precedes the first round, and makes the output that the guest needs.
    fn output(&self) -> Result<Output>;

    /// How work may be spread, if there are to be `decoders` of them.
    fn order(&self, decoders: usize) -> Order;

    /// Reads one of the connections to the end of the last round, in a thread of its own, and hands
    /// its work to `feed`.
    fn read(&self, connection: usize, feed: &dyn Feed<Self::Work>) -> Result<()>;

    /// A decoder, for one thread.
    fn decoder<'a>(&'a self, target: &'a DecodeTarget<'a>) -> Box<dyn Decode<Self::Work> + 'a>;

    /// The rounds are over: reads everything that follows them, and returns the digest of the RAM that
    /// the output must hold.
    fn end(&self, output: &mut Output) -> Result<Digest>;

    /// The output holds what was sent. Returns when this end may take over: on a link with a way back
    /// with a commit protocol, when the source has let go of the guest.
    fn proven(&self, digest: Digest) -> Result<()>;

    /// The output has its name, and nothing that happens to the links matters any more.
    fn committed(&self);

    /// The migration failed: reports `error` to the source, unless it cannot be answered or knows.
    /// Returns the error to show, which may be a better one.
    fn failed(&mut self, error: Error) -> Error;
}

/// What the pipeline offers a reader.
pub(super) trait Feed<W> {
    fn output(&self) -> &Output;

    /// The current round.
    fn round(&self) -> Round;

    /// How many lanes there are; 1 with [`Order::Any`].
    fn lanes(&self) -> usize;

    /// Hands work of the current round to a lane, and waits for room in its queue.
    fn hand(&self, lane: usize, work: W);

    /// Waits until everything that was handed over is placed, or the session has failed and the
    /// reason is known.
    fn settle(&self);

    /// This connection has ended its round: waits until all have, and everything is placed. `last`:
    /// no round follows.
    ///
    /// # Errors
    /// The connections disagree about `last`, or the session has failed meanwhile.
    fn end_round(&self, last: bool) -> Result<(), NotEnded>;
}

/// Where decoders place pages.
pub(super) struct DecodeTarget<'a> {
    pub(super) context: &'a Context,
    pub(super) output: &'a Output,
    pub(super) proof: Proof,
    /// What the output held before the first round.
    pub(super) baseline: Baseline,
}

/// A decoder: from work to pages in their place. Its buffers live as long as its thread.
pub(super) trait Decode<W> {
    /// Decodes and checks a piece of work, and only then places its pages.
    fn place(&mut self, work: W) -> Result<Tally>;
}
