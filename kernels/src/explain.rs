//! One block, explained: its bytes as fields, the numbers in them, and how each weight comes out.
//!
//! ```
//! use tritlab_kernels::{Format, explain};
//!
//! let block = [0x00, 0x2c, 0x80, 0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7, 0x08, 0x19, 0x2a, 0x3b, 0x4c,
//!     0x5d, 0x6e, 0x7f];
//! let explained = explain(Format::Q4_0, &block, None).unwrap();
//! assert_eq!(explained.weights()[1], -0.4375);
//! assert!(explained.trace(1).unwrap().to_string().contains("w[1] = d · q[1]"));
//! println!("{explained}");
//! ```
//!
//! Names and places of the fields are data of the format ([`Field`]); the numbers are what the format's
//! `decode` says; which bits they come from is found by flipping them (`origins.rs`).

mod html;
mod origins;
mod text;

use std::sync::OnceLock;

pub use origins::{Bit, Number};

use crate::error::{Error, Result, check_finite, check_len};
use crate::format::{Codes, Element, Field, Format, Holds, Kind, Plain, Scales};
use crate::matrix::{Matrix, Weights};
use origins::Origins;

/// One block and what it means. `Display` draws it as text, [`Explanation::to_html`] for notebooks.
#[derive(Clone, Debug)]
pub struct Explanation {
    format: Format,
    bytes: Vec<u8>,
    /// The scale outside the block, where the format has one and it is known.
    outer: Option<f32>,
    /// Weights that count; the rest of the block pads a row.
    len: usize,
    plain: Plain,
}

/// Numbers that a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Exactly what f32 arithmetic sees.
    Float(Vec<f32>),
    /// Codes, bits of codes, scales of sub-blocks.
    Int(Vec<i32>),
}

/// How one weight comes out. `Display` draws the formula and the bits.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    of: &'a Explanation,
    index: usize,
    /// The weight.
    pub weight: f32,
    /// The formula: in symbols, then with numbers, then evaluated step by step; without `w[i] =`.
    pub steps: Vec<String>,
    /// The numbers in it and the bits they come from.
    pub sources: Vec<Source>,
}

/// A number in a [`Trace`].
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its symbol, for example `q[5]`.
    pub symbol: String,
    /// Its value.
    pub value: f32,
    /// Its bits in the block, the most significant first. In base 3 all eight bits of a byte belong to each
    /// of its digits. None for a scale outside the block.
    pub bits: Vec<Bit>,
}

/// Explains a block: `bytes` in the format's disk layout, and the row or tensor scale of formats that keep
/// it outside (`None`: weights are in units of it).
///
/// # Errors
/// [`Error::Length`] if the bytes are not one block, or if a scale is given that the format has no place
/// for; [`Error::NotFinite`] for the scale.
pub fn explain(format: Format, bytes: &[u8], scale: Option<f32>) -> Result<Explanation> {
    let info = format.info();
    check_len("bytes of one block", info.bytes, bytes.len())?;
    if let Some(scale) = scale {
        let places = usize::from(matches!(info.scales, Scales::Row | Scales::Tensor));
        check_len("scales outside the block", places, 1)?;
        check_finite("the scale outside the block", &[scale])?;
    }
    let mut plain = Plain::new();
    if let Some(codes) = format.codes() {
        (codes.decode)(bytes, &mut plain);
    }
    Ok(Explanation { format, bytes: bytes.to_vec(), outer: scale, len: info.block, plain })
}

impl Matrix<'_> {
    /// Explains block `block` of row `row`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there is no such row or block.
    pub fn explain(&self, row: usize, block: usize) -> Result<Explanation> {
        let info = self.format().info();
        let blocks = self.cols().div_ceil(info.block);
        for (what, index, len) in [("row", row, self.rows()), ("block", block, blocks)] {
            if index >= len {
                return Err(Error::OutOfRange { what, index, len });
            }
        }
        let outer = match info.scales {
            Scales::None | Scales::Block => None,
            Scales::Row | Scales::Tensor => Some(self.row_scale(row)),
        };
        let bytes = &self.row(row)[block * info.bytes..(block + 1) * info.bytes];
        let mut out = explain(self.format(), bytes, outer)?;
        out.len = info.block.min(self.cols() - block * info.block);
        Ok(out)
    }
}

