//! `config.json`: both dialects, families' defaults, and the same configuration as GGUF's keys give.

mod support;

use serde_json::{Value, json};
use support::{error, folder, path};
use tritlab_kernels::op::Activation;
use tritlab_model::gguf::Gguf;
use tritlab_model::rope::{Rope, Scaling};
use tritlab_model::{Config, Error};

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(name).join("config.json")).unwrap()).unwrap()
}

fn config(json: &Value) -> Config {
    Config::from_hugging_face(json.to_string().as_bytes()).unwrap()
}

fn refused(json: &Value) -> Error {
    error(Config::from_hugging_face(json.to_string().as_bytes()))
}

fn with(mut json: Value, key: &str, value: Value) -> Value {
    json[key] = value;
    json
}

fn without(mut json: Value, key: &str) -> Value {
    json.as_object_mut().unwrap().remove(key).expect("a key of the fixture");
    json
}

#[test]
fn a_folder_and_its_file_are_one_configuration() {
    for name in ["llama", "qwen3", "phi3-short", "phi3-long", "gemma3"] {
        let file = Config::from_gguf(&Gguf::open(path(name)).unwrap()).unwrap();
        let json = config(&read(name));
        // What is about the file, not the model.
        let file = Config { name: None, interleaved: false, ..file };
        assert_eq!(json, file, "{name}");
    }
}

/// What `transformers` 5 writes for the same model.
#[test]
fn both_dialects_say_the_same() {
    let v4 = read("llama");
    let mut parameters = v4["rope_scaling"].clone();
    parameters["rope_theta"] = json!(5e5);
    let v5 = without(without(v4.clone(), "rope_theta"), "rope_scaling");
    let v5 = with(v5, "rope_parameters", parameters);
    assert_eq!(config(&v4), config(&v5));
    // Inside wins.
    assert_eq!(config(&v4), config(&with(v5, "rope_theta", json!(10.0))));

    let v4 = read("phi3-long");
    let mut parameters = v4["rope_scaling"].clone();
    parameters.as_object_mut().unwrap().remove("type");
    parameters["rope_type"] = json!("longrope");
    parameters["rope_theta"] = json!(1e4);
    parameters["partial_rotary_factor"] = json!(0.75);
    let mut v5 = v4.clone();
    for key in ["rope_theta", "rope_scaling", "partial_rotary_factor"] {
        v5 = without(v5, key);
    }
    assert_eq!(config(&v4), config(&with(v5, "rope_parameters", parameters)));
    for old in ["su", "yarn"] {
        let mut json = v4.clone();
        json["rope_scaling"]["type"] = json!(old);
        assert_eq!(config(&json), config(&v4), "{old}");
    }

    let v4 = read("gemma3");
    let mut v5 = v4.clone();
    for key in ["rope_theta", "rope_scaling", "rope_local_base_freq", "sliding_window_pattern"] {
        v5 = without(v5, key);
    }
    let parameters = json!({
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
    let v5 = with(v5, "rope_parameters", parameters);
    assert_eq!(config(&v4), config(&v5));
    let types = ["sliding_attention"; 5].into_iter().chain(["full_attention", "sliding_attention"]);
    let named = with(v5, "layer_types", types.collect());
    assert_eq!(config(&v4), config(&named));
}

/// Files leave out what their class would make up (configurations of `transformers`).
#[test]
fn missing_keys_are_the_familys_defaults() {
    let llama = config(&json!({"model_type": "llama"}));
    assert_eq!((llama.vocab, llama.hidden, llama.ffn, llama.layers), (32_000, 4096, 11_008, 32));
    assert_eq!((llama.heads, llama.kv_heads, llama.head_dim), (32, 32, 128));
    assert_eq!((llama.context, llama.norm_eps, llama.rope.base), (2048, 1e-6, 1e4));

    let qwen = config(&json!({"model_type": "qwen3"}));
    assert_eq!((qwen.vocab, qwen.ffn, qwen.head_dim, qwen.context), (151_936, 22_016, 128, 32_768));
    let null = config(
        &json!({"model_type": "qwen3", "num_attention_heads": 8, "num_key_value_heads": null}),
    );
    assert_eq!((null.heads, null.kv_heads), (8, 8));

    let phi = config(&json!({"model_type": "phi3"}));
    assert_eq!((phi.vocab, phi.hidden, phi.ffn, phi.norm_eps), (32_064, 3072, 8192, 1e-5));

    // Gemma 3 4B, as published: a text configuration of a few keys.
    let gemma = config(&json!({
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024
        },
        "vision_config": {"hidden_size": 1152}
    }));
    assert_eq!((gemma.vocab, gemma.heads, gemma.kv_heads, gemma.head_dim), (262_208, 8, 4, 256));
    assert_eq!((gemma.rope.base, &gemma.rope.scaling), (1e6, &Scaling::Linear(8.0)));
    assert_eq!((gemma.score_scale, gemma.context), (1.0 / 16.0, 131_072));
    let local = gemma.local.unwrap();
    let base = Rope { dims: 256, base: 1e4, attention_factor: 1.0, scaling: Scaling::None };
    assert_eq!((local.window, local.rope), (1024, base));
    assert!((0..34).all(|i| local.layers[i] == ((i + 1) % 6 != 0)));

    let bitnet =
        config(&json!({"model_type": "bitnet", "quantization_config": {"quant_method": "bitnet"}}));
    assert_eq!((bitnet.vocab, bitnet.hidden, bitnet.ffn, bitnet.layers), (128_256, 2560, 6912, 30));
    assert_eq!((bitnet.heads, bitnet.kv_heads, bitnet.head_dim), (20, 5, 128));
    assert_eq!((bitnet.activation, bitnet.rope.base), (Activation::Relu2, 5e5));
    assert!(bitnet.bitlinear);
    // The models that call themselves llama.
    let old = config(&json!({"model_type": "llama", "architectures": ["BitnetForCausalLM"]}));
    assert_eq!((old.architecture.as_str(), old.activation), ("bitnet", Activation::Silu));
    assert!(old.bitlinear);
}

/// Phi-4-mini's published numbers.
#[test]
fn phi4_mini_has_its_attention_factor() {
    let factors = |x: f32| vec![x; 48];
    let phi = config(&json!({
        "model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 24,
        "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", "short_factor": factors(1.0), "long_factor": factors(2.0)},
        "sliding_window": 262_144, "num_hidden_layers": 32, "vocab_size": 200_064
    }));
    assert_eq!((phi.rope.dims, phi.rope.attention_factor), (96, 1.190_238_1));
    assert!(phi.rope.is_long(4097) && !phi.rope.is_long(4096));
    // More than the positions it was made for, but no more than a text could have.
    assert_eq!(phi.local.unwrap().window, 262_144);
}

