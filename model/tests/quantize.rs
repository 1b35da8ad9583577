//! GGUF files in other formats.

mod support;

use std::path::Path;

use support::{File, assert_bits, error, expected, load, load_as, path};
use tritlab_kernels::{Error as KernelError, Format, Projection};
use tritlab_model::gguf::{Gguf, Value};
use tritlab_model::imatrix::Imatrix;
use tritlab_model::model::Role;
use tritlab_model::quantize::{Fallback, Recipe, Summary, quantize_gguf};
use tritlab_model::source::type_of;
use tritlab_model::{Error, Model, Options, Result};

fn quantize(source: &Path, to: &Path, format: Format) -> Result<Summary> {
    quantize_gguf(source, to, &Recipe::new(format), &mut |_, _, _| true)
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// What a result shares with its source: keys, other tensors, names and shapes of all.
fn compare(source: &Path, to: &Path, format: Format, head: Option<Format>) {
    let (a, b) = (Gguf::open(source).unwrap(), Gguf::open(to).unwrap());
    for (key, value) in a.metadata().iter().filter(|(k, _)| *k != "general.file_type") {
        if key != "general.quantization_version" {
            assert_eq!(b.metadata().get(key), Some(value), "{key}");
        }
    }
    assert_eq!(b.metadata().get("general.quantization_version"), Some(Value::U32(2)));
    assert_eq!(a.tensors().len(), b.tensors().len());
    for (x, y) in a.tensors().iter().zip(b.tensors()) {
        assert_eq!((x.name(), x.dims()), (y.name(), y.dims()));
        let wanted = match x.name() {
            _ if x.dims().len() < 2 => None,
            "token_embd.weight" | "output.weight" => head,
            _ => Some(format),
        };
        match wanted.and_then(type_of) {
            Some(ty) => assert_eq!(y.tensor_type(), ty, "{}", x.name()),
            None => {
                assert_eq!(x.tensor_type(), y.tensor_type(), "{}", x.name());
                assert_eq!(a.data(x), b.data(y), "{}: copied exactly", x.name());
            }
        }
    }
}

/// The file loads, and is the model that [`Model::load`] makes of the source in that format.
#[test]
fn a_file_in_a_format_is_the_model_in_that_format() {
    let storable = Format::ALL.iter().filter(|f| type_of(**f).is_some());
    // A permuted, a fused, a normed and a ternary family.
    for name in ["llama", "phi3-short", "gemma3", "bitnet-gguf-tq2_0"] {
        for &format in storable.clone() {
            let folder = tempfile::tempdir().unwrap();
            let to = folder.path().join("out.gguf");
            let what = format!("{name} in {format}");
            if format.info().block == 256 && !name.starts_with("bitnet") {
                let e = error(quantize(&path(name), &to, format));
                let columns =
                    matches!(e, Error::Tensor { source: KernelError::Columns { .. }, .. });
                assert!(columns, "{what}: {e}");
                assert_eq!(entries(folder.path()), 0, "{what}");
                continue;
            }
            let summary = quantize(&path(name), &to, format).unwrap();
            assert_eq!(entries(folder.path()), 1, "{what}: no temporary file");
            assert_eq!(summary.bytes_in, std::fs::metadata(path(name)).unwrap().len());
            assert_eq!(summary.bytes_out, std::fs::metadata(&to).unwrap().len());
            compare(&path(name), &to, format, None);
            let model = load(&to).unwrap();
            // TQ2_0 and TQ1_0 in a BitNet file mean BitNet's own form, which asking for them does not.
            let own = matches!(format, Format::TQ2_0 | Format::TQ1_0);
            let asked = (!own).then_some(format);
            let ids = expected(name).ids;
            let direct = load_as(path(name), asked).unwrap().logits(&ids).unwrap();
            assert_bits(&what, &model.logits(&ids).unwrap(), &direct);
            let own = if name.starts_with("bitnet") { Format::TQ2_0 } else { Format::F32 };
            assert_eq!(summary.quantized == 0, format == own, "{what}");
        }
    }
}

#[test]
fn the_head_has_a_format_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.gguf");
    let head = Some(Format::Q8_0);
    let recipe = Recipe { head, ..Recipe::new(Format::Q4_0) };
    quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true).unwrap();
    compare(&path("llama"), &to, Format::Q4_0, head);
    let options = Options { format: Some(Format::Q4_0), head, ..Options::default() };
    let direct = Model::load(path("llama"), options, &mut |_, _, _| true).unwrap();
    let ids = expected("llama").ids;
    assert_bits("head", &load(&to).unwrap().logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
}

