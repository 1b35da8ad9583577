//! What a reader could pass over, and then run another model: keys and tensors that contradict each other, names that
//! are misspelt, tables of two tokenizers. Each is refused by its name, in files and in folders.

mod support;

use serde_json::{Value as Json, json};
use support::edit::Edit;
use support::{File, assert_key, folder, load, tokenizer_json, whole_error};
use tritlab_kernels::Format;
use tritlab_model::gguf::{Array, Gguf, Value};
use tritlab_model::imatrix::{Imatrix, Sums};
use tritlab_model::quantize::{Recipe, quantize_gguf};
use tritlab_model::rope::Scaling;
use tritlab_model::tokenizer::Tokenizer;
use tritlab_model::{Config, Error, Model, Options};

// ---- folders ----

fn quantization(fixture: &str, change: impl FnOnce(&mut Json)) -> Edit {
    let mut edit = Edit::of(fixture);
    change(&mut edit.config["quantization_config"]);
    edit
}

/// Offline means codes; masters that are taken for weights are another model.
#[test]
fn masters_where_codes_are_promised() {
    let key = "quantization_config.quantization_mode";
    let first = "model.layers.0.self_attn.q_proj.weight";
    for mode in [json!("offline"), Json::Null] {
        let edit = quantization("bitnet-online", |q| q["quantization_mode"] = mode);
        assert_key(&edit.refused("config.json"), key, &["offline", first, "F32", "U8", "online"]);
    }
    // Layers that are not BitLinear hold what they hold.
    let edit = quantization("bitnet-online", |q| {
        q["quantization_mode"] = json!("offline");
        q["modules_to_not_convert"] = json!(["model.layers", "lm_head"]);
    });
    let model = edit.load().unwrap();
    assert!(model.decoder.layers.iter().all(|layer| layer.up.format() == Format::F32));
}

#[test]
fn keys_of_quantization_that_are_not_known() {
    for wrong in ["linear_clas", "quantisation_mode", "modules_to_not_converted", "bits"] {
        let edit = quantization("bitnet-online", |q| q[wrong] = json!("autobitlinear"));
        let key = format!("quantization_config.{wrong}");
        assert_key(&edit.refused("config.json"), &key, &["linear_class, quantization_mode"]);
    }
    // Null says nothing.
    quantization("bitnet-online", |q| q["bits"] = Json::Null).load().unwrap();
}

/// A model of another type, by its tensors: `transformers` would not read them.
#[test]
fn norms_that_a_model_type_does_not_have() {
    let unused = |e: Error, name: &str, arch: &str| match e.cause() {
        Error::UnusedTensor { tensor, architecture } => {
            assert_eq!((tensor.as_str(), architecture.as_str()), (name, arch));
        }
        _ => panic!("{e}"),
    };
    let temporary = tempfile::tempdir().unwrap();
    let to = temporary.path().join("out.gguf");
    for (fixture, model_type, name) in [
        ("qwen3", "llama", "model.layers.0.self_attn.k_norm.weight"),
        ("bitnet-packed-divide", "llama", "model.layers.0.mlp.ffn_sub_norm.weight"),
        ("bitnet-packed-divide", "qwen3", "model.layers.0.mlp.ffn_sub_norm.weight"),
    ] {
        let mut edit = Edit::of(fixture)
            .set("model_type", json!(model_type))
            .set("architectures", json!(null))
            .set("hidden_act", json!("silu"));
        if model_type == "qwen3" {
            for i in 0..2 {
                for norm in ["q", "k"] {
                    let name = format!("model.layers.{i}.self_attn.{norm}_norm.weight");
                    edit = edit.floats(&name, &[1.0; 64]);
                }
            }
            edit = edit.set("head_dim", json!(64));
        }
        let edit = edit.write();
        unused(whole_error(load(edit.path())), name, model_type);
        let convert = tritlab_model::convert::convert;
        let converted = convert(edit.path(), &to, Default::default(), true, &mut |_, _, _| true);
        unused(whole_error(converted), name, model_type);
    }
    let name = "blk.0.attn_q_norm.weight";
    unused(whole_error(File::of("llama").with(name, &[32], &[1.0; 32]).load()), name, "llama");
}

