//! Observers, chat templates without Python, importance matrices, and caches in f16 on every backend.

mod support;

use serde_json::json;
use support::{File, assert_bits, error, fixture, ids};
use tritlab_kernels::op::CacheType;
use tritlab_kernels::{Backend, Format, backend};
use tritlab_model::chat::{Chat, ChatTemplate, special_of_folder, template_of_folder};
use tritlab_model::imatrix::Imatrix;
use tritlab_model::quantize::{Recipe, quantize_gguf};
use tritlab_model::{Cache, Error, Model, Options};

const MODELS: [&str; 5] = ["llama", "qwen3", "phi3-short", "gemma3", "bitnet-gguf-tq2_0"];

fn nothing(_: usize, _: &mut [f32]) -> tritlab_model::Result<()> {
    Ok(())
}

/// An f16 cache gives the oracle's bits, however the sequence is cut.
fn f16_caches_have_one_answer(at: Backend) {
    for name in MODELS {
        let model = fixture(name);
        let ids = ids(45, 100);
        let run = |cuts: &[usize]| {
            let mut cache = Cache::with_type(model.config(), ids.len(), CacheType::F16);
            let mut out = Vec::new();
            let mut from = 0;
            for &to in cuts {
                out.extend(model.decoder.hidden(&mut cache, &ids[from..to]).unwrap());
                from = to;
            }
            out
        };
        let whole = run(&[45]);
        assert_bits(&format!("{name}, in parts"), &run(&[1, 2, 18, 45]), &whole);
        backend::force(Some("oracle")).unwrap();
        let expected = run(&[45]);
        backend::force(Some(at.name())).unwrap();
        assert_bits(&format!("{name} on {at}"), &whole, &expected);
    }
}

/// What is looked at is what is computed, on every backend.
fn looking_changes_nothing(_: Backend) {
    for name in MODELS {
        let model = fixture(name);
        let ids = ids(40, 100);
        let expected = model.logits(&ids).unwrap();
        let seen = model.logits_with(&ids, &mut nothing).unwrap();
        assert_bits(name, &seen, &expected);
        let all: Vec<String> = model.capture_names();
        let captured = model.capture(&ids, &all, &mut nothing).unwrap();
        let names: Vec<&String> = captured.iter().map(|c| &c.name).collect();
        assert_eq!(names, all.iter().collect::<Vec<_>>(), "in the order of the names");
        for c in &captured {
            assert_eq!(c.data.len(), c.shape.iter().product::<usize>(), "{}", c.name);
        }
        let last = captured.last().unwrap();
        assert_bits(name, &model.decoder.logits(&last.data).unwrap(), &expected);
        // Softmax rows: 1 in all over what the query sees, 0 elsewhere.
        for c in captured.iter().filter(|c| c.name.ends_with("attention")) {
            let layer: usize = c.name.split('.').nth(1).unwrap().parse().unwrap();
            let window = model.config().window(layer).unwrap_or(ids.len());
            for (r, row) in c.data.chunks_exact(ids.len()).enumerate() {
                let t = r % ids.len();
                let seen = (t + 1).saturating_sub(window)..t + 1;
                let sum: f32 = row[seen.clone()].iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "{} {r}: {sum}", c.name);
                let outside = row.iter().enumerate().filter(|(j, _)| !seen.contains(j));
                assert!(outside.into_iter().all(|(_, w)| *w == 0.0), "{} {r}", c.name);
            }
        }
    }
}

on_every_backend!(f16_caches_have_one_answer, looking_changes_nothing);

#[test]
fn a_layer_is_replaced() {
    let model = fixture("llama");
    let ids = ids(9, 128);
    let mut negate = |layer: usize, x: &mut [f32]| {
        if layer == 0 {
            x.iter_mut().for_each(|x| *x = -*x);
        }
        Ok(())
    };
    let plain = model.capture(&ids, &["blk.0".into()], &mut nothing).unwrap();
    let changed = model.capture(&ids, &["blk.0".into()], &mut negate).unwrap();
    let negated: Vec<f32> = plain[0].data.iter().map(|x| -x).collect();
    assert_bits("blk.0", &changed[0].data, &negated);
    assert_ne!(model.logits_with(&ids, &mut negate).unwrap(), model.logits(&ids).unwrap());
    let stop = error(model.logits_with(&ids, &mut |_, _| Err(Error::Cancelled)));
    assert!(matches!(stop, Error::Cancelled));
    for name in ["blk.2.attn_x.input", "blk", "*.x", "blk.*.*.*.*", ""] {
        match error(model.capture(&ids, &[name.to_owned()], &mut nothing)) {
            Error::UnknownCapture { name: found, .. } => assert_eq!(found, name),
            e => panic!("{e}"),
        }
    }
}

