//! RMSNorm and softmax: the two operations that sum over a vector.

use super::lanes;
use crate::isa::{Isa, Op};

struct RmsNorm<'a> {
    x: &'a [f32],
    w: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let RmsNorm { x, w, eps, out } = self;
        let sum = lanes::sum!(isa, x, |acc, v| isa.fma(v, v, acc));
        let r = isa.splat(1.0 / (sum / x.len() as f32 + eps).sqrt());
        out.copy_from_slice(x);
        lanes::map2!(isa, out, w, |x, w| isa.mul(isa.mul(x, r), w));
    }
}

/// [`crate::oracle::rms_norm`]
pub fn rms_norm<I: Isa>(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    super::product::token::<I>().vectorize(RmsNorm { x, w, eps, out });
}

/// `x = e^(x - max)`, returns the sum.
#[inline(always)]
pub fn exp_minus_max<I: Isa>(isa: I, x: &mut [f32]) -> f32 {
    let m = isa.splat(lanes::maximum(isa, x));
    lanes::map!(isa, x, |v| lanes::exp(isa, isa.sub(v, m)));
    lanes::sum!(isa, x, |acc, v| isa.add(acc, v))
}

struct Softmax<'a>(&'a mut [f32]);

impl Op for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let x = self.0;
        let inverse = isa.splat(1.0 / exp_minus_max(isa, x));
        lanes::map!(isa, x, |v| isa.mul(v, inverse));
    }
}

/// [`crate::oracle::softmax`]
pub fn softmax<I: Isa>(x: &mut [f32]) {
    super::product::token::<I>().vectorize(Softmax(x));
}
