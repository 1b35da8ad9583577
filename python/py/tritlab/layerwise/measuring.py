"""One layer as numbers: its weights before and after rounding, its input, its output.

Errors are those of `fidelity`, over all rows and tokens. Kurtosis, summed in float64, is the mean
of (x − μ)⁴ over σ⁴, 3 for a Gaussian; outliers are further than `OUTLIER` standard deviations from
the mean, where a Gaussian has one of 5 · 10⁸.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab._formats import is_dense
from tritlab._native import Matrix, formats, quantize_activations
from tritlab.fidelity import Fidelity, blocks, sqnr

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

OUTLIER = 6.0
"""Standard deviations: beyond them LLM.int8 (arXiv 2208.07339) calls a feature an outlier."""
BINS = 48
_TOKENS = 64
"""Tokens whose outputs are held at once."""


def shape(x: Array) -> dict[str, float]:
    """Kurtosis and the share of outliers of an array; NaN where all numbers are equal."""
    n = x.size
    mean = math.fsum(float(b.sum()) for b in blocks(x)) / n
    second = math.fsum(float(((b - mean) ** 2).sum()) for b in blocks(x)) / n
    if second == 0:
        return {"kurtosis": math.nan, "outlier_share": 0.0}
    fourth = math.fsum(float(((b - mean) ** 4).sum()) for b in blocks(x)) / n
    limit = OUTLIER * math.sqrt(second)
    far = sum(int(np.count_nonzero(np.abs(b - mean) > limit)) for b in blocks(x))
    return {"kurtosis": fourth / second**2, "outlier_share": far / n}


def histogram(x: Array) -> dict[str, list[Any]]:
    """Counts in `BINS` equal bins: `edges` (one more) and `counts`."""
    counts, edges = np.histogram(x, BINS)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def measure(
    exact: Sequence[Matrix], rounded: Sequence[Matrix], x: Array | None
) -> dict[str, dict[str, Any]]:
    """All that is known of one layer: `numbers` by name, and `histograms`.

    `exact` and `rounded` are the parts of its matrix (one, or those of a fused one) as the
    reference and as the format has them; `x`, float32 [inputs, tokens], is the layer's input in the
    reference, `None` where the layer multiplies nothing or its input is not known.
    """
    weights = Fidelity()
    dense = [part.dequantize() for part in exact]
    decoded = [part.dequantize() for part in rounded]
    for a, b in zip(dense, decoded, strict=True):
        weights.add(a, b)
    whole = np.concatenate(dense)
    of_weights = shape(whole)
    numbers: dict[str, Any] = {
        "rel_weight_error": weights.relative,
        "weight_sqnr_db": weights.sqnr,
        "weight_cosine": weights.cosine,
        "weight_kurtosis": of_weights["kurtosis"],
        "weight_outlier_share": of_weights["outlier_share"],
    }
    histograms = {"weights": histogram(whole)}
    del whole
    codes = _codes(rounded)
    numbers |= codes[0]
    histograms |= codes[1]
    if x is not None:
        of_inputs = shape(x)
        numbers |= {
            "input_kurtosis": of_inputs["kurtosis"],
            "input_outlier_share": of_inputs["outlier_share"],
            "input_sqnr_db": _input_sqnr(x, rounded[0].format),
            **_outputs(exact, rounded, dense, decoded, x),
        }
        histograms["inputs"] = histogram(x)
    return {"numbers": numbers, "histograms": histograms}


def _codes(parts: Sequence[Matrix]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entropy, zeros and the histograms of codes and scales; nothing of dense formats."""
    if is_dense(parts[0].format):
        return {"code_entropy_bits": None, "zero_code_share": None}, {}
    counts = np.zeros(256, np.int64)
    for part in parts:
        counts += np.bincount(part.codes.reshape(-1).view(np.uint8) ^ 128, minlength=256)
    seen = np.flatnonzero(counts)
    p = counts[seen] / counts.sum()
    scales = np.concatenate([part.group_scales.reshape(-1) for part in parts])
    numbers = {
        "code_entropy_bits": max(0.0, -math.fsum(p * np.log2(p))),
        "zero_code_share": float(counts[128] / counts.sum()),
    }
    return numbers, {
        "codes": {"values": (seen - 128).tolist(), "counts": counts[seen].tolist()},
        "scales": histogram(scales),
    }


def _input_sqnr(x: Array, format: str) -> float:
    """SQNR of the rounding of activations that products in a format do, dB."""
    per = next(f["activation"] for f in formats() if f["name"] == format)
    if per == "f32":
        return math.inf
    return sqnr(x, quantize_activations(x, per).dequantize())


def _outputs(
    exact: Sequence[Matrix],
    rounded: Sequence[Matrix],
    dense: Sequence[Array],
    decoded: Sequence[Array],
    x: Array,
) -> dict[str, Any]:
    """Errors of the products, beside the reference's weights times activations not rounded.

    Bias and factors of the whole layer are no part of it: rounding does not touch them.
    """
    product, weights_alone = Fidelity(), Fidelity()
    for a, b, w, q in zip(exact, rounded, dense, decoded, strict=True):
        reference = a if is_dense(a.format) else Matrix.quantize(w, "F32")
        unrounded = b if is_dense(b.format) else Matrix.quantize(q, "F32")
        for at in range(0, x.shape[1], _TOKENS):
            some = np.ascontiguousarray(x[:, at : at + _TOKENS])
            y = reference @ some
            product.add(y, b @ some)
            weights_alone.add(y, unrounded @ some)
    return {
        "rel_output_error": product.relative,
        "output_sqnr_db": product.sqnr,
        "output_cosine": product.cosine,
        "rel_output_error_f32_activations": weights_alone.relative,
    }
