//! Panels: the in-memory layout that every fast kernel reads, the same for every ISA.
//!
//! A panel holds 64 rows. Its unit is the [`Line`] of 64 bytes: 16 rows x 4 consecutive k, one unsigned
//! code per byte, so one AVX-512 register, two of AVX2, four of NEON, each 32-bit lane a row. Codes of
//! b < 8 bits put 8/b groups of 16 rows into one byte, first group lowest:
//!
//! ```text
//! 8 bits   4 lines per 4 k      rows 0-15 | 16-31 | 32-47 | 48-63
//! 4 bits   2 lines per 4 k      rows 0-15 & 16-31 | 32-47 & 48-63
//! 2 bits   1 line  per 4 k      rows 0-15 & 16-31 & 32-47 & 48-63
//! dense    64 elements per k    rows 0-63
//! ```
//!
//! A panel is its groups in ascending k; a group is its scales (64 f16: two lines), its minima (two
//! lines, if the format has them) and its codes, so a product reads one ascending stream. Rows are in
//! lanes: there are no horizontal sums, and a group's scales are one vector. Formats with row or tensor
//! scales have no scale lines; their f32 scales are kept beside. Missing rows and columns are zeros.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use crate::activation::CHUNK;
use crate::error::{Error, Result};
use crate::format::{Codes, Element, Format, Grouping, Info, Kind, Plain, Scales};
use crate::matrix::{Matrix, Weights};
use crate::threads;

/// Rows in a panel.
pub const ROWS: usize = 64;

/// 64 bytes, aligned to a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Line(pub [u8; 64]);

/// Where things are in a panel of a format with given columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Lines of scales and of minima in a group.
    pub scale_lines: usize,
    pub min_lines: usize,
    /// Lines of codes in a group.
    pub code_lines: usize,
    /// Groups in a row.
    pub groups: usize,
}

impl Geometry {
    pub fn of(format: Format, cols: usize) -> Self {
        let info = format.info();
        match &info.kind {
            Kind::Dense { .. } => {
                Geometry { scale_lines: 0, min_lines: 0, code_lines: info.bytes, groups: cols }
            }
            Kind::Coded(codes) => {
                let in_block = info.scales == Scales::Block;
                let len = info.activation.len().unwrap_or_else(|| cols.next_multiple_of(CHUNK));
                Geometry {
                    scale_lines: if in_block { 2 } else { 0 },
                    min_lines: if codes.min { 2 } else { 0 },
                    code_lines: len / 4 * lines_per_step(codes),
                    groups: if len == 0 { 0 } else { cols.div_ceil(len) },
                }
            }
        }
    }

    /// Lines in a group.
    pub fn group_lines(&self) -> usize {
        self.scale_lines + self.min_lines + self.code_lines
    }

    /// Lines in a panel.
    pub fn panel_lines(&self) -> usize {
        self.group_lines() * self.groups
    }
}

/// Lines per four columns.
pub(crate) const fn lines_per_step(codes: &Codes) -> usize {
    codes.bits as usize / 2
}

/// A matrix repacked into panels.
#[derive(Clone, Debug, PartialEq)]
pub struct Panels {
    format: Format,
    rows: usize,
    cols: usize,
    geometry: Geometry,
    lines: Vec<Line>,
    /// Row scales, padded to whole panels; empty for formats that keep scales in their blocks.
    row_scales: Vec<f32>,
}

