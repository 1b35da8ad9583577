"""Float32 dot products in stated orders, and how far apart their answers are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def dot_in_lanes(weights: Array, x: Array, lanes: int) -> Array:
    """`weights @ x` in float32 as a vector unit of `lanes` lanes sums it; float32 [rows].

    Lane j adds the products j, j + lanes, j + 2·lanes, … one after another, and the lanes are then
    added in pairs. One lane is the plain loop. `weights` is float32 [rows, cols], `lanes` a power
    of two that divides `cols`.
    """
    rows, cols = weights.shape
    if lanes < 1 or lanes & (lanes - 1) or cols % lanes:
        raise ValueError(f"lanes must be a power of two that divides {cols}, not {lanes}")
    products = (weights * x).reshape(rows, cols // lanes, lanes)
    total = np.zeros((rows, lanes), np.float32)
    for step in range(cols // lanes):
        total += products[:, step]
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    return total[:, 0]


def ulps(a: Array, b: Array) -> npt.NDArray[np.int64]:
    """Floats between `a` and `b`: 0 where their bits are equal; both finite."""

    def place(x: Array) -> npt.NDArray[np.int64]:
        bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    apart: npt.NDArray[np.int64] = np.abs(place(a) - place(b))
    return apart
