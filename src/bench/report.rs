//! What is made of the runs: minimum, median and maximum, a table for people, JSON for programs.
//!
//! In the JSON document times are milliseconds and sizes bytes, unless a name says otherwise; all
//! names are stable. Those of a run are those of a migration's own report
//! ([`crate::stats::Report`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table, presets};
use serde::Serialize;

use super::measurement::{self, Run, Transport};
use super::sweep::Setting;
use super::{Bench, Request};
use crate::caps::Capability;
use crate::page::Digest;
use crate::params::{LinkSpec, TABLE, Value};
use crate::stats::Status;
use crate::units::format_bytes;

/// The name of the row that is no migration.
pub const MEMCPY: &str = "memcpy";

const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = (1_u64 << 30) as f64;

/// The least, the middle and the greatest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// As many are less as are greater; of an even count the mean of the middle two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// `None` without any number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Spread { min, median, max })
    }
}

/// What was measured, on what, and how.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// `completed`, or how far it came.
    pub status: Status,
    /// Why it did not come further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    /// The version of this crate.
    pub version: &'static str,
    /// Where it was measured.
    pub machine: Machine,
    /// What was migrated.
    pub image: Image,
    /// What joined the two ends.
    pub transport: Transport,
    /// The link that both ends emulated, if they did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkSpec>,
    /// Where what arrived was written to.
    pub scratch: String,
    /// How often each setting was to be measured.
    pub runs: u32,
    /// The parameters of all settings: all but the method and the level.
    pub parameters: BTreeMap<&'static str, Value>,
    /// Which capabilities were on.
    pub capabilities: BTreeMap<&'static str, bool>,
    /// The plain copy.
    pub memcpy: Memcpy,
    /// The migrations.
    pub settings: Vec<SettingReport>,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    /// What the processor calls itself, if it does.
    pub cpu_model: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: Option<String>,
}

impl Machine {
    /// This machine, by what `/proc` says.
    pub fn this() -> Machine {
        let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Machine {
            cpu_model: cpu_model(&cpu_info),
            cores: measurement::copy_threads(),
            kernel: kernel.map(|text| text.trim().to_owned()),
        }
    }
}

/// The first processor's name.
fn cpu_model(cpu_info: &str) -> Option<String> {
    cpu_info
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map(|(_, name)| name.trim().to_owned())
}

/// What was migrated.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// The file, or `synthetic`.
    pub path: String,
    /// What it was synthesised with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Its later states.
    pub then: Vec<String>,
    /// Its size.
    pub ram_bytes: u64,
    /// What of it is no hole.
    pub data_bytes: u64,
    /// The RAM digest of what had to arrive: of the last state, if there are later ones.
    pub digest: Digest,
}

/// The plain copy of the image's data out of its map.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memcpy {
    /// Copying threads.
    pub threads: usize,
    /// Each run's time.
    pub runs: Vec<f64>,
    /// How long it took.
    pub time: Option<Spread>,
    /// The guest's RAM, holes included, by the time.
    pub ram_bytes_per_second: Option<Spread>,
}

/// The migrations of one setting. Numbers are absent if there was no run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingReport {
    /// As the command line takes it.
    pub name: String,
    /// What compressed.
    pub method: &'static str,
    /// At which level.
    pub level: u8,
    /// Compressing threads.
    pub threads: u8,
    /// Each run.
    pub runs: Vec<Run>,
    /// From the source's start until the destination had taken over.
    pub time: Option<Spread>,
    /// RAM that was handled, in all rounds together and holes included, by the time.
    pub ram_bytes_per_second: Option<Spread>,
    /// Every byte from source to destination.
    pub wire_bytes: Option<Spread>,
    /// Bytes of guest RAM for each byte on the wire.
    pub ratio: Option<Spread>,
    /// The source's CPU seconds.
    pub source_cpu_seconds: Option<Spread>,
    /// The destination's CPU seconds.
    pub destination_cpu_seconds: Option<Spread>,
    /// CPU seconds of both ends for each GiB of RAM that was handled.
    pub cpu_seconds_per_gib: Option<Spread>,
    /// From the last round's beginning to the proof; only if there were later rounds.
    pub downtime: Option<Spread>,
}

