"""What became of numbers that were rounded: how large the error is, and what of the signal is left.

Sums are in float64. The relative error is |ŷ − y| / |y| in the Frobenius norm; SQNR, the ratio of
signal to quantisation noise, is the same in decibels, −20 log10 of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 22
"""Numbers that are float64 at once."""


@dataclass
class Fidelity:
    """Sums over numbers and what became of them."""

    square: float = 0.0
    error: float = 0.0
    product: float = 0.0
    rounded: float = 0.0

    def add(self, exact: npt.NDArray[np.floating], rounded: npt.NDArray[np.floating]) -> None:
        """Count arrays of one shape."""
        for a, b in zip(blocks(exact), blocks(rounded), strict=True):
            self.square += float(a @ a)
            self.rounded += float(b @ b)
            self.product += float(a @ b)
            gap = a - b
            self.error += float(gap @ gap)

    @property
    def relative(self) -> float:
        """Relative error; 0 where there is none, infinite where there was nothing to keep."""
        if self.error == 0:
            return 0.0
        return math.sqrt(self.error / self.square) if self.square > 0 else math.inf

    @property
    def sqnr(self) -> float:
        """Signal to quantisation noise, dB."""
        relative = self.relative
        return math.inf if relative == 0 else -20 * math.log10(relative)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between them; NaN where one is all zeros."""
        if self.error == 0 and self.square > 0:
            return 1.0
        length = math.sqrt(self.square) * math.sqrt(self.rounded)
        return self.product / length if length > 0 else math.nan


def sqnr(exact: npt.NDArray[np.floating], rounded: npt.NDArray[np.floating]) -> float:
    """Signal to quantisation noise of one array, dB; infinite where nothing was lost."""
    both = Fidelity()
    both.add(exact, rounded)
    return both.sqnr


def blocks(x: npt.NDArray[np.floating]) -> Iterator[npt.NDArray[np.float64]]:
    """The numbers of an array in order, some at a time."""
    flat = x.reshape(-1)
    for at in range(0, len(flat), _BLOCK):
        yield flat[at : at + _BLOCK].astype(np.float64)
