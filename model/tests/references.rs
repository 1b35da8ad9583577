//! Settings that a file's reference (transformers for folders, llama.cpp for GGUF) reads in one way: that way is
//! taken here, and where the reference ignores what a file says, or its versions differ, the file is refused.

mod support;

use serde_json::{Value as Json, json};
use support::edit::{Draft, Edit};
use support::{File, assert_key, error, load, path, tokenizer_json, whole_error};
use tritlab_kernels::Packing;
use tritlab_model::convert::convert;
use tritlab_model::gguf::{Gguf, Value};
use tritlab_model::quantize::{Recipe, quantize_gguf};
use tritlab_model::rope::Scaling;
use tritlab_model::verify::models;
use tritlab_model::{Config, Error, Result};

fn config(file: &File) -> Result<Config> {
    Config::from_gguf(&Gguf::from_bytes(file.bytes()).unwrap())
}

#[track_caller]
fn refused(edit: Edit, key: &str, words: &[&str]) {
    assert_key(&edit.refused("config.json"), key, words);
}

// ---- GGUF ----

/// llama.cpp divides the scores of a Gemma 3 of 62 layers by the root of hidden / heads (96 / 4 here).
#[test]
fn gemma_27b_has_another_score_scale() {
    let layers = |n: u32| config(&File::of("gemma3").set("gemma3.block_count", n)).unwrap();
    let root = |n: f64| (1.0 / n.sqrt()) as f32;
    assert_eq!(layers(62).score_scale, root(24.0));
    assert_eq!(layers(61).score_scale, root(32.0));
    let qwen = config(&File::of("qwen3").set("qwen3.block_count", 62u32)).unwrap();
    assert_eq!(qwen.score_scale, root(32.0));

    // A folder that says so becomes such a file and comes back; one that says 32 cannot.
    let deep = |scalar: usize| {
        let mut edit = Edit::of("gemma3")
            .set("num_hidden_layers", json!(62))
            .set("query_pre_attn_scalar", json!(scalar));
        let of_first = |t: &&Draft| t.name.starts_with("model.layers.0.");
        let first: Vec<_> = edit.tensors.iter().filter(of_first).cloned().collect();
        edit.tensors.retain(|t| !t.name.starts_with("model.layers."));
        for i in 0..62 {
            let name = |t: &Draft| t.name.replace("layers.0.", &format!("layers.{i}."));
            edit.tensors.extend(first.iter().map(|t| Draft { name: name(t), ..t.clone() }));
        }
        edit.write()
    };
    let (folder, place) = (deep(24), tempfile::tempdir().unwrap());
    let [file, back] = ["a.gguf", "back"].map(|name| place.path().join(name));
    let go = |from: &std::path::Path, to: &std::path::Path| {
        convert(from, to, Packing::default(), false, &mut |_, _, _| true)
    };
    go(folder.path(), &file).unwrap();
    go(&file, &back).unwrap();
    let ids = support::ids(20, 128);
    let logits = |path: &std::path::Path| load(path).unwrap().logits(&ids).unwrap();
    let expected = logits(folder.path());
    support::assert_bits("as a file", &logits(&file), &expected);
    support::assert_bits("back", &logits(&back), &expected);
    let e = whole_error(go(deep(32).path(), &place.path().join("b.gguf")));
    assert_key(&e, "query_pre_attn_scalar", &["62 layers", "24", "32"]);
}

