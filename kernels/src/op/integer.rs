//! Products of coded weights with int8 activations: the inner loop of gemv and gemm.
//!
//! For one panel (64 rows, see [`crate::panel`]) and some tokens:
//!
//! ```text
//! for each group of k:                       the contract's order
//!     sum[v][t] = 0                          exact i32, v = 16 rows, t = token
//!     for each 4 k:  u[v] = codes            one load per line, shift and mask per field
//!                    sum[v][t] += u[v] . a[t]
//!     I = sum - zero * (sum of a)            what the codes' offset added
//!     acc[v][t] = fma(d[v] * dx[t], I, acc[v][t])
//!     acc[v][t] = fma(b[v] * dx[t], S, acc[v][t])        formats with a minimum; b = -m
//! ```
//!
//! A tile keeps V vectors and N tokens in registers, so each decoded vector of codes meets N activations
//! and each activation V vectors. The integer sums may be formed in any order: they are exact.

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use crate::activation::{Acts, CHUNK};
use crate::format::{CodedFormat, Grouping};
use crate::isa::{Isa, Op};
use crate::panel::{Line, ROWS, lines_per_step};

use super::product::Panel;

/// Steps of four columns in a chunk.
const STEPS: usize = CHUNK / 4;

/// One panel times tokens `t0..t0 + out.len() / 64`; `out` is [tokens][64].
pub struct Integer<'a, C> {
    pub panel: Panel<'a>,
    pub acts: &'a Acts,
    pub t0: usize,
    pub out: &'a mut [f32],
    pub codec: std::marker::PhantomData<C>,
}

impl<C: CodedFormat> Op for Integer<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Integer { panel, acts, t0, out, .. } = self;
        let n = out.len() / ROWS;
        if n == 1 {
            // One token: all four vectors of the panel, so that its lines are read once.
            return tile::<I, C, 4, 1>(isa, &panel, 0, acts, t0, out);
        }
        let mut v = 0;
        while v < 4 {
            let mut t = 0;
            while t < n {
                let (left, out) = (n - t, &mut out[t * ROWS..]);
                t += match I::VECTORS {
                    4 => tokens::<I, C, 4>(isa, &panel, v, acts, t0 + t, left, out),
                    _ => tokens::<I, C, 1>(isa, &panel, v, acts, t0 + t, left, out),
                };
            }
            v += I::VECTORS;
        }
    }
}

/// Runs the largest tile that fits into `left` tokens; returns how many it did.
#[inline(always)]
fn tokens<I: Isa, C: CodedFormat, const V: usize>(
    isa: I,
    panel: &Panel<'_>,
    v0: usize,
    acts: &Acts,
    t: usize,
    left: usize,
    out: &mut [f32],
) -> usize {
    if I::TOKENS >= 6 && left >= 6 {
        tile::<I, C, V, 6>(isa, panel, v0, acts, t, out);
        6
    } else if I::TOKENS >= 4 && left >= 4 {
        tile::<I, C, V, 4>(isa, panel, v0, acts, t, out);
        4
    } else if left >= 2 {
        tile::<I, C, V, 2>(isa, panel, v0, acts, t, out);
        2
    } else {
        tile::<I, C, V, 1>(isa, panel, v0, acts, t, out);
        1
    }
}

