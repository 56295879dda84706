//! What a wire contributes to receiving a guest; everything else is the same for all of them.
//!
//! A wire is one folder here. The rest of the destination knows no wire, but for two places:
//! [`accept`](super::accept) and its lobby recognise which one a source speaks by its first bytes,
//! and [`run`](super::run) receives with it.

pub(super) mod native;
pub(super) mod qemu;

use crate::error::{Error, Result};
use crate::image::Output;
use crate::page::Digest;
use crate::stats::Tally;

use super::links::Links;
use super::pipeline::{Feed, Target};

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
    fn read(&self, connection: usize, feed: &Feed<'_, '_, Self>) -> Result<()>;

    /// A decoder, for one thread.
    fn decoder<'a>(&'a self, target: &'a Target<'a>) -> Box<dyn Decode<Self::Work> + 'a>;

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

/// A decoder: from work to pages in their place. Its buffers live as long as its thread.
pub(super) trait Decode<W> {
    /// Decodes and checks a piece of work, and only then places its pages.
    fn place(&mut self, work: W) -> Result<Tally>;
}
