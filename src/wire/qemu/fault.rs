//! What can be wrong with a QEMU stream.

use crate::description::MAX_EARLY_STATE;
use crate::error::{Error, Kind};

use super::{MAX_BLOCKS, MAX_COMPRESSED, MAX_MACHINE, RAM_VERSION};

/// Why a stream cannot be read any further, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} (at byte {offset} of the stream)")]
pub struct StreamError {
    /// Where the element begins, in bytes from the stream's beginning.
    pub offset: u64,
    /// What is wrong with it. It is not a `source()`, as the message has it already.
    pub what: Fault,
}

/// What is wrong with an element of the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
// The messages say what the fields are.
#[allow(missing_docs)]
pub enum Fault {
    /// It may be correct, but we do not support it.
    #[error("{0}")]
    Unsupported(Unsupported),
    /// The stream does not begin with QEMU's magic.
    #[error("this is not a QEMU migration stream: it begins with {found:02x?}")]
    NotQemu { found: [u8; 4] },
    /// A section of an unknown type.
    #[error("a section of the unknown type {found:#04x}")]
    UnknownSection { found: u8 },
    /// A second configuration.
    #[error("a second configuration")]
    SecondConfiguration,
    /// The machine type's name is too long.
    #[error("the machine type's name has {found} bytes, but at most {MAX_MACHINE} are allowed")]
    MachineLength { found: u32 },
    /// A name is not UTF-8.
    #[error("{field} is not valid UTF-8")]
    NotText { field: &'static str },
    /// A sub-section of the configuration in another version.
    #[error("the sub-section '{name}' has version {found}, but 1 was expected")]
    SubsectionVersion { name: &'static str, found: u32 },
    /// The same sub-section of the configuration twice.
    #[error("a second sub-section '{name}'")]
    SecondSubsection { name: &'static str },
    /// An unknown command.
    #[error("the unknown command {found:#06x}")]
    UnknownCommand { found: u16 },
    /// A command of the wrong length.
    #[error("the command {command} has {found} bytes, but {expected} were expected")]
    CommandLength {
        command: &'static str,
        found: u16,
        expected: u16,
    },
    /// A PING before the return path is open.
    #[error("the command PING before OPEN_RETURN_PATH")]
    PingTooEarly,
    /// RAM begins twice.
    #[error("a second START section of ram")]
    SecondStart,
    /// RAM in more than one instance.
    #[error("the section ram has instance {found}, but 0 was expected")]
    RamInstance { found: u32 },
    /// RAM in another version.
    #[error("the section ram has version {found}, but {RAM_VERSION} was expected")]
    RamVersion { found: u32 },
    /// A PART or END section without a START.
    #[error("{section} of the section {found}, which has not begun")]
    SectionId { section: &'static str, found: u32 },
    /// A section without its footer.
    #[error("the footer of section {id} is missing: there is {found:#04x} in its place")]
    FooterMissing { id: u32, found: u8 },
    /// A footer of another section.
    #[error("the footer of section {expected} has id {found}")]
    FooterId { expected: u32, found: u32 },
    /// The stream ends properly, but without all of RAM.
    #[error("the stream ends before ram's END section")]
    EndsEarly,
    /// RAM does not begin with its list of blocks.
    #[error("ram's START section begins with flags {flags:#05x} and not with the list of blocks")]
    NoBlocks { flags: u64 },
    /// A second list of blocks.
    #[error("a second list of RAM blocks")]
    SecondBlocks,
    /// Too many blocks.
    #[error("more than {MAX_BLOCKS} RAM blocks")]
    TooManyBlocks,
    /// A block is longer than what is left of the sum.
    #[error("the block '{name}' has {found} bytes, but only {left} of the announced sum are left")]
    BlockTooLong { name: String, found: u64, left: u64 },
    /// A block that is not a whole number of pages.
    #[error("the block '{name}' has {found} bytes, which is not a whole number of pages")]
    BlockLength { name: String, found: u64 },
    /// Two blocks of one name.
    #[error("a second block '{name}'")]
    SecondBlock { name: String },
    /// The layout of a virtio-mem device.
    #[error("a virtio-mem device of {region} bytes has blocks of 0 bytes")]
    VirtioMem { region: u64 },
    /// Too much early device state.
    #[error("more than {MAX_EARLY_STATE} bytes of device state come before RAM")]
    EarlyTooLong,
    /// A record with unknown flags.
    #[error("a RAM record with the unknown flags {flags:#05x}")]
    UnknownRecord { flags: u64 },
    /// The end of the records has an offset.
    #[error("the end of a section's records has the offset {offset:#x}")]
    EndOffset { offset: u64 },
    /// The first record relies on a previous one for its block.
    #[error("the first RAM record names no block")]
    NoBlock,
    /// A page of a block that was not listed.
    #[error("a page of the block '{name}', which was not listed")]
    UnknownBlock { name: String },
    /// A page outside of its block.
    #[error("a page at {offset:#x} of the block '{name}', which has {bytes:#x} bytes")]
    OutsideBlock {
        name: String,
        offset: u64,
        bytes: u64,
    },
    /// A delta of an unknown encoding.
    #[error("a delta of the unknown encoding {found}, but 1 was expected")]
    XbzrleEncoding { found: u8 },
    /// A delta longer than a page.
    #[error("a delta of {found} bytes, but at most 4096 are allowed")]
    XbzrleLength { found: u16 },
    /// A compressed page longer than zlib's bound.
    #[error("a compressed page of {found} bytes, but at most {MAX_COMPRESSED} are allowed")]
    CompressedLength { found: u32 },
}

/// What a QEMU source can do and we do not support, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
// The messages say what the fields are.
#[allow(missing_docs)]
pub enum Unsupported {
    /// Another version of the stream.
    #[error("the QEMU stream has version {found}, but only 3 is supported")]
    StreamVersion { found: u32 },
    /// A connection that multifd opened.
    #[error("this is a multifd connection: switch the capability 'multifd' off at the source")]
    MultifdConnection,
    /// Pages on other connections.
    #[error("pages go over multifd connections: switch the capability 'multifd' off at the source")]
    Multifd,
    /// Pages by RDMA.
    #[error("pages go by RDMA: migrate over 'tcp:' or 'unix:' instead")]
    Rdma,
    /// A machine type of QEMU 2.3 or older.
    #[error(
        "the stream has no configuration, as with machine types of QEMU 2.3 and older: use a newer one"
    )]
    NoConfiguration,
    /// Pages that are not 4 KiB.
    #[error(
        "the guest's pages have 2^{bits} bytes, but only guests with pages of 4096 are supported"
    )]
    PageSize { bits: u32 },
    /// A capability that changes the stream.
    #[error("the source uses the capability '{name}', which is not supported: switch it off there")]
    Capability { name: String },
    /// An unknown sub-section of the configuration: its length is unknown, too.
    #[error("the configuration has the unknown sub-section '{name}'")]
    Subsection { name: String },
    /// An unknown section in several parts: their length is unknown, too.
    #[error(
        "the section '{name}' goes in several parts, but only 'ram' is supported: migrate without that device or capability"
    )]
    Iterable { name: String },
    /// The section of an unknown device before the first pages: its length is unknown, too.
    #[error(
        "the state of the device '{name}' comes before RAM, which is supported only for virtio-mem: migrate without it"
    )]
    EarlyDevice { name: String },
    /// Another version of virtio-mem's section.
    #[error(
        "the state of the device '{name}' has version {found}, but only 1 is supported: migrate without it"
    )]
    EarlyVersion { name: String, found: u32 },
    /// Post-copy, or the announcement of it.
    #[error(
        "the command {command} belongs to post-copy: switch the capability 'postcopy-ram' off at the source"
    )]
    PostCopy { command: &'static str },
    /// Bitmaps of block devices, which may travel after the guest was started.
    #[error(
        "the command POSTCOPY_ADVISE belongs to bitmaps: switch the capability 'dirty-bitmaps' off at the source"
    )]
    DirtyBitmaps,
    /// COLO: two guests in lockstep.
    #[error("the command ENABLE_COLO: switch the capability 'x-colo' off at the source")]
    Colo,
}

impl From<Unsupported> for Fault {
    fn from(what: Unsupported) -> Fault {
        Fault::Unsupported(what)
    }
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Error {
        let kind = match error.what {
            Fault::Unsupported(_) => Kind::Refused,
            _ => Kind::Failed,
        };
        Error::new(kind, error)
    }
}
