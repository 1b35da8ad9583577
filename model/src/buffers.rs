//! Activations between operations, kept from layer to layer.
//!
//! Every layer of a batch needs vectors of the same few lengths. Allocating them anew costs their zeroing
//! and, for long prompts, a page fault per 4 KiB: a tenth of the time of a small model. Contents are never
//! read before they are written.

/// Vectors waiting to be used again.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Vec<Vec<f32>>);

/// More than a layer ever has in use: older lengths (another batch size) are dropped.
const KEEP: usize = 16;

impl Buffers {
    /// A vector of `len` numbers with any contents.
    pub fn take(&mut self, len: usize) -> Vec<f32> {
        match self.0.iter().rposition(|b| b.len() == len) {
            Some(i) => self.0.swap_remove(i),
            None => vec![0.0; len],
        }
    }

    /// Gives a vector back.
    pub fn give(&mut self, buffer: Vec<f32>) {
        if self.0.len() == KEEP {
            self.0.remove(0);
        }
        self.0.push(buffer);
    }
}
