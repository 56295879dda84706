//! The native wire format, version 1.
//!
//! All integers are little endian. `u8 u16 u32 u64` are unsigned integers of that many bits.
//!
//! # Order of everything
//! On each connection the source speaks first: a [`Hello`], then frames. On a link with a way back
//! the destination answers the hello with an [`Answer`], and later with frames of its own; it writes
//! nothing before it has read a hello's magic. On a link without one (a file, a pipe) nothing is
//! answered, and the destination checks the stream alone.
//!
//! ```text
//! source                                     destination
//!   Hello                     ->
//!                             <-             Answer
//!   Pages, Zeros ...          ->                              round 1, the bulk stage
//!   RoundEnd(1)               ->
//!   Pages, Zeros ...          ->                              round 2 and so on: what changed
//!   RoundEnd(2)               ->
//!   Description               ->                              these three only if both have
//!   DeviceState ...           ->                              the capability `guest-folder`
//!   DeviceStateEnd            ->
//!   Finish(digest)            ->             reads back what it holds, and compares
//!                             <-             Proven(digest)
//!   Commit                    ->             makes it final
//!                             <-             Committed
//! ```
//!
//! With `K` connections (at most [`MAX_CONNECTIONS`]) each carries a hello of its own with the same
//! session id, and all join before round 1. Frames of a round may use any of them. `RoundEnd` goes on
//! every connection, and nothing of the next round is placed before all of this one is. `Finish` and
//! everything after it go on connection 0. `Failure` may come wherever a frame may, in both
//! directions, and ends the session. So may `KeepAlive`, which only says that the peer is alive.
//!
//! There are at most [`MAX_ROUNDS`] rounds. Within a round each page occurs at most once, so its
//! frames may arrive in any order. Round 1 has every page of the guest: the destination counts them,
//! because the digest cannot tell a page that never came from one that is zero.
//!
//! # Guest folders
//! A source that has a [guest folder](crate::image::folder) requires the capability `guest-folder`. On
//! connection 0, after the last `RoundEnd` and before `Finish`, it then sends one `Description`, the
//! device state in pieces in their order (none if there is no device state, and
//! [1 GiB](crate::description::MAX_DEVICE_STATE) at most together), and one
//! `DeviceStateEnd`. Without the capability none of the three may occur, and with it `Finish` may not
//! come before `DeviceStateEnd`. The digest in `Finish` is over the RAM of all blocks. A source whose
//! guest has device state that precedes RAM's pages in QEMU's stream also requires
//! `early-device-state`.
//!
//! # Frames
//! A header of [`HEADER_LEN`] bytes, then the page set, then the body:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u8 | kind ([`FrameKind`]) |
//! | 1 | u8 | flags. Bit 0 set: a receiver that does not know this kind may skip it, unchecked. 0 in the kinds below |
//! | 2 | u8 | codec of the body ([`crate::codec::Method`]'s number) |
//! | 3 | u8 | 0 |
//! | 4 | u16 | lane: 0 for frames that depend on no other; other numbers are not in use yet |
//! | 6 | u16 | block: its place in the hello's list |
//! | 8 | u32 | round, from 1 |
//! | 12 | u32 | pages in the page set, of all classes |
//! | 16 | u32 | bytes of the page set, at most [`MAX_PAGE_SET`] |
//! | 20 | u32 | bytes of the body, at most [`MAX_BODY`] |
//! | 24 | u32 | bytes of the body after decompression, without stored pages, at most [`MAX_BODY`] |
//! | 28 | u64 | hash |
//!
//! The hash is xxh3-64 over the first 28 bytes of the header, the page set, and: in a `Pages` frame
//! the 128-bit hashes (16 bytes each, see [`crate::page`]) of its decoded pages that are not of
//! class zero, in the order of the page set; in any other frame the body.
//! It is checked before anything is placed.
//!
//! ## Page set
//! Runs of pages, ascending, without overlap ([`PageSet`]). A run is two numbers in ULEB128: the
//! pages between the end of the previous run (or the block's start) and this one; and
//! `(count - 1) << 2 | class`. Class 0 is zero pages, 1 whole pages, 2 deltas (XBZRLE against what
//! the destination holds; not in round 1), 3 stored pages.
//!
//! ## Kinds and their bodies
//! | kind | page set | body, decompressed |
//! |---|---|---|
//! | 1 `Pages` | at most [`MAX_PAGES`] pages | a u16 for each delta, its length; the deltas; the whole pages; each in the order of the page set. After them, outside of what is compressed, the stored pages |
//! | 2 `Zeros` | class 0 only, any number of pages | none |
//! | 3 `RoundEnd` | none | u64 frames and u64 pages of kinds 1 and 2 that this connection carried in this round; u8: 1 if it was the last round |
//! | 4 `KeepAlive` | none | none |
//! | 5 `Finish` | none | 16 bytes: the RAM digest |
//! | 6 `Proven` | none | 16 bytes: the RAM digest of what the destination was found to hold |
//! | 7 `Commit` | none | none |
//! | 8 `Committed` | none | none |
//! | 9 `Failure` | none | u8: [`Reason`]; the rest: what happened, UTF-8, at most [`MAX_TEXT`] bytes |
//! | 10 `Description` | none | u32 the number of RAM's section; a string, the machine type; u32 length and bytes of the configuration; u16 how many commands, each u16 code, u32 length and bytes; if some of the device state precedes RAM's pages in QEMU's stream, u64 and u64: how many bytes of it precede the list of RAM blocks, and how many after these follow the list. Bounds: [`Description`](crate::description::Description) |
//! | 11 `DeviceState` | none | u64: how many bytes of device state came before; the rest: 1 to [`MAX_PIECE`] bytes of it |
//! | 12 `DeviceStateEnd` | none | u64: how many bytes of device state there were; 16 bytes: their xxh3-128 |
//!
//! The field "pages" is what the set holds, modulo 2^32. In all kinds but `Pages`, "bytes of the body
//! after decompression" equals "bytes of the body".
//!
//! # Hello and answer
//! | bytes | field |
//! |---|---|
//! | 8 | magic: [`HELLO_MAGIC`] or [`ANSWER_MAGIC`] |
//! | u16, u16 | the oldest and the newest version that is spoken |
//! | u32 | bytes of the body, at most [`MAX_HELLO`] |
//! | ... | body |
//! | u64 | xxh3-64 over all of the above |
//!
//! This frame of a hello is the same in all versions. Later versions add fields at a body's end;
//! bytes after the known fields are skipped. A string is a u8 length and that many bytes of UTF-8; a
//! text is a u16 length and bytes.
//!
//! A hello's body: 16 bytes session id; u16 this connection's number and u16 how many there are;
//! u32 page size; u32 the milliseconds of silence after which the source gives up; u16 how many
//! blocks, each a string and its u64 size in bytes; u16 how many capabilities, each a u8 (1: required)
//! and a string.
//!
//! An answer's body: u8 verdict (0 accepted, 1 refused); u16 the version that both will use; u32
//! the milliseconds of silence after which the destination gives up; u16 how many capabilities are
//! agreed, each a string; a text: why it is refused.
//!
//! Capabilities of the native wire are the names of the compression methods, `xbzrle`,
//! `guest-folder`, `early-device-state`, `guest-stays` and `probe`. A destination refuses a hello that requires a
//! capability that it does not know or has switched off, and names it; one that is not required it leaves out of its answer.
//! A source offers `guest-stays`, and does not require it, if its guest runs on: what arrives is then a copy, which no
//! end takes for the guest.
//! On the further connections of a session, what the first agreed on and the source uses is required.
//!
//! # Probing
//! A hello that requires the capability `probe` moves no guest: it asks what the destination
//! supports. It has no blocks, and of its fields only the versions have a meaning. A listening
//! destination answers, also while a session is joining, with verdict 0, the newest version that both
//! speak (0 if there is none), and as capabilities `probe` and everything that it would agree to; then
//! it closes the connection and goes on listening. A destination that predates probing refuses it by
//! name, like any capability that it lacks. The versions that it speaks are in that answer, too.