// ---- importance matrices ----

/// Fused matrices have one entry, under the name they have in the file, and every part of them finds it.
#[test]
fn an_imatrix_names_the_file_s_tensors() {
    for (name, own, part) in [
        ("llama", "blk.0.attn_q.weight", "blk.0.attn_q.weight"),
        ("phi3-short", "blk.0.attn_qkv.weight", "blk.0.attn_qkv.weight[2]"),
        ("phi3-short", "blk.1.ffn_up.weight", "blk.1.ffn_up.weight[0]"),
    ] {
        let model = fixture(name);
        let made = Imatrix::collect(&model, &ids(80, 100), 40, "text", &mut |_, _| true).unwrap();
        assert_eq!((made.chunks, made.chunk_size), (2, 40));
        assert!(made.sums.contains_key(own), "{:?}", made.sums.keys());
        assert_eq!(made.sums[own].count, 80.0);
        let columns = made.sums[own].squares.len();
        assert_eq!(made.importance(part, columns).unwrap().len(), columns);
        assert!(matches!(error(made.importance(part, 7)), Error::Imatrix { .. }));
        assert!(matches!(error(made.importance("blk.9.attn_q.weight", 7)), Error::Imatrix { .. }));

        let file = tempfile::NamedTempFile::new().unwrap();
        made.write(file.path()).unwrap();
        assert_eq!(Imatrix::read(file.path()).unwrap(), made);

        // Every linear layer finds its columns, in memory and on disk.
        let options = Options { format: Some(Format::IQ4_NL), ..Options::default() };
        let source = support::path(name);
        let weighted =
            Model::load_weighted(&source, options, Some(&made), &mut |_, _, _| true).unwrap();
        let out = tempfile::NamedTempFile::new().unwrap();
        let recipe = Recipe { imatrix: Some(&made), ..Recipe::new(Format::IQ4_NL) };
        quantize_gguf(&source, out.path(), &recipe, &mut |_, _, _| true).unwrap();
        let stored = support::load(out.path()).unwrap();
        let some = ids(20, 100);
        assert_eq!(stored.fingerprint(&some).unwrap(), weighted.fingerprint(&some).unwrap());
        let plain = support::load_as(&source, Some(Format::IQ4_NL)).unwrap();
        assert_ne!(plain.fingerprint(&some).unwrap(), weighted.fingerprint(&some).unwrap());
    }
}

