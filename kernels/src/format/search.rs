//! The searches behind the encoders: which scale, or scale and minimum, loses least.
//!
//! These are the routines of ggml's reference quantisers, told by what they do. Each operation is
//! rounded once (no fused multiply-adds) and each sum runs in ascending order, so a block gets the same
//! bytes on every machine. Codes are kept as f32 while searching: they are small integers, exact, and
//! the loops over them vectorise.
//!
//! Sources, all in ggml-quants.c: `make_qx_quants` ([`signed`]), `make_q3_quants` ([`signed_by_steps`]),
//! `make_qkx2_quants` and `make_qkx3_quants` ([`MinSearch::run`]), `make_qp_quants` ([`positive`]).

/// Below this magnitude a group counts as all zero (ggml's `GROUP_MAX_EPS`).
pub(super) const TINY: f32 = 1e-15;

/// Passes over the codes after which the step-by-step searches stop (ggml's choice).
const PASSES: usize = 5;

/// Nearest integer, ties to even, for `|x| < 2^22`: above 1.5 * 2^23 an f32 has no fraction bits.
fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// `x` rounded half to even, within `low..=high`; NaN gives `low`. Whole bounds may be applied first.
pub(super) fn code(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    nearest(if x < high { x } else { high })
}

/// The value of largest magnitude, sign kept (the first on ties); 0 if all are zero. One NaN among them
/// is the answer, so that a search that overflowed ends as a scale that is refused.
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut largest = 0.0f32;
    for &v in x {
        if v.abs() > largest.abs() || v.is_nan() {
            largest = v;
        }
        if largest.is_nan() {
            break;
        }
    }
    largest
}

/// The sum of squares, in order.
pub(super) fn sum_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, v| sum + v * v)
}

/// The weight of each error, given how much the columns matter: `importance * sqrt(spread + x^2)`.
pub(super) fn weigh<const N: usize>(x: &[f32; N], importance: &[f32; N], spread: f32) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (spread + x[i] * x[i]).sqrt())
}

/// `x^2`: the weight of each error where no importance is known.
pub(super) fn squares<const N: usize>(x: &[f32; N]) -> [f32; N] {
    x.map(|v| v * v)
}

/// `a / b`, and 0 where `b` is 0.
fn ratio(a: f32, b: f32) -> f32 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// Codes `0..2*half` around `half`, no minimum: tries the scale that gives the largest weight code
/// `-half`, then 18 around it, keeps the one with the largest `(sum w*x*q)^2 / sum w*q^2`, and returns its
/// least-squares scale. A group of zeros has codes 0 and scale 0.
pub(super) fn signed<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    half: f32,
    codes: &mut [u8; N],
) -> f32 {
    let top = largest(x);
    if top.abs() < TINY {
        codes.fill(0);
        return 0.0;
    }
    let wx: [f32; N] = std::array::from_fn(|i| w[i] * x[i]);
    let sums = |inverse: f32| {
        let q = x.map(|v| code(inverse * v, -half, half - 1.0));
        let xq: [f32; N] = std::array::from_fn(|i| wx[i] * q[i]);
        let qq: [f32; N] = std::array::from_fn(|i| w[i] * q[i] * q[i]);
        xq.iter().zip(&qq).fold((0.0f32, 0.0f32), |(a, b), (xq, qq)| (a + xq, b + qq))
    };
    let mut inverse = -half / top;
    let (xq, qq) = sums(inverse);
    let mut scale = ratio(xq, qq);
    let mut best = scale * xq;
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let candidate = -(half + 0.1 * f32::from(step)) / top;
        let (xq, qq) = sums(candidate);
        if qq > 0.0 && xq * xq > best * qq {
            scale = xq / qq;
            best = scale * xq;
            inverse = candidate;
        }
    }
    for (c, v) in codes.iter_mut().zip(x) {
        *c = (code(inverse * v, -half, half - 1.0) + half) as u8;
    }
    scale
}

