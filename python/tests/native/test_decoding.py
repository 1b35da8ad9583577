"""Whole model files, every tensor against the independent decoder of the package `gguf`."""

from __future__ import annotations

import os

import gguf
import numpy as np
import pytest

import tritlab as tl
from tritlab import _models

# What the file holds: that a type is not checked any more would go unnoticed.
TYPES = {
    "smollm2": {"F32", "Q4_1", "Q8_0"},
    "gemma3-270m": {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"},
}


@pytest.mark.parametrize("name", ["smollm2", pytest.param("gemma3-270m", marks=pytest.mark.large)])
def test_every_tensor_decodes_as_in_gguf(name):
    try:
        path = _models.resolve(name)
    except tl.errors.NotInstalledError:
        if os.environ.get("TRITLAB_CI"):
            raise
        pytest.skip(f"{name} is not installed")
    seen = set()
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type.name
        cols = int(tensor.shape[0])
        shape = (tensor.n_elements // cols, cols)
        data = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        ours = tl.Matrix.from_bytes(data, kind, shape).dequantize()
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)), tensor.name
        seen.add(kind)
    assert seen == TYPES[name]
