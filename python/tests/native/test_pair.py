"""The embedded pair: what ships, what its record says, and that every packing is one model."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import tritlab as tl
from tritlab.evaluation import Corpus

FOLDER = tl.pair.FULL.parent


@pytest.fixture(scope="module")
def pair():
    return tl.load_pair()


@pytest.fixture(scope="module")
def ids(pair):
    return pair.full.tokenize(tl.pair.texts()["persuasion"].read_text())[:256].copy()


def formats(model, role):
    return {t["format"] for t in model.tensors() if t["role"] == role}


def test_twins_but_for_their_weights(pair, ids):
    assert formats(pair.full, "linear") == {"F16"}
    assert formats(pair.ternary, "linear") == {"TERNARY"}, "codes of TQ2_0 with one scale"
    assert formats(pair.ternary, "embedding") == {"Q8_0"}
    assert pair.full.linear_params == pair.ternary.linear_params
    text = tl.pair.texts()["alice"].read_text()
    np.testing.assert_array_equal(pair.full.tokenize(text), pair.ternary.tokenize(text))
    assert tl.load_pair("Q4_K", "TERNARY_B3").full.format == "Q4_K"


def test_it_is_small():
    assert sum(f.stat().st_size for f in FOLDER.iterdir() if f.is_file()) < 10_000_000


def test_texts_are_read_by_name(pair):
    for name, path in tl.pair.texts().items():
        text = path.read_text(encoding="utf-8")
        assert pair.full.detokenize(pair.full.tokenize(text)) == text, name
    assert Corpus.read("alice").text == "alice", "a string is a text itself"
    assert Corpus.read(Path("alice")).text == tl.pair.texts()["alice"].read_text()


def test_every_packing_is_one_model(ids, tmp_path):
    """As shipped, 2 bits, base 3, packed uint8, and master weights when it was published."""
    tl.convert(tl.pair.TERNARY, tmp_path / "packed")
    marks = {
        tl.Model.load(tl.pair.TERNARY).fingerprint(ids),
        tl.Model.load(tl.pair.TERNARY, "TERNARY").fingerprint(ids),
        tl.Model.load(tl.pair.TERNARY, "TERNARY_B3").fingerprint(ids),
        tl.Model.load(tmp_path / "packed", head="Q8_0").fingerprint(ids),
        tl.pair.training()["same_bits"],
    }
    assert len(marks) == 1
    packed = tl.Model.load(tmp_path / "packed")
    assert formats(packed, "linear") == {"TERNARY"}
    assert tl.verify(tmp_path / "packed", tl.pair.TERNARY).same


@pytest.mark.parametrize("name", ["full", "ternary"])
def test_the_record_is_of_the_files_that_ship(name, pair):
    member = tl.pair.training()["members"][name]
    model = getattr(pair, name)
    recorded = member["shipped"]["alice"]
    quality = tl.perplexity(model, tl.pair.texts()["alice"], context=512)
    assert math.isclose(quality.perplexity.value, recorded["perplexity"], rel_tol=1e-9)
    text = (FOLDER / f"{name}.md").read_text()
    assert f"{recorded['perplexity']:.2f}" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (FOLDER / link).is_file(), link
    assert "](training.json)" in text
    assert "pair-loss.png)" in text
    steps = [row["step"] for row in member["log"]]
    assert steps == sorted(steps)
    assert steps[-1] == member["training"]["steps"]
    # Rounded activations: where a sum in another order moves a code by one, a near-tie may turn.
    least = {"full": 0.999, "ternary": 0.99}[name]
    assert member["scores"]["persuasion"]["same_argmax"] > least
    relative = (
        member["scores"]["persuasion"]["tritlab_loss"]
        / member["scores"]["persuasion"]["torch_loss"]
        - 1
    )
    assert abs(relative) < 1e-4


def test_generate(pair):
    text = pair.ternary.generate("It was a truth", max_tokens=8, temperature=0)
    assert text
    assert text == pair.ternary.generate("It was a truth", max_tokens=8, temperature=0)


def test_reports_call_a_member_by_its_whole_name(ids, tmp_path):
    quick = {"context": 32, "chunks": 2, "speed": "none", "progress": False}
    got = tl.compare("pair-full", ["Q4_0"], ids, **quick)
    assert got.model["title"] == "tritlab pair (full precision)"
    page = got.save(tmp_path / "out").read_text()
    assert "<title>tritlab pair (full precision): what low bits cost" in page
    got = tl.compare(tl.pair.TERNARY, ["TERNARY"], ids, **quick)
    assert got.model["title"] == "tritlab pair (trained in ternary)"
    # Another file of the same name is called what it says of itself.
    copy = shutil.copy(tl.pair.FULL, tmp_path / "full.gguf")
    assert tl.compare(copy, ["Q4_0"], ids, **quick).model["title"] == "full"
