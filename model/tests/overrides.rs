//! Tensors in formats of their own: the same model however it gets them.

mod support;

use std::sync::Arc;

use support::{File, assert_bits, error, expected, fixture, folder, ids, load, path};
use tritlab_kernels::{Error as KernelError, Format, Weights};
use tritlab_model::gguf::{Gguf, Value};
use tritlab_model::imatrix::Imatrix;
use tritlab_model::model::Role;
use tritlab_model::overrides::Overrides;
use tritlab_model::quantize::{Fallback, Recipe, quantize_gguf};
use tritlab_model::rounding::Rounding;
use tritlab_model::{Error, Model, Options};

/// Patterns and formats.
type Rules = &'static [(&'static str, Option<Format>)];

/// Fixtures with plain, fused, normed and scaled ternary matrices, and the overrides for each.
const CASES: [(&str, Rules); 5] = [
    ("llama", &[("blk\\.1\\.ffn_down", Some(Format::Q4_0)), ("attn_[qk]", Some(Format::Q5_1))]),
    ("qwen3", &[("token_embd.weight", Some(Format::Q8_0)), ("ffn", Some(Format::IQ4_NL))]),
    ("phi3-short", &[("BLK.0.attn_qkv", Some(Format::Q8_0)), ("ffn_up", Some(Format::Q4_1))]),
    ("gemma3", &[("blk.0.", None), ("attn_v", Some(Format::Q5_0)), ("embd", Some(Format::F16))]),
    ("bitnet-gguf-tq2_0", &[("attn_output", Some(Format::Q4_K)), ("down", Some(Format::Q8_0))]),
];

fn overrides(rules: &[(&str, Option<Format>)]) -> Overrides {
    Overrides::new(rules.iter().map(|(pattern, format)| ((*pattern).to_owned(), *format)))
}

fn load_with(name: &str, options: Options) -> Model {
    Model::load(path(name), options, &mut |_, _, _| true).unwrap()
}

#[test]
fn a_file_by_a_recipe_is_the_model_loaded_by_it() {
    for (name, rules) in CASES {
        for format in [None, Some(Format::Q8_0)] {
            let what = format!("{name}, {format:?}");
            let temporary = tempfile::tempdir().unwrap();
            let to = temporary.path().join("out.gguf");
            let recipe = Recipe { overrides: overrides(rules), ..Recipe::new(format) };
            quantize_gguf(path(name), &to, &recipe, &mut |_, _, _| true).unwrap();
            let options = Options { format, overrides: overrides(rules), ..Options::default() };
            let direct = load_with(name, options);
            let written = load(&to).unwrap();
            let ids = expected(name).ids;
            assert_bits(&what, &written.logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
            let formats = |m: &Model| m.tensors.iter().map(|t| t.format).collect::<Vec<_>>();
            assert_eq!(formats(&written), formats(&direct), "{what}");
            assert!(direct.tensors.iter().any(|t| t.rel_error > 0.0), "{what}: nothing changed");
        }
    }
}

/// What the file calls itself is the type of most of its linear weights.
#[test]
fn the_file_type_is_that_of_most_weights() {
    let temporary = tempfile::tempdir().unwrap();
    let to = temporary.path().join("out.gguf");
    for (rules, number) in [
        (&[("ffn", Some(Format::Q4_0)), ("attn", Some(Format::Q8_0))], 2),
        (&[("ffn", Some(Format::Q5_1)), ("attn", Some(Format::Q4_0))], 9),
    ] {
        let recipe = Recipe { overrides: overrides(rules), ..Recipe::new(Format::F16) };
        quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true).unwrap();
        let file = Gguf::open(&to).unwrap();
        assert_eq!(file.metadata().get("general.file_type"), Some(Value::U32(number)));
    }
}

