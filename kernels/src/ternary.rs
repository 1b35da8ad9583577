//! Weights that are ternary already: codes -1, 0 and 1, and scales. What files of ternary models hold, in
//! whatever layout, and what the named projections make.
//!
//! A [`Ternary`] goes into a format by [`Matrix::from_ternary`], exactly or not at all: absmean is never
//! applied again (on weights that are ternary it would shrink the scale by the fraction of zeros).

use std::ops::Range;

use crate::error::{Error, Result, check_finite, check_len};
use crate::format::{Element, Format, Kind, Plain, Scales};
use crate::matrix::{Matrix, Weights, matrix_bytes};
use crate::threads;

/// How many weights share a scale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granularity {
    /// All of them.
    Tensor,
    /// Those of a row.
    Row,
    /// So many neighbours in a row; the last group of a row may be shorter.
    Group(usize),
}

impl Granularity {
    /// Scales of a matrix of this shape; `None` for groups of no weights and numbers beyond `usize`.
    fn count(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Granularity::Tensor => Some(1),
            Granularity::Row => Some(rows),
            Granularity::Group(0) => None,
            Granularity::Group(n) => rows.checked_mul(cols.div_ceil(n)),
        }
    }
}

impl std::fmt::Display for Granularity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Row => f.write_str("row"),
            Granularity::Group(n) => write!(f, "{n}"),
        }
    }
}

/// `rows x cols` ternary weights: `w[r][c] = scale * code[r][c]`, the code -1, 0 or 1, the scale 0 or more.
///
/// ```
/// use tritlab_kernels::{Format, Granularity, Matrix, Ternary, Weights};
/// let t = Ternary::new(2, 3, vec![1, 0, -1, 0, 0, 1], vec![0.5], Granularity::Tensor).unwrap();
/// let w = Matrix::from_ternary(Format::TERNARY, &t).unwrap();
/// assert_eq!(w.dequantize(), [0.5, 0.0, -0.5, 0.0, 0.0, 0.5]);
/// assert_eq!(Ternary::from_weights(&w), Ok(t));
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Ternary {
    rows: usize,
    cols: usize,
    /// [rows][cols]
    codes: Vec<i8>,
    /// [1], [rows] or [rows][groups]
    scales: Vec<f32>,
    granularity: Granularity,
}

impl Ternary {
    /// Checks and takes codes, row-major, and scales. Where a scale is negative, it and its codes change
    /// their signs: the weights are the same.
    ///
    /// # Errors
    /// Lengths that do not fit the shape, a code that is none of -1, 0 and 1, a scale that is not finite.
    pub fn new(
        rows: usize,
        cols: usize,
        codes: Vec<i8>,
        scales: Vec<f32>,
        granularity: Granularity,
    ) -> Result<Self> {
        let too_large =
            || Error::TooLarge { format: "ternary", rows, cols, why: "it does not fit in memory" };
        let elements = rows.checked_mul(cols).ok_or_else(too_large)?;
        let expected = granularity.count(rows, cols).ok_or_else(too_large)?;
        check_len("ternary codes", elements, codes.len())?;
        check_len("ternary scales", expected, scales.len())?;
        check_finite("ternary scales", &scales)?;
        if let Some(i) = codes.iter().position(|q| !(-1..=1).contains(q)) {
            return Err(Error::NotTernary {
                row: i / cols,
                col: i % cols,
                value: codes[i].to_string(),
                expected: "-1, 0 or 1".to_owned(),
            });
        }
        let mut new = Ternary { rows, cols, codes, scales, granularity };
        new.make_scales_positive();
        Ok(new)
    }

    fn make_scales_positive(&mut self) {
        if self.scales.iter().all(|s| s.is_sign_positive()) {
            return;
        }
        for r in 0..self.rows {
            for (cols, scale) in self.groups(r).collect::<Vec<_>>() {
                if scale < 0.0 {
                    self.codes[r * self.cols..][cols].iter_mut().for_each(|q| *q = -*q);
                }
            }
        }
        self.scales.iter_mut().for_each(|s| *s = s.abs());
    }

