//! A block as text, at most 100 columns wide.

use std::fmt::{Display, Formatter, Result, Write as _};

use super::{Explanation, Number, Source, Trace, Values, element_bits, number};
use crate::format::{Field, Holds, Kind};

/// Bytes or codes in a row.
const ROW: usize = 16;
/// Weights in a row.
const WEIGHTS: usize = 8;
/// Columns.
const WIDTH: usize = 100;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "{}\n{}\n{}\n", self.title(), self.format.info().summary, self.formula())?;
        writeln!(f, "fields")?;
        for field in self.fields() {
            writeln!(f, "{}", self.field_line(field))?;
        }
        writeln!(f, "\nbytes")?;
        for field in self.fields() {
            for (n, bytes) in self.bytes[field.range()].chunks(ROW).enumerate() {
                let name = if n == 0 { field.name } else { "" };
                let hex: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
                writeln!(f, "  {:>3}  {name:<7} {}", field.at + n * ROW, hex.join(" "))?;
            }
        }
        let places = self.places();
        if !places.is_empty() {
            writeln!(f, "\nbits, the highest first (q[4].3-0: bits 3 to 0 of code 4)")?;
            for (byte, numbers) in places {
                write_list(f, &format!("  {byte:>3}  "), &numbers, " | ")?;
            }
        }
        if self.plain().is_some() {
            writeln!(f)?;
            self.write_codes(f)?;
            writeln!(f, "\nweights{}", self.unit())?;
            let weights: Vec<_> = self.weights().into_iter().map(short).collect();
            write_rows(f, "w", &weights, WEIGHTS)?;
        }
        if let Ok(trace) = self.trace(0) {
            write!(f, "\n{trace}")?;
        }
        Ok(())
    }
}

impl Explanation {
    /// The first line.
    pub(super) fn title(&self) -> String {
        let info = self.format.info();
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut out = format!(
            "{}: {} in {}, {} bits per weight",
            info.name,
            plural(info.block, "weight"),
            plural(info.bytes, "byte"),
            self.format.bits_per_weight()
        );
        if self.len < info.block {
            let _ = write!(out, "; the last {} pad the row", info.block - self.len);
        }
        out
    }

    /// What weights are counted in.
    pub(super) fn unit(&self) -> String {
        match self.format.codes().map(|codes| self.scale(codes)) {
            Some((symbol, None)) => format!(", in units of {symbol}, which is outside the block"),
            Some((symbol, Some(scale))) if self.outer.is_some() => {
                format!(", {symbol} = {} (outside the block)", number(scale))
            }
            _ => String::new(),
        }
    }

    /// Its bytes, name and meaning.
    fn field_line(&self, field: &Field) -> String {
        let bytes = match field.len {
            1 => format!("{}", field.at),
            n => format!("{}-{}", field.at, field.at + n - 1),
        };
        format!("  {bytes:>8}  {:<7} {}", field.name, self.meaning(field))
    }

    /// What a field holds, with its value where that is one number.
    pub(super) fn meaning(&self, field: &Field) -> String {
        let about = field.about;
        match (field.holds, self.values(field).first()) {
            (Holds::Codes | Holds::HighBits | Holds::SubScales, _) | (_, None) => about.to_owned(),
            (Holds::Element, Some((_, values))) => format!("{about} = {}", first(values)),
            (_, Some((_, values))) => format!("{about}, f16 = {}", first(values)),
        }
    }

    /// What is in each byte: the first byte of every arrangement, and the numbers with bits in it.
    pub fn places(&self) -> Vec<(usize, Vec<String>)> {
        let mut seen = Vec::new();
        let mut out = Vec::new();
        let packed =
            |f: &&Field| matches!(f.holds, Holds::Codes | Holds::HighBits | Holds::SubScales);
        for field in self.fields().iter().filter(packed) {
            for byte in field.range() {
                let (shape, names) = self.place(byte);
                if !seen.contains(&(field.at, shape.clone())) {
                    seen.push((field.at, shape));
                    out.push((byte, names));
                }
            }
        }
        out
    }

