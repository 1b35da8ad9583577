//! A matrix in the form it has on disk: row-major blocks, identical on every machine.
//!
//! What becomes of weights and shapes at the edges, in every format:
//!
//! - NaN and infinite weights are refused, with the first index ([`Error::NotFinite`]); so are matrix scales.
//! - A weight or a block scale beyond the format's f16 (or BF16) is refused, with its place
//!   ([`Error::ScaleOverflow`]).
//! - Columns that are no whole blocks are padded with zero weights by formats whose scale is outside their
//!   blocks, and refused by the others ([`Error::Columns`]).
//! - No rows, or no columns, is a matrix: products have no, or zero, elements.
//! - A block of zeros decodes to zeros, also where the scale is not 0 (BitNet's absmean is at least 1e-5).
//! - Weights too small for the format's scale become zeros or, in the ternary formats, at most 1e-5: never NaN,
//!   never infinite.
//! - Weights with f32 scales may be as large as f32: means are summed in f64, so the scale is finite. A product of
//!   them can overflow to an infinity, or to NaN, as products of f32 do; it is finite wherever columns x largest
//!   weight x largest activation is below 1e38.
//! - A row whose exact i32 sum could overflow is refused ([`Error::TooLarge`]); only formats with activations
//!   per token have such a limit, 2^23 columns or less.
//! - Bytes that no encoder writes (code 3 of ternary formats, the 13 other bytes of base 3) have a meaning,
//!   which the format's file states; block scales that are not finite are refused when panels are packed.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result, check_finite, check_len};
use crate::format::{Codes, Format, Info, Input, Kind, MAX_BLOCK, Plain, Scales};
use crate::{importance, threads};

/// Weights that can be read in their format's normal form, wherever they are kept: what the oracle,
/// dequantisation and embedding look-ups are written over.
pub trait Weights {
    /// The format.
    fn format(&self) -> Format;
    /// Rows (outputs).
    fn rows(&self) -> usize;
    /// Columns (inputs).
    fn cols(&self) -> usize;
    /// Decodes these blocks of row `r` of a coded format one after the other: one, or up to [`Info::run`].
    fn blocks(&self, r: usize, blocks: Range<usize>, out: &mut Plain);
    /// Element `k` of row `r` of a dense format.
    fn element(&self, r: usize, k: usize) -> f32;
    /// Scale outside the blocks that applies to row `r` (1 where there is none).
    fn row_scale(&self, r: usize) -> f32;

    /// Decodes block `b` of row `r` of a coded format.
    fn block(&self, r: usize, b: usize, out: &mut Plain) {
        self.blocks(r, b..b + 1, out);
    }

    /// Decodes row `r` into `out` (length `cols`): `row_scale * (d*q - m)`.
    ///
    /// # Panics
    /// If `r >= rows` or `out` has another length.
    fn dequantize_row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows(), "row {r} of {}", self.rows());
        assert_eq!(out.len(), self.cols(), "output of one row");
        if self.format().codes().is_none() {
            for (k, o) in out.iter_mut().enumerate() {
                *o = self.element(r, k);
            }
            return;
        }
        let scale = self.row_scale(r);
        let mut plain = Plain::new();
        for (blocks, cols) in self.format().info().runs(self.cols()) {
            let o = &mut out[cols];
            self.blocks(r, blocks, &mut plain);
            plain.weights(o);
            o.iter_mut().for_each(|w| *w *= scale);
        }
    }

    /// Decodes everything, row-major.
    fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.cols()];
        if self.cols() > 0 {
            for (r, row) in out.chunks_exact_mut(self.cols()).enumerate() {
                self.dequantize_row(r, row);
            }
        }
        out
    }
}

impl Weights for Matrix<'_> {
    fn format(&self) -> Format {
        self.format
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn blocks(&self, r: usize, blocks: Range<usize>, out: &mut Plain) {
        let n = self.format.info().bytes;
        if let Some(codes) = self.format.codes() {
            (codes.decode)(&self.row(r)[blocks.start * n..blocks.end * n], out);
        }
    }

    fn element(&self, r: usize, k: usize) -> f32 {
        let info = self.format.info();
        match &info.kind {
            Kind::Dense { read, .. } => read(&self.row(r)[k * info.bytes..(k + 1) * info.bytes]),
            Kind::Coded(_) => f32::NAN,
        }
    }

    fn row_scale(&self, r: usize) -> f32 {
        match self.format.info().scales {
            Scales::None | Scales::Block => 1.0,
            Scales::Row => self.scales[r],
            Scales::Tensor => self.scales[0],
        }
    }
}

