//! Encoders and decoders reproduce the golden blocks in `vectors/` to the bit, for every format of the
//! table that an independent implementation knows; those that only we have are tested exhaustively here.

use serde_json::Value;
use tritlab_kernels::{Format, Matrix, Panels, Weights};

/// Formats of the table without a golden file, and why.
const WITHOUT_VECTORS: &[(Format, &str)] = &[
    (Format::F32, "stores its input: tested by `f32_stores_its_bits`"),
    (Format::TERNARY, "our own: tested by `ternary_bytes`"),
    (Format::TERNARY_ROW, "our own: tested by `ternary_bytes`"),
    (Format::TERNARY_G32, "our own: tested in codecs.rs"),
    (Format::TERNARY_G64, "our own: tested in codecs.rs"),
    (Format::TERNARY_G128, "our own: tested in codecs.rs"),
    (Format::TERNARY_G256, "our own: tested in codecs.rs"),
    (Format::TERNARY_B3, "our own: tested by `base_3_bytes`"),
    (Format::TERNARY_B3_ROW, "our own: tested by `base_3_bytes`"),
    (Format::SIGN, "our own: tested in codecs.rs"),
    (Format::SIGN_ROW, "our own: tested in codecs.rs"),
];

fn file(format: Format) -> std::path::PathBuf {
    let name = format!("tests/vectors/{}.json", format.name());
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Hex words to numbers.
fn floats(text: &Value) -> Vec<f32> {
    let bits = |word| f32::from_bits(u32::from_str_radix(word, 16).unwrap());
    text.as_str().unwrap().split_whitespace().map(bits).collect()
}

fn bytes(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap().as_bytes();
    let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
    text.chunks_exact(2).map(|c| digit(c[0]) << 4 | digit(c[1])).collect()
}

#[track_caller]
fn same_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let (g, e) = (g.to_bits(), e.to_bits());
        assert_eq!(g, e, "{what}: weight {i}: got {g:#010x}, expected {e:#010x}");
    }
}

/// Checks one file; returns how many encodings and decodings it compared.
fn golden(format: Format) -> (usize, usize) {
    let text = std::fs::read_to_string(file(format)).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let info = format.info();
    assert_eq!(vectors["format"], info.name);
    assert_eq!(vectors["block"], info.block);
    assert_eq!(vectors["block_bytes"], info.bytes);
    let (mut encoded, mut decoded) = (0, 0);
    for case in vectors["cases"].as_array().unwrap() {
        let what = format!("{format}, case {}", case["name"]);
        let n = case["weights"].as_u64().unwrap() as usize;
        let (blocks, output) = (bytes(&case["bytes"]), floats(&case["output"]));
        if !case["input"].is_null() {
            let matrix = Matrix::quantize(format, 1, n, &floats(&case["input"])).unwrap();
            let first = matrix.bytes().iter().zip(&blocks).position(|(a, b)| a != b);
            assert_eq!(first, None, "{what}: encoded bytes differ at this index");
            assert_eq!(matrix.bytes().len(), blocks.len(), "{what}: encoded length");
            encoded += 1;
        }
        let matrix = Matrix::new(format, 1, n, blocks, Vec::new()).unwrap();
        same_bits(&what, &matrix.dequantize(), &output);
        let panels = Panels::pack(&matrix).unwrap();
        same_bits(&format!("{what}, panels"), &panels.dequantize(), &output);
        decoded += 1;
    }
    (encoded, decoded)
}

/// One test per format, for the names; [`every_format_is_tested`] holds the list complete.
macro_rules! golden_tests {
    ($($name:ident $format:ident),* $(,)?) => {
        const WITH_VECTORS: &[Format] = &[$(Format::$format),*];
        $(#[test]
        fn $name() {
            let (encoded, decoded) = golden(Format::$format);
            println!("{}: {encoded} encodings, {decoded} decodings", Format::$format);
            let lost = match ENCODED_BY_SEARCH.contains(&Format::$format) {
                true => encoded > 0 || decoded < 1,
                false => encoded < 10 || decoded <= encoded,
            };
            assert!(!lost, "the file has lost cases");
        })*
    };
}

golden_tests! {
    golden_f16 F16, golden_bf16 BF16, golden_q4_0 Q4_0, golden_q4_1 Q4_1, golden_q8_0 Q8_0,
    golden_tq2_0 TQ2_0, golden_tq1_0 TQ1_0, golden_q5_0 Q5_0, golden_q5_1 Q5_1, golden_q2_k Q2_K,
    golden_q3_k Q3_K, golden_q4_k Q4_K, golden_q5_k Q5_K, golden_q6_k Q6_K, golden_iq4_nl IQ4_NL,
}

/// Formats whose encoders search: judged by their error in codecs.rs, not by their bytes.
const ENCODED_BY_SEARCH: &[Format] =
    &[Format::Q2_K, Format::Q3_K, Format::Q4_K, Format::Q5_K, Format::Q6_K, Format::IQ4_NL];

#[test]
fn every_format_is_tested() {
    for &format in Format::ALL {
        let without = WITHOUT_VECTORS.iter().find(|(f, _)| *f == format);
        assert_eq!(
            WITH_VECTORS.contains(&format),
            file(format).exists(),
            "{format}: its golden file and the list of tests disagree"
        );
        assert!(
            WITH_VECTORS.contains(&format) != without.is_some(),
            "{format}: has golden vectors, or a reason why not, and not both"
        );
        if let Some((_, why)) = without {
            println!("{format} has no golden vectors: {why}");
        }
    }
}

