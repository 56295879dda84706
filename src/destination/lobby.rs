//! Where connections wait until all of one source's are there.
//!
//! Anything may connect to a listening destination, and then send nothing, or nonsense. A connection
//! becomes a source's when its hello is complete; until then it costs a socket and some bytes, for at
//! most [`HELLO_LIMIT`], and there are at most [`MAX_ARRIVALS`] of them. Each one that is dropped or
//! refused is reported, and the destination goes on listening.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::image::Output;
use crate::session::{self, Agreed, Context};
use crate::transport::listen::Listener;
use crate::transport::{Stream, TransportError, Woken};
use crate::wire::Format;
use crate::wire::native::{HELLO_HEAD_LEN, Hello, HelloHead};
use crate::wire::qemu::{Parser, StreamError, Unsupported};

use super::greet::{answer, is_qemu, welcome};
use super::links::{Links, is_closed};
use super::request::Request;

/// How long a connection may take to say hello: a source does so at once.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How many connections may be about to say hello at once.
const MAX_ARRIVALS: usize = 64;

/// A source, by the wire that it speaks.
pub(super) enum Source {
    Native(Box<NativeSource>),
    Qemu(Box<QemuSource>),
}

impl Source {
    pub(super) fn format(&self) -> Format {
        match self {
            Source::Native(_) => Format::Native,
            Source::Qemu(_) => Format::Qemu,
        }
    }
}

/// All connections of a session on the native wire, and the output that its guest needs.
pub(super) struct NativeSource {
    pub(super) links: Links,
    pub(super) agreed: Agreed,
    pub(super) output: Output,
}

/// A QEMU's connection.
pub(super) struct QemuSource {
    pub(super) links: Links,
    /// The bytes that have been read from it.
    pub(super) head: Vec<u8>,
    /// Other connections, and the listener that more can come to.
    pub(super) others: Option<Lobby>,
}

/// A listener, and the connections to it that are not a source yet.
pub(super) struct Lobby {
    listener: Listener,
    /// How long the peer of a connection may be silent.
    silence: Duration,
    /// How long to wait for a source, and until when.
    give_up: Option<(Duration, Instant)>,
    /// Connections whose hello is not complete, oldest first.
    arrivals: VecDeque<Arrival>,
    /// The source whose connections are coming in.
    joining: Option<Joining>,
}

/// The migration that a source is waited for.
#[derive(Clone, Copy)]
struct Host<'a> {
    request: &'a Request,
    context: &'a Context,
    dropped: &'a (dyn Fn(&str) + Sync),
}

impl Lobby {
    pub(super) fn new(listener: Listener, context: &Context) -> Lobby {
        let params = context.tuning.get();
        let give_up = params
            .accept_timeout
            .and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
        Lobby {
            listener,
            silence: params.timeout,
            give_up,
            arrivals: VecDeque::new(),
            joining: None,
        }
    }

    /// Listens until all connections of one source are there. Every other connection is dropped, or
    /// refused if it is a source; `dropped` is called with a line for each.
    pub(super) fn wait(
        mut self,
        request: &Request,
        context: &Context,
        dropped: &(dyn Fn(&str) + Sync),
    ) -> Result<Source> {
        let host = Host {
            request,
            context,
            dropped,
        };
        loop {
            if context.abort.is_raised() {
                return Err(Error::interrupted());
            }
            self.accept_some(context)?;
            if self
                .joining
                .take_if(|joining| joining.is_abandoned())
                .is_some()
            {
                dropped("dropped a source that went away before all of its connections joined");
            }
            if let Some(qemu) = self.greet(host)? {
                let links = Links {
                    streams: vec![qemu.stream],
                };
                return Ok(Source::Qemu(Box::new(QemuSource {
                    links,
                    head: qemu.bytes,
                    others: Some(self),
                })));
            }
            self.drop_excess(dropped);
            if let Some(joined) = self.joining.take_if(|joining| joining.is_complete()) {
                return Ok(Source::Native(Box::new(joined.into_source())));
            }
            self.check_time()?;
            self.sleep(context)?;
        }
    }