// ---- GGUF ----

fn config(file: &File) -> Result<Config, Error> {
    Config::from_gguf(&Gguf::from_bytes(file.bytes()).unwrap())
}

#[test]
fn windows_of_gemma_that_are_no_pattern() {
    let key = "gemma3.attention.sliding_window_pattern";
    let with = |value: Value<'static>| config(&File::of("gemma3").set(key, value));
    let strings = Array::from_strings(["a"; 7]);
    for wrong in [Array::from_f32(&[1.0; 7]), strings] {
        let found = format!("array of 7 {}", wrong.element().name());
        assert_key(&with(wrong.into()).unwrap_err(), key, &["integers or booleans", &found]);
    }
    let e = with(Array::from_i32(&[1; 6]).into()).unwrap_err();
    assert_key(&e, key, &["6 entries for 7 layers"]);
    let local = with(Array::from_i32(&[1, 0, 1, 1, 1, 1, 0]).into()).unwrap().local.unwrap();
    assert_eq!(local.layers, [true, false, true, true, true, true, false]);
    // Both names of one base.
    for key in ["gemma3.rope.local_freq_base", "gemma3.rope.freq_base_swa"] {
        let mut file = File::of("gemma3");
        file.keys.retain(|(k, _)| !k.ends_with("freq_base_swa"));
        assert_key(&config(&file.set(key, -1.0f32)).unwrap_err(), key, &["-1"]);
    }
}

#[test]
fn scalings_that_contradict_each_other() {
    let plain = || File::of("llama").without("rope_freqs.weight");
    let table = || File::of("llama");
    let (factor, older) = ("llama.rope.scaling.factor", "llama.rope.scale_linear");
    let kind = "llama.rope.scaling.type";
    for key in [factor, older] {
        assert_eq!(config(&plain().set(key, 4.0f32)).unwrap().rope.scaling, Scaling::Linear(4.0));
        for file in [table(), table().set(kind, "linear")] {
            let e = config(&file.set(key, 4.0f32)).unwrap_err();
            assert_key(&e, key, &["4", "table of factors"]);
        }
        // What divides by 1 divides by nothing.
        let kept = config(&table().set(kind, "linear").set(key, 1.0f32)).unwrap().rope.scaling;
        assert!(matches!(kept, Scaling::Divisors(_)));
    }
    let e = config(&plain().set(kind, "linear")).unwrap_err();
    assert_key(&e, factor, &[]);
    let e = config(&plain().set(kind, "yarn").set(factor, 4.0f32)).unwrap_err();
    assert_key(&e, kind, &["yarn", "none, linear and longrope"]);
    // A scaling whose tables are missing, and tables of two.
    let e = config(&plain().set(kind, "longrope")).unwrap_err();
    let short = "rope_factors_short.weight";
    assert!(matches!(e.cause(), Error::MissingTensor { name } if name == short), "{e}");
    let phi = File::of("phi3-long").with("rope_freqs.weight", &[12], &[1.0; 12]);
    assert_key(&config(&phi).unwrap_err(), "rope_freqs.weight", &[short]);
    let e = config(&table().poke("rope_freqs.weight", 5, -2.0)).unwrap_err();
    assert_key(&e, "rope_freqs.weight", &["factor 5 is -2"]);
    let phi = File::of("phi3-long").set("phi3.rope.scaling.type", "longrope");
    assert_eq!(config(&phi).unwrap(), config(&File::of("phi3-long")).unwrap());
    let e = config(&phi.set("phi3.rope.scaling.factor", 2.0f32)).unwrap_err();
    assert_key(&e, "phi3.rope.scaling.factor", &["2"]);
}