    /// The codes and the scale of weights that are ternary: 0 or, within a tensor, a row or a group of 256,
    /// 128, 64 or 32 (the largest for which it is so), plus or minus one number. Nothing is rounded; the
    /// scale of weights that are all 0 is 0.
    ///
    /// # Errors
    /// [`Error::NotTernary`] with the first weight that differs from those before it in its group of 32;
    /// weights that are not finite.
    pub fn from_weights(weights: &(impl Weights + Sync)) -> Result<Self> {
        let (rows, cols) = (weights.rows(), weights.cols());
        let granularity = Granularity::Group(FINEST);
        let groups = cols.div_ceil(FINEST);
        let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows * groups]);
        // Rows are read in parallel, each into its own place, with what is wrong with it.
        let mut read: Vec<_> = codes
            .chunks_mut(cols.max(1))
            .zip(scales.chunks_mut(groups.max(1)))
            .map(|(q, s)| (q, s, Ok(())))
            .collect();
        threads::for_each_chunk(&mut read, 1, |r, row| {
            let (q, s, wrong) = &mut row[0];
            *wrong = read_row(weights, r, q, s);
        });
        read.into_iter().try_for_each(|(_, _, wrong)| wrong)?;
        let mut found = Ternary { rows, cols, codes, scales, granularity };
        let wider = WIDEST_FIRST.into_iter().find_map(|wider| {
            Some((found.scales_per(wider, "ternary", |scale| scale).ok()?, wider))
        });
        if let Some((scales, wider)) = wider {
            (found.scales, found.granularity) = (scales, wider);
        }
        Ok(found)
    }

    /// Rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The codes, row-major.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The scales: one, one per row, or one per group, row after row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// How many weights share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The same codes with every scale rounded to the nearest f16, as formats with scales in their blocks need.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a scale beyond 65504.
    pub fn with_f16_scales(&self) -> Result<Self> {
        let round = |s: &f32| half::f16::from_f32(*s).to_f32();
        let scales: Vec<f32> = self.scales.iter().map(round).collect();
        check_finite("ternary scales as f16", &scales)?;
        Ok(Ternary { scales, codes: self.codes.clone(), ..*self })
    }

    /// The weights, row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.codes.len());
        for r in 0..self.rows {
            for (cols, scale) in self.groups(r) {
                out.extend(self.row(r)[cols].iter().map(|&q| scale * f32::from(q)));
            }
        }
        out
    }

    /// Codes of row `r`.
    pub(crate) fn row(&self, r: usize) -> &[i8] {
        &self.codes[r * self.cols..(r + 1) * self.cols]
    }

    /// Columns of the groups of row `r`, and their scales.
    fn groups(&self, r: usize) -> impl Iterator<Item = (Range<usize>, f32)> {
        self.groups_in(r, 0..self.cols)
    }

    /// As [`Self::groups`], of the columns `within` only.
    fn groups_in(
        &self,
        r: usize,
        within: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, f32)> {
        let (len, first) = match self.granularity {
            Granularity::Tensor => (self.cols, 0),
            Granularity::Row => (self.cols, r),
            Granularity::Group(n) => (n, r * self.cols.div_ceil(n)),
        };
        let (scales, len) = (&self.scales[first..], len.max(1));
        (within.start / len..within.end.div_ceil(len))
            .map(move |g| (within.start.max(g * len)..within.end.min(g * len + len), scales[g]))
    }

    /// The scales that weights of another granularity have; `zeros` gives that of weights that are all 0
    /// from their own.
    pub(crate) fn scales_per(
        &self,
        granularity: Granularity,
        format: &'static str,
        zeros: fn(f32) -> f32,
    ) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        match granularity {
            Granularity::Tensor => {
                let mut common = Common::default();
                for r in 0..self.rows {
                    self.add(&mut common, format, r, 0..self.cols)?;
                }
                out.push(common.scale(zeros));
            }
            Granularity::Row => {
                for r in 0..self.rows {
                    let mut common = Common::default();
                    self.add(&mut common, format, r, 0..self.cols)?;
                    out.push(common.scale(zeros));
                }
            }
            Granularity::Group(n) => {
                for r in 0..self.rows {
                    for first in (0..self.cols).step_by(n) {
                        let mut common = Common::default();
                        self.add(&mut common, format, r, first..self.cols.min(first + n))?;
                        out.push(common.scale(zeros));
                    }
                }
            }
        }
        Ok(out)
    }

    /// Adds the weights `cols` of row `r` to those that must have one scale.
    fn add(
        &self,
        common: &mut Common,
        format: &'static str,
        r: usize,
        cols: Range<usize>,
    ) -> Result<()> {
        let row = self.row(r);
        for (cols, scale) in self.groups_in(r, cols) {
            common.first.get_or_insert(scale);
            if common.of_weights == Some(scale) {
                continue; // whatever its codes are
            }
            let Some(i) = row[cols.clone()].iter().position(|&q| q != 0) else { continue };
            let one = *common.of_weights.get_or_insert(scale);
            if one != scale {
                return Err(Error::NotExact {
                    format,
                    row: r,
                    col: cols.start + i,
                    why: format!("its scale is {scale:e}, that of weights before it {one:e}"),
                });
            }
        }
        Ok(())
    }
}

