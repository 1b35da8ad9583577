//! Two models hold the same weights, or the first that differs.

mod support;

use std::path::Path;

use support::{File, error, folder, path};
use tritlab_kernels::{Format, Packing};
use tritlab_model::Error;
use tritlab_model::quantize::{Recipe, quantize_gguf};
use tritlab_model::verify::{Difference, Report, models};

fn verify(a: &Path, b: &Path, rtol: f32) -> Report {
    let report = models(a, b, rtol, Packing::I2_S, &mut |_, _, _| true).unwrap();
    // The other way round the same is found.
    let other = models(b, a, rtol, Packing::I2_S, &mut |_, _, _| true).unwrap();
    assert_eq!(report.difference.is_none(), other.difference.is_none());
    report
}

/// Query and key rows in two orders, norms with and without their 1, fused tensors, tables.
#[test]
fn a_file_and_a_folder_of_the_same_weights() {
    for name in ["llama", "qwen3", "phi3-short", "phi3-long", "gemma3"] {
        let report = verify(&path(name), &folder(name), 0.0);
        assert_eq!(report.difference, None, "{name}");
        assert!(report.tensors > 10 && report.weights > 10_000, "{name}: {report:?}");
    }
}

/// One ternary model in five packings. The two in GGUF had to round their scales to f16: 2^-11 of them at most.
#[test]
fn ternary_packings_hold_the_same_codes() {
    let [online, multiply, divide] =
        ["bitnet-online", "bitnet-packed-multiply", "bitnet-packed-divide"].map(folder);
    assert_eq!(verify(&online, &multiply, 0.0).difference, None);
    assert_eq!(verify(&online, &divide, 0.0).difference, None);
    let [tq1, tq2] = ["bitnet-gguf-tq1_0", "bitnet-gguf-tq2_0"].map(path);
    assert_eq!(verify(&tq1, &tq2, 0.0).difference, None);
    for packed in [&tq1, &tq2] {
        assert!(matches!(
            verify(packed, &multiply, 0.0).difference,
            Some(Difference::Value { .. })
        ));
        assert_eq!(verify(packed, &multiply, 1.0 / 2048.0).difference, None);
    }
}

#[test]
fn the_first_difference_is_named_with_both_values() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (path("llama"), folder.path().join("b.gguf"));
    let (name, index) = ("blk.1.ffn_down.weight", 1000);
    // A later tensor differs too.
    let draft = File::of("llama").poke(name, index, 0.75).poke("output_norm.weight", 3, 9.0);
    let at = |n: &str| draft.tensors.iter().position(|t| t.name == n).unwrap();
    let first = if at(name) < at("output_norm.weight") { name } else { "output_norm.weight" };
    draft.write(&b);
    match verify(&a, &b, 0.0).difference {
        Some(Difference::Value { tensor, row, col, first: _, second }) => {
            assert_eq!(tensor, first);
            let draft = File::of("llama");
            let cols = draft.tensors.iter().find(|t| t.name == first).unwrap().dims[0] as usize;
            let (index, value) = if first == name { (index, 0.75) } else { (3, 9.0) };
            assert_eq!((row * cols + col, second), (index, (value, "F32")));
        }
        d => panic!("{d:?}"),
    }
    // A code of a ternary tensor, not just its scale: no tolerance lets it pass.
    let tq2 = path("bitnet-gguf-tq2_0");
    let tensor = "blk.1.attn_v.weight";
    File::of("bitnet-gguf-tq2_0").change(tensor, |t| t.data[7] ^= 0b0001_0000).write(&b);
    match verify(&tq2, &b, 0.01).difference {
        Some(Difference::Value { tensor: found, row: 0, col, first, second }) => {
            // Bits 4 and 5 of byte 7 are weight 7 + 2 * 32 of the first block.
            assert_eq!((found.as_str(), col), (tensor, 71));
            assert_ne!(first.0, second.0);
        }
        d => panic!("{d:?}"),
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_shape() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (path("llama"), folder.path().join("b.gguf"));
    let bias = "blk.0.attn_q.bias";
    let rows = File::of("llama").tensor("blk.0.attn_q.weight").dims[1];
    File::of("llama").with(bias, &[rows], &vec![0.0; rows as usize]).write(&b);
    let missing = |in_first| Some(Difference::Missing { tensor: bias.to_owned(), in_first });
    assert_eq!(verify(&a, &b, 0.0).difference, missing(false));
    assert_eq!(verify(&b, &a, 0.0).difference, missing(true));
    let name = "blk.0.ffn_up.weight";
    File::of("llama").change(name, |t| t.dims.reverse()).write(&b);
    assert!(
        matches!(verify(&a, &b, 0.0).difference, Some(Difference::Shape { tensor, .. }) if tensor == name)
    );
}

/// A tied head is the embedding, written out or not; quantised files differ from their source, not from themselves.
#[test]
fn heads_and_formats() {
    let folder = tempfile::tempdir().unwrap();
    let b = folder.path().join("b.gguf");
    let mut untied = File::of("gemma3");
    let mut head = untied.tensor("token_embd.weight").clone();
    head.name = "output.weight".to_owned();
    untied.tensors.push(head);
    untied.write(&b);
    assert_eq!(verify(&path("gemma3"), &b, 0.0).difference, None);
    for format in [Format::F32, Format::F16, Format::Q8_0] {
        quantize_gguf(path("llama"), &b, &Recipe::new(format), &mut |_, _, _| true).unwrap();
        let same = verify(&path("llama"), &b, 0.0).difference.is_none();
        assert_eq!(same, format == Format::F32, "{format}");
        assert_eq!(verify(&b, &b, 0.0).difference, None);
    }
}

#[test]
fn errors() {
    let a = path("llama");
    let try_to = |b: &Path, rtol| models(&a, b, rtol, Packing::I2_S, &mut |_, _, _| true);
    assert!(matches!(error(try_to(Path::new("absent.gguf"), 0.0)), Error::Io { .. }));
    for rtol in [-0.5, 1.0, f32::NAN, f32::INFINITY] {
        assert!(error(try_to(&a, rtol)).to_string().contains("rtol"));
    }
    let e = error(models(&a, &a, 0.0, Packing::I2_S, &mut |done, _, _| done < 2));
    assert!(matches!(e, Error::Cancelled));
}
