//! The kit judges kernels, and here it is judged: what is right passes, every kind of wrong kernel is caught
//! and named, and the cases hold what they promise.

#[path = "../examples/wrong_kernel.rs"]
mod wrong_kernel;

use half::f16;
use proptest::test_runner::TestRunner;
use tritlab_kernels::format::Plain;
use tritlab_kernels::testing::{
    Bytes, Case, Check, EVERY_BYTE_ROWS, Failure, Finding, Guarded, Kit, Values, any_matrix,
    every_byte, make_finite, strategies,
};
use tritlab_kernels::{Acts, Format, Grouping, Matrix, Panels, Scales, Weights, oracle};

/// The checks of a format.
fn checks(format: Format) -> [Check; 4] {
    [Check::Gemv(format), Check::Gemm(format), Check::Decode(format), Check::Encode(format)]
}

fn definition(w: &Matrix<'_>, acts: &Acts, out: &mut [f32]) {
    oracle::matmul(w, acts, out);
}

/// Encodes by the format's own quantiser.
fn encode(format: Format, x: &[f32], cols: usize, bytes: &mut [u8], scales: &mut [f32]) {
    let rows = x.len().checked_div(cols).unwrap_or(scales.len());
    let w = Matrix::quantize(format, rows, cols, x).unwrap();
    bytes.copy_from_slice(w.bytes());
    scales.copy_from_slice(w.scales());
}

/// Decodes one row by the format's own decoder.
fn decode(format: Format, row: &[u8], scale: f32, out: &mut [f32]) {
    let scales = match format.info().scales {
        Scales::Row | Scales::Tensor => vec![scale],
        Scales::None | Scales::Block => Vec::new(),
    };
    let w = Matrix::new(format, 1, out.len(), row, scales).unwrap();
    w.dequantize_row(0, out);
}

/// Every listed case of every format can be run, and the definitions pass.
#[test]
fn definitions_pass() {
    for &format in Format::ALL {
        for cases in [
            Kit::gemv(format, "oracle", definition).random(8).run(),
            Kit::gemm(format, "oracle", definition).random(4).run(),
            Kit::gemm(format, "oracle", definition).random(4).within(0.0).run(),
            Kit::decode(format, "decode", |row, s, out| decode(format, row, s, out)).run(),
            Kit::encode(format, "encode", |x, n, b, s| encode(format, x, n, b, s)).run(),
        ] {
            let cases = cases.unwrap_or_else(|failure| panic!("{failure}"));
            assert!(cases >= 10, "{format}: {cases} cases");
        }
    }
}

/// Weights decoded to f32 and multiplied with f32 activations, in an order of its own.
#[test]
fn another_order_is_within_the_bound() {
    let backwards = |w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]| {
        let mut row = vec![0.0; w.cols()];
        for r in 0..w.rows() {
            w.dequantize_row(r, &mut row);
            for t in 0..n {
                let x = &x[t * w.cols()..(t + 1) * w.cols()];
                out[t * w.rows() + r] = row.iter().zip(x).rev().map(|(w, x)| w * x).sum();
            }
        }
    };
    for &format in Format::ALL {
        let kit = || Kit::gemm_f32(format, "backwards", backwards);
        kit().within(0.0).assert();
        let failure = kit().run().expect_err("the bits are others");
        assert!(matches!(failure.finding, Finding::Differs { output: "y", .. }), "{failure}");
    }
    // An error of a part in a thousand is seen, and allowed where that is asked for.
    let loose = |w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]| {
        backwards(w, x, n, out);
        out.iter_mut().for_each(|y| *y *= 1.001);
    };
    let kit = || Kit::gemm_f32(Format::Q8_0, "loose", loose);
    let failure = kit().within(0.0).run().expect_err("too far");
    assert!(failure.to_string().contains("in f64, within"), "{failure}");
    kit().within(0.002).assert();
}

