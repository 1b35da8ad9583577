"""Formats at a model's shapes, with real products."""

from __future__ import annotations

import pytest

import tritlab as tl
from tritlab import published, speed


@pytest.fixture
def little(monkeypatch):
    shape = published.Shape("Little 1M", 256, 512, 3, 4, 2, 64, 100, True)
    monkeypatch.setattr(speed, "SHAPE", shape)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    return shape


def test_every_format_has_a_speed_at_real_shapes(little):
    names = [f["name"] for f in tl.formats()]
    found = speed.at_shapes([*names, "Q4_0"])
    assert list(found) == names
    for name, timed in found.items():
        assert timed.linear_bytes == timed.bytes_per_token == little.linear_bytes(name)
        assert timed.linear_params == little.linear
        assert len(timed.decode_tok_s) == len(timed.prefill_tok_s) == 3
        assert min(timed.decode_tok_s) > 0
        assert min(timed.prefill_tok_s) > 0
        assert timed.bandwidth > 1e8


def test_the_named_shapes_fit_every_format():
    """Rows of whole blocks, and strips of 64 rows: nothing falls back or is refused."""
    blocks = {f["block"] for f in tl.formats() if f["scales"] == "block"}
    for rows, cols in speed.SHAPE.linear_shapes:
        assert rows % 64 == 0
        assert all(cols % block == 0 for block in blocks)


def test_the_embedded_pair_is_compared_at_shapes(little):
    ids = tl.load_pair().full.tokenize(tl.pair.texts()["alice"].read_text(encoding="utf-8"))
    got = tl.compare("pair-full", ["Q4_0"], ids, context=32, chunks=2, progress=False)
    assert got.settings["speed"] == "shapes"
    assert got.settings["shapes"]["model"] == "Little 1M"
    assert [row.speed.linear_params for row in got.rows] == [little.linear] * 2
