//! Where a panel's products go.

use crate::panel::ROWS;

/// The 64 outputs of a panel for some tokens, those of a token `stride` numbers after those of the one before:
/// [tokens][64], or columns of a row-major matrix.
pub(crate) struct Outputs<'a> {
    y: &'a mut [f32],
    stride: usize,
}

impl<'a> Outputs<'a> {
    /// [tokens][64]
    pub fn block(y: &'a mut [f32]) -> Self {
        Outputs { y, stride: ROWS }
    }

    /// Columns of a row-major matrix with rows of `stride` numbers, 64 or more; `y` begins with the first of them.
    pub fn columns(y: &'a mut [f32], stride: usize) -> Self {
        debug_assert!(stride >= ROWS, "a panel is a part of a row");
        Outputs { y, stride }
    }

    /// Number of tokens.
    #[inline(always)]
    pub fn tokens(&self) -> usize {
        self.y.len().div_ceil(self.stride)
    }

    /// Those from token `t` on.
    #[inline(always)]
    pub fn from(&mut self, t: usize) -> Outputs<'_> {
        let first = self.y.len().min(t * self.stride);
        Outputs { y: &mut self.y[first..], stride: self.stride }
    }

    /// Those before token `t`, and the others.
    pub fn split(self, t: usize) -> (Self, Self) {
        let first = self.y.len().min(t * self.stride);
        let (before, rest) = self.y.split_at_mut(first);
        (Outputs { y: before, stride: self.stride }, Outputs { y: rest, stride: self.stride })
    }

    /// Outputs `16 v..16 v + 16` of token `t`; there are none where there is no such token.
    #[inline(always)]
    pub fn vector(&mut self, t: usize, v: usize) -> Option<&mut [f32; 16]> {
        self.y.get_mut(t * self.stride + v * 16..)?.first_chunk_mut()
    }

    /// The outputs of each token.
    #[inline(always)]
    pub fn each_token(&mut self) -> impl Iterator<Item = &mut [f32; ROWS]> {
        self.y.chunks_mut(self.stride).filter_map(|row| row.first_chunk_mut())
    }
}
