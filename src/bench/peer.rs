//! A real QEMU as something to compare with: its own ways of migrating, between two stopped guests
//! whose RAM is the image and a fresh file, CPU of both processes counted.
//!
//! What QEMU does not tell is unknown and not guessed: up to 9 it counts the bytes of multifd
//! before they are compressed. Its levels are 1, for 7.2 takes no other through QMP.

mod qmp;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::scratch::Scratch;
use super::statistics::{Summary, Suspicion};
use crate::error::{Error, Kind, Result, printable};
use crate::image::Guest;
use crate::page::Digest;
use qmp::Qemu;

pub use qmp::kill_all;

/// The program that is taken unless another one is named.
pub const BINARY: &str = "qemu-system-x86_64";
/// How often QEMU is asked whether it is done, as a supervisor would.
const POLL: Duration = Duration::from_millis(5);
/// No limit, in QEMU's bytes a second.
const NO_LIMIT: u64 = 1 << 40;
/// A migration that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;

/// Which QEMU: `qemu[:BINARY[,DATADIR]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpec {
    /// The program.
    pub binary: PathBuf,
    /// Where its firmware lies, if it is not installed.
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
                    "'{}' is no peer: allowed is qemu[:BINARY[,DATADIR]]",
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

/// A QEMU that can be run, and what it is compared on.
#[derive(Debug)]
pub struct Peer {
    spec: PeerSpec,
    version: (u32, u32, u32),
    modes: Vec<Mode>,
    image: PathBuf,
    ram_bytes: u64,
    digest: Digest,
    folder: PathBuf,
}

/// One of QEMU's ways.
#[derive(Debug, Clone, PartialEq)]
struct Mode {
    name: &'static str,
    capability: Option<&'static str>,
    source: Value,
    destination: Value,
    /// Whether it counts the bytes that it writes.
    counts_bytes: bool,
}

/// One migration between two QEMUs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerRun {
    /// Milliseconds from the command to migrate until both ends say that they are done.
    pub time: f64,
    /// Bytes of RAM's stream; null where QEMU does not count them.
    pub wire_bytes: Option<u64>,
    /// The source's CPU seconds meanwhile, to a hundredth.
    pub source_cpu_seconds: f64,
    /// The destination's CPU seconds meanwhile, to a hundredth.
    pub destination_cpu_seconds: f64,
}

/// The migrations of one of QEMU's ways.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerReport {
    /// QEMU, its version, and the way.
    pub name: String,
    /// Each run.
    pub runs: Vec<PeerRun>,
    /// How long it took.
    pub time: Option<Summary>,
    /// RAM, holes included, by the time.
    pub ram_bytes_per_second: Option<Summary>,
    /// Bytes of RAM's stream, where QEMU counts them.
    pub wire_bytes: Option<Summary>,
    /// Bytes of guest RAM for each of those.
    pub ratio: Option<Summary>,
    /// The source's CPU seconds.
    pub source_cpu_seconds: Option<Summary>,
    /// The destination's CPU seconds.
    pub destination_cpu_seconds: Option<Summary>,
    /// CPU seconds of both ends for each GiB of RAM.
    pub cpu_seconds_per_gib: Option<Summary>,
    /// What is suspicious about the times.
    #[serde(flatten)]
    pub suspicion: Suspicion,
}

