//! Every error can happen, and happens as the right variant with the right numbers.

use tritlab_kernels::{
    Acts, Backend, Error, Format, Granularity, Grouping, Matrix, Packing, Panels, Projection,
    Scales, Ternary, Weights, backend, matmul, matmul_acts, threads, verify::first_difference,
};

fn panels(format: Format, rows: usize, cols: usize) -> Panels {
    Panels::pack(&Matrix::quantize(format, rows, cols, &vec![0.5; rows * cols]).unwrap()).unwrap()
}

#[test]
fn unknown_format() {
    let error = Format::from_name("Q3_XXL").unwrap_err();
    let Error::UnknownFormat { name, known } = &error else { panic!("{error:?}") };
    assert_eq!(name, "Q3_XXL");
    assert!(Format::ALL.iter().all(|f| known.contains(f.name())), "{known}");
    assert_eq!("q4_0".parse::<Format>(), Ok(Format::Q4_0), "any letter case");
    assert_eq!(
        "".parse::<Format>().map_err(|e| matches!(e, Error::UnknownFormat { .. })),
        Err(true)
    );
}

#[test]
fn unknown_backend() {
    let error = Backend::from_name("sse9").unwrap_err();
    let Error::UnknownBackend { name, known } = &error else { panic!("{error:?}") };
    assert_eq!(name, "sse9");
    assert!(Backend::ALL.iter().all(|b| known.contains(b.name())), "{known}");
    assert_eq!(backend::force(Some("sse9")), Err(error));
}

#[test]
fn a_forced_backend_that_is_missing() {
    let missing = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    let error = backend::force(Some(missing)).unwrap_err();
    let Error::BackendUnavailable { name, available } = &error else { panic!("{error:?}") };
    assert_eq!(name, missing);
    assert!(available.contains("portable") && !available.contains(missing), "{available}");
    // The choice that was in force stays.
    assert!(backend::current().unwrap().available());
}

#[test]
fn columns_that_a_format_cannot_hold() {
    let columns = |format, block, cols| Err(Error::Columns { format, block, cols });
    assert_eq!(Format::Q4_0.row_bytes(33), columns("Q4_0", 32, 33));
    assert_eq!(Format::TQ2_0.row_bytes(576), columns("TQ2_0", 256, 576));
    let matrix = Matrix::quantize(Format::Q8_0, 1, 16, &[0.0; 16]).map(|_| 0);
    assert_eq!(matrix, columns("Q8_0", 32, 16));
    let matrix = Matrix::new(Format::Q4_1, 1, 31, vec![0; 20], Vec::new()).map(|_| 0);
    assert_eq!(matrix, columns("Q4_1", 32, 31));
}

#[test]
fn lengths_that_do_not_fit() {
    #[track_caller]
    fn check<T: std::fmt::Debug>(
        result: tritlab_kernels::Result<T>,
        what: &'static str,
        expected: usize,
        got: usize,
    ) {
        assert_eq!(result.map(|_| ()), Err(Error::Length { what, expected, got }));
    }
    check(Matrix::quantize(Format::F32, 2, 3, &[0.0; 5]), "weights", 6, 5);
    check(Matrix::new(Format::Q4_0, 2, 32, vec![0; 35], vec![]), "matrix bytes", 36, 35);
    check(Matrix::new(Format::Q4_0, 1, 32, vec![0; 18], vec![1.0]), "matrix scales", 0, 1);
    check(Matrix::new(Format::TERNARY, 1, 4, vec![0], vec![]), "matrix scales", 1, 0);
    check(Matrix::new(Format::TERNARY_ROW, 2, 4, vec![0; 2], vec![1.0]), "matrix scales", 2, 1);
    check(Acts::quantize(Grouping::Token, &[0.0; 7], 2, 4), "activations", 8, 7);
    let w = panels(Format::Q4_0, 3, 32);
    check(matmul(&w, &[0.0; 31], 1, &mut [0.0; 3]), "activations", 32, 31);
    check(matmul(&w, &[0.0; 64], 2, &mut [0.0; 3]), "outputs", 6, 3);
    let acts = Acts::quantize(Grouping::Group32, &[0.0; 64], 1, 64).unwrap();
    check(matmul_acts(&w, &acts, &mut [0.0; 3]), "columns", 32, 64);
}

