//! The connections of a session, whatever is said on them.

use crate::error::Error;
use crate::session::PeerFailure;
use crate::transport::{Stream, TransportError};

/// The connections of a session. The first carries the messages.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) streams: Vec<Stream>,
}

impl Links {
    /// The connection that carries the messages.
    pub(super) fn main(&self) -> &Stream {
        &self.streams[0]
    }

    /// Whether the source can be answered.
    pub(super) fn are_two_way(&self) -> bool {
        self.main().is_two_way()
    }

    /// Bytes written so far, on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.streams.iter().map(Stream::sent).sum()
    }

    /// Bytes read so far, on all connections.
    pub(super) fn received(&self) -> u64 {
        self.streams.iter().map(Stream::received).sum()
    }

    /// Closes connections that nothing can be said on, and waits for the command that wrote to them:
    /// one that failed may have written a whole stream all the same.
    pub(super) fn finish(&mut self) -> Result<(), TransportError> {
        if self.are_two_way() {
            return Ok(());
        }
        self.streams.iter_mut().try_for_each(Stream::finish)
    }

    /// If the command that wrote to the main connection has failed, its failure: it says more than
    /// the pipe that ended.
    pub(super) fn why_closed(&mut self) -> Option<Error> {
        self.streams[0].why_closed().map(Error::from)
    }
}

/// Whether the source knows of this error already, or is gone.
pub(super) fn source_knows(error: &Error) -> bool {
    error.cause::<PeerFailure>().is_some() || is_closed(error)
}

pub(super) fn is_closed(error: &Error) -> bool {
    matches!(
        error.cause(),
        Some(TransportError::Closed | TransportError::Ended { .. })
    )
}