/// The smallest groups that are looked for: no format has smaller ones.
const FINEST: usize = 32;

/// What is looked for beyond [`FINEST`]: each holds what those before it hold, so that the first is the widest.
const WIDEST_FIRST: [Granularity; 5] = [
    Granularity::Tensor,
    Granularity::Row,
    Granularity::Group(256),
    Granularity::Group(128),
    Granularity::Group(64),
];

/// The one scale of some weights.
#[derive(Default)]
struct Common {
    /// That of the weights which are not 0.
    of_weights: Option<f32>,
    /// That of the first group.
    first: Option<f32>,
}

impl Common {
    fn scale(self, zeros: fn(f32) -> f32) -> f32 {
        self.of_weights.unwrap_or_else(|| zeros(self.first.unwrap_or(0.0)))
    }
}

/// Puts the codes of a row and the scales of its groups of [`FINEST`] into their places, taken over from codes that
/// are ternary as they are stored. `None` where that does not say it all: then [`read_row`] looks at the weights, and
/// the places hold anything.
fn take_row(weights: &impl Weights, r: usize, codes: &mut [i8], scales: &mut [f32]) -> Option<()> {
    let (info, stored) = (weights.format().info(), weights.format().codes()?);
    if stored.min || stored.sub_len.is_some() || info.run() * info.block % FINEST != 0 {
        return None;
    }
    let mut plain = Plain::new();
    for (blocks, cols) in info.runs(codes.len()) {
        weights.blocks(r, blocks, &mut plain);
        let (codes, scales) = (&mut codes[cols.clone()], &mut scales[cols.start / FINEST..]);
        let q = &plain.q[..codes.len()];
        let scale = weights.row_scale(r) * plain.d;
        // Without an early end, which would be a branch for each code.
        let ternary = q.iter().fold(true, |all, q| all & (-1..=1).contains(q));
        if !ternary || scale == 0.0 || !scale.is_finite() {
            return None;
        }
        let sign = if scale < 0.0 { -1 } else { 1 };
        codes.iter_mut().zip(q).for_each(|(to, q)| *to = *q as i8 * sign);
        for (to, group) in scales.iter_mut().zip(q.chunks(FINEST)) {
            let any = group.iter().fold(0, |any, q| any | q);
            *to = if any == 0 { 0.0 } else { scale.abs() };
        }
    }
    Some(())
}

