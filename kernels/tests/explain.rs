//! Explanations say what `decode` does: fields against flipped bits, weights and formulas against the
//! dequantised matrix, for every format in the list.

mod support {
    pub mod inputs;
}

use support::inputs::{Random, assert_bits, raw_matrix};
use tritlab_kernels::explain::{Bit, Number, Values};
use tritlab_kernels::format::{Holds, Plain};
use tritlab_kernels::{Error, Format, Matrix, Scales, Weights, explain};

fn coded() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|f| f.codes().is_some())
}

fn decode(format: Format, bytes: &[u8]) -> Plain {
    let mut out = Plain::new();
    (format.codes().unwrap().decode)(bytes, &mut out);
    out
}

/// Blocks that reach every kind of number: zeros, ones, and random bytes.
fn blocks(format: Format, n: usize) -> Vec<Vec<u8>> {
    let mut random = Random(format as u64 + 7);
    let bytes = format.info().bytes;
    let mut out = vec![vec![0; bytes], vec![0xff; bytes]];
    out.extend((0..n).map(|_| random.bytes(bytes)));
    out
}

#[test]
fn fields_cover_every_byte_once() {
    for &format in Format::ALL {
        let info = format.info();
        let mut owners = vec![0; info.bytes];
        for field in info.fields {
            field.range().for_each(|byte| owners[byte] += 1);
            assert!(!field.name.is_empty() && !field.about.is_empty(), "{format}");
        }
        assert!(owners.iter().all(|n| *n == 1), "{format}: {owners:?}");
        let mut names: Vec<_> = info.fields.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), info.fields.len(), "{format}: two fields of one name");
    }
}

/// Flipping any bit of a field changes what the field is said to hold, and nothing else.
#[test]
fn a_flipped_bit_changes_what_its_field_holds() {
    for format in coded() {
        let (info, codes) = (format.info(), format.codes().unwrap());
        for mut block in blocks(format, 4) {
            let before = decode(format, &block);
            for field in info.fields {
                for bit in field.range().flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
                    block[bit.0] ^= 1 << bit.1;
                    let after = decode(format, &block);
                    block[bit.0] ^= 1 << bit.1;
                    let changed = [
                        before.q != after.q,
                        (before.sub, before.sub_min) != (after.sub, after.sub_min),
                        before.d.to_bits() != after.d.to_bits(),
                        before.m.to_bits() != after.m.to_bits(),
                    ];
                    let expected = match field.holds {
                        // The last bits of a fraction in base 3 may not reach a digit.
                        Holds::Codes if codes.base3 => [changed[0], false, false, false],
                        Holds::Codes | Holds::HighBits => [true, false, false, false],
                        Holds::SubScales => [false, true, false, false],
                        // A NaN is made quiet, with that bit set or not.
                        Holds::Scale => [false, false, changed[2] || !before.d.is_nan(), false],
                        Holds::Min | Holds::Lowest => {
                            [false, false, false, changed[3] || !before.m.is_nan()]
                        }
                        Holds::Element => panic!("{format} is coded"),
                    };
                    assert_eq!(changed, expected, "{format}, {}, byte and bit {bit:?}", field.name);
                }
            }
        }
    }
}

/// What the bits say as a binary number, the most significant first.
fn value(bits: &[Bit], bytes: &[u8]) -> i32 {
    bits.iter().fold(0, |value, bit| 2 * value + i32::from(bit.of(bytes)))
}

