//! Gate functions and the soft cap: element by element, through the contract's exp.

use super::lanes;
use crate::isa::{Isa, Op};
use crate::oracle::{Activation, GELU_A, GELU_B};

struct Gated<'a> {
    act: Activation,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Op for Gated<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Gated { act, gate, up } = self;
        let one = isa.splat(1.0);
        match act {
            Activation::Silu => lanes::map2!(isa, gate, up, |g, u| {
                let e = lanes::exp(isa, isa.mul(g, isa.splat(-1.0)));
                isa.mul(isa.div(g, isa.add(one, e)), u)
            }),
            Activation::Relu2 => lanes::map2!(isa, gate, up, |g, u| {
                let y = isa.max(g, isa.splat(0.0));
                isa.mul(isa.mul(y, y), u)
            }),
            Activation::GeluTanh => lanes::map2!(isa, gate, up, |g, u| {
                let cubic = isa.mul(isa.splat(GELU_B), isa.mul(g, g));
                let arg = isa.mul(isa.splat(GELU_A), isa.fma(cubic, g, g));
                let e = lanes::exp(isa, isa.mul(arg, isa.splat(-2.0)));
                isa.mul(isa.div(g, isa.add(one, e)), u)
            }),
        }
    }
}

/// [`crate::oracle::gated`]
pub fn gated<I: Isa>(act: Activation, gate: &mut [f32], up: &[f32]) {
    super::product::token::<I>().vectorize(Gated { act, gate, up });
}

struct TanhCap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

/// `cap * (1 - 2 / (e^(2x/cap) + 1))` in every lane.
#[inline(always)]
pub fn cap_lanes<I: Isa>(isa: I, x: &mut [f32], cap: f32) {
    let (one, two, cap) = (isa.splat(1.0), isa.splat(2.0), isa.splat(cap));
    lanes::map!(isa, x, |v| {
        let e = lanes::exp(isa, isa.mul(isa.div(v, cap), two));
        isa.mul(cap, isa.sub(one, isa.div(two, isa.add(e, one))))
    });
}

impl Op for TanhCap<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        cap_lanes(isa, self.x, self.cap);
    }
}

/// [`crate::oracle::tanh_cap`]
pub fn tanh_cap<I: Isa>(x: &mut [f32], cap: f32) {
    super::product::token::<I>().vectorize(TanhCap { x, cap });
}