impl Panels {
    /// Repacks `matrix`; the codes and scales are the same numbers in another order.
    ///
    /// # Errors
    /// [`Error::NotFinite`]: weights or block scales that are NaN or infinite, which integer kernels would
    /// turn into plausible numbers.
    pub fn pack(matrix: &Matrix<'_>) -> Result<Self> {
        let (format, rows, cols) = (matrix.format(), matrix.rows(), matrix.cols());
        let geometry = Geometry::of(format, cols);
        let panel_lines = geometry.panel_lines();
        let panels = rows.div_ceil(ROWS);
        let mut lines = vec![Line([0; 64]); panels * panel_lines];
        if panel_lines > 0 {
            let bad = AtomicUsize::new(usize::MAX);
            threads::for_each_chunk(&mut lines, panel_lines, |p, panel| {
                for r in p * ROWS..rows.min((p + 1) * ROWS) {
                    if !pack_row(matrix, r, geometry, panel) {
                        bad.fetch_min(r, Ordering::Relaxed);
                    }
                }
            });
            let bad = bad.into_inner();
            if bad < rows {
                return Err(not_finite(matrix, bad));
            }
        }
        let mut row_scales = Vec::new();
        if matches!(format.info().scales, Scales::Row | Scales::Tensor) {
            row_scales = (0..rows).map(|r| matrix.row_scale(r)).collect();
            row_scales.resize(panels * ROWS, 0.0);
        }
        Ok(Panels { format, rows, cols, geometry, lines, row_scales })
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes of memory that a product reads.
    pub fn nbytes(&self) -> usize {
        self.lines.len() * 64 + self.row_scales.len() * 4
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The lines of panel `p`.
    pub(crate) fn panel(&self, p: usize) -> &[Line] {
        let n = self.geometry.panel_lines();
        &self.lines[p * n..(p + 1) * n]
    }

    /// The row scales of panel `p`, if the format has them.
    pub(crate) fn panel_scales(&self, p: usize) -> Option<&[f32; ROWS]> {
        self.row_scales.get(p * ROWS..)?.first_chunk()
    }
}

impl Weights for Panels {
    fn format(&self) -> Format {
        self.format
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn block(&self, r: usize, b: usize, out: &mut Plain) {
        let info = self.format.info();
        let Kind::Coded(codes) = &info.kind else { return };
        let (panel, row) = (self.panel(r / ROWS), r % ROWS);
        let place = Place::of(info, self.geometry, b * info.block);
        let header = &panel[place.group..];
        let at = |line: usize| {
            let b = &header[line + row / 32].0[row % 32 * 2..];
            f16::from_le_bytes([b[0], b[1]]).to_f32()
        };
        out.d = if self.geometry.scale_lines > 0 { at(0) } else { 1.0 };
        out.m = if codes.min { -at(self.geometry.scale_lines) } else { 0.0 };
        for i in 0..info.block {
            let k = place.k + i;
            let (line, byte, shift) = code_place(codes, row, k);
            let code = panel[place.codes + line].0[byte] >> shift & code_mask(codes);
            out.q[i] = i16::from(code) - codes.zero as i16;
        }
    }

    fn element(&self, r: usize, k: usize) -> f32 {
        let info = self.format.info();
        let Kind::Dense { read, .. } = &info.kind else { return f32::NAN };
        let byte = (r % ROWS) * info.bytes;
        let line = &self.panel(r / ROWS)[k * info.bytes + byte / 64];
        read(&line.0[byte % 64..][..info.bytes])
    }

    fn row_scale(&self, r: usize) -> f32 {
        self.row_scales.get(r).copied().unwrap_or(1.0)
    }
}

/// Where column `k` is: the first line of its group, the first line of the group's codes, and its
/// index in the group.
struct Place {
    group: usize,
    codes: usize,
    k: usize,
}

impl Place {
    fn of(info: &Info, geometry: Geometry, k: usize) -> Self {
        let len = info.activation.len().unwrap_or(usize::MAX);
        let group = k / len * geometry.group_lines();
        Place { group, codes: group + geometry.scale_lines + geometry.min_lines, k: k % len }
    }
}

/// Line, byte and shift of the code of `row` (in the panel) at column `k` (in the group).
fn code_place(codes: &Codes, row: usize, k: usize) -> (usize, usize, u32) {
    let fields = 8 / codes.bits as usize;
    let line = k / 4 * lines_per_step(codes) + row / 16 / fields;
    (line, row % 16 * 4 + k % 4, (row / 16 % fields) as u32 * codes.bits)
}

fn code_mask(codes: &Codes) -> u8 {
    (0xffu16 >> (8 - codes.bits)) as u8
}

/// The error of a row that has a weight which is no number.
fn not_finite(matrix: &Matrix<'_>, r: usize) -> Error {
    let mut row = vec![0.0; matrix.cols()];
    matrix.dequantize_row(r, &mut row);
    let k = row.iter().position(|w| !w.is_finite()).unwrap_or(0);
    let index = r * matrix.cols() + k;
    Error::NotFinite { what: "weights", index, value: row[k].to_string() }
}

/// Whether an element's exponent is not the one of NaN and infinity.
fn element_is_finite(element: Element, bytes: &[u8]) -> bool {
    match element {
        Element::F32 => bytes[3] & 0x7f != 0x7f || bytes[2] & 0x80 == 0,
        Element::F16 => bytes[1] & 0x7c != 0x7c,
        Element::BF16 => bytes[1] & 0x7f != 0x7f || bytes[0] & 0x80 == 0,
    }
}

/// Puts a row into its panel; returns whether all of its numbers are finite.
fn pack_row(matrix: &Matrix<'_>, r: usize, geometry: Geometry, panel: &mut [Line]) -> bool {
    let (info, row) = (matrix.format().info(), r % ROWS);
    let codes = match &info.kind {
        Kind::Dense { element, .. } => {
            let byte = row * info.bytes;
            let mut finite = true;
            for (k, e) in matrix.row(r).chunks_exact(info.bytes).enumerate() {
                let line = &mut panel[k * info.bytes + byte / 64];
                line.0[byte % 64..][..info.bytes].copy_from_slice(e);
                finite &= element_is_finite(*element, e);
            }
            return finite;
        }
        Kind::Coded(codes) => codes,
    };
    debug_assert!(info.activation != Grouping::Dense, "coded weights meet int8 activations");
    let mut plain = Plain::new();
    let mut finite = true;
    for b in 0..matrix.cols().div_ceil(info.block) {
        matrix.block(r, b, &mut plain);
        finite &= plain.d.is_finite() && plain.m.is_finite();
        let place = Place::of(info, geometry, b * info.block);
        let mut put = |line: usize, x: f32| {
            let at = row % 32 * 2;
            panel[place.group + line + row / 32].0[at..at + 2]
                .copy_from_slice(&f16::from_f32(x).to_le_bytes());
        };
        if geometry.scale_lines > 0 {
            put(0, plain.d);
        }
        if codes.min {
            put(geometry.scale_lines, -plain.m);
        }
        for (i, q) in plain.q[..info.block].iter().enumerate() {
            let (line, byte, shift) = code_place(codes, row, place.k + i);
            panel[place.codes + line].0[byte] |= ((q + codes.zero as i16) as u8) << shift;
        }
    }
    finite
}