/// The worked example: both kernels, and every line of what is said about the wrong one.
#[test]
fn the_example() {
    let cases = Kit::gemv(Format::Q4_0, "right", wrong_kernel::right).run().unwrap();
    assert!(cases > 50, "{cases}"); // however few random ones PROPTEST_CASES asks for
    let kit = || Kit::gemv(Format::Q4_0, "pairs", wrong_kernel::pairs);
    let failure = kit().run().unwrap_err();
    let case = failure.case.unwrap();
    assert_eq!((case.rows, case.cols, case.n), (1, 32, 1), "as small as it fails: {failure}");
    let text = failure.to_string();
    let w = case.matrix(Format::Q4_0).unwrap();
    let x = case.activations().unwrap();
    let acts = Acts::quantize(Grouping::Group32, &x, 1, 32).unwrap();
    let y = oracle::dot(&w, 0, &acts, 0);
    for line in [
        "pairs is not gemv of Q4_0".to_owned(),
        format!("case       {case}"),
        "shape      1 x 32, 1 token".to_owned(),
        "numbers    Period 251, the largest prime below 256".to_owned(),
        "first bad  token 0, row 0 (1 of 1 y differ)".to_owned(),
        "found      0.0 (0x00000000)".to_owned(),
        format!("expected   {y:?} ({:#010x})", y.to_bits()),
        format!("TRITLAB_CASE='{case}' cargo test"),
        format!(".only(\"{case}\")"),
    ] {
        assert!(text.contains(&line), "no {line:?} in\n{text}");
    }
    // The line that it prints runs that case and nothing else.
    assert_eq!(kit().only(&case.to_string()).run().unwrap_err(), failure);
    let right = Kit::gemv(Format::Q4_0, "right", wrong_kernel::right);
    assert_eq!(right.only(&case.to_string()).run(), Ok(1));
}

/// What a stranger's kernel gets wrong, on top of the definition.
type Mistake = fn(&Matrix<'_>, &Acts, &mut [f32]);

#[test]
fn mistakes_in_products_are_caught() {
    let mistakes: [(&str, Mistake); 7] = [
        ("forgets the last row", |w, acts, out| {
            if let Some(last) = w.rows().checked_sub(1) {
                let mut all = vec![0.0; out.len()];
                oracle::matmul(w, acts, &mut all);
                let keep = |i: &usize| i % w.rows() != last || w.rows() < 64;
                (0..out.len()).filter(keep).for_each(|i| out[i] = all[i]);
            }
        }),
        ("swaps two tokens", |w, acts, out| {
            oracle::matmul(w, acts, out);
            if acts.n() == 13 {
                (0..w.rows()).for_each(|r| out.swap(r, 12 * w.rows() + r));
            }
        }),
        ("sums to the nearest f16", |w, acts, out| {
            oracle::matmul(w, acts, out);
            out.iter_mut().for_each(|y| *y = f16::from_f32(*y).to_f32());
        }),
        ("flushes subnormal scales", |w, acts, out| {
            oracle::matmul(w, acts, out);
            for t in (0..acts.n()).filter(|&t| acts.scales(t).iter().any(|s| s.is_subnormal())) {
                out[t * w.rows()..(t + 1) * w.rows()].fill(0.0);
            }
        }),
        ("loses the sign of zero", |w, acts, out| {
            oracle::matmul(w, acts, out);
            out.iter_mut().for_each(|y| *y += 0.0);
        }),
        ("panics in long rows", |w, acts, out| {
            oracle::matmul(w, acts, out);
            assert!(w.cols() < 30_000, "too long for me");
        }),
        ("saturates", |w, acts, out| {
            oracle::matmul(w, acts, out);
            out.iter_mut().for_each(|y| *y = y.clamp(-5e4, 5e4));
        }),
    ];
    for (name, kernel) in mistakes {
        // Only a product with a negative scale outside the blocks is -0.
        let zero = name == "loses the sign of zero";
        let format = if zero { Format::TERNARY } else { Format::Q4_K };
        let failure = Kit::gemm(format, name, kernel).random(0).run();
        let failure = failure.expect_err(name);
        assert!(failure.to_string().starts_with(name), "{failure}");
        match (&failure.finding, name) {
            (Finding::Panicked(message), "panics in long rows") => {
                assert_eq!(message, "too long for me");
                assert!(failure.case.unwrap().cols >= 30_000, "{failure}");
            }
            (Finding::Differs { output: "y", found, .. }, _) => {
                let unwritten = found == "nothing: the kernel did not write it";
                assert_eq!(unwritten, name == "forgets the last row", "{failure}");
            }
            _ => panic!("{failure}"),
        }
    }
}

/// The sum of a long ternary row needs more than 24 bits: a kernel that sums in f32 is caught.
#[test]
fn a_sum_that_is_not_exact_is_caught() {
    let rounded = |w: &Matrix<'_>, acts: &Acts, out: &mut [f32]| {
        let mut plain = Plain::new();
        for (r, y) in out.iter_mut().enumerate() {
            let mut sum = 0.0f32;
            for b in 0..w.cols().div_ceil(4) {
                w.block(r, b, &mut plain);
                for (i, q) in plain.q[..4.min(w.cols() - 4 * b)].iter().enumerate() {
                    sum += f32::from(*q) * f32::from(acts.codes(0)[4 * b + i]);
                }
            }
            *y = acts.scales(0)[0] * sum * w.row_scale(r);
        }
    };
    let failure = Kit::gemv(Format::TERNARY, "rounded", rounded).run().unwrap_err();
    let case = failure.case.unwrap();
    assert!(matches!(case.bytes, Some(Bytes::Pair([0xff, 0xfe]))), "{failure}");
    assert!(case.cols > 1 << 15, "{failure}");
}

