//! Continuing texts, one or several at once.

use tritlab_kernels::op::CacheType;
use tritlab_kernels::threads;

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::decoder::BATCH;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sample::{Sampler, Sampling};
use crate::stop::StopFilter;
use crate::tokenizer::DecodeState;

/// What is to be generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The longest continuation, tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Positions that prompt and continuation may have together; no limit where [`crate::Config::slides`].
    pub context: usize,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Ids that end the text, beside the tokenizer's own where it is generated as text.
    pub stop_ids: Vec<u32>,
    /// How keys and values are held.
    pub cache_type: CacheType,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            max_tokens: 128,
            sampling: Sampling::default(),
            context: 2048,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            cache_type: CacheType::F32,
        }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It has as many tokens as it may.
    Length,
    /// The model ended it, or an id of [`Request::stop_ids`] did.
    StopToken,
    /// A string of [`Request::stop`] did.
    StopString,
}

/// One text on its way. It owns all of its state except the model; to drop it is to cancel it.
#[derive(Debug)]
pub struct Generation {
    cache: Cache,
    sampler: Sampler,
    prompt: Vec<u32>,
    max_tokens: usize,
    stop_ids: Vec<u32>,
    /// Tokens that may be chosen: rows of the head beyond the tokenizer's vocabulary are padding.
    known: usize,
    ids: Vec<u32>,
    text: Option<Text>,
    finish: Option<Finish>,
}

/// The text of the ids so far.
#[derive(Debug)]
struct Text {
    stream: DecodeState,
    filter: StopFilter,
    /// What is certain and was not taken yet.
    ready: String,
}

impl Generation {
    /// Ids after ids: no text is made, stop strings are not looked for.
    ///
    /// # Errors
    /// No prompt, a prompt and an answer that do not fit into the context together, sampling settings outside
    /// their range, ids outside the vocabulary.
    pub fn of_ids(model: &Model, prompt: &[u32], request: &Request) -> Result<Self> {
        let sampler = Sampler::new(request.sampling)?;
        let needed = prompt.len().saturating_add(request.max_tokens);
        if needed > request.context && !model.config().slides(request.context) {
            return Err(Error::ContextOverflow { needed, capacity: request.context });
        }
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let vocab = model.config().vocab;
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::UnknownToken { id, vocab });
        }
        let mut generation = Generation {
            cache: Cache::with_type(model.config(), needed, request.cache_type),
            sampler,
            prompt: prompt.to_vec(),
            max_tokens: request.max_tokens,
            stop_ids: request.stop_ids.clone(),
            known: model.tokenizer().map_or(vocab, |t| t.vocab_size().clamp(1, vocab)),
            ids: Vec::new(),
            text: None,
            finish: (request.max_tokens == 0).then_some(Finish::Length),
        };
        prompt.iter().for_each(|id| generation.sampler.accept(*id));
        Ok(generation)
    }

    /// Text after ids; the tokenizer's ends of text end it.
    ///
    /// # Errors
    /// As [`Self::of_ids`]; no tokenizer, an empty stop string.
    pub fn of_text(model: &Model, prompt: &[u32], request: &Request) -> Result<Self> {
        let eog = model.tokenizer()?.eog();
        let filter = StopFilter::new(&request.stop)?;
        let mut generation = Self::of_ids(model, prompt, request)?;
        generation.stop_ids.extend_from_slice(eog);
        let stream = DecodeState::new(true, false);
        generation.text = Some(Text { stream, filter, ready: String::new() });
        Ok(generation)
    }

    /// Why it ended, if it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The ids so far, those that a stop string ended in included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Takes the text that has become certain since the last time: whole characters, no part of a stop string.
    pub fn take_text(&mut self) -> String {
        self.text.as_mut().map(|t| std::mem::take(&mut t.ready)).unwrap_or_default()
    }

    /// What ends a call of [`Self::advance`] from outside. A sequence that was cancelled can go on, with another one.
    pub fn cancelled_by(&mut self, cancel: &Cancel) {
        self.cache.cancel = cancel.clone();
    }

    /// Whether the next call of [`Self::advance`] may take many tokens' time: it reads a prompt, or all that is held
    /// once more.
    pub fn takes_long(&self, model: &Model) -> bool {
        let held = self.cache.len();
        held < self.prompt.len() || self.cache.must_rerun(model.config().rope.is_long(held + 1))
    }

    /// Bytes of the key-value cache at its largest.
    pub fn cache_bytes(&self, model: &Model) -> u128 {
        model.config().cache_bytes(self.cache.capacity(), self.cache.cache_type())
    }

    /// Works on all sequences that have not ended: some of one's prompt (at most [`BATCH`] tokens of it), or the
    /// next token of each, all of them in the same products. Bit for bit as if each were alone, whatever the others
    /// are. Call it until all have ended; not to call it again cancels.
    ///
    /// # Errors
    /// Numbers that overflowed on the way; the sequences cannot go on then. [`Error::Cancelled`]; they can.
    pub fn advance(model: &Model, sequences: &mut [Generation]) -> Result<()> {
        let mut open: Vec<_> = sequences.iter_mut().filter(|s| s.finish.is_none()).collect();
        threads::run_hot(|| {
            if let Some(s) = open.iter_mut().find(|s| s.cache.len() < s.prompt.len()) {
                return s.read(model);
            }
            let ids: Vec<u32> = open.iter().filter_map(|s| s.ids.last()).copied().collect();
            if ids.is_empty() {
                return Ok(());
            }
            let mut caches: Vec<&mut Cache> = open.iter_mut().map(|s| &mut s.cache).collect();
            let hidden = model.decoder.step(&mut caches, &ids)?;
            let logits = model.decoder.logits(&hidden)?;
            let rows = logits.chunks_exact(model.config().vocab);
            open.iter_mut().zip(rows).try_for_each(|(s, row)| s.choose(model, row))
        })
    }

    /// Reads some of the prompt; chooses the first token if that was the last of it.
    fn read(&mut self, model: &Model) -> Result<()> {
        let at = self.cache.len();
        let end = self.prompt.len().min(at + BATCH);
        let hidden = model.decoder.hidden(&mut self.cache, &self.prompt[at..end])?;
        if end < self.prompt.len() {
            return Ok(());
        }
        let logits = model.decoder.logits(&hidden[hidden.len() - model.config().hidden..])?;
        self.choose(model, &logits)
    }

    /// The next token, by its logits.
    fn choose(&mut self, model: &Model, logits: &[f32]) -> Result<()> {
        let id = self.sampler.next(&logits[..self.known]);
        if self.stop_ids.contains(&id) {
            self.end(Finish::StopToken);
            return Ok(());
        }
        self.ids.push(id);
        self.sampler.accept(id);
        if let Some(text) = &mut self.text {
            let piece = text.stream.push(model.tokenizer()?, id)?;
            text.filter.push(piece, &mut text.ready);
            if text.filter.stopped() {
                self.finish = Some(Finish::StopString);
                return Ok(());
            }
        }
        if self.ids.len() == self.max_tokens {
            self.end(Finish::Length);
        }
        Ok(())
    }

    /// What was held back is text after all.
    fn end(&mut self, why: Finish) {
        self.finish = Some(why);
        if let Some(text) = &mut self.text {
            let rest = text.stream.finish();
            text.filter.push(rest, &mut text.ready);
            match text.filter.stopped() {
                true => self.finish = Some(Finish::StopString),
                false => text.filter.finish(&mut text.ready),
            }
        }
    }
}

