//! What a table is about, how to read it, and what to be wary of.

use crate::bench::judge::noise;
use crate::bench::measure::setting::UNLIMITED;
use crate::bench::report::{BenchReport, MEMCPY, SettingReport};
use crate::codec::ZlibEngine;
use crate::stats::Status;
use crate::units::format_bytes;
use crate::wire::Format;

/// What the table is about.
pub(super) fn head(report: &BenchReport) -> String {
    let (image, plan, conditions) = (&report.image, &report.plan, &report.conditions);
    let what = match (image.mix.zip(image.seed), image.then.len()) {
        (Some((mix, seed)), _) => format!("a synthetic guest ({mix}, seed {seed})"),
        (None, 0) => image.path.clone(),
        (None, later) => format!("{} and {later} later", image.path),
    };
    let machine = match &conditions.cpu_model {
        Some(model) => format!("{model}, "),
        None => String::new(),
    };
    let links: Vec<&str> = report
        .links
        .iter()
        .filter(|link| link.measured)
        .map(|link| &link.link[..])
        .collect();
    let emulated = match links[..] {
        [one] if one != UNLIMITED => format!(" emulating {one}"),
        _ => String::new(),
    };
    let runs = match (report.status, plan.runs) {
        (_, 1) => "1 run each".to_owned(),
        (Status::Completed, runs) => format!("medians of {runs} runs"),
        // Not every setting had all of them.
        (_, runs) => format!("medians of up to {runs} runs"),
    };
    let text = format!(
        "{what}: {} of RAM, {} of it data\n{machine}{} cores; {}{} link{emulated}; {runs}\n",
        format_bytes(image.ram_bytes),
        format_bytes(image.data_bytes),
        conditions.cores,
        in_common(report),
        plan.transport,
    );
    match noise::disturbed(report) {
        Some(words) => format!("{text}warning: {words}\n"),
        None => text,
    }
}

/// What all settings have in common, if it is not the usual value.
fn in_common(report: &BenchReport) -> String {
    fn common<T: PartialEq>(report: &BenchReport, of: fn(&SettingReport) -> T) -> Option<T> {
        let first = of(report.settings.first()?);
        let same = report.settings.iter().all(|row| of(row) == first);
        same.then_some(first)
    }
    let (first, all) = match report.settings.first() {
        Some(first) => (first, &report.settings),
        None => return String::new(),
    };
    let things = |count: u8| if count == 1 { "" } else { "s" };
    let compressing = common(report, |row| row.parameters.compress_threads);
    let decompressing = common(report, |row| row.parameters.decompress_threads);
    let threads = match (compressing, decompressing) {
        (Some(one), Some(other)) => Some(format!(
            "{one} compression and {other} decompression thread{}, ",
            things(other)
        )),
        (Some(one), None) => Some(format!("{one} compression thread{}, ", things(one))),
        (None, Some(one)) => Some(format!("{one} decompression thread{}, ", things(one))),
        (None, None) => None,
    };
    let same_batch = all
        .iter()
        .all(|row| row.setting.batch_pages == first.setting.batch_pages);
    [
        threads,
        common(report, |row| row.parameters.connections)
            .filter(|count| *count > 1)
            .map(|count| format!("{count} connections, ")),
        first
            .setting
            .batch_pages
            .filter(|_| same_batch)
            .map(|pages| format!("batches of {pages} pages, ")),
        common(report, |row| row.parameters.zlib_engine)
            .filter(|engine| *engine != ZlibEngine::default().name())
            .map(|engine| format!("{engine}, ")),
        common(report, |row| row.parameters.wire)
            .filter(|wire| *wire != Format::Native.name())
            .map(|wire| format!("{wire} wire, ")),
        common(report, |row| row.parameters.xbzrle_cache_size)
            .filter(|_| !report.image.then.is_empty())
            .map(|cache| match cache {
                Some(bytes) => format!("xbzrle {}, ", format_bytes(bytes)),
                None => "xbzrle off, ".to_owned(),
            }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How to read the table.
pub(super) fn foot(report: &BenchReport) -> String {
    let mut text = format!(
        "±: median absolute deviation. relative: time over the fastest setting's, over the same \
         link. RAM rates include holes, as a guest sees them. {MEMCPY} copies the data out of the \
         image, with {} threads.\nEvery migration was verified: digest {}.\n",
        report.memcpy.threads, report.image.digest
    );
    if !report.peers.is_empty() {
        text.push_str(&format!("{PEER_NOTE}\n"));
    }
    for peer in &report.peers {
        if let Some(why) = &peer.error_desc {
            text.push_str(&format!("warning: {} failed: {why}\n", peer.name));
        }
    }
    for (words, names) in warnings(report) {
        text.push_str(&format!("warning: {}: {words}\n", names.join("; ")));
    }
    text
}

/// What a reader has to know about a peer's rows.
pub const PEER_NOTE: &str = "QEMU ran between two stopped guests, over a unix socket and a link that is not emulated, at \
     level 1. It neither hashes nor verifies; what arrived was compared here. Its CPU time is that of \
     its processes. Up to QEMU 9, multifd's compressed bytes are unknown.";

/// Suspicious times, with the settings that have them.
pub fn warnings(report: &BenchReport) -> Vec<(&'static str, Vec<String>)> {
    let ours = report
        .settings
        .iter()
        .map(|row| (&row.name, &row.suspicion));
    let peers = report.peers.iter().map(|row| (&row.name, &row.suspicion));
    let mut warnings: Vec<(&'static str, Vec<String>)> = Vec::new();
    for (name, suspicion) in ours.chain(peers) {
        let Some(words) = suspicion.words() else {
            continue;
        };
        match warnings.iter_mut().find(|(other, _)| *other == words) {
            Some((_, names)) => names.push(name.clone()),
            None => warnings.push((words, vec![name.clone()])),
        }
    }
    warnings
}
