//! gemv and gemm: checks, threads, and the step from a panel to the kernel that reads it.
//!
//! Panels are split over threads, or tokens where there are many. Where threads take panels, a panel's outputs are
//! written together ([tokens][64]) and then put into row-major order; where they take tokens, most kernels write to the
//! rows themselves ([`Product::once`]). The number of threads, the split and the batch never change an output: each is
//! one row's own sum.

use std::cell::Cell;
use std::marker::PhantomData;

use crate::activation::Acts;
use crate::backend::{self, Ops};
use crate::error::{Error, Result, check_len};
use crate::format::Format;
use crate::isa::{Isa, Op};
use crate::matrix::Weights;
use crate::panel::{Geometry, Line, Panels, ROWS};
use crate::threads;

use super::lookup;
use super::outputs::Outputs;

/// What a product kernel sees of a matrix: 64 rows.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub lines: &'a [Line],
    pub row_scales: Option<&'a [f32; ROWS]>,
    pub geometry: Geometry,
}

impl<'a> Panel<'a> {
    pub fn of(w: &'a Panels, p: usize) -> Self {
        Panel { lines: w.panel(p), row_scales: w.panel_scales(p), geometry: w.geometry() }
    }
}

/// A product kernel.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// `(matrix, panel index, activations, first token, out)`
    pub run: fn(&Panels, usize, &Acts, usize, Outputs<'_>),
    /// Whether outputs are written once and not read. If not, they had better be near each other: rows of a large matrix
    /// are far apart, often by a power of two.
    pub once: bool,
    /// How many tokens show what one of many costs: its tiles are full, and what it does once for all of them is done.
    pub full: usize,
}

/// The token of a backend that was selected, which selection has proven.
pub(crate) fn token<I: Isa>() -> I {
    I::new().expect("a kernel is only reached through a backend that the CPU has")
}

/// A product kernel, generic over the instructions; the type that implements it also names the format.
pub(crate) trait Kernel {
    /// As [`Product::once`].
    const ONCE: bool;

    /// As [`Product::full`].
    fn full<I: Isa>() -> usize {
        // Two tiles.
        2 * I::TOKENS
    }

    /// One panel times the tokens from `t0` on, as many as `out` has.
    fn run<I: Isa>(isa: I, panel: &Panel<'_>, acts: &Acts, t0: usize, out: &mut Outputs<'_>);
}

/// A call of a kernel, to be compiled for the instructions.
struct Call<'a, K> {
    panel: Panel<'a>,
    acts: &'a Acts,
    t0: usize,
    out: Outputs<'a>,
    kernel: PhantomData<K>,
}

impl<K: Kernel> Op for Call<'_, K> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        K::run(isa, &self.panel, self.acts, self.t0, &mut self.out);
    }
}

impl Product {
    /// A kernel's on `I`.
    pub fn of<I: Isa, K: Kernel>() -> Self {
        Product { run: product::<I, K>, once: K::ONCE, full: K::full::<I>() }
    }
}

/// One panel on `I`, any number of tokens.
pub(crate) fn product<I: Isa, K: Kernel>(
    w: &Panels,
    p: usize,
    acts: &Acts,
    t0: usize,
    out: Outputs<'_>,
) {
    let panel = Panel::of(w, p);
    token::<I>().vectorize(Call { panel, acts, t0, out, kernel: PhantomData::<K> });
}

/// The oracle's form over a panel.
pub(crate) fn product_oracle(w: &Panels, p: usize, acts: &Acts, t0: usize, mut out: Outputs<'_>) {
    for (t, out) in out.each_token().enumerate() {
        for (r, y) in out.iter_mut().take(w.rows() - p * ROWS).enumerate() {
            *y = crate::oracle::dot(w, p * ROWS + r, acts, t0 + t);
        }
    }
}

