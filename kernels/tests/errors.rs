//! Every error can happen, and happens as the right variant with the right numbers.

use tritlab_kernels::{
    Acts, Backend, Error, Format, Grouping, Matrix, Panels, backend, matmul, matmul_acts, threads,
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
        let used = include_str!("errors.rs").contains(&format!("Error::{variant}"));
        assert!(used, "Error::{variant} has no test in errors.rs");
    }
}
