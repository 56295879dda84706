//! What virsh's `domjobinfo` shows of a migration, made from a `query-migrate` reply of ours or of
//! a QEMU's.
//!
//! The lines, their order and layout are virsh's, and so are the keys of [`JobInfo::raw`], which
//! are libvirt's typed parameters. As there, what the reply lacks is left out, and so are groups of
//! sizes and rates that are zero; other counts are shown even then. What QEMU counts and virsh does
//! not show comes after that if it is not zero, in QEMU's own words (those of its `info migrate`).

use std::fmt;
use std::time::Duration;

use crate::text::printable;
use serde_json::{Map, Value};

/// The state of a job; the names are virsh's, the numbers libvirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobType {
    /// Nothing was ever started.
    None = 0,
    /// It runs, for an unknown time.
    Unbounded = 2,
    /// It completed.
    Completed = 3,
    /// It failed.
    Failed = 4,
    /// It was cancelled.
    Cancelled = 5,
}

impl JobType {
    /// virsh's name for it.
    pub fn name(self) -> &'static str {
        match self {
            JobType::None => "None",
            JobType::Unbounded => "Unbounded",
            JobType::Completed => "Completed",
            JobType::Failed => "Failed",
            JobType::Cancelled => "Cancelled",
        }
    }

    /// Of a status as `query-migrate` and `MIGRATION` events name it. An unknown one is
    /// taken for another step of a running migration: newer QEMUs have more of them.
    pub fn of_status(status: &str) -> JobType {
        match status {
            "none" => JobType::None,
            "completed" => JobType::Completed,
            "failed" => JobType::Failed,
            "cancelled" => JobType::Cancelled,
            _ => JobType::Unbounded,
        }
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        matches!(
            self,
            JobType::Completed | JobType::Failed | JobType::Cancelled
        )
    }
}

/// Which way a migration goes; the numbers are libvirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// At its destination.
    Incoming = 4,
    /// At its source.
    Outgoing = 5,
}

impl Operation {
    /// virsh's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Incoming => "Incoming migration",
            Operation::Outgoing => "Outgoing migration",
        }
    }
}

/// The state of a migration.
#[derive(Debug, Clone, PartialEq)]
pub struct JobInfo {
    status: String,
    operation: Operation,
    /// The reply, where every number comes from.
    reply: Map<String, Value>,
    /// Bytes per second since an earlier look.
    current_rate: Option<u64>,
}

impl JobInfo {
    /// From a reply of `query-migrate`. A QEMU's does not say which side it is; `run_state`,
    /// the status of its `query-status`, then helps.
    pub fn new(reply: &Value, run_state: Option<&str>) -> JobInfo {
        let reply = reply.as_object().cloned().unwrap_or_default();
        let status = reply.get("status").and_then(Value::as_str);
        let status = printable(status.unwrap_or("none"));
        let side = reply.get("side").and_then(Value::as_str);
        // A QEMU that receives counts no RAM.
        let counts = reply.contains_key("ram") || !matches!(&*status, "active" | "completed");
        let operation = match (side, run_state) {
            (Some("destination"), _) | (None, Some("inmigrate")) => Operation::Incoming,
            (None, _) if !counts => Operation::Incoming,
            _ => Operation::Outgoing,
        };
        JobInfo {
            status,
            operation,
            reply,
            current_rate: None,
        }
    }

    /// Whether [`JobInfo::new`] needs a run state.
    pub fn lacks_side(reply: &Value) -> bool {
        reply.get("status").is_some() && reply.get("side").is_none()
    }

    /// Adds how fast it went since an earlier look at the same job.
    #[must_use]
    pub fn since(mut self, earlier: &JobInfo, time: Duration) -> JobInfo {
        let sent = |info: &JobInfo| info.number("ram/transferred");
        if let (Some(now), Some(then)) = (sent(&self), sent(earlier))
            && let Some(bytes) = now.checked_sub(then)
            && !time.is_zero()
        {
            self.current_rate = Some((bytes as f64 / time.as_secs_f64()) as u64);
        }
        self
    }

    /// The state of the job.
    pub fn job_type(&self) -> JobType {
        JobType::of_status(&self.status)
    }

    /// Why it failed, in the monitor's words.
    pub fn error(&self) -> Option<&str> {
        self.reply.get("error-desc").and_then(Value::as_str)
    }

