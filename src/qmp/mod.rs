//! A client of a monitor that speaks QMP: ramferry's own, or a QEMU's.
//!
//! It blocks, and everything in it is bounded: the time for an answer, the length of a message and
//! the number of its values, and the number of events that are kept until they are taken.
//! The format is QEMU's: one JSON object per line, a greeting, `qmp_capabilities`, then commands that
//! are answered by their ids, with events in between.

mod error;
mod message;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde_json::{Map, Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::text::Quoted;
use crate::transport::{Abort, Address, Woken, each_address};

use message::short;

pub use error::ClientError;
pub use message::{Greeting, MonitorEvent};

/// The longest message that is taken; the longest of QEMU's (its schema) has less than 1 MiB.
const MOST_BYTES: usize = 16 << 20;
/// The most values in a message, as each takes far more memory than its text.
const MOST_VALUES: usize = 1 << 20;
/// At most this many events, and this many bytes of them, are kept; the oldest are dropped.
const MOST_EVENTS: usize = 1024;
const MOST_EVENT_BYTES: usize = 1 << 20;
/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// How much of a message is quoted when it is refused.
const MOST_QUOTED: usize = 80;
/// How much of the reason is kept with which a command is declined.
const MOST_WORDS: usize = 2000;
/// Why a monitor may be silent from the start: a QEMU's socket serves one client, and others are accepted
/// by the kernel, and wait.
const OTHER_CLIENT: &str = ": is another client connected to it, or is its process stopped?";
/// Ends whatever a parser is in the middle of: QEMU's resets itself at a byte that is not UTF-8, and
/// any parser of lines at the line end.
const RESET: &[u8] = b"\xff\n";

/// Reads a monitor's address. A path needs no scheme.
///
/// # Errors
/// One line, for an address of another kind.
pub fn address(text: &str) -> Result<Address, String> {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    let address = match scheme {
        Some("tcp" | "unix") => text.parse(),
        Some("file" | "fd" | "exec") => {
            return Err(format!(
                "invalid monitor address {}: allowed are a path, unix:PATH and tcp:HOST:PORT",
                Quoted(text)
            ));
        }
        _ => format!("unix:{text}").parse::<Address>(),
    };
    address.map_err(|error| {
        error
            .allowing("a path, unix:PATH and tcp:HOST:PORT")
            .to_string()
    })
}

/// Reads the address of a QEMU's monitor as [`address`] does, and returns the path of its socket.
///
/// # Errors
/// One line, for an address of another kind.
pub(crate) fn socket_path(text: &str) -> Result<PathBuf, String> {
    match address(text)? {
        Address::Unix(path) => Ok(path),
        _ => Err(format!(
            "invalid QMP socket {}: allowed are a path and unix:PATH: only for a Unix socket can the \
             system tell which process is listening",
            Quoted(text)
        )),
    }
}

/// A connection to a monitor, greeted and ready for commands.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    address: String,
    limit: Duration,
    /// Ends the wait for an answer.
    abort: Option<Arc<Abort>>,
    greeting: Greeting,
    /// The rest of requests that were given up before they were written; it goes out first.
    unsent: Vec<u8>,
    /// The ids of commands whose answers may still come, and are passed over.
    given_up: Vec<Value>,
    /// Until the first answer, anything may come: see [`Client::take_over`].
    resyncs: bool,
    /// Input after the last complete message.
    buffer: Vec<u8>,
    /// How much of it is known to hold no line end.
    searched: usize,
    commands: u64,
    /// Each with its length in bytes.
    events: VecDeque<(MonitorEvent, usize)>,
    event_bytes: usize,
    dropped_events: u64,
}

/// A message, and how many bytes it had.
type Message = (Map<String, Value>, usize);

