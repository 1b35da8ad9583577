//! Every key and every tensor of every fixture, left out or made something else, in files and in folders: the
//! message names the file and the key or tensor, or the model loads because its family has a default.

mod support;

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value as Json, json};
use support::edit::{Edit, refused_in};
use support::{FIXTURES, FOLDERS, File, error, folder, load, whole_error};
use tritlab_model::gguf::{Array, Gguf, TensorType, Value};
use tritlab_model::{Error, Model, Result};

/// Fails unless the message has the file and one of the names; returns whether the model was refused.
#[track_caller]
fn named(what: &str, result: &Result<Model>, file: &Path, names: &[&str]) -> bool {
    let Err(e) = result else { return false };
    let text = e.to_string();
    assert!(text.starts_with(&*file.to_string_lossy()), "{what}: no file in: {text}");
    let found = names.iter().any(|name| text.contains(name));
    assert!(found, "{what}: none of {names:?} is in: {text}");
    true
}

/// The last part of a dotted key.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

// ---- GGUF ----

/// Keys that a model is not made of.
const UNREAD: [&str; 4] = [
    "general.file_type",
    "general.quantization_version",
    "general.type",
    "tokenizer.ggml.model", // of the tokenizer, which a model can be without
];

#[test]
fn keys_of_files() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    for fixture in FIXTURES {
        let whole = File::of(fixture);
        let tensors: Vec<&str> = whole.tensors.iter().map(|t| t.name.as_str()).collect();
        for (key, old) in &whole.keys {
            let put = |value: Option<Value<'static>>| {
                let file = whole.clone();
                let file = match value {
                    Some(value) => file.set(key, value),
                    None => file.unset(key),
                };
                std::fs::write(&path, file.bytes()).unwrap();
                load(&path)
            };
            let what = format!("{fixture}: {key}");
            let unread = UNREAD.iter().any(|name| key.ends_with(name));
            // Without a key that a default stands for, a tensor may show that it was another.
            let mut names = tensors.clone();
            names.extend([last(key), "blk.2.", "blk.7."]);
            let refused = named(&what, &put(None), &path, &names);
            if unread {
                assert!(!refused, "{what} is not needed");
                continue;
            }
            // Of another type: never taken for what it is not.
            let is_text = matches!(old, Value::String(_));
            let text = if is_text { Value::from(7u32) } else { Value::from("x") };
            for wrong in [text, Array::from_strings(["a", "b"]).into(), Value::F32(f32::NAN)] {
                let what = format!("{what} = {wrong}");
                let result = put(Some(wrong));
                assert!(named(&what, &result, &path, &[key]), "{what} was taken");
            }
            // Of its type, and another number.
            if let Some(n) = old.as_integer() {
                for wrong in [0, n + 1, 4 * n + 7, 1 << 40] {
                    names.push(key);
                    named(&what, &put(Some(Value::I64(wrong as i64))), &path, &names);
                }
                assert!(named(&what, &put(Some(Value::I64(-1))), &path, &[key]), "{what} = -1");
            }
        }
    }
}

