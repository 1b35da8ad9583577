//! The encoders: those that search reproduce ggml's bytes, all of them survive what real and hostile
//! weights bring, and blocks that are already quantised come back. Decoding is `vectors.rs`.

use serde_json::Value;
use tritlab_kernels::{Error, Format, Matrix, Scales, Weights};

fn json(name: &str) -> Value {
    let path = format!("{}/tests/vectors/encode/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(text: &Value) -> Vec<f32> {
    let bits = |word| f32::from_bits(u32::from_str_radix(word, 16).unwrap());
    text.as_str().unwrap().split_whitespace().map(bits).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The squared error of `y`, each column weighed.
fn error(x: &[f32], y: &[f32], importance: Option<&[f32]>) -> f64 {
    let term = |i: usize| {
        let diff = f64::from(x[i]) - f64::from(y[i]);
        importance.map_or(1.0, |w| f64::from(w[i])) * diff * diff
    };
    (0..x.len()).map(term).sum()
}

/// Deterministic numbers in -1..1, sums of uniform ones: bell-shaped.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>() / 2.0).collect()
}

fn coded() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|f| f.codes().is_some())
}

/// Formats whose encoders search, with importances or always.
const SEARCHED: [&str; 10] =
    ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"];

/// The same bytes as ggml, built without fused multiply-adds. The error is compared too: it is what a
/// user sees, and it says how bad a difference is if there ever is one.
#[test]
fn searches_reproduce_ggml() {
    let rows = json("rows");
    let importance = floats(&rows["importance"]);
    for name in SEARCHED {
        let (format, file) = (Format::from_name(name).unwrap(), json(name));
        let cases = file["cases"].as_array().unwrap();
        assert!(cases.len() >= rows["rows"].as_array().unwrap().len(), "{name}: lost cases");
        for case in cases {
            let row = rows["rows"].as_array().unwrap().iter().find(|r| r["name"] == case["name"]);
            let x = floats(&row.unwrap()["input"]);
            let w = case["importance"].as_bool().unwrap().then_some(&importance[..]);
            let matrix = Matrix::quantize_weighted(format, 1, x.len(), &x, w).unwrap();
            let what = format!("{name}, {}, importance: {}", case["name"], w.is_some());
            let ours = error(&x, &matrix.dequantize(), w);
            let ggml = case["error"].as_f64().unwrap();
            assert!(ours <= 1.001 * ggml, "{what}: error {ours}, ggml has {ggml}");
            assert_eq!(hex(matrix.bytes()), case["bytes"].as_str().unwrap(), "{what}");
        }
    }
}

/// Importance moves the error to where it matters less.
#[test]
fn importance_helps_where_it_counts() {
    let x = noise(4096, 3);
    let w: Vec<f32> = (0..4096).map(|i| if i % 7 == 0 { 100.0 } else { 0.1 }).collect();
    for name in SEARCHED {
        let format = Format::from_name(name).unwrap();
        let plain = Matrix::quantize(format, 1, x.len(), &x).unwrap();
        let aimed = Matrix::quantize_weighted(format, 1, x.len(), &x, Some(&w)).unwrap();
        let [plain, aimed] = [plain, aimed].map(|m| error(&x, &m.dequantize(), Some(&w)));
        assert!(aimed < 0.95 * plain, "{name}: {aimed} with importance, {plain} without");
    }
}

