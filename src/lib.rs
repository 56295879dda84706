//! ramferry moves a virtual machine's RAM from one place to another, fast, and verifies it on
//! arrival.
//!
//! Pages of a memory-mapped guest image go through a pool of N compressor threads to the network; after
//! the bulk stage only what changed is sent, as XBZRLE deltas. M threads decompress at the
//! destination, which reads everything back and verifies it before reporting success. It serves two
//! jobs: **benchmarking compression settings** on real guest RAM, and **standalone migration of test
//! VM images**.
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
//! println!("{} bytes on the wire in {:?}", sent.wire_bytes, sent.total_time);
//! # Ok(())
//! # }
//! ```
//!
//! A VMM that sends its own guest while it runs implements two traits: [`dirty::Tracker`] says what
//! changed, [`writer::Writer`] stops and resumes the guest. `examples/live_memory.rs` does it in one
//! file.
//!
//! ```no_run
//! use std::sync::{Arc, Mutex};
//!
//! use ramferry::Migration;
//! use ramferry::dirty::Tracker;
//! use ramferry::source::{Live, WriterChoice};
//! use ramferry::writer::Writer;
//!
//! fn send(vcpus: impl Writer + 'static, log: Arc<dyn Tracker>) -> ramferry::error::Result<()> {
//!     let writer = WriterChoice::Own(Arc::new(Mutex::new(vcpus)));
//!     let migration = Migration::send("/dev/shm/guest.ram")
//!         .to("tcp:10.0.0.2:4444".parse()?)
//!         .live(Live::new(writer).tracked_by(log))
//!         .on_event(|event| eprintln!("{event:?}"))
//!         .start()?;
//!     let report = migration.wait()?;
//!     println!("downtime {:?}", report.downtime);
//!     Ok(())
//! }
//! ```
//!
//! # Cargo features
//! `cli`, on by default, is the program: command line, tables, report page, completions, man pages.
//! With `default-features = false` the library alone is built, with half of the dependencies.
//!
//! # Terms
//! | term | meaning |
//! |---|---|
//! | page | 4096 bytes, the unit that is dirty or clean |
//! | block | a named range of guest RAM (`pc.ram`); an image is one, a [guest folder](image::folder) holds any number |
//! | batch | 1 to 256 pages of one block that are handled as one job |
//! | round | one pass over the dirty pages. Round 1 is the bulk stage (every page), later ones are delta rounds |
//! | method | the compression method: `zlib`, `gzip`, `lz4`, `zstd` or `none`. XBZRLE is the delta encoding, not a method |
//! | source, destination | the two ends; the commands are `send` and `receive` |
//! | downtime | how long the writer of a live guest is paused: from stopping it to the verification |
//!
//! # Design
//! A **migration has phases**, which both ends walk: connect and agree, rounds, proof, commit. Until
//! Commit is sent the source is in charge; after it, it never claims to be again. Each end has **one
//! pipeline that knows no wire**: at the source scan, encode, send; at the destination read, decode,
//! place. What is said on the connections is a **wire**, of which there are two, ours and QEMU's; one
//! place at each end knows that there is more than one. A page is followed from the image to the
//! socket in [`source`]'s `pipeline.rs`, and back in [`destination`]'s. The formats are specified in
//! [`wire::native`] and [`wire::qemu`], the digest that proves a guest's RAM in [`page`]. The rounds of
//! a live guest are in [`source`]'s `live.rs` and `converge.rs`.
//!
//! | module | contents |
//! |---|---|
//! | [`error`], [`units`], [`page`], [`round`] | the error that leaves the crate; sizes and rates; page numbers, hashes, the digest; rounds |
//! | [`codec`], [`delta`], [`description`] | page bytes to payload bytes and back; XBZRLE and its cache; what a guest is besides RAM |
//! | [`wire`], [`sniff`] | bytes to typed records and back; telling by its first bytes what a file is |
//! | [`params`], [`caps`], [`stats`] | the table of parameters, capabilities, counters and reports |
//! | [`image`], [`partial`], [`dirty`] | guest images, the only home of `mmap`; outputs that appear only when verified; which pages to send again |
//! | [`transport`], [`qmp`] | addresses, connections, time limits; a client of a monitor, ours or a QEMU's |
//! | [`writer`] | what writes the guest's RAM, and how it is stopped |
//! | [`source`], [`destination`] | the two ends |
//! | [`control`] | start, watch, change and cancel a migration, also through a QMP monitor |
//! | [`mod@inspect`], [`synthetic`] | what a file contains; a guest's RAM for those who have none at hand |
//! | [`bench`](mod@bench), [`advice`] | compare settings; what they cost over a link |
//!
//! Imports go downwards only: `cli` > `bench` > `control`, `inspect` > `source`, `destination` > `writer` >
//! `session`, `qmp` > `transport` > `dirty` > `image` > `sniff`, `stats` > `wire`, `params`, `caps` > `codec`, `delta`,
//! `description`, `partial`, `synthetic`, `advice` > `page`, `round`, `units`, `error`.
//!
//! # Guarantees
//! * Input is hostile: files, peers and arguments. No bytes make it panic, allocate without bounds, or
//!   write outside the blocks.
//! * Every batch carries a hash over its header, page set and decoded pages, which is checked before
//!   anything is placed. Before the end the destination reads back and hashes what it really holds:
//!   what earlier rounds wrote while later ones run, so that little of it is left for the downtime.
//! * A failed migration leaves the source as it was and an older output untouched; a block device, which
//!   is written in place, is left partly overwritten.
//! * Where the answer to Commit is lost, that is an outcome of its own, [`Kind::OutcomeUnknown`].
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
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "cli")]
mod grid;
pub mod image;
pub mod inspect;
#[cfg(all(test, shuttle))]
mod model;
pub mod page;
pub mod params;
pub mod partial;
mod pool;
pub mod qmp;
pub mod round;
mod session;
mod settings;
pub mod sniff;
pub mod source;
mod special;
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
        Agreed, answer, check_answer, folder_offers, hello, known_capabilities, negotiate, offers,
        probe_hello,
    };
}

pub use caps::Caps;
pub use control::Migration;
pub use error::{Error, Kind};
pub use params::Params;
pub use settings::Settings;