/// The measured bits are all bits of their fields, each once, and in their order they make the numbers.
#[test]
fn bits_make_the_numbers() {
    for format in coded() {
        let (info, codes) = (format.info(), format.codes().unwrap());
        for block in blocks(format, 20) {
            let explained = explain(format, &block, None).unwrap();
            let plain = explained.plain().unwrap();
            let mut all = Vec::new();
            for i in 0..info.block {
                let bits = explained.bits(Number::Code(i));
                all.extend_from_slice(bits);
                if codes.base3 {
                    let mut of_byte: Vec<_> = bits.iter().map(|b| b.byte).collect();
                    of_byte.dedup();
                    assert_eq!((bits.len(), of_byte.len()), (8, 1), "{format} {i}: one byte");
                    continue;
                }
                let v = value(bits, &block);
                let q = match (&codes.table, codes.bits) {
                    (Some(table), _) => i32::from(table[v as usize]),
                    (None, 1) => 2 * v - 1,
                    (None, 8) => i32::from(v as u8 as i8),
                    (None, _) => v - codes.zero,
                };
                assert_eq!(bits.len(), codes.bits as usize, "{format} {i}");
                assert_eq!(q, i32::from(plain.q[i]), "{format}: code {i} from {bits:?}");
            }
            for k in 0..codes.sub_len.map_or(0, |n| info.block / n) {
                let bits = explained.bits(Number::Sub(k));
                let v = value(bits, &block);
                let scale = match format {
                    Format::Q3_K => v - 32,
                    Format::Q6_K => i32::from(v as u8 as i8),
                    _ => v,
                };
                assert_eq!(scale, i32::from(plain.sub[k]), "{format}: scale {k} from {bits:?}");
                all.extend_from_slice(bits);
                let bits = explained.bits(Number::SubMin(k));
                if !bits.is_empty() {
                    assert_eq!(value(bits, &block), i32::from(plain.sub_min[k]), "{format} {k}");
                }
                all.extend_from_slice(bits);
            }
            for number in [Number::Scale, Number::Min] {
                let bits = explained.bits(number);
                assert!(matches!(bits.len(), 0 | 16), "{format} {number:?}");
                all.extend_from_slice(bits);
            }
            all.sort_unstable();
            if codes.base3 {
                all.dedup();
            }
            let every = (0..info.bytes).flat_map(|byte| (0..8).map(move |bit| Bit { byte, bit }));
            assert!(all.into_iter().eq(every), "{format}: every bit is in one number");
        }
    }
}

/// A small reader of the formulas: numbers, `·`, `+`, `−` and brackets, in f32.
fn evaluate(text: &str) -> f32 {
    fn sum<'a>(tokens: &mut impl Iterator<Item = &'a str>) -> f32 {
        let (mut total, mut sign, mut product) = (None, 1.0, None);
        let mut add = |sign: f32, product: f32| {
            total = Some(match total {
                None => product,
                Some(t) if sign > 0.0 => t + product,
                Some(t) => t - product,
            });
            total.unwrap()
        };
        let mut result = f32::NAN;
        while let Some(token) = tokens.next() {
            let factor = match token {
                ")" => break,
                "·" => continue,
                "+" | "−" => {
                    add(sign, product.take().unwrap());
                    sign = if token == "+" { 1.0 } else { -1.0 };
                    continue;
                }
                "(" => sum(tokens),
                number => number.replace('−', "-").parse().unwrap(),
            };
            product = Some(product.map_or(factor, |p: f32| p * factor));
        }
        if let Some(product) = product {
            result = add(sign, product);
        }
        result
    }
    sum(&mut text.replace('(', "( ").replace(')', " )").split_whitespace())
}

#[test]
fn the_reader_of_formulas_reads() {
    assert_eq!(evaluate("(2 · (−3)) · 0.5 − 1e−1 · 5 + (−4)"), -7.5);
}

