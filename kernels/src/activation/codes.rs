//! Activations from codes that somebody else made: a researcher's own rule, or ggml's Q8_K.
//!
//! Q8_K is what ggml quantises activations to beside its formats of 256: 292 bytes per 256 elements.
//!
//! ```text
//! byte    0 .. 3 | 4 ....... 259 | 260 ......................... 291
//!         d f32  | 256 int8 q    | 16 int16, the sums of 16 q each
//!
//! x[i] = d * q[i]
//! ```
//!
//! ggml's rule, for the element M of largest magnitude (the first of them): `q = min(127, round_half_even(x *
//! s))` with `s = -127 / M`, and `d = 1 / s`: M has the code -127. A block of zeros is zeros with d = 0, and
//! here so is one whose `127 / M` is infinite. Source: ggml `quantize_row_q8_K_ref`.

use super::Acts;
use crate::error::{Error, Result, check_finite, check_len};
use crate::format::Grouping;

/// Elements of a block.
const BLOCK: usize = 256;
/// Bytes of a block.
const BYTES: usize = 292;

impl Acts {
    /// Takes codes, row-major `[n][cols]`, each -127 to 127, and scales `[n][groups]`: `x = scale * code`. A group
    /// is what `grouping` says; the last may be shorter.
    ///
    /// # Errors
    /// [`Error::CodeRange`] for -128, which kernels do not multiply with; lengths that do not fit; scales that
    /// are not finite; [`Grouping::Dense`], which has no codes.
    pub fn from_codes(
        grouping: Grouping,
        n: usize,
        cols: usize,
        codes: &[i8],
        scales: &[f32],
    ) -> Result<Self> {
        if grouping == Grouping::Dense {
            let (expected, got) = ("codes", grouping.name());
            return Err(Error::Grouping { format: "int8", expected, got });
        }
        let mut acts = Acts::empty(grouping, n, cols, codes.len())?;
        check_len("activation scales", n * acts.groups, scales.len())?;
        check_finite("activation scales", scales)?;
        if let Some(index) = codes.iter().position(|q| *q == i8::MIN) {
            return Err(Error::CodeRange { index, code: i8::MIN });
        }
        acts.q = super::Aligned::any(n * acts.padded);
        acts.q.fill(0);
        acts.scale = scales.to_vec();
        acts.sum = vec![0; n * acts.groups];
        if cols == 0 {
            return Ok(acts);
        }
        let group = grouping.len().unwrap_or(cols);
        let padded = acts.q.chunks_exact_mut(acts.padded);
        let sums = acts.sum.chunks_exact_mut(acts.groups);
        for ((to, sums), row) in padded.zip(sums).zip(codes.chunks_exact(cols)) {
            to[..cols].copy_from_slice(row);
            for (sum, group) in sums.iter_mut().zip(row.chunks(group)) {
                *sum = group.iter().map(|&q| i32::from(q)).sum();
            }
        }
        acts.sum_sixteens();
        Ok(acts)
    }

    /// Quantises `x`, row-major `[n][cols]`, by ggml's rule for Q8_K; groups are of 256.
    ///
    /// # Errors
    /// Columns that are no multiple of 256; a wrong length; an activation that is not finite.
    pub fn quantize_q8_k(x: &[f32], n: usize, cols: usize) -> Result<Self> {
        check_columns(cols)?;
        check_len("activations", elements(n, cols)?, x.len())?;
        check_finite("activations", x)?;
        let mut codes = Vec::with_capacity(x.len());
        let mut scales = Vec::with_capacity(x.len() / BLOCK);
        for block in x.chunks_exact(BLOCK) {
            let largest =
                block.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() { v } else { m });
            let s = -127.0 / largest;
            if !s.is_finite() {
                codes.extend([0; BLOCK]);
                scales.push(0.0);
                continue;
            }
            codes.extend(block.iter().map(|v| (v * s).round_ties_even().min(127.0) as i8));
            scales.push(1.0 / s);
        }
        Acts::from_codes(Grouping::Group256, n, cols, &codes, &scales)
    }

    /// Reads `n` vectors of `cols` elements from Q8_K blocks.
    ///
    /// # Errors
    /// As [`Acts::from_codes`]; columns that are no multiple of 256; [`Error::BlockSum`] where a stored sum is
    /// not that of its codes.
    pub fn from_q8_k(blocks: &[u8], n: usize, cols: usize) -> Result<Self> {
        check_columns(cols)?;
        check_len("Q8_K bytes", elements(n, cols)? / BLOCK * BYTES, blocks.len())?;
        let mut codes = Vec::with_capacity(blocks.len());
        let mut scales = Vec::with_capacity(blocks.len() / BYTES);
        for (block, bytes) in blocks.as_chunks::<BYTES>().0.iter().enumerate() {
            let (head, sums) = bytes.split_at(4 + BLOCK);
            scales.push(f32::from_le_bytes([head[0], head[1], head[2], head[3]]));
            codes.extend(head[4..].iter().map(|&q| q as i8));
            let sixteens = codes[codes.len() - BLOCK..].as_chunks::<16>().0;
            for (i, (q, s)) in sixteens.iter().zip(sums.as_chunks::<2>().0).enumerate() {
                let (stored, actual) =
                    (i16::from_le_bytes(*s), q.iter().map(|&q| i16::from(q)).sum());
                if stored != actual {
                    return Err(Error::BlockSum { block, sum: i, stored, actual });
                }
            }
        }
        Acts::from_codes(Grouping::Group256, n, cols, &codes, &scales)
    }

    /// As Q8_K blocks, vector after vector.
    ///
    /// # Errors
    /// Groups that are not of 256; columns that are no multiple of 256.
    pub fn to_q8_k(&self) -> Result<Vec<u8>> {
        if self.grouping != Grouping::Group256 {
            let (expected, got) = (Grouping::Group256.name(), self.grouping.name());
            return Err(Error::Grouping { format: "Q8_K", expected, got });
        }
        check_columns(self.cols)?;
        let mut out = Vec::with_capacity(self.n * self.groups * BYTES);
        for t in 0..self.n {
            let blocks = self.codes(t).chunks_exact(BLOCK).zip(self.sub_sums(t).chunks_exact(16));
            for (scale, (codes, sums)) in self.scales(t).iter().zip(blocks) {
                out.extend(scale.to_le_bytes());
                out.extend(codes.iter().map(|&q| q as u8));
                out.extend(sums.iter().flat_map(|s| s.to_le_bytes()));
            }
        }
        Ok(out)
    }
}

fn elements(n: usize, cols: usize) -> Result<usize> {
    let why = "it does not fit in the address space";
    n.checked_mul(cols).filter(|n| *n <= isize::MAX as usize / 8).ok_or(Error::TooLarge {
        format: "Q8_K",
        rows: n,
        cols,
        why,
    })
}

fn check_columns(cols: usize) -> Result<()> {
    match cols.is_multiple_of(BLOCK) {
        true => Ok(()),
        false => Err(Error::Columns { format: "Q8_K", block: BLOCK, cols }),
    }
}
