//! Attention of query heads over cached keys and values ([`super::key_values`]).
//!
//! Queries that look at the same keys are worked on in tiles: a vector of keys, and later of values, is loaded
//! once for all queries of a tile, and a stretch of positions stays in the nearest cache for all tiles. Every
//! query keeps the contract's order of its own sums, so neither tiles nor stretches change a bit.

#![allow(clippy::needless_range_loop, reason = "r, b and v name a place in several arrays at once")]

use std::ops::Range;

use super::key_values::{Arrays, Held, KeyValues, with};
use super::{gate::cap_lanes, lanes, norm::exp_minus_max};
use crate::isa::{Isa, Op};

/// One query of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Where its vector begins among the queries' vectors, and its answer among the outputs.
    pub at: usize,
    /// The positions it sees.
    pub range: Range<usize>,
}

/// Queries that look at the same head of keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// Their vectors, and perhaps others'.
    pub vectors: &'a [f32],
    /// The queries.
    pub each: &'a [Query],
    /// A factor on every score.
    pub scale: f32,
    /// The soft cap of scores.
    pub cap: Option<f32>,
}

impl Queries<'_> {
    fn vector(&self, i: usize, dim: usize) -> &[f32] {
        &self.vectors[self.each[i].at..][..dim]
    }
}

/// Positions whose values stay in the nearest cache for all queries: 16 KiB of a head of 64.
const NEAR: usize = 64;

/// Elements behind a query's scores: there stands what its answer is multiplied with.
const BEHIND: usize = 16;

struct Attention<'a, T> {
    queries: &'a Queries<'a>,
    kv: &'a Arrays<T>,
    dim: usize,
    /// The first position held.
    start: usize,
    scores: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl<T: Held> Op for Attention<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        // Sums in registers: queries x vectors.
        if I::TOKENS >= 6 {
            self.tiled::<I, 4, 4>(isa);
        } else {
            self.tiled::<I, 2, 2>(isa);
        }
    }
}

impl<T: Held> Attention<'_, T> {
    #[inline(always)]
    fn tiled<I: Isa, const R: usize, const N: usize>(self, isa: I) {
        let Attention { queries, kv, dim, start, scores, out } = self;
        let held = |q: &Query| q.range.start - start..q.range.end - start;
        // Whole blocks are scored; what a query does not see is left out afterwards.
        let first = queries.each.iter().map(|q| held(q).start / 16).min().unwrap_or(0);
        let last = queries.each.iter().map(|q| held(q).end.div_ceil(16)).max().unwrap_or(0);
        let width = (last - first) * 16;
        let row = width + BEHIND;
        if scores.len() < queries.each.len() * row {
            scores.resize(queries.each.len() * row, 0.0);
        }

        let mut block = first;
        while block < last {
            let n = if last - block >= N { N } else { 1 };
            let keys = &kv.keys[block * dim * 16..(block + n) * dim * 16];
            let seen = block * 16..(block + n) * 16;
            let mut i = 0;
            while i < queries.each.len() {
                let rows = if queries.each.len() - i >= R { R } else { 1 };
                let scores = &mut scores[i * row + (block - first) * 16..];
                let tile = &queries.each[i..i + rows];
                if tile.iter().any(|q| !both(&held(q), &seen).is_empty()) {
                    let queries = (queries, i);
                    match (rows == R, n == N) {
                        (true, true) => score::<I, T, R, N>(isa, queries, keys, dim, scores, row),
                        (true, false) => score::<I, T, R, 1>(isa, queries, keys, dim, scores, row),
                        (false, true) => score::<I, T, 1, N>(isa, queries, keys, dim, scores, row),
                        (false, false) => score::<I, T, 1, 1>(isa, queries, keys, dim, scores, row),
                    }
                }
                i += rows;
            }
            block += n;
        }

        for (query, scores) in queries.each.iter().zip(scores.chunks_exact_mut(row)) {
            let seen = held(query);
            let e = &mut scores[seen.start - first * 16..seen.end - first * 16];
            if let Some(cap) = queries.cap {
                cap_lanes(isa, e, cap);
            }
            scores[width] = 1.0 / exp_minus_max(isa, e);
            out[query.at..query.at + dim].fill(0.0);
        }

        let mix = Mix { values: &kv.values, dim, scores, row, first: first * 16 };
        for near in (first * 16..last * 16).step_by(NEAR) {
            let near = near..near + NEAR;
            let mut i = 0;
            while i < queries.each.len() {
                let rows = if queries.each.len() - i >= R { R } else { 1 };
                let tile = &queries.each[i..i + rows];
                // What all of a whole tile see, or nothing, at the end.
                let all = tile.iter().fold(near.clone(), |all, q| both(&all, &held(q)));
                let all = if rows == R && !all.is_empty() { all } else { near.end..near.end };
                // In order: what only some of them see, what all see, what only some see.
                for (r, query) in tile.iter().enumerate() {
                    let before = both(&(near.start..all.start), &held(query));
                    mix.add::<I, 1, 4>(isa, i + r, [query.at], before, out);
                }
                if rows == R {
                    let at = std::array::from_fn(|r| tile[r].at);
                    mix.add::<I, R, N>(isa, i, at, all.clone(), out);
                }
                for (r, query) in tile.iter().enumerate() {
                    let after = both(&(all.end..near.end), &held(query));
                    mix.add::<I, 1, 4>(isa, i + r, [query.at], after, out);
                }
                i += rows;
            }
        }

        for (query, scores) in queries.each.iter().zip(scores.chunks_exact(row)) {
            let inverse = isa.splat(scores[width]);
            lanes::map!(isa, &mut out[query.at..query.at + dim], |v| isa.mul(v, inverse));
        }
    }
}