/// Only ratios of importances count, at any size that f32 has; all 0 says as much as all 1.
#[test]
fn importance_has_no_unit() {
    let x = noise(4096, 4);
    let w: Vec<f32> = noise(4096, 5).iter().map(|w| w * w + 0.01).collect();
    for name in SEARCHED {
        let format = Format::from_name(name).unwrap();
        let with = |w: &[f32]| Matrix::quantize_weighted(format, 1, x.len(), &x, Some(w));
        let scaled = |by: f32| with(&w.iter().map(|w| w * by).collect::<Vec<_>>()).unwrap();
        // Powers of two, so that the importances themselves are not rounded.
        for exponent in [-100, -30, 10, 30, 90, 126] {
            assert_eq!(scaled(2f32.powi(exponent)), with(&w).unwrap(), "{name} 2^{exponent}");
        }
        let equal = with(&[1.0; 4096]).unwrap();
        for value in [0.0, 1e38, f32::MAX, f32::from_bits(1)] {
            let found = with(&[value; 4096]).unwrap();
            let [loss, least] = [&found, &equal].map(|m| error(&x, &m.dequantize(), None));
            // Rounded products may choose another of two scales that are as good.
            assert!(loss <= 1.01 * least, "{name} {value:e}: {loss}, {least} with 1");
            assert!(value != 0.0 || found == equal, "{name}");
        }
        // One column beside which nothing else counts: blocks without it do not know of it.
        let mut one = vec![1.0; 4096];
        one[3] = 1e38;
        assert!(with(&one).unwrap().dequantize()[256..] == equal.dequantize()[256..], "{name}");
    }
}

/// Every encoder on every kind of weights that a row can hold: finite weights, or the typed error.
#[test]
fn hostile_weights() {
    let n = 512;
    let bell = noise(n, 1);
    let scaled = |s: f32| bell.iter().map(|v| v * s).collect::<Vec<_>>();
    let alternating = |v: f32| (0..n).map(|i| if i % 2 == 0 { v } else { -v }).collect::<Vec<_>>();
    let spike = |v: f32| {
        let mut x = scaled(0.01);
        x[100] = v;
        x
    };
    let mut rows = vec![vec![0.0; n], vec![-0.0; n], alternating(f32::MAX), alternating(1e-45)];
    for exponent in [-45, -42, -38, -30, -20, -12, -6, 0, 4, 6, 8, 9, 12, 15, 19, 25, 38] {
        let v = 10.0f32.powi(exponent);
        rows.extend([vec![v; n], vec![-v; n], scaled(v), spike(v), spike(-v)]);
    }
    let weights = [
        None,
        Some(vec![1.0; n]),
        Some(vec![0.0; n]),
        Some((0..n).map(|i| if i % 40 < 20 { 0.0 } else { 1.0 }).collect()),
        Some(vec![1e-30; n]),
        Some(vec![1e30; n]),
        Some((0..n).map(|i| 10.0f32.powi(i as i32 % 60 - 30)).collect()),
    ];
    let mut refused = 0;
    for format in coded() {
        for x in &rows {
            for (i, w) in weights.iter().enumerate() {
                let largest = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let what = format!("{format}, largest {largest:e}, first {:e}, {i}", x[0]);
                match Matrix::quantize_weighted(format, 1, n, x, w.as_deref()) {
                    Ok(matrix) => {
                        let y = matrix.dequantize();
                        let bad = y.iter().find(|y| !y.is_finite());
                        assert_eq!(bad, None, "{what}");
                        if largest == 0.0 {
                            assert!(y.iter().all(|y| *y == 0.0), "{what}: zeros");
                        }
                        // Where columns matter alike and f16 can hold the scales, a block is never
                        // worse than none at all.
                        let in_range = (0.1..6e4).contains(&largest);
                        if i <= 1 && in_range && format.codes().unwrap().bits > 2 {
                            let e = error(x, &y, None);
                            let none = error(x, &vec![0.0; n], None);
                            assert!(e <= none * 1.000_001, "{what}: error {e}, zeros have {none}");
                        }
                    }
                    Err(Error::ScaleOverflow { .. }) => {
                        let in_block = format.info().scales == Scales::Block;
                        assert!(in_block && (largest > 6e4 || i >= 5), "{what}: refused");
                        refused += 1;
                    }
                    Err(e) => panic!("{what}: {e}"),
                }
            }
        }
    }
    assert!(refused > 0);
}