#[test]
fn a_write_behind_or_before_the_output_is_caught() {
    for (index, side) in [(3isize, "behind"), (-1, "before")] {
        let kernel = move |w: &Matrix<'_>, acts: &Acts, out: &mut [f32]| {
            oracle::matmul(w, acts, out);
            if out.len() == 3 {
                // SAFETY: the kit keeps 64 elements on either side of an output, in the same allocation.
                unsafe { out.as_mut_ptr().offset(index).write(0.5) };
            }
        };
        let case = "quantized*painted/3x32x1/seed=0";
        let failure = Kit::gemv(Format::Q4_0, "past", kernel).only(case).run().unwrap_err();
        let text = failure.to_string();
        assert!(
            text.starts_with(&format!("past, as gemv of Q4_0, wrote {side} its output")),
            "{text}"
        );
        assert!(text.contains(&format!("0.5 (0x3f000000) at index {index} of 3 y")), "{text}");
    }
    let mut out = Guarded::<u8>::new(2);
    out.slice().fill(1);
    assert_eq!((out.get(), out.outside()), (&[1, 1][..], None));
}

/// One wrong byte, and one wrong code, among all of them.
#[test]
fn mistakes_in_codecs_are_caught() {
    for &format in Format::ALL {
        let Some(codes) = format.codes() else { continue };
        let wrong = |row: &[u8], scale: f32, out: &mut [f32]| {
            decode(format, row, scale, out);
            // The largest code that any byte has, read one too low: only exhaustion finds it everywhere.
            let mut plain = Plain::new();
            let (info, zero) = (format.info(), codes.zero as i16);
            for (b, bytes) in row.chunks_exact(info.bytes).enumerate() {
                (codes.decode)(bytes, &mut plain);
                let i = info.block - 1;
                if codes.table.is_none() && plain.q[i] + zero == codes.max as i16 {
                    plain.q[i] -= 1;
                    if let Some(w) = out.get_mut(b * info.block + i) {
                        *w = scale * plain.weight(i);
                    }
                }
            }
        };
        let result = Kit::decode(format, "wrong", wrong).run();
        if codes.table.is_none() {
            let failure = result.expect_err(format.name());
            assert!(failure.to_string().contains(&format!("the decoder of {format}")), "{failure}");
            let Finding::Differs { output: "weights", index: [_, column], .. } = failure.finding
            else {
                panic!("{failure}")
            };
            assert_eq!(column % format.info().block, format.info().block - 1, "{failure}");
        } else {
            result.unwrap();
        }
        let wrong = |x: &[f32], cols: usize, bytes: &mut [u8], scales: &mut [f32]| {
            encode(format, x, cols, bytes, scales);
            if bytes.len() > 20 {
                bytes[20] ^= 1;
            }
        };
        let failure = Kit::encode(format, "wrong", wrong).run().expect_err(format.name());
        let Finding::Differs { output: "bytes", index: [row, byte], .. } = failure.finding else {
            panic!("{failure}")
        };
        let row_bytes = format.row_bytes(failure.case.unwrap().cols).unwrap();
        assert_eq!(row * row_bytes + byte, 20, "{failure}");
    }
}

