"""Timings on machines that others use too: everything in turns, and the least of each counts.

What disturbs a timing makes it longer, never shorter, so the least of many is nearest to the
machine, and turns spread a bad second over everything that is compared.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from tritlab import _native

FAR = 96 << 20
"""Bytes of copies of a matrix that a product from memory goes through: more than a last cache."""


def in_turns(
    work: Mapping[str, Callable[[], object]], seconds: float, least: int = 3
) -> dict[str, float]:
    """Least seconds of each call, after one untimed call of each.

    All are called in turn, each second round backwards, until `seconds` have passed, and at least
    `least` times.
    """
    for call in work.values():
        call()
    best = dict.fromkeys(work, float("inf"))
    names = list(work)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name in names if rounds % 2 == 0 else reversed(names):
            call = work[name]
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


def matrix(format: str, rows: int, cols: int, strip: int = 64) -> _native.Matrix:
    """A matrix to time: Gaussian weights, `strip` rows repeated, which is quick to quantise."""
    if rows % strip:
        raise ValueError(f"rows must be a multiple of {strip}, not {rows}")
    weights = np.random.default_rng(0).standard_normal((strip, cols), dtype=np.float32)
    part = _native.Matrix.quantize(weights, format)
    scales = part.scales
    if len(scales) == strip:
        scales = np.tile(scales, rows // strip)
    return _native.Matrix.from_bytes(
        np.tile(part.bytes, rows // strip),
        format,
        (rows, cols),
        scales if len(scales) else None,
    )


def far_product(
    matrix: _native.Matrix, x: npt.NDArray[np.float32], calls: int
) -> Callable[[], object]:
    """`calls` products from memory as one call: copies larger than the cache, one after another."""
    count = max(2, -(-FAR // matrix.nbytes))
    scales = matrix.scales if len(matrix.scales) else None
    copies = [
        _native.Matrix.from_bytes(matrix.bytes, matrix.format, matrix.shape, scales)
        for _ in range(count)
    ]
    for copy in copies:
        copy @ x  # packs it
    turn: Iterator[_native.Matrix] = itertools.cycle(copies)

    def run() -> None:
        for _ in range(calls):
            next(turn) @ x

    return run
