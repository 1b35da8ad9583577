"""What is said about a kernel that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tritlab._types import KitCase


@dataclass(frozen=True)
class Difference:
    """The first value of an output that is wrong."""

    output: str
    index: tuple[int, ...]
    found: float | int
    expected: float | int
    detail: str  # what else to say about the expected value
    differing: int
    of: int


class KernelMismatch(AssertionError):  # noqa: N818 - the name says what it is
    """A kernel that does not compute what it should, or raises; the message has everything below.

    `kernel`: its name; `check`: what it should compute; `format`: the format, or the grouping of
    activations; `case`: the name of the case, for `only=`; `shape`: (rows, columns, tokens);
    `output`, `index`, `found`, `expected`: the first wrong value, `None` where an output has
    another shape or dtype; `differing`, `of`: how many are wrong; `raised`: the exception that came
    out of the kernel, or `None`; `rerun`: the line that runs the case again.
    """

    __module__ = "tritlab.testing"

    def __init__(
        self,
        kernel: str,
        check: str,
        format: str,
        facts: KitCase,
        difference: Difference | str | Exception,
        rerun: str,
    ) -> None:
        self.kernel, self.check, self.format = kernel, check, format
        self.case, self.rerun = facts["case"], rerun
        self.shape = (facts["rows"], facts["cols"], facts["n"])
        self.output: str | None = None
        self.index: tuple[int, ...] | None = None
        self.found: float | int | None = None
        self.expected: float | int | None = None
        self.differing = self.of = 0
        self.raised = difference if isinstance(difference, Exception) else None
        rows, cols, n = self.shape
        tokens = f", {n} token{'' if n == 1 else 's'}" if check == "matmul" else ""
        lines = [("case", self.case), ("shape", f"{rows} x {cols}{tokens}")]
        if facts["weights_are"]:
            lines.append(("weights", facts["weights_are"]))
        if facts["numbers_are"]:
            lines.append(("numbers", facts["numbers_are"]))
        if isinstance(difference, Exception):
            said = " ".join(str(difference).split())
            lines.append(("raised", f"{type(difference).__name__}{said and ': '}{said}"))
        elif isinstance(difference, str):
            lines.append(("returned", difference))
        else:
            self.output, self.index = difference.output, difference.index
            self.found, self.expected = difference.found, difference.expected
            self.differing, self.of = difference.differing, difference.of
            count = f"{self.differing} of {self.of} differ"
            at = ", ".join(str(i) for i in difference.index)
            lines.append(("first bad", f"{difference.output}[{at}] ({count})"))
            lines.append(("found", _show(difference.found)))
            lines.append(("expected", f"{_show(difference.expected)}{difference.detail}"))
        lines.append(("rerun with", rerun))
        text = "".join(f"\n  {name + ':':<11} {what}" for name, what in lines)
        verb = "is not" if self.raised is None else "raised as"
        super().__init__(f"{kernel} {verb} {check} of {format}{text}")


def _show(value: float | int) -> str:
    """The value, and a float32's bits."""
    if isinstance(value, np.float32):
        return f"{value!s} ({int(value.view(np.uint32)):#010x})"
    if isinstance(value, np.integer):
        return f"{int(value)} ({int(value) & 0xFF:#04x})"
    return str(value)


def not_as_asked(output: str, found: Any, dtypes: tuple[Any, ...], shape: tuple[int, ...]) -> str:
    """What is wrong with the dtype or shape of an output; empty if nothing is."""
    wanted = f"{' or '.join(np.dtype(d).name for d in dtypes)} {list(shape)}"
    if not isinstance(found, np.ndarray):
        return f"{type(found).__name__} as {output}, where a NumPy array, {wanted}, is wanted"
    if found.dtype not in [np.dtype(d) for d in dtypes] or found.shape != shape:
        return f"{found.dtype.name} {list(found.shape)} as {output}, where {wanted} is wanted"
    return ""


def exact(output: str, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Difference | None:
    """The first value whose bits differ; any NaN equals any NaN, whose bits are the CPU's."""
    if found.dtype == np.float32:
        bad = np.ascontiguousarray(found).view(np.uint32) != expected.view(np.uint32)
        bad &= ~(np.isnan(found) & np.isnan(expected))
    else:
        bad = found != expected
    return _first(output, bad, found, expected, lambda _: "")


def near(
    output: str,
    found: npt.NDArray[Any],
    expected: npt.NDArray[np.float64],
    allowed: npt.NDArray[np.float64],
) -> Difference | None:
    """The first value farther from a float64 sum than allowed; a NaN is near nothing."""
    error = np.abs(found.astype(np.float64) - expected)
    bad = ~(error <= allowed)

    def detail(i: tuple[int, ...]) -> str:
        return f" in float64, within {allowed[i]:.3g} of it; the error is {error[i]:.3g}"

    return _first(output, bad, found, expected, detail)


def _first(
    output: str,
    bad: npt.NDArray[np.bool_],
    found: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    detail: Any,
) -> Difference | None:
    if not bad.any():
        return None
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return Difference(
        output, index, found[index], expected[index], detail(index), int(bad.sum()), bad.size
    )