/// Keys of another type and impossible values, in the file's own words.
#[test]
fn what_cannot_be_is_named() {
    let llama = read("llama");
    for (key, value, expected) in [
        ("hidden_size", json!("96"), "a non-negative integer"),
        ("num_hidden_layers", json!(-2), "a non-negative integer"),
        ("rms_norm_eps", json!(true), "a number"),
        ("rope_theta", json!("1e4"), "a number"),
        ("rope_scaling", json!([1]), "an object"),
        ("hidden_act", json!(3), "a string"),
        ("attention_bias", json!(0), "true or false"),
        ("tie_word_embeddings", json!("no"), "true or false"),
        ("model_type", json!({}), "a string"),
        ("architectures", json!("Llama"), "an array of strings"),
        ("quantization_config", json!(8), "an object"),
    ] {
        match refused(&with(llama.clone(), key, value.clone())) {
            Error::WrongType { key: found, expected: e, found: shown } => {
                assert_eq!((found.as_str(), e, shown), (key, expected, value.to_string()));
            }
            e => panic!("{key}: {e}"),
        }
    }
    for (key, value) in [
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(4_000_000_000u64)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(u64::MAX)),
        ("num_key_value_heads", json!(3)),
        ("hidden_size", json!(0)),
        ("head_dim", json!(0)),
        ("head_dim", json!(1 << 30)),
        ("vocab_size", json!(0)),
        ("intermediate_size", json!(1u64 << 40)),
        ("rms_norm_eps", json!(-1.0)),
        ("rope_theta", json!(0.0)),
        ("partial_rotary_factor", json!(1.5)),
        ("partial_rotary_factor", json!(0.01)),
        ("hidden_act", json!("swoosh")),
    ] {
        match refused(&with(llama.clone(), key, value.clone())) {
            Error::BadConfig { key: found, .. } => assert_eq!(found, key, "{value}"),
            e => panic!("{key} = {value}: {e}"),
        }
    }
    let scaling = |change: fn(&mut Value)| {
        let mut json = llama.clone();
        change(&mut json["rope_scaling"]);
        refused(&json)
    };
    let e = scaling(|s| s["rope_type"] = json!("dynamic"));
    assert!(matches!(&e, Error::BadConfig { key, .. } if key == "rope_scaling.rope_type"), "{e}");
    let e = scaling(|s| drop(s.as_object_mut().unwrap().remove("low_freq_factor")));
    assert!(
        matches!(&e, Error::MissingKey { key } if key == "rope_scaling.low_freq_factor"),
        "{e}"
    );
    let e = refused(&without(llama.clone(), "model_type"));
    assert!(matches!(&e, Error::MissingKey { key } if key == "model_type"), "{e}");
    match refused(&with(llama, "model_type", json!("mamba"))) {
        Error::UnsupportedModelType { found, known } => {
            assert_eq!(found, "mamba");
            assert!(known.contains("qwen3"), "{known}");
        }
        e => panic!("{e}"),
    }
    let mut phi = read("phi3-long");
    phi["rope_scaling"]["long_factor"].as_array_mut().unwrap().pop();
    let e = refused(&phi);
    assert!(matches!(&e, Error::BadConfig { key, .. } if key == "rope_scaling.long_factor"), "{e}");
    let gemma = with(read("gemma3"), "layer_types", json!(["full_attention"]));
    let e = refused(&gemma);
    assert!(matches!(&e, Error::BadConfig { key, .. } if key == "layer_types"), "{e}");
    for (key, value) in [
        ("quant_method", json!("gptq")),
        ("linear_class", json!("linear")),
        ("quantization_mode", json!("sometimes")),
    ] {
        let mut json = read("bitnet-online");
        json["quantization_config"][key] = value;
        let e = refused(&json);
        let expected = format!("quantization_config.{key}");
        assert!(matches!(&e, Error::BadConfig { key, .. } if *key == expected), "{e}");
    }
    for text in ["", "{", "[]", "null", "\"llama\""] {
        let e = error(Config::from_hugging_face(text.as_bytes()));
        assert!(matches!(e, Error::BadJson { .. }), "{text}: {e}");
    }
}