#[test]
fn a_context_is_not_made_up() {
    for (fixture, key) in [("llama", "llama"), ("phi3-long", "phi3"), ("gemma3", "gemma3")] {
        let key = format!("{key}.context_length");
        assert_key(&config(&File::of(fixture).unset(&key)).unwrap_err(), &key, &["missing"]);
    }
}

#[test]
fn factors_of_other_graphs() {
    for (name, neutral) in [("attention.scale", 0.0), ("residual_scale", 1.0), ("logit_scale", 1.0)]
    {
        let key = format!("llama.{name}");
        let with = |value: Value<'static>| config(&File::of("llama").set(&key, value));
        for wrong in [Value::F32(0.5), Value::F32(f32::NAN), Value::from("x")] {
            assert_key(&with(wrong).unwrap_err(), &key, &[]);
        }
        with(Value::F32(neutral)).unwrap();
    }
}

/// `gelu` alone is the form with the error function (`transformers` `ACT2FN`), which no model here has.
#[test]
fn activations_have_exact_names() {
    let key = "gemma3.hidden_activation";
    for name in ["gelu", "gelu_fast", "GELU_PYTORCH_TANH", "swoosh", ""] {
        let e = config(&File::of("gemma3").set(key, name)).unwrap_err();
        assert_key(&e, key, &[&format!("{name:?}"), "silu, swish, relu2, relu_sqr, gelu_pytorch"]);
    }
    config(&File::of("gemma3").set(key, "gelu_pytorch_tanh")).unwrap();
}

// ---- tokenizers ----

/// What the file's own template puts around a text.
#[test]
fn ids_around_texts_are_of_the_vocabulary() {
    let around = |text: &str, id: usize| {
        let mut json = tokenizer_json(100, &[(100, "<s>")]);
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}}
        });
        Tokenizer::from_json(json.to_string().as_bytes())
    };
    assert_eq!(around("<s>", 100).unwrap().encode("", true, false).unwrap(), [100]);
    for (text, id, found) in [("<s>", 101, "\"\""), ("<s>", 4_000_000, "\"\""), ("<s>", 7, "t7")] {
        let text = whole_error(around(text, id)).to_string();
        for word in ["post_processor", "<s>", &id.to_string(), "101 tokens", found] {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
    }
}

#[test]
fn two_tokenizers_in_one_file_are_one() {
    let with = |change: Option<(usize, &str)>| {
        let mut tokens: Vec<String> = (0..128).map(|i| format!("t{i}")).collect();
        if let Some((id, text)) = change {
            tokens[id] = text.to_owned();
        }
        let json = tokenizer_json(100, &[(100, "<s>")]).to_string();
        let file = File::of("llama")
            .set("tokenizer.huggingface.json", json)
            .set("tokenizer.ggml.tokens", Array::from_strings(tokens));
        Tokenizer::from_gguf(&Gguf::from_bytes(file.bytes()).unwrap())
    };
    // Rows without a token have any name.
    assert_eq!(with(Some((100, "<s>"))).unwrap().vocab_size(), 101);
    let e = whole_error(with(None)).to_string();
    for word in ["token 100", "\"t100\"", "tokenizer.ggml.tokens", "\"<s>\"", "huggingface.json"] {
        assert!(e.contains(word), "{word} is not in: {e}");
    }
}

#[test]
fn the_unknown_token_is_a_token() {
    let key = "tokenizer.ggml.unknown_token_id";
    for file in [File::of("llama"), File::of("llama").with_tokenizer(true)] {
        for wrong in [Value::U32(128), Value::from("x"), Value::F32(0.0)] {
            assert_key(&whole_error(file.clone().set(key, wrong).load()), key, &[]);
        }
        for fine in [Value::U32(127), Value::I32(-1), Value::U32(u32::MAX)] {
            file.clone().set(key, fine).load().unwrap();
        }
    }
}

