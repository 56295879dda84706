//! Recognises formats by their first bytes, for every command.
//!
//! | caller | question |
//! |---|---|
//! | [`Guest::open`](crate::image::Guest::open), for send, bench and digest | is the file in a format other than flat RAM? |
//! | [`inspect`](crate::inspect::inspect) | which reader describes the file? |
//! | receive | which wire does the source speak? |
//!
//! Flat RAM has no magic, so a file without a known one is flat RAM. Guest RAM may begin with any
//! bytes, so `--format raw` ([`ImageFormat::Raw`](crate::image::ImageFormat::Raw)) skips the check, and
//! the blocks of a guest folder are never checked.
//!
//! To add a format: its magic in `Content::of`, its name, and what a user can do with it in
//! `Content::way_out`. Once it can be read, its reader is a file in `image/store/`.

use std::fmt;

use crate::wire::native::HELLO_MAGIC;
use crate::wire::qemu;

/// The number of bytes that are enough to recognise a format.
pub(crate) const HEAD: usize = 16;

/// The format of a file or a stream that is not flat RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
// A format whose name says it all has no comment.
#[allow(missing_docs)]
pub enum Content {
    /// See [`crate::wire::native`].
    NativeStream,
    /// See [`crate::wire::qemu`].
    QemuStream,
    /// An additional connection of QEMU's capability `multifd`.
    QemuChannel,
    /// By `virsh save`, a managed save, or an external memory snapshot.
    LibvirtSave,
    /// Its writer never finished.
    LibvirtPartialSave,
    /// A disk image.
    Qcow2,
    /// As a rule a core, as dump-guest-memory and `virsh dump --memory-only` write it.
    Elf,
    /// Flattened or not.
    Kdump,
    /// By the Linux Memory Extractor.
    Lime,
    /// By Microsoft's AVML, compressed.
    Avml,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Content {
    /// The format of a file with these first [`HEAD`] bytes; `None`: flat RAM, for all that is known.
    /// A file with fewer bytes that are the beginning of a stream's magic is a truncated stream.
    pub(crate) fn of(head: &[u8]) -> Option<Content> {
        let stream = |magic: &[u8]| {
            let len = head.len().min(magic.len());
            len > 0 && head[..len] == magic[..len]
        };
        // RAM may well begin with the four bytes of multifd's magic, but hardly with its version
        // after them.
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
            // 8 is deflate, the only method of gzip.
            (b"\x1f\x8b\x08", Content::Gzip),
            (b"\x28\xb5\x2f\xfd", Content::Zstd),
            (b"\xfd7zXZ\0", Content::Xz),
            (b"BZh", Content::Bzip2),
            // A skippable frame, with which pzstd begins.
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

    /// The format of a stream with these first bytes, at least eight. Where only streams are expected,
    /// four bytes are enough to recognise a channel of multifd, whatever its version.
    pub(crate) fn of_stream(head: &[u8]) -> Option<Content> {
        if head.starts_with(&qemu::MULTIFD_MAGIC) {
            Some(Content::QemuChannel)
        } else {
            Content::of(head)
        }
    }

    /// What a user can do to get at the RAM.
    pub(crate) fn way_out(self) -> &'static str {
        match self {
            Content::NativeStream | Content::QemuStream => {
                "unpack it with `ramferry receive file:FILE OUTPUT`"
            }
            Content::QemuChannel => {
                "the RAM is spread over several channels; migrate without multifd"
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

/// For messages, to follow "is".
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::NativeStream => "a ramferry stream",
            Content::QemuStream => "a QEMU migration stream",
            Content::QemuChannel => "one channel of a QEMU multifd migration",
            Content::LibvirtSave => "a libvirt save image",
            Content::LibvirtPartialSave => "an unfinished libvirt save image",
            Content::Qcow2 => "a qcow2 disk image",
            Content::Elf => "an ELF file",
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

/// A stream that is not a migration stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is {content}, not a migration stream: {}", content.way_out())]
pub struct NotAStream {
    /// Its format.
    pub content: Content,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_recognised_even_if_it_was_cut_within_its_magic() {
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
    fn each_format_is_recognised_by_its_magic_and_by_no_less() {
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
