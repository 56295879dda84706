//! `ramferry send` and `ramferry receive`.

use std::path::PathBuf;
use std::sync::Arc;

use signal_hook::iterator::Signals;

use crate::caps::{Capability, Caps};
use crate::control::{Control, LiveOptions, Migration};
use crate::error::{Error, Kind, Result};
use crate::qmp;
use crate::settings::Settings;
use crate::source::{Live, WriterChoice};
use crate::stats::{Owner, Report};
use crate::transport::Address;
use crate::wire::Format;
use crate::writer::guard;

use super::dropped::Dropped;
use super::format::{FormatArg, PausedArg};
use super::later::LaterArgs;
use super::monitor::{self, Attached};
use super::output::{self, announce, print_json};
use super::params::{Checked, DestinationArgs, ImagePath, OutputPath, SourceArgs};
use super::progress::{self, Progress};
use super::{signals, summary};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry send guest.ram tcp:192.0.2.7:4444 --compress-method zstd
  ramferry send t0.ram unix:r.sock --then t1.ram --then t2.ram --xbzrle-cache-size 256MiB
  ramferry send guest.ram file:guest.stream
  ramferry send guest.ram tcp:192.0.2.7:4444 --live --qmp unix:qemu.qmp --downtime-limit 100
  ramferry send guest.ram tcp:192.0.2.7:4444 --live --pid 1234
  ramferry send guest unix:qemu.sock --wire qemu
  ramferry send guest.ram 'exec:ssh host ramferry receive fd:0 guest.ram'