#[test]
fn keys_that_change_a_graph() {
    for (fixture, key, value, words) in [
        ("llama", "llama.attention.causal", Value::Bool(false), vec!["look ahead"]),
        ("gemma3", "gemma3.attention.causal", Value::Bool(false), vec!["look ahead"]),
        ("llama", "llama.expert_count", Value::U32(8), vec!["8"]),
        ("llama", "llama.attn_logit_softcapping", Value::F32(50.0), vec!["50", "gemma3"]),
        ("qwen3", "qwen3.final_logit_softcapping", Value::F32(30.0), vec!["30", "gemma3"]),
    ] {
        assert_key(&config(&File::of(fixture).set(key, value)).unwrap_err(), key, &words);
    }
    // What says nothing.
    for (key, value) in [
        ("llama.attention.causal", Value::Bool(true)),
        ("llama.expert_count", Value::U32(0)),
        ("llama.final_logit_softcapping", Value::F32(0.0)),
    ] {
        config(&File::of("llama").set(key, value)).unwrap();
    }
    let key = "gemma3.attention.sliding_window";
    assert_key(&config(&File::of("gemma3").unset(key)).unwrap_err(), key, &["missing"]);
    // Both caps of Gemma.
    for key in ["gemma3.attn_logit_softcapping", "gemma3.final_logit_softcapping"] {
        let capped = config(&File::of("gemma3").set(key, 30.0f32)).unwrap();
        assert_eq!(capped.score_cap.or(capped.logit_cap), Some(30.0));
    }
}

/// llama.cpp has one attention factor for all layers, and scales the frequencies of global ones only.
#[test]
fn an_attention_factor_is_that_of_local_layers_too() {
    let config = config(&File::of("gemma3").set("gemma3.rope.scaling.attn_factor", 1.5f32));
    let config = config.unwrap();
    let local = config.local.unwrap().rope;
    assert_eq!((config.rope.attention_factor, local.attention_factor), (1.5, 1.5));
    assert_eq!(local.scaling, Scaling::None);
}

/// Rows first, as `inspect` prints a shape, whatever order a file has.
#[test]
fn shapes_have_one_order() {
    let name = "blk.0.ffn_up.weight";
    let narrow = File::of("llama").change(name, |t| {
        t.dims[0] -= 1;
        t.data.truncate((t.dims[0] * t.dims[1] * 4) as usize);
    });
    let e = error(narrow.load()).to_string();
    assert!(e.contains("95") && e.contains("160 x 95") && e.contains("160 x 96"), "{e}");
    let e = Error::BadShape { tensor: name.to_owned(), dims: vec![97, 128], reason: String::new() };
    assert!(e.to_string().contains("128 x 97"), "{e}");
}

// ---- folders ----

#[test]
fn keys_that_a_class_does_not_read() {
    let phi = || Edit::of("phi3-short").unset("original_max_position_embeddings");
    let mut inside = phi();
    inside.config["rope_scaling"]["original_max_position_embeddings"] = json!(20);
    let key = "rope_scaling.original_max_position_embeddings";
    refused(inside, key, &["20", "top level", "4096"]);
    let mut same = phi();
    same.config["rope_scaling"]["original_max_position_embeddings"] = json!(4096);
    assert!(matches!(
        same.load().unwrap().config().rope.scaling,
        Scaling::Long { original: 4096, .. }
    ));

    for fixture in ["llama", "qwen3", "gemma3", "bitnet-online"] {
        let edit = Edit::of(fixture).set("partial_rotary_factor", json!(0.5));
        refused(edit, "partial_rotary_factor", &["Phi-3"]);
        Edit::of(fixture).set("partial_rotary_factor", json!(1.0)).load().unwrap();
    }
    let gemma = || Edit::of("gemma3");
    let both = json!({"sliding_attention": {"partial_rotary_factor": 0.5}});
    let key = "rope_parameters.sliding_attention.partial_rotary_factor";
    refused(gemma().set("rope_parameters", both), key, &["Phi-3"]);

    let key = "_sliding_window_pattern";
    let alone = || gemma().unset("sliding_window_pattern");
    refused(alone().set(key, json!(2)), key, &["2", "sliding_window_pattern", "6"]);
    refused(gemma().set(key, json!(2)), key, &["2", "6"]);
    let local = |edit: Edit| edit.load().unwrap().config().local.clone().unwrap().layers;
    assert_eq!(local(alone().set(key, json!(6))), local(gemma()));
    let types = vec!["full_attention"; 7];
    assert_eq!(local(alone().set(key, json!(2)).set("layer_types", json!(types))), [false; 7]);

    let act = || gemma().unset("hidden_activation");
    refused(act().set("hidden_act", json!("silu")), "hidden_act", &["silu", "hidden_activation"]);
    act().set("hidden_act", json!("gelu_pytorch_tanh")).load().unwrap();
    gemma().set("hidden_act", json!("silu")).load().unwrap();

    let old = json!({"type": "linear", "factor": 8.0});
    refused(gemma().set("rope_scaling", old), "rope_scaling.type", &["linear", "rope_type"]);
    refused(gemma().set("sliding_window", Json::Null), "sliding_window", &["null"]);
    let silent = gemma().unset("sliding_window").load().unwrap();
    assert_eq!(silent.config().local.as_ref().unwrap().window, 4096);
}

