//! One run: both ends, the writer, what happens to them, and what they end with.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;

use crate::actor::{Actor, Client};
use crate::child::Process;
use crate::dice::Dice;
use crate::monitored::commands;
use crate::plan::{self, End, Path, Plan, What, When, Wire, Writer};
use crate::relay::{Between, Relay, Seen};
use crate::scene::{Scene, Stage};

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    Hangs,
    /// It was never started, or what became of it is not known.
    None,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "{code}"),
            Exit::Signal(9) => f.write_str("killed"),
            Exit::Signal(number) => write!(f, "signal {number}"),
            Exit::Hangs => f.write_str("hangs"),
            Exit::None => f.write_str("-"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Exit {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::None,
        }
    }
}

/// What became of a migration.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) send: Exit,
    pub(crate) receive: Exit,
    pub(crate) send_err: String,
    pub(crate) receive_err: String,
    pub(crate) send_out: String,
    pub(crate) receive_out: String,
    pub(crate) seen: Arc<Seen>,
    pub(crate) fired: Vec<What>,
    /// Another program resumed the writer after the proof.
    pub(crate) resumed_late: bool,
    /// The destination was ended by the campaign, as no source came to it.
    pub(crate) dismissed: bool,
}

/// The run's writer.
#[derive(Debug)]
pub(crate) struct Churn {
    pub(crate) process: Arc<Process>,
}

impl Churn {
    pub(crate) fn start(stage: &Stage, scene: &Scene, writer: Writer) -> io::Result<Churn> {
        let args = format!(
            "churn --in-place {} --records records --pattern {} --rate {} --threads {} --seed 1",
            scene.image, writer.pattern, writer.rate, writer.threads
        );
        let mut command = stage.command(&words(&args));
        let process = Process::start(&mut command, &scene.folder, "churn")?;
        if process.line("writing").is_none() {
            return Err(io::Error::other(process.err()));
        }
        if writer.paused {
            process.signal(Signal::STOP);
            process.wait_until_stopped();
        }
        Ok(Churn {
            process: Arc::new(process),
        })
    }
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// What a migration of a run is given.
pub(crate) struct Setup<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) scene: &'a Scene,
    pub(crate) plan: &'a Plan,
    pub(crate) churn: Option<&'a Churn>,
    /// Distinguishes the logs and addresses of the run's migrations.
    pub(crate) name: &'static str,
    pub(crate) output: &'a str,
}

