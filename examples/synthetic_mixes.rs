//! How near the synthetic guests are to a real one: the table in the documentation of
//! `ramferry::synthetic`, made anew.
//!
//! ```sh
//! cargo run --release --example synthetic_mixes -- guest.ram
//! ```
//!
//! prints a column for the image, if one is given, and one for each mix, 192 MiB with the seed 1.
//! Nothing of it is a time: it may run on a busy machine.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ramferry::bench::measure::methods::MethodLevel;
use ramferry::bench::measure::migrate::{Variant, migrate};
use ramferry::bench::measure::scratch::Scratch;
use ramferry::bench::measure::workload::{Transport, Workload};
use ramferry::codec::{self, Encoded, Method};
use ramferry::image::Guest;
use ramferry::inspect::{Contents, inspect};
use ramferry::page::{PAGE_SIZE, is_zero};
use ramferry::synthetic::{Mix, write_mix};
use ramferry::wire::Format;
use ramferry::{Caps, Params};

const BYTES: u64 = 192 << 20;
const SEED: u64 = 1;
const METHODS: [(Method, u8); 5] = [
    (Method::Zlib, 1),
    (Method::Zlib, 6),
    (Method::Zstd, 1),
    (Method::Zstd, 3),
    (Method::Lz4, 1),
];

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = Scratch::with_room_for(2 * BYTES, None)?;
    let mut columns = Vec::new();
    if let Some(image) = std::env::args_os().nth(1) {
        columns.push(column("real guest", &PathBuf::from(image), &scratch)?);
    }
    for mix in Mix::ALL {
        let image = scratch.path().join("guest.ram");
        write_mix(&image, BYTES, mix, SEED, &mut |_| true)?;
        columns.push(column(mix.name(), &image, &scratch)?);
        std::fs::remove_file(&image)?;
    }
    let rows = columns.first().map_or(0, Vec::len);
    for row in 0..rows {
        let cells: Vec<&str> = columns.iter().map(|column| &column[row].1[..]).collect();
        println!("| {} | {} |", columns[0][row].0, cells.join(" | "));
        if row == 0 {
            println!("|---|{}", "---|".repeat(cells.len()));
        }
    }
    Ok(())
}

/// What an image is measured to be: the rows' names and their values.
fn column(
    name: &str,
    image: &Path,
    scratch: &Scratch,
) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let Contents::RawImage(found) = inspect(image, &|_, _| {})?.contents else {
        return Err("only a raw image can be compared".into());
    };
    let mut column = vec![(String::new(), name.to_owned())];
    let mut not_zero = 0;
    for block in &found.blocks {
        let pages = block.census.pages;
        not_zero = pages.all() - pages.zero;
        for (what, part, all) in [
            ("zero, of all pages", pages.zero, pages.all()),
            ("one byte all over, of the others", pages.one_byte, not_zero),
            ("else equal to an earlier page", pages.duplicate, not_zero),
        ] {
            let percent = 100.0 * part as f64 / all.max(1) as f64;
            column.push((what.to_owned(), format!("{percent:.1} %")));
        }
    }
    let data = std::fs::read(image)?;
    for (method, level) in METHODS {
        let bytes = by_pages(&data, method, level)?;
        let ratio = (not_zero * PAGE_SIZE as u64) as f64 / bytes as f64;
        let what = format!("page by page: {method} {level}");
        column.push((what, format!("{ratio:.2}")));
    }
    drop(data);
    let digest = Guest::open(image)?.digest()?;
    let workload = Workload::new(image.to_owned(), vec![], Transport::Unix, scratch)?;
    for (method, level) in METHODS {
        let compression = compression(method, level)?;
        let variant = Variant {
            params: compression.apply(&Params::default()),
            caps: Caps::default(),
            wire: Format::Native,
        };
        let run = migrate(
            &workload,
            &variant,
            digest,
            &AtomicBool::new(false),
            &mut |_| {},
        )?;
        let ratio = (not_zero * PAGE_SIZE as u64) as f64 / run.wire_bytes as f64;
        let what = format!("in the pipeline: {method} {level}");
        column.push((what, format!("{ratio:.2}")));
    }
    Ok(column)
}

fn compression(method: Method, level: u8) -> Result<MethodLevel, Box<dyn Error>> {
    Ok(MethodLevel::new(method, level).ok_or("there is no such level")?)
}

/// Bytes that the pages that are not zero become, each by itself.
fn by_pages(data: &[u8], method: Method, level: u8) -> Result<u64, Box<dyn Error>> {
    let settings = compression(method, level)?.apply(&Params::default());
    let mut encoder = codec::encoder(settings.codec_settings())?;
    let mut out = [0; PAGE_SIZE - 1];
    let mut bytes = 0;
    for page in data.chunks_exact(PAGE_SIZE).filter(|page| !is_zero(page)) {
        bytes += match encoder.encode(page, &mut out)? {
            Encoded::Done(len) => len as u64,
            Encoded::WouldGrow => PAGE_SIZE as u64,
        };
    }
    Ok(bytes)
}
