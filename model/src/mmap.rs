//! Memory-mapped files: the only file of this crate with `unsafe`.
//!
//! A model file is mapped, not read: opening it costs nothing, and weights are repacked straight out of the
//! page cache, without a copy of the file in between.

#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::{fs::File, io, ops::Deref, path::Path};

/// A whole file, mapped read-only.
///
/// While it is mapped, the file must not be changed: a writer that shortens it makes later reads
/// fault (`SIGBUS` on Unix), one that edits it makes weights change under the model. Replacing a
/// file by renaming another over it, as [`crate::gguf::Writer::write`] does, is safe: the old pages
/// stay with the old file.
#[derive(Debug)]
pub struct Mmap(memmap2::Mmap);

impl Mmap {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io(path))?;
        if !file.metadata().map_err(Error::io(path))?.is_file() {
            // The system's own answer, "No such device", would help nobody.
            return Err(Error::io(path)(io::Error::other(
                "it is a folder or a device, not a file",
            )));
        }
        // SAFETY: the mapping is read-only and private to this value, which owns it and hands out
        // only `&[u8]` that borrow it, so no reference outlives the mapping. That no other process
        // writes to the file meanwhile cannot be checked here, as with every mapped file: it is the
        // caller's duty, stated in the type's documentation.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self(map))
    }

    /// Says that the bytes of `range` will not be read soon, so that their pages need not stay in memory.
    /// They are read from the file again when they are.
    pub fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        {
            // Whole pages inside the range: its ends may share a page with a neighbour that is still read.
            const PAGE: usize = 1 << 16; // a multiple of every page size in use
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end.min(self.0.len()) / PAGE * PAGE;
            if start < end {
                // SAFETY: the mapping is of a file, read-only, and never written through, so pages that are
                // dropped come back with the same bytes; references into them stay valid.
                let dropped = unsafe {
                    self.0.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
                // Advice: a system that does not take it keeps the pages.
                drop(dropped);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Mmap {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
