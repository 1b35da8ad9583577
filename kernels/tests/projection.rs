//! The named projections: by hand, against the formats that use the same rule, and by what a refit and the
//! statistics must be.

use proptest::prelude::*;
use tritlab_kernels::{Format, Granularity, Matrix, Projection, Ternary, Weights};

/// Mean magnitude 1.25, mean 0.5.
const W: [f32; 8] = [2.0, -1.0, 0.25, -0.25, 4.0, -1.0, -0.75, 0.75];

#[track_caller]
fn check(projection: Projection, refit: bool, codes: [i8; 8], scale: f32) {
    let t = projection.apply(&W, 1, 8, Granularity::Tensor, refit).unwrap();
    assert_eq!((t.codes(), t.scales()), (&codes[..], &[scale][..]), "{projection:?}");
}

#[test]
fn by_hand() {
    // 1 / 1.25 = 0.8: 1.6 0.8 0.2 3.2 0.8 0.6, halves to even.
    check(Projection::Absmean, false, [1, -1, 0, 0, 1, -1, -1, 1], 1.25);
    check(Projection::Absmean, true, [1, -1, 0, 0, 1, -1, -1, 1], 9.5 / 6.0);
    // Half of the maximum is rounded away from zero.
    check(Projection::Absmax, false, [1, 0, 0, 0, 1, 0, 0, 0], 4.0);
    check(Projection::Absmax, true, [1, 0, 0, 0, 1, 0, 0, 0], 3.0);
    // Above 0.875: 2, 1, 4 and 1.
    check(Projection::Twn, false, [1, -1, 0, 0, 1, -1, 0, 0], 2.0);
    check(Projection::Twn, true, [1, -1, 0, 0, 1, -1, 0, 0], 2.0);
    // 4: 16, and 2: 36 / 2, and both 1: 64 / 4, and so on below 18.
    check(Projection::Optimal, false, [1, 0, 0, 0, 1, 0, 0, 0], 3.0);
    check(Projection::Optimal, true, [1, 0, 0, 0, 1, 0, 0, 0], 3.0);
    check(Projection::Sign, false, [1, -1, 1, -1, 1, -1, -1, 1], 1.25);
    // The mean is 0.5: 0.25 is below it.
    check(Projection::CentredSign, false, [1, -1, -1, -1, 1, -1, -1, 1], 1.25);
    check(Projection::CentredSign, true, [1, -1, -1, -1, 1, -1, -1, 1], 9.5 / 8.0);
}

#[test]
fn scales_are_per_tensor_row_or_group() {
    let w: Vec<f32> = [W, W.map(|w| 2.0 * w)].concat();
    for (granularity, scales) in [
        (Granularity::Tensor, vec![1.875]),
        (Granularity::Row, vec![1.25, 2.5]),
        (Granularity::Group(4), vec![0.875, 1.625, 1.75, 3.25]),
        // 5 and 3.
        (Granularity::Group(5), vec![1.5, 2.5 / 3.0, 3.0, 5.0 / 3.0]),
    ] {
        let t = Projection::Sign.apply(&w, 2, 8, granularity, false).unwrap();
        assert_eq!((t.scales(), t.granularity()), (&scales[..], granularity));
        assert_eq!(t.codes()[..8], [1, -1, 1, -1, 1, -1, -1, 1]);
    }
    // The mean is that of the group as well.
    let t = Projection::CentredSign.apply(&W, 1, 8, Granularity::Group(4), false).unwrap();
    assert_eq!(t.codes(), [1, -1, -1, -1, 1, -1, -1, -1], "0.75 is not above the mean 0.75");
}

#[test]
fn names() {
    for p in Projection::ALL {
        assert_eq!(Projection::from_name(&p.name().to_uppercase()), Ok(p));
    }
}

#[test]
fn zeros_and_nothing() {
    for p in Projection::ALL {
        for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(3)] {
            for (rows, cols) in [(0, 4), (4, 0), (0, 0), (2, 4)] {
                for refit in [false, true] {
                    let w = vec![0.0; rows * cols];
                    let t = p.apply(&w, rows, cols, granularity, refit).unwrap();
                    assert!(t.dequantize().iter().all(|w| w.abs() <= 1e-5));
                    assert!(t.stats(&w).unwrap().zeros >= 0.0);
                }
            }
        }
        assert!(p.apply(&W, 1, 8, Granularity::Group(0), false).is_err());
        assert!(p.apply(&[f32::NAN; 8], 1, 8, Granularity::Row, false).is_err());
        assert!(p.apply(&W, 1, 7, Granularity::Row, false).is_err());
        assert!(p.apply(&[], usize::MAX, 2, Granularity::Row, false).is_err());
        // The largest and the smallest numbers: finite scales.
        for w in [f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1)] {
            let t = p.apply(&[w, -w, w, 0.0], 1, 4, Granularity::Row, true).unwrap();
            assert!(t.dequantize().iter().all(|v| v.is_finite()), "{p:?} {w:e}");
        }
        // Sums far beyond f32: the means are f64.
        for per in [Granularity::Tensor, Granularity::Group(100)] {
            for refit in [false, true] {
                let t = p.apply(&[f32::MAX; 4000], 4, 1000, per, refit).unwrap();
                assert!(t.scales().iter().all(|s| *s == f32::MAX), "{p:?}");
            }
        }
    }
}

