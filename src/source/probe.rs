//! Asking a listening destination what it supports, without moving a guest.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::params::Params;
use crate::session::{self, Context};
use crate::transport::connect::Connector;
use crate::transport::{Address, Stream, TransportError, Woken};
use crate::wire::WireError;
use crate::wire::native::{Answer, HELLO_HEAD_LEN, HelloHead, VERSIONS, Verdict};

/// What a destination reported about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The oldest and the newest version of the native wire that it speaks.
    pub versions: (u16, u16),
    /// The version that it and this program would use; `None` if they have none in common.
    pub version: Option<u16>,
    /// How long it waits in silence before it gives up.
    pub silence: Duration,
    /// What it supports, by the names of the native wire; or why it does not say.
    pub capabilities: Result<BTreeSet<String>, String>,
}

impl Peer {
    /// What this program supports and the destination lacks or has switched off; `None` if it does
    /// not say.
    pub fn lacks(&self) -> Option<Vec<&'static str>> {
        let able = self.capabilities.as_ref().ok()?;
        let all = Caps::default();
        let known = session::known_capabilities(&all);
        Some(known.filter(|name| !able.contains(*name)).collect())
    }
}

/// Asks the destination that listens at `address` what it supports. It keeps listening for its
/// source. A destination that is older than probing reports only its protocol versions, and why it
/// refused.
///
/// The parameters `connect-timeout` and `timeout` limit how long it takes.
///
/// # Errors
/// An address that cannot be listened on, no listener there, or one that is not ramferry.
pub fn probe(address: &Address, params: &Params) -> Result<Peer> {
    if !address.is_listening() {
        let what = format!("cannot probe {address}: use tcp:HOST:PORT or unix:PATH");
        return Err(Error::new(Kind::Usage, what));
    }
    let context = Context::new(params.clone())
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("at the start"))?;
    let connector = Connector {
        address: address.clone(),
        connect_timeout: params.connect_timeout,
        silence: params.timeout,
        force: false,
        sync: false,
    };
    let stream = connector.connect(&context.abort)?.stream;
    let hello = session::probe_hello(params.timeout)
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("while probing"))?;
    let answer = stream
        .write(&hello.to_bytes(), &[])
        .map_err(Error::from)
        .and_then(|()| hear(&stream, params.timeout, &context))
        .map_err(|error| explain(error, address))?;
    Ok(Peer {
        versions: answer.versions,
        version: session::common_version(VERSIONS, answer.versions),
        silence: Duration::from_millis(answer.silence_ms.into()),
        capabilities: able(answer),
    })
}

/// The capabilities in an answer.
fn able(answer: Answer) -> Result<BTreeSet<String>, String> {
    if let Verdict::Refused(why) = answer.verdict {
        return Err(why);
    }
    let mut able: BTreeSet<String> = answer.capabilities.into_iter().collect();
    if able.remove(session::CAPABILITY_PROBE) {
        Ok(able)
    } else {
        Err("it is older than probing and took this for a migration".to_owned())
    }
}

/// Reads the whole answer within the time limit.
fn hear(stream: &Stream, limit: Duration, context: &Context) -> Result<Answer> {
    let deadline = Instant::now() + limit;
    let read = |out: &mut [u8]| {
        let mut filled = 0;
        while filled < out.len() {
            if let Some(read) = stream.try_read(&mut out[filled..])? {
                filled += read;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let woken = context
                .abort
                .wait_for_any([stream.pollable()?], Some(left))
                .map_err(TransportError::Link)?;
            match woken {
                Woken::Ready => {}
                Woken::TimedOut => return Err(TransportError::Silent { limit }),
                Woken::Aborted => return Err(TransportError::Aborted),
            }
        }
        Ok(())
    };
    let mut head = [0; HELLO_HEAD_LEN];
    read(&mut head)?;
    let head = HelloHead::of_answer(head)?;
    let mut rest = vec![0; head.rest_len()];
    read(&mut rest)?;
    Ok(Answer::read(&head, &rest)?)
}

/// Names a listener that did not answer as a destination does.
fn explain(error: Error, address: &Address) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error("{address} {what}")]
    struct NoAnswer {
        address: String,
        what: &'static str,
        #[source]
        source: Option<Error>,
    }
    let reset = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        )
    };
    let what = match (error.cause::<TransportError>(), error.cause::<WireError>()) {
        (Some(TransportError::Silent { .. }), _) => "does not answer as a ramferry would",
        (Some(TransportError::Closed), _) => HUNG_UP,
        (Some(TransportError::Link(error)), _) if reset(error) => HUNG_UP,
        (_, Some(_)) => "is not a ramferry that receives",
        _ => return error,
    };
    let no_answer = NoAnswer {
        address: address.to_string(),
        what,
        // The text of a broken link speaks of a migration, and there is none.
        source: (what != HUNG_UP).then_some(error),
    };
    Error::new(Kind::Failed, no_answer).in_stage("while probing")
}

const HUNG_UP: &str = "hung up without an answer: it is not ramferry, or its source has just connected; if it \
    was a QEMU that waited with -incoming, it has ended: start it again, and use send --wire qemu without probing";