impl Explanation {
    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The block's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The fields, in the order of the bytes.
    pub fn fields(&self) -> &'static [Field] {
        self.format.info().fields
    }

    /// The block in the normal form; `None` for dense formats.
    pub fn plain(&self) -> Option<&Plain> {
        self.format.codes().map(|_| &self.plain)
    }

    /// The decoded weights: the bits of [`Weights::dequantize`]. In a block that ends a row, padding is left
    /// out. Where the scale is outside and unknown they are multiples of it.
    pub fn weights(&self) -> Vec<f32> {
        match &self.format.info().kind {
            Kind::Dense { read, .. } => vec![read(&self.bytes)],
            Kind::Coded(_) => {
                (0..self.len).map(|i| self.outer.unwrap_or(1.0) * self.plain.weight(i)).collect()
            }
        }
    }

    /// The meaning of all weights, in symbols.
    pub fn formula(&self) -> String {
        let Some(codes) = self.format.codes() else {
            return "w[0] = the number as stored".to_owned();
        };
        let scale = self.scale(codes).0;
        let minimum = self.minimum().map(|(f, sub)| (if sub { "−" } else { "+" }, f.name));
        match (codes.sub_len, minimum) {
            (None, None) => format!("w[i] = {scale} · q[i]"),
            (None, Some((sign, m))) => format!("w[i] = {scale} · q[i] {sign} {m}"),
            (Some(n), None) => format!("w[i] = ({scale} · scale[k]) · q[i],  k = i / {n}"),
            (Some(n), Some((sign, m))) => {
                format!("w[i] = ({scale} · scale[k]) · q[i] {sign} {m} · min[k],  k = i / {n}")
            }
        }
    }

    /// The numbers in a field, by name, each list in the order of weights or sub-blocks. A field with only
    /// some bits of the codes has those bits as numbers.
    pub fn values(&self, field: &Field) -> Vec<(&'static str, Values)> {
        let name = field.name;
        let f16 =
            |at: usize| half::f16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32();
        match field.holds {
            Holds::Element => vec![(name, Values::Float(self.weights()))],
            Holds::Scale | Holds::Min | Holds::Lowest => {
                vec![(name, Values::Float(vec![f16(field.at)]))]
            }
            Holds::SubScales => {
                let n = self.format.info().block / self.plain.sub_len;
                let list =
                    |x: &[i16; 16]| Values::Int(x[..n].iter().map(|v| i32::from(*v)).collect());
                let mut out = vec![("scale", list(&self.plain.sub))];
                if self.minimum().is_some() {
                    out.push(("min", list(&self.plain.sub_min)));
                }
                out
            }
            Holds::Codes | Holds::HighBits => {
                let code = |i: usize| {
                    let bits = self.origins()?.of(Number::Code(i));
                    let here: Vec<_> =
                        bits.iter().filter(|b| field.range().contains(&b.byte)).collect();
                    match here.len() {
                        0 => None,
                        n if n == bits.len() => Some(i32::from(self.plain.q[i])),
                        _ => {
                            let bit = |bit: &&Bit| i32::from(bit.of(&self.bytes));
                            Some(here.iter().fold(0, |value, b| 2 * value + bit(b)))
                        }
                    }
                };
                vec![(name, Values::Int((0..self.format.info().block).filter_map(code).collect()))]
            }
        }
    }

    /// The bits that a number of the normal form comes from, the most significant first; none if the
    /// format does not store it.
    pub fn bits(&self, number: Number) -> &'static [Bit] {
        self.origins().map_or(&[], |origins| origins.of(number))
    }

    /// Where the format's numbers are, measured once.
    fn origins(&self) -> Option<&'static Origins> {
        static MEASURED: [OnceLock<Origins>; Format::ALL.len()] =
            [const { OnceLock::new() }; Format::ALL.len()];
        let codes = self.format.codes()?;
        let measure = || Origins::measure(self.format.info(), codes);
        Some(MEASURED[self.format as usize].get_or_init(measure))
    }

    /// The field with this in it.
    fn field(&self, holds: Holds) -> Option<&'static Field> {
        self.fields().iter().find(|f| f.holds == holds)
    }

    /// The field of the minimum, and whether it is subtracted.
    fn minimum(&self) -> Option<(&'static Field, bool)> {
        let subtracted = self.field(Holds::Min).map(|f| (f, true));
        subtracted.or_else(|| self.field(Holds::Lowest).map(|f| (f, false)))
    }

    /// The symbol of the scale, and its value where it is known. The papers' letters where it is outside.
    fn scale(&self, codes: &Codes) -> (&'static str, Option<f32>) {
        match (self.field(Holds::Scale), codes.bits) {
            (Some(field), _) => (field.name, Some(self.plain.d)),
            (None, 1) => ("beta", self.outer),
            (None, _) => ("alpha", self.outer),
        }
    }

    /// How weight `i` comes out of the bytes.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn trace(&self, i: usize) -> Result<Trace<'_>> {
        if i >= self.len {
            return Err(Error::OutOfRange { what: "weight", index: i, len: self.len });
        }
        let weight = self.weights()[i];
        let (steps, sources) = match &self.format.info().kind {
            Kind::Dense { element, .. } => self.trace_dense(*element, weight),
            Kind::Coded(codes) => self.trace_coded(codes, i, weight),
        };
        Ok(Trace { of: self, index: i, weight, steps, sources })
    }

    fn trace_coded(&self, codes: &Codes, i: usize, weight: f32) -> (Vec<String>, Vec<Source>) {
        let plain = &self.plain;
        let k = i / plain.sub_len;
        let (symbol, scale) = self.scale(codes);
        let q = plain.q[i];
        let source = |symbol: String, value: f32, number| Source {
            symbol,
            value,
            bits: self.bits(number).to_vec(),
        };
        let mut sources = vec![source(format!("q[{i}]"), f32::from(q), Number::Code(i))];
        // Each factor as a symbol and as a number; an unknown scale stays a symbol.
        let shown = scale.map_or(symbol.to_owned(), number);
        let (mut symbols, mut numbers) =
            (format!("{symbol} · q[{i}]"), format!("{shown} · {}", factor(q)));
        let mut step = None;
        let ds = scale.unwrap_or(1.0) * f32::from(plain.sub[k]);
        if codes.sub_len.is_some() {
            symbols = format!("({symbol} · scale[{k}]) · q[{i}]");
            numbers = format!("({shown} · {}) · {}", factor(plain.sub[k]), factor(q));
            step = Some(format!("{} · {}", number(ds), factor(q)));
            sources.push(source(format!("scale[{k}]"), f32::from(plain.sub[k]), Number::Sub(k)));
        }
        if let Some((field, subtracted)) = self.minimum() {
            let m = plain.m * f32::from(plain.sub_min[k]);
            let (sign, stored) = if subtracted { ("−", plain.m) } else { ("+", -plain.m) };
            let product = number(ds * f32::from(q));
            if codes.sub_len.is_some() {
                symbols += &format!(" {sign} {} · min[{k}]", field.name);
                numbers += &format!(" {sign} {} · {}", operand(stored), factor(plain.sub_min[k]));
                sources.push(source(
                    format!("min[{k}]"),
                    f32::from(plain.sub_min[k]),
                    Number::SubMin(k),
                ));
            } else {
                symbols += &format!(" {sign} {}", field.name);
                numbers += &format!(" {sign} {}", operand(stored));
            }
            let m = if subtracted { m } else { -m };
            step = Some(format!("{product} {sign} {}", operand(m)));
        }
        let result = match scale {
            Some(_) => number(weight),
            None => format!("{} · {symbol}", number(weight)),
        };
        let mut steps = vec![symbols, numbers];
        steps.extend(step);
        steps.push(result);
        steps.dedup();
        if self.field(Holds::Scale).is_some() {
            sources.push(source(symbol.to_owned(), plain.d, Number::Scale));
        }
        if let Some((field, subtracted)) = self.minimum() {
            let value = if subtracted { plain.m } else { -plain.m };
            sources.push(source(field.name.to_owned(), value, Number::Min));
        }
        (steps, sources)
    }

    /// Sign, exponent and fraction, by the widths of IEEE 754.
    fn trace_dense(&self, element: Element, weight: f32) -> (Vec<String>, Vec<Source>) {
        let (exponent_bits, fraction_bits) = element_bits(element);
        let mut stored = [0; 4];
        stored[..self.bytes.len()].copy_from_slice(&self.bytes);
        let stored = u32::from_le_bytes(stored);
        let fraction = stored & ((1 << fraction_bits) - 1);
        let exponent = (stored >> fraction_bits & ((1 << exponent_bits) - 1)) as i32;
        let bias = (1 << (exponent_bits - 1)) - 1;
        let sign = stored >> (exponent_bits + fraction_bits) & 1;
        let digits = format!("{fraction:0width$b}", width = fraction_bits as usize);
        let steps = if exponent == (1 << exponent_bits) - 1 {
            vec!["exponent all ones: infinity, or NaN".to_owned(), number(weight)]
        } else {
            let (whole, power) = if exponent == 0 { (0, 1 - bias) } else { (1, exponent - bias) };
            let symbols = match exponent {
                0 => format!("(−1)^s · 0.m · 2^{}", 1 - bias),
                _ => format!("(−1)^s · 1.m · 2^(e − {bias})"),
            };
            let sign = if sign == 1 { "−" } else { "+" };
            vec![symbols, format!("{sign}{whole}.{digits}₂ · 2^{power}"), number(weight)]
        };
        let bits = (0..self.bytes.len() * 8).rev();
        let bits = bits.map(|n| Bit { byte: n / 8, bit: (n % 8) as u8 }).collect();
        (steps, vec![Source { symbol: "w[0]".to_owned(), value: weight, bits }])
    }
}

/// Bits of exponent and fraction.
fn element_bits(element: Element) -> (u32, u32) {
    match element {
        Element::F32 => (8, 23),
        Element::F16 => (5, 10),
        Element::BF16 => (8, 7),
    }
}

/// An f32 as the shortest decimal that reads back as the same number.
fn number(x: f32) -> String {
    let plain = x == 0.0 || !x.is_finite() || (1e-4..1e7).contains(&x.abs());
    let text = if plain { format!("{x}") } else { format!("{x:e}") };
    text.replace('-', "−")
}

/// A number after an operator: in brackets if negative.
fn operand(x: f32) -> String {
    if x.is_sign_negative() { format!("({})", number(x)) } else { number(x) }
}

/// The same for an integer.
fn factor(x: i16) -> String {
    operand(f32::from(x))
}
