//! The operations between products, on one thread, at the sizes of BitNet b1.58 2B-4T.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use tritlab_benches::*;
use tritlab_kernels::backend::Ops;
use tritlab_kernels::op::{CacheType, KeyValues, Queries, Query};
use tritlab_kernels::oracle::Activation;
use tritlab_kernels::{Backend, Grouping};

const WIDTH: usize = 2560;
const HIDDEN: usize = 6912;
const HEAD: usize = 128;
const POSITIONS: usize = 1024;
/// Queries of a prompt that attend together.
const PROMPT: usize = 32;

/// Times `run` on every backend: it reads `numbers` and changes `out` from `start`, which must give the oracle's bits.
fn bench(
    (c, record): (&mut Criterion, &mut Record),
    (name, numbers): (&str, usize),
    start: &[f32],
    run: impl Fn(&Ops, &mut [f32]),
) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(start.len() as u64));
    let mut expected = start.to_vec();
    run(Backend::Oracle.ops().expect("always available"), &mut expected);
    for backend in backends(true) {
        let ops = backend.ops().expect("available");
        group.bench_function(BenchmarkId::from_parameter(backend), |b| {
            let mut out = start.to_vec();
            run(ops, &mut out);
            check_all(&format!("{name} on {backend}"), &out, &expected);
            // From the same start each time: repeated in place, numbers would run to 0 or infinity.
            record.time(b, (name, backend, Work::reading(4 * numbers, 1)), || {
                out.copy_from_slice(start);
                run(ops, black_box(&mut out));
            });
        });
    }
    group.finish();
}

fn main() {
    let (mut c, mut record) = (criterion(), Record::default());
    let (x, w) = (painted(WIDTH), painted(WIDTH + 1)[1..].to_vec());
    for grouping in [Grouping::Token, Grouping::Group256, Grouping::Group32] {
        let groups = WIDTH.div_ceil(grouping.len().unwrap_or(WIDTH));
        let name = format!("quantize_row/{}/{WIDTH}", grouping.name());
        // Scales and sums as one vector, so that both are checked; codes are in the sums.
        bench((&mut c, &mut record), (&name, WIDTH), &vec![0.0; 2 * groups], |ops, out| {
            let (mut q, mut sum) = ([0i8; WIDTH], [0i32; WIDTH / 32]);
            ops.quantize_row(grouping, &x, &mut q, &mut out[..groups], &mut sum[..groups]);
            for (out, sum) in out[groups..].iter_mut().zip(sum) {
                *out = sum as f32;
            }
        });
    }
    let name = format!("rms_norm/{WIDTH}");
    bench((&mut c, &mut record), (&name, 2 * WIDTH), &vec![0.0; WIDTH], |ops, out| {
        ops.rms_norm(&x, &w, 1e-5, out);
    });
    let (gate, up) = (painted(HIDDEN), painted(HIDDEN + 1)[1..].to_vec());
    for act in [Activation::Silu, Activation::Relu2, Activation::GeluTanh] {
        let name = format!("gated/{act:?}/{HIDDEN}");
        bench((&mut c, &mut record), (&name, 2 * HIDDEN), &gate, |ops, out| {
            ops.gated(act, out, &up);
        });
    }
    let name = format!("tanh_cap/{POSITIONS}");
    bench((&mut c, &mut record), (&name, POSITIONS), &painted(POSITIONS), |ops, out| {
        ops.tanh_cap(out, 50.0);
    });
    let name = format!("softmax/{POSITIONS}");
    bench((&mut c, &mut record), (&name, POSITIONS), &painted(POSITIONS), |ops, out| {
        ops.softmax(out);
    });
    let (cos, sin) = (painted(HEAD / 2), painted(HEAD)[HEAD / 2..].to_vec());
    let name = format!("rope/{HEAD}");
    bench((&mut c, &mut record), (&name, 2 * HEAD), &painted(HEAD), |ops, out| {
        ops.rope(out, &cos, &sin);
    });

    let mut kv = KeyValues::new(HEAD, POSITIONS, CacheType::F32);
    let cached = painted((POSITIONS + 1) * HEAD);
    for j in 0..POSITIONS {
        kv.push(&cached[j * HEAD..][..HEAD], &cached[j * HEAD + 1..][..HEAD]);
    }
    let (q, scale) = (painted(HEAD), 1.0 / (HEAD as f32).sqrt());
    let name = format!("attention/{HEAD} x {POSITIONS} positions");
    let scores = std::cell::RefCell::new(Vec::new());
    let read = (2 * POSITIONS + 1) * HEAD;
    bench((&mut c, &mut record), (&name, read), &[0.0; HEAD], |ops, out| {
        let each = [Query { at: 0, range: 0..POSITIONS }];
        let queries = Queries { vectors: &q, each: &each, scale, cap: None };
        ops.attention(&queries, &kv, &mut scores.borrow_mut(), out);
    });
    // A stretch of a prompt, as prefill works on it.
    let each: Vec<Query> =
        (0..PROMPT).map(|i| Query { at: i * HEAD, range: 0..POSITIONS - PROMPT + i + 1 }).collect();
    let q = painted(PROMPT * HEAD);
    let name = format!("attention/{PROMPT} x {HEAD} x {POSITIONS} positions");
    bench((&mut c, &mut record), (&name, read), &vec![0.0; PROMPT * HEAD], |ops, out| {
        let queries = Queries { vectors: &q, each: &each, scale, cap: None };
        ops.attention(&queries, &kv, &mut scores.borrow_mut(), out);
    });
    c.final_summary();
    record.summary();
}
