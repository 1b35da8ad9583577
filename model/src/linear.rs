//! Linear layers, the seam between the decoder and the kernels' products: a matrix in some format, and the
//! factor, bias and input norm that a few models put around it.

use std::sync::Arc;

use tritlab_kernels::{Acts, Format, Panels, Weights, op, threads};

use crate::buffers::Buffers;
use crate::error::Result;

/// `y = s W norm(x) + b`; the norm and s are BitLinear's, most layers have neither.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W, `[outputs][inputs]`; shared by models that have it in common.
    pub weight: Arc<Panels>,
    /// s, a factor on the products (GGUF's `.scale`); `None` is 1.
    pub scale: Option<f32>,
    /// b, `[outputs]`.
    pub bias: Option<Vec<f32>>,
    /// An RMSNorm of the layer's own on its inputs.
    pub input_norm: Option<InputNorm>,
}

/// RMSNorm of a linear layer's inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct InputNorm {
    /// `[inputs]`
    pub weight: Vec<f32>,
    /// Added to the mean square.
    pub eps: f32,
}

impl Linear {
    /// Outputs.
    pub fn rows(&self) -> usize {
        self.weight.rows()
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.weight.format()
    }

    /// What is left to do to the products `y`, [n][rows].
    fn finish(&self, y: &mut [f32]) {
        if self.scale.is_none() && self.bias.is_none() || y.is_empty() {
            return;
        }
        threads::for_each_chunk(y, self.rows(), |_, row| {
            if let Some(s) = self.scale {
                op::scale(row, s);
            }
            if let Some(bias) = &self.bias {
                op::add(row, bias);
            }
        });
    }
}

/// The products of several matrices with the same `n` inputs: `[n][rows]` each. Activations are quantised
/// once per grouping, and matrices that share one run in one parallel region; a layer with a norm of its
/// own has inputs of its own.
///
/// # Errors
/// As [`tritlab_kernels::matmul_many`].
pub fn project<const M: usize>(
    w: [&Linear; M],
    x: &[f32],
    n: usize,
    buffers: &mut Buffers,
) -> Result<[Vec<f32>; M]> {
    let mut y = w.map(|w| buffers.take(n * w.rows()));
    // Layers with equal keys share their inputs.
    let key: [_; M] = std::array::from_fn(|i| {
        (w[i].format().info().activation, w[i].input_norm.as_ref().map(|_| i))
    });
    for g in 0..M {
        if key[..g].contains(&key[g]) {
            continue;
        }
        let cols = w[g].weight.cols();
        let acts = match &w[g].input_norm {
            None => Acts::quantize(key[g].0, x, n, cols)?,
            Some(norm) => {
                let mut normed = buffers.take(x.len());
                threads::for_each_chunk(&mut normed, cols, |t, row| {
                    op::rms_norm(&x[t * cols..(t + 1) * cols], &norm.weight, norm.eps, row);
                });
                let acts = Acts::quantize(key[g].0, &normed, n, cols);
                buffers.give(normed);
                acts?
            }
        };
        let mut jobs: Vec<(&Panels, &mut [f32])> = w
            .iter()
            .zip(y.iter_mut())
            .zip(&key)
            .filter(|(_, other)| **other == key[g])
            .map(|((w, y), _)| (&*w.weight, y.as_mut_slice()))
            .collect();
        op::matmul_many(&mut jobs, &acts)?;
    }
    for (w, y) in w.iter().zip(&mut y) {
        w.finish(y);
    }
    Ok(y)
}
