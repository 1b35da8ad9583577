//! Encoding, packing and decoding: what loading a model and changing its precision cost.

use std::hint::black_box;

use criterion::Throughput;
use tritlab_benches::*;
use tritlab_kernels::{Format, Matrix, Panels, Weights, backend};

fn main() {
    let (mut c, mut record) = (criterion(), Record::default());
    let backend = backend::current().expect("a usable backend");
    let Layer { rows, cols, .. } = SMALL;
    let weights = painted(rows * cols);
    for &format in Format::ALL {
        let name = format!("codec/{format}/{SMALL}");
        let mut group = c.benchmark_group(name.as_str());
        group.throughput(Throughput::Elements(weights.len() as u64));
        let matrix = matrix(format, SMALL);
        let panels = Panels::pack(&matrix).expect("packs");
        check_all(&format!("{format} packed"), &panels.dequantize(), &matrix.dequantize());
        let mut time = |what: &str, bytes: usize, step: &mut dyn FnMut()| {
            group.bench_function(what, |b| {
                let work = Work::reading(bytes, all_threads());
                record.time(b, (&format!("{name}/{what}"), backend, work), &mut *step);
            });
        };
        let read = 4 * weights.len();
        time("quantize", read, &mut || {
            drop(black_box(Matrix::quantize(format, rows, cols, black_box(&weights))));
        });
        let read = (weights.len() as f64 * format.bits_per_weight() / 8.0) as usize;
        time("pack", read, &mut || drop(black_box(Panels::pack(black_box(&matrix)))));
        time("dequantize", read, &mut || drop(black_box(black_box(&matrix).dequantize())));
        let read = panels.nbytes();
        time("dequantize panels", read, &mut || drop(black_box(black_box(&panels).dequantize())));
        group.finish();
    }
    c.final_summary();
    record.summary();
}