#[test]
fn statistics_by_hand() {
    let t = Ternary::new(1, 4, vec![1, 0, 0, -1], vec![2.0], Granularity::Tensor).unwrap();
    let s = t.stats(&[2.0, 1.0, 0.0, -2.0]).unwrap();
    assert_eq!((s.zeros, s.entropy), (0.5, 1.5));
    assert_eq!(s.sqnr, 10.0 * 9f64.log10());
    assert_eq!(s.cosine, 8.0 / 72f64.sqrt());
    let same = t.stats(&t.dequantize()).unwrap();
    assert_eq!((same.sqnr, same.cosine), (f64::INFINITY, 1.0));
    assert!(t.stats(&[0.0; 3]).is_err());
    assert!(t.stats(&[f32::INFINITY; 4]).is_err());
    let even = Ternary::new(1, 3, vec![1, 0, -1], vec![1.0], Granularity::Row).unwrap();
    assert!((even.entropy() - 3f64.log2()).abs() < 1e-15);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// The rules that formats have too give their weights.
    #[test]
    fn as_the_formats_do(w in prop::collection::vec(-2f32..2.0, 512)) {
        for (projection, format, granularity) in [
            (Projection::Absmean, Format::TERNARY, Granularity::Tensor),
            (Projection::Absmean, Format::TERNARY_ROW, Granularity::Row),
            (Projection::Absmean, Format::TERNARY_B3_ROW, Granularity::Row),
            (Projection::Sign, Format::SIGN, Granularity::Tensor),
            (Projection::Sign, Format::SIGN_ROW, Granularity::Row),
        ] {
            let t = projection.apply(&w, 2, 256, granularity, false).unwrap();
            let m = Matrix::quantize(format, 2, 256, &w).unwrap();
            prop_assert_eq!(m.dequantize(), t.dequantize(), "{}", format);
            prop_assert_eq!(Matrix::from_ternary(format, &t).unwrap(), m);
        }
        // These round the scale to f16; the codes are the same.
        for (projection, format) in [
            (Projection::Absmax, Format::TQ2_0),
            (Projection::Absmean, Format::TERNARY_G64),
        ] {
            let granularity = Granularity::Group(format.info().block);
            let t = projection.apply(&w, 2, 256, granularity, false).unwrap();
            let m = Matrix::quantize(format, 2, 256, &w).unwrap();
            let codes: Vec<i8> =
                m.dequantize().iter().map(|w| i8::from(*w > 0.0) - i8::from(*w < 0.0)).collect();
            prop_assert_eq!(codes, t.codes(), "{}", format);
        }
    }

    /// A refit never makes the error larger, and no other scale is better.
    #[test]
    fn a_refit_is_the_best_scale(w in prop::collection::vec(-2f32..2.0, 96)) {
        let error = |t: &Ternary| -> f64 {
            w.iter().zip(t.dequantize()).map(|(w, v)| f64::from(w - v).powi(2)).sum()
        };
        for p in Projection::ALL {
            for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(32)] {
                let plain = p.apply(&w, 2, 48, granularity, false).unwrap();
                let best = p.apply(&w, 2, 48, granularity, true).unwrap();
                prop_assert!(error(&best) <= error(&plain) * (1.0 + 1e-6));
                for factor in [0.99, 1.01] {
                    let scales = best.scales().iter().map(|s| s * factor).collect();
                    let other =
                        Ternary::new(2, 48, best.codes().to_vec(), scales, granularity).unwrap();
                    prop_assert!(error(&best) <= error(&other) * (1.0 + 1e-6));
                }
                let stats = best.stats(&w).unwrap();
                prop_assert!((0.0..=1.585).contains(&stats.entropy));
                prop_assert!((-1e-12..=1.0 + 1e-12).contains(&stats.cosine));
            }
        }
    }
}

/// Squared error of the best scale for these codes.
fn error(w: &[f32], codes: &[i8]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        w.iter().zip(codes).map(|(w, q)| f(f64::from(*w), f64::from(*q))).sum()
    };
    let kept = sum(&|_, q| q * q);
    sum(&|w, _| w * w) - if kept > 0.0 { sum(&|w, q| w * q).powi(2) / kept } else { 0.0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_ternary_weights_are_nearer_than_optimal(
        w in proptest::collection::vec(prop_oneof![-4.0f32..4.0, (-4i8..=4).prop_map(f32::from)], 1..8),
    ) {
        let n = w.len();
        let t = Projection::Optimal.apply(&w, 1, n, Granularity::Tensor, false).unwrap();
        let found = error(&w, t.codes());
        let least = (0..3usize.pow(n as u32))
            .map(|i| (0..n).map(|k| (i / 3usize.pow(k as u32) % 3) as i8 - 1).collect::<Vec<_>>())
            .map(|codes| error(&w, &codes))
            .fold(f64::INFINITY, f64::min);
        prop_assert!(found <= least + 1e-9, "{found} against {least}");
        // Its scale is already the one of least squared error.
        let refit = Projection::Optimal.apply(&w, 1, n, Granularity::Tensor, true).unwrap();
        prop_assert!((t.scales()[0] - refit.scales()[0]).abs() <= 1e-6 * t.scales()[0].abs());
    }
}
