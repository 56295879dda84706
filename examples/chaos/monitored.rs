//! A source that is a waiting monitor: it gets its settings and the command from clients, and what
//! becomes of the migration is asked for.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::actor::Client;
use crate::child::Process;
use crate::plan::{End, Wire, socket};
use crate::run::{Exit, Setup, ended, words};

/// The migration's end: the exit code that `send` would have had, and all that is said of it.
pub(crate) struct Followed {
    pub(crate) exit: Exit,
    pub(crate) answer: String,
}

impl Setup<'_> {
    /// Starts the monitor, and the migration at its command.
    pub(crate) fn command_a_monitor(&self, to: &str) -> io::Result<Process> {
        let name = format!("{}-send", self.name);
        let socket = socket(End::Source);
        let args = words(&format!("monitor unix:{socket}"));
        let folder = &self.scene.folder;
        let monitor = Process::start(&mut self.stage.command(&args), folder, &name)?;
        let failed = |process: &Process| io::Error::other(process.err());
        if monitor.line("monitor at").is_none() {
            return Err(failed(&monitor));
        }
        for args in self.settings(socket) {
            let ctl = Process::start(&mut self.stage.command(&args), folder, "ctl")?;
            if ended(&ctl) != Exit::Code(0) {
                return Err(failed(&ctl));
            }
        }
        let request = json!({"execute": "migrate", "arguments": self.arguments(to)});
        let mut client = Client::connect(&self.scene.path(socket))
            .ok_or_else(|| io::Error::other("the monitor does not answer"))?;
        client.ask(&request.to_string());
        Ok(monitor)
    }

    /// Asks until the migration is over, then ends the monitor.
    pub(crate) fn follow(&self, monitor: &Process) -> Followed {
        let mut last = Value::Null;
        if let Some(mut client) = Client::connect(&self.scene.path(socket(End::Source))) {
            while let Some(answer) = client.ask(r#"{"execute": "query-migrate"}"#) {
                let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
                last = answer["return"].clone();
                if exit_of(&last).is_some() {
                    client.ask(r#"{"execute": "quit"}"#);
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let status = ended(monitor);
        Followed {
            exit: match (exit_of(&last), status) {
                (_, Exit::Hangs) => Exit::Hangs,
                (Some(exit), _) => exit,
                (None, status) => status,
            },
            answer: last.to_string(),
        }
    }

    /// The commands of `ctl` for what the run gives to `send`.
    fn settings(&self, socket: &str) -> Vec<Vec<String>> {
        let mut parameters = words(&format!("ctl {socket} migrate-setparameters"));
        let mut capabilities = words(&format!("ctl {socket} migrate-setcapabilities"));
        let mut set = |name: &str, value: &str| {
            parameters.extend(["--set".to_owned(), format!("{name}={value}")]);
        };
        set("connect-timeout", "1");
        let mut args = self.plan.send.iter();
        while let Some(arg) = args.next() {
            if let Some(capability) = arg.strip_prefix("--capability=") {
                capabilities.push(capability.to_owned());
                continue;
            }
            let Some(name) = arg.strip_prefix("--") else {
                continue;
            };
            match (name, args.clone().next()) {
                ("json" | "quiet" | "monitor", _) | (_, None) => {}
                ("compress-method", Some(value)) => {
                    let (method, level) = value.split_once(':').unwrap_or((value, "0"));
                    set(name, method);
                    set("compress-level", level);
                }
                (_, Some(value)) => set(name, value),
            }
        }
        let few = capabilities.len() == 3;
        let mut commands = vec![parameters];
        commands.extend((!few).then_some(capabilities));
        commands
    }

    fn arguments(&self, to: &str) -> Value {
        let mut arguments = json!({"uri": to, "image": self.scene.guest});
        if !self.scene.later.is_empty() {
            arguments["then"] = json!(self.scene.later);
        }
        if self.plan.wire == Wire::Qemu {
            arguments["wire"] = json!("qemu");
        }
        if let (Some(writer), Some(churn)) = (self.plan.writer(), self.churn) {
            let pid = churn.process.pid;
            arguments["live"] = json!(true);
            if writer.by_commands {
                let [stop, resume] = commands(pid);
                arguments["stop-command"] = json!(stop);
                arguments["resume-command"] = json!(resume);
            } else {
                arguments["pid"] = json!([pid]);
                arguments["paused-ok"] = json!(writer.paused);
            }
        }
        arguments
    }
}

/// What stops a process until all of its threads have stopped, and what resumes it.
pub(crate) fn commands(pid: u32) -> [String; 2] {
    [
        format!("kill -STOP {pid} && while grep -qv ') T ' /proc/{pid}/task/*/stat; do :; done"),
        format!("kill -CONT {pid}"),
    ]
}

/// The exit code that `send` would have, once it is over. A monitor does not tell kinds of failure.
fn exit_of(answer: &Value) -> Option<Exit> {
    match (answer["status"].as_str()?, answer["guest"].as_str()) {
        ("completed", _) => Some(Exit::Code(0)),
        ("failed", Some("unknown")) => Some(Exit::Code(5)),
        ("failed", _) => Some(Exit::Code(1)),
        ("cancelled", _) => Some(Exit::Code(130)),
        _ => None,
    }
}
