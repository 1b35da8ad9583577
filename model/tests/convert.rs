//! Folders to GGUF files and back: against fixtures that exist in both forms, made by other programs.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::edit::Edit;
use support::{FOLDERS, File, assert_bits, error, expected, folder, load, path, tokenizer_json};
use tritlab_kernels::{Format, Packing};
use tritlab_model::convert::convert;
use tritlab_model::gguf::{Array, Gguf, TensorType};
use tritlab_model::quantize::{Recipe, quantize_gguf};
use tritlab_model::tokenizer::Tokenizer;
use tritlab_model::verify::models;
use tritlab_model::{Config, Error};

/// Fixtures in both forms.
const BOTH: [&str; 5] = ["llama", "qwen3", "phi3-short", "phi3-long", "gemma3"];

fn quiet(from: impl AsRef<Path>, to: impl AsRef<Path>) -> tritlab_model::Result<()> {
    convert(from, to, Packing::I2_S, true, &mut |_, _, _| true).map(|_| ())
}

fn tensors(folder: &Path) -> Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut out: Vec<_> = all
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, t.dtype(), t.shape().to_vec(), t.data().to_vec()))
        .collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

/// The same tensors under the same names with the same bits, and no key that says something else.
#[test]
fn a_folder_becomes_the_file_that_another_program_made() {
    for name in BOTH {
        let temporary = tempfile::tempdir().unwrap();
        let to = temporary.path().join("out.gguf");
        quiet(folder(name), &to).unwrap();
        let (ours, theirs) = (Gguf::open(&to).unwrap(), Gguf::open(path(name)).unwrap());
        for t in theirs.tensors() {
            let o = ours.tensor(t.name()).unwrap_or_else(|| panic!("{name}: no {}", t.name()));
            assert_eq!((o.dims(), o.tensor_type()), (t.dims(), t.tensor_type()), "{}", t.name());
            assert_eq!(ours.data(o), theirs.data(t), "{name}: {}", t.name());
        }
        assert_eq!(ours.tensors().len(), theirs.tensors().len(), "{name}");
        for (key, value) in theirs.metadata().iter().filter(|(k, _)| *k != "general.name") {
            // Widths of integers differ; what is read does not.
            let found = ours.metadata().get(key).unwrap_or_else(|| panic!("{name}: no {key}"));
            let same = match (value.as_number(), found.as_number()) {
                (Some(a), Some(b)) => a == b,
                _ => value == found,
            };
            assert!(same, "{name}: {key} is {found}, not {value}");
        }
        let (a, b) = (Config::from_gguf(&ours).unwrap(), Config::from_gguf(&theirs).unwrap());
        assert_eq!(Config { name: None, ..a }, Config { name: None, ..b }, "{name}");
    }
}

#[test]
fn a_file_becomes_the_folder_that_another_program_made() {
    for name in BOTH {
        let temporary = tempfile::tempdir().unwrap();
        let to = temporary.path().join("out");
        quiet(path(name), &to).unwrap();
        let (ours, theirs) = (tensors(&to), tensors(&folder(name)));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (o, t) in ours.iter().zip(&theirs) {
            assert_eq!((&o.0, o.1, &o.2), (&t.0, t.1, &t.2), "{name}");
            // GGUF has rounded Gemma's 1 + w, so the last bits of w are gone: the sum is what comes back.
            let sum = |data: &[u8]| -> Vec<f32> {
                data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b) + 1.0).collect()
            };
            let norm = name == "gemma3" && o.0.ends_with("norm.weight");
            assert!(if norm { sum(&o.3) == sum(&t.3) } else { o.3 == t.3 }, "{name}: {}", o.0);
        }
        let config = |folder: &Path| {
            Config::from_hugging_face(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(config(&to), config(&folder(name)), "{name}");
    }
}

/// BitLinear: codes and scales keep their bits, so do the answers.
#[test]
fn bitnet_goes_both_ways() {
    for name in FOLDERS.into_iter().filter(|n| n.starts_with("bitnet")) {
        let temporary = tempfile::tempdir().unwrap();
        let (file, back) = (temporary.path().join("out.gguf"), temporary.path().join("back"));
        quiet(folder(name), &file).unwrap();
        quiet(&file, &back).unwrap();
        let ids = expected(name).ids;
        let logits = load(folder(name)).unwrap().logits(&ids).unwrap();
        assert_bits(name, &load(&file).unwrap().logits(&ids).unwrap(), &logits);
        assert_bits(name, &load(&back).unwrap().logits(&ids).unwrap(), &logits);
        // Scales are as they are read, which may be the stored ones' neighbours.
        for (a, b) in tensors(&back).iter().zip(tensors(&folder("bitnet-packed-multiply"))) {
            assert_eq!((&a.0, a.1, &a.2), (&b.0, b.1, &b.2));
            assert!(a.0.ends_with("_scale") || a.3 == b.3, "{name}: {}", a.0);
        }
    }
}

