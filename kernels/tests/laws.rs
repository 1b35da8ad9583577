//! Laws that hold between answers: a column of a gemm is a gemv, the number of threads and the company
//! of other matrices change nothing, panels hold the numbers of the matrix they were packed from, and the
//! f32 contract stays within the error bound of its f64 form.

#[path = "support/inputs.rs"]
mod inputs;

use inputs::*;
use tritlab_kernels::format::Plain;
use tritlab_kernels::{
    Acts, Backend, Format, Matrix, Panels, Scales, Weights, backend, matmul, matmul_acts,
    matmul_many, oracle, threads,
};

/// More than two panels, and columns that every format holds.
const ROWS_COLS: (usize, usize) = (133, 512);

#[test]
fn a_column_of_gemm_is_a_gemv() {
    let (rows, cols) = ROWS_COLS;
    for backend in backend::available() {
        let ops = backend.ops().unwrap();
        for &format in Format::ALL {
            let matrix = random_matrix(format, rows, cols, 1);
            let panels = Panels::pack(&matrix).unwrap();
            let grouping = format.info().activation;
            // 13 tokens: every tile of every backend; 97: codes unpacked for all of them.
            let many = matches!(format, Format::Q6_K | Format::Q3_K | Format::Q5_1);
            let n = match (backend, many) {
                (Backend::Oracle, _) => 2,
                (_, true) => 97,
                (_, false) => 13,
            };
            let x = Values::Painted.make(n * cols, 2);
            let mut all = vec![0.0; n * rows];
            ops.matmul(&panels, &ops.quantize_acts(grouping, &x, n, cols).unwrap(), &mut all);
            for t in 0..n {
                let column = &x[t * cols..(t + 1) * cols];
                let acts = ops.quantize_acts(grouping, column, 1, cols).unwrap();
                let mut one = vec![0.0; rows];
                ops.matmul(&panels, &acts, &mut one);
                let what = format!("{format} on {backend}, token {t} of {n} against gemv");
                assert_bits(&what, &all[t * rows..(t + 1) * rows], &one);
            }
        }
    }
}

/// The only test here that changes the process: backend and threads are global.
#[test]
fn threads_and_company_change_nothing() {
    let (rows, cols) = ROWS_COLS;
    let shapes = [rows, 64, 1, 0, 200]; // several panels, one, a part of one, none, a part at the end
    for chosen in backend::available() {
        if chosen == Backend::Oracle {
            continue; // slow, and the same code for any number of threads
        }
        backend::force(Some(chosen.name())).unwrap();
        assert_eq!(backend::current().unwrap(), chosen);
        for &format in Format::ALL {
            let panels: Vec<Panels> = shapes
                .iter()
                .map(|&rows| Panels::pack(&random_matrix(format, rows, cols, 7)).unwrap())
                .collect();
            let grouping = format.info().activation;
            // So many tokens that threads take tokens and not panels: one format for each kind of activations and each
            // kernel.
            let kinds = [
                Format::F16,
                Format::TERNARY,
                Format::TERNARY_B3,
                Format::Q4_0,
                Format::Q4_K,
                Format::Q6_K,
                Format::Q3_K,
            ];
            let counts = if kinds.contains(&format) { &[1, 5, 131][..] } else { &[1, 5] };
            for &n in counts {
                let x = Values::Painted.make(n * cols, 3);
                // What one thread computes, one matrix after the other, without the front door.
                let ops = chosen.ops().unwrap();
                let expected_acts = ops.quantize_acts(grouping, &x, n, cols).unwrap();
                let expected: Vec<Vec<f32>> = panels
                    .iter()
                    .map(|w| {
                        let mut out = vec![0.0; n * w.rows()];
                        ops.matmul(w, &expected_acts, &mut out);
                        out
                    })
                    .collect();
                for count in [1, 2, 3] {
                    threads::set(count).unwrap();
                    assert_eq!(threads::get(), count);
                    let what = format!("{format} on {chosen}, {n} tokens, {count} threads");
                    let acts = Acts::quantize(grouping, &x, n, cols).unwrap();
                    assert!(acts == expected_acts, "{what}: activations");
                    let fresh = || -> Vec<Vec<f32>> {
                        panels.iter().map(|w| vec![f32::NAN; n * w.rows()]).collect()
                    };
                    let run = |outs: &mut Vec<Vec<f32>>| {
                        let mut jobs: Vec<(&Panels, &mut [f32])> = panels
                            .iter()
                            .zip(outs.iter_mut())
                            .map(|(w, o)| (w, &mut o[..]))
                            .collect();
                        matmul_many(&mut jobs, &acts).unwrap();
                    };
                    let mut many = fresh();
                    run(&mut many);
                    let mut hot = fresh();
                    threads::run_hot(|| run(&mut hot));
                    let mut alone = fresh();
                    let mut whole = fresh();
                    for (i, w) in panels.iter().enumerate() {
                        matmul_acts(w, &acts, &mut alone[i]).unwrap();
                        matmul(w, &x, n, &mut whole[i]).unwrap();
                    }
                    for (i, e) in expected.iter().enumerate() {
                        assert_bits(&format!("{what}: matmul_many, matrix {i}"), &many[i], e);
                        assert_bits(&format!("{what}: run_hot, matrix {i}"), &hot[i], e);
                        assert_bits(&format!("{what}: matmul_acts, matrix {i}"), &alone[i], e);
                        assert_bits(&format!("{what}: matmul, matrix {i}"), &whole[i], e);
                    }
                }
            }
        }
    }
}

