//! int8 activations: what the integer kernels multiply weights with.
//!
//! Contract, for a group (a token, 256 or 32 elements) with `a = max|x|`:
//!
//! ```text
//! a = max(a, 1e-5)                         token groups only (BitNet's clamp)
//! q = clamp(round_half_even(x * (127 / a)), -127, 127)        scale = a / 127
//! q = 0 and scale = 0                      where 127 / a is infinite: a = 0 or a < 3.8e-37
//! ```
//!
//! The sums of q per group are exact i32. All divisions and products are single f32 operations.

mod aligned;
mod codes;

use std::sync::atomic::{AtomicBool, Ordering};

use aligned::Aligned;

use crate::error::{Error, Result, all_finite, check_finite, check_len};
use crate::format::Grouping;
use crate::threads;

/// Columns of a chunk: what the kernels for planes of bits do at a time.
pub const CHUNK: usize = 32;
/// Columns of a line in base 3.
pub const BASE3_COLS: usize = 20;
/// Codes are padded with zeros to a multiple of this: whole chunks and tiles (64), and whole base-3 lines (a group of
/// 256 ends 4 columns before the end of a line).
pub const PADDED: usize = 320;

/// `n` quantised (or, for dense weights, plain) activation vectors of `cols` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Acts {
    grouping: Grouping,
    n: usize,
    cols: usize,
    padded: usize,
    groups: usize,
    /// [n][padded] codes; empty for dense.
    pub(crate) q: Aligned,
    /// [n][groups]
    pub(crate) scale: Vec<f32>,
    /// [n][groups] sums of q.
    pub(crate) sum: Vec<i32>,
    /// [n][padded / 16] sums of 16 codes, for k-quants; empty unless groups are of 256.
    pub(crate) sub_sum: Vec<i16>,
    /// [n][groups] the same, and sums of 32, in the order that [`crate::isa::Isa::dot_sub`] wants.
    pairs: Vec<[i16; PAIRS]>,
    /// [n][cols] f32; empty unless dense.
    pub(crate) x: Vec<f32>,
}

impl Acts {
    /// Quantises `x`, row-major `[n][cols]`, on the current backend.
    ///
    /// # Errors
    /// A wrong length; an activation that is NaN or infinite (which would otherwise become a silent
    /// wrong answer in int8); no usable backend.
    pub fn quantize(grouping: Grouping, x: &[f32], n: usize, cols: usize) -> Result<Self> {
        let ops = crate::backend::ops()?;
        Self::quantize_with(grouping, x, n, cols, ops.quantize_row)
    }

    /// As [`Acts::quantize`] with a given row kernel.
    pub(crate) fn quantize_with(
        grouping: Grouping,
        x: &[f32],
        n: usize,
        cols: usize,
        row_kernel: QuantizeRow,
    ) -> Result<Self> {
        let mut acts = Acts::empty(grouping, n, cols, x.len())?;
        if grouping == Grouping::Dense {
            check_finite("activations", x)?;
            acts.x = x.to_vec();
            return Ok(acts);
        }
        acts.q = Aligned::any(n * acts.padded);
        acts.scale = vec![0.0; n * acts.groups];
        acts.sum = vec![0; n * acts.groups];
        if cols == 0 {
            acts.q.fill(0);
            return Ok(acts);
        }
        let finite = AtomicBool::new(true);
        let (group, floor) = (grouping.len().unwrap_or(cols), floor(grouping));
        let (padded, groups) = (acts.padded, acts.groups);
        let Acts { q, scale, sum, .. } = &mut acts;
        threads::for_each_row4(
            (x, cols),
            (&mut **q, padded),
            (scale, groups),
            (sum, groups),
            |x, q, scale, sum| {
                if all_finite(x) {
                    row_kernel(x, group, floor, q, scale, sum);
                    q[cols..].fill(0);
                } else {
                    finite.store(false, Ordering::Relaxed);
                }
            },
        );
        if !finite.into_inner() {
            check_finite("activations", x)?;
        }
        acts.sum_sixteens();
        Ok(acts)
    }