/// Files of another program, with any scale an f16 can be: the weights come back through a folder bit for bit, also
/// where no inverse is such a number.
#[test]
fn scales_of_other_programs_come_back() {
    for name in ["bitnet-gguf-tq2_0", "bitnet-gguf-tq1_0"] {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let mut file = File::of(name);
        // 1/(1/s) is not s for many of these.
        let mut next = half::f16::from_f32(0.0123).to_bits();
        for t in file.tensors.iter_mut().filter(|t| t.ty.name().starts_with("TQ")) {
            let block = t.ty.layout().bytes as usize;
            next += 37;
            for block in t.data.chunks_exact_mut(block) {
                let d = block.len() - 2;
                if block[d..] != [0, 0] {
                    block[d..].copy_from_slice(&next.to_le_bytes());
                }
            }
        }
        file.write(&at("in.gguf"));
        for source in [path(name), at("in.gguf")] {
            quiet(&source, at("folder")).unwrap();
            quiet(at("folder"), at("back.gguf")).unwrap();
            for other in ["folder", "back.gguf"] {
                let report = models(&source, at(other), 0.0, Packing::I2_S, &mut |_, _, _| true);
                assert_eq!(report.unwrap().difference, None, "{name}: {other}");
                let ids = expected(name).ids;
                let logits = |path: &Path| load(path).unwrap().logits(&ids).unwrap();
                assert_bits(other, &logits(&at(other)), &logits(&source));
            }
            std::fs::remove_dir_all(at("folder")).unwrap();
        }
    }
}

#[test]
fn destinations_that_make_no_sense() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    std::fs::copy(path("llama"), at("in.gguf")).unwrap();
    std::fs::copy(path("llama"), at("other")).unwrap();
    let before = std::fs::read(at("in.gguf")).unwrap();
    for (from, to, word) in [
        (at("in.gguf"), at("out.gguf"), "quantize"),
        (at("in.gguf"), at("in.gguf"), "to be converted"),
        (at("in.gguf"), at("other"), "quantize"),
        (folder("llama"), folder("llama"), "to be converted"),
    ] {
        let e = error(quiet(&from, &to));
        assert!(matches!(&e, Error::BadDestination { path, .. } if *path == to), "{e}");
        assert!(e.to_string().contains(word), "{e}");
    }
    assert_eq!(std::fs::read(at("in.gguf")).unwrap(), before);
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 2);
    // A folder that is not there is named, and no temporary file's name.
    for (from, to) in [(path("llama"), at("no/out")), (folder("llama"), at("no/out.gguf"))] {
        let text = error(quiet(&from, &to)).to_string();
        assert!(text.contains(at("no").to_str().unwrap()) && !text.contains(".tritlab-"), "{text}");
    }
}

/// 16-bit weights stay, biases are reordered with their rows, coded weights come out as the numbers they are.
#[test]
fn other_types_and_biases() {
    let temporary = tempfile::tempdir().unwrap();
    let (file, to) = (temporary.path().join("in.gguf"), temporary.path().join("out"));
    let bias: Vec<f32> = (0..128).map(|i| i as f32 / 64.0 - 1.0).collect();
    let mut changed = File::of("llama")
        .store("blk.0.attn_q.weight", Format::F16)
        .store("blk.1.ffn_up.weight", Format::BF16)
        .store("blk.1.ffn_down.weight", Format::Q4_0);
    for i in 0..2 {
        for (part, rows) in [("q", 128), ("k", 64), ("v", 64), ("output", 96)] {
            let name = format!("blk.{i}.attn_{part}.bias");
            changed = changed.with(&name, &[rows], &bias[..rows as usize]);
        }
    }
    changed.write(&file);
    quiet(&file, &to).unwrap();
    let ids = expected("llama").ids;
    let own = load(&file).unwrap();
    // What a folder cannot hold in four bits it holds exactly in 32: the same weights, not the same product.
    let dequantized = tensors(&to).into_iter().find(|t| t.0.ends_with("1.mlp.down_proj.weight"));
    let gguf = Gguf::open(&file).unwrap();
    let q4 = tritlab_model::source::matrix(
        &gguf,
        gguf.tensor("blk.1.ffn_down.weight").unwrap(),
        Packing::I2_S,
    );
    let numbers = tritlab_kernels::Weights::dequantize(&q4.unwrap());
    let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(dequantized.unwrap().3 == bytes);
    // Back again, everything but that matrix is as it was.
    let back = temporary.path().join("back.gguf");
    quiet(&to, &back).unwrap();
    let back = Gguf::open(&back).unwrap();
    for t in gguf.tensors().iter().filter(|t| t.tensor_type() != TensorType::Q4_0) {
        let b = back.tensor(t.name()).unwrap();
        assert_eq!(b.tensor_type(), t.tensor_type(), "{}", t.name());
        assert!(back.data(b) == gguf.data(t), "{}", t.name());
    }
    let model = load(&to).unwrap();
    assert_eq!(model.logits(&ids).unwrap().len(), own.logits(&ids).unwrap().len());
}

