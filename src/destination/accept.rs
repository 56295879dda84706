//! The destination's links: waited for, greeted, agreed upon; and given up in the end.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::image::Output;
use crate::session::{self, Agreed, Context};
use crate::transport::connect::open_for_reading;
use crate::transport::listen::Listener;
use crate::transport::{Address, Stream, TransportError, Woken};
use crate::wire::native::{HELLO_HEAD_LEN, Hello, HelloHead};
use crate::wire::qemu::{self, Parser, StreamError, Unsupported};

use super::{LAST_WORDS, Request, source_knows};

/// How long whoever connects may take to say hello: a source does so at once.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How many connections may be about to say hello at once.
const MAX_GREETINGS: usize = 64;

/// The connections of a session. The first carries the messages.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) streams: Vec<Stream>,
    pub(super) agreed: Agreed,
}

impl Links {
    pub(super) fn is_two_way(&self) -> bool {
        self.streams[0].is_two_way()
    }

    /// Bytes written so far, on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.streams.iter().map(Stream::sent).sum()
    }

    /// Bytes read so far, on all connections.
    pub(super) fn received(&self) -> u64 {
        self.streams.iter().map(Stream::received).sum()
    }

    /// A command that ended early says more than the pipe that broke.
    pub(super) fn explain(&mut self, error: Error) -> Error {
        if matches!(error.cause(), Some(TransportError::Closed))
            && let Some(why) = self.streams[0].why_closed()
        {
            return why.into();
        }
        error
    }

    /// Tells the source why, if it does not know already.
    pub(super) fn give_up(&self, error: &Error) {
        if !source_knows(error) {
            let message = session::failure_message(error);
            self.streams[0].last_word(&message.to_bytes(), LAST_WORDS);
        }
    }
}

/// Who it is that sends.
pub(super) enum Accepted {
    /// One of us: all of its connections, and the output that it needs.
    Native(Box<(Links, Output)>),
    /// A QEMU: its connection, the bytes that have been read from it, and who else may connect.
    Qemu(Box<(Stream, Vec<u8>, Option<Others>)>),
}

/// Who else has connected, or still can.
pub(super) struct Others {
    listener: Listener,
    greetings: VecDeque<Greeting>,
}

