//! Blocks of weights that are ternary already.
//!
//! The formats' own encoders look for a scale; those whose blocks have one are asked so that they find exactly what is
//! given. Where the scale is outside the blocks, codes are packed as they are. What comes out is what the format's
//! `decode` reads back, tested for every ternary format.

use super::{Format, Input, MAX_BLOCK, put_f16, sign, ternary, ternary_base3};

/// Writes a block from codes -1, 0 and 1 and the block's scale, an f16; where scales are outside the blocks, a row
/// of blocks from all of its codes (the last block is filled up with zeros), and the scale means nothing.
pub(crate) type TernaryEncoder = Box<dyn Fn(&[i8], f32, &mut [u8]) + Sync>;

impl Format {
    /// Whether its weights are -1, 0 and 1 times a scale (or -1 and 1: the sign formats).
    pub fn is_ternary(self) -> bool {
        self.ternary_encoder().is_some()
    }

    /// How ternary weights go into a block as they are; `None` for formats of other codes.
    pub(crate) fn ternary_encoder(self) -> Option<TernaryEncoder> {
        use Format::*;
        let encode = self.codes()?.encode;
        let block = self.info().block;
        let encode = move |codes: &[i8], times: f32, out: &mut [u8]| {
            let mut x = [0.0; MAX_BLOCK];
            for (x, q) in x.iter_mut().zip(codes) {
                *x = times * f32::from(*q);
            }
            let x = &x[..block];
            encode(&Input { x, importance: None, row_mean_square: 0.0, scale: 1.0 }, out);
        };
        match self {
            // The scale is the maximum, and every weight is 0 or the maximum.
            TQ1_0 | TQ2_0 => Some(Box::new(encode)),
            // A block is a byte: through floats, one at a time, it was most of the time of loading a file.
            TERNARY | TERNARY_ROW => Some(Box::new(|q, _, out| by_byte(q, out, ternary::pack))),
            TERNARY_B3 | TERNARY_B3_ROW => {
                Some(Box::new(|q, _, out| by_byte(q, out, ternary_base3::pack)))
            }
            SIGN | SIGN_ROW => Some(Box::new(|q, _, out| by_byte(q, out, sign::pack))),
            // The scale is a mean of at most 1, so that -1, 0 and 1 round to themselves; then it is replaced.
            TERNARY_G32 | TERNARY_G64 | TERNARY_G128 | TERNARY_G256 => {
                Some(Box::new(move |codes, scale, out| {
                    encode(codes, 1.0, out);
                    put_f16(out, 0, scale);
                }))
            }
            _ => None,
        }
    }
}

/// A row whose blocks are bytes of `N` codes.
fn by_byte<const N: usize>(codes: &[i8], out: &mut [u8], pack: impl Fn([i8; N]) -> u8) {
    let (whole, rest) = codes.as_chunks::<N>();
    for (byte, codes) in out.iter_mut().zip(whole) {
        *byte = pack(*codes);
    }
    if let (Some(byte), false) = (out.get_mut(whole.len()), rest.is_empty()) {
        let mut last = [0; N];
        last[..rest.len()].copy_from_slice(rest);
        *byte = pack(last);
    }
}