/// Keys of RoPE that are misspelt, missing, or in the wrong place turn a model by other angles: none is ignored.
#[test]
fn keys_of_rope_that_are_not_known() {
    let refused = |json: &Value, key: &str, words: &[&str]| match refused(json) {
        Error::BadConfig { key: found, reason } => {
            assert_eq!(found, key, "{reason}");
            for word in words {
                assert!(reason.contains(word), "{word} is not in: {reason}");
            }
        }
        e => panic!("{key}: {e}"),
    };
    let scaling = |fixture: &str, value: Value| with(read(fixture), "rope_scaling", value);
    let types = "default, linear, llama3 and longrope";
    // Without a type.
    let json = scaling("llama", json!({"factor": 8.0}));
    refused(&json, "rope_scaling.rope_type", &["missing", "`factor`", types]);
    let json = scaling("llama", json!({"rope_typ": "linear", "factor": 8.0}));
    refused(&json, "rope_scaling.rope_typ", &["rope_type, type"]);
    let mut long = read("phi3-long");
    long["rope_scaling"].as_object_mut().unwrap().remove("type");
    refused(&long, "rope_scaling.rope_type", &["_factor`", types]);
    // With one, and a key that is none.
    let json = scaling("gemma3", json!({"rope_type": "linear", "factor": 8.0, "faktor": 2}));
    refused(&json, "rope_scaling.faktor", &["attention_factor"]);
    // One set of parameters is not one per type of layer.
    let nested = json!({"full_attention": {"rope_type": "default"}, "sliding_attention": {}});
    for fixture in ["llama", "qwen3", "phi3-short", "bitnet-online"] {
        let json = without(with(read(fixture), "rope_parameters", nested.clone()), "rope_theta");
        refused(&json, "rope_parameters.full_attention", &["one set of parameters", "gemma3_text"]);
    }
    let both = ["full_attention", "sliding_attention"];
    for flat in ["rope_type", "rope_theta", "fulll_attention", "global"] {
        let json = with(read("gemma3"), "rope_parameters", json!({flat: {"rope_theta": 1e6}}));
        refused(&json, &format!("rope_parameters.{flat}"), &both);
    }
    let json = scaling("gemma3", nested.clone());
    refused(&json, "rope_scaling.full_attention", &["rope_parameters"]);
    let json = with(
        read("gemma3"),
        "rope_parameters",
        json!({"sliding_attention": {"factor": 8.0}, "full_attention": {"rope_type": "default"}}),
    );
    refused(&json, "rope_parameters.sliding_attention.rope_type", &["`factor`", types]);

    // What says nothing is no scaling.
    let plain = config(&scaling("llama", Value::Null));
    assert_eq!(plain.rope.scaling, Scaling::None);
    for none in [json!({}), json!({"rope_type": "default"}), json!({"type": "default"})] {
        assert_eq!(config(&scaling("llama", none.clone())), plain, "{none}");
        let v5 = with(scaling("llama", Value::Null), "rope_parameters", none.clone());
        assert_eq!(config(&v5), plain, "{none}");
    }
    let gemma = config(&scaling("gemma3", Value::Null));
    for none in [json!({}), json!({"full_attention": null}), nested] {
        let v5 = with(scaling("gemma3", Value::Null), "rope_parameters", none.clone());
        assert_eq!(config(&v5), gemma, "{none}");
    }
}