With --wire qemu, a guest folder is sent with its devices, to a QEMU with the same machine and devices. \
A raw image is RAM alone: a QEMU loads it and leaves its devices as they are after a reset.
tcp: is neither encrypted nor authenticated.")]
pub(super) struct SendArgs {
    /// A raw RAM image or a guest folder
    #[arg(value_parser = ImagePath)]
    image: PathBuf,
    /// Where to: tcp:HOST:PORT, unix:PATH, file:PATH, fd:N or exec:COMMAND
    #[arg(value_parser = Checked(str::parse::<Address>))]
    uri: Address,
    #[command(flatten)]
    then: LaterArgs,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    at_rest: PausedArg,
    /// Wire format: native, or qemu for a stream that a QEMU's -incoming loads
    #[arg(long, value_name = "FORMAT", default_value = "native", value_parser = Checked(str::parse::<Format>))]
    wire: Format,
    /// Name of a raw image's block [default: pc.ram]
    #[arg(long, value_name = "NAME")]
    block: Option<String>,
    /// With --wire qemu, the machine type to name for a raw image [default: pc-i440fx-7.2]
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Continue without what the destination lacks: with another method (zlib if it has that),
    /// without deltas. What was left out is reported
    #[arg(long)]
    fallback: bool,
    /// Replace the file of a file: address if it exists
    #[arg(long)]
    force: bool,
    /// Do not wait until the file of a file: address is on disk
    #[arg(long)]
    no_sync: bool,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    params: SourceArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ramferry receive tcp:0.0.0.0:4444 guest.ram
  ramferry receive unix:r.sock guest.ram --force
  ramferry receive file:guest.stream guest.ram
  ramferry receive unix:r.sock pc.ram --block pc.ram
The listening address is printed as 'listening on URI' on standard output; with --json it is printed \
there only for tcp:HOST:0, where the port is picked here, and otherwise on standard error.
tcp: is neither encrypted nor authenticated.")]
pub(super) struct ReceiveArgs {
    /// From where: tcp:HOST:PORT (port 0: any), unix:PATH, file:PATH, fd:N or exec:COMMAND
    #[arg(value_parser = Checked(address_first))]
    uri: Address,
    /// The raw RAM image to write, or the guest folder if that is what arrives
    #[arg(value_parser = OutputPath)]
    output: PathBuf,
    /// Keep only this block of the guest, as a raw image
    #[arg(long, value_name = "NAME")]
    block: Option<String>,
    /// Replace OUTPUT if it exists
    #[arg(long)]
    force: bool,
    /// Do not wait until OUTPUT is on disk before confirming it: a power loss may then take back
    /// what the source has let go of
    #[arg(long)]
    no_sync: bool,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    params: DestinationArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Live")]
struct LiveArgs {
    /// Send while the image is being written to: resend what changed until the rest fits into
    /// downtime-limit, then stop the writer for the last round. Needs --qmp, --pid, --stop-command or
    /// --fuzzy
    #[arg(long)]
    live: bool,
    /// QMP socket (a path or unix:PATH) of the QEMU that runs the guest: the guest is stopped for the last
    /// round, with its disk I/O completed, and resumed unless the destination takes over. QEMU's RAM must
    /// be IMAGE, with share=on, and the socket must be free
    #[arg(long, value_name = "SOCKET", requires = "live", value_parser = Checked(qmp::socket_path))]
    qmp: Vec<PathBuf>,
    /// PID of the process that writes the image: stopped for the last round, resumed unless the
    /// destination takes over (repeatable)
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Accept a writer or guest that is stopped already: it is migrated as a paused guest and stays stopped
    #[arg(long, requires = "live", conflicts_with_all = ["stop_command", "fuzzy"])]
    paused_ok: bool,
    /// Accept a guest that was handed over before: use this only if the destination is not running it
    #[arg(long, requires = "live")]
    again: bool,
    /// Shell command that stops the writer; it must not return before all writing has stopped
    #[arg(long, value_name = "COMMAND", requires = "resume_command")]
    stop_command: Option<String>,
    /// Shell command that resumes the writer if the destination does not take over
    #[arg(long, value_name = "COMMAND", requires = "stop_command")]
    resume_command: Option<String>,
    /// Do not stop the writer: the copy is not a point-in-time snapshot
    #[arg(long)]
    fuzzy: bool,
}

impl LiveArgs {
    fn into_live(self) -> Result<Option<Live>> {
        if self.qmp.len() > 1 {
            let what = "--qmp can be given only once: one QEMU runs the guest";
            return Err(Error::new(Kind::Usage, what));
        }
        let options = LiveOptions {
            live: Some(self.live),
            qmp: self.qmp.into_iter().next(),
            pids: (!self.pid.is_empty()).then_some(self.pid),
            stop: self.stop_command,
            resume: self.resume_command,
            fuzzy: self.fuzzy,
            paused_ok: self.paused_ok,
            again: self.again,
        };
        options
            .into_live(Some(guard::this_program()))
            .map_err(|error| Error::new(Kind::Usage, error.describe(|name| format!("--{name}"))))
    }
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Print one JSON document on standard output, as QEMU's query-migrate returns it
    #[arg(long)]
    json: bool,
    /// Show neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
    /// Listen for QMP clients that watch the migration, change it or cancel it
    #[arg(long, value_name = "unix:PATH", value_parser = Checked(monitor::path))]
    monitor: Option<PathBuf>,
}

/// Reads the address of `receive`, which is easily given second, as for `send`.
fn address_first(text: &str) -> Result<Address, String> {
    text.parse::<Address>().map_err(|error| {
        let is_path = !text.contains(':') && text.parse::<u16>().is_err();
        let hint = match is_path {
            false => "",
            true => "; the address comes first, then OUTPUT",
        };
        format!("{error}{hint}")
    })
}

pub(super) fn send(args: SendArgs) -> Result<()> {
    let caps = match args.wire {
        Format::Native => Caps::default(),
        Format::Qemu => Caps::for_qemu(),
    };
    let live = args.live.into_live()?;
    let fuzzy = (live.as_ref()).is_some_and(|live| matches!(live.writer, WriterChoice::Fuzzy));
    if let Some(note) = args.params.note() {
        output::report(&note);
    }
    let (params, caps) = args.params.into_parts(caps)?;
    if caps.has(Capability::PauseBeforeSwitchover) && args.show.monitor.is_none() {
        return Err(Error::new(
            Kind::Usage,
            "the capability pause-before-switchover needs --monitor: only migrate-continue, given \
             there, resumes the migration",
        ));
    }
    let waiting = format!("connecting to {}", args.uri);
    let mut end = match (args.wire, args.uri.is_listening()) {
        (Format::Native, true) => "arrived and proven",
        (Format::Qemu, true) if caps.has(Capability::ReturnPath) => {
            "loaded (confirmed by the destination)"
        }
        (Format::Qemu, true) => "written; only the destination knows whether it was loaded",
        (_, false) => "written (verified when received)",
    }
    .to_owned();
    if fuzzy {
        end.push_str(", but not a point-in-time snapshot");
    }
    let send = Migration::send(args.image)
        .to(args.uri)
        .image_format(args.format.into())
        .paused(args.at_rest.paused)
        .then(args.then.0)
        .format(args.wire)
        .fallback(args.fallback)
        .force(args.force)
        .sync(!args.no_sync)
        .block(args.block)
        .machine(args.machine)
        .live(live);
    let signals = signals::catch()?;
    let attached = Attached::new(args.show.monitor.clone(), Settings::new(params, caps))?;
    attached.controller().migrate(send)?;
    finish(attached, signals, &args.show, (waiting, &|_| end.clone()))
}

pub(super) fn receive(args: ReceiveArgs) -> Result<()> {
    let (params, caps) = args.params.into_parts(Caps::default())?;
    let picked = matches!(args.uri, Address::Tcp { port: 0, .. });
    let on_stdout = !args.show.json || picked;
    let listening = move |address: &Address| {
        let line = format!("listening on {address}");
        if on_stdout {
            announce(&line);
        } else {
            output::report(&line);
        }
    };
    let dropped = Dropped::new(std::io::stderr());
    let dropped = move |line: &str| dropped.print(line);
    let waiting = format!("waiting for a source at {}", args.uri);
    let receive = Migration::receive(args.output)
        .from(args.uri)
        .block(args.block)
        .force(args.force)
        .sync(!args.no_sync)
        .on_listening(listening)
        .on_dropped(dropped);
    let signals = signals::catch()?;
    let attached = Attached::new(args.show.monitor.clone(), Settings::new(params, caps))?;
    attached.controller().receive(receive)?;
    finish(attached, signals, &args.show, (waiting, &arrived))
}

/// What a destination can say of what it holds.
fn arrived(report: &Report) -> String {
    match report.wire_format {
        Some(format) if format == Format::Qemu.name() => {
            "arrived (read back as it was placed; QEMU's format has no checksums)"
        }
        _ => "arrived and proven",
    }
    .to_owned()
}

/// Shows the migration while it runs, and how it ended.
fn finish(
    attached: Attached,
    signals: Signals,
    show: &ShowArgs,
    (waiting, end): (String, &dyn Fn(&Report) -> String),
) -> Result<()> {
    let migration = attached.migration()?;
    let ended = Arc::clone(&migration);
    signals::end_on_each(signals, migration.canceller(), move || outcome_now(&ended))?;
    attached.announce();
    if show.quiet {
        progress::follow_quietly(&migration);
    } else {
        Progress::new(waiting).follow(&migration);
    }
    let outcome = migration.join();
    let report = migration.report();
    if outcome.is_ok() && !show.quiet {
        summary::print(&report, &end(&report));
    }
    if show.json {
        let report = match &outcome {
            Ok(()) => report,
            Err(error) => report.with_error(error),
        };
        if let Err(error) = print_json(&report) {
            // The exit code says who has the guest, not whether this could be printed.
            output::report(&format!("error: no report: {}", error.one_line()));
        }
    }
    attached.close();
    outcome
}

/// How a migration ends that is not waited for any more: by which end has the guest.
fn outcome_now(migration: &Migration) -> Result<()> {
    match migration.query().owner {
        Some(Owner::Destination) => Ok(()),
        Some(Owner::Unknown) => Err(Error::new(
            Kind::OutcomeUnknown,
            "outcome unknown: ended by a second signal while the destination took over; if OUTPUT exists there \
             under its final name and not as OUTPUT.partial, it has",
        )),
        Some(Owner::Source) | None => Err(Error::interrupted()),
    }
}
