//! How often each instruction of some code runs: the processor's trap flag stops after every instruction, and a signal
//! handler counts where. Exact, and some thousand times slower than running.

use std::ops::Range;

/// Executions by address.
pub(crate) struct Steps {
    /// Of the code that was asked for, by offset.
    pub counts: Vec<u32>,
    /// Of all other code (the C library's, for example).
    pub elsewhere: u64,
}

/// Runs `work` on this thread and counts its instructions; `None` where single steps are not to be had.
pub(crate) fn count(code: &Range<usize>, work: &mut dyn FnMut()) -> Option<Steps> {
    system::count(code, work)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod system {
    use core::arch::asm;
    use std::ffi::{c_int, c_void};
    use std::mem::{MaybeUninit, zeroed};
    use std::ops::Range;
    use std::ptr::{null_mut, without_provenance_mut};
    use std::sync::atomic::{AtomicPtr, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::Steps;

    struct Log {
        start: usize,
        len: usize,
        counts: *mut u32,
        elsewhere: u64,
    }

    /// Where the handler counts; null while nobody does.
    static LOG: AtomicPtr<Log> = AtomicPtr::new(null_mut());
    /// The handler and the log are the process's: one count at a time.
    static ONE: Mutex<()> = Mutex::new(());

    pub(super) fn count(code: &Range<usize>, work: &mut dyn FnMut()) -> Option<Steps> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = vec![0u32; code.len()];
        let mut log =
            Log { start: code.start, len: code.len(), counts: counts.as_mut_ptr(), elsewhere: 0 };
        let stepping = Stepping::begin(&raw mut log)?;
        work();
        drop(stepping);
        let steps = Steps { counts, elsewhere: log.elsewhere };
        // A simulated processor may not know the flag.
        (steps.elsewhere > 0 || steps.counts.iter().any(|&n| n > 0)).then_some(steps)
    }

    /// While it lives, this thread is stepped; also when `work` panics, it ends by being dropped.
    struct Stepping {
        action: libc::sigaction,
        mask: libc::sigset_t,
    }

    impl Stepping {
        fn begin(log: *mut Log) -> Option<Self> {
            LOG.store(log, Ordering::Release);
            // SAFETY: zeros are a valid `sigaction` (no flags, an empty mask) and a place for the old one and for masks.
            // The handler only counts. A blocked SIGTRAP would end the process at the first step, so it is unblocked.
            let (failed, action, mask) = unsafe {
                let mut action: libc::sigaction = zeroed();
                action.sa_sigaction = on_step as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                let (mut old, mut mask) = (zeroed(), zeroed());
                let mut trap = MaybeUninit::zeroed().assume_init();
                libc::sigemptyset(&raw mut trap);
                libc::sigaddset(&raw mut trap, libc::SIGTRAP);
                let failed = libc::sigaction(libc::SIGTRAP, &raw const action, &raw mut old) != 0
                    || libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const trap, &raw mut mask)
                        != 0;
                (failed, old, mask)
            };
            if failed {
                LOG.store(null_mut(), Ordering::Release);
                return None;
            }
            // SAFETY: sets one flag on this thread, which the drop clears. The handler is in place.
            unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
            Some(Stepping { action, mask })
        }
    }

    impl Drop for Stepping {
        fn drop(&mut self) {
            // SAFETY: clears the flag that `begin` set, then puts back what it replaced.
            unsafe {
                asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq");
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, null_mut());
                libc::sigaction(libc::SIGTRAP, &raw const self.action, null_mut());
            }
            LOG.store(without_provenance_mut(0), Ordering::Release);
        }
    }

    /// Counts the instruction that comes next. Async-signal-safe: it writes to memory that is there already.
    unsafe extern "C" fn on_step(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        let log = LOG.load(Ordering::Acquire);
        if log.is_null() {
            return;
        }
        // SAFETY: the system passes a `ucontext_t`. `log` and its counts live until `Stepping` is dropped, which also
        // takes them away from here; only the stepped thread comes here meanwhile, and never twice at once.
        unsafe {
            let context = &*context.cast::<libc::ucontext_t>();
            let next = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
            let offset = next.wrapping_sub((*log).start);
            if offset < (*log).len {
                *(*log).counts.add(offset) += 1;
            } else {
                (*log).elsewhere += 1;
            }
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod system {
    use std::ops::Range;

    use super::Steps;

    pub(super) fn count(_: &Range<usize>, _: &mut dyn FnMut()) -> Option<Steps> {
        None
    }
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::isa::image::Image;

    #[inline(never)]
    fn spin(n: u64) -> u64 {
        (0..n).fold(1, |x, i| std::hint::black_box(x ^ i))
    }

    fn total(n: u64) -> u64 {
        let image = Image::own().unwrap();
        let steps = count(&image.range(), &mut || {
            spin(n);
        })
        .expect("x86-64 Linux steps");
        image
            .function(spin as *const () as usize)
            .map(|a| a - image.range().start)
            .fold(0, |sum, i| sum + u64::from(steps.counts[i]))
    }

    #[test]
    fn a_loop_of_twice_the_length_takes_twice_the_steps() {
        let (one, two, three) = (total(20), total(40), total(60));
        assert!(two - one >= 20, "{one}, {two}");
        assert_eq!(two - one, three - two);
        assert_eq!(total(20), one, "counting is exact");
    }

    #[test]
    fn stepping_ends_when_the_work_panics() {
        let image = Image::own().unwrap();
        let mut work = || std::panic::resume_unwind(Box::new(7));
        assert!(catch_unwind(AssertUnwindSafe(|| count(&image.range(), &mut work))).is_err());
        let flags: u64;
        // SAFETY: reads the flags through the stack.
        unsafe { core::arch::asm!("pushfq", "pop {}", out(reg) flags) };
        assert_eq!(flags & 0x100, 0, "the trap flag is clear again");
    }
}
