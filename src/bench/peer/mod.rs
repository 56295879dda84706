//! A real QEMU to compare with: its own modes of migration, between two stopped guests whose RAM is the
//! image and a new file, with the CPU time of both processes.
//!
//! What QEMU does not report is unknown, not guessed: up to 9 it counts the bytes of multifd
//! before they are compressed. Its levels are 1, for 7.2 takes no other through QMP. A way that
//! fails is not runs again: its row says why, and everything else goes on.

mod modes;
mod process;
mod qemu;
mod report;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::measure::scratch::Scratch;
use crate::bench::statistics::median;
use crate::error::{Error, Kind, Result};
use crate::image::{Guest, ImageFormat};
use crate::page::Digest;
use crate::text::printable;
use modes::{Mode, Version};
use process::Process;
use qemu::{PATIENCE, Qemu};

pub use process::kill_all;
pub use report::{BULK_ONLY, PeerMode, PeerReport, PeerRun};

/// The default program.
pub const BINARY: &str = "qemu-system-x86_64";
/// The interval at which QEMU's progress is polled, as a supervisor would.
const POLL: Duration = Duration::from_millis(5);
/// A migration without progress for this long hangs.
const SILENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// The type that statfs reports for tmpfs.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// Which QEMU: `qemu[:BINARY[,DATADIR]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpec {
    /// The program.
    pub binary: PathBuf,
    /// The folder of its firmware, if that is not installed.
    pub data: Option<PathBuf>,
}

impl FromStr for PeerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<PeerSpec, String> {
        let rest = match text.split_once(':') {
            None if text == "qemu" => {
                return Ok(PeerSpec {
                    binary: BINARY.into(),
                    data: None,
                });
            }
            Some(("qemu", rest)) if !rest.is_empty() => rest,
            _ => {
                return Err(format!(
                    "invalid peer '{}': allowed is qemu[:BINARY[,DATADIR]]",
                    printable(text)
                ));
            }
        };
        let (binary, data) = match rest.split_once(',') {
            Some((binary, data)) => (binary, Some(data.into())),
            None => (rest, None),
        };
        Ok(PeerSpec {
            binary: binary.into(),
            data,
        })
    }
}

/// What a peer has to migrate.
#[derive(Debug, Clone, Copy)]
pub struct PeerWorkload<'a> {
    /// The image, a file of whole MiB.
    pub image: &'a Path,
    /// What must arrive.
    pub digest: Digest,
    /// Whether our settings have later images.
    pub later_rounds: bool,
    /// The numbers of compression threads, each once: channels for multifd.
    pub threads: &'a [u8],
    /// Decompression threads.
    pub decompress_threads: u8,
}

/// A QEMU that can be run, and its results so far.
#[derive(Debug)]
pub struct QemuPeer {
    spec: PeerSpec,
    version: Version,
    modes: Vec<ModeRuns>,
    image: PathBuf,
    ram_bytes: u64,
    digest: Digest,
    bulk_only: bool,
    folder: PathBuf,
    /// The monitors' sockets: the folder of the output may have too long a name for them.
    sockets: Scratch,
}

/// A mode and its results.
#[derive(Debug)]
struct ModeRuns {
    mode: Mode,
    runs: Vec<PeerRun>,
    failed: Option<String>,
}

impl QemuPeer {
    /// Asks the program for its version. Received RAM will be written to `scratch`.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] if the program is missing or not a QEMU, and for an image that QEMU
    /// cannot use as its RAM: a guest folder, or a size that is not whole MiB.
    pub fn new(spec: PeerSpec, workload: &PeerWorkload<'_>, scratch: &Scratch) -> Result<QemuPeer> {
        let usage = |what: String| Error::new(Kind::Usage, what);
        let shown = printable(&spec.binary.display().to_string());
        let mut command = Command::new(&spec.binary);
        command.arg("--version");
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let said = Process::start(&mut command)
            .map_err(|error| usage(format!("the peer '{shown}' cannot be run: {error}")))?
            .output(PATIENCE);
        let version = said
            .and_then(|words| modes::version(&words))
            .ok_or_else(|| {
                usage(format!(
                    "the peer '{shown}' is not a QEMU, by its --version"
                ))
            })?;
        let failed = |error| Error::new(Kind::Failed, error).in_stage("peer");
        let about = std::fs::metadata(workload.image).map_err(failed)?;
        let ram_bytes = if about.is_file() { about.len() } else { 0 };
        if ram_bytes == 0 || !ram_bytes.is_multiple_of(MIB) {
            let what = "with --peer the image must be a file of whole MiB, as QEMU's RAM is";
            return Err(usage(what.to_owned()));
        }
        let image = if loses_its_holes(workload.image, about.blocks(), ram_bytes) {
            let copy = scratch.path().join("peer-in.ram");
            copy_whole(workload.image, &copy).map_err(failed)?;
            copy
        } else {
            workload.image.canonicalize().map_err(failed)?
        };
        let modes = modes::modes(version, workload.threads, workload.decompress_threads);
        Ok(QemuPeer {
            modes: modes.into_iter().map(ModeRuns::new).collect(),
            spec,
            version,
            image,
            ram_bytes,
            digest: workload.digest,
            bulk_only: workload.later_rounds,
            folder: scratch.path().to_owned(),
            sockets: Scratch::new_in(&std::env::temp_dir())?,
        })
    }

