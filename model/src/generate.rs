//! Continuing a text.

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sample::{Sampler, Sampling};

impl Model {
    /// Continues `prompt` by at most `max_tokens`; `on_token` sees each id as it is chosen and returns `false`
    /// to stop. Ids in `stop` end the text and are not part of it. Returns the new ids.
    ///
    /// Rows of the head beyond the tokenizer's vocabulary (padding) are never chosen.
    ///
    /// # Errors
    /// No prompt, a prompt and an answer that do not fit into `context` positions together, sampling settings
    /// outside their range.
    pub fn generate_ids(
        &self,
        prompt: &[u32],
        max_tokens: usize,
        sampling: Sampling,
        context: usize,
        stop: &[u32],
        on_token: &mut (dyn FnMut(u32) -> bool + Send),
    ) -> Result<Vec<u32>> {
        let mut sampler = Sampler::new(sampling)?;
        let needed = prompt.len().saturating_add(max_tokens);
        if needed > context {
            return Err(Error::ContextOverflow { needed, capacity: context });
        }
        let vocab = self.config().vocab;
        let known = self.tokenizer().map_or(vocab, |t| t.vocab_size().clamp(1, vocab));
        let mut cache = Cache::new(self.config(), needed);
        let mut out = Vec::new();
        // `on_token` is called on this thread, outside the pool: it may take its time, or use the model itself.
        let mut logits = self.decoder.last_logits(&mut cache, prompt)?;
        while out.len() < max_tokens {
            let id = sampler.next(&logits[..known]);
            if stop.contains(&id) {
                break;
            }
            out.push(id);
            if !on_token(id) || out.len() == max_tokens {
                break;
            }
            logits = self.decoder.last_logits(&mut cache, &[id])?;
        }
        Ok(out)
    }

    /// Continues a text; `on_text` sees it grow in whole characters and returns `false` to stop.
    /// Returns the new text.
    ///
    /// # Errors
    /// No tokenizer; as [`Self::generate_ids`].
    pub fn generate(
        &self,
        prompt: &str,
        max_tokens: usize,
        sampling: Sampling,
        context: usize,
        on_text: &mut (dyn FnMut(&str) -> bool + Send),
    ) -> Result<String> {
        let tokenizer = self.tokenizer()?;
        let ids = tokenizer.encode(prompt, true, true)?;
        let mut stream = tokenizer.continue_stream(true);
        let mut text = String::new();
        let mut failed = None;
        self.generate_ids(&ids, max_tokens, sampling, context, tokenizer.eog(), &mut |id| {
            match stream.push(id) {
                Ok("") => true,
                Ok(piece) => {
                    text.push_str(piece);
                    on_text(piece)
                }
                Err(e) => {
                    failed = Some(e);
                    false
                }
            }
        })?;
        match failed {
            Some(e) => Err(e),
            None => {
                let rest = stream.finish();
                if !rest.is_empty() {
                    text.push_str(rest);
                    on_text(rest);
                }
                Ok(text)
            }
        }
    }
}
