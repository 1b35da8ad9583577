//! Keys and values of the positions so far, laid out for [`super::attention`].
//!
//! Keys are stored 16 positions to a block, dimension by dimension, so that the scores of 16 positions
//! are the lanes of one vector and each is the contract's dense dot product (ascending d, fused) with no
//! horizontal sum. Values are stored row by row: the lanes of the output are dimensions. Both are f32, or
//! f16 that is widened (exactly) as it is loaded.

use std::ops::Range;

use crate::isa::Isa;

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
pub(super) trait Held: Copy + 'static {
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
pub(super) struct Arrays<T> {
    /// [positions/16][dim][16]
    pub keys: Vec<T>,
    /// [positions][dim]
    pub values: Vec<T>,
}

#[derive(Clone, Debug)]
pub(super) enum Store {
    F32(Arrays<f32>),
    F16(Arrays<Half>),
}

/// Runs `$body` on the arrays, whatever they hold.
macro_rules! with {
    ($store:expr, $a:ident => $body:expr) => {
        match $store {
            $crate::op::key_values::Store::F32($a) => $body,
            $crate::op::key_values::Store::F16($a) => $body,
        }
    };
}
pub(super) use with;

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
    pub(super) store: Store,
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

    /// Whether all positions of `range` are held, and there is one.
    pub(crate) fn holds(&self, range: &Range<usize>) -> bool {
        self.start <= range.start && range.start < range.end && range.end <= self.len
    }
}
