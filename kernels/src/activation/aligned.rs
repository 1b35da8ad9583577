//! Codes that begin at a cache line.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// A fixed number of int8 codes, the first at the begin of a cache line: rows of whole lines stay whole, and a load of
/// 64 codes reads one line and not two.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    bytes: Vec<i8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let bytes = vec![0; len + LINE];
        // The answer may be "impossible"; then the start is as good as any.
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        Aligned { bytes, start, len }
    }
}

impl Deref for Aligned {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [i8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl Clone for Aligned {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl PartialEq for Aligned {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
