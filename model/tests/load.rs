//! Files that are wrong or hostile: each is refused with an error that names what is wrong, and none takes
//! down the process, waits, or asks for absurd memory.

mod support;

use std::process::Command;

use support::{Draft, File, error, fixture, load, load_as, path};
use tritlab_kernels::{Error as KernelError, Format, backend};
use tritlab_model::gguf::{Array, Gguf, TensorType};
use tritlab_model::model::Role;
use tritlab_model::{Config, Error, Model, Options};

/// Tensors that a llama needs.
const NEEDED: [&str; 12] = [
    "token_embd.weight",
    "output_norm.weight",
    "blk.0.attn_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.0.attn_v.weight",
    "blk.0.attn_output.weight",
    "blk.0.ffn_norm.weight",
    "blk.0.ffn_gate.weight",
    "blk.0.ffn_up.weight",
    "blk.1.ffn_down.weight",
    "blk.1.attn_norm.weight",
];

fn llama() -> File {
    File::of("llama")
}

#[test]
fn a_missing_tensor_is_named() {
    for name in NEEDED {
        match error(llama().without(name).load()) {
            Error::MissingTensor { name: found } => assert_eq!(found, name),
            // Without a gate, `ffn_up` must be gate and up in one.
            Error::ShapeMismatch { tensor, .. } => {
                assert_eq!(
                    (name, tensor.as_str()),
                    ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
                )
            }
            e => panic!("{name}: {e}"),
        }
    }
    // An untied head is optional, norms of a family are not.
    assert!(llama().without("output.weight").load().unwrap().decoder.head.is_none());
    for name in ["blk.3.post_attention_norm.weight", "blk.6.post_ffw_norm.weight"] {
        let e = error(File::of("gemma3").without(name).load());
        assert!(matches!(&e, Error::MissingTensor { name: n } if n == name), "{e}");
    }
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    for name in NEEDED.into_iter().filter(|n| *n != "token_embd.weight") {
        let file = llama().change(name, |t| {
            // One row (of a vector: one element) fewer.
            *t.dims.last_mut().unwrap() -= 1;
            let row = if t.dims.len() == 2 { t.dims[0] as usize * 4 } else { 4 };
            t.data.truncate(t.data.len() - row);
        });
        match error(file.load()) {
            Error::ShapeMismatch { tensor, expected, found } => {
                assert_eq!(tensor, name);
                assert_ne!(expected, found);
            }
            e => panic!("{name}: {e}"),
        }
    }
    // Transposed: as many weights, another matrix.
    let e = error(llama().change("blk.0.ffn_gate.weight", |t| t.dims.reverse()).load());
    assert!(matches!(e, Error::ShapeMismatch { .. }), "{e}");
}

#[test]
fn a_tensor_without_a_place_is_refused() {
    for name in ["blk.0.attn_q.input_scale", "blk.0.attn_norm.bias", "token_embd.scale", "x"] {
        match error(llama().with(name, &[1], &[2.0]).load()) {
            Error::UnusedTensor { tensor, architecture } => {
                assert_eq!((tensor.as_str(), architecture.as_str()), (name, "llama"));
            }
            e => panic!("{name}: {e}"),
        }
    }
    // Layers that the count leaves out would be left out silently.
    let e = error(llama().set("llama.block_count", 1u32).load());
    assert!(
        matches!(&e, Error::UnusedTensor { tensor, .. } if tensor.starts_with("blk.1.")),
        "{e}"
    );
    // A bias of a linear layer has one, a factor on its products, and a norm of its inputs.
    llama().with("blk.0.attn_q.bias", &[128], &[0.5; 128]).load().unwrap();
    llama().with("blk.0.attn_q.scale", &[1], &[2.0]).load().unwrap();
    llama().with("blk.0.attn_q_norm_in.weight", &[96], &[2.0; 96]).load().unwrap();
}