impl Setup<'_> {
    /// Part of the addresses: another attempt has those of the first.
    fn link(&self) -> &'static str {
        match self.name {
            "b" => "b",
            _ => "a",
        }
    }

    pub(crate) fn run(&self) -> io::Result<Outcome> {
        let seen = Seen::default();
        if self.plan.wire == Wire::Qemu || !self.plan.path.has_relay() {
            seen.proven.store(true, Ordering::Release);
            seen.commit.store(true, Ordering::Release);
        }
        let actor = Arc::new(Actor::new(
            self.scene.folder.clone(),
            self.scene.path(&self.scene.image),
            self.churn.map(|churn| Arc::clone(&churn.process)),
            Arc::new(seen),
        ));
        match self.plan.path {
            Path::Unix | Path::Tcp => self.over_a_relay(&actor),
            Path::File | Path::Exec => self.stored(&actor),
            Path::Pipe => self.piped(&actor),
        }
    }

    fn over_a_relay(&self, actor: &Arc<Actor>) -> io::Result<Outcome> {
        let far = format!("{}.far", self.link());
        let listen = match self.plan.path {
            Path::Tcp => "tcp:127.0.0.1:0".to_owned(),
            _ => format!("unix:{far}"),
        };
        let destination = Arc::new(self.receive(&listen)?);
        let _ = actor.destination.set(Arc::clone(&destination));
        let listening = destination.line("listening on ");
        let between = match listening
            .as_deref()
            .and_then(|at| at.strip_prefix("tcp:127.0.0.1:"))
        {
            Some(port) => Between::Tcp(port.parse().map_err(io::Error::other)?),
            None => Between::Unix {
                near: self.scene.path(&format!("{}.near", self.link())),
                far: self.scene.path(&far),
            },
        };
        let own = Arc::clone(actor);
        let fire = Box::new(move |what, later| own.fire_after(later, what));
        let is_native = self.plan.wire == Wire::Native;
        let relay = Relay::start(
            between,
            is_native,
            &self.plan.faults,
            Arc::clone(&actor.seen),
            fire,
        )?;
        let source = Arc::new(match self.plan.monitored {
            true => self.command_a_monitor(&relay.address)?,
            false => self.send(&relay.address)?,
        });
        let _ = actor.source.set(Arc::clone(&source));
        actor.start_timers(&self.plan.faults);
        let clients = self.clients(actor);
        let followed = self.plan.monitored.then(|| self.follow(&source));
        let send = (followed.as_ref()).map_or_else(|| ended(&source), |followed| followed.exit);
        let mut dismissed = false;
        if !relay.reached() && !destination.ends_soon() {
            // It waits for another source.
            dismissed = true;
            destination.signal(Signal::TERM);
        }
        let receive = ended(&destination);
        relay.cut();
        let fired = actor.finish();
        drop(relay);
        join(clients);
        let ends = (send, receive);
        let mut outcome = outcome(&source, &destination, ends, actor, fired, dismissed);
        if let Some(followed) = followed {
            outcome.send_err.push_str(&followed.answer);
            outcome.send_out = followed.answer;
        }
        Ok(outcome)
    }

    fn stored(&self, actor: &Arc<Actor>) -> io::Result<Outcome> {
        let _ = std::fs::remove_file(self.scene.path("stream"));
        let (to, from) = match self.plan.path {
            Path::File => ("file:stream", "file:stream"),
            _ => ("exec:cat > stream", "exec:cat stream"),
        };
        let source = Arc::new(self.send(to)?);
        let _ = actor.source.set(Arc::clone(&source));
        let (of_destination, of_source): (Vec<_>, Vec<_>) =
            (self.plan.faults.iter().copied()).partition(|fault| of_the_destination(fault.what));
        actor.start_timers(&of_source);
        let clients = self.clients(actor);
        let send = ended(&source);
        for fault in &of_source {
            self.damage(fault.what, fault.when, actor)?;
        }
        let destination = Arc::new(self.receive(from)?);
        let _ = actor.destination.set(Arc::clone(&destination));
        actor.start_timers(&of_destination);
        let receive = ended(&destination);
        let fired = actor.finish();
        join(clients);
        Ok(outcome(
            &source,
            &destination,
            (send, receive),
            actor,
            fired,
            false,
        ))
    }

    fn piped(&self, actor: &Arc<Actor>) -> io::Result<Outcome> {
        let receive = self.receive_args("fd:0").join(" ");
        let name = self.name;
        let command = format!(
            "exec:{} {receive} > {name}-receive.out 2> {name}-receive.err; code=$?; \
             echo $code > {name}.code; exit $code",
            self.stage.program.display()
        );
        let source = Arc::new(self.send(&command)?);
        let _ = actor.source.set(Arc::clone(&source));
        actor.start_timers(&self.plan.faults);
        let clients = self.clients(actor);
        let send = ended(&source);
        let fired = actor.finish();
        join(clients);
        let left = crate::child::orphans(self.churn.map(|churn| churn.process.pid));
        let code = std::fs::read_to_string(self.scene.path(&format!("{name}.code")));
        let code = code.ok().and_then(|code| code.trim().parse().ok());
        let read = |end: &str| {
            let path = self.scene.path(&format!("{name}-receive.{end}"));
            std::fs::read_to_string(path).unwrap_or_default()
        };
        Ok(Outcome {
            send,
            receive: code.map_or(Exit::None, Exit::Code),
            send_err: source.err(),
            receive_err: read("err") + &left.join(" hangs\n"),
            send_out: source.out(),
            receive_out: read("out"),
            seen: Arc::clone(&actor.seen),
            resumed_late: actor.resumed_late(),
            fired,
            dismissed: false,
        })
    }

    /// Does to a stored stream what a relay would do.
    fn damage(&self, what: What, when: When, actor: &Arc<Actor>) -> io::Result<()> {
        let When::Byte(_, at) = when else {
            return Ok(());
        };
        let stream = self.scene.path("stream");
        let Ok(mut bytes) = std::fs::read(&stream) else {
            return Ok(());
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let at = (at % bytes.len() as u64) as usize;
        match what {
            What::Flip(bit) => bytes[at] ^= 1 << bit,
            What::Truncate => bytes.truncate(at),
            _ => return Ok(()),
        }
        std::fs::write(&stream, bytes)?;
        actor.note(what);
        Ok(())
    }

    pub(crate) fn send(&self, to: &str) -> io::Result<Process> {
        let mut args = vec!["send".to_owned(), self.scene.guest.clone(), to.to_owned()];
        for later in &self.scene.later {
            args.extend(["--then".to_owned(), later.clone()]);
        }
        if self.plan.wire == Wire::Qemu {
            args.extend(words("--wire qemu"));
        }
        if let (Some(writer), Some(churn)) = (self.plan.writer(), self.churn) {
            let pid = churn.process.pid;
            args.push("--live".to_owned());
            let [stop, resume] = commands(pid);
            args.extend(match writer.by_commands {
                true => vec![
                    "--stop-command".to_owned(),
                    stop,
                    "--resume-command".to_owned(),
                    resume,
                ],
                false => vec!["--pid".to_owned(), pid.to_string()],
            });
            args.extend(writer.paused.then(|| "--paused-ok".to_owned()));
        }
        args.extend(words("--connect-timeout 1"));
        args.extend(self.plan.send.iter().cloned());
        let mut command = self.stage.command(&args);
        self.start(End::Source, &mut command, "send")
    }

    pub(crate) fn receive(&self, from: &str) -> io::Result<Process> {
        let mut command = self.stage.command(&self.receive_args(from));
        self.start(End::Destination, &mut command, "receive")
    }

    fn start(&self, end: End, command: &mut Command, what: &str) -> io::Result<Process> {
        let (folder, name) = (&self.scene.folder, format!("{}-{what}", self.name));
        if self.plan.full != Some(end) {
            return Process::start(command, folder, &name);
        }
        let no_room = File::options().write(true).open("/dev/full")?;
        Process::start_onto(no_room, command, folder, &name)
    }

    fn receive_args(&self, from: &str) -> Vec<String> {
        let mut args = words("receive");
        args.push(from.to_owned());
        args.push(self.output.to_owned());
        if self.plan.force || self.name == "c" {
            args.push("--force".to_owned());
        }
        if self.plan.wire == Wire::Qemu && !self.plan.guest.folder {
            args.extend(words("--block pc.ram"));
        }
        args.extend(self.plan.receive.iter().cloned());
        args
    }

    fn clients(&self, actor: &Arc<Actor>) -> Vec<JoinHandle<()>> {
        let clients = self
            .plan
            .clients
            .iter()
            .filter(|client| client.end == End::Source || self.plan.path.has_relay());
        clients
            .map(|client| {
                let (actor, client) = (Arc::clone(actor), *client);
                thread::spawn(move || play(&actor, client))
            })
            .collect()
    }
}

