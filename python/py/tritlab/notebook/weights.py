"""Synthetic weights and activations of known distributions, and what rounding does to them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tritlab import _models, _native
from tritlab.errors import NotInstalledError
from tritlab.fidelity import sqnr as sqnr  # notebooks find it here

Array = npt.NDArray[np.float32]

DB_PER_BIT = 20 * math.log10(2)
"""Of SQNR: each bit halves the amplitude of the error, 6.02 dB."""


def gaussian(rows: int, cols: int, seed: int) -> Array:
    """N(0, 1) weights, float32 [rows, cols]."""
    return np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)


def student_t(rows: int, cols: int, seed: int, degrees: int = 5) -> Array:
    """Heavy-tailed weights of variance 1: Student's t of `degrees` > 2, float32 [rows, cols]."""
    drawn = np.random.default_rng(seed).standard_t(degrees, (rows, cols))
    return (drawn * math.sqrt((degrees - 2) / degrees)).astype(np.float32)


def outlier_columns(cols: int, seed: int, share: float = 0.01) -> npt.NDArray[np.intp]:
    """Which columns are outliers: `share` of them, at random places, in ascending order."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(cols, max(1, round(share * cols)), replace=False))


def gaussian_limit(bits: float) -> float:
    """Best SQNR, dB, of any code of `bits` per weight for independent Gaussian weights.

    Shannon's rate-distortion function, D(R) = σ²·2^(−2R): Cover and Thomas, Elements of Information
    Theory, section 10.3.
    """
    return DB_PER_BIT * bits


def student_t5_limit(bits: float) -> float:
    """Shannon's lower bound of distortion as SQNR, dB, for Student's t with 5 degrees of freedom.

    No code is better: D ≥ 2^(2h − 2R) / 2πe with h the differential entropy in bits (Cover and
    Thomas, section 10.6). It is above the Gaussian's, since a heavier tail has less entropy for the
    same variance.
    """
    # h of t with ν = 5 at scale 1, nats: (ν+1)/2 (ψ((ν+1)/2) − ψ(ν/2)) + ln(√ν B(ν/2, 1/2)).
    entropy = 3 * (2 * math.log(2) - 7 / 6) + math.log(math.sqrt(5) * 3 * math.pi / 8)
    entropy += 0.5 * math.log(3 / 5)  # scaled to variance 1
    gap = (0.5 * math.log(2 * math.pi * math.e) - entropy) / math.log(2)  # bits
    return DB_PER_BIT * (bits + gap)


def packaged_tensors(model: str, names: list[str]) -> list[Array] | None:
    """Weights of a packaged model's GGUF file as float32; `None` if it or `gguf` is missing.

    Decoded by the package `gguf`, not by this library. The packages' names are those of
    `Model.load`.
    """
    try:
        import gguf

        path = _models.resolve(model)
    except (ImportError, NotInstalledError):
        return None
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    missing = [name for name in names if name not in tensors]
    if missing:
        raise KeyError(f"{path.name} has no tensor {missing[0]}")
    return [
        np.ascontiguousarray(
            gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type), np.float32
        )
        for name in names
    ]


def round_to_int4(x: Array, group: int) -> Array:
    """Activations [cols, n] rounded to -7..7 times a scale per `group` elements of a column.

    The scale is max|x| / 7: what int4 activations cost at their simplest. The kernels have none.
    """
    cols, n = x.shape
    if cols % group:
        raise ValueError(f"groups of {group} do not fit {cols} elements")
    grouped = x.reshape(cols // group, group, n)
    scale = np.maximum(np.abs(grouped).max(axis=1, keepdims=True), np.float32(1e-5)) / np.float32(7)
    return np.asarray((np.rint(grouped / scale) * scale).reshape(cols, n), np.float32)


def packaged_activations(model: str, text: str, names: list[str]) -> list[Array] | None:
    """Inputs [inputs, tokens] of layers of a packaged model on a text; `None` without its package.

    `names` are those of `Model.capture`.
    """
    try:
        path = _models.resolve(model)
    except NotInstalledError:
        return None
    loaded = _native.Model.load(path)
    found = loaded.capture(loaded.tokenize(text), names)
    return [np.ascontiguousarray(found[name].T) for name in names]
