//! Hugging Face folders: shards, tied heads, element types, prefixes, BitLinear's variants, and folders
//! that are wrong or hostile, each refused with an error that names file, key or tensor, what was expected
//! and what was found.

mod support;

use safetensors::Dtype;
use serde_json::{Value, json};
use support::edit::{Draft, Edit, refused_in};
use support::{assert_bits, error, expected, folder, load, load_as, tokenizer_json, whole_error};
use tritlab_kernels::{Error as KernelError, Format};
use tritlab_model::hugging_face::Folder;
use tritlab_model::tensors::Source;
use tritlab_model::{Error, Model};

fn logits(model: &Model, fixture: &str) -> Vec<f32> {
    model.logits(&expected(fixture).ids).unwrap()
}

#[test]
fn shards_are_one_model() {
    for name in ["llama", "bitnet-packed-divide"] {
        let whole = logits(&load(folder(name)).unwrap(), name);
        let edit = Edit::of(name).write_shards();
        assert_bits(name, &logits(&load(edit.path()).unwrap(), name), &whole);
    }
}

#[test]
fn shards_that_are_wrong() {
    let edit = Edit::of("llama").write_shards();
    let second = "model-00002-of-00002.safetensors";
    std::fs::remove_file(edit.file(second)).unwrap();
    match refused_in(edit.path(), "model.safetensors.index.json") {
        Error::MissingShard { shard, tensors, first } => {
            assert_eq!((shard.as_str(), tensors), (second, edit.tensors.len().div_ceil(2)));
            assert!(edit.tensors.iter().any(|t| t.name == first));
        }
        e => panic!("{e}"),
    }
    // A tensor that is not where the index says.
    let first = "model-00001-of-00002.safetensors";
    std::fs::copy(edit.file(first), edit.file(second)).unwrap();
    let e = refused_in(edit.path(), second);
    assert!(matches!(e, Error::DuplicateName { .. }), "{e}");
    edit.save(second, &edit.tensors[edit.tensors.len() / 2 + 1..]);
    let e = refused_in(edit.path(), second);
    let missing = &edit.tensors[edit.tensors.len() / 2].name;
    assert!(matches!(&e, Error::MissingTensor { name } if name == missing), "{e}");
    let index = |map: Value| {
        edit.write_index(map);
        refused_in(edit.path(), "model.safetensors.index.json")
    };
    let e = index(json!({"metadata": {}}));
    assert!(matches!(&e, Error::MissingKey { key } if key == "weight_map"), "{e}");
    let e = index(json!({"weight_map": [1, 2]}));
    assert!(matches!(&e, Error::WrongType { key, .. } if key == "weight_map"), "{e}");
    let e = index(json!({"weight_map": {"a": 7}}));
    assert!(matches!(&e, Error::WrongType { key, .. } if key == "weight_map.a"), "{e}");
    // A folder's own files and no others.
    for path in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "", "."] {
        let e = index(json!({"weight_map": {"a": path}}));
        assert!(matches!(&e, Error::BadConfig { key, .. } if key == "weight_map.a"), "{path}: {e}");
    }
    std::fs::write(edit.file("model.safetensors.index.json"), "{").unwrap();
    let e = refused_in(edit.path(), "model.safetensors.index.json");
    assert!(matches!(e, Error::BadJson { .. }), "{e}");
}

/// Elements of 16 bits are the same weights where they hold them.
#[test]
fn element_types() {
    fn halves(t: &mut Draft, dtype: Dtype, half: impl Fn(f32) -> u16) {
        let x = t.data.as_chunks::<4>().0.iter().map(|b| half(f32::from_le_bytes(*b)));
        t.data = x.flat_map(u16::to_le_bytes).collect();
        t.dtype = dtype;
    }
    let (a, b) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight");
    let norm = "model.layers.1.input_layernorm.weight";
    let f16 = |x| half::f16::from_f32(x).to_bits();
    let bf16 = |x| half::bf16::from_f32(x).to_bits();
    let mixed = Edit::of("llama")
        .change(a, |t| halves(t, Dtype::F16, f16))
        .change(b, |t| halves(t, Dtype::BF16, bf16))
        .change(norm, |t| halves(t, Dtype::BF16, bf16));
    let rounded = |t: &mut Draft, round: &dyn Fn(f32) -> f32| {
        let x = t.data.as_chunks::<4>().0.iter().map(|b| round(f32::from_le_bytes(*b)));
        t.data = x.flat_map(f32::to_le_bytes).collect();
    };
    let to_f16 = |x| half::f16::from_f32(x).to_f32();
    let to_bf16 = |x| half::bf16::from_f32(x).to_f32();
    let same = Edit::of("llama")
        .change(a, |t| rounded(t, &to_f16))
        .change(b, |t| rounded(t, &to_bf16))
        .change(norm, |t| rounded(t, &to_bf16));
    let (mixed, same) = (mixed.load().unwrap(), same.load().unwrap());
    assert_bits("elements", &logits(&mixed, "llama"), &logits(&same, "llama"));
    let q = mixed.tensors.iter().find(|t| t.name == a).unwrap();
    assert_eq!((q.file_type, q.format, &q.shape), ("F16", "F16", &vec![128, 96]));
}

