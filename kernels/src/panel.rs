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
//! 1 bit    1 line  per 8 k      the same, the second 4 k in the upper half of the byte
//! dense    64 elements per k    rows 0-63
//! ```
//!
//! Base-3 codes have their own line: 16 rows x 4 bytes of five digits each, 20 columns
//! ([`crate::op`] `base3`); a group is padded to whole lines with the digit 0.
//!
//! Codes of 3, 5 and 6 bits are two such planes: 2+1, 4+1 and 4+2 bits. Their lines alternate: those of the upper
//! bits for 4 k (8 k if it is one bit), then those of the lower bits for the same k. One-bit weights of -1 and +1
//! are the codes 0 and 2 around a zero of 1.
//!
//! A panel is its groups in ascending k; a group is what a product needs, in the order in which it needs it, so
//! that it reads one ascending stream (memory is read at half the speed, and less, where it does not):
//!
//! ```text
//! integer minima of the sub-blocks         k-quants; 16 rows x 4 sub-blocks to a line, like codes
//! for each four sub-blocks (or chunk of 32 k)
//!     their integer scales                 k-quants; four lines; beside the minima if both are 4 bits
//!     their codes
//! scales, minima                           64 f16 each: two lines; only if the format has them
//! ```
//!
//! Rows are in lanes: there are no horizontal sums, and a group's scales are one vector. Formats with row or tensor
//! scales have no scale lines; their f32 scales are kept beside. Missing rows and columns are zeros.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use crate::activation::{BASE3_COLS, CHUNK};
use crate::error::{Error, Result};
use crate::format::{
    Codes, Element, Format, Grouping, Info, Kind, MAX_BLOCK, Plain, Scales, first_digit, fraction,
};
use crate::isa::pages::in_pieces;
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
    /// Lines of sub-block minima in a group, and of the scales that share their bytes.
    pub sub_min_lines: usize,
    /// Lines of sub-block scales that have bytes of their own.
    pub sub_lines: usize,
    /// Lines of codes.
    pub code_lines: usize,
    /// Lines of scales.
    pub scale_lines: usize,
    /// Lines of minima.
    pub min_lines: usize,
    /// Groups in a row.
    pub groups: usize,
}

impl Geometry {
    pub const fn of(info: &Info, cols: usize) -> Self {
        match &info.kind {
            Kind::Dense { .. } => Geometry {
                scale_lines: 0,
                min_lines: 0,
                sub_lines: 0,
                sub_min_lines: 0,
                code_lines: info.bytes,
                groups: cols,
            },
            Kind::Coded(codes) => {
                let in_block = matches!(info.scales, Scales::Block);
                let (len, base3_len) = match info.activation.len() {
                    Some(len) => (len, len),
                    None => (cols.next_multiple_of(CHUNK), cols),
                };
                let subs = match codes.sub_len {
                    Some(sub) => len / sub,
                    None => 0,
                };
                Geometry {
                    scale_lines: if in_block { 2 } else { 0 },
                    min_lines: if codes.min { 2 } else { 0 },
                    sub_lines: if nibbles(codes) { 0 } else { subs },
                    sub_min_lines: if codes.min { subs } else { 0 },
                    code_lines: if codes.base3 {
                        base3_len.div_ceil(BASE3_COLS) * 4
                    } else {
                        len / CHUNK * chunk_lines(codes)
                    },
                    groups: if len == 0 { 0 } else { cols.div_ceil(len) },
                }
            }
        }
    }

    /// Lines before a group's scales: its codes, and all that belongs to sub-blocks.
    pub const fn scales_at(&self) -> usize {
        self.sub_min_lines + self.sub_lines + self.code_lines
    }

    /// Lines in a group.
    pub const fn group_lines(&self) -> usize {
        self.scales_at() + self.scale_lines + self.min_lines
    }

    /// Lines in a panel.
    pub fn panel_lines(&self) -> usize {
        self.group_lines() * self.groups
    }
}

/// Bits of a code that are stored together: `bits` of them, from bit `at` of the code on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plane {
    pub bits: u32,
    pub at: u32,
}