#[test]
fn tensors_of_files() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    // A tied head, and the angles of a model that scales none.
    let optional = ["output.weight", "rope_freqs.weight"];
    for fixture in FIXTURES {
        let whole = File::of(fixture);
        let check = |what: &str, file: File, names: &[&str]| {
            std::fs::write(&path, file.bytes()).unwrap();
            named(&format!("{fixture}: {what}"), &load(&path), &path, names)
        };
        for tensor in &whole.tensors {
            let name = tensor.name.as_str();
            // The width of the vocabulary is that of the embedding, which another tensor then contradicts.
            let names: &[&str] =
                if name == "token_embd.weight" { &[name, "output.weight"] } else { &[name] };
            let refused = check(name, whole.clone().without(name), names);
            assert!(refused || optional.contains(&name), "{fixture} without {name}");
            let shorter = whole.clone().change(name, |t| {
                let rows = t.dims.last_mut().unwrap();
                t.data.truncate(t.data.len() / *rows as usize * (*rows as usize - 1));
                *rows -= 1;
            });
            let refused = check(&format!("{name}, one row less"), shorter, names);
            assert!(refused || name == "token_embd.weight", "{fixture}: {name}, one row less");
            let other = whole.clone().change(name, |t| {
                t.ty = TensorType::I8;
                t.data = vec![1; t.dims.iter().product::<u64>() as usize];
            });
            assert!(check(&format!("{name} in I8"), other, &[name]), "{fixture}: {name} in I8");
        }
        let bytes = whole.bytes();
        for len in [0, 3, 20, bytes.len() / 3, bytes.len() - 40] {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(named("truncated", &load(&path), &path, &["truncated", "too many"]));
        }
    }
}

// ---- folders ----

/// Keys that the classes have and no model is made of.
const IGNORED: [&str; 5] = [
    "architectures[0]",
    "max_window_layers", // of windows that are not used
    "attn_implementation",
    "torch_dtype",
    "transformers_version",
];

/// Every key of an object and of those in it, with dots between.
fn keys(object: &Json, before: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (key, value) in object.as_object().unwrap() {
        all.push(format!("{before}{key}"));
        if value.is_object() {
            all.extend(keys(value, &format!("{before}{key}.")));
        }
    }
    all
}

fn put(config: &Json, key: &str, value: Option<Json>) -> Json {
    let mut config = config.clone();
    let mut at = &mut config;
    let parts: Vec<&str> = key.split('.').collect();
    for part in &parts[..parts.len() - 1] {
        at = &mut at[*part];
    }
    let object = at.as_object_mut().unwrap();
    match value {
        Some(value) => object.insert(last(key).to_owned(), value),
        None => object.remove(last(key)),
    };
    config
}

#[test]
fn keys_of_folders() {
    for fixture in FOLDERS {
        let edit = Edit::of(fixture).write();
        let (path, file) = (edit.path(), edit.file("config.json"));
        let mut tensors: Vec<&str> = edit.tensors.iter().map(|t| t.name.as_str()).collect();
        // Of a bias or a layer that a key promises.
        tensors.extend([".bias", "layers.2.", "layers.7."]);
        for key in keys(&edit.config, "") {
            let with = |value: Option<Json>| {
                std::fs::write(&file, put(&edit.config, &key, value).to_string()).unwrap();
                load(path)
            };
            let what = format!("{fixture}: {key}");
            let result = with(None);
            if named(&what, &result, path, &[&[last(&key)], &tensors[..]].concat()) {
                let text = result.unwrap_err().to_string();
                assert!(text.contains(last(&key)), "{what}: the key is not in: {text}");
            }
            if IGNORED.contains(&key.as_str()) {
                continue;
            }
            for wrong in [json!({"a": [1]}), json!([[1]]), json!("no such word")] {
                let what = format!("{what} = {wrong}");
                let result = with(Some(wrong));
                let optional = key == "architectures" || key.ends_with("rope_scaling");
                let refused = named(&what, &result, &file, &[last(&key)]);
                assert!(refused || optional, "{what} was taken");
            }
            for other in [json!(-1), json!(0), json!(1.5), json!(7), json!(1e15), json!(true)] {
                let what = format!("{what} = {other}");
                named(&what, &with(Some(other)), path, &[&[last(&key)], &tensors[..]].concat());
            }
        }
    }
}