/// Phi-3 masks with a window that is no smaller than the positions it was made for, too.
#[test]
fn a_window_beyond_the_context_is_one() {
    let with = |context: usize| {
        let edit = Edit::of("phi3-short").set("sliding_window", json!(30));
        edit.set("max_position_embeddings", json!(context)).load().unwrap()
    };
    let window = |context: usize| with(context).config().local.as_ref().map(|l| l.window);
    assert_eq!((window(30), window(20), window(40)), (Some(30), Some(30), Some(30)));
}

// ---- BitLinear ----

#[test]
fn modules_that_are_none() {
    let with = |list: Json| {
        let mut edit = Edit::of("bitnet-online");
        edit.config["quantization_config"]["modules_to_not_convert"] = list;
        edit
    };
    let key = "quantization_config.modules_to_not_convert";
    for none in [
        "nosuch",
        "mlp",
        "self_attn",
        "layers.0",
        "0",
        "re:.*mlp",
        "model.layers.0.mlp.up_proj.weight",
    ] {
        let list = json!(["lm_head", none]);
        refused(with(list), &format!("{key}[1]"), &[none, "none of the model's modules", "proj"]);
    }
    refused(with(json!(["("])), &format!("{key}[0]"), &["\"(\"", "regular expression"]);
    // Without the head, transformers converts that too.
    for list in [json!([]), json!(["model.layers.0"])] {
        refused(with(list), key, &["lm_head"]);
    }
}

/// 1bitLLM's models are BitLinear under either of the types that they are labelled with.
#[test]
fn the_older_class_is_bitlinear() {
    let old = |model_type: &str| {
        let edit = Edit::of("bitnet-online").unset("quantization_config");
        let edit = edit.set("hidden_act", json!("silu")).set("model_type", json!(model_type));
        let edit = edit.set("architectures", json!(["BitnetForCausalLM"]));
        edit.set("weight_bits", json!(1)).set("input_bits", json!(8)).rename(|name| {
            let name = name.replace("self_attn.attn_sub_norm", "self_attn.inner_attn_ln");
            name.replace("mlp.ffn_sub_norm", "mlp.ffn_layernorm")
        })
    };
    let ids = support::ids(20, 128);
    let logits = |model_type: &str| {
        let model = old(model_type).load().unwrap();
        assert!(model.config().bitlinear, "{model_type}");
        model.logits(&ids).unwrap()
    };
    support::assert_bits("either label", &logits("bitnet"), &logits("llama"));
    for (key, value, words) in [
        ("weight_bits", json!(8), vec!["8", "1 stands for ternary"]),
        ("input_bits", json!(4), vec!["4", "8"]),
        ("input_bits", json!("x"), vec!["\"x\""]),
    ] {
        for model_type in ["llama", "bitnet"] {
            refused(old(model_type).set(key, value.clone()), key, &words);
        }
    }
}