    /// Everything under libvirt's keys, in libvirt's order, then what libvirt does not have. Sizes
    /// are bytes, times milliseconds.
    pub fn raw(&self) -> Vec<(&'static str, Value)> {
        let mut list = Vec::new();
        if self.job_type() == JobType::None {
            return list;
        }
        list.push(("operation", (self.operation as u8).into()));
        let mut put = |key, value: Option<u64>| list.extend(value.map(|value| (key, value.into())));
        put("time_elapsed", self.number("total-time"));
        put("downtime", self.downtime());
        put("setup_time", self.number("setup-time"));
        for (index, key) in ["data_total", "data_processed", "data_remaining"]
            .into_iter()
            .enumerate()
        {
            put(key, self.data().map(|sizes| sizes[index]));
        }
        put("memory_total", self.number("ram/total"));
        put("memory_processed", self.number("ram/transferred"));
        put("memory_remaining", self.number("ram/remaining"));
        put("memory_bps", self.rate("ram/mbps"));
        put("memory_constant", self.number("ram/duplicate"));
        put("memory_normal", self.number("ram/normal"));
        put("memory_normal_bytes", self.number("ram/normal-bytes"));
        put("memory_dirty_rate", self.number("ram/dirty-pages-rate"));
        put("memory_iteration", self.number("ram/dirty-sync-count"));
        put(
            "memory_postcopy_requests",
            self.number("ram/postcopy-requests"),
        );
        put("memory_page_size", self.number("ram/page-size"));
        put("disk_total", self.number("disk/total"));
        put("disk_processed", self.number("disk/transferred"));
        put("disk_remaining", self.number("disk/remaining"));
        put("disk_bps", self.rate("disk/mbps"));
        put("compression_cache", self.number("xbzrle-cache/cache-size"));
        put("compression_bytes", self.number("xbzrle-cache/bytes"));
        put("compression_pages", self.number("xbzrle-cache/pages"));
        put(
            "compression_cache_misses",
            self.number("xbzrle-cache/cache-miss"),
        );
        put("compression_overflow", self.number("xbzrle-cache/overflow"));
        put("auto_converge_throttle", self.throttle());
        if self.job_type().is_over() {
            let success = self.job_type() == JobType::Completed;
            list.push(("success", success.into()));
        }
        let mut put = |key, value: Option<Value>| list.extend(value.map(|value| (key, value)));
        let text = |text: &str| Value::from(printable(text));
        put("errmsg", self.error().map(text));
        put("status", Some(self.status.as_str().into()));
        for (key, path) in BEYOND_LIBVIRT {
            let found = self.find(path).and_then(|value| match value {
                Value::Number(number) => Some(Value::from(number.clone())),
                Value::String(word) => Some(text(word)),
                _ => None,
            });
            put(key, found);
        }
        put("current_bps", self.current_rate.map(Value::from));
        list
    }

    /// The value at `part/part` of the reply.
    fn find(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let value = self.reply.get(first)?;
        if rest.is_empty() {
            Some(value)
        } else {
            value.get(rest)
        }
    }

    fn double(&self, path: &str) -> Option<f64> {
        self.find(path)?.as_f64()
    }

    /// A count or a time; our own times have fractions. What is negative counts as absent.
    fn number(&self, path: &str) -> Option<u64> {
        let value = self.find(path)?;
        let rounded = || {
            let number = value.as_f64()?.round();
            (number >= 0.0).then_some(number as u64)
        };
        value.as_u64().or_else(rounded)
    }

    /// A rate in Mbit/s as bytes per second; zero counts as absent.
    fn rate(&self, path: &str) -> Option<u64> {
        let bytes = self.double(path)? * 1e6 / 8.0;
        (bytes >= 1.0).then_some(bytes as u64)
    }

    /// The downtime; while the job runs, the expected one.
    fn downtime(&self) -> Option<u64> {
        self.number("downtime")
            .or_else(|| self.number("expected-downtime"))
    }

    fn throttle(&self) -> Option<u64> {
        self.number("cpu-throttle-percentage")
            .filter(|percent| *percent > 0)
    }

    /// Total, processed and remaining, if there are any.
    fn sizes(&self, part: &str) -> Option<[u64; 3]> {
        self.reply.get(part)?;
        let size = |name: &str| self.number(&format!("{part}/{name}")).unwrap_or(0);
        Some([size("total"), size("transferred"), size("remaining")])
    }

