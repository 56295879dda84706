//! What an inspection found, for people and programs.
//!
//! In the JSON document sizes are bytes and all names are stable. Names that come from a file are as
//! they stand there.

use serde::Serialize;

use crate::page::Digest;

/// What a file is and what it holds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The file, as it was named.
    pub file: String,
    /// A file's size, all RAM of an image, or what was read of a pipe.
    pub bytes: u64,
    /// What is in it; `kind` says which.
    #[serde(flatten)]
    pub contents: Contents,
    /// Where and why the description ends before its time.
    pub damage: Option<Damage>,
}

/// What a file holds, by what it is.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Contents {
    /// A flat file of guest RAM.
    RawImage(GuestImage),
    /// A directory with `guest.json`.
    GuestFolder(GuestFolder),
    /// What `send` writes.
    NativeStream(NativeStream),
    /// What QEMU writes.
    QemuStream(QemuStream),
}

impl Contents {
    /// What it is, in words.
    pub fn name(&self) -> &'static str {
        match self {
            Contents::RawImage(_) => "raw RAM image",
            Contents::GuestFolder(_) => "guest folder",
            Contents::NativeStream(_) => "ramferry stream",
            Contents::QemuStream(_) => "QEMU migration stream",
        }
    }
}

/// Where a stream stops making sense, or what a guest folder should hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Damage {
    /// Bytes from the stream's beginning: of the record that is wrong, or where a truncated stream
    /// ends. `None` for a guest folder.
    pub offset: Option<u64>,
    /// Of which sort it is.
    pub sort: DamageSort,
    /// What is wrong.
    pub reason: String,
}

/// Why a stream is not described to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DamageSort {
    /// It holds something wrong.
    Damaged,
    /// It ends too early.
    Truncated,
    /// It may be right, but goes on with something that is not known here.
    Unsupported,
    /// A guest folder does not hold what its `guest.json` says.
    Differs,
}

impl DamageSort {
    /// In a word, to follow "is".
    pub fn name(self) -> &'static str {
        match self {
            DamageSort::Damaged => "damaged",
            DamageSort::Truncated => "truncated",
            DamageSort::Unsupported => "not supported",
            DamageSort::Differs => "not what its guest.json says",
        }
    }
}

/// A guest's RAM.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestImage {
    /// The RAM digest.
    pub digest: Digest,
    /// The blocks.
    pub blocks: Vec<GuestBlock>,
    /// What compression would make of it; `None` if all of it is zero.
    pub sample: Option<Sample>,
}

/// A guest folder.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestFolder {
    /// The machine type; may be empty.
    pub machine: String,
    /// What else QEMU's configuration says.
    pub configuration: Vec<QemuSetting>,
    /// The codes of the commands that stood in the stream.
    pub commands: Vec<u16>,
    /// The id of the section that RAM came in.
    pub ram_section_id: u32,
    /// Bytes of the device state.
    pub device_state_bytes: u64,
    /// The devices' sections, as far as they can be told: their lengths are nowhere in the state.
    pub devices: Vec<Device>,
    /// Whether there were so many bytes of them that the devices were not looked for.
    pub devices_skipped: bool,
    /// The RAM.
    #[serde(flatten)]
    pub image: GuestImage,
}

/// A block of a guest's RAM.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestBlock {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its part of the RAM digest.
    pub digest: Digest,
    /// The same as `guest.json` has it; `None` for a raw image.
    pub recorded_digest: Option<Digest>,
    /// What its pages are.
    #[serde(flatten)]
    pub census: Census,
}

/// What the pages of a block are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Census {
    /// Bytes in extents that hold data.
    pub data_bytes: u64,
    /// Bytes in holes, which are zero.
    pub hole_bytes: u64,
    /// How many extents hold data.
    pub extents: u64,
    /// How many pages there are of which sort.
    pub pages: Pages,
    /// Duplicates were looked for among one of so many pages, and are an estimate if that is not 1.
    pub duplicates_sampled: u64,
}

/// Pages by what they hold. Each counts once: in the first line that fits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pages {
    /// Zero, in holes or stored.
    pub zero: u64,
    /// One byte all over, which is not zero.
    pub one_byte: u64,
    /// Equal to an earlier page of the block, by the 128-bit hash of its bytes.
    pub duplicate: u64,
    /// All others.
    pub other: u64,
}

impl Pages {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.zero + self.one_byte + self.duplicate + self.other
    }
}

/// What each method makes of a sample of the pages that are not zero, on one core.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sample {
    /// Pages in the sample.
    pub pages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The most pages that were compressed as one.
    pub batch_pages: u64,
    /// The methods, each at level 1.
    pub methods: Vec<MethodSample>,
}

/// What a method makes of the sample.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MethodSample {
    /// The method's name.
    pub method: &'static str,
    /// Its level.
    pub level: u8,
    /// What the sample becomes; a batch that does not shrink counts as it is.
    pub bytes: u64,
    /// The sample's bytes for each of those.
    pub ratio: f64,
    /// How fast one core goes through the sample, in millions of bytes a second of CPU time; for `none`
    /// that of copying it. `None` if that was too quick to be measured.
    pub megabytes_per_second: Option<f64>,
}

