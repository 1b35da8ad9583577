"""The kernel table with what 256 weights cost, as the command and the README show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from tritlab import _native
from tritlab._native import BackendError

if TYPE_CHECKING:
    from tritlab._native import Kernel

KINDS = ("total", "dots", "shuffles", "multiplies", "loads", "stores", "other", "bytes_read")


def kernel(name: str) -> Kernel:
    """The kernel of that name; `BackendError` that names similar ones if there is none."""
    table = _native.kernels()
    if name in table:
        return table[name]
    close = get_close_matches(name.lower(), table, n=4, cutoff=0.5) or list(table)[:4]
    raise BackendError(f"no kernel {name!r}; there are {', '.join(close)}, … (`tritlab kernels`)")


def choose(
    backends: Iterable[str], ops: Iterable[str] = (), formats: Iterable[str] = ()
) -> list[Kernel]:
    """Kernels of these backends; of all operations and formats where none is named."""
    wanted = set(backends), set(ops), {name.upper() for name in formats}

    def fits(item: Kernel) -> bool:
        return (
            item.backend in wanted[0]
            and (not wanted[1] or item.op in wanted[1])
            and (not wanted[2] or item.format in wanted[2])
        )

    return [item for item in _native.kernels().values() if fits(item)]


def records(
    kernels: Iterable[Kernel], step: Callable[[str], object] = lambda name: None
) -> Iterator[dict[str, Any]]:
    """A flat dictionary per kernel, with counts per 256 weights; the kernels are run for it."""
    for item in kernels:
        step(item.name)
        code = item.disassemble()
        yield {
            "kernel": item.name,
            "op": item.op,
            "format": item.format,
            "backend": item.backend,
            "selected": item.selected,
            **{kind: code.counts[kind] for kind in KINDS},  # type: ignore[literal-required]
            "per": code.per,
            "loop_share": code.share,
        }


def number(x: float) -> str:
    """Three digits: 12.9, 117, 0.25."""
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"