/// Vectors `v0..v0+V` of the panel times tokens `t0..t0+N`.
#[inline(always)]
fn tile<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    panel: &Panel<'_>,
    v0: usize,
    acts: &Acts,
    t0: usize,
    out: &mut [f32],
) {
    let codes = C::CODES;
    let geometry = panel.geometry;
    let in_block = geometry.scale_lines > 0;
    let chunk_lines = STEPS * lines_per_step(&codes);
    let chunks = geometry.code_lines / chunk_lines;
    let a: [&[[[i8; 4]; STEPS]]; N] =
        std::array::from_fn(|t| acts.codes(t0 + t).as_chunks().0.as_chunks().0);
    let dx: [&[f32]; N] = std::array::from_fn(|t| &acts.scales(t0 + t)[..geometry.groups]);
    let sums: [&[i32]; N] = std::array::from_fn(|t| &acts.sums(t0 + t)[..geometry.groups]);

    let mut acc = [[isa.splat(0.0); N]; V];
    let mut chunk = 0;
    for (g, group) in panel.lines.chunks_exact(geometry.group_lines().max(1)).enumerate() {
        let (header, lines) = group.split_at(geometry.scale_lines + geometry.min_lines);
        let mut sum = [[isa.splat_i32(0); N]; V];
        for lines in lines.chunks_exact(chunk_lines).take(chunks) {
            let a: [&[[i8; 4]; STEPS]; N] = std::array::from_fn(|t| &a[t][chunk]);
            chunk_sums::<I, C, V, N>(isa, lines, v0, a, &mut sum);
            chunk += 1;
        }
        for t in 0..N {
            // The offset that unsigned codes added: (zero - bias) * sum of a.
            let bias = if codes.max > 15 { I::WIDE_BIAS } else { 0 };
            let offset = isa.splat_i32(-(codes.zero - bias) * sums[t][g]);
            let scale = isa.splat(dx[t][g]);
            let min_sum = isa.splat(sums[t][g] as f32);
            for v in 0..V {
                let exact = isa.to_f32(isa.add_i32(sum[v][t], offset));
                let mut x = acc[v][t];
                if in_block {
                    x = isa.fma(isa.mul(half_line(isa, header, 0, v0 + v), scale), exact, x);
                } else {
                    x = isa.fma(scale, exact, x);
                }
                if codes.min {
                    let b = half_line(isa, header, geometry.scale_lines, v0 + v);
                    x = isa.fma(isa.mul(b, scale), min_sum, x);
                }
                acc[v][t] = x;
            }
        }
    }
    for v in 0..V {
        let rows = (v0 + v) * 16;
        for t in 0..N {
            let mut y = acc[v][t];
            if let Some(scales) = panel.row_scales
                && C::INFO.activation == Grouping::Token
            {
                y = isa.mul(y, isa.load(&scales.as_chunks().0[v0 + v]));
            }
            if let Some(to) = out[t * ROWS + rows..].first_chunk_mut() {
                isa.store(y, to);
            }
        }
    }
}

/// 16 f16 numbers of a header: vector `v` of the 64 that start at line `line`.
#[inline(always)]
fn half_line<I: Isa>(isa: I, header: &[Line], line: usize, v: usize) -> I::F32 {
    isa.load_f16(&header[line + v / 2].0.as_chunks().0[v % 2])
}

/// The codes of vector `v` in step `s`. A function and not a closure: closures are not reliably inlined,
/// and outside the function that enables the instructions every intrinsic is a call.
#[inline(always)]
fn unpack<I: Isa, C: CodedFormat>(isa: I, lines: &[Line], s: usize, v: usize) -> I::Bytes {
    let codes = C::CODES;
    let fields = 8 / codes.bits as usize;
    let bytes = isa.bytes(&lines[s * lines_per_step(&codes) + v / fields].0);
    if codes.bits == 8 {
        return bytes;
    }
    let mask = (0xffu16 >> (8 - codes.bits)) as u8;
    isa.field(bytes, (v % fields) as u32 * codes.bits, mask)
}

/// Adds a chunk of 32 columns to the integer sums.
#[inline(always)]
fn chunk_sums<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    lines: &[Line],
    v0: usize,
    a: [&[[i8; 4]; STEPS]; N],
    sum: &mut [[I::I32; N]; V],
) {
    let codes = C::CODES;
    let lines = &lines[..STEPS * lines_per_step(&codes)];
    if codes.max > 15 {
        for s in 0..STEPS {
            for v in 0..V {
                let u = unpack::<I, C>(isa, lines, s, v0 + v);
                for t in 0..N {
                    sum[v][t] = isa.dot_wide(sum[v][t], u, a[t][s]);
                }
            }
        }
        return;
    }
    let mut run = [[isa.begin(sum[0][0]); N]; V];
    for v in 0..V {
        for t in 0..N {
            run[v][t] = isa.begin(sum[v][t]);
        }
    }
    for s in 0..STEPS {
        for v in 0..V {
            let u = unpack::<I, C>(isa, lines, s, v0 + v);
            for t in 0..N {
                run[v][t] = isa.dot(run[v][t], u, a[t][s]);
            }
        }
    }
    for v in 0..V {
        for t in 0..N {
            sum[v][t] = isa.finish(run[v][t], sum[v][t]);
        }
    }
}