/// A stream of ours.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeStream {
    /// Whether everything is there that this connection has to say.
    pub complete: bool,
    /// What the source said first.
    pub hello: Option<NativeHello>,
    /// Bytes of the hello.
    pub hello_bytes: u64,
    /// The frames by kind.
    pub frames: Vec<FrameCount>,
    /// Bytes behind what was understood.
    pub other_bytes: u64,
    /// What the frames of each round carry.
    pub rounds: Vec<NativeRound>,
    /// Frames whose pages were decoded, and whose hash fits them.
    pub checked_frames: u64,
    /// Frames whose pages cannot be checked: those of deltas need the RAM that they change.
    pub unchecked_frames: u64,
    /// What the destination must hold, as the stream's end says.
    pub digest: Option<Digest>,
    /// The same, computed from what the stream holds: if it has one round, on one connection, of
    /// frames that were all checked.
    pub computed_digest: Option<Digest>,
}

/// What a source says first.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeHello {
    /// The oldest version that it speaks.
    pub oldest_version: u16,
    /// The newest version that it speaks.
    pub newest_version: u16,
    /// The session, in hexadecimal.
    pub session: String,
    /// This connection's number, from 0.
    pub connection: u16,
    /// How many connections there are.
    pub connections: u16,
    /// Bytes in a page.
    pub page_size: u32,
    /// Milliseconds of silence after which the source gives up.
    pub silence_ms: u32,
    /// The guest's blocks.
    pub blocks: Vec<NativeBlock>,
    /// What the source can do and needs.
    pub capabilities: Vec<NativeCapability>,
}

/// A block, as a stream announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeBlock {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A capability, as a stream announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeCapability {
    /// Its name.
    pub name: String,
    /// Whether the migration cannot do without it.
    pub required: bool,
}

/// How many frames of a kind there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FrameCount {
    /// The kind.
    pub kind: &'static str,
    /// How many.
    pub count: u64,
    /// Their bytes, all told.
    pub bytes: u64,
}

/// A round of a stream of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NativeRound {
    /// Its number, from 1.
    pub round: u32,
    /// Whether its end is there.
    pub complete: bool,
    /// Frames with pages.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their pages, by how they are carried.
    pub pages: RoundPages,
    /// The methods that their bodies are compressed with.
    pub methods: Vec<&'static str>,
}

/// Pages by how they are carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RoundPages {
    /// Named as zero.
    pub zero: u64,
    /// Whole, compressed if the frame is.
    pub whole: u64,
    /// As deltas.
    pub delta: u64,
    /// Whole, and not compressed even if the frame is.
    pub stored: u64,
}

/// A stream of QEMU's.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuStream {
    /// Whether it ends as such a stream does, as far as it was looked at.
    pub complete: bool,
    /// The machine type.
    pub machine: Option<String>,
    /// What else the configuration says.
    pub configuration: Vec<QemuSetting>,
    /// The commands to the destination, by name.
    pub commands: Vec<Count>,
    /// The guest's blocks.
    pub blocks: Vec<QemuBlock>,
    /// ram's sections, by type.
    pub sections: Vec<Count>,
    /// ram's records, by kind.
    pub records: Vec<RecordCount>,
    /// Compressed pages by the levels that zlib's header leaves possible.
    pub zlib_levels: Vec<ZlibLevels>,
    /// Pages that cannot be decoded.
    pub undecodable: u64,
    /// The devices' sections, as far as they can be told: their lengths are nowhere in the stream.
    pub devices: Vec<Device>,
    /// Whether there were so many bytes of them that the devices were not looked for.
    pub devices_skipped: bool,
    /// What all bytes are. Their sum is the stream's size.
    pub parts: Vec<PartBytes>,
}

/// A sub-section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuSetting {
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// How many there are of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Count {
    /// Of what.
    pub name: &'static str,
    /// How many.
    pub count: u64,
}

/// A block, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuBlock {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Records of its pages.
    pub records: u64,
    /// Pages that occur; `None` if the guest is too large to keep account.
    pub distinct_pages: Option<u64>,
    /// Records of pages that occurred before.
    pub repeats: Option<u64>,
}

/// Records of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecordCount {
    /// The kind: `zero`, `fill` (another byte all over), `page`, `xbzrle` or `compressed`.
    pub kind: &'static str,
    /// How many.
    pub count: u64,
    /// Bytes in front of what the pages are made from.
    pub head_bytes: u64,
    /// Bytes that the pages are made from.
    pub payload_bytes: u64,
}

/// Compressed pages whose header is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ZlibLevels {
    /// The levels that this header is written for; the stream says no more.
    pub levels: &'static str,
    /// How many pages.
    pub pages: u64,
}

/// A device's section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Which of several of that name.
    pub instance: u32,
    /// The version of its state.
    pub version: u32,
    /// Bytes of its state, without what frames it.
    pub bytes: u64,
}

/// So many of a stream's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartBytes {
    /// What they are.
    pub part: &'static str,
    /// How many there are.
    pub bytes: u64,
}
