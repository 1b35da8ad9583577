//! The definition of every answer, as plain loops. No `cfg`, no threads, no cleverness; nothing here is
//! shared with the kernels it judges except the format's `decode` and the constants below.
//!
//! # The arithmetic contract
//!
//! * **Weights**: `w = d*q - m`, exact products ([`crate::format`]).
//! * **Activations**: [`quantize_row`].
//! * **Integer dot**: exact i32. For k-quants `I = sum over sub-blocks of sub * (sum of q*a)`.
//! * **Rows**: `acc = 0`; groups in ascending k: `acc = fma(d*dx, I as f32, acc)`, then, for formats with
//!   a minimum, `acc = fma(-(m*dx), S as f32, acc)` with `S = sum over sub-blocks of sub_min * (sum of a)`.
//!   A row or tensor scale is one multiply at the end.
//! * **Dense rows**: `acc = fma(w, x, acc)`, ascending k.
//! * **Sums over a vector** (norms, softmax): lane l of 16 takes elements l, l+16, l+32, ...; a short tail
//!   is padded with +0; the lanes are added as a tree: l with l+8, then +4, +2, +1.
//! * **Keys and values in f16**: each rounded once, to nearest even, when it enters the cache; attention is
//!   then that of f32 over the rounded numbers.
//! * **exp**: [`exp`]; everything else is written in terms of it.
//!
//! `fma` rounds once. Every other operation is one f32 operation, round to nearest even.
//!
//! [`matmul_f64`] is the same product in f64 with its own error bound, so that the contract itself can be
//! judged for accuracy.

use crate::activation::Acts;
use crate::format::{Grouping, Kind, Plain, Scales};
use crate::matrix::Weights;