#[test]
fn counts_that_cannot_be() {
    let refused = |file: File, key: &str| match error(file.load()) {
        Error::BadConfig { key: found, reason } => assert_eq!(found, key, "{reason}"),
        e => panic!("{key}: {e}"),
    };
    let sizes = [
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
    ];
    for key in sizes {
        for n in [0, 1 << 31, 4_000_000_000, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let file = llama().set(&format!("llama.{key}"), n);
            // A key length alone first contradicts the value length.
            let file =
                file.set("llama.attention.value_length", if key.contains("key") { n } else { 32 });
            match error(file.load()) {
                Error::BadConfig { key: found, .. } => {
                    assert_eq!(found, format!("llama.{key}"), "{n}")
                }
                e => panic!("{key} = {n}: {e}"),
            }
        }
    }
    // Per-layer data is not made before the count is checked.
    for n in [0u64, 4_000_000_000, u64::MAX] {
        refused(File::of("gemma3").set("gemma3.block_count", n), "gemma3.block_count");
    }
    refused(llama().set("llama.attention.head_count", 3u32), "llama.attention.head_count_kv");
    refused(llama().set("llama.attention.value_length", 16u32), "llama.attention.value_length");
    let per_layer = Array::from_u32(&[4, 2]);
    refused(llama().set("llama.attention.head_count", per_layer), "llama.attention.head_count");
    refused(
        llama().set("llama.attention.head_count", Array::from_u32(&[])),
        "llama.attention.head_count",
    );
    for eps in [-1e-5, f32::NAN, f32::INFINITY] {
        let key = "llama.attention.layer_norm_rms_epsilon";
        refused(llama().set(key, eps), key);
    }
    for cap in [-1.0, f32::NAN, f32::INFINITY] {
        let key = "gemma3.final_logit_softcapping";
        refused(File::of("gemma3").set(key, cap), key);
    }
    refused(
        File::of("gemma3").set("gemma3.attention.sliding_window", 0u32),
        "gemma3.attention.sliding_window",
    );
    refused(
        File::of("gemma3")
            .set("gemma3.attention.sliding_window_pattern", Array::from_u32(&[1, 0, 1])),
        "gemma3.attention.sliding_window_pattern",
    );
    refused(llama().set("llama.hidden_activation", "swoosh"), "llama.hidden_activation");
    // Plausible, but not what the tensors are.
    let e = error(llama().set("llama.block_count", 3u32).load());
    assert!(matches!(&e, Error::MissingTensor { name } if name.starts_with("blk.2.")), "{e}");
    let e = error(llama().set("llama.attention.head_count", 8u32).load());
    assert!(matches!(e, Error::ShapeMismatch { .. }), "{e}");
}

/// The context a model states is no allocation.
#[test]
fn an_absurd_context_length_is_only_a_number() {
    let model = llama().set("llama.context_length", u64::MAX >> 1).load().unwrap();
    assert_eq!(model.config().context as u64, u64::MAX >> 1);
}

#[test]
fn keys_that_are_missing_or_of_another_type() {
    for key in [
        "general.architecture",
        "llama.embedding_length",
        "llama.block_count",
        "llama.attention.head_count",
        "llama.feed_forward_length",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let e = error(llama().unset(key).load());
        assert!(matches!(&e, Error::MissingKey { key: found } if found == key), "{e}");
        let e = error(llama().set(key, true).load());
        assert!(matches!(&e, Error::WrongType { key: found, .. } if found == key), "{e}");
    }
    let e = error(llama().set("llama.block_count", -2i32).load());
    assert!(matches!(e, Error::WrongType { .. }), "{e}");
}

#[test]
fn an_unknown_architecture_is_named_with_the_known_ones() {
    match error(llama().set("general.architecture", "mamba").load()) {
        Error::UnsupportedArchitecture { name, known } => {
            assert_eq!(name, "mamba");
            assert!(known.contains("llama") && known.contains("bitnet-b1.58"), "{known}");
        }
        e => panic!("{e}"),
    }
}

