//! The commands of the monitor: what each takes, what it calls of [`Control`], and what it returns.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::caps::Capability;
use crate::control::live::{LiveError, LiveOptions};
use crate::control::{Control, ControlError, Migration, RunState};
use crate::image::ImageFormat;
use crate::qmp;
use crate::source::Live;
use crate::stats::Status;
use crate::transport::Address;
use crate::wire::Format;

use super::Defaults;
use super::arguments::{Arguments, expects, missing, no_such_value};
use super::message::{Call, QmpError, version};
use super::{parameters, query};

/// What was negotiated with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Session {
    /// Whether it may send commands, and gets events.
    pub(super) negotiated: bool,
    /// Whether it may ask for `exec-oob`.
    pub(super) oob: bool,
}

/// What executes commands.
pub(super) struct Executor<'a> {
    pub(super) control: &'a dyn Control,
    pub(super) defaults: &'a Defaults,
}

/// What a command returns.
type Outcome = Result<Value, QmpError>;

/// What a command does.
enum Command {
    /// It takes no arguments.
    Plain(fn(&Executor<'_>) -> Outcome),
    /// It reads all of them before it does anything.
    With(fn(&Executor<'_>, &mut Arguments) -> Outcome),
}

use Command::{Plain, With};

/// Negotiates capabilities of the protocol.
const NEGOTIATE: &str = "qmp_capabilities";
/// Ends the program: the caller of this calls [`Control::quit`] once the reply is on its way.
pub(super) const QUIT: &str = "quit";

static COMMANDS: [(&str, Command); 14] = [
    ("migrate", With(migrate)),
    ("migrate-continue", With(migrate_continue)),
    ("migrate-incoming", With(migrate_incoming)),
    ("migrate-set-capabilities", With(set_capabilities)),
    ("migrate-set-parameters", With(set_parameters)),
    ("migrate_cancel", Plain(cancel)),
    (NEGOTIATE, Plain(already_negotiated)),
    ("query-commands", Plain(query_commands)),
    ("query-migrate", Plain(query_migrate)),
    ("query-migrate-capabilities", Plain(query_capabilities)),
    ("query-migrate-parameters", Plain(query_parameters)),
    ("query-status", Plain(query_status)),
    ("query-version", Plain(|_| Ok(version()))),
    (QUIT, Plain(|_| done())),
];

/// The states that a client may name: QEMU's.
const STATES: [&str; 15] = [
    "none",
    "setup",
    "cancelling",
    "cancelled",
    "active",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover",
    "completed",
    "failed",
    "colo",
    "pre-switchover",
    "device",
    "wait-unplug",
    "postcopy-recover-setup",
];

impl Executor<'_> {
    /// Executes a command for the client of `session`.
    pub(super) fn execute(&self, call: Call, session: &mut Session) -> Outcome {
        let name = call.command.as_str();
        let mut arguments = Arguments::new(call.arguments);
        if !session.negotiated {
            return match name {
                NEGOTIATE => negotiate(&mut arguments, session),
                _ => Err(QmpError::command_not_found(
                    "Expecting capabilities negotiation with 'qmp_capabilities'",
                )),
            };
        }
        let Some((_, command)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
            return Err(QmpError::command_not_found(format!(
                "The command {name} has not been found"
            )));
        };
        if call.oob {
            return Err(QmpError::generic(format!(
                "The command {name} does not support OOB"
            )));
        }
        match command {
            Plain(command) if name == NEGOTIATE => command(self),
            Plain(command) => arguments.end().and_then(|()| command(self)),
            With(command) => command(self, &mut arguments),
        }
    }

    /// The state with this name.
    fn status(&self) -> Status {
        self.control
            .report()
            .map_or(Status::None, |report| report.status)
    }
}

/// The result of a command without one.
fn done() -> Outcome {
    Ok(json!({}))
}

fn negotiate(arguments: &mut Arguments, session: &mut Session) -> Outcome {
    let enable = arguments.strings("enable")?.unwrap_or_default();
    if let Some(unknown) = enable.iter().find(|name| *name != "oob") {
        return Err(no_such_value("enable", unknown));
    }
    arguments.end()?;
    session.negotiated = true;
    session.oob = !enable.is_empty();
    done()
}

fn already_negotiated(_: &Executor<'_>) -> Outcome {
    Err(QmpError::command_not_found(
        "Capabilities negotiation is already complete, command ignored",
    ))
}

fn query_commands(_: &Executor<'_>) -> Outcome {
    let names = COMMANDS.iter().map(|(name, _)| json!({"name": name}));
    Ok(Value::Array(names.collect()))
}

fn query_status(this: &Executor<'_>) -> Outcome {
    let state = this.control.run_state();
    let running = state == RunState::Running;
    Ok(json!({"status": state.name(), "singlestep": false, "running": running}))
}

fn query_migrate(this: &Executor<'_>) -> Outcome {
    let report = this.control.report();
    let listening = this.control.listening();
    let params = this.control.params();
    Ok(query::migrate(report.as_ref(), listening.as_ref(), &params))
}

fn query_parameters(this: &Executor<'_>) -> Outcome {
    Ok(parameters::query(&this.control.params()))
}

fn set_parameters(this: &Executor<'_>, arguments: &mut Arguments) -> Outcome {
    let list = parameters::read(arguments.rest())?;
    this.control
        .set_params(&list)
        .map_err(|error| parameters::refusal(error, &list, &this.control.params()))?;
    done()
}

fn query_capabilities(this: &Executor<'_>) -> Outcome {
    let caps = this.control.caps();
    let states = Capability::ALL
        .iter()
        .map(|capability| json!({"capability": capability.name(), "state": caps.has(*capability)}));
    Ok(Value::Array(states.collect()))
}

fn set_capabilities(this: &Executor<'_>, arguments: &mut Arguments) -> Outcome {
    let states = arguments.needed_objects("capabilities", |members| {
        let name = members.needed_string("capability")?;
        if name.parse::<Capability>().is_err() {
            return Err(no_such_value("capability", &name));
        }
        Ok((name, members.needed_boolean("state")?))
    })?;
    arguments.end()?;
    this.control.set_caps(&states)?;
    done()
}

fn cancel(this: &Executor<'_>) -> Outcome {
    this.control.cancel();
    done()
}

fn migrate_continue(this: &Executor<'_>, arguments: &mut Arguments) -> Outcome {
    let state = arguments.needed_string("state")?;
    if !STATES.contains(&state.as_str()) {
        return Err(no_such_value("state", &state));
    }
    arguments.end()?;
    if state != Status::PreSwitchover.name() {
        // It cannot wait for anything else.
        let error = ControlError::NotInState(this.status());
        return Err(QmpError::generic(error.to_string()));
    }
    this.control.proceed(Status::PreSwitchover)?;
    done()
}

/// The address of a migration.
fn address(uri: &str) -> Result<Address, QmpError> {
    uri.parse()
        .map_err(|error: crate::transport::TransportError| {
            let scheme = uri.split_once(':').map(|(scheme, _)| scheme);
            match scheme {
                Some("tcp" | "unix" | "file" | "fd" | "exec") => {
                    QmpError::generic(error.to_string())
                }
                _ => expects("uri", "a valid migration protocol"),
            }
        })
}

fn migrate_incoming(this: &Executor<'_>, arguments: &mut Arguments) -> Outcome {
    let uri = arguments.needed_string("uri")?;
    let output = arguments.string("output")?.map(PathBuf::from);
    let block = arguments.string("block")?;
    let force = arguments.boolean("force")?.unwrap_or(false);
    let sync = arguments.boolean("sync")?.unwrap_or(true);
    arguments.end()?;
    let output = output
        .or_else(|| this.defaults.output.clone())
        .ok_or_else(|| missing("output"))?;
    let receive = Migration::receive(output).from(address(&uri)?);
    let receive = receive.block(block).force(force).sync(sync);
    this.control.receive(receive)?;
    done()
}

fn migrate(this: &Executor<'_>, arguments: &mut Arguments) -> Outcome {
    let uri = arguments.needed_string("uri")?;
    // In QEMU, migration of storage: all of it, or incrementally.
    let storage = [arguments.boolean("blk")?, arguments.boolean("inc")?];
    // In QEMU it has no effect either.
    arguments.boolean("detach")?;
    let resume = arguments.boolean("resume")?.unwrap_or(false);
    let image = arguments.string("image")?.map(PathBuf::from);
    let then = arguments.strings("then")?.unwrap_or_default();
    let force = arguments.boolean("force")?.unwrap_or(false);
    let sync = arguments.boolean("sync")?.unwrap_or(true);
    let fallback = arguments.boolean("fallback")?.unwrap_or(false);
    let image_format = arguments.string("format")?;
    let paused = arguments.boolean("paused")?.unwrap_or(false);
    let wire = arguments.string("wire")?;
    let block = arguments.string("block")?;
    let machine = arguments.string("machine")?;
    let live = live(this, arguments)?;
    arguments.end()?;
    if storage.contains(&Some(true)) {
        return Err(QmpError::generic(
            "only RAM is moved: 'blk' and 'inc' can only be false",
        ));
    }
    if resume {
        return Err(QmpError::generic(
            "Cannot resume if there is no paused migration",
        ));
    }
    let image = image
        .or_else(|| this.defaults.image.clone())
        .ok_or_else(|| missing("image"))?;
    let format = match wire {
        Some(name) => name
            .parse::<Format>()
            .map_err(|_| no_such_value("wire", &name))?,
        None => Format::Native,
    };
    let image_format = match image_format {
        Some(name) => name
            .parse::<ImageFormat>()
            .map_err(|_| no_such_value("format", &name))?,
        None => ImageFormat::default(),
    };
    let send = Migration::send(image)
        .to(address(&uri)?)
        .image_format(image_format)
        .paused(paused)
        .then(then)
        .format(format)
        .fallback(fallback)
        .force(force)
        .sync(sync)
        .block(block)
        .machine(machine)
        .live(live);
    this.control.migrate(send)?;
    done()
}

/// The writer of a live guest, and how to stop it.
fn live(this: &Executor<'_>, arguments: &mut Arguments) -> Result<Option<Live>, QmpError> {
    let options = LiveOptions {
        live: arguments.boolean("live")?,
        qmp: arguments
            .string("qmp")?
            .map(|text| qmp::socket_path(&text).map_err(QmpError::generic))
            .transpose()?,
        pids: arguments.numbers("pid")?,
        stop: arguments.string("stop-command")?,
        resume: arguments.string("resume-command")?,
        fuzzy: arguments.boolean("fuzzy")?.unwrap_or(false),
        paused_ok: arguments.boolean("paused-ok")?.unwrap_or(false),
        again: arguments.boolean("again")?.unwrap_or(false),
    };
    let guard = this.defaults.guard.clone();
    options.into_live(guard).map_err(|error| match error {
        LiveError::Missing(name) => missing(name),
        other => QmpError::generic(other.describe(|name| format!("'{name}'"))),
    })
}