/// What GGUF says of a matrix of zeros, a folder can say.
#[test]
fn a_matrix_of_zeros_has_any_scale() {
    let name = "model.layers.0.mlp.up_proj.weight";
    let scale = format!("{name}_scale");
    let with = |codes: u8, value: f32| {
        let edit = Edit::of("bitnet-packed-multiply").change(name, |t| t.data.fill(codes));
        edit.change(&scale, |t| t.data = value.to_le_bytes().to_vec())
    };
    let model = with(0x55, 0.0).load().unwrap();
    let up = &model.decoder.layers[0].up.weight;
    assert!(tritlab_kernels::Weights::dequantize(&**up).iter().all(|w| *w == 0.0));
    for (codes, value, words) in [
        (0x59, 0.0, vec!["the scale is 0", "not all codes"]),
        (0x55, -1.0, vec!["-1 is not a positive number"]),
        (0x59, 1e-40, vec!["e-40", "inverse"]),
    ] {
        let e = with(codes, value).refused("model.safetensors");
        assert!(matches!(&e, Error::BadTensor { tensor, .. } if *tensor == scale), "{e}");
        for word in words {
            assert!(e.to_string().contains(word), "{word} is not in: {e}");
        }
    }
    // There and back.
    let (edit, place) = (with(0x55, 1e-9).write(), tempfile::tempdir().unwrap());
    let at = |name: &str| place.path().join(name);
    for (from, to) in [(edit.path().to_owned(), at("a.gguf")), (at("a.gguf"), at("back"))] {
        convert(from, to, Packing::default(), false, &mut |_, _, _| true).unwrap();
    }
    // llama.cpp's own quantiser gives blocks of zeros the scale 0.
    let zero = File::of("bitnet-gguf-tq2_0").change("blk.0.ffn_up.weight", |t| t.data.fill(0));
    zero.write(&at("zero.gguf"));
    load(at("zero.gguf")).unwrap();
    convert(at("zero.gguf"), at("zero"), Packing::default(), false, &mut |_, _, _| true).unwrap();
    load(at("zero")).unwrap();
}

// ---- files ----

#[test]
fn a_file_does_not_replace_itself() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("a.gguf");
    std::fs::copy(path("llama"), &file).unwrap();
    let before = std::fs::read(&file).unwrap();
    let other = place.path().join(".").join("a.gguf");
    for to in [&file, &other] {
        let recipe = Recipe::new(tritlab_kernels::Format::Q8_0);
        let e = whole_error(quantize_gguf(&file, to, &recipe, &mut |_, _, _| true));
        assert!(matches!(&e, Error::BadDestination { .. }), "{e}");
    }
    assert!(std::fs::read(&file).unwrap() == before);
}

/// Biases of queries and keys have the order of their rows.
#[test]
fn biases_in_two_orders_are_the_same() {
    let mut edit = Edit::of("llama").set("attention_bias", json!(true));
    for i in 0..2 {
        for (part, n) in [("q", 128), ("k", 64), ("v", 64), ("o", 96)] {
            let bias: Vec<f32> = (0..n).map(|r| r as f32 + 0.5).collect();
            edit = edit.floats(&format!("model.layers.{i}.self_attn.{part}_proj.bias"), &bias);
        }
    }
    let (edit, place) = (edit.write(), tempfile::tempdir().unwrap());
    let file = place.path().join("a.gguf");
    convert(edit.path(), &file, Packing::default(), false, &mut |_, _, _| true).unwrap();
    for (a, b) in [(edit.path(), &*file), (&*file, edit.path())] {
        let report = models(a, b, 0.0, Packing::default(), &mut |_, _, _| true).unwrap();
        assert_eq!(report.difference, None);
    }
}

// ---- tokenizers ----

