//! A client of a monitor that speaks QMP, ramferry's or a QEMU's.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

/// A connection to a monitor.
pub(crate) struct Qmp {
    pub(crate) stream: BufReader<UnixStream>,
    commands: u64,
    /// Those that came while something else was waited for.
    pub(crate) events: VecDeque<Event>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    /// `null` if it has none.
    pub(crate) data: Value,
}

impl Qmp {
    /// A client that may send commands.
    pub(crate) fn connect(path: &Path) -> Qmp {
        let mut qmp = Qmp::over(UnixStream::connect(path).unwrap());
        assert!(qmp.message().expect("a greeting").get("QMP").is_some());
        qmp.done("qmp_capabilities", json!({}));
        qmp
    }

    /// A client that has not read the greeting yet.
    pub(crate) fn over(stream: UnixStream) -> Qmp {
        Qmp {
            stream: BufReader::new(stream),
            commands: 0,
            events: VecDeque::new(),
        }
    }

    /// The next message; `None` when the monitor has hung up.
    pub(crate) fn message(&mut self) -> Option<Value> {
        let mut line = String::new();
        // A monitor that ends with something unread resets the connection.
        let read = self.stream.read_line(&mut line).unwrap_or(0);
        let parse = || serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        (read > 0).then(parse)
    }

    /// A command as it is sent, with an id of its own.
    pub(crate) fn request(&mut self, command: &str, arguments: Value) -> String {
        self.commands += 1;
        let mut request = json!({"execute": command, "id": self.commands});
        request["arguments"] = arguments;
        format!("{request}\n")
    }

    /// What the last request returns, or why it was declined; `None` when the monitor has hung up.
    pub(crate) fn answer(&mut self) -> Option<Result<Value, String>> {
        loop {
            let mut message = self.message()?;
            if message["id"] != self.commands {
                self.collect(message);
            } else if let Some(error) = message.get("error") {
                return Some(Err(error["desc"].as_str().expect("words").to_owned()));
            } else {
                return Some(Ok(message["return"].take()));
            }
        }
    }

    /// Sends a command. The answer is that of [`Qmp::answer`].
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Option<Result<Value, String>> {
        let request = self.request(command, arguments);
        // In one piece: a program that ends leaves the rest of a line unread, and the answer is
        // lost with it. If the monitor is gone, reading says so.
        let _ = self.stream.get_mut().write_all(request.as_bytes());
        self.answer()
    }

    #[track_caller]
    pub(crate) fn done(&mut self, command: &str, arguments: Value) -> Value {
        let answer = self.ask(command, arguments).expect("an answer");
        answer.unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    #[track_caller]
    pub(crate) fn declined(&mut self, command: &str, arguments: Value) -> String {
        let answer = self.ask(command, arguments).expect("an answer");
        answer.expect_err(command)
    }

    fn collect(&mut self, mut message: Value) {
        let Some(name) = message["event"].as_str().map(str::to_owned) else {
            panic!("neither the answer nor an event: {message}");
        };
        let data = message["data"].take();
        self.events.push_back(Event { name, data });
    }

    /// The next event; `None` when the monitor has hung up.
    pub(crate) fn event(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            let message = self.message()?;
            self.collect(message);
        }
        self.events.pop_front()
    }

    /// The names of the events, or the states they report, up to this one.
    #[track_caller]
    pub(crate) fn until(&mut self, state: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let event = self.event();
            let event = event.unwrap_or_else(|| panic!("no more than {seen:?}"));
            let status = event.data["status"].as_str().map(str::to_owned);
            seen.push(status.unwrap_or(event.name));
            if seen.last().is_some_and(|last| last == state) {
                return seen;
            }
        }
    }

    #[track_caller]
    pub(crate) fn switch(&mut self, capability: &str, state: bool) {
        let one = json!({"capability": capability, "state": state});
        self.done("migrate-set-capabilities", json!({"capabilities": [one]}));
    }

    #[track_caller]
    pub(crate) fn query(&mut self) -> Value {
        self.done("query-migrate", json!({}))
    }

    /// `running`, `paused`, `prelaunch` and the like.
    #[track_caller]
    pub(crate) fn state(&mut self) -> String {
        let state = self.done("query-status", json!({}));
        state["status"].as_str().unwrap().to_owned()
    }
}
