//! Codes that begin at a cache line.

use std::cell::Cell;
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

thread_local! {
    /// Of the last ones that were dropped: every layer of a prompt needs one, and a fresh one costs its zeroing and
    /// its page faults.
    static SPARE: Cell<Vec<i8>> = const { Cell::new(Vec::new()) };
}

/// Bytes above which memory is given back at once.
const KEEP: usize = 1 << 24;

impl Aligned {
    /// `len` codes with any contents.
    pub fn any(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let mut bytes = SPARE.take();
        if bytes.len() < len + LINE {
            bytes = vec![0; len + LINE];
        }
        // The answer may be "impossible"; then the start is as good as any.
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        Aligned { bytes, start, len }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if self.bytes.len() <= KEEP {
            // A thread that ends has nothing to keep it for.
            let _ = SPARE.try_with(|spare| {
                let other = spare.take();
                let longer = if other.len() > self.bytes.len() {
                    other
                } else {
                    std::mem::take(&mut self.bytes)
                };
                spare.set(longer);
            });
        }
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
        let mut copy = Self::any(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl PartialEq for Aligned {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
