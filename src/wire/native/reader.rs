//! Takes fields off the front of a record's bytes. Missing bytes are an error.
//!
//! The record itself has been bounded and read before. A length or a count that lies therefore runs
//! into the end of its own record, never into the next one.

use crate::wire::WireError;

pub(super) struct Reader<'a> {
    record: &'static str,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(record: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            record,
            whole: bytes.len(),
            rest: bytes,
        }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short {
            record: self.record,
            have: self.whole,
        })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A number in ULEB128 that fits 64 bits.
    pub(super) fn uleb(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::TooLarge {
            field: "a number in ULEB128",
            given: u64::MAX,
            allowed: u64::MAX,
        })
    }

    pub(super) fn text(&mut self, len: usize, field: &'static str) -> Result<String, WireError> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| WireError::NotText { field })
    }

    pub(super) fn string(&mut self, field: &'static str) -> Result<String, WireError> {
        let len = self.u8()?;
        self.text(usize::from(len), field)
    }

    /// A u16 count, at most `most`, and that many items. Every item takes bytes, so the record's length
    /// bounds their number; no memory is allocated on the count's word.
    pub(super) fn list<T>(
        &mut self,
        field: &'static str,
        most: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = at_most(field, self.u16()?.into(), most)?;
        (0..count).map(|_| item(self)).collect()
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing {
                record: self.record,
                extra: self.rest.len(),
            })
        }
    }
}

/// A length or a number from a peer, if it is within its bound.
pub(super) fn at_most(field: &'static str, given: u64, allowed: usize) -> Result<usize, WireError> {
    if given <= allowed as u64 {
        return Ok(given as usize);
    }
    Err(WireError::TooLarge {
        field,
        given,
        allowed: allowed as u64,
    })
}

/// Appends a number in ULEB128.
pub(super) fn put_uleb(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
