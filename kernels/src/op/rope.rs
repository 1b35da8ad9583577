//! Rotary position embedding by halves.

use super::lanes::{pad, split};
use crate::isa::{Isa, Op};

struct Rope<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

/// 16 pairs.
#[inline(always)]
fn rotate<I: Isa>(isa: I, a: &mut [f32; 16], b: &mut [f32; 16], cos: &[f32; 16], sin: &[f32; 16]) {
    let (x, y, cos, sin) = (isa.load(a), isa.load(b), isa.load(cos), isa.load(sin));
    let minus = isa.mul(isa.mul(y, sin), isa.splat(-1.0));
    isa.store(isa.fma(x, cos, minus), a);
    isa.store(isa.fma(y, cos, isa.mul(x, sin)), b);
}

impl Op for Rope<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Rope { x, cos, sin } = self;
        let half = cos.len();
        let (low, high) = x[..2 * half].split_at_mut(half);
        let ((a, a_rest), (b, b_rest)) = (low.as_chunks_mut(), high.as_chunks_mut());
        let ((c, c_rest), (s, s_rest)) = (split(cos), split(sin));
        for ((a, b), (c, s)) in a.iter_mut().zip(b).zip(c.iter().zip(s)) {
            rotate(isa, a, b, c, s);
        }
        if !a_rest.is_empty() {
            let (mut a, mut b) = (pad(a_rest, 0.0), pad(b_rest, 0.0));
            rotate(isa, &mut a, &mut b, &pad(c_rest, 0.0), &pad(s_rest, 0.0));
            a_rest.copy_from_slice(&a[..a_rest.len()]);
            b_rest.copy_from_slice(&b[..b_rest.len()]);
        }
    }
}

/// [`crate::oracle::rope`]
pub fn rope<I: Isa>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    super::product::token::<I>().vectorize(Rope { x, cos, sin });
}
