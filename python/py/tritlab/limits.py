"""What this machine can do at most: memory, cache, and int8 dot products of each backend.

Every speed means something beside these, measured in the same minutes: a decoder reads all weights
once per token, and prefill multiplies them with every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tritlab import _native
from tritlab._files import to_json
from tritlab.bench import OUTPUTS
from tritlab.records import Records, csv_text, markdown_table

MEMORY, CACHE, DOT = "memory read", "cache read", "int8 dot products"


@dataclass(frozen=True)
class Roofline(Records):
    """Limits by number of threads. `records` is tidy: one limit per row, in bytes/s or products/s.

    Multiply and add are one product. `print` and notebooks show a row per number of threads.
    """

    machine: dict[str, Any]
    limits: list[dict[str, Any]] = field(repr=False)
    _index: ClassVar[str | None] = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """One limit per row."""
        return [dict(row) for row in self.limits]

    def limit(self, threads: int, name: str, backend: str | None = None) -> float:
        """One number: `name` is "memory read", "cache read" or "int8 dot products"."""
        for row in self.limits:
            if (row["threads"], row["limit"], row["backend"]) == (threads, name, backend):
                return float(row["value"])
        there = {(row["threads"], row["limit"], row["backend"]) for row in self.limits}
        asked, known = (threads, name, backend), sorted(there, key=str)
        raise KeyError(f"{asked} was not measured; there are {known}")

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and cells, one row per number of threads."""
        backends = list(dict.fromkeys(r["backend"] for r in self.limits if r["limit"] == DOT))
        heads = ["threads", "memory read, GB/s", "cache read, GB/s"]
        heads += [f"{name} int8, G products/s" for name in backends]
        cells = []
        for threads in dict.fromkeys(row["threads"] for row in self.limits):
            read = [self.limit(threads, name) for name in (MEMORY, CACHE)]
            dots = [self.limit(threads, DOT, name) for name in backends]
            cells.append([str(threads), *(f"{x / 1e9:.1f}" for x in (*read, *dots))])
        return heads, cells

    @property
    def caption(self) -> str:
        """The machine, in a line."""
        facts = self.machine
        memory = facts["memory_bytes"] / 2**30
        place = f"{facts['os']}, {facts['arch']}"
        return f"{facts['cpu']}, {facts['cores']} cores, {memory:.1f} GiB; {place}"

    def render(self, output: str) -> str:
        """As `md`, `csv`, `json` (with the facts about the machine) or `jsonl`."""
        if output == "json":
            return to_json({"machine": self.machine, "limits": self.records})
        if output == "jsonl":
            return "\n".join(to_json(row, indent=None) for row in self.records)
        if output == "csv":
            return csv_text(self.records).rstrip("\n")
        if output != "md":
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, not {output!r}")
        return f"{markdown_table(*self.table())}\n{self.caption}"

    def __str__(self) -> str:
        return self.render("md")

    def _repr_markdown_(self) -> str:
        return self.render("md")


def roofline(threads: int | Sequence[int] | None = None, *, seconds: float = 0.3) -> Roofline:
    """Measure how fast memory and last-level cache are read, and each backend's int8 dot products.

    For each number of `threads` (by default 1 and the number in use), `seconds` per limit. The best
    third of the time counts: other programs can only take away. `ValueError` for more threads than
    cores, which could not run at once.
    """
    machine: dict[str, Any] = {**_native.machine()}
    if threads is None:
        counts = sorted({1, min(_native.get_threads(), machine["cores"])})
    else:
        counts = [threads] if isinstance(threads, int) else list(dict.fromkeys(threads))
    for count in counts:
        if not 1 <= count <= machine["cores"]:
            raise ValueError(
                f"threads is {count}, but limits are of 1 to {machine['cores']}: the cores here"
            )
    if not counts:
        raise ValueError("threads is empty: there is nothing to measure")
    backends = [b["name"] for b in _native.backends() if b["available"] and b["name"] != "oracle"]
    limits: list[dict[str, Any]] = []
    for count in counts:
        read = {
            MEMORY: _native.measure_bandwidth(count, seconds),
            CACHE: _native.measure_cache_bandwidth(count, seconds),
        }
        for name, value in read.items():
            limits.append(_row(count, name, None, value, "bytes/s"))
        for backend in backends:
            peak = _native.measure_dot_peak(count, backend, seconds)
            limits.append(_row(count, DOT, backend, peak, "products/s"))
    return Roofline(machine, limits)


def _row(threads: int, limit: str, backend: str | None, value: float, unit: str) -> dict[str, Any]:
    return {
        "threads": threads,
        "limit": limit,
        "backend": backend,
        "value": value,
        "unit": unit,
    }
