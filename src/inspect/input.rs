//! A stream's bytes through a buffer that grows to the longest record, with their place in the stream.

use std::io::{self, ErrorKind, Read};

use super::OnProgress;
use super::report::{Damage, DamageSort};
use crate::text::printable;

/// How much is read at once.
const STEP: usize = 256 * 1024;

/// A stream that is being read.
pub(super) struct Input<'a> {
    reader: Box<dyn Read + 'a>,
    buffer: Vec<u8>,
    /// The part of the buffer that holds bytes not yet consumed.
    start: usize,
    end: usize,
    /// Bytes consumed.
    offset: u64,
    ended: bool,
    /// The bytes of the file; 0 if it is none.
    size: u64,
    progress: &'a OnProgress<'a>,
}

impl<'a> Input<'a> {
    /// A stream of `size` bytes; 0 if that is not known.
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

    /// The bytes of the file, or of what was read of it if that is more, or all that is known.
    pub(super) fn size(&self) -> u64 {
        self.size.max(self.read())
    }

    /// Where what was read ends.
    pub(super) fn read(&self) -> u64 {
        self.offset + self.bytes().len() as u64
    }

    /// What is in the buffer.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next `len` bytes, or fewer if the stream ends before. They are not consumed.
    ///
    /// `len` has been bounded by the caller: so much is allocated.
    pub(super) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.bytes().len() < len && !self.ended {
            self.fill(len)?;
        }
        Ok(&self.bytes()[..len.min(self.end - self.start)])
    }

    /// Reads something behind what is there, with room for `len` bytes in all.
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

    /// Goes on behind the next `len` bytes, which must be in the buffer.
    pub(super) fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.offset += len as u64;
    }
}

/// Why reading ends before the stream does.
#[derive(Debug)]
pub(super) enum ScanError {
    /// It cannot be read.
    Io(io::Error),
    /// It makes no sense.
    Damage(Damage),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> ScanError {
        ScanError::Io(error)
    }
}

impl ScanError {
    /// What begins at `offset` is wrong.
    pub(super) fn damaged(offset: u64, reason: &impl ToString) -> ScanError {
        ScanError::Damage(Damage {
            offset: Some(offset),
            sort: DamageSort::Damaged,
            reason: printable(&reason.to_string()),
        })
    }

    /// The stream ends here, and should not.
    pub(super) fn truncated(input: &Input<'_>, reason: &impl ToString) -> ScanError {
        ScanError::Damage(Damage {
            offset: Some(input.read()),
            sort: DamageSort::Truncated,
            reason: printable(&reason.to_string()),
        })
    }
}

/// The next `len` bytes, all of them, or how the stream ends instead. They are not consumed.
pub(super) fn whole<'a>(
    input: &'a mut Input<'_>,
    len: usize,
    record: &str,
) -> Result<&'a [u8], ScanError> {
    let begin = input.offset();
    let have = input.peek(len)?.len();
    if have < len {
        let reason =
            format!("it ends within a {record}: {have} of {len} bytes, from byte {begin} on");
        return Err(ScanError::truncated(input, &reason));
    }
    Ok(&input.bytes()[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
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
    fn every_byte_comes_once_and_in_order_whatever_the_sizes() {
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
