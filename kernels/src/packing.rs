//! Layouts in which other projects store ternary weights, and the way to and from [`Ternary`].
//!
//! A packing is a storage layout and nothing more: no kernel reads one. Its content is a [`Ternary`], which
//! goes into a format by [`Matrix::from_ternary`](crate::Matrix::from_ternary) exactly, and back.
//!
//! Every packing is the same sentence: the code of weight (r, c), plus one, is a field of two bits, or a digit
//! in base 3, of one byte; scales are f32 or f16 numbers between the bytes, or beside them. To add one: write
//! `packing/<name>.rs` with one [`Info`] and add a line to the list. The three orders of bitnet.cpp's I2_S
//! cannot be told apart by the bytes: the caller says which.

mod hf_packed;
mod i2_s;
mod iq1_bn;
mod iq2_bn;
mod iq2_bn_r4;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result, check_len};
use crate::format::fraction;
use crate::ternary::{Granularity, Ternary};
use crate::threads;

/// Rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs).
    pub cols: usize,
}

/// Where scales are.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// One little-endian f32 for the tensor, at this byte.
    TensorF32(fn(Shape) -> usize),
    /// One little-endian f32 per row, at this byte.
    RowF32(fn(Shape, usize) -> usize),
    /// One little-endian f16 per row, at this byte.
    RowF16(fn(Shape, usize) -> usize),
    /// Beside the bytes, one for the tensor: weights are codes times the scale.
    Multiply,
    /// Beside the bytes, one for the tensor: weights are codes divided by the scale.
    Divide,
}

/// Where codes are; given are the row and the column.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// A byte, and the lowest of the two bits of the code plus one; 3 stands for nothing.
    Bits(fn(Shape, usize, usize) -> (usize, u32)),
    /// A byte, and the number of the digit, least significant first. A byte with the value v, 0 to 242, is
    /// stored as ceil(256 v / 243); the 13 other bytes stand for nothing.
    Digit(fn(Shape, usize, usize) -> (usize, u32)),
}

/// Everything about a packing, written once, in its own file.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// The field's name for it.
    pub name: &'static str,
    /// One sentence for tables.
    pub summary: &'static str,
    /// What it needs of a shape; `None` where it is satisfied.
    pub needs: fn(Shape) -> Option<&'static str>,
    /// Bytes of a shape whose product of rows and columns fits `usize` eight times.
    pub nbytes: fn(Shape) -> usize,
    /// Where scales are.
    pub scale: Scale,
    /// Where codes are.
    pub place: Place,
}