#[test]
fn shapes_that_are_too_large() {
    #[track_caller]
    fn check<T: std::fmt::Debug>(result: tritlab_kernels::Result<T>, why: &str) {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::TooLarge { why: w, .. } if w.contains(why)), "{error:?}");
    }
    // A sum over 32 columns fits, however long the row; 256 * 2 * 127 * 33,027 is beyond i32.
    assert!(Matrix::new(Format::Q8_0, 1, 1 << 16, vec![0; 34 << 11], vec![]).is_ok());
    check(Matrix::new(Format::TERNARY_B3, 1, 33_027, vec![], vec![]), "i32");
    check(Matrix::quantize(Format::TERNARY_ROW, 1 << 40, 0, &[]), "2^31");
    check(Matrix::quantize(Format::TERNARY, 1, 1 << 23, &[]), "i32");
    check(Matrix::new(Format::F32, 1 << 40, 1 << 40, vec![], vec![]), "address space");
    check(Matrix::quantize(Format::F16, usize::MAX, 2, &[]), "address space");
    check(Format::F32.row_bytes(usize::MAX), "address space");
    check(Acts::quantize(Grouping::Token, &[], usize::MAX, 2), "address space");
}

#[test]
fn numbers_that_are_not_finite() {
    #[track_caller]
    fn check<T: std::fmt::Debug>(
        result: tritlab_kernels::Result<T>,
        what: &'static str,
        index: usize,
        value: &str,
    ) {
        let value = value.to_owned();
        assert_eq!(result.map(|_| ()), Err(Error::NotFinite { what, index, value }));
    }
    for &format in Format::ALL {
        let cols = 256;
        let mut x = vec![1.0; 2 * cols];
        x[300] = f32::NAN;
        check(Matrix::quantize(format, 2, cols, &x), "weights", 300, "NaN");
        let grouping = format.info().activation;
        check(Acts::quantize(grouping, &x, 2, cols), "activations", 300, "NaN");
        x[70] = f32::NEG_INFINITY;
        let w = panels(format, 1, cols);
        check(matmul(&w, &x, 2, &mut [0.0; 2]), "activations", 70, "-inf");
    }
    let scales = vec![1.0, f32::INFINITY];
    check(Matrix::new(Format::TERNARY_ROW, 2, 4, vec![0; 2], scales), "matrix scales", 1, "inf");
}

#[test]
fn importances_that_cannot_weigh() {
    for &format in Format::ALL {
        let x = vec![1.0; 2 * 256];
        let with = |w: &[f32]| Matrix::quantize_weighted(format, 2, 256, &x, Some(w)).map(|_| ());
        for value in [-1.0, f32::NAN, f32::INFINITY, -f32::MIN_POSITIVE] {
            let mut w = vec![1.0; 256];
            w[7] = value;
            let error = Error::Importance { column: 7, value: value.to_string() };
            assert_eq!(with(&w), Err(error));
        }
        assert_eq!(with(&[-0.0; 256]), Ok(()));
        let what = "importance";
        assert_eq!(with(&[1.0; 2]), Err(Error::Length { what, expected: 256, got: 2 }));
    }
}

#[test]
fn a_tolerance_that_is_none() {
    let w = Matrix::quantize(Format::F32, 1, 2, &[1.0, 2.0]).unwrap();
    for rtol in [-0.1, f32::NAN, 1.0, f32::INFINITY] {
        let error = Error::Tolerance { value: rtol.to_string() };
        assert_eq!(first_difference(&w, &w, rtol), Err(error));
    }
    assert_eq!(first_difference(&w, &w, 0.5), Ok(None));
}