/// As [`signed`], weights `x^2`, but moving one code at a time: from the scale that gives the largest
/// weight code `-half`, each code moves to the best place for the scale of all others, while that raises
/// `(sum w*x*q)^2 / sum w*q^2`.
pub(super) fn signed_by_steps<const N: usize>(
    x: &[f32; N],
    half: f32,
    codes: &mut [u8; N],
) -> f32 {
    let top = largest(x);
    if top.abs() < TINY {
        codes.fill(0);
        return 0.0;
    }
    let w = squares(x);
    let inverse = -half / top;
    let mut q = x.map(|v| code(inverse * v, -half, half - 1.0));
    let (mut xq, mut qq) = (0.0f32, 0.0f32);
    for i in 0..N {
        xq += w[i] * x[i] * q[i];
        qq += w[i] * q[i] * q[i];
    }
    for _ in 0..PASSES {
        let mut moved = false;
        for i in 0..N {
            let mut xq_new = xq - w[i] * x[i] * q[i];
            if xq_new > 0.0 {
                let mut qq_new = qq - w[i] * q[i] * q[i];
                let new = code(x[i] * qq_new / xq_new, -half, half - 1.0);
                if new != q[i] {
                    xq_new += w[i] * x[i] * new;
                    qq_new += w[i] * new * new;
                    if qq_new > 0.0 && xq_new * xq_new * qq > xq * xq * qq_new {
                        (q[i], xq, qq, moved) = (new, xq_new, qq_new, true);
                    }
                }
            }
        }
        if !moved {
            break;
        }
    }
    for (c, q) in codes.iter_mut().zip(q) {
        *c = (q + half) as u8;
    }
    ratio(xq, qq)
}

/// Codes `0..=top` for values that are not negative: the best of nine scales around the one that gives
/// the largest value code `top`, then single steps as in [`signed_by_steps`]. Quantises the scales and
/// minima of the sub-blocks, each weighed by its sub-block's weights.
pub(super) fn positive(x: &[f32], w: &[f32], top: f32, codes: &mut [u8]) -> f32 {
    let max = largest(x);
    if max < TINY {
        codes.fill(0);
        return 0.0;
    }
    let error = |inverse: f32| {
        let scale = 1.0 / inverse;
        x.iter().zip(w).fold(0.0f32, |sum, (x, w)| {
            let diff = x - scale * code(inverse * x, 0.0, top);
            sum + w * diff * diff
        })
    };
    let mut inverse = top / max;
    let mut best = error(inverse);
    for step in (-4i8..=4).filter(|step| *step != 0) {
        let candidate = (0.1 * f32::from(step) + top) / max;
        let e = error(candidate);
        if e < best {
            (best, inverse) = (e, candidate);
        }
    }
    let (mut xq, mut qq) = (0.0f32, 0.0f32);
    for ((c, x), w) in codes.iter_mut().zip(x).zip(w) {
        let q = code(inverse * x, 0.0, top);
        *c = q as u8;
        xq += w * x * q;
        qq += w * q * q;
    }
    for _ in 0..PASSES {
        let mut moved = false;
        for ((c, x), w) in codes.iter_mut().zip(x).zip(w) {
            let q = f32::from(*c);
            let mut xq_new = xq - w * x * q;
            let mut qq_new = qq - w * q * q;
            if xq_new > 0.0 && qq_new > 0.0 {
                let new = code(x * qq_new / xq_new, 0.0, top);
                if new != q {
                    xq_new += w * x * new;
                    qq_new += w * new * new;
                    if xq_new * xq_new * qq > xq * xq * qq_new {
                        *c = new as u8;
                        (xq, qq, moved) = (xq_new, qq_new, true);
                    }
                }
            }
        }
        if !moved {
            break;
        }
    }
    ratio(xq, qq)
}

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
        low = low.min(0.0);
        if low == high {
            codes.fill(0.0);
            return (0.0, -low);
        }
        let round = |inverse: f32, low: f32| x.map(|v| code(inverse * (v - low), 0.0, self.top));
        let error = |q: &[f32; N], scale: f32, low: f32| {
            let errors: [f32; N] = std::array::from_fn(|i| {
                let diff = scale * q[i] + low - x[i];
                w[i] * if self.absolute { diff.abs() } else { diff * diff }
            });
            errors.iter().fold(0.0f32, |sum, e| sum + e)
        };
        let inverse = self.top / (high - low);
        let mut scale = 1.0 / inverse;
        *codes = round(inverse, low);
        let mut best = error(codes, scale, low);
        for step in 0..=self.steps {
            let inverse = (self.start + self.step * f32::from(step) + self.top) / (high - low);
            let q = round(inverse, low);
            let wq: [f32; N] = std::array::from_fn(|i| w[i] * q[i]);
            let (mut sum_q, mut sum_qq, mut sum_xq) = (0.0f32, 0.0f32, 0.0f32);
            for i in 0..N {
                sum_q += wq[i];
                sum_qq += wq[i] * q[i];
                sum_xq += wq[i] * x[i];
            }
            let determinant = sum_w * sum_qq - sum_q * sum_q;
            if determinant > 0.0 {
                let mut s = (sum_w * sum_xq - sum_x * sum_q) / determinant;
                let mut m = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
                if m > 0.0 {
                    (s, m) = (sum_xq / sum_qq, 0.0);
                }
                let e = error(&q, s, m);
                if e < best {
                    (best, scale, low) = (e, s, m);
                    *codes = q;
                }
            }
        }
        (scale, -low)
    }
}
