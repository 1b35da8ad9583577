//! Generation and sampling.

mod support;

use std::collections::BTreeSet;

use support::{File, assert_bits, error, expected, fixture, ids};
use tritlab_kernels::op::CacheType;
use tritlab_model::generate::{Finish, Generation, Request};
use tritlab_model::sample::{Sampler, Sampling, argmax};
use tritlab_model::stop::StopFilter;
use tritlab_model::{Cache, Cancel, Error, Model};

/// Temperature 1, nothing cut.
fn free(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed, ..Sampling::default() }
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
        let sampling =
            Sampling { temperature, top_k: 1, top_p: 1.0, seed: 3, ..Sampling::default() };
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
        let mut sampler = Sampler::new(Sampling {
            temperature,
            top_k,
            top_p: 1.0,
            seed: 42,
            ..Sampling::default()
        })
        .unwrap();
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
        let sampling =
            Sampling { temperature: 100.0, top_k: 0, top_p, seed: 9, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling).unwrap();
        let seen: BTreeSet<u32> = (0..4000).map(|_| sampler.next(&logits)).collect();
        assert_eq!(seen, nucleus, "top_p {top_p}");
    }
}

#[test]
fn equal_logits_take_the_lowest_id() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
    let sampling =
        Sampling { temperature: 1.0, top_k: 1, top_p: 1.0, seed: 0, ..Sampling::default() };
    assert_eq!(Sampler::new(sampling).unwrap().next(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(argmax(&[-0.0, 0.0]), 0);
}

#[test]
fn settings_outside_their_range_are_refused() {
    let bad = |s: Sampling| match Sampler::new(s) {
        Err(Error::OutOfRange { name, .. }) => name,
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
    // Its size is the true one, however large.
    let bytes = |n| model.config().cache_bytes(n, CacheType::F16);
    assert_eq!(bytes(16), 2 * 2 * 2 * 32 * 16 * 2, "layers, keys and values, heads, elements, f16");
    assert_eq!(bytes(1_000_000_000_000_000), bytes(16) / 16 * 1_000_000_000_000_000);
    assert_eq!(bytes(1 << 63), bytes(16) << 59);
    let some = tritlab_kernels::op::KeyValues::bytes(32, 1003, CacheType::F16);
    assert_eq!(bytes(1003), some as u128 * 4);
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
    let e = error(model.generate("hello", &Request::default(), &mut |_| true));
    assert!(matches!(e, Error::NoTokenizer { .. }), "{e}");
}

// ---- the samplers, each against its definition in f64 over the whole vocabulary ----

/// What may be drawn: penalty, top-k, top-p, min-p, in that order, from the definitions.
fn allowed(logits: &[f32], recent: &[u32], s: Sampling) -> BTreeSet<u32> {
    let mut x: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
    for id in recent.iter().collect::<BTreeSet<_>>() {
        let penalty = f64::from(s.repetition_penalty);
        let x = &mut x[*id as usize];
        *x = if *x <= 0.0 { *x * penalty } else { *x / penalty };
    }
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
    if s.top_k > 0 {
        order.truncate(s.top_k);
    }
    let e: Vec<f64> = order.iter().map(|i| (x[*i] - x[order[0]]).exp()).collect();
    let sum: f64 = e.iter().sum();
    let mut before = 0.0;
    let mut kept = BTreeSet::new();
    for (i, e) in order.iter().zip(&e) {
        if before < f64::from(s.top_p) && *e >= f64::from(s.min_p) {
            kept.insert(*i as u32);
        }
        before += e / sum;
    }
    kept
}

#[test]
fn filters_keep_what_their_definitions_keep() {
    let logits = some_logits();
    let recent = [argmax(&logits), 7, 7, 100];
    let base = Sampling { temperature: 60.0, ..Sampling::default() };
    for (i, s) in [
        Sampling { min_p: 0.1, ..base },
        Sampling { min_p: 1.0, ..base },
        Sampling { top_k: 9, min_p: 0.02, ..base },
        Sampling { top_p: 0.7, min_p: 0.3, ..base },
        Sampling { top_k: 40, top_p: 0.5, ..base },
        Sampling { top_k: 1000, top_p: 0.999, ..base },
        Sampling { top_k: 5, repetition_penalty: 3.0, ..base },
        Sampling { top_k: 30, top_p: 0.8, min_p: 0.05, repetition_penalty: 1.3, ..base },
    ]
    .into_iter()
    .enumerate()
    {
        let mut sampler = Sampler::new(Sampling { seed: i as u64, ..s }).unwrap();
        recent.iter().for_each(|id| sampler.accept(*id));
        let seen: BTreeSet<u32> = (0..6000).map(|_| sampler.next(&logits)).collect();
        assert_eq!(seen, allowed(&logits, &recent, s), "{s:?}");
    }
}

/// A nucleus of a large vocabulary that is as flat as can be: selected in several steps.
#[test]
fn a_wide_nucleus_is_the_sorted_one() {
    let logits: Vec<f32> =
        (0..30_000u32).map(|i| ((i * 7919) % 30_011) as f32 / 60_000.0).collect();
    let s = Sampling { temperature: 1.0, top_p: 0.3, ..Sampling::default() };
    let kept = allowed(&logits, &[], s);
    assert!(kept.len() > 5000);
    let mut sampler = Sampler::new(s).unwrap();
    // One at the boundary may fall on either side: sums are f32 here and f64 there.
    let outside = (0..300).filter(|_| !kept.contains(&sampler.next(&logits))).count();
    assert!(outside <= 1, "{outside}");
}

#[test]
fn the_penalty_divides_above_zero_and_multiplies_below() {
    let greedy = |window, tokens: &[u32], logits: &[f32]| {
        let s =
            Sampling { repetition_penalty: 2.0, repetition_window: window, ..Sampling::default() };
        let mut sampler = Sampler::new(s).unwrap();
        tokens.iter().for_each(|id| sampler.accept(*id));
        sampler.next(logits)
    };
    let logits = [3.0, 2.0, -1.0];
    assert_eq!(greedy(64, &[], &logits), 0);
    assert_eq!(greedy(64, &[0], &logits), 1, "3 / 2 < 2");
    assert_eq!(greedy(64, &[0, 0, 0, 1], &logits), 0, "once each: 1.5 > 1");
    assert_eq!(greedy(1, &[0, 1], &logits), 0, "forgotten");
    assert_eq!(greedy(0, &[0], &logits), 0, "no window, no penalty");
    assert_eq!(
        greedy(64, &[0, 99], &[-1.0, -1.5]),
        1,
        "-2 < -1.5; an id beyond the vocabulary is none"
    );
}

#[test]
fn new_settings_outside_their_range_are_refused() {
    let bad = |s: Sampling| match Sampler::new(s) {
        Err(Error::OutOfRange { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    for min_p in [-0.1, 1.1, f32::NAN] {
        assert_eq!(bad(Sampling { min_p, ..free(0) }), "min_p");
    }
    for repetition_penalty in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        assert_eq!(bad(Sampling { repetition_penalty, ..free(0) }), "repetition_penalty");
    }
    let model = File::of("llama").with_tokenizer(true).load().unwrap();
    let request = Request { stop: vec!["x".into(), String::new()], ..Request::default() };
    assert!(matches!(error(Generation::of_text(&model, &[1], &request)), Error::EmptyStop));
}

// ---- stop strings ----

/// The text before the stop string that is complete first.
fn cut(text: &str, stops: &[&str]) -> String {
    let ends = stops.iter().filter_map(|s| text.find(s).map(|at| (at + s.len(), at)));
    ends.min().map_or(text, |(_, at)| &text[..at]).to_owned()
}

#[test]
fn stop_strings_do_not_depend_on_the_cut() {
    let texts = [
        "the END of it",
        "EENDEND",
        "abcabcabd",
        "aaaaab",
        "ÄÖÜ stöp ß",
        "no such thing",
        "",
        "EN",
    ];
    let stops: [&[&str]; 6] =
        [&["END"], &["abd", "cab"], &["abcde", "cd"], &["aab"], &["stöp", "ö"], &[]];
    for text in texts {
        for stops in stops {
            let owned: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
            let expected = cut(text, stops);
            for size in 1..=4 {
                let mut filter = StopFilter::new(&owned).unwrap();
                let mut out = String::new();
                let characters: Vec<char> = text.chars().collect();
                let mut fed = String::new();
                for piece in characters.chunks(size) {
                    let piece: String = piece.iter().collect();
                    filter.push(&piece, &mut out);
                    fed.push_str(&piece);
                    // Nothing is held back that no stop string begins with.
                    if !filter.stopped() {
                        let held = &fed[out.len()..];
                        assert!(fed.starts_with(&out));
                        assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(held)));
                    }
                }
                filter.finish(&mut out);
                assert_eq!(out, expected, "{text:?}, {stops:?}, in pieces of {size}");
            }
        }
    }
}

#[test]
fn a_stop_string_ends_a_generated_text() {
    let model = File::of("llama").with_tokenizer(true).load().unwrap();
    let request = Request { max_tokens: 40, sampling: free(3), ..Request::default() };
    let whole = model.generate("the", &request, &mut |_| true).unwrap();
    let characters: Vec<char> = whole.chars().collect();
    assert!(characters.len() > 20, "{whole:?}");
    // Stop strings that cross tokens, at several places.
    for at in [3, 8, 15] {
        let stop: String = characters[at..at + 4].iter().collect();
        let request = Request { stop: vec![stop.clone()], ..request.clone() };
        let mut pieces = String::new();
        let got = model
            .generate("the", &request, &mut |piece| {
                pieces.push_str(piece);
                true
            })
            .unwrap();
        assert_eq!(got, cut(&whole, &[&stop]));
        assert_eq!(pieces, got);
        let prompt = model.tokenizer().unwrap().encode("the", true, true).unwrap();
        let mut one = [Generation::of_text(&model, &prompt, &request).unwrap()];
        while one[0].finish().is_none() {
            Generation::advance(&model, &mut one).unwrap();
        }
        assert_eq!(one[0].finish(), Some(Finish::StopString));
    }
}

// ---- several at once ----

/// Several sequences in one batch are, bit for bit, the same sequences alone: for every kind of sampling, every
/// kind of layer, prompts of different lengths, and texts that end at different times.
#[test]
fn a_batch_is_each_of_its_sequences() {
    for name in ["llama", "qwen3", "gemma3", "phi3-long", "bitnet-gguf-tq2_0"] {
        let model = File::of(name).with_tokenizer(true).load().unwrap();
        // Hot, so that the stops come up.
        let base = Sampling { temperature: 4.0, ..free(11) };
        let mut lengths = BTreeSet::new();
        for sampling in [
            Sampling::default(),
            base,
            Sampling { top_k: 20, top_p: 0.9, ..base },
            Sampling { min_p: 0.05, ..base },
            Sampling { repetition_penalty: 1.4, repetition_window: 8, ..base },
        ] {
            for cache_type in CacheType::ALL {
                let stop = vec!["e".to_owned(), "(".to_owned()];
                let (max_tokens, stop_ids, context) = (30, (10..20).collect(), 128);
                let request = Request { max_tokens, sampling, context, stop, stop_ids, cache_type };
                // Lengths on both sides of a block, and, for phi3-long, of the length where frequencies change.
                let prompts: Vec<Vec<u32>> =
                    [1, 50, 15, 16, 17].into_iter().map(|n| ids(n, 100)).collect();
                let together = model
                    .generate_batch(&prompts, &request, &Cancel::default(), &mut || true)
                    .unwrap();
                for (i, prompt) in prompts.iter().enumerate() {
                    let sampling = Sampling { seed: sampling.seed + i as u64, ..sampling };
                    let request = Request { sampling, ..request.clone() };
                    let mut one = [Generation::of_text(&model, prompt, &request).unwrap()];
                    while one[0].finish().is_none() {
                        Generation::advance(&model, &mut one).unwrap();
                    }
                    assert_eq!(one[0].take_text(), together[i], "{name}, {sampling:?}, {i}");
                    lengths.insert(one[0].ids().len());
                }
            }
        }
        assert!(lengths.len() > 1, "{name}: texts end at different times: {lengths:?}");
    }
}

/// The hidden states themselves.
#[test]
fn a_step_of_several_has_the_bits_of_each() {
    for name in ["llama", "gemma3", "phi3-long", "bitnet-gguf-tq1_0"] {
        let model = fixture(name);
        for ty in CacheType::ALL {
            let prompts: Vec<Vec<u32>> = [1, 63, 64, 20].map(|n| ids(n, 128)).to_vec();
            let start = |ids: &Vec<u32>| {
                let mut cache = Cache::with_type(model.config(), 80, ty);
                model.decoder.hidden(&mut cache, ids).unwrap();
                cache
            };
            let mut together: Vec<Cache> = prompts.iter().map(start).collect();
            let mut alone = together.clone();
            for step in 0..4 {
                let next: Vec<u32> = (0..4).map(|i| (step * 4 + i) * 5 % 128).collect();
                let mut caches: Vec<&mut Cache> = together.iter_mut().collect();
                let got = model.decoder.step(&mut caches, &next).unwrap();
                for (i, row) in got.chunks_exact(model.config().hidden).enumerate() {
                    let expected = model.decoder.hidden(&mut alone[i], &next[i..=i]).unwrap();
                    assert_bits(&format!("{name} {ty:?} {i} {step}"), row, &expected);
                }
            }
            // One without room: none of them moves.
            let mut full = Cache::with_type(model.config(), 1, ty);
            model.decoder.hidden(&mut full, &[1]).unwrap();
            let [a, ..] = &mut together[..] else { unreachable!() };
            let before = a.len();
            let e = error(model.decoder.step(&mut [a, &mut full], &[1, 1]));
            assert!(matches!(e, Error::ContextOverflow { .. }), "{e}");
            assert_eq!((together[0].len(), full.len()), (before, 1));
        }
    }
}

#[test]
fn a_batch_can_be_cancelled() {
    let model = File::of("llama").with_tokenizer(true).load().unwrap();
    let mut left = 5;
    let never = Cancel::default();
    let e =
        error(model.generate_batch(&[vec![1], vec![2]], &Request::default(), &never, &mut || {
            left -= 1;
            left > 0
        }));
    assert!(matches!(e, Error::Cancelled), "{e}");
}

// ---- the cache ----

/// A sliding window keeps what it looks at and no more; cut back to what it has left, it is run again. The answers
/// are those of a cache that keeps everything, which a window as long as the context does.
#[test]
fn a_window_keeps_only_what_it_sees() {
    let model = fixture("gemma3");
    let window = model.config().local.as_ref().unwrap().window;
    let (n, step) = (1500, 100);
    let all = ids(n, 128);
    let mut cache = Cache::new(model.config(), n + 3);
    let mut got = Vec::new();
    for part in all.chunks(step) {
        got.extend(model.decoder.hidden(&mut cache, part).unwrap());
    }
    // In one call: batches of 512 positions, forgotten at other times.
    let whole = model.decoder.hidden(&mut Cache::new(model.config(), n), &all).unwrap();
    assert_bits("in parts", &got, &whole);
    let everything = {
        let heads = model.config().kv_heads * model.config().layers;
        let head =
            tritlab_kernels::op::KeyValues::bytes(model.config().head_dim, n, CacheType::F32);
        (head * heads) as u128
    };
    let reported = model.config().cache_bytes(n, CacheType::F32);
    assert!(window < 100 && reported < everything * 3 / 4, "{reported} of {everything}");
    let half = model.config().cache_bytes(n, CacheType::F16);
    assert_eq!(half * 2, reported);
    for keep in [1499, 1400, 900, 30, 1, 0] {
        let mut cut = cache.clone();
        cut.truncate(keep);
        assert_eq!(cut.len(), keep);
        let next = [3, 1, 4];
        let mut fresh = Cache::new(model.config(), n + 3);
        model.decoder.hidden(&mut fresh, &all[..keep]).unwrap();
        let expected = model.decoder.hidden(&mut fresh, &next).unwrap();
        assert_bits(
            &format!("{keep} kept"),
            &model.decoder.hidden(&mut cut, &next).unwrap(),
            &expected,
        );
        assert_eq!(cut.len(), keep + 3);
    }
}

/// Where every layer has a window that fits into the context, a text may be longer than it: the answers are those of a
/// context that is long enough.
#[test]
fn a_window_slides_beyond_the_context() {
    // The same frequencies for all lengths here.
    let window = |w: u32| {
        File::of("phi3-short")
            .set("phi3.attention.sliding_window", w)
            .set("phi3.rope.scaling.original_context_length", 4096u32)
    };
    let model = window(8).load().unwrap();
    let all = ids(1500, 128);
    let whole = model.decoder.hidden(&mut Cache::new(model.config(), 1500), &all).unwrap();
    for ty in [CacheType::F32, CacheType::F16] {
        let mut room = Cache::with_type(model.config(), 1500, ty);
        let expected = model.decoder.hidden(&mut room, &all).unwrap();
        let mut cache = Cache::with_type(model.config(), 50, ty);
        let mut got = Vec::new();
        for part in all.chunks(170) {
            got.extend(model.decoder.hidden(&mut cache, part).unwrap());
        }
        assert_bits("in parts", &got, &expected);
        assert_eq!((cache.len(), cache.capacity()), (1500, 50));
    }
    let plain = window(4096).load().unwrap();
    let other = plain.decoder.hidden(&mut Cache::new(plain.config(), 1500), &all).unwrap();
    assert_ne!(whole, other, "the window is looked through");

    let request = |context| Request { max_tokens: 40, context, ..Request::default() };
    let text = |model: &Model, context| {
        let mut one = [Generation::of_ids(model, &ids(30, 128), &request(context))?];
        while one[0].finish().is_none() {
            Generation::advance(model, &mut one)?;
        }
        Ok(one[0].ids().to_vec())
    };
    assert_eq!(text(&model, 50).unwrap(), text(&model, 200).unwrap());
    // A window that does not fit, and layers without one.
    assert!(model.config().slides(8) && !model.config().slides(7));
    for limited in [window(51).load().unwrap(), fixture("gemma3"), plain] {
        let e = error(text(&limited, 50));
        assert!(matches!(e, Error::ContextOverflow { needed: 70, capacity: 50 }), "{e}");
        let mut cache = Cache::new(limited.config(), 50);
        assert!(limited.decoder.hidden(&mut cache, &all[..51]).is_err());
    }
}

/// A cache in f16 gives other answers than one in f32, near them, and refuses what it cannot hold.
#[test]
fn a_cache_in_f16_rounds() {
    let model = fixture("llama");
    let all = ids(40, 128);
    let run =
        |ty| model.decoder.hidden(&mut Cache::with_type(model.config(), 40, ty), &all).unwrap();
    let (full, half) = (run(CacheType::F32), run(CacheType::F16));
    let worst = full.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.05, "{worst}");

    let huge = File::of("llama").change("blk.1.attn_v.weight", |t| {
        let words = t.data.as_chunks_mut::<4>().0;
        words.iter_mut().for_each(|w| *w = (f32::from_le_bytes(*w) * 1e6).to_le_bytes());
    });
    let model = huge.load().unwrap();
    let mut cache = Cache::with_type(model.config(), 40, CacheType::F16);
    match error(model.decoder.hidden(&mut cache, &all)) {
        Error::CacheOverflow { layer: 1, value } => assert!(value.abs() > 65504.0),
        e => panic!("{e}"),
    }
    assert_eq!(cache.len(), 0);
    model.decoder.hidden(&mut Cache::new(model.config(), 40), &all).unwrap();
}
