//! ramferry moves a virtual machine's RAM from one place to another, fast, and proves that it
//! arrived.
//!
//! Pages of a memory-mapped guest image go through a pool of N compressor threads and are streamed;
//! after the bulk stage only what changed goes, as XBZRLE deltas; M threads decompress on the
//! receiving side, which reads back what it wrote before anybody is told that it is there. It
//! serves two jobs: **benchmarking compression settings** on real guest RAM, and **standalone
//! migration of test VM images**.
//!
//! ```
//! use ramferry::{Migration, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (image, output) = (folder.path().join("guest.ram"), folder.path().join("out.ram"));
//! # std::fs::write(&image, vec![7; 1 << 20])?;
//! # let address: ramferry::transport::Address =
//! #     format!("unix:{}", folder.path().join("r.sock").display()).parse()?;
//! let mut settings = Settings::default();
//! settings.params.set_text("compress-method", "zstd")?;
//! let receiving = Migration::receive(output).from(address.clone()).start()?;
//! let sending = Migration::send(image).to(address).settings(settings).start()?;
//! let (sent, received) = (sending.wait()?, receiving.wait()?);
//! assert_eq!(sent.digest, received.digest);
//! println!("{} bytes on the wire", sent.wire_bytes);
//! # Ok(())
//! # }
//! ```
//!
//! A VMM that sends its own guest while it runs says what changes ([`dirty::Tracker`]) and how to
//! make it stand still ([`writer::Writer`]); `examples/live_memory.rs` is one in a single file.
//!
//! # Words
//! | word | meaning |
//! |---|---|
//! | page | 4096 bytes, the unit that is dirty or clean |
//! | block | a named stretch of guest RAM (`pc.ram`); an image is one, a [guest folder](image::folder) holds any number |
//! | batch | 1 to 256 pages of one block handled as one job |
//! | round | one walk over the dirty pages. Round 1 is the bulk stage (every page), later ones are delta rounds |
//! | method | `zlib`, `gzip`, `lz4`, `zstd`, `none`: what compresses. XBZRLE is the delta encoding, and no method |
//! | source, destination | the two ends; the commands are `send` and `receive` |
//! | downtime | how long the writer of a live guest stands still: from stopping it to the proof |
//!
//! # Where to read
//! The way of a page is [`source`]'s `pipeline.rs` and then [`destination`]'s, its mirror. What goes
//! over the wire is specified in [`wire::native`] and, where a QEMU is at the other end, in
//! [`wire::qemu`]; the digest that proves it in [`page`]. The rounds of a guest that is being
//! written meanwhile are in [`source`]'s `live.rs`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`page`], [`round`], [`error`] | page numbers, zero test, hashes, the digest; rounds; the error that leaves the crate |
//! | [`image`] | guest images: the only home of `mmap`; the output that appears only when proven |
//! | [`dirty`] | which pages must be sent again |
//! | [`codec`], [`delta`] | page bytes to payload bytes and back; XBZRLE and its cache |
//! | [`wire`] | bytes to typed records and back |
//! | [`advice`] | which setting is best for what, by its costs; the model of a slower link |
//! | [`params`], [`caps`], [`stats`] | the table of parameters, capabilities, counters and reports |
//! | [`writer`] | who writes the guest's RAM, and a writer of our own |
//! | [`transport`], [`session`] | addresses, connections, time limits; what both ends agree on |
//! | [`source`], [`destination`] | the two ends, file by file each other's mirror |
//! | [`control`], [`bench`](mod@bench) | start, watch, change, cancel a migration, also through a QMP monitor; compare settings |
//! | [`synthetic`] | a guest's RAM for people who have none |
//! | [`mod@inspect`] | what a file is and what it holds |
//! | [`cli`] | words to requests, results to words |
//!
//! Imports go downwards only: `cli` > `bench`, `control`, `inspect` > `source`, `destination` > `writer`,
//! `transport`, `session` > `params`, `caps`, `stats` > `wire`, `codec`, `delta`, `dirty`, `image` > `page`, `error`.
//!
//! # What can be relied on
//! * Input is hostile: files, peers and arguments. No bytes make it panic, allocate without
//!   bounds, or write outside the blocks.
//! * Every batch carries a hash over its header, page set and decoded pages, checked before
//!   anything is placed. Before the end the destination reads back and hashes what it really holds:
//!   what earlier rounds left while later ones run, so that little of it is left for the downtime.
//! * A failed migration leaves the source as it was and an older output untouched.
//! * Before Commit is sent the source is in charge; after it, it never claims to be again. Where
//!   the answer is lost, that is an outcome of its own, [`Kind::OutcomeUnknown`].
//!
//! `tcp:` is neither encrypted nor authenticated.

#[macro_use]
mod names;

pub mod advice;
pub mod bench;
pub mod caps;
#[cfg(feature = "cli")]
pub mod cli;
pub mod codec;
pub mod control;
pub mod delta;
pub mod description;
pub mod destination;
pub mod dirty;
pub mod error;
mod fault;
#[cfg(feature = "cli")]
mod grid;
pub mod image;
pub mod inspect;
pub mod page;
pub mod params;
pub mod partial;
mod pool;
pub mod round;
mod session;
mod settings;
pub mod sniff;
pub mod source;
pub mod stats;
mod sync;
pub mod synthetic;
mod sys;
mod text;
pub mod transport;
pub mod units;
pub mod wire;
pub mod writer;

/// The handshake, with which the integration tests play a peer. Not part of the interface.
#[doc(hidden)]
pub mod handshake {
    pub use crate::session::{
        Agreed, answer, check_answer, folder_offer, hello, known_capabilities, negotiate, offers,
        probe_hello,
    };
}

pub use caps::Caps;
pub use control::Migration;
pub use error::{Error, Kind};
pub use params::Params;
pub use settings::Settings;
