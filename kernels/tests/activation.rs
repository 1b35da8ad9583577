//! Activations from codes of one's own and in ggml's Q8_K: what they mean, and that every kernel multiplies
//! with them as the oracle does.

use proptest::prelude::*;
use tritlab_kernels::{Acts, Backend, Error, Format, Grouping, Matrix, Panels, backend};

/// Numbers that follow no pattern: -1 to 1.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn q8_k_by_hand() {
    // The largest is 1, so codes are x * -127, halves to even; the other half is 16 zeros and a row of -2.
    let mut x = vec![0.0; 512];
    x[..5].copy_from_slice(&[1.0, -0.5, 0.25, -1.0, 0.1]);
    x[256..].fill(-2.0);
    let acts = Acts::quantize_q8_k(&x, 1, 512).unwrap();
    assert_eq!(acts.codes(0)[..6], [-127, 64, -32, 127, -13, 0]);
    assert!(acts.codes(0)[256..512].iter().all(|q| *q == -127));
    assert_eq!(acts.scales(0), [1.0 / -127.0, 1.0 / (127.0 / 2.0)]);
    assert_eq!(acts.sums(0), [19, -127 * 256]);
    let bytes = acts.to_q8_k().unwrap();
    assert_eq!(bytes.len(), 2 * 292);
    assert_eq!(bytes[..4], (1.0f32 / -127.0).to_le_bytes());
    assert_eq!(bytes[4..9], [129, 64, 224, 127, 243]);
    assert_eq!(bytes[260..262], 19i16.to_le_bytes());
    assert!(bytes[262..292].iter().all(|b| *b == 0));
    assert_eq!(bytes[292 + 260..292 + 262], (-127i16 * 16).to_le_bytes());
    assert_eq!(Acts::from_q8_k(&bytes, 1, 512).unwrap(), acts);
    assert_eq!(Acts::from_q8_k(&bytes, 2, 256).unwrap().scales(1), [1.0 / (127.0 / 2.0)]);
}

/// A tie belongs to the first; what cannot be divided by is zero.
#[test]
fn q8_k_at_the_edges() {
    let mut x = vec![0.0; 256];
    (x[3], x[9]) = (-1.0, 1.0);
    assert_eq!(Acts::quantize_q8_k(&x, 1, 256).unwrap().scales(0), [1.0 / 127.0]);
    for tiny in [0.0, f32::from_bits(1), 3e-37, -3e-37] {
        let acts = Acts::quantize_q8_k(&[tiny; 256], 1, 256).unwrap();
        assert_eq!((acts.scales(0), acts.codes(0)), (&[0.0][..], &[0; 320][..]));
    }
    let largest = Acts::quantize_q8_k(&[f32::MAX; 256], 1, 256).unwrap();
    assert!(largest.scales(0)[0].is_finite() && largest.codes(0)[0] == -127);
    assert_eq!(Acts::quantize_q8_k(&[], 0, 256).unwrap().n(), 0);
    assert_eq!(Acts::quantize_q8_k(&[], 3, 0).unwrap().to_q8_k(), Ok(vec![]));
}

#[test]
fn what_is_refused() {
    let columns = |cols| Err(Error::Columns { format: "Q8_K", block: 256, cols });
    assert_eq!(Acts::quantize_q8_k(&[0.0; 255], 1, 255), columns(255));
    assert_eq!(Acts::from_q8_k(&[0; 292], 1, 128), columns(128));
    let long = Acts::from_q8_k(&[0; 291], 1, 256);
    assert_eq!(long, Err(Error::Length { what: "Q8_K bytes", expected: 292, got: 291 }));
    assert!(matches!(Acts::from_q8_k(&[], usize::MAX, 256), Err(Error::TooLarge { .. })));
    let mut bytes = Acts::quantize_q8_k(&noise(512, 1), 2, 256).unwrap().to_q8_k().unwrap();
    bytes[292 + 262] ^= 1;
    let error = Acts::from_q8_k(&bytes, 2, 256).unwrap_err();
    let Error::BlockSum { block: 1, sum: 1, stored, actual } = error else { panic!("{error:?}") };
    assert_eq!((stored ^ actual), 1);
    let token = Acts::quantize(Grouping::Token, &[1.0; 256], 1, 256).unwrap();
    let error = Error::Grouping { format: "Q8_K", expected: "256", got: "token" };
    assert_eq!(token.to_q8_k(), Err(error));

    let own =
        |codes: &[i8], scales: &[f32]| Acts::from_codes(Grouping::Group32, 1, 33, codes, scales);
    assert_eq!(own(&[-128; 33], &[1.0; 2]), Err(Error::CodeRange { index: 0, code: -128 }));
    let what = "activation scales";
    assert_eq!(own(&[1; 33], &[1.0]), Err(Error::Length { what, expected: 2, got: 1 }));
    let value = "NaN".to_owned();
    assert_eq!(own(&[1; 33], &[1.0, f32::NAN]), Err(Error::NotFinite { what, index: 1, value }));
    assert_eq!(own(&[1; 33], &[1.0, -1.0]).unwrap().sums(0), [32, 1]);
    let dense = Acts::from_codes(Grouping::Dense, 1, 1, &[1], &[1.0]);
    assert!(matches!(dense, Err(Error::Grouping { .. })));
}

