//! Every row of the kernel table returns the oracle's bits: each backend, operation and format is a test
//! of its own (`avx512::gemm_q4_0`), over shapes at every edge of the tiles, painted numbers, saturating
//! codes, zeros, subnormals, huge scales, raw bytes, and random cases. Products and the quantisation of
//! activations run the public kit ([`tritlab_kernels::testing`]), as anybody's kernels can.
//!
//! A backend that the CPU lacks says so loudly; if `EXPECT_BACKENDS` lists it, it fails.

#[path = "support/inputs.rs"]
mod inputs;

use std::ops::Range;

use inputs::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tritlab_kernels::backend::{Ops, kernels};
use tritlab_kernels::op::{CacheType, KeyValues, Queries, Query};
use tritlab_kernels::oracle::{self, Activation};
use tritlab_kernels::{Backend, Format, Grouping, Matrix, Panels, Weights};

/// The kit's gemv or gemm suite on one backend. The kernel quantises the activations itself, and those must
/// be the oracle's too.
fn product(backend: Backend, format: Format, op: &str) {
    let Some(ops) = ops(backend) else { return };
    let name = format!("{op}-{}-{backend}", format.name().to_lowercase());
    let grouping = format.info().activation;
    let multiply = |matrix: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]| {
        let acts = ops.quantize_acts(grouping, x, n, matrix.cols()).unwrap();
        let oracle = Backend::Oracle.ops().unwrap();
        let expected = oracle.quantize_acts(grouping, x, n, matrix.cols()).unwrap();
        assert!(acts == expected, "quantised activations differ");
        ops.matmul(&Panels::pack(matrix).unwrap(), &acts, out);
    };
    match op {
        "gemv" => Kit::gemv_f32(format, &name, |matrix, x, out| multiply(matrix, x, 1, out)),
        _ => Kit::gemm_f32(format, &name, multiply),
    }
    .assert();
}

fn quantize_row(backend: Backend) {
    let Some(ops) = ops(backend) else { return };
    for grouping in Grouping::ALL.into_iter().filter(|&g| g != Grouping::Dense) {
        let name = format!("quantize_row-{backend}");
        Kit::quantize_row(grouping, &name, |x, q, scales, sums| {
            // The codes may be longer than the row: what is behind it stays.
            let mut long = vec![77; x.len() + 9];
            ops.quantize_row(grouping, x, &mut long, scales, sums);
            let (codes, rest) = long.split_at(x.len());
            assert!(rest.iter().all(|&q| q == 77), "wrote behind the row");
            q.copy_from_slice(codes);
        })
        .random(64)
        .assert();
    }
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
        // One position; a block; across blocks; not at multiples of 16; four blocks abreast.
        let ranges = [0..1, 0..16, 3..19, 17..18, 16..32, 5..131, 63..127, 0..133];
        for range in &ranges {
            attend(ops, dim, 133, std::slice::from_ref(range), Values::Painted, 1);
        }
        // All of these together, which are nothing like each other; a prompt's; a window's, over the edges of blocks.
        attend(ops, dim, 133, &ranges, Values::Painted, 1);
        let prompt: Vec<_> = (0..11).map(|t| 0..t + 1).collect();
        attend(ops, dim, 20, &prompt, Values::Zeros, 2);
        let window: Vec<_> = (60..82).map(|t| t - 33..t + 1).collect();
        attend(ops, dim, 90, &window, Values::Wide, 3);
    }
    // Several heads of several queries, of a prompt that follows another, perhaps through a window.
    let strategy = (1..140usize, 0..150usize, 1..14usize, 1..4usize, any::<(u16, u64)>());
    let result =
        TestRunner::new(cases(64)).run(&strategy, |(dim, before, n, heads, (window, seed))| {
            let kind = [Values::Wide, Values::Painted, Values::Subnormal][Random(seed).below(3)];
            let window = [1, 7, 16, 40, usize::MAX][usize::from(window) % 5];
            let sees = |t: usize| (t + 1).saturating_sub(window)..t + 1;
            let ranges: Vec<_> = (0..n * heads).map(|i| sees(before + i / heads)).collect();
            attend(ops, dim, before + n, &ranges, kind, seed);
            Ok(())
        });
    result.unwrap_or_else(|e| panic!("{e}"));
}