impl Client {
    /// Connects to a monitor and negotiates; `limit` is how long connecting, and every single
    /// answer afterwards, may take.
    ///
    /// # Errors
    /// All but [`ClientError::Declined`] by a monitor that keeps to the protocol.
    pub fn connect(address: &Address, limit: Duration) -> Result<Client, ClientError> {
        let deadline = Instant::now() + limit;
        let socket = match address {
            Address::Unix(path) => {
                SockAddr::unix(path).and_then(|to| connect_socket(Domain::UNIX, &to, deadline))
            }
            Address::Tcp { host, port } => each_address(host, *port, |to| {
                connect_socket(Domain::for_address(to), &to.into(), deadline)
            }),
            _ => {
                return Err(ClientError::Address {
                    address: address.to_string(),
                });
            }
        };
        let address = address.to_string();
        match socket {
            Ok(socket) => Client::over(socket, address, limit),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ClientError::Silent {
                address,
                awaited: "connection".to_owned(),
                limit,
                hint: OTHER_CLIENT,
            }),
            Err(source) => Err(ClientError::Connect { address, source }),
        }
    }

    /// As [`Client::connect`], over a stream socket that is connected; `address` is for messages.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn over(
        socket: impl Into<OwnedFd>,
        address: impl Into<String>,
        limit: Duration,
    ) -> Result<Client, ClientError> {
        let mut client = Client::new(socket.into(), address.into(), limit);
        let Some((message, _)) = client.message("greeting", Instant::now() + limit)? else {
            return Err(client.silent("greeting", OTHER_CLIENT));
        };
        client.greeting = Greeting::read(&message)
            .ok_or_else(|| client.not_qmp("its first message is not a greeting"))?;
        let enable = match client.greeting.oob {
            true => json!({"enable": ["oob"]}),
            false => Value::Null,
        };
        client.execute("qmp_capabilities", &enable)?;
        Ok(client)
    }

    /// Takes over a connection from a client that has ended in another process, wherever that was: in
    /// the middle of a request, or of an answer. What was meant for it is passed over.
    pub(crate) fn take_over(socket: OwnedFd, address: &str, limit: Duration) -> Client {
        let mut client = Client::new(socket, address.to_owned(), limit);
        client.unsent.extend_from_slice(RESET);
        client.resyncs = true;
        client
    }

    fn new(socket: OwnedFd, address: String, limit: Duration) -> Client {
        Client {
            socket: Socket::from(socket),
            address,
            limit,
            abort: None,
            greeting: Greeting {
                version: [0; 3],
                package: String::new(),
                oob: false,
            },
            unsent: Vec::new(),
            given_up: Vec::new(),
            resyncs: false,
            buffer: Vec::new(),
            searched: 0,
            commands: 0,
            events: VecDeque::new(),
            event_bytes: 0,
            dropped_events: 0,
        }
    }

    /// From now on a single answer may take this long, and `abort` ends the wait for it.
    pub(crate) fn wait_for(&mut self, limit: Duration, abort: Option<Arc<Abort>>) {
        self.limit = limit;
        self.abort = abort;
    }

    /// The monitor's greeting.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Executes a command, and returns its result. Events meanwhile are kept.
    /// `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// [`ClientError::Declined`] with the monitor's words; [`ClientError::Silent`] and
    /// [`ClientError::Interrupted`], after which a late answer is passed over; and those of the
    /// connection, after which the client cannot be used again.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, ClientError> {
        let mut request = Map::new();
        request.insert("execute".to_owned(), command.into());
        if arguments
            .as_object()
            .is_some_and(|object| !object.is_empty())
        {
            request.insert("arguments".to_owned(), arguments.clone());
        }
        self.execute_object(request)
    }

    /// As [`Client::execute`], with the whole request as it goes out; without an `id` it gets one.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn execute_object(
        &mut self,
        mut request: Map<String, Value>,
    ) -> Result<Value, ClientError> {
        self.commands += 1;
        let own = match self.resyncs {
            true => "ramferry-guard",
            false => "ramferry",
        };
        let id = request
            .entry("id")
            .or_insert_with(|| format!("{own}-{}", self.commands).into())
            .clone();
        let command = ["execute", "exec-oob"]
            .iter()
            .find_map(|key| request.get(*key)?.as_str());
        let awaited = match command {
            Some(command) => format!("answer to {}", short(command, MOST_QUOTED)),
            None => "answer".to_owned(),
        };
        let outcome = self.exchange(&Value::Object(request), &id, &awaited);
        if let Err(ClientError::Silent { .. } | ClientError::Interrupted) = outcome {
            self.given_up.push(id);
        }
        outcome
    }

    /// Sends a request, and waits for its answer.
    fn exchange(
        &mut self,
        request: &Value,
        id: &Value,
        awaited: &str,
    ) -> Result<Value, ClientError> {
        let deadline = Instant::now() + self.limit;
        self.unsent
            .extend_from_slice(request.to_string().as_bytes());
        self.unsent.push(b'\n');
        self.send(awaited, deadline)?;
        loop {
            let (mut message, bytes) = match self.message(awaited, deadline) {
                Ok(Some(message)) => message,
                Ok(None) => return Err(self.silent(awaited, "")),
                Err(ClientError::NotQmp { .. })
                    if self.resyncs && self.buffer.len() < MOST_BYTES =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(event) = MonitorEvent::read(&mut message) {
                self.keep(event, bytes);
                continue;
            }
            if self.is_late(&message) || self.resyncs && message.get("id") != Some(id) {
                continue;
            }
            self.resyncs = false;
            return self.outcome(message, id);
        }
    }

    /// Whether a message is the answer to a command that was given up.
    fn is_late(&mut self, message: &Map<String, Value>) -> bool {
        let found = message.get("id");
        let late = self.given_up.iter().position(|id| Some(id) == found);
        late.map(|at| self.given_up.swap_remove(at)).is_some()
    }

    /// What an answer says.
    fn outcome(&self, mut message: Map<String, Value>, id: &Value) -> Result<Value, ClientError> {
        let error = message.get("error");
        match message.get("id") {
            Some(found) if found == id => {}
            // What cannot be read at all is declined without an id.
            None if error.is_some() => {}
            found => {
                let found = found.map_or("none".to_owned(), Value::to_string);
                let why = format!(
                    "it answers with id {} where {id} was asked",
                    short(&found, MOST_QUOTED)
                );
                return Err(self.not_qmp(&why));
            }
        }
        if let Some(error) = error {
            let text = |name: &str| error[name].as_str().unwrap_or("no words");
            return Err(ClientError::Declined {
                class: short(text("class"), MOST_QUOTED),
                desc: short(text("desc"), MOST_WORDS),
            });
        }
        message
            .remove("return")
            .ok_or_else(|| self.not_qmp("its answer has neither return nor error"))
    }

    /// The oldest event that was kept, if there is one; this does not wait.
    pub fn take_event(&mut self) -> Option<MonitorEvent> {
        let (event, bytes) = self.events.pop_front()?;
        self.event_bytes -= bytes;
        Some(event)
    }

    /// How many events were dropped so far, because none took them in time.
    pub(crate) fn dropped_events(&self) -> u64 {
        self.dropped_events
    }

    /// Waits for an event until `deadline`, unless one was kept; `None` if there is none by then.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn wait_event(&mut self, deadline: Instant) -> Result<Option<MonitorEvent>, ClientError> {
        if let Some(event) = self.take_event() {
            return Ok(Some(event));
        }
        match self.message("next event", deadline)? {
            None => Ok(None),
            Some((mut message, _)) => match MonitorEvent::read(&mut message) {
                None => Err(self.not_qmp("it sent an answer without a request")),
                event => Ok(event),
            },
        }
    }

    fn keep(&mut self, event: MonitorEvent, bytes: usize) {
        self.event_bytes += bytes;
        self.events.push_back((event, bytes));
        while self.events.len() > MOST_EVENTS || self.event_bytes > MOST_EVENT_BYTES {
            if self.take_event().is_none() {
                break;
            }
            self.dropped_events += 1;
        }
    }

    /// Writes all that is to be written.
    fn send(&mut self, awaited: &str, deadline: Instant) -> Result<(), ClientError> {
        while !self.unsent.is_empty() {
            let Some(time) = left(deadline) else {
                return Err(self.silent(awaited, ": it does not read"));
            };
            if !self.is_ready(PollFlags::OUT, time)? {
                continue;
            }
            let sent = self
                .socket
                .set_write_timeout(Some(time))
                .and_then(|()| (&self.socket).write(&self.unsent));
            match sent {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if again(&error) => {}
                // It may have said why before it closed the connection.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(source) => return Err(self.broken(source)),
            }
        }
        Ok(())
    }

    /// The next message; `None` if there is none until `deadline`. What came of it so far is kept.
    fn message(
        &mut self,
        awaited: &str,
        deadline: Instant,
    ) -> Result<Option<Message>, ClientError> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at + 1;
                let line: Vec<u8> = self.buffer.drain(..end).collect();
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.parse(&line).map(Some);
            }
            self.searched = self.buffer.len();
            if self.searched > MOST_BYTES {
                let why = format!("a message of more than {} MiB", MOST_BYTES >> 20);
                return Err(self.not_qmp(&why));
            }
            let Some(time) = left(deadline) else {
                return Ok(None);
            };
            if !self.is_ready(PollFlags::IN, time)? {
                continue;
            }
            let mut chunk = [0; CHUNK];
            let read = self
                .socket
                .set_read_timeout(Some(time))
                .and_then(|()| (&self.socket).read(&mut chunk));
            match read {
                Ok(0) => return Err(self.hung_up(awaited)),
                Ok(count) => {
                    let new = chunk.get(..count).unwrap_or_default();
                    self.buffer.extend_from_slice(new);
                }
                Err(error) if again(&error) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(self.hung_up(awaited));
                }
                Err(source) => return Err(self.broken(source)),
            }
        }
    }

    /// Waits until the socket is ready; `false`: the time is up. If nothing can abort it, reading and
    /// writing wait themselves.
    fn is_ready(&self, events: PollFlags, time: Duration) -> Result<bool, ClientError> {
        let Some(abort) = &self.abort else {
            return Ok(true);
        };
        match abort.wait_for(self.socket.as_fd(), events, Some(time)) {
            Ok(Woken::Aborted) => Err(ClientError::Interrupted),
            Ok(Woken::Ready) => Ok(true),
            Ok(Woken::TimedOut) => Ok(false),
            Err(source) => Err(self.broken(source)),
        }
    }

    fn parse(&self, line: &[u8]) -> Result<Message, ClientError> {
        let starts_value = |byte: &&u8| matches!(byte, b',' | b'[' | b'{');
        if line.iter().filter(starts_value).count() > MOST_VALUES {
            return Err(self.not_qmp("a message of more than a million values"));
        }
        match serde_json::from_slice(line) {
            Ok(Value::Object(message)) => Ok((message, line.len())),
            _ => {
                let text = String::from_utf8_lossy(line.get(..MOST_QUOTED).unwrap_or(line));
                let why = format!("{:?} is not a JSON object", text.trim_end());
                Err(self.not_qmp(&why))
            }
        }
    }

    fn silent(&self, awaited: &str, hint: &'static str) -> ClientError {
        ClientError::Silent {
            address: self.address.clone(),
            awaited: awaited.to_owned(),
            limit: self.limit,
            hint,
        }
    }

    fn hung_up(&self, awaited: &str) -> ClientError {
        ClientError::HungUp {
            address: self.address.clone(),
            awaited: awaited.to_owned(),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Broken {
            address: self.address.clone(),
            source,
        }
    }

    fn not_qmp(&self, why: &str) -> ClientError {
        ClientError::NotQmp {
            address: self.address.clone(),
            why: why.to_owned(),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether an attempt that failed so is to be repeated, or was ended by its time limit.
fn again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
    )
}

/// The time until `deadline`; `None` if that has passed. Sockets take no limit of zero.
fn left(deadline: Instant) -> Option<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|time| !time.is_zero())
        .map(|time| time.max(Duration::from_micros(1)))
}

fn connect_socket(domain: Domain, to: &SockAddr, deadline: Instant) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    let time = left(deadline).ok_or(ErrorKind::TimedOut)?;
    if domain == Domain::UNIX {
        // While the listener's queue is full, connecting blocks for as long as a write may take.
        socket.set_write_timeout(Some(time))?;
        socket.connect(to)?;
    } else {
        socket.connect_timeout(to, time)?;
        // Requests are small, and each waits for its answer.
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
