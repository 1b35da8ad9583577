//! Every key and every tensor of every fixture, left out or made something else, in files and in folders: the
//! message names the file and the key or tensor, or the model loads because its family has a default.

mod support;

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value as Json, json};
use support::edit::Edit;
use support::{FIXTURES, FOLDERS, File, folder, load};
use tritlab_model::gguf::{Array, TensorType, Value};
use tritlab_model::{Model, Result};

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
const UNREAD: [&str; 5] = [
    "general.file_type",
    "general.quantization_version",
    "general.type",
    "vocab_size",
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
const IGNORED: [&str; 7] = [
    "architectures[0]",
    "bos_token_id",
    "pad_token_id",
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