/// Queries that see `ranges` of `len` positions, all at once, against the oracle one by one.
fn attend(ops: &Ops, dim: usize, len: usize, ranges: &[Range<usize>], values: Values, seed: u64) {
    let keys = values.make(dim * len, seed ^ 2);
    let cached = Values::Painted.make(dim * len, seed ^ 3);
    // Their vectors are in another order than they are, and not side by side.
    let each: Vec<Query> = (ranges.iter().rev().enumerate())
        .map(|(i, range)| Query { at: (ranges.len() - 1 - i) * (dim + 3), range: range.clone() })
        .collect();
    let vectors = Values::Painted.make(ranges.len() * (dim + 3), seed ^ 4);
    for ty in CacheType::ALL {
        let hold = |x: &[f32]| -> Vec<f32> {
            x.iter()
                .map(|x| if ty == CacheType::F16 { oracle::round_f16(*x) } else { *x })
                .collect()
        };
        let (keys, cached) = (hold(&keys), hold(&cached));
        let mut kv = KeyValues::new(dim, 0, ty);
        for (k, v) in keys.chunks_exact(dim).zip(cached.chunks_exact(dim)) {
            kv.push(k, v);
        }
        let scale = 1.0 / (dim as f32).sqrt();
        let mut scores = vec![f32::NAN; 3]; // scratch: what it held before must not matter
        // What lies before all of them may be there or not.
        let first = ranges.iter().map(|r| r.start).min().expect("a query");
        let mut cut = kv.clone();
        cut.forget_before(first);
        assert_eq!((cut.start(), cut.len()), (first / 16 * 16, len));
        for (kv, cap) in [(&kv, None), (&kv, Some(50.0)), (&cut, None)] {
            let (mut got, mut expected) = (vec![7.0; vectors.len()], vec![7.0; vectors.len()]);
            let queries = Queries { vectors: &vectors, each: &each, scale, cap };
            ops.attention(&queries, kv, &mut scores, &mut got);
            for Query { at, range } in &each {
                let (q, out) = (&vectors[*at..at + dim], &mut expected[*at..at + dim]);
                let held = range.start * dim..range.end * dim;
                oracle::attention(q, &keys[held.clone()], &cached[held], scale, cap, out);
            }
            let what = format!(
                "attention-{}, {ty:?}, dim {dim}, positions {ranges:?} of {len} from {}, cap {cap:?}, {values:?}, seed {seed}",
                ops.backend(),
                kv.start(),
            );
            assert_bits(&what, &got, &expected);
        }
    }
}

/// What is pushed is rounded once; what is cut back or forgotten leaves the rest as it was; growth stays within
/// the bytes that were announced.
#[test]
fn a_cache_holds_what_it_says() {
    let dim = 24;
    let x = Values::Wide.make(dim * 200, 5);
    for ty in CacheType::ALL {
        let mut kv = KeyValues::growing(dim, 8, 200, ty);
        for x in x.chunks_exact(dim) {
            kv.push(x, x);
        }
        kv.forget_before(77);
        kv.truncate(150);
        kv.push(&x[..dim], &x[dim..2 * dim]);
        assert_eq!((kv.start(), kv.len(), kv.cache_type()), (64, 151, ty));
        let held = |x: &[f32]| -> Vec<f32> {
            x.iter()
                .map(|x| if ty == CacheType::F16 { oracle::round_f16(*x) } else { *x })
                .collect()
        };
        for j in 64..150 {
            let expected = held(&x[j * dim..(j + 1) * dim]);
            assert_eq!((kv.key(j), kv.value(j)), (expected.clone(), expected), "{ty:?} {j}");
        }
        assert_eq!((kv.key(150), kv.value(150)), (held(&x[..dim]), held(&x[dim..2 * dim])));
        kv.truncate(64);
        assert_eq!((kv.start(), kv.len()), (0, 0));
    }
    assert!(oracle::round_f16(CacheType::F16.max()).is_finite());
    assert!(!oracle::round_f16(CacheType::F16.max().next_up()).is_finite());
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
                product($backend, Format::$variant, "gemv");
            }
            #[test]
            fn $gemm() {
                product($backend, Format::$variant, "gemm");
            })*
            $(#[test]
            fn $op() {
                super::$op($backend);
            })*
        }
    };
}