/// What the library of tokenizers only says of a file is said of a part of it.
#[test]
fn parts_of_tokenizers_are_named() {
    for (part, value, words) in [
        ("pre_tokenizer", json!({"type": "Swoosh"}), vec!["Swoosh"]),
        ("pre_tokenizer", json!({"type": "Split"}), vec!["Split"]),
        ("normalizer", json!({"pattern": 7}), vec!["without a type"]),
        ("decoder", json!("x"), vec!["without a type"]),
        ("post_processor", json!({"type": "TemplateProcessing", "single": 7}), vec!["Template"]),
        ("model", json!({"type": "BPE", "vocab": [], "merges": []}), vec!["BPE"]),
        ("model", json!({"vocab": {"a": "b"}}), vec!["without a type"]),
        ("model", json!(null), vec![]),
    ] {
        let mut json = tokenizer_json(100, &[]);
        json[part] = value;
        let e = whole_error(Tokenizer::from_json(json.to_string().as_bytes())).to_string();
        assert!(e.contains(part) && !e.contains("untagged"), "{part}: {e}");
        for word in words {
            assert!(e.contains(word), "{word} is not in: {e}");
        }
    }
}

#[test]
fn settings_that_name_no_token() {
    let edit = Edit::of("llama").write();
    std::fs::write(edit.file("tokenizer.json"), tokenizer_json(100, &[]).to_string()).unwrap();
    let file = edit.file("tokenizer_config.json");
    for key in ["pad_token", "unk_token"] {
        for (value, fine) in [
            (json!("<pad>"), false),
            (json!(7), false),
            (json!({"content": 7}), false),
            (json!({"content": "t9"}), true),
            (json!(null), true),
        ] {
            std::fs::write(&file, json!({key: value}).to_string()).unwrap();
            let result = load(edit.path()).unwrap().tokenizer().map(drop);
            assert_eq!(result.is_ok(), fine, "{key} = {value}");
            if let Err(e) = result {
                let text = e.to_string();
                assert!(text.contains(key) && text.contains("tokenizer_config.json"), "{text}");
            }
        }
    }
}

// ---- importance matrices ----

/// One that has more layers is of another model, and one of zeros says nothing of any column.
#[test]
fn importance_of_another_model() {
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("out.gguf");
    let model = load(support::path("llama")).unwrap();
    let whole = Imatrix::collect(&model, &support::ids(64, 128), 32, "", &mut |_, _| true).unwrap();
    let run = |imatrix: &Imatrix, from: &std::path::Path| {
        let options = Options { format: Some(Format::Q4_0), ..Options::default() };
        let loaded =
            Model::load_weighted(from, options, Some(imatrix), &mut |_, _, _| true).map(drop);
        let recipe = Recipe { imatrix: Some(imatrix), ..Recipe::new(Format::Q4_0) };
        let written = quantize_gguf(from, &out, &recipe, &mut |_, _, _| true).map(drop);
        [loaded, written]
    };
    for from in [support::path("llama"), folder("llama")] {
        run(&whole, &from).into_iter().for_each(Result::unwrap);
        let mut deeper = whole.clone();
        let name = "blk.2.attn_q.weight";
        deeper.sums.insert(name.to_owned(), Sums { squares: vec![1.0; 96], count: 32.0 });
        let mut zeros = whole.clone();
        let zero = "blk.1.ffn_down.weight";
        zeros.sums.get_mut(zero).unwrap().squares.fill(0.0);
        for (imatrix, words) in [(deeper, [name, "another model"]), (zeros, [zero, "are 0"])] {
            for result in run(&imatrix, &from) {
                let e = whole_error(result);
                assert!(matches!(e.cause(), Error::Imatrix { .. }), "{e}");
                for word in words {
                    assert!(e.to_string().contains(word), "{word} is not in: {e}");
                }
            }
        }
    }
    // Fused tensors of folders have one input, under the name that they have in GGUF.
    let phi = load(folder("phi3-short")).unwrap();
    let fused = Imatrix::collect(&phi, &support::ids(64, 128), 32, "", &mut |_, _| true).unwrap();
    assert!(fused.sums.contains_key("blk.0.attn_qkv.weight"));
    run(&fused, &folder("phi3-short")).into_iter().for_each(Result::unwrap);
}
