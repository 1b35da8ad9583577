//! One answer: a model's logits have the same bits on every backend, for every number of threads, however a
//! prompt is split, and on every machine. The hashes below were written on x86-64; the same test runs on
//! aarch64.

mod support;

use proptest::test_runner::{Config, TestRunner};
use support::{
    FIXTURES, FOLDERS, assert_bits, expected, fixture, folder, ids, load, load_as, path,
};
use tritlab_kernels::{Backend, Format, threads};
use tritlab_model::sample::Sampling;
use tritlab_model::{Cache, Model};

/// Fixture, format of the linear layers, hash: `own` is the file's types and the fixture's whole prompt; the
/// others, a row for every format that fits the columns, are of its first [`SHORT`] ids.
const FINGERPRINTS: &str = include_str!("data/fingerprints.txt");

on_every_backend!(
    logits_have_one_fingerprint,
    formats_have_one_fingerprint,
    threads_change_nothing,
    splits_change_nothing,
    a_seed_gives_one_text,
);

/// Ids that are enough where a forward pass is slow: longer than Gemma's window.
const SHORT: usize = 12;

/// A fixture's prompt, shorter on the backends that call a function for every fused multiply-add.
fn prompt(fixture: &str, backend: Backend) -> Vec<u32> {
    let mut ids = expected(fixture).ids;
    if matches!(backend, Backend::Oracle | Backend::Portable) {
        ids.truncate(SHORT);
    }
    ids
}

/// The formats that llama's 96 and 160 columns hold, and all of them for BitNet's 256 and 512.
fn formats(fixture: &str) -> Vec<Format> {
    let fits = |f: &&Format| fixture.starts_with("bitnet") || f.row_bytes(96).is_ok();
    Format::ALL.iter().filter(fits).copied().collect()
}

fn row(fixture: &str, format: Option<Format>) -> String {
    row_of(fixture, format, load_as(path(fixture), format).unwrap())
}

fn row_of(fixture: &str, format: Option<Format>, model: Model) -> String {
    let format_name = format.map_or("own", Format::name);
    let ids = expected(fixture).ids;
    let ids = if format.is_some() { &ids[..SHORT] } else { &ids };
    let hash = model.fingerprint(ids).unwrap();
    format!("{fixture} {format_name} {hash}")
}

fn check_rows(backend: Backend, rows: &[String]) {
    let missing: Vec<_> = rows.iter().filter(|r| !FINGERPRINTS.lines().any(|l| l == *r)).collect();
    assert!(missing.is_empty(), "{backend} has other fingerprints:\n{missing:#?}");
}

fn logits_have_one_fingerprint(backend: Backend) {
    check_rows(backend, &FIXTURES.map(|f| row(f, None)));
    // A folder of a fixture that has a GGUF file too has the row of that file: the same bits.
    check_rows(backend, &FOLDERS.map(|f| row_of(f, None, load(folder(f)).unwrap())));
}

fn formats_have_one_fingerprint(backend: Backend) {
    let mut rows = Vec::new();
    for fixture in ["llama", "bitnet-gguf-tq2_0"] {
        rows.extend(formats(fixture).into_iter().map(|f| row(fixture, Some(f))));
    }
    check_rows(backend, &rows);
}

/// The table holds what is compared and nothing else.
#[test]
fn the_fingerprints_are_one_of_each() {
    let only_folders = FOLDERS.iter().filter(|f| !FIXTURES.contains(f)).count();
    let count = FIXTURES.len() + only_folders + formats("llama").len() + formats("bitnet").len();
    assert_eq!(FINGERPRINTS.lines().count(), count);
}

/// Master weights, packed ones whose scale multiplies, and packed ones whose scale divides.
#[test]
fn the_three_packings_of_bitnet_are_one_model() {
    let hash = |packing: &str| {
        let start = format!("{packing} own ");
        FINGERPRINTS.lines().find_map(|l| l.strip_prefix(start.as_str())).unwrap()
    };
    assert_eq!(hash("bitnet-online"), hash("bitnet-packed-multiply"));
    assert_eq!(hash("bitnet-online"), hash("bitnet-packed-divide"));
}

fn threads_change_nothing(backend: Backend) {
    for name in ["llama", "gemma3", "bitnet-gguf-tq2_0"] {
        let (model, ids) = (fixture(name), prompt(name, backend));
        let mut seen = Vec::new();
        for n in [1, 2, 3] {
            threads::set(n).unwrap();
            // Prefill, and one step of decoding: the two shapes of a forward pass.
            let mut cache = Cache::new(model.config(), ids.len());
            let (last, first) = ids.split_last().unwrap();
            let mut hidden = model.decoder.hidden(&mut cache, first).unwrap();
            hidden.extend(model.decoder.hidden(&mut cache, &[*last]).unwrap());
            seen.push(model.decoder.logits(&hidden).unwrap());
        }
        let what = format!("{name} on {backend}");
        assert_bits(&format!("{what}, 2 threads against 1"), &seen[1], &seen[0]);
        assert_bits(&format!("{what}, 3 threads against 1"), &seen[2], &seen[0]);
    }
}