#[test]
fn types_without_a_kernel_are_named() {
    for ty in [TensorType::IQ4_XS, TensorType::IQ2_XXS, TensorType::Q1_0, TensorType::MXFP4] {
        let layout = ty.layout();
        let file = File::of("bitnet-gguf-tq2_0").change("blk.1.ffn_down.weight", |t| {
            t.ty = ty;
            t.data = vec![0; (t.dims[0] / layout.block * layout.bytes * t.dims[1]) as usize];
        });
        match error(file.load()) {
            Error::UnsupportedTensorType { tensor, found, .. } => {
                assert_eq!((tensor.as_str(), found), ("blk.1.ffn_down.weight", ty.name()));
            }
            e => panic!("{e}"),
        }
    }
}

#[test]
fn norms_must_be_numbers() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in ["output_norm.weight", "blk.1.ffn_norm.weight", "rope_freqs.weight"] {
            match error(llama().poke(name, 5, value).load()) {
                Error::BadTensor { tensor, reason } => {
                    assert_eq!(tensor, name);
                    assert!(reason.contains('5'), "{reason}");
                }
                e => panic!("{e}"),
            }
        }
    }
}

/// Infinite weights would become plausible int8 answers: they are refused at load, kept or re-quantised, in
/// every place.
#[test]
fn weights_must_be_numbers() {
    let refused = |file: &File, format, name: &str| match error(file.load_as(format)) {
        Error::Tensor { tensor, source: KernelError::NotFinite { .. } } => assert_eq!(tensor, name),
        e => panic!("{name}: {e}"),
    };
    for value in [f32::NAN, f32::INFINITY] {
        for name in ["token_embd.weight", "output.weight", "blk.1.ffn_down.weight"] {
            refused(&llama().poke(name, 4321, value), None, name);
        }
        for format in [Format::Q8_0, Format::TERNARY, Format::F16] {
            let name = "blk.0.attn_q.weight";
            refused(&llama().poke(name, 77, value), Some(format), name);
        }
    }
    // Fused tensors name the part.
    let file = File::of("phi3-short").poke("blk.0.attn_qkv.weight", 128 * 130, f32::NAN);
    refused(&file, None, "blk.0.attn_qkv.weight[1]");
    // 16-bit elements and block scales: infinity, and a NaN with the lowest mantissa bit.
    let name = "blk.1.attn_output.weight";
    for (format, block, at, bits) in [
        (Format::F16, 2, 0, [0x7c00u16, 0xfc01]),
        (Format::BF16, 2, 0, [0x7f80, 0xff81]),
        (Format::Q8_0, 34, 0, [0x7c00, 0xfc01]),
        (Format::Q4_0, 18, 0, [0x7c00, 0xfc01]),
        (Format::Q4_1, 20, 0, [0x7c00, 0xfc01]),
        (Format::Q4_1, 20, 2, [0x7c00, 0xfc01]),
    ] {
        for bits in bits {
            let file = llama().store(name, format);
            file.load().unwrap();
            let at = 7 * block + at;
            let file =
                file.change(name, |t| t.data[at..at + 2].copy_from_slice(&bits.to_le_bytes()));
            refused(&file, None, name);
            refused(&file, Some(Format::Q8_0), name);
        }
    }
    let name = "blk.0.ffn_up.weight";
    let file = File::of("bitnet-gguf-tq2_0")
        .change(name, |t| t.data[66 * 9 + 64..66 * 9 + 66].copy_from_slice(&[0, 0x7c]));
    refused(&file, None, name);
}

/// Finite in the file, infinite in f16: refused as what it is.
#[test]
fn a_weight_that_a_format_cannot_hold_is_named() {
    let name = "blk.0.ffn_gate.weight";
    let file = llama().poke(name, 11, 70_000.0);
    file.load().unwrap();
    for (file, format, place) in
        [(&file, Format::F16, 11), (&llama().poke(name, 11, 1e9), Format::Q4_0, 0)]
    {
        let e = error(file.load_as(Some(format)));
        let overflow = KernelError::ScaleOverflow { format: format.name(), block: place };
        let found = matches!(&e, Error::Tensor { tensor, source }
            if tensor == name && *source == overflow);
        assert!(found, "{e}");
    }
}

