//! Reading and writing records of the native wire on a [`Stream`], and errors as messages.

use std::time::Duration;

use crate::error::{Error, Kind};
use crate::transport::{PATIENCE, Stream, TransportError};
use crate::units::format_duration;
use crate::wire::WireError;
use crate::wire::native::{
    Answer, HEADER_LEN, HELLO_HEAD_LEN, Header, Hello, HelloHead, Message, Reason,
};

/// How long a peer that gave up may take to say why, and how long the last message to it may take.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a peer may take over one step at the end of a migration of so many bytes of RAM, however
/// often it says that it is still there: keep-alives show that a process runs, not that it gets
/// anywhere, and meanwhile a guest may be stopped. Honest work grows with RAM: reading it back, and
/// writing it to a disk.
pub(crate) fn patience(silence: Duration, bytes: u64) -> Duration {
    /// Of a slow disk, in bytes per second.
    const SLOW: u64 = 10 << 20;
    let work = Duration::from_secs(bytes / SLOW);
    silence.saturating_mul(PATIENCE).saturating_add(work)
}

/// A peer that says that it is still there, and does not take the step that is its to take.
#[derive(Debug, thiserror::Error)]
#[error(
    "{awaited} did not come within {}, though the {peer} keeps answering: if it only needs longer, raise --timeout here",
    format_duration(*limit)
)]
pub(crate) struct TooLong {
    pub(crate) awaited: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) limit: Duration,
}

/// Takes the rest of a hello off a stream.
///
/// # Errors
/// Those of the stream, and bytes that are not a hello of ours.
pub(crate) fn receive_hello(stream: &Stream, head: [u8; HELLO_HEAD_LEN]) -> Result<Hello, Error> {
    let head = HelloHead::of_hello(head)?;
    let mut rest = vec![0; head.rest_len()];
    stream.read(&mut rest)?;
    Ok(Hello::read(&head, &rest)?)
}

/// The destination hung up on a hello, as a QEMU does.
#[derive(Debug, thiserror::Error)]
#[error(
    "the destination closed the connection without an answer; if it was a QEMU that waited with -incoming, \
     it has ended: start it again, and use --wire qemu"
)]
struct HungUpOnHello;

/// Takes an answer off a stream.
///
/// # Errors
/// Those of the stream, and bytes that are not an answer of ours.
pub(crate) fn receive_answer(stream: &Stream) -> Result<Answer, Error> {
    let mut head = [0; HELLO_HEAD_LEN];
    stream.read(&mut head).map_err(|error| match error {
        TransportError::Closed => Error::new(Kind::Failed, HungUpOnHello),
        error => error.into(),
    })?;
    let head = HelloHead::of_answer(head)?;
    let mut rest = vec![0; head.rest_len()];
    stream.read(&mut rest)?;
    Ok(Answer::read(&head, &rest)?)
}

/// Takes a frame's header off a stream.
///
/// # Errors
/// Those of the stream, its end, and a header that is out of bounds.
pub(crate) fn receive_header(stream: &Stream) -> Result<Header, Error> {
    let mut bytes = [0; HEADER_LEN];
    stream.read(&mut bytes)?;
    Ok(Header::from_bytes(&bytes)?)
}

/// Takes what follows `header` off a stream, for a frame without pages. `None` if it is of a kind
/// that may be skipped.
///
/// # Errors
/// Those of the stream, and a frame that is damaged or has pages.
pub(crate) fn receive_rest(stream: &Stream, header: &Header) -> Result<Option<Message>, Error> {
    let mut rest = vec![0; header.rest_len()];
    stream.read(&mut rest)?;
    match header.kind {
        Some(kind) => Ok(Some(Message::read(header, kind, &rest)?)),
        None => Ok(None),
    }
}

/// Takes a message off a stream. `None` if it is of a kind that may be skipped.
///
/// # Errors
/// As [`receive_header`] and [`receive_rest`].
pub(crate) fn receive_message(stream: &Stream) -> Result<Option<Message>, Error> {
    let header = receive_header(stream)?;
    receive_rest(stream, &header)
}

/// Puts a message on a stream.
///
/// # Errors
/// Those of the stream.
pub(crate) fn send_message(stream: &Stream, message: &Message) -> Result<(), TransportError> {
    stream.write(&message.to_bytes(), &[])
}

/// A peer's failure message as an error.
pub(crate) fn peer_failure(reason: Reason, text: &str) -> Error {
    let kind = match reason {
        Reason::Differs => Kind::Differs,
        Reason::Refused => Kind::Refused,
        // What ended the peer did not end this side, which is left with a failed migration.
        Reason::Failed | Reason::Usage | Reason::OutcomeUnknown | Reason::Interrupted => {
            Kind::Failed
        }
    };
    Error::new(kind, PeerFailure(text.to_owned()))
}

/// What a peer said when it gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other side gave up: {0}")]
pub(crate) struct PeerFailure(pub(crate) String);

/// The message that reports `error` to a peer.
pub(crate) fn failure_message(error: &Error) -> Message {
    let reason = match error.kind() {
        Kind::Failed | Kind::Slower => Reason::Failed,
        Kind::Usage => Reason::Usage,
        Kind::Differs => Reason::Differs,
        Kind::Refused => Reason::Refused,
        Kind::OutcomeUnknown => Reason::OutcomeUnknown,
        Kind::Interrupted => Reason::Interrupted,
    };
    let text = error.one_line();
    Message::Failure { reason, text }
}

/// An error for a message that is not allowed at this point.
pub(crate) fn out_of_place(message: &Message, why: &'static str) -> Error {
    WireError::OutOfPlace {
        record: message.kind().name(),
        why,
    }
    .into()
}

/// How long the last message may take that says that this is why we give up. A peer that was silent until
/// its time was over gets no more of it.
pub(crate) fn last_words(error: &Error) -> Duration {
    match error.cause() {
        Some(TransportError::Silent { .. } | TransportError::TakesNothing { .. }) => Duration::ZERO,
        _ => LAST_WORDS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_the_silence_that_is_allowed_and_with_ram() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(seconds(30), 0), seconds(120));
        assert_eq!(patience(seconds(30), 10 << 30), seconds(120 + 1024));
        assert_eq!(patience(Duration::MAX, u64::MAX), Duration::MAX);
    }

    #[test]
    fn a_peer_that_was_silent_gets_no_more_time() {
        let limit = Duration::from_millis(1500);
        let silent = Error::from(TransportError::Silent { limit });
        assert_eq!(last_words(&silent.in_stage("x")), Duration::ZERO);
        assert_eq!(last_words(&TransportError::Closed.into()), LAST_WORDS);
        assert_eq!(last_words(&Error::interrupted()), LAST_WORDS);
    }
}
