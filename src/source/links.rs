//! The connections of a migration, on any wire: opened, given up, or closed.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::partial::UnsyncedName;
use crate::session::{Context, PeerFailure, last_words};
use crate::sync::{self, Mutex};
use crate::transport::connect::{Connected, Connector, Stored};
use crate::transport::{Stream, TransportError};

use super::request::Request;

/// The connections of a session. The first carries the messages.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) streams: Vec<Stream>,
    stored: Option<Stored>,
    /// What the first stream has to write before a message can follow.
    pending: Mutex<Pending>,
}

/// What is left of a frame.
#[derive(Debug)]
enum Pending {
    Nothing,
    /// The rest of one that was aborted.
    Rest(Vec<u8>),
    /// It is being written, or the link broke in the middle of it.
    Unknown,
}

impl Links {
    /// Connections that a model checker's wire only counts bytes on.
    #[cfg(all(test, shuttle))]
    pub(super) fn to(streams: Vec<Stream>) -> Links {
        Links {
            streams,
            stored: None,
            pending: Mutex::new(Pending::Nothing),
        }
    }

    /// The first connection.
    pub(super) fn open(opener: &Opener<'_>) -> Result<Links, TransportError> {
        let Connected { stream, stored } = opener.connect()?;
        Ok(Links {
            streams: vec![stream],
            stored,
            pending: Mutex::new(Pending::Nothing),
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

    /// Writes a frame, with `write`. The first connection remembers the rest of one that was aborted:
    /// with a limit on the bandwidth, most aborts come in the middle of a frame.
    pub(super) fn in_frame(
        &self,
        connection: usize,
        frame: [&[u8]; 2],
        write: impl FnOnce(&Stream) -> Result<(), TransportError>,
    ) -> Result<(), TransportError> {
        let stream = &self.streams[connection];
        if connection > 0 {
            return write(stream);
        }
        *sync::lock(&self.pending) = Pending::Unknown;
        // Nothing else writes to it meanwhile.
        let before = stream.sent();
        let outcome = write(stream);
        *sync::lock(&self.pending) = match &outcome {
            Ok(()) => Pending::Nothing,
            Err(TransportError::Aborted) => match (stream.sent() - before) as usize {
                0 => Pending::Nothing,
                written => {
                    let mut frame = frame.concat();
                    Pending::Rest(frame.split_off(written.min(frame.len())))
                }
            },
            Err(_) => Pending::Unknown,
        };
        outcome
    }

    /// Sends `farewell` to a destination that does not know yet that the migration failed with
    /// `error`, if the first stream can still carry a message.
    pub(super) fn give_up(&self, error: &Error, farewell: &[u8]) {
        let knows = error.cause::<PeerFailure>().is_some()
            || error.kind() == Kind::OutcomeUnknown
            || matches!(error.cause(), Some(TransportError::Closed));
        if farewell.is_empty() || knows {
            return;
        }
        let last = match &*sync::lock(&self.pending) {
            Pending::Nothing => farewell.to_vec(),
            Pending::Rest(rest) => [rest, farewell].concat(),
            Pending::Unknown => return,
        };
        self.main().last_word(&last, last_words(error));
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
    /// gets its name. Returns what there is to say of that name, though it worked.
    pub(super) fn close(self) -> Result<Option<UnsyncedName>> {
        for mut stream in self.streams {
            stream.finish()?;
        }
        let unsynced = self.stored.map(Stored::commit).transpose()?;
        Ok(unsynced.flatten())
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
