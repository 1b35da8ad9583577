//! Products of dense weights (F32, F16, BF16) with f32 activations: rows in lanes, k ascending, fused.

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use std::marker::PhantomData;

use crate::activation::Acts;
use crate::format::{DenseFormat, Element};
use crate::isa::Isa;
use crate::panel::Line;

use super::ahead::ask;
use super::outputs::Outputs;
use super::product::{Kernel, Panel};

/// f32 products of a dense format.
pub struct Dense<C>(PhantomData<C>);

impl<C: DenseFormat> Kernel for Dense<C> {
    const ONCE: bool = false;

    #[inline(always)]
    fn run<I: Isa>(isa: I, panel: &Panel<'_>, acts: &Acts, t0: usize, out: &mut Outputs<'_>) {
        let n = out.tokens();
        // One token reads everything once; for several, a piece stays in the nearest cache for all of them.
        let cols = if n == 1 { usize::MAX / C::INFO.bytes } else { NEAR };
        let ahead = if n == 1 { isa.ahead().dense } else { 0 };
        out.each_token().for_each(|row| row.fill(0.0));
        for (piece, lines) in panel.lines.chunks(cols * C::INFO.bytes).enumerate() {
            let (from, mut t) = (piece * cols, 0);
            while t < n {
                let out = &mut out.from(t);
                if I::TOKENS >= 6 && n - t >= 6 {
                    tile::<I, C, 6>(isa, lines, acts, (t0 + t, from), ahead, out);
                    t += 6;
                } else if n - t >= 2 && I::TOKENS >= 6 {
                    tile::<I, C, 2>(isa, lines, acts, (t0 + t, from), ahead, out);
                    t += 2;
                } else {
                    tile::<I, C, 1>(isa, lines, acts, (t0 + t, from), ahead, out);
                    t += 1;
                }
            }
        }
    }
}

/// Columns that stay in the nearest cache: 16 KiB of F16, and f32 sums that are stored in between are rare.
const NEAR: usize = 128;

/// Vector `v` of the 64 elements in `lines`.
#[inline(always)]
fn vector<I: Isa, C: DenseFormat>(isa: I, lines: &[Line], v: usize) -> I::F32 {
    match C::ELEMENT {
        Element::F32 => {
            let bytes: &[[u8; 4]; 16] = lines[v].0.as_chunks().0.first_chunk().expect("16 numbers");
            isa.load(&bytes.map(f32::from_le_bytes))
        }
        Element::F16 => isa.load_f16(&lines[v / 2].0.as_chunks().0[v % 2]),
        Element::BF16 => isa.load_bf16(&lines[v / 2].0.as_chunks().0[v % 2]),
    }
}

#[inline(always)]
fn tile<I: Isa, C: DenseFormat, const N: usize>(
    isa: I,
    lines: &[Line],
    acts: &Acts,
    (t0, from): (usize, usize),
    ahead: usize,
    out: &mut Outputs<'_>,
) {
    let cols = lines.len() / C::INFO.bytes;
    let x: [&[f32]; N] = std::array::from_fn(|t| &acts.dense(t0 + t)[from..from + cols]);
    let mut acc = [[isa.splat(0.0); N]; 4];
    for t in 0..N {
        for v in 0..4 {
            if let Some(y) = out.vector(t, v) {
                acc[v][t] = isa.load(y);
            }
        }
    }
    for (k, lines) in lines.chunks_exact(C::INFO.bytes).enumerate() {
        ask(isa, lines, ahead);
        let x: [I::F32; N] = std::array::from_fn(|t| isa.splat(x[t][k]));
        for v in 0..4 {
            let w = vector::<I, C>(isa, lines, v);
            for t in 0..N {
                acc[v][t] = isa.fma(w, x[t], acc[v][t]);
            }
        }
    }
    for t in 0..N {
        for v in 0..4 {
            if let Some(to) = out.vector(t, v) {
                isa.store(acc[v][t], to);
            }
        }
    }
}
