//! Looking into a forward pass, and changing it.

use crate::error::Result;

/// Sees what happens in a forward pass. Every method does nothing unless it is written; `()` is the observer
/// that sees nothing, and costs nothing: the decoder is compiled for it without the calls.
pub trait Observer {
    /// The embeddings, `[n][E]`.
    fn embedding(&mut self, _x: &[f32]) {}

    /// The input of linear layers of layer `layer`, `[n][inputs]`, and their names in GGUF: `attn_q`, ...
    fn input(&mut self, _layer: usize, _names: &[&'static str], _x: &[f32]) {}

    /// Whether [`Self::attention`] of this layer is wanted; it costs as much as the attention itself.
    fn wants_attention(&self, _layer: usize) -> bool {
        false
    }

    /// Softmax rows of a layer, `[n][heads][end]`; `end` is the number of positions held. A row is 0 where its
    /// query does not look.
    fn attention(&mut self, _layer: usize, _weights: &[f32], _end: usize) {}

    /// The residual stream after a layer, `[n][E]`: what is written to it is what the next layer gets.
    ///
    /// # Errors
    /// End the pass.
    fn output(&mut self, _layer: usize, _x: &mut [f32]) -> Result<()> {
        Ok(())
    }
}

impl Observer for () {}