    /// Memory and disks.
    fn data(&self) -> Option<[u64; 3]> {
        let (memory, disk) = (self.sizes("ram"), self.sizes("disk"));
        if memory.is_none() && disk.is_none() {
            return None;
        }
        let (memory, disk) = (memory.unwrap_or_default(), disk.unwrap_or_default());
        Some([0, 1, 2].map(|index: usize| memory[index].saturating_add(disk[index])))
    }
}

/// What is in a reply and not in libvirt: keys, and where it is.
const BEYOND_LIBVIRT: [(&str, &str); 16] = [
    ("memory_pages_per_second", "ram/pages-per-second"),
    ("memory_precopy_bytes", "ram/precopy-bytes"),
    ("memory_downtime_bytes", "ram/downtime-bytes"),
    ("memory_postcopy_bytes", "ram/postcopy-bytes"),
    (
        "compression_cache_miss_rate",
        "xbzrle-cache/cache-miss-rate",
    ),
    ("compression_encoding_rate", "xbzrle-cache/encoding-rate"),
    ("compression_mt_pages", "compression/pages"),
    ("compression_mt_busy", "compression/busy"),
    ("compression_mt_busy_rate", "compression/busy-rate"),
    ("compression_mt_bytes", "compression/compressed-size"),
    ("compression_mt_rate", "compression/compression-rate"),
    ("method", "method"),
    ("level", "level"),
    ("threads", "threads"),
    ("connections", "connections"),
    ("ratio", "ratio"),
];

/// A size as virsh scales it: three decimals and the largest unit that leaves at least one.
#[derive(Debug, Clone, Copy)]
pub struct PrettyCapacity(pub u64);

impl fmt::Display for PrettyCapacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let power = self.0.checked_ilog2().unwrap_or(0) / 10;
        let unit = UNITS.get(power as usize).unwrap_or(&"EiB");
        let scaled = self.0 as f64 / (1_u64 << (10 * power)) as f64;
        write!(f, "{scaled:.3} {unit}")
    }
}

/// Writes virsh's lines: a label padded to 17, and a value that is padded if it is an integer.
struct Lines<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Lines<'_, '_> {
    fn text(&mut self, label: &str, text: &str) -> fmt::Result {
        writeln!(self.0, "{label:<17} {text}")
    }

    fn size(&mut self, label: &str, bytes: Option<u64>) -> fmt::Result {
        match bytes {
            Some(bytes) => self.text(label, &PrettyCapacity(bytes).to_string()),
            None => Ok(()),
        }
    }

    fn rate(&mut self, label: &str, bytes: Option<u64>) -> fmt::Result {
        match bytes {
            Some(bytes) => self.text(label, &format!("{}/s", PrettyCapacity(bytes))),
            None => Ok(()),
        }
    }

    /// An integer with its unit.
    fn count(&mut self, label: &str, number: Option<u64>, unit: &str) -> fmt::Result {
        match (number, unit) {
            (Some(number), "") => self.text(label, &format!("{number:<12}")),
            (Some(number), unit) => self.text(label, &format!("{number:<12} {unit}")),
            (None, _) => Ok(()),
        }
    }

    /// As virsh's last lines: one wider.
    fn wide(&mut self, label: &str, number: Option<u64>) -> fmt::Result {
        match number {
            Some(number) => self.text(label, &format!("{number:<13}")),
            None => Ok(()),
        }
    }

    /// A ratio, if there is one.
    fn ratio(&mut self, label: &str, number: Option<f64>) -> fmt::Result {
        match number.filter(|number| *number > 0.0) {
            Some(number) => self.text(label, &format!("{number:.3}")),
            None => Ok(()),
        }
    }

    fn group(&mut self, label: &str, sizes: Option<[u64; 3]>) -> Result<bool, fmt::Error> {
        let Some([total, processed, remaining]) = sizes.filter(|sizes| *sizes != [0; 3]) else {
            return Ok(false);
        };
        self.size(&format!("{label} processed:"), Some(processed))?;
        self.size(&format!("{label} remaining:"), Some(remaining))?;
        self.size(&format!("{label} total:"), Some(total))?;
        Ok(true)
    }
}

