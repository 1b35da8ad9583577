//! Generation and sampling.

mod support;

use std::collections::BTreeSet;

use support::{assert_bits, error, expected, fixture, ids};
use tritlab_model::sample::{Sampler, Sampling, argmax};
use tritlab_model::{Cache, Error, Model};

/// Temperature 1, nothing cut.
fn free(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed }
}

fn generate(model: &Model, n: usize, sampling: Sampling) -> Vec<u32> {
    model.generate_ids(&[5, 9, 11], n, sampling, 3 + n, &[], &mut |_| true).unwrap()
}

/// Softmax in f64 at a temperature.
fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    let e: Vec<f64> = logits.iter().map(|x| (f64::from(x - max) / temperature).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// Real logits: those after a fixture's prompt.
fn some_logits() -> Vec<f32> {
    let (model, ids) = (fixture("llama"), expected("llama").ids);
    model.decoder.last_logits(&mut Cache::new(model.config(), ids.len()), &ids).unwrap()
}

#[test]
fn a_top_k_of_one_is_greedy() {
    let model = fixture("llama");
    let greedy = generate(&model, 32, Sampling::default());
    for temperature in [0.1, 1.0, 50.0] {
        let sampling = Sampling { temperature, top_k: 1, top_p: 1.0, seed: 3 };
        assert_eq!(generate(&model, 32, sampling), greedy);
    }
}

/// A temperature near 0 tends to greedy, also where a quotient by it would overflow.
#[test]
fn a_small_temperature_is_greedy() {
    let logits = some_logits();
    for temperature in [1e-3, 1e-30, f32::MIN_POSITIVE, 1e-45] {
        let mut sampler = Sampler::new(Sampling { temperature, ..free(1) }).unwrap();
        assert!((0..100).all(|_| sampler.next(&logits) == argmax(&logits)), "{temperature:e}");
    }
}

#[test]
fn a_seed_is_a_text() {
    let model = fixture("llama");
    let texts: BTreeSet<_> = (0..8).map(|seed| generate(&model, 24, free(seed))).collect();
    assert_eq!(texts.len(), 8, "seeds differ");
    for seed in 0..8 {
        assert!(texts.contains(&generate(&model, 24, free(seed))), "seed {seed} again");
    }
    // A longer text begins with the shorter one.
    assert_eq!(generate(&model, 24, free(1))[..10], generate(&model, 10, free(1)));
}

/// Draws follow the softmax: chi-square against exact probabilities, for several temperatures. The seed is
/// fixed, so this either holds or does not.
#[test]
fn draws_follow_the_softmax() {
    let logits = some_logits();
    let draws = 20_000;
    for (temperature, top_k) in [(1.0, 0), (0.5, 0), (2.0, 20), (1.0, 5)] {
        let mut sampler =
            Sampler::new(Sampling { temperature, top_k, top_p: 1.0, seed: 42 }).unwrap();
        let mut counts = vec![0u32; logits.len()];
        (0..draws).for_each(|_| counts[sampler.next(&logits) as usize] += 1);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let kept = &order[..if top_k == 0 { order.len() } else { top_k }];
        let outside = order[kept.len()..].iter().map(|i| counts[*i]).sum::<u32>();
        assert_eq!(outside, 0, "top_k {top_k}");
        let p = softmax(&kept.iter().map(|i| logits[*i]).collect::<Vec<_>>(), temperature.into());
        // Cells with fewer than 5 expected draws are put together.
        let (mut chi2, mut cells, mut rest) = (0.0, 0, (0.0, 0.0));
        for (i, p) in kept.iter().zip(&p) {
            let (e, n) = (p * f64::from(draws), f64::from(counts[*i]));
            if e < 5.0 {
                rest = (rest.0 + e, rest.1 + n);
            } else {
                chi2 += (n - e).powi(2) / e;
                cells += 1;
            }
        }
        if rest.0 > 0.0 {
            chi2 += (rest.1 - rest.0).powi(2) / rest.0;
            cells += 1;
        }
        // Mean + 4 standard deviations of chi-square.
        let freedom = f64::from(cells - 1);
        let limit = freedom + 4.0 * (2.0 * freedom).sqrt();
        assert!(chi2 < limit, "temperature {temperature}, top_k {top_k}: {chi2} > {limit}");
    }
}

/// The nucleus is the smallest set of most likely tokens that reaches `top_p`; all of it is drawn from, and
/// nothing else.
#[test]
fn top_p_keeps_the_nucleus() {
    let logits = some_logits();
    let p = softmax(&logits, 1.0);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    for top_p in [0.05, 0.3, 0.6, 0.9] {
        let mut total = 0.0;
        let n = order.iter().position(|i| {
            total += p[*i];
            total >= f64::from(top_p)
        });
        let nucleus: BTreeSet<u32> = order[..=n.unwrap()].iter().map(|i| *i as u32).collect();
        // Hot, so that every member comes up: the nucleus is that of temperature 1.
        let sampling = Sampling { temperature: 100.0, top_k: 0, top_p, seed: 9 };
        let mut sampler = Sampler::new(sampling).unwrap();
        let seen: BTreeSet<u32> = (0..4000).map(|_| sampler.next(&logits)).collect();
        assert_eq!(seen, nucleus, "top_p {top_p}");
    }
}

#[test]
fn equal_logits_take_the_lowest_id() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
    let sampling = Sampling { temperature: 1.0, top_k: 1, top_p: 1.0, seed: 0 };
    assert_eq!(Sampler::new(sampling).unwrap().next(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(argmax(&[-0.0, 0.0]), 0);
}

#[test]
fn settings_outside_their_range_are_refused() {
    let bad = |s: Sampling| match Sampler::new(s) {
        Err(Error::BadSampling { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    for temperature in [-1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(bad(Sampling { temperature, ..free(0) }), "temperature");
    }
    for top_p in [0.0, -0.1, 1.5, f32::NAN] {
        assert_eq!(bad(Sampling { top_p, ..free(0) }), "top_p");
    }
    // More than there are is all of them.
    let mut sampler = Sampler::new(Sampling { top_k: usize::MAX, ..free(0) }).unwrap();
    assert!(sampler.next(&[0.0, 1.0]) < 2);
}

#[test]
fn a_full_context_is_an_error_and_changes_nothing() {
    let model = fixture("llama");
    let go = |max, context| {
        model.generate_ids(&[1, 2, 3], max, Sampling::default(), context, &[], &mut |_| true)
    };
    assert_eq!(go(5, 8).unwrap().len(), 5);
    for (max, context) in [(6, 8), (usize::MAX, 8), (1, 3), (1, 0)] {
        match error(go(max, context)) {
            Error::ContextOverflow { needed, capacity } => {
                assert_eq!((needed, capacity), (3usize.saturating_add(max), context));
            }
            e => panic!("{e}"),
        }
    }
    let mut cache = Cache::new(model.config(), 4);
    model.decoder.hidden(&mut cache, &[1, 2, 3]).unwrap();
    let before = model.decoder.last_logits(&mut cache.clone(), &[4]).unwrap();
    let full = error(model.decoder.hidden(&mut cache, &[4, 5]));
    assert!(matches!(full, Error::ContextOverflow { needed: 5, capacity: 4 }), "{full}");
    let unknown = error(model.decoder.hidden(&mut cache, &[128]));
    assert!(matches!(unknown, Error::UnknownToken { id: 128, vocab: 128 }), "{unknown}");
    assert_eq!(cache.len(), 3);
    assert_bits("after", &model.decoder.last_logits(&mut cache, &[4]).unwrap(), &before);
    assert!(matches!(error(go(0, 0)), Error::ContextOverflow { .. }));
    let none = model.generate_ids(&[], 1, Sampling::default(), 8, &[], &mut |_| true);
    assert!(matches!(error(none), Error::EmptyPrompt));
}

/// A limit that no memory could hold is only a limit: memory is taken as it is used.
#[test]
fn an_absurd_context_costs_nothing() {
    let model = fixture("llama");
    let mut left = 3;
    let out =
        model.generate_ids(&[1], usize::MAX - 1, Sampling::default(), usize::MAX, &[], &mut |_| {
            left -= 1;
            left > 0
        });
    assert_eq!(out.unwrap().len(), 3);
    assert_eq!(model.config().cache_bytes(usize::MAX), usize::MAX);
    assert!(model.config().cache_bytes(16) > 0);
}

#[test]
fn stop_tokens_end_the_text_and_are_no_part_of_it() {
    let model = fixture("llama");
    let text = generate(&model, 16, free(5));
    let at = 7;
    let stop = text[at];
    let first = text.iter().position(|id| *id == stop).unwrap();
    let mut seen = Vec::new();
    let got = model
        .generate_ids(&[5, 9, 11], 16, free(5), 64, &[127, stop], &mut |id| {
            seen.push(id);
            true
        })
        .unwrap();
    assert_eq!(got, text[..first]);
    assert_eq!(seen, got, "each token is seen once, the stop token never");
}

#[test]
fn a_callback_can_stop() {
    let model = fixture("llama");
    let mut seen = 0;
    let got = model
        .generate_ids(&[5, 9, 11], 16, free(5), 64, &[], &mut |_| {
            seen += 1;
            seen < 4
        })
        .unwrap();
    assert_eq!(got, generate(&model, 4, free(5)));
}

#[test]
fn a_cache_cut_back_is_as_if_the_rest_had_never_been() {
    // Windows, per-head norms, sub-norms: every kind of layer.
    for name in ["llama", "gemma3", "bitnet-gguf-tq2_0"] {
        let model = fixture(name);
        let (ids, other) = (ids(50, 128), [3, 1, 4, 1, 5]);
        for keep in [0, 1, 15, 16, 17, 49] {
            let mut cache = Cache::new(model.config(), 60);
            model.decoder.hidden(&mut cache, &ids).unwrap();
            cache.truncate(keep);
            assert_eq!((cache.len(), cache.is_empty()), (keep, keep == 0));
            let got = model.decoder.hidden(&mut cache, &other).unwrap();
            let mut fresh = Cache::new(model.config(), 60);
            model.decoder.hidden(&mut fresh, &ids[..keep]).unwrap();
            let expected = model.decoder.hidden(&mut fresh, &other).unwrap();
            assert_bits(&format!("{name}, {keep} kept"), &got, &expected);
        }
    }
}

/// Without a tokenizer, text is refused and ids work.
#[test]
fn text_needs_a_tokenizer() {
    let model = fixture("llama");
    let e = error(model.generate("hello", 3, Sampling::default(), 64, &mut |_| true));
    assert!(matches!(e, Error::NoTokenizer { .. }), "{e}");
}