/// `rows x cols` weights of one format. `y = W x` has `rows` outputs and `cols` inputs.
///
/// ```
/// use tritlab_kernels::{Format, Matrix, Weights};
/// let w = Matrix::quantize(Format::TERNARY, 1, 4, &[0.9, -0.8, 0.05, 1.1]).unwrap();
/// let s = 0.7125; // mean magnitude
/// assert_eq!(w.dequantize(), [s, -s, 0.0, s]);
/// assert_eq!(w.bytes().len(), 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    /// `rows` rows of `format.row_bytes(cols)` bytes.
    bytes: Cow<'a, [u8]>,
    /// Row or tensor scales: `rows`, 1 or 0 of them.
    scales: Vec<f32>,
}

impl<'a> Matrix<'a> {
    /// Wraps bytes in the format's disk layout.
    ///
    /// # Errors
    /// A length that does not fit the shape, a row length that the format cannot hold, a shape whose
    /// integer sums could overflow, a scale that is not finite.
    pub fn new(
        format: Format,
        rows: usize,
        cols: usize,
        bytes: impl Into<Cow<'a, [u8]>>,
        scales: Vec<f32>,
    ) -> Result<Self> {
        let bytes = bytes.into();
        check_len("matrix bytes", matrix_bytes(format, rows, cols)?, bytes.len())?;
        check_len("matrix scales", scale_count(format, rows), scales.len())?;
        check_finite("matrix scales", &scales)?;
        Ok(Matrix { format, rows, cols, bytes, scales })
    }

    /// The blocks, row after row.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Scales outside the blocks: one per row, one, or none.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Bytes of blocks and scales.
    pub fn nbytes(&self) -> usize {
        self.bytes.len() + self.scales.len() * 4
    }

    /// Bits per weight, everything counted.
    pub fn bits_per_weight(&self) -> f64 {
        self.nbytes() as f64 * 8.0 / (self.rows * self.cols).max(1) as f64
    }

    /// Bytes of row `r`.
    ///
    /// # Panics
    /// If `r >= rows`.
    pub fn row(&self, r: usize) -> &[u8] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        let n = self.bytes.len() / self.rows;
        &self.bytes[r * n..(r + 1) * n]
    }

    /// The same matrix with its bytes owned.
    pub fn into_owned(self) -> Matrix<'static> {
        let Matrix { format, rows, cols, bytes, scales } = self;
        Matrix { format, rows, cols, bytes: Cow::Owned(bytes.into_owned()), scales }
    }
}

impl Matrix<'static> {
    /// Quantises row-major weights by the format's reference algorithm (see its file).
    ///
    /// # Errors
    /// NaN or infinite weights, a wrong length, a shape the format cannot hold, a block whose scale
    /// f16 cannot hold.
    pub fn quantize(format: Format, rows: usize, cols: usize, weights: &[f32]) -> Result<Self> {
        Self::quantize_weighted(format, rows, cols, weights, None)
    }

    /// As [`Self::quantize`], with the importance of each column (mean squared activation, at least 0):
    /// formats that search for their scales weigh the error with it, the others ignore it.
    ///
    /// Only ratios count, so any finite numbers will do; all 0 is the same as all 1. A column of importance 0
    /// among others may become anything.
    ///
    /// # Errors
    /// As [`Self::quantize`]; importances of another number; [`Error::Importance`].
    pub fn quantize_weighted(
        format: Format,
        rows: usize,
        cols: usize,
        weights: &[f32],
        importance: Option<&[f32]>,
    ) -> Result<Self> {
        let total = matrix_bytes(format, rows, cols)?;
        check_len("weights", rows * cols, weights.len())?;
        check_finite("weights", weights)?;
        let info = format.info();
        let importance = importance.map(|w| importance::usable(w, cols, info.block)).transpose()?;
        let importance = importance.as_deref();
        let mut bytes = vec![0; total];
        let mut scales = Vec::new();
        if let Some(codes) = format.codes() {
            scales = outer_scales(codes, info.scales, (rows, cols), weights);
        }
        let row_bytes = format.row_bytes(cols)?;
        if row_bytes == 0 {
            return Matrix::new(format, rows, cols, bytes, scales);
        }
        // The first block that overflowed, whichever thread meets it first.
        let overflow = AtomicUsize::new(usize::MAX);
        threads::for_each_chunk(&mut bytes, row_bytes, |r, out| {
            let row = &weights[r * cols..(r + 1) * cols];
            match &info.kind {
                Kind::Dense { read, write, .. } => {
                    for (k, (b, &w)) in out.chunks_exact_mut(info.bytes).zip(row).enumerate() {
                        write(w, b);
                        if !read(b).is_finite() {
                            overflow.fetch_min(r * cols + k, Ordering::Relaxed);
                        }
                    }
                }
                Kind::Coded(codes) => {
                    let scale = match info.scales {
                        Scales::Row => scales[r],
                        Scales::Tensor => scales[0],
                        Scales::None | Scales::Block => 1.0,
                    };
                    if let Err(block) = encode_row(info, codes, row, importance, scale, out) {
                        let blocks = row_bytes / info.bytes;
                        overflow.fetch_min(r * blocks + block, Ordering::Relaxed);
                    }
                }
            }
        });
        match overflow.into_inner() {
            usize::MAX => Matrix::new(format, rows, cols, bytes, scales),
            block => Err(Error::ScaleOverflow { format: info.name, block }),
        }
    }
}

