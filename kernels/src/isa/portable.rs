//! Any CPU: arrays of 16, in safe Rust.

use half::{bf16, f16};

use super::{Isa, Op};

/// Always available.
#[derive(Clone, Copy)]
pub(crate) struct Portable(());

/// One function of one lane, in every lane.
fn each<T: Copy, U: Copy + Default>(x: [T; 16], f: impl Fn(T) -> U) -> [U; 16] {
    std::array::from_fn(|l| f(x[l]))
}

fn each2<T: Copy>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> T) -> [T; 16] {
    std::array::from_fn(|l| f(a[l], b[l]))
}

fn halves(x: &[u8; 32], f: impl Fn([u8; 2]) -> f32) -> [f32; 16] {
    std::array::from_fn(|l| f([x[2 * l], x[2 * l + 1]]))
}

impl Isa for Portable {
    const VECTORS: usize = 1;
    const TOKENS: usize = 2;
    const WORDS: bool = false;
    const WIDE_BIAS: i32 = 0;
    type Bytes = [u8; 64];
    type Acc = [i32; 16];
    type I32 = [i32; 16];
    type F32 = [f32; 16];

    fn new() -> Option<Self> {
        Some(Portable(()))
    }
    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) -> O::Out {
        op.run(self)
    }
    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> Self::Bytes {
        *x
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::Bytes, to: &mut [u8; 64]) {
        *to = x;
    }
    #[inline(always)]
    fn field(self, x: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes {
        if shift >= 0 {
            std::array::from_fn(|i| x[i] >> shift & mask)
        } else {
            std::array::from_fn(|i| x[i] << -shift & mask)
        }
    }
    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn triple(self, x: Self::Bytes) -> Self::Bytes {
        x.map(|u| u.wrapping_mul(3))
    }
    #[inline(always)]
    fn trit(self, x: Self::Bytes) -> Self::Bytes {
        x.map(|u| ((u16::from(u) * 3) >> 8) as u8)
    }
    #[inline(always)]
    fn lookup(self, x: Self::Bytes, table: &[u8; 16]) -> Self::Bytes {
        x.map(|i| table[usize::from(i & 15)])
    }
    #[inline(always)]
    fn begin(self, sum: Self::I32) -> Self::Acc {
        sum
    }
    #[inline(always)]
    fn dot(self, acc: Self::Acc, u: Self::Bytes, a: [i8; 4]) -> Self::Acc {
        self.dot_wide(acc, u, a)
    }
    #[inline(always)]
    fn finish(self, acc: Self::Acc, _: Self::I32) -> Self::I32 {
        acc
    }
    #[inline(always)]
    fn dot_wide(self, acc: Self::I32, u: Self::Bytes, a: [i8; 4]) -> Self::I32 {
        std::array::from_fn(|l| {
            let products = (0..4).map(|j| i32::from(u[4 * l + j]) * i32::from(a[j]));
            acc[l] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    fn dot_sub(self, acc: Self::I32, x: Self::Bytes, a: [i16; 4]) -> Self::I32 {
        std::array::from_fn(|l| {
            let product = |(p, j): (usize, usize)| i32::from(x[4 * l + j] as i8) * i32::from(a[p]);
            acc[l] + [0, 2, 1, 3].into_iter().enumerate().map(product).sum::<i32>()
        })
    }
    #[inline(always)]
    fn byte(self, x: Self::Bytes, j: usize) -> Self::I32 {
        std::array::from_fn(|l| i32::from(x[4 * l + j] as i8))
    }
    #[inline(always)]
    fn mul_add_i32(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32 {
        each2(sum, each2(a, b, i32::wrapping_mul), i32::wrapping_add)
    }
    #[inline(always)]
    fn mul_add_i16(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32 {
        self.mul_add_i32(sum, a, b)
    }
    #[inline(always)]
    fn telescope(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        each2(a, b, |a, b| a.wrapping_mul(3).wrapping_sub(b) >> 8)
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        [x; 16]
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        each2(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn to_f32(self, x: Self::I32) -> Self::F32 {
        each(x, |v| v as f32)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F32 {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F32 {
        halves(x, |b| f16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F32 {
        halves(x, |b| bf16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    fn store(self, x: Self::F32, to: &mut [f32; 16]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, x: Self::F32) -> Self::F32 {
        each(x, f32::abs)
    }
    #[inline(always)]
    fn round(self, x: Self::F32) -> Self::F32 {
        each(x, f32::round_ties_even)
    }
    #[inline(always)]
    fn pow2(self, n: Self::F32) -> Self::F32 {
        each(n, |n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    fn store_i8(self, x: Self::F32, to: &mut [i8; 16]) {
        *to = each(x, |v| v as i8);
    }
}