#[test]
fn requantising_is_loading_and_shares_the_rest() {
    for (name, rules) in CASES {
        let base = fixture(name);
        let before = base.logits(&expected(name).ids).unwrap();
        let other = base.requantize(&overrides(rules), &mut |_, _, _| true).unwrap();
        let options = Options { overrides: overrides(rules), ..Options::default() };
        let direct = load_with(name, options);
        let ids = expected(name).ids;
        assert_bits(name, &other.logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
        assert_eq!(other.tensors, direct.tensors, "{name}");
        assert_eq!(other.fingerprint(&ids).unwrap(), direct.fingerprint(&ids).unwrap());
        // A second time, on top: those overrides go first, and the others stay.
        let first = match name {
            "bitnet-gguf-tq2_0" => Format::Q6_K,
            _ => Format::Q8_0,
        };
        let down = [("blk.0.ffn_down.weight", Some(first))];
        let twice = other.requantize(&overrides(&down), &mut |_, _, _| true).unwrap();
        let both = overrides(&down).before(&overrides(rules));
        let direct = load_with(name, Options { overrides: both, ..Options::default() });
        assert_bits(name, &twice.logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
        let (a, b) = (&other.decoder.layers, &twice.decoder.layers);
        assert!(Arc::ptr_eq(&a[1].down.weight, &b[1].down.weight), "{name}: shared");
        assert!(Arc::ptr_eq(&a[0].q.weight, &b[0].q.weight), "{name}: shared");
        assert!(!Arc::ptr_eq(&a[0].down.weight, &b[0].down.weight), "{name}: another");
        // Back again, and the first is as it was.
        let all = base.tensors.iter().filter(|t| t.role != Role::Norm);
        let keep = Overrides::new(all.map(|t| (t.gguf_name.clone(), None::<Format>)));
        let back = twice.requantize(&keep, &mut |_, _, _| true).unwrap();
        assert_bits(name, &back.logits(&ids).unwrap(), &before);
        assert_bits(name, &base.logits(&ids).unwrap(), &before);
    }
}

/// A tensor by a projection is that tensor of a model that is projected as a whole, in memory and in a file.
#[test]
fn a_projection_of_one_tensor() {
    let rounding: Rounding = "TERNARY_ROW+optimal".parse().unwrap();
    let name = "blk.0.ffn_down.weight";
    let rules = Overrides::new([(name.to_owned(), Some(rounding))]);
    let Rounding { format, projection } = rounding;
    let whole = Options { format: Some(format), projection, ..Options::default() };
    let whole = load_with("llama", whole);
    let base = fixture("llama");
    let one = base.requantize(&rules, &mut |_, _, _| true).unwrap();
    let at = one.tensors.iter().position(|t| t.gguf_name == name).unwrap();
    assert_eq!(one.tensors[at], whole.tensors[at]);
    let decoded = |m: &Model| m.matrix(name).unwrap().dequantize();
    assert_bits(name, &decoded(&one), &decoded(&whole));
    let own_rule = Overrides::new([(name.to_owned(), Some(format))]);
    let own = base.requantize(&own_rule, &mut |_, _, _| true).unwrap();
    assert_ne!(own.tensors[at].rel_error, one.tensors[at].rel_error, "another rule");
    for (i, tensor) in one.tensors.iter().enumerate().filter(|(i, _)| *i != at) {
        assert_eq!(*tensor, base.tensors[i], "no other changes");
    }

    // In a file, as a type that GGUF has; F32 holds a projection exactly.
    let rounding: Rounding = "F32+twn".parse().unwrap();
    let rules = Overrides::new([(name.to_owned(), Some(rounding))]);
    let temporary = tempfile::tempdir().unwrap();
    let to = temporary.path().join("out.gguf");
    let recipe = Recipe { overrides: rules.clone(), ..Recipe::new(None) };
    quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true).unwrap();
    let direct = base.requantize(&rules, &mut |_, _, _| true).unwrap();
    assert!(direct.tensors[at].rel_error > 0.1, "it was made ternary");
    assert_bits(name, &decoded(&load(&to).unwrap()), &decoded(&direct));

    // An importance matrix would have no say.
    let imatrix = Imatrix::collect(&base, &ids(40, 100), 40, "text", &mut |_, _| true).unwrap();
    let options = Options { overrides: rules.clone(), ..Options::default() };
    let mut go = |_: usize, _: usize, _: &str| true;
    let refused = Model::load_weighted(path("llama"), options, Some(&imatrix), &mut go);
    assert!(matches!(refused.unwrap_err().cause(), Error::TwoRules));
    let options = Options::default();
    let plain = Model::load_weighted(path("llama"), options, Some(&imatrix), &mut go).unwrap();
    assert!(matches!(plain.requantize(&rules, &mut go).unwrap_err().cause(), Error::TwoRules));
}

/// Of a folder too, by GGUF's names; the biases, scales and norms of a layer come along.
#[test]
fn folders_go_by_the_names_of_their_files() {
    for name in ["llama", "phi3-long", "bitnet-packed-divide"] {
        let rules = overrides(&[("blk.1.*ffn_down", Some(Format::Q8_0))]);
        let base = load(folder(name)).unwrap();
        let ids = ids(24, base.config().vocab as u32);
        let other = base.requantize(&rules, &mut |_, _, _| true).unwrap();
        let options = Options { overrides: rules, ..Options::default() };
        let direct = Model::load(folder(name), options, &mut |_, _, _| true).unwrap();
        assert_bits(name, &other.logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
        let of = |m: &Model| m.tensors.iter().filter(|t| t.format == "Q8_0").count();
        assert_eq!((of(&base), of(&other)), (0, 1), "{name}");
    }
    // A bias and an input norm, which are read again.
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("extra.gguf");
    File::of("llama")
        .with("blk.0.ffn_down.bias", &[96], &[0.5; 96])
        .with("blk.0.attn_q.scale", &[1], &[2.0])
        .with("blk.0.attn_q_norm_in.weight", &[96], &[2.0; 96])
        .write(&file);
    let rules = overrides(&[("blk.1", Some(Format::Q4_0))]);
    let base = load(&file).unwrap();
    let other = base.requantize(&rules, &mut |_, _, _| true).unwrap();
    let direct =
        Model::load(&file, Options { overrides: rules, ..Options::default() }, &mut |_, _, _| true);
    let direct = direct.unwrap();
    let ids = ids(24, 128);
    assert_bits("extra", &other.logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
    assert_eq!(other.tensors, direct.tensors);
}

#[test]
fn a_fallback_is_the_same_when_loading_and_when_writing() {
    let temporary = tempfile::tempdir().unwrap();
    let to = temporary.path().join("out.gguf");
    let fallback = Fallback::LlamaCpp;
    let recipe = Recipe { fallback, ..Recipe::new(Format::Q6_K) };
    quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true).unwrap();
    let direct =
        load_with("llama", Options { format: Some(Format::Q6_K), fallback, ..Options::default() });
    assert!(direct.tensors.iter().all(|t| t.role != Role::Linear || t.format == "Q8_0"));
    let ids = expected("llama").ids;
    assert_bits("Q6_K", &load(&to).unwrap().logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
}

#[test]
fn overrides_that_cannot_be_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let to = temporary.path().join("out.gguf");
    let base = fixture("llama");
    // Norms are no matrices; a layer that is not there; no regular expression.
    for pattern in ["attn_norm", "blk.7.ffn_down.weight", "blk.("] {
        let rules = overrides(&[(pattern, Some(Format::Q8_0))]);
        let options = Options { overrides: rules.clone(), ..Options::default() };
        let recipe = Recipe { overrides: rules.clone(), ..Recipe::new(None) };
        for e in [
            error(Model::load(path("llama"), options, &mut |_, _, _| true)),
            error(base.requantize(&rules, &mut |_, _, _| true)),
            error(quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true)),
        ] {
            assert!(matches!(&e, Error::Override { pattern: p, .. } if p == pattern), "{e}");
        }
    }
    // A format that the rows do not fit names the tensor; one that GGUF cannot hold is refused.
    let misfit = overrides(&[("blk.1.attn_q", Some(Format::Q4_K))]);
    match error(base.requantize(&misfit, &mut |_, _, _| true)) {
        Error::Tensor { tensor, source: KernelError::Columns { .. } } => {
            assert_eq!(tensor, "blk.1.attn_q.weight");
        }
        e => panic!("{e}"),
    }
    let ternary = overrides(&[("blk.1.attn_q", Some(Format::TERNARY))]);
    base.requantize(&ternary, &mut |_, _, _| true).unwrap();
    let recipe = Recipe { overrides: ternary, ..Recipe::new(None) };
    let e = error(quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true));
    assert!(matches!(e, Error::NotInGguf { .. }), "{e}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    // And one that is stopped leaves the model as it was.
    let stop = base.requantize(&misfit, &mut |_, _, _| false);
    assert!(matches!(error(stop), Error::Cancelled));
}