/// `out = W x` for `n` vectors: `x` is `[n][cols]`, `out` is `[n][rows]`. Quantises the activations as the
/// format says.
///
/// ```
/// use tritlab_kernels::{Format, Matrix, Panels, op};
/// let w = Matrix::quantize(Format::TERNARY, 2, 4, &[1.0, -1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]).unwrap();
/// let w = Panels::pack(&w).unwrap();
/// let mut y = [0.0; 2];
/// op::matmul(&w, &[1.0, 2.0, 3.0, 4.0], 1, &mut y).unwrap();
/// assert!((y[0] - 0.75 * 3.0).abs() < 0.05 && (y[1] - 0.75 * 6.0).abs() < 0.05);
/// ```
///
/// # Errors
/// Lengths that do not fit, activations that are not finite, no usable backend.
pub fn matmul(w: &Panels, x: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
    let acts = Acts::quantize(w.format().info().activation, x, n, w.cols())?;
    matmul_acts(w, &acts, out)
}

/// As [`matmul`], with activations that are quantised already.
///
/// # Errors
/// Lengths or a grouping that do not fit, no usable backend.
pub fn matmul_acts(w: &Panels, acts: &Acts, out: &mut [f32]) -> Result<()> {
    matmul_many(&mut [(w, out)], acts)
}

/// Several matrices times the same activations in one parallel region (query, key and value; gate and
/// up). Each output is [n][rows of its matrix].
///
/// # Errors
/// As [`matmul_acts`].
pub fn matmul_many(jobs: &mut [(&Panels, &mut [f32])], acts: &Acts) -> Result<()> {
    let n = acts.n();
    for (w, out) in jobs.iter() {
        check(w, acts)?;
        check_len("outputs", n * w.rows(), out.len())?;
    }
    let ops = backend::ops()?;
    if n == 0 {
        return Ok(());
    }
    let kernel = |format: Format| if n == 1 { ops.gemv(format) } else { ops.gemm(format) };
    let some = jobs.iter_mut().filter(|(w, _)| w.rows() > 0);
    let (matrices, outs): (Vec<&Panels>, Vec<&mut [f32]>) =
        some.map(|(w, out)| (*w, &mut **out)).unzip();
    if n >= EACH * threads::get() {
        by_tokens(&matrices, outs, acts, ops);
    } else {
        by_panels(&matrices, outs, acts, kernel);
    }
    Ok(())
}

/// Tokens for each thread from which on a thread takes tokens, not panels: from here on the weights, which then
/// every thread reads, cost little beside the products.
const EACH: usize = 64;

/// A thread takes some of the tokens, and all panels.
fn by_tokens(matrices: &[&Panels], outs: Vec<&mut [f32]>, acts: &Acts, ops: &Ops) {
    // Whole tiles of a matrix unit; not of every backend (48), which gives one of two threads 288 of 512 tokens.
    let tokens = acts.n().div_ceil(threads::get()).next_multiple_of(16);
    let mut pieces: Vec<Vec<&mut [f32]>> = Vec::new();
    pieces.resize_with(acts.n().div_ceil(tokens), Vec::new);
    for (w, out) in matrices.iter().zip(outs) {
        for (piece, out) in pieces.iter_mut().zip(out.chunks_mut(tokens * w.rows())) {
            piece.push(out);
        }
    }
    threads::for_each_chunk(&mut pieces, 1, |i, piece| {
        let t0 = i * tokens;
        let n = tokens.min(acts.n() - t0);
        let mut scratch = Scratch::take(n * ROWS);
        let block = &mut scratch.0[..n * ROWS];
        for (w, out) in matrices.iter().zip(piece[0].iter_mut()) {
            if let Some(whole) = ops.whole(w.format())
                && lookup::pays(w, n)
                && whole(w, acts, t0, out)
            {
                continue;
            }
            all_panels(ops.gemm(w.format()), w, acts, t0, out, block);
        }
    });
}