/// Gemma 3 with a vision tower: prefixes of two ages, other tensors beside.
#[test]
fn language_models_inside_others() {
    let whole = logits(&load(folder("gemma3")).unwrap(), "gemma3");
    for prefix in ["language_model.model.", "model.language_model."] {
        let edit = Edit::of("gemma3").rename(|n| n.replacen("model.", prefix, 1));
        let text = edit.config.clone();
        let mut edit = edit
            .floats("vision_tower.encoder.weight", &[1.0])
            .floats("multi_modal_projector.weight", &[1.0]);
        edit.config = json!({"model_type": "gemma3", "text_config": text});
        assert_bits(prefix, &logits(&edit.load().unwrap(), "gemma3"), &whole);
    }
}

#[test]
fn the_head_is_tied_or_not() {
    // The configuration decides.
    let e = error(Edit::of("llama").without("lm_head.weight").load());
    assert!(matches!(&e, Error::MissingTensor { name } if name == "lm_head.weight"), "{e}");
    // Where it says that there is none, another one beside the embedding is a question, the same one is not.
    let tied = || Edit::of("llama").set("tie_word_embeddings", json!(true));
    let e = tied().refused("model.safetensors");
    assert!(matches!(&e, Error::BadTensor { tensor, .. } if tensor == "lm_head.weight"), "{e}");
    assert!(e.to_string().contains("model.embed_tokens.weight"), "{e}");
    let embedding =
        tied().tensors.iter().find(|t| t.name.contains("embed_tokens")).unwrap().data.clone();
    let same = tied().change("lm_head.weight", |t| t.data = embedding).load().unwrap();
    assert!(same.decoder.head.is_none());
    tied().without("lm_head.weight").load().unwrap();
    // Where it is silent, the file does.
    let silent = || Edit::of("llama").unset("tie_word_embeddings");
    assert!(silent().load().unwrap().decoder.head.is_some());
    assert!(silent().without("lm_head.weight").load().unwrap().decoder.head.is_none());
}

#[test]
fn biases_are_where_the_configuration_says() {
    let zeros = |mut edit: Edit| {
        for i in 0..2 {
            for (name, n) in [("q", 128), ("k", 64), ("v", 64), ("o", 96)] {
                edit = edit
                    .floats(&format!("model.layers.{i}.self_attn.{name}_proj.bias"), &vec![0.0; n]);
            }
        }
        edit
    };
    let whole = logits(&load(folder("llama")).unwrap(), "llama");
    let model = zeros(Edit::of("llama")).set("attention_bias", json!(true)).load().unwrap();
    assert_bits("biases of 0", &logits(&model, "llama"), &whole);
    let name = "model.layers.0.self_attn.q_proj.bias";
    let model = zeros(Edit::of("llama"))
        .change(name, |t| t.data[..4].copy_from_slice(&9.0f32.to_le_bytes()))
        .set("attention_bias", json!(true));
    assert_ne!(logits(&model.load().unwrap(), "llama"), whole);
    let e = error(Edit::of("llama").set("attention_bias", json!(true)).load());
    assert!(matches!(&e, Error::MissingTensor { name: n } if n == name), "{e}");
    let e = error(zeros(Edit::of("llama")).load());
    assert!(matches!(e, Error::UnusedTensor { .. }), "the class would not read them: {e}");
}

// ---- BitLinear ----

const UP: &str = "model.layers.0.mlp.up_proj.weight";

