//! What both ends agree on, as pure functions of what was said: a source's [`hello`], what a
//! destination makes of it ([`negotiate`], [`answer`]), what the source makes of that
//! ([`check_answer`]).

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::caps::{Capability, Caps};
use crate::codec::Method;
use crate::error::{Error, Kind};
use crate::page::PAGE_SIZE;
use crate::wire::BlockInfo;
use crate::wire::native::{
    Answer, HELLO_HEAD_LEN, Hello, MAX_CONNECTIONS, MAX_HELLO, Offer, VERSIONS, Verdict,
};

/// The name of XBZRLE as a capability of the native wire.
pub(crate) const CAPABILITY_XBZRLE: &str = "xbzrle";
/// The name of guest folders as a capability of the native wire: several blocks, a description and
/// device state.
pub(crate) const CAPABILITY_GUEST_FOLDER: &str = "guest-folder";
/// The name of device state that precedes RAM's pages in QEMU's stream, as a capability of the native
/// wire.
pub(crate) const CAPABILITY_EARLY_STATE: &str = "early-device-state";
/// The name of a guest that runs on at the source, so that what arrives is a copy and no end takes it
/// over, as a capability of the native wire. It is only offered, as an older destination can take the
/// copy, too; one that knows it does not claim the guest.
pub(crate) const CAPABILITY_GUEST_STAYS: &str = "guest-stays";

/// What concerns guest folders alone.
pub(crate) const FOLDER_CAPABILITIES: [&str; 2] = [CAPABILITY_GUEST_FOLDER, CAPABILITY_EARLY_STATE];

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The wire format's version.
    pub version: u16,
    /// What both ends support.
    pub capabilities: BTreeSet<String>,
    /// How long the other side waits in silence before it gives up.
    pub peer_silence: Duration,
}

impl Agreed {
    /// How often to send the peer something: three chances before it gives up.
    pub(crate) fn keepalive_interval(&self) -> Duration {
        (self.peer_silence / 3).max(Duration::from_millis(10))
    }
}

/// Everything that this program supports on the native wire and `caps` allows.
pub fn known_capabilities(caps: &Caps) -> impl Iterator<Item = &'static str> {
    let compress = caps.has(Capability::Compress);
    let xbzrle = caps.has(Capability::Xbzrle);
    Method::ALL
        .into_iter()
        .filter(move |method| compress && *method != Method::None)
        .map(Method::name)
        .chain(xbzrle.then_some(CAPABILITY_XBZRLE))
        .chain(FOLDER_CAPABILITIES)
        .chain([CAPABILITY_GUEST_STAYS])
}

/// What a source of a raw image offers: everything it supports. What it will certainly use is
/// required.
pub fn offers(method: Option<Method>, xbzrle: bool) -> Vec<Offer> {
    known_capabilities(&Caps::default())
        .filter(|name| !FOLDER_CAPABILITIES.contains(name) && *name != CAPABILITY_GUEST_STAYS)
        .map(|name| Offer {
            name: name.to_owned(),
            required: method.is_some_and(|method| method.name() == name)
                || (xbzrle && name == CAPABILITY_XBZRLE),
        })
        .collect()
}

/// What a source whose guest runs on offers in addition.
pub(crate) fn stays_offer() -> Offer {
    Offer {
        name: CAPABILITY_GUEST_STAYS.to_owned(),
        required: false,
    }
}

/// What a source of a guest folder requires in addition. `early`: the folder has device state that
/// precedes RAM's pages in QEMU's stream.
pub fn folder_offers(early: bool) -> impl Iterator<Item = Offer> {
    [
        Some(CAPABILITY_GUEST_FOLDER),
        early.then_some(CAPABILITY_EARLY_STATE),
    ]
    .into_iter()
    .flatten()
    .map(|name| Offer {
        name: name.to_owned(),
        required: true,
    })
}

/// The newest version that both ranges hold.
pub(crate) fn common_version(ours: RangeInclusive<u16>, theirs: (u16, u16)) -> Option<u16> {
    let newest = (*ours.end()).min(theirs.1);
    (newest >= (*ours.start()).max(theirs.0)).then_some(newest)
}

fn versions_apart(ours: RangeInclusive<u16>, theirs: (u16, u16)) -> String {
    format!(
        "the source speaks protocol versions {} to {}, the destination {} to {}",
        theirs.0,
        theirs.1,
        ours.start(),
        ours.end()
    )
}

