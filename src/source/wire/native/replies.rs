//! What a destination says: heard by a thread of its own, because it may say that it gave up
//! while the source is still writing.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::{Error, Result};
use crate::pool::FirstError;
use crate::session::{self, PeerFailure};
use crate::transport::{Stream, TransportError};
use crate::wire::native::Message;

use super::super::Listener;
use crate::source::links::LAST_WORDS;

/// Messages that a destination has reason to send, besides KeepAlive and Failure.
const MESSAGES: usize = 2;

/// The destination's messages, in order; the last may be an error.
#[derive(Debug)]
pub(super) struct Replies {
    /// Until the listener takes it.
    report: Option<Sender<Result<Message>>>,
    reported: Receiver<Result<Message>>,
}

impl Default for Replies {
    fn default() -> Replies {
        // Room for both messages and an error, so that the listener never waits.
        let (report, reported) = bounded(MESSAGES + 1);
        Replies {
            report: Some(report),
            reported,
        }
    }
}

impl Replies {
    /// What hears the destination, the first time that it is asked for.
    pub(super) fn listener(&mut self) -> Option<Listener> {
        let report = self.report.take()?;
        Some(Box::new(move |stream: &Stream, errors: &FirstError| {
            hear(stream, &report, errors);
        }))
    }

    /// The next message.
    pub(super) fn next(&self) -> Result<Message> {
        self.reported
            .recv()
            .unwrap_or_else(|_| Err(TransportError::Closed.into()))
            .map_err(|error| error.in_stage("while waiting for the proof"))
    }

    /// A link that breaks while it is written to is mostly a destination that gave up: its reason
    /// says more than ours.
    pub(super) fn explain(&self, error: Error) -> Error {
        if !is_broken_link(&error) {
            return error;
        }
        while let Ok(reply) = self.reported.recv_timeout(LAST_WORDS) {
            if let Err(reason) = reply {
                // "Closed" is also what the listener makes of silence and of nonsense.
                let says_less = is_broken_link(&reason)
                    || matches!(reason.cause(), Some(TransportError::Aborted));
                return if says_less { error } else { reason };
            }
        }
        error
    }
}

fn is_broken_link(error: &Error) -> bool {
    matches!(
        error.cause(),
        Some(TransportError::Closed | TransportError::Link(_))
    )
}

/// Reads messages up to the last one. What goes wrong is reported twice: to the pipeline, which may
/// still be sending, and after the messages, for the commit protocol.
fn hear(stream: &Stream, report: &Sender<Result<Message>>, errors: &FirstError) {
    let mut messages = 0;
    loop {
        let error = match session::receive_message(stream) {
            Ok(Message::KeepAlive) => continue,
            Ok(Message::Failure { reason, text }) => session::peer_failure(reason, &text),
            Ok(message) if messages < MESSAGES => {
                messages += 1;
                let last = message == Message::Committed;
                if report.send(Ok(message)).is_err() || last {
                    return;
                }
                continue;
            }
            Ok(message) => session::out_of_place(&message, "nothing of the kind was asked for"),
            Err(error) => error,
        };
        errors.report(same(&error));
        let _ = report.send(Err(error));
        return;
    }
}

/// The part of an error that the pipeline needs; errors cannot be cloned.
fn same(error: &Error) -> Error {
    if let Some(PeerFailure(text)) = error.cause() {
        Error::new(error.kind(), PeerFailure(text.clone()))
    } else if let Some(TransportError::Aborted) = error.cause() {
        TransportError::Aborted.into()
    } else {
        TransportError::Closed.into()
    }
}