mod folder_parts;
mod guest;
mod header;
mod hello;
mod message;
mod page_set;
mod reader;

pub use super::BlockInfo;
pub use folder_parts::FolderParts;
pub use header::{Frame, FrameKind, Header, frame_hash};
pub use hello::{Answer, Hello, HelloHead, Offer, Verdict};
pub use message::{Message, Reason};
pub use page_set::{Class, PageSet, Run};

use std::ops::RangeInclusive;

use crate::page::PAGE_SIZE;

/// The versions that this program speaks.
///
/// | version | what it changed |
/// |---|---|
/// | 1 | the first |
pub const VERSIONS: RangeInclusive<u16> = 1..=1;
/// A source's first bytes. The first is not ASCII, so that no line of text can look like it.
pub const HELLO_MAGIC: [u8; 8] = *b"\x91ramfer\n";
/// A destination's first bytes.
pub const ANSWER_MAGIC: [u8; 8] = *b"\x91ramans\n";
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 36;
/// Bytes of a hello or an answer before its body.
pub const HELLO_HEAD_LEN: usize = 16;
/// The most pages in a `Pages` frame.
pub const MAX_PAGES: usize = 256;
/// The most rounds of a migration.
pub const MAX_ROUNDS: u32 = 65_536;
/// The most connections of a session.
pub const MAX_CONNECTIONS: u16 = 64;
/// The most bytes of a page set: [`MAX_PAGES`] runs of one page each, of three bytes, fit well.
pub const MAX_PAGE_SET: usize = 8192;
/// The most bytes of a body: all pages whole, or all deltas as long as a page, with their lengths.
pub const MAX_BODY: usize = MAX_PAGES * (PAGE_SIZE + 2);
/// The most bytes of a hello's or an answer's body.
pub const MAX_HELLO: usize = 64 * 1024;
/// The most bytes of a piece of device state.
pub const MAX_PIECE: usize = 256 << 10;
/// The most bytes of a text.
pub const MAX_TEXT: usize = 4096;