/// Weights are those of the matrix, and every line of a formula comes to the weight.
#[test]
fn weights_and_formulas() {
    for &format in Format::ALL {
        let info = format.info();
        // The second block of a row whose scale is outside is mostly padding.
        let cols = if info.scales == Scales::Block { 2 * info.block } else { info.block + 1 };
        let mut random = Random(11);
        let f16 = [0x2e66, 0xb155, 0x3c00, 0x0001, 0x8000, 0x7bff, 0x83ff];
        let mut next = 0;
        let scale = |_| {
            next += 1;
            f16[next % 7]
        };
        let matrix = raw_matrix(format, 9, cols, |_| random.next() as u8, scale);
        let expected = matrix.dequantize();
        for (row, expected) in expected.chunks(cols).enumerate() {
            let mut got = Vec::new();
            for block in 0..cols.div_ceil(info.block) {
                let explained = matrix.explain(row, block).unwrap();
                let weights = explained.weights();
                for (i, w) in weights.iter().enumerate() {
                    let trace = explained.trace(i).unwrap();
                    let what = format!("{format}, {row}, {block}, {i}: {:?}", trace.steps);
                    assert_bits(&what, &[trace.weight], &[*w]);
                    let steps = &trace.steps[if format.codes().is_some() { 1 } else { 2 }..];
                    assert!(!steps.is_empty(), "{what}");
                    for step in steps {
                        let value = evaluate(step);
                        assert!(value == *w || (value.is_nan() && w.is_nan()), "{what}: {value}");
                    }
                }
                got.extend(weights);
            }
            assert_bits(&format!("{format}, row {row}"), &got, expected);
        }
    }
}

/// Without the scale outside a block, weights are in units of it.
#[test]
fn unknown_scales_are_symbols() {
    for (format, symbol) in [(Format::TERNARY, "alpha"), (Format::SIGN_ROW, "beta")] {
        let explained = explain(format, &[0b1000_0110], None).unwrap();
        assert!(explained.weights().iter().all(|w| w.abs() <= 1.0), "{format}");
        let trace = explained.trace(1).unwrap();
        assert_eq!(trace.steps[0], format!("{symbol} · q[1]"));
        assert!(trace.steps.last().unwrap().ends_with(&format!(" · {symbol}")), "{format}");
        assert!(explained.to_string().contains(&format!("in units of {symbol}")), "{format}");
        let known = explain(format, &[0b1000_0110], Some(0.5)).unwrap();
        let half: Vec<f32> = explained.weights().iter().map(|w| w * 0.5).collect();
        assert_bits("with a scale", &known.weights(), &half);
        assert!(known.to_string().contains(&format!("{symbol} = 0.5")), "{format}");
    }
}