#[test]
fn mistakes_in_activations_are_caught() {
    for grouping in Grouping::ALL.into_iter().filter(|g| *g != Grouping::Dense) {
        let group = |x: &[f32]| grouping.len().unwrap_or(x.len()).max(1);
        // `round` is half away from zero; the contract is half to even.
        let away = |x: &[f32], q: &mut [i8], scales: &mut [f32], sums: &mut [i32]| {
            for (g, x) in x.chunks(group(x)).enumerate() {
                let floor = if grouping == Grouping::Token { 1e-5 } else { 0.0 };
                let a = x.iter().fold(floor, |a: f32, v| a.max(v.abs()));
                let inverse = if a < 3.8e-37 { 0.0 } else { 127.0 / a };
                scales[g] = if a < 3.8e-37 { 0.0 } else { a / 127.0 };
                sums[g] = 0;
                for (i, v) in x.iter().enumerate() {
                    let code = (v * inverse).round() as i8;
                    q[g * grouping.len().unwrap_or(0) + i] = code;
                    sums[g] += i32::from(code);
                }
            }
        };
        let failure = Kit::quantize_row(grouping, "away", away).random(0).run().unwrap_err();
        assert!(matches!(failure.finding, Finding::Differs { output: "codes", .. }), "{failure}");
        assert_eq!(failure.case.unwrap().values, Some(Values::Halves), "{failure}");
    }
}

/// A name says everything about a case, and what is no case is refused in words.
#[test]
fn names_of_cases() {
    for &format in Format::ALL {
        for check in checks(format) {
            for case in check.cases().into_iter().chain(check.random_cases(20, 1)) {
                assert_eq!(case.to_string().parse(), Ok(case));
                assert_eq!(check.refuses(&case), None, "{check}: {case}");
                for simpler in check.simpler(&case) {
                    assert_eq!(check.refuses(&simpler), None, "{check}: {case} to {simpler}");
                }
            }
            assert_eq!(check.random_cases(20, 1), check.random_cases(20, 1), "a seed repeats");
            assert_ne!(check.random_cases(20, 1), check.random_cases(20, 2));
        }
    }
    let run = |case: &str| -> Failure {
        *Kit::gemv(Format::Q4_0, "mine", definition).only(case).run().unwrap_err()
    };
    for (case, why) in [
        ("", "is no case"),
        ("quantized*painted/3x32/seed=0", "is no case"),
        ("quantized*painted/3x32x1/seed=-1", "is no case"),
        ("quantised*painted/3x32x1/seed=0", "is no case"),
        ("bytes-1-ff*painted/3x32x1/seed=0", "is no case"),
        ("quantized*painted/3x32x1/seed=0/", "is no case"),
        ("painted/3x32/seed=0", "it wants WEIGHTS*NUMBERS/ROWSxCOLUMNSxTOKENS/seed=SEED"),
        ("quantized*painted/3x33x1/seed=0", "33 columns are not a multiple"),
        ("quantized*painted/3x32x2/seed=0", "gemv has 1 token"),
        ("quantized*any-bits/3x32x1/seed=0", "NaN and infinity"),
        ("any-bytes*painted/3x32x1/seed=0", "NaN and infinite scales"),
        ("quantized*painted/9999999x32x1/seed=0", "at most 2^26"),
    ] {
        let failure = run(case);
        assert!(matches!(failure.finding, Finding::Unfit(_)), "{failure}");
        let text = failure.to_string();
        assert!(text.starts_with("mine was not run") && text.contains(why), "{text}");
    }
}

