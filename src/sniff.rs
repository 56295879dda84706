//! What bytes are, by how they begin: the one place that decides, for every command.
//!
//! | caller | asks |
//! |---|---|
//! | [`Guest::open`](crate::image::Guest::open): send, bench, digest | is the file something else than flat RAM? |
//! | [`inspect`](crate::inspect::inspect) | which reader describes the file? |
//! | receive | which pipeline takes the stream? |
//!
//! Flat RAM has no magic, so a file that begins like nothing known is RAM. Guest RAM may begin with
//! any bytes, so every command that takes a file can be told to take it for RAM
//! ([`ImageFormat::Raw`](crate::image::ImageFormat::Raw)), and the blocks of a guest folder are
//! never judged.
//!
//! To add a format: its magic in [`Content::of`], and its name and the way out in the two lists
//! below it; or, once it can be read, a function in `image/store/`.

use std::fmt;

use crate::wire::native::HELLO_MAGIC;
use crate::wire::qemu;

/// The most bytes that are needed to tell.
pub(crate) const HEAD: usize = 16;

/// What a file or a stream holds, if it is not flat RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// A stored stream of our own ([`crate::wire::native`]).
    NativeStream,
    /// A migration stream of QEMU's ([`crate::wire::qemu`]).
    QemuStream,
    /// One of the further connections of QEMU's capability `multifd`.
    QemuChannel,
    /// A libvirt save image (`virsh save`, managed save, an external memory snapshot).
    LibvirtSave,
    /// A libvirt save image that was never finished.
    LibvirtPartialSave,
    /// A qcow2 disk image.
    Qcow2,
    /// An ELF file: as a rule a core, which dump-guest-memory and `virsh dump --memory-only` write.
    Elf,
    /// A kdump-compressed dump, flattened or not.
    Kdump,
    /// A LiME dump.
    Lime,
    /// An AVML dump.
    Avml,
    /// A file compressed as a whole.
    Gzip,
    /// A file compressed as a whole.
    Zstd,
    /// A file compressed as a whole.
    Xz,
    /// A file compressed as a whole.
    Bzip2,
}

impl Content {
    /// What a file of these first [`HEAD`] bytes holds; `None`: flat RAM, as far as that can be
    /// told. With fewer bytes the file ends with them: if they are the beginning of a stream's
    /// magic, it is a stream that was cut very short.
    pub(crate) fn of(head: &[u8]) -> Option<Content> {
        let stream = |magic: &[u8]| {
            let len = head.len().min(magic.len());
            len > 0 && head[..len] == magic[..len]
        };
        // An image may well begin with the four bytes of multifd's magic; with its version after
        // them, hardly.
        let channel = [qemu::MULTIFD_MAGIC, 1_u32.to_be_bytes()].concat();
        if stream(&HELLO_MAGIC) {
            return Some(Content::NativeStream);
        } else if stream(&qemu::MAGIC) {
            return Some(Content::QemuStream);
        } else if head.starts_with(&channel) {
            return Some(Content::QemuChannel);
        }
        let foreign: [(&[u8], Content); 13] = [
            (b"LibvirtQemudSave", Content::LibvirtSave),
            (b"LibvirtQemudPart", Content::LibvirtPartialSave),
            (b"QFI\xfb", Content::Qcow2),
            (b"\x7fELF", Content::Elf),
            (b"KDUMP   ", Content::Kdump),
            (b"makedumpfile\0\0\0\0", Content::Kdump),
            (b"EMiL\x01\0\0\0", Content::Lime),
            (b"AVML\x02\0\0\0", Content::Avml),
            // 8: deflate, the only method that gzip has.
            (b"\x1f\x8b\x08", Content::Gzip),
            (b"\x28\xb5\x2f\xfd", Content::Zstd),
            (b"\xfd7zXZ\0", Content::Xz),
            (b"BZh", Content::Bzip2),
            // A skippable frame, as pzstd begins.
            (b"\x50\x2a\x4d\x18", Content::Zstd),
        ];
        let (magic, content) = foreign.iter().find(|(magic, _)| head.starts_with(magic))?;
        match content {
            // A level, and the magic of the first block or of the end.
            Content::Bzip2 => matches!(
                head[magic.len()..],
                [b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
                    | [b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..]
            )
            .then_some(*content),
            other => Some(*other),
        }
    }

    /// What a stream of these first bytes, eight or more, holds. Where only streams are expected,
    /// four bytes are enough to tell a channel of multifd, whatever its version.
    pub(crate) fn of_stream(head: &[u8]) -> Option<Content> {
        if head.starts_with(&qemu::MULTIFD_MAGIC) {
            Some(Content::QemuChannel)
        } else {
            Content::of(head)
        }
    }

    /// What the user can do to get at the RAM in it.
    pub(crate) fn way_out(self) -> &'static str {
        match self {
            Content::NativeStream | Content::QemuStream => {
                "unpack it with `ramferry receive file:FILE OUTPUT`"
            }
            Content::QemuChannel => {
                "RAM is spread over all channels of that migration, so migrate again without multifd"
            }
            Content::LibvirtSave => {
                "a QEMU stream follows its header, compressed if save_image_format says so; receive that with \
                 `tail -c +$((93 + $(od -An -tu4 -j20 -N4 FILE))) FILE | ramferry receive fd:0 OUTPUT`"
            }
            Content::LibvirtPartialSave => "save the guest again",
            Content::Qcow2 => {
                "let the guest's QEMU migrate to `ramferry receive`, or dump its RAM with pmemsave"
            }
            Content::Elf | Content::Kdump => {
                "dump the guest's RAM with pmemsave instead, or let its QEMU migrate to `ramferry receive`"
            }
            Content::Lime => "take the dump with format=raw, or convert it with avml-convert",
            Content::Avml => "convert it with `avml-convert --format raw`",
            Content::Gzip => "unpack it with gunzip",
            Content::Zstd => "unpack it with unzstd",
            Content::Xz => "unpack it with unxz",
            Content::Bzip2 => "unpack it with bunzip2",
        }
    }
}

