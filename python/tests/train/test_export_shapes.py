"""Models that are not just a decoder: shared layers, heads of their own, wrappers; the README."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import tritlab as tl
from tritlab import train


def logits(torch, model, stream):
    """(ids, logits of torch) for 32 tokens."""
    ids = stream[:32].astype(np.int32)
    with torch.no_grad():
        return ids, model(torch.from_numpy(ids.astype(np.int64))[None])[0].numpy()


@pytest.mark.parametrize("shared", ["block", "layer"])
@pytest.mark.parametrize("weights", ["packed", "master", "dense"])
def test_what_is_shared_is_written_for_each_of_its_places(
    torch, decoder, stream, tmp_path, weights, shared
):
    model = decoder(None)
    layers = model.model["layers"]
    if shared == "block":
        layers[1] = layers[0]
    else:
        layers[1].mlp.up_proj = layers[0].mlp.up_proj
    train.replace_linear(model, activations=None if weights == "dense" else "int8")
    loaded = tl.Model.load(train.export(model, tmp_path / "m", weights=weights))
    ids, theirs = logits(torch, model, stream)
    np.testing.assert_allclose(loaded.logits(ids), theirs, rtol=1e-3, atol=2e-3)


class WithHead:
    """A decoder with an `lm_head`, for the names and tensors alone."""

    def __new__(cls, torch, model, *, tied):
        vocabulary, hidden = model.model["embed_tokens"].weight.shape
        model.lm_head = torch.nn.Linear(hidden, vocabulary, bias=False)
        if tied:
            model.lm_head.weight = model.model["embed_tokens"].weight
        return model


@pytest.mark.parametrize("weights", ["packed", "master"])
def test_a_head_in_ternary_is_not_what_readers_have(torch, decoder, tmp_path, weights):
    model = WithHead(torch, decoder(None), tied=False)
    train.replace_linear(model, skip=())
    config = {**model.config.to_dict(), "tie_word_embeddings": False}
    with pytest.raises(tl.TritlabError, match=r"lm_head is a BitLinear, and readers.* as dense"):
        train.export(model, tmp_path / "m", weights=weights, config=config)
    assert list(tmp_path.iterdir()) == []
    tl.Model.load(train.export(model, tmp_path / "m", weights="dense", config=config))


@pytest.mark.parametrize("weights", ["packed", "master", "dense"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_would_be_dropped_is_an_error(torch, decoder, tmp_path, weights, tied):
    model = WithHead(torch, decoder(None), tied=tied)
    train.replace_linear(model, skip=() if tied else ("lm_head",))
    message = "lm_head is a BitLinear, and config" if tied else "lm_head.weight is not model.embed"
    with pytest.raises(tl.TritlabError, match=message):
        train.export(model, tmp_path / "m", weights=weights)
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_is_the_embedding_is_left_out(torch, decoder, tmp_path):
    model = WithHead(torch, decoder(), tied=True)
    tl.Model.load(train.export(model, tmp_path / "m"))


@pytest.mark.parametrize("wrapper", ["compile", "DataParallel", "both"])
def test_wrappers_are_looked_through(torch, decoder, tmp_path, wrapper):
    model = wrapped = decoder()
    if wrapper != "compile":
        wrapped = torch.nn.DataParallel(wrapped)
    if wrapper != "DataParallel":
        wrapped = torch.compile(wrapped)  # which compiles nothing before it is called
    ids = np.arange(32, dtype=np.int32)
    folders = [train.export(model, tmp_path / "m"), train.export(wrapped, tmp_path / "w")]
    assert len({tl.Model.load(folder).fingerprint(ids) for folder in folders}) == 1


def test_a_wrapper_further_in_is_named(torch, decoder, tmp_path):
    model = decoder()
    model.model["layers"][1] = torch.compile(model.model["layers"][1])
    with pytest.raises(tl.TritlabError, match=r"^model\.layers\.1 is wrapped by torch\.compile"):
        train.export(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_readme(torch, decoder, tmp_path, monkeypatch):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (block,) = (b for b in re.findall("```python\n(.*?)```", readme, re.S) if "train.export" in b)
    text = "It is a truth universally acknowledged, that examples are run as they stand. " * 40
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    monkeypatch.chdir(tmp_path)
    tokenizer.save("tokenizer.json")
    exec(block, {"model": decoder(None, vocab_size=300, max_position_embeddings=512), "text": text})
