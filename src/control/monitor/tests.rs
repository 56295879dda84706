//! The monitor with a control that only records its calls, and clients that send anything.

mod bounds;
mod commands;
mod parameters;
mod parsing;
mod protocol;
mod query;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Defaults, Farewell, Monitor};
use crate::caps::Caps;
use crate::control::{Control, ControlError, ReceiveBuilder, RunState, SendBuilder};
use crate::error::{Error, Kind, Result};
use crate::params::{Params, TypedParam, typed};
use crate::stats::{Event, Observer, Report, Status};
use crate::transport::Address;
use crate::{destination, source};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A control that does nothing.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
    observers: Mutex<Vec<Observer>>,
}

struct State {
    params: Params,
    caps: Caps,
    report: Option<Report>,
    listening: Option<Address>,
    run_state: RunState,
    /// What to say to everything that may be declined.
    declines: Option<fn() -> Error>,
    /// What happens when a migration is started.
    events: Vec<Event>,
    calls: Vec<String>,
    sent: Vec<source::Request>,
    received: Vec<destination::Request>,
}

impl Default for State {
    fn default() -> State {
        State {
            params: Params::default(),
            caps: Caps::default(),
            report: None,
            listening: None,
            run_state: RunState::Paused,
            declines: None,
            events: Vec::new(),
            calls: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
        }
    }
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Notes a call, and declines it if it is to.
    fn call(&self, call: impl Into<String>) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.calls.push(call.into());
        match state.declines {
            Some(error) => Err(error()),
            None => Ok(state),
        }
    }

    fn notify(&self, event: Event) {
        for observer in &*self.observers.lock().unwrap() {
            observer(event);
        }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }
}

impl Control for Fake {
    fn params(&self) -> Params {
        self.state().params.clone()
    }

    fn set_params(&self, values: &[TypedParam]) -> Result<()> {
        let words: Vec<_> = values
            .iter()
            .map(|param| format!("{}={:?}", param.name, param.value))
            .collect();
        let mut state = self.call(format!("set {}", words.join(" ")))?;
        let State { params, caps, .. } = &mut *state;
        typed::apply(values, params, caps).map_err(|error| Error::new(Kind::Usage, error))
    }

    fn caps(&self) -> Caps {
        self.state().caps
    }

    fn set_caps(&self, values: &[(String, bool)]) -> Result<()> {
        let mut state = self.call(format!("caps {values:?}"))?;
        for (name, on) in values {
            state.caps.set(name, *on).unwrap();
        }
        Ok(())
    }

    fn migrate(&self, send: SendBuilder) -> Result<()> {
        let mut state = self.call("migrate")?;
        state.sent.push(send.request);
        let events = state.events.clone();
        drop(state);
        events.into_iter().for_each(|event| self.notify(event));
        Ok(())
    }

    fn receive(&self, receive: ReceiveBuilder) -> Result<()> {
        self.call("receive")?.received.push(receive.request);
        Ok(())
    }

    fn cancel(&self) {
        self.state().calls.push("cancel".to_owned());
    }

    fn proceed(&self, from: Status) -> Result<()> {
        self.call(format!("proceed {}", from.name())).map(drop)
    }

    fn report(&self) -> Option<Report> {
        self.state().report.clone()
    }

    fn listening(&self) -> Option<Address> {
        self.state().listening.clone()
    }

    fn run_state(&self) -> RunState {
        self.state().run_state
    }

    fn quit(&self) {
        self.state().calls.push("quit".to_owned());
    }

    fn observe(&self, observer: Box<dyn Fn(Event) + Send + Sync>) {
        self.observers.lock().unwrap().push(observer);
    }
}

/// A monitor on a fake, in a folder of its own.
struct Bench {
    fake: Arc<Fake>,
    monitor: Monitor,
    folder: tempfile::TempDir,
}

fn bench() -> Bench {
    bench_with(Defaults::default())
}

fn bench_with(defaults: Defaults) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let fake = Arc::<Fake>::default();
    let monitor =
        Monitor::bind(&folder.path().join("m"), Arc::clone(&fake) as _, defaults).unwrap();
    Bench {
        fake,
        monitor,
        folder,
    }
}

impl Bench {
    fn path(&self) -> PathBuf {
        self.folder.path().join("m")
    }

    /// A client that has connected, and has read nothing.
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client that was greeted.
    fn greeted(&self) -> Client {
        let mut client = Client(BufReader::new(self.connect()));
        assert!(client.line().get("QMP").is_some());
        client
    }

    /// A client that may give commands.
    fn client(&self) -> Client {
        let mut client = self.greeted();
        let answer = client.ask(r#"{"execute":"qmp_capabilities"}"#);
        assert_eq!(answer, json!({"return": {}}));
        client
    }
}

/// A client.
struct Client(BufReader<UnixStream>);

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, without what ends it.
    #[track_caller]
    fn text(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n").expect("a whole line").to_owned()
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Sends, and reads the next line.
    #[track_caller]
    fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Value {
        self.send(bytes);
        self.send("\n");
        self.line()
    }

    /// Has a command done.
    #[track_caller]
    fn done(&mut self, command: &str, arguments: Value) -> Value {
        let mut message = json!({"execute": command});
        message["arguments"] = arguments;
        let mut answer = self.ask(message.to_string());
        let answer = answer.get_mut("return");
        answer.expect("no error").take()
    }

    /// Has a command declined, and gives the words.
    #[track_caller]
    fn declined(&mut self, command: &str, arguments: Value) -> String {
        let mut message = json!({"execute": command});
        message["arguments"] = arguments;
        let answer = self.ask(message.to_string());
        assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
        answer["error"]["desc"].as_str().unwrap().to_owned()
    }

    /// Nothing comes any more.
    #[track_caller]
    fn is_cut_off(&mut self) {
        let mut rest = Vec::new();
        // What was sent and not read by the other side may end it, too.
        if let Err(error) = self.0.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

fn in_progress() -> Error {
    Error::new(Kind::Usage, ControlError::InProgress)
}

/// Commands, their arguments and why they are declined.
#[track_caller]
fn declines(client: &mut Client, command: &str, cases: &[(Value, &str)]) {
    for (arguments, words) in cases {
        let desc = client.declined(command, arguments.clone());
        assert_eq!(desc, *words, "{arguments}");
    }
}
