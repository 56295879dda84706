//! The connections of a migration, on any wire: opened, given up, or closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::session::{Context, PeerFailure};
use crate::transport::connect::{Connected, Connector, Stored};
use crate::transport::{Stream, TransportError};

use super::request::Request;

/// How long a destination that hung up may take to say why, and how long the last message to it
/// may take.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// The connections of a session. The first carries the messages.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) streams: Vec<Stream>,
    stored: Option<Stored>,
    /// Whether the first stream is in the middle of a frame, so that no message can follow.
    mid_frame: AtomicBool,
}

impl Links {
    /// Connections that a model checker's wire only counts bytes on.
    #[cfg(all(test, shuttle))]
    pub(super) fn to(streams: Vec<Stream>) -> Links {
        Links {
            streams,
            stored: None,
            mid_frame: AtomicBool::new(false),
        }
    }

    /// The first connection.
    pub(super) fn open(opener: &Opener<'_>) -> Result<Links, TransportError> {
        let Connected { stream, stored } = opener.connect()?;
        Ok(Links {
            streams: vec![stream],
            stored,
            mid_frame: AtomicBool::new(false),
        })
    }

    /// Opens another connection. The time limit for silence applies to the first one only.
    pub(super) fn add(&mut self, opener: &Opener<'_>) -> Result<(), TransportError> {
        let mut stream = opener.connect()?.stream;
        stream.hear_through(self.main());
        self.streams.push(stream);
        Ok(())
    }

    /// The connection that carries the messages.
    pub(super) fn main(&self) -> &Stream {
        &self.streams[0]
    }

    pub(super) fn is_two_way(&self) -> bool {
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

    /// Writes a frame; one that is cut off leaves its connection in the middle of it.
    pub(super) fn in_frame(
        &self,
        connection: usize,
        write: impl FnOnce() -> Result<(), TransportError>,
    ) -> Result<(), TransportError> {
        if connection > 0 {
            return write();
        }
        self.mid_frame.store(true, Ordering::Relaxed);
        write()?;
        self.mid_frame.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Sends `farewell` to a destination that does not know yet that the migration failed with
    /// `error`, if the first stream can still carry a message.
    pub(super) fn give_up(&self, error: &Error, farewell: &[u8]) {
        let knows = error.cause::<PeerFailure>().is_some()
            || error.kind() == Kind::OutcomeUnknown
            || matches!(error.cause(), Some(TransportError::Closed));
        if !farewell.is_empty() && !knows && !self.mid_frame.load(Ordering::Relaxed) {
            self.main().last_word(farewell, LAST_WORDS);
        }
    }

    /// If an `exec:` command ended early, its exit status explains more than the broken pipe.
    pub(super) fn explain(&mut self, error: Error) -> Error {
        if matches!(error.cause(), Some(TransportError::Closed))
            && let Some(why) = self.streams[0].why_closed()
        {
            return why.into();
        }
        error
    }

    /// Closes everything. A command that took the stream must have succeeded, and a stored stream
    /// gets its name.
    pub(super) fn close(self) -> Result<()> {
        for mut stream in self.streams {
            stream.finish()?;
        }
        if let Some(stored) = self.stored {
            stored.commit()?;
        }
        Ok(())
    }
}

/// Opens connections to the request's address.
#[derive(Debug)]
pub(super) struct Opener<'a> {
    connector: Connector,
    context: &'a Context,
}

impl<'a> Opener<'a> {
    pub(super) fn new(request: &Request, context: &'a Context) -> Opener<'a> {
        let params = context.tuning.get();
        Opener {
            connector: Connector {
                address: request.address.clone(),
                connect_timeout: params.connect_timeout,
                silence: params.timeout,
                force: request.force,
                sync: request.sync,
            },
            context,
        }
    }

    fn connect(&self) -> Result<Connected, TransportError> {
        let abort: &Arc<_> = &self.context.abort;
        let mut connected = self.connector.connect(abort)?;
        self.context.emulate_link(&mut connected.stream)?;
        Ok(connected)
    }
}