/// Encodes one row; the error is the index of a block whose scale overflowed.
fn encode_row(
    info: &Info,
    codes: &Codes,
    row: &[f32],
    importance: Option<&[f32]>,
    scale: f32,
    out: &mut [u8],
) -> std::result::Result<(), usize> {
    let row_mean_square = match importance {
        Some(_) => row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32,
        None => 0.0,
    };
    let mut padded = [[0.0; MAX_BLOCK]; 2];
    let mut plain = Plain::new();
    for (i, b) in out.chunks_exact_mut(info.bytes).enumerate() {
        let at = i * info.block..row.len().min((i + 1) * info.block);
        let [x, w] = &mut padded;
        for (to, from) in [(x, Some(row)), (w, importance)] {
            if let Some(from) = from {
                to[..at.len()].copy_from_slice(&from[at.clone()]);
                to[at.len()..info.block].fill(0.0);
            }
        }
        let input = Input {
            x: &padded[0][..info.block],
            importance: importance.map(|_| &padded[1][..info.block]),
            row_mean_square,
            scale,
        };
        (codes.encode)(&input, b);
        (codes.decode)(b, &mut plain);
        if !(plain.d.is_finite() && plain.m.is_finite()) {
            return Err(i);
        }
    }
    Ok(())
}

fn outer_scales(
    codes: &Codes,
    scales: Scales,
    (rows, cols): (usize, usize),
    weights: &[f32],
) -> Vec<f32> {
    match scales {
        Scales::None | Scales::Block => Vec::new(),
        Scales::Tensor => vec![(codes.outer_scale)(weights)],
        Scales::Row => {
            (0..rows).map(|r| (codes.outer_scale)(&weights[r * cols..(r + 1) * cols])).collect()
        }
    }
}

/// Scales that a matrix of `rows` rows keeps outside its blocks.
fn scale_count(format: Format, rows: usize) -> usize {
    match format.info().scales {
        Scales::None | Scales::Block => 0,
        Scales::Row => rows,
        Scales::Tensor => 1,
    }
}

/// Bytes of a whole matrix, with every limit checked.
pub(crate) fn matrix_bytes(format: Format, rows: usize, cols: usize) -> Result<usize> {
    let too_large = |why| Error::TooLarge { format: format.name(), rows, cols, why };
    let row = format.row_bytes(cols)?;
    if let Some(codes) = format.codes() {
        // |sum of u * a| and |zero * sum of a| must fit i32 over a group; only a group of a whole token can be
        // too long. In base 3 the kernels form 256 times the sum, which may wrap on the way but must fit at the
        // end.
        let worst = 127 * codes.max.max(codes.zero) as usize;
        let limit = i32::MAX as usize / worst / if codes.base3 { 256 } else { 2 };
        if format.info().activation.len().is_none() && cols > limit {
            return Err(too_large("the exact i32 sum of a row could overflow"));
        }
    }
    rows.checked_mul(row)
        .filter(|&n| n <= isize::MAX as usize / 8 && rows.checked_mul(cols).is_some())
        .ok_or_else(|| too_large("it does not fit in the address space"))
        // Rows count by themselves too: each has an output, and perhaps a scale, even with no columns.
        .and_then(|n| match rows > i32::MAX as usize {
            true => Err(too_large("it has more than 2^31 rows")),
            false => Ok(n),
        })
}