    /// The numbers in one byte, and its arrangement: the same without where it starts.
    fn place(&self, byte: usize) -> (Arrangement, Vec<String>) {
        let base3 = self.format.codes().is_some_and(|codes| codes.base3);
        let numbers = self.origins().map_or_else(Vec::new, |origins| origins.in_byte(byte));
        let parts = numbers.iter().map(|(number, _)| parts(*number));
        let first = parts.clone().map(|(_, i)| i).min().unwrap_or(0);
        let shape = parts
            .zip(&numbers)
            .map(|((kind, i), (_, places))| (kind, i - first, places.clone()))
            .collect();
        let name = |(number, places): &(Number, Vec<usize>)| {
            let (kind, i) = parts_name(*number);
            match (base3, places[..].first(), places[..].last()) {
                (false, Some(high), Some(low)) if high == low => format!("{kind}[{i}].{high}"),
                (false, Some(high), Some(low)) => format!("{kind}[{i}].{high}-{low}"),
                _ => format!("{kind}[{i}] (base 3)"),
            }
        };
        (shape, numbers.iter().map(name).collect())
    }

    /// All numbers in one byte, for captions.
    pub(super) fn caption(&self, byte: usize) -> String {
        self.place(byte).1.join(" | ")
    }

    /// Codes, after the scale and minimum of their sub-block where there are some.
    fn write_codes(&self, f: &mut Formatter<'_>) -> Result {
        let info = self.format.info();
        let codes: Vec<_> =
            self.plain.q[..info.block].iter().map(|q| number(f32::from(*q))).collect();
        if self.plain.sub_len >= info.block {
            writeln!(f, "codes")?;
            return write_rows(f, "q", &codes, ROW);
        }
        let minima = self.minimum().is_some();
        writeln!(f, "    k  scale{}  codes", if minima { "   min" } else { "" })?;
        let width = widest(&codes);
        for (k, codes) in codes.chunks(self.plain.sub_len).enumerate() {
            for (n, row) in codes.chunks(ROW).enumerate() {
                if n == 0 {
                    let scale = number(f32::from(self.plain.sub[k]));
                    write!(f, "  {k:>3}  {scale:>5}")?;
                    if minima {
                        write!(f, " {:>5}", self.plain.sub_min[k])?;
                    }
                } else {
                    write!(f, "{:>width$}", "", width = if minima { 18 } else { 12 })?;
                }
                let first = format!("q[{}]", k * self.plain.sub_len + n * ROW);
                writeln!(f, "  {first:>6} {}", row_of(row, width))?;
            }
        }
        Ok(())
    }
}

/// The numbers in a byte: kind, index from the first, places.
type Arrangement = Vec<(u8, usize, Vec<usize>)>;

/// Kind and index of a number.
fn parts(number: Number) -> (u8, usize) {
    match number {
        Number::Code(i) => (0, i),
        Number::Sub(k) => (1, k),
        Number::SubMin(k) => (2, k),
        Number::Scale => (3, 0),
        Number::Min => (4, 0),
    }
}

fn parts_name(number: Number) -> (&'static str, usize) {
    let (kind, i) = parts(number);
    (["q", "scale", "min", "d", "m"][usize::from(kind)], i)
}

impl Display for Trace<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let name = format!("w[{}]", self.index);
        for (n, step) in self.steps.iter().enumerate() {
            let left = if n == 0 { &name } else { "" };
            writeln!(f, "{left:<width$} = {step}", width = name.len())?;
        }
        for source in self.sources.iter().filter(|s| !s.bits.is_empty()) {
            self.write_source(f, source)?;
        }
        Ok(())
    }
}

