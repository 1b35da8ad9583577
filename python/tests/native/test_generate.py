"""Generation from Python: streams, batches, stops, and the cache's size."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest
from tiny import write

import tritlab as tl

SETTINGS = [
    {},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "seed": 6},
    {"temperature": 1.2, "min_p": 0.05, "repetition_penalty": 1.2, "seed": 7},
    {"temperature": 1.0, "kv": "f16", "stop": ["e", "on"], "seed": 8},
]
PROMPTS = ["Anne Elliot was", "It was a truth that", "Once", "The sea 🦙"]


@pytest.fixture(scope="module")
def spelled(tmp_path_factory):
    """The tiny model with a tokenizer."""
    return tl.Model.load(write(tmp_path_factory.mktemp("tiny") / "model.gguf"))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_batch_is_its_sequences(smollm2, settings):
    together = smollm2.generate_batch(PROMPTS, max_tokens=10, **settings)
    seed = settings.get("seed", 0)
    for i, prompt in enumerate(PROMPTS):
        alone = smollm2.generate(prompt, max_tokens=10, **{**settings, "seed": seed + i})
        assert together[i] == alone
    assert smollm2.generate_batch([]) == []


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_stream_is_the_text(smollm2, settings):
    text = smollm2.generate(PROMPTS[0], max_tokens=12, **settings)
    stream = smollm2.stream(PROMPTS[0], max_tokens=12, **settings)
    pieces = list(stream)
    assert "".join(pieces) == text
    assert all(pieces)
    assert stream.finish_reason in ("length", "stop_string", "stop_token")
    if "stop" not in settings:
        assert len(stream.ids) == 12
        assert smollm2.detokenize(stream.ids) == text
    assert list(stream) == []


def test_a_stream_works_as_it_is_read(smollm2):
    stream = smollm2.stream("Once", max_tokens=1000)
    assert stream.finish_reason is None
    first = next(stream)
    assert first == smollm2.generate("Once", max_tokens=1)
    assert len(stream.ids) == 1
    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    stream.close()
    assert next(stream, None) is None
    assert stream.finish_reason is None
    with smollm2.stream("Once", max_tokens=1000) as stream:
        next(stream)
    assert list(stream) == []
    for _ in range(20):
        stream = smollm2.stream("Once", max_tokens=1000)
        next(stream)
        del stream
    gc.collect()
    if before:
        assert len(os.listdir("/proc/self/task")) <= before


def test_streams_in_threads_do_not_mix(spelled):
    expected = [spelled.generate("the", max_tokens=40, temperature=1.0, seed=i) for i in range(6)]
    got = {}

    def run(i):
        got[i] = "".join(spelled.stream("the", max_tokens=40, temperature=1.0, seed=i))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(6)] == expected


def test_stops(spelled):
    settings = {"max_tokens": 60, "temperature": 1.0, "seed": 2}
    text = spelled.generate("the", **settings)
    for at in (2, 11, 30):
        stop = text[at : at + 3]
        cut = text[: text.index(stop)]
        stream = spelled.stream("the", stop=stop, **settings)
        pieces = list(stream)
        assert "".join(pieces) == cut
        assert stream.finish_reason == "stop_string"
        assert spelled.generate("the", stop=[stop, "never this"], **settings) == cut
    ids = spelled.stream("the", **settings)
    list(ids)
    token = int(ids.ids[9])
    stream = spelled.stream("the", stop_tokens=[token], **settings)
    list(stream)
    first = list(ids.ids).index(token)
    assert list(stream.ids) == list(ids.ids[:first])
    assert stream.finish_reason == "stop_token"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"stop": [""]}, "stop string is empty"),
        ({"stop_tokens": [128]}, "stop token 128 .* 128 tokens"),
        ({"kv": "f8"}, 'kv is "f8"'),
        ({"max_tokens": 5000}, "5002 positions"),
    ],
    ids=str,
)
def test_wrong_settings(spelled, settings, message):
    for call in (spelled.generate, spelled.stream):
        with pytest.raises(tl.errors.ModelError, match=message):
            call("the", **settings)
    with pytest.raises(tl.errors.ModelError, match=message):
        spelled.generate_batch(["the"], **settings)


def test_ids_as_a_prompt(spelled):
    ids = spelled.tokenize("the and")
    assert spelled.generate(ids, max_tokens=9) == spelled.generate("the and", max_tokens=9)
    with pytest.raises(tl.errors.ModelError, match="no tokens"):
        spelled.generate(np.array([], np.int32))


def test_ids_as_ids(model, spelled):
    ids = spelled.tokenize("the and")
    for settings in ({}, {"temperature": 1.0, "seed": 4, "top_k": 40}):
        stream = spelled.stream(ids, max_tokens=9, **settings)
        list(stream)
        got = spelled.generate_ids(ids, max_tokens=9, **settings)
        assert (got.dtype, got.tolist()) == (np.int32, stream.ids.tolist())
    # The model has no tokenizer, but the same weights.
    plain = model.generate_ids(ids, max_tokens=9)
    assert plain.shape == (9,)
    stop = int(plain[4])
    first = plain.tolist().index(stop)
    assert model.generate_ids(ids, stop_tokens=[stop]).tolist() == plain.tolist()[:first]
    with pytest.raises(tl.errors.ModelError, match="no tokens"):
        model.generate_ids(ids[:0].copy())
    for call in (model.generate, model.stream, lambda ids: model.generate_batch([ids])):
        with pytest.raises(tl.errors.TokenizerError, match=r"no tokenizer.*generate_ids"):
            call(ids)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, ids: m.generate_ids(ids, max_tokens=-1), "max_tokens is -1, .* from 0 to"),
        (lambda m, ids: m.generate_ids(ids, top_k=2**70), f"top_k is {2**70}, but"),
        (lambda m, ids: m.generate_ids(ids, seed=2**200), "seed is out of range: it must be"),
        (lambda m, ids: m.generate_ids(ids, repetition_window=-2), "repetition_window is -2"),
        (lambda m, ids: m.generate_ids(ids, stop_tokens=[1, -1]), r"stop_tokens\[1\] is -1"),
        (lambda m, ids: m.generate("the", seed=-1), f"seed is -1, .* from 0 to {2**64 - 1}"),
        (lambda m, ids: m.generate_batch(["the"], max_tokens=-1), "max_tokens is -1"),
        (lambda m, ids: m.chat([], max_tokens=-1), "max_tokens is -1"),
        (lambda m, ids: m.stream("the", max_tokens=-1), "max_tokens is -1"),
        (lambda m, ids: m.evaluate(ids, context=-1), "context is -1"),
        (lambda m, ids: m.perplexity(ids, chunks=0), "chunks is 0, .* from 1"),
        (lambda m, ids: m.cache_bytes(2**63), f"context is {2**63}"),
        (lambda m, ids: m.bench(-1), "n_prompt is -1"),
        (lambda m, ids: m.bench(1, -1), "n_gen is -1"),
        (lambda m, ids: m.bench(1, 1, 0), "repetitions is 0, .* from 1"),
        (lambda m, ids: tl.Model.load(m.path, context=-1), "context is -1"),
        (lambda m, ids: tl.imatrix(m, ids, context=-1), "context must be at least 2 .*-1"),
        (lambda m, ids: tl.threads(-1), "threads is -1, .* from 1 to 4096"),
        (lambda m, ids: tl.threads(0), "threads is 0"),
        (lambda m, ids: tl._native.measure_bandwidth(-1), "threads is -1"),
        (
            lambda m, ids: tl.Matrix.from_bytes(np.zeros(4, np.uint8), "F32", (1, -1)),
            r"shape\[1\] is -1",
        ),
        (lambda m, ids: tl.Activations.from_q8_k(np.zeros(4, np.uint8), -1), "cols is -1"),
        (lambda m, ids: tl.testing.check_matmul(max, "F32", random=-1), "random is -1"),
    ],
)
def test_integers_out_of_range_are_named(spelled, call, message):
    with pytest.raises(tl.TritlabError, match=message):
        call(spelled, np.arange(8, dtype=np.int32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 1.5}, "max_tokens must be an integer from 0 to .*, not float"),
        ({"seed": "1"}, "seed must be an integer .*, not str"),
        ({"stop": 1}, "stop: a string or a list of strings is wanted, not int"),
        ({"stop": ["a", 1]}, r"stop: .*, not \['a', 1\]"),
        ({"stop_tokens": 1}, "stop_tokens: a list of token ids is wanted, not int"),
    ],
)
def test_settings_of_another_type(spelled, settings, message):
    with pytest.raises(TypeError, match=message) as caught:
        spelled.generate("the", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("prompts", "found"), [("abc", "str"), (3, "int"), (None, "NoneType")])
def test_a_batch_wants_several_prompts(spelled, prompts, found):
    with pytest.raises(TypeError, match=rf"prompts: a list of prompts .* not {found}; generate"):
        spelled.generate_batch(prompts)
    assert len(spelled.generate_batch(("the", "an"), max_tokens=2)) == 2


def test_integers_of_numpy(spelled):
    expected = spelled.generate("the", max_tokens=5, seed=3, temperature=1.0)
    settings = {"max_tokens": np.int64(5), "seed": np.uint64(3), "temperature": np.float32(1)}
    assert spelled.generate("the", **settings, stop_tokens=np.array([127])) == expected


def test_cache_bytes(model, spelled):
    assert model.cache_bytes(1000, "f16") * 2 == model.cache_bytes(1000)
    assert model.cache_bytes(2000) > model.cache_bytes(1000)
    info = tl._native.inspect_gguf(spelled.path)["cache"]
    assert info["f32"] == spelled.cache_bytes(info["context"])
    assert info["f16"] == spelled.cache_bytes(info["context"], "f16")
    with pytest.raises(tl.errors.ModelError, match="kv"):
        model.cache_bytes(1, "int8")