#[test]
fn what_has_no_word_on_the_other_side_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("in.gguf");
    let to = temporary.path().join("out");
    let refused = |f: &File| {
        f.write(&file);
        let e = error(quiet(&file, &to));
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1, "nothing is left");
        e
    };
    let divisors: Vec<f32> = (0..16).map(|i| 1.0 + i as f32).collect();
    let llama = || File::of("llama").without("rope_freqs.weight");
    let e = refused(&llama().with("rope_freqs.weight", &[16], &divisors));
    assert!(matches!(&e, Error::BadConfig { key, .. } if key == "rope_freqs.weight"), "{e}");
    let e = refused(&llama().with("blk.0.attn_q.scale", &[1], &[2.0]));
    assert!(matches!(&e, Error::BadTensor { tensor, .. } if tensor == "blk.0.attn_q.scale"), "{e}");
    let e = refused(&llama().with("blk.0.adapter.weight", &[1], &[2.0]));
    assert!(matches!(e, Error::UnusedTensor { .. }), "{e}");
    // Nothing is overwritten, and nothing is left of a cancelled run.
    let e = error(quiet(path("llama"), temporary.path()));
    assert!(matches!(e, Error::Io { .. }), "{e}");
    for (from, to) in
        [(path("llama"), to.clone()), (folder("llama"), temporary.path().join("a.gguf"))]
    {
        for stop in [0, 5] {
            let e = error(convert(&from, &to, Packing::I2_S, false, &mut |done, _, _| done < stop));
            assert!(matches!(e, Error::Cancelled), "{e}");
            assert!(!to.exists() && std::fs::read_dir(temporary.path()).unwrap().count() == 1);
        }
    }
}

// ---- tokenizers ----

/// Gives a vocabulary-only file the tensors of a model with as many rows: a whole model with a real
/// tokenizer.
fn with_vocabulary(name: &str, to: &Path) -> Vec<String> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vocab");
    let packed = std::fs::read(data.join(format!("{name}.gguf.gz"))).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut bytes).unwrap();
    let vocabulary = Gguf::from_bytes(bytes).unwrap();
    let mut file = File::of("llama").without("output.weight");
    let rows = vocabulary.metadata().require::<Array>("tokenizer.ggml.tokens").unwrap().len();
    file = file.set("llama.vocab_size", rows as u32);
    for (key, value) in vocabulary.metadata().iter().filter(|(k, _)| k.starts_with("tokenizer.")) {
        file = file.set(key, value.into_owned());
    }
    file.change("token_embd.weight", |t| {
        t.dims[1] = rows as u64;
        t.data = vec![0; rows * 96 * 4];
    })
    .write(to);
    let inputs = std::fs::read_to_string(data.join("strings.txt")).unwrap();
    inputs.split("\n__ggml_vocab_test__\n").map(str::to_owned).collect()
}

#[track_caller]
fn assert_same_tokenizer(name: &str, own: &Tokenizer, other: &Tokenizer, texts: &[String]) {
    assert_eq!((own.bos(), own.eos()), (other.bos(), other.eos()), "{name}");
    assert_eq!(own.eog(), other.eog(), "{name}");
    for text in texts {
        for special in [false, true] {
            let ids = own.encode(text, special, special).unwrap();
            let got = other.encode(text, special, special).unwrap();
            assert_eq!(got, ids, "{name}: {text:?}");
            let (a, b) = (own.decode(&ids, true).unwrap(), other.decode(&ids, true).unwrap());
            assert_eq!(a, b, "{name}: {text:?}");
        }
    }
}

