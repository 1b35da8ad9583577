//! [`super::product`] on look-ups in software.

use super::*;
use crate::format::{DenseFormat, Format, Visit, for_each};
use crate::isa::portable::Portable;
use crate::matrix::Matrix;
use crate::oracle;

/// Look-ups in plain Rust: what surrounds the hardware's own is tested on every machine.
#[derive(Clone, Copy)]
struct Software;

impl Lookup for Software {
    type Vectors = Portable;
    type Lanes = [i16; 32];

    fn new() -> Option<Self> {
        Some(Software)
    }
    fn vectors(self) -> Portable {
        Portable::new().expect("runs everywhere")
    }
    fn load(self, x: &Words) -> [i16; 32] {
        x.0
    }
    fn store(self, x: [i16; 32], to: &mut Words) {
        to.0 = x;
    }
    fn splat(self, x: i16) -> [i16; 32] {
        [x; 32]
    }
    fn add(self, a: [i16; 32], b: [i16; 32]) -> [i16; 32] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    fn pairs(self, weights: &[u8; 64], a: [i8; 2]) -> [i16; 32] {
        let product = |i: usize| i16::from(weights[i]) * i16::from(a[i % 2]);
        std::array::from_fn(|i| product(2 * i) + product(2 * i + 1))
    }
    fn look(self, table: [i16; 32], index: [i16; 32]) -> [i16; 32] {
        index.map(|i| table[usize::from(i as u16) % 32])
    }
    fn next(self, index: [i16; 32]) -> [i16; 32] {
        index.map(|i| (i as u16 >> 5) as i16)
    }
    fn pin(self, x: [i16; 32]) -> [i16; 32] {
        x
    }
    fn pair(self, low: [i32; 16], high: [i32; 16]) -> [i16; 32] {
        std::array::from_fn(|i| if i % 2 == 0 { low[i / 2] } else { high[i / 2] } as i16)
    }
    fn even(self, sum: [i32; 16], x: [i16; 32]) -> [i32; 16] {
        std::array::from_fn(|i| sum[i] + i32::from(x[2 * i]))
    }
    fn odd(self, sum: [i32; 16], x: [i16; 32]) -> [i32; 16] {
        std::array::from_fn(|i| sum[i] + i32::from(x[2 * i + 1]))
    }
    fn sums(self, x: &[i32; 16]) -> [i32; 16] {
        *x
    }
    fn keep(self, x: [i32; 16], to: &mut [i32; 16]) {
        *to = x;
    }
}

struct EveryFormat(Vec<Format>);

impl EveryFormat {
    fn check<C: CodedFormat>(&mut self) {
        if has(&C::INFO, &C::CODES) {
            equals_oracle::<C>();
            self.0.push(C::FORMAT);
        }
        if C::FORMAT == Format::TERNARY {
            leaves_a_weight_of_two::<C>();
        }
    }
}

impl Visit for EveryFormat {
    fn dense<C: DenseFormat>(&mut self) {}
    fn coded<C: CodedFormat>(&mut self) {
        self.check::<C>();
    }
    fn base3<C: CodedFormat>(&mut self) {
        self.check::<C>();
    }
}

/// In turns of one block and of all, tiles of every size, and the largest sums that a stretch can have.
fn equals_oracle<C: CodedFormat>() {
    let paint = |i: usize| ((i * 37 % 251) as f32 - 125.0) / 64.0;
    let any = C::INFO.scales != Scales::Block;
    let (rows, cols) = (260, if any { 603 } else { 2 * C::INFO.block });
    for paint in [&paint as &dyn Fn(usize) -> f32, &|_| 1.0, &|i| (i % 2) as f32 * 2.0 - 1.0] {
        let weights: Vec<f32> = (0..rows * cols).map(paint).collect();
        let matrix = Matrix::quantize(C::FORMAT, rows, cols, &weights).unwrap();
        let panels = Panels::pack(&matrix).unwrap();
        for (n, band) in [(1, 0), (2, 0), (2 * TOKENS - 1, 0), (TOKENS + 2, BAND)] {
            let x: Vec<f32> = (0..(n + 1) * cols).map(|i| paint(i * 3 + 1)).collect();
            let grouping = C::INFO.activation;
            let acts =
                Acts::quantize_with(grouping, &x, n + 1, cols, oracle::quantize_row).unwrap();
            let mut got = vec![f32::NAN; n * rows];
            assert!(run::<Software, C>(Software, &panels, &acts, 1, band, &mut got));
            for (i, got) in got.iter().enumerate() {
                let expected = oracle::dot(&panels, i % rows, &acts, 1 + i / rows);
                let name = C::FORMAT;
                assert_eq!(got.to_bits(), expected.to_bits(), "{name}: {i} of {n} x {rows}");
            }
        }
    }
}

#[test]
fn looking_up_in_software_equals_the_oracle() {
    let mut seen = EveryFormat(Vec::new());
    for_each(&mut seen);
    let expected = ["TQ2_0", "TERNARY", "TERNARY_ROW", "TERNARY_G256", "TQ1_0", "TERNARY_B3"];
    let names: Vec<_> = seen.0.iter().map(|f| f.name()).collect();
    assert!(expected.iter().all(|e| names.contains(e)) && names.len() == 9, "{names:?}");
}

/// Two bits can say 2, which no table has.
fn leaves_a_weight_of_two<C: CodedFormat>() {
    let mut bytes = vec![0b0101_0101; 64 * 2];
    for two in [false, true] {
        let matrix = Matrix::new(C::FORMAT, 2, 256, bytes.clone(), vec![1.0]).unwrap();
        let panels = Panels::pack(&matrix).unwrap();
        let acts = Acts::quantize(Grouping::Token, &[1.0; 256], 1, 256).unwrap();
        let mut out = [f32::NAN; 2];
        assert_ne!(run::<Software, C>(Software, &panels, &acts, 0, BAND, &mut out), two);
        assert_eq!(out == [0.0; 2], !two);
        bytes[77] = 0b0101_1101;
    }
}