#[test]
fn tensors_of_folders() {
    for fixture in FOLDERS {
        let whole = Edit::of(fixture).write();
        let file = whole.file("model.safetensors");
        let check = |what: &str, edit: Edit, name: &str| {
            whole.save("model.safetensors", &edit.tensors);
            let refused = named(&format!("{fixture}: {what}"), &load(whole.path()), &file, &[name]);
            assert!(refused, "{fixture}: {what}");
        };
        for tensor in &whole.tensors {
            let name = tensor.name.as_str();
            check(name, Edit::of(fixture).without(name), name);
            let shorter = Edit::of(fixture).change(name, |t| {
                t.data.truncate(t.data.len() / t.shape[0] * (t.shape[0] - 1));
                t.shape[0] -= 1;
            });
            check(&format!("{name}, one row less"), shorter, name);
            let other = Edit::of(fixture).change(name, |t| {
                t.dtype = Dtype::F64;
                t.data = vec![1; t.shape.iter().product::<usize>() * 8];
            });
            check(&format!("{name} in F64"), other, name);
        }
        let bytes = std::fs::read(folder(fixture).join("model.safetensors")).unwrap();
        for len in [0, 7, 200, bytes.len() / 3, bytes.len() - 1] {
            std::fs::write(&file, &bytes[..len]).unwrap();
            assert!(named("truncated", &load(whole.path()), &file, &["safetensors file: "]));
        }
    }
}

/// What the library of safetensors only says of a file is said of a tensor.
#[test]
fn descriptions_of_tensors_in_folders() {
    let whole = Edit::of("llama").write();
    let file = whole.file("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    for (key, value) in [
        ("dtype", json!("F33")),
        ("dtype", json!("F16")),
        ("shape", json!([3, 5])),
        ("shape", json!([1u64 << 40, 1u64 << 40])),
        ("shape", json!("all")),
        ("data_offsets", json!([8, 4])),
        ("data_offsets", json!(null)),
    ] {
        let mut changed = header.clone();
        changed[name][key] = value.clone();
        let changed = changed.to_string();
        let mut out = (changed.len() as u64).to_le_bytes().to_vec();
        out.extend(changed.as_bytes());
        out.extend(&bytes[8 + length..]);
        std::fs::write(&file, out).unwrap();
        let result = load(whole.path());
        assert!(named(&format!("{key} {value}"), &result, &file, &[name]), "{key} {value}");
    }
}

// ---- what is found, as it stands in the file ----

/// The two shapes, and the whole message.
#[track_caller]
fn shapes(result: Result<Model>) -> ([Vec<u64>; 2], String) {
    let e = whole_error(result);
    let text = e.to_string();
    match error::<()>(Err(e)) {
        Error::ShapeMismatch { expected, found, .. } => ([expected, found], text),
        e => panic!("{e}"),
    }
}

#[test]
fn shapes_are_those_of_the_file() {
    // Four rows of codes in one of bytes.
    let name = "model.layers.0.self_attn.q_proj.weight";
    let packed = Edit::of("bitnet-packed-multiply").change(name, |t| {
        assert_eq!(t.shape, [64, 256]);
        t.shape[0] = 63;
        t.data.truncate(63 * 256);
    });
    let (found, text) = shapes(packed.load());
    assert_eq!(found, [vec![64, 256], vec![63, 256]], "{text}");

    // One dimension and three where there should be two, with as many elements.
    let name = "model.layers.1.self_attn.q_proj.weight";
    for shape in [vec![128 * 96], vec![1, 128, 96], vec![128, 96, 1]] {
        let edit = Edit::of("llama").change(name, |t| t.shape = shape.clone());
        let (found, text) = shapes(edit.load());
        let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        assert_eq!(found, [vec![128, 96], shape], "{text}");
    }
    let norm = "model.layers.1.input_layernorm.weight";
    let (found, _) = shapes(Edit::of("llama").change(norm, |t| t.shape = vec![1, 96]).load());
    assert_eq!(found, [vec![96], vec![1, 96]]);

    // GGUF writes the columns first, and knows no leading ones.
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let of = |dims: &[u64]| {
        let file = File::of("llama").change("blk.0.ffn_up.weight", |t| t.dims = dims.to_vec());
        std::fs::write(&path, file.bytes()).unwrap();
        load(&path)
    };
    of(&[96, 160, 1]).unwrap();
    for (dims, said) in [
        (&[96, 10, 16][..], vec![16, 10, 96]),
        (&[160, 96], vec![96, 160]),
        (&[96 * 160], vec![96 * 160]),
    ] {
        let (found, text) = shapes(of(dims));
        assert_eq!(found, [vec![160, 96], said], "{text}");
    }
}