#[test]
fn f32_stores_its_bits() {
    let x: Vec<f32> = (0..=255u32)
        .map(|i| f32::from_bits(i.wrapping_mul(0x0101_0101)))
        .filter(|v| v.is_finite())
        .collect();
    let matrix = Matrix::quantize(Format::F32, 1, x.len(), &x).unwrap();
    let expected: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(matrix.bytes(), expected);
    same_bits("F32", &matrix.dequantize(), &x);
}

/// All 256 bytes decode as the picture says, and those that an encoder can write come back.
#[test]
fn ternary_bytes() {
    for format in [Format::TERNARY, Format::TERNARY_ROW] {
        for byte in 0..=255u8 {
            let w = Matrix::new(format, 1, 4, vec![byte], vec![1.0]).unwrap().dequantize();
            let expected: Vec<f32> = (0..4).map(|i| f32::from(byte >> (2 * i) & 3) - 1.0).collect();
            same_bits(&format!("{format}, byte {byte:#04x}"), &w, &expected);
            if w.iter().all(|v| v.abs() <= 1.0) {
                // Absmean's scale is below 1 where there are zeros: only signs are compared.
                let again = Matrix::quantize(format, 1, 4, &w).unwrap();
                assert_eq!(again.bytes(), [byte], "{format}, byte {byte:#04x} encoded again");
            }
        }
        // Each scale applies to its own row, and rows begin on a byte.
        let weights = [3.0, -3.0, 0.0, 3.0, 3.0, 5.0, -5.0, 5.0, 5.0, -5.0];
        let matrix = Matrix::quantize(format, 2, 5, &weights).unwrap();
        assert_eq!(matrix.bytes().len(), 4);
        let scales: &[f32] = if format == Format::TERNARY { &[3.7] } else { &[2.4, 5.0] };
        assert_eq!(matrix.scales(), scales);
    }
}

/// All 243 codes come back; the 13 other bytes decode by the same rule, to what ggml's TQ1_0 reads there.
#[test]
fn base_3_bytes() {
    for format in [Format::TERNARY_B3, Format::TERNARY_B3_ROW] {
        let mut canonical = 0;
        for byte in 0..=255u8 {
            let matrix = Matrix::new(format, 1, 5, vec![byte], vec![1.0]).unwrap();
            let w = matrix.dequantize();
            let digit = |i: u32| f32::from(((byte.wrapping_mul(3u8.pow(i)) as u16 * 3) >> 8) as u8);
            let expected: Vec<f32> = (0..5).map(|i| digit(i) - 1.0).collect();
            same_bits(&format!("{format}, byte {byte:#04x}"), &w, &expected);
            same_bits("panels", &Panels::pack(&matrix).unwrap().dequantize(), &w);
            let value = w.iter().fold(0, |v, d| 3 * v + (*d + 1.0) as u32);
            let stored = (value * 256).div_ceil(243);
            if stored == u32::from(byte) {
                canonical += 1;
                let again = Matrix::quantize(format, 1, 5, &w).unwrap();
                assert_eq!(again.bytes(), [byte], "{format}, byte {byte:#04x} encoded again");
            }
        }
        assert_eq!(canonical, 243, "{format}: bytes that an encoder writes");
        // A row that ends inside a byte: the padding decodes to nothing and weighs nothing.
        let matrix = Matrix::quantize(format, 2, 7, &[1.0; 14]).unwrap();
        assert_eq!((matrix.bytes().len(), matrix.dequantize()), (4, vec![1.0; 14]));
    }
}

/// The blocks around one code byte: every value at every place decodes to itself, none touches another.
#[test]
fn every_byte_at_every_place() {
    for (format, scale_at, first) in
        [(Format::Q4_0, 0, 2), (Format::Q4_1, 0, 4), (Format::Q8_0, 0, 2), (Format::TQ2_0, 64, 0)]
    {
        let info = format.info();
        let codes = match format {
            Format::TQ2_0 => first..64,
            _ => first..info.bytes,
        };
        for at in codes {
            let mut seen = std::collections::HashSet::new();
            let decode = |byte: u8| {
                let mut block = vec![0; info.bytes];
                block[scale_at..scale_at + 2].copy_from_slice(&0x3c00u16.to_le_bytes());
                block[at] = byte;
                let matrix = Matrix::new(format, 1, info.block, block, Vec::new()).unwrap();
                let w = matrix.dequantize();
                same_bits("panels", &Panels::pack(&matrix).unwrap().dequantize(), &w);
                w
            };
            let zero = decode(0);
            let per_byte =
                if format == Format::Q8_0 { 1 } else { 8 / format.codes().unwrap().bits };
            for byte in 0..=255u8 {
                let w = decode(byte);
                let changed = w.iter().zip(&zero).filter(|(a, b)| a != b).count();
                assert!(
                    changed <= per_byte as usize,
                    "{format}: byte {at} = {byte} changed {changed}"
                );
                assert!(
                    seen.insert(w.iter().map(|v| v.to_bits()).collect::<Vec<_>>()),
                    "{format}: two values of byte {at} decode to the same weights"
                );
            }
        }
    }
}