#[test]
fn scales_beyond_f16() {
    for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0, Format::TQ2_0] {
        let info = format.info();
        // The third block is too large, in the second row of two blocks.
        let mut x = vec![1.0; 4 * info.block];
        x[2 * info.block + 5] = 1e9;
        let error = Matrix::quantize(format, 2, 2 * info.block, &x).map(|_| ()).unwrap_err();
        assert_eq!(error, Error::ScaleOverflow { format: info.name, block: 2 });
    }
    // The largest scales that fit.
    for (format, w) in [(Format::F16, 65520.0), (Format::BF16, f32::MAX)] {
        let expected = Error::ScaleOverflow { format: format.name(), block: 1 };
        assert_eq!(Matrix::quantize(format, 1, 2, &[1.0, w]), Err(expected));
    }
    assert!(Matrix::quantize(Format::Q4_0, 1, 32, &[65504.0 * 8.0; 32]).is_ok());
    assert!(Matrix::quantize(Format::TQ2_0, 1, 256, &[65504.0; 256]).is_ok());
}

#[test]
fn activations_grouped_for_another_format() {
    for &format in Format::ALL {
        let w = panels(format, 1, 256);
        for grouping in Grouping::ALL {
            let acts = Acts::quantize(grouping, &[1.0; 256], 1, 256).unwrap();
            let result = matmul_acts(&w, &acts, &mut [0.0]);
            let (expected, got) = (format.info().activation.name(), grouping.name());
            if expected == got {
                assert_eq!(result, Ok(()));
            } else {
                assert_eq!(result, Err(Error::Grouping { format: format.name(), expected, got }));
            }
        }
    }
}

fn ternary(cols: usize, codes: &[i8], scales: &[f32], per: Granularity) -> Ternary {
    Ternary::new(codes.len() / cols, cols, codes.to_vec(), scales.to_vec(), per).unwrap()
}

#[test]
fn weights_that_are_not_ternary() {
    let mut x = vec![0.25; 128];
    x[3] = 0.0;
    x[70] = -0.5;
    let m = Matrix::quantize(Format::F32, 2, 64, &x).unwrap();
    let (value, expected) = ("-5e-1".to_owned(), "0 or ±2.5e-1 like those before it".to_owned());
    assert_eq!(
        Ternary::from_weights(&m),
        Err(Error::NotTernary { row: 1, col: 6, value, expected })
    );
    let (value, expected) = ("2".to_owned(), "-1, 0 or 1".to_owned());
    assert_eq!(
        Ternary::new(2, 2, vec![0, 1, -1, 2], vec![1.0], Granularity::Tensor),
        Err(Error::NotTernary { row: 1, col: 1, value, expected })
    );
    let nan = Ternary::new(1, 1, vec![0], vec![f32::NAN], Granularity::Row);
    assert!(matches!(nan, Err(Error::NotFinite { what: "ternary scales", .. })), "{nan:?}");
    let none = Ternary::new(1, 1, vec![0], vec![1.0], Granularity::Group(0));
    assert!(matches!(none, Err(Error::TooLarge { .. })), "{none:?}");
}

#[test]
fn ternary_weights_that_a_format_cannot_hold() {
    #[track_caller]
    fn check(format: Format, weights: &Ternary, (row, col): (usize, usize), says: &str) {
        let error = Matrix::from_ternary(format, weights).unwrap_err();
        let found = matches!(&error, Error::NotExact { format: f, row: r, col: c, why }
            if (*f, *r, *c) == (format.name(), row, col) && why.contains(says));
        assert!(found, "{error:?}");
    }
    let mut codes = vec![1; 512];
    codes[256] = 0;
    let rows = ternary(256, &codes, &[0.5, 0.7], Granularity::Row);
    check(Format::TERNARY, &rows, (1, 1), "its scale is 7e-1, that of weights before it 5e-1");
    check(Format::SIGN_ROW, &rows, (1, 0), "it is 0");
    check(Format::TQ2_0, &rows, (1, 0), "7e-1 is no F16");
    check(Format::BF16, &rows, (1, 1), "7e-1 is no BF16");
    check(Format::Q4_0, &rows, (0, 0), "not ternary");
    let groups = ternary(256, &[1; 256], &[1.0, 1.0, 2.0, 1.0], Granularity::Group(64));
    check(Format::TERNARY_G128, &groups, (0, 192), "its scale is 1e0");
    check(Format::TERNARY_ROW, &groups, (0, 128), "its scale is 2e0");
    assert!(Matrix::from_ternary(Format::TERNARY_G64, &groups).is_ok());
    let columns =
        Matrix::from_ternary(Format::TQ1_0, &ternary(3, &[1; 3], &[1.0], Granularity::Row));
    assert!(matches!(columns, Err(Error::Columns { cols: 3, .. })), "{columns:?}");
}

