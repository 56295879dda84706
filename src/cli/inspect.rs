//! `ramferry inspect`: what a file is and what it contains, as text or JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Kind, Result};
use crate::grid::{Grid, GridLine};
use crate::image::Guest;
use crate::inspect::{
    Contents, Count, Damage, DamageSort, Device, GuestFolder, GuestImage, NativeStream,
    QemuSetting, QemuStream, Report, Sample, inspect_as,
};
use crate::page::PAGE_SIZE;
use crate::text::{Quoted, printable};
use crate::units::{format_bytes, format_duration};
use crate::writer;

use super::format::FormatArg;
use super::output::{self, print, print_json};

/// The name of bytes after the part of a stream that was understood.
const THE_REST: &str = "the rest";

const TOO_MANY_DEVICES: &str = "the device state is too large to search it for devices";

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A stored stream, a raw RAM image, or a guest folder; - reads a stream from standard input
    file: PathBuf,
    #[command(flatten)]
    format: FormatArg,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The file is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("'{file}' is {}", words(damage))]
struct Damaged {
    file: String,
    damage: Damage,
}

/// The damage and its place, to follow "is".
fn words(damage: &Damage) -> String {
    let place = damage.offset.map(|offset| format!(" at byte {offset}"));
    let place = place.unwrap_or_default();
    format!(
        "{}{place}: {}",
        damage.sort.name(),
        printable(&damage.reason)
    )
}

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let report = {
        let view = ScanBar::new();
        inspect_as(&args.file, args.format.into(), &|done, all| {
            view.show(done, all);
        })?
    };
    if let Some(note) = note_of_writers(args, &report) {
        output::report(&format!("note: {note}"));
    }
    if args.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    match report.damage {
        None => Ok(()),
        Some(damage) => {
            let kind = match damage.sort {
                DamageSort::Differs => Kind::Differs,
                _ => Kind::Failed,
            };
            let file = report.file;
            Err(Error::new(kind, Damaged { file, damage }))
        }
    }
}

/// Says so if the figures may be of no single moment. What cannot be found out is not worth an error.
fn note_of_writers(args: &InspectArgs, report: &Report) -> Option<String> {
    match report.contents {
        Contents::RawImage(_) | Contents::GuestFolder(_) => {
            let guest = Guest::open_as(&args.file, args.format.into()).ok()?;
            writer::note_of_writers(&guest).ok()?
        }
        Contents::NativeStream(_) | Contents::QemuStream(_) => None,
    }
}

/// A bar on standard error, if that is a terminal.
struct ScanBar(Option<ProgressBar>);

impl ScanBar {
    fn new() -> ScanBar {
        ScanBar(io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(
                "[{bar:30}] {percent:>3}%  {bytes} of {total_bytes}, {bytes_per_sec}, ETA {eta}",
            ) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        }))
    }

    fn show(&self, done: u64, all: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(all.max(done));
            bar.set_position(done);
        }
    }
}

impl Drop for ScanBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The report for people.
pub(crate) fn text(report: &Report) -> String {
    let mut out = Text::default();
    out.line(format!(
        "{}: {}, {}",
        Quoted(&printable(&report.file)),
        report.contents.name(),
        format_bytes(report.bytes)
    ));
    match &report.contents {
        Contents::RawImage(image) => guest(&mut out, image),
        Contents::GuestFolder(found) => folder(&mut out, found),
        Contents::NativeStream(stream) => native(&mut out, stream),
        Contents::QemuStream(stream) => qemu(&mut out, stream),
    }
    if let Some(damage) = &report.damage {
        out.line(words(damage));
    }
    out.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: impl AsRef<str>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{}", line.as_ref().trim_end());
    }

    /// A table: the first column is words, all others are numbers.
    fn table<const COLUMNS: usize>(
        &mut self,
        header: [&str; COLUMNS],
        rows: impl IntoIterator<Item = [String; COLUMNS]>,
    ) {
        let lines: Vec<GridLine> = rows.into_iter().map(GridLine::row).collect();
        let grid = Grid {
            headings: &header.map(|name| (name, "")),
            lines: &lines,
            spare: &[],
            // No column can be left out: a narrow terminal wraps the lines.
            width: usize::MAX,
            dim: false,
        };
        let (table, _) = grid.draw();
        self.line("");
        self.0.push_str(&table);
    }
}

/// A name from a file, safe for a terminal.
fn name(name: &str) -> String {
    Quoted(&printable(name)).to_string()
}

fn share(part: u64, all: u64) -> String {
    format!("{part} ({:.1} %)", 100.0 * part as f64 / all.max(1) as f64)
}