/// Weights that are finite but so large that products overflow: an error when it happens, at the latest
/// where a softmax would hide it.
#[test]
fn overflow_on_the_way_is_an_error() {
    for name in [
        "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",
        "blk.0.attn_v.weight",
        "blk.0.ffn_up.weight",
        "blk.1.ffn_down.weight",
        "output.weight",
    ] {
        let file = llama().change(name, |t| {
            for w in t.data.as_chunks_mut::<4>().0 {
                *w = f32::MAX.to_le_bytes();
            }
        });
        let model = file.load().unwrap();
        let mut cache = tritlab_model::Cache::new(model.config(), 8);
        let result = model.decoder.last_logits(&mut cache, &[1, 2, 3]);
        let e = error(result);
        assert!(matches!(e, Error::Kernel(KernelError::NotFinite { .. })), "{name}: {e}");
    }
}

#[test]
fn a_format_that_does_not_fit_names_the_tensor() {
    match error(load_as(path("llama"), Some(Format::TQ2_0))) {
        Error::Tensor { tensor, source: KernelError::Columns { cols: 96, block: 256, .. } } => {
            assert_eq!(tensor, "blk.0.attn_q.weight");
        }
        e => panic!("{e}"),
    }
    let options = Options { head: Some(Format::TQ2_0), ..Options::default() };
    match error(Model::load(path("llama"), options, &mut |_, _, _| true)) {
        Error::Tensor { tensor, .. } => assert_eq!(tensor, "token_embd.weight"),
        e => panic!("{e}"),
    }
}

/// Every prefix of a model is refused: at every size in the header, and some hundred in the data.
#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let whole = std::fs::read(path("llama")).unwrap();
    let gguf = Gguf::from_bytes(whole.clone()).unwrap();
    let data: u64 = gguf.tensors().iter().map(|t| t.nbytes()).sum();
    let header = whole.len() - data as usize;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.gguf");
    let ends = gguf.tensors().iter().map(|t| t.offset() + t.nbytes()).max().unwrap();
    let last = header.max(whole.len() - 31).min(whole.len() - 1);
    for len in (0..header + 64).step_by(7).chain((header..last).step_by(4093)) {
        std::fs::write(&file, &whole[..len]).unwrap();
        match error(load(&file)) {
            Error::Truncated { .. } | Error::TooMany { .. } => {}
            e => panic!("{len} of {} bytes ({ends} of data): {e}", whole.len()),
        }
    }
    let e = error(load(folder.path().join("absent.gguf")));
    assert!(matches!(&e, Error::Io { path, .. } if path.ends_with("absent.gguf")), "{e}");
    let e = error(load(folder.path()));
    assert!(matches!(e, Error::NotAModel { .. }), "a folder: {e}");
}

