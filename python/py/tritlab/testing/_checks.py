"""The checks: one for each thing that a kernel can compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from tritlab import _native
from tritlab._types import KitCase
from tritlab.errors import TritlabError
from tritlab.testing._mismatch import Difference, KernelMismatch, exact, near, not_as_asked

# What is wrong with one case: a value, an output's dtype or shape in words, or nothing.
_Verdict = Difference | str | None

_SHRINKS = 300  # cases to try, at most, to make one that fails smaller


def check_matmul(
    kernel: Callable[..., Any],
    format: str,
    *,
    activations: Literal["int8", "f32"] | None = None,
    batch: bool = False,
    rtol: float | None = None,
    only: str | None = None,
    random: int = 32,
    seed: int = 0,
    empty: bool = True,
) -> int:
    """Check a product `y = W x` of packed weights; gives the number of cases it ran.

    `kernel(blocks, scales, codes, code_scales) -> y` with `blocks` uint8 [rows, row_bytes] as on
    disk, `scales` float32 [rows], [1] or [0] (those that the format keeps outside its blocks),
    `codes` int8 [cols] and `code_scales` float32 [groups]: activations quantised as `formats()`
    says. The answer `y` is float32 [rows].

    With `activations="f32"` (the only form for dense formats, and their default), it is
    `kernel(blocks, scales, x) -> y` with `x` float32 [cols]. With `batch`, several vectors come at
    once: `codes` [n, cols], `code_scales` [n, groups], `x` [n, cols], `y` [n, rows].

    `rtol=None` compares bits: integer sums are exact, and one float32 fused multiply-add per group
    (`fma`) follows the order stated in `kernels/src/oracle.rs`; a kernel that reads "f32" then
    quantises them itself. With a number, `y` (float32 or float64) may be off from the sum in
    float64 by what float32 rounding in any order can do, plus `rtol` times the sum of the absolute
    terms; a kernel that reads "f32" must then multiply them as they are.

    `only` runs one case by its name; `random` cases are drawn from `seed` beside the listed ones;
    `empty=False` leaves out shapes without rows, columns or vectors.

    Raises `KernelMismatch`, also where the kernel raises: its exception is then the cause.
    """
    dense = _dense(format)
    if activations is None:
        activations = "f32" if dense else "int8"
    if activations not in ("int8", "f32") or (dense and activations == "int8"):
        known = "'f32'" if dense else "'int8' or 'f32'"
        raise TritlabError(f"{format} can be multiplied with {known} activations")
    judge: str = "bits" if rtol is None else activations

    def run(facts: KitCase) -> _Verdict:
        inputs = ["numbers"] if activations == "f32" else ["codes", "code_scales"]
        arrays: list[Any] = [facts[name] for name in inputs]  # type: ignore[literal-required]
        if not batch:
            arrays = [array[0] for array in arrays]
        found = kernel(facts["blocks"], facts["scales"], *arrays)
        shape = (facts["n"], facts["rows"]) if batch else (facts["rows"],)
        dtypes = (np.float32,) if rtol is None else (np.float32, np.float64)
        if wrong := not_as_asked("y", found, dtypes, shape):
            return wrong
        if rtol is None:
            return exact("y", found, _array(facts["y"]).reshape(shape))
        allowed = _array(facts["bounds"]) + rtol * _array(facts["masses"])
        sums = _array(facts["sums"])
        return near("y", found, sums.reshape(shape), allowed.reshape(shape))

    options = {"activations": activations, "batch": batch, "rtol": rtol}
    defaults = {"activations": "f32" if dense else "int8", "batch": False, "rtol": None}
    said = {name: value for name, value in options.items() if value != defaults[name]}
    search = _Search(kernel, "matmul", "gemm" if batch else "gemv", format, judge, said)
    return search.run(run, only, random, seed, empty)


def check_dequantize(
    kernel: Callable[..., Any],
    format: str,
    *,
    only: str | None = None,
    random: int = 32,
    seed: int = 0,
    empty: bool = True,
) -> int:
    """Check a decoder bit for bit, on every byte at every place; gives the number of cases.

    `kernel(blocks, scales, cols) -> weights` with `blocks` uint8 [rows, row_bytes], `scales`
    float32 [rows], [1] or [0], and `weights` float32 [rows, cols]. Scales in blocks may be infinite
    or NaN. Other options as in `check_matmul`. Raises `KernelMismatch`.
    """

    def run(facts: KitCase) -> _Verdict:
        found = kernel(facts["blocks"], facts["scales"], facts["cols"])
        shape = (facts["rows"], facts["cols"])
        if wrong := not_as_asked("weights", found, (np.float32,), shape):
            return wrong
        return exact("weights", found, _array(facts["numbers"]))

    search = _Search(kernel, "dequantize", "dequantize", format, "bits", {})
    return search.run(run, only, random, seed, empty)


def check_quantize(
    kernel: Callable[..., Any],
    format: str,
    *,
    only: str | None = None,
    random: int = 32,
    seed: int = 0,
    empty: bool = True,
) -> int:
    """Check an encoder byte for byte with the format's reference algorithm.

    `kernel(weights) -> blocks` with `weights` float32 [rows, cols] and `blocks` uint8
    [rows, row_bytes]; for formats with scales outside their blocks it gives `(blocks, scales)`,
    `scales` float32 [rows] or [1]. Gives the number of cases. Other options as in `check_matmul`.
    Raises `KernelMismatch`.
    """

    def run(facts: KitCase) -> _Verdict:
        found = kernel(facts["numbers"])
        blocks, scales = _array(facts["blocks"]), _array(facts["scales"])
        if _info(format)["scales"] in ("row", "tensor"):
            if not isinstance(found, tuple) or len(found) != 2:
                return f"{type(found).__name__}, where (blocks, scales) is wanted"
            found, found_scales = found
            if wrong := not_as_asked("scales", found_scales, (np.float32,), scales.shape):
                return wrong
            if difference := exact("scales", found_scales, scales):
                return difference
        if wrong := not_as_asked("blocks", found, (np.uint8,), blocks.shape):
            return wrong
        return exact("blocks", found, blocks)

    search = _Search(kernel, "quantize", "quantize", format, "bits", {})
    return search.run(run, only, random, seed, empty)


def check_quantize_activations(
    kernel: Callable[..., Any],
    grouping: str,
    *,
    only: str | None = None,
    random: int = 32,
    seed: int = 0,
    empty: bool = True,
) -> int:
    """Check the quantisation of activations to int8 bit for bit; gives the number of cases.

    `grouping` is "token", "256", "128", "64" or "32", as `formats()` has it. `kernel(x) -> (codes,
    code_scales)` with `x` float32 [cols], `codes` int8 [cols], `code_scales` float32 [groups]; the
    last group may be short, and "token" is one group of all. `kernels/src/activation.rs` has the
    formula. Other options as in `check_matmul`. Raises `KernelMismatch`.
    """

    def run(facts: KitCase) -> _Verdict:
        found = kernel(_array(facts["numbers"])[0])
        if not isinstance(found, tuple) or len(found) != 2:
            return f"{type(found).__name__}, where (codes, code_scales) is wanted"
        wanted = (_array(facts["codes"])[0], _array(facts["code_scales"])[0])
        for name, got, expected in zip(("codes", "code_scales"), found, wanted, strict=True):
            if wrong := not_as_asked(name, got, (expected.dtype,), expected.shape):
                return wrong
        return exact("code_scales", found[1], wanted[1]) or exact("codes", found[0], wanted[0])

    search = _Search(kernel, "quantize_activations", "quantize_activations", grouping, "bits", {})
    return search.run(run, only, random, seed, empty)


def _info(format: str) -> Any:
    wanted = format.upper()
    found = next((info for info in _native.formats() if info["name"] == wanted), None)
    if found is None:
        _native.kit_columns(format)  # raises the error that lists the names
    return found


def _dense(format: str) -> bool:
    return bool(_info(format)["activation"] == "f32")


def _array(array: Any) -> Any:
    """An array that every case of the check has."""
    assert array is not None
    return array


class _Search:
    """One kernel and what it should be: runs its cases, and makes the first that fails small."""

    def __init__(
        self,
        kernel: Callable[..., Any],
        check: str,
        native: str,
        subject: str,
        judge: str,
        options: dict[str, Any],
    ) -> None:
        self.name = str(getattr(kernel, "__name__", None) or repr(kernel))
        self.check, self.native, self.subject, self.judge = check, native, subject, judge
        self.options = options

    def run(
        self,
        kernel: Callable[[KitCase], _Verdict],
        only: str | None,
        random: int,
        seed: int,
        empty: bool,
    ) -> int:
        if only is not None:
            if mismatch := self.examine(kernel, only):
                raise mismatch from mismatch.raised
            return 1
        ran = 0
        for case in _native.kit_cases(self.native, self.subject, random, seed):
            if not empty and _is_empty(case):
                continue
            ran += 1
            if mismatch := self.examine(kernel, case):
                mismatch = self.shrink(kernel, mismatch)
                raise mismatch from mismatch.raised
        return ran

    def examine(self, kernel: Callable[[KitCase], _Verdict], case: str) -> KernelMismatch | None:
        facts = _native.kit_case(self.native, self.subject, case, self.judge)
        for value in facts.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        verdict: _Verdict | Exception
        try:
            verdict = kernel(facts)
        except Exception as error:
            verdict = error
        if verdict is None:
            return None
        return KernelMismatch(self.name, self.check, self.subject, facts, verdict, self.rerun(case))

    def shrink(
        self, kernel: Callable[[KitCase], _Verdict], mismatch: KernelMismatch
    ) -> KernelMismatch:
        tries = _SHRINKS
        while True:
            for case in _native.kit_simpler(self.native, self.subject, mismatch.case):
                tries -= 1
                if tries < 0:
                    return mismatch
                smaller = self.examine(kernel, case)
                # Not another fault than the one that is followed.
                if smaller is not None and type(smaller.raised) is type(mismatch.raised):
                    mismatch = smaller
                    break
            else:
                return mismatch

    def rerun(self, case: str) -> str:
        said = "".join(f"{name}={value!r}, " for name, value in self.options.items())
        subject = repr(self.subject)
        return f"tl.testing.check_{self.check}({self.name}, {subject}, {said}only={case!r})"


def _is_empty(case: str) -> bool:
    return "0" in case.split("/")[1].split("x")
