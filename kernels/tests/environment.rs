//! A thread whose control register would change answers is refused, not used.

#![allow(unsafe_code, reason = "only assembly can set the register that other libraries set")]

use tritlab_kernels::{Acts, Error, Grouping, threads};

/// Runs `f` with the bits `set` added to the control register of this thread.
#[cfg(target_arch = "x86_64")]
fn with(set: u32, f: impl FnOnce()) {
    use std::arch::asm;
    let mut old = 0u32;
    // SAFETY: the register is stored to and loaded from a variable on the stack; `f` panics on a failed test
    // only, which ends this thread.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut old, options(nostack)) };
    let new = old | set;
    // SAFETY: as above; the bits are defined ones and all exceptions stay masked.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &new, options(nostack)) };
    f();
    // SAFETY: as above.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &old, options(nostack)) };
}

/// Runs `f` with the bits `set` added to the control register of this thread.
#[cfg(target_arch = "aarch64")]
fn with(set: u64, f: impl FnOnce()) {
    use std::arch::asm;
    let old: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, fpcr", out(reg) old, options(nomem, nostack)) };
    // SAFETY: the bits are defined ones; `f` panics on a failed test only, which ends this thread.
    unsafe { asm!("msr fpcr, {}", in(reg) old | set, options(nomem, nostack)) };
    f();
    // SAFETY: as above.
    unsafe { asm!("msr fpcr, {}", in(reg) old, options(nomem, nostack)) };
}

#[cfg(target_arch = "x86_64")]
const FLUSH: [u32; 2] = [1 << 15, 1 << 6]; // results (FTZ), operands (DAZ)
#[cfg(target_arch = "x86_64")]
const ROUND: [u32; 3] = [1 << 13, 2 << 13, 3 << 13]; // down, up, toward zero
#[cfg(target_arch = "aarch64")]
const FLUSH: [u64; 1] = [1 << 24]; // FZ
#[cfg(target_arch = "aarch64")]
const ROUND: [u64; 3] = [1 << 22, 2 << 22, 3 << 22]; // up, down, toward zero

#[test]
fn another_rounding_or_flushing_is_an_error() {
    let work = || Acts::quantize(Grouping::Group32, &[1.0; 64], 1, 64);
    work().unwrap();
    let cases = FLUSH.map(|bit| (bit, "flushes denormal")).into_iter();
    for (bit, says) in cases.chain(ROUND.map(|bit| (bit, "nearest even"))) {
        with(bit, || {
            let e = work().unwrap_err();
            assert!(matches!(e, Error::Environment { .. }), "{e}");
            assert!(e.to_string().contains(says), "{e}");
            // Workers would inherit it for good.
            assert_eq!(threads::set(2), Err(e));
        });
        work().unwrap();
        threads::set(2).unwrap();
    }
}