#[cfg(target_arch = "x86_64")]
suite!(amx, Backend::Amx);
#[cfg(target_arch = "x86_64")]
suite!(avx512_lut, Backend::Avx512Lut);
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
        (Backend::Amx, amx::ROWS),
        #[cfg(target_arch = "x86_64")]
        (Backend::Avx512Lut, avx512_lut::ROWS),
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

/// So many tokens and rows that whole matrices are looked up, by several threads; a matrix that cannot be, and one that
/// is too small for it, beside it.
#[test]
fn many_tokens_of_whole_matrices() {
    let Some(ops) = ops(Backend::Avx512Lut) else { return };
    let (n, cols) = (321, 96);
    let x: Vec<f32> = (0..n * cols).map(|i| ((i * 53 % 241) as f32 - 120.0) / 32.0).collect();
    let acts = ops.quantize_acts(Grouping::Token, &x, n, cols).unwrap();
    let weights: Vec<f32> = (0..1100 * cols).map(|i| (i * 37 % 251) as f32 - 125.0).collect();
    let ternary = Matrix::quantize(Format::TERNARY, 1100, cols, &weights).unwrap();
    let mut bytes = ternary.bytes().to_vec();
    bytes[5000] |= 3; // a weight of 2
    let two = Matrix::new(Format::TERNARY, 1100, cols, bytes, vec![0.5]).unwrap();
    let signs = Matrix::quantize(Format::SIGN, 100, cols, &weights[..100 * cols]).unwrap();
    tritlab_kernels::threads::set(3).unwrap();
    tritlab_kernels::backend::force(Some("avx512_lut")).unwrap();
    let matrices = [ternary, two, signs];
    let panels = matrices.each_ref().map(|m| Panels::pack(m).unwrap());
    let mut outs = panels.each_ref().map(|w| vec![f32::NAN; n * w.rows()]);
    let mut jobs: Vec<_> = panels.iter().zip(&mut outs).map(|(w, out)| (w, &mut out[..])).collect();
    tritlab_kernels::op::matmul_many(&mut jobs, &acts).unwrap();
    for (matrix, got) in matrices.iter().zip(&outs) {
        let mut expected = vec![0.0; got.len()];
        oracle::matmul(matrix, &acts, &mut expected);
        let differ = expected.iter().zip(got).position(|(e, g)| e.to_bits() != g.to_bits());
        assert_eq!(differ, None, "{} {}", matrix.format(), matrix.rows());
    }
}

/// Rows nearly so long that their panels are not unpacked, and longer ones.
#[test]
fn many_tokens_of_long_rows() {
    for backend in tritlab_kernels::backend::available() {
        let ops = backend.ops().unwrap();
        for (format, n) in [(Format::Q6_K, 37), (Format::Q3_K, 97)] {
            for cols in [11_264, 12_544] {
                let weights: Vec<f32> =
                    (0..2 * cols).map(|i| (i * 37 % 251) as f32 - 125.0).collect();
                let x: Vec<f32> =
                    (0..n * cols).map(|i| ((i * 53 % 241) as f32 - 120.0) / 32.0).collect();
                let matrix = Matrix::quantize(format, 2, cols, &weights).unwrap();
                let acts = ops.quantize_acts(format.info().activation, &x, n, cols).unwrap();
                let (mut got, mut expected) = (vec![f32::NAN; 2 * n], vec![0.0; 2 * n]);
                ops.matmul(&Panels::pack(&matrix).unwrap(), &acts, &mut got);
                oracle::matmul(&matrix, &acts, &mut expected);
                let differ =
                    expected.iter().zip(&got).position(|(e, g)| e.to_bits() != g.to_bits());
                assert_eq!(differ, None, "{format}, {cols} columns on {backend}");
            }
        }
    }
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
