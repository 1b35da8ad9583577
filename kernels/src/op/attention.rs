//! Attention of one query head over cached keys and values, and the cache's layout.
//!
//! Keys are stored 16 positions to a block, dimension by dimension, so that the scores of 16 positions
//! are the lanes of one vector and each is the contract's dense dot product (ascending d, fused) with no
//! horizontal sum. Values are stored row by row: the lanes of the output are dimensions. Both are f32, or
//! f16 that is widened (exactly) as it is loaded.

use std::ops::Range;

use super::{gate::cap_lanes, lanes, norm::exp_minus_max};
use crate::isa::{Isa, Op};

/// How keys and values are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum CacheType {
    /// As they are.
    #[default]
    F32,
    /// Rounded once, to nearest even, when they are pushed; attention is f32 over the rounded values.
    F16,
}

impl CacheType {
    /// Both.
    pub const ALL: [CacheType; 2] = [CacheType::F32, CacheType::F16];

    /// `f32`, `f16`
    pub const fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    const fn bytes(self) -> usize {
        match self {
            CacheType::F32 => 4,
            CacheType::F16 => 2,
        }
    }

    /// The greatest absolute value that is held as a finite number.
    pub const fn max(self) -> f32 {
        match self {
            CacheType::F32 => f32::MAX,
            // Half a step above the greatest f16, 65504, is the first that rounds to infinity.
            CacheType::F16 => 65519.996,
        }
    }
}

/// A number as it is held.
trait Held: Copy + 'static {
    const ZERO: Self;
    fn of(x: f32) -> Self;
    fn get(self) -> f32;
    fn load<I: Isa>(isa: I, x: &[Self; 16]) -> I::F32;
}

impl Held for f32 {
    const ZERO: f32 = 0.0;
    fn of(x: f32) -> f32 {
        x
    }
    fn get(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f32; 16]) -> I::F32 {
        isa.load(x)
    }
}

/// A little-endian f16.
type Half = [u8; 2];

impl Held for Half {
    const ZERO: Half = [0; 2];
    fn of(x: f32) -> Half {
        half::f16::from_f32(x).to_le_bytes()
    }
    fn get(self) -> f32 {
        half::f16::from_le_bytes(self).to_f32()
    }
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[Half; 16]) -> I::F32 {
        let (bytes, _) = x.as_flattened().as_chunks::<32>();
        isa.load_f16(&bytes[0])
    }
}

#[derive(Clone, Debug)]
struct Arrays<T> {
    /// [positions/16][dim][16]
    keys: Vec<T>,
    /// [positions][dim]
    values: Vec<T>,
}

#[derive(Clone, Debug)]
enum Store {
    F32(Arrays<f32>),
    F16(Arrays<Half>),
}

/// Runs `$body` on the arrays, whatever they hold.
macro_rules! with {
    ($store:expr, $a:ident => $body:expr) => {
        match $store {
            Store::F32($a) => $body,
            Store::F16($a) => $body,
        }
    };
}

/// Room for `more` elements: twice as much as before, but never more than `limit` if that is enough.
fn reserve<T>(v: &mut Vec<T>, more: usize, limit: usize) {
    let needed = v.len() + more;
    if needed > v.capacity() {
        let room = v.capacity().saturating_mul(2).min(limit).max(needed);
        v.reserve_exact(room - v.len());
    }
}

impl<T: Held> Arrays<T> {
    fn new(dim: usize, positions: usize) -> Self {
        Arrays {
            keys: Vec::with_capacity(KeyValues::key_elements(dim, positions)),
            values: Vec::with_capacity(dim * positions),
        }
    }

    fn push(&mut self, at: usize, limit: usize, key: &[f32], value: &[f32]) {
        let dim = key.len();
        let (block, lane) = (at / 16, at % 16);
        if lane == 0 {
            reserve(&mut self.keys, dim * 16, KeyValues::key_elements(dim, limit));
            self.keys.resize((block + 1) * dim * 16, T::ZERO);
        }
        let block = &mut self.keys[block * dim * 16..];
        for (lanes, k) in block.chunks_exact_mut(16).zip(key) {
            lanes[lane] = T::of(*k);
        }
        reserve(&mut self.values, dim, dim.saturating_mul(limit));
        self.values.extend(value.iter().map(|v| T::of(*v)));
    }
}

/// Keys and values of one head, position after position. The first positions may have been forgotten.
#[derive(Clone, Debug)]
pub struct KeyValues {
    dim: usize,
    /// First position held, a multiple of 16.
    start: usize,
    /// One more than the last.
    len: usize,
    /// Positions that will be held at most, as far as is known.
    limit: usize,
    store: Store,
}

impl KeyValues {
    /// An empty cache of vectors of `dim` elements, with room for `capacity` positions; it grows if there are
    /// more.
    pub fn new(dim: usize, capacity: usize, ty: CacheType) -> Self {
        Self::growing(dim, capacity, capacity, ty)
    }

    /// An empty cache with room for `capacity` positions that grows up to `limit`, no allocation larger than
    /// [`Self::bytes`] of it.
    pub fn growing(dim: usize, capacity: usize, limit: usize, ty: CacheType) -> Self {
        let capacity = capacity.min(limit);
        let store = match ty {
            CacheType::F32 => Store::F32(Arrays::new(dim, capacity)),
            CacheType::F16 => Store::F16(Arrays::new(dim, capacity)),
        };
        KeyValues { dim, start: 0, len: 0, limit, store }
    }

    /// Bytes that `capacity` positions of `dim` elements take; the largest number where none is enough.
    pub const fn bytes(dim: usize, capacity: usize, ty: CacheType) -> usize {
        let values = dim.saturating_mul(capacity);
        Self::key_elements(dim, capacity).saturating_add(values).saturating_mul(ty.bytes())
    }

