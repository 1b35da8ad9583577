//! The floating-point environment that the contract takes for granted.
//!
//! The control register of a thread (MXCSR, FPCR) can say that denormal numbers are flushed to zero, or that
//! results are rounded in another direction. Nobody sets it by accident, but libraries that were linked with
//! `-ffast-math` do when they are loaded, and `torch.set_flush_denormal(True)` does when asked. Answers would
//! then differ in a few bits, in silence: so operations look first, which costs a nanosecond.

use std::hint::black_box;

use crate::error::{Error, Result};

/// `Ok` if this thread rounds to nearest even and keeps denormals, measured and not read from a register, so that
/// it holds for every CPU.
pub(crate) fn check() -> Result<()> {
    let tiny = black_box(f32::MIN_POSITIVE);
    // The result is denormal; the operands of the second sum are. Each flag has its own way to lose one. Sums, because
    // many CPUs interrupt themselves for a product: a hundred nanoseconds.
    let denormal = black_box(black_box(1.5 * f32::MIN_POSITIVE) - tiny);
    let keeps = denormal.to_bits() == 1 << 22 && denormal + denormal == tiny;
    // A quarter of an ulp vanishes and three quarters make one, on both sides of zero.
    let (one, quarter) = (black_box(1.0f32), black_box(f32::EPSILON * 0.25));
    let nearest =
        one + quarter == 1.0 && -one - quarter == -1.0 && one + 3.0 * quarter == 1.0 + f32::EPSILON;
    let what = match (keeps, nearest) {
        (true, true) => return Ok(()),
        (false, _) => "flushes denormal numbers to zero",
        (true, false) => "does not round to the nearest even number",
    };
    Err(Error::Environment { what })
}
