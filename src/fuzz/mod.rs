//! What is run with bytes that a stranger chose. Not part of the interface: it exists in tests and for
//! `fuzz/`, which runs each of [`TARGETS`] with libFuzzer.
//!
//! A target is a function of bytes that panics if something is wrong with what the crate made of
//! them. That the crate itself does not panic is the least; the rest is the target's documentation.
//!
//! | file | what is attacked |
//! |---|---|
//! | `records.rs` | records of the native wire and QEMU's, one at a time |
//! | `codecs.rs` | compressed bodies and deltas |
//! | `text.rs` | JSON, guest folders' descriptions, what is written on a command line |
//! | `whole.rs` | a destination, a source, a monitor's client and `inspect`, each as a whole |
//! | `model.rs` | what RAM must be after a stream: a second receiver that keeps everything in memory |
//! | `native.rs` | streams that are put in order where hashes and counts would stop most damage |
//! | `seeds.rs` | inputs to begin with, from `fixtures/` and `fuzz/corpus/` |

mod codecs;
mod model;
mod native;
mod records;
pub mod seeds;
mod text;
mod whole;

#[cfg(test)]
mod tests;

use std::path::Path;

/// Something to attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also of its executable and its corpus.
    pub name: &'static str,
    /// Runs it, and returns whether the crate accepted any of it. The folder is for files, and empty
    /// but for what earlier runs left.
    pub run: fn(&[u8], &Path) -> bool,
    /// What to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs are tried in the suite, besides those that are stored.
    pub tries: u32,
}

const fn target(
    name: &'static str,
    run: fn(&[u8], &Path) -> bool,
    seeds: fn() -> Vec<Vec<u8>>,
    tries: u32,
) -> Target {
    Target {
        name,
        run,
        seeds,
        tries,
    }
}

/// All of them, those that need the most time last.
pub const TARGETS: &[Target] = &[
    target("hello", records::hello, seeds::greetings, 2000),
    target("frame", records::frame, seeds::frames, 2000),
    target("page_set", records::page_set, seeds::page_sets, 2000),
    target("message", records::message, seeds::frames, 2000),
    target("return_path", records::return_path, seeds::replies, 2000),
    target("tail", records::tail, seeds::tails, 500),
    target("xbzrle", codecs::xbzrle, seeds::deltas, 500),
    target("codec", codecs::codec, seeds::bodies, 300),
    target("monitor_json", text::monitor_json, seeds::commands, 500),
    target(
        "monitor_client",
        whole::monitor_client,
        seeds::dialogues,
        500,
    ),
    target("guest_json", text::guest_json, seeds::descriptions, 500),
    target("words", text::words, seeds::words, 500),
    target("inspect", whole::inspect, seeds::files, 100),
    target(
        "qemu_parser",
        records::qemu_parser,
        seeds::qemu_streams,
        200,
    ),
    target("send", whole::send, seeds::answers, 60),
    target(
        "receive_qemu",
        whole::receive_qemu,
        seeds::qemu_sessions,
        60,
    ),
    target(
        "receive_native",
        whole::receive_native,
        seeds::native_sessions,
        60,
    ),
];

/// The target of this name.
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
