//! What both ends of a migration share: what they agree on, and how they speak.
//!
//! [`negotiate`] and [`check_answer`] are pure functions over what was said; the rest puts
//! records on a [`Stream`] and takes them off.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::caps::{Capability, Caps};
use crate::codec::Method;
use crate::error::{Error, Kind};
use crate::page::PAGE_SIZE;
use crate::params::{ParamError, Params};
use crate::stats::Stats;
use crate::sync;
use crate::transport::{Abort, EmulatedLink, Stream, TransportError};
use crate::wire::WireError;
use crate::wire::native::{
    Answer, BlockInfo, HEADER_LEN, HELLO_HEAD_LEN, Header, Hello, HelloHead, MAX_CONNECTIONS,
    MAX_HELLO, Message, Offer, VERSIONS, Verdict,
};

/// The name of XBZRLE as a capability of the native wire.
pub const CAPABILITY_XBZRLE: &str = "xbzrle";
/// The name of guest folders as a capability of the native wire: several blocks, a description and
/// device state.
pub const CAPABILITY_GUEST_FOLDER: &str = "guest-folder";

/// The name of the capability that a hello requires which moves no guest, but asks what the
/// destination can.
pub const CAPABILITY_PROBE: &str = "probe";

/// What a migration's threads and its owner share.
#[derive(Debug)]
pub struct Context {
    /// Ends it.
    pub abort: Arc<Abort>,
    /// How it is done; may change meanwhile.
    pub tuning: Tuning,
    /// How far it is.
    pub stats: Stats,
    /// What all its connections share, if a link is emulated.
    pub link: Option<Arc<EmulatedLink>>,
    /// What both ends can do, once a destination was asked.
    pub(crate) agreed: OnceLock<BTreeSet<String>>,
    /// Where it waits for leave to switch over.
    pub(crate) gate: Gate,
    /// Faults that tests inject.
    pub(crate) faults: crate::fault::Faults,
}

impl Context {
    /// A migration that has not begun.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(params: Params) -> io::Result<Context> {
        Ok(Context {
            abort: Arc::new(Abort::new()?),
            link: params.link.map(|spec| Arc::new(EmulatedLink::new(spec))),
            tuning: Tuning(RwLock::new(Arc::new(params))),
            stats: Stats::default(),
            agreed: OnceLock::new(),
            gate: Gate::default(),
            faults: crate::fault::Faults::default(),
        })
    }
}

impl Context {
    /// Ends it as soon as possible; not what it is when it is over.
    pub fn cancel(&self) {
        self.stats.cancelling();
        self.abort.raise();
        // Whoever waits there looks at the abort next.
        self.gate.open();
    }

    /// Refuses a method that the destination is known not to have.
    ///
    /// # Errors
    /// [`ParamError::BadValue`], with those that it has.
    pub(crate) fn check_method(&self, method: Method) -> Result<(), ParamError> {
        let has = |method: Method| {
            let agreed = self.agreed.get();
            method == Method::None || agreed.is_none_or(|agreed| agreed.contains(method.name()))
        };
        if has(method) {
            return Ok(());
        }
        let names = Method::ALL.into_iter().filter(|&one| has(one));
        let names: Vec<&str> = names.map(Method::name).collect();
        Err(ParamError::BadValue {
            name: "compress-method",
            value: method.name().to_owned(),
            allowed: format!("what the destination has: {}", names.join(", ")),
        })
    }

    /// Has a connection emulate the link, if one is to be.
    pub(crate) fn emulate_link(&self, stream: &mut Stream) -> Result<(), TransportError> {
        match &self.link {
            Some(link) => stream.emulate(link),
            None => Ok(()),
        }
    }

    /// Ends every wait if it did not work.
    pub(crate) fn abort_on_error<T>(&self, outcome: &Result<T, Error>) {
        if outcome.is_err() {
            self.abort.raise();
        }
    }
}

/// Where a migration waits until somebody lets it through.
#[derive(Debug)]
pub(crate) struct Gate {
    open: Sender<()>,
    opened: Receiver<()>,
}

impl Default for Gate {
    fn default() -> Gate {
        let (open, opened) = bounded(1);
        Gate { open, opened }
    }
}

