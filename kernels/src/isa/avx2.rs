//! AVX2 with FMA and F16C: 16 lanes are two registers.
//!
//! `vpmaddubsw` adds two products into i16. With codes up to 15 a pair is at most 2*15*127 = 3,810, so
//! eight of them fit (30,480), and one `vpmaddwd` per eight widens to i32; of codes up to 127 one pair fits
//! ([`super::run_length`]). Codes up to 255 would saturate: they are made signed (bias 128) and their sign
//! moved to the activation, so a pair is at most 2*128*127 = 32,512, and each is widened at once.

use core::arch::asm;
use core::arch::x86_64::*;

use super::{Ahead, Isa, Op};

super::token! {
    /// Proof of AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2: "avx2", "fma", "f16c"
}

type Pair<T> = [T; 2];

impl Avx2 {
    /// Four activation bytes in every 32-bit lane.
    #[inline(always)]
    fn splat_a(self, a: [i8; 4]) -> __m256i {
        let a = i32::from_le_bytes(a.map(|b| b as u8));
        proven!(self, _mm256_set1_epi32(a))
    }
}

#[inline(always)]
fn both<T: Copy, U>(x: Pair<T>, f: impl Fn(T) -> U) -> Pair<U> {
    [f(x[0]), f(x[1])]
}

#[inline(always)]
fn both2<T: Copy, U: Copy, V>(a: Pair<T>, b: Pair<U>, f: impl Fn(T, U) -> V) -> Pair<V> {
    [f(a[0], b[0]), f(a[1], b[1])]
}

impl Isa for Avx2 {
    const VECTORS: usize = 1;
    const TOKENS: usize = 4;
    const WORDS: bool = true;
    const WIDE_BIAS: i32 = 128;
    type Bytes = Pair<__m256i>;
    type Acc = Pair<__m256i>;
    type I32 = Pair<__m256i>;
    type F32 = Pair<__m256>;