impl Peer {
    /// Asks the program for its version. What arrives will be written to `scratch`, and must have
    /// this digest.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] for a program that is missing or no QEMU, and for an image that
    /// QEMU cannot have as its RAM: a guest folder, or no whole MiB.
    pub fn new(
        spec: PeerSpec,
        image: &Path,
        digest: Digest,
        threads: u8,
        scratch: &Scratch,
    ) -> Result<Peer> {
        let usage = |what: String| Error::new(Kind::Usage, what);
        let shown = spec.binary.display().to_string();
        let output = Command::new(&spec.binary)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| usage(format!("the peer '{shown}' cannot be run: {error}")))?;
        let words = String::from_utf8_lossy(&output.stdout);
        let version = version(&words)
            .ok_or_else(|| usage(format!("the peer '{shown}' does not say that it is a QEMU")))?;
        let about = std::fs::metadata(image);
        let ram_bytes = about.map_or(0, |about| if about.is_file() { about.len() } else { 0 });
        if ram_bytes == 0 || !ram_bytes.is_multiple_of(MIB) {
            let what = "with --peer the image has to be a file of whole MiB: a guest's whole RAM";
            return Err(usage(what.to_owned()));
        }
        let image = image
            .canonicalize()
            .map_err(|error| Error::new(Kind::Failed, error))?;
        Ok(Peer {
            modes: modes(version, threads),
            spec,
            version,
            image,
            ram_bytes,
            digest,
            folder: scratch.path().to_owned(),
        })
    }

    /// The names of its ways.
    pub fn names(&self) -> Vec<String> {
        let (major, minor, patch) = self.version;
        let name = |mode: &Mode| format!("QEMU {major}.{minor}.{patch} {}", mode.name);
        self.modes.iter().map(name).collect()
    }

    /// Migrates once in the way of this number, and compares what arrived.
    ///
    /// # Errors
    /// Of kind [`Kind::Differs`] when the destination's RAM is not the image; of kind
    /// [`Kind::Failed`] when a QEMU ends, refuses or fails.
    pub fn migrate(&self, mode: usize) -> Result<PeerRun> {
        let Some(mode) = self.modes.get(mode) else {
            return Err(Error::new(Kind::Usage, "the peer has no such mode"));
        };
        let output = self.folder.join("peer.ram");
        let outcome = self.between(mode, &output);
        let digest = outcome.is_ok().then(|| Guest::open(&output)?.digest());
        // Each run gets fresh memory for its output.
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
        let start = |name: &str, ram: &Path, share, extra: &[&str]| {
            let monitor = self.folder.join(name);
            Qemu::start(self.command(ram, share, &monitor, extra), &monitor)
        };
        let mut destination = start("peer-out", output, "on", &["-incoming", "defer"])?;
        let mut source = start("peer-in", &self.image, "off", &[])?;
        for (end, parameters) in [
            (&mut destination, &mode.destination),
            (&mut source, &mode.source),
        ] {
            if let Some(name) = mode.capability {
                let list = json!([{"capability": name, "state": true}]);
                end.ask("migrate-set-capabilities", &json!({"capabilities": list}))?;
            }
            if parameters.as_object().is_some_and(|all| !all.is_empty()) {
                end.ask("migrate-set-parameters", parameters)?;
            }
        }
        let link = self.folder.join("peer-link");
        let uri = json!({"uri": format!("unix:{}", link.display())});
        destination.ask("migrate-incoming", &uri)?;
        let before = (source.cpu_seconds()?, destination.cpu_seconds()?);
        let begin = Instant::now();
        source.ask("migrate", &uri)?;
        let told = wait(&mut source, begin)?;
        wait(&mut destination, begin)?;
        let time = begin.elapsed();
        let run = PeerRun {
            time: (time.as_secs_f64() * 1e6).round() / 1e3,
            wire_bytes: told["ram"]["transferred"]
                .as_u64()
                .filter(|_| mode.counts_bytes),
            source_cpu_seconds: source.cpu_seconds()? - before.0,
            destination_cpu_seconds: destination.cpu_seconds()? - before.1,
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
        // A comma in a path is written twice there.
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

/// Waits until one end is done, and gives what it says then.
fn wait(end: &mut Qemu, begin: Instant) -> Result<Value> {
    loop {
        let state = end.ask("query-migrate", &json!({}))?;
        match state["status"].as_str() {
            Some("completed") => return Ok(state),
            Some("failed" | "cancelled") => {
                let why = state["error-desc"].as_str().unwrap_or("without saying why");
                let what = format!("QEMU's migration failed: {}", printable(why));
                return Err(Error::new(Kind::Failed, what));
            }
            _ if begin.elapsed() > LONGEST => {
                return Err(Error::new(Kind::Failed, "QEMU's migration does not end"));
            }
            _ => thread::sleep(POLL),
        }
    }
}

/// What `--version` says: `QEMU emulator version 7.2.22 (Debian ...)`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let rest = text.split_once("QEMU emulator version ")?.1;
    let digits = rest
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut numbers = digits.split('.').map(|number| number.parse().ok());
    let major = numbers.next()??;
    let minor = numbers.next()??;
    Some((major, minor, numbers.next().flatten().unwrap_or(0)))
}

/// The ways that this version has.
fn modes((major, minor, _): (u32, u32, u32), threads: u8) -> Vec<Mode> {
    let bandwidth = json!({"max-bandwidth": NO_LIMIT});
    let with = |more: Value| {
        let mut all = bandwidth.clone();
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    };
    let mut modes = vec![Mode {
        name: "plain",
        capability: None,
        source: bandwidth.clone(),
        destination: json!({}),
        counts_bytes: true,
    }];
    if (major, minor) < (9, 1) {
        modes.push(Mode {
            name: "compress zlib:1",
            capability: Some("compress"),
            source: with(json!({"compress-level": 1, "compress-threads": threads})),
            destination: json!({"decompress-threads": threads}),
            counts_bytes: true,
        });
    }
    for (name, method) in [
        ("multifd none", "none"),
        ("multifd zlib:1", "zlib"),
        ("multifd zstd:1", "zstd"),
    ] {
        let parameters = json!({"multifd-channels": threads, "multifd-compression": method});
        modes.push(Mode {
            name,
            capability: Some("multifd"),
            source: with(parameters.clone()),
            destination: parameters,
            counts_bytes: method == "none" || major >= 10,
        });
    }
    modes
}

impl PeerReport {
    /// Summarises the runs of one way.
    pub fn new(name: String, runs: &[PeerRun], ram_bytes: u64) -> PeerReport {
        let summary = |of: &dyn Fn(&PeerRun) -> f64| Summary::of(runs.iter().map(of));
        let bytes = runs.iter().filter_map(|run| run.wire_bytes);
        let ram = ram_bytes as f64;
        let times: Vec<f64> = runs.iter().map(|run| run.time).collect();
        PeerReport {
            name,
            time: summary(&|run| run.time),
            ram_bytes_per_second: summary(&|run| ram * 1e3 / run.time.max(1e-6)),
            wire_bytes: Summary::of(bytes.clone().map(|bytes| bytes as f64)),
            ratio: Summary::of(bytes.map(|bytes| ram / bytes.max(1) as f64)),
            source_cpu_seconds: summary(&|run| run.source_cpu_seconds),
            destination_cpu_seconds: summary(&|run| run.destination_cpu_seconds),
            cpu_seconds_per_gib: summary(&|run| {
                (run.source_cpu_seconds + run.destination_cpu_seconds) * (1_u64 << 30) as f64 / ram
            }),
            suspicion: Suspicion::of(&times),
            runs: runs.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests;
