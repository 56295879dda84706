//! The part of a stream after its RAM: the devices, as far as they can be made out without knowing
//! them.
//!
//! Sections have no length field, so a section's end is a guess: the first footer with its id that
//! something plausible follows. If the stream's own description names the sections, only those are
//! plausible. The guess is wrong about a device whose state looks like that by chance; it serves
//! reports and checks for completeness, never the migration itself.
//!
//! Everything here takes time linear in the tail, and no bytes make it panic.

use std::ops::Range;

use serde::Deserialize;

use super::section;

/// Bytes of a footer.
const FOOTER_LEN: usize = 5;
/// Bytes between the sections and the description's text: the end, a type, a length.
const DESCRIPTION_HEAD_LEN: usize = 6;

/// A device's section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSection {
    /// The section's id.
    pub id: u32,
    /// The device's name, for example `timer` or `0000:00:02.0/vga`.
    pub name: String,
    /// The instance, if there are several of that name.
    pub instance: u32,
    /// The version of the device's state.
    pub version: u32,
    /// Bytes of the state, without head and footer.
    pub bytes: u64,
}

/// The contents of a tail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tail {
    /// The sections, in their order, up to the first whose end is not found.
    pub sections: Vec<DeviceSection>,
    /// Where in the tail the description's JSON text is.
    pub description: Option<Range<usize>>,
    /// As [`is_complete`].
    pub complete: bool,
}

impl Tail {
    /// Whether a virtio-mem device is among the sections: QEMU sends only what is plugged of its block,
    /// which may be nothing.
    pub fn has_virtio_mem(&self) -> bool {
        let mut names = self.sections.iter().map(|section| &section.name);
        names.any(|name| name.contains("virtio-mem"))
    }
}

/// Whether the tail reaches the end of the stream: it ends with the end byte and a description of
/// the announced length; or with a section's footer and the end byte, since old machine types have
/// no description. So a stream that broke off exactly between the two counts as complete, as it
/// does for QEMU.
pub fn is_complete(tail: &[u8]) -> bool {
    find_description(tail).is_some() || ends_without_description(tail)
}

/// Whether the tail ends with a description of the announced length. Nothing follows one.
pub fn has_description(tail: &[u8]) -> bool {
    find_description(tail).is_some()
}

/// The contents of the tail; the module's documentation says how reliable this is.
pub fn sections(tail: &[u8]) -> Tail {
    let description = find_description(tail);
    let complete = description.is_some() || ends_without_description(tail);
    // `find_description` and `complete` vouch for the bytes that are left out here.
    let end = match &description {
        Some(text) => text.start.saturating_sub(DESCRIPTION_HEAD_LEN),
        None => tail.len().saturating_sub(usize::from(complete)),
    };
    let devices = tail.get(..end).unwrap_or_default();
    let named = description
        .clone()
        .and_then(|text| names(tail.get(text)?))
        .and_then(|names| walk(devices, Some(&names)));
    Tail {
        sections: named.or_else(|| walk(devices, None)).unwrap_or_default(),
        description,
        complete,
    }
}

/// The description's text, if one ends exactly where the tail does.
fn find_description(tail: &[u8]) -> Option<Range<usize>> {
    if tail.last() != Some(&b'}') {
        return None;
    }
    // From the back, since the text holds neither of these bytes but a device's state may.
    let head = tail.windows(DESCRIPTION_HEAD_LEN + 1).rposition(|bytes| {
        matches!(
            bytes,
            [section::EOF, section::DESCRIPTION, _, _, _, _, b'{']
        )
    })?;
    let text = head + DESCRIPTION_HEAD_LEN..tail.len();
    let announced = u32_at(tail, head + 2)?;
    (announced as usize == text.len()).then_some(text)
}

/// Whether the tail's last bytes are the footer of one of its sections and the end byte. A guest
/// without devices has only the end byte.
fn ends_without_description(tail: &[u8]) -> bool {
    let Some((&section::EOF, devices)) = tail.split_last() else {
        return false;
    };
    let Some((_, [section::FOOTER, id @ ..])) = devices.split_last_chunk::<FOOTER_LEN>() else {
        return devices.is_empty();
    };
    devices
        .windows(FOOTER_LEN)
        .any(|bytes| matches!(bytes, [section::FULL, of @ ..] if of == id))
}

/// What the description says about a device, as far as it is needed here.
#[derive(Deserialize)]
struct Named {
    name: String,
    instance_id: u32,
}

#[derive(Deserialize)]
struct VmDescription {
    devices: Vec<Named>,
}

/// The devices that the description lists, in the order of their sections.
fn names(text: &[u8]) -> Option<Vec<Named>> {
    serde_json::from_slice::<VmDescription>(text)
        .ok()
        .map(|description| description.devices)
}

/// A section's head.
struct Head<'a> {
    id: u32,
    name: &'a str,
    instance: u32,
    version: u32,
    /// Where the state begins.
    body: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

/// The head at `at`, if there can be one: of a FULL section with a printable name.
fn head(devices: &[u8], at: usize) -> Option<Head<'_>> {
    let name_at = at + 6;
    let (&kind, &len) = (devices.get(at)?, devices.get(at + 5)?);
    if kind != section::FULL || len == 0 {
        return None;
    }
    let instance_at = name_at + usize::from(len);
    let name = devices.get(name_at..instance_at)?;
    let name = std::str::from_utf8(name).ok()?;
    if name.contains(char::is_control) {
        return None;
    }
    Some(Head {
        id: u32_at(devices, at + 1)?,
        name,
        instance: u32_at(devices, instance_at)?,
        version: u32_at(devices, instance_at + 4)?,
        body: instance_at + 8,
    })
}

/// Walks over the sections. With `names`, each must be the next of them and the last must end where
/// `devices` does; otherwise `None`.
fn walk(devices: &[u8], names: Option<&[Named]>) -> Option<Vec<DeviceSection>> {
    let mut sections = Vec::new();
    // Whether the head at a place can be that of section number `nth`.
    let fits = |at: usize, nth: usize| {
        head(devices, at).filter(|head| match names {
            None => true,
            Some(names) => names
                .get(nth)
                .is_some_and(|named| named.name == head.name && named.instance_id == head.instance),
        })
    };
    let mut next = fits(0, 0);
    let mut end = 0;
    while let Some(head) = next.take() {
        let nth = sections.len() + 1;
        let id = head.id.to_be_bytes();
        let mut from = head.body;
        while let Some(footer) = find_footer(devices, from, id) {
            let after = footer + FOOTER_LEN;
            let follower = fits(after, nth);
            if follower.is_some() || after == devices.len() {
                sections.push(DeviceSection {
                    id: head.id,
                    name: head.name.to_owned(),
                    instance: head.instance,
                    version: head.version,
                    bytes: (footer - head.body) as u64,
                });
                (next, end) = (follower, after);
                break;
            }
            from = footer + 1;
        }
    }
    let whole = |names: &[Named]| names.len() == sections.len() && end == devices.len();
    if names.is_none_or(whole) {
        Some(sections)
    } else {
        None
    }
}

/// The offset of the first footer with this id, from `from` on.
fn find_footer(devices: &[u8], from: usize, id: [u8; 4]) -> Option<usize> {
    devices
        .get(from..)?
        .windows(FOOTER_LEN)
        .position(|bytes| matches!(bytes, [section::FOOTER, of @ ..] if *of == id))
        .map(|at| from + at)
}