/// Codes of one byte each are the packed ones unpacked.
#[test]
fn codes_may_be_bytes() {
    let whole = logits(&load(folder("bitnet-packed-multiply")).unwrap(), "bitnet-packed-multiply");
    let unpacked = Edit::of("bitnet-packed-multiply").change(UP, |t| {
        let quarters =
            (0..4).flat_map(|g| t.data.iter().map(move |b| (b >> (2 * g) & 3).wrapping_sub(1)));
        t.data = quarters.collect();
        t.shape[0] *= 4;
        t.dtype = Dtype::I8;
    });
    assert_bits("I8", &logits(&unpacked.load().unwrap(), "bitnet-packed-multiply"), &whole);
    let bad = Edit::of("bitnet-packed-multiply").change(UP, |t| {
        t.data = vec![2; t.data.len() * 4];
        t.shape[0] *= 4;
        t.dtype = Dtype::I8;
    });
    let e = bad.refused("model.safetensors");
    let found = matches!(&e, Error::Tensor { tensor, source: KernelError::NotTernary { .. } }
        if tensor == UP);
    assert!(found, "{e}");
}

/// Masters that are ternary already are what they are: absmean would shrink them.
#[test]
fn masters_that_are_ternary_stay() {
    let factor = 0.75f32;
    let signs: Vec<f32> = (0..512 * 256).map(|i| [0.0, factor, -factor, 0.0][i * 7 % 4]).collect();
    let bytes: Vec<u8> = signs.iter().flat_map(|v| v.to_le_bytes()).collect();
    let edit = Edit::of("bitnet-online").change(UP, |t| t.data = bytes);
    let model = edit.load().unwrap();
    let up = &model.decoder.layers[0].up.weight;
    assert_eq!(tritlab_kernels::Weights::dequantize(&**up), signs);
}

/// The dense block is another model: the configuration alone says what the weights are.
#[test]
fn without_its_configuration_a_bitnet_is_dense() {
    let dense = Edit::of("bitnet-online").unset("quantization_config").load().unwrap();
    assert!(!dense.config().bitlinear);
    assert_eq!(dense.decoder.layers[0].up.format(), Format::F32);
    let online = load(folder("bitnet-online")).unwrap();
    assert_eq!(online.decoder.layers[0].up.format(), Format::TERNARY);
    assert_ne!(logits(&dense, "bitnet-online"), logits(&online, "bitnet-online"));
}

#[test]
fn modules_can_be_left_out() {
    let only = |names: Value| {
        let mut edit = Edit::of("bitnet-online");
        edit.config["quantization_config"]["modules_to_not_convert"] = names;
        let layer = edit.load().unwrap().decoder.layers.swap_remove(0);
        (layer.up.format(), layer.down.format(), layer.q.format())
    };
    let (t, f) = (Format::TERNARY, Format::F32);
    let only = |entry: &str| only(json!([entry, "lm_head"]));
    assert_eq!(only("lm_head"), (t, t, t));
    assert_eq!(only("up_proj"), (f, t, t));
    assert_eq!(only("model.layers.0.mlp"), (f, f, t));
    assert_eq!(only("model.layers.1"), (t, t, t));
    // Endings, and expressions for beginnings, as in transformers.
    for all in ["proj", "_proj", "model", r"model\.layers\.\d+", "model.layers.*", ""] {
        assert_eq!(only(all), (f, f, f), "{all}");
    }
    for mlp in [
        "model.layers.*.mlp",
        r"model\.layers\.\d+\.mlp",
        "model.layers.[01].mlp",
        ".*(up|down)_proj",
    ] {
        assert_eq!(only(mlp), (f, f, t), "{mlp}");
    }
    assert_eq!(only(".*self_attn"), (t, t, f));
    assert_eq!(only("model.embed_tokens"), (t, t, t));
}