/// `ln 2` rounded to 9 significant bits: products with small integers are exact.
pub const LN2_HI: f32 = 355.0 / 512.0;
/// `ln 2 - LN2_HI`.
pub const LN2_LO: f32 = -2.121_944_4e-4;
/// Arguments of [`exp`] are clamped to this range: results stay normal numbers.
pub const EXP_RANGE: [f32; 2] = [-87.0, 88.0];
/// 1/k! for k = 7 down to 0: the Taylor polynomial of exp; on |r| <= ln(2)/2 its relative error is
/// below 6e-9, a tenth of an ulp.
pub const EXP_POLY: [f32; 8] =
    [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
/// `sqrt(2/pi)` of the tanh form of GELU.
pub const GELU_A: f32 = 0.797_884_6;
/// The cubic coefficient of the tanh form of GELU.
pub const GELU_B: f32 = 0.044_715;

/// `e^x`, with x clamped to [`EXP_RANGE`] (NaN counts as the lower end): `n = round_half_even(x*log2 e)`,
/// `r = fma(n, -LN2_HI, x)`, `r = fma(n, -LN2_LO, r)`, Horner with fma, times `2^n`.
pub fn exp(x: f32) -> f32 {
    let x = if x > EXP_RANGE[0] { x } else { EXP_RANGE[0] };
    let x = if x < EXP_RANGE[1] { x } else { EXP_RANGE[1] };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_HI, x);
    let r = n.mul_add(-LN2_LO, r);
    let mut p = EXP_POLY[0];
    for c in &EXP_POLY[1..] {
        p = p.mul_add(r, *c);
    }
    p * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// Sum of `term(i)` for i in 0..n over 16 strided lanes; `term` gets the lane's value so far.
fn lane_sum(n: usize, term: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    for i in 0..n {
        lanes[i % 16] = term(i, lanes[i % 16]);
    }
    if !n.is_multiple_of(16) {
        for lane in &mut lanes[n % 16..] {
            *lane += 0.0;
        }
    }
    tree(lanes)
}

/// The fixed tree over 16 lanes.
fn tree(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    lanes[0]
}

/// Quantises one activation row in groups of `group`; `floor` is the smallest `max|x|`.
/// `q` may be longer than `x`: the rest stays as it is.
pub fn quantize_row(
    x: &[f32],
    group: usize,
    floor: f32,
    q: &mut [i8],
    scale: &mut [f32],
    sum: &mut [i32],
) {
    for (g, x) in x.chunks(group).enumerate() {
        let mut a = floor;
        for v in x {
            if v.abs() > a {
                a = v.abs();
            }
        }
        // Infinite where a is 0 or too small to divide by: such a group is all zeros.
        let inverse = 127.0 / a;
        let zero = inverse == f32::INFINITY;
        let inverse = if zero { 0.0 } else { inverse };
        scale[g] = if zero { 0.0 } else { a / 127.0 };
        sum[g] = 0;
        for (i, v) in x.iter().enumerate() {
            let code = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
            q[g * group + i] = code;
            sum[g] += i32::from(code);
        }
    }
}

/// One output: row `r` of `w` times activation vector `t`.
pub fn dot(w: &impl Weights, r: usize, acts: &Acts, t: usize) -> f32 {
    let (info, cols) = (w.format().info(), w.cols());
    let Kind::Coded(codes) = &info.kind else {
        let x = acts.dense(t);
        return (0..cols).fold(0.0f32, |acc, k| w.element(r, k).mul_add(x[k], acc));
    };
    let (a, scales) = (acts.codes(t), acts.scales(t));
    let mut plain = Plain::new();
    let mut acc = 0.0f32;
    // One exact integer for the whole row where activations are grouped per token.
    let mut token_sum = 0i32;
    for b in 0..cols.div_ceil(info.block) {
        w.block(r, b, &mut plain);
        let (mut dot, mut mins) = (0i32, 0i32);
        for i in 0..info.block.min(cols - b * info.block) {
            let (s, a) = (i / plain.sub_len, i32::from(a[b * info.block + i]));
            dot += i32::from(plain.sub[s]) * i32::from(plain.q[i]) * a;
            mins += i32::from(plain.sub_min[s]) * a;
        }
        if acts.grouping() == Grouping::Token {
            token_sum += dot;
            continue;
        }
        let dx = scales[b];
        acc = (plain.d * dx).mul_add(dot as f32, acc);
        if codes.min {
            acc = (-(plain.m * dx)).mul_add(mins as f32, acc);
        }
    }
    if acts.grouping() == Grouping::Token {
        acc = scales[0].mul_add(token_sum as f32, 0.0);
    }
    match info.scales {
        Scales::Row | Scales::Tensor => acc * w.row_scale(r),
        Scales::None | Scales::Block => acc,
    }
}

/// All outputs, `[n][rows]`.
///
/// # Panics
/// If the shapes or the grouping do not fit (callers check).
pub fn matmul(w: &impl Weights, acts: &Acts, out: &mut [f32]) {
    assert_eq!(acts.cols(), w.cols(), "columns");
    assert_eq!(acts.grouping(), w.format().info().activation, "grouping");
    assert_eq!(out.len(), acts.n() * w.rows(), "outputs");
    for t in 0..acts.n() {
        for r in 0..w.rows() {
            out[t * w.rows() + r] = dot(w, r, acts, t);
        }
    }
}

/// An f64 answer and how far an f32 one may be from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The sum, in f64.
    pub value: f64,
    /// The sum of the absolute terms, in f64: what an error is small beside.
    pub mass: f64,
    /// Largest rounding error that the f32 contract can make: the sum of the absolute terms times
    /// (number of terms + 4) times 2^-24.
    pub bound: f64,
}

/// The product of the decoded weights with the decoded activations, in f64.
pub fn matmul_f64(w: &impl Weights, acts: &Acts, t: usize, r: usize) -> Answer {
    let mut weights = vec![0.0; w.cols()];
    w.dequantize_row(r, &mut weights);
    let x: Vec<f64> = match acts.grouping() {
        Grouping::Dense => acts.dense(t).iter().map(|&v| f64::from(v)).collect(),
        grouping => {
            let group = grouping.len().unwrap_or(w.cols().max(1));
            let scale = |i: usize| f64::from(acts.scales(t)[i / group]);
            acts.codes(t)
                .iter()
                .take(w.cols())
                .enumerate()
                .map(|(i, &q)| f64::from(q) * scale(i))
                .collect()
        }
    };
    let (mut value, mut mass) = (0.0, 0.0);
    for (w, x) in weights.iter().zip(&x) {
        value += f64::from(*w) * x;
        mass += (f64::from(*w) * x).abs();
    }
    // With a minimum, d*q and m cancel: their own sizes count, at most twice the code range.
    let cancel = match w.format().codes() {
        Some(codes) if codes.min => f64::from(2 * codes.max + 1),
        _ => 1.0,
    };
    let terms = w.cols() as f64 + 4.0;
    let bound = terms * cancel * mass * 2f64.powi(-24) + f64::from(f32::MIN_POSITIVE);
    Answer { value, mass, bound }
}