/// The planes of a format's codes, lowest bits first; the second is empty for most.
pub(crate) const fn planes(codes: &Codes) -> [Plane; 2] {
    const fn pair(low: u32, high: u32) -> [Plane; 2] {
        [Plane { bits: low, at: 0 }, Plane { bits: high, at: low }]
    }
    match codes.bits {
        // -1 and +1 are the codes 0 and 2: bit 1 is stored.
        1 => [Plane { bits: 1, at: 1 }, Plane { bits: 0, at: 2 }],
        3 => pair(2, 1),
        5 => pair(4, 1),
        6 => pair(4, 2),
        bits => pair(bits, 0),
    }
}

/// Lines of a chunk of 32 columns.
pub(crate) const fn chunk_lines(codes: &Codes) -> usize {
    codes.bits as usize * CHUNK / 8
}

/// Chunks of a span, what the codes of a group consist of: four sub-blocks, which share the lines of their scales,
/// or a chunk.
pub(crate) const fn span_chunks(codes: &Codes) -> usize {
    match codes.sub_len {
        Some(len) => 4 * len / CHUNK,
        None => 1,
    }
}

/// Whether the scale and the minimum of a sub-block, 4 bits each, share a byte: the minimum is its upper half.
pub(crate) const fn nibbles(codes: &Codes) -> bool {
    codes.min && codes.sub_len.is_some() && codes.sub_range[0] >= 0 && codes.sub_range[1] < 16
}

/// The scale of a sub-block in its byte.
pub(crate) const fn sub_scale(codes: &Codes, byte: u8) -> i16 {
    if nibbles(codes) { (byte & 15) as i16 } else { byte as i8 as i16 }
}

/// The minimum.
const fn sub_minimum(codes: &Codes, byte: u8) -> i16 {
    if nibbles(codes) { (byte >> 4) as i16 } else { byte as i8 as i16 }
}

/// Lines of sub-block scales that a span begins with.
pub(crate) const fn span_sub_lines(codes: &Codes) -> usize {
    if codes.sub_len.is_some() && !nibbles(codes) { 4 } else { 0 }
}

/// Lines of a span.
pub(crate) const fn span_lines(codes: &Codes) -> usize {
    span_sub_lines(codes) + span_chunks(codes) * chunk_lines(codes)
}