/// Positions in both ranges.
#[inline(always)]
fn both(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// Scores of `R` queries from the given one on, over `N` blocks of 16 positions; a query's are `row` apart.
#[inline(always)]
fn score<I: Isa, T: Held, const R: usize, const N: usize>(
    isa: I,
    (queries, i): (&Queries<'_>, usize),
    keys: &[T],
    dim: usize,
    scores: &mut [f32],
    row: usize,
) {
    let q: [&[f32]; R] = std::array::from_fn(|r| queries.vector(i + r, dim));
    let blocks: [&[[T; 16]]; N] =
        std::array::from_fn(|b| &keys[b * dim * 16..(b + 1) * dim * 16].as_chunks().0[..dim]);
    let mut acc = [[isa.splat(0.0); N]; R];
    for d in 0..dim {
        let mut k = [isa.splat(0.0); N];
        for b in 0..N {
            k[b] = T::load(isa, &blocks[b][d]);
        }
        for r in 0..R {
            let q = isa.splat(q[r][d]);
            for b in 0..N {
                acc[r][b] = isa.fma(q, k[b], acc[r][b]);
            }
        }
    }
    let scale = isa.splat(queries.scale);
    for r in 0..R {
        let to = scores[r * row..].as_chunks_mut().0;
        for b in 0..N {
            isa.store(isa.mul(acc[r][b], scale), &mut to[b]);
        }
    }
}

/// The second half: values, weighted.
struct Mix<'a, T> {
    values: &'a [T],
    dim: usize,
    /// [queries][row]
    scores: &'a [f32],
    row: usize,
    /// The position of a row's first score.
    first: usize,
}

impl<T: Held> Mix<'_, T> {
    /// `out[at + d] += sum over j of e[j] * values[j][d]`, ascending and fused, for `R` queries from the `i`th on;
    /// `V` vectors of dimensions at a time.
    #[inline(always)]
    fn add<I: Isa, const R: usize, const V: usize>(
        &self,
        isa: I,
        i: usize,
        at: [usize; R],
        positions: Range<usize>,
        out: &mut [f32],
    ) {
        let (dim, n) = (self.dim, positions.len());
        if n == 0 {
            return;
        }
        let e: [&[f32]; R] = std::array::from_fn(|r| {
            &self.scores[(i + r) * self.row + positions.start - self.first..][..n]
        });
        let values = &self.values[positions.start * dim..positions.end * dim];
        let mut d = 0;
        while dim - d >= 16 * V {
            vectors::<I, T, R, V>(isa, &e, values, (dim, d), &at, out);
            d += 16 * V;
        }
        while dim - d >= 16 {
            vectors::<I, T, R, 1>(isa, &e, values, (dim, d), &at, out);
            d += 16;
        }
        if d < dim {
            for r in 0..R {
                let to = &mut out[at[r] + d..at[r] + dim];
                let mut last = lanes::pad(to, 0.0);
                let mut acc = isa.load(&last);
                for (e, v) in e[r].iter().zip(values.chunks_exact(dim)) {
                    acc = isa.fma(isa.splat(*e), T::load(isa, &lanes::pad(&v[d..], T::ZERO)), acc);
                }
                isa.store(acc, &mut last);
                to.copy_from_slice(&last[..dim - d]);
            }
        }
    }
}