#[test]
fn packings_that_do_not_fit() {
    let error = Packing::from_name("I3_S").unwrap_err();
    let Error::UnknownPacking { name, known } = &error else { panic!("{error:?}") };
    assert_eq!(name, "I3_S");
    assert!(Packing::ALL.iter().all(|p| known.contains(p.name())), "{known}");
    assert_eq!("i2_s_64".parse(), Ok(Packing::I2_S_64));

    for (packing, rows, cols) in [
        (Packing::I2_S, 3, 64),
        (Packing::I2_S_64, 3, 32),
        (Packing::I2_S_ROWS4, 3, 64),
        (Packing::IQ1_BN, 4, 100),
        (Packing::IQ2_BN, 4, 100),
        (Packing::IQ2_BN_R4, 5, 64),
        (Packing::HF_PACKED, usize::MAX / 4, 64),
        (Packing::HF_PACKED_DIVIDE, 1, usize::MAX),
    ] {
        let refused = |e| {
            matches!(e, Error::PackingShape { packing: p, rows: r, cols: c, .. }
            if (p, r, c) == (packing.name(), rows, cols))
        };
        assert!(refused(packing.nbytes(rows, cols).unwrap_err()), "{packing}");
        assert!(refused(packing.unpack(&[], rows, cols, None).unwrap_err()), "{packing}");
    }
    for &packing in Packing::ALL {
        let bytes = vec![0; packing.nbytes(4, 128).unwrap()];
        let needed = packing.scale_is_outside();
        let scale = if needed { None } else { Some(1.0) };
        let error = Error::PackingScale { packing: packing.name(), needed };
        assert_eq!(packing.unpack(&bytes, 4, 128, scale), Err(error));
        let scale = if needed { Some(1.0) } else { None };
        let length = packing.unpack(&bytes[1..], 4, 128, scale);
        assert!(matches!(length, Err(Error::Length { what: "packed bytes", .. })), "{packing}");
    }
    // What cannot divide: nothing, infinity (weights would all be 0), and what has an infinite inverse.
    for scale in [0.0, -0.0, f32::INFINITY, f32::NAN, f32::from_bits(1)] {
        let divide = Packing::HF_PACKED_DIVIDE.unpack(&[0x55], 4, 1, Some(scale));
        let error = Error::Divisor { packing: "HF_PACKED_DIVIDE", value: format!("{scale:?}") };
        assert_eq!(divide, Err(error));
    }
    assert!(Packing::HF_PACKED_DIVIDE.unpack(&[0x55], 4, 1, Some(f32::MAX)).is_ok());
    let rows = ternary(128, &[1; 512], &[1.0, 1.0, 3.0, 1.0], Granularity::Row);
    for packing in [Packing::I2_S, Packing::HF_PACKED] {
        let error = packing.pack(&rows).unwrap_err();
        assert!(matches!(error, Error::NotExact { row: 2, col: 0, .. }), "{error:?}");
    }
    let fine = ternary(128, &[1; 512], &[1.0, 1.0, 1e-9, 1.0], Granularity::Row);
    let error = Packing::IQ1_BN.pack(&fine).unwrap_err();
    assert!(matches!(error, Error::NotExact { row: 2, .. }), "{error:?}");
}

