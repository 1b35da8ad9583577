"""Whether two models or matrices hold the same weights, whatever they are packed in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritlab import _models, _native
from tritlab._native import Matrix, ShapeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tritlab._types import Progress

    # A model by path or name, or a matrix: packed, or float32 [rows, cols].
    Weights = str | os.PathLike[str] | Matrix | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """The first difference of two models or matrices.

    `kind` is "value", "shape", "only in the first" or "only in the second"; `tensor` is GGUF's name
    for it (empty for matrices). `row`, `col`, `first` and `second` are of a value, `shapes` of a
    shape; `types` are the two packings.
    """

    kind: str
    tensor: str
    row: int | None = None
    col: int | None = None
    first: float | None = None
    second: float | None = None
    types: tuple[str, str] | None = None
    shapes: tuple[tuple[int, int], tuple[int, int]] | None = None

    def __str__(self) -> str:
        where = f"tensor {self.tensor}" if self.tensor else "the matrices"
        if self.kind == "shape" and self.shapes is not None:
            (a, b), (c, d) = self.shapes
            return f"{where}: {a} x {b} in the first, {c} x {d} in the second"
        if self.kind != "value":
            return f"{where}: {self.kind}"
        types = self.types or ("", "")
        first, second = (
            f"{value!r} ({kind})"
            for value, kind in zip((self.first, self.second), types, strict=True)
        )
        place = f"{where}, row {self.row}, column {self.col}"
        return f"{place}: {first} in the first, {second} in the second"


@dataclass(frozen=True)
class Verification:
    """What `verify` found; true where the weights are the same.

    `tensors` and `weights` count what was compared and is the same.
    """

    tensors: int
    weights: int
    difference: Difference | None

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return self.difference is None

    def __bool__(self) -> bool:
        return self.same

    def __str__(self) -> str:
        if self.difference is None:
            return f"the same: {self.tensors:,} tensors, {self.weights:,} weights"
        return f"different: {self.difference}"


def verify(
    first: Weights,
    second: Weights,
    *,
    rtol: float = 0.0,
    i2_s: str = "I2_S",
    progress: Progress | None = None,
) -> Verification:
    """Say whether two models or matrices hold the same weights, or what the first difference is.

    Models are GGUF files, Hugging Face folders or packaged names; matrices are `Matrix` (in any
    format; `Matrix.from_bytes` reads other projects' packings) or float32 [rows, cols]. Weights are
    compared as numbers. `rtol` allows |a - b| <= rtol · max(|a|, |b|), for scales that another
    packing had to round; a zero is only ever a zero. `i2_s` is the order of I2_S codes, as in
    `Model.load`.

    `ShapeError` for matrices of two shapes, `TypeError` for a model beside a matrix.
    """
    paths = [isinstance(side, str | os.PathLike) for side in (first, second)]
    if all(paths):
        report = _native.verify_models(
            _models.resolve(first),  # type: ignore[arg-type]
            _models.resolve(second),  # type: ignore[arg-type]
            rtol=rtol,
            i2_s=i2_s,
            progress=progress,
        )
        found = report["difference"]
        difference = None if found is None else Difference(**found)
        return Verification(report["tensors"], report["weights"], difference)
    if any(paths):
        raise TypeError("a model can be compared with a model, a matrix with a matrix")
    a, b = (
        side if isinstance(side, Matrix) else Matrix.quantize(side, "F32")  # type: ignore[arg-type]
        for side in (first, second)
    )
    if a.shape != b.shape:
        raise ShapeError(f"the first matrix is {a.shape}, the second {b.shape}")
    value = _native.verify_matrices(a, b, rtol=rtol)
    if value is None:
        return Verification(1, a.shape[0] * a.shape[1], None)
    row, col, x, y = value
    return Verification(0, 0, Difference("value", "", row, col, x, y, (a.format, b.format)))
