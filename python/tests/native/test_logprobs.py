"""A stored reference run beside the same reference in lock-step."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tritlab as tl
from tritlab.evaluation import cut
from tritlab.statistics import quality

TEXT = "It was a truth that Anne Elliot had long known, and that her sisters never would. " * 8


@pytest.fixture
def reference(path):
    return tl.Model.load(path, "F16")


@pytest.fixture
def kept(reference, ids, tmp_path):
    return tl.LogProbs.write(tmp_path / "kept", reference, ids, context=32)


def both(model, reference, store, part):
    """Evaluations in lock-step and from the store."""
    return model.evaluate(part.ids, part.context, reference), store.evaluate(model, part)


def same(lock_step, stored):
    assert set(stored) == set(lock_step)
    for name, wanted in lock_step.items():
        got = stored[name]
        if name == "n_chunks" or wanted.dtype.kind in "ib":
            assert np.array_equal(got, wanted), name
        else:
            assert got.dtype == wanted.dtype
            # float64 sums in another order, and another exp: a few units in the last place of
            # numbers up to 10, which is where a KL of nearly 0 comes from too.
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("format", ["F16", "Q8_0", "TERNARY"])
def test_f32_equals_lock_step(path, reference, kept, ids, format):
    model = tl.Model.load(path, format)
    same(*both(model, reference, kept, cut(ids, 32, None)))
    again = tl.LogProbs.open(kept.folder)
    wanted = tl.perplexity(model, ids, reference=reference, context=32)
    got = tl.perplexity(model, ids, reference=again, context=32)
    assert got.against.kl.value == pytest.approx(wanted.against.kl.value, rel=1e-12, abs=1e-12)
    assert got.against.same_top == wanted.against.same_top
    assert (kept.error.max_abs, kept.error.kl_max) == (0, 0)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_real_model(smollm2, tmp_path, dtype):
    """49,152 words, and a tokenizer with BOS or without."""
    model = tl.Model.load(smollm2.path, "Q8_0")
    kept = tl.LogProbs.write(tmp_path / "kept", smollm2, TEXT, context=32, chunks=2, dtype=dtype)
    part = cut(model.tokenize(TEXT), 32, 2)
    lock_step, stored = both(model, smollm2, kept, part)
    if dtype == "f32":
        same(lock_step, stored)
        return
    # f16 changes KL and nothing else, by about as much as the store says of itself.
    for name in set(lock_step) - {"kl"}:
        np.testing.assert_allclose(stored[name], lock_step[name], rtol=1e-12, atol=1e-12)
    error = kept.error
    assert 0 < error.mean_abs < error.max_abs < 2**-6  # half a step of float16 between -16 and -32
    assert 0 < error.kl_max < 1e-3
    change = np.abs(stored["kl"] - lock_step["kl"])
    assert change.max() < 4 * error.kl_max + error.mean_abs
    assert change.max() > 0
    assert kept.nbytes == 2 * 30 * 49152
    own = quality(kept.evaluate(smollm2, part)).against.kl.value
    assert own <= error.kl_max
    assert "log-probabilities within" in str(error)


def test_bos_comes_first_where_the_model_wants_it(path, ids, reference, tmp_path, monkeypatch):
    from tritlab import logprobs

    monkeypatch.setattr(logprobs, "_bos", lambda _: 5)
    one = tl.LogProbs.write(tmp_path / "one", reference, ids, context=32)
    monkeypatch.undo()
    replaced = ids.copy()
    replaced[::32] = 5
    two = tl.LogProbs.write(tmp_path / "two", reference, replaced, context=32)
    assert np.array_equal(one.log_probs(0, 45), two.log_probs(0, 45))


def test_bos_is_found_by_the_tokenizer():
    from tritlab.logprobs import _bos

    class Model:
        def __init__(self, before, after):
            self.before, self.after = before, after

        def tokenize(self, text, add_special=True):
            inner = [40, 41]
            return np.array(self.before + inner + self.after if add_special else inner, np.int32)

    assert _bos(Model([1], [])) == 1
    assert _bos(Model([1], [2])) == 1
    assert _bos(Model([], [2])) is None
    assert _bos(Model([], [])) is None


def test_log_probs_are_log_probabilities(kept, reference, ids):
    got = kept.log_probs(0, 5)
    assert got.shape == (5, 128)
    np.testing.assert_allclose(np.exp(got).sum(axis=1), 1, rtol=1e-13)
    logits = reference.logits(ids[:32].copy())[16:21].astype(np.float64)
    np.testing.assert_allclose(np.diff(got), np.diff(logits), atol=1e-12)


def test_a_store_is_whole_or_absent(reference, ids, tmp_path):
    def stop(done, total, what):
        if done:
            raise LookupError(what)

    with pytest.raises(LookupError):
        tl.LogProbs.write(tmp_path / "kept", reference, ids, context=32, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_said(path, kept, reference, ids, smollm2, tmp_path):
    other = ids.copy()
    other[0] += 1
    model = tl.Model.load(path)
    wrong = tl.errors.EvaluationError
    with pytest.raises(wrong, match="exists; a store is written into a new folder"):
        tl.LogProbs.write(kept.folder, reference, ids, context=32)
    with pytest.raises(wrong, match="text, context and chunks must be those of the store"):
        tl.perplexity(model, other, reference=kept, context=32)
    with pytest.raises(wrong, match="holds 96 tokens in windows of 32, not these 96 in windows of"):
        tl.perplexity(model, ids, reference=kept, context=48)
    with pytest.raises(wrong, match="a vocabulary of 128 tokens, the model of 49152"):
        kept.evaluate(smollm2)
    with pytest.raises(wrong, match="dtype: expected f32 or f16, found 'f8'"):
        tl.LogProbs.write(tmp_path / "x", reference, ids, context=32, dtype="f8")
    with pytest.raises(wrong, match="holds a run of another model: format F16, not Q8_0"):
        kept.require(path, "Q8_0")
    kept.require(path, "F16")
    with pytest.raises(wrong, match="is no store"):
        tl.LogProbs.open(tmp_path)


@pytest.mark.parametrize("file", ["values.npy", "rows.npz", "store.json"])
def test_damage_is_said(kept, file):
    target = kept.folder / file
    del kept  # the file is mapped
    data = target.read_bytes()
    for broken in (data[: len(data) // 2], b""):
        target.write_bytes(broken)
        with pytest.raises(tl.errors.EvaluationError, match=r"damaged|is not JSON"):
            tl.LogProbs.open(target.parent)
    target.unlink()
    with pytest.raises(tl.errors.EvaluationError, match=r"damaged|is no store"):
        tl.LogProbs.open(target.parent)


def test_the_command_keeps_and_uses_a_store(smollm2, tmp_path):
    from typer.testing import CliRunner

    from tritlab.cli import app

    text, store = tmp_path / "text.txt", tmp_path / "kept"
    text.write_text(TEXT)
    line = ["perplexity", "smollm2", "-t", str(text), "-f", "Q8_0", "-c", "32", "-n", "1"]
    line += ["--reference", "file", "--json"]
    plain = CliRunner().invoke(app, line)
    first = CliRunner().invoke(app, [*line, "--store", str(store)])
    again = CliRunner().invoke(app, [*line, "--store", str(store)])
    kl = [
        next(s["value"] for s in json.loads(r.stdout)["statistics"] if "mean KL" in s["statistic"])
        for r in (plain, first, again)
    ]
    assert kl[1] == kl[2] == pytest.approx(kl[0], rel=1e-12, abs=1e-12)
    wrong = CliRunner().invoke(app, [*line[:-3], "--store", str(store)])
    assert wrong.exit_code == 2
    assert "needs --reference" in wrong.stderr


@pytest.fixture
def quick():
    return {"context": 32, "chunks": None, "speed": "none"}


def test_two_stored_runs_are_the_two_models(path, reference, kept, ids, tmp_path):
    model = tl.Model.load(path, "Q8_0")
    other = tl.LogProbs.write(tmp_path / "other", model, ids, context=32)
    part = cut(ids, 32, None)
    lock_step = model.evaluate(part.ids, 32, reference)
    same(lock_step, kept.evaluate(other, part))
    alone = model.evaluate(part.ids, 32)
    own = other.own()
    assert set(own) == set(alone)
    for name in ("token", "position"):
        assert np.array_equal(own[name], alone[name])
    shorter = tl.LogProbs.write(tmp_path / "shorter", model, ids[:64], context=32)
    with pytest.raises(tl.errors.EvaluationError, match="hold runs of other texts"):
        kept.evaluate(shorter)


def test_a_comparison_keeps_its_runs(path, ids, tmp_path, quick, monkeypatch):
    from tritlab import receipt

    store, formats = tmp_path / "runs", ["Q8_0", "TERNARY"]
    settings = {**quick, "progress": False}
    plain = tl.compare(path, formats, ids, **settings)
    first = tl.compare(path, formats[:1], ids, store=store, **settings)
    assert len(list(store.iterdir())) == 2
    # What is stored is not run over the text again: only the new row is.
    ran = []
    logits = tl.Model.logits

    def counted(self, *args, **kwargs):
        ran.append(self.format)
        return logits(self, *args, **kwargs)

    class Counted:
        """`Model`, whose classes cannot be patched, as the store sees it."""

        def __init__(self, model):
            self._model = model

        def __getattr__(self, name):
            return getattr(self._model, name)

        def logits(self, ids):
            return counted(self._model, ids)

    from tritlab import logprobs

    window = logprobs._window
    monkeypatch.setattr(logprobs, "_window", lambda model, *rest: window(Counted(model), *rest))
    later = tl.compare(path, formats, ids, store=store, **settings)
    assert set(ran) == {"TERNARY"}
    assert later.settings["store"]["reused"] == ["F16", "Q8_0"]
    assert "those of F16, Q8_0 were there before" in later.to_markdown()
    for stored in (first, later):
        for row, other in zip(stored.rows, plain.rows, strict=False):
            assert row.label == other.label
            same(other.arrays, row.arrays)
            assert row.kl.value == pytest.approx(other.kl.value, rel=1e-12, abs=1e-12)
            assert row.receipt["results"]["fingerprint"] == other.receipt["results"]["fingerprint"]
    assert plain.settings.get("store") is None
    # A receipt of stored numbers holds what a run in lock-step gives again.
    item = later.rows[1].receipt
    assert item["stored"] == "f32"
    assert "kl_sha256" not in item["results"]
    monkeypatch.undo()
    monkeypatch.setattr(receipt, "_text_path", lambda *_: ids)
    checks = receipt.rerun([row.receipt for row in later.rows])
    assert {c.name for c in checks} >= {"kl_mean", "same_top", "mean_nll"}
    assert [c for c in checks if not c.equal] == []
    # Another text has other runs, and the same folder.
    tl.compare(path, formats[:1], ids[:64], store=store, **settings)
    assert len(list(store.iterdir())) == 5


def test_a_comparison_in_f16_says_its_error(path, ids, tmp_path, quick):
    settings = {**quick, "progress": False}
    plain = tl.compare(path, ["Q4_0"], ids, **settings)
    got = tl.compare(path, ["Q4_0"], ids, store=tmp_path, store_type="f16", **settings)
    errors = got.settings["store"]["errors"]
    assert errors["Q4_0"]["max_abs"] > 0
    gap = abs(got.rows[1].kl.value - plain.rows[1].kl.value)
    assert 0 < gap < 4 * max(e["kl_max"] + e["mean_abs"] for e in errors.values())
    assert got.rows[1].quality.nll.value == pytest.approx(
        plain.rows[1].quality.nll.value, rel=1e-12
    )
    assert "as f16, which changes KL; the most in" in got.to_markdown()
    assert "kl_mean" not in got.rows[1].receipt["results"]
    with pytest.raises(tl.errors.EvaluationError, match="store_type: expected f32 or f16, found"):
        tl.compare(path, ["Q4_0"], ids, store=tmp_path, store_type="f8", **settings)


def test_the_command_compares_with_a_store(tmp_path):
    from typer.testing import CliRunner

    from tritlab.cli import app

    line = [
        "compare",
        "pair-full",
        "-t",
        "persuasion",
        "-f",
        "Q4_0",
        "-c",
        "32",
        "-n",
        "2",
        "--json",
    ]
    line += ["--speed", "none", "-o", str(tmp_path / "out")]
    plain = CliRunner().invoke(app, line)
    assert plain.exit_code == 0, plain.stderr
    first = CliRunner().invoke(app, [*line, "--store", str(tmp_path / "runs")])
    again = CliRunner().invoke(app, [*line, "--store", str(tmp_path / "runs")])
    assert again.exit_code == 0, again.stderr
    kls = [json.loads(r.stdout)["records"][1]["kl_nats"] for r in (plain, first, again)]
    assert kls[1] == kls[2] == pytest.approx(kls[0], rel=1e-12)
    assert json.loads(again.stdout)["settings"]["store"]["reused"] == ["F16", "Q4_0"]