impl Model {
    /// Continues `prompt` by at most `max_tokens`; `on_token` sees each id as it is chosen and returns `false`
    /// to stop. Ids in `stop` end the text and are not part of it. Returns the new ids.
    ///
    /// # Errors
    /// As [`Generation::of_ids`].
    pub fn generate_ids(
        &self,
        prompt: &[u32],
        max_tokens: usize,
        sampling: Sampling,
        context: usize,
        stop: &[u32],
        on_token: &mut (dyn FnMut(u32) -> bool + Send),
    ) -> Result<Vec<u32>> {
        let stop_ids = stop.to_vec();
        let request = Request { max_tokens, sampling, context, stop_ids, ..Request::default() };
        let mut one = [Generation::of_ids(self, prompt, &request)?];
        // `on_token` is called on this thread, outside the pool: it may take its time, or use the model itself.
        let mut seen = 0;
        while one[0].finish.is_none() {
            Generation::advance(self, &mut one)?;
            if let Some(&id) = one[0].ids.get(seen) {
                seen += 1;
                if !on_token(id) {
                    break;
                }
            }
        }
        let [one] = one;
        Ok(one.ids)
    }

    /// Continues a text; `on_text` sees it grow in whole characters and returns `false` to stop.
    /// Returns the new text.
    ///
    /// # Errors
    /// As [`Generation::of_text`].
    pub fn generate(
        &self,
        prompt: &str,
        request: &Request,
        on_text: &mut (dyn FnMut(&str) -> bool + Send),
    ) -> Result<String> {
        let ids = self.tokenizer()?.encode(prompt, true, true)?;
        let mut one = [Generation::of_text(self, &ids, request)?];
        let mut text = String::new();
        while one[0].finish.is_none() {
            Generation::advance(self, &mut one)?;
            let piece = one[0].take_text();
            text.push_str(&piece);
            if !piece.is_empty() && !on_text(&piece) {
                break;
            }
        }
        Ok(text)
    }

    /// Continues several texts at once; text i is sampled with `seed + i`, so that it is the one that
    /// [`Self::generate`] gives alone with that seed. `on_step` is called between tokens and returns `false` to
    /// cancel; `cancel` does so within one. Returns the new texts.
    ///
    /// # Errors
    /// As [`Generation::of_text`] for any of them; [`Error::Cancelled`].
    pub fn generate_batch(
        &self,
        prompts: &[Vec<u32>],
        request: &Request,
        cancel: &Cancel,
        on_step: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<String>> {
        let mut all = Vec::with_capacity(prompts.len());
        for (i, prompt) in prompts.iter().enumerate() {
            let seed = request.sampling.seed.wrapping_add(i as u64);
            let sampling = Sampling { seed, ..request.sampling };
            let request = Request { sampling, ..request.clone() };
            let mut one = Generation::of_text(self, prompt, &request)?;
            one.cancelled_by(cancel);
            all.push(one);
        }
        while all.iter().any(|s| s.finish.is_none()) {
            Generation::advance(self, &mut all)?;
            if !on_step() {
                return Err(Error::Cancelled);
            }
        }
        Ok(all.iter_mut().map(Generation::take_text).collect())
    }
}