    /// Takes in connections: a few at a time, so that a flood of them leaves room for everything else.
    fn accept_some(&mut self, context: &Context) -> Result<()> {
        for _ in 0..MAX_ARRIVALS {
            let accepted = self.listener.try_accept(&context.abort, self.silence)?;
            let Some((stream, from)) = accepted else {
                break;
            };
            self.arrivals.push_back(Arrival::new(stream, from));
        }
        Ok(())
    }

    /// Reads what the connections have sent. Returns a QEMU, if there is one.
    fn greet(&mut self, host: Host<'_>) -> Result<Option<Arrival>> {
        // Each is taken out once. Those that need more time go back to the end.
        for _ in 0..self.arrivals.len() {
            let Some(mut arrival) = self.arrivals.pop_front() else {
                break;
            };
            let said = arrival.progress();
            let from = &arrival.from;
            match said {
                Ok(None) if Instant::now() < arrival.deadline => {
                    self.arrivals.push_back(arrival);
                }
                Ok(None) => (host.dropped)(&format!(
                    "dropped a connection from {from}: no hello within {} s",
                    HELLO_LIMIT.as_secs()
                )),
                Ok(Some(First::Qemu)) if self.joining.is_none() => {
                    host.context.stats.start();
                    return Ok(Some(arrival));
                }
                Ok(Some(First::Qemu)) => (host.dropped)(&format!(
                    "dropped a QEMU at {from}: another migration is under way"
                )),
                // A QEMU that we do not support. But no connection may end what another has begun.
                Err(error) if error.kind() == Kind::Refused && self.joining.is_none() => {
                    return Err(error);
                }
                Ok(Some(First::Hello(hello))) if session::is_probe(&hello) => {
                    let answer = session::answer_probe(&hello, &host.context.caps, self.silence);
                    // If it does not wait for the answer, it does not want it.
                    let _ = arrival.stream.write(&answer.to_bytes(), &[]);
                }
                Ok(Some(First::Hello(hello))) => {
                    let from = arrival.from;
                    if let Err(why) = self.admit(arrival.stream, &hello, host) {
                        let why = why.one_line();
                        (host.dropped)(&format!(
                            "refused a source at {from}: {why}; still listening"
                        ));
                    }
                }
                Err(error) if is_closed(&error) => (host.dropped)(&format!(
                    "dropped a connection from {from}: it was closed before its hello"
                )),
                Err(error) => (host.dropped)(&format!(
                    "dropped a connection from {from}: {}",
                    error.one_line()
                )),
            }
        }
        Ok(None)
    }

    /// Lets a source's connection in, or answers with the reason why not.
    fn admit(&mut self, stream: Stream, hello: &Hello, host: Host<'_>) -> Result<()> {
        let outcome = self.examine(hello, host);
        let answered = answer(&stream, outcome.as_ref(), self.silence);
        outcome?;
        if let (Ok(()), Some(joining)) = (answered, &mut self.joining) {
            joining.streams[usize::from(hello.connection)] = Some(stream);
            joining.deadline = Instant::now() + HELLO_LIMIT;
        }
        Ok(())
    }

    /// Whether this hello's connection may come in. The first of a session begins it.
    fn examine(&mut self, hello: &Hello, host: Host<'_>) -> Result<Agreed> {
        let refused = |why: String| Error::new(Kind::Refused, why);
        let Some(joining) = &self.joining else {
            if hello.connection != 0 {
                let what = format!("connection {} came first", hello.connection);
                return Err(refused(what));
            }
            host.context.stats.start();
            let (agreed, output) = welcome(hello, host.request, &host.context.caps)?;
            self.joining = Some(Joining {
                id: hello.session,
                streams: (0..hello.connections).map(|_| None).collect(),
                deadline: Instant::now() + HELLO_LIMIT,
                agreed: agreed.clone(),
                output,
            });
            return Ok(agreed);
        };
        if joining.id != hello.session {
            return Err(refused("another migration is under way".to_owned()));
        }
        let agreed = session::negotiate(hello, &host.context.caps).map_err(refused)?;
        let connections = joining.streams.len();
        match joining.streams.get(usize::from(hello.connection)) {
            Some(None) if usize::from(hello.connections) == connections => Ok(agreed),
            _ => Err(refused(format!(
                "connection {} of {} does not belong to a session of {connections}",
                hello.connection, hello.connections
            ))),
        }
    }