    /// Nothing yet, for `n` vectors that have `len` elements in all.
    fn empty(grouping: Grouping, n: usize, cols: usize, len: usize) -> Result<Self> {
        // What is allocated is the padded codes: with no columns, too, some for each vector.
        let most = isize::MAX as usize / 8;
        cols.checked_add(PADDED + 4)
            .and_then(|padded| n.checked_mul(padded))
            .filter(|bytes| *bytes <= most && cols <= most)
            .ok_or(Error::TooLarge {
                format: "activations",
                rows: n,
                cols,
                why: "it does not fit in the address space",
            })?;
        check_len("activations", n * cols, len)?;
        Ok(Acts {
            grouping,
            n,
            cols,
            padded: (cols + 4).next_multiple_of(PADDED),
            groups: match grouping.len() {
                Some(len) => cols.div_ceil(len),
                None => 1,
            },
            q: Aligned::default(),
            scale: Vec::new(),
            sum: Vec::new(),
            sub_sum: Vec::new(),
            pairs: Vec::new(),
            x: Vec::new(),
        })
    }

    /// Fills the sums of 16 codes, where k-quants read them.
    fn sum_sixteens(&mut self) {
        if self.grouping == Grouping::Group256 && self.n > 0 {
            let (sixteens, groups) = (self.padded / 16, self.groups);
            let sum = |q: &[i8; 16]| q.iter().map(|&q| i16::from(q)).sum();
            let mut sub_sum = vec![0; self.n * sixteens];
            threads::for_each_chunk(&mut sub_sum, sixteens, |t, to| {
                to.iter_mut().zip(self.codes(t).as_chunks().0).for_each(|(to, q)| *to = sum(q));
            });
            self.sub_sum = sub_sum;
            let mut all = vec![[0; PAIRS]; self.n * groups];
            threads::for_each_chunk(&mut all, groups.max(1), |t, to| {
                to.iter_mut()
                    .zip(self.sub_sums(t).as_chunks().0)
                    .for_each(|(to, s)| *to = pairs(s));
            });
            self.pairs = all;
        }
    }

    /// How they are grouped.
    pub fn grouping(&self) -> Grouping {
        self.grouping
    }

    /// Number of vectors.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Elements per vector.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements per vector, padded to [`PADDED`].
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// Groups per vector.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Codes of vector `t`, padded with zeros.
    pub fn codes(&self, t: usize) -> &[i8] {
        &self.q[t * self.padded..(t + 1) * self.padded]
    }

    /// Codes of vector `t` and all after it.
    pub(crate) fn codes_from(&self, t: usize) -> &[i8] {
        &self.q[t * self.padded..]
    }

    /// Scales of vector `t`, one per group.
    pub fn scales(&self, t: usize) -> &[f32] {
        &self.scale[t * self.groups..(t + 1) * self.groups]
    }

    /// Sums of the codes of vector `t`, one per group.
    pub fn sums(&self, t: usize) -> &[i32] {
        &self.sum[t * self.groups..(t + 1) * self.groups]
    }

    /// Sums of 16 codes each of vector `t`; groups of 256 only.
    pub fn sub_sums(&self, t: usize) -> &[i16] {
        let n = self.padded / 16;
        self.sub_sum.get(t * n..(t + 1) * n).unwrap_or_default()
    }

    /// Sums of the codes of each sub-block of `len` (16 or 32) in group `g` of vector `t`, four at a time in the
    /// order 0, 2, 1, 3; groups of 256 only.
    #[inline(always)]
    pub(crate) fn sub_pairs(&self, t: usize, g: usize, len: usize) -> &[[i16; 4]] {
        let (sixteens, thirty_twos) = self.pairs[t * self.groups + g].split_at(16);
        if len == 16 { sixteens.as_chunks().0 } else { thirty_twos.as_chunks().0 }
    }

    /// The f32 values of vector `t`, for dense weights.
    pub fn dense(&self, t: usize) -> &[f32] {
        &self.x[t * self.cols..(t + 1) * self.cols]
    }
}

/// Sums of 16 and of 32 codes in a group of 256.
const PAIRS: usize = 16 + 8;

/// Of a group's sums of 16: see [`Acts::sub_pairs`].
fn pairs(sixteens: &[i16; 16]) -> [i16; PAIRS] {
    let swap = |i: usize| i / 4 * 4 + [0, 2, 1, 3][i % 4];
    let mut out = [0; PAIRS];
    for i in 0..16 {
        out[i] = sixteens[swap(i)];
    }
    for i in 0..8 {
        let i32 = swap(i);
        out[16 + i] = sixteens[2 * i32] + sixteens[2 * i32 + 1];
    }
    out
}

/// Smallest `max|x|` of a group.
pub(crate) fn floor(grouping: Grouping) -> f32 {
    if grouping == Grouping::Token { 1e-5 } else { 0.0 }
}

/// A kernel that quantises one row: `(x, group length, floor of max|x|, codes, scales, sums)`.
pub(crate) type QuantizeRow = fn(&[f32], usize, f32, &mut [i8], &mut [f32], &mut [i32]);