/// A norm in each projection: as if its input had been normed before.
#[test]
fn projections_may_have_norms() {
    let with_norms = |kind: &str| {
        let mut edit = Edit::of("bitnet-packed-multiply");
        for i in 0..2 {
            for part in ["q", "k", "v", "o"] {
                let name = format!("model.layers.{i}.self_attn.{part}_proj.{kind}.weight");
                edit = edit.floats(&name, &[1.0; 256]);
            }
            for (part, n) in [("gate", 256), ("up", 256), ("down", 512)] {
                let name = format!("model.layers.{i}.mlp.{part}_proj.{kind}.weight");
                edit = edit.floats(&name, &vec![1.0; n]);
            }
        }
        edit
    };
    let mut flagged = with_norms("rms_norm");
    flagged.config["quantization_config"]["use_rms_norm"] = json!(true);
    let flagged = flagged.load().unwrap();
    let norm = flagged.decoder.layers[1].down.input_norm.clone().unwrap();
    assert_eq!((norm.weight.len(), norm.eps), (512, 1e-6));
    let own = with_norms("norm").load().unwrap();
    assert_eq!(own.decoder.layers[0].q.input_norm.as_ref().unwrap().eps, 1e-5);
    let plain = load(folder("bitnet-packed-multiply")).unwrap();
    let name = "bitnet-packed-multiply";
    let (a, b, c) = (logits(&flagged, name), logits(&own, name), logits(&plain, name));
    assert!(a != c && b != c, "norms of norms with weights");
    // By hand: a layer whose norm does nothing but scale by a power of two changes no code.
    let mut missing = Edit::of("bitnet-packed-multiply");
    missing.config["quantization_config"]["use_rms_norm"] = json!(true);
    let e = error(missing.load());
    let first = "model.layers.0.self_attn.q_proj.";
    assert!(matches!(&e, Error::MissingTensor { name } if name.starts_with(first)), "{e}");
}

/// 1bitLLM's names and class: masters, SiLU, other names of sub-norms.
#[test]
fn the_older_bitnet() {
    let rename = |n: &str| {
        n.replace("attn_sub_norm", "inner_attn_ln").replace("ffn_sub_norm", "ffn_layernorm")
    };
    let old = Edit::of("bitnet-online")
        .rename(rename)
        .unset("quantization_config")
        .set("model_type", json!("llama"))
        .set("architectures", json!(["BitnetForCausalLM"]));
    let old = old.load().unwrap();
    assert_eq!(old.config().architecture, "bitnet-b1.58");
    let name = "bitnet-online";
    assert_bits(name, &logits(&old, name), &logits(&load(folder(name)).unwrap(), name));
}

/// Llama with BitLinear (Llama3-8B-1.58, Falcon-E): no sub-norms, the scale divides.
#[test]
fn llama_with_bitlinear() {
    let llama = |packing: &str| {
        Edit::of(packing)
            .rename(|n| n.to_owned())
            .without("model.layers.0.self_attn.attn_sub_norm.weight")
            .without("model.layers.1.self_attn.attn_sub_norm.weight")
            .without("model.layers.0.mlp.ffn_sub_norm.weight")
            .without("model.layers.1.mlp.ffn_sub_norm.weight")
            .set("model_type", json!("llama"))
            .set("hidden_act", json!("silu"))
            .load()
            .unwrap()
    };
    let (divide, online) = (llama("bitnet-packed-divide"), llama("bitnet-online"));
    assert_eq!((divide.config().architecture.as_str(), divide.config().bitlinear), ("llama", true));
    let name = "bitnet-online";
    assert_bits("llama", &logits(&divide, name), &logits(&online, name));
}

#[test]
fn bitlinear_that_cannot_be() {
    let packed = || Edit::of("bitnet-packed-multiply");
    let scale = "model.layers.0.mlp.up_proj.weight_scale";
    let e = packed().without(scale).refused("model.safetensors");
    assert!(matches!(&e, Error::MissingTensor { name } if name == scale), "{e}");
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let e = packed()
            .change(scale, |t| t.data = value.to_le_bytes().to_vec())
            .refused("model.safetensors");
        assert!(matches!(&e, Error::BadTensor { tensor, .. } if tensor == scale), "{value}: {e}");
    }
    let e = packed()
        .change(scale, |t| {
            t.data.extend([0; 4]);
            t.shape = vec![2];
        })
        .refused("model.safetensors");
    assert!(matches!(&e, Error::ShapeMismatch { tensor, .. } if tensor == scale), "{e}");
    let e = packed().change(UP, |t| t.data[77] = 0b1100).refused("model.safetensors");
    match &e {
        Error::Tensor { tensor, source: KernelError::BadCode { row, col, byte, .. } } => {
            assert_eq!((tensor.as_str(), *row, *col, *byte), (UP, 128, 77, 0b1100));
        }
        e => panic!("{e}"),
    }
    // Not four rows to one.
    let e = error(
        packed()
            .change(UP, |t| {
                t.data.truncate(t.data.len() - 256);
                t.shape[0] -= 1;
            })
            .load(),
    );
    match e {
        Error::ShapeMismatch { tensor, expected, found } => {
            assert_eq!((tensor.as_str(), expected, found), (UP, vec![128, 256], vec![127, 256]));
        }
        e => panic!("{e}"),
    }
    // Bytes without a configuration that says what they are.
    let e = packed().unset("quantization_config").refused("model.safetensors");
    assert!(matches!(&e, Error::UnsupportedTensorType { found: "U8", .. }), "{e}");
    assert!(e.to_string().contains("quantization_config"), "{e}");
    // A scale beside weights that need none.
    let e =
        error(Edit::of("llama").floats("model.layers.0.mlp.up_proj.weight_scale", &[1.0]).load());
    assert!(matches!(e, Error::UnusedTensor { .. }), "{e}");
}

