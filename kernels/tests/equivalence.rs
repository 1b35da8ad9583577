//! Every row of the kernel table returns the oracle's bits: each backend, operation and format is a test
//! of its own (`avx512::gemm_q4_0`), over shapes at every edge of the tiles, painted numbers, saturating
//! codes, zeros, subnormals, huge scales, raw bytes, and random cases.
//!
//! A backend that the CPU lacks says so loudly; if `EXPECT_BACKENDS` lists it, it fails.

#[path = "support/inputs.rs"]
mod inputs;

use inputs::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tritlab_kernels::backend::{Ops, kernels};
use tritlab_kernels::op::KeyValues;
use tritlab_kernels::oracle::{self, Activation};
use tritlab_kernels::{Backend, Format, Grouping, Matrix, Panels, Scales, Weights};

/// Lengths of vectors to try.
const LENGTHS: &[usize] = &[
    0,    // nothing to do
    1,    // one lane
    15,   // one short of a vector
    16,   // a vector
    17,   // a vector and one lane
    31,   // one short of a chunk
    33,   // a chunk and one
    64,   // whole vectors
    100,  // a tail of four
    255,  // one short of a group of 256
    257,  // a group of 256 and one
    576,  // SmolLM2-135M's width
    1000, // a tail of eight, a part of a group
];

/// Quantises on the backend, compares with the oracle's activations, multiplies, compares bits.
#[track_caller]
fn check_product(ops: &Ops, matrix: &Matrix<'_>, x: &[f32], n: usize, what: &str) {
    let (format, rows, cols) = (matrix.format(), matrix.rows(), matrix.cols());
    let op = if n == 1 { "gemv" } else { "gemm" };
    let name = format!("{op}-{}-{}", format.name().to_lowercase(), ops.backend());
    let what = format!("{name}, {rows} x {cols} x {n} tokens, {what}");
    let grouping = format.info().activation;
    let oracle = Backend::Oracle.ops().unwrap();
    let expected_acts = oracle.quantize_acts(grouping, x, n, cols).unwrap();
    let acts = ops.quantize_acts(grouping, x, n, cols).unwrap();
    assert!(acts == expected_acts, "{what}: quantised activations differ");
    let panels = Panels::pack(matrix).unwrap();
    let mut expected = vec![0.0; n * rows];
    oracle::matmul(matrix, &expected_acts, &mut expected);
    let mut got = vec![f32::NAN; n * rows];
    ops.matmul(&panels, &acts, &mut got);
    assert_bits(&what, &got, &expected);
}

