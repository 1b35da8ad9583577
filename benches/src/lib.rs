//! What the benches share: the shapes of real layers, checked inputs, and a record of every timing that
//! ends in a table of fractions of the machine's own limits, measured in the same run.
//!
//! A group is `operation/format/shape`, a function in it a backend, so criterion's reports compare
//! backends. Before anything is timed its answer is compared with the oracle's. Kernels are timed on one
//! thread; the groups called `matmul` go through the front door and use all of them.
//!
//! ```text
//! cargo bench -p tritlab-benches                           everything
//! cargo bench -p tritlab-benches --bench product -- Q4_0   what matches
//! cargo bench -p tritlab-benches -- --test                 each once, nothing timed: do they still work
//! ```
//!
//! The last table says what each bench reaches of the limits: of reading memory, or the last-level cache where its data
//! fit one (smaller ones are faster still: more than 100 % is possible), and of the backend's int8 dot product.
//!
//! Known bias: sizes are those of a few models; weights are far out of cache or in it, never half; one
//! kernel runs alone, where a model runs several in turn. On shared cores compare within a run only.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion};
use tritlab_kernels::backend::{self, Backend};
use tritlab_kernels::{Acts, Format, Matrix, Panels, Weights, oracle, roofline, threads};

/// A matrix of a real model.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// Model and tensor.
    pub name: &'static str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// Small enough for a core's own cache in every coded format.
pub const SMALL: Layer = Layer { name: "SmolLM2-135M.ffn_down", rows: 576, cols: 1536 };
/// The most common matrix of BitNet b1.58 2B-4T.
pub const MEDIUM: Layer = Layer { name: "BitNet-2B-4T.attn_q", rows: 2560, cols: 2560 };
/// Its largest but the embedding.
pub const LARGE: Layer = Layer { name: "BitNet-2B-4T.ffn_gate", rows: 6912, cols: 2560 };

/// All of them.
pub const LAYERS: [Layer; 3] = [SMALL, MEDIUM, LARGE];

/// Weights that a rotation over copies must exceed to be out of every cache.
pub const FAR: usize = 256 << 20;

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}x{}", self.name, self.rows, self.cols)
    }
}

/// Element `i` of a painted vector: period 251, so that swapped blocks or rows change an answer.
pub fn paint(i: usize) -> f32 {
    ((i * 37 % 251) as f32 - 125.0) / 62.5
}

/// `n` painted numbers.
pub fn painted(n: usize) -> Vec<f32> {
    (0..n).map(paint).collect()
}

/// The layer in a format, as on disk.
///
/// # Panics
/// If the format cannot hold it.
pub fn matrix(format: Format, layer: Layer) -> Matrix<'static> {
    let weights = painted(layer.rows * layer.cols);
    Matrix::quantize(format, layer.rows, layer.cols, &weights)
        .expect("a layer that fits the format")
}

/// The backends worth timing here, the oracle last; it is slow, so only small shapes ask for it.
pub fn backends(with_oracle: bool) -> Vec<Backend> {
    let mut all = backend::available();
    all.retain(|&b| with_oracle || b != Backend::Oracle);
    all
}

/// Checks some rows of `out` = `w` x `acts` against the oracle on the matrix as stored.
///
/// # Panics
/// If a bit differs: a wrong kernel is not timed.
pub fn check_rows(what: &str, matrix: &Matrix<'_>, acts: &Acts, out: &[f32]) {
    let rows = matrix.rows();
    for t in [0, acts.n() - 1] {
        for r in [0, 17, rows / 2, rows - 1] {
            let (got, expected) = (out[t * rows + r], oracle::dot(matrix, r, acts, t));
            assert_eq!(got.to_bits(), expected.to_bits(), "{what}: row {r}, token {t}");
        }
    }
}

/// Checks all of `got`.
///
/// # Panics
/// If a bit differs.
pub fn check_all(what: &str, got: &[f32], expected: &[f32]) {
    let differs = |(g, e): (&f32, &f32)| g.to_bits() != e.to_bits();
    assert_eq!(got.iter().zip(expected).position(differs), None, "{what}: first wrong element");
}

/// What one iteration of a bench does, in units of the machine's limits.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Bytes read: of weights, or of what an operation without weights is given.
    pub bytes: usize,
    /// Whether they come from memory, not from a cache.
    pub far: bool,
    /// Products of weights with activations.
    pub products: usize,
    /// Whether these are products of small integers.
    pub integer: bool,
    /// Threads at work.
    pub threads: usize,
}

impl Work {
    /// Reads `bytes` that are in a cache; multiplies nothing that a limit is known for.
    pub fn reading(bytes: usize, threads: usize) -> Self {
        Work { bytes, far: false, products: 0, integer: false, threads }
    }
}

/// The shortest sample that counts in the record.
const SAMPLE: Duration = Duration::from_millis(10);

struct Row {
    name: String,
    backend: Backend,
    work: Work,
    best: Duration,
}

/// The timings of a run.
#[derive(Default)]
pub struct Record {
    rows: Vec<Row>,
    /// Best bandwidth seen, of memory (true) or of the last-level cache, by threads.
    bandwidth: BTreeMap<(bool, usize), f64>,
    /// Best int8 peak seen, by backend and threads.
    peak: BTreeMap<(&'static str, usize), f64>,
}

impl Record {
    /// Times `step` in criterion's loop and keeps the best sample's mean.
    pub fn time(
        &mut self,
        bencher: &mut Bencher<'_>,
        (name, backend, work): (&str, Backend, Work),
        mut step: impl FnMut(),
    ) {
        let mut best = Duration::MAX;
        bencher.iter_custom(|iterations| {
            let begin = Instant::now();
            for _ in 0..iterations {
                step();
            }
            let elapsed = begin.elapsed();
            // criterion warms up by single iterations: too short to compare with a limit.
            if elapsed >= SAMPLE {
                best = best.min(elapsed.div_f64(iterations.max(1) as f64));
            }
            elapsed
        });
        // criterion comes here once per sample.
        match self.rows.iter_mut().find(|r| r.name == name && r.backend == backend) {
            Some(row) => row.best = row.best.min(best),
            None => {
                self.rows.push(Row { name: name.to_owned(), backend, work, best });
                if !testing() {
                    self.limits(backend, work);
                }
            }
        }
    }

