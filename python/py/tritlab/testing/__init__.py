"""Is a kernel of yours right? The project's own test cases for kernels written in Python.

A kernel is any callable on NumPy arrays: plain NumPy, Numba, ctypes around C. It gets every shape
at the edge of a block or tile, painted numbers, saturating codes, every byte at every place,
hostile scales, subnormal and huge numbers, and random cases. Its answers are compared bit for bit
with the definition. The first that is wrong raises `KernelMismatch`, made as small as it still
fails, with the kernel, the shape, the index, both values, and the line that runs this case again.

def kernel(blocks, scales, codes, code_scales):  # uint8 [rows, row_bytes], f32, int8 [cols], f32
    ...                                          # -> float32 [rows]

tl.testing.check_matmul(kernel, "Q4_0")
tl.testing.check_dequantize(decode, "Q4_0")
tl.testing.check_quantize(encode, "Q4_0")
tl.testing.check_quantize_activations(to_int8, "32")
tl.testing.strategies.matrices("Q4_0")           # for Hypothesis: pip install 'tritlab[test]'

Arrays that a kernel gets are read-only. What it raises comes through, with a note that names the
case.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tritlab.testing._checks import (
    check_dequantize,
    check_matmul,
    check_quantize,
    check_quantize_activations,
)
from tritlab.testing._fma import fma
from tritlab.testing._mismatch import KernelMismatch

if TYPE_CHECKING:
    from tritlab.testing import strategies

__all__ = [
    "KernelMismatch",
    "check_dequantize",
    "check_matmul",
    "check_quantize",
    "check_quantize_activations",
    "fma",
    "strategies",
]


def __getattr__(name: str) -> Any:
    # Hypothesis is optional, and loads only when it is used.
    if name == "strategies":
        return importlib.import_module("tritlab.testing.strategies")
    raise AttributeError(f"module 'tritlab.testing' has no attribute {name!r}")
