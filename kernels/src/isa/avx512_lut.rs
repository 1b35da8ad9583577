//! AVX-512's `vpermw` as a look-up: 32 rows find a sum of three trits' or five signs' products in a table of 32 words,
//! in the time of 64 products by `vpdpbusd` where a core permutes as often as it multiplies. AMD's Zen 5 does, a Xeon does
//! half of that (benches/LOG.md), and others were not measured, so these kernels are preferred on Zen 5 and later only.

use core::arch::x86_64::*;

use super::avx512::Avx512;
use super::{Isa, Lookup, Words};

/// Proof of [`Avx512`], which has all that is used here.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Lut(Avx512);

impl Lookup for Avx512Lut {
    type Vectors = Avx512;
    type Lanes = __m512i;

    fn new() -> Option<Self> {
        Avx512::new().map(Avx512Lut)
    }

    #[inline(always)]
    fn vectors(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn load(self, x: &Words) -> __m512i {
        // `x` is 64 readable bytes, aligned.
        proven!(self, _mm512_load_si512(x.0.as_ptr().cast()))
    }
    #[inline(always)]
    fn store(self, x: __m512i, to: &mut Words) {
        // `to` is 64 writable bytes, aligned.
        proven!(self, _mm512_store_si512(to.0.as_mut_ptr().cast(), x));
    }
    #[inline(always)]
    fn splat(self, x: i16) -> __m512i {
        proven!(self, _mm512_set1_epi16(x))
    }
    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(self, _mm512_add_epi16(a, b))
    }
    #[inline(always)]
    fn pairs(self, weights: &[u8; 64], a: [i8; 2]) -> __m512i {
        // `weights` is 64 readable bytes; the load has no alignment rule. No sum saturates: 2 x 127 x 128 < 32,768.
        proven!(self, {
            let weights = _mm512_loadu_si512(weights.as_ptr().cast());
            _mm512_maddubs_epi16(weights, _mm512_set1_epi16(i16::from_le_bytes(a.map(|a| a as u8))))
        })
    }
    #[inline(always)]
    fn look(self, table: __m512i, index: __m512i) -> __m512i {
        proven!(self, _mm512_permutexvar_epi16(index, table))
    }
    #[inline(always)]
    fn next(self, index: __m512i) -> __m512i {
        proven!(self, _mm512_srli_epi16::<5>(index))
    }
    #[inline(always)]
    fn pin(self, x: __m512i) -> __m512i {
        self.0.pin(x)
    }
    #[inline(always)]
    fn prefetch(self, a: &[i8], ahead: usize) {
        // A prefetch reads nothing that a program could see and never faults: any address will do.
        proven!(self, _mm_prefetch::<_MM_HINT_T0>(a.as_ptr().wrapping_add(ahead)));
    }
    #[inline(always)]
    fn pair(self, low: __m512i, high: __m512i) -> __m512i {
        proven!(self, _mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
    }
    #[inline(always)]
    fn even(self, sum: __m512i, x: __m512i) -> __m512i {
        proven!(self, _mm512_dpwssd_epi32(sum, x, _mm512_set1_epi32(1)))
    }
    #[inline(always)]
    fn odd(self, sum: __m512i, x: __m512i) -> __m512i {
        proven!(self, _mm512_dpwssd_epi32(sum, x, _mm512_set1_epi32(1 << 16)))
    }
    #[inline(always)]
    fn sums(self, x: &[i32; 16]) -> __m512i {
        // `x` is 64 readable bytes; the load has no alignment rule.
        proven!(self, _mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn keep(self, x: __m512i, to: &mut [i32; 16]) {
        // `to` is 64 writable bytes; the store has no alignment rule.
        proven!(self, _mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    }
}