    /// The names of its modes.
    pub fn names(&self) -> Vec<String> {
        self.reports()
            .into_iter()
            .map(|report| report.name)
            .collect()
    }

    /// How long a run of each mode takes: the median so far, or an estimate.
    pub fn expected(&self, data_bytes: f64, cores: usize) -> Vec<Duration> {
        let of = |runs: &ModeRuns| {
            let times: Vec<f64> = runs.runs.iter().map(|run| run.time / 1e3).collect();
            let seconds = median(&times).unwrap_or(runs.mode.expected(data_bytes, cores));
            Duration::try_from_secs_f64(seconds).unwrap_or_default()
        };
        self.modes.iter().map(of).collect()
    }

    /// Drops the modes for which `kept` is not true.
    pub fn keep(&mut self, kept: &[bool]) {
        let mut kept = kept.iter();
        self.modes.retain(|_| kept.next().copied().unwrap_or(false));
    }

    /// Whether the mode of this index has never failed.
    pub fn works(&self, mode: usize) -> bool {
        self.modes
            .get(mode)
            .is_some_and(|runs| runs.failed.is_none())
    }

    /// Runs the mode of this index once more; gives how long it took.
    ///
    /// # Errors
    /// Why it failed, on one line. Then [`QemuPeer::works`] is false for it.
    pub fn run(&mut self, mode: usize) -> Result<Duration, String> {
        let Some(runs) = self.modes.get(mode) else {
            return Err("the peer has no such mode".to_owned());
        };
        let outcome = self.migrate(&runs.mode).map_err(|error| error.one_line());
        let runs = &mut self.modes[mode];
        match outcome {
            Ok(run) => {
                let time = Duration::try_from_secs_f64(run.time / 1e3);
                runs.runs.push(run);
                Ok(time.unwrap_or_default())
            }
            Err(why) => {
                runs.failed = Some(why.clone());
                Err(why)
            }
        }
    }

    /// The results of each mode.
    pub fn reports(&self) -> Vec<PeerReport> {
        let (major, minor, micro) = self.version;
        let report = |runs: &ModeRuns| {
            let mode = PeerMode {
                peer: format!("QEMU {major}.{minor}.{micro}"),
                name: runs.mode.name.clone(),
                bulk_only: self.bulk_only,
                capability: runs.mode.capability,
                source_parameters: runs.mode.source.clone(),
                destination_parameters: runs.mode.destination.clone(),
            };
            PeerReport::new(mode, &runs.runs, runs.failed.clone(), self.ram_bytes)
        };
        self.modes.iter().map(report).collect()
    }

    /// Migrates once, and compares what arrived. Of kind [`Kind::Differs`] if the destination's RAM is
    /// not the image; of kind [`Kind::Failed`] if a QEMU ends, refuses or fails.
    fn migrate(&self, mode: &Mode) -> Result<PeerRun> {
        let output = self.folder.join("peer.ram");
        let outcome = self.between(mode, &output);
        let digest = outcome
            .is_ok()
            .then(|| Guest::open_as(&output, ImageFormat::Raw)?.digest());
        // Each run gets new memory for its output.
        let _ = std::fs::remove_file(&output);
        let run = outcome?;
        match digest {
            Some(Ok(digest)) if digest != self.digest => Err(Error::new(
                Kind::Differs,
                format!(
                    "the digest of the image is {}, that of QEMU's RAM {digest}",
                    self.digest
                ),
            )),
            Some(Err(error)) => Err(error.into()),
            _ => Ok(run),
        }
    }

