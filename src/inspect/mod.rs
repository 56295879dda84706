//! Identifies a file and summarises its contents, without a migration.
//!
//! [`inspect`] recognises a stream by its first bytes ([`crate::sniff`]) and a guest folder by its
//! `guest.json`. Any other regular file of whole pages is a raw image.
//!
//! | file | what it describes |
//! |---|---|
//! | `image.rs` | a raw image or a guest folder: what its pages hold, and how well they compress |
//! | `native.rs` | a native stream ([`crate::wire::native`]) |
//! | `qemu.rs` | a QEMU stream ([`crate::wire::qemu`]) |
//! | `report.rs` | the report, for people and programs |
//!
//! A stream of any length is read through a buffer that holds one record at a time. A damaged one is
//! described up to the damage: that is a [`Report`] with [`Report::damage`], not an error. Errors are
//! files that cannot be read, or that are none of these.

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

use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::{Guest, ImageError, ImageFormat};
use crate::page::PAGE_SIZE;
use crate::sniff::{self, Content};
use crate::special::{self, PatientReader};
use input::Input;

/// The name of standard input.
pub const STANDARD_INPUT: &str = "-";

/// Called with the bytes done and their total (0 if it is not known), from any thread.
pub type OnProgress<'a> = dyn Fn(u64, u64) + Sync + 'a;

/// Why a file cannot be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
// The fields are what the messages say of them.
#[allow(missing_docs)]
pub enum InspectError {
    #[error("cannot {what} '{}'", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A pipe or a device can only be a stream, and this does not begin like one.
    #[error("'{}' is not a migration stream, and a RAM image must be a regular file or a block device", path.display())]
    NoStream { path: PathBuf },
    #[error(
        "'{}' is neither a migration stream nor a raw RAM image: {size} bytes is not a multiple of the page size, {PAGE_SIZE}",
        path.display()
    )]
    Nothing { path: PathBuf, size: u64 },
}

impl From<InspectError> for Error {
    fn from(error: InspectError) -> Error {
        Error::new(Kind::Failed, error)
    }
}

/// Identifies `path` and describes its contents; [`STANDARD_INPUT`] is a stream.
///
/// # Errors
/// [`InspectError`], and those of [`Guest::open`].
pub fn inspect(path: &Path, progress: &OnProgress<'_>) -> Result<Report> {
    inspect_as(path, ImageFormat::Detect, progress)
}

/// [`inspect`] that interprets a file as `format` says.
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
    if path.is_dir() {
        return guest(path, format, progress);
    }
    let file = special::open_to_read(path).map_err(|error| ImageError::cannot_open(path, error))?;
    let metadata = file.metadata().map_err(failed("examine"))?;
    // Of what has one.
    let has_size = metadata.is_file() || special::is_device(&metadata);
    let size = if has_size {
        let size = special::size(&file).map_err(failed("examine"))?;
        (&file).rewind().map_err(failed("examine"))?;
        size
    } else {
        0
    };
    if let Some(file_system) = special::pseudo_file_system(path).filter(|_| metadata.is_file()) {
        return Err(ImageError::Pseudo {
            path: path.to_owned(),
            file_system,
        }
        .into());
    }
    if has_size && size == 0 {
        return Err(ImageError::Empty {
            path: path.to_owned(),
        }
        .into());
    }
    let input: Box<dyn Read> = match has_size {
        true => Box::new(file),
        false => Box::new(PatientReader::new(file)),
    };
    if let Some(report) = stream(path, Input::new(input, size, progress))? {
        return Ok(report);
    }
    let path_of = || path.to_owned();
    if !has_size {
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

/// Describes `input` if it is a stream.
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

/// Describes an image or a guest folder.
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
