//! Perplexity and divergence against a second, straightforward computation.

mod support;

use support::{File, error, fixture, ids, load_as, path};
use tritlab_kernels::Format;
use tritlab_model::eval::{Scored, score, windows};
use tritlab_model::{Cancel, Error, Model};

fn run(
    model: &Model,
    reference: Option<&Model>,
    ids: &[u32],
    context: usize,
) -> tritlab_model::Result<Vec<Scored>> {
    score(model, reference, ids, context, &Cancel::default(), &mut |_, _| true)
}

/// `ln softmax`, in f64, by the standard library.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(f64::from(*x)));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - max - sum.ln()).collect()
}

/// llama.cpp's rule, written out: (index in the text, token, -ln p, ln p of all tokens).
fn by_hand(
    model: &Model,
    text: &[u32],
    n: usize,
    bos: Option<u32>,
) -> Vec<(usize, u32, f64, Vec<f64>)> {
    let mut out = Vec::new();
    for w in 0..text.len() / n {
        let mut window = text[w * n..(w + 1) * n].to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        let logits = model.logits(&window).unwrap();
        let mut scored = 0;
        for i in n / 2..n - 1 {
            let p = log_softmax(&logits[i * 128..(i + 1) * 128]);
            let token = window[i + 1];
            out.push((w * n + i + 1, token, -p[token as usize], p));
            scored += 1;
        }
        assert_eq!(scored, n - 1 - n / 2);
    }
    out
}

fn check(model: &Model, text: &[u32], n: usize, bos: Option<u32>) {
    let (got, expected) = (run(model, None, text, n).unwrap(), by_hand(model, text, n, bos));
    assert_eq!(got.len(), expected.len(), "context {n}");
    for (s, (position, token, nll, _)) in got.iter().zip(&expected) {
        assert_eq!((s.position, s.token), (*position, *token), "context {n}");
        assert!((s.nll - nll).abs() < 1e-9, "context {n}, {position}: {} and {nll}", s.nll);
        assert!((s.p() - (-nll).exp()).abs() < 1e-9);
        assert_eq!((s.ref_nll, s.kl, s.same_top), (0.0, 0.0, false), "no reference");
    }
}

#[test]
fn scores_are_those_of_a_second_computation() {
    let model = fixture("llama");
    let text = ids(330, 128);
    // Even and odd windows, more than 64 scored positions in one, a rest that is not used.
    for n in [4, 5, 16, 33, 300, 330] {
        check(&model, &text, n, None);
    }
    check(&fixture("gemma3"), &text, 40, None);
    check(&fixture("bitnet-gguf-tq2_0"), &text, 40, None);
}

/// A model remembers the windows it has scored; what it remembers is what it would compute.
#[test]
fn a_second_time_gives_the_same() {
    let (model, text) = (fixture("llama"), ids(330, 128));
    let first = run(&model, None, &text, 33).unwrap();
    assert_eq!(run(&model, None, &text, 33).unwrap(), first);
    assert_eq!(run(&fixture("llama"), None, &text, 33).unwrap(), first);
    // Windows that begin alike are not alike.
    let mut other = text.clone();
    other[20] = (other[20] + 1) % 128;
    assert_ne!(run(&model, None, &other, 33).unwrap()[..16], first[..16]);
    assert_eq!(run(&model, None, &other, 33).unwrap()[16..], first[16..]);
}

