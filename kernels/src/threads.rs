//! Threads: the only file that knows rayon. Work is split over whole output rows, so the number of
//! threads never changes an answer.
//!
//! A decoder step is some hundred small matrix products, each a fork and a join. Waking a sleeping
//! worker costs more than such a product, so [`run_hot`] keeps the pool's other workers polling for
//! work until its closure returns; a join inside it then costs about a microsecond.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Built on first use, never at import; with the process that built it, because a forked child has the pool but
/// not its threads.
static POOL: RwLock<Option<(u32, Arc<ThreadPool>)>> = RwLock::new(None);

/// Sets the number of threads.
///
/// # Errors
/// Zero threads, or a pool that the system refuses to make.
pub fn set(threads: usize) -> Result<()> {
    let pool = build(threads)?;
    replace(&mut POOL.write().unwrap_or_else(|e| e.into_inner()), pool);
    Ok(())
}

/// Puts a pool in the place of another. One that a parent process built has no threads here to wait for: it is
/// left alone, because dropping it would wait for them.
fn replace(slot: &mut Option<(u32, Arc<ThreadPool>)>, pool: Arc<ThreadPool>) {
    let here = std::process::id();
    if let Some((process, old)) = slot.replace((here, pool))
        && process != here
    {
        std::mem::forget(old);
    }
}

/// Number of threads in use: what [`set`] was told, else `TRITLAB_THREADS`, else the cores.
pub fn get() -> usize {
    pool().map_or(1, |p| p.current_num_threads())
}

fn build(threads: usize) -> Result<Arc<ThreadPool>> {
    if threads == 0 || threads > 4096 {
        return Err(Error::Threads(format!("{threads} is not a number of threads (1 to 4096)")));
    }
    // Workers inherit it from the thread that makes them.
    crate::environment::check()?;
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("tritlab-{i}"))
        .build()
        .map(Arc::new)
        .map_err(|e| Error::Threads(e.to_string()))
}

/// `None` only where the system refuses threads; callers then work on their own thread.
fn pool() -> Option<Arc<ThreadPool>> {
    let here = std::process::id();
    let built = |slot: &Option<(u32, Arc<ThreadPool>)>| match slot {
        Some((process, pool)) if *process == here => Some(pool.clone()),
        _ => None,
    };
    if let Some(pool) = built(&POOL.read().unwrap_or_else(|e| e.into_inner())) {
        return Some(pool);
    }
    let mut slot = POOL.write().unwrap_or_else(|e| e.into_inner());
    if built(&slot).is_none() {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let from_env = std::env::var("TRITLAB_THREADS").ok().and_then(|s| s.parse().ok());
        // A number that cannot be is no reason to work on one thread: the cores it is.
        let pool = build(from_env.unwrap_or_else(cores)).or_else(|_| build(cores())).ok()?;
        replace(&mut slot, pool);
    }
    built(&slot)
}

/// Runs `f` on the pool with the other workers kept awake. Nested calls are plain calls.
pub fn run_hot<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() {
        return f();
    }
    let Some(pool) = pool() else { return f() };
    if pool.current_num_threads() == 1 {
        // Nobody to keep awake; and this thread, unlike the pool's only one, may be waited for by others.
        return f();
    }
    let done = AtomicBool::new(false);
    // Set on the way out of `f`, by return or by unwinding: a worker must never poll for ever.
    struct Finish<'a>(&'a AtomicBool);
    impl Drop for Finish<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    // Several callers may poll in one pool: each poller ends with its own caller, and rayon hands out what was
    // pushed first, so a caller's work is not stuck behind another's pollers for longer than that call.
    pool.scope(|scope| {
        let _finish = Finish(&done);
        for _ in 1..pool.current_num_threads() {
            scope.spawn(|_| {
                let mut idle = 0u32;
                while !done.load(Ordering::Acquire) {
                    if rayon::yield_now() == Some(rayon::Yield::Executed) {
                        idle = 0;
                    } else if idle < 2000 {
                        idle += 1;
                        std::hint::spin_loop();
                    } else {
                        // Someone else may need this core more than an empty queue does.
                        std::thread::yield_now();
                    }
                }
            });
        }
        f()
    })
}