/// Values of fields: floats as stored, scales, and codes where all their bits are there.
#[test]
fn values_of_fields() {
    let x: Vec<f32> = (0..256).map(|i| ((i * 37 % 251) as f32 - 125.0) / 62.5).collect();
    for format in coded() {
        let matrix = Matrix::quantize(format, 1, 256, &x).unwrap();
        let explained = matrix.explain(0, 0).unwrap();
        let plain = explained.plain().unwrap().clone();
        let mut codes = vec![0; format.info().block];
        let mut whole = Vec::new();
        let parts = explained.fields().iter().filter(|f| f.holds == Holds::HighBits).count();
        for field in explained.fields() {
            let values = explained.values(field);
            match (field.holds, &values[0].1) {
                (Holds::Scale, Values::Float(d)) => assert_bits("d", d, &[plain.d]),
                (Holds::Min, Values::Float(m)) => assert_bits("dmin", m, &[plain.m]),
                (Holds::Lowest, Values::Float(m)) => assert_bits("m", m, &[-plain.m]),
                (Holds::SubScales, Values::Int(sub)) => {
                    assert!(
                        sub.iter().copied().eq(plain.sub[..sub.len()].iter().map(|v| (*v).into()))
                    );
                    assert_eq!(values.len(), 1 + usize::from(format.codes().unwrap().min));
                }
                (Holds::Codes, Values::Int(q)) if parts == 0 => whole.extend_from_slice(q),
                (Holds::Codes, Values::Int(low)) => {
                    codes.iter_mut().zip(low).for_each(|(c, v)| *c += v);
                }
                (Holds::HighBits, Values::Int(high)) => {
                    let low =
                        format.codes().unwrap().bits - if format == Format::Q6_K { 2 } else { 1 };
                    codes.iter_mut().zip(high).for_each(|(c, v)| *c += v << low);
                }
                other => panic!("{format}: {other:?}"),
            }
        }
        if parts > 0 {
            whole = codes.iter().map(|c| c - format.codes().unwrap().zero).collect();
        }
        let q: Vec<i32> = plain.q[..format.info().block].iter().map(|q| i32::from(*q)).collect();
        assert_eq!(whole, q, "{format}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let length = |what, expected, got| Error::Length { what, expected, got };
    for &format in Format::ALL {
        let bytes = format.info().bytes;
        for got in [0, bytes - 1, bytes + 1, 2 * bytes] {
            let error = explain(format, &vec![0; got], None).unwrap_err();
            assert_eq!(error, length("bytes of one block", bytes, got), "{format}");
        }
        let outside = matches!(format.info().scales, Scales::Row | Scales::Tensor);
        let block = vec![0; bytes];
        match explain(format, &block, Some(1.0)) {
            Ok(_) => assert!(outside, "{format}"),
            Err(e) => assert_eq!((e, outside), (length("scales outside the block", 0, 1), false)),
        }
        if outside {
            let error = explain(format, &block, Some(f32::NAN)).unwrap_err();
            assert!(matches!(error, Error::NotFinite { .. }), "{format}: {error}");
        }
        let explained = explain(format, &block, None).unwrap();
        let len = format.info().block;
        let error = explained.trace(len).unwrap_err();
        assert_eq!(error, Error::OutOfRange { what: "weight", index: len, len });
    }
    let matrix = Matrix::quantize(Format::TERNARY, 2, 6, &[1.0; 12]).unwrap();
    for (row, block, what, index) in [(2, 0, "row", 2), (0, 2, "block", 2), (9, 9, "row", 9)] {
        let error = matrix.explain(row, block).unwrap_err();
        assert_eq!(error, Error::OutOfRange { what, index, len: 2 });
    }
    let last = matrix.explain(1, 1).unwrap();
    assert_eq!(last.weights(), [1.0, 1.0]);
    assert_eq!(last.trace(2).unwrap_err(), Error::OutOfRange { what: "weight", index: 2, len: 2 });
    assert!(last.to_string().contains("the last 2 pad the row"));
}

/// Whatever the bytes are, the text fits a terminal and the HTML is one closed element that needs nothing
/// from elsewhere.
#[test]
fn drawings() {
    for &format in Format::ALL {
        for block in blocks(format, 6) {
            let explained = explain(format, &block, None).unwrap();
            let text = explained.to_string();
            let long = text.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{format}");
            let html = explained.to_html();
            for tag in ["div", "table", "tbody", "thead", "tr", "td", "th", "details", "p", "span"]
            {
                let open = html.matches(&format!("<{tag}>")).count()
                    + html.matches(&format!("<{tag} ")).count();
                assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{format}: {tag}");
            }
            assert!(html.starts_with("<div") && html.ends_with("</div>"), "{format}");
            assert!(!html.contains("http") && !html.contains("<script"), "{format}");
            for field in explained.fields() {
                assert!(text.contains(field.name) && html.contains(field.name), "{format}");
            }
            let cells = html.matches("<td class=\"b\"").count();
            assert_eq!(cells, block.len(), "{format}: a cell for every byte");
        }
    }
}

/// Q4_K's picture of its own scales, the hardest to get right by hand.
#[test]
fn places_are_found() {
    let explained = explain(Format::Q4_K, &[0; 144], None).unwrap();
    let places: Vec<_> =
        explained.places().into_iter().map(|(byte, names)| (byte, names.join(" | "))).collect();
    let expected = [
        (4, "scale[4].5-4 | scale[0].5-0"),
        (8, "min[4].5-4 | min[0].5-0"),
        (12, "min[4].3-0 | scale[4].3-0"),
        (16, "q[32].3-0 | q[0].3-0"),
    ];
    assert!(places.iter().map(|(b, n)| (*b, n.as_str())).eq(expected), "{places:?}");
}
