//! Rotary embeddings: rules against each other and against what files hold.

mod support;

use support::{File, error, ids, path};
use tritlab_model::gguf::Gguf;
use tritlab_model::overrides::Overrides;
use tritlab_model::rope::{LongRope, Rope, Scaling, llama3_divisors};
use tritlab_model::source::{halves, vector};
use tritlab_model::{Cache, Error, Model, Options};

fn rope(dims: usize, base: f32, scaling: Scaling) -> Rope {
    Rope { dims, base, attention_factor: 1.0, scaling }
}

/// The frequencies of a table: the angles at position 1, all of which are at most 1.
fn frequencies(rope: &Rope, is_long: bool) -> Vec<f64> {
    let table = rope.table(1, 1, is_long);
    let (cos, sin) = table.row(0);
    cos.iter().zip(sin).map(|(c, s)| f64::from(*s).atan2(f64::from(*c))).collect()
}

/// GGUF keeps Llama 3's scaling as divisors, computed by its converter; the rule gives the same ones.
#[test]
fn llama3_is_the_divisors_of_its_file() {
    let gguf = Gguf::open(path("llama")).unwrap();
    let divisors = vector(&gguf, gguf.tensor("rope_freqs.weight").unwrap()).unwrap();
    assert!(divisors[0] == 1.0 && divisors[15] == 32.0, "kept, blended and divided ones");
    let rule = llama3_divisors((32, 5e5), 32.0, (1.0, 4.0), 64);
    support::assert_bits("divisors", &rule, &divisors);
    // And they divide.
    let plain = frequencies(&rope(32, 5e5, Scaling::None), false);
    let scaled = frequencies(&rope(32, 5e5, Scaling::Divisors(rule)), false);
    for ((plain, scaled), divisor) in plain.iter().zip(&scaled).zip(&divisors) {
        let rule = plain / scaled;
        assert!((rule / f64::from(*divisor) - 1.0).abs() < 5e-7, "{rule} and {divisor}");
    }
}

#[test]
fn frequencies_are_powers_of_the_base() {
    for (j, f) in frequencies(&rope(64, 1e4, Scaling::None), false).iter().enumerate() {
        assert!((f / 1e4f64.powf(-2.0 * j as f64 / 64.0) - 1.0).abs() < 1e-6);
    }
    let plain = frequencies(&rope(64, 1e4, Scaling::None), false);
    for (a, b) in plain.iter().zip(frequencies(&rope(64, 1e4, Scaling::Linear(8.0)), false)) {
        assert!((a / b / 8.0 - 1.0).abs() < 1e-6);
    }
}

/// A table is its positions, wherever it starts.
#[test]
fn tables_do_not_depend_on_where_they_start() {
    let rope = Rope { attention_factor: 1.19, ..rope(24, 1e4, Scaling::None) };
    let whole = rope.table(0, 700, false);
    for (first, n) in [(0, 1), (5, 100), (511, 2), (699, 1)] {
        let part = rope.table(first, n, false);
        for i in 0..n {
            assert_eq!(part.row(i), whole.row(first + i), "position {}", first + i);
        }
    }
    assert_eq!(whole.row(0), (&[1.19f32; 12][..], &[0.0f32; 12][..]));
}

/// The length of a sequence chooses, its last position inclusive.
#[test]
fn longrope_changes_after_the_original_context() {
    let long = Scaling::Long { short: vec![1.0; 4], long: vec![2.0; 4], original: 64 };
    let rope = rope(8, 1e4, long);
    assert!(!rope.is_long(0) && !rope.is_long(64) && rope.is_long(65));
    for (a, b) in frequencies(&rope, false).iter().zip(frequencies(&rope, true)) {
        assert!((a / b / 2.0 - 1.0).abs() < 1e-6);
    }
    assert!(!Rope { scaling: Scaling::None, ..rope }.is_long(usize::MAX));
}

/// By context, as llama.cpp: one set of frequencies for sequences of every length.
#[test]
fn longrope_by_context() {
    let load = |longrope| {
        let options = Options { longrope, ..Options::default() };
        Model::load(path("phi3-long"), options, &mut |_, _, _| true).unwrap()
    };
    let all = ids(90, 128);
    let hidden = |model: &Model, n: usize| {
        model.decoder.hidden(&mut Cache::new(model.config(), 90), &all[..n]).unwrap()
    };
    let by_length = load(LongRope::Length);
    // The original context is 64: 90 positions are long, 40 are not.
    let (short, long) = (hidden(&by_length, 40), hidden(&by_length, 90));
    let row = by_length.config().hidden;
    assert_ne!(short[..40 * row], long[..40 * row]);
    for context in [65, 4096] {
        let model = load(LongRope::Context(context));
        support::assert_bits("a short text", &hidden(&model, 40), &long[..40 * row]);
        support::assert_bits("a long text", &hidden(&model, 90), &long);
        // Other formats of it are of the same choice.
        let same = model.requantize(&Overrides::default(), &mut |_, _, _| true).unwrap();
        support::assert_bits("requantised", &hidden(&same, 40), &long[..40 * row]);
    }
    let model = load(LongRope::Context(64));
    support::assert_bits("a short text", &hidden(&model, 40), &short);
    let beyond = hidden(&model, 90);
    support::assert_bits("its beginning", &beyond[..40 * row], &short);
    assert_ne!(beyond, long);
}