/// Where `plane` keeps the codes of 16-row group `v` (0 to 3) at step `s` (four columns each, in a chunk): the line
/// in the chunk, and the lowest bit in each byte.
#[inline(always)]
pub(crate) const fn plane_place(codes: &Codes, plane: Plane, s: usize, v: usize) -> (usize, u32) {
    let [low, high] = planes(codes);
    // Steps whose planes lie together: a plane of one bit needs two to fill a line.
    let steps = if low.bits == 1 || high.bits == 1 { 2 } else { 1 };
    let lines = codes.bits as usize * steps / 2;
    // The lower bits follow the upper ones.
    let after = if plane.at == low.at { high.bits as usize * steps / 2 } else { 0 };
    let (step, first) = (s % steps, s / steps * lines + after);
    match plane.bits {
        8 => (first + step * 4 + v, 0),
        4 => (first + step * 2 + v / 2, (v % 2) as u32 * 4),
        2 => (first + step, v as u32 * 2),
        _ => (first, (step * 4 + v) as u32),
    }
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
        let geometry = Geometry::of(format.info(), cols);
        let panel_lines = geometry.panel_lines();
        let panels = rows.div_ceil(ROWS);
        let mut lines = Vec::new();
        if panel_lines > 0 {
            let bad = AtomicUsize::new(usize::MAX);
            lines = in_pieces(panels * panel_lines, panel_lines, Line([0; 64]), |mut pieces| {
                threads::for_each_chunk(&mut pieces, 1, |p, piece| {
                    let Some(piece) = piece[0].take() else { return };
                    if let Some(row) = pack_panel(matrix, p, geometry, piece.begin()) {
                        bad.fetch_min(row, Ordering::Relaxed);
                    }
                });
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

    fn blocks(&self, r: usize, blocks: Range<usize>, out: &mut Plain) {
        let info = self.format.info();
        let Kind::Coded(codes) = &info.kind else { return };
        let (panel, row, g) = (self.panel(r / ROWS), r % ROWS, self.geometry);
        let place = Place::of(info, g, blocks.start * info.block);
        let cols = blocks.len() * info.block;
        let group = &panel[place.group..];
        let half = |line: usize| {
            let b = &group[g.scales_at() + line + row / 32].0[row % 32 * 2..];
            f16::from_le_bytes([b[0], b[1]]).to_f32()
        };
        out.d = if g.scale_lines > 0 { half(0) } else { 1.0 };
        out.m = if codes.min { -half(g.scale_lines) } else { 0.0 };
        if let Some(sub_len) = codes.sub_len {
            out.sub_len = sub_len;
            for s in 0..info.block / sub_len {
                let (line, byte) = sub_place(codes, g, row, s);
                out.sub[s] = sub_scale(codes, group[line].0[byte]);
                if codes.min {
                    let (line, byte) = sub_min_place(row, s);
                    out.sub_min[s] = sub_minimum(codes, group[line].0[byte]);
                }
            }
        }
        if codes.base3 {
            for i in 0..cols {
                let (line, byte, digit) = base3_place(row, place.k + i);
                // Columns past the last are padding of the format's last block.
                let u = panel.get(place.group + line).map_or(0, |l| l.0[byte]);
                let u = u.wrapping_mul([1, 3, 9, 27, 81][digit]);
                out.q[i] = i16::from(first_digit(u)) - codes.zero as i16;
            }
            return;
        }
        for i in 0..cols {
            let mut code = 0;
            for plane in planes(codes).into_iter().filter(|p| p.bits > 0) {
                let (line, byte, bit) = code_place(codes, g, plane, row, place.k + i);
                code |= (group[line].0[byte] >> bit & mask(plane.bits)) << plane.at;
            }
            out.q[i] = match &codes.table {
                Some(table) => i16::from(table[usize::from(code)]),
                None => i16::from(code) - codes.zero as i16,
            };
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

/// Where column `k` is: the first line of its group, and its index in the group.
struct Place {
    group: usize,
    k: usize,
}

impl Place {
    fn of(info: &Info, geometry: Geometry, k: usize) -> Self {
        match info.activation.len() {
            Some(len) => Place { group: k / len * geometry.group_lines(), k: k % len },
            None => Place { group: 0, k },
        }
    }
}

/// Line in the group, byte and lowest bit of a plane's part of the code of `row` at column `k` of the group.
fn code_place(
    codes: &Codes,
    g: Geometry,
    plane: Plane,
    row: usize,
    k: usize,
) -> (usize, usize, u32) {
    let (line, bit) = plane_place(codes, plane, k % CHUNK / 4, row / 16);
    (chunk_at(codes, g, k / CHUNK) + line, row % 16 * 4 + k % 4, bit)
}

/// The first line of a chunk of the group.
fn chunk_at(codes: &Codes, g: Geometry, chunk: usize) -> usize {
    if codes.sub_len.is_none() {
        // What follows comes to this, without its divisions.
        return chunk * chunk_lines(codes);
    }
    let per_span = span_chunks(codes);
    let span = g.sub_min_lines + chunk / per_span * span_lines(codes) + span_sub_lines(codes);
    span + chunk % per_span * chunk_lines(codes)
}

/// Line in the group and byte of the scale of sub-block `s` of `row`: 16 rows x 4 sub-blocks to a line.
fn sub_place(codes: &Codes, g: Geometry, row: usize, s: usize) -> (usize, usize) {
    if nibbles(codes) {
        return sub_min_place(row, s);
    }
    (g.sub_min_lines + s / 4 * span_lines(codes) + row / 16, row % 16 * 4 + s % 4)
}

/// The same of its minimum.
fn sub_min_place(row: usize, s: usize) -> (usize, usize) {
    (s / 4 * 4 + row / 16, row % 16 * 4 + s % 4)
}

/// Line, byte and digit of column `k` of the group in base 3: 20 columns x 64 rows to four lines.
fn base3_place(row: usize, k: usize) -> (usize, usize, usize) {
    let (line, k) = (k / BASE3_COLS * 4 + row / 16, k % BASE3_COLS);
    (line, row % 16 * 4 + k % 4, k / 4)
}

/// The lowest `bits` bits.
pub(crate) const fn mask(bits: u32) -> u8 {
    (0xffu16 >> (8 - bits)) as u8
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

/// Puts the rows of panel `p` into it; returns the first that has a number which is not finite.
fn pack_panel(
    matrix: &Matrix<'_>,
    p: usize,
    geometry: Geometry,
    panel: &mut [Line],
) -> Option<usize> {
    let mut bad = None;
    for r in p * ROWS..matrix.rows().min((p + 1) * ROWS) {
        if !pack_row(matrix, r, geometry, panel) {
            bad.get_or_insert(r);
        }
    }
    if matrix.format().codes().is_some_and(|c| c.base3) {
        for group in panel.chunks_exact_mut(geometry.group_lines()) {
            for line in &mut group[..geometry.code_lines] {
                line.0 = line.0.map(fraction);
            }
        }
    }
    bad
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
    let planes = planes(codes);
    // A row has one 16-row group: where its steps of four columns are in a chunk, found once.
    let places = planes.map(|plane| {
        std::array::from_fn::<_, { CHUNK / 4 }, _>(|s| match plane.bits {
            0 => (0, 0),
            _ => plane_place(codes, plane, s, row / 16),
        })
    });
    // Four columns of a row are neighbours in a line: one place for all of them.
    let byte = row % 16 * 4;
    let (mut plain, mut unsigned) = (Plain::new(), [0u8; MAX_BLOCK]);
    let mut finite = true;
    for (blocks, cols) in info.runs(matrix.cols()) {
        let u = &mut unsigned[..blocks.len() * info.block];
        matrix.blocks(r, blocks, &mut plain);
        finite &= plain.d.is_finite() && plain.m.is_finite();
        let place = Place::of(info, geometry, cols.start);
        let group = &mut panel[place.group..];
        let mut put = |line: usize, x: f32| {
            let at = row % 32 * 2;
            group[geometry.scales_at() + line + row / 32].0[at..at + 2]
                .copy_from_slice(&f16::from_f32(x).to_le_bytes());
        };
        if geometry.scale_lines > 0 {
            put(0, plain.d);
        }
        if codes.min {
            put(geometry.scale_lines, -plain.m);
        }
        if let Some(sub_len) = codes.sub_len {
            for s in 0..info.block / sub_len {
                let (line, byte) = sub_place(codes, geometry, row, s);
                group[line].0[byte] = plain.sub[s] as i8 as u8;
                if codes.min {
                    let shift = if nibbles(codes) { 4 } else { 0 };
                    debug_assert!(
                        shift == 0 || plain.sub_min[s] < 16,
                        "minima are as wide as scales"
                    );
                    let (line, byte) = sub_min_place(row, s);
                    group[line].0[byte] |= (plain.sub_min[s] << shift) as u8;
                }
            }
        }
        // The choice is made outside of the loop, which is vectors where there is no table.
        let pairs = u.iter_mut().zip(plain.q);
        match &codes.table {
            Some(table) => pairs.for_each(|(u, q)| {
                *u = table.iter().position(|t| i16::from(*t) == q).unwrap_or(0) as u8;
            }),
            None => pairs.for_each(|(u, q)| *u = (q + codes.zero as i16) as u8),
        }
        if codes.base3 {
            // The digits' values are summed first and become fractions when the panel is complete; columns past the
            // last are the digit 0.
            unsigned[cols.len()..].fill(0);
            let fours = unsigned[..cols.len().next_multiple_of(4)].as_chunks::<4>().0;
            let (line, _, _) = base3_place(row, place.k);
            for (i, digits) in fours.chunks(BASE3_COLS / 4).enumerate() {
                let four = &mut group[line + i * 4].0[byte..byte + 4];
                // Four values in one word: none leaves its byte.
                let values = digits.iter().zip([81, 27, 9, 3, 1]);
                let sum = values.fold(0, |sum, (u, place)| sum + u32::from_ne_bytes(*u) * place);
                four.copy_from_slice(&sum.to_ne_bytes());
            }
            continue;
        }
        for (c, steps) in u.as_chunks::<4>().0.chunks(CHUNK / 4).enumerate() {
            let chunk = &mut group[chunk_at(codes, geometry, place.k / CHUNK + c)..];
            for (plane, places) in planes.iter().zip(&places).filter(|(p, _)| p.bits > 0) {
                // The bits of four codes in one word: none leaves its byte.
                let mask = u32::from_ne_bytes([mask(plane.bits); 4]);
                for (u, (line, bit)) in steps.iter().zip(places) {
                    let four = &mut chunk[*line].0[byte..byte + 4];
                    let bits = (u32::from_ne_bytes(*u) >> plane.at & mask) << bit;
                    for (b, new) in four.iter_mut().zip(bits.to_ne_bytes()) {
                        *b |= new;
                    }
                }
            }
        }
    }
    finite
}
