//! The machine's own limits, measured: how fast memory and cache can be read, and how many products of
//! small integers a backend can add up. A speed means something as a fraction of these.
//!
//! # Method
//!
//! Threads are fresh, own their memory (which they write first, so that it is near them), start together,
//! and repeat until the time is over; their rates are added. The time is split into [`ROUNDS`] and the
//! best round counts: a limit is what the machine can do, and other programs only take away from it.
//!
//! * [`read_bandwidth`]: loads of 64 bytes, added up in eight independent vectors, over [`FAR`] bytes.
//! * [`cache_bandwidth`]: the same over [`NEAR`] bytes per thread, again and again.
//! * [`dot_peak`]: a product tile without everything that is not a product. Codes and activations (a few
//!   KiB, in the first cache) meet in as many independent sums as the backend's own gemm tile has; both the
//!   narrow and the wide form (codes up to 15, and above) are tried and the faster counts. A matrix unit multiplies
//!   tiles that are in its registers.
//!
//! # Caveats
//!
//! Nothing is pinned: on a machine with more cores than threads, the system may move them. Hardware that
//! is shared with others shows a smaller limit. [`FAR`] is far out of the caches that one thread can
//! reach on usual machines, not on all; pages are of the usual size, as those of weights are. Clock
//! frequency follows load, so measure in the same run as what is compared. A fraction above 1 is possible
//! where a kernel does the same work with fewer instructions than a dot product.

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::backend::{Backend, available};
use crate::error::Result;
use crate::isa::{Isa, Op, Unit};
use crate::op::product::token;
use crate::panel::Line;
use crate::threads::on_each;

/// Bytes read by [`read_bandwidth`], over all threads.
pub const FAR: usize = 512 << 20;
/// Bytes read by [`cache_bandwidth`], per thread: more than a core's own cache, less than its share of
/// the shared one.
pub const NEAR: usize = 3 << 20;
/// Rounds of which the best counts.
pub const ROUNDS: u32 = 3;

/// Lines read between two looks at the clock: 1 MiB.
const PIECE: usize = (1 << 20) / 64;

/// What a backend brings to these measurements.
#[derive(Clone, Copy)]
pub(crate) struct Probe {
    /// Reads every line.
    read: fn(&[Line]),
    /// Runs the chains once over the codes; narrow, wide.
    dot: [fn(&[Line]); 2],
    /// Products of [`Probe::dot`] per call.
    products: usize,
}

impl Probe {
    pub fn of<I: Isa>() -> Self {
        let (vectors, tokens) = shape::<I>();
        Probe {
            read: |lines| token::<I>().vectorize(Read { lines }),
            dot: [
                |codes| token::<I>().vectorize(Chains { codes, wide: false }),
                |codes| token::<I>().vectorize(Chains { codes, wide: true }),
            ],
            products: PASSES * STEPS * RUNS * vectors * tokens * 64,
        }
    }
}

/// Four products of whole tiles, at a time.
const SPINS: usize = 64;

impl Probe {
    /// With the products of a matrix unit.
    #[allow(dead_code, reason = "not every architecture has a matrix unit")]
    pub fn with_unit<U: Unit>(self) -> Self {
        let spin: fn(&[Line]) = |_| {
            let unit =
                U::new().expect("a probe is only reached through a backend that the CPU has");
            unit.spin(&unit.tiles(16, 64), SPINS);
        };
        Probe { dot: [spin; 2], products: SPINS * 4 * 16 * 16 * 64, ..self }
    }
}

/// Bytes per second that `threads` threads read from memory.
pub fn read_bandwidth(threads: usize, duration: Duration) -> f64 {
    bandwidth(FAR / threads.max(1), threads, duration)
}

/// Bytes per second that `threads` threads read from the last-level cache.
pub fn cache_bandwidth(threads: usize, duration: Duration) -> f64 {
    bandwidth(NEAR, threads, duration)
}