fn guest(out: &mut Text, image: &GuestImage) {
    out.line(format!("RAM digest {}", image.digest));
    out.table(
        ["block", "bytes", "data", "extents", "holes"],
        image.blocks.iter().map(|block| {
            [
                name(&block.name),
                block.bytes.to_string(),
                format_bytes(block.census.data_bytes),
                block.census.extents.to_string(),
                format_bytes(block.census.hole_bytes),
            ]
        }),
    );
    out.table(
        ["pages of", "all", "zero", "one byte", "duplicate", "other"],
        image.blocks.iter().map(|block| {
            let pages = block.census.pages;
            let all = pages.all();
            [
                name(&block.name),
                all.to_string(),
                share(pages.zero, all),
                share(pages.one_byte, all),
                share(pages.duplicate, all),
                share(pages.other, all),
            ]
        }),
    );
    out.line("A duplicate equals an earlier page of its block, by a 128-bit hash.");
    for block in &image.blocks {
        let sampled = block.census.duplicates_sampled;
        if sampled > 1 {
            out.line(format!(
                "The duplicates of {} are an estimate from every {sampled}th page.",
                name(&block.name)
            ));
        }
    }
    match &image.sample {
        Some(found) => sample(out, found),
        None => out.line("All pages are zero."),
    }
}

fn folder(out: &mut Text, folder: &GuestFolder) {
    out.line(format!("machine {}", name(&folder.machine)));
    settings(out, &folder.configuration);
    let codes: Vec<String> = folder.commands.iter().map(u16::to_string).collect();
    out.line(format!("commands: {}", list(&codes)));
    out.line(format!("section id of RAM: {}", folder.ram_section_id));
    guest(out, &folder.image);
    devices(out, &folder.devices);
    let bytes = folder.device_state_bytes;
    out.line(format!("device state: {bytes} bytes"));
    if folder.devices_skipped {
        out.line(TOO_MANY_DEVICES);
    }
}

fn settings(out: &mut Text, settings: &[QemuSetting]) {
    for setting in settings {
        out.line(format!("{}: {}", name(&setting.name), name(&setting.value)));
    }
}

fn sample(out: &mut Text, sample: &Sample) {
    out.table(
        ["method", "level", "bytes", "ratio", "MiB/s per core"],
        sample.methods.iter().map(|method| {
            [
                method.method.to_owned(),
                // Storing has no levels.
                if method.method == "none" {
                    "-".to_owned()
                } else {
                    method.level.to_string()
                },
                method.bytes.to_string(),
                format!("{:.3}", method.ratio),
                method
                    .megabytes_per_second
                    .map_or("-".to_owned(), |rate| format!("{:.0}", rate / 1.048_576)),
            ]
        }),
    );
    out.line(format!(
        "Measured on a sample of {} of pages that are not zero, compressed in batches of at most {} \
         pages.",
        format_bytes(sample.bytes),
        sample.batch_pages
    ));
}

fn native(out: &mut Text, stream: &NativeStream) {
    if let Some(hello) = &stream.hello {
        out.line(format!(
            "version {} to {}, session {}, connection {} of {}, gives up after {} without a message",
            hello.oldest_version,
            hello.newest_version,
            hello.session,
            u32::from(hello.connection) + 1,
            hello.connections,
            format_duration(Duration::from_millis(hello.silence_ms.into()))
        ));
        for block in &hello.blocks {
            out.line(format!(
                "block {}: {} bytes ({}), {} pages of {}",
                name(&block.name),
                block.bytes,
                format_bytes(block.bytes),
                block.bytes / PAGE_SIZE as u64,
                hello.page_size
            ));
        }
        let offers: Vec<String> = hello
            .capabilities
            .iter()
            .map(|offer| {
                let needed = if offer.required { " (required)" } else { "" };
                format!("{}{needed}", name(&offer.name))
            })
            .collect();
        out.line(format!("capabilities: {}", list(&offers)));
    }
    if !stream.rounds.is_empty() {
        out.table(
            [
                "round", "frames", "bytes", "zero", "whole", "delta", "stored", "method", "end",
            ],
            stream.rounds.iter().map(|round| {
                [
                    round.round.to_string(),
                    round.frames.to_string(),
                    round.bytes.to_string(),
                    round.pages.zero.to_string(),
                    round.pages.whole.to_string(),
                    round.pages.delta.to_string(),
                    round.pages.stored.to_string(),
                    list(&round.methods),
                    if round.complete { "yes" } else { "missing" }.to_owned(),
                ]
            }),
        );
    }
    let hello = ("Hello", 1, stream.hello_bytes);
    let frames = stream.frames.iter();
    let frames = frames.map(|frames| (frames.kind, frames.count, frames.bytes));
    let rows = std::iter::once(hello)
        .chain(frames)
        .map(|(part, count, bytes)| (part, count.to_string(), bytes));
    sum(
        out,
        rows.chain([(THE_REST, String::new(), stream.other_bytes)]),
    );
    out.line(format!(
        "frames with pages: {} checked, {} with deltas, whose pages only receive can check",
        stream.checked_frames, stream.unchecked_frames
    ));
    if let Some(digest) = stream.digest {
        out.line(format!(
            "RAM digest {digest}{}",
            if stream.computed_digest == Some(digest) {
                ", verified"
            } else {
                ""
            }
        ));
    }
    out.line(completeness(stream.complete));
}

