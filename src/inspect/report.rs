//! The result of an inspection. Serialised, it is the JSON document that `inspect --json` prints.
//!
//! All sizes are in bytes. Names of fields and values are stable; names that come from a file are
//! unchanged.
// A field whose name says it all has no comment.
#![allow(missing_docs)]

use serde::Serialize;

use crate::page::Digest;

/// What a file is, and what it contains.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The file, as given.
    pub file: String,
    /// The size of a file, of an image's RAM, or of what was read from a pipe.
    pub bytes: u64,
    /// The contents; `kind` says of which sort.
    #[serde(flatten)]
    pub contents: Contents,
    /// Where and why the description ends early.
    pub damage: Option<Damage>,
}

/// What a file contains.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Contents {
    /// A flat file of guest RAM.
    RawImage(GuestImage),
    /// A directory with `guest.json`.
    GuestFolder(GuestFolder),
    /// What `send` writes by default.
    NativeStream(NativeStream),
    /// What QEMU's `migrate` writes.
    QemuStream(QemuStream),
}

impl Contents {
    /// What it is, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Contents::RawImage(_) => "raw RAM image",
            Contents::GuestFolder(_) => "guest folder",
            Contents::NativeStream(_) => "ramferry stream",
            Contents::QemuStream(_) => "QEMU migration stream",
        }
    }
}

/// Where a stream is damaged or what it lacks, or what a guest folder should contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Damage {
    /// Where the damaged record begins, or a truncated stream ends. `None` for a guest folder, and for
    /// what is missing.
    pub offset: Option<u64>,
    pub sort: DamageSort,
    pub reason: String,
}

/// What sort of damage it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DamageSort {
    /// A record is invalid.
    Damaged,
    /// The stream ends too early.
    Truncated,
    /// It may be valid, but continues with something that this version does not know.
    Unsupported,
    /// The stream is valid, but the guest's RAM is not in it.
    Incomplete,
    /// A guest folder's contents differ from its `guest.json`.
    Differs,
}

impl DamageSort {
    /// For people, to follow "is".
    pub fn name(self) -> &'static str {
        match self {
            DamageSort::Damaged => "damaged",
            DamageSort::Truncated => "truncated",
            DamageSort::Unsupported => "not supported",
            DamageSort::Incomplete => "not complete",
            DamageSort::Differs => "not what its guest.json says",
        }
    }
}

/// A guest's RAM.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestImage {
    pub digest: Digest,
    pub blocks: Vec<GuestBlock>,
    /// How well it compresses; `None` if all of it is zero.
    pub sample: Option<Sample>,
}

/// A guest folder.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestFolder {
    /// May be empty.
    pub machine: String,
    /// The rest of QEMU's configuration section.
    pub configuration: Vec<QemuSetting>,
    /// The codes of the commands in QEMU's stream.
    pub commands: Vec<u16>,
    /// The number of the section that RAM came in.
    pub ram_section_id: u32,
    pub device_state_bytes: u64,
    /// The devices' sections, as far as they can be found: the state does not contain their lengths.
    pub devices: Vec<Device>,
    /// Whether the device state is too large to search for devices.
    pub devices_skipped: bool,
    #[serde(flatten)]
    pub image: GuestImage,
}

/// A block of a guest's RAM.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestBlock {
    pub name: String,
    pub bytes: u64,
    /// The digest of this block alone.
    pub digest: Digest,
    /// The digest in `guest.json`; `None` for a raw image.
    pub recorded_digest: Option<Digest>,
    #[serde(flatten)]
    pub census: Census,
}

/// What the pages of a block hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Census {
    /// Bytes in extents that hold data.
    pub data_bytes: u64,
    /// Bytes in holes, which are zero.
    pub hole_bytes: u64,
    /// The number of data extents.
    pub extents: u64,
    pub pages: Pages,
    /// One of this many pages was searched for duplicates. If not 1, their number is an estimate.
    pub duplicates_sampled: u64,
}

/// Pages by what they hold. Each is counted once, in the first field that applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pages {
    /// In holes or stored.
    pub zero: u64,
    /// All bytes are equal, and not zero.
    pub one_byte: u64,
    /// Equal to an earlier page of the block, by the 128-bit hash of its bytes.
    pub duplicate: u64,
    pub other: u64,
}

impl Pages {
    /// The number of all pages.
    pub fn all(&self) -> u64 {
        self.zero + self.one_byte + self.duplicate + self.other
    }
}

/// How each method compresses a sample of the pages that are not zero, on one core.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sample {
    pub pages: u64,
    pub bytes: u64,
    /// The most pages that were compressed together.
    pub batch_pages: u64,
    /// Each method at level 1.
    pub methods: Vec<MethodSample>,
}

