"""Whether models and matrices hold the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tritlab as tl

FIXTURES = Path(__file__).parents[3] / "model" / "tests" / "data" / "fixtures"


def test_a_file_and_its_folder():
    found = tl.verify(FIXTURES / "llama" / "model.gguf", FIXTURES / "llama")
    assert found
    assert found.same
    assert found.tensors > 10
    assert str(found).startswith("the same: ")


def test_ternary_packings():
    gguf = FIXTURES / "bitnet-gguf-tq2_0" / "model.gguf"
    folder = FIXTURES / "bitnet-packed-divide"
    found = tl.verify(gguf, folder)
    assert not found
    assert found.difference.kind == "value"
    assert found.difference.types == ("TQ2_0", "U8")
    assert "in the first" in str(found)
    assert tl.verify(gguf, folder, rtol=2**-11)


def test_matrices_in_any_packing(rng):
    weights = 0.25 * rng.integers(-1, 2, (8, 256)).astype(np.float32)
    ternary = tl.project(weights, "absmax")
    for name in ("TERNARY", "TERNARY_B3", "TQ1_0", "TQ2_0", "F16"):
        assert tl.verify(weights, ternary.to_matrix(name)), name
    for packing in ("I2_S", "I2_S_64", "IQ1_BN", "IQ2_BN"):
        data, _ = ternary.pack(packing)
        assert tl.verify(tl.Matrix.from_bytes(data, packing, (8, 256)), weights), packing
    # One order read as another: other weights.
    data, _ = ternary.pack("I2_S")
    assert not tl.verify(tl.Matrix.from_bytes(data, "I2_S_64", (8, 256)), weights)
    other = weights.copy()
    other[3, 17] += 1
    found = tl.verify(weights, other).difference
    assert (found.row, found.col, found.first) == (3, 17, weights[3, 17])
    assert found.second == weights[3, 17] + 1


def test_what_cannot_be_compared():
    with pytest.raises(tl.errors.ShapeError):
        tl.verify(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))
    with pytest.raises(TypeError, match="a matrix with a matrix"):
        tl.verify(FIXTURES / "llama", np.zeros((2, 3), np.float32))
    matrix = np.ones((2, 3), np.float32)
    for rtol in (2.0, 1.0, -0.1, np.nan, np.inf):
        for side in (FIXTURES / "llama", matrix, tl.quantize(matrix, "TERNARY")):
            with pytest.raises(tl.TritlabError, match=r"rtol is .*0 or more, below 1"):
                tl.verify(side, side, rtol=rtol)
    with pytest.raises(FileNotFoundError):
        tl.verify("absent.gguf", FIXTURES / "llama")