/// The rule that a projection names, in a file and in memory; and it is not mixed with importance.
#[test]
fn a_projection_makes_the_layers_ternary() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.gguf");
    let ids = expected("llama").ids;
    let progress = &mut |_: usize, _: usize, _: &str| true;
    let twn = Some(Projection::Twn);
    let recipe = Recipe { projection: twn, ..Recipe::new(Format::F32) };
    let summary = quantize_gguf(path("llama"), &to, &recipe, progress).unwrap();
    let made = load(&to).unwrap();
    let error = |projection, format: Option<Format>| {
        let options = Options { format, projection, ..Options::default() };
        let model = Model::load(path("llama"), options, &mut |_, _, _| true).unwrap();
        let linear = model.tensors.iter().filter(|t| t.role == Role::Linear);
        let error = linear.clone().map(|t| t.rel_error).sum::<f64>() / linear.count() as f64;
        (error, model)
    };
    let (by_twn, direct) = error(twn, Some(Format::F32));
    assert_bits("twn", &made.logits(&ids).unwrap(), &direct.logits(&ids).unwrap());
    assert_eq!(summary.quantized, 14, "two layers of seven");
    assert_eq!(direct.options.rounding().unwrap().to_string(), "F32+twn");
    let ternary = Some(Format::TERNARY_ROW);
    let own = error(None, ternary).0;
    let absmean = error(Some(Projection::Absmean), ternary).0;
    let optimal = error(Some(Projection::Optimal), ternary).0;
    assert_eq!(own, absmean, "absmean is that format's own rule");
    assert!(optimal < by_twn && optimal < own, "{optimal} {by_twn} {own}");
    // Codes that are not ternary, and both rules at once.
    let q4 = Recipe { projection: twn, ..Recipe::new(Format::Q4_0) };
    let error = quantize_gguf(path("llama"), &to, &q4, progress).unwrap_err().to_string();
    assert!(error.contains("Q4_0") && error.contains("attn_q"), "{error}");
    let imatrix = Imatrix::default();
    let both = Recipe { imatrix: Some(&imatrix), ..recipe };
    let error = quantize_gguf(path("llama"), &to, &both, progress).unwrap_err();
    assert!(matches!(error, Error::TwoRules), "{error}");
    let options = Options { format: ternary, projection: twn, ..Options::default() };
    let error = Model::load_weighted(path("llama"), options, Some(&imatrix), progress).unwrap_err();
    assert!(matches!(error, Error::TwoRules), "{error}");
}

/// Rows of 64, 96 and so on have no whole blocks of 256: each tensor has what the fallback says.
#[test]
fn a_fallback_takes_the_tensors_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.gguf");
    let ids = expected("llama").ids;
    let llama_cpp = [
        (Format::Q2_K, Format::Q4_0),
        (Format::Q3_K, Format::Q4_0),
        (Format::TQ1_0, Format::Q4_0),
        (Format::TQ2_0, Format::Q4_0),
        (Format::Q4_K, Format::Q5_0),
        (Format::Q5_K, Format::Q5_1),
        (Format::Q6_K, Format::Q8_0),
    ];
    let cases = llama_cpp.map(|(format, instead)| (format, Fallback::LlamaCpp, instead));
    let named = (Format::Q4_K, Fallback::To(Format::Q8_0), Format::Q8_0);
    for (format, fallback, instead) in cases.into_iter().chain([named]) {
        let recipe = Recipe { fallback, ..Recipe::new(format) };
        let summary = quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true).unwrap();
        assert_eq!(summary.fallbacks, summary.quantized, "no row of the fixture fits {format}");
        // What took its place, and nothing of the tensors that were copied.
        let replaced: usize = summary.replaced.iter().map(|t| t.tensors).sum();
        assert_eq!(replaced, summary.fallbacks);
        let bytes = |name| summary.types.iter().find(|t| t.name == name).map(|t| t.bytes);
        assert!(summary.replaced.iter().all(|t| Some(t.bytes) <= bytes(t.name)), "{summary:?}");
        compare(&path("llama"), &to, instead, None);
        let direct = load_as(path("llama"), Some(instead)).unwrap();
        let what = format!("{format} as {instead}");
        assert_bits(
            &what,
            &load(&to).unwrap().logits(&ids).unwrap(),
            &direct.logits(&ids).unwrap(),
        );
        // The summary counts the whole file.
        let file = Gguf::open(&to).unwrap();
        assert_eq!(summary.types.iter().map(|t| t.tensors).sum::<usize>(), file.tensors().len());
        let bytes: u64 = file.tensors().iter().map(|t| t.nbytes()).sum();
        assert_eq!(summary.types.iter().map(|t| t.bytes).sum::<u64>(), bytes);
        let worst = if instead == Format::Q8_0 { 0.01 } else { 0.15 };
        assert!(summary.weight_error > 0.0 && summary.weight_error < worst, "{summary:?}");
    }
    // A fallback that does not fit either is an error that names the tensor.
    let recipe = Recipe { fallback: Fallback::To(Format::Q5_K), ..Recipe::new(Format::Q4_K) };
    let e = error(quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true));
    assert!(matches!(e, Error::Tensor { source: KernelError::Columns { .. }, .. }), "{e}");
}

