"""Hypothesis strategies for weights, activations, raw blocks and whole matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab import _native
from tritlab._native import Matrix
from tritlab.errors import NotInstalledError

try:
    import hypothesis.extra.numpy as hnp
    import hypothesis.strategies as st
except ModuleNotFoundError:
    raise NotInstalledError(
        "these strategies need Hypothesis; run: pip install 'tritlab[test]'"
    ) from None

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["activations", "blocks", "formats", "matrices", "weights"]


def formats() -> st.SearchStrategy[str]:
    """Names of formats; the one that failures shrink to is Q4_0."""
    names = [info["name"] for info in _native.formats()]
    return st.sampled_from(sorted(names, key=lambda name: (name != "Q4_0", name)))


def blocks(
    format: str, *, min_blocks: int = 1, max_blocks: int = 8, finite: bool = False
) -> st.SearchStrategy[npt.NDArray[np.uint8]]:
    """Raw blocks of any bytes, uint8 [blocks, block bytes].

    Scales in them may be infinite or NaN, as in a hostile file, unless `finite`.
    """
    size = _info(format)["bytes"]
    raw = st.integers(min_blocks, max_blocks).flatmap(lambda n: hnp.arrays(np.uint8, (n, size)))
    if not finite:
        return raw
    return raw.map(lambda b: _native.kit_make_finite(format, b.ravel()).reshape(b.shape))


def matrices(
    format: str,
    *,
    min_rows: int = 1,
    max_rows: int = 20,
    min_blocks: int = 1,
    max_blocks: int = 3,
) -> st.SearchStrategy[Matrix]:
    """Matrices of any codes with finite scales, rows of whole blocks.

    Shrinking makes them smaller and their bytes zero: what stays shows which part matters.
    """
    info = _info(format)
    # Formats with tiny blocks get as many columns as those with blocks of 32.
    many = max(1, 32 // info["block"])

    def build(shape: tuple[int, int]) -> st.SearchStrategy[Matrix]:
        rows, n = shape
        count = {"row": rows, "tensor": 1}.get(info["scales"], 0)
        return st.builds(
            lambda raw, scales: Matrix.from_bytes(
                _native.kit_make_finite(format, raw), format, (rows, n * info["block"]), scales
            ),
            hnp.arrays(np.uint8, rows * n * info["bytes"]),
            hnp.arrays(np.float32, count, elements=st.floats(-4, 4, width=32)),
        )

    lengths = st.integers(min_blocks, max_blocks * many)
    return st.tuples(st.integers(min_rows, max_rows), lengths).flatmap(build)


def weights(
    shape: Any, *, max_magnitude: float = 60000.0
) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    """Finite float32 weights of a shape; every format can hold the default magnitude.

    Zeros of both signs and subnormal numbers are among them.
    """
    return hnp.arrays(np.float32, shape, elements=_finite(max_magnitude))


def activations(
    shape: Any, *, max_magnitude: float = 1e25
) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    """Finite float32 activations of a shape; products with `matrices` stay finite.

    Zeros of both signs and subnormal numbers are among them.
    """
    return hnp.arrays(np.float32, shape, elements=_finite(max_magnitude))


def _finite(largest: float) -> st.SearchStrategy[float]:
    if not (0 < largest < math.inf):
        raise ValueError(f"max_magnitude is {largest}; it is a finite number above 0")
    bound = float(np.float32(largest))
    return st.one_of(st.floats(-2, 2, width=32), st.floats(-bound, bound, width=32))


def _info(format: str) -> Any:
    from tritlab.testing._checks import _info

    return _info(format)