#[test]
fn assumed_sizes_are_those_that_matter() {
    let less = |name: &str, edit: Edit, axis: usize| {
        let edit = edit.change(name, |t| {
            let size = t.data.len() / t.shape.iter().product::<usize>();
            t.shape[axis] -= 1;
            t.data.truncate(t.shape.iter().product::<usize>() * size);
        });
        shapes(edit.load()).1
    };
    let (q, up) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight");
    let bare = || Edit::of("bitnet-online"); // it states everything but head_dim
    assert!(less(q, bare(), 0).contains("`head_dim` = 64"));
    for (name, axis) in [(q, 1), (up, 0), (up, 1)] {
        let text = less(name, bare(), axis);
        assert!(!text.contains("does not state"), "{name}, axis {axis}: {text}");
    }
    let whole = whole_error(bare().without(up).load()).to_string();
    assert!(!whole.contains("does not state"), "{whole}");
}

#[test]
fn element_types_have_their_names() {
    let name = "model.layers.0.mlp.up_proj.weight";
    for (dtype, said, bits) in [
        (Dtype::F8_E4M3, "F8_E4M3", 8),
        (Dtype::F8_E5M2, "F8_E5M2", 8),
        (Dtype::F8_E8M0, "F8_E8M0", 8),
        (Dtype::F4, "F4", 4),
        (Dtype::C64, "C64", 64),
        (Dtype::BOOL, "BOOL", 8),
    ] {
        let edit = Edit::of("llama").change(name, |t| {
            t.dtype = dtype;
            t.data = vec![0; t.shape.iter().product::<usize>() * bits / 8];
        });
        match edit.refused("model.safetensors") {
            Error::UnsupportedTensorType { found, .. } => assert_eq!(found, said),
            e => panic!("{said}: {e}"),
        }
    }
}

// ---- ids with a role ----

/// They are read where a model is loaded, with a tokenizer or without.
#[test]
fn ids_of_folders() {
    for key in ["eos_token_id", "bos_token_id", "pad_token_id"] {
        for value in [json!("x"), json!(-2), json!(1.5), json!({}), json!(128), json!(1u64 << 40)] {
            let edit = Edit::of("llama").set(key, value.clone()).write();
            let e = refused_in(edit.path(), "config.json");
            assert!(e.to_string().contains(key), "{value}: {e}");
            let edit = Edit::of("llama").write();
            let file = "generation_config.json";
            std::fs::write(edit.file(file), json!({key: value}).to_string()).unwrap();
            let e = refused_in(edit.path(), file);
            assert!(e.to_string().contains(key), "{value}: {e}");
        }
    }
    let edit = Edit::of("llama").write();
    let file = edit.file("generation_config.json");
    for text in ["", "{", "[]", "null", "{\"eos_token_id\": 2"] {
        std::fs::write(&file, text).unwrap();
        let e = refused_in(edit.path(), "generation_config.json");
        assert!(matches!(e, Error::BadJson { .. }), "{text}: {e}");
    }
    // What files have that mean no padding.
    for id in [json!(-1), json!(null)] {
        std::fs::write(&file, json!({"pad_token_id": id}).to_string()).unwrap();
        load(edit.path()).unwrap();
    }
}

