//! Attention of one query head over cached keys and values, and the cache's layout.
//!
//! Keys are stored 16 positions to a block, dimension by dimension, so that the scores of 16 positions
//! are the lanes of one vector and each is the contract's dense dot product (ascending d, fused) with no
//! horizontal sum. Values are stored row by row: the lanes of the output are dimensions.

use std::ops::Range;

use super::{gate::cap_lanes, lanes, norm::exp_minus_max};
use crate::isa::{Isa, Op};

/// Keys and values of one head, position after position.
#[derive(Clone, Debug, Default)]
pub struct KeyValues {
    dim: usize,
    len: usize,
    /// [len/16][dim][16]
    keys: Vec<f32>,
    /// [len][dim]
    values: Vec<f32>,
}

impl KeyValues {
    /// An empty cache of vectors of `dim` elements, with room for `capacity` positions.
    pub fn new(dim: usize, capacity: usize) -> Self {
        KeyValues {
            dim,
            len: 0,
            keys: Vec::with_capacity(Self::key_floats(dim, capacity)),
            values: Vec::with_capacity(dim * capacity),
        }
    }

    /// Bytes that `capacity` positions of `dim` elements take; the largest number where none is enough.
    pub const fn bytes(dim: usize, capacity: usize) -> usize {
        let values = dim.saturating_mul(capacity);
        Self::key_floats(dim, capacity).saturating_add(values).saturating_mul(4)
    }

    const fn key_floats(dim: usize, capacity: usize) -> usize {
        (capacity.saturating_add(15) / 16 * 16).saturating_mul(dim)
    }

    /// Elements per vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the key and the value of the next position.
    ///
    /// # Panics
    /// If their lengths are not `dim`.
    pub fn push(&mut self, key: &[f32], value: &[f32]) {
        assert!(key.len() == self.dim && value.len() == self.dim, "key-value dimensions");
        let (block, lane) = (self.len / 16, self.len % 16);
        if lane == 0 {
            self.keys.resize((block + 1) * self.dim * 16, 0.0);
        }
        let block = &mut self.keys[block * self.dim * 16..];
        for (lanes, k) in block.chunks_exact_mut(16).zip(key) {
            lanes[lane] = *k;
        }
        self.values.extend_from_slice(value);
        self.len += 1;
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.keys.truncate(self.len.div_ceil(16) * self.dim * 16);
        self.values.truncate(self.len * self.dim);
    }

    /// The key at `position`, gathered.
    pub fn key(&self, position: usize) -> Vec<f32> {
        let block = &self.keys[position / 16 * self.dim * 16..];
        block.chunks_exact(16).take(self.dim).map(|lanes| lanes[position % 16]).collect()
    }

    /// The value at `position`.
    pub fn value(&self, position: usize) -> &[f32] {
        &self.values[position * self.dim..(position + 1) * self.dim]
    }
}

struct Attention<'a> {
    q: &'a [f32],
    kv: &'a KeyValues,
    range: Range<usize>,
    scale: f32,
    cap: Option<f32>,
    scores: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

/// Blocks of 16 positions whose scores are summed side by side: enough to hide the latency of an fma.
const ABREAST: usize = 4;

/// Scores of `N` blocks of 16 positions.
#[inline(always)]
fn score_blocks<I: Isa, const N: usize>(
    isa: I,
    q: &[f32],
    keys: &[f32],
    scale: f32,
    out: &mut [f32],
) {
    let dim = q.len();
    let blocks: [&[[f32; 16]]; N] =
        std::array::from_fn(|b| &keys[b * dim * 16..(b + 1) * dim * 16].as_chunks().0[..dim]);
    let mut acc = [isa.splat(0.0); N];
    for (d, q) in q.iter().enumerate() {
        let q = isa.splat(*q);
        for b in 0..N {
            acc[b] = isa.fma(q, isa.load(&blocks[b][d]), acc[b]);
        }
    }
    for (acc, out) in acc.into_iter().zip(out.as_chunks_mut().0) {
        isa.store(isa.mul(acc, isa.splat(scale)), out);
    }
}

/// `out[d] = sum over j of e[j] * values[j][d]` for 16 N dimensions from `at` on.
#[inline(always)]
fn mix<I: Isa, const N: usize>(
    isa: I,
    e: &[f32],
    values: &[f32],
    dim: usize,
    at: usize,
    inverse: f32,
    out: &mut [f32],
) {
    let mut acc = [isa.splat(0.0); N];
    for (e, v) in e.iter().zip(values.chunks_exact(dim)) {
        let (e, v) = (isa.splat(*e), v[at..at + 16 * N].as_chunks().0);
        for n in 0..N {
            acc[n] = isa.fma(e, isa.load(&v[n]), acc[n]);
        }
    }
    for (acc, out) in acc.into_iter().zip(out[at..at + 16 * N].as_chunks_mut().0) {
        isa.store(isa.mul(acc, isa.splat(inverse)), out);
    }
}

impl Op for Attention<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Attention { q, kv, range, scale, cap, scores, out } = self;
        let dim = kv.dim;
        // Whole blocks are scored; positions outside the range are cut off afterwards.
        let (first, last) = (range.start / 16, range.end.div_ceil(16));
        scores.clear();
        scores.resize((last - first) * 16, 0.0);
        let mut block = first;
        while block < last {
            let n = if last - block >= ABREAST { ABREAST } else { 1 };
            let keys = &kv.keys[block * dim * 16..(block + n) * dim * 16];
            let to = &mut scores[(block - first) * 16..(block - first + n) * 16];
            if n == ABREAST {
                score_blocks::<I, ABREAST>(isa, q, keys, scale, to);
            } else {
                score_blocks::<I, 1>(isa, q, keys, scale, to);
            }
            block += n;
        }
        let e = &mut scores[range.start - first * 16..range.end - first * 16];
        if let Some(cap) = cap {
            cap_lanes(isa, e, cap);
        }
        let inverse = 1.0 / exp_minus_max(isa, e);
        let values = &kv.values[range.start * dim..range.end * dim];
        let mut at = 0;
        while dim - at >= 64 {
            mix::<I, 4>(isa, e, values, dim, at, inverse, out);
            at += 64;
        }
        while dim - at >= 16 {
            mix::<I, 1>(isa, e, values, dim, at, inverse, out);
            at += 16;
        }
        if at < dim {
            let mut acc = isa.splat(0.0);
            for (e, v) in e.iter().zip(values.chunks_exact(dim)) {
                acc = isa.fma(isa.splat(*e), isa.load(&lanes::pad(&v[at..], 0.0)), acc);
            }
            let mut last = [0.0; 16];
            isa.store(isa.mul(acc, isa.splat(inverse)), &mut last);
            out[at..].copy_from_slice(&last[..dim - at]);
        }
    }
}

/// [`crate::oracle::attention`]
pub fn attention<I: Isa>(
    q: &[f32],
    kv: &KeyValues,
    range: Range<usize>,
    scale: f32,
    cap: Option<f32>,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let op = Attention { q, kv, range, scale, cap, scores, out };
    super::product::token::<I>().vectorize(op);
}

/// The oracle's form over the same cache.
pub fn attention_oracle(
    q: &[f32],
    kv: &KeyValues,
    range: Range<usize>,
    scale: f32,
    cap: Option<f32>,
    _: &mut Vec<f32>,
    out: &mut [f32],
) {
    let keys: Vec<f32> = range.clone().flat_map(|j| kv.key(j)).collect();
    let values = &kv.values[range.start * kv.dim..range.end * kv.dim];
    crate::oracle::attention(q, &keys, values, scale, cap, out);
}