/// Products per second (multiply and add are one) of int8 dot products on `backend`.
///
/// # Errors
/// [`crate::Error::BackendUnavailable`].
pub fn dot_peak(backend: Backend, threads: usize, duration: Duration) -> Result<f64> {
    let probe = backend.ops()?.probe();
    let each = duration / (2 * ROUNDS);
    let forms = probe.dot.map(|dot| {
        best(threads, each, || {
            // Codes up to 15, no two lines alike; the wide form takes them too.
            let line = |i: usize| Line(std::array::from_fn(|j| ((i * 5 + j * 3) % 16) as u8));
            let codes: Vec<Line> = (0..STEPS * RUNS * 4).map(line).collect();
            move || {
                for _ in 0..CALLS {
                    dot(black_box(&codes));
                }
                (CALLS * probe.products) as f64
            }
        })
    });
    Ok(forms[0].max(forms[1]))
}

/// Best rate of a buffer of `bytes` per thread, on the best backend.
fn bandwidth(bytes: usize, threads: usize, duration: Duration) -> f64 {
    // The list of what is available ends with backends that always are.
    let Ok(ops) = available()[0].ops() else { return f64::NAN };
    let read = ops.probe().read;
    best(threads, duration / ROUNDS, || {
        // Written here, by the thread that reads: its pages are its own.
        let lines = vec![Line([0x3f; 64]); (bytes / 64).max(1)];
        let mut at = 0;
        move || {
            let end = lines.len().min(at + PIECE);
            let piece = &lines[at..end];
            read(piece);
            at = if end == lines.len() { 0 } else { end };
            (piece.len() * 64) as f64
        }
    })
}

/// Sum over threads of work per second, of the best round. `make` is called on each thread and gives a
/// piece of work that returns its amount.
fn best<W: FnMut() -> f64>(threads: usize, each: Duration, make: impl Fn() -> W + Sync) -> f64 {
    // More threads than cores measure the scheduler; and all of them must start, or none would.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.clamp(1, cores);
    let start = std::sync::Barrier::new(threads);
    let rates = on_each(threads, |_| {
        let mut work = make();
        let mut rounds = [0.0; ROUNDS as usize];
        for rate in &mut rounds {
            start.wait();
            let (begin, mut done) = (Instant::now(), 0.0);
            loop {
                done += work();
                let elapsed = begin.elapsed();
                if elapsed >= each {
                    *rate = done / elapsed.as_secs_f64();
                    break;
                }
            }
        }
        rounds
    });
    let round = |r: usize| rates.iter().map(|rounds| rounds[r]).sum::<f64>();
    (0..ROUNDS as usize).map(round).fold(0.0, f64::max)
}

struct Read<'a> {
    lines: &'a [Line],
}

impl Op for Read<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut sums = [isa.splat(0.0); 8];
        let (eights, rest) = self.lines.as_chunks::<8>();
        for eight in eights {
            for (sum, line) in sums.iter_mut().zip(eight) {
                *sum = isa.add(*sum, numbers(isa, line));
            }
        }
        for line in rest {
            sums[0] = isa.add(sums[0], numbers(isa, line));
        }
        black_box(sums);
    }
}

#[inline(always)]
fn numbers<I: Isa>(isa: I, line: &Line) -> I::F32 {
    let bytes: &[[u8; 4]; 16] = line.0.as_chunks().0.first_chunk().expect("16 numbers in a line");
    isa.load(&bytes.map(f32::from_le_bytes))
}

/// Narrow products that may be added before they must be widened, see [`Isa::begin`].
const STEPS: usize = 8;
/// Runs of that length per pass.
const RUNS: usize = 8;
/// Passes over the codes before the sums are given away: few enough for i32.
const PASSES: usize = 16;
/// Calls between two looks at the clock.
const CALLS: usize = 8;