/// Constant rows are stored to the precision of the scale.
#[test]
fn constant_weights() {
    for format in coded().filter(|f| f.codes().unwrap().bits > 1) {
        for v in [0.7f32, -1.3, 1e-3, 300.0] {
            let y = Matrix::quantize(format, 1, 256, &[v; 256]).unwrap().dequantize();
            // f16 scale, then a scale of up to 6 bits or a code of 2, whose steps can miss by 1 part in 30.
            assert!(
                y.iter().all(|y| (y - v).abs() <= 0.034 * v.abs()),
                "{format}: {v} is {}",
                y[0]
            );
        }
    }
}

/// What is quantised already loses next to nothing when quantised again.
#[test]
fn again() {
    let x = noise(2048, 2);
    for format in coded() {
        let first = Matrix::quantize(format, 1, x.len(), &x).unwrap();
        let y = first.dequantize();
        let second = Matrix::quantize(format, 1, x.len(), &y).unwrap();
        if format.codes().unwrap().bits <= 2 && !format.name().starts_with('Q') {
            // Ternary and sign codes are what they were; absmean scales shrink where there are zeros.
            let z = second.dequantize();
            let sign = |v: &f32| (*v > 0.0) as i8 - (*v < 0.0) as i8;
            assert!(z.iter().map(sign).eq(y.iter().map(sign)), "{format}");
        } else {
            let (lost, again) = (error(&x, &y, None), error(&y, &second.dequantize(), None));
            assert!(again <= 0.25 * lost, "{format}: lost {lost}, and {again} the second time");
        }
    }
}

/// Blocks that use their whole range come back to the byte from the encoders without a search, and from
/// IQ4_NL's, whose search has a candidate without error.
#[test]
fn stable_blocks() {
    for (name, first, zero) in [
        ("Q4_0", 2, "d"),
        ("Q5_0", 6, "d"),
        ("IQ4_NL", 2, "d"),
        ("Q4_1", 4, "dm"),
        ("Q5_1", 8, "dm"),
    ] {
        let format = Format::from_name(name).unwrap();
        let mut block = vec![0; format.info().bytes];
        block[..2].copy_from_slice(&0x2c00u16.to_le_bytes()); // 1/16
        if zero == "dm" {
            block[2..4].copy_from_slice(&0xb800u16.to_le_bytes()); // -1/2
        }
        for (i, b) in block[first..].iter_mut().enumerate() {
            *b = i as u8 * 17; // code i at both ends
        }
        if name.starts_with("Q5") {
            block[first - 4..first].copy_from_slice(&0xff00_00f0u32.to_le_bytes());
            block[first + 15] = 0xff; // the largest code
        }
        let y = Matrix::new(format, 1, 32, block.clone(), Vec::new()).unwrap().dequantize();
        let again = Matrix::quantize(format, 1, 32, &y).unwrap();
        assert_eq!(hex(again.bytes()), hex(&block), "{name}");
    }
}

/// All 243 bytes that TQ1_0 encoders write, at every place, come back from what they decode to.
#[test]
fn tq1_0_bytes() {
    let format = Format::from_name("TQ1_0").unwrap();
    for value in 0..243u16 {
        let mut block = [0u8; 54];
        block[..48].fill((value * 256).div_ceil(243) as u8);
        block[48..52].fill((value / 3 * 3 * 256).div_ceil(243) as u8);
        block[52..].copy_from_slice(&0x3c00u16.to_le_bytes()); // 1
        if value == 121 {
            block[0] = 0xff; // all weights are zero: one that is not, so that the scale is 1
        }
        let w = Matrix::new(format, 1, 256, block.to_vec(), Vec::new()).unwrap().dequantize();
        let digits = [value / 81, value / 27 % 3, value / 9 % 3, value / 3 % 3, value % 3];
        for (t, digit) in digits.iter().enumerate() {
            assert_eq!(w[1 + 32 * t], f32::from(*digit) - 1.0, "value {value}, digit {t}");
        }
        assert_eq!(Matrix::quantize(format, 1, 256, &w).unwrap().bytes(), block, "value {value}");
    }
}