/// The name with its article, to follow "is".
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::NativeStream => "a ramferry stream",
            Content::QemuStream => "a QEMU migration stream",
            Content::QemuChannel => "one channel of a QEMU multifd migration",
            Content::LibvirtSave => "a libvirt save image",
            Content::LibvirtPartialSave => "an unfinished libvirt save image",
            Content::Qcow2 => "a qcow2 disk image",
            Content::Elf => "an ELF core",
            Content::Kdump => "a kdump-compressed dump",
            Content::Lime => "a LiME dump",
            Content::Avml => "an AVML dump",
            Content::Gzip => "compressed with gzip",
            Content::Zstd => "compressed with zstd",
            Content::Xz => "compressed with xz",
            Content::Bzip2 => "compressed with bzip2",
        })
    }
}

/// A stream that is not a migration's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is {content}, not a migration stream: {}", content.way_out())]
pub struct NotAStream {
    /// What it is.
    pub content: Content,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_told_by_its_first_bytes_even_if_cut_within_them() {
        for len in 1..=HELLO_MAGIC.len() {
            assert_eq!(
                Content::of(&HELLO_MAGIC[..len]),
                Some(Content::NativeStream)
            );
        }
        for head in [&b"Q"[..], b"QEVM", b"QEVM\0\0\0\x03"] {
            assert_eq!(Content::of(head), Some(Content::QemuStream), "{head:?}");
        }
        let channel = b"\x11\x22\x33\x44\0\0\0\x01";
        assert_eq!(Content::of(channel), Some(Content::QemuChannel));
        for other in [
            &b""[..],
            b"\0",
            b"QEXM",
            b"\x91ramans\n",
            &[0; 8],
            b"\x11\x22\x33\x44",
        ] {
            assert_eq!(Content::of(other), None, "{other:?}");
        }
        let newer = b"\x11\x22\x33\x44\0\0\0\x02";
        assert_eq!(Content::of(newer), None);
        assert_eq!(Content::of_stream(newer), Some(Content::QemuChannel));
    }

    #[test]
    fn every_format_that_is_not_flat_ram_is_known_by_its_magic_and_by_no_less() {
        for (magic, content) in [
            (&b"LibvirtQemudSave"[..], Content::LibvirtSave),
            (b"LibvirtQemudPart", Content::LibvirtPartialSave),
            (b"QFI\xfb", Content::Qcow2),
            (b"\x7fELF", Content::Elf),
            (b"KDUMP   ", Content::Kdump),
            (b"makedumpfile\0\0\0\0", Content::Kdump),
            (b"EMiL\x01\0\0\0", Content::Lime),
            (b"AVML\x02\0\0\0", Content::Avml),
            (b"\x1f\x8b\x08", Content::Gzip),
            (b"\x28\xb5\x2f\xfd", Content::Zstd),
            (b"\x50\x2a\x4d\x18", Content::Zstd),
            (b"\xfd7zXZ\0", Content::Xz),
            (b"BZh91AY&SY", Content::Bzip2),
            (b"BZh1\x17\x72\x45\x38\x50\x90", Content::Bzip2),
        ] {
            let mut head = [0; HEAD];
            head[..magic.len()].copy_from_slice(magic);
            assert_eq!(Content::of(&head), Some(content));
            assert!(!content.way_out().is_empty());
            head[magic.len() - 1] ^= 0x80;
            assert_ne!(Content::of(&head), Some(content), "{content}");
        }
        // As a PC's BIOS leaves RAM.
        assert_eq!(Content::of(&[0x53, 0xff, 0, 0xf0].repeat(4)), None);
        assert_eq!(Content::of(&[0; HEAD]), None);
    }
}