/// Code 3 of two bits, and the 13 bytes that are no number of five digits.
#[test]
fn bits_that_stand_for_no_weight() {
    let bits = Packing::IQ2_BN.unpack(&[0, 0, 0, 0, 0x55, 0xd5, 0x55], 1, 64, None);
    assert!(matches!(bits, Err(Error::Length { .. })));
    let mut bytes = vec![0x55; 20];
    bytes[..4].fill(0);
    bytes[5] = 0xd5;
    let bad = |packing, row, col, byte| Err(Error::BadCode { packing, row, col, byte });
    assert_eq!(Packing::IQ2_BN.unpack(&bytes, 1, 64, None), bad("IQ2_BN", 0, 49, 0xd5));
    assert_eq!(
        Packing::HF_PACKED.unpack(&[0x15, 0x75], 8, 1, Some(1.0)),
        bad("HF_PACKED", 5, 0, 0x75)
    );

    let valid: Vec<u8> = (0..243u32).map(|v| (v * 256).div_ceil(243) as u8).collect();
    let mut refused = 0;
    for byte in 0..=255 {
        let mut bytes = vec![128; 15];
        (bytes[0], bytes[1], bytes[2 + 4]) = (0, 0x3c, byte);
        let result = Packing::IQ1_BN.unpack(&bytes, 1, 64, None);
        match valid.iter().position(|v| *v == byte) {
            Some(v) => {
                // Byte 4 is the second of the second sixteen: weights 21 to 25.
                let digits = [v, v / 3, v / 9, v / 27, v / 81].map(|d| (d % 3) as i8 - 1);
                assert_eq!(result.unwrap().codes()[21..26], digits);
            }
            None => {
                refused += 1;
                assert_eq!(result, bad("IQ1_BN", 0, 21, byte));
            }
        }
    }
    assert_eq!(refused, 13);
}

#[test]
fn unknown_projection() {
    let error = Projection::from_name("absmode").unwrap_err();
    let Error::UnknownProjection { name, known } = &error else { panic!("{error:?}") };
    assert_eq!(name, "absmode");
    assert!(Projection::ALL.iter().all(|p| known.contains(p.name())), "{known}");
}

#[test]
fn activation_codes_that_cannot_be() {
    let code = Acts::from_codes(Grouping::Token, 1, 2, &[127, -128], &[1.0]);
    assert_eq!(code, Err(Error::CodeRange { index: 1, code: -128 }));
    let mut block = Acts::quantize_q8_k(&[1.0; 256], 1, 256).unwrap().to_q8_k().unwrap();
    block[260 + 2 * 15..].fill(0);
    let sum = Error::BlockSum { block: 0, sum: 15, stored: 0, actual: -127 * 16 };
    assert_eq!(Acts::from_q8_k(&block, 1, 256), Err(sum));
}

// ---- weights at the edges, in every format: what `matrix.rs` says about them ----

#[test]
fn rows_and_columns_of_no_weights() {
    for &format in Format::ALL {
        for (rows, cols) in [(0, 0), (0, 256), (3, 0)] {
            let m = Matrix::quantize(format, rows, cols, &[]).unwrap();
            assert_eq!(m.dequantize(), [], "{format} {rows} x {cols}");
            let panels = Panels::pack(&m).unwrap();
            assert_eq!(panels.dequantize(), []);
            for n in [0, 1, 3] {
                let mut y = vec![1.0; n * rows];
                matmul(&panels, &vec![1.0; n * cols], n, &mut y).unwrap();
                assert_eq!(y, vec![0.0; n * rows], "{format} {rows} x {cols} x {n}");
            }
        }
    }
}

/// Columns that are no whole blocks: padded by formats with their scale outside, refused by the others.
#[test]
fn columns_that_are_no_whole_blocks() {
    for &format in Format::ALL {
        let info = format.info();
        if info.block == 1 {
            continue;
        }
        let cols = info.block + 1;
        let result = Matrix::quantize(format, 2, cols, &vec![0.5; 2 * cols]);
        match info.scales {
            Scales::Tensor | Scales::Row => {
                let m = result.unwrap();
                assert!(m.dequantize().iter().all(|w| *w == 0.5), "{format}");
                assert_eq!(m.dequantize().len(), 2 * cols);
            }
            _ => assert_eq!(
                result,
                Err(Error::Columns { format: info.name, block: info.block, cols })
            ),
        }
    }
}

#[test]
fn infinite_weights_of_either_sign() {
    for &format in Format::ALL {
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            for index in [0, 255, 511] {
                let mut x = vec![1.0; 512];
                x[index] = value;
                let result = Matrix::quantize(format, 2, 256, &x);
                let at = matches!(&result, Err(Error::NotFinite { what: "weights", index: i, .. }) if *i == index);
                assert!(at, "{format}: {result:?}");
            }
        }
    }
}