/// All panels of `w` times the tokens from `t0` on, on this thread: `out` is [tokens][rows], and `block` room for
/// [tokens][64], for kernels whose outputs should be near each other and for the last rows.
pub(crate) fn all_panels(
    kernel: Product,
    w: &Panels,
    acts: &Acts,
    t0: usize,
    out: &mut [f32],
    block: &mut [f32],
) {
    if out.is_empty() {
        return; // no tokens
    }
    for p in 0..w.panels() {
        let rows = p * ROWS..w.rows().min((p + 1) * ROWS);
        if kernel.once && rows.len() == ROWS {
            let to = Outputs::columns(&mut out[rows.start..], w.rows());
            (kernel.run)(w, p, acts, t0, to);
            continue;
        }
        (kernel.run)(w, p, acts, t0, Outputs::block(block));
        for (row, y) in out.chunks_exact_mut(w.rows()).zip(block.as_chunks::<ROWS>().0) {
            // A whole panel is a few vectors; a call of `memcpy` would cost as much as the copying.
            match row[rows.start..].first_chunk_mut() {
                Some(to) => *to = *y,
                None => row[rows.clone()].copy_from_slice(&y[..rows.len()]),
            }
        }
    }
}

/// A thread takes some of the panels, and all tokens.
fn by_panels(
    matrices: &[&Panels],
    outs: Vec<&mut [f32]>,
    acts: &Acts,
    kernel: impl Fn(Format) -> Product + Sync,
) {
    let n = acts.n();
    // One list of panels over all matrices; a panel's outputs are contiguous.
    let total: usize = matrices.iter().map(|w| w.panels()).sum();
    let mut scratch = Scratch::take(total * n * ROWS);
    let scratch = &mut scratch.0[..total * n * ROWS];
    threads::for_each_chunk(scratch, n * ROWS, |mut p, block| {
        for w in matrices {
            if p < w.panels() {
                return (kernel(w.format()).run)(w, p, acts, 0, Outputs::block(block));
            }
            p -= w.panels();
        }
    });
    let mut blocks = &*scratch;
    for (w, out) in matrices.iter().zip(outs) {
        let (mine, rest) = blocks.split_at(w.panels() * n * ROWS);
        blocks = rest;
        scatter(mine, n, w.rows(), out);
    }
}

/// Outputs by panel, kept by their thread from product to product: a fresh buffer each time would cost
/// its zeroing, and for long prompts its page faults. Kernels write all of it, so old contents do not matter.
struct Scratch(Vec<f32>);

thread_local! {
    static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Scratch above this is given back to the system: 64 MiB.
const KEEP: usize = 1 << 24;

impl Scratch {
    /// The thread's buffer, or a new one where it is in use already or too short.
    fn take(len: usize) -> Self {
        let mut buffer = KEPT.take();
        if buffer.len() < len {
            // Not `resize`: the old contents need not be copied.
            buffer = vec![0.0; len];
        }
        Scratch(buffer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        if buffer.len() <= KEEP {
            KEPT.set(buffer);
        }
    }
}

/// [panels][n][64] to [n][rows].
fn scatter(blocks: &[f32], n: usize, rows: usize, out: &mut [f32]) {
    let one = |t: usize, row: &mut [f32]| {
        for (to, block) in row.chunks_mut(ROWS).zip(blocks.chunks_exact(n * ROWS)) {
            to.copy_from_slice(&block[t * ROWS..t * ROWS + to.len()]);
        }
    };
    if n == 1 {
        one(0, out);
    } else {
        threads::for_each_chunk(out, rows, one);
    }
}

fn check(w: &Panels, acts: &Acts) -> Result<()> {
    let info = w.format().info();
    check_len("columns", w.cols(), acts.cols())?;
    if info.activation != acts.grouping() {
        return Err(Error::Grouping {
            format: info.name,
            expected: info.activation.name(),
            got: acts.grouping().name(),
        });
    }
    Ok(())
}