/// `out = (x * (1 / sqrt(mean(x^2) + eps))) * w`, the mean by [16 lanes](self) with fma.
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let sum = lane_sum(x.len(), |i, acc| x[i].mul_add(x[i], acc));
    let r = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for i in 0..x.len() {
        out[i] = (x[i] * r) * w[i];
    }
}

/// The gate functions of the supported models.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `max(x, 0)^2`
    Relu2,
    /// GELU in its tanh form, written as `x / (1 + e^-2u)`, `u = GELU_A * (x + GELU_B x^3)`, which is
    /// the same function.
    GeluTanh,
}

impl Activation {
    /// The function of one element.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::Silu => x / (1.0 + exp(-x)),
            Activation::Relu2 => {
                let y = if x > 0.0 { x } else { 0.0 };
                y * y
            }
            Activation::GeluTanh => {
                let u = GELU_A * (GELU_B * (x * x)).mul_add(x, x);
                x / (1.0 + exp(u * -2.0))
            }
        }
    }
}

/// `gate = act(gate) * up`
pub fn gated(act: Activation, gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = act.apply(*g) * u;
    }
}

/// `x = cap * tanh(x / cap)` with `tanh z = 1 - 2 / (e^2z + 1)`.
pub fn tanh_cap(x: &mut [f32], cap: f32) {
    for v in x {
        *v = cap * (1.0 - 2.0 / (exp((*v / cap) * 2.0) + 1.0));
    }
}

/// Maximum by comparison, from the first element on (a NaN never wins).
fn maximum(x: &[f32]) -> f32 {
    let mut m = f32::NEG_INFINITY;
    for &v in x {
        if v > m {
            m = v;
        }
    }
    m
}

/// `x = e^(x - max)`; returns the sum of the results by [16 lanes](self).
pub fn exp_minus_max(x: &mut [f32]) -> f32 {
    let m = maximum(x);
    for v in x.iter_mut() {
        *v = exp(*v - m);
    }
    lane_sum(x.len(), |i, acc| acc + x[i])
}

/// `x = e^(x - max) * (1 / sum)`
pub fn softmax(x: &mut [f32]) {
    let inverse = 1.0 / exp_minus_max(x);
    for v in x {
        *v *= inverse;
    }
}

/// Rotates element j with element j + d/2 for j < d/2, `d = 2 * cos.len()`; later elements stay.
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for j in 0..half {
        let (a, b) = (x[j], x[j + half]);
        x[j] = a.mul_add(cos[j], -(b * sin[j]));
        x[j + half] = b.mul_add(cos[j], a * sin[j]);
    }
}

/// A key or value as a cache in f16 holds it.
pub fn round_f16(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

/// One query head against keys and values `[n][dim]`:
/// `s_j = (sum over d ascending, fused, of q_d k_jd) * scale`, [`tanh_cap`] if `cap`, [`exp_minus_max`],
/// `out_d = (sum over j ascending, fused, of e_j v_jd) * (1 / sum)`.
pub fn attention(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    scale: f32,
    cap: Option<f32>,
    out: &mut [f32],
) {
    let dim = q.len();
    let mut s: Vec<f32> = keys
        .chunks_exact(dim)
        .map(|k| q.iter().zip(k).fold(0.0f32, |acc, (q, k)| q.mul_add(*k, acc)) * scale)
        .collect();
    if let Some(cap) = cap {
        tanh_cap(&mut s, cap);
    }
    let inverse = 1.0 / exp_minus_max(&mut s);
    for (d, o) in out.iter_mut().enumerate() {
        let mut acc = 0.0f32;
        for (j, e) in s.iter().enumerate() {
            acc = e.mul_add(values[j * dim + d], acc);
        }
        *o = acc * inverse;
    }
}