/// Puts the codes of a row and the scales of its groups of [`FINEST`] into their places.
fn read_row(weights: &impl Weights, r: usize, codes: &mut [i8], scales: &mut [f32]) -> Result<()> {
    if take_row(weights, r, codes, scales).is_some() {
        return Ok(());
    }
    let cols = weights.cols();
    let mut row = vec![0.0; cols];
    weights.dequantize_row(r, &mut row);
    if let Some(c) = row.iter().position(|w| !w.is_finite()) {
        let (index, value) = (r * cols + c, row[c].to_string());
        return Err(Error::NotFinite { what: "weights", index, value });
    }
    for (g, (group, to)) in row.chunks(FINEST).zip(scales).enumerate() {
        let scale = group.iter().find(|w| **w != 0.0).map_or(0.0, |w| w.abs());
        if let Some(i) = group.iter().position(|w| *w != 0.0 && w.abs() != scale) {
            return Err(Error::NotTernary {
                row: r,
                col: g * FINEST + i,
                value: format!("{:e}", group[i]),
                expected: format!("0 or ±{scale:e} like those before it"),
            });
        }
        *to = scale;
    }
    for (to, w) in codes.iter_mut().zip(&row) {
        *to = i8::from(*w > 0.0) - i8::from(*w < 0.0);
    }
    Ok(())
}

impl Matrix<'static> {
    /// Puts ternary weights into a format as they are: the decoded matrix equals
    /// [`Ternary::dequantize`] (a zero may change its sign). For the ternary formats, the dense ones, and,
    /// where no code is 0, the sign formats.
    ///
    /// # Errors
    /// [`Error::NotExact`] with the first weight that the format cannot hold: its scale is not an f16, or
    /// another than that of weights it shares a scale with, or it is 0 and the format has signs only; a format
    /// of other codes; a shape that the format cannot hold.
    pub fn from_ternary(format: Format, weights: &Ternary) -> Result<Self> {
        let (rows, cols) = (weights.rows, weights.cols);
        let mut bytes = vec![0; matrix_bytes(format, rows, cols)?];
        let info = format.info();
        if let Kind::Dense { element, read, write } = &info.kind {
            let values = weights.dequantize();
            for (i, (&w, b)) in values.iter().zip(bytes.chunks_exact_mut(info.bytes)).enumerate() {
                write(w, b);
                if read(b) != w {
                    let why = format!("{w:e} is no {element:?}");
                    return Err(not_exact(format, i / cols, i % cols, why));
                }
            }
            return Matrix::new(format, rows, cols, bytes, Vec::new());
        }
        let Some(encode) = format.ternary_encoder() else {
            let why = "its codes are not ternary (decode the weights and quantise them)".to_owned();
            return Err(not_exact(format, 0, 0, why));
        };
        let name = info.name;
        let (scales, blocks) = match info.scales {
            Scales::Tensor => (weights.scales_per(Granularity::Tensor, name, |s| s)?, false),
            Scales::Row => (weights.scales_per(Granularity::Row, name, |s| s)?, false),
            // A block of zeros gets the scale 0, which every block can hold.
            Scales::None | Scales::Block => {
                (weights.scales_per(Granularity::Group(info.block), name, |_| 0.0)?, true)
            }
        };
        let per_row = cols.div_ceil(info.block);
        if let Some(i) = scales.iter().position(|s| blocks && !is_f16(*s)) {
            let why = format!("its scale {:e} is no {:?}", scales[i], Element::F16);
            return Err(not_exact(format, i / per_row, i % per_row * info.block, why));
        }
        let zero = weights.codes.iter().position(|q| *q == 0);
        if let (Some(i), Format::SIGN | Format::SIGN_ROW) = (zero, format) {
            return Err(not_exact(format, i / cols, i % cols, "it is 0".to_owned()));
        }
        if per_row > 0 {
            threads::for_each_chunk(&mut bytes, per_row * info.bytes, |r, out| {
                if !blocks {
                    return encode(weights.row(r), 1.0, out);
                }
                let of_row =
                    out.chunks_exact_mut(info.bytes).zip(weights.row(r).chunks(info.block));
                for ((out, codes), scale) in of_row.zip(&scales[r * per_row..]) {
                    encode(codes, *scale, out);
                }
            });
        }
        Matrix::new(format, rows, cols, bytes, if blocks { Vec::new() } else { scales })
    }
}

fn is_f16(x: f32) -> bool {
    half::f16::from_f32(x).to_f32() == x
}

fn not_exact(format: Format, row: usize, col: usize, why: String) -> Error {
    Error::NotExact { format: format.name(), row, col, why }
}
