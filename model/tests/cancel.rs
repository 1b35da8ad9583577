//! Work that is ended from outside, and what is left then.

mod support;

use support::{File, assert_bits, error, fixture, ids};
use tritlab_model::eval::score;
use tritlab_model::generate::{Generation, Request};
use tritlab_model::{Cache, Cancel, Error, Model};

fn cancelled() -> Cancel {
    let cancel = Cancel::default();
    cancel.cancel();
    cancel
}

fn is_cancelled<T>(result: tritlab_model::Result<T>) {
    let e = error(result);
    assert!(matches!(e, Error::Cancelled), "{e}");
}

/// Hidden states in parts, the second of which was cancelled once before it was run.
fn with_a_break(model: &Model, all: &[u32], at: usize, step: bool) -> Vec<f32> {
    let mut cache = Cache::new(model.config(), all.len());
    let mut got = model.decoder.hidden(&mut cache, &all[..at]).unwrap();
    let mut broken = cache.clone().cancelled_by(&cancelled());
    match step {
        true => is_cancelled(model.decoder.step(&mut [&mut broken], &all[at..=at])),
        false => is_cancelled(model.decoder.hidden(&mut broken, &all[at..])),
    }
    assert_eq!(broken.len(), at, "as it was");
    let mut again = broken.cancelled_by(&Cancel::default());
    got.extend(model.decoder.hidden(&mut again, &all[at..]).unwrap());
    got
}

#[test]
fn a_cache_is_as_it_was() {
    // Windows, and frequencies that change within the second part: all of it is run again.
    for (name, n, at) in [("llama", 90, 30), ("gemma3", 700, 600), ("phi3-long", 90, 60)] {
        let model = fixture(name);
        let all = ids(n, 128);
        let whole = model.decoder.hidden(&mut Cache::new(model.config(), n), &all).unwrap();
        let from = at * model.config().hidden;
        for step in [false, true] {
            let got = with_a_break(&model, &all, at, step);
            assert_bits(name, &got[from..], &whole[from..]);
        }
    }
}

#[test]
fn every_long_call_ends() {
    let model = File::of("llama").with_tokenizer(true).load().unwrap();
    let (all, cancel) = (ids(90, 128), cancelled());
    is_cancelled(model.logits_unless(&cancel, &all));
    is_cancelled(model.fingerprint_unless(&cancel, &all));
    is_cancelled(model.head_unless(&cancel, &vec![0.5; model.config().hidden]));
    is_cancelled(score(&model, None, &all, 20, &cancel, &mut |_, _| true));
    is_cancelled(score(&model, Some(&model), &all, 20, &cancel, &mut |_, _| true));
    is_cancelled(model.generate_batch(&[all], &Request::default(), &cancel, &mut || true));
}

/// From another thread, in the middle of a call that would take minutes.
#[test]
fn a_call_ends_while_it_runs() {
    let model = fixture("llama");
    let (all, cancel) = (ids(60_000, 128), Cancel::default());
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            cancel.cancel();
        });
        is_cancelled(model.fingerprint_unless(&cancel, &all));
    });
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// A sequence that was cancelled goes on with the text that it would have had.
#[test]
fn a_generation_goes_on() {
    let model = fixture("llama");
    let request = Request { max_tokens: 6, ..Request::default() };
    let run = |breaks: bool| {
        let mut one = [Generation::of_ids(&model, &ids(20, 128), &request).unwrap()];
        assert!(one[0].takes_long(&model), "a prompt is to be read");
        while one[0].finish().is_none() {
            if breaks {
                one[0].cancelled_by(&cancelled());
                is_cancelled(Generation::advance(&model, &mut one));
                one[0].cancelled_by(&Cancel::default());
            }
            Generation::advance(&model, &mut one).unwrap();
            assert!(!one[0].takes_long(&model), "a token is short");
        }
        one[0].ids().to_vec()
    };
    assert_eq!(run(true), run(false));
}

/// Phi-3 reads its text again where it grows beyond the original context: that is long.
#[test]
fn a_text_that_is_run_again_takes_long() {
    let model = fixture("phi3-long");
    let request = Request { max_tokens: 10, ..Request::default() };
    let mut one = [Generation::of_ids(&model, &ids(60, 128), &request).unwrap()];
    let mut long = Vec::new();
    while one[0].finish().is_none() {
        long.push(one[0].takes_long(&model));
        Generation::advance(&model, &mut one).unwrap();
    }
    // The prompt's 60, then 61 to 64 with the short frequencies, then all 65 anew.
    assert_eq!(long.iter().filter(|x| **x).count(), 2, "{long:?}");
    assert!(long[0] && long[5], "{long:?}");
}

/// Batch by batch, the bits are those of all logits at once, also where the length chooses the frequencies.
#[test]
fn a_fingerprint_is_that_of_the_logits() {
    for (name, n) in [("llama", 1100), ("phi3-long", 600), ("gemma3", 600)] {
        let model = fixture(name);
        let all = ids(n, 128);
        let hidden = model.decoder.hidden(&mut Cache::new(model.config(), n), &all).unwrap();
        let expected = model.decoder.logits(&hidden).unwrap();
        assert_bits(name, &model.logits(&all).unwrap(), &expected);
        assert_eq!(
            model.fingerprint(&all).unwrap(),
            tritlab_model::fingerprint::fingerprint(&expected)
        );
    }
}
