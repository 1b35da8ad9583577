"""The one operation of the arithmetic contract that NumPy lacks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def fma(
    a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike
) -> npt.NDArray[np.float32] | np.float32:
    """`a * b + c` of float32 numbers, rounded once: what the contract's rows are made of.

    The product is exact in float64. The sum is rounded to odd there (S. Boldo and G. Melquiond,
    "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008),
    so that rounding it again to float32 is as good as rounding once.
    """
    x, y, z = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b, c))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        product = x * y
        total = np.asarray(product + z)
        # What `total` lost, exactly (Knuth's two-sum); NaN where it is infinite.
        back = total - product
        lost = (product - (total - back)) + (z - back)
        even = (total.view(np.int64) & 1) == 0
        toward = np.where(lost > 0, np.inf, -np.inf)
        inexact = np.isfinite(lost) & (lost != 0) & even
        return np.where(inexact, np.nextafter(total, toward), total).astype(np.float32)[()]
