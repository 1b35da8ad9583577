//! The search for a scale and a minimum: ggml's `make_qkx2_quants` and `make_qkx3_quants`, which differ
//! only in their candidates. The rules of `search.rs` hold here too.

use super::search::{LANES, code};

/// The search for a scale and a minimum.
pub(super) struct MinSearch {
    /// Largest code.
    pub top: f32,
    /// The candidates map the range to `top + start`, `top + start + step`, ...
    pub start: f32,
    /// Distance between candidates.
    pub step: f32,
    /// Candidates after the first.
    pub steps: u8,
    /// Whether the error is absolute; otherwise it is squared.
    pub absolute: bool,
}

impl MinSearch {
    /// The search used with importances, whatever the format.
    pub const fn weighted(top: f32) -> Self {
        MinSearch { top, start: -0.9, step: 0.05, steps: 36, absolute: false }
    }

    /// Codes `0..=top` with `x = scale * code - min`, `min >= 0`; returns `(scale, min)`.
    ///
    /// Begins with the range of the weights (0 included). Each candidate rounds to codes, solves the
    /// weighted least squares for scale and minimum, and wins if its error is lower. The minimum of each
    /// winner is the anchor that later candidates round from, so their order matters.
    pub fn run<const N: usize>(
        &self,
        x: &[f32; N],
        w: &[f32; N],
        codes: &mut [f32; N],
    ) -> (f32, f32) {
        let (mut low, mut high) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
        for i in 1..N {
            low = if x[i] < low { x[i] } else { low };
            high = if x[i] > high { x[i] } else { high };
            sum_w += w[i];
            sum_x += w[i] * x[i];
        }
        // A comparison and not `f32::min`, which may return a zero of either sign.
        low = if low > 0.0 { 0.0 } else { low };
        if low == high {
            codes.fill(0.0);
            return (0.0, -low);
        }
        let inverse = self.top / (high - low);
        let mut scale = 1.0 / inverse;
        let mut best = 0.0f32;
        for i in 0..N {
            codes[i] = code(inverse * (x[i] - low), 0.0, self.top);
            best += self.error(x[i], w[i], codes[i], scale, low);
        }
        let mut next = 0;
        while next <= self.steps {
            let lanes: [u8; LANES] = std::array::from_fn(|c| next + c as u8);
            let tries = self.candidates(x, w, (sum_w, sum_x), (low, high), lanes);
            let won = (0..LANES).find(|c| lanes[*c] <= self.steps && tries.error[*c] < best);
            next += LANES as u8;
            if let Some(c) = won {
                (best, scale, low) = (tries.error[c], tries.scale[c], tries.low[c]);
                *codes = std::array::from_fn(|i| tries.codes[i][c]);
                next = lanes[c] + 1;
            }
        }
        (scale, -low)
    }

    /// What one weight loses.
    fn error(&self, x: f32, w: f32, q: f32, scale: f32, low: f32) -> f32 {
        let diff = scale * q + low - x;
        w * if self.absolute { diff.abs() } else { diff * diff }
    }

    /// Candidates `steps`, all with the anchor `low`.
    fn candidates<const N: usize>(
        &self,
        x: &[f32; N],
        w: &[f32; N],
        (sum_w, sum_x): (f32, f32),
        (low, high): (f32, f32),
        steps: [u8; LANES],
    ) -> Candidates<N> {
        let mut out = Candidates {
            codes: [[0.0; LANES]; N],
            scale: [0.0; LANES],
            low: [0.0; LANES],
            error: [f32::INFINITY; LANES],
        };
        let inverse =
            steps.map(|k| (self.start + self.step * f32::from(k) + self.top) / (high - low));
        let [mut sum_q, mut sum_qq, mut sum_xq] = [[0.0f32; LANES]; 3];
        for i in 0..N {
            for c in 0..LANES {
                let q = code(inverse[c] * (x[i] - low), 0.0, self.top);
                out.codes[i][c] = q;
                sum_q[c] += w[i] * q;
                sum_qq[c] += w[i] * q * q;
                sum_xq[c] += w[i] * q * x[i];
            }
        }
        for c in 0..LANES {
            let determinant = sum_w * sum_qq[c] - sum_q[c] * sum_q[c];
            out.scale[c] = (sum_w * sum_xq[c] - sum_x * sum_q[c]) / determinant;
            out.low[c] = (sum_qq[c] * sum_x - sum_q[c] * sum_xq[c]) / determinant;
            if out.low[c] > 0.0 {
                (out.scale[c], out.low[c]) = (sum_xq[c] / sum_qq[c], 0.0);
            }
            if determinant > 0.0 {
                out.error[c] = 0.0;
            }
        }
        for i in 0..N {
            for c in 0..LANES {
                out.error[c] += self.error(x[i], w[i], out.codes[i][c], out.scale[c], out.low[c]);
            }
        }
        out
    }
}

/// Candidates of [`MinSearch`], a lane each.
struct Candidates<const N: usize> {
    codes: [[f32; LANES]; N],
    scale: [f32; LANES],
    low: [f32; LANES],
    /// Infinite, or NaN, where the least squares have no answer.
    error: [f32; LANES],
}
