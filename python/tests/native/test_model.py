from __future__ import annotations

import functools
import json
import shutil
import threading
import time

import numpy as np
import pytest

import tritlab as tl
from tritlab import _native, _types
from tritlab._formats import PROJECTIONS

# The fixture's rows are shorter than a block of 256.
FITTING = [info["name"] for info in tl.formats() if info["block"] <= 32]


def test_facts(model, path):
    assert model.architecture == "llama"
    assert model.path == str(path)
    assert model.format is None
    assert model.n_vocab == 128
    tensors = model.tensors()
    for tensor in tensors:
        assert set(tensor) == set(_types.TensorInfo.__annotations__)
    assert sum(t["n_params"] for t in tensors) >= model.n_params
    assert {t["role"] for t in tensors} == {"linear", "embedding", "head", "norm"}
    linear = [t for t in tensors if t["role"] == "linear"]
    assert model.linear_params == sum(t["n_params"] for t in linear)
    assert model.linear_bytes == sum(t["nbytes"] for t in linear)
    assert model.total_bytes >= model.linear_bytes
    assert all(t["rel_error"] == 0 for t in tensors)
    assert "llama" in repr(model)


def test_logits(model, ids):
    logits = model.logits(ids[:40])
    assert (logits.dtype, logits.shape) == (np.float32, (40, 128))
    # A prefix has the logits of the prefix: the same bits, whatever the batch.
    assert np.array_equal(model.logits(ids[:7]), logits[:7])
    assert model.fingerprint(ids[:40]) == model.fingerprint(ids[:40].copy())
    assert model.fingerprint(ids[:40]) != model.fingerprint(ids[1:41].copy())


@pytest.mark.parametrize("format", [None, *FITTING])
def test_one_fingerprint_on_every_backend_and_thread_count(path, ids, format):
    loaded = tl.Model.load(path, format)
    found = set()
    for info in tl.backends():
        if info["available"]:
            for threads in (1, 2):
                tl.threads(threads)
                with tl.backend(info["name"]):
                    found.add(loaded.fingerprint(ids[:24]))
    assert len(found) == 1


def test_evaluation(model, path, ids):
    reference = tl.Model.load(path, "F16")
    got = model.evaluate(ids, context=32, reference=reference)
    assert set(got) == set(_types.Evaluation.__annotations__)
    assert got["n_chunks"] == 3
    n = len(got["nll"])
    assert n == 3 * (32 - 1 - 16)  # llama.cpp's convention: tokens 17 to 31 of each window
    for name, kind in (
        ("nll", np.float64),
        ("token", np.int32),
        ("position", np.int64),
        ("ref_nll", np.float64),
        ("kl", np.float64),
        ("same_top", np.bool_),
        ("p", np.float64),
        ("ref_p", np.float64),
    ):
        assert (got[name].dtype, got[name].shape) == (kind, (n,)), name
    assert np.array_equal(got["token"], ids[got["position"]])
    assert np.all(got["kl"] >= -1e-9)
    np.testing.assert_allclose(np.exp(-got["nll"]), got["p"], rtol=1e-5)
    quality = tl.perplexity(model, ids, context=32, reference=reference)
    assert quality.perplexity.value == pytest.approx(np.exp(np.mean(got["nll"])))


def test_evaluation_agrees_with_the_logits(model, ids):
    got = model.evaluate(ids[:32], context=32)
    logits = model.logits(ids[:32]).astype(np.float64)
    for position, token, nll in zip(got["position"], got["token"], got["nll"], strict=True):
        row = logits[position - 1]
        assert nll == pytest.approx(
            np.log(np.sum(np.exp(row - row.max()))) + row.max() - row[token], abs=1e-5
        )


def test_a_model_does_not_differ_from_itself(model, ids):
    got = model.evaluate(ids, context=32, reference=model)
    assert np.all(np.abs(got["kl"]) <= 1e-12)
    assert got["same_top"].all()
    assert np.array_equal(got["nll"], got["ref_nll"])


def compared(path, formats, ids):
    quick = {"context": 32, "n_prompt": 16, "n_gen": 4, "repetitions": 1, "progress": False}
    return tl.compare(path, formats, ids, speed="model", **quick)