fn product(backend: Backend, format: Format, tokens: &[usize]) {
    let Some(ops) = ops(backend) else { return };
    let columns = columns(format);
    let (narrow, wide) = (columns[columns.len() / 2], columns[columns.len() - 1]);
    // Every number of rows, every number of columns, every number of tokens, each against a few others.
    for &rows in ROWS {
        let n = tokens[rows % tokens.len()];
        let matrix = painted_matrix(format, rows, narrow);
        check_product(ops, &matrix, &Values::Painted.make(n * narrow, 1), n, "painted");
    }
    for &cols in columns {
        let n = tokens[cols % tokens.len()];
        let matrix = painted_matrix(format, 17, cols);
        check_product(ops, &matrix, &Values::Painted.make(n * cols, 2), n, "painted");
        let matrix = random_matrix(format, 33, cols, 3);
        check_product(ops, &matrix, &Values::Wide.make(n * cols, 4), n, "raw bytes");
    }
    for &n in tokens {
        let matrix = random_matrix(format, 65, narrow, n as u64);
        check_product(ops, &matrix, &Values::Painted.make(n * narrow, 5), n, "raw bytes");
    }
    let n = tokens[tokens.len() / 2];
    for values in Values::FINITE {
        let matrix = random_matrix(format, 18, wide, 6);
        check_product(ops, &matrix, &values.make(n * wide, 7), n, &format!("{values:?}"));
    }
    saturate(ops, format, n, wide);
    let strategy = (0..130usize, 0..columns.len(), 0..tokens.len(), any::<u64>());
    let result = TestRunner::new(cases(32)).run(&strategy, |(rows, c, t, seed)| {
        let (cols, n) = (columns[c], tokens[t]);
        let values = Values::FINITE[Random(seed).below(Values::FINITE.len())];
        let matrix = random_matrix(format, rows, cols, seed);
        let x = values.make(n * cols, seed);
        check_product(ops, &matrix, &x, n, &format!("{values:?}, seed {seed}"));
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

/// The largest and smallest codes of every format against the largest and smallest activations.
fn saturate(ops: &Ops, format: Format, n: usize, cols: usize) {
    const BYTES: [[u8; 2]; 6] = [
        [0xff, 0xff], // the largest code of 1, 2 and 4 bits; -1 of 8
        [0x00, 0x00], // the smallest code of 1, 2 and 4 bits; 0 of 8
        [0x7f, 0x7f], // 127, the largest code of 8 bits
        [0x80, 0x80], // -128, the smallest code of 8 bits, which no encoder writes
        [0x7f, 0x80], // both in turn
        [0xff, 0x00], // both in turn
    ];
    for bytes in BYTES {
        for values in [Values::Highest, Values::Lowest, Values::Alternating] {
            let matrix = raw_matrix(format, 17, cols, |i| bytes[i % 2], |_| 0x3c00);
            let what = format!("bytes {bytes:02x?} against {values:?}");
            check_product(ops, &matrix, &values.make(n * cols, 0), n, &what);
        }
    }
    // Rows so long that the exact sum of all-largest codes needs more than the 24 bits of an f32 (ternary:
    // 3 * 127 * 70,003), and nearly the longest that Q8_0 and base 3 accept.
    let short = format.codes().is_some_and(|c| c.max > 15 || c.base3);
    let long = if short { 33_020 } else { 70_003 };
    let block = if format.info().scales == Scales::Block { format.info().block } else { 1 };
    let cols = long / block * block;
    let matrix = raw_matrix(format, 2, cols, |_| 0xff, |_| 0x3c00);
    let x = Values::Highest.make(cols, 0);
    check_product(ops, &matrix, &x, 1, "the longest row");
}

fn quantize_row(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    let check = |grouping: Grouping, n: usize, values: Values, seed: u64| {
        let x = values.make(n, seed);
        let group = grouping.len().unwrap_or(n).max(1);
        let groups = n.div_ceil(group);
        // Painted outputs, longer than the row: what is not written stays.
        let fresh = || (vec![77i8; n + 9], vec![7.0f32; groups], vec![77i32; groups]);
        let ((mut q, mut s, mut sum), (mut q0, mut s0, mut sum0)) = (fresh(), fresh());
        ops.quantize_row(grouping, &x, &mut q, &mut s, &mut sum);
        let oracle = Backend::Oracle.ops().unwrap();
        oracle.quantize_row(grouping, &x, &mut q0, &mut s0, &mut sum0);
        let what = format!(
            "quantize_row-{backend}, groups of {}, {n} elements, {values:?}, seed {seed}",
            grouping.name()
        );
        assert_bits(&what, &s, &s0);
        let first = q.iter().zip(&q0).position(|(a, b)| a != b);
        assert!(first.is_none(), "{what}: codes differ, first at {first:?}");
        assert_eq!(sum, sum0, "{what}: sums");
        assert!(q[n..].iter().all(|&q| q == 77), "{what}: wrote behind the row");
    };
    for grouping in [Grouping::Token, Grouping::Group256, Grouping::Group32] {
        for &n in LENGTHS {
            for values in Values::FINITE {
                check(grouping, n, values, 1);
            }
        }
        let result = TestRunner::new(cases(64)).run(&(0..700usize, any::<u64>()), |(n, seed)| {
            check(grouping, n, Values::FINITE[Random(seed).below(9)], seed);
            Ok(())
        });
        result.unwrap_or_else(|e| panic!("{e}"));
    }
    // Every quotient at and beside a half: 127 is the largest, so x * (127 / a) is x itself.
    let mut x = vec![127.0f32];
    for half in -127..127 {
        let half = half as f32 + 0.5;
        x.extend([half, half.next_up(), half.next_down()]);
    }
    let grouping = Grouping::Token;
    assert_eq!(
        ops.quantize_acts(grouping, &x, 1, x.len()).unwrap(),
        Backend::Oracle.ops().unwrap().quantize_acts(grouping, &x, 1, x.len()).unwrap()
    );
}

/// Calls `check` with every length and kind of values, and with random ones.
fn each_vector(check: impl Fn(usize, Values, u64)) {
    for &n in LENGTHS {
        for values in Values::FINITE.into_iter().chain([Values::AnyBits]) {
            check(n, values, n as u64);
        }
    }
    let result = TestRunner::new(cases(128)).run(&(0..300usize, any::<u64>()), |(n, seed)| {
        let kinds = [Values::Wide, Values::AnyBits, Values::Painted];
        check(n, kinds[Random(seed).below(3)], seed);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn rms_norm(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    each_vector(|n, values, seed| {
        let (x, w) = (values.make(n, seed), Values::Painted.make(n, seed ^ 1));
        for eps in [1e-5, 0.0] {
            let (mut got, mut expected) = (vec![7.0; n], vec![7.0; n]);
            ops.rms_norm(&x, &w, eps, &mut got);
            oracle::rms_norm(&x, &w, eps, &mut expected);
            let what = format!("rms_norm-{backend}, {n}, eps {eps}, {values:?}, seed {seed}");
            assert_bits(&what, &got, &expected);
        }
    });
}

fn gated(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    each_vector(|n, values, seed| {
        for act in [Activation::Silu, Activation::Relu2, Activation::GeluTanh] {
            let (mut got, up) = (values.make(n, seed), Values::Painted.make(n, seed ^ 1));
            let mut expected = got.clone();
            ops.gated(act, &mut got, &up);
            oracle::gated(act, &mut expected, &up);
            let what = format!("gated-{backend}, {act:?}, {n}, {values:?}, seed {seed}");
            assert_bits(&what, &got, &expected);
        }
    });
    // The whole useful range of exp, far closer together than the polynomial's pieces.
    let range: Vec<f32> = (-6000..=6000).map(|i| i as f32 / 64.0).collect();
    let up = vec![1.0; range.len()];
    let (mut got, mut expected) = (range.clone(), range);
    ops.gated(Activation::Silu, &mut got, &up);
    oracle::gated(Activation::Silu, &mut expected, &up);
    assert_bits(&format!("gated-{backend}, the range of exp"), &got, &expected);
}

fn tanh_cap(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    each_vector(|n, values, seed| {
        // Gemma's caps, and one that is not exact.
        for cap in [50.0, 30.0, 0.1] {
            let mut got = values.make(n, seed);
            let mut expected = got.clone();
            ops.tanh_cap(&mut got, cap);
            oracle::tanh_cap(&mut expected, cap);
            let what = format!("tanh_cap-{backend}, {n}, cap {cap}, {values:?}, seed {seed}");
            assert_bits(&what, &got, &expected);
        }
    });
}

fn softmax(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    each_vector(|n, values, seed| {
        let mut got = values.make(n, seed);
        let mut expected = got.clone();
        ops.softmax(&mut got);
        oracle::softmax(&mut expected);
        assert_bits(&format!("softmax-{backend}, {n}, {values:?}, seed {seed}"), &got, &expected);
    });
}

fn rope(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    each_vector(|n, values, seed| {
        // The whole vector, and a part of it as in models with partial rotary embedding.
        for half in [n / 2, n / 4, 16.min(n / 2)] {
            let angles: Vec<f32> = (0..half).map(|j| paint(j + seed as usize % 251)).collect();
            let cos: Vec<f32> = angles.iter().map(|&a| libm_free_cos(a)).collect();
            let sin: Vec<f32> = angles;
            let mut got = values.make(n, seed);
            let mut expected = got.clone();
            ops.rope(&mut got, &cos, &sin);
            oracle::rope(&mut expected, &cos, &sin);
            let what = format!("rope-{backend}, {half} pairs of {n}, {values:?}, seed {seed}");
            assert_bits(&what, &got, &expected);
        }
    });
}

/// Any second table will do: the rotation does not know what a cosine is.
fn libm_free_cos(x: f32) -> f32 {
    1.0 - x * x * 0.3
}

fn attention(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    // Head dimensions: of real models; 80 and 96 are a 64 and a rest; 100 and 17 have tails.
    for dim in [16, 17, 32, 64, 80, 96, 100, 128, 256] {
        // (first, end): one position; a block; across blocks; not at multiples of 16; four blocks abreast.
        let ranges = [(0, 1), (0, 16), (3, 19), (17, 18), (16, 32), (5, 131), (63, 127), (0, 133)];
        attend(ops, dim, 133, &ranges, Values::Painted, 1);
        attend(ops, dim, 20, &[(0, 20), (2, 17)], Values::Zeros, 2);
        attend(ops, dim, 20, &[(0, 20), (2, 17)], Values::Wide, 3);
    }
    let strategy = (1..140usize, 1..140usize, 0..90usize, any::<u64>());
    let result = TestRunner::new(cases(64)).run(&strategy, |(dim, count, first, seed)| {
        let kind = [Values::Wide, Values::Painted, Values::Subnormal][Random(seed).below(3)];
        attend(ops, dim, first + count, &[(first, first + count)], kind, seed);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn attend(ops: &Ops, dim: usize, len: usize, ranges: &[(usize, usize)], values: Values, seed: u64) {
    let keys = values.make(dim * len, seed ^ 2);
    let cached = Values::Painted.make(dim * len, seed ^ 3);
    let q = Values::Painted.make(dim, seed ^ 4);
    let mut kv = KeyValues::new(dim, 0);
    for (k, v) in keys.chunks_exact(dim).zip(cached.chunks_exact(dim)) {
        kv.push(k, v);
    }
    let scale = 1.0 / (dim as f32).sqrt();
    let mut scores = vec![f32::NAN; 3]; // scratch: what it held before must not matter
    for &(first, end) in ranges {
        for cap in [None, Some(50.0)] {
            let (mut got, mut expected) = (vec![7.0; dim], vec![7.0; dim]);
            ops.attention(&q, &kv, first..end, scale, cap, &mut scores, &mut got);
            let (k, v) = (&keys[first * dim..end * dim], &cached[first * dim..end * dim]);
            oracle::attention(&q, k, v, scale, cap, &mut expected);
            let what = format!(
                "attention-{}, dim {dim}, positions {first}..{end} of {len}, cap {cap:?}, {values:?}, seed {seed}",
                ops.backend()
            );
            assert_bits(&what, &got, &expected);
        }
    }
}

/// The tests of one backend: a module with a test per row of the table. A new format or operation is one
/// line here; [`every_row_has_a_test`] asks for it.
macro_rules! suite {
    ($module:ident, $backend:expr) => {
        suite!($module, $backend,
            products {
                f32 gemv_f32 gemm_f32 F32, f16 gemv_f16 gemm_f16 F16, bf16 gemv_bf16 gemm_bf16 BF16,
                q8_0 gemv_q8_0 gemm_q8_0 Q8_0, q4_1 gemv_q4_1 gemm_q4_1 Q4_1,
                q4_0 gemv_q4_0 gemm_q4_0 Q4_0, tq2_0 gemv_tq2_0 gemm_tq2_0 TQ2_0,
                ternary gemv_ternary gemm_ternary TERNARY,
                ternary_row gemv_ternary_row gemm_ternary_row TERNARY_ROW,
                q6_k gemv_q6_k gemm_q6_k Q6_K,
                q5_1 gemv_q5_1 gemm_q5_1 Q5_1,
                q5_0 gemv_q5_0 gemm_q5_0 Q5_0,
                q5_k gemv_q5_k gemm_q5_k Q5_K,
                q4_k gemv_q4_k gemm_q4_k Q4_K,
                iq4_nl gemv_iq4_nl gemm_iq4_nl IQ4_NL,
                q3_k gemv_q3_k gemm_q3_k Q3_K,
                q2_k gemv_q2_k gemm_q2_k Q2_K,
                ternary_g32 gemv_ternary_g32 gemm_ternary_g32 TERNARY_G32,
                ternary_g64 gemv_ternary_g64 gemm_ternary_g64 TERNARY_G64,
                ternary_g128 gemv_ternary_g128 gemm_ternary_g128 TERNARY_G128,
                ternary_g256 gemv_ternary_g256 gemm_ternary_g256 TERNARY_G256,
                tq1_0 gemv_tq1_0 gemm_tq1_0 TQ1_0,
                ternary_b3 gemv_ternary_b3 gemm_ternary_b3 TERNARY_B3,
                ternary_b3_row gemv_ternary_b3_row gemm_ternary_b3_row TERNARY_B3_ROW,
                sign gemv_sign gemm_sign SIGN,
                sign_row gemv_sign_row gemm_sign_row SIGN_ROW,
            }
            others { quantize_row, rms_norm, gated, tanh_cap, softmax, rope, attention }
        );
    };
    ($module:ident, $backend:expr,
     products { $($format:ident $gemv:ident $gemm:ident $variant:ident),* $(,)? }
     others { $($op:ident),* }
    ) => {
        mod $module {
            use super::*;

            /// The rows that this module tests.
            pub const ROWS: &[&str] = &[$(stringify!($gemv), stringify!($gemm),)* $(stringify!($op)),*];

            $(#[test]
            fn $gemv() {
                product($backend, Format::$variant, &[1]);
            }
            #[test]
            fn $gemm() {
                product($backend, Format::$variant, TOKENS);
            })*
            $(#[test]
            fn $op() {
                super::$op($backend);
            })*
        }
    };
}

#[cfg(target_arch = "x86_64")]
suite!(avx512, Backend::Avx512);
#[cfg(target_arch = "x86_64")]
suite!(avx2, Backend::Avx2);
#[cfg(target_arch = "aarch64")]
suite!(neon_dotprod, Backend::NeonDotprod);
#[cfg(target_arch = "aarch64")]
suite!(neon, Backend::Neon);
suite!(portable, Backend::Portable);
// The oracle over panels against the oracle over bytes on disk.
suite!(oracle_on_panels, Backend::Oracle);

/// The modules of this architecture.
fn suites() -> Vec<(Backend, &'static [&'static str])> {
    vec![
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx512, avx512::ROWS),
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx2, avx2::ROWS),
        #[cfg(target_arch = "aarch64")]
        (Backend::NeonDotprod, neon_dotprod::ROWS),
        #[cfg(target_arch = "aarch64")]
        (Backend::Neon, neon::ROWS),
        (Backend::Portable, portable::ROWS),
        (Backend::Oracle, oracle_on_panels::ROWS),
    ]
}

#[test]
fn every_row_has_a_test() {
    let here = |(backend, _): &(Backend, _)| backend.available();
    let mut tested: Vec<String> = suites()
        .into_iter()
        .filter(here)
        .flat_map(|(backend, rows)| {
            rows.iter().map(move |row| match row.split_once('_') {
                Some((op @ ("gemv" | "gemm"), format)) => format!("{op}-{format}-{backend}"),
                _ => format!("{row}-{backend}"),
            })
        })
        .collect();
    let mut table: Vec<String> =
        kernels().into_iter().filter(|k| k.available).map(|k| k.name).collect();
    tested.sort();
    table.sort();
    assert_eq!(tested, table, "every available row of the table has a test in this file");
}

/// No backend goes missing unnoticed: what `EXPECT_BACKENDS` lists is exactly what is available.
#[test]
fn the_expected_backends_are_here() {
    let mut here: Vec<String> = tritlab_kernels::backend::available()
        .into_iter()
        .filter(|&b| b != Backend::Oracle)
        .map(|b| b.name().to_owned())
        .collect();
    let Some(mut expected) = expected_backends() else {
        say(&format!("**** EXPECT_BACKENDS is not set; checked: {} ****", here.join(", ")));
        return;
    };
    here.sort();
    expected.sort();
    assert_eq!(here, expected, "available backends and EXPECT_BACKENDS");
}