#[test]
fn panels_hold_the_numbers_of_the_matrix() {
    for &format in Format::ALL {
        for &rows in ROWS {
            for &cols in &columns(format)[..4] {
                let matrix = random_matrix(format, rows, cols, (rows * 1000 + cols) as u64);
                same_numbers(&matrix, &format!("{format}, {rows} x {cols}, raw bytes"));
                let matrix = painted_matrix(format, rows, cols);
                same_numbers(&matrix, &format!("{format}, {rows} x {cols}, painted"));
            }
        }
    }
}

fn same_numbers(matrix: &Matrix<'_>, what: &str) {
    let panels = Panels::pack(matrix).unwrap();
    assert_eq!(
        (panels.format(), panels.rows(), panels.cols()),
        (matrix.format(), matrix.rows(), matrix.cols())
    );
    let info = matrix.format().info();
    if matrix.format().codes().is_some() {
        let (mut expected, mut got) = (Plain::new(), Plain::new());
        for r in 0..matrix.rows() {
            let codes = by_blocks(matrix, r, 1);
            assert_eq!(by_blocks(matrix, r, info.run()), codes, "{what}: runs of blocks");
            assert_eq!(by_blocks(&panels, r, info.run()), codes, "{what}: runs of blocks, panels");
            for b in 0..matrix.cols().div_ceil(info.block) {
                matrix.block(r, b, &mut expected);
                panels.block(r, b, &mut got);
                let what = format!("{what}, row {r}, block {b}");
                // What pads the last block of a row is not kept.
                let n = info.block.min(matrix.cols() - b * info.block);
                assert_eq!(got.q[..n], expected.q[..n], "{what}: codes");
                assert_bits(&what, &[got.d, got.m], &[expected.d, expected.m]);
            }
            assert_bits(what, &[panels.row_scale(r)], &[matrix.row_scale(r)]);
        }
    }
    assert_bits(what, &panels.dequantize(), &matrix.dequantize());
}

/// The codes of a row, so many blocks at a time.
fn by_blocks(w: &impl Weights, r: usize, at_once: usize) -> Vec<i16> {
    let (block, blocks) = (w.format().info().block, w.cols().div_ceil(w.format().info().block));
    let (mut codes, mut plain) = (Vec::new(), Plain::new());
    for first in (0..blocks).step_by(at_once) {
        let run = first..blocks.min(first + at_once);
        w.blocks(r, run.clone(), &mut plain);
        codes.extend_from_slice(&plain.q[..run.len() * block]);
    }
    codes.truncate(w.cols());
    codes
}

/// A panel is not larger than the padded bytes it was made from, plus the row scales and what unpacking does:
/// sub-block scales of 6 bits take a whole byte, and base-3 rows whole lines of 20 columns.
#[test]
fn panels_are_as_small_as_the_format() {
    for &format in Format::ALL {
        let matrix = painted_matrix(format, 128, 512); // whole panels, whole blocks
        let panels = Panels::pack(&matrix).unwrap();
        let scales = match format.info().scales {
            Scales::Row | Scales::Tensor => 128 * 4,
            Scales::None | Scales::Block => 0,
        };
        let unpacked = match format {
            Format::Q4_K | Format::Q5_K | Format::Q3_K => 4 * 256, // 16 bytes for 12 a block
            Format::TERNARY_B3 | Format::TERNARY_B3_ROW => 128,    // 104 bytes for 103 a row
            _ => 0,
        };
        assert_eq!(panels.nbytes(), matrix.bytes().len() + scales + unpacked, "{format}");
    }
}

#[test]
fn the_contract_stays_within_its_error_bound() {
    for &format in Format::ALL {
        for &cols in columns(format) {
            for (seed, values) in (0u64..).zip([
                Values::Painted,
                Values::Wide,
                Values::Alternating,
                Values::Zeros,
                Values::Subnormal,
            ]) {
                let x = values.make(cols, seed);
                let raw = random_matrix(format, 16, cols, seed);
                within_bound(&raw, &x, &format!("{format}, {cols} columns, raw, {values:?}"));
                let painted = painted_matrix(format, 16, cols);
                within_bound(
                    &painted,
                    &x,
                    &format!("{format}, {cols} columns, painted, {values:?}"),
                );
            }
        }
    }
}

fn within_bound(matrix: &Matrix<'_>, x: &[f32], what: &str) {
    let acts = Acts::quantize(matrix.format().info().activation, x, 1, matrix.cols()).unwrap();
    for r in 0..matrix.rows() {
        let exact = oracle::matmul_f64(matrix, &acts, 0, r);
        let got = f64::from(oracle::dot(matrix, r, &acts, 0));
        let error = (got - exact.value).abs();
        assert!(
            error <= exact.bound,
            "{what}, row {r}: {got:e} is {error:e} from {:e}, more than {:e}",
            exact.value,
            exact.bound
        );
    }
}
