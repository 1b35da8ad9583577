//! The contract's 16 strided lanes: whole vectors, then one short vector padded with +0.
//!
//! The loops are macros, not functions that take closures: a closure is a function of its own, outside the
//! one that enables the instructions, and where it is not inlined every intrinsic becomes a call.

use crate::isa::Isa;
use crate::oracle::{EXP_POLY, EXP_RANGE, LN2_HI, LN2_LO};

/// `x` as whole vectors of 16 and the rest.
#[inline(always)]
pub fn split(x: &[f32]) -> (&[[f32; 16]], &[f32]) {
    x.as_chunks()
}

/// At most 16 numbers, padded.
#[inline(always)]
pub fn pad<T: Copy>(x: &[T], with: T) -> [T; 16] {
    let mut lanes = [with; 16];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// The fixed tree: l with l+8, then +4, +2, +1.
#[inline(always)]
pub fn tree<I: Isa>(isa: I, x: I::F32) -> f32 {
    let mut lanes = [0.0; 16];
    isa.store(x, &mut lanes);
    let a: [f32; 8] = std::array::from_fn(|l| lanes[l] + lanes[l + 8]);
    let b: [f32; 4] = std::array::from_fn(|l| a[l] + a[l + 4]);
    let c: [f32; 2] = std::array::from_fn(|l| b[l] + b[l + 2]);
    c[0] + c[1]
}

/// `sum!(isa, x, |acc, v| body)`: folds `x` over the lanes, then adds the tree.
macro_rules! sum {
    ($isa:ident, $x:expr, |$acc:ident, $v:ident| $body:expr) => {{
        let (whole, rest) = $crate::op::lanes::split($x);
        let mut $acc = $isa.splat(0.0);
        for v in whole {
            let $v = $isa.load(v);
            $acc = $body;
        }
        if !rest.is_empty() {
            let $v = $isa.load(&$crate::op::lanes::pad(rest, 0.0));
            $acc = $body;
        }
        $crate::op::lanes::tree($isa, $acc)
    }};
}

/// `map!(isa, x, |v| body)`: replaces every element, 16 at a time.
macro_rules! map {
    ($isa:ident, $x:expr, |$v:ident| $body:expr) => {{
        let (whole, rest) = $x.as_chunks_mut::<16>();
        for lanes in whole {
            let $v = $isa.load(lanes);
            $isa.store($body, lanes);
        }
        if !rest.is_empty() {
            let mut lanes = $crate::op::lanes::pad(rest, 0.0);
            let $v = $isa.load(&lanes);
            $isa.store($body, &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }};
}

/// `map2!(isa, x, y, |v, w| body)`: replaces every element of `x` by a function of it and `y`'s.
macro_rules! map2 {
    ($isa:ident, $x:expr, $y:expr, |$v:ident, $w:ident| $body:expr) => {{
        let (whole, rest) = $x.as_chunks_mut::<16>();
        let (whole_y, rest_y) = $crate::op::lanes::split($y);
        for (lanes, y) in whole.iter_mut().zip(whole_y) {
            let ($v, $w) = ($isa.load(lanes), $isa.load(y));
            $isa.store($body, lanes);
        }
        if !rest.is_empty() {
            let mut lanes = $crate::op::lanes::pad(rest, 0.0);
            let $v = $isa.load(&lanes);
            let $w = $isa.load(&$crate::op::lanes::pad(rest_y, 0.0));
            $isa.store($body, &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }};
}

pub(crate) use {map, map2, sum};

/// The largest lane; none may be NaN (`Isa::max` of a NaN and another is the other), and of +0 and -0 it is either. By a
/// tree, because comparing in turn waits for each.
#[inline(always)]
pub fn largest<I: Isa>(isa: I, x: I::F32) -> f32 {
    let mut lanes = [0.0; 16];
    isa.store(x, &mut lanes);
    let a: [f32; 8] = std::array::from_fn(|l| larger(lanes[l], lanes[l + 8]));
    let b: [f32; 4] = std::array::from_fn(|l| larger(a[l], a[l + 4]));
    let c: [f32; 2] = std::array::from_fn(|l| larger(b[l], b[l + 2]));
    larger(c[0], c[1])
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Largest element, by comparison; minus infinity if there is none.
#[inline(always)]
pub fn maximum<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let (whole, rest) = split(x);
    let mut acc = isa.splat(f32::NEG_INFINITY);
    for v in whole {
        acc = isa.max(isa.load(v), acc);
    }
    rest.iter().fold(largest(isa, acc), |m, &v| larger(v, m))
}

/// [`crate::oracle::exp`] in every lane.
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let x = isa.max(x, isa.splat(EXP_RANGE[0]));
    let x = isa.min(x, isa.splat(EXP_RANGE[1]));
    let n = isa.round(isa.mul(x, isa.splat(std::f32::consts::LOG2_E)));
    let r = isa.fma(n, isa.splat(-LN2_HI), x);
    let r = isa.fma(n, isa.splat(-LN2_LO), r);
    let mut p = isa.splat(EXP_POLY[0]);
    for c in &EXP_POLY[1..] {
        p = isa.fma(p, r, isa.splat(*c));
    }
    isa.mul(p, isa.pow2(n))
}
