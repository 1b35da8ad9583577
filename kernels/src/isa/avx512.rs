//! AVX-512 with VNNI: 16 lanes are one register, a dot of four is one instruction (`vpdpbusd`).

use core::arch::asm;
use core::arch::x86_64::*;

use super::{Ahead, Isa, Op};

super::token! {
    /// Proof of AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4 and later), which implies FMA and F16C.
    Avx512: "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "fma", "f16c"
}

impl Isa for Avx512 {
    const VECTORS: usize = 4;
    const TOKENS: usize = 6;
    const WORDS: bool = false;
    const WIDE_BIAS: i32 = 0;
    type Bytes = __m512i;
    type Acc = __m512i;
    type I32 = __m512i;
    type F32 = __m512;

    fn new() -> Option<Self> {
        Self::detect()
    }
    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        self.enter(op)
    }
    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> __m512i {
        // `x` is 64 readable bytes; the load has no alignment rule.
        proven!(self, _mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_bytes(self, x: __m512i, to: &mut [u8; 64]) {
        // `to` is 64 writable bytes; the store has no alignment rule.
        proven!(self, _mm512_storeu_si512(to.as_mut_ptr().cast(), x))
    }
    #[inline(always)]
    fn ahead(self) -> Ahead {
        super::zen5::ahead(0)
    }
    #[inline(always)]
    fn prefetch(self, x: &[u8; 64], ahead: usize) {
        // A prefetch reads nothing that a program could see and never faults: any address will do.
        proven!(self, _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(ahead).cast()))
    }
    #[inline(always)]
    fn field(self, x: __m512i, shift: i32, mask: u8) -> __m512i {
        // A 16-bit shift moves bits across bytes; the mask drops them.
        proven!(self, {
            let count = _mm_cvtsi32_si128(shift.abs());
            let shifted = match shift {
                0 => x,
                1.. => _mm512_srl_epi16(x, count),
                _ => _mm512_sll_epi16(x, count),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        })
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(self, _mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn triple(self, x: __m512i) -> __m512i {
        // Hidden from the compiler, which knows that five of these are a multiplication by 243 and takes four slow
        // instructions for it.
        proven!(self, opaque(_mm512_add_epi8(_mm512_add_epi8(x, x), x)))
    }
    #[inline(always)]
    fn trit(self, x: __m512i) -> __m512i {
        // 3u >= 256 from u = 86 on, 3u >= 512 from u = 171 on.
        proven!(self, {
            let one = _mm512_set1_epi8(1);
            let first = _mm512_min_epu8(_mm512_subs_epu8(x, _mm512_set1_epi8(85)), one);
            let second = _mm512_min_epu8(_mm512_subs_epu8(x, _mm512_set1_epi8(170u8 as i8)), one);
            _mm512_add_epi8(first, second)
        })
    }
    #[inline(always)]
    fn lookup(self, x: __m512i, table: &[u8; 16]) -> __m512i {
        // `table` is 16 readable bytes; the load has no alignment rule.
        proven!(self, {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, x)
        })
    }
    #[inline(always)]
    fn begin(self, sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, u: __m512i, a: [i8; 4]) -> __m512i {
        self.dot_wide(acc, u, a)
    }
    #[inline(always)]
    fn finish(self, acc: __m512i, _: __m512i) -> __m512i {
        acc
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m512i, u: __m512i, a: [i8; 4]) -> __m512i {
        let a = i32::from_le_bytes(a.map(|b| b as u8));
        proven!(self, _mm512_dpbusd_epi32(acc, u, _mm512_set1_epi32(a)))
    }
    #[inline(always)]
    fn pin(self, x: __m512i) -> __m512i {
        proven!(self, pin(x))
    }
    #[inline(always)]
    fn dot_sub(self, acc: __m512i, x: __m512i, a: [i16; 4]) -> __m512i {
        let pair = |low: i16, high: i16| i32::from(low as u16) | i32::from(high) << 16;
        let (even, odd) = (pair(a[0], a[1]), pair(a[2], a[3]));
        // Bytes 0 and 2 of a lane, and 1 and 3, as signed words.
        proven!(self, {
            let x0 = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x));
            let x1 = _mm512_srai_epi16::<8>(x);
            let acc = _mm512_dpwssd_epi32(acc, x0, _mm512_set1_epi32(even));
            _mm512_dpwssd_epi32(acc, x1, _mm512_set1_epi32(odd))
        })
    }
    #[inline(always)]
    fn byte(self, x: __m512i, j: usize) -> __m512i {
        proven!(self, {
            let top = _mm512_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * j as i32));
            _mm512_srai_epi32::<24>(top)
        })
    }
    #[inline(always)]
    fn mul_add_i32(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        proven!(self, _mm512_add_epi32(sum, _mm512_mullo_epi32(a, b)))
    }
    #[inline(always)]
    fn mul_add_i16(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // Low words are the numbers; the high words (signs) meet zeros.
        proven!(self, {
            let low = _mm512_and_si512(b, _mm512_set1_epi32(0xffff));
            _mm512_dpwssd_epi32(sum, a, low)
        })
    }
    #[inline(always)]
    fn telescope(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(self, {
            let three = _mm512_add_epi32(_mm512_add_epi32(a, a), a);
            _mm512_srai_epi32::<8>(_mm512_sub_epi32(three, b))
        })
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> __m512i {
        proven!(self, _mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(self, _mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn to_f32(self, x: __m512i) -> __m512 {
        proven!(self, _mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        proven!(self, _mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        // `x` is 64 readable bytes; the load has no alignment rule.
        proven!(self, _mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> __m512 {
        // `x` is 32 readable bytes; the load has no alignment rule.
        proven!(self, _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> __m512 {
        // `x` is 32 readable bytes; the load has no alignment rule.
        proven!(self, {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; 16]) {
        // `to` is 64 writable bytes; the store has no alignment rule.
        proven!(self, _mm512_storeu_ps(to.as_mut_ptr(), x))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(self, _mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, x: __m512) -> __m512 {
        proven!(self, _mm512_abs_ps(x))
    }
    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        proven!(self, _mm512_roundscale_ps::<NEAREST>(x))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        proven!(self, {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn store_i8(self, x: __m512, to: &mut [i8; 16]) {
        // `to` is 16 writable bytes; the store has no alignment rule.
        proven!(self, {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes)
        })
    }
}

/// See [`Isa::pin`].
#[inline]
#[target_feature(enable = "avx512f")]
fn pin(mut x: __m512i) -> __m512i {
    // SAFETY: no instruction. Not `pure`, so that several of these keep their order.
    unsafe { asm!("/* {0} */", inout(zmm_reg) x, options(nomem, nostack, preserves_flags)) };
    x
}

/// `x` itself, about which the compiler knows nothing.
#[inline]
#[target_feature(enable = "avx512f")]
fn opaque(mut x: __m512i) -> __m512i {
    // SAFETY: no instruction, and the answer is its operand.
    unsafe { asm!("/* {0} */", inout(zmm_reg) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}