/// A model that begins its texts with BOS gets it in place of each window's first token.
#[test]
fn bos_takes_the_place_of_the_first_token() {
    let text = ids(100, 96);
    let plain = File::of("llama").with_tokenizer(false).load().unwrap();
    let with_bos = File::of("llama").with_tokenizer(true).load().unwrap();
    assert_eq!(with_bos.tokenizer().unwrap().bos(), Some(0));
    assert!(with_bos.tokenizer().unwrap().adds_bos() && !plain.tokenizer().unwrap().adds_bos());
    check(&plain, &text, 20, None);
    check(&with_bos, &text, 20, Some(0));
    let (a, b) = (run(&plain, None, &text, 20).unwrap(), run(&with_bos, None, &text, 20).unwrap());
    assert_ne!(a, b);
    // A text from the tokenizer, as a user would have it.
    let words = "and then the end\n".repeat(8);
    let words = with_bos.tokenizer().unwrap().encode(&words, true, false).unwrap();
    assert_eq!(words[0], 0);
    check(&with_bos, &words, 24, Some(0));
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    for name in ["llama", "bitnet-gguf-tq2_0"] {
        let (a, b) = (fixture(name), fixture(name));
        let scored = run(&a, Some(&b), &ids(200, 128), 40).unwrap();
        assert_eq!(scored.len(), 5 * 19);
        for s in &scored {
            assert_eq!((s.kl, s.same_top, s.ref_nll), (0.0, true, s.nll));
            assert_eq!(s.p(), s.ref_p());
        }
    }
}

#[test]
fn divergence_is_that_of_a_second_computation() {
    let (n, text) = (40, ids(200, 128));
    let reference = fixture("llama");
    let model = load_as(path("llama"), Some(Format::Q4_0)).unwrap();
    let got = run(&model, Some(&reference), &text, n).unwrap();
    let (ours, theirs) = (by_hand(&model, &text, n, None), by_hand(&reference, &text, n, None));
    let mut same = 0;
    for ((s, (.., nll, q)), (.., ref_nll, p)) in got.iter().zip(&ours).zip(&theirs) {
        let kl: f64 = p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum();
        assert!((s.kl - kl).abs() < 1e-9 && s.kl > 0.0, "{} and {kl}", s.kl);
        assert!((s.nll - nll).abs() < 1e-9 && (s.ref_nll - ref_nll).abs() < 1e-9);
        let top = |p: &[f64]| (0..p.len()).rev().max_by(|a, b| p[*a].total_cmp(&p[*b]));
        assert_eq!(s.same_top, top(p) == top(q));
        same += usize::from(s.same_top);
    }
    assert!(same > 0 && same < got.len(), "{same} of {}: both cases occur", got.len());
}

#[test]
fn texts_and_windows_that_cannot_be() {
    let model = fixture("llama");
    let short = error(run(&model, None, &ids(39, 128), 40));
    assert!(matches!(short, Error::TextTooShort { tokens: 39, needed: 40 }), "{short}");
    assert!(matches!(error(run(&model, None, &[], 512)), Error::TextTooShort { tokens: 0, .. }));
    for context in [0, 1, 3] {
        let e = error(run(&model, None, &ids(39, 128), context));
        assert!(matches!(e, Error::Evaluation { .. }), "{e}");
        assert!(matches!(error(windows(100, context)), Error::Evaluation { .. }));
    }
    assert_eq!(windows(119, 40).unwrap(), 2);
    let unknown = error(run(&model, None, &[128; 40], 40));
    assert!(matches!(unknown, Error::UnknownToken { id: 128, vocab: 128 }), "{unknown}");
}

#[test]
fn vocabularies_must_be_the_same() {
    let cut = |file: File, name: &str| {
        file.change(name, |t| {
            t.dims[1] = 127;
            t.data.truncate(96 * 127 * 4);
        })
    };
    let small = cut(cut(File::of("llama"), "token_embd.weight"), "output.weight");
    let small = small.set("llama.vocab_size", 127u32).load().unwrap();
    let e = error(run(&fixture("llama"), Some(&small), &ids(40, 127), 40));
    assert!(matches!(e, Error::Evaluation { .. }), "{e}");
    assert!(e.to_string().contains("127") && e.to_string().contains("128"), "{e}");
}

#[test]
fn progress_counts_and_cancels() {
    let model = fixture("llama");
    let text = ids(100, 128);
    let mut calls = Vec::new();
    score(&model, None, &text, 20, &Cancel::default(), &mut |done, all| {
        calls.push((done, all));
        true
    })
    .unwrap();
    assert_eq!(calls, [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]);
    let e = error(score(&model, None, &text, 20, &Cancel::default(), &mut |done, _| done < 2));
    assert!(matches!(e, Error::Cancelled), "{e}");
}