/// Tables to `tokenizer.json`, to tables and the file itself: all of them encode alike.
#[test]
fn tokenizers_go_both_ways() {
    for name in ["llama-bpe", "qwen2"] {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let texts = with_vocabulary(name, &at("in.gguf"));
        quiet(at("in.gguf"), at("folder")).unwrap();
        quiet(at("folder"), at("back.gguf")).unwrap();
        // What other programs read: the tables alone.
        let back = Gguf::open(at("back.gguf")).unwrap();
        let mut tables = tritlab_model::gguf::Writer::new();
        for (key, value) in
            back.metadata().iter().filter(|(k, _)| *k != "tokenizer.huggingface.json")
        {
            tables.set(key, value).unwrap();
        }
        let mut bytes = Vec::new();
        tables.write_to(&mut bytes, |_, _| Ok::<_, std::io::Error>(())).unwrap();
        let from = |gguf: &Gguf| Tokenizer::from_gguf(gguf).unwrap();
        let tables = from(&Gguf::from_bytes(bytes).unwrap());
        let own = from(&Gguf::open(at("in.gguf")).unwrap());
        let folder = Tokenizer::from_folder(at("folder")).unwrap();
        for other in [&folder, &from(&back), &tables] {
            assert_eq!(own.vocab_size(), other.vocab_size(), "{name}");
            assert_same_tokenizer(name, &own, other, &texts);
        }
    }
}

/// SentencePiece's tables to `tokenizer.json`: a folder, and a file made of it, encode alike.
#[test]
fn sentencepiece_tokenizers_go_into_folders() {
    for name in ["llama-spm", "phi-3"] {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let texts = with_vocabulary(name, &at("in.gguf"));
        quiet(at("in.gguf"), at("folder")).unwrap();
        quiet(at("folder"), at("back.gguf")).unwrap();
        let from = |path| {
            let gguf = Gguf::open(path).unwrap();
            Tokenizer::from_gguf(&gguf).unwrap()
        };
        let own = from(at("in.gguf"));
        let folder = Tokenizer::from_folder(at("folder")).unwrap();
        for other in [&folder, &from(at("back.gguf"))] {
            assert_same_tokenizer(name, &own, other, &texts);
            // The unknown token is one where special tokens are asked for, and text elsewhere.
            for parse in [true, false] {
                let ids = |of: &Tokenizer| of.encode("a <unk>b", true, parse).unwrap();
                assert_eq!(ids(other), ids(&own), "{name}: <unk>, {parse}");
                assert_eq!(ids(&own).contains(&0), parse, "{name}");
            }
        }
    }
}

/// GGUF has one eps; norms of a layer's own inputs with another are not quietly given it.
#[test]
fn norms_of_inputs_with_their_own_eps_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let mut edit = Edit::of("bitnet-packed-multiply");
    edit.config["quantization_config"]["use_rms_norm"] = json!(true);
    for i in 0..2 {
        for (part, n) in [
            ("self_attn.q_proj", 256),
            ("self_attn.k_proj", 256),
            ("self_attn.v_proj", 256),
            ("self_attn.o_proj", 256),
            ("mlp.gate_proj", 256),
            ("mlp.up_proj", 256),
            ("mlp.down_proj", 512),
        ] {
            edit = edit.floats(&format!("model.layers.{i}.{part}.rms_norm.weight"), &vec![1.0; n]);
        }
    }
    let edit = edit.write();
    let e = quiet(edit.folder.path(), temporary.path().join("out.gguf")).unwrap_err();
    assert!(e.to_string().contains("quantization_config.rms_norm_eps"), "{e}");
    assert!(e.to_string().contains("1e-5") || e.to_string().contains("0.00001"), "{e}");
    assert!(!temporary.path().join("out.gguf").exists());
}