    const fn key_elements(dim: usize, capacity: usize) -> usize {
        (capacity.saturating_add(15) / 16 * 16).saturating_mul(dim)
    }

    /// Elements per vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How they are held.
    pub fn cache_type(&self) -> CacheType {
        match self.store {
            Store::F32(_) => CacheType::F32,
            Store::F16(_) => CacheType::F16,
        }
    }

    /// Positions so far, those forgotten included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first position that is held.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Appends the key and the value of the next position.
    ///
    /// # Panics
    /// If their lengths are not `dim`.
    pub fn push(&mut self, key: &[f32], value: &[f32]) {
        assert!(key.len() == self.dim && value.len() == self.dim, "key-value dimensions");
        let at = self.len - self.start;
        with!(&mut self.store, a => a.push(at, self.limit, key, value));
        self.len += 1;
    }

    /// Forgets all positions from `len` on. Cut back to before [`Self::start`], nothing is left.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.len <= self.start {
            (self.len, self.start) = (0, 0);
        }
        let held = self.len - self.start;
        let dim = self.dim;
        with!(&mut self.store, a => {
            a.keys.truncate(held.div_ceil(16) * dim * 16);
            a.values.truncate(held * dim);
        });
    }

    /// Forgets the positions before `position`, in whole blocks of 16.
    pub fn forget_before(&mut self, position: usize) {
        let start = position.min(self.len) / 16 * 16;
        if start <= self.start {
            return;
        }
        let elements = (start - self.start) * self.dim;
        with!(&mut self.store, a => {
            a.keys.drain(..elements);
            a.values.drain(..elements);
        });
        self.start = start;
    }

    /// The key at `position`, gathered.
    pub fn key(&self, position: usize) -> Vec<f32> {
        let at = position - self.start;
        with!(&self.store, a => {
            let block = &a.keys[at / 16 * self.dim * 16..];
            block.chunks_exact(16).take(self.dim).map(|lanes| lanes[at % 16].get()).collect()
        })
    }

    /// The value at `position`.
    pub fn value(&self, position: usize) -> Vec<f32> {
        let at = (position - self.start) * self.dim;
        with!(&self.store, a => a.values[at..at + self.dim].iter().map(|v| v.get()).collect())
    }

    /// Elements of `range`, counted from the first position held.
    fn held(&self, range: &Range<usize>) -> Range<usize> {
        assert!(range.start >= self.start, "attention: positions that were forgotten");
        range.start - self.start..range.end - self.start
    }
}

struct Attention<'a, T> {
    q: &'a [f32],
    kv: &'a Arrays<T>,
    /// Counted from the first position held.
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
fn score_blocks<I: Isa, T: Held, const N: usize>(
    isa: I,
    q: &[f32],
    keys: &[T],
    scale: f32,
    out: &mut [f32],
) {
    let dim = q.len();
    let blocks: [&[[T; 16]]; N] =
        std::array::from_fn(|b| &keys[b * dim * 16..(b + 1) * dim * 16].as_chunks().0[..dim]);
    let mut acc = [isa.splat(0.0); N];
    for (d, q) in q.iter().enumerate() {
        let q = isa.splat(*q);
        for b in 0..N {
            acc[b] = isa.fma(q, T::load(isa, &blocks[b][d]), acc[b]);
        }
    }
    for (acc, out) in acc.into_iter().zip(out.as_chunks_mut().0) {
        isa.store(isa.mul(acc, isa.splat(scale)), out);
    }
}

/// `out[d] = sum over j of e[j] * values[j][d]` for 16 N dimensions from `at` on.
#[inline(always)]
fn mix<I: Isa, T: Held, const N: usize>(
    isa: I,
    e: &[f32],
    values: &[T],
    dim: usize,
    at: usize,
    inverse: f32,
    out: &mut [f32],
) {
    let mut acc = [isa.splat(0.0); N];
    for (e, v) in e.iter().zip(values.chunks_exact(dim)) {
        let (e, v) = (isa.splat(*e), v[at..at + 16 * N].as_chunks().0);
        for n in 0..N {
            acc[n] = isa.fma(e, T::load(isa, &v[n]), acc[n]);
        }
    }
    for (acc, out) in acc.into_iter().zip(out[at..at + 16 * N].as_chunks_mut().0) {
        isa.store(isa.mul(acc, isa.splat(inverse)), out);
    }
}

impl<T: Held> Op for Attention<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Attention { q, kv, range, scale, cap, scores, out } = self;
        let dim = q.len();
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
                score_blocks::<I, T, ABREAST>(isa, q, keys, scale, to);
            } else {
                score_blocks::<I, T, 1>(isa, q, keys, scale, to);
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
            mix::<I, T, 4>(isa, e, values, dim, at, inverse, out);
            at += 64;
        }
        while dim - at >= 16 {
            mix::<I, T, 1>(isa, e, values, dim, at, inverse, out);
            at += 16;
        }
        if at < dim {
            let mut acc = isa.splat(0.0);
            for (e, v) in e.iter().zip(values.chunks_exact(dim)) {
                acc = isa.fma(isa.splat(*e), T::load(isa, &lanes::pad(&v[at..], T::ZERO)), acc);
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
    let range = kv.held(&range);
    let token = super::product::token::<I>();
    with!(&kv.store, kv => token.vectorize(Attention { q, kv, range, scale, cap, scores, out }));
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
    let values: Vec<f32> = range.flat_map(|j| kv.value(j)).collect();
    crate::oracle::attention(q, &keys, &values, scale, cap, out);
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
