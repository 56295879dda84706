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

/// How a wire's work may be spread over decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Each piece stands alone within its round.
    Any,
    /// What is handed to a lane has to be done in order, by the same decoder.
    Lanes {
        lanes: usize,
        /// How many pieces may wait for each lane's decoder.
        depth: usize,
    },
}

/// A source that has connected, and the language that it speaks. The methods are called in this
/// order, top-down.
pub(super) trait Wire: Sync + Sized {
    /// What a reader hands to a decoder at once.
    type Work: Send;

    fn links(&self) -> &Links;

    fn links_mut(&mut self) -> &mut Links;

    /// Does `work`, during which the source may have to be kept from thinking that this end is gone.
    fn attend<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        work()
    }

    /// Takes all that precedes the first round, and makes the output that the guest needs.
    fn output(&self) -> Result<Output>;

    /// How work is spread if there are to be this many decoders.
    fn order(&self, decoders: usize) -> Order;

    /// Reads one of the connections to the end of the last round, by a thread of its own; the first
    /// also beyond, as far as that concerns the rounds.
    fn read(&self, connection: usize, feed: &Feed<'_, '_, Self>) -> Result<()>;

    /// What one decoder thread works with.
    fn decoder<'a>(&'a self, target: &'a Target<'a>) -> Box<dyn Decode<Self::Work> + 'a>;

    /// The rounds are over: takes all that follows them, and returns the digest of the RAM that the
    /// output must hold.
    fn end(&self, output: &mut Output) -> Result<Digest>;

    /// The output has been proven to hold what was sent. Returns when the source has let go of the
    /// guest, as far as that can be heard: from then on this end may take it over.
    fn proven(&self, digest: Digest) -> Result<()>;

    /// The output is there under its name, and what becomes of the links no longer matters.
    fn committed(&self);

    /// It failed, and this end does not take over: says so, if the source can hear it and does not
    /// know. Returns what went wrong, which may be something better than `error`.
    fn failed(&mut self, error: Error) -> Error;
}

/// A decoder: from work to pages in their place. Its buffers live as long as its thread.
pub(super) trait Decode<W> {
    /// Decodes and checks a piece of work, and only then places its pages.
    fn place(&mut self, work: W) -> Result<Tally>;
}
