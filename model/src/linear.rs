//! Linear layers, the seam between the decoder and the kernels' products: a matrix in some format, an
//! optional bias.

use tritlab_kernels::{Acts, Format, Panels, Weights, op};

use crate::buffers::Buffers;
use crate::error::Result;

/// `y = W x + b`
#[derive(Debug)]
pub struct Linear {
    /// W, [outputs][inputs].
    pub weight: Panels,
    /// b, [outputs].
    pub bias: Option<Vec<f32>>,
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

    /// Adds the bias to `y`, [n][rows].
    fn add_bias(&self, y: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(bias.len()) {
                op::add(row, bias);
            }
        }
    }
}

/// The products of several matrices with the same `n` inputs: [n][rows] each. Activations are quantised
/// once per grouping, and matrices that share one run in one parallel region.
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
    let grouping = w.map(|w| w.format().info().activation);
    for g in 0..M {
        if grouping[..g].contains(&grouping[g]) {
            continue;
        }
        let acts = Acts::quantize(grouping[g], x, n, w[g].weight.cols())?;
        let mut jobs: Vec<(&Panels, &mut [f32])> = w
            .iter()
            .zip(y.iter_mut())
            .zip(&grouping)
            .filter(|(_, other)| **other == grouping[g])
            .map(|((w, y), _)| (&w.weight, y.as_mut_slice()))
            .collect();
        op::matmul_many(&mut jobs, &acts)?;
    }
    for (w, y) in w.iter().zip(&mut y) {
        w.add_bias(y);
    }
    Ok(y)
}