impl Gate {
    /// Lets it through, now or when it comes.
    pub(crate) fn open(&self) {
        // Full is open already.
        let _ = self.open.try_send(());
    }

    /// Hears when it is opened.
    pub(crate) fn opened(&self) -> &Receiver<()> {
        &self.opened
    }
}

/// The parameters in force. Workers read them for each batch.
#[derive(Debug)]
pub struct Tuning(RwLock<Arc<Params>>);

impl Tuning {
    /// The parameters as they are now. (A poisoned lock holds a whole value all the same: it is
    /// only ever replaced as one.)
    pub fn get(&self) -> Arc<Params> {
        Arc::clone(&*sync::ignore_poison(self.0.read()))
    }

    /// Changes a copy of the parameters and puts it in force, unless `change` fails.
    ///
    /// # Errors
    /// What `change` says; the parameters are then as they were.
    pub fn update<E>(&self, change: impl FnOnce(&mut Params) -> Result<(), E>) -> Result<(), E> {
        let mut current = sync::ignore_poison(self.0.write());
        let mut params = (**current).clone();
        change(&mut params)?;
        *current = Arc::new(params);
        Ok(())
    }
}

/// What both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The wire format's version.
    pub version: u16,
    /// What both can do.
    pub capabilities: BTreeSet<String>,
    /// After how much silence the other side gives up.
    pub peer_silence: Duration,
}

impl Agreed {
    /// How often the peer has to hear something: three chances before it gives up.
    pub fn keepalive_interval(&self) -> Duration {
        (self.peer_silence / 3).max(Duration::from_millis(10))
    }
}

/// Everything that this program can do on the native wire, as far as `caps` lets it.
pub fn known_capabilities(caps: &Caps) -> impl Iterator<Item = &'static str> {
    let compress = caps.has(Capability::Compress);
    let xbzrle = caps.has(Capability::Xbzrle);
    Method::ALL
        .into_iter()
        .filter(move |method| compress && *method != Method::None)
        .map(Method::name)
        .chain(xbzrle.then_some(CAPABILITY_XBZRLE))
        .chain([CAPABILITY_GUEST_FOLDER])
}

/// What a source of a raw image offers: all it can, and what it will surely use is required.
pub fn offers(method: Option<Method>, xbzrle: bool) -> Vec<Offer> {
    known_capabilities(&Caps::default())
        .filter(|name| *name != CAPABILITY_GUEST_FOLDER)
        .map(|name| Offer {
            name: name.to_owned(),
            required: method.is_some_and(|method| method.name() == name)
                || (xbzrle && name == CAPABILITY_XBZRLE),
        })
        .collect()
}

