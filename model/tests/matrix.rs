//! A model's matrices one by one, and its weights without the rounding of activations.

mod support;

use support::{assert_bits, expected, fixture, path};
use tritlab_kernels::{Format, Weights};
use tritlab_model::model::Role;
use tritlab_model::{Error, Model, Options};

const NAMES: [&str; 5] = ["llama", "qwen3", "phi3-short", "gemma3", "bitnet-gguf-tq2_0"];

fn load_with(name: &str, options: Options) -> Model {
    Model::load(path(name), options, &mut |_, _, _| true).unwrap()
}

/// What a model multiplies with is what it gives out: every matrix, fused ones in their parts.
#[test]
fn each_matrix_is_the_one_in_the_panels() {
    for name in NAMES {
        for format in [None, Some(Format::Q4_0)] {
            let model = load_with(name, Options { format, ..Options::default() });
            for report in model.tensors.iter().filter(|t| t.role != Role::Norm) {
                let m = model.matrix(&report.name).unwrap();
                let what = format!("{name}, {}", report.name);
                assert_eq!(m.format().name(), report.format, "{what}");
                assert_eq!([m.rows(), m.cols()], report.shape[..], "{what}");
                assert_eq!(m.nbytes(), report.nbytes, "{what}");
            }
            let d = &model.decoder;
            let embedding = &model.tensors.iter().find(|t| t.role == Role::Embedding).unwrap().name;
            let m = model.matrix(embedding).unwrap();
            assert_bits(name, &m.dequantize(), &d.embedding.weight.dequantize());
            let of = |kind: &str| {
                let wanted = |t: &&tritlab_model::model::TensorReport| {
                    t.role == Role::Linear && t.gguf_name.contains(kind)
                };
                let found: Vec<_> = model.tensors.iter().filter(wanted).collect();
                found.iter().map(|t| model.matrix(&t.name).unwrap()).collect::<Vec<_>>()
            };
            for (layer, (down, out)) in
                d.layers.iter().zip(of("ffn_down").iter().zip(of("attn_output")))
            {
                assert_bits(name, &down.dequantize(), &layer.down.weight.dequantize());
                assert_bits(name, &out.dequantize(), &layer.o.weight.dequantize());
            }
            // Query rows come in the order in which the decoder rotates them.
            let q = match name {
                "phi3-short" => "attn_qkv",
                _ => "attn_q.",
            };
            assert_bits(name, &of(q)[0].dequantize(), &d.layers[0].q.weight.dequantize());
        }
    }
}

#[test]
fn a_matrix_that_is_none_is_named() {
    let model = fixture("llama");
    for name in ["blk.9.ffn_up.weight", "output_norm.weight", "blk.0.ffn_up"] {
        let error = model.matrix(name).unwrap_err();
        assert!(error.to_string().contains(&format!("the tensor `{name}` is missing")), "{error}");
    }
}

/// With f32 activations a rounded model is the model of the decoded weights, and reports stay those of the
/// rounded ones.
#[test]
fn f32_activations_are_those_of_decoded_weights() {
    for name in NAMES {
        for format in [None, Some(Format::Q4_0), Some(Format::TERNARY), Some(Format::SIGN_ROW)] {
            let what = format!("{name}, {format:?}");
            let int8 = load_with(name, Options { format, ..Options::default() });
            let f32s =
                load_with(name, Options { format, f32_activations: true, ..Options::default() });
            assert_eq!(f32s.tensors, int8.tensors, "{what}");
            let ids = expected(name).ids;
            for (a, b) in int8.decoder.layers.iter().zip(&f32s.decoder.layers) {
                for (a, b) in [(&a.q, &b.q), (&a.v, &b.v), (&a.up, &b.up), (&a.down, &b.down)] {
                    assert!(b.format().codes().is_none(), "{what}");
                    assert_bits(&what, &a.weight.dequantize(), &b.weight.dequantize());
                }
            }
            let same = f32s.logits(&ids).unwrap() == int8.logits(&ids).unwrap();
            let coded = int8.decoder.layers[0].q.format().codes().is_some();
            assert_eq!(same, !coded, "{what}: int8 activations leave their mark");
            // And one that changes some tensors later keeps doing so.
            let all = tritlab_model::overrides::Overrides::new([(
                "ffn_down".to_owned(),
                Some(Format::Q8_0),
            )]);
            let again = f32s.requantize(&all, &mut |_, _, _| true).unwrap();
            assert_eq!(again.decoder.layers[0].down.format(), Format::F32, "{what}");
            assert!(again.tensors.iter().any(|t| t.format == "Q8_0"), "{what}");
        }
    }
}

#[test]
fn errors_of_a_source_still_name_it() {
    let model = fixture("llama");
    assert!(matches!(model.matrix("nothing").unwrap_err().cause(), Error::MissingTensor { .. }));
}
