//! Device state that precedes RAM's pages: what a destination has to know before it receives them.
//!
//! It comes as ordinary sections of type FULL, which have no length, so it can only be skipped if its
//! contents are understood. Of QEMU 8.1 to 11.1, only virtio-mem has it, for machine types of 8.1 and
//! later. The section is `PATH/virtio-mem-device-early`, version 1:
//!
//! ```text
//! u64 address, u64 bytes of the region, u64 bytes of a block, u32 node
//! u64 how many bytes are plugged
//! u64 ...          a bit for each block of the region: whether it is plugged
//! ```

use super::cursor::{Cursor, Stop};
use super::parser::{lossy, take_footer};
use super::{Fault, Unsupported};

/// How the name of a section ends that is understood. A device's path precedes it.
const VIRTIO_MEM: &[u8] = b"virtio-mem-device-early";
/// The version of it that is understood.
const VERSION: u32 = 1;
/// Bytes of the bitmap that are taken at once.
const PIECE: u64 = 4096;

/// A section that has begun: its id, and what follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct EarlySection {
    id: u32,
    next: Next,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    /// The fields in front of the bitmap.
    Layout,
    /// That many bytes of it, and the footer.
    Bitmap(u64),
}

impl EarlySection {
    /// Takes the rest of a section's head, whose first byte is taken already.
    pub(super) fn head(cursor: &mut Cursor<'_>) -> Result<EarlySection, Stop> {
        let id = cursor.u32()?;
        let name = cursor.string()?;
        if name.rsplit(|byte| *byte == b'/').next() != Some(VIRTIO_MEM) {
            let name = lossy(name);
            return Err(Unsupported::EarlyDevice { name }.into());
        }
        let _instance = cursor.u32()?;
        let found = cursor.u32()?;
        if found != VERSION {
            let name = lossy(name);
            return Err(Unsupported::EarlyVersion { name, found }.into());
        }
        let next = Next::Layout;
        Ok(EarlySection { id, next })
    }

    /// Takes the next piece. `false`: it was the last one.
    pub(super) fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Stop> {
        self.next = match self.next {
            Next::Layout => Next::Bitmap(bitmap_bytes(cursor)?),
            Next::Bitmap(0) => {
                take_footer(self.id, cursor)?;
                return Ok(false);
            }
            Next::Bitmap(left) => {
                let piece = left.min(PIECE);
                cursor.take(piece as usize)?;
                Next::Bitmap(left - piece)
            }
        };
        Ok(true)
    }
}

/// Takes the fields in front of the bitmap, and returns how many bytes it has.
fn bitmap_bytes(cursor: &mut Cursor<'_>) -> Result<u64, Stop> {
    let _address = cursor.u64()?;
    let region = cursor.u64()?;
    let block = cursor.u64()?;
    let _node = cursor.u32()?;
    let _plugged = cursor.u64()?;
    let blocks = region.checked_div(block);
    match blocks {
        Some(blocks) => Ok(blocks.div_ceil(64).saturating_mul(8)),
        None => Err(Fault::VirtioMem { region }.into()),
    }
}
