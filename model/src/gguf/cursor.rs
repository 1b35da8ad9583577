//! Reading with a bound: every read says what it reads and is checked against what is left.

use crate::error::{Error, Result};
use std::{fmt::Display, ops::Range};

/// A position in the bytes of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes from the start of the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: u64, what: &dyn Display) -> Result<&'a [u8]> {
        let range = self.skip(n, what)?;
        Ok(&self.bytes[range])
    }

    /// Passes over `n` bytes and says where they were.
    pub(super) fn skip(&mut self, n: u64, what: &dyn Display) -> Result<Range<usize>> {
        if n > self.left() {
            return Err(Error::Truncated {
                what: what.to_string(),
                at: self.at as u64,
                needed: n,
                have: self.left(),
            });
        }
        let start = self.at;
        self.at += n as usize; // n ≤ what is left, a usize
        Ok(start..self.at)
    }

    pub(super) fn u32(&mut self, what: &dyn Display) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &dyn Display) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self, what: &dyn Display) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    /// A string: u64 length, then UTF-8 without terminator.
    pub(super) fn string(&mut self, what: &dyn Display) -> Result<(&'a str, Range<usize>)> {
        let length = self.u64(what)?;
        let range = self.skip(length, what)?;
        match std::str::from_utf8(&self.bytes[range.clone()]) {
            Ok(s) => Ok((s, range)),
            Err(_) => Err(Error::NotUtf8 { what: what.to_string(), at: range.start as u64 }),
        }
    }

    /// A count of things that take at least `size` bytes each, so that a lie is caught before
    /// anything is allocated for it.
    pub(super) fn count(&mut self, size: u64, what: &dyn Display) -> Result<usize> {
        let count = self.u64(&format_args!("the number of {what}"))?;
        let limit = self.left() / size;
        if count > limit {
            return Err(Error::TooMany { what: what.to_string(), count, limit });
        }
        Ok(count as usize)
    }
}
