//! A stream's bytes and their offsets, through a buffer that grows to the longest record.

use std::io::{self, ErrorKind, Read};

use super::OnProgress;
use super::report::{Damage, DamageSort};
use crate::text::printable;

/// Bytes per read.
const STEP: usize = 256 * 1024;

/// A stream being read.
pub(super) struct Input<'a> {
    reader: Box<dyn Read + 'a>,
    buffer: Vec<u8>,
    /// The part of the buffer that holds bytes not yet consumed.
    start: usize,
    end: usize,
    /// Bytes consumed.
    offset: u64,
    ended: bool,
    /// The file's size; 0 if that is not known.
    size: u64,
    progress: &'a OnProgress<'a>,
}

impl<'a> Input<'a> {
    /// A stream of `size` bytes; 0: not known.
    pub(super) fn new(reader: Box<dyn Read + 'a>, size: u64, progress: &'a OnProgress<'a>) -> Self {
        Input {
            reader,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
            size,
            progress,
        }
    }

    /// Bytes consumed so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The size of the file, or the number of bytes read if that is more.
    pub(super) fn size(&self) -> u64 {
        self.size.max(self.read())
    }

    /// Bytes read so far, consumed or not.
    pub(super) fn read(&self) -> u64 {
        self.offset + self.bytes().len() as u64
    }

    /// The bytes that were read and not consumed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next `len` bytes, or fewer if the stream ends before. They are not consumed.
    ///
    /// The caller must have bounded `len`, which is allocated.
    pub(super) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.bytes().len() < len && !self.ended {
            self.fill(len)?;
        }
        Ok(&self.bytes()[..len.min(self.end - self.start)])
    }

    /// Reads more, into a buffer with room for `len` unconsumed bytes.
    fn fill(&mut self, len: usize) -> io::Result<()> {
        let wanted = len.max(STEP);
        if self.buffer.len() - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
        }
        match self.reader.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.ended = true,
            Ok(read) => {
                self.end += read;
                (self.progress)(self.read(), self.size);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Consumes the next `len` bytes, which must be in the buffer.
    pub(super) fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.offset += len as u64;
    }
}

/// Why the description ends before the stream does.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    Damage(Damage),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> ScanError {
        ScanError::Io(error)
    }
}

impl ScanError {
    /// The record at `offset` is damaged.
    pub(super) fn damaged(offset: u64, reason: &impl ToString) -> ScanError {
        ScanError::Damage(Damage {
            offset: Some(offset),
            sort: DamageSort::Damaged,
            reason: printable(&reason.to_string()),
        })
    }

    /// The stream ends too early.
    pub(super) fn truncated(input: &Input<'_>, reason: &impl ToString) -> ScanError {
        ScanError::Damage(Damage {
            offset: Some(input.read()),
            sort: DamageSort::Truncated,
            reason: printable(&reason.to_string()),
        })
    }
}

/// The next `len` bytes, or how the stream ends within them. They are not consumed.
pub(super) fn whole<'a>(
    input: &'a mut Input<'_>,
    len: usize,
    record: &str,
) -> Result<&'a [u8], ScanError> {
    let begin = input.offset();
    let have = input.peek(len)?.len();
    if have < len {
        let reason = format!("it ends within a {record}: {have} of {len} bytes at byte {begin}");
        return Err(ScanError::truncated(input, &reason));
    }
    Ok(&input.bytes()[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a few bytes per read.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = out.len().min(7).min(self.0.len());
            let (now, later) = self.0.split_at(len);
            out[..len].copy_from_slice(now);
            self.0 = later;
            Ok(len)
        }
    }

    #[test]
    fn every_byte_comes_once_and_in_order_for_reads_of_any_size() {
        let all: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let mut input = Input::new(Box::new(Dribble(&all)), 0, &|_, _| {});
        let mut seen = Vec::new();
        for len in (1..).step_by(13) {
            let bytes = input.peek(len).unwrap();
            if bytes.is_empty() {
                break;
            }
            seen.extend_from_slice(bytes);
            let len = bytes.len();
            input.consume(len);
            assert_eq!(input.offset(), seen.len() as u64);
        }
        assert!(seen == all);
        assert_eq!(input.size(), all.len() as u64);
    }
}
