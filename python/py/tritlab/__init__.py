"""The measuring instrument for ternary and 1-bit language models.

import tritlab as tl

w = tl.quantize(weights, "Q4_0")           # float32 [rows, cols] -> Matrix
y = w @ x                                  # the same bits on every CPU and thread count
tl.formats(), tl.backends(), tl.kernels()  # the table
tl.kernels()["gemv-q4_0-avx512"].disassemble()  # the code that runs, and what 256 weights cost
tl.roofline()                              # what this machine can do at most
tl.explain("Q4_0", block), w.explain(0, 0)  # what a block's bytes mean
with tl.backend("portable"): ...
m = tl.Model.load("model.gguf", format="Q8_0")
for piece in m.stream("Once"): ...         # or m.generate, m.generate_batch, m.chat
m.capture(ids, ["blk.*", "blk.0.attention"])  # activations as arrays
tl.perplexity(m, text)
tl.compare("model.gguf", ["F16", "Q8_0", "Q4_0", "TERNARY"], text)
tl.sweep("grid.yaml", "results")           # models x formats x activations x texts x seeds
tl.search("model.gguf", text, budget="60MB")  # a format for each tensor, by measurement
tl.layers("model.gguf", text, "Q4_K")      # what a format does to each layer, to explore
tl.convert("folder", "model.gguf")         # Hugging Face folder to GGUF, or back
tl.verify("folder", "model.gguf")          # the same weights? or the first that differs
full, ternary = tl.load_pair()             # two small models, one trained in ternary
tl.testing.check_matmul(my_kernel, "Q4_0")  # is a kernel of yours right?
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tritlab import _native, errors
from tritlab._native import (
    Activations,
    Disassembly,
    Explanation,
    Imatrix,
    Kernel,
    Matrix,
    Model,
    Ternary,
    TextStream,
    TritlabError,
    __version__,
    backends,
    convert,
    explain,
    formats,
    kernels,
    packings,
    project,
    quantize_activations,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tritlab import pair, testing
    from tritlab.comparison import compare, perplexity
    from tritlab.evaluation import collect_imatrix as imatrix
    from tritlab.layerwise import layers
    from tritlab.limits import Roofline, roofline
    from tritlab.logprobs import LogProbs
    from tritlab.pair import load_pair
    from tritlab.precision import search
    from tritlab.recipe import Recipe
    from tritlab.sweeps import sweep
    from tritlab.verification import verify

__all__ = [
    "Activations",
    "Disassembly",
    "Explanation",
    "Imatrix",
    "Kernel",
    "LogProbs",
    "Matrix",
    "Model",
    "Recipe",
    "Roofline",
    "Ternary",
    "TextStream",
    "TritlabError",
    "__version__",
    "backend",
    "backends",
    "compare",
    "convert",
    "errors",
    "explain",
    "formats",
    "imatrix",
    "kernels",
    "layers",
    "load_pair",
    "machine",
    "packings",
    "pair",
    "perplexity",
    "project",
    "quantize",
    "quantize_activations",
    "roofline",
    "search",
    "sweep",
    "testing",
    "threads",
    "verify",
]


def quantize(
    weights: npt.NDArray[np.float32],
    format: str,
    *,
    importance: npt.NDArray[np.float32] | None = None,
    projection: str | None = None,
    refit: bool = False,
) -> Matrix:
    """Quantise float32 [rows, cols] weights to one of `formats()`.

    By the format's own rule, weighed with `importance`, float32 [cols], where it searches; or, for
    ternary and sign formats, by a `projection` (see `project`) with the format's own reach of a
    scale. `refit` makes each scale the best one; scales in blocks are rounded to float16.
    """
    if projection is None:
        if refit:
            raise ValueError("refit needs a projection: name one, for example projection='twn'")
        return Matrix.quantize(weights, format, importance=importance)
    if importance is not None:
        raise ValueError("projections do not use importance: give one of the two")
    scales, block = next(
        ((f["scales"], f["block"]) for f in formats() if f["name"].lower() == format.lower()),
        ("tensor", 1),  # to_matrix refuses the name
    )
    reach: dict[str, str | int] = {"row": "row", "block": block}
    ternary = project(weights, projection, per=reach.get(scales, "tensor"), refit=refit)
    return ternary.to_matrix(format, round_scales=scales == "block")


@contextmanager
def backend(name: str | None) -> Iterator[str]:
    """Force a backend inside a `with` block, for the whole process; gives its name."""
    before = _native.current_backend()
    _native.set_backend(name)
    try:
        yield _native.current_backend()
    finally:
        _native.set_backend(before)


def threads(n: int | None = None) -> int:
    """Set the number of threads if `n` is given; return the number in use."""
    if n is not None:
        _native.set_threads(n)
    return _native.get_threads()


def machine(*, measure: bool = False) -> dict[str, Any]:
    """Facts about this machine that a result depends on.

    With `measure`, also its limits with the current threads, which takes half a second:
    `read_bandwidth` in bytes/s and `dot_peak` in int8 multiply-accumulates/s.
    """
    facts: dict[str, Any] = dict(_native.machine())
    facts["backend"] = _native.current_backend()
    facts["threads"] = _native.get_threads()
    if measure:
        facts["read_bandwidth"] = _native.measure_bandwidth(facts["threads"])
        facts["dot_peak"] = _native.measure_dot_peak(facts["threads"])
    return facts


def __getattr__(name: str) -> Any:
    # NumPy, the report code and the kit load only when they are used.
    if name in ("compare", "perplexity"):
        from tritlab import comparison

        return getattr(comparison, name)
    if name == "verify":
        from tritlab.verification import verify

        return verify
    if name in ("pair", "testing"):
        return importlib.import_module(f"tritlab.{name}")
    if name == "load_pair":
        from tritlab.pair import load_pair

        return load_pair
    if name == "sweep":
        from tritlab.sweeps import sweep

        return sweep
    if name == "LogProbs":
        from tritlab.logprobs import LogProbs

        return LogProbs
    if name == "search":
        from tritlab.precision import search

        return search
    if name == "layers":
        from tritlab.layerwise import layers

        return layers
    if name in ("Roofline", "roofline"):
        from tritlab import limits

        return getattr(limits, name)
    if name == "Recipe":
        from tritlab.recipe import Recipe

        return Recipe
    if name == "imatrix":
        from tritlab.evaluation import collect_imatrix

        return collect_imatrix
    raise AttributeError(f"module 'tritlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
