//! AMX: beside AVX-512, a unit that multiplies whole tiles of bytes (`tdpbsud`, `tdpbssd`): 16 tokens x 64 columns with
//! 64 columns x 16 rows of a panel, in the time of 16 dot products. Xeon of the fourth generation and later.
//!
//! Rust has no intrinsics for it yet, so the instructions are written out. A tile's rows and bytes are a setting of the
//! thread, which [`Unit::tiles`] makes and its value's end takes back: other code finds the unit as it was, and the
//! system need not keep eight kilobytes for a thread that does something else.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use core::arch::asm;
use core::arch::x86_64::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::avx512::Avx512;
use super::{Isa, TileLine, Unit};

/// Proof of AMX with tiles of bytes, granted by the system, and of [`Avx512`].
#[derive(Clone, Copy)]
pub(crate) struct Amx(Avx512);

/// Bytes of a row of a tile.
const TILE_ROW: usize = 64;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// The unit, set up for this thread. Not for another one: the setting is the thread's.
pub(crate) struct Tiles {
    tokens: usize,
    cols: usize,
    thread: PhantomData<*const ()>,
}

thread_local! {
    /// Whether a [`Tiles`] exists on this thread; a second one would change the first one's setting.
    static IN_USE: Cell<bool> = const { Cell::new(false) };
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` is only made by `Amx`, so the instruction exists; it has no operands.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
        IN_USE.set(false);
    }
}

/// Asks the processor and then the system, which lends the unit's registers on request, once for the process.
fn granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        /// Bits of register EDX of leaf 7.
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (TILE | INT8) == TILE | INT8;
        has && system_grants()
    })
}

#[cfg(target_os = "linux")]
fn system_grants() -> bool {
    /// Linux, Documentation/arch/x86/xstate.rst.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory. It changes which registers this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn system_grants() -> bool {
    false
}

impl Unit for Amx {
    type Vectors = Avx512;
    type Tiles = Tiles;

    fn new() -> Option<Self> {
        let vectors = Avx512::new()?;
        granted().then_some(Amx(vectors))
    }

    #[inline(always)]
    fn vectors(self) -> Avx512 {
        self.0
    }

    fn tiles(self, tokens: usize, cols: usize) -> Tiles {
        assert!((1..=16).contains(&tokens) && (cols == 32 || cols == 64), "no such tiles");
        assert!(!IN_USE.replace(true), "the unit is in use on this thread");
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        for tile in 0..8 {
            let (rows, bytes) = match tile {
                0..4 => (tokens, TILE_ROW),
                4 => (tokens, cols),
                _ => (cols / 4, TILE_ROW),
            };
            (config.rows[tile], config.bytes_per_row[tile]) = (rows as u8, bytes as u16);
        }
        // SAFETY: `self` proves that the instruction exists; it reads the 64 bytes of `config`, a valid setting.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Tiles { tokens, cols, thread: PhantomData }
    }

    #[inline(always)]
    fn multiply(
        self,
        tiles: &Tiles,
        a: &[i8],
        stride: usize,
        b: &[TileLine],
        signed: bool,
        sums: &mut super::Sums,
        keep: bool,
    ) {
        let count = super::tile_count(tiles.tokens, tiles.cols, a, stride, b);
        if count == 0 {
            return;
        }
        // Sums are registers 0 to 3, activations 4, weights 5 to 7.
        macro_rules! products {
            ($dot:literal) => {
                asm!(
                    "test {keep}, {keep}",
                    "jz 2f",
                    "tileloadd tmm0, [{sums} + {row}]",
                    "tileloadd tmm1, [{sums} + {row} + 1024]",
                    "tileloadd tmm2, [{sums} + {row} + 2048]",
                    "tileloadd tmm3, [{sums} + {row} + 3072]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "3:",
                    "tileloadd tmm4, [{a} + {stride}]",
                    "tileloadd tmm5, [{b} + {row}]",
                    "add {b}, {tile}",
                    "tileloadd tmm6, [{b} + {row}]",
                    "add {b}, {tile}",
                    concat!($dot, " tmm0, tmm4, tmm5"),
                    "tileloadd tmm7, [{b} + {row}]",
                    "add {b}, {tile}",
                    concat!($dot, " tmm1, tmm4, tmm6"),
                    "tileloadd tmm5, [{b} + {row}]",
                    "add {b}, {tile}",
                    concat!($dot, " tmm2, tmm4, tmm7"),
                    "add {a}, {cols}",
                    concat!($dot, " tmm3, tmm4, tmm5"),
                    "dec {count}",
                    "jnz 3b",
                    "tilestored [{sums} + {row}], tmm0",
                    "tilestored [{sums} + {row} + 1024], tmm1",
                    "tilestored [{sums} + {row} + 2048], tmm2",
                    "tilestored [{sums} + {row} + 3072], tmm3",
                    keep = in(reg) usize::from(keep),
                    a = inout(reg) a.as_ptr() => _,
                    stride = in(reg) stride,
                    b = inout(reg) b.as_ptr() => _,
                    row = in(reg) TILE_ROW,
                    tile = in(reg) tiles.cols / 4 * TILE_ROW,
                    cols = in(reg) tiles.cols,
                    count = inout(reg) count => _,
                    sums = in(reg) sums.0.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            };
        }
        // SAFETY: `tiles` is this thread's setting, so a load of activations reads `tokens` rows of `cols` bytes, and
        // `tile_count` checked that all of them, moved on `count` times, lie in `a`; a load of weights reads
        // `cols / 4` whole lines, of which `b` has four times `count`; sums are at most 16 rows of 64 bytes each in
        // the four kilobytes of `sums`.
        unsafe {
            if signed {
                products!("tdpbssd");
            } else {
                products!("tdpbsud");
            }
        }
    }

    fn spin(self, _: &Tiles, times: usize) {
        if times == 0 {
            return;
        }
        // SAFETY: the tiles are set up, and only registers are used. Sums begin with zeros.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6",
                "2:",
                "tdpbsud tmm0, tmm4, tmm5",
                "tdpbsud tmm1, tmm4, tmm6",
                "tdpbsud tmm2, tmm4, tmm5",
                "tdpbsud tmm3, tmm4, tmm6",
                "dec {times}",
                "jnz 2b",
                times = inout(reg) times => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack, nomem),
            );
        }
    }

    #[inline(always)]
    fn prefetch(self, a: &[i8], stride: usize, tokens: usize, cols: usize) {
        for t in 0..tokens {
            for at in (0..cols).step_by(TILE_ROW) {
                let at = a.as_ptr().wrapping_add(t * stride + at);
                // SAFETY: a prefetch reads nothing that a program could see and never faults: any address will do.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
            }
        }
    }

    #[inline(always)]
    fn store(self, x: __m512i, to: &mut TileLine) {
        // SAFETY: `to` is 64 writable bytes, and `self` proves AVX-512.
        unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn load(self, x: &[i32; 16]) -> __m512i {
        // SAFETY: `x` is 64 readable bytes, the load has no alignment rule, and `self` proves AVX-512.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn signed(self, u: __m512i, zero: i32) -> __m512i {
        // SAFETY: `self` proves AVX-512 with BW.
        unsafe { _mm512_sub_epi8(u, _mm512_set1_epi8(zero as i8)) }
    }

    #[inline(always)]
    fn scaled(self, u: __m512i, zero: i32, scale: __m512i, less: i32) -> [__m512i; 2] {
        // SAFETY: `self` proves AVX-512 with BW.
        unsafe {
            let scale = _mm512_and_si512(scale, _mm512_set1_epi32(0xffff));
            let scale = _mm512_or_si512(scale, _mm512_slli_epi32::<16>(scale));
            let offset = _mm512_add_epi16(
                _mm512_mullo_epi16(scale, _mm512_set1_epi16(zero as i16)),
                _mm512_set1_epi16(less as i16),
            );
            let low = _mm512_set1_epi16(0xff);
            let even =
                _mm512_sub_epi16(_mm512_mullo_epi16(_mm512_and_si512(u, low), scale), offset);
            let odd =
                _mm512_sub_epi16(_mm512_mullo_epi16(_mm512_srli_epi16::<8>(u), scale), offset);
            let high = _mm512_set1_epi16(0xff00u16 as i16);
            [
                _mm512_or_si512(_mm512_and_si512(even, low), _mm512_slli_epi16::<8>(odd)),
                _mm512_or_si512(_mm512_srli_epi16::<8>(even), _mm512_and_si512(odd, high)),
            ]
        }
    }
}