/// Logits of `ids` in calls that end at `cuts`.
fn in_parts(model: &Model, ids: &[u32], cuts: &[usize]) -> Vec<f32> {
    let mut cache = Cache::new(model.config(), ids.len());
    let mut hidden = Vec::new();
    let mut first = 0;
    for &cut in cuts.iter().chain([&ids.len()]) {
        hidden.extend(model.decoder.hidden(&mut cache, &ids[first..cut]).unwrap());
        assert_eq!(cache.len(), cut);
        first = cut;
    }
    model.decoder.logits(&hidden).unwrap()
}

fn splits_change_nothing(backend: Backend) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    for name in FIXTURES.into_iter().filter(|n| *n != "phi3-long") {
        let (model, ids) = (fixture(name), prompt(name, backend));
        let cases = if ids.len() == SHORT { cases.min(2) } else { cases };
        let whole = model.logits(&ids).unwrap();
        let one_by_one: Vec<usize> = (1..ids.len()).collect();
        let what = format!("{name} on {backend}");
        assert_bits(&format!("{what}, one by one"), &in_parts(&model, &ids, &one_by_one), &whole);
        let cuts = proptest::collection::btree_set(1..ids.len(), 0..6);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&cuts, |cuts| {
                let cuts: Vec<usize> = cuts.into_iter().collect();
                let got = in_parts(&model, &ids, &cuts);
                assert_bits(&format!("{what}, cut at {cuts:?}"), &got, &whole);
                Ok(())
            })
            .unwrap();
    }
}

fn a_seed_gives_one_text(backend: Backend) {
    let model = fixture("llama");
    let sampling =
        Sampling { temperature: 1.3, top_k: 60, top_p: 0.97, seed: 7, ..Sampling::default() };
    let text = model.generate_ids(&[5, 9, 11], 24, sampling, 64, &[], &mut |_| true).unwrap();
    let expected =
        include_str!("data/sampled.txt").split_whitespace().map(|id| id.parse().unwrap());
    assert_eq!(text, expected.collect::<Vec<u32>>(), "{backend}");
}

/// A prompt that is longer than the batches it is run in, from both sides of the boundary.
#[test]
fn a_prompt_longer_than_a_batch() {
    let _settings = support::Settings::hold();
    let batch = tritlab_model::decoder::BATCH;
    let llama = vec![vec![1], vec![batch - 1], vec![batch, batch + 32]];
    for (name, splits) in [("llama", llama), ("gemma3", vec![vec![33, 34, batch + 1]])] {
        let model = fixture(name);
        let ids = ids(batch + 33, 128);
        let whole = model.logits(&ids).unwrap();
        for cuts in splits {
            let got = in_parts(&model, &ids, &cuts);
            assert_bits(&format!("{name}, cut at {cuts:?}"), &got, &whole);
        }
    }
}

/// Longrope rotates by the length of the sequence, so a prefix alone has other logits, by definition. What
/// holds: the last call's logits are those of everything at once, on either side of the boundary and back.
#[test]
fn longrope_answers_for_the_whole_sequence() {
    let _settings = support::Settings::hold();
    let (model, ids) = (fixture("phi3-long"), expected("phi3-long").ids);
    let (v, original) = (128, 64);
    let whole = model.logits(&ids).unwrap();
    let short = model.logits(&ids[..original]).unwrap();
    assert_ne!(short, whole[..short.len()], "the fixture distinguishes the two sets of factors");
    for cuts in [vec![10], vec![original - 1], vec![original], vec![1, original + 1], vec![70, 71]]
    {
        let got = in_parts(&model, &ids, &cuts);
        let last_call = cuts.last().unwrap() * v;
        assert_bits(&format!("cut at {cuts:?}"), &got[last_call..], &whole[last_call..]);
    }
    // One by one: short factors while the sequence is short, the long ones from there on.
    let one_by_one: Vec<usize> = (1..ids.len()).collect();
    let got = in_parts(&model, &ids, &one_by_one);
    assert_bits("one by one, short", &got[..original * v], &short);
    assert_bits("one by one, long", &got[original * v..], &whole[original * v..]);
    // Cut back behind the boundary, the sequence is a short one again.
    let mut cache = Cache::new(model.config(), ids.len());
    model.decoder.hidden(&mut cache, &ids).unwrap();
    cache.truncate(original - 1);
    let hidden = model.decoder.hidden(&mut cache, &ids[original - 1..original]).unwrap();
    let got = model.decoder.logits(&hidden).unwrap();
    assert_bits("cut back", &got, &short[(original - 1) * v..]);
}
