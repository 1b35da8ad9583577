//! Encoding, packing and decoding: what loading a model and changing its precision cost.

use std::hint::black_box;

use criterion::Throughput;
use tritlab_benches::*;
use tritlab_kernels::{Format, Matrix, Panels, Weights};

fn main() {
    let mut c = criterion();
    let Layer { rows, cols, .. } = SMALL;
    let weights = painted(rows * cols);
    for &format in Format::ALL {
        let mut group = c.benchmark_group(format!("codec/{format}/{SMALL}"));
        group.throughput(Throughput::Elements(weights.len() as u64));
        let matrix = matrix(format, SMALL);
        let panels = Panels::pack(&matrix).expect("packs");
        check_all(&format!("{format} packed"), &panels.dequantize(), &matrix.dequantize());
        group.bench_function("quantize", |b| {
            b.iter(|| Matrix::quantize(format, rows, cols, black_box(&weights)));
        });
        group.bench_function("pack", |b| b.iter(|| Panels::pack(black_box(&matrix))));
        group.bench_function("dequantize", |b| b.iter(|| black_box(&matrix).dequantize()));
        group.bench_function("dequantize panels", |b| b.iter(|| black_box(&panels).dequantize()));
        group.finish();
    }
    c.final_summary();
}