    /// Drops the connections that have been silent for longest, if there are too many.
    fn drop_excess(&mut self, dropped: &dyn Fn(&str)) {
        while self.arrivals.len() > MAX_ARRIVALS {
            if let Some(Arrival { from, .. }) = self.arrivals.pop_front() {
                dropped(&format!(
                    "dropped a connection from {from}: too many at once"
                ));
            }
        }
    }

    fn check_time(&self) -> Result<(), TransportError> {
        match self.give_up {
            Some((limit, deadline)) if self.joining.is_none() && Instant::now() >= deadline => {
                Err(TransportError::AcceptTimeout { limit })
            }
            _ => Ok(()),
        }
    }

    /// Waits until a connection can be read or accepted, or the time is up for one of them.
    fn sleep(&self, context: &Context) -> Result<()> {
        let arrivals = self.arrivals.iter();
        let joining = self.joining.iter();
        let next = arrivals
            .clone()
            .map(|arrival| arrival.deadline)
            .chain(joining.clone().map(|joining| joining.deadline))
            .chain(self.give_up.map(|(_, deadline)| deadline))
            .min();
        let joined = joining.flat_map(|joining| joining.streams.iter().flatten());
        let sockets = arrivals
            .map(|arrival| &arrival.stream)
            .chain(joined)
            .map(Stream::pollable)
            .collect::<Result<Vec<_>, TransportError>>()?;
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let woken = context
            .abort
            .wait_for_any(sockets.into_iter().chain([self.listener.as_fd()]), left)
            .map_err(TransportError::Link)?;
        if woken == Woken::Aborted {
            return Err(Error::interrupted());
        }
        Ok(())
    }

    /// Refuses a QEMU whose pages go over other connections: when its list of blocks arrives, all
    /// of them have connected and said what they are. Any other connection is dropped.
    pub(super) fn refuse_multifd(mut self, context: &Context) -> Result<()> {
        while self.arrivals.len() < MAX_ARRIVALS
            && let Some((stream, from)) = self.listener.try_accept(&context.abort, self.silence)?
        {
            self.arrivals.push_back(Arrival::new(stream, from));
        }
        let is_channel = |error: &Error| {
            let what = error.cause::<StreamError>().map(|error| &error.what);
            what == Some(&Unsupported::MultifdConnection.into())
        };
        for mut arrival in self.arrivals {
            if let Err(error) = arrival.progress()
                && is_channel(&error)
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The first message of a connection.
enum First {
    Hello(Hello),
    /// The beginning of QEMU's stream, which the arrival holds.
    Qemu,
}

/// A connection whose hello is not complete.
struct Arrival {
    stream: Stream,
    from: String,
    deadline: Instant,
    head: Option<HelloHead>,
    bytes: Vec<u8>,
}

impl Arrival {
    fn new(stream: Stream, from: String) -> Arrival {
        Arrival {
            stream,
            from,
            deadline: Instant::now() + HELLO_LIMIT,
            head: None,
            bytes: Vec::new(),
        }
    }

    /// Reads what has arrived, and no byte beyond the hello.
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
                None if is_qemu(&self.bytes)? => {
                    // One of QEMU's further connections is refused here: without it, what the main
                    // one carries is not the guest.
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

/// A source of the native wire whose connections are coming in.
struct Joining {
    id: [u8; 16],
    streams: Vec<Option<Stream>>,
    deadline: Instant,
    agreed: Agreed,
    output: Output,
}

impl Joining {
    fn is_complete(&self) -> bool {
        self.streams.iter().all(Option::is_some)
    }

    /// Whether the source has gone away meanwhile. It sends nothing before all have joined, so any
    /// byte is as bad as the end.
    fn is_abandoned(&self) -> bool {
        let mut joined = self.streams.iter().flatten();
        Instant::now() >= self.deadline
            || joined.any(|stream| !matches!(stream.try_read(&mut [0]), Ok(None)))
    }

    fn into_source(self) -> NativeSource {
        NativeSource {
            links: Links {
                streams: self.streams.into_iter().flatten().collect(),
            },
            agreed: self.agreed,
            output: self.output,
        }
    }
}