/// The alternate form, `{:#}`, puts what virsh does not show first, for places where only the first
/// lines may be visible.
impl fmt::Display for JobInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beyond_first = f.alternate();
        let mut lines = Lines(f);
        let job = self.job_type();
        lines.text("Job type:", &format!("{:<12}", job.name()))?;
        if job == JobType::None {
            return Ok(());
        }
        lines.text("Operation:", &format!("{:<12}", self.operation.name()))?;
        if matches!(job, JobType::Failed | JobType::Cancelled) {
            return match self.error() {
                Some(why) => lines.text("Error message:", &printable(why)),
                None => Ok(()),
            };
        }
        lines.count("Time elapsed:", self.number("total-time"), "ms")?;
        if beyond_first {
            self.beyond_virsh(&mut lines)?;
        }
        lines.group("Data", self.data())?;
        if lines.group("Memory", self.sizes("ram"))? {
            lines.rate("Memory bandwidth:", self.rate("ram/mbps"))?;
            lines.count(
                "Dirty rate:",
                self.number("ram/dirty-pages-rate"),
                "pages/s",
            )?;
            lines.count("Page size:", self.number("ram/page-size"), "bytes")?;
            lines.count("Iteration:", self.number("ram/dirty-sync-count"), "")?;
            lines.count(
                "Postcopy requests:",
                self.number("ram/postcopy-requests"),
                "",
            )?;
        }
        if lines.group("File", self.sizes("disk"))? {
            lines.rate("File bandwidth:", self.rate("disk/mbps"))?;
        }
        lines.count("Constant pages:", self.number("ram/duplicate"), "")?;
        lines.count("Normal pages:", self.number("ram/normal"), "")?;
        lines.size("Normal data:", self.number("ram/normal-bytes"))?;
        let downtime = match job {
            JobType::Completed => "Total downtime:",
            _ => "Expected downtime:",
        };
        lines.count(downtime, self.downtime(), "ms")?;
        lines.count("Setup time:", self.number("setup-time"), "ms")?;
        lines.size("Compression cache:", self.number("xbzrle-cache/cache-size"))?;
        lines.size("Compressed data:", self.number("xbzrle-cache/bytes"))?;
        lines.wide("Compressed pages:", self.number("xbzrle-cache/pages"))?;
        lines.wide(
            "Compression cache misses:",
            self.number("xbzrle-cache/cache-miss"),
        )?;
        lines.wide(
            "Compression overflows:",
            self.number("xbzrle-cache/overflow"),
        )?;
        lines.wide("Auto converge throttle:", self.throttle())?;
        if beyond_first {
            return Ok(());
        }
        self.beyond_virsh(&mut lines)
    }
}

impl JobInfo {
    /// What virsh does not show, if there is any.
    fn beyond_virsh(&self, lines: &mut Lines<'_, '_>) -> fmt::Result {
        lines.ratio(
            "Cache miss rate:",
            self.double("xbzrle-cache/cache-miss-rate"),
        )?;
        lines.ratio("Encoding rate:", self.double("xbzrle-cache/encoding-rate"))?;
        if !matches!(&*self.status, "active" | "completed") {
            lines.text("Migration status:", &self.status)?;
        }
        let word = |path| self.find(path).and_then(Value::as_str).map(printable);
        let threads = self.number("threads");
        let threads = threads.map(|count| match count {
            1 => "1 thread".to_owned(),
            _ => format!("{count} threads"),
        });
        match (word("method"), self.number("level"), threads) {
            (Some(method), Some(level), Some(threads)) => {
                lines.text("Codec:", &format!("{method} level {level}, {threads}"))?;
            }
            (None, None, Some(threads)) => lines.text("Codec:", &threads)?,
            _ => {}
        }
        let some = |path| self.number(path).filter(|number| *number > 0);
        lines.wide("Codec pages:", some("compression/pages"))?;
        lines.wide("Codec busy:", some("compression/busy"))?;
        lines.size("Codec output:", some("compression/compressed-size"))?;
        lines.ratio("Codec ratio:", self.double("compression/compression-rate"))?;
        lines.count("Page rate:", some("ram/pages-per-second"), "pages/s")?;
        lines.rate("Current bandwidth:", self.current_rate)
    }
}

#[cfg(test)]
mod tests;