impl SettingReport {
    fn new(setting: Setting, threads: u8, runs: &[Run]) -> SettingReport {
        let spread = |of: fn(&Run) -> f64| Spread::of(runs.iter().map(of));
        SettingReport {
            name: setting.to_string(),
            method: setting.method.name(),
            level: setting.level,
            threads,
            time: spread(|run| run.time),
            ram_bytes_per_second: spread(|run| rate(run.ram_bytes, run.time)),
            wire_bytes: spread(|run| run.wire_bytes as f64),
            ratio: spread(|run| run.ratio),
            source_cpu_seconds: spread(Run::source_cpu),
            destination_cpu_seconds: spread(Run::destination_cpu),
            cpu_seconds_per_gib: spread(|run| {
                let gib = run.ram_bytes.max(1) as f64 / GIB;
                (run.source_cpu() + run.destination_cpu()) / gib
            }),
            downtime: Spread::of(runs.iter().filter_map(|run| run.downtime)),
            runs: runs.to_vec(),
        }
    }
}

/// Bytes a second.
fn rate(bytes: u64, milliseconds: f64) -> f64 {
    bytes as f64 / (milliseconds / 1e3).max(1e-9)
}

fn milliseconds(time: &Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Report {
    pub(super) fn new(bench: &Bench) -> Report {
        let Request {
            params,
            caps,
            settings,
            ..
        } = &bench.request;
        let copies: Vec<f64> = bench.copies.iter().map(milliseconds).collect();
        Report {
            status: bench.status,
            error_desc: bench.error.clone(),
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::this(),
            image: Image {
                path: match bench.request.seed {
                    Some(_) => "synthetic".to_owned(),
                    None => shown(bench.course.image()),
                },
                seed: bench.request.seed,
                then: bench.course.then().iter().map(|path| shown(path)).collect(),
                ram_bytes: bench.ram_bytes,
                data_bytes: bench.data_bytes,
                digest: bench.digest,
            },
            transport: bench.request.transport,
            link: params.link,
            scratch: shown(&bench.scratch),
            runs: bench.request.runs,
            parameters: TABLE
                .iter()
                .filter(|row| !["compress-method", "compress-level"].contains(&row.name))
                .map(|row| (row.name, (row.get)(params)))
                .collect(),
            capabilities: Capability::ALL
                .into_iter()
                .map(|capability| (capability.name(), caps.has(capability)))
                .collect(),
            memcpy: Memcpy {
                threads: measurement::copy_threads(),
                time: Spread::of(copies.iter().copied()),
                ram_bytes_per_second: Spread::of(
                    copies.iter().map(|time| rate(bench.ram_bytes, *time)),
                ),
                runs: copies,
            },
            settings: settings
                .iter()
                .zip(&bench.runs)
                .map(|(setting, runs)| SettingReport::new(*setting, params.compress_threads, runs))
                .collect(),
        }
    }

    /// Whether there is a migration in it.
    pub fn has_runs(&self) -> bool {
        self.settings.iter().any(|setting| !setting.runs.is_empty())
    }

    /// The medians, for people. A dash stands where nothing was measured.
    pub fn table(&self) -> String {
        let downtime = !self.image.then.is_empty();
        let mut header = vec![
            "setting",
            "time\n[ms]",
            "min to max\n[ms]",
            "RAM\n[MiB/s]",
            "on the wire\n[MiB]",
            "ratio",
            "source\n[CPU s]",
            "dest.\n[CPU s]",
            "both\n[CPU s/GiB]",
        ];
        if downtime {
            header.push("downtime\n[ms]");
        }
        let columns = header.len();
        let mut table = Table::new();
        let line = LineStyle::none().fill('─').junction('─');
        table
            .load_style(presets::NOTHING.header_separator(line).bottom_border(line))
            .set_header(header);
        let mut memcpy = vec![MEMCPY.to_owned()];
        memcpy.extend(times(self.memcpy.time));
        memcpy.push(median(self.memcpy.ram_bytes_per_second, MIB, 0));
        memcpy.resize(columns, NOTHING.to_owned());
        table.add_row(memcpy);
        for setting in &self.settings {
            let mut row = vec![setting.name.clone()];
            row.extend(times(setting.time));
            row.extend([
                median(setting.ram_bytes_per_second, MIB, 0),
                median(setting.wire_bytes, MIB, 2),
                median(setting.ratio, 1.0, 3),
                median(setting.source_cpu_seconds, 1.0, 3),
                median(setting.destination_cpu_seconds, 1.0, 3),
                median(setting.cpu_seconds_per_gib, 1.0, 2),
            ]);
            if downtime {
                row.push(median(setting.downtime, 1.0, 1));
            }
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n{}\n{}", self.head(), table.trim_fmt(), self.foot())
    }

    /// What the table is about.
    fn head(&self) -> String {
        let image = match (self.image.seed, self.image.then.len()) {
            (Some(seed), _) => format!("a synthesised guest (seed {seed})"),
            (None, 0) => self.image.path.clone(),
            (None, later) => format!("{} and {later} later", self.image.path),
        };
        let machine = match &self.machine.cpu_model {
            Some(model) => format!("{model}, "),
            None => String::new(),
        };
        let connections = match self.parameters.get("connections") {
            Some(Value::Number(number)) if *number > 1 => format!(", {number} connections"),
            _ => String::new(),
        };
        let emulated = match self.link {
            Some(link) => format!(" emulating {link}"),
            None => String::new(),
        };
        let threads = |name| {
            let value = self.parameters.get(name);
            value.map_or_else(String::new, ToString::to_string)
        };
        let runs = match (self.status, self.runs) {
            (_, 1) => "1 run".to_owned(),
            (Status::Completed, runs) => format!("{runs} runs"),
            // Not every setting had all of them.
            (_, runs) => format!("up to {runs} runs"),
        };
        format!(
            "{image}: {} of RAM, {} of it data\n{machine}{} cores; {} compressing and {} \
             decompressing threads, {} link{emulated}{connections}; medians of {runs}",
            format_bytes(self.image.ram_bytes),
            format_bytes(self.image.data_bytes),
            self.machine.cores,
            threads("compress-threads"),
            threads("decompress-threads"),
            self.transport,
        )
    }

    /// How to read the table.
    fn foot(&self) -> String {
        format!(
            "RAM rates count holes, as a guest does. {MEMCPY} copies the data out of the image, with \
             {} threads.\nEvery migration was proven: digest {}.\n",
            self.memcpy.threads, self.image.digest
        )
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Stands where nothing was measured.
const NOTHING: &str = "-";

/// The median in units of `unit`, with so many decimals.
fn median(spread: Option<Spread>, unit: f64, decimals: usize) -> String {
    spread.map_or_else(
        || NOTHING.to_owned(),
        |spread| format!("{:.decimals$}", spread.median / unit),
    )
}

/// The median, and from where to where it goes.
fn times(spread: Option<Spread>) -> [String; 2] {
    let range = spread.map_or_else(
        || NOTHING.to_owned(),
        |spread| format!("{:.1} to {:.1}", spread.min, spread.max),
    );
    [median(spread, 1.0, 1), range]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Method;

    fn run(time: f64) -> Run {
        Run {
            time,
            downtime: Some(time / 10.0),
            ram_bytes: 1 << 30,
            wire_bytes: 1 << 28,
            ratio: 4.0,
            source_cpu_seconds: BTreeMap::from([("codec", 0.4), ("total", 0.5)]),
            destination_cpu_seconds: BTreeMap::from([("total", 0.25)]),
            process_cpu_seconds: 0.8,
            rounds: vec![],
            digest: Digest(7),
        }
    }

    fn report(then: &[&str]) -> Report {
        let setting = |method, level, runs: &[Run]| {
            let setting = Setting::new(method, level).expect("a level");
            SettingReport::new(setting, 8, runs)
        };
        Report {
            status: Status::Completed,
            error_desc: None,
            version: "0",
            machine: Machine {
                cpu_model: Some("A CPU".to_owned()),
                cores: 2,
                kernel: None,
            },
            image: Image {
                path: "guest.ram".to_owned(),
                seed: None,
                then: then.iter().map(|&path| path.to_owned()).collect(),
                ram_bytes: 1 << 30,
                data_bytes: 1 << 29,
                digest: Digest(7),
            },
            transport: Transport::Unix,
            link: None,
            scratch: "/tmp".to_owned(),
            runs: 3,
            parameters: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            memcpy: Memcpy {
                threads: 2,
                runs: vec![100.0],
                time: Spread::of([100.0]),
                ram_bytes_per_second: Spread::of([10.0 * GIB]),
            },
            settings: vec![
                setting(Method::Zstd, 1, &[run(2000.0), run(900.0), run(1000.0)]),
                setting(Method::None, 0, &[]),
            ],
        }
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order_and_the_count() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        for values in [&[3.0, 1.0, 2.0][..], &[2.5, 3.0, 1.0, 1.5]] {
            let expected = Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0,
            };
            assert_eq!(spread(values), Some(expected));
        }
    }

    #[test]
    fn the_table_shows_medians_with_units_and_a_dash_for_what_was_not_measured() {
        let table = report(&[]).table();
        let line = |name: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.trim().starts_with(name));
            let words = line.expect(name).split_whitespace();
            words.map(str::to_owned).collect()
        };
        assert_eq!(
            line("zstd:1").join(" "),
            "zstd:1 1000.0 900.0 to 2000.0 1024 256.00 4.000 0.500 0.250 0.75"
        );
        assert_eq!(line("none").join(" "), "none - - - - - - - -");
        assert_eq!(
            line("memcpy").join(" "),
            "memcpy 100.0 100.0 to 100.0 10240 - - - - -"
        );
        assert!(table.contains("A CPU, 2 cores") && table.contains("[MiB/s]"));
        assert!(!table.contains("downtime"));
        assert!(table.lines().all(|line| line.chars().count() <= 110));
    }

    #[test]
    fn an_emulated_link_is_told_and_only_then() {
        let mut report = report(&[]);
        let json = serde_json::to_value(&report).expect("plain values");
        assert!(json.get("link").is_none() && report.table().contains("unix link; medians"));
        report.link = "1Gbit/20ms".parse().ok();
        let json = serde_json::to_value(&report).expect("plain values");
        assert_eq!(json["link"], "1Gbit/20ms");
        assert!(report.table().contains("unix link emulating 1Gbit/20ms;"));
    }

    #[test]
    fn downtime_is_shown_if_there_are_later_rounds() {
        let table = report(&["later.ram"]).table();
        let line = table.lines().find(|line| line.contains("zstd:1"));
        assert!(table.contains("downtime"));
        assert!(line.expect("its row").trim().ends_with(" 100.0"));
    }

    #[test]
    fn the_document_has_every_run_and_what_is_made_of_them_under_stable_names() {
        let json = serde_json::to_value(report(&[])).expect("plain values");
        for name in [
            "status",
            "version",
            "machine",
            "image",
            "transport",
            "scratch",
            "runs",
            "parameters",
            "capabilities",
            "memcpy",
            "settings",
        ] {
            assert!(!json[name].is_null(), "{name}");
        }
        assert_eq!(json["machine"]["cpu-model"], "A CPU");
        assert_eq!(json["image"]["data-bytes"], 1 << 29);
        let setting = &json["settings"][0];
        assert_eq!(setting["time"]["median"], 1000.0);
        assert_eq!(setting["ram-bytes-per-second"]["max"], (GIB / 0.9));
        let run = &setting["runs"][0];
        assert_eq!(run["time"], 2000.0);
        assert_eq!(run["wire-bytes"], 1 << 28);
        assert_eq!(run["source-cpu-seconds"]["codec"], 0.4);
        assert!(json["settings"][1]["time"].is_null());
    }

    #[test]
    fn the_processor_is_named_if_it_names_itself() {
        let text = "processor\t: 0\nmodel name\t: Fast: one\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(cpu_model(text).as_deref(), Some("Fast: one"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }
}
