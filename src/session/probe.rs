//! Asking a destination what it supports, as functions of what is said.

use std::io;
use std::time::Duration;

use crate::caps::Caps;
use crate::wire::native::{Answer, Hello, Offer, VERSIONS, Verdict};

use super::negotiate::{common_version, hello, known_capabilities, milliseconds, session_id};

/// The capability that a hello requires which moves no guest, but asks what the destination
/// supports.
pub(crate) const CAPABILITY_PROBE: &str = "probe";

/// The hello that asks a destination what it supports. It announces no guest.
///
/// # Errors
/// When the system provides no random bytes.
pub fn probe_hello(silence: Duration) -> io::Result<Hello> {
    let asks = Offer {
        name: CAPABILITY_PROBE.to_owned(),
        required: true,
    };
    let session = session_id()?;
    Ok(hello(session, (0, 1), silence, Vec::new(), vec![asks]))
}

/// Whether a hello is only a question.
pub(crate) fn is_probe(hello: &Hello) -> bool {
    let mut offers = hello.capabilities.iter();
    offers.any(|offer| offer.required && offer.name == CAPABILITY_PROBE)
}

/// A destination's answer to such a hello: everything that it supports.
pub(crate) fn answer_probe(hello: &Hello, caps: &Caps, silence: Duration) -> Answer {
    let able = known_capabilities(caps).chain([CAPABILITY_PROBE]);
    Answer {
        versions: (*VERSIONS.start(), *VERSIONS.end()),
        verdict: Verdict::Accepted,
        version: common_version(VERSIONS, hello.versions).unwrap_or(0),
        silence_ms: milliseconds(silence),
        capabilities: able.map(str::to_owned).collect(),
    }
}
