//! The searches behind the encoders: which scale loses least.
//!
//! These are the routines of ggml's reference quantisers, told by what they do. Each operation is
//! rounded once (no fused multiply-adds) and each sum runs in ascending order, so a block gets the same
//! bytes on every machine. Codes are kept as f32 while searching: they are small integers, exact. Four
//! candidates are tried together, a lane each, because one sum in order is a chain of waiting.
//!
//! Sources, all in ggml-quants.c: `make_qx_quants` ([`signed`]), `make_q3_quants` ([`signed_by_steps`]),
//! `make_qp_quants` ([`positive`]); `min_search.rs` has the one for a scale and a minimum.

/// Below this magnitude a group counts as all zero (ggml's `GROUP_MAX_EPS`).
pub(super) const TINY: f32 = 1e-15;

/// Passes over the codes after which the step-by-step searches stop (ggml's choice).
const PASSES: usize = 5;

/// Candidates that are tried together.
pub(super) const LANES: usize = 4;

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
    // Steps of a tenth of a code: none, then -9 to 9. The last repeats and cannot win again.
    const STEPS: [[i8; LANES]; 5] =
        [[0, -9, -8, -7], [-6, -5, -4, -3], [-2, -1, 1, 2], [3, 4, 5, 6], [7, 8, 9, 9]];
    let (mut inverse, mut scale, mut best) = (-half / top, 0.0, 0.0);
    for (k, steps) in STEPS.iter().enumerate() {
        let candidates = steps.map(|step| -(half + 0.1 * f32::from(step)) / top);
        let (mut xq, mut qq) = ([0.0f32; LANES], [0.0f32; LANES]);
        for (x, w) in x.iter().zip(w) {
            for c in 0..LANES {
                let q = code(candidates[c] * x, -half, half - 1.0);
                xq[c] += w * x * q;
                qq[c] += w * q * q;
            }
        }
        for c in 0..LANES {
            if k + c == 0 {
                scale = ratio(xq[c], qq[c]);
                best = scale * xq[c];
            } else if qq[c] > 0.0 && xq[c] * xq[c] > best * qq[c] {
                scale = xq[c] / qq[c];
                best = scale * xq[c];
                inverse = candidates[c];
            }
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
pub(super) fn signed_by_steps<const N: usize>(x: &[f32; N], half: f32, codes: &mut [u8; N]) -> f32 {
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