/// A destination's reaction to a hello: what is agreed, or why it is refused.
///
/// # Errors
/// The reason for the refusal, for a user.
pub fn negotiate(hello: &Hello, caps: &Caps) -> Result<Agreed, String> {
    let version = common_version(VERSIONS, hello.versions)
        .ok_or_else(|| versions_apart(VERSIONS, hello.versions))?;
    if hello.page_size != PAGE_SIZE as u32 {
        return Err(format!(
            "the page size is {}, but only {PAGE_SIZE} is supported",
            hello.page_size
        ));
    }
    let known: BTreeSet<&str> = known_capabilities(caps).collect();
    if let Some(missing) = hello
        .capabilities
        .iter()
        .find(|offer| offer.required && !known.contains(offer.name.as_str()))
    {
        return Err(format!(
            "the destination lacks the capability '{}', or has it off",
            missing.name
        ));
    }
    if hello.connections > MAX_CONNECTIONS {
        return Err(format!(
            "{} connections are asked for, but at most {MAX_CONNECTIONS} are allowed",
            hello.connections
        ));
    }
    if hello.connections == 0 || hello.connection >= hello.connections {
        return Err(format!(
            "invalid connection number: {} of {}",
            hello.connection, hello.connections
        ));
    }
    let mut total = 0_u64;
    for block in &hello.blocks {
        // Below this limit, page numbers and offsets fit every type that they are converted to.
        total = total.saturating_add(block.bytes);
        if block.bytes == 0 || block.bytes % PAGE_SIZE as u64 != 0 || total > 1 << 50 {
            return Err(format!(
                "block '{}' of {} bytes: a block has whole pages, and all blocks at most 1 PiB",
                block.name, block.bytes
            ));
        }
    }
    if hello.blocks.is_empty() {
        return Err("the guest has no block".to_owned());
    }
    Ok(Agreed {
        version,
        capabilities: hello
            .capabilities
            .iter()
            .filter(|offer| known.contains(offer.name.as_str()))
            .map(|offer| offer.name.clone())
            .collect(),
        peer_silence: Duration::from_millis(hello.silence_ms.into()),
    })
}

/// A destination's answer to a hello.
pub fn answer(outcome: &Result<Agreed, String>, silence: Duration) -> Answer {
    let (verdict, version, capabilities) = match outcome {
        Ok(agreed) => (
            Verdict::Accepted,
            agreed.version,
            agreed.capabilities.iter().cloned().collect(),
        ),
        Err(why) => (Verdict::Refused(why.clone()), 0, Vec::new()),
    };
    Answer {
        versions: (*VERSIONS.start(), *VERSIONS.end()),
        verdict,
        version,
        silence_ms: milliseconds(silence),
        capabilities,
    }
}

/// The reason for ending a migration whose destination lacks something.
pub(crate) fn lacking(name: &str) -> String {
    format!("the destination lacks the capability '{name}'")
}

/// A source's reaction to the answer to its hello.
///
/// # Errors
/// [`Kind::Refused`] with the destination's reason, or with the name of what it lacks.
pub fn check_answer(hello: &Hello, answer: &Answer) -> Result<Agreed, Error> {
    let refused = |why: String| Error::new(Kind::Refused, why);
    if let Verdict::Refused(why) = &answer.verdict {
        return Err(refused(format!("the destination refused: {why}")));
    }
    if !(hello.versions.0..=hello.versions.1).contains(&answer.version) {
        return Err(refused(format!(
            "the destination answered with protocol version {}, but {} to {} were offered",
            answer.version, hello.versions.0, hello.versions.1
        )));
    }
    if let Some(missing) = hello
        .capabilities
        .iter()
        .find(|offer| offer.required && !answer.capabilities.contains(&offer.name))
    {
        return Err(refused(lacking(&missing.name)));
    }
    Ok(Agreed {
        version: answer.version,
        capabilities: answer.capabilities.iter().cloned().collect(),
        peer_silence: Duration::from_millis(answer.silence_ms.into()),
    })
}

/// A time limit as it is written in hellos.
pub(crate) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// The hello of one connection. Whether the blocks fit is checked by `check_hello`.
pub fn hello(
    session: [u8; 16],
    (connection, connections): (u16, u16),
    silence: Duration,
    blocks: Vec<BlockInfo>,
    capabilities: Vec<Offer>,
) -> Hello {
    Hello {
        versions: (*VERSIONS.start(), *VERSIONS.end()),
        session,
        connection,
        connections,
        page_size: PAGE_SIZE as u32,
        silence_ms: milliseconds(silence),
        blocks,
        capabilities,
    }
}

/// Whether a hello is one that a destination can read.
///
/// # Errors
/// Too many blocks, or names that are too long together.
pub(crate) fn check_hello(hello: &Hello) -> Result<(), Error> {
    let too_long = hello.blocks.iter().find(|block| block.name.len() > 255);
    let len = hello.to_bytes().len().saturating_sub(HELLO_HEAD_LEN + 8);
    if too_long.is_none() && hello.blocks.len() <= usize::from(u16::MAX) && len <= MAX_HELLO {
        return Ok(());
    }
    Err(Error::new(
        Kind::Failed,
        format!(
            "the guest's {} blocks cannot be announced: with their names they take {len} bytes, and \
             at most {MAX_HELLO} are allowed",
            hello.blocks.len()
        ),
    ))
}

/// 16 random bytes.
///
/// # Errors
/// When the system has none.
pub(crate) fn session_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    let mut filled = 0;
    while filled < id.len() {
        filled +=
            rustix::rand::getrandom(&mut id[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