def test_compare_and_rerun(path, ids, tmp_path):
    from tritlab import receipt

    got = compared(path, ["Q8_0", "Q4_0", None, "TERNARY"], ids)
    report = got.save(tmp_path)
    assert report.read_text().startswith("<!doctype html>")
    errors = {row.label: row.rel_error for row in got.rows}
    assert errors["Q8_0"] < errors["Q4_0"] < errors["TERNARY"]
    kl = {row.label: row.kl.value for row in got.rows}
    assert kl["Q8_0"] < kl["Q4_0"] < kl["TERNARY"]
    for row in got.rows:
        again = tl.Model.load(path, row.format).fingerprint(ids[:32])
        assert again == row.receipt["results"]["fingerprint"]
    with pytest.raises(tl.errors.ReceiptError, match="memory"):
        receipt.rerun(receipt.read(tmp_path / "results.json"))


def test_progress_is_called_and_may_stop_the_work(path, ids):
    calls = []
    loaded = tl.Model.load(path, progress=lambda *call: calls.append(call))
    assert calls
    assert all(0 <= done <= total and isinstance(what, str) for done, total, what in calls)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        loaded.evaluate(ids, context=16, progress=stop)


def test_bench(model):
    got = model.bench(8, 4, 3)
    assert set(got) == {"prompt_ns", "gen_ns"}
    for name in got:
        assert len(got[name]) == 3
        assert all(isinstance(ns, int) and ns > 0 for ns in got[name])
    assert model.bench(8, 0, 1)["gen_ns"] == []
    assert model.bench(0, 4, 1)["prompt_ns"] == []


def test_threads_overlap(path):
    """While one thread computes, another runs Python: the GIL is free."""
    w = tl.quantize(np.ones((4096, 4096), np.float32), "Q8_0")
    x = np.ones((4096, 64), np.float32)
    _ = w @ x
    tl.threads(1)
    spans = []

    def work():
        start = time.perf_counter()
        _ = w @ x
        spans.append((start, time.perf_counter()))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    ticks = 0
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.0005)
        ticks += 1
    assert ticks >= 2
    (a0, a1), (b0, b1) = spans
    assert max(a0, b0) < min(a1, b1)


@pytest.mark.parametrize("what", ["logits", "fingerprint", "evaluate"])
def test_wrong_ids(model, ids, what):
    call = getattr(model, what)
    with pytest.raises(TypeError, match="int32"):
        call(ids.astype(np.int64))
    with pytest.raises(TypeError):
        call(ids.tolist())
    with pytest.raises(ValueError, match="contiguous"):
        call(ids[::2])
    with pytest.raises(ValueError, match="128"):
        call(np.full(96, 128, np.int32))
    with pytest.raises(ValueError, match="-1"):
        call(np.full(96, -1, np.int32))
    with pytest.raises(tl.errors.ShapeError):
        call(ids.reshape(2, 48))


def test_no_ids(model):
    assert model.logits(np.zeros(0, np.int32)).shape == (0, 128)


def test_text_shorter_than_a_window(model, ids):
    with pytest.raises(tl.errors.EvaluationError, match="96"):
        model.evaluate(ids, context=512)
    with pytest.raises(tl.errors.EvaluationError, match="96"):
        tl.perplexity(model, ids, context=512)


def test_no_tokenizer(model):
    with pytest.raises(tl.errors.TokenizerError, match="tokenizer"):
        model.tokenize("text")
    with pytest.raises(tl.errors.TokenizerError):
        model.generate("text", max_tokens=1)


def test_wrong_files(path, tmp_path):
    whole = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 4, 23, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(tl.TritlabError):
            tl.Model.load(cut)
    cut.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(tl.errors.GgufError):
        tl._native.inspect_gguf(cut)
    # Absurd counts: version, then tensor count and key count as u64.
    cut.write_bytes(whole[:8] + b"\xff" * 16 + whole[24:])
    with pytest.raises(tl.errors.GgufError):
        tl.Model.load(cut)
    with pytest.raises(FileNotFoundError, match="absent"):
        tl.Model.load(tmp_path / "absent.gguf")
    with pytest.raises(tl.errors.FormatError, match="Q9_9"):
        tl.Model.load(path, "Q9_9")