// ---- folders that are wrong ----

#[test]
fn files_that_are_missing_or_no_such_files() {
    let empty = tempfile::tempdir().unwrap();
    match error(load(empty.path())) {
        Error::NotAModel { folder, expected } => {
            assert_eq!((folder.as_path(), expected), (empty.path(), "config.json"));
        }
        e => panic!("{e}"),
    }
    let edit = Edit::of("llama");
    edit.write_config();
    let e = error(load(edit.path()));
    assert!(matches!(&e, Error::NotAModel { expected, .. } if expected.contains("index")), "{e}");
    std::fs::write(edit.file("pytorch_model.bin"), "x").unwrap();
    assert!(error(load(edit.path())).to_string().contains("pytorch_model.bin"));
    for text in ["", "{", "[]", "null"] {
        let edit = Edit::of("llama").write();
        std::fs::write(edit.file("config.json"), text).unwrap();
        let e = refused_in(edit.path(), "config.json");
        assert!(matches!(e, Error::BadJson { .. }), "{text}: {e}");
    }
    let whole = std::fs::read(folder("llama").join("model.safetensors")).unwrap();
    for len in (0..4000).step_by(97).chain([whole.len() / 2, whole.len() - 1]) {
        let edit = Edit::of("llama");
        edit.write_config();
        std::fs::write(edit.file("model.safetensors"), &whole[..len]).unwrap();
        match whole_error(load(edit.path())) {
            Error::InFile { path, source } => {
                assert!(path.ends_with("model.safetensors"));
                assert!(matches!(*source, Error::BadSafetensors { .. }), "{len}: {source}");
            }
            e => panic!("{len}: {e}"),
        }
    }
}