/// Zeros of both signs: decoded as zeros by every format that has a zero (or a minimum), and by the sign
/// formats, whose scale is then 0.
#[test]
fn blocks_of_zeros() {
    for &format in Format::ALL {
        for zero in [0.0, -0.0] {
            let m = Matrix::quantize(format, 2, 256, &[zero; 512]).unwrap();
            assert!(m.dequantize().iter().all(|w| *w == 0.0), "{format}");
            let mut y = [1.0; 2];
            matmul(&Panels::pack(&m).unwrap(), &[1.0; 256], 1, &mut y).unwrap();
            assert_eq!(y, [0.0; 2], "{format}");
        }
        // A block of zeros beside one that is not.
        let mut x = vec![0.0; 512];
        x[..256].fill(0.75);
        let w = Matrix::quantize(format, 1, 512, &x).unwrap().dequantize();
        let beside = w[256..].iter().all(|w| w.is_finite() && w.abs() <= 0.75);
        assert!(beside && w[0] > 0.0, "{format}");
    }
}

/// Weights below the normal numbers of f16 and of f32: finite, of no larger magnitude than the format's step,
/// and products are finite.
#[test]
fn weights_that_are_almost_zero() {
    for &format in Format::ALL {
        for w in [1e-7, 1e-8, 1e-20, f32::MIN_POSITIVE, f32::from_bits(3), f32::from_bits(1)] {
            let x: Vec<f32> = (0..512).map(|i| if i % 3 == 0 { -w } else { w }).collect();
            let m = Matrix::quantize(format, 2, 256, &x).unwrap();
            // BitNet's smallest scale is 1e-5; f16's smallest number is 6e-8, times the largest code.
            let limit = 2e-5f32.max(2.0 * w);
            assert!(m.dequantize().iter().all(|v| v.abs() <= limit), "{format} {w:e}");
            let mut y = [f32::NAN; 2];
            matmul(&Panels::pack(&m).unwrap(), &[1.0; 256], 1, &mut y).unwrap();
            assert!(y.iter().all(|y| y.is_finite()), "{format} {w:e}");
        }
    }
}

/// The longest rows whose integer sums cannot overflow, and one more column.
#[test]
fn rows_at_the_limit_of_exact_sums() {
    let mut limited = 0;
    for &format in Format::ALL {
        let info = format.info();
        let whole = |cols: usize| cols / info.block * info.block;
        let Some(codes) = format.codes().filter(|_| info.activation == Grouping::Token) else {
            // Groups of 256 at most: any row.
            assert!(Matrix::new(format, 0, whole(1 << 30), vec![], vec![]).is_ok(), "{format}");
            continue;
        };
        limited += 1;
        let times = if codes.base3 { 256 } else { 2 };
        let limit = i32::MAX as usize / (127 * codes.max.max(codes.zero) as usize * times);
        let scales = if info.scales == Scales::Tensor { vec![1.0] } else { vec![] };
        assert!(Matrix::new(format, 0, limit, vec![], scales.clone()).is_ok(), "{format}");
        let more = Matrix::new(format, 0, limit + 1, vec![], scales);
        assert!(matches!(&more, Err(Error::TooLarge { .. })), "{format}: {more:?}");
    }
    assert!(limited >= 6);
}

#[test]
fn thread_counts_that_make_no_sense() {
    for count in [0, 4097] {
        let error = threads::set(count).unwrap_err();
        assert!(matches!(&error, Error::Threads(m) if m.contains(&count.to_string())), "{error:?}");
    }
}

/// A kernel that disagrees cannot be had without a broken CPU; the message is what can be tested.
#[test]
fn a_kernel_that_disagrees() {
    let error = Error::SelfCheck {
        kernel: "gemv-q4_0-avx2".to_owned(),
        row: 3,
        got: 1,
        expected: 0x3f80_0000,
    };
    let message = error.to_string();
    for part in ["gemv-q4_0-avx2", "row 3", "0x00000001", "0x3f800000"] {
        assert!(message.contains(part), "{message}");
    }
}