    fn new() -> Option<Self> {
        Self::detect()
    }
    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        self.enter(op)
    }
    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> Self::Bytes {
        // `x` is 64 readable bytes; the loads have no alignment rule.
        proven!(self, {
            let p: *const __m256i = x.as_ptr().cast();
            [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))]
        })
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::Bytes, to: &mut [u8; 64]) {
        // `to` is 64 writable bytes; the stores have no alignment rule.
        proven!(self, {
            let p: *mut __m256i = to.as_mut_ptr().cast();
            _mm256_storeu_si256(p, x[0]);
            _mm256_storeu_si256(p.add(1), x[1]);
        })
    }
    #[inline(always)]
    fn ahead(self) -> Ahead {
        super::zen5::ahead(super::zen5::DISTANCE)
    }
    #[inline(always)]
    fn prefetch(self, x: &[u8; 64], ahead: usize) {
        // A prefetch reads nothing that a program could see and never faults: any address will do.
        proven!(self, _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(ahead).cast()))
    }
    #[inline(always)]
    fn field(self, x: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes {
        // A 16-bit shift moves bits across bytes; the mask drops them.
        both(x, |x| {
            proven!(self, {
                let count = _mm_cvtsi32_si128(shift.abs());
                let shifted = match shift {
                    0 => x,
                    1.. => _mm256_srl_epi16(x, count),
                    _ => _mm256_sll_epi16(x, count),
                };
                _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
            })
        })
    }
    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        both2(a, b, |a, b| proven!(self, _mm256_or_si256(a, b)))
    }
    #[inline(always)]
    fn triple(self, x: Self::Bytes) -> Self::Bytes {
        // Hidden from the compiler, as on AVX-512: it would make multiplications of repeated ones.
        both(x, |x| proven!(self, opaque(_mm256_add_epi8(_mm256_add_epi8(x, x), x))))
    }
    #[inline(always)]
    fn trit(self, x: Self::Bytes) -> Self::Bytes {
        // 3u >= 256 from u = 86 on, 3u >= 512 from u = 171 on.
        both(x, |x| {
            proven!(self, {
                let one = _mm256_set1_epi8(1);
                let first = _mm256_min_epu8(_mm256_subs_epu8(x, _mm256_set1_epi8(85)), one);
                let second =
                    _mm256_min_epu8(_mm256_subs_epu8(x, _mm256_set1_epi8(170u8 as i8)), one);
                _mm256_add_epi8(first, second)
            })
        })
    }
    #[inline(always)]
    fn lookup(self, x: Self::Bytes, table: &[u8; 16]) -> Self::Bytes {
        // `table` is 16 readable bytes; the load has no alignment rule.
        both(x, |x| {
            proven!(self, {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                _mm256_shuffle_epi8(table, x)
            })
        })
    }
    #[inline(always)]
    fn begin(self, _: Self::I32) -> Self::Acc {
        proven!(self, [_mm256_setzero_si256(); 2])
    }
    #[inline(always)]
    fn dot(self, acc: Self::Acc, u: Self::Bytes, a: [i8; 4]) -> Self::Acc {
        let a = self.splat_a(a);
        both2(acc, u, |acc, u| proven!(self, _mm256_add_epi16(acc, _mm256_maddubs_epi16(u, a))))
    }
    #[inline(always)]
    fn finish(self, acc: Self::Acc, sum: Self::I32) -> Self::I32 {
        both2(acc, sum, |acc, sum| {
            proven!(self, _mm256_add_epi32(sum, _mm256_madd_epi16(acc, _mm256_set1_epi16(1))))
        })
    }
    #[inline(always)]
    fn dot_wide(self, acc: Self::I32, u: Self::Bytes, a: [i8; 4]) -> Self::I32 {
        let a = self.splat_a(a);
        both2(acc, u, |acc, u| {
            proven!(self, {
                let q = _mm256_xor_si256(u, _mm256_set1_epi8(i8::MIN));
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(a, q));
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        })
    }
    #[inline(always)]
    fn dot_sub(self, acc: Self::I32, x: Self::Bytes, a: [i16; 4]) -> Self::I32 {
        let pair = |low: i16, high: i16| i32::from(low as u16) | i32::from(high) << 16;
        let (even, odd) = (pair(a[0], a[1]), pair(a[2], a[3]));
        // Bytes 0 and 2 of a lane, and 1 and 3, as signed words.
        both2(acc, x, |acc, x| {
            proven!(self, {
                let x0 = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                let x1 = _mm256_srai_epi16::<8>(x);
                let y0 = _mm256_madd_epi16(x0, _mm256_set1_epi32(even));
                let y1 = _mm256_madd_epi16(x1, _mm256_set1_epi32(odd));
                _mm256_add_epi32(acc, _mm256_add_epi32(y0, y1))
            })
        })
    }
    #[inline(always)]
    fn byte(self, x: Self::Bytes, j: usize) -> Self::I32 {
        both(x, |x| {
            proven!(self, {
                let top = _mm256_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * j as i32));
                _mm256_srai_epi32::<24>(top)
            })
        })
    }
    #[inline(always)]
    fn mul_add_i32(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32 {
        let product = both2(a, b, |a, b| proven!(self, _mm256_mullo_epi32(a, b)));
        self.add_i32(sum, product)
    }
    #[inline(always)]
    fn mul_add_i16(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32 {
        // Low words are the numbers; the high words (signs) meet zeros.
        let product = both2(a, b, |a, b| {
            proven!(self, _mm256_madd_epi16(a, _mm256_and_si256(b, _mm256_set1_epi32(0xffff))))
        });
        self.add_i32(sum, product)
    }
    #[inline(always)]
    fn telescope(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        both2(a, b, |a, b| {
            proven!(self, {
                let three = _mm256_add_epi32(_mm256_add_epi32(a, a), a);
                _mm256_srai_epi32::<8>(_mm256_sub_epi32(three, b))
            })
        })
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        proven!(self, [_mm256_set1_epi32(x); 2])
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        both2(a, b, |a, b| proven!(self, _mm256_add_epi32(a, b)))
    }
    #[inline(always)]
    fn to_f32(self, x: Self::I32) -> Self::F32 {
        both(x, |x| proven!(self, _mm256_cvtepi32_ps(x)))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        proven!(self, [_mm256_set1_ps(x); 2])
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F32 {
        // `x` is 64 readable bytes; the loads have no alignment rule.
        proven!(self, [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F32 {
        // `x` is 32 readable bytes; the loads have no alignment rule.
        proven!(self, {
            let p: *const __m128i = x.as_ptr().cast();
            [_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))]
        })
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F32 {
        // `x` is 32 readable bytes; the loads have no alignment rule.
        let halves = proven!(self, {
            let p: *const __m128i = x.as_ptr().cast();
            [_mm_loadu_si128(p), _mm_loadu_si128(p.add(1))]
        });
        both(halves, |h| {
            proven!(self, {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(h)))
            })
        })
    }
    #[inline(always)]
    fn store(self, x: Self::F32, to: &mut [f32; 16]) {
        // `to` is 64 writable bytes; the stores have no alignment rule.
        proven!(self, {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        });
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        both2(a, b, |a, b| proven!(self, _mm256_add_ps(a, b)))
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        both2(a, b, |a, b| proven!(self, _mm256_sub_ps(a, b)))
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        both2(a, b, |a, b| proven!(self, _mm256_mul_ps(a, b)))
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        both2(a, b, |a, b| proven!(self, _mm256_div_ps(a, b)))
    }
    #[inline(always)]
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        proven!(self, [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        both2(a, b, |a, b| proven!(self, _mm256_max_ps(a, b)))
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        both2(a, b, |a, b| proven!(self, _mm256_min_ps(a, b)))
    }
    #[inline(always)]
    fn abs(self, x: Self::F32) -> Self::F32 {
        both(x, |x| proven!(self, _mm256_andnot_ps(_mm256_set1_ps(-0.0), x)))
    }
    #[inline(always)]
    fn round(self, x: Self::F32) -> Self::F32 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        both(x, |x| proven!(self, _mm256_round_ps::<NEAREST>(x)))
    }
    #[inline(always)]
    fn pow2(self, n: Self::F32) -> Self::F32 {
        both(n, |n| {
            proven!(self, {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        })
    }
    #[inline(always)]
    fn store_i8(self, x: Self::F32, to: &mut [i8; 16]) {
        // `to` is 16 writable bytes; the store has no alignment rule.
        proven!(self, {
            // The packs work within 128-bit halves: the permutation puts their quarters in order.
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_packs_epi16(low, high));
        });
    }
}

/// `x` itself, about which the compiler knows nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut x: __m256i) -> __m256i {
    // SAFETY: no instruction, and the answer is its operand.
    unsafe { asm!("/* {0} */", inout(ymm_reg) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}
