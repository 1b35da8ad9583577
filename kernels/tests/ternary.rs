//! Ternary weights as they are: into formats, into the layouts of other projects, and back, exactly; or an
//! error that says where not.

use proptest::prelude::*;
use tritlab_kernels::{Error, Format, Granularity, Matrix, Packing, Ternary, Weights};

/// Formats of ternary codes with zeros.
const TERNARY: [Format; 10] = [
    Format::TERNARY,
    Format::TERNARY_ROW,
    Format::TERNARY_B3,
    Format::TERNARY_B3_ROW,
    Format::TERNARY_G32,
    Format::TERNARY_G64,
    Format::TERNARY_G128,
    Format::TERNARY_G256,
    Format::TQ1_0,
    Format::TQ2_0,
];

fn ternary(rows: usize, cols: usize, codes: Vec<i8>, scale: f32) -> Ternary {
    Ternary::new(rows, cols, codes, vec![scale], Granularity::Tensor).unwrap()
}

/// All 0, but for these columns of the first row.
fn sparse(rows: usize, cols: usize, set: &[(usize, i8)]) -> Vec<i8> {
    let mut codes = vec![0; rows * cols];
    set.iter().for_each(|(i, q)| codes[*i] = *q);
    codes
}

// ---- written by hand from the layouts' descriptions ----

#[track_caller]
fn golden(packing: Packing, weights: &Ternary, bytes: &[u8], scale: Option<f32>) {
    let packed = packing.pack(weights).unwrap();
    assert_eq!(packed.bytes, bytes, "{packing}");
    assert_eq!(packed.scale, scale, "{packing}");
    assert_eq!(packing.nbytes(weights.rows(), weights.cols()), Ok(bytes.len()));
    let back = packing.unpack(bytes, weights.rows(), weights.cols(), scale).unwrap();
    assert_eq!(back.codes(), weights.codes(), "{packing}");
    assert_eq!(back.dequantize(), weights.dequantize(), "{packing}");
}

/// Codes plus one are 2, 0, 1, 2 from the top bits of the first byte down: 0b10_00_01_10.
#[test]
fn i2_s_by_hand() {
    let tail = |bytes: &mut Vec<u8>| {
        bytes.extend(0.5f32.to_le_bytes());
        bytes.extend([0; 28]);
    };
    let mut bytes = vec![0x55; 32];
    bytes[0] = 0x86;
    tail(&mut bytes);
    let codes = sparse(1, 128, &[(0, 1), (32, -1), (96, 1)]);
    golden(Packing::I2_S, &ternary(1, 128, codes, 0.5), &bytes, None);

    // The third weight of the second block; two rows are one sequence.
    let mut bytes = vec![0x55; 32];
    bytes[16 + 2] = 0x86;
    tail(&mut bytes);
    let codes = sparse(2, 64, &[(66, 1), (82, -1), (114, 1)]);
    golden(Packing::I2_S_64, &ternary(2, 64, codes, 0.5), &bytes, None);

    let mut bytes = vec![0x55, 0x86];
    tail(&mut bytes);
    let codes = vec![0, 1, 0, -1, 0, 0, 0, 1];
    golden(Packing::I2_S_ROWS4, &ternary(4, 2, codes, 0.5), &bytes, None);
}

/// Codes plus one are 2, 0, 1, 2 from the lowest bits of the first byte up: 0b10_01_00_10. Rows 0, 2, 4 and 6
/// share it.
#[test]
fn hf_packed_by_hand() {
    let codes = vec![1, 0, -1, 0, 0, 0, 1, 0];
    golden(Packing::HF_PACKED, &ternary(8, 1, codes.clone(), 0.25), &[0x92, 0x55], Some(0.25));
    golden(Packing::HF_PACKED_DIVIDE, &ternary(8, 1, codes, 0.25), &[0x92, 0x55], Some(4.0));
    // Five rows take two rows of bytes; the last fields are empty.
    let codes = vec![1, 0, -1, 0, 1];
    golden(Packing::HF_PACKED, &ternary(5, 1, codes, 1.0), &[0x22, 0x05], Some(1.0));
}

