//! The summary of a migration, for people, on standard error.

use std::fmt::Write as _;

use super::output;
use crate::page::PAGE_SIZE;
use crate::stats::{Report, RoundReport};
use crate::text::printable;
use crate::units::{format_bytes, format_duration, format_rate};
use crate::wire::qemu::MissingPages;

/// Prints the summary of a migration that worked.
pub(super) fn print(report: &Report, end: &str) {
    output::report(text(report, end).trim_end());
}

fn text(report: &Report, end: &str) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{label:11} {value}");
    };
    let verb = match report.side {
        "source" => "sent",
        _ => "received",
    };
    let time = format_duration(report.total_time);
    let ram = format_bytes(report.ram.total);
    let except: u64 = report.missing_pages.iter().map(|block| block.missing).sum();
    let except = match except {
        0 => String::new(),
        count => format!(" but for {count} pages that never came"),
    };
    line(verb, format!("{ram} of RAM in {time}, {end}{except}"));
    line("rate", rates(report));
    line("wire", wire(report));
    if !report.dropped.is_empty() {
        let names = report.dropped.join(", ");
        line("dropped", format!("{names}: the destination lacks it"));
    }
    if let Some(link) = report.link {
        line("link", format!("{link}, emulated"));
    }
    line("pages", pages(report));
    for block in &report.missing_pages {
        line("missing", missing(block));
    }
    if report.rounds.len() > 1 {
        if let Some(deltas) = deltas(report) {
            line("deltas", deltas);
        }
        for one in &report.rounds {
            line(&format!("round {}", one.round), round(one));
        }
    }
    let busy = report.compression.as_ref().map_or(0, |c| c.busy);
    if busy > 0 {
        let why = "because no compression thread was free";
        line("busy", format!("{busy} pages were sent uncompressed {why}"));
    }
    // Without a later round, all of it is the last one.
    if let Some(downtime) = report.downtime.filter(|_| report.rounds.len() > 1) {
        line("downtime", format_duration(downtime));
    }
    if let Some(percent) = report.cpu_throttle_percentage {
        let what = format!("the writer was slowed down by up to {percent} %");
        line("throttle", what);
    }
    line("CPU", cpu(report));
    if let Some(digest) = report.digest {
        line("digest", digest.to_string());
    }
    out
}

fn rates(report: &Report) -> String {
    let seconds = report.total_time.as_secs_f64().max(1e-9);
    let rate = |bytes: f64| format_rate((bytes / seconds) as u64);
    let pages: u64 = report.rounds.iter().map(|round| round.pages).sum();
    format!(
        "{} of pages, {} on the wire",
        rate(pages as f64 * PAGE_SIZE as f64),
        rate(report.wire_bytes as f64)
    )
}

fn wire(report: &Report) -> String {
    let settings = match (report.method, report.level) {
        _ if report.side == "source" && report.compression.is_none() => {
            ", not compressed".to_owned()
        }
        (Some("none"), _) => ", not compressed".to_owned(),
        (Some(method), Some(level)) => format!(", {method} level {level}"),
        _ => String::new(),
    };
    format!(
        "{} ({} bytes), ratio {:.3}{settings}, threads {}, connections {}",
        format_bytes(report.wire_bytes),
        report.wire_bytes,
        report.ratio.unwrap_or(0.0),
        report.threads,
        report.connections
    )
}

fn pages(report: &Report) -> String {
    let sum = |of: fn(&RoundReport) -> u64| report.rounds.iter().map(of).sum::<u64>();
    format!(
        "{} zero, {} compressed, {} delta, {} plain, {} unchanged",
        sum(|round| round.zero),
        sum(|round| round.compressed),
        sum(|round| round.delta),
        sum(|round| round.plain),
        sum(|round| round.unchanged)
    )
}

fn missing(block: &MissingPages) -> String {
    let MissingPages {
        block,
        missing,
        pages,
        ..
    } = block;
    format!(
        "{missing} of the {pages} pages of {}: the source left them out, and they are zero here",
        printable(block)
    )
}

fn deltas(report: &Report) -> Option<String> {
    let cache = report.xbzrle_cache.as_ref()?;
    let too_small = cache.cache_miss_rate > 0.2
        && cache.cache_miss > cache.overflow
        && cache.cache_size < report.ram.total;
    let advice = match too_small {
        true => "; a larger --xbzrle-cache-size would help",
        false => "",
    };
    Some(format!(
        "{} before compression, cache {}: {} misses, {} overflows{advice}",
        format_bytes(cache.bytes),
        format_bytes(cache.cache_size),
        cache.cache_miss,
        cache.overflow
    ))
}

fn round(round: &RoundReport) -> String {
    format!(
        "{} pages, {} on the wire, {}",
        round.pages,
        format_bytes(round.wire_bytes),
        format_duration(round.time)
    )
}

fn cpu(report: &Report) -> String {
    let total = report.cpu_seconds.get("total").copied().unwrap_or(0.0);
    let stages = (report.cpu_seconds.iter()).filter(|(stage, _)| **stage != "total");
    let stages: Vec<String> = stages
        .map(|(stage, seconds)| format!("{stage} {seconds:.3}"))
        .collect();
    format!("{total:.3} s: {}", stages.join(", "))
}