/// A `tokenizer.json` that puts these around a text.
fn around(first: Option<&str>, last: Option<&str>) -> Json {
    let mut file = tokenizer_json(100, &[(100, "<s>"), (101, "</s>"), (102, "<b>")]);
    let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let inner = std::iter::once(json!({"Sequence": {"id": "A", "type_id": 0}}));
    let single: Vec<_> = first.map(token).into_iter().chain(inner).chain(last.map(token)).collect();
    let one = |(id, text): (usize, &str)| {
        (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}))
    };
    let special: serde_json::Map<_, _> =
        [(100, "<s>"), (101, "</s>"), (102, "<b>")].map(one).into_iter().collect();
    file["post_processor"] = json!({
        "type": "TemplateProcessing", "single": single, "special_tokens": special,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    });
    file
}

#[test]
fn flags_and_template_say_the_same() {
    let edit = Edit::of("llama").set("bos_token_id", json!(100)).write();
    let save = |name: &str, json: &Json| std::fs::write(edit.file(name), json.to_string()).unwrap();
    let with = |template: (Option<&str>, Option<&str>), mut settings: Json| {
        save("tokenizer.json", &around(template.0, template.1));
        for (key, text) in [("bos_token", "<s>"), ("eos_token", "</s>")] {
            if settings.get(key).is_none() {
                settings[key] = json!(text);
            }
        }
        save("tokenizer_config.json", &settings);
        load(edit.path()).unwrap().tokenizer().map(drop)
    };
    let (s, e) = (Some("<s>"), Some("</s>"));
    // Llama 3 and SmolLM2 (no flags), Qwen3 and Phi-4-mini (false, nothing), Gemma 3 (true, BOS).
    for (template, settings) in [
        ((s, None), json!({})),
        ((None, None), json!({})),
        ((None, None), json!({"add_bos_token": false, "add_eos_token": false})),
        ((None, None), json!({"add_bos_token": false, "bos_token": null})),
        ((s, None), json!({"add_bos_token": true, "add_eos_token": false})),
        ((s, e), json!({"add_bos_token": true, "add_eos_token": true})),
        // Another name that nothing is made of, or that tokenizer.json says too.
        ((None, None), json!({"bos_token": "<b>"})),
        ((Some("<b>"), None), json!({"bos_token": "<b>"})),
    ] {
        with(template, settings).unwrap();
    }
    for (template, settings, words) in [
        ((None, None), json!({"add_bos_token": true}), vec!["add_bos_token = true", "<s>", "[]"]),
        ((s, None), json!({"add_bos_token": false}), vec!["add_bos_token = false", "[\"<s>\"]"]),
        ((s, None), json!({"add_eos_token": true}), vec!["add_eos_token = true", "</s>"]),
        ((s, e), json!({"add_eos_token": false}), vec!["add_eos_token = false"]),
        ((s, None), json!({"bos_token": "<b>"}), vec!["bos_token = \"<b>\"", "[\"<s>\"]"]),
    ] {
        let e = whole_error(with(template, settings)).to_string();
        let files = ["tokenizer_config.json", "tokenizer.json", "can be used"];
        for word in words.into_iter().chain(files) {
            assert!(e.contains(word), "{word} is not in: {e}");
        }
    }
}

/// What a file puts behind a text, the folder and the file that are made of it put there too.
#[test]
fn an_end_that_is_added_stays() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let file = File::of("llama").with_tokenizer(true).set("tokenizer.ggml.add_eos_token", true);
    file.write(&at("in.gguf"));
    let ids = |name: &str| {
        let model = load(at(name)).unwrap();
        model.tokenizer().unwrap().encode("the and", true, false).unwrap()
    };
    let expected = ids("in.gguf");
    assert_eq!((expected[0], expected[expected.len() - 1]), (0, 1));
    for (from, to) in [("in.gguf", "folder"), ("folder", "back.gguf")] {
        convert(at(from), at(to), Packing::default(), false, &mut |_, _, _| true).unwrap();
        assert_eq!(ids(to), expected, "{to}");
    }
    let back = Gguf::open(at("back.gguf")).unwrap();
    assert!(back.metadata().require::<bool>("tokenizer.ggml.add_eos_token").unwrap());
}