/// SIGN and SIGN_ROW: every byte, the padding of rows, zeros, and each scale for its own rows.
#[test]
fn sign_bytes() {
    for name in ["SIGN", "SIGN_ROW"] {
        let format = Format::from_name(name).unwrap();
        for byte in 0..=255u8 {
            let w = Matrix::new(format, 1, 8, vec![byte], vec![0.75]).unwrap().dequantize();
            for (i, w) in w.iter().enumerate() {
                assert_eq!(*w, if byte >> i & 1 == 1 { 0.75 } else { -0.75 }, "{name} {byte:#04x}");
            }
            let again = Matrix::quantize(format, 1, 8, &w).unwrap();
            assert_eq!((again.bytes(), again.scales()), (&[byte][..], &[0.75][..]), "{name}");
        }
        let x = [1.0, -1.0, 0.0, 4.0, -0.0, 3.0, -3.0, 6.0, 9.0, -9.0];
        let matrix = Matrix::quantize(format, 2, 5, &x).unwrap();
        assert_eq!(matrix.bytes(), [0b01001, 0b01101], "{name}: zero is negative");
        let scales: &[f32] = if name == "SIGN" { &[3.6] } else { &[1.2, 6.0] };
        assert_eq!(matrix.scales(), scales, "{name}");
    }
}

/// Grouped ternary: every byte, and the codes that TERNARY gives each group alone.
#[test]
fn grouped_ternary() {
    for group in [32, 64, 128, 256] {
        let format = Format::from_name(&format!("TERNARY_G{group}")).unwrap();
        for byte in 0..=255u8 {
            let mut block = vec![byte; 2 + group / 4];
            block[..2].copy_from_slice(&0x3c00u16.to_le_bytes()); // 1
            let w = Matrix::new(format, 1, group, block, Vec::new()).unwrap().dequantize();
            for (i, w) in w.iter().enumerate() {
                assert_eq!(*w, f32::from(byte >> (2 * (i % 4)) & 3) - 1.0, "{format} {byte:#04x}");
            }
        }
        let x = noise(4 * group, 5);
        let grouped = Matrix::quantize(format, 1, x.len(), &x).unwrap();
        for (x, block) in x.chunks(group).zip(grouped.bytes().chunks(2 + group / 4)) {
            let alone = Matrix::quantize(Format::TERNARY, 1, group, x).unwrap();
            assert_eq!(&block[2..], alone.bytes(), "{format}");
            let scale = half::f16::from_le_bytes([block[0], block[1]]);
            assert_eq!(scale, half::f16::from_f32(alone.scales()[0]), "{format}");
        }
    }
}

/// Zeros of both signs in one block: the minimum is the first, and its sign does not depend on the machine.
#[test]
fn zeros_of_both_signs() {
    for format in [Format::Q4_1, Format::Q5_1, Format::Q2_K, Format::Q4_K, Format::Q5_K] {
        let n = format.info().block;
        let encode = |first: f32| {
            let mut x: Vec<f32> = (0..n).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect();
            (x[0], x[n - 1]) = (first, 1.0);
            Matrix::quantize(format, 1, n, &x).unwrap().bytes().to_vec()
        };
        let (plus, minus) = (encode(0.0), encode(-0.0));
        for bytes in [&plus, &minus] {
            let w = Matrix::new(format, 1, n, bytes.clone(), Vec::new()).unwrap().dequantize();
            assert!(w[..n - 1].iter().all(|w| *w == 0.0), "{format}: zeros stay zeros");
        }
        if matches!(format, Format::Q4_1 | Format::Q5_1) {
            assert_eq!(plus[2..4], [0, 0], "{format}: +0 came first");
            assert_eq!(minus[2..4], [0, 0x80], "{format}: -0 came first");
        }
    }
}