    /// Measures the limits of some work. Often, because a shared machine is seldom quiet: the best counts.
    fn limits(&mut self, backend: Backend, work: Work) {
        let (n, time) = (work.threads, Duration::from_millis(150));
        let read = if work.far { roofline::read_bandwidth } else { roofline::cache_bandwidth };
        let best = self.bandwidth.entry((work.far, n)).or_default();
        *best = best.max(read(n, time));
        if let (true, Ok(rate)) = (work.integer, roofline::dot_peak(backend, n, time)) {
            let best = self.peak.entry((backend.name(), n)).or_default();
            *best = best.max(rate);
        }
    }

    /// Prints each timing beside the limits.
    pub fn summary(&self) {
        if self.rows.is_empty() || testing() {
            return;
        }
        let Record { bandwidth, peak, .. } = self;
        println!("\nLimits of this machine, the best seen during this run:");
        for ((far, n), b) in bandwidth {
            let place = if *far { "memory" } else { "cache" };
            println!("  {place} read, {n} threads: {:.1} GB/s", b / 1e9);
        }
        for ((backend, n), p) in peak {
            println!("  int8 products, {backend}, {n} threads: {:.1} G/s", p / 1e9);
        }
        println!(
            "\n{:<62} {:<12} {:>10} {:>8} {:>7} {:>9} {:>7}",
            "best of each", "backend", "us", "GB/s", "% read", "G prod/s", "% peak"
        );
        for Row { name, backend, work, best } in &self.rows {
            let s = best.as_secs_f64();
            let (read, products) = (work.bytes as f64 / s, work.products as f64 / s);
            let share = |x: f64, of: Option<&f64>| {
                of.map_or("-".to_owned(), |of| format!("{:.0}", 100.0 * x / of))
            };
            let read_share = share(read, bandwidth.get(&(work.far, work.threads)));
            let peak_share =
                share(products, peak.get(&(backend.name(), work.threads)).filter(|_| work.integer));
            println!(
                "{name:<62} {:<12} {:>10.2} {:>8.1} {read_share:>7} {:>9.1} {peak_share:>7}",
                backend.name(),
                s * 1e6,
                read / 1e9,
                products / 1e9
            );
        }
    }
}

/// Whether this run only tests that the benches work.
pub fn testing() -> bool {
    std::env::args().any(|a| a == "--test")
}

/// criterion, set for many short benches; arguments of the command line apply.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .without_plots()
        .configure_from_args()
}

/// What a product is timed on, made when the first bench of a group asks for it: a filter on the command
/// line then costs nothing for the others.
pub struct Setup {
    /// The weights as on disk, for the oracle.
    pub matrix: Matrix<'static>,
    /// The activations.
    pub acts: Acts,
    /// Panels to take turns with: one, or enough that reading them in turn reads memory.
    pub copies: Vec<Panels>,
    /// Whose turn it is. It goes on from sample to sample: the first copies would still be in a cache.
    turn: Cell<usize>,
}

impl Setup {
    /// A layer in a format, for `n` tokens.
    ///
    /// # Panics
    /// If the format cannot hold the layer.
    pub fn new(format: Format, layer: Layer, n: usize, far: bool) -> Self {
        let matrix = matrix(format, layer);
        let panels = Panels::pack(&matrix).expect("every format packs");
        let x = painted(n * layer.cols);
        let acts = Acts::quantize(format.info().activation, &x, n, layer.cols)
            .expect("painted numbers are finite");
        let count = if far { FAR.div_ceil(panels.nbytes()).max(2) } else { 1 };
        Setup { matrix, acts, copies: vec![panels; count], turn: Cell::new(0) }
    }

    /// What one product does.
    pub fn work(&self, far: bool, threads: usize) -> Work {
        Work {
            bytes: self.copies[0].nbytes(),
            far,
            products: self.acts.n() * self.matrix.rows() * self.matrix.cols(),
            integer: self.matrix.format().codes().is_some(),
            threads,
        }
    }

    /// Runs `product` once and checks rows of its answer, then times it with the copies in turn.
    ///
    /// # Panics
    /// If the answer is wrong.
    pub fn time(
        &self,
        record: &mut Record,
        bencher: &mut Bencher<'_>,
        (name, backend, work): (&str, Backend, Work),
        product: impl Fn(&Panels, &Acts, &mut [f32]),
    ) {
        let mut out = vec![0.0; self.acts.n() * self.matrix.rows()];
        product(self.next(), &self.acts, &mut out);
        check_rows(&format!("{name} on {backend}"), &self.matrix, &self.acts, &out);
        record.time(bencher, (name, backend, work), || {
            product(self.next(), &self.acts, std::hint::black_box(&mut out));
        });
    }

    fn next(&self) -> &Panels {
        let turn = self.turn.get();
        self.turn.set((turn + 1) % self.copies.len());
        &self.copies[turn]
    }
}

/// Threads of the front door.
pub fn all_threads() -> usize {
    threads::get()
}