/// Splits `data` into chunks of `chunk` elements and calls `f(index, chunk)` on each, in parallel:
/// neighbouring chunks go to one thread, as evenly as possible.
///
/// # Panics
/// If `chunk` is 0.
pub fn for_each_chunk<T: Send>(data: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    assert!(chunk > 0, "a chunk has elements");
    let count = data.len().div_ceil(chunk);
    in_pool(count, |parts| split(data, chunk, 0, count, parts, &f));
}

/// As [`for_each_chunk`] for chunks that cost different amounts: pieces are small, and an idle thread
/// takes the next one.
///
/// # Panics
/// If `chunk` is 0.
pub fn for_each_chunk_uneven<T: Send>(
    data: &mut [T],
    chunk: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    assert!(chunk > 0, "a chunk has elements");
    let count = data.len().div_ceil(chunk);
    in_pool(count, |parts| {
        let pieces = if parts > 1 { count.min(parts * 8) } else { 1 };
        split(data, chunk, 0, count, pieces, &f);
    });
}

fn split<T: Send>(
    data: &mut [T],
    chunk: usize,
    first: usize,
    count: usize,
    parts: usize,
    f: &(impl Fn(usize, &mut [T]) + Sync),
) {
    if parts <= 1 || count <= 1 {
        for (i, c) in data.chunks_mut(chunk).enumerate() {
            f(first + i, c);
        }
        return;
    }
    let left_parts = parts / 2;
    let left = count * left_parts / parts;
    let (a, b) = data.split_at_mut((left * chunk).min(data.len()));
    rayon::join(
        || split(a, chunk, first, left, left_parts, f),
        || split(b, chunk, first + left, count - left, parts - left_parts, f),
    );
}

/// Rows of one input and three outputs walked together; each is a slice and its row length.
pub(crate) fn for_each_row4<A: Sync, B: Send, C: Send, D: Send>(
    a: (&[A], usize),
    b: (&mut [B], usize),
    c: (&mut [C], usize),
    d: (&mut [D], usize),
    f: impl Fn(&[A], &mut [B], &mut [C], &mut [D]) + Sync,
) {
    let rows = a.0.len() / a.1;
    in_pool(rows, |parts| split4(a, b, c, d, rows, parts, &f));
}

fn split4<A: Sync, B: Send, C: Send, D: Send>(
    a: (&[A], usize),
    b: (&mut [B], usize),
    c: (&mut [C], usize),
    d: (&mut [D], usize),
    rows: usize,
    parts: usize,
    f: &(impl Fn(&[A], &mut [B], &mut [C], &mut [D]) + Sync),
) {
    if parts <= 1 || rows <= 1 {
        let outputs = b.0.chunks_mut(b.1).zip(c.0.chunks_mut(c.1).zip(d.0.chunks_mut(d.1)));
        for (x, (y, (z, w))) in a.0.chunks(a.1).zip(outputs) {
            f(x, y, z, w);
        }
        return;
    }
    let left_parts = parts / 2;
    let left = rows * left_parts / parts;
    let (a0, a1) = a.0.split_at(left * a.1);
    let (b0, b1) = b.0.split_at_mut(left * b.1);
    let (c0, c1) = c.0.split_at_mut(left * c.1);
    let (d0, d1) = d.0.split_at_mut(left * d.1);
    rayon::join(
        || split4((a0, a.1), (b0, b.1), (c0, c.1), (d0, d.1), left, left_parts, f),
        || {
            let rest = parts - left_parts;
            split4((a1, a.1), (b1, b.1), (c1, c.1), (d1, d.1), rows - left, rest, f);
        },
    );
}

/// Calls `f(i)` for i in 0..n, each on a fresh thread of its own, all at once: for measurements, which
/// must know how many threads work. The answers in order.
pub(crate) fn on_each<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let f = &f;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n).map(|i| scope.spawn(move || f(i))).collect();
        let answer = |t: std::thread::ScopedJoinHandle<'_, R>| match t.join() {
            Ok(r) => r,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(answer).collect()
    })
}

/// Calls `f(parts)`, on the pool if there is more than one part; on this thread if it is the pool's
/// already or the work is a single piece.
fn in_pool(count: usize, f: impl FnOnce(usize) + Send) {
    if count <= 1 {
        return f(1);
    }
    if rayon::current_thread_index().is_some() {
        return f(rayon::current_num_threads());
    }
    match pool() {
        Some(pool) if pool.current_num_threads() > 1 => {
            pool.install(|| f(rayon::current_num_threads()));
        }
        _ => f(1),
    }
}
