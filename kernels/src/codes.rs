//! The numbers that a matrix is made of, as arrays: its codes, and the scale of each group of them.

use crate::error::{Error, Result};
use crate::format::{Codes, Plain, Scales};
use crate::matrix::{Matrix, Weights};

/// Scales of a matrix, `[rows][groups]`, `[rows][1]` or `[1][1]`: as far as one reaches.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupScales {
    /// Row-major.
    pub values: Vec<f32>,
    /// Rows and groups of `values`.
    pub shape: (usize, usize),
}

impl Matrix<'_> {
    /// Signed codes `q`, row-major, one per weight: a weight is its group's scale times the code, less the
    /// minimum where the format has one.
    ///
    /// ```
    /// use tritlab_kernels::{Format, Matrix};
    /// let w = Matrix::quantize(Format::TERNARY, 1, 4, &[0.9, -0.8, 0.05, 1.1]).unwrap();
    /// assert_eq!(w.codes().unwrap(), [1, -1, 0, 1]);
    /// assert_eq!(w.group_scales().unwrap().values, [0.7125]);
    /// ```
    ///
    /// # Errors
    /// [`Error::NoCodes`] for a dense format.
    #[allow(clippy::missing_panics_doc, reason = "codes of every format fit a byte")]
    pub fn codes(&self) -> Result<Vec<i8>> {
        self.coded()?;
        let mut out = vec![0; self.rows() * self.cols()];
        let mut plain = Plain::new();
        for (r, row) in out.chunks_exact_mut(self.cols().max(1)).enumerate() {
            for (blocks, cols) in self.format().info().runs(self.cols()) {
                self.blocks(r, blocks, &mut plain);
                for (to, q) in row[cols].iter_mut().zip(plain.q) {
                    *to = i8::try_from(q).expect("codes of every format fit a byte");
                }
            }
        }
        Ok(out)
    }

    /// The scale of each group of weights that share one: d of a block, times the integer scale of each of
    /// its sub-blocks, or what lies outside the blocks.
    ///
    /// # Errors
    /// [`Error::NoCodes`] for a dense format.
    pub fn group_scales(&self) -> Result<GroupScales> {
        let codes = self.coded()?;
        let info = self.format().info();
        if info.scales != Scales::Block {
            let shape = (self.scales().len(), 1);
            return Ok(GroupScales { values: self.scales().to_vec(), shape });
        }
        let (blocks, subs) =
            (self.cols() / info.block, codes.sub_len.map_or(1, |n| info.block / n));
        let mut values = Vec::with_capacity(self.rows() * blocks * subs);
        let mut plain = Plain::new();
        for r in 0..self.rows() {
            for b in 0..blocks {
                self.block(r, b, &mut plain);
                values.extend(plain.sub[..subs].iter().map(|s| plain.d * f32::from(*s)));
            }
        }
        Ok(GroupScales { values, shape: (self.rows(), blocks * subs) })
    }

    fn coded(&self) -> Result<&'static Codes> {
        let format = self.format();
        format.codes().ok_or(Error::NoCodes { format: format.name() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;

    /// Codes and scales give the weights back, with the minimum that a block's own explanation has.
    #[test]
    fn weights_are_scales_times_codes() {
        let (rows, cols) = (3, 512);
        let weights: Vec<f32> = (0..rows * cols)
            .map(|i| ((i * i) as f32 * 0.37).sin() * (1 + i / cols) as f32)
            .collect();
        for format in Format::ALL.iter().copied() {
            let m = Matrix::quantize(format, rows, cols, &weights).unwrap();
            if format.codes().is_none() {
                assert_eq!(m.codes(), Err(Error::NoCodes { format: format.name() }));
                assert_eq!(m.group_scales(), Err(Error::NoCodes { format: format.name() }));
                continue;
            }
            let (codes, scales) = (m.codes().unwrap(), m.group_scales().unwrap());
            let (scale_rows, groups) = scales.shape;
            assert_eq!(scales.values.len(), scale_rows * groups, "{format}");
            let decoded = m.dequantize();
            for (i, (w, q)) in decoded.iter().zip(&codes).enumerate() {
                let (r, k) = (i / cols, i % cols);
                let scale = scales.values[r.min(scale_rows - 1) * groups + k * groups / cols];
                let block = format.info().block;
                let explained = m.explain(r, k / block).unwrap();
                let plain = explained.plain().unwrap();
                let minimum = plain.m * f32::from(plain.sub_min[k % block / plain.sub_len]);
                assert_eq!(*w, scale * f32::from(*q) - minimum, "{format}, row {r}, column {k}");
            }
        }
    }

    #[test]
    fn matrices_of_nothing_have_nothing() {
        for (rows, cols) in [(0, 32), (2, 0)] {
            let m = Matrix::quantize(Format::Q4_0, rows, cols, &[]).unwrap();
            assert!(m.codes().unwrap().is_empty());
            assert_eq!(m.group_scales().unwrap().shape, (rows, cols / 32));
        }
    }
}
