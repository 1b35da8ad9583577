//! Named ways to make weights ternary, and what they cost.
//!
//! For the weights w of a tensor, a row or a group (means and sums in f64, in order; one rounding to f32):
//!
//! ```text
//! absmean        scale = max(mean|w|, 1e-5)   code = round_half_even(w / scale), at most 1 in magnitude
//! absmax         scale = max|w|               code = round(w / scale), half away from zero
//! twn            code = sign(w) where |w| > 0.7 mean|w|, otherwise 0    scale = mean|w| over the codes not 0
//! optimal        scale and codes of least squared error: code = sign(w) of the k largest |w|, scale = their
//!                mean |w|, with the k that makes (sum of those |w|)^2 / k largest
//! sign           scale = mean|w|              code = +1 where w > 0, otherwise -1
//! centred_sign   scale = mean|w|              code = +1 where w > mean(w), otherwise -1
//! ```
//!
//! absmean is BitNet b1.58 (arXiv 2402.17764, eq. 1-3), the rule of TERNARY; absmax is ggml's rule for TQ1_0 and
//! TQ2_0; twn is Ternary Weight Networks (arXiv 1605.04711, with its threshold 0.7 mean|w|), an approximation of
//! optimal, which is eq. 3-5 there solved exactly; sign and centred_sign are the first BitNet paper (arXiv
//! 2310.11453, eq. 1-3), without and with its mean-centring. The mean is not added back, there as here.
//!
//! A refit replaces the scale by the one of least squared error for the codes: `<w, q> / <q, q>`, 0 where all
//! codes are 0.

use crate::error::{Error, Result, check_finite, check_len};
use crate::format::{absmean, inverse, nearest_ternary, nearest_trit};
use crate::ternary::{Granularity, Ternary};

/// A way to make weights ternary; see the module's first lines.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Projection {
    /// BitNet b1.58.
    Absmean,
    /// ggml's TQ1_0 and TQ2_0.
    Absmax,
    /// Ternary Weight Networks.
    Twn,
    /// Of all ternary weights the nearest, by squared error.
    Optimal,
    /// BitNet without mean-centring.
    Sign,
    /// BitNet.
    CentredSign,
}

impl Projection {
    /// All of them.
    pub const ALL: [Projection; 6] = [
        Projection::Absmean,
        Projection::Absmax,
        Projection::Twn,
        Projection::Optimal,
        Projection::Sign,
        Projection::CentredSign,
    ];

    /// `absmean`, `absmax`, `twn`, `optimal`, `sign`, `centred_sign`
    pub const fn name(self) -> &'static str {
        match self {
            Projection::Absmean => "absmean",
            Projection::Absmax => "absmax",
            Projection::Twn => "twn",
            Projection::Optimal => "optimal",
            Projection::Sign => "sign",
            Projection::CentredSign => "centred_sign",
        }
    }

    /// Finds a projection by name, in any letter case.
    ///
    /// # Errors
    /// [`Error::UnknownProjection`], which lists the names.
    pub fn from_name(name: &str) -> Result<Projection> {
        Projection::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known = Projection::ALL.map(Projection::name).join(", ");
            Error::UnknownProjection { name: name.to_owned(), known }
        })
    }

    /// Makes row-major weights ternary, with one scale per `granularity`.
    ///
    /// # Errors
    /// A wrong length, weights that are not finite, groups of no weights.
    pub fn apply(
        self,
        weights: &[f32],
        rows: usize,
        cols: usize,
        granularity: Granularity,
        refit: bool,
    ) -> Result<Ternary> {
        let too_large =
            || Error::TooLarge { format: "ternary", rows, cols, why: "it does not fit in memory" };
        let elements = rows.checked_mul(cols).ok_or_else(too_large)?;
        check_len("weights", elements, weights.len())?;
        check_finite("weights", weights)?;
        let mut codes = vec![0; elements];
        let mut scales = Vec::new();
        let mut one = |w: &[f32], q: &mut [i8]| {
            let scale = self.project(w, q);
            scales.push(if refit { least_squares(w, q) } else { scale });
        };
        match granularity {
            Granularity::Tensor => one(weights, &mut codes),
            // Rows of no weights have scales too; groups of no weights do not exist.
            Granularity::Row if cols == 0 => (0..rows).for_each(|_| one(&[], &mut [])),
            Granularity::Group(_) if cols == 0 => {}
            Granularity::Group(0) => {
                return Err(Error::TooLarge {
                    format: "ternary",
                    rows,
                    cols,
                    why: "a group of 0 weights would need scales without end",
                });
            }
            Granularity::Row | Granularity::Group(_) => {
                let len = match granularity {
                    Granularity::Group(n) => n,
                    _ => cols,
                };
                for (w, q) in weights.chunks_exact(cols).zip(codes.chunks_exact_mut(cols)) {
                    w.chunks(len).zip(q.chunks_mut(len)).for_each(|(w, q)| one(w, q));
                }
            }
        }
        Ternary::new(rows, cols, codes, scales, granularity)
    }

    /// Writes the codes of `w`, which share a scale, and gives the scale.
    fn project(self, w: &[f32], q: &mut [i8]) -> f32 {
        let sign = |above: f64| move |w: f32| if f64::from(w) > above { 1 } else { -1 };
        match self {
            Projection::Absmean => {
                let scale = absmean(w);
                fill(w, q, |w| nearest_ternary(w, scale));
                scale
            }
            Projection::Absmax => {
                let scale = w.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let inverse = inverse(scale);
                fill(w, q, |w| nearest_trit(w * inverse));
                scale
            }
            Projection::Twn => {
                let threshold = 0.7 * mean(w.iter().map(|w| f64::from(w.abs())));
                keep(w, q, |w| f64::from(w) > threshold)
            }
            Projection::Optimal => {
                let least = least_kept(w);
                keep(w, q, |w| w >= least)
            }
            Projection::Sign => {
                fill(w, q, sign(0.0));
                mean(w.iter().map(|w| f64::from(w.abs()))) as f32
            }
            Projection::CentredSign => {
                fill(w, q, sign(mean(w.iter().map(|w| f64::from(*w)))));
                mean(w.iter().map(|w| f64::from(w.abs()))) as f32
            }
        }
    }
}

