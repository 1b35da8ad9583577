//! NEON: 16 lanes are four registers; one backend with the dot-product instruction (`sdot`), one without.
//!
//! Both multiply signed bytes: codes up to 15 are the same number signed, others are made signed first
//! (bias 128). `sdot` and the half-precision conversion are inline assembly because their intrinsics are
//! unstable in the pinned compiler.

use core::arch::aarch64::*;
use core::arch::asm;

use super::{Isa, Op};

super::token! {
    /// Proof of NEON with the dot-product extension (Armv8.2-A and later).
    NeonDotprod: "neon", "dotprod"
}
super::token! {
    /// Proof of NEON (every AArch64 CPU in practice).
    Neon: "neon"
}

type Quad<T> = [T; 4];

#[inline(always)]
fn all<T: Copy, U>(x: Quad<T>, f: impl Fn(T) -> U) -> Quad<U> {
    x.map(f)
}

#[inline(always)]
fn all2<T: Copy, U: Copy, V>(a: Quad<T>, b: Quad<U>, f: impl Fn(T, U) -> V) -> Quad<V> {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl NeonDotprod {
    /// Adds to each 32-bit lane the dot product of its four signed bytes.
    #[inline(always)]
    fn dot_quad(self, acc: int32x4_t, u: int8x16_t, a: int8x16_t) -> int32x4_t {
        let mut acc = acc;
        proven!(self, {
            asm!("sdot {acc:v}.4s, {u:v}.16b, {a:v}.16b",
                acc = inout(vreg) acc, u = in(vreg) u, a = in(vreg) a,
                options(pure, nomem, nostack, preserves_flags));
        });
        acc
    }
}

impl Neon {
    /// The same by widening products: a pair is at most 2*128*127 = 32,512 and fits i16.
    #[inline(always)]
    fn dot_quad(self, acc: int32x4_t, u: int8x16_t, a: int8x16_t) -> int32x4_t {
        proven!(self, {
            let low = vmull_s8(vget_low_s8(u), vget_low_s8(a));
            let high = vmull_high_s8(u, a);
            vpadalq_s16(acc, vpaddq_s16(low, high))
        })
    }
}

macro_rules! neon {
    ($name:ident) => {
        impl $name {
            /// Four activation bytes in every 32-bit lane.
            #[inline(always)]
            fn splat_a(self, a: [i8; 4]) -> int8x16_t {
                let a = i32::from_le_bytes(a.map(|b| b as u8));
                proven!(self, vreinterpretq_s8_s32(vdupq_n_s32(a)))
            }
        }

        impl Isa for $name {
            const VECTORS: usize = 1;
            const TOKENS: usize = 4;
            const WORDS: bool = false;
            const WIDE_BIAS: i32 = 128;
            type Bytes = Quad<uint8x16_t>;
            type Acc = Quad<int32x4_t>;
            type I32 = Quad<int32x4_t>;
            type F32 = Quad<float32x4_t>;

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
                    let p = x.as_ptr();
                    [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))]
                })
            }
            #[inline(always)]
            fn store_bytes(self, x: Self::Bytes, to: &mut [u8; 64]) {
                // `to` is 64 writable bytes; the stores have no alignment rule.
                proven!(self, {
                    let p = to.as_mut_ptr();
                    for (i, x) in x.into_iter().enumerate() {
                        vst1q_u8(p.add(i * 16), x);
                    }
                })
            }
            #[inline(always)]
            fn field(self, x: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes {
                // A shift by a negative count is a shift to the right.
                all(x, |x| {
                    proven!(self, {
                        vandq_u8(vshlq_u8(x, vdupq_n_s8(-shift as i8)), vdupq_n_u8(mask))
                    })
                })
            }
            #[inline(always)]
            fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
                all2(a, b, |a, b| proven!(self, vorrq_u8(a, b)))
            }
            #[inline(always)]
            fn triple(self, x: Self::Bytes) -> Self::Bytes {
                all(x, |x| proven!(self, vmulq_u8(x, vdupq_n_u8(3))))
            }
            #[inline(always)]
            fn trit(self, x: Self::Bytes) -> Self::Bytes {
                // 3u >= 256 from u = 86 on, 3u >= 512 from u = 171 on; a true comparison is -1.
                all(x, |x| {
                    proven!(self, {
                        let first = vcgeq_u8(x, vdupq_n_u8(86));
                        let second = vcgeq_u8(x, vdupq_n_u8(171));
                        vsubq_u8(vdupq_n_u8(0), vaddq_u8(first, second))
                    })
                })
            }
            #[inline(always)]
            fn lookup(self, x: Self::Bytes, table: &[u8; 16]) -> Self::Bytes {
                // `table` is 16 readable bytes.
                all(x, |x| proven!(self, vqtbl1q_u8(vld1q_u8(table.as_ptr()), x)))
            }
            #[inline(always)]
            fn begin(self, sum: Self::I32) -> Self::Acc {
                sum
            }
            #[inline(always)]
            fn dot(self, acc: Self::Acc, u: Self::Bytes, a: [i8; 4]) -> Self::Acc {
                let a = self.splat_a(a);
                all2(acc, u, |acc, u| self.dot_quad(acc, proven!(self, vreinterpretq_s8_u8(u)), a))
            }
            #[inline(always)]
            fn finish(self, acc: Self::Acc, _: Self::I32) -> Self::I32 {
                acc
            }
            #[inline(always)]
            fn dot_wide(self, acc: Self::I32, u: Self::Bytes, a: [i8; 4]) -> Self::I32 {
                let a = self.splat_a(a);
                all2(acc, u, |acc, u| {
                    let q = proven!(self, vreinterpretq_s8_u8(veorq_u8(u, vdupq_n_u8(0x80))));
                    self.dot_quad(acc, q, a)
                })
            }
            #[inline(always)]
            fn dot_sub(self, acc: Self::I32, x: Self::Bytes, a: [i16; 4]) -> Self::I32 {
                let twice = [a[0], a[2], a[1], a[3], a[0], a[2], a[1], a[3]];
                all2(acc, x, |acc, x| {
                    // `twice` is 8 readable numbers.
                    proven!(self, {
                        let (x, a) = (vreinterpretq_s8_u8(x), vld1q_s16(twice.as_ptr()));
                        let low = vmovl_s8(vget_low_s8(x));
                        let high = vmovl_high_s8(x);
                        let pairs = |x: int16x8_t| {
                            let first = vmull_s16(vget_low_s16(x), vget_low_s16(a));
                            vpaddq_s32(first, vmull_high_s16(x, a))
                        };
                        vaddq_s32(acc, vpaddq_s32(pairs(low), pairs(high)))
                    })
                })
            }
            #[inline(always)]
            fn byte(self, x: Self::Bytes, j: usize) -> Self::I32 {
                all(x, |x| {
                    proven!(self, {
                        let left = vdupq_n_s32(24 - 8 * j as i32);
                        vshrq_n_s32::<24>(vshlq_s32(vreinterpretq_s32_u8(x), left))
                    })
                })
            }
            #[inline(always)]
            fn mul_add_i32(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32 {
                std::array::from_fn(|i| proven!(self, vmlaq_s32(sum[i], a[i], b[i])))
            }
            #[inline(always)]
            fn mul_add_i16(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32 {
                self.mul_add_i32(sum, a, b)
            }
            #[inline(always)]
            fn telescope(self, a: Self::I32, b: Self::I32) -> Self::I32 {
                all2(a, b, |a, b| {
                    proven!(self, vshrq_n_s32::<8>(vsubq_s32(vmulq_n_s32(a, 3), b)))
                })
            }
            #[inline(always)]
            fn splat_i32(self, x: i32) -> Self::I32 {
                proven!(self, [vdupq_n_s32(x); 4])
            }
            #[inline(always)]
            fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
                all2(a, b, |a, b| proven!(self, vaddq_s32(a, b)))
            }
            #[inline(always)]
            fn to_f32(self, x: Self::I32) -> Self::F32 {
                all(x, |x| proven!(self, vcvtq_f32_s32(x)))
            }
            #[inline(always)]
            fn splat(self, x: f32) -> Self::F32 {
                proven!(self, [vdupq_n_f32(x); 4])
            }
            #[inline(always)]
            fn load(self, x: &[f32; 16]) -> Self::F32 {
                // `x` is 16 readable numbers.
                proven!(self, {
                    let p = x.as_ptr();
                    [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))]
                })
            }
            #[inline(always)]
            fn load_f16(self, x: &[u8; 32]) -> Self::F32 {
                // `x` is 32 readable bytes; the loads have no alignment rule.
                proven!(self, {
                    [0usize, 8, 16, 24].map(|at| {
                        let halves = vld1_u8(x.as_ptr().add(at));
                        let wide: float32x4_t;
                        asm!("fcvtl {wide:v}.4s, {halves:v}.4h",
                            wide = out(vreg) wide, halves = in(vreg) halves,
                            options(pure, nomem, nostack, preserves_flags));
                        wide
                    })
                })
            }
            #[inline(always)]
            fn load_bf16(self, x: &[u8; 32]) -> Self::F32 {
                // `x` is 32 readable bytes; the loads have no alignment rule.
                proven!(self, {
                    [0usize, 8, 16, 24].map(|at| {
                        let halves = vreinterpret_u16_u8(vld1_u8(x.as_ptr().add(at)));
                        vreinterpretq_f32_u32(vshll_n_u16::<16>(halves))
                    })
                })
            }
            #[inline(always)]
            fn store(self, x: Self::F32, to: &mut [f32; 16]) {
                // `to` is 16 writable numbers.
                proven!(self, {
                    let p = to.as_mut_ptr();
                    vst1q_f32(p, x[0]);
                    vst1q_f32(p.add(4), x[1]);
                    vst1q_f32(p.add(8), x[2]);
                    vst1q_f32(p.add(12), x[3]);
                });
            }
            #[inline(always)]
            fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
                all2(a, b, |a, b| proven!(self, vaddq_f32(a, b)))
            }
            #[inline(always)]
            fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
                all2(a, b, |a, b| proven!(self, vsubq_f32(a, b)))
            }
            #[inline(always)]
            fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
                all2(a, b, |a, b| proven!(self, vmulq_f32(a, b)))
            }
            #[inline(always)]
            fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
                all2(a, b, |a, b| proven!(self, vdivq_f32(a, b)))
            }
            #[inline(always)]
            fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
                std::array::from_fn(|i| proven!(self, vfmaq_f32(c[i], a[i], b[i])))
            }
            #[inline(always)]
            fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
                all2(a, b, |a, b| proven!(self, vbslq_f32(vcgtq_f32(a, b), a, b)))
            }
            #[inline(always)]
            fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
                all2(a, b, |a, b| proven!(self, vbslq_f32(vcltq_f32(a, b), a, b)))
            }
            #[inline(always)]
            fn abs(self, x: Self::F32) -> Self::F32 {
                all(x, |x| proven!(self, vabsq_f32(x)))
            }
            #[inline(always)]
            fn round(self, x: Self::F32) -> Self::F32 {
                all(x, |x| proven!(self, vrndnq_f32(x)))
            }
            #[inline(always)]
            fn pow2(self, n: Self::F32) -> Self::F32 {
                all(n, |n| {
                    proven!(self, {
                        let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
                        vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
                    })
                })
            }
            #[inline(always)]
            fn store_i8(self, x: Self::F32, to: &mut [i8; 16]) {
                // `to` is 16 writable bytes; the store has no alignment rule.
                proven!(self, {
                    let n = [0, 1, 2, 3].map(|i| vmovn_s32(vcvtq_s32_f32(x[i])));
                    let low = vmovn_s16(vcombine_s16(n[0], n[1]));
                    let high = vmovn_s16(vcombine_s16(n[2], n[3]));
                    vst1q_s8(to.as_mut_ptr(), vcombine_s8(low, high));
                });
            }
        }
    };
}

neon!(NeonDotprod);
neon!(Neon);