#[test]
fn a_damaged_imatrix_is_refused() {
    let model = fixture("llama");
    let made = Imatrix::collect(&model, &ids(40, 100), 40, "text", &mut |_, _| true).unwrap();
    let read = |change: &dyn Fn(&mut Imatrix)| {
        let mut made = made.clone();
        change(&mut made);
        let file = tempfile::NamedTempFile::new().unwrap();
        made.write(file.path()).unwrap();
        error(Imatrix::read(file.path()))
    };
    let first = "blk.0.attn_q.weight";
    for change in [
        &(|i: &mut Imatrix| i.sums.get_mut(first).unwrap().count = 0.0) as &dyn Fn(&mut Imatrix),
        &|i| i.sums.get_mut(first).unwrap().squares[3] = -1.0,
        &|i| i.sums.get_mut(first).unwrap().squares[3] = f32::NAN,
        &|i| i.sums.clear(),
    ] {
        let e = read(change);
        assert!(matches!(e, Error::Imatrix { .. } | Error::BadTensor { .. }), "{e}");
    }
    assert!(matches!(error(Imatrix::read(support::path("llama"))), Error::Imatrix { .. }));
    // The file that something is wrong with, which is not the model's.
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let named = |e: Error| assert!(e.to_string().starts_with(path), "{e}");
    std::fs::copy(support::path("llama"), path).unwrap();
    named(Imatrix::read(path).unwrap_err());
    std::fs::write(path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    named(Imatrix::read(path).unwrap_err());
    made.write(path).unwrap();
    let read = Imatrix::read(path).unwrap();
    named(read.importance("blk.9.attn_q.weight", 7).unwrap_err());
    named(read.importance("blk.0.attn_q.weight", 7).unwrap_err());
    let options = Options { format: Some(Format::Q4_0), ..Options::default() };
    let other = support::path("gemma3");
    named(Model::load_weighted(other, options, Some(&read), &mut |_, _, _| true).unwrap_err());
    let e = error(Imatrix::collect(&model, &ids(40, 100), 41, "text", &mut |_, _| true));
    assert!(matches!(e, Error::TextTooShort { tokens: 40, needed: 41 }), "{e}");
    let e = error(Imatrix::collect(&model, &ids(40, 100), 20, "text", &mut |done, _| done < 1));
    assert!(matches!(e, Error::Cancelled), "{e}");
}

// ---- chat templates ----

fn render(template: &str, chat: Chat) -> tritlab_model::Result<String> {
    ChatTemplate::new(template, vec![("bos_token".to_owned(), "<s>".to_owned())])?.render(&chat)
}

#[test]
fn templates_are_rendered() {
    let messages = json!([{"role": "user", "content": "<é> & 'x'"}]);
    let chat = || Chat { messages: messages.clone(), ..Chat::default() };
    for (template, expected) in [
        ("{{ bos_token }}{{ messages[0].content }}", "<s><é> & 'x'"),
        ("{{ messages | tojson }}", r#"[{"role": "user", "content": "<é> & 'x'"}]"#),
        ("{{ [1e-7, 1e16, 0.5, 3] | tojson }}", "[1e-07, 1e+16, 0.5, 3]"),
        ("{{ 'a\n\u{1}' | tojson(ensure_ascii=true) }}", r#""a\n\u0001""#),
        ("{% for m in messages %}\n  {% continue %}\n{% endfor %}\nx", "x"),
        ("{{ add_generation_prompt }} {{ tools is none }} {{ eos_token }}", "False True "),
    ] {
        assert_eq!(render(template, chat()).unwrap(), expected, "{template}");
    }
    let now = Some("2026-02-03T04:05:06".parse().unwrap());
    let year = render("{{ strftime_now('%Y-%b') }}", Chat { now, ..chat() }).unwrap();
    assert_eq!(year, "2026-Feb");
    for template in ["{% for %}", "{{ raise_exception('refused: é') }}", "{{ messages | nothing }}"]
    {
        let e = error(render(template, chat()));
        assert!(matches!(&e, Error::ChatTemplate { .. }), "{e}");
    }
    let refused = error(render("\n{{ raise_exception('refused: é') }}", chat())).to_string();
    assert!(refused.contains("line 2") && refused.contains("refused: é"), "{refused}");
    let e = error(render("x", Chat { messages: json!("hello"), ..Chat::default() }));
    assert!(matches!(e, Error::ChatTemplate { .. }), "{e}");
}

#[test]
fn templates_of_folders() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert_eq!(template_of_folder(at, false).unwrap(), None);
    let config = |value: serde_json::Value| {
        std::fs::write(at.join("tokenizer_config.json"), value.to_string()).unwrap();
    };
    config(json!({"chat_template": "one", "bos_token": "<s>", "eos_token": {"content": "</s>"},
                  "pad_token": null, "model_max_length": 7}));
    assert_eq!(template_of_folder(at, true).unwrap().as_deref(), Some("one"));
    let special = special_of_folder(at).unwrap();
    let expected = [("bos_token", "<s>"), ("eos_token", "</s>")];
    assert_eq!(special, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    config(json!({"chat_template": [
        {"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}));
    assert_eq!(template_of_folder(at, true).unwrap().as_deref(), Some("t"));
    assert_eq!(template_of_folder(at, false).unwrap().as_deref(), Some("d"));
    config(json!({"chat_template": 7}));
    assert!(matches!(error(template_of_folder(at, false)), Error::ChatTemplate { .. }));
    std::fs::write(at.join("chat_template.jinja"), "file").unwrap();
    assert_eq!(template_of_folder(at, true).unwrap().as_deref(), Some("file"));
    std::fs::remove_file(at.join("chat_template.jinja")).unwrap();
    std::fs::write(at.join("tokenizer_config.json"), "[]").unwrap();
    assert!(matches!(error(template_of_folder(at, false)), Error::ChatTemplate { .. }));
}

#[test]
fn a_chat_is_encoded_without_a_second_bos() {
    let template =
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let file = File::of("llama").with_tokenizer(true).set("tokenizer.chat_template", template);
    let model = file.load().unwrap();
    let chat = Chat { messages: json!([{"role": "user", "content": "the"}]), ..Chat::default() };
    let text = model.chat_template(false).unwrap().render(&chat).unwrap();
    assert_eq!(text, "<s>the</s>");
    let ids = model.encode_chat(&text).unwrap();
    assert_eq!((ids[0], ids.last(), ids.iter().filter(|id| **id == 0).count()), (0, Some(&1), 1));
    let none = File::of("llama").with_tokenizer(true).load().unwrap();
    assert!(matches!(error(none.chat_template(false)), Error::NoChatTemplate));
}