/// A header in which any one byte is another: an error or a model, never a panic or a large allocation.
#[test]
fn no_byte_of_a_header_is_trusted() {
    let whole = std::fs::read(folder("bitnet-packed-divide").join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let edit = Edit::of("bitnet-packed-divide");
    edit.write_config();
    let (mut loaded, mut refused) = (0, 0);
    for at in (0..header).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= [0x01, 0x80, 0x11][at % 3];
        std::fs::write(edit.file("model.safetensors"), bytes).unwrap();
        match load(edit.path()) {
            Ok(_) => loaded += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > loaded, "{loaded} and {refused}");
}

#[test]
fn tensors_that_are_missing_unknown_or_of_another_shape() {
    let names: Vec<String> = Edit::of("llama").tensors.iter().map(|t| t.name.clone()).collect();
    for name in &names {
        let e = error(Edit::of("llama").without(name).load());
        // Without a gate, up must be both in one.
        let gate = name.replace("gate_proj", "up_proj");
        let named = match &e {
            Error::MissingTensor { name: found } => found == name,
            Error::ShapeMismatch { tensor, .. } => name.contains("gate_proj") && *tensor == gate,
            _ => false,
        };
        assert!(named, "{name}: {e}");
        let e = error(
            Edit::of("llama")
                .change(name, |t| {
                    let row = t.data.len() / t.shape[0];
                    t.shape[0] -= 1;
                    t.data.truncate(t.data.len() - row);
                })
                .load(),
        );
        assert!(matches!(&e, Error::ShapeMismatch { tensor, .. } if tensor == name), "{name}: {e}");
    }
    let e = error(Edit::of("llama").floats("model.layers.0.adapter.weight", &[1.0]).load());
    assert!(matches!(&e, Error::UnusedTensor { tensor, .. } if tensor.contains("adapter")), "{e}");
    let e = error(Edit::of("llama").set("num_hidden_layers", json!(1)).load());
    assert!(matches!(&e, Error::UnusedTensor { tensor, .. } if tensor.contains("layers.1")), "{e}");
    let e = error(Edit::of("llama").set("num_hidden_layers", json!(3)).load());
    assert!(matches!(&e, Error::MissingTensor { name } if name.contains("layers.2")), "{e}");
    let e = error(Edit::of("llama").set("vocab_size", json!(129)).load());
    assert!(matches!(&e, Error::ShapeMismatch { expected, .. } if expected[0] == 129), "{e}");
}

#[test]
fn element_types_that_no_kernel_reads() {
    let name = "model.layers.0.mlp.up_proj.weight";
    for (dtype, bytes) in [(Dtype::F64, 8), (Dtype::I32, 4), (Dtype::U8, 1), (Dtype::I8, 1)] {
        let e = Edit::of("llama")
            .change(name, |t| {
                t.dtype = dtype;
                t.data = vec![0; t.data.len() / 4 * bytes];
            })
            .refused("model.safetensors");
        match e {
            Error::UnsupportedTensorType { tensor, known, .. } => {
                assert_eq!(tensor, name);
                assert!(known.contains("BF16"), "{known}");
            }
            e => panic!("{e}"),
        }
    }
}

#[test]
fn numbers_that_are_none() {
    for name in ["model.norm.weight", "model.layers.1.input_layernorm.weight"] {
        let e = Edit::of("llama")
            .change(name, |t| t.data[8..12].copy_from_slice(&f32::NAN.to_le_bytes()))
            .refused("model.safetensors");
        assert!(matches!(&e, Error::BadTensor { tensor, .. } if tensor == name), "{e}");
    }
    for (fixture, name) in [
        ("llama", "model.layers.1.mlp.down_proj.weight"),
        ("bitnet-online", "model.layers.1.mlp.down_proj.weight"),
    ] {
        let edit = Edit::of(fixture)
            .change(name, |t| t.data[400..404].copy_from_slice(&f32::INFINITY.to_le_bytes()))
            .write();
        let e = error(load(edit.path()));
        let found = matches!(e.cause(), Error::Tensor { tensor, source: KernelError::NotFinite { .. } }
            if tensor == name);
        assert!(found, "{fixture}: {e}");
    }
}

/// Requested formats apply as they do to files.
#[test]
fn formats_apply_to_folders() {
    for format in [Format::Q8_0, Format::F16, Format::TERNARY] {
        let model = load_as(folder("llama"), Some(format)).unwrap();
        let file = load_as(support::path("llama"), Some(format)).unwrap();
        assert_bits(format.name(), &logits(&model, "llama"), &logits(&file, "llama"));
        assert_eq!(model.decoder.layers[0].up.format(), format);
    }
}

// ---- tokenizers ----

#[test]
fn tokenizer_and_vocabulary_must_agree() {
    let edit = Edit::of("llama").write();
    let file = edit.file("tokenizer.json");
    let image = "<image_soft_token>";
    let save = |json: Value| std::fs::write(&file, json.to_string()).unwrap();
    let tokenizer = || Folder::open(edit.path()).unwrap().tokenizer();
    // Fewer tokens than rows, as many, and the control token of Gemma 3 that has no row.
    for (tokens, added) in [(100, vec![]), (128, vec![]), (128, vec![(128, image)])] {
        save(tokenizer_json(tokens, &added));
        assert_eq!(tokenizer().unwrap().vocab_size(), tokens + added.len());
        load(edit.path()).unwrap().tokenizer().unwrap();
    }
    save(tokenizer_json(130, &[]));
    match whole_error(tokenizer()) {
        Error::InFile { path, source } => {
            assert_eq!(path, file);
            let e = *source;
            let found = matches!(&e, Error::VocabularyMismatch { id: 128, token, vocab: 128 } if token == "t128");
            assert!(found, "{e}");
        }
        e => panic!("{e}"),
    }
    // Control tokens need a row as others do.
    save(tokenizer_json(128, &[(128, image), (129, "<end>")]));
    let e = error(tokenizer());
    let found = matches!(&e, Error::VocabularyMismatch { id: 129, token, .. } if token == "<end>");
    assert!(found, "{e}");
    // Ids that are not those that a text gets: the file's name, the token, both ids.
    let refused = |json: Value, words: &[&str]| {
        save(json);
        let e = whole_error(tokenizer());
        assert!(matches!(e.cause(), Error::BadTokenizer { .. }), "{e}");
        let text = e.to_string();
        for word in words.iter().chain(&[file.to_str().unwrap()]) {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
    };
    refused(tokenizer_json(120, &[(500, "<late>")]), &["<late>", "500", "120"]);
    refused(tokenizer_json(120, &[(121, "<a>"), (121, "<b>")]), &["121", "120", "<a>"]);
    refused(tokenizer_json(120, &[(120, "<a>"), (120, "<b>")]), &["<a>", "<b>", "120"]);
    refused(tokenizer_json(120, &[(7, "t9")]), &["t9", "7", "9"]);
    let mut json = tokenizer_json(120, &[]);
    json["model"]["vocab"]["other"] = json!(7);
    refused(json, &["t7", "other", "7"]);
    // The model can still be run by ids, and says why it has no tokenizer.
    save(tokenizer_json(130, &[]));
    let model = load(edit.path()).unwrap();
    let e = error(model.tokenizer());
    assert!(matches!(&e, Error::NoTokenizer { reason } if reason.contains("t128")), "{e}");
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(error(tokenizer()), Error::MissingTokenizer { .. }));
}

/// Where generation ends: `generation_config.json`, or else `config.json`, which may keep it in `text_config`.
#[test]
fn ends_of_a_generation() {
    let edit = Edit::of("llama").set("eos_token_id", json!([5, 3])).write();
    let save = |file: &str, json: Value| std::fs::write(edit.file(file), json.to_string()).unwrap();
    save("tokenizer.json", tokenizer_json(128, &[]));
    let tokenizer = || Folder::open(edit.path()).and_then(|f| f.tokenizer());
    let ends = || tokenizer().map(|t| (t.eos(), t.eog().to_vec())).unwrap();
    assert_eq!(ends(), (Some(5), vec![3, 5]));
    save("generation_config.json", json!({"eos_token_id": null}));
    assert_eq!(ends(), (Some(5), vec![3, 5]));
    save("generation_config.json", json!({"eos_token_id": 9}));
    assert_eq!(ends(), (Some(9), vec![9]));
    // The tokenizer's own comes first and ends a text too.
    save("tokenizer_config.json", json!({"eos_token": "t70"}));
    assert_eq!(ends(), (Some(70), vec![9, 70]));
    std::fs::remove_file(edit.file("tokenizer_config.json")).unwrap();
    let mut config = edit.config.clone();
    config.as_object_mut().unwrap().remove("eos_token_id");
    let set = |config: &Value| save("config.json", config.clone());
    set(&config);
    let refused = |file: &str, value: &Value, key: &str| {
        let e = whole_error(tokenizer());
        let named = matches!(&e, Error::InFile { path, .. } if *path == edit.file(file));
        assert!(named, "{value}: {e}");
        let found = match e.cause() {
            Error::WrongType { found, .. } => value.to_string().eq(found),
            Error::BadConfig { reason, .. } => reason.contains("vocabulary of 128 tokens"),
            _ => false,
        };
        assert!(found && e.to_string().contains(key), "{value}: {e}");
    };
    for value in [json!("x"), json!(-1), json!(1.5), json!([1, "x"]), json!(128), json!([1, 4000])]
    {
        save("generation_config.json", json!({"eos_token_id": value}));
        refused("generation_config.json", &value, "eos_token_id");
        std::fs::remove_file(edit.file("generation_config.json")).unwrap();
        config["eos_token_id"] = value.clone();
        set(&config);
        refused("config.json", &value, "eos_token_id");
        // A model without a tokenizer does not hide it.
        let e = whole_error(load(edit.path()));
        assert!(e.to_string().contains("config.json"), "{e}");
        config.as_object_mut().unwrap().remove("eos_token_id");
        config["text_config"] = json!({"eos_token_id": value});
        set(&config);
        refused("config.json", &value, "text_config.eos_token_id");
        config.as_object_mut().unwrap().remove("text_config");
        set(&config);
    }
    config["text_config"] = json!({"eos_token_id": 8});
    set(&config);
    assert_eq!(ends(), (Some(8), vec![8]));
    config.as_object_mut().unwrap().remove("text_config");
    set(&config);
    assert_eq!(ends(), (None, vec![]));
}
