//! What a file is and what it holds, without a migration.
//!
//! [`inspect`] tells a stream by its first bytes, a guest folder by its `guest.json`, and takes any
//! other regular file of whole pages for a raw image:
//!
//! | what | file |
//! |---|---|
//! | a raw image, a guest folder: the census of its pages, what compression would make of them | `image.rs` |
//! | a stream of ours ([`crate::wire::native`]) | `native.rs` |
//! | a stream of QEMU's ([`crate::wire::qemu`]) | `qemu.rs` |
//! | what both are told in | `report.rs` |
//!
//! A stream is read through a buffer that holds a record at a time, whatever its length. One that
//! is damaged is described up to the damage: that is a [`Report`] with [`Report::damage`], and no
//! error. Errors are files that cannot be read, or that are none of all this.

mod image;
mod input;
mod native;
mod qemu;
mod report;

pub use report::{
    Census, Contents, Count, Damage, DamageSort, Device, FrameCount, GuestBlock, GuestFolder,
    GuestImage, MethodSample, NativeBlock, NativeCapability, NativeHello, NativeRound,
    NativeStream, Pages, PartBytes, QemuBlock, QemuSetting, QemuStream, RecordCount, Report,
    RoundPages, Sample, ZlibLevels,
};

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::{Guest, ImageError, ImageFormat};
use crate::page::PAGE_SIZE;
use crate::sniff::{self, Content};
use input::Input;

/// The name that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// Is told how many bytes are done, and of how many; 0 if that is not known. From any thread.
pub type OnProgress<'a> = dyn Fn(u64, u64) + Sync + 'a;

/// Why a file cannot be told for anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// It cannot be read.
    #[error("cannot {what} '{}'", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no regular file, so it may only be a stream, but it does not begin like one.
    #[error("'{}' does not begin as a stream does, and a RAM image is a regular file", path.display())]
    NoStream {
        /// The file.
        path: PathBuf,
    },
    /// It neither begins like a stream nor has whole pages.
    #[error(
        "'{}' does not begin as a stream does, and is no RAM image: its {size} bytes are no multiple of the page size of {PAGE_SIZE}",
        path.display()
    )]
    Nothing {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

impl From<InspectError> for Error {
    fn from(error: InspectError) -> Error {
        Error::new(Kind::Failed, error)
    }
}

/// Tells what `path` is and what it holds; [`STANDARD_INPUT`] is a stream.
///
/// # Errors
/// [`InspectError`], and whatever [`Guest::open`] finds wrong with an image.
pub fn inspect(path: &Path, progress: &OnProgress<'_>) -> Result<Report> {
    inspect_as(path, ImageFormat::Detect, progress)
}

/// [`inspect`] that takes a file for what `format` says.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_as(path: &Path, format: ImageFormat, progress: &OnProgress<'_>) -> Result<Report> {
    if format == ImageFormat::Raw {
        return guest(path, format, progress);
    }
    let failed = |what| {
        move |source| InspectError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    if path == Path::new(STANDARD_INPUT) {
        let input = Input::new(Box::new(io::stdin().lock()), 0, progress);
        return stream(path, input)?.ok_or_else(|| {
            InspectError::NoStream {
                path: path.to_owned(),
            }
            .into()
        });
    }
    let file = File::open(path).map_err(failed("open"))?;
    let metadata = file.metadata().map_err(failed("examine"))?;
    if metadata.is_dir() {
        return guest(path, format, progress);
    }
    let size = if metadata.is_file() {
        metadata.len()
    } else {
        0
    };
    if metadata.is_file() && size == 0 {
        return Err(ImageError::Empty {
            path: path.to_owned(),
        }
        .into());
    }
    let input: Box<dyn Read> = Box::new(file);
    if let Some(report) = stream(path, Input::new(input, size, progress))? {
        return Ok(report);
    }
    let path_of = || path.to_owned();
    if !metadata.is_file() {
        return Err(InspectError::NoStream { path: path_of() }.into());
    }
    if size % PAGE_SIZE as u64 != 0 {
        return Err(InspectError::Nothing {
            path: path_of(),
            size,
        }
        .into());
    }
    guest(path, format, progress)
}

/// Reads `input` if it is a stream.
fn stream(path: &Path, mut input: Input<'_>) -> Result<Option<Report>> {
    let failed = |source| InspectError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    };
    let head = input.peek(sniff::HEAD).map_err(failed)?;
    let (contents, damage) = match Content::of(head) {
        Some(Content::NativeStream) => {
            let (stream, damage) = native::read(&mut input).map_err(failed)?;
            (Contents::NativeStream(stream), damage)
        }
        Some(Content::QemuStream | Content::QemuChannel) => {
            let (stream, damage) = qemu::read(&mut input).map_err(failed)?;
            (Contents::QemuStream(stream), damage)
        }
        Some(content) => {
            return Err(ImageError::NotRam {
                path: path.to_owned(),
                content,
            }
            .into());
        }
        None => return Ok(None),
    };
    Ok(Some(Report {
        file: path.display().to_string(),
        bytes: input.size(),
        contents,
        damage,
    }))
}

/// The census of an image or a guest folder.
fn guest(path: &Path, format: ImageFormat, progress: &OnProgress<'_>) -> Result<Report> {
    let guest = Guest::open_as(path, format)?;
    let (contents, damage) = match guest.description() {
        None => (Contents::RawImage(image::take(&guest, progress)?), None),
        Some(description) => {
            let (folder, damage) = image::folder(&guest, description, progress)?;
            (Contents::GuestFolder(folder), damage)
        }
    };
    Ok(Report {
        file: path.display().to_string(),
        bytes: guest.pages().saturating_mul(PAGE_SIZE as u64),
        contents,
        damage,
    })
}