/// A header in which any one byte is another: an error or a model, never a panic.
#[test]
fn no_byte_of_the_header_is_trusted() {
    let whole = std::fs::read(path("llama")).unwrap();
    let header = whole.len()
        - Gguf::from_bytes(whole.clone()).unwrap().tensors().iter().map(|t| t.nbytes()).sum::<u64>()
            as usize;
    let (mut loaded, mut refused) = (0, 0);
    for at in (0..header).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= [0x01, 0x80, 0xff][at % 3];
        match Gguf::from_bytes(bytes).and_then(|g| Config::from_gguf(&g)) {
            Ok(_) => loaded += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(loaded > 0 && refused > 0, "{loaded} and {refused}");
}

#[test]
fn a_load_can_be_cancelled_anywhere() {
    let mut names = Vec::new();
    let mut counts = Vec::new();
    Model::load(path("phi3-short"), Options::default(), &mut |done, all, name| {
        names.push(name.to_owned());
        counts.push((done, all));
        true
    })
    .unwrap();
    assert!(counts.iter().all(|(done, all)| done < all), "{counts:?}");
    assert!(counts.windows(2).all(|w| w[0].0 < w[1].0), "{counts:?}");
    assert_eq!(names[0], "token_embd.weight");
    for stop in 0..names.len() {
        let mut calls = 0;
        let result = Model::load(path("phi3-short"), Options::default(), &mut |_, _, _| {
            calls += 1;
            calls <= stop
        });
        let e = error(result);
        assert!(matches!(e, Error::Cancelled), "{e}");
        assert_eq!(calls, stop + 1);
    }
}

#[test]
fn the_report_is_the_model() {
    let model = load_as(path("llama"), Some(Format::Q4_0)).unwrap();
    let linear: Vec<_> = model.tensors.iter().filter(|t| t.role == Role::Linear).collect();
    assert_eq!(linear.len(), 2 * 7);
    for t in &linear {
        assert_eq!((t.file_type, t.format), ("F32", "Q4_0"), "{}", t.name);
        assert_eq!(t.nbytes * 8, t.params() * 9 / 2, "{}", t.name);
        assert!((0.02..0.2).contains(&t.rel_error), "{}: {}", t.name, t.rel_error);
    }
    for t in model.tensors.iter().filter(|t| t.role != Role::Linear) {
        assert_eq!((t.format, t.rel_error), ("F32", 0.0), "{}", t.name);
    }
    let all: usize = model.tensors.iter().map(|t| t.nbytes).sum();
    assert_eq!(model.bytes_per_token(), all - 128 * 96 * 4, "the embedding is looked up");
    // BitNet's weights are kept exactly, in BitNet's own form.
    let model = fixture("bitnet-gguf-tq2_0");
    let linear = model.tensors.iter().filter(|t| t.role == Role::Linear);
    assert!(linear.clone().count() == 14);
    assert!(linear.into_iter().all(|t| t.format == "TERNARY" && t.rel_error == 0.0));
}

/// TQ2_0 that is not one scale throughout is not BitNet's form, and is kept as it is.
#[test]
fn ternary_blocks_with_several_scales_stay_blocks() {
    let name = "blk.0.ffn_up.weight";
    let double = |t: &mut Draft| {
        let d = half::f16::from_le_bytes([t.data[64], t.data[65]]).to_f32() * 2.0;
        t.data[64..66].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    };
    let model = File::of("bitnet-gguf-tq2_0").change(name, double).load().unwrap();
    let kept = model.tensors.iter().filter(|t| t.format == "TQ2_0").map(|t| t.name.as_str());
    assert_eq!(kept.collect::<Vec<_>>(), [name]);
    model.logits(&[1, 2, 3]).unwrap();
}

/// A backend of another architecture, which no CPU that runs this test has.
const FOREIGN: &str = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };

#[test]
fn a_forced_backend_that_the_cpu_lacks_is_refused() {
    let _settings = support::Settings::hold();
    match backend::force(Some(FOREIGN)) {
        Err(KernelError::BackendUnavailable { name, available }) => {
            assert_eq!(name, FOREIGN);
            assert!(available.contains("portable"), "{available}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(backend::force(Some("gpu")), Err(KernelError::UnknownBackend { .. })));
    // What was in force stays in force.
    load(path("llama")).unwrap();
}

/// The same by the environment, which is read once per process: this test runs itself again.
#[test]
fn a_backend_forced_by_the_environment_is_refused_before_the_work() {
    const CHILD: &str = "TRITLAB_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let result = Model::load(path("llama"), Options::default(), &mut |_, _, _| {
            panic!("a tensor was read")
        });
        println!("refused: {}", error(result));
        return;
    }
    // An emulator need not be able to start programs.
    let again = || Command::new(std::env::current_exe().unwrap());
    if !again().arg("--list").output().is_ok_and(|list| list.status.success()) {
        support::say("**** TRITLAB_BACKEND WAS NOT CHECKED: no child process can be started ****");
        return;
    }
    let name = "a_backend_forced_by_the_environment_is_refused_before_the_work";
    for (value, says) in [(FOREIGN, "this CPU lacks it"), ("gpu", "unknown backend")] {
        let child = again()
            .args(["--exact", name, "--nocapture"])
            .env("TRITLAB_BACKEND", value)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("refused: "), "{value}: {text}");
        assert!(text.contains(says) && text.contains(value), "{value}: {text}");
    }
}