/// Dimensions `d..d + 16 V` of [`Mix::add`].
#[inline(always)]
fn vectors<I: Isa, T: Held, const R: usize, const V: usize>(
    isa: I,
    e: &[&[f32]; R],
    values: &[T],
    (dim, d): (usize, usize),
    at: &[usize; R],
    out: &mut [f32],
) {
    let mut acc = [[isa.splat(0.0); V]; R];
    for r in 0..R {
        let from = out[at[r] + d..at[r] + d + 16 * V].as_chunks().0;
        for v in 0..V {
            acc[r][v] = isa.load(&from[v]);
        }
    }
    for (j, value) in values.chunks_exact(dim).enumerate() {
        let value = value[d..d + 16 * V].as_chunks().0;
        let mut w = [isa.splat(0.0); V];
        for v in 0..V {
            w[v] = T::load(isa, &value[v]);
        }
        for r in 0..R {
            let e = isa.splat(e[r][j]);
            for v in 0..V {
                acc[r][v] = isa.fma(e, w[v], acc[r][v]);
            }
        }
    }
    for r in 0..R {
        let to = out[at[r] + d..at[r] + d + 16 * V].as_chunks_mut().0;
        for v in 0..V {
            isa.store(acc[r][v], &mut to[v]);
        }
    }
}

/// [`crate::oracle::attention`] of each query.
pub fn attention<I: Isa>(
    queries: &Queries<'_>,
    kv: &KeyValues,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let (token, dim, start) = (super::product::token::<I>(), kv.dim(), kv.start());
    with!(&kv.store, kv => token.vectorize(Attention { queries, kv, dim, start, scores, out }));
}

/// The oracle's form over the same cache.
pub fn attention_oracle(queries: &Queries<'_>, kv: &KeyValues, _: &mut Vec<f32>, out: &mut [f32]) {
    for (i, query) in queries.each.iter().enumerate() {
        let keys: Vec<f32> = query.range.clone().flat_map(|j| kv.key(j)).collect();
        let values: Vec<f32> = query.range.clone().flat_map(|j| kv.value(j)).collect();
        let (q, out) = (queries.vector(i, kv.dim()), &mut out[query.at..query.at + kv.dim()]);
        crate::oracle::attention(q, &keys, &values, queries.scale, queries.cap, out);
    }
}

/// The weights by which [`attention`] mixes the values of `keys`, [n][dim]: for research, not for speed.
pub fn attention_weights(q: &[f32], keys: &[f32], scale: f32, cap: Option<f32>, out: &mut [f32]) {
    for (s, k) in out.iter_mut().zip(keys.chunks_exact(q.len())) {
        *s = q.iter().zip(k).fold(0.0f32, |acc, (q, k)| q.mul_add(*k, acc)) * scale;
    }
    if let Some(cap) = cap {
        super::tanh_cap(out, cap);
    }
    super::softmax(out);
}