#[test]
fn nothing_is_left_of_an_error_or_a_cancel() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.gguf");
    let tensors = Gguf::open(path("llama")).unwrap().tensors().len();
    let mut names = Vec::new();
    quantize_gguf(path("llama"), &to, &Recipe::new(Format::Q8_0), &mut |done, all, name| {
        assert_eq!((done, all), (names.len(), tensors));
        names.push(name.to_owned());
        true
    })
    .unwrap();
    assert_eq!(names.len(), tensors);
    let good = std::fs::read(&to).unwrap();
    for stop in [0, 1, tensors / 2, tensors - 1] {
        // Over a file that is there: it stays as it was.
        let cancel = |done, _: usize, _: &str| done != stop;
        let e =
            error(quantize_gguf(path("llama"), &to, &Recipe::new(Format::Q4_0), &mut { cancel }));
        assert!(matches!(e, Error::Cancelled), "{e}");
        assert_eq!(entries(folder.path()), 1);
        assert_eq!(std::fs::read(&to).unwrap(), good);
    }
    // A weight that is no number is found in the middle of the work.
    let bad = folder.path().join("bad.gguf");
    for (value, format) in [(f32::NAN, Format::Q8_0), (1e6, Format::F16), (1e9, Format::Q4_0)] {
        File::of("llama").poke("blk.1.ffn_down.weight", 5, value).write(&bad);
        let new = folder.path().join("new.gguf");
        match error(quantize(&bad, &new, format)) {
            Error::Tensor { tensor, .. } => assert_eq!(tensor, "blk.1.ffn_down.weight"),
            e => panic!("{e}"),
        }
        assert_eq!(entries(folder.path()), 2);
    }
    let e = error(quantize(&path("llama"), &folder.path().join("no/such/folder"), Format::Q8_0));
    assert!(matches!(e, Error::Io { .. }), "{e}");
    let e = error(quantize(&folder.path().join("absent"), &to, Format::Q8_0));
    assert!(matches!(&e, Error::Io { path, .. } if path.ends_with("absent")), "{e}");
    assert_eq!(std::fs::read(&to).unwrap(), good);
}

/// What is rounded is no source any more: the file is not replaced by its own result, and a result has nothing left
/// to change.
#[test]
fn a_file_is_not_replaced_by_its_own_result() {
    let folder = tempfile::tempdir().unwrap();
    let [there, elsewhere, again] = ["a.gguf", "b.gguf", "c.gguf"].map(|n| folder.path().join(n));
    std::fs::copy(path("llama"), &there).unwrap();
    let e = error(quantize(&there, &there, Format::Q4_1));
    assert!(matches!(&e, Error::BadDestination { path, .. } if *path == there), "{e}");
    assert_eq!(std::fs::read(&there).unwrap(), std::fs::read(path("llama")).unwrap());
    assert_eq!(entries(folder.path()), 1);
    quantize(&there, &elsewhere, Format::Q4_1).unwrap();
    assert_eq!(quantize(&elsewhere, &again, Format::Q4_1).unwrap().quantized, 0);
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&elsewhere).unwrap());
}

#[test]
fn formats_that_a_file_cannot_hold_are_refused_with_those_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.gguf");
    for format in [Format::TERNARY, Format::TERNARY_ROW] {
        match error(quantize(&path("llama"), &to, format)) {
            Error::NotInGguf { format: name, known } => {
                assert_eq!(name, format.name());
                for f in Format::ALL.iter().filter(|f| type_of(**f).is_some()) {
                    assert!(known.contains(f.name()), "{known}");
                }
            }
            e => panic!("{e}"),
        }
        for recipe in [
            Recipe { head: Some(format), ..Recipe::new(Format::F16) },
            Recipe { fallback: Fallback::To(format), ..Recipe::new(Format::F16) },
        ] {
            let e = quantize_gguf(path("llama"), &to, &recipe, &mut |_, _, _| true);
            assert!(matches!(error(e), Error::NotInGguf { .. }));
        }
    }
    assert_eq!(entries(folder.path()), 0);
}

/// A folder is quantised as the file that it would become.
#[test]
fn folders_are_quantised_as_their_files() {
    for (name, format) in [
        ("llama", Format::Q4_0),
        ("phi3-long", Format::Q8_0),
        ("gemma3", Format::BF16),
        ("bitnet-online", Format::TQ1_0),
        ("bitnet-packed-divide", Format::Q4_K),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let whole = at(name);
        tritlab_model::convert::convert(
            support::folder(name),
            &whole,
            Default::default(),
            false,
            &mut |_, _, _| true,
        )
        .unwrap();
        let recipe = Recipe { head: Some(Format::F16), ..Recipe::new(format) };
        let run =
            |from: &Path, to: &Path| quantize_gguf(from, to, &recipe, &mut |_, _, _| true).unwrap();
        let two_steps = run(&whole, &at("two"));
        let one_step = run(&support::folder(name), &at("one"));
        assert!(one_step.quantized > 7, "{name}");
        assert_eq!(
            Summary { bytes_in: 0, ..one_step },
            Summary { bytes_in: 0, ..two_steps },
            "{name}"
        );
        assert!(std::fs::read(at("one")).unwrap() == std::fs::read(at("two")).unwrap(), "{name}");
        load(at("one")).unwrap();
    }
    let temporary = tempfile::tempdir().unwrap();
    let text = error(quantize(&path("llama"), &temporary.path().join("no/out"), Format::Q8_0));
    assert!(!text.to_string().contains(".tritlab-"), "{text}");
}