#[test]
fn ids_of_files() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let with = |key: &str, value: Value<'static>| {
        std::fs::write(&path, File::of("llama").set(key, value).bytes()).unwrap();
        load(&path)
    };
    for role in ["bos", "eos", "eot", "eom", "padding"] {
        let key = &format!("tokenizer.ggml.{role}_token_id");
        for value in [Value::from("x"), Value::F32(1.0), Value::U32(128), Value::I64(-2)] {
            let what = format!("{key} = {value}");
            assert!(named(&what, &with(key, value), &path, &[key]), "{what} was taken");
        }
        with(key, Value::U16(127)).unwrap();
    }
    for none in [Value::I32(-1), Value::U32(u32::MAX)] {
        with("tokenizer.ggml.padding_token_id", none).unwrap();
    }
}

// ---- zeros ----

#[test]
fn contexts_of_no_length() {
    for (fixture, key) in [
        ("llama", "max_position_embeddings"),
        ("phi3-long", "original_max_position_embeddings"),
        ("llama", "rope_scaling.original_max_position_embeddings"),
        ("phi3-long", "rope_scaling.factor"),
        ("gemma3", "rope_scaling.factor"),
        ("phi3-long", "rope_scaling.attention_factor"),
    ] {
        let edit = Edit::of(fixture).write();
        let config = put(&edit.config, key, Some(json!(0)));
        std::fs::write(edit.file("config.json"), config.to_string()).unwrap();
        match refused_in(edit.path(), "config.json") {
            Error::BadConfig { key: found, .. } => assert_eq!(found, key),
            e => panic!("{fixture}: {key}: {e}"),
        }
    }
    for (fixture, key) in [
        ("llama", "llama.context_length"),
        ("phi3-long", "phi3.context_length"),
        ("phi3-long", "phi3.rope.scaling.original_context_length"),
    ] {
        let gguf = Gguf::from_bytes(File::of(fixture).set(key, 0u32).bytes()).unwrap();
        match error(tritlab_model::Config::from_gguf(&gguf)) {
            Error::BadConfig { key: found, reason } => {
                assert_eq!((found.as_str(), reason.as_str()), (key, "it is 0"));
            }
            e => panic!("{key}: {e}"),
        }
    }
}

// ---- what stands in for a file ----

#[test]
fn pointers_and_pages_are_called_what_they_are() {
    const POINTER: &str =
        "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n";
    const PAGE: &str = "\n<!DOCTYPE html>\n<html><title>Sign in</title></html>";
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    for (text, said) in [(POINTER, "Git LFS pointer, not the file itself"), (PAGE, "HTML")] {
        let check = |e: Error, file: &Path| {
            let message = e.to_string();
            assert!(matches!(e.cause(), Error::StandIn { .. }), "{e}");
            assert!(message.contains(said) && message.contains(file.to_str().unwrap()), "{e}");
        };
        std::fs::write(&path, text).unwrap();
        check(whole_error(load(&path)), &path);
        for name in ["model.safetensors", "config.json", "generation_config.json"] {
            let edit = Edit::of("llama").write();
            std::fs::write(edit.file(name), text).unwrap();
            check(whole_error(load(edit.path())), &edit.file(name));
        }
        let edit = Edit::of("llama").write_shards();
        let shard = edit.file("model-00002-of-00002.safetensors");
        std::fs::write(&shard, text).unwrap();
        check(whole_error(load(edit.path())), &shard);
        let index = edit.file("model.safetensors.index.json");
        std::fs::write(&index, text).unwrap();
        check(whole_error(load(edit.path())), &index);
        // A tokenizer is not needed to load, and is asked for by name.
        let edit = Edit::of("llama").write();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            if name != "tokenizer.json" {
                let json = support::tokenizer_json(100, &[]).to_string();
                std::fs::write(edit.file("tokenizer.json"), json).unwrap();
            }
            std::fs::write(edit.file(name), text).unwrap();
            let e = whole_error(load(edit.path()).unwrap().tokenizer().map(drop)).to_string();
            assert!(e.contains(said) && e.contains(name), "{e}");
        }
    }
}

