//! What a migration was like, for people, on standard error.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::page::PAGE_SIZE;
use crate::stats::Report;
use crate::units::{format_bytes, format_duration, format_rate};

/// Prints the summary of a migration that worked.
pub(super) fn print(report: &Report, end: &str) {
    // Standard error may be closed; the migration has worked all the same.
    let _ = std::io::stderr().write_all(text(report, end).as_bytes());
}

fn milliseconds(time: f64) -> String {
    format_duration(Duration::from_secs_f64(time.max(0.0) / 1e3))
}

fn text(report: &Report, end: &str) -> String {
    let mut out = String::new();
    let seconds = (report.total_time / 1e3).max(1e-9);
    let pages: u64 = report.rounds.iter().map(|round| round.pages).sum();
    let sum =
        |of: fn(&crate::stats::RoundReport) -> u64| -> u64 { report.rounds.iter().map(of).sum() };
    let verb = if report.side == "source" {
        "sent"
    } else {
        "received"
    };
    // Writing into a String cannot fail.
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:11} {value}");
    };
    line(
        verb,
        format!(
            "{} of RAM in {}, {}",
            format_bytes(report.ram.total),
            milliseconds(report.total_time),
            end
        ),
    );
    line(
        "rate",
        format!(
            "{} of pages, {} on the wire",
            format_rate((pages as f64 * PAGE_SIZE as f64 / seconds) as u64),
            format_rate((report.wire_bytes as f64 / seconds) as u64)
        ),
    );
    let settings = match (report.method, report.level) {
        _ if report.side == "source" && report.compression.is_none() => {
            ", not compressed".to_owned()
        }
        (Some("none"), _) => ", not compressed".to_owned(),
        (Some(method), Some(level)) => format!(", {method} level {level}"),
        _ => String::new(),
    };
    line(
        "wire",
        format!(
            "{} ({} bytes), ratio {:.3}{settings}, threads {}, connections {}",
            format_bytes(report.wire_bytes),
            report.wire_bytes,
            report.ratio.unwrap_or(0.0),
            report.threads,
            report.connections
        ),
    );
    if !report.dropped.is_empty() {
        let names = report.dropped.join(", ");
        line("dropped", format!("{names}: the destination lacks it"));
    }
    if let Some(link) = report.link {
        line("link", format!("{link}, emulated"));
    }
    line(
        "pages",
        format!(
            "{} zero, {} compressed, {} delta, {} plain, {} unchanged",
            sum(|round| round.zero),
            sum(|round| round.compressed),
            sum(|round| round.delta),
            sum(|round| round.plain),
            sum(|round| round.unchanged)
        ),
    );
    if report.rounds.len() > 1 {
        if let Some(cache) = &report.xbzrle_cache {
            line(
                "deltas",
                format!(
                    "{} before compression, cache {}: {} misses, {} overflows{}",
                    format_bytes(cache.bytes),
                    format_bytes(cache.cache_size),
                    cache.cache_miss,
                    cache.overflow,
                    if cache.cache_miss_rate > 0.2
                        && cache.cache_miss > cache.overflow
                        && cache.cache_size < report.ram.total
                    {
                        "; a larger --xbzrle-cache-size would help"
                    } else {
                        ""
                    }
                ),
            );
        }
        for round in &report.rounds {
            line(
                &format!("round {}", round.round),
                format!(
                    "{} pages, {} on the wire, {}",
                    round.pages,
                    format_bytes(round.wire_bytes),
                    milliseconds(round.time)
                ),
            );
        }
    }
    if let Some(busy) = report
        .compression
        .as_ref()
        .map(|c| c.busy)
        .filter(|busy| *busy > 0)
    {
        line(
            "busy",
            format!("{busy} pages went plain because no compressor was free"),
        );
    }
    // Without a later round, all of it is the last one.
    if let Some(downtime) = report.downtime.filter(|_| report.rounds.len() > 1) {
        line("downtime", milliseconds(downtime));
    }
    if let Some(percent) = report.cpu_throttle_percentage {
        line(
            "throttle",
            format!("the writer was slowed down by up to {percent} %"),
        );
    }
    let cpu: Vec<String> = report
        .cpu_seconds
        .iter()
        .filter(|(stage, _)| **stage != "total")
        .map(|(stage, seconds)| format!("{stage} {seconds:.3}"))
        .collect();
    let total = report.cpu_seconds.get("total").copied().unwrap_or(0.0);
    line("CPU", format!("{total:.3} s: {}", cpu.join(", ")));
    if let Some(digest) = report.digest {
        line("digest", digest.to_string());
    }
    out
}
