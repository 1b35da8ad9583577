//! proptest strategies for weights, activations and blocks of raw bytes, for properties of your own.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::bytes::{make_finite, wrap};
use super::case::{Bytes, Case};
use super::check::{Check, encodable};
use super::shapes::{TOKENS, columns};
use super::values::Values;
use crate::format::Format;
use crate::matrix::Matrix;

/// proptest's settings: `PROPTEST_CASES` if set, else few, because the oracle is slow.
pub fn config(few: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(few);
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// A runner that draws the same cases for every run with a seed.
pub(super) fn seeded(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config(0), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Kinds of finite numbers.
pub fn values() -> impl Strategy<Value = Values> {
    proptest::sample::select(&Values::FINITE[..])
}

/// Cases of a check: random shapes and seeds beside the listed ones.
pub fn cases(check: Check) -> BoxedStrategy<Case> {
    let product = |format: Format, tokens: &'static [usize]| {
        let (cols, n) =
            (proptest::sample::select(columns(format)), proptest::sample::select(tokens));
        (0..130usize, cols, n, values(), any::<u64>())
            .prop_map(|(r, c, n, v, s)| Case::product(Bytes::Random, v, (r, c, n), s))
            .boxed()
    };
    match check {
        Check::Gemv(format) => product(format, &[1]),
        Check::Gemm(format) => product(format, TOKENS),
        Check::Decode(format) => {
            let bytes = proptest::sample::select(&[Bytes::Random, Bytes::Any][..]);
            (bytes, 0..40usize, proptest::sample::select(columns(format)), any::<u64>())
                .prop_map(|(bytes, rows, cols, seed)| Case::packed(bytes, rows, cols, seed))
                .boxed()
        }
        Check::Encode(format) => {
            let kinds: Vec<Values> = encodable(format).collect();
            let cols = proptest::sample::select(columns(format));
            (proptest::sample::select(kinds), 0..6usize, cols, any::<u64>())
                .prop_map(|(values, rows, cols, seed)| Case::numbers(values, rows, cols, seed))
                .boxed()
        }
        Check::QuantizeRow(_) => (values(), 0..700usize, any::<u64>())
            .prop_map(|(values, n, seed)| Case::numbers(values, 1, n, seed))
            .boxed(),
    }
}

/// Blocks of any bytes at all: `[blocks * block bytes]`, with infinite and NaN scales among them.
pub fn blocks(
    format: Format,
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<u8>> {
    let size = format.info().bytes;
    vec(vec(any::<u8>(), size), count).prop_map(|blocks| blocks.concat())
}

/// Matrices of any codes and finite scales, up to `rows` x `blocks` blocks. Shrinking makes them smaller and their bytes
/// zero, so that what stays shows which part of which block matters.
pub fn matrices(
    format: Format,
    rows: usize,
    blocks: usize,
) -> impl Strategy<Value = Matrix<'static>> {
    (0..=rows, 0..=blocks).prop_flat_map(move |(rows, blocks)| {
        let info = format.info();
        vec(any::<u8>(), rows * blocks * info.bytes).prop_map(move |mut bytes| {
            make_finite(format, &mut bytes);
            wrap(format, rows, blocks * info.block, bytes)
        })
    })
}

/// `n` finite weights that every format can hold: zeros and subnormal ones among them, none above 60,000.
pub fn weights(n: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<f32>> {
    vec(finite(60_000.0), n)
}

/// `n` finite activations: zeros and subnormal ones among them, none above 1e25, so that products with any
/// matrix of these strategies are finite.
pub fn activations(
    n: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<f32>> {
    vec(finite(1e25), n)
}

fn finite(largest: f32) -> impl Strategy<Value = f32> {
    use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    let any = POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO;
    prop_oneof![
        3 => -2.0f32..2.0,
        1 => -largest..=largest,
        1 => any.prop_map(move |x| x % largest), // every order of magnitude
    ]
}