/// Of `rope_scaling` and `rope_parameters`, versions of `transformers` read the one or the other.
#[test]
fn two_scalings_must_agree() {
    let llama = read("llama");
    let scaling = llama["rope_scaling"].clone();
    let mut both = with(llama.clone(), "rope_parameters", scaling);
    both["rope_parameters"]["rope_theta"] = llama["rope_theta"].clone();
    assert_eq!(config(&both), config(&llama));
    // Nothing in one of them is no word against the other.
    for nothing in [json!({}), Value::Null] {
        assert_eq!(
            config(&with(llama.clone(), "rope_parameters", nothing.clone())),
            config(&llama)
        );
        assert_eq!(config(&with(both.clone(), "rope_scaling", nothing)), config(&llama));
    }
    let disagree = |json: &Value, words: &[&str]| match refused(json) {
        Error::BadConfig { key, reason } => {
            assert_eq!(key, "rope_scaling", "{reason}");
            for word in words {
                assert!(reason.contains(word), "{word} is not in: {reason}");
            }
        }
        e => panic!("{e}"),
    };
    for (key, value, word) in [
        ("factor", json!(8.0), "scale"),
        ("rope_type", json!("default"), "scale"),
        ("rope_theta", json!(1e6), "1000000"),
        ("partial_rotary_factor", json!(0.5), "scale"),
    ] {
        let mut other = both.clone();
        other["rope_parameters"][key] = value;
        disagree(&other, &[word, "rope_parameters"]);
    }
    // Version 5 takes no base from the object that it does not read.
    disagree(&without(both.clone(), "rope_theta"), &["10000 ", "500000"]);
    let mut gemma = read("gemma3");
    gemma["rope_parameters"] =
        json!({"full_attention": {"rope_type": "default", "rope_theta": 1e6}});
    disagree(&gemma, &["rope_parameters.full_attention"]);
    // What is wrong in either is wrong.
    let junk = with(both, "rope_scaling", json!({"rope_type": "linear"}));
    let e = refused(&junk);
    assert!(matches!(&e, Error::MissingKey { key } if key == "rope_scaling.factor"), "{e}");
}