/// The tile of the backend's own gemm: vectors and tokens.
const fn shape<I: Isa>() -> (usize, usize) {
    match (I::VECTORS, I::TOKENS) {
        (4, 6..) => (4, 6),
        (_, 4..) => (1, 4),
        _ => (1, 2),
    }
}

struct Chains<'a> {
    codes: &'a [Line],
    wide: bool,
}

impl Op for Chains<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match (shape::<I>(), self.wide) {
            ((4, _), false) => narrow::<I, 4, 6>(isa, self.codes),
            ((4, _), true) => wide::<I, 4, 6>(isa, self.codes),
            ((_, 4), false) => narrow::<I, 1, 4>(isa, self.codes),
            ((_, 4), true) => wide::<I, 1, 4>(isa, self.codes),
            (_, false) => narrow::<I, 1, 2>(isa, self.codes),
            (_, true) => wide::<I, 1, 2>(isa, self.codes),
        }
    }
}

/// Activations of a run: read from memory in every step, as a product does, because the broadcast that a
/// load brings along is free and a register for each is not there.
type Activations<const N: usize> = [[[i8; 4]; N]; STEPS];

#[inline(always)]
fn activations<const N: usize>() -> Activations<N> {
    let number = |s: usize, t: usize| [1 + t as i8, -2, 3 - s as i8, 4];
    std::array::from_fn(|s| std::array::from_fn(|t| number(s, t)))
}

#[inline(always)]
fn narrow<I: Isa, const V: usize, const N: usize>(isa: I, codes: &[Line]) {
    let a = activations::<N>();
    let mut sum = [[isa.splat_i32(0); N]; V];
    for _ in 0..PASSES {
        // Said to be new numbers every time: a pass cannot be computed once and multiplied.
        let (codes, a) = (black_box(codes), black_box(&a));
        for run in codes[..STEPS * RUNS * V].chunks_exact(STEPS * V) {
            let mut acc = [[isa.begin(sum[0][0]); N]; V];
            for v in 0..V {
                for t in 0..N {
                    acc[v][t] = isa.begin(sum[v][t]);
                }
            }
            for s in 0..STEPS {
                for v in 0..V {
                    let u = isa.bytes(&run[s * V + v].0);
                    for t in 0..N {
                        acc[v][t] = isa.dot(acc[v][t], u, a[s][t]);
                    }
                }
            }
            for v in 0..V {
                for t in 0..N {
                    sum[v][t] = isa.finish(acc[v][t], sum[v][t]);
                }
            }
        }
    }
    black_box(sum);
}

#[inline(always)]
fn wide<I: Isa, const V: usize, const N: usize>(isa: I, codes: &[Line]) {
    let a = activations::<N>();
    let mut sum = [[isa.splat_i32(0); N]; V];
    for _ in 0..PASSES {
        let (codes, a) = (black_box(codes), black_box(&a));
        for run in codes[..STEPS * RUNS * V].chunks_exact(STEPS * V) {
            for s in 0..STEPS {
                for v in 0..V {
                    let u = isa.bytes(&run[s * V + v].0);
                    for t in 0..N {
                        sum[v][t] = isa.dot_wide(sum[v][t], u, a[s][t]);
                    }
                }
            }
        }
    }
    black_box(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers depend on the machine; that they are numbers does not.
    #[test]
    fn limits_are_positive_and_finite() {
        let short = Duration::from_millis(6);
        let bandwidths = [bandwidth(1 << 20, 1, short), cache_bandwidth(2, short)];
        for backend in available() {
            let peak = dot_peak(backend, 1, short).unwrap();
            assert!(peak.is_finite() && peak > 0.0, "{backend}: {peak}");
        }
        assert!(bandwidths.iter().all(|b| b.is_finite() && *b > 0.0), "{bandwidths:?}");
    }

    #[test]
    fn a_missing_backend_has_no_peak() {
        let missing = Backend::ALL.into_iter().find(|b| !b.available());
        assert!(missing.is_none_or(|b| dot_peak(b, 1, Duration::from_millis(1)).is_err()));
    }
}