impl Others {
    /// Refuses a QEMU whose pages go over other connections: when its list of blocks arrives, all
    /// of them have connected and said what they are. Whoever else is there is dropped.
    pub(super) fn refuse_multifd(mut self, context: &Context) -> Result<()> {
        let silence = context.tuning.get().timeout;
        while self.greetings.len() < MAX_GREETINGS
            && let Some((stream, from)) = self.listener.try_accept(&context.abort, silence)?
        {
            self.greetings.push_back(Greeting::new(stream, from));
        }
        let is_channel = |error: &Error| {
            let what = error.cause::<StreamError>().map(|error| &error.what);
            what == Some(&Unsupported::MultifdConnection.into())
        };
        for mut greeting in self.greetings {
            if let Err(error) = greeting.progress()
                && is_channel(&error)
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Waits for a source, or opens what there is to read, and makes the output that it needs.
pub(super) fn accept(
    request: &Request,
    context: &Context,
    listening: &dyn Fn(&Address),
    dropped: &(dyn Fn(&str) + Sync),
) -> Result<Accepted> {
    let silence = context.tuning.get().timeout;
    if request.address.is_listening() {
        let listener = Listener::bind(&request.address)?;
        listening(listener.address());
        return join(request, context, listener, dropped);
    }
    let mut stream = open_for_reading(&request.address, &context.abort, silence)?;
    context.stats.start();
    let mut head = [0; HELLO_HEAD_LEN];
    let hello = match stream.read(&mut head) {
        Ok(()) if is_qemu(&head) => {
            return Ok(Accepted::Qemu(Box::new((stream, head.to_vec(), None))));
        }
        read => read
            .map_err(Error::from)
            .and_then(|()| session::receive_hello(&stream, head)),
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) => {
            // A command that did not hang up may go on for long: it is not waited for.
            let closed = matches!(error.cause(), Some(TransportError::Closed));
            return Err(match closed.then(|| stream.why_closed()).flatten() {
                Some(why) => why.into(),
                None => error.in_stage("agree"),
            });
        }
    };
    if session::is_probe(&hello) {
        if stream.is_two_way() {
            let answer = session::answer_probe(&hello, &request.caps, silence);
            stream.write(&answer.to_bytes(), &[])?;
        }
        let what = "whoever is at the other end only asked what can be done here";
        return Err(Error::new(Kind::Failed, what).in_stage("agree"));
    }
    let outcome = match hello.connections {
        1 => welcome(&hello, request),
        many => Err(Error::new(
            Kind::Refused,
            format!("this is one of {many} connections, and no other can join"),
        )),
    };
    if stream.is_two_way() {
        tell(&stream, outcome.as_ref().map(|(agreed, _)| agreed), silence)?;
    }
    let (agreed, output) = outcome?;
    let links = Links {
        streams: vec![stream],
        agreed,
    };
    Ok(Accepted::Native(Box::new((links, output))))
}

/// Whether a stream that begins like this is QEMU's, or one of QEMU's further connections.
fn is_qemu(head: &[u8]) -> bool {
    head.starts_with(&qemu::MAGIC) || head.starts_with(&qemu::MULTIFD_MAGIC)
}

/// Answers a hello.
fn tell(
    stream: &Stream,
    outcome: Result<&Agreed, &Error>,
    silence: Duration,
) -> Result<(), TransportError> {
    let told = outcome.cloned().map_err(Error::one_line);
    stream.write(&session::answer(&told, silence).to_bytes(), &[])
}

/// What becomes of a hello: an agreement and an output, or why not.
fn welcome(hello: &Hello, request: &Request) -> Result<(Agreed, Output)> {
    let refused = |why| Error::new(Kind::Refused, why);
    let agreed = session::negotiate(hello, &request.caps).map_err(refused)?;
    let blocks: Vec<(String, u64)> = hello
        .blocks
        .iter()
        .map(|block| (block.name.clone(), block.bytes))
        .collect();
    let (path, force) = (&request.output, request.force);
    let output = match &request.block {
        Some(keep) => Output::only(path, &blocks, keep, force)?,
        None if agreed
            .capabilities
            .contains(session::CAPABILITY_GUEST_FOLDER) =>
        {
            Output::folder(path, &blocks, force)?
        }
        None => Output::image(path, &blocks, force)?,
    };
    Ok((agreed, output))
}

/// What a source says first.
enum First {
    Hello(Hello),
    /// The beginning of QEMU's stream, which the greeting holds.
    Qemu,
}

/// Somebody who has connected and not yet said all of its hello.
struct Greeting {
    stream: Stream,
    from: String,
    deadline: Instant,
    head: Option<HelloHead>,
    bytes: Vec<u8>,
}

impl Greeting {
    fn new(stream: Stream, from: String) -> Greeting {
        Greeting {
            stream,
            from,
            deadline: Instant::now() + HELLO_LIMIT,
            head: None,
            bytes: Vec::new(),
        }
    }

    /// Takes what has come, and no byte beyond the hello.
    fn progress(&mut self) -> Result<Option<First>> {
        loop {
            let wanted = HELLO_HEAD_LEN + self.head.map_or(0, |head| head.rest_len());
            let have = self.bytes.len();
            if have < wanted {
                self.bytes.resize(wanted, 0);
                let read = self.stream.try_read(&mut self.bytes[have..]);
                self.bytes
                    .truncate(have + read.as_ref().map_or(0, |read| read.unwrap_or(0)));
                if read?.is_none() {
                    return Ok(None);
                }
                continue;
            }
            match self.head {
                Some(head) => {
                    let hello = Hello::read(&head, &self.bytes[HELLO_HEAD_LEN..])?;
                    return Ok(Some(First::Hello(hello)));
                }
                None if is_qemu(&self.bytes) => {
                    // A further connection is nothing that can be waited with: without it, what
                    // the main one carries is not the guest.
                    Parser::new().next(&self.bytes)?;
                    return Ok(Some(First::Qemu));
                }
                None => {
                    let mut head = [0; HELLO_HEAD_LEN];
                    head.copy_from_slice(&self.bytes);
                    self.head = Some(HelloHead::of_hello(head)?);
                }
            }
        }
    }
}

/// A session whose connections are coming in.
struct Joining {
    id: [u8; 16],
    streams: Vec<Option<Stream>>,
    deadline: Instant,
    agreed: Agreed,
    output: Output,
}

impl Joining {
    /// Whether the source has gone away meanwhile: it says nothing before all are joined.
    fn is_abandoned(&self) -> bool {
        let mut joined = self.streams.iter().flatten();
        Instant::now() >= self.deadline
            || joined.any(|stream| !matches!(stream.try_read(&mut [0]), Ok(None)))
    }
}

/// Listens until all connections of one session are there. Whoever else connects is dropped, or
/// refused if it is a source.
fn join(
    request: &Request,
    context: &Context,
    listener: Listener,
    dropped: &(dyn Fn(&str) + Sync),
) -> Result<Accepted> {
    let params = context.tuning.get();
    let silence = params.timeout;
    let give_up = params
        .accept_timeout
        .and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
    let mut greetings: VecDeque<Greeting> = VecDeque::new();
    let mut joining: Option<Joining> = None;
    loop {
        if context.abort.is_raised() {
            return Err(Error::interrupted());
        }
        // A few at a time, so that a flood of them leaves room for everything else.
        for _ in 0..MAX_GREETINGS {
            let Some((stream, from)) = listener.try_accept(&context.abort, silence)? else {
                break;
            };
            greetings.push_back(Greeting::new(stream, from));
        }
        if joining.take_if(|joining| joining.is_abandoned()).is_some() {
            dropped("dropped a source that went away before all of its connections joined");
        }
        let mut waiting = VecDeque::new();
        while let Some(mut greeting) = greetings.pop_front() {
            let from = greeting.from.clone();
            match greeting.progress() {
                Ok(None) if Instant::now() < greeting.deadline => waiting.push_back(greeting),
                Ok(None) => dropped(&format!(
                    "dropped a connection from {from}: no hello within {} s",
                    HELLO_LIMIT.as_secs()
                )),
                Ok(Some(First::Qemu)) if joining.is_none() => {
                    context.stats.start();
                    greetings.append(&mut waiting);
                    let others = Others {
                        listener,
                        greetings,
                    };
                    return Ok(Accepted::Qemu(Box::new((
                        greeting.stream,
                        greeting.bytes,
                        Some(others),
                    ))));
                }
                Ok(Some(First::Qemu)) => {
                    dropped(&format!(
                        "dropped a QEMU at {from}: another migration is under way"
                    ));
                }
                // A QEMU that cannot be followed; but nobody ends what another has begun.
                Err(error) if error.kind() == Kind::Refused && joining.is_none() => {
                    return Err(error);
                }
                Ok(Some(First::Hello(hello))) if session::is_probe(&hello) => {
                    let answer = session::answer_probe(&hello, &request.caps, silence);
                    // Whoever does not wait for it does not want it.
                    let _ = greeting.stream.write(&answer.to_bytes(), &[]);
                }
                Ok(Some(First::Hello(hello))) => {
                    if let Err(why) = admit(greeting.stream, &hello, &mut joining, request, context)
                    {
                        dropped(&format!("refused a source at {from}: {}", why.one_line()));
                    }
                }
                Err(error) => dropped(&format!(
                    "dropped a connection from {from}: {}",
                    error.one_line()
                )),
            }
        }
        greetings = waiting;
        while greetings.len() > MAX_GREETINGS {
            // Whoever has been silent for longest.
            if let Some(oldest) = greetings.pop_front() {
                let from = oldest.from;
                dropped(&format!(
                    "dropped a connection from {from}: too many at once"
                ));
            }
        }
        if let Some(joined) = joining.take_if(|joining| joining.streams.iter().all(Option::is_some))
        {
            let links = Links {
                streams: joined.streams.into_iter().flatten().collect(),
                agreed: joined.agreed,
            };
            return Ok(Accepted::Native(Box::new((links, joined.output))));
        }
        if let (Some((limit, deadline)), None) = (give_up, &joining)
            && Instant::now() >= deadline
        {
            return Err(TransportError::AcceptTimeout { limit }.into());
        }
        let next = greetings
            .iter()
            .map(|greeting| greeting.deadline)
            .chain(joining.iter().map(|joining| joining.deadline))
            .chain(give_up.map(|(_, deadline)| deadline))
            .min();
        let streams = greetings.iter().map(|greeting| &greeting.stream).chain(
            joining
                .iter()
                .flat_map(|joining| joining.streams.iter().flatten()),
        );
        let sockets = streams
            .map(Stream::pollable)
            .collect::<Result<Vec<_>, TransportError>>()?;
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let woken = context
            .abort
            .wait_for_any(sockets.into_iter().chain([listener.as_fd()]), left)
            .map_err(TransportError::Link)?;
        if woken == Woken::Aborted {
            return Err(Error::interrupted());
        }
    }
}

/// Lets a source's connection in, or tells it why not.
fn admit(
    stream: Stream,
    hello: &Hello,
    joining: &mut Option<Joining>,
    request: &Request,
    context: &Context,
) -> Result<()> {
    let silence = context.tuning.get().timeout;
    let refused = |why| Error::new(Kind::Refused, why);
    let outcome = match joining {
        Some(session) if session.id != hello.session => {
            Err(refused("another migration is under way".to_owned()))
        }
        Some(session) => session::negotiate(hello, &request.caps)
            .map_err(refused)
            .and_then(|agreed| {
                let connections = session.streams.len();
                match session.streams.get(usize::from(hello.connection)) {
                    Some(None) if usize::from(hello.connections) == connections => Ok(agreed),
                    _ => Err(refused(format!(
                        "connection {} of {} does not belong to a session of {connections}",
                        hello.connection, hello.connections
                    ))),
                }
            }),
        None if hello.connection != 0 => Err(refused(format!(
            "connection {} came first",
            hello.connection
        ))),
        None => {
            context.stats.start();
            welcome(hello, request).map(|(agreed, output)| {
                *joining = Some(Joining {
                    id: hello.session,
                    streams: (0..hello.connections).map(|_| None).collect(),
                    deadline: Instant::now() + HELLO_LIMIT,
                    agreed: agreed.clone(),
                    output,
                });
                agreed
            })
        }
    };
    let told = tell(&stream, outcome.as_ref(), silence);
    outcome?;
    if let (Ok(()), Some(session)) = (told, joining) {
        session.streams[usize::from(hello.connection)] = Some(stream);
        session.deadline = Instant::now() + HELLO_LIMIT;
    }
    Ok(())
}
