//! Whether this is AMD's Zen 5 or later, of which two things are known by measurement (benches/LOG.md): it permutes 32
//! words as often as it multiplies 64 bytes, and its own prefetch keeps up with few formats' kernels.

use core::arch::x86_64::__cpuid;
use std::sync::OnceLock;

use super::Ahead;

/// How far ahead lines are asked for where they are, in bytes.
pub(crate) const DISTANCE: usize = 4096;

/// Asks the processor once: under a hypervisor that takes microseconds.
pub(crate) fn here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| {
        // Vendor, and family as base plus extended: AMD64 Architecture Programmer's Manual, volume 3, E.3.1 and E.3.2.
        let vendor = __cpuid(0);
        let letters = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
        let signature = __cpuid(1).eax;
        let family = (signature >> 8 & 15) + (signature >> 20 & 255);
        letters == b"AuthenticAMD" && family >= 0x1a
    })
}

/// [`super::Isa::ahead`] on x86-64; `other` is that of the remaining codes on this CPU.
#[inline]
pub(crate) fn ahead(other: usize) -> Ahead {
    match here() {
        true => Ahead { few_bits: DISTANCE, sub_blocks: DISTANCE, dense: DISTANCE, other },
        false => Ahead::USUAL,
    }
}