/// A table of the stream's bytes by purpose, and their sum.
fn sum<'a>(out: &mut Text, parts: impl Iterator<Item = (&'a str, String, u64)>) {
    let mut all = 0;
    let mut rows: Vec<[String; 3]> = Vec::new();
    for (part, count, bytes) in parts.filter(|(_, _, bytes)| *bytes > 0) {
        all += bytes;
        rows.push([part.to_owned(), count, bytes.to_string()]);
    }
    rows.push(["sum".to_owned(), String::new(), all.to_string()]);
    out.table(["part", "count", "bytes"], rows);
}

fn qemu(out: &mut Text, stream: &QemuStream) {
    // What is refused before its first fact has only the reason for it.
    let Some(machine) = &stream.machine else {
        return;
    };
    out.line(format!("machine {}", name(machine)));
    settings(out, &stream.configuration);
    let counts = |counts: &[Count]| {
        let words = counts.iter();
        let words = words.map(|count| format!("{} {}", count.count, count.name));
        list(&words.collect::<Vec<_>>())
    };
    out.line(format!("commands: {}", counts(&stream.commands)));
    out.line(format!("sections of RAM: {}", counts(&stream.sections)));
    if !stream.blocks.is_empty() {
        out.table(
            [
                "block", "bytes", "pages", "records", "distinct", "missing", "repeats",
            ],
            stream.blocks.iter().map(|block| {
                [
                    name(&block.name),
                    block.bytes.to_string(),
                    (block.bytes / PAGE_SIZE as u64).to_string(),
                    block.records.to_string(),
                    block.distinct_pages.to_string(),
                    block.missing_pages.to_string(),
                    block.repeats.to_string(),
                ]
            }),
        );
    }
    if !stream.records.is_empty() {
        out.table(
            ["records", "count", "heads", "payload"],
            stream.records.iter().map(|records| {
                [
                    records.kind.to_owned(),
                    records.count.to_string(),
                    records.head_bytes.to_string(),
                    records.payload_bytes.to_string(),
                ]
            }),
        );
    }
    for found in &stream.zlib_levels {
        out.line(format!(
            "{} pages compressed at zlib level {}, by their headers",
            found.pages, found.levels
        ));
    }
    if stream.undecodable > 0 {
        out.line(format!("{} pages cannot be decoded", stream.undecodable));
    }
    devices(out, &stream.devices);
    if stream.devices_skipped {
        out.line(TOO_MANY_DEVICES);
    }
    let records = |part| stream.records.iter().find(|records| records.kind == part);
    sum(
        out,
        stream.parts.iter().map(|part| {
            let count = records(part.part).map(|records| records.count.to_string());
            let name = if part.part == "other" {
                THE_REST
            } else {
                part.part
            };
            (name, count.unwrap_or_default(), part.bytes)
        }),
    );
    out.line(completeness(stream.complete));
}

fn devices(out: &mut Text, devices: &[Device]) {
    if devices.is_empty() {
        return;
    }
    out.table(
        ["device", "instance", "version", "bytes"],
        devices.iter().map(|device| {
            [
                name(&device.name),
                device.instance.to_string(),
                device.version.to_string(),
                device.bytes.to_string(),
            ]
        }),
    );
    out.line("Devices were found by their headers: the stream does not contain their lengths.");
}

fn completeness(complete: bool) -> &'static str {
    if complete { "complete" } else { "not complete" }
}

fn list(words: &[impl AsRef<str>]) -> String {
    if words.is_empty() {
        "none".to_owned()
    } else {
        words
            .iter()
            .map(AsRef::as_ref)
            .collect::<Vec<_>>()
            .join(", ")
    }
}
