//! int8 quantisation of one activation row.

use super::lanes::{self, pad, split};
use crate::isa::{Isa, Op};

struct QuantizeRow<'a> {
    x: &'a [f32],
    group: usize,
    floor: f32,
    q: &'a mut [i8],
    scale: &'a mut [f32],
    sum: &'a mut [i32],
}

/// The codes of 16 elements.
#[inline(always)]
fn code<I: Isa>(isa: I, v: &[f32; 16], inverse: I::F32, to: &mut [i8; 16]) {
    let c = isa.round(isa.mul(isa.load(v), inverse));
    isa.store_i8(isa.min(isa.max(c, isa.splat(-127.0)), isa.splat(127.0)), to);
}

impl Op for QuantizeRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let QuantizeRow { x, group, floor, q, scale, sum } = self;
        let groups = x.chunks(group).zip(q.chunks_mut(group)).zip(scale.iter_mut().zip(sum));
        for ((x, q), (scale, sum)) in groups {
            let (whole, rest) = split(x);
            let mut most = isa.splat(floor);
            for v in whole {
                most = isa.max(isa.abs(isa.load(v)), most);
            }
            if !rest.is_empty() {
                most = isa.max(isa.abs(isa.load(&pad(rest, 0.0))), most);
            }
            let a = lanes::largest(isa, most);
            let inverse = 127.0 / a;
            let zero = inverse == f32::INFINITY;
            let inverse = isa.splat(if zero { 0.0 } else { inverse });
            let q = &mut q[..x.len()];
            let (whole_q, rest_q) = q.as_chunks_mut();
            for (v, q) in whole.iter().zip(whole_q) {
                code(isa, v, inverse, q);
            }
            if !rest.is_empty() {
                let mut last = [0; 16];
                code(isa, &pad(rest, 0.0), inverse, &mut last);
                rest_q.copy_from_slice(&last[..rest.len()]);
            }
            *scale = if zero { 0.0 } else { a / 127.0 };
            *sum = q.iter().map(|&q| i32::from(q)).sum();
        }
    }
}

/// [`crate::oracle::quantize_row`]
pub fn quantize_row<I: Isa>(
    x: &[f32],
    group: usize,
    floor: f32,
    q: &mut [i8],
    scale: &mut [f32],
    sum: &mut [i32],
) {
    super::product::token::<I>().vectorize(QuantizeRow { x, group, floor, q, scale, sum });
}
