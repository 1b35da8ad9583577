//! Products of base-3 weights (five trits to a byte) with int8 activations.
//!
//! A line holds 16 rows x 4 bytes; digit i of byte b is column `20 l + 4 i + b`, most significant digit
//! first, stored as the fraction `ceil(256 v / 243)`. With `u_0` the byte and `u_(i+1) = 3 u_i mod 256`,
//! digit i is `d_i = (3 u_i - u_(i+1)) / 256`, so no digit has to be taken out of its byte:
//!
//! ```text
//! sum of d_i a_i = (3 * sum of u_i a_i  -  sum of u_(i+1) a_i) / 256
//! ```
//!
//! Both sums are plain dot products of bytes, and the division is exact. That is two dot products a digit
//! and nothing else, which suits one token; for several, digits are taken out once
//! (`(3u) >> 8`, two comparisons) and meet each token with one dot product.

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use std::marker::PhantomData;

use crate::activation::{Acts, BASE3_COLS};
use crate::format::{CodedFormat, Scales};
use crate::isa::Isa;
use crate::panel::Line;

use super::ahead::ask;
use super::integer::{half_line, store_rows};
use super::outputs::Outputs;
use super::product::{Kernel, Panel};

/// Digits of a byte.
const DIGITS: usize = 5;

/// Integer products of a format whose panels are in base 3.
pub struct Base3<C>(PhantomData<C>);

impl<C: CodedFormat> Kernel for Base3<C> {
    const ONCE: bool = true;

    #[inline(always)]
    fn run<I: Isa>(isa: I, panel: &Panel<'_>, acts: &Acts, t0: usize, out: &mut Outputs<'_>) {
        let n = out.tokens();
        if n == 1 {
            // The panel's lines once, in the order of memory.
            return tile::<I, C, 4, 1>(isa, panel, 0, acts, t0, out);
        }
        let mut t = 0;
        while t < n {
            let out = &mut out.from(t);
            t += match n - t {
                6.. if I::TOKENS >= 6 => vectors::<I, C, 6>(isa, panel, acts, t0 + t, out),
                2.. => vectors::<I, C, 2>(isa, panel, acts, t0 + t, out),
                _ => vectors::<I, C, 1>(isa, panel, acts, t0 + t, out),
            };
        }
    }
}

/// All vectors of the panel times N tokens; returns N.
#[inline(always)]
fn vectors<I: Isa, C: CodedFormat, const N: usize>(
    isa: I,
    panel: &Panel<'_>,
    acts: &Acts,
    t: usize,
    out: &mut Outputs<'_>,
) -> usize {
    for v in 0..4 {
        tile::<I, C, 1, N>(isa, panel, v, acts, t, out);
    }
    N
}

/// Vectors `v0..v0+V` (16 rows each) of the panel times tokens `t0..t0+N`.
#[inline(always)]
fn tile<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    panel: &Panel<'_>,
    v0: usize,
    acts: &Acts,
    t0: usize,
    out: &mut Outputs<'_>,
) {
    let geometry = panel.geometry;
    let in_block = C::INFO.scales == Scales::Block;
    let group_cols = C::INFO.activation.len().unwrap_or(0);
    // A group ends inside a line: the steps of four columns that are its own.
    let steps = match C::INFO.activation.len() {
        Some(cols) => cols / 4,
        None => geometry.code_lines / 4 * DIGITS,
    };
    let mut acc = [[isa.splat(0.0); N]; V];
    for (g, group) in panel.lines.chunks_exact(geometry.group_lines().max(1)).enumerate() {
        let (lines, halves) = group.split_at(geometry.scales_at());
        let a: [&[[i8; 4]]; N] =
            std::array::from_fn(|t| acts.codes(t0 + t)[g * group_cols..].as_chunks().0);
        let mut sum = [[isa.splat_i32(0); N]; V];
        if N == 1 {
            let one = telescoped::<I, V>(isa, lines, v0, &a[0][..steps]);
            for v in 0..V {
                sum[v][0] = one[v];
            }
        } else {
            for v in 0..V {
                sum[v] = digit_sums(isa, lines, v0 + v, a);
            }
        }
        for v in 0..V {
            for t in 0..N {
                // Digits are weights + 1; `telescoped` has taken the backend's bias off.
                let bias = if N == 1 { I::WIDE_BIAS / 128 } else { 0 };
                let offset = isa.splat_i32((bias - C::CODES.zero) * acts.sums(t0 + t)[g]);
                let exact = isa.to_f32(isa.add_i32(sum[v][t], offset));
                let scale = isa.splat(acts.scales(t0 + t)[g]);
                acc[v][t] = if in_block {
                    isa.fma(isa.mul(half_line(isa, halves, 0, v0 + v), scale), exact, acc[v][t])
                } else {
                    isa.fma(scale, exact, acc[v][t])
                };
            }
        }
    }
    store_rows::<I, C, V, N>(isa, panel, v0, acc, out);
}