/// Keys are named where they stand, and values in lists by their index.
#[test]
fn keys_are_named_where_they_stand() {
    let gemma = |parameters: Value| with(read("gemma3"), "rope_parameters", parameters);
    let no_scaling = |json: Value| without(json, "rope_scaling");
    let parameters = |fixture: &str, parameters: Value| {
        let json = with(no_scaling(read(fixture)), "rope_parameters", parameters);
        without(json, "rope_theta")
    };
    let inside = |mut json: Value| {
        let text = json.as_object_mut().unwrap();
        text.remove("model_type");
        json!({"model_type": "gemma3", "text_config": json})
    };
    let long = |key: &str, i: usize, value: Value| {
        let mut phi = read("phi3-long");
        phi["rope_scaling"][key][i] = value;
        phi
    };
    let linear = |factor: f64| json!({"rope_type": "linear", "factor": factor});
    let types = |name: Value| {
        let mut all = vec![json!("sliding_attention"); 7];
        all[4] = name;
        with(read("gemma3"), "layer_types", all.into())
    };
    let mut su = read("phi3-long");
    su["rope_scaling"]["type"] = json!("dynamic");
    for (json, key, words) in [
        (
            no_scaling(gemma(json!({"full_attention": {"rope_theta": 0.0}}))),
            "rope_parameters.full_attention.rope_theta",
            vec!["0 is"],
        ),
        (
            gemma(json!({"sliding_attention": {"rope_theta": -1.0}})),
            "rope_parameters.sliding_attention.rope_theta",
            vec!["-1"],
        ),
        (
            with(read("gemma3"), "rope_local_base_freq", json!(-2)),
            "rope_local_base_freq",
            vec!["-2"],
        ),
        (
            with(
                without(read("gemma3"), "sliding_window_pattern"),
                "_sliding_window_pattern",
                json!(0),
            ),
            "_sliding_window_pattern",
            vec!["0"],
        ),
        (parameters("llama", linear(-8.0)), "rope_parameters.factor", vec!["-8"]),
        (
            parameters("llama", json!({"rope_theta": 1e4, "partial_rotary_factor": 2})),
            "rope_parameters.partial_rotary_factor",
            vec!["2"],
        ),
        (
            parameters("llama", json!({"partial_rotary_factor": 0.1})),
            "rope_parameters.partial_rotary_factor",
            vec!["0.1", "head_dim = 32", "3 elements"],
        ),
        (with(read("llama"), "head_dim", json!(31)), "head_dim", vec!["31", "pairs"]),
        (su, "rope_scaling.type", vec!["dynamic", "longrope"]),
        (long("short_factor", 3, json!(0)), "rope_scaling.short_factor[3]", vec!["0 is not"]),
        (long("long_factor", 0, json!(-1.5)), "rope_scaling.long_factor[0]", vec!["-1.5"]),
        (
            long("long_factor", 2, json!("x")),
            "rope_scaling.long_factor[2]",
            vec!["a number", "\"x\""],
        ),
        (types(json!("full")), "layer_types[4]", vec!["\"full\"", "full_attention"]),
        (types(json!(1)), "layer_types[4]", vec!["a string"]),
        (inside(with(read("gemma3"), "hidden_size", json!(0))), "text_config.hidden_size", vec![]),
        (
            inside(with(read("gemma3"), "rms_norm_eps", json!(-1))),
            "text_config.rms_norm_eps",
            vec![],
        ),
        (
            inside(with(read("gemma3"), "rope_scaling", linear(0.0))),
            "text_config.rope_scaling.factor",
            vec!["0 is not"],
        ),
        (
            inside(with(read("gemma3"), "sliding_window", json!(0))),
            "text_config.sliding_window",
            vec![],
        ),
    ] {
        let e = refused(&json);
        let found = match &e {
            Error::BadConfig { key, .. } | Error::WrongType { key, .. } => key,
            e => panic!("{key}: {e}"),
        };
        assert_eq!(found, key, "{e}");
        for word in words {
            assert!(e.to_string().contains(word), "{word} is not in: {e}");
        }
    }
}

/// What Python writes and JSON does not have: the line says which key it is.
#[test]
fn numbers_that_json_does_not_have() {
    let json = with(read("llama"), "rms_norm_eps", json!(7.5));
    let texts = [serde_json::to_string_pretty(&json).unwrap(), json.to_string()];
    for number in ["NaN", "Infinity", "-Infinity"] {
        for text in texts.each_ref().map(|text| text.replace("7.5", number)) {
            assert!(text.contains(number), "{text}");
            let e = error(Config::from_hugging_face(text.as_bytes()));
            assert!(matches!(e, Error::BadJson { .. }), "{e}");
            for word in ["rms_norm_eps", number.trim_start_matches('-')] {
                assert!(e.to_string().contains(word), "{word} is not in: {e}");
            }
        }
    }
}