/// There and back, what both forms can hold is what it was: ids with a role, windows, the bits of scales and how
/// they are meant.
#[test]
fn a_folder_comes_back_as_it_was() {
    let keys = [
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sliding_window",
        "max_position_embeddings",
        "tie_word_embeddings",
    ];
    for name in FOLDERS {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let mut edit = Edit::of(name);
        // Scales of every kind of rounding: of some, the inverse of the inverse is a neighbour.
        let mut next = 0.0123f32;
        for t in edit.tensors.iter_mut().filter(|t| t.name.ends_with(".weight_scale")) {
            next *= 1.37;
            t.data = next.to_le_bytes().to_vec();
        }
        let edit = edit
            .set("bos_token_id", json!(3))
            .set("eos_token_id", json!([7, 4, 9]))
            .set("pad_token_id", json!(5))
            .write();
        quiet(edit.path(), at("a.gguf")).unwrap();
        quiet(at("a.gguf"), at("back")).unwrap();
        let config = |folder: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
        };
        let (own, back) = (config(edit.path()), config(&at("back")));
        for key in keys.iter().filter(|key| !own[**key].is_null()) {
            assert_eq!(own[*key], back[*key], "{name}: {key}");
        }
        if name.starts_with("bitnet-packed") {
            let class = |config: &Value| {
                let class = &config["quantization_config"]["linear_class"];
                class.as_str().unwrap_or("bitlinear").to_owned()
            };
            assert_eq!(class(&own), class(&back), "{name}");
            assert!(back["quantization_config"]["exact_weight_scale"].is_null(), "{name}");
            assert!(tensors(edit.path()) == tensors(&at("back")), "{name}");
        }
        // The file that the second folder makes is the first one.
        quiet(at("back"), at("b.gguf")).unwrap();
        let (a, b) = (Gguf::open(at("a.gguf")).unwrap(), Gguf::open(at("b.gguf")).unwrap());
        for (key, value) in a.metadata().iter().filter(|(k, _)| *k != "general.name") {
            assert_eq!(b.metadata().get(key), Some(value), "{name}: {key}");
        }
        for t in a.tensors() {
            let other = b.tensor(t.name()).unwrap();
            assert!(a.data(t) == b.data(other), "{name}: {}", t.name());
        }
    }
}

/// GGUF has keys for three ids that end a text; a fourth is not quietly left out.
#[test]
fn ends_that_have_no_key_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let edit = Edit::of("llama").set("eos_token_id", json!([2, 3, 4, 5])).write();
    for file in ["config.json", "generation_config.json"] {
        let e = quiet(edit.path(), temporary.path().join("a.gguf")).unwrap_err();
        assert!(matches!(e.cause(), Error::BadConfig { key, .. } if key == "eos_token_id"), "{e}");
        assert!(matches!(&e, Error::InFile { path, .. } if *path == edit.file(file)), "{e}");
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
        let json = json!({"eos_token_id": [2, 3, 4, 5]}).to_string();
        std::fs::write(edit.file("generation_config.json"), json).unwrap();
    }
}

#[test]
fn nothing_is_replaced_unasked() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    std::fs::write(at("a.gguf"), "mine").unwrap();
    std::fs::create_dir(at("taken")).unwrap();
    let run = |to: &Path, force: bool| {
        convert(folder("llama"), to, Packing::I2_S, force, &mut |_, _, _| true).map(|_| ())
    };
    let exists = |result: tritlab_model::Result<()>, file: &Path| match result {
        Err(Error::Io { path, source }) => {
            assert_eq!(path, file);
            assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists);
            source.to_string()
        }
        other => panic!("{other:?}"),
    };
    assert!(exists(run(&at("a.gguf"), false), &at("a.gguf")).contains("force"));
    assert_eq!(std::fs::read(at("a.gguf")).unwrap(), b"mine");
    for force in [false, true] {
        exists(run(&at("taken"), force), &at("taken"));
    }
    run(&at("a.gguf"), true).unwrap();
    load(at("a.gguf")).unwrap();
    for force in [false, true] {
        let back = convert(at("a.gguf"), at("taken"), Packing::I2_S, force, &mut |_, _, _| true);
        exists(back.map(|_| ()), &at("taken"));
    }
}