/// `TRITLAB_BACKEND`, in processes of their own.
#[test]
fn the_environment_chooses() {
    let this = || std::process::Command::new(std::env::current_exe().unwrap());
    // Under emulation a program of the other architecture may not be able to start another.
    match this().arg("--list").output() {
        Ok(list) if String::from_utf8_lossy(&list.stdout).contains("child: test") => {}
        other => {
            use std::io::Write;
            let _ =
                writeln!(std::io::stderr(), "**** TRITLAB_BACKEND WAS NOT CHECKED: {other:?} ****");
            return;
        }
    }
    let missing = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    for name in ["portable", "oracle", "", missing, "sse9"] {
        let arguments = ["--ignored", "--exact", "child"];
        let child = this().args(arguments).env("TRITLAB_BACKEND", name).output().unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "TRITLAB_BACKEND={name:?}: {text}");
        assert!(text.contains("1 passed"), "TRITLAB_BACKEND={name:?}: {text}");
    }
}

#[test]
#[ignore = "the other process of `the_environment_chooses`"]
fn child() {
    let name = std::env::var("TRITLAB_BACKEND").unwrap();
    let current = backend::current();
    let mut y = [0.0];
    let product = matmul(&panels(Format::F32, 1, 1), &[2.0], 1, &mut y);
    match name.as_str() {
        "" => assert_eq!(current, Ok(backend::available()[0])),
        "sse9" => assert!(matches!(current, Err(Error::UnknownBackend { .. }))),
        "neon" | "avx2" => assert!(matches!(current, Err(Error::BackendUnavailable { .. }))),
        name => assert_eq!(current.as_ref().map(|b| b.name()), Ok(name)),
    }
    // A product reports the error; operations that cannot fail answer as the oracle does.
    assert_eq!(product.is_ok(), current.is_ok());
    assert_eq!(y[0], if current.is_ok() { 1.0 } else { 0.0 });
    let mut x = [-1.0, 2.0];
    tritlab_kernels::op::gated(tritlab_kernels::op::Activation::Relu2, &mut x, &[1.0, 1.0]);
    assert_eq!(x, [0.0, 4.0]);
}

#[test]
fn dense_weights_have_no_codes() {
    for (format, name) in [(Format::F32, "F32"), (Format::F16, "F16"), (Format::BF16, "BF16")] {
        let matrix = Matrix::quantize(format, 2, 3, &[0.5; 6]).unwrap();
        assert_eq!(matrix.codes(), Err(Error::NoCodes { format: name }));
        assert_eq!(matrix.group_scales(), Err(Error::NoCodes { format: name }));
    }
    assert!(Error::NoCodes { format: "F16" }.to_string().starts_with("F16 has no codes"));
}

/// Of a kernel that this CPU lacks: there always are some, of the other architecture.
#[test]
fn code_that_cannot_be_shown() {
    let other = backend::kernels().into_iter().find(|k| !k.available).unwrap();
    let error = other.disassemble().unwrap_err();
    let Error::Disassembly { kernel, why } = &error else { panic!("{error:?}") };
    assert_eq!(kernel, &other.name);
    assert!(!why.is_empty() && error.to_string().contains(why.as_str()), "{error}");
}

#[test]
fn matrices_of_two_shapes_are_not_compared() {
    let matrix =
        |rows, cols| Matrix::new(Format::F32, rows, cols, vec![0; rows * cols * 4], vec![]);
    let (a, b) = (matrix(2, 3).unwrap(), matrix(3, 2).unwrap());
    let e = first_difference(&a, &b, 0.0).unwrap_err();
    assert_eq!(e, Error::Shapes { first: (2, 3), second: (3, 2) });
    assert_eq!(e.to_string(), "the first matrix is 2 x 3, the second 3 x 2");
}

/// A new variant needs a test in this file.
#[test]
fn every_variant_is_tested() {
    let source = include_str!("../src/error.rs");
    let body = &source[source.find("pub enum Error {").unwrap()..];
    let body = &body[..body.find("\n}").unwrap()];
    // Variants are the capitalised words at the first level of indentation.
    let variants: Vec<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.split(|c: char| !c.is_alphanumeric()).next().unwrap())
        .collect();
    assert!(variants.len() >= 11, "{variants:?}");
    for variant in variants {
        let tests =
            [include_str!("errors.rs"), include_str!("environment.rs"), include_str!("explain.rs")];
        let used = tests.iter().any(|t| t.contains(&format!("Error::{variant}")));
        assert!(used, "Error::{variant} has no test");
    }
}