/// Any codes, scales of both signs, in every format on every backend.
#[test]
fn kernels_take_them_as_the_oracle_does() {
    let (rows, cols) = (133, 512);
    let oracle = Backend::Oracle.ops().unwrap();
    for &format in Format::ALL.iter().filter(|f| f.codes().is_some()) {
        let matrix = Matrix::quantize(format, rows, cols, &noise(rows * cols, 3)).unwrap();
        let panels = Panels::pack(&matrix).unwrap();
        let grouping = format.info().activation;
        for n in [1, 3] {
            let groups = n * grouping.len().map_or(1, |len| cols / len);
            let codes: Vec<i8> = noise(n * cols, 4).iter().map(|x| (x * 127.0) as i8).collect();
            let mut all =
                vec![Acts::from_codes(grouping, n, cols, &codes, &noise(groups, 5)).unwrap()];
            let extreme: Vec<i8> =
                (0..n * cols).map(|i| if i % 7 == 0 { 127 } else { -127 }).collect();
            all.push(Acts::from_codes(grouping, n, cols, &extreme, &noise(groups, 6)).unwrap());
            if grouping == Grouping::Group256 {
                all.push(Acts::quantize_q8_k(&noise(n * cols, 7), n, cols).unwrap());
            }
            for acts in all {
                let mut expected = vec![0.0; n * rows];
                oracle.matmul(&panels, &acts, &mut expected);
                for backend in backend::available() {
                    let mut y = vec![0.0; n * rows];
                    backend.ops().unwrap().matmul(&panels, &acts, &mut y);
                    let equal = y.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(equal, "{format} on {backend}, {n} columns");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn q8_k_there_and_back(
        x in prop::collection::vec(prop_oneof![-10f32..10.0, any::<f32>()], 512),
    ) {
        prop_assume!(x.iter().all(|x| x.is_finite()));
        let acts = Acts::quantize_q8_k(&x, 2, 256).unwrap();
        prop_assert_eq!(&Acts::from_q8_k(&acts.to_q8_k().unwrap(), 2, 256).unwrap(), &acts);
        for t in 0..2 {
            let row = &x[t * 256..(t + 1) * 256];
            let largest = row.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            let d = acts.scales(t)[0];
            for (x, q) in row.iter().zip(acts.codes(t)) {
                prop_assert!((x - d * f32::from(*q)).abs() <= largest / 127.0 * 0.501 || d == 0.0);
            }
        }
    }

    /// Codes that the crate made itself, taken again, are the same activations.
    #[test]
    fn codes_there_and_back(x in prop::collection::vec(-10f32..10.0, 2 * 300)) {
        for grouping in Grouping::ALL.into_iter().filter(|g| *g != Grouping::Dense) {
            let acts = Acts::quantize(grouping, &x, 2, 300).unwrap();
            let codes: Vec<i8> = (0..2).flat_map(|t| acts.codes(t)[..300].to_vec()).collect();
            let scales = [acts.scales(0), acts.scales(1)].concat();
            prop_assert_eq!(&Acts::from_codes(grouping, 2, 300, &codes, &scales).unwrap(), &acts);
        }
    }
}
