//! A client of a monitor that speaks QMP: ramferry's own, or a QEMU's.
//!
//! It blocks, and everything in it is bounded: the time for an answer, the length of a message and
//! the number of its values, and the number of events that are kept until they are taken.
//! The format is QEMU's: one JSON object per line, a greeting, `qmp_capabilities`, then commands that
//! are answered by their ids, with events in between.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{Error, Kind};
use crate::text::printable;
use crate::transport::{Address, each_address};
use crate::units::format_duration;

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

/// Why a command got no answer, or the error that it got. Each is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection failed.
    #[error("cannot connect to the monitor at {address}")]
    Connect {
        /// The monitor's address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Monitors have no such address.
    #[error("invalid monitor address {address}: allowed are a path, unix:PATH and tcp:HOST:PORT")]
    Address {
        /// The address that was given.
        address: String,
    },
    /// No answer within the time limit.
    #[error(
        "the monitor at {address} gave no {awaited} within {}{hint}", format_duration(*.limit)
    )]
    Silent {
        /// The monitor's address.
        address: String,
        /// What was awaited from it.
        awaited: String,
        /// The time limit.
        limit: Duration,
        /// A possible reason, which follows the sentence.
        hint: &'static str,
    },
    /// It closed the connection.
    #[error("the monitor at {address} hung up before its {awaited}")]
    HungUp {
        /// The monitor's address.
        address: String,
        /// What was awaited from it.
        awaited: String,
    },
    /// The connection broke.
    #[error("the connection to the monitor at {address} broke")]
    Broken {
        /// The monitor's address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// What it sent is not QMP.
    #[error("{address} does not speak QMP: {why}")]
    NotQmp {
        /// The monitor's address.
        address: String,
        /// What is wrong with its message.
        why: String,
    },
    /// It answered with an error, in its own words.
    #[error("{desc}")]
    Declined {
        /// QMP's class, such as `GenericError`.
        class: String,
        /// The error message.
        desc: String,
    },
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        let kind = match error {
            ClientError::Address { .. } => Kind::Usage,
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}

/// What a monitor says of itself when a client connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Major, minor and micro of the QEMU version; 0 where it is missing.
    pub version: [u64; 3],
    /// What the greeting calls the package; often empty.
    pub package: String,
    /// Whether commands out of band are offered.
    pub oob: bool,
}

impl Greeting {
    /// Whether it is a ramferry rather than a QEMU.
    pub fn is_ramferry(&self) -> bool {
        self.package.contains("ramferry")
    }

    /// Its name and version, for messages: `QEMU 7.2.22`.
    pub fn product(&self) -> String {
        if self.is_ramferry() {
            self.package.clone()
        } else {
            let [major, minor, micro] = self.version;
            format!("QEMU {major}.{minor}.{micro}")
        }
    }

    fn read(message: &Map<String, Value>) -> Option<Greeting> {
        let qmp = message.get("QMP")?.as_object()?;
        let version = qmp.get("version").unwrap_or(&Value::Null);
        let number = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
        let package = version["package"].as_str().unwrap_or_default();
        let offered = qmp.get("capabilities").and_then(Value::as_array);
        Some(Greeting {
            version: [number("major"), number("minor"), number("micro")],
            package: short(package, MOST_QUOTED),
            oob: offered.is_some_and(|list| list.iter().any(|name| name == "oob")),
        })
    }
}

/// A message that a monitor sent without a request.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitorEvent {
    /// Its name, such as `MIGRATION`.
    pub name: String,
    /// Its data; null if it has none.
    pub data: Value,
    /// Since the epoch, by the monitor's clock.
    pub time: Option<Duration>,
}

impl MonitorEvent {
    /// The status in a `MIGRATION` event.
    pub fn migration_status(&self) -> Option<&str> {
        (self.name == "MIGRATION")
            .then(|| self.data["status"].as_str())
            .flatten()
    }

    fn read(message: &mut Map<String, Value>) -> Option<MonitorEvent> {
        let name = message.get("event")?.as_str()?.to_owned();
        let stamp = message.get("timestamp").unwrap_or(&Value::Null);
        let time = stamp["seconds"].as_u64().map(|seconds| {
            let micros = stamp["microseconds"].as_u64().unwrap_or(0).min(999_999);
            Duration::from_secs(seconds) + Duration::from_micros(micros)
        });
        let data = message.remove("data").unwrap_or_default();
        Some(MonitorEvent { name, data, time })
    }
}

/// A connection to a monitor, greeted and ready for commands.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    address: String,
    limit: Duration,
    greeting: Greeting,
    /// Input after the last complete message.
    buffer: Vec<u8>,
    /// How much of it is known to hold no line end.
    searched: usize,
    commands: u64,
    /// Each with its length in bytes.
    events: VecDeque<(MonitorEvent, usize)>,
    event_bytes: usize,
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
        let mut client = Client {
            socket: Socket::from(socket.into()),
            address: address.into(),
            limit,
            greeting: Greeting {
                version: [0; 3],
                package: String::new(),
                oob: false,
            },
            buffer: Vec::new(),
            searched: 0,
            commands: 0,
            events: VecDeque::new(),
            event_bytes: 0,
        };
        let Some((message, _)) = client.message("greeting", Instant::now() + limit)? else {
            // A QEMU's socket serves one client; others are accepted by the kernel, and wait.
            let hint = ": is another client connected to it?";
            return Err(client.silent("greeting", hint));
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

    /// The monitor's greeting.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Executes a command, and returns its result. Events meanwhile are kept.
    /// `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// [`ClientError::Declined`] with the monitor's words, after which the client can be used again; and
    /// those of the connection, after which it cannot: a late answer would be taken for the next one's.
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
        let id = request
            .entry("id")
            .or_insert_with(|| format!("ramferry-{}", self.commands).into())
            .clone();
        let command = ["execute", "exec-oob"]
            .iter()
            .find_map(|key| request.get(*key)?.as_str());
        let awaited = match command {
            Some(command) => format!("answer to {}", short(command, MOST_QUOTED)),
            None => "answer".to_owned(),
        };
        let deadline = Instant::now() + self.limit;
        self.send(&Value::Object(request), &awaited, deadline)?;
        loop {
            let Some((mut message, bytes)) = self.message(&awaited, deadline)? else {
                return Err(self.silent(&awaited, ""));
            };
            if let Some(event) = MonitorEvent::read(&mut message) {
                self.keep(event, bytes);
                continue;
            }
            let error = message.get("error");
            match message.get("id") {
                Some(found) if *found == id => {}
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
            return match message.remove("return") {
                Some(value) => Ok(value),
                None => Err(self.not_qmp("its answer has neither return nor error")),
            };
        }
    }

    /// The oldest event that was kept, if there is one; this does not wait.
    pub fn take_event(&mut self) -> Option<MonitorEvent> {
        let (event, bytes) = self.events.pop_front()?;
        self.event_bytes -= bytes;
        Some(event)
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
        }
    }

    fn send(
        &mut self,
        request: &Value,
        awaited: &str,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let line = format!("{request}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let Some(time) = left(deadline) else {
                return Err(self.silent(awaited, ": it does not read"));
            };
            let sent = self
                .socket
                .set_write_timeout(Some(time))
                .and_then(|()| (&self.socket).write(rest));
            match sent {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
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

/// Text from a monitor for a message: one line of at most `most` characters.
fn short(text: &str, most: usize) -> String {
    let mut line: String = printable(text).chars().take(most + 1).collect();
    if line.chars().count() > most {
        line.pop();
        line.push_str("...");
    }
    line
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