/// One token: both sums of bytes. A backend whose dot product subtracts 128 from each byte returns
/// `(3 (A - 128 S) - (B - 128 S)) / 256 = (3A - B) / 256 - S`, S the sum of the activations.
#[inline(always)]
fn telescoped<I: Isa, const V: usize>(
    isa: I,
    lines: &[Line],
    v0: usize,
    a: &[[i8; 4]],
) -> [I::I32; V] {
    let mut sums = [[isa.splat_i32(0); 2]; V];
    let (whole, rest) = a.as_chunks::<DIGITS>();
    let mut fours = lines.chunks_exact(4);
    // A token that is left over of several has these lines in cache, and takes the vectors one by one.
    let ahead = if V == 4 { isa.ahead().sub_blocks } else { 0 };
    for (a, four) in whole.iter().zip(&mut fours) {
        add_bytes(isa, four, v0, a, &mut sums, ahead);
    }
    if let (false, Some(four)) = (rest.is_empty(), fours.next()) {
        add_bytes(isa, four, v0, rest, &mut sums, ahead);
    }
    let mut exact = [isa.splat_i32(0); V];
    for v in 0..V {
        exact[v] = isa.telescope(sums[v][0], sums[v][1]);
    }
    exact
}

/// Adds a line of each vector to both sums; `a` has as many steps as digits count.
#[inline(always)]
fn add_bytes<I: Isa, const V: usize>(
    isa: I,
    four: &[Line],
    v0: usize,
    a: &[[i8; 4]],
    sums: &mut [[I::I32; 2]; V],
    ahead: usize,
) {
    for v in 0..V {
        ask(isa, &four[v0 + v..][..1], ahead);
        let mut u = isa.bytes(&four[v0 + v].0);
        for a in a {
            sums[v][0] = isa.dot_wide(sums[v][0], u, *a);
            u = isa.triple(u);
            sums[v][1] = isa.dot_wide(sums[v][1], u, *a);
        }
    }
}

/// Several tokens: the digits once.
#[inline(always)]
fn digit_sums<I: Isa, const N: usize>(
    isa: I,
    lines: &[Line],
    v: usize,
    a: [&[[i8; 4]]; N],
) -> [I::I32; N] {
    let mut sum = [isa.splat_i32(0); N];
    for (l, four) in lines.chunks_exact(4).enumerate() {
        let mut u = isa.bytes(&four[v].0);
        let a: [&[[i8; 4]; DIGITS]; N] = std::array::from_fn(|t| {
            a[t][l * DIGITS..].first_chunk().expect("activations are padded to whole lines")
        });
        let mut begun = [isa.begin(sum[0]); N];
        for (begun, sum) in begun.iter_mut().zip(sum) {
            *begun = isa.begin(sum);
        }
        for i in 0..DIGITS {
            let digit = isa.trit(u);
            u = isa.triple(u);
            for (begun, a) in begun.iter_mut().zip(&a) {
                *begun = isa.dot(*begun, digit, a[i]);
            }
        }
        for (sum, begun) in sum.iter_mut().zip(begun) {
            *sum = isa.finish(begun, *sum);
        }
    }
    sum
}

const _: () = assert!(BASE3_COLS == 4 * DIGITS, "a line is five digits of four bytes");
