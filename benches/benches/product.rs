//! gemv and gemm: every format on every backend, on one thread, and the front door on all of them.

use std::cell::OnceCell;

use criterion::{BenchmarkId, Criterion, Throughput};
use tritlab_benches::*;
use tritlab_kernels::{Format, backend, matmul_acts};

/// Tokens of a gemm: a prompt's batch; not a multiple of 6, so that small tiles count too.
const TOKENS: usize = 64;

/// Weights of fewer bytes are in the cache which cores share, and in no core's own, when they are read again and again.
const LAST_LEVEL: usize = 6 << 20;

/// Bytes of a layer's weights.
fn bytes(format: Format, layer: Layer) -> usize {
    ((layer.rows * layer.cols) as f64 * format.bits_per_weight() / 8.0) as usize
}

/// Bytes for one token, which memory limits; arithmetic for several.
fn throughput(format: Format, layer: Layer, n: usize) -> Throughput {
    match n {
        1 => Throughput::Bytes(bytes(format, layer) as u64),
        _ => Throughput::Elements((2 * n * layer.rows * layer.cols) as u64),
    }
}

/// `n` tokens on every backend, one thread.
fn kernels(
    c: &mut Criterion,
    record: &mut Record,
    (op, place): (&str, &str),
    format: Format,
    layer: Layer,
    n: usize,
) {
    let far = place == "memory";
    let name = format!("{op}/{format}/{layer}/{place}");
    let mut group = c.benchmark_group(name.as_str());
    group.throughput(throughput(format, layer, n));
    let setup = OnceCell::new();
    for backend in backends(layer.rows == SMALL.rows && place == "cache") {
        let ops = backend.ops().expect("available");
        group.bench_function(BenchmarkId::from_parameter(backend), |b| {
            let setup = setup.get_or_init(|| Setup::new(format, layer, n, far));
            let what = (name.as_str(), backend, setup.work(far, 1));
            setup.time(record, b, what, |w, acts, out| ops.matmul(w, acts, out));
        });
    }
    group.finish();
}

/// The front door: the best backend, all threads.
fn front_door(c: &mut Criterion, record: &mut Record, format: Format, layer: Layer, n: usize) {
    let backend = backend::current().expect("a usable backend");
    let far = n == 1;
    let name = format!("matmul/{format}/{layer}/{n} tokens");
    let mut group = c.benchmark_group(name.as_str());
    group.throughput(throughput(format, layer, n));
    let setup = OnceCell::new();
    group.bench_function(BenchmarkId::from_parameter(backend), |b| {
        let setup = setup.get_or_init(|| Setup::new(format, layer, n, far));
        let what = (name.as_str(), backend, setup.work(far, all_threads()));
        setup.time(record, b, what, |w, acts, out| {
            matmul_acts(w, acts, out).expect("shapes fit");
        });
    });
    group.finish();
}

fn main() {
    let (mut c, mut record) = (criterion(), Record::default());
    for &format in Format::ALL {
        kernels(&mut c, &mut record, ("gemv", "cache"), format, SMALL, 1);
        if bytes(format, LARGE) < LAST_LEVEL {
            kernels(&mut c, &mut record, ("gemv", "last-level cache"), format, LARGE, 1);
        }
        for layer in LAYERS {
            kernels(&mut c, &mut record, ("gemv", "memory"), format, layer, 1);
        }
        for layer in [SMALL, MEDIUM] {
            kernels(&mut c, &mut record, ("gemm", "64 tokens"), format, layer, TOKENS);
        }
        front_door(&mut c, &mut record, format, MEDIUM, 1);
        front_door(&mut c, &mut record, format, MEDIUM, TOKENS);
    }
    c.final_summary();
    record.summary();
}