// ---- tokenizers ----

/// Nothing of a file that is cut short reaches the library that would panic on it.
#[test]
fn truncated_tokenizers() {
    let panicked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (seen, me) = (panicked.clone(), std::thread::current().id());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == me {
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        before(info);
    }));
    let edit = Edit::of("llama").write();
    let file = edit.file("tokenizer.json");
    let whole = support::tokenizer_json(100, &[(100, "<end>")]).to_string();
    for len in (0..whole.len()).step_by(7) {
        std::fs::write(&file, &whole[..len]).unwrap();
        let e = whole_error(load(edit.path()).unwrap().tokenizer().map(drop)).to_string();
        assert!(e.contains(file.to_str().unwrap()), "{len}: {e}");
    }
    assert!(!panicked.load(std::sync::atomic::Ordering::SeqCst));
    std::fs::write(&file, whole).unwrap();
    assert_eq!(load(edit.path()).unwrap().tokenizer().unwrap().vocab_size(), 101);
}

/// What `tokenizer_config.json` says is of the vocabulary, and of the types that its readers take.
#[test]
fn settings_of_tokenizers() {
    let edit = Edit::of("llama").write();
    let json = support::tokenizer_json(100, &[(100, "<end>")]).to_string();
    std::fs::write(edit.file("tokenizer.json"), json).unwrap();
    let file = edit.file("tokenizer_config.json");
    let with = |key: &str, value: &Json| {
        std::fs::write(&file, json!({key: value}).to_string()).unwrap();
        load(edit.path()).unwrap().tokenizer().map(drop)
    };
    for (key, values) in [
        (
            "bos_token",
            vec![json!("<s>"), json!(""), json!(7), json!({"id": 7}), json!({"content": 7})],
        ),
        ("eos_token", vec![json!("</s>"), json!({"content": "</s>"}), json!(["t1"])]),
        ("add_bos_token", vec![json!("yes"), json!(1)]),
        ("add_eos_token", vec![json!("no"), json!([])]),
        ("chat_template", vec![json!(1), json!(["x"]), json!([{"name": "default"}])]),
    ] {
        for value in values {
            let e = whole_error(with(key, &value)).to_string();
            assert!(e.contains(file.to_str().unwrap()) && e.contains(key), "{value}: {e}");
        }
    }
    for (key, value) in [
        ("bos_token", json!("t7")),
        ("bos_token", json!(null)),
        ("eos_token", json!({"content": "<end>", "lstrip": false})),
        // `true` would contradict tokenizer.json.
        ("add_bos_token", json!(false)),
        ("chat_template", json!([{"name": "default", "template": "x"}])),
        ("chat_template", json!([])),
    ] {
        with(key, &value).unwrap();
    }
}

#[test]
fn tokens_that_no_text_is_made_of() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let refused = |file: File, words: &[&str]| {
        std::fs::write(&path, file.bytes()).unwrap();
        let e = whole_error(load(&path).unwrap().tokenizer().map(drop)).to_string();
        for word in words.iter().chain(&[path.to_str().unwrap()]) {
            assert!(e.contains(word), "{word} is not in: {e}");
        }
    };
    let of =
        |key: &str, value: Array<'static>| File::of("llama").with_tokenizer(true).set(key, value);
    let same = Array::from_strings(vec!["th"; 128]);
    let same = of("tokenizer.ggml.tokens", same)
        .set("tokenizer.ggml.merges", Array::from_strings([""; 0]));
    refused(same, &["all 128 tokens are \"th\""]);
    for (kind, said) in [
        (0, "128 unused or of no type"),
        (2, "128 unknown"),
        (3, "128 are control"),
        (5, "128 unused"),
    ] {
        let kinds = Array::from_i32(&[kind; 128]);
        refused(of("tokenizer.ggml.token_type", kinds), &["none of the 128 tokens is text", said]);
    }
}