/// How a method compresses the sample.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MethodSample {
    pub method: &'static str,
    pub level: u8,
    /// The compressed size; a batch that does not shrink counts uncompressed.
    pub bytes: u64,
    /// Uncompressed size divided by compressed size.
    pub ratio: f64,
    /// Millions of uncompressed bytes per second of CPU time; for `none`, the speed of copying. `None`
    /// if it was too fast to measure.
    pub megabytes_per_second: Option<f64>,
}

/// A native stream.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeStream {
    /// Whether nothing of this connection's stream is missing.
    pub complete: bool,
    pub hello: Option<NativeHello>,
    pub hello_bytes: u64,
    pub frames: Vec<FrameCount>,
    /// Bytes after the part that was understood.
    pub other_bytes: u64,
    pub rounds: Vec<NativeRound>,
    /// Frames whose pages were decoded and whose hash matches.
    pub checked_frames: u64,
    /// Frames whose pages cannot be checked, because deltas need the RAM that they apply to.
    pub unchecked_frames: u64,
    /// The digest at the stream's end, which the destination's RAM must have.
    pub digest: Option<Digest>,
    /// The digest computed from the frames, if there is one round on one connection and all frames
    /// were checked.
    pub computed_digest: Option<Digest>,
}

/// The source's first message.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeHello {
    /// Of the wire format.
    pub oldest_version: u16,
    /// Of the wire format.
    pub newest_version: u16,
    /// In hexadecimal.
    pub session: String,
    /// The number of this connection, from 0.
    pub connection: u16,
    pub connections: u16,
    pub page_size: u32,
    /// Milliseconds without a message after which the source gives up.
    pub silence_ms: u32,
    pub blocks: Vec<NativeBlock>,
    pub capabilities: Vec<NativeCapability>,
}

/// A block that a stream announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeBlock {
    pub name: String,
    pub bytes: u64,
}

/// A capability that a stream announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeCapability {
    pub name: String,
    /// Whether the migration depends on it.
    pub required: bool,
}

/// The frames of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FrameCount {
    pub kind: &'static str,
    pub count: u64,
    pub bytes: u64,
}

/// A round of a native stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeRound {
    /// The number, from 1.
    pub round: u32,
    /// Whether its end was found.
    pub complete: bool,
    pub frames: u64,
    pub bytes: u64,
    pub pages: RoundPages,
    /// The compression methods of the frames.
    pub methods: Vec<&'static str>,
}

/// Pages by how they are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RoundPages {
    /// By number only.
    pub zero: u64,
    /// Complete, and compressed if the frame is.
    pub whole: u64,
    pub delta: u64,
    /// Complete, and not compressed even if the frame is.
    pub stored: u64,
}

/// A QEMU stream.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuStream {
    /// Whether it ends as it should, as far as it was read.
    pub complete: bool,
    pub machine: Option<String>,
    /// The rest of the configuration section.
    pub configuration: Vec<QemuSetting>,
    /// The commands to the destination, by name.
    pub commands: Vec<Count>,
    pub blocks: Vec<QemuBlock>,
    /// The sections of `ram`, by type.
    pub sections: Vec<Count>,
    /// The records of `ram`, by kind.
    pub records: Vec<RecordCount>,
    /// Compressed pages by the levels that their zlib headers allow for.
    pub zlib_levels: Vec<ZlibLevels>,
    /// Pages that cannot be decoded.
    pub undecodable: u64,
    /// The devices' sections, as far as they can be found: the stream does not contain their lengths.
    pub devices: Vec<Device>,
    /// Whether the device state is too large to search for devices.
    pub devices_skipped: bool,
    /// What the bytes are for. The sum is the stream's size.
    pub parts: Vec<PartBytes>,
}

/// A sub-section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuSetting {
    pub name: String,
    pub value: String,
}

/// The number of things of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Count {
    pub name: &'static str,
    pub count: u64,
}

/// A block, and its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuBlock {
    pub name: String,
    pub bytes: u64,
    pub records: u64,
    /// Pages with a record.
    pub distinct_pages: u64,
    /// Pages without a record: zero when received.
    pub missing_pages: u64,
    /// Records of pages that had one before.
    pub repeats: u64,
}

/// Records of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecordCount {
    /// The kind: `zero`, `fill` (all bytes equal, not zero), `page`, `xbzrle` or `compressed`.
    pub kind: &'static str,
    pub count: u64,
    /// Bytes of the records without their payload.
    pub head_bytes: u64,
    /// Bytes from which the pages are decoded.
    pub payload_bytes: u64,
}

/// Compressed pages with the same zlib header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ZlibLevels {
    /// The levels for which zlib writes this header; the stream does not say more.
    pub levels: &'static str,
    pub pages: u64,
}

/// A device's section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Device {
    pub name: String,
    /// Distinguishes devices of the same name.
    pub instance: u32,
    pub version: u32,
    /// The size of its state, without headers.
    pub bytes: u64,
}

/// The bytes of a stream that are for one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartBytes {
    pub part: &'static str,
    pub bytes: u64,
}