/// Codes the sign of the weights whose magnitude is `kept`; gives the mean of those.
fn keep(w: &[f32], q: &mut [i8], kept: impl Fn(f32) -> bool) -> f32 {
    fill(w, q, |w| match kept(w.abs()) {
        true => i8::from(w > 0.0) - i8::from(w < 0.0),
        false => 0,
    });
    mean(w.iter().map(|w| w.abs()).filter(|w| kept(*w)).map(f64::from)) as f32
}

/// The smallest magnitude that is not 0 in the ternary weights of least squared error. With the k largest kept,
/// at their mean, the error is `sum w^2 - (sum of the k largest |w|)^2 / k`.
fn least_kept(w: &[f32]) -> f32 {
    let mut magnitudes: Vec<f32> = w.iter().map(|w| w.abs()).collect();
    magnitudes.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut sum, mut best, mut least) = (0.0, 0.0, f32::INFINITY);
    for (i, m) in magnitudes.into_iter().enumerate() {
        sum += f64::from(m);
        let gain = sum * sum / (i + 1) as f64;
        if gain > best {
            (best, least) = (gain, m);
        }
    }
    least
}

fn fill(w: &[f32], q: &mut [i8], code: impl Fn(f32) -> i8) {
    q.iter_mut().zip(w).for_each(|(q, w)| *q = code(*w));
}

/// The mean, summed in order; 0 of no values.
fn mean(x: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = x.fold((0.0, 0u64), |(sum, n), x| (sum + x, n + 1));
    sum / n.max(1) as f64
}

/// The scale of least squared error.
fn least_squares(w: &[f32], q: &[i8]) -> f32 {
    let dot: f64 = w.iter().zip(q).map(|(w, q)| f64::from(*w) * f64::from(*q)).sum();
    let norm = q.iter().filter(|q| **q != 0).count();
    if norm == 0 { 0.0 } else { (dot / norm as f64) as f32 }
}

/// What ternary weights are, beside the weights they stand for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Stats {
    /// The fraction of codes that are 0.
    pub zeros: f64,
    /// Entropy of the codes -1, 0 and 1, in bits: at most log2 3.
    pub entropy: f64,
    /// `10 log10(sum w^2 / sum (w - v)^2)` of the weights w and the ternary ones v, in dB; infinite where they
    /// are equal.
    pub sqnr: f64,
    /// `<w, v> / (|w| |v|)`; 1 where both are 0, 0 where one is.
    pub cosine: f64,
}

impl Ternary {
    /// The fraction of codes that are 0; 0 where there are none.
    pub fn zeros(&self) -> f64 {
        let [_, zeros, _] = self.frequencies();
        zeros
    }

    /// Entropy of the three codes in bits.
    pub fn entropy(&self) -> f64 {
        let term = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
        self.frequencies().into_iter().map(term).sum()
    }

    fn frequencies(&self) -> [f64; 3] {
        let mut counts = [0u64; 3];
        self.codes().iter().for_each(|q| counts[(q + 1) as usize] += 1);
        counts.map(|n| n as f64 / self.codes().len().max(1) as f64)
    }

    /// Compares with `weights`, row-major of the same shape.
    ///
    /// # Errors
    /// A wrong length, weights that are not finite.
    pub fn stats(&self, weights: &[f32]) -> Result<Stats> {
        check_len("weights", self.codes().len(), weights.len())?;
        check_finite("weights", weights)?;
        let [mut ww, mut vv, mut wv, mut error] = [0.0f64; 4];
        for (w, v) in weights.iter().zip(self.dequantize()) {
            let (w, v) = (f64::from(*w), f64::from(v));
            ww += w * w;
            vv += v * v;
            wv += w * v;
            error += (w - v) * (w - v);
        }
        let sqnr = if error == 0.0 { f64::INFINITY } else { 10.0 * (ww / error).log10() };
        let cosine = match (ww > 0.0, vv > 0.0) {
            (true, true) => wv / (ww * vv).sqrt(),
            (false, false) => 1.0,
            _ => 0.0,
        };
        Ok(Stats { zeros: self.zeros(), entropy: self.entropy(), sqnr, cosine })
    }
}