/// What a source of a guest folder requires besides.
pub fn folder_offer() -> Offer {
    Offer {
        name: CAPABILITY_GUEST_FOLDER.to_owned(),
        required: true,
    }
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

/// What a destination makes of a hello: an agreement, or the sentence that refuses it.
///
/// # Errors
/// The sentence.
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
            "connection {} of {} makes no sense",
            hello.connection, hello.connections
        ));
    }
    let mut total = 0_u64;
    for block in &hello.blocks {
        // Page numbers and offsets then fit every type that they meet.
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

/// What a destination answers.
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

/// The hello that asks a destination what it can. It speaks of no guest.
///
/// # Errors
/// When the system has no random bytes.
pub fn probe_hello(silence: Duration) -> io::Result<Hello> {
    let asks = Offer {
        name: CAPABILITY_PROBE.to_owned(),
        required: true,
    };
    let session = session_id()?;
    Ok(hello(session, (0, 1), silence, Vec::new(), vec![asks]))
}

/// Whether a hello only asks.
pub fn is_probe(hello: &Hello) -> bool {
    let mut offers = hello.capabilities.iter();
    offers.any(|offer| offer.required && offer.name == CAPABILITY_PROBE)
}

/// What a destination answers that was only asked: all that it would agree to.
pub fn answer_probe(hello: &Hello, caps: &Caps, silence: Duration) -> Answer {
    let able = known_capabilities(caps).chain([CAPABILITY_PROBE]);
    Answer {
        versions: (*VERSIONS.start(), *VERSIONS.end()),
        verdict: Verdict::Accepted,
        version: common_version(VERSIONS, hello.versions).unwrap_or(0),
        silence_ms: milliseconds(silence),
        capabilities: able.map(str::to_owned).collect(),
    }
}

/// The sentence that says what is missing.
pub(crate) fn lacking(name: &str) -> String {
    format!("the destination lacks the capability '{name}'")
}

/// What a source makes of the answer to its hello.
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

/// A time limit as hellos carry it.
pub fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// The hello of one connection; that the blocks fit is for [`check_hello`] to say.
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
/// Blocks that are too many, or whose names are too long together.
pub fn check_hello(hello: &Hello) -> Result<(), Error> {
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

/// Takes the rest of a hello off a stream.
///
/// # Errors
/// The stream's, and bytes that are no hello of ours.
pub fn receive_hello(stream: &Stream, head: [u8; HELLO_HEAD_LEN]) -> Result<Hello, Error> {
    let head = HelloHead::of_hello(head)?;
    let mut rest = vec![0; head.rest_len()];
    stream.read(&mut rest)?;
    Ok(Hello::read(&head, &rest)?)
}

/// Takes an answer off a stream.
///
/// # Errors
/// The stream's, and bytes that are no answer of ours.
pub fn receive_answer(stream: &Stream) -> Result<Answer, Error> {
    let mut head = [0; HELLO_HEAD_LEN];
    stream.read(&mut head)?;
    let head = HelloHead::of_answer(head)?;
    let mut rest = vec![0; head.rest_len()];
    stream.read(&mut rest)?;
    Ok(Answer::read(&head, &rest)?)
}

/// Takes a frame's header off a stream.
///
/// # Errors
/// The stream's, its end, and a header that is out of bounds.
pub fn receive_header(stream: &Stream) -> Result<Header, Error> {
    let mut bytes = [0; HEADER_LEN];
    stream.read(&mut bytes)?;
    Ok(Header::from_bytes(&bytes)?)
}

/// Takes what follows `header` off a stream, for a frame without pages. `None` if it is of a kind
/// that may be skipped.
///
/// # Errors
/// The stream's, and a frame that is damaged or has pages.
pub fn receive_rest(stream: &Stream, header: &Header) -> Result<Option<Message>, Error> {
    let mut rest = vec![0; header.rest_len()];
    stream.read(&mut rest)?;
    match header.kind {
        Some(kind) => Ok(Some(Message::read(header, kind, &rest)?)),
        None => Ok(None),
    }
}

/// Takes a message off a stream; what may be skipped is.
///
/// # Errors
/// As [`receive_header`] and [`receive_rest`].
pub fn receive_message(stream: &Stream) -> Result<Message, Error> {
    loop {
        let header = receive_header(stream)?;
        if let Some(message) = receive_rest(stream, &header)? {
            return Ok(message);
        }
    }
}

/// Puts a message on a stream.
///
/// # Errors
/// The stream's.
pub fn send_message(stream: &Stream, message: &Message) -> Result<(), TransportError> {
    stream.write(&message.to_bytes(), &[])
}

/// What a peer said when it gave up, as an error of our own.
pub fn peer_failure(code: u8, text: &str) -> Error {
    let kind = match Kind::from_exit_code(code) {
        kind @ (Kind::Differs | Kind::Refused) => kind,
        _ => Kind::Failed,
    };
    Error::new(kind, PeerFailure(text.to_owned()))
}

/// What a peer said when it gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other side gave up: {0}")]
pub struct PeerFailure(pub String);

/// The message that tells a peer about `error`.
pub fn failure_message(error: &Error) -> Message {
    Message::Failure {
        code: error.kind().exit_code(),
        text: error.one_line(),
    }
}

/// An error for a message that may not stand where it does.
pub fn out_of_place(message: &Message, why: &'static str) -> Error {
    WireError::OutOfPlace {
        record: message.kind().name(),
        why,
    }
    .into()
}

/// 16 random bytes.
///
/// # Errors
/// When the system has none.
pub fn session_id() -> io::Result<[u8; 16]> {
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