macro_rules! packings {
    ($($(#[$default:meta])? $variant:ident => $info:path),* $(,)?) => {
        /// A storage layout of another project. Names are the field's own where it has one.
        #[allow(non_camel_case_types, reason = "I2_S is the name everybody knows")]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
        pub enum Packing {
            $(#[doc = concat!("The packing `", stringify!($variant), "`.")] $(#[$default])? $variant),*
        }

        impl Packing {
            /// Every packing.
            pub const ALL: &'static [Packing] = &[$(Packing::$variant),*];

            /// The facts about it.
            pub fn info(self) -> &'static Info {
                match self { $(Packing::$variant => &$info),* }
            }
        }
    };
}

packings! {
    #[default]
    I2_S => i2_s::I2_S,
    I2_S_64 => i2_s::I2_S_64,
    I2_S_ROWS4 => i2_s::I2_S_ROWS4,
    HF_PACKED => hf_packed::HF_PACKED,
    HF_PACKED_DIVIDE => hf_packed::HF_PACKED_DIVIDE,
    IQ1_BN => iq1_bn::IQ1_BN,
    IQ2_BN => iq2_bn::IQ2_BN,
    IQ2_BN_R4 => iq2_bn_r4::IQ2_BN_R4,
}

/// Packed weights.
#[derive(Clone, PartialEq, Debug)]
pub struct Packed {
    /// The bytes as they lie in a file.
    pub bytes: Vec<u8>,
    /// The scale, where it is beside the bytes.
    pub scale: Option<f32>,
}

impl Packing {
    /// The name.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Finds a packing by name, in any letter case.
    ///
    /// # Errors
    /// [`Error::UnknownPacking`], which lists the names.
    pub fn from_name(name: &str) -> Result<Packing> {
        Packing::ALL.iter().copied().find(|p| p.name().eq_ignore_ascii_case(name)).ok_or_else(
            || {
                let known: Vec<_> = Packing::ALL.iter().map(|p| p.name()).collect();
                Error::UnknownPacking { name: name.to_owned(), known: known.join(", ") }
            },
        )
    }

    /// Whether its scale is beside the bytes.
    pub fn scale_is_outside(self) -> bool {
        matches!(self.info().scale, Scale::Multiply | Scale::Divide)
    }

    /// How many weights share a scale.
    pub fn granularity(self) -> Granularity {
        match self.info().scale {
            Scale::RowF32(_) | Scale::RowF16(_) => Granularity::Row,
            Scale::TensorF32(_) | Scale::Multiply | Scale::Divide => Granularity::Tensor,
        }
    }

    /// Bytes of a matrix.
    ///
    /// # Errors
    /// [`Error::PackingShape`]
    pub fn nbytes(self, rows: usize, cols: usize) -> Result<usize> {
        let info = self.info();
        let shape = Shape { rows, cols };
        let refused = |why| Error::PackingShape { packing: info.name, rows, cols, why };
        // Every row has at most a scale and a byte per weight.
        let bound = cols.checked_add(64).and_then(|n| n.checked_mul(rows.max(1)));
        bound
            .filter(|n| *n <= isize::MAX as usize / 8)
            .ok_or_else(|| refused("it does not fit in the address space"))?;
        match (info.needs)(shape) {
            None => Ok((info.nbytes)(shape)),
            Some(why) => Err(refused(why)),
        }
    }

    /// Reads packed weights; `scale` is given where it is beside the bytes, and only there.
    ///
    /// # Errors
    /// [`Error::PackingShape`], [`Error::PackingScale`], a wrong number of bytes, [`Error::BadCode`] with the
    /// first weight whose bits stand for nothing, a scale that is not finite; [`Error::Divisor`] for one that cannot
    /// divide.
    pub fn unpack(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        scale: Option<f32>,
    ) -> Result<Ternary> {
        let info = self.info();
        let shape = Shape { rows, cols };
        check_len("packed bytes", self.nbytes(rows, cols)?, bytes.len())?;
        if scale.is_some() != self.scale_is_outside() {
            let needed = self.scale_is_outside();
            return Err(Error::PackingScale { packing: info.name, needed });
        }
        let scales = match info.scale {
            Scale::TensorF32(at) => vec![f32_at(bytes, at(shape))],
            Scale::RowF32(at) => (0..rows).map(|r| f32_at(bytes, at(shape, r))).collect(),
            Scale::RowF16(at) => (0..rows).map(|r| f16_at(bytes, at(shape, r))).collect(),
            Scale::Multiply => scale.into_iter().collect(),
            Scale::Divide => match scale {
                Some(s) if s.is_finite() && (1.0 / s).is_finite() => vec![1.0 / s],
                s => {
                    let value = format!("{:?}", s.unwrap_or(0.0));
                    return Err(Error::Divisor { packing: info.name, value });
                }
            },
        };
        let mut codes = vec![0i8; rows * cols];
        let bad = AtomicUsize::new(usize::MAX);
        if cols > 0 {
            threads::for_each_chunk(&mut codes, cols, |r, row| {
                for (c, q) in row.iter_mut().enumerate() {
                    match code(info.place, bytes, shape, r, c) {
                        Some(code) => *q = code,
                        None => {
                            bad.fetch_min(r * cols + c, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        match bad.into_inner() {
            usize::MAX => Ternary::new(rows, cols, codes, scales, self.granularity()),
            i => {
                let (row, col) = (i / cols, i % cols);
                let (Place::Bits(place) | Place::Digit(place)) = info.place;
                let byte = bytes[place(shape, row, col).0];
                Err(Error::BadCode { packing: info.name, row, col, byte })
            }
        }
    }

    /// Writes weights, so that [`Self::unpack`] gives the same back.
    ///
    /// # Errors
    /// [`Error::PackingShape`]; [`Error::NotExact`] where weights that share a scale here have different ones,
    /// or the scale is not a number that the packing can hold.
    pub fn pack(self, weights: &Ternary) -> Result<Packed> {
        let info = self.info();
        let (rows, cols) = (weights.rows(), weights.cols());
        let shape = Shape { rows, cols };
        let mut bytes = vec![0; self.nbytes(rows, cols)?];
        let scales = weights.scales_per(self.granularity(), info.name, |s| s)?;
        let not_exact = |row, why| Error::NotExact { format: info.name, row, col: 0, why };
        let mut outside = None;
        match info.scale {
            Scale::TensorF32(at) => put(&mut bytes, at(shape), &scales[0].to_le_bytes()),
            Scale::RowF32(at) => {
                for (r, s) in scales.iter().enumerate() {
                    put(&mut bytes, at(shape, r), &s.to_le_bytes());
                }
            }
            Scale::RowF16(at) => {
                for (r, s) in scales.iter().enumerate() {
                    let half = half::f16::from_f32(*s);
                    if half.to_f32() != *s {
                        return Err(not_exact(r, format!("its scale {s:e} is no F16")));
                    }
                    put(&mut bytes, at(shape, r), &half.to_le_bytes());
                }
            }
            Scale::Multiply => outside = Some(scales[0]),
            Scale::Divide => {
                outside = Some(inverse(scales[0]).ok_or_else(|| {
                    not_exact(0, format!("its scale {:e} is no f32 divided into 1", scales[0]))
                })?)
            }
        }
        for (r, row) in (0..rows).map(|r| (r, weights.row(r))) {
            for (c, q) in row.iter().enumerate() {
                let code = (q + 1) as u8;
                match info.place {
                    Place::Bits(place) => {
                        let (byte, bit) = place(shape, r, c);
                        bytes[byte] |= code << bit;
                    }
                    Place::Digit(place) => {
                        let (byte, digit) = place(shape, r, c);
                        bytes[byte] += code * POWER[digit as usize];
                    }
                }
            }
        }
        if let Place::Digit(place) = info.place {
            // Now that the values are complete; the first digit finds every byte once.
            for r in 0..rows {
                for c in 0..cols {
                    let (byte, digit) = place(shape, r, c);
                    if digit == 0 {
                        bytes[byte] = fraction(bytes[byte]);
                    }
                }
            }
        }
        Ok(Packed { bytes, scale: outside })
    }
}

impl std::fmt::Display for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Packing {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Packing::from_name(s)
    }
}

/// Powers of 3.
const POWER: [u8; 5] = [1, 3, 9, 27, 81];

/// The code of weight (r, c); `None` where its bits stand for nothing.
fn code(place: Place, bytes: &[u8], shape: Shape, r: usize, c: usize) -> Option<i8> {
    let code = match place {
        Place::Bits(place) => {
            let (byte, bit) = place(shape, r, c);
            bytes[byte] >> bit & 3
        }
        Place::Digit(place) => {
            let (byte, digit) = place(shape, r, c);
            value(bytes[byte])? / POWER[digit as usize] % 3
        }
    };
    (code < 3).then_some(code as i8 - 1)
}

/// The value 0 to 242 that is stored as this byte.
fn value(byte: u8) -> Option<u8> {
    let value = (u16::from(byte) * 243 / 256) as u8;
    (fraction(value) == byte).then_some(value)
}

/// A number that divided into 1 is `x`, if there is one.
fn inverse(x: f32) -> Option<f32> {
    let near = 1.0 / x;
    [near, near.next_up(), near.next_down()].into_iter().find(|y| y.is_finite() && 1.0 / y == x)
}

fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn put(bytes: &mut [u8], at: usize, number: &[u8]) {
    bytes[at..at + number.len()].copy_from_slice(number);
}
