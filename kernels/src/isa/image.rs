//! The machine code of this program or library as bytes, and where its functions begin.
//!
//! The loader knows the segments of what it loaded (`dl_iterate_phdr`), and every function that can be unwound is in
//! the sorted table of `.eh_frame_hdr` (Linux Standard Base, "Exception Frame Header"). Neither needs symbols, which
//! a stripped library has not.

use std::ops::Range;

/// The segment of code that holds a function of this crate.
pub(crate) struct Image {
    /// Where it is.
    address: usize,
    /// Its bytes. They stay: this crate's own code is among them.
    code: &'static [u8],
    /// Addresses at which functions begin, ascending.
    starts: Vec<usize>,
}

impl Image {
    /// The segment that this crate was loaded with; `None` where the system does not say.
    pub fn own() -> Option<Self> {
        system::own()
    }

    /// Addresses of all code.
    pub fn range(&self) -> Range<usize> {
        self.address..self.address + self.code.len()
    }

    /// Addresses from the function that holds `address` up to the next one (padding may lie between).
    pub fn function(&self, address: usize) -> Range<usize> {
        let next = self.starts.partition_point(|&start| start <= address);
        let start = next.checked_sub(1).map_or(self.address, |i| self.starts[i]);
        start..self.starts.get(next).copied().unwrap_or(self.range().end)
    }

    /// The bytes at these addresses, which lie in [`Image::range`].
    pub fn bytes(&self, range: Range<usize>) -> &'static [u8] {
        &self.code[range.start - self.address..range.end - self.address]
    }
}

/// Function starts from a `.eh_frame_hdr` at `address`; `None` in another encoding than the one linkers write:
/// version 1, a count of 4 bytes, pairs of (start, description), each 4 bytes relative to the header.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "for the systems that have it"))]
fn starts(header: &[u8], address: usize, within: &Range<usize>) -> Option<Vec<usize>> {
    const PLAIN: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
    let (words, _) = header.strip_prefix(&PLAIN)?.as_chunks::<4>();
    let count = u32::from_le_bytes(*words.get(1)?) as usize;
    let pairs = words.get(2..2 + 2 * count)?.as_chunks::<2>().0;
    let start =
        |pair: &[[u8; 4]; 2]| address.wrapping_add_signed(i32::from_le_bytes(pair[0]) as isize);
    let mut starts: Vec<usize> = pairs.iter().map(start).filter(|s| within.contains(s)).collect();
    starts.sort_unstable();
    Some(starts)
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod system {
    use std::ffi::{c_int, c_void};

    use super::{Image, starts};

    pub(super) fn own() -> Option<Image> {
        let mut found: Option<Image> = None;
        // SAFETY: `look` gets what the loader describes, and the pointer to `found`, which outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
        found
    }

    /// Looks at one loaded file; 1 ends the search.
    unsafe extern "C" fn look(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader describes a loaded file, whose program headers are an array; `found` is `own`'s.
        let (info, headers, found) = unsafe {
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
            (info, headers, &mut *found.cast::<Option<Image>>())
        };
        let place = |h: &libc::Elf64_Phdr| (info.dlpi_addr + h.p_vaddr) as usize;
        let mine = look as *const () as usize;
        let code = headers.iter().find(|h| {
            let flags = libc::PF_R | libc::PF_X;
            let runs = h.p_type == libc::PT_LOAD && h.p_flags & flags == flags;
            runs && (place(h)..place(h) + h.p_memsz as usize).contains(&mine)
        });
        let Some(code) = code else { return 0 };
        let frames = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME);
        let bytes = |h: &libc::Elf64_Phdr| {
            // SAFETY: the segment is mapped, readable and never written. It holds this function or belongs to the same
            // file, so it stays for as long as anything of this crate runs.
            unsafe { std::slice::from_raw_parts(place(h) as *const u8, h.p_memsz as usize) }
        };
        let (address, code) = (place(code), bytes(code));
        *found = frames
            .and_then(|h| starts(bytes(h), place(h), &(address..address + code.len())))
            .map(|starts| Image { address, code, starts });
        1
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod system {
    pub(super) fn own() -> Option<super::Image> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_frames_is_read() {
        let mut header = vec![1, 0x1b, 0x03, 0x3b, 9, 9, 9, 9, 3, 0, 0, 0];
        for start in [-0x30i32, 0x20, 0x7000] {
            header.extend(start.to_le_bytes());
            header.extend([7; 4]);
        }
        let found = starts(&header, 0x1000, &(0xf00..0x1100));
        assert_eq!(found, Some(vec![0xfd0, 0x1020]), "what lies outside is left out");
        assert_eq!(starts(&header[..30], 0x1000, &(0xf00..0x1100)), None, "too short");
        header[3] = 0x1b;
        assert_eq!(starts(&header, 0x1000, &(0xf00..0x1100)), None, "another encoding");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_function_is_found_by_any_of_its_addresses() {
        let image = Image::own().expect("Linux says");
        let start = starts as *const () as usize;
        for address in [start, start + 5] {
            assert_eq!(image.function(address).start, start);
        }
        assert!(image.bytes(image.function(start)).len() > 16);
        assert!(image.range().contains(&start));
    }
}
