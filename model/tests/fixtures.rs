//! Every family against logits of an independent f64 implementation.

mod support;

use support::{Expected, FIXTURES, FOLDERS, expected, fixture, folder, load};
use tritlab_model::Model;
use tritlab_model::sample::Sampling;

/// The promise for f32: rounding of the sums, on the scale of the largest logit.
fn bound(logits: &[f32]) -> f32 {
    5e-6 * logits.iter().fold(0.0f32, |m, x| m.max(x.abs())) + 1e-5
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

fn greedy(model: &Model, expected: &Expected) {
    let Some(ids) = &expected.greedy else { return };
    let context = expected.ids.len() + ids.len();
    let sampling = Sampling::default();
    let got = model
        .generate_ids(&expected.ids, ids.len(), sampling, context, &[], &mut |_| true)
        .unwrap();
    assert_eq!(got, *ids, "greedy tokens");
}

fn check(name: &str) {
    check_model(name, &fixture(name));
}

fn check_folder(name: &str) {
    check_model(name, &load(folder(name)).unwrap());
}

fn check_model(name: &str, model: &Model) {
    let expected = expected(name);
    let logits = model.logits(&expected.ids).unwrap();
    let (found, bound) = (difference(&logits, &expected.logits), bound(&expected.logits));
    println!("{name}: largest difference {found:e}, bound {bound:e}");
    assert!(found <= bound, "{name}: logits differ by {found:e}, more than {bound:e}");
    greedy(model, &expected);
}

#[test]
fn llama() {
    check("llama");
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn phi3_short() {
    check("phi3-short");
}

#[test]
fn phi3_long() {
    assert_eq!(expected("phi3-long").ids.len(), 90);
    check("phi3-long");
}

#[test]
fn gemma3() {
    check("gemma3");
}

#[test]
fn bitnet() {
    check("bitnet-gguf-tq2_0");
}

#[test]
fn bitnet_in_base_3() {
    check("bitnet-gguf-tq1_0");
}

#[test]
fn folders() {
    for name in FOLDERS {
        check_folder(name);
    }
}

/// Nothing above is skipped by a fixture that is not there.
#[test]
fn every_fixture_is_complete() {
    for name in FIXTURES.into_iter().chain(FOLDERS) {
        let expected = expected(name);
        assert_eq!(expected.logits.len(), expected.ids.len() * 128, "{name}");
        assert_eq!(expected.greedy.is_none(), name == "phi3-long", "{name}");
    }
}