#[test]
fn bn_types_by_hand() {
    // Digits 2 1 0 2 1, least significant first: 2 + 3 + 54 + 81 = 140, and ceil(140 * 256 / 243) = 148. All
    // zero weights: 121, stored as 128. The extra byte: 0 + 6 + 9 + 54 = 69, stored as 73.
    let set = [(0, 1), (2, -1), (3, 1), (15, -1), (31, 1), (63, 1)];
    let mut bytes = vec![0x00, 0x38, 148];
    bytes.extend([128; 11]);
    bytes.push(73);
    golden(Packing::IQ1_BN, &ternary(1, 64, sparse(1, 64, &set), 0.5), &bytes, None);

    let mut bytes = 0.5f32.to_le_bytes().to_vec();
    bytes.extend([0x92]);
    bytes.extend([0x55; 15]);
    let codes = sparse(1, 64, &[(0, 1), (16, -1), (48, 1)]);
    golden(Packing::IQ2_BN, &ternary(1, 64, codes, 0.5), &bytes, None);

    // Row 2, l = 1, i = 3: columns 19, 23, 27, 31 in byte 16 + 16 + 8 + 3.
    let scales = [0.5, 1.0, 3.0, 4.0];
    let mut bytes: Vec<u8> = scales.iter().flat_map(|s: &f32| s.to_le_bytes()).collect();
    bytes.extend([0x55; 64]);
    bytes[43] = 0x92;
    let codes = sparse(4, 64, &[(128 + 19, 1), (128 + 23, -1), (128 + 31, 1)]);
    let weights = Ternary::new(4, 64, codes, scales.to_vec(), Granularity::Row).unwrap();
    golden(Packing::IQ2_BN_R4, &weights, &bytes, None);
}

// ---- there and back ----

fn any_ternary() -> impl Strategy<Value = Ternary> {
    let granularity = prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Row),
        prop::sample::select(vec![32, 64, 128, 256]).prop_map(Granularity::Group),
    ];
    (1usize..3, 1usize..3, granularity).prop_flat_map(|(fours, blocks, granularity)| {
        let (rows, cols) = (4 * fours, 256 * blocks);
        let n = match granularity {
            Granularity::Tensor => 1,
            Granularity::Row => rows,
            Granularity::Group(g) => rows * cols / g,
        };
        // Scales that f16 holds, subnormal ones too.
        let scale = (1u16..0x7c00).prop_map(|bits| half::f16::from_bits(bits).to_f32());
        (prop::collection::vec(-1i8..=1, rows * cols), prop::collection::vec(scale, n)).prop_map(
            move |(codes, scales)| Ternary::new(rows, cols, codes, scales, granularity).unwrap(),
        )
    })
}

/// Weights per scale of a format.
fn per(format: Format) -> Granularity {
    match format {
        Format::TERNARY | Format::TERNARY_B3 => Granularity::Tensor,
        Format::TERNARY_ROW | Format::TERNARY_B3_ROW => Granularity::Row,
        f => Granularity::Group(f.info().block),
    }
}