/// Rows of a head: even ones first, then odd ones; those that are not rotated stay.
#[test]
fn interleaved_rows_become_halves() {
    let order: Vec<usize> = halves(12, 6, 4).collect();
    assert_eq!(order, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
    let order: Vec<usize> = halves(8, 8, 8).collect();
    assert_eq!(order, [0, 2, 4, 6, 1, 3, 5, 7]);
}

/// With only a part of a head rotated, attention is still the same whichever way rows are stored: a llama
/// with interleaved rows and the same model with halves, under another architecture's name.
#[test]
fn partial_rotation_of_interleaved_rows() {
    let (dim, rotated) = (32, 16);
    let ids = ids(40, 128);
    let interleaved =
        File::of("llama").without("rope_freqs.weight").set("llama.rope.dimension_count", 16u32);
    let expected = interleaved.load().unwrap().logits(&ids).unwrap();
    // phi3 has halves; with its fused tensors apart it is a llama.
    let mut file = interleaved;
    for (key, value) in &mut file.keys {
        *key = key.replace("llama.", "phi3.");
        if key == "general.architecture" {
            *value = "phi3".into();
        }
    }
    for t in &mut file.tensors {
        if t.name.ends_with("attn_q.weight") || t.name.ends_with("attn_k.weight") {
            let row = t.dims[0] as usize * 4;
            // Within the rotated part of a head: row j is 2j, row j + rotated/2 is 2j + 1.
            let from = |r: usize| {
                let (head, i) = (r / dim * dim, r % dim);
                match i {
                    i if i < rotated / 2 => head + 2 * i,
                    i if i < rotated => head + 2 * (i - rotated / 2) + 1,
                    _ => r,
                }
            };
            let rows = t.dims[1] as usize;
            t.data = (0..rows).flat_map(|r| t.data[from(r) * row..][..row].to_vec()).collect();
        }
    }
    support::assert_bits("halves", &file.load().unwrap().logits(&ids).unwrap(), &expected);
}

/// Sliding windows of Phi-3 are honoured, whichever layer they are in.
#[test]
fn phi3_may_have_a_window() {
    let ids = ids(40, 128);
    let load = |window: u32| {
        let file = File::of("phi3-short").set("phi3.attention.sliding_window", window);
        file.load().unwrap().logits(&ids).unwrap()
    };
    let (none, narrow) = (load(0), load(10));
    support::assert_bits("as wide as the text", &load(40), &none);
    support::assert_bits("within the window", &narrow[..10 * 128], &none[..10 * 128]);
    assert_ne!(narrow[10 * 128..11 * 128], none[10 * 128..11 * 128]);
}

#[test]
fn rotations_that_cannot_be() {
    let refused = |file: File| match error(file.load()) {
        Error::BadConfig { key, .. } => key,
        Error::MissingTensor { name } => name,
        e => panic!("{e}"),
    };
    let llama = || File::of("llama").without("rope_freqs.weight");
    for dims in [0u32, 31, 34, u32::MAX] {
        let file = llama().set("llama.rope.dimension_count", dims);
        assert_eq!(refused(file), "llama.rope.dimension_count", "{dims}");
    }
    for base in [0.0f32, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(refused(llama().set("llama.rope.freq_base", base)), "llama.rope.freq_base");
    }
    for factor in [0.0f32, -1.0, f32::NAN] {
        let file = llama()
            .set("llama.rope.scaling.type", "linear")
            .set("llama.rope.scaling.factor", factor);
        assert_eq!(refused(file), "llama.rope.scaling.factor");
    }
    let yarn = llama().set("llama.rope.scaling.type", "yarn");
    assert_eq!(refused(yarn), "llama.rope.scaling.type");
    assert_eq!(refused(llama().with("rope_freqs.weight", &[15], &[1.0; 15])), "rope_freqs.weight");
    assert_eq!(refused(llama().with("rope_freqs.weight", &[16], &[0.0; 16])), "rope_freqs.weight");
    let half = File::of("phi3-short").without("rope_factors_long.weight");
    assert_eq!(refused(half), "rope_factors_long.weight");
}
