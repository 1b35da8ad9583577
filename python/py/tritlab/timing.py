"""Timings on machines that others use too: everything in turns, compared within each round.

What else runs on a machine changes its speed from second to second, several times over. Things that
are called one right after the other meet the same machine; the median of their ratios over many
rounds says more than the ratio of any two times.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from tritlab import _native

CACHE = 32 << 20
"""Bytes that the last cache of a usual machine holds: a smaller model may stay there.

What a system says of its cache is no better guess: a virtual machine names the whole host's.
"""
FAR = 96 << 20
"""Bytes that are read between two products of one matrix from memory: more than a last cache."""


def in_turns(
    work: Mapping[str, Callable[[], float | None]],
    seconds: float,
    *,
    best_of: int = 3,
    least: int = 5,
) -> dict[str, npt.NDArray[np.float64]]:
    """Call everything in turn, each second round backwards; one number per round and name.

    The number is the least seconds of `best_of` calls in a row, since a call that another program
    interrupts takes longer and none takes less; or what the call returned, if that is a number.
    Rounds are made until `seconds` have passed, at least `least`, after one that does not count.
    """
    found: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call()
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name in list(work) if rounds % 2 == 0 else reversed(list(work)):
            found[name].append(_number(work[name], best_of))
        rounds += 1
    return {name: np.array(values) for name, values in found.items()}


def _number(call: Callable[[], float | None], best_of: int) -> float:
    best = float("inf")
    for _ in range(best_of):
        start = time.perf_counter()
        value = call()
        if value is not None:
            return value
        best = min(best, time.perf_counter() - start)
    return best


def product(matrix: _native.Matrix, x: npt.NDArray[np.float32]) -> Callable[[], None]:
    """One product as a call."""

    def run() -> None:
        matrix @ x

    return run


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


def eviction() -> Callable[[], None]:
    """Reading of `FAR` bytes as a call: what was in a cache before is not any more."""
    other = np.ones(FAR // 4, np.float32)

    def run() -> None:
        other.sum()

    return run


def far_product(matrix: _native.Matrix, x: npt.NDArray[np.float32]) -> Callable[[], None]:
    """A product from memory as a call: each time of another copy, all larger than the cache."""
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
        next(turn) @ x

    return run