fn of_the_destination(what: What) -> bool {
    matches!(
        what,
        What::Kill(End::Destination)
            | What::Terminate(End::Destination)
            | What::Interrupt(End::Destination)
            | What::Pause(End::Destination, _)
            | What::Cancel(End::Destination)
            | What::FileLimit
    )
}

pub(crate) fn ended(process: &Process) -> Exit {
    process.finish().map_or(Exit::Hangs, Exit::from)
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        let _ = thread.join();
    }
}

fn outcome(
    source: &Process,
    destination: &Process,
    (send, receive): (Exit, Exit),
    actor: &Actor,
    fired: Vec<What>,
    dismissed: bool,
) -> Outcome {
    Outcome {
        send,
        receive,
        send_err: source.err(),
        receive_err: destination.err(),
        send_out: source.out(),
        receive_out: destination.out(),
        seen: Arc::clone(&actor.seen),
        resumed_late: actor.resumed_late(),
        fired,
        dismissed,
    }
}

/// A monitor's client, until the monitor hangs up or it has done what it came for.
fn play(actor: &Arc<Actor>, client: plan::Client) {
    let process = match client.end {
        End::Source => actor.source.get(),
        End::Destination => actor.destination.get(),
    };
    let Some(process) = process else { return };
    let socket = actor.folder.join(plan::socket(client.end));
    let Some(mut qmp) = Client::wait_for(&socket, || !process.has_ended()) else {
        return;
    };
    let mut dice = Dice::new(client.seed);
    if client.goes_on {
        while let Some(answer) = qmp.ask(r#"{"execute": "query-migrate"}"#) {
            if answer.contains("pre-switchover") {
                let go_on =
                    r#"{"execute": "migrate-continue", "arguments": {"state": "pre-switchover"}}"#;
                if qmp.ask(go_on).is_none() {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
        return;
    }
    for _ in 0..client.commands {
        let done = match client.rude {
            true => qmp.send(dice.pick(&RUDE)),
            false => qmp.ask(dice.pick(&COMMANDS)).map(drop),
        };
        if done.is_none() {
            return;
        }
        thread::sleep(Duration::from_millis(dice.below(8)));
    }
}

const RUDE: [&str; 5] = [
    "{\"execute\": \"query-migrate\"}\n",
    "{]\n",
    "\u{0}\u{1}\n",
    "{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"compress-level\": \"high\"}}\n",
    "{\"execute\": \"migrate-set-parameters\", ",
];

const COMMANDS: [&str; 10] = [
    r#"{"execute": "query-migrate"}"#,
    r#"{"execute": "query-migrate-parameters"}"#,
    r#"{"execute": "query-migrate-capabilities"}"#,
    r#"{"execute": "migrate-set-parameters", "arguments": {"compress-level": 9}}"#,
    r#"{"execute": "migrate-set-parameters", "arguments": {"compress-threads": 1}}"#,
    r#"{"execute": "migrate-set-parameters", "arguments": {"compress-threads": 16}}"#,
    r#"{"execute": "migrate-set-parameters", "arguments": {"decompress-threads": 5}}"#,
    r#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 200000000}}"#,
    r#"{"execute": "migrate-set-parameters", "arguments": {"compress-method": "zstd"}}"#,
    r#"{"execute": "migrate-set-parameters", "arguments": {"xbzrle-cache-size": 65536}}"#,
];
