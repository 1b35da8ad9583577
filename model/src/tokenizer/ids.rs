//! Ids with a role: where a text begins and ends.

use super::vocabulary::{Kind, Vocabulary};

/// Spellings that end a turn or a text in some model. Files do not always say so by id.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "<eos>",
    "</s>",
];

#[derive(Clone, Debug, Default)]
pub(super) struct SpecialIds {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    /// Padding, where the tokenizer's own settings name it.
    pub(super) pad: Option<u32>,
    /// End of generation: ascending.
    pub(super) eog: Vec<u32>,
}

impl SpecialIds {
    /// Ids of the vocabulary; `others` end a generation too.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        bos: Option<u32>,
        eos: Option<u32>,
        others: impl IntoIterator<Item = u32>,
    ) -> Self {
        let mut eog: Vec<u32> = others.into_iter().chain(eos).collect();
        eog.extend(vocabulary.kinds().map(|(id, _)| id).filter(|id| ends_by_name(vocabulary, *id)));
        eog.sort_unstable();
        eog.dedup();
        Self { bos, eos, pad: None, eog }
    }
}

/// Whether a token ends a generation by its spelling. Only added tokens do: `</s>` can be ordinary text in a
/// vocabulary that does not use it.
pub(super) fn ends_by_name(vocabulary: &Vocabulary, id: u32) -> bool {
    matches!(vocabulary.kind(id), Some(Kind::Control | Kind::UserDefined))
        && vocabulary.text(id).is_some_and(|text| END_OF_GENERATION.contains(&text))
}
