//! The destination's messages, read by a thread of its own, because a destination may report a
//! failure while the source is still writing.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::error::{Error, Kind, Result};
use crate::pool::FirstError;
use crate::session::{self, LAST_WORDS, PeerFailure, TooLong};
use crate::transport::{Stream, TransportError};
use crate::wire::native::Message;

use super::super::seam::Listener;

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
    /// The listener, the first time; a second one would steal its messages.
    pub(super) fn listener(&mut self) -> Option<Listener> {
        let report = self.report.take()?;
        Some(Box::new(move |stream: &Stream, errors: &FirstError| {
            hear(stream, &report, errors);
        }))
    }

    /// The next message. `stage` is what an error names as being done meanwhile. A destination that
    /// falls silent is given up earlier than after `limit`.
    pub(super) fn next(&self, stage: &'static str, limit: Duration) -> Result<Message> {
        let message = match self.reported.recv_timeout(limit) {
            Ok(message) => message,
            Err(RecvTimeoutError::Disconnected) => Err(TransportError::Closed.into()),
            Err(RecvTimeoutError::Timeout) => {
                let too_long = TooLong {
                    awaited: "an answer",
                    peer: "destination",
                    limit,
                };
                Err(Error::new(Kind::Failed, too_long))
            }
        };
        message.map_err(|error| error.in_stage(stage))
    }

    /// When a link breaks during a write, the destination has usually given up: its reason says
    /// more than ours.
    pub(super) fn explain(&self, error: Error) -> Error {
        if !is_broken_link(&error) {
            return error;
        }
        while let Ok(reply) = self.reported.recv_timeout(LAST_WORDS) {
            if let Err(reason) = reply {
                // The listener also reports a hang-up, which says no more than `error`.
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

/// Reads messages up to the last one. An error is reported twice: to the pipeline, which may still
/// be sending, and after the messages, to the commit protocol.
fn hear(stream: &Stream, report: &Sender<Result<Message>>, errors: &FirstError) {
    let mut messages = 0;
    loop {
        let error = match session::receive_message(stream) {
            Ok(None | Some(Message::KeepAlive)) => continue,
            Ok(Some(Message::Failure { reason, text })) => session::peer_failure(reason, &text),
            Ok(Some(message)) if messages < MESSAGES => {
                messages += 1;
                let last = message == Message::Committed;
                if report.send(Ok(message)).is_err() || last {
                    return;
                }
                continue;
            }
            Ok(Some(message)) => session::out_of_place(&message, "no such message was expected"),
            Err(error) => error,
        };
        errors.report(same(&error));
        let _ = report.send(Err(error));
        return;
    }
}

/// A copy with the parts that the pipeline needs; errors cannot be cloned.
fn same(error: &Error) -> Error {
    if let Some(PeerFailure(text)) = error.cause() {
        Error::new(error.kind(), PeerFailure(text.clone()))
    } else if let Some(TransportError::Aborted) = error.cause() {
        TransportError::Aborted.into()
    } else {
        TransportError::Closed.into()
    }
}