/// Exhaustion is exhaustive: every code at every place of a block, every element of two bytes.
#[test]
fn every_code_at_every_place() {
    for &format in Format::ALL {
        let (info, Some(codes)) = (format.info(), format.codes()) else {
            if format == Format::F32 {
                continue;
            }
            let w = every_byte(format, EVERY_BYTE_ROWS, 256, 0);
            let mut seen: Vec<&[u8]> = w.bytes().chunks_exact(2).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 1 << 16, "{format}");
            continue;
        };
        // As many codes as the bytes can hold: 256 bytes hold 243 of 5 trits or other spellings of them.
        let listed = |c: &Case| c.bytes == Some(Bytes::Every);
        let case = Check::Decode(format).cases().into_iter().find(listed).unwrap();
        let w = case.matrix(format).unwrap();
        let mut seen = vec![std::collections::BTreeSet::new(); info.block.min(case.cols)];
        let mut plain = Plain::new();
        for r in 0..case.rows {
            w.block(r, 0, &mut plain);
            assert!(plain.d == 1.0 && plain.d.is_finite() && plain.m.is_finite(), "{format}");
            seen.iter_mut().zip(plain.q).for_each(|(seen, q)| {
                seen.insert(q);
            });
        }
        let all: Vec<i16> = match codes.table {
            Some(table) => table.map(i16::from).to_vec(),
            None if codes.bits == 1 => vec![-1, 1],
            None => (0..=codes.max).map(|u| (u - codes.zero) as i16).collect(),
        };
        for (place, seen) in seen.iter().enumerate() {
            let missing: Vec<_> = all.iter().filter(|q| !seen.contains(q)).collect();
            assert!(missing.is_empty(), "{format}, place {place}: no {missing:?} in {seen:?}");
        }
    }
}

/// Raw bytes hold NaN until they are made finite; then panels take them.
#[test]
fn raw_bytes_are_made_finite() {
    for &format in Format::ALL {
        let w = any_matrix(format, 200, format.info().block * 4, 1);
        let hostile = w.dequantize().iter().any(|w| !w.is_finite());
        let own_scales = matches!(format.info().scales, Scales::Row | Scales::Tensor);
        assert_eq!(hostile, !own_scales, "{format}");
        let mut bytes = w.bytes().to_vec();
        make_finite(format, &mut bytes);
        let tame = Matrix::new(format, 200, w.cols(), bytes, w.scales().to_vec()).unwrap();
        Panels::pack(&tame).unwrap_or_else(|e| panic!("{format}: {e}"));
        let same = w.bytes().iter().zip(tame.bytes()).filter(|(a, b)| a == b).count();
        assert!(same * 10 > 9 * w.bytes().len(), "{format}: only what was not finite changes");
    }
}

/// The strategies, used as a stranger would: linearity in the scale of a matrix.
#[test]
fn strategies_of_properties() {
    let strategy = (strategies::matrices(Format::SIGN, 20, 9), strategies::activations(72));
    let mut runner = TestRunner::new(strategies::config(64));
    let result = runner.run(&strategy, |(w, x)| {
        let acts = Acts::quantize(Grouping::Token, &x[..w.cols()], 1, w.cols()).unwrap();
        let doubled = w.scales().iter().map(|s| s * 2.0).collect();
        let twice =
            Matrix::new(Format::SIGN, w.rows(), w.cols(), w.bytes().to_vec(), doubled).unwrap();
        for r in 0..w.rows() {
            assert_eq!(oracle::dot(&twice, r, &acts, 0), 2.0 * oracle::dot(&w, r, &acts, 0));
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    for &format in Format::ALL {
        let n = format.info().block;
        let quantised = (strategies::weights(3 * n), strategies::blocks(format, 2..4));
        let result =
            TestRunner::new(strategies::config(16)).run(&quantised, |(weights, blocks)| {
                assert!(Matrix::quantize(format, 3, n, &weights).is_ok());
                assert_eq!(blocks.len() % format.info().bytes, 0);
                Ok(())
            });
        result.unwrap_or_else(|e| panic!("{format}: {e}"));
    }
}