impl Trace<'_> {
    /// The bytes of one number, and below its bits their places in it.
    fn write_source(&self, f: &mut Formatter<'_>, source: &Source) -> Result {
        writeln!(f, "\n{} = {}{}", source.symbol, number(source.value), self.stored(source))?;
        let mut bytes: Vec<_> = source.bits.iter().map(|b| b.byte).collect();
        bytes.sort_unstable();
        bytes.dedup();
        for byte in bytes {
            let name = self.of.fields().iter().find(|f| f.range().contains(&byte));
            let name = name.map_or("", |f| f.name);
            let (mut value, mut below) = (String::new(), String::new());
            for bit in (0..8).rev() {
                let at = source.bits.iter().position(|b| (b.byte, b.bit) == (byte, bit));
                let mark = at.map_or(" ".to_owned(), |n| self.mark(source, n));
                let _ = write!(value, " {}", self.of.bytes[byte] >> bit & 1);
                let _ = write!(below, " {mark}");
            }
            writeln!(f, "  byte {byte:>3}  {name:<7}{value}")?;
            writeln!(f, "  {:>width$}{}", "", below.trim_end(), width = 17)?;
        }
        Ok(())
    }

    /// What an integer's bits are as a binary number, where that is another.
    fn stored(&self, source: &Source) -> String {
        let integer = matches!(&self.of.format.info().kind, Kind::Coded(codes) if !codes.base3);
        let bit = |b: &super::Bit| i32::from(b.of(&self.of.bytes));
        if !integer || source.bits.len() > 8 {
            return String::new(); // digits, or an f16
        }
        let value = source.bits.iter().fold(0, |value, b| 2 * value + bit(b));
        if value as f32 == source.value {
            return String::new();
        }
        format!(", stored as {value}")
    }

    /// What bit `n` of a number, the most significant first, is called: its place in an integer; s, e or m
    /// in a float; * where it is part of digits in base 3.
    fn mark(&self, source: &Source, n: usize) -> String {
        let of_float = |(exponent, _): (u32, u32)| match n {
            0 => "s",
            n if n <= exponent as usize => "e",
            _ => "m",
        };
        match &self.of.format.info().kind {
            Kind::Dense { element, .. } => of_float(element_bits(*element)).to_owned(),
            Kind::Coded(_) if source.bits.len() == 16 => of_float((5, 10)).to_owned(),
            Kind::Coded(codes) if codes.base3 => "*".to_owned(),
            Kind::Coded(_) => (source.bits.len() - 1 - n).to_string(),
        }
    }
}

fn first(values: &Values) -> String {
    match values {
        Values::Float(x) => x.first().map_or(String::new(), |x| number(*x)),
        Values::Int(x) => x.first().map_or(String::new(), i32::to_string),
    }
}

/// Five significant digits, for tables.
pub(super) fn short(x: f32) -> String {
    let size = x.abs();
    let text = match size {
        _ if x == 0.0 || !x.is_finite() => return number(x),
        _ if !(1e-4..1e5).contains(&size) => format!("{x:.3e}"),
        _ if size >= 1000.0 => format!("{x:.1}"),
        _ if size >= 1.0 => format!("{x:.4}"),
        _ => format!("{x:.6}"),
    };
    text.replace('-', "−")
}

fn widest(items: &[String]) -> usize {
    items.iter().map(|s| s.chars().count()).max().unwrap_or(0)
}

fn row_of(row: &[String], width: usize) -> String {
    let cells: Vec<_> = row.iter().map(|s| format!("{s:>width$}")).collect();
    cells.join(" ")
}

/// Rows of numbers, each with the index of its first.
fn write_rows(f: &mut Formatter<'_>, name: &str, items: &[String], per_row: usize) -> Result {
    let width = widest(items);
    for (n, row) in items.chunks(per_row).enumerate() {
        let first = format!("{name}[{}]", n * per_row);
        writeln!(f, "  {first:>6} {}", row_of(row, width))?;
    }
    Ok(())
}

/// A list on as many lines as it needs.
fn write_list(f: &mut Formatter<'_>, head: &str, items: &[String], between: &str) -> Result {
    let mut line = head.to_owned();
    let mut empty = true;
    for item in items {
        let more = if empty { "" } else { between };
        if !empty && line.chars().count() + more.len() + item.chars().count() > WIDTH {
            writeln!(f, "{}", line.trim_end())?;
            line = " ".repeat(head.chars().count());
            empty = true;
        }
        line += if empty { "" } else { between };
        line += item;
        empty = false;
    }
    writeln!(f, "{line}")
}