def test_inspect_and_quantize(path, tmp_path):
    info = tl._native.inspect_gguf(path)
    assert info["metadata"]["general.architecture"] == "llama"
    for tensor in info["tensors"]:
        assert set(tensor) == set(_types.GgufTensor.__annotations__)
    out = tmp_path / "out.gguf"
    report = tl._native.quantize_gguf(path, out, "Q8_0")
    assert set(report) == set(_types.QuantizeReport.__annotations__)
    assert report["bytes_out"] == out.stat().st_size
    assert list(tmp_path.iterdir()) == [out]
    ids = np.arange(20, dtype=np.int32)
    assert tl.Model.load(out).fingerprint(ids) == tl.Model.load(path, "Q8_0").fingerprint(ids)


def test_quantize_leaves_nothing_after_an_error(path, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(tl.TritlabError):
        tl._native.quantize_gguf(bad, tmp_path / "out.gguf", "Q8_0")
    assert list(tmp_path.iterdir()) == [bad]


def test_a_format_with_a_projection(path, ids, tmp_path):
    """Weights by another rule than the format's own: in memory, in a file, in a comparison."""

    def error(name):
        tensors = tl.Model.load(path, name).tensors()
        return max(t["rel_error"] for t in tensors if t["role"] == "linear")

    assert tl.Model.load(path, "ternary_g32+OPTIMAL").format == "TERNARY_G32+optimal"
    assert error("TERNARY_G32+optimal") < error("TERNARY_G32") == error("TERNARY_G32+absmean")
    report = _native.quantize_gguf(path, tmp_path / "q.gguf", "F32+optimal")
    assert report["format"] == "F32+optimal"
    wide = tl.Model.load(path, "F32+optimal").fingerprint(ids)
    assert tl.Model.load(tmp_path / "q.gguf").fingerprint(ids) == wide
    got = compared(path, ["TERNARY_G32+optimal"], ids)
    row = got.rows[1]
    assert (row.label, row.kind) == ("TERNARY_G32+optimal", "TERNARY_G32")
    again = tl.Model.load(path, row.receipt["format"]).fingerprint(ids[:32])
    assert again == row.receipt["results"]["fingerprint"]
    for wrong, word in (("TQ2_0+best", "best"), ("Q9+twn", "Q9"), ("Q4_0+twn", "Q4_0")):
        with pytest.raises(tl.errors.FormatError, match=word):
            tl.Model.load(path, wrong)


def test_every_projection_may_follow_a_format():
    with pytest.raises(tl.errors.FormatError) as caught:
        tl.project(np.ones((1, 4), np.float32), "best")
    listed = str(caught.value)
    assert all(name in listed for name in PROJECTIONS)
    assert listed.count(",") == len(PROJECTIONS) - 1


def test_longrope_by_length_or_by_context(path):
    """Under a context beyond the original 64, short texts too get the frequencies of long ones."""
    phi = path.parents[1] / "phi3-long" / "model.gguf"
    ids = np.arange(90, dtype=np.int32) % 50
    load = functools.partial(tl.Model.load, phi)
    by_length, by_context = load(), load(longrope="context")
    short, long = ids[:40].copy(), ids
    np.testing.assert_array_equal(by_context.logits(short), by_length.logits(long)[:40])
    assert by_length.fingerprint(short) != by_context.fingerprint(short)
    assert load(longrope="length").fingerprint(short) == by_length.fingerprint(short)
    within = load(longrope="context", context=64)
    assert within.fingerprint(short) == by_length.fingerprint(short)
    with pytest.raises(tl.errors.ModelError, match='longrope is "short", but must be "length" or'):
        load(longrope="short")


def test_a_window_in_every_layer_needs_no_longer_context(path, tmp_path):
    """As with a context that is long enough; a window that does not fit into it is a limit."""
    folder = path.parents[1] / "phi3-short"
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "sliding_window": 8}))
    shutil.copy(folder / "model.safetensors", tmp_path)
    ids = np.arange(80, dtype=np.int32) % 50
    little, much = (tl.Model.load(tmp_path, context=n) for n in (50, 100))
    np.testing.assert_array_equal(little.logits(ids), much.logits(ids))
    continued = [m.generate_ids(ids, max_tokens=5).tolist() for m in (little, much)]
    assert continued[0] == continued[1]
    for limited in (tl.Model.load(tmp_path, context=7), tl.Model.load(folder, context=50)):
        with pytest.raises(tl.errors.ModelError, match="needs 80 positions"):
            limited.logits(ids)