/// Whether one scale per `b` holds what has one scale per `a`.
fn holds(a: Granularity, b: Granularity) -> bool {
    match (a, b) {
        (Granularity::Tensor, _) | (Granularity::Row, Granularity::Row | Granularity::Group(_)) => {
            true
        }
        (Granularity::Group(a), Granularity::Group(b)) => b <= a,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn formats_hold_ternary_weights(t in any_ternary()) {
        for format in TERNARY.into_iter().chain([Format::F32, Format::F16]) {
            match Matrix::from_ternary(format, &t) {
                Ok(m) => {
                    prop_assert_eq!(m.dequantize(), t.dequantize(), "{}", format);
                    let back = Ternary::from_weights(&m).unwrap();
                    prop_assert_eq!(back.codes(), t.codes(), "{}", format);
                    prop_assert_eq!(back.dequantize(), t.dequantize(), "{}", format);
                }
                Err(Error::NotExact { .. }) => {
                    prop_assert!(format.codes().is_some() && !holds(t.granularity(), per(format)));
                }
                Err(e) => prop_assert!(false, "{format}: {e}"),
            }
        }
        // Without zeros, also signs.
        let codes = t.codes().iter().map(|q| if *q < 0 { -1 } else { 1 }).collect();
        let (rows, cols) = (t.rows(), t.cols());
        let signs = Ternary::new(rows, cols, codes, vec![t.scales()[0]], Granularity::Tensor).unwrap();
        for format in [Format::SIGN, Format::SIGN_ROW] {
            let m = Matrix::from_ternary(format, &signs).unwrap();
            prop_assert_eq!(m.dequantize(), signs.dequantize());
            prop_assert_eq!(&Ternary::from_weights(&m).unwrap(), &signs);
        }
    }

    #[test]
    fn packings_hold_ternary_weights(t in any_ternary()) {
        for &packing in Packing::ALL {
            match packing.pack(&t) {
                Ok(packed) => {
                    let back =
                        packing.unpack(&packed.bytes, t.rows(), t.cols(), packed.scale).unwrap();
                    prop_assert_eq!(back.codes(), t.codes(), "{}", packing);
                    prop_assert_eq!(back.dequantize(), t.dequantize(), "{}", packing);
                    prop_assert_eq!(back.granularity(), packing.granularity());
                    prop_assert_eq!(packing.pack(&back).unwrap(), packed);
                }
                Err(Error::NotExact { .. }) => prop_assert!(
                    // Not every f32 is 1 divided by one.
                    packing == Packing::HF_PACKED_DIVIDE
                        || !holds(t.granularity(), packing.granularity())
                ),
                Err(e) => prop_assert!(false, "{packing}: {e}"),
            }
        }
    }

    /// Whatever bytes there are: an answer or an error, and an answer gives the bytes back.
    #[test]
    fn packings_read_any_bytes(seed in prop::collection::vec(any::<u8>(), 4 * (4 + 32) + 32)) {
        for &packing in Packing::ALL {
            let (rows, cols) = (4, 128);
            let bytes = &seed[..packing.nbytes(rows, cols).unwrap()];
            let scale = packing.scale_is_outside().then_some(0.75);
            match packing.unpack(bytes, rows, cols, scale) {
                Ok(t) => prop_assert!(t.codes().iter().all(|q| (-1..=1).contains(q))),
                Err(Error::BadCode { row, col, .. }) => prop_assert!(row < rows && col < cols),
                Err(Error::NotFinite { .. }) => {}
                Err(e) => prop_assert!(false, "{packing}: {e}"),
            }
        }
    }
}

#[test]
fn the_widest_granularity_is_found() {
    let m = |format, x: &[f32]| Matrix::quantize(format, 2, 256, x).unwrap();
    let mut x = vec![0.5f32; 512];
    x[7] = 0.0;
    x[300] = -0.5;
    let per = |x: &[f32]| Ternary::from_weights(&m(Format::F32, x)).unwrap().granularity();
    assert_eq!(per(&x), Granularity::Tensor);
    x[256..].iter_mut().for_each(|w| *w *= 3.0);
    assert_eq!(per(&x), Granularity::Row);
    for group in [128, 64, 32] {
        x[..group].iter_mut().for_each(|w| *w *= 3.0);
        assert_eq!(per(&x), Granularity::Group(group));
    }
    // Zeros have no scale of their own to disagree with.
    let mut x = vec![0.0; 512];
    x[400] = -2.0;
    let t = Ternary::from_weights(&m(Format::F32, &x)).unwrap();
    assert_eq!((t.granularity(), t.scales()), (Granularity::Tensor, &[2.0][..]));
    let t = Ternary::from_weights(&m(Format::Q4_K, &[0.0; 512])).unwrap();
    assert_eq!((t.granularity(), t.scales()), (Granularity::Tensor, &[0.0][..]));
    let empty = Matrix::quantize(Format::F32, 0, 5, &[]).unwrap();
    assert!(Ternary::from_weights(&empty).unwrap().codes().is_empty());
}

#[test]
fn a_negative_scale_changes_sides() {
    let t = Ternary::new(2, 2, vec![1, -1, 0, 1], vec![-2.0, 3.0], Granularity::Row).unwrap();
    assert_eq!((t.codes(), t.scales()), (&[-1, 1, 0, 1][..], &[2.0, 3.0][..]));
    assert_eq!(t.dequantize(), [-2.0, 2.0, 0.0, 3.0]);
}

#[test]
fn scales_rounded_to_f16() {
    let t = ternary(1, 32, vec![1; 32], 0.7);
    assert!(Matrix::from_ternary(Format::TERNARY_G32, &t).is_err());
    let rounded = t.with_f16_scales().unwrap();
    let scale = half::f16::from_f32(0.7).to_f32();
    assert_eq!((rounded.codes(), rounded.scales()), (t.codes(), &[scale][..]));
    let m = Matrix::from_ternary(Format::TERNARY_G32, &rounded).unwrap();
    assert_eq!(m.dequantize(), [scale; 32]);
    let error = ternary(1, 1, vec![0], 65520.0).with_f16_scales();
    assert!(matches!(error, Err(Error::NotFinite { index: 0, .. })), "{error:?}");
}

/// Absmean, which this must not be, shrinks the scale by the fraction of zeros.
#[test]
fn nothing_is_rounded_again() {
    let codes: Vec<i8> = (0..512).map(|i| (i % 4 == 0) as i8).collect();
    let t = ternary(2, 256, codes, 0.75);
    let again = Matrix::quantize(Format::TERNARY, 2, 256, &t.dequantize()).unwrap();
    assert_eq!(again.scales(), [0.1875]);
    assert_eq!(Matrix::from_ternary(Format::TERNARY, &t).unwrap().scales(), [0.75]);
}