    fn between(&self, mode: &Mode, output: &Path) -> Result<PeerRun> {
        let socket = |name: &str| self.sockets.path().join(name);
        let start = |name: &str, ram: &Path, share, extra: &[&str]| {
            let monitor = socket(name);
            Qemu::start(self.command(ram, share, &monitor, extra), &monitor)
        };
        let mut destination = start("out", output, "on", &["-incoming", "defer"])?;
        let mut source = start("in", &self.image, "off", &[])?;
        for (end, parameters) in [
            (&mut destination, &mode.destination),
            (&mut source, &mode.source),
        ] {
            if let Some(name) = mode.capability {
                let list = json!([{"capability": name, "state": true}]);
                end.execute("migrate-set-capabilities", &json!({"capabilities": list}))?;
            }
            if parameters.as_object().is_some_and(|all| !all.is_empty()) {
                end.execute("migrate-set-parameters", parameters)?;
            }
        }
        let link = socket("link");
        let uri = json!({"uri": format!("unix:{}", link.display())});
        destination.execute("migrate-incoming", &uri)?;
        let before = (source.cpu_seconds()?, destination.cpu_seconds()?);
        let begin = Instant::now();
        source.execute("migrate", &uri)?;
        // If the destination has ended, it knows the reason better than the source.
        let state = wait(&mut source).map_err(|error| destination.end_of().unwrap_or(error))?;
        wait(&mut destination)?;
        let time = begin.elapsed();
        let rounded = |seconds: f64| (seconds * 1e6).round() / 1e6;
        let run = PeerRun {
            time: (time.as_secs_f64() * 1e6).round() / 1e3,
            wire_bytes: state["ram"]["transferred"]
                .as_u64()
                .filter(|_| mode.counts_bytes),
            source_cpu_seconds: rounded(source.cpu_seconds()? - before.0),
            destination_cpu_seconds: rounded(destination.cpu_seconds()? - before.1),
        };
        source.quit();
        destination.quit();
        let _ = std::fs::remove_file(link);
        Ok(run)
    }

    fn command(&self, ram: &Path, share: &str, monitor: &Path, extra: &[&str]) -> Command {
        let mut command = Command::new(&self.spec.binary);
        if let Some(data) = &self.spec.data {
            command.arg("-L").arg(data);
        }
        // QEMU wants a comma in a path doubled.
        let path = |path: &Path| path.display().to_string().replace(',', ",,");
        command
            .args([
                "-M",
                "pc,memory-backend=ram",
                "-accel",
                "tcg",
                "-nodefaults",
                "-S",
            ])
            .args([
                "-display",
                "none",
                "-m",
                &format!("{}M", self.ram_bytes / MIB),
            ])
            .arg("-object")
            .arg(format!(
                "memory-backend-file,id=ram,size={},mem-path={},share={share}",
                self.ram_bytes,
                path(ram)
            ))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", path(monitor)))
            .args(extra);
        command
    }
}

/// Waits until one end has completed; gives its last state.
fn wait(end: &mut Qemu) -> Result<Value> {
    let mut heard = (Value::Null, Instant::now());
    loop {
        let state = end.execute("query-migrate", &json!({}))?;
        match state["status"].as_str() {
            Some("completed") => return Ok(state),
            Some("failed" | "cancelled") => {
                let why = state["error-desc"].as_str().unwrap_or("without saying why");
                let what = format!("QEMU's migration failed: {}", printable(why));
                return Err(Error::new(Kind::Failed, what));
            }
            _ => {}
        }
        // Without the clock, which advances even if the migration hangs.
        let now = json!([
            state["status"],
            state["ram"]["transferred"],
            state["ram"]["remaining"]
        ]);
        if now != heard.0 {
            heard = (now, Instant::now());
        } else if heard.1.elapsed() > SILENCE {
            return Err(Error::new(
                Kind::Failed,
                "QEMU's migration makes no progress",
            ));
        }
        thread::sleep(POLL);
    }
}

/// Whether QEMU would fill an image's holes by reading its RAM: on tmpfs, a hole that is read through
/// a memory map becomes a page of the file.
fn loses_its_holes(image: &Path, blocks: u64, bytes: u64) -> bool {
    blocks.saturating_mul(512) < bytes
        && rustix::fs::statfs(image).is_ok_and(|about| about.f_type == TMPFS)
}

/// Copies a file with its holes filled, as they soon would be anyway. Reading fills none.
fn copy_whole(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    io::copy(&mut from, &mut to).map(|_| ())
}

impl ModeRuns {
    fn new(mode: Mode) -> ModeRuns {
        ModeRuns {
            mode,
            runs: Vec::new(),
            failed: None,
        }
    }
}

#[cfg(test)]
mod tests;
