"""Recipes and the search on tiny models: what is measured is what a file then answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tritlab as tl

FIXTURES = Path(__file__).parents[3] / "model/tests/data/fixtures"
SIZES = {"context": 32, "chunks": 2, "verify_chunks": 6, "progress": False}


@pytest.fixture
def text():
    return np.random.default_rng(5).integers(0, 128, 8 * 32, dtype=np.int32)


OVERRIDES = {"blk.1.ffn_down": "Q4_0", "output.weight": "Q8_0", "attn_[qk]": "Q5_1"}


def test_overrides_load_quantise_and_requantise_alike(path, model, ids, tmp_path):
    loaded = tl.Model.load(path, overrides=OVERRIDES)
    mark = loaded.fingerprint(ids)
    assert mark != model.fingerprint(ids)
    formats = {t["name"]: t["format"] for t in loaded.tensors()}
    assert formats["blk.1.ffn_down.weight"] == "Q4_0"
    assert formats["blk.0.attn_q.weight"] == "Q5_1"
    assert formats["blk.0.attn_output.weight"] == "F32"  # a full name is that tensor alone
    assert formats["output.weight"] == "Q8_0"
    changed = model.requantize(list(OVERRIDES.items()))
    assert changed.fingerprint(ids) == mark
    assert changed.tensors() == loaded.tensors()
    assert changed.total_bytes == loaded.total_bytes
    assert model.format is None
    out = tmp_path / "out.gguf"
    tl._native.quantize_gguf(path, out, overrides=OVERRIDES)
    assert tl.Model.load(out).fingerprint(ids) == mark
    # Over a format for all, and with what takes the place of one that does not fit.
    one = tl.Model.load(path, "Q4_K", fallback="llama.cpp", overrides={"ffn": None})
    kinds = {
        t["format"] for t in one.tensors() if ".attn_" in t["name"] and "norm" not in t["name"]
    }
    assert kinds == {"Q5_0"}
    assert {t["format"] for t in one.tensors() if ".ffn_" in t["name"]} == {"F32"}


def test_overrides_that_cannot_be(path, model):
    for call in (lambda o: tl.Model.load(path, overrides=o), model.requantize):
        with pytest.raises(tl.errors.ModelError, match="matches none of the model's 16"):
            call({"blk.9.": "Q8_0"})
        with pytest.raises(tl.errors.ModelError, match="no regular expression"):
            call({"blk.(": "Q8_0"})
        with pytest.raises(tl.errors.FormatError, match="Q9"):
            call({"ffn": "Q9"})
        with pytest.raises(tl.errors.ShapeError, match=r"ffn_down\.weight"):
            call({"blk.0.ffn_down": "Q4_K"})
        for wrong in ("ffn=Q8_0", ["ffn"], {"ffn": 8}, 5):
            with pytest.raises(TypeError, match="overrides"):
                call(wrong)
    with pytest.raises(tl.TritlabError, match="a recipe says all formats"):
        tl.Model.load(path, "Q8_0", recipe=tl.Recipe())


def test_a_recipe_is_a_file_or_an_object(path, ids, tmp_path):
    recipe = tl.Recipe("Q8_0", None, (("ffn_down", "Q4_0"), ("blk.0", None)))
    recipe.save(tmp_path / "recipe.json")
    direct = tl.Model.load(path, "Q8_0", overrides={"ffn_down": "Q4_0", "blk.0": None}).fingerprint(
        ids
    )
    assert tl.Model.load(path, recipe=recipe).fingerprint(ids) == direct
    assert tl.Model.load(path, recipe=tmp_path / "recipe.json").fingerprint(ids) == direct
    tl._native.quantize_gguf(path, tmp_path / "out.gguf", recipe=tmp_path / "recipe.json")
    assert tl.Model.load(tmp_path / "out.gguf").fingerprint(ids) == direct
    (tmp_path / "types.txt").write_text("ffn_down=q4_0 blk\\.0=q8_0")
    listed = tl.Model.load(path, recipe=str(tmp_path / "types.txt"))
    assert {t["format"] for t in listed.tensors() if "ffn_down" in t["name"]} == {"Q4_0"}
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(tl.errors.RecipeError, match=r"recipe\.json"):
        tl.Model.load(path, recipe=tmp_path / "recipe.json")


@pytest.mark.parametrize("how", ["one", "two", "exhaustive"])
def test_never_worse_than_uniform(path, text, how):
    for budget in ("4.7 bpw", "5.6 bpw", "8.2 bpw"):
        found = tl.search(path, text, budget=budget, sensitivity=how, front=2, **SIZES)
        limit = float(budget.split()[0])
        assert found.chosen.bits_per_weight <= limit
        uniform = [
            c for c in found.candidates if c.kind != "searched" and c.bits_per_weight <= limit
        ]
        assert uniform
        assert all(found.chosen.verification.kl <= c.verification.kl for c in uniform)
        assert {row["measured"] for row in found.sensitivity.records} == {True, False}


def test_between_uniform_sizes_the_search_is_better(path, text):
    found = tl.search(path, text, budget="5.5 bpw", **SIZES)
    assert found.chosen.kind == "searched"
    assert found.chosen.verification.kl < 0.6 * found.best_uniform.verification.kl


def test_the_file_is_what_was_measured(path, text, tmp_path):
    found = tl.search(path, text, budget="5.5 bpw", store=tmp_path / "cells", front=0, **SIZES)
    found.save(tmp_path)
    written = tl.Model.load(tmp_path / "model.gguf")
    by_recipe = tl.Model.load(path, recipe=tmp_path / "recipe.json")
    assert written.fingerprint(text[:32]) == by_recipe.fingerprint(text[:32])
    reference = tl.Model.load(path)
    for model in (written, by_recipe):
        kl = model.evaluate(text, context=32, reference=reference)["kl"]
        per_window = len(kl) // 8
        assert np.mean(kl[2 * per_window :]) == pytest.approx(
            found.chosen.verification.kl, rel=1e-12
        )
        assert np.mean(kl[: 2 * per_window]) == pytest.approx(
            found.chosen.sensitivity.kl, rel=1e-12
        )
    content = json.loads((tmp_path / "recipe.json").read_text())
    assert content["measured"]["verification"]["kl_nats"] == found.chosen.verification.kl
    assert content["fingerprint"] == written.fingerprint(text[:32])
    # The list for llama-quantize says the same, of every matrix.
    listed = tl.Model.load(path, recipe=tmp_path / "tensor-types.txt")
    assert listed.fingerprint(text[:32]) == content["fingerprint"]


def test_another_reference_and_a_folder(path, text):
    found = tl.search(path, text, max_kl=0.05, base="F16", formats="Q4_0,Q8_0", front=0, **SIZES)
    assert found.chosen.verification.kl <= 0.05
    assert found.settings["base"] == "F16"
    folder = tl.search(path.parent, text, budget="6 bpw", formats="Q4_0,Q5_1", front=0, **SIZES)
    file = tl.search(path, text, budget="6 bpw", formats="Q4_0,Q5_1", front=0, **SIZES)
    assert folder.chosen.formats == file.chosen.formats


def test_what_is_ternary_stays(text):
    ternary = FIXTURES / "bitnet-gguf-tq2_0/model.gguf"
    vocab = tl.Model.load(ternary).n_vocab
    found = tl.search(ternary, text % vocab, budget="1000 bpw", formats="Q8_0", front=0, **SIZES)
    assert {unit.role for unit in found.sensitivity.units} <= {"embedding", "head"}


def test_the_list_for_llama_quantize_has_what_is_ternary_too(text):
    ternary = FIXTURES / "bitnet-gguf-tq2_0/model.gguf"
    model = tl.Model.load(ternary)
    found = tl.search(
        ternary, text % model.n_vocab, budget="1000 bpw", formats="Q8_0", front=0, **SIZES
    )
    named = dict(line.rsplit("=", 1) for line in found.tensor_types.splitlines())
    matrices = [t for t in model.tensors() if t["role"] != "norm"]
    assert len(named) == len(matrices)
    for tensor in matrices:
        kind = named["^" + tensor["gguf_name"].replace(".", "\\.") + "$"]
        own = found.chosen.formats.get(tensor["gguf_name"], tensor["file_type"])
        assert kind == own.lower()
    assert "tq2_0" in named.values()


def test_an_importance_matrix_goes_into_every_rounding(path, text, tmp_path):
    importance = tl.imatrix(tl.Model.load(path), text, context=32)
    settings = {**SIZES, "formats": "Q4_0,Q5_1", "front": 0}
    plain = tl.search(path, text, budget="5.3 bpw", store=tmp_path / "cells", **settings)
    found = tl.search(
        path, text, budget="5.3 bpw", imatrix=importance, store=tmp_path / "cells", **settings
    )
    assert found.reused == 0  # not one cell is that of plain weights
    uniform = {c.label: c for c in found.candidates}["Q4_0"]
    weighed = tl.Model.load(path, "Q4_0", imatrix=importance)
    part = text[: 8 * 32]
    kl = weighed.evaluate(part, context=32, reference=tl.Model.load(path))["kl"]
    assert uniform.verification.kl == pytest.approx(np.mean(kl[len(kl) // 4 :]), rel=1e-12)
    assert uniform.verification.kl != {c.label: c for c in plain.candidates}["Q4_0"].verification.kl
    found.save(tmp_path / "out")  # the file is what was measured, or this is an error
    content = json.loads((tmp_path / "out/recipe.json").read_text())
    assert content["settings"]["imatrix"] == content["receipts"][0]["imatrix"]["sha256"]
    # A re-run finds the matrix beside the recipe, and misses it.
    from tritlab import receipt

    receipts = receipt.read(tmp_path / "out/recipe.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receipt, "_text_path", lambda *_: text)  # ids have no file
        checks = receipt.rerun(receipts, folder=tmp_path / "out")
        assert checks
        assert all(check.equal for check in checks)
        (tmp_path / "out/imatrix.gguf").unlink()
        with pytest.raises(FileNotFoundError, match=r"no importance matrix imatrix\.gguf beside"):
            receipt.rerun(receipts, folder=tmp_path / "out")


def test_each_tensor_alone(path, text, tmp_path):
    from tritlab import precision

    settings = {"context": 32, "chunks": 4, "progress": False}
    found = precision.measure_tensors(path, text, "Q4_0,Q6_K", store=tmp_path, **settings)
    reference = tl.Model.load(path)
    assert len(found.units) == 16
    for unit in found.units[::5]:
        # Q6_K fits no row of this model: llama-quantize takes Q8_0.
        assert set(found.measured[unit.name]) == {"Q4_0", "Q8_0"}
        model = tl.Model.load(path, overrides={unit.name: "Q4_0"})
        kl = model.evaluate(text[: 4 * 32], context=32, reference=reference)["kl"]
        assert found.measured[unit.name]["Q4_0"] == pytest.approx(np.mean(kl), rel=1e-12)
        error = next(t["rel_error"] for t in model.tensors() if t["name"] == unit.name)
        assert unit.options["Q4_0"].error == pytest.approx(error, rel=1e-12)
    again = precision.measure_tensors(path, text, "Q4_0,Q6_K", store=tmp_path, **settings)
    assert again.records == found.records
