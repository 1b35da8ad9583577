//! What it costs to begin and end a parallel region: rayon's fork and join between workers kept awake, as the decoder
//! has one for every product, and, beside it, threads that spin at a barrier, as one region for a whole token would
//! need.
//!
//! Times are of a region in which every thread works 2 us: what exceeds that is its cost. A step of a decoder of 30
//! layers has 151 of them.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use tritlab_benches::{all_threads, criterion};
use tritlab_kernels::threads;

const WORK: Duration = Duration::from_micros(2);

fn work() {
    let begin = Instant::now();
    while begin.elapsed() < WORK {}
}

/// `n` regions, one after the other, of rayon's.
fn joins(n: u64) -> Duration {
    let mut pieces = vec![(); all_threads()];
    threads::run_hot(|| {
        let begin = Instant::now();
        for _ in 0..n {
            threads::for_each_chunk(&mut pieces, 1, |_, _| work());
        }
        begin.elapsed()
    })
}

/// `n` regions between barriers: each thread waits for the number of the region, and says when it is done with it.
fn barriers(n: u64) -> Duration {
    let (region, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (n, others) = (n as usize, all_threads() - 1);
    let wait = |number: &AtomicUsize, least: usize| {
        while number.load(Ordering::Acquire) < least {
            spin_loop();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                for i in 1..=n {
                    wait(&region, i);
                    work();
                    done.fetch_add(1, Ordering::Release);
                }
            });
        }
        let begin = Instant::now();
        for i in 1..=n {
            region.store(i, Ordering::Release);
            work();
            wait(&done, i * others);
        }
        begin.elapsed()
    })
}

/// The same on one thread: what the work itself and looking at the clock take.
fn serial(n: u64) -> Duration {
    let begin = Instant::now();
    (0..n).for_each(|_| work());
    begin.elapsed()
}

fn main() {
    let mut c: Criterion = criterion();
    let mut group = c.benchmark_group("region of 2 us");
    for (what, run) in
        [("join", joins as fn(u64) -> Duration), ("barrier", barriers), ("none", serial)]
    {
        group.bench_function(BenchmarkId::new(what, format!("{} threads", all_threads())), |b| {
            b.iter_custom(run);
        });
    }
    group.finish();
    c.final_summary();
}