/// What GGUF has no key for is refused by the name that it has in the folder: without it, it is another model, whose
/// weights are the same.
#[test]
fn what_gguf_has_no_key_for() {
    let temporary = tempfile::tempdir().unwrap();
    let to = temporary.path().join("out.gguf");
    let refused = |edit: Edit, key: &str| {
        let edit = edit.write();
        load(edit.path()).unwrap_or_else(|e| panic!("{key}: it runs as a folder: {e}"));
        let recipe = Recipe::new(Format::Q4_0);
        let quantized = quantize_gguf(edit.path(), &to, &recipe, &mut |_, _, _| true).map(drop);
        for result in [quiet(edit.path(), &to), quantized] {
            match result.unwrap_err() {
                Error::InFile { path, source } => {
                    assert_eq!(path, edit.file("config.json"), "{source}");
                    let found =
                        matches!(&*source, Error::BadConfig { key: found, .. } if found == key);
                    assert!(found, "{key}: {source}");
                }
                e => panic!("{key}: no file is named: {e}"),
            }
            assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
        }
    };
    let (relu, gelu, silu) = ("relu2", "gelu_pytorch_tanh", "silu");
    for (fixture, key, names) in [
        ("llama", "hidden_act", [relu, gelu]),
        ("qwen3", "hidden_act", [relu, gelu]),
        ("phi3-short", "hidden_act", [relu, gelu]),
        ("gemma3", "hidden_activation", [relu, silu]),
        ("bitnet-online", "hidden_act", [gelu, gelu]),
    ] {
        for name in names {
            refused(Edit::of(fixture).set(key, json!(name)), key);
        }
    }
    let factors = vec![2.0; 16];
    let long = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors});
    for local in [
        json!({"rope_type": "linear", "factor": 8.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        long,
    ] {
        let edit = Edit::of("gemma3").set("rope_parameters", json!({"sliding_attention": local}));
        refused(edit, "rope_parameters.sliding_attention");
    }
    let mut inside = Edit::of("gemma3").set("query_pre_attn_scalar", json!(48));
    refused(Edit { config: inside.config.clone(), ..Edit::of("gemma3") }, "query_pre_attn_scalar");
    inside.config = json!({"model_type": "gemma3", "text_config": inside.config});
    refused(inside, "text_config.query_pre_attn_scalar");
}

/// The same of what a GGUF file states and the classes of `transformers` do not read.
#[test]
fn what_folders_have_no_key_for() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    for (fixture, key) in [
        ("gemma3", "gemma3.attn_logit_softcapping"),
        ("gemma3", "gemma3.rope.scaling.attn_factor"),
        ("llama", "llama.rope.scaling.attn_factor"),
    ] {
        File::of(fixture).set(key, 1.5f32).write(&at("in.gguf"));
        load(at("in.gguf")).unwrap();
        match quiet(at("in.gguf"), at("out")).unwrap_err() {
            Error::InFile { path, source } => {
                assert_eq!(path, at("in.gguf"));
                let found =
                    matches!(&*source, Error::BadConfig { key: found, .. } if *found == key);
                assert!(found, "{key}: {source}");
            }
            e => panic!("{key}: {e}"),
        }
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1);
    }
}

/// Ids with a role that only one of the files beside a tokenizer states; and no id that only a name makes one.
#[test]
fn ids_beside_a_tokenizer_come_back() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    let edit = Edit::of("llama").set("bos_token_id", json!(3)).write();
    let save = |name: &str, json: Value| std::fs::write(edit.file(name), json.to_string()).unwrap();
    save("tokenizer.json", tokenizer_json(120, &[(120, "<|im_end|>"), (121, "<pad>")]));
    save("tokenizer_config.json", json!({"pad_token": "<pad>"}));
    save("generation_config.json", json!({"eos_token_id": [5, 120, 9]}));
    quiet(edit.path(), at("a.gguf")).unwrap();
    let gguf = Gguf::open(at("a.gguf")).unwrap();
    for (role, id) in [("bos", 3), ("eos", 5), ("eot", 9), ("eom", 120), ("padding", 121)] {
        let found: u32 =
            gguf.metadata().require(&format!("tokenizer.ggml.{role}_token_id")).unwrap();
        assert_eq!(found, id, "{role}");
    }
    quiet(at("a.gguf"), at("back")).unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(at("back").join(name)).unwrap()).unwrap()
    };
    let generation = read("generation_config.json");
    assert_eq!(
        generation,
        json!({"bos_token_id": 3, "eos_token_id": [5, 9, 120], "pad_token_id": 121})
    );
    assert_eq!(read("tokenizer_config.json")["pad_token"], "<pad>");
    let tokenizers = [edit.path(), &at("back")].map(|f| Tokenizer::from_folder(f).unwrap());
    let [own, back] = &tokenizers;
    assert_eq!((own.bos(), own.eos(), own.eog()), (Some(3), Some(5), &[5, 9, 120][..]));
    assert_same_tokenizer("back", own, back, &["t1t2 <|im_end|>".to_owned()]);
    // What only a name says is not stated afterwards.
    save("generation_config.json", json!({"eos_token_id": 5}));
    std::fs::remove_dir_all(at("back")).unwrap();
    quiet(edit.path(), at("a.gguf")).unwrap();
    quiet(at("a.gguf"), at("back")).unwrap();
    assert_eq!(read("generation_config.json")["eos_token_id"], 5);
}
