//! `ramferry monitor`, which starts idle and waits for commands, and `--monitor` of the commands that
//! migrate.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::caps::{Capability, Caps};
use crate::control::monitor::{Defaults, Farewell};
use crate::control::{
    Control, Controller, Migration, Monitor, ReceiveBuilder, RunState, SendBuilder,
};
use crate::error::{Error, Kind, Result};
use crate::params::{Params, TypedParam};
use crate::settings::Settings;
use crate::stats::{Event, Report, Status};
use crate::transport::{Address, TransportError};
use crate::writer::guard;

use super::output::{announce, report};
use super::params::Checked;
use super::signals;

/// How long clients may take to hear of the end.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry monitor unix:m.sock --image guest.ram
  qmp-shell m.sock                           # then: migrate uri=tcp:192.0.2.7:4444
  ramferry ctl m.sock domjobinfo --watch
Speaks QMP, QEMU's protocol, with QEMU's commands for migration; query-commands lists them. Beyond QEMU's \
arguments, migrate takes image, format, paused, then, wire, force, sync, fallback, block, machine, live, qmp, pid, \
paused-ok, again, stop-command, resume-command and fuzzy, as send has them; migrate-incoming takes output, block, force \
and sync, as receive has them. sync is true unless given; send and receive have --no-sync.
Prints 'monitor at URI' on standard output when it can be connected to, by this user alone. \
Ends upon the command quit or a signal; a migration that runs is cancelled first.
Anyone who can connect can run commands as this user (exec: addresses).")]
pub(super) struct MonitorArgs {
    /// Where to listen: unix:PATH
    #[arg(value_name = "URI", value_parser = Checked(path))]
    path: PathBuf,
    /// What migrate sends unless it says so: a raw RAM image or a guest folder
    #[arg(long)]
    image: Option<PathBuf>,
    /// What migrate-incoming writes unless it says so
    #[arg(long)]
    output: Option<PathBuf>,
}

/// The path of the socket.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    match text.parse() {
        Ok(Address::Unix(path)) => Ok(path),
        Ok(_) => Err(format!(
            "a monitor listens on unix:PATH only, not on '{text}'"
        )),
        Err(_) if !text.is_empty() && !text.contains(':') => Err(TransportError::Address {
            given: text.to_owned(),
            why: format!("it does not begin with a scheme: write unix:{text}").into(),
            allowed: "unix:PATH",
        }
        .to_string()),
        Err(error) => Err(TransportError::allowing(error, "unix:PATH").to_string()),
    }
}

pub(super) fn run(args: MonitorArgs) -> Result<()> {
    let signals = signals::catch()?;
    let controller = Arc::new(Controller::default());
    let defaults = Defaults {
        image: args.image,
        output: args.output,
        guard: Some(guard::this_program()),
    };
    let monitor = Monitor::bind(&args.path, Arc::clone(&controller) as _, defaults)?;
    announce(&format!("monitor at unix:{}", args.path.display()));

    let interrupted = Arc::new(AtomicBool::new(false));
    let (controlled, flag) = (Arc::clone(&controller), Arc::clone(&interrupted));
    signals::end_on_each(
        signals,
        move || {
            let status = controlled
                .report()
                .map_or(Status::None, |report| report.status);
            if status.is_running() {
                flag.store(true, Ordering::Relaxed);
            }
            controlled.quit();
        },
        || Err(Error::interrupted()),
    )?;
    controller.wait_for_quit();
    if let Some(migration) = controller.migration() {
        // Clients have been sent the outcome.
        let _ = migration.join();
    }
    monitor.close(Farewell::Flush, FAREWELL);
    match interrupted.load(Ordering::Relaxed) {
        true => Err(Error::interrupted()),
        false => Ok(()),
    }
}

/// A monitor on the one migration that the program is for, if one was asked for.
pub(super) struct Attached {
    controller: Arc<Controller>,
    monitor: Option<Monitor>,
}

impl Attached {
    /// The next migration has these settings.
    pub(super) fn new(path: Option<PathBuf>, settings: Settings) -> Result<Attached> {
        let caps = settings.caps;
        let controller = Arc::new(Controller::new(settings));
        // The command line has the last word on each of them.
        let chosen: Vec<_> = Capability::ALL
            .map(|capability| (capability.name().to_owned(), caps.has(capability)))
            .into();
        controller.set_caps(&chosen)?;
        let only = Arc::new(OnlyMigration(Arc::clone(&controller)));
        let monitor = path
            .map(|path| Monitor::bind(&path, only, Defaults::default()))
            .transpose()?;
        Ok(Attached {
            controller,
            monitor,
        })
    }

    pub(super) fn controller(&self) -> &Controller {
        &self.controller
    }

    /// The migration, which was started.
    pub(super) fn migration(&self) -> Result<Arc<Migration>> {
        let missing = || Error::new(Kind::Failed, "no migration was started").in_stage("start");
        self.controller.migration().ok_or_else(missing)
    }

    /// Says where the monitor is.
    pub(super) fn announce(&self) {
        if let Some(monitor) = &self.monitor {
            report(&format!("monitor at unix:{}", monitor.path().display()));
        }
    }

    /// Lets clients see how it ended.
    pub(super) fn close(self) {
        if let Some(monitor) = self.monitor {
            monitor.close(Farewell::Linger, FAREWELL);
        }
    }
}

/// Everything but starting a migration: the program is for the one that it was started with.
struct OnlyMigration(Arc<Controller>);

impl OnlyMigration {
    fn refuse(&self) -> Result<()> {
        Err(Error::new(
            Kind::Usage,
            "this program only does the migration that it was started with",
        ))
    }
}

impl Control for OnlyMigration {
    fn params(&self) -> Params {
        self.0.params()
    }

    fn set_params(&self, values: &[TypedParam]) -> Result<()> {
        self.0.set_params(values)
    }

    fn caps(&self) -> Caps {
        self.0.caps()
    }

    fn set_caps(&self, values: &[(String, bool)]) -> Result<()> {
        self.0.set_caps(values)
    }

    fn migrate(&self, _: SendBuilder) -> Result<()> {
        self.refuse()
    }

    fn receive(&self, _: ReceiveBuilder) -> Result<()> {
        self.refuse()
    }

    fn cancel(&self) {
        self.0.cancel();
    }

    fn proceed(&self, from: Status) -> Result<()> {
        self.0.proceed(from)
    }

    fn report(&self) -> Option<Report> {
        self.0.report()
    }

    fn listening(&self) -> Option<Address> {
        self.0.listening()
    }

    fn run_state(&self) -> RunState {
        self.0.run_state()
    }

    fn quit(&self) {
        self.0.quit();
    }

    fn observe(&self, observer: Box<dyn Fn(Event) + Send + Sync>) {
        self.0.observe(observer);
    }
}
