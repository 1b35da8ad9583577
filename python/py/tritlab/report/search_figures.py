"""Figures of a search: sizes against KL with the front, and the map of sensitivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab.precision.sensitivity import arrange
from tritlab.report import figures as _figures  # says which extra to install without matplotlib
from tritlab.report.text import number
from tritlab.statistics import Estimate

import matplotlib  # isort: skip
from matplotlib.colors import LogNorm  # isort: skip
from matplotlib.ticker import FuncFormatter, NullLocator  # isort: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tritlab.precision import Candidate, Search, Sensitivity
    from tritlab.precision.sensitivity import Unit

# By shape, and dark, middle and light in grey: what a recipe is, and whether it is the answer.
_LOOKS = {
    "file": ("o", "#1a1a1a", "the file as it is"),
    "uniform": ("s", "#2c7fb8", "uniform: one format throughout"),
    "searched": ("D", "#e6862a", "searched: a format per tensor"),
}


def figures(search: Search) -> dict[str, Figure]:
    """All figures of a search, by file name without ending."""
    with matplotlib.rc_context(_figures._STYLE):
        made = {}
        figure, axes = _figures._new(1, (7.2, 4.6))
        plot_front(search, axes[0])
        made["front"] = figure
        wide = 2.6 + 0.55 * len({unit.kind for unit in search.sensitivity.units})
        figure, axes = _figures._new(1, (max(wide, 4.6), _height(search.sensitivity)))
        plot_sensitivity(search.sensitivity, axes[0])
        made["sensitivity"] = figure
        return made


def plot_front(search: Search, ax: Axes | None = None) -> Axes:
    """Mean KL of every measured recipe against its size, with the predicted front as a line.

    Measured on the windows for verification; the line is the prediction of the fitted costs on
    those for sensitivity, which is why points need not lie on it.
    """
    ax = _figures._axes(ax)
    shown = [c for c in search.candidates if c.verification.kl > 0]
    ax.set_title("KL divergence against size (lower left is better)")
    ax.set_xlabel("all weights, MB")
    ax.set_ylabel("mean KL per token, nats")
    if not shown:
        ax.text(
            0.5, 0.5, "no recipe differs from the reference", ha="center", transform=ax.transAxes
        )
        return ax
    line = [(n / 1e6, kl) for n, kl in search.front if kl > 0]
    kls = [c.verification.kl for c in shown]
    ax.set_yscale("log")
    ax.set_ylim(min(kls) / 2, max(kls) * 2.5)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
    sizes = [c.total_bytes / 1e6 for c in shown]
    span = max(max(sizes) - min(sizes), 0.02 * max(sizes))
    ax.set_xlim(min(sizes) - 0.08 * span, max(sizes) + 0.22 * span)
    if line:
        x, y = np.array(line).T
        ax.plot(x, y, color="#8a8a8a", linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
    if search.target is not None:
        ax.axvline(search.target / 1e6, color="#1a1a1a", linewidth=0.9, linestyle=(0, (1.2, 1.2)))
    if search.max_kl is not None:
        ax.axhline(search.max_kl, color="#1a1a1a", linewidth=0.9, linestyle=(0, (1.2, 1.2)))
    for candidate in shown:
        _mark(ax, candidate, candidate is search.chosen)
    points = list(zip(sizes, kls, strict=True))
    labels = [_label(c, search) for c in shown]
    named = [(p, text) for p, text in zip(points, labels, strict=True) if text]
    _figures._label(ax, [p for p, _ in named], [text for _, text in named])
    handles = [
        _figures.legend_mark(shape, face, words)
        for kind, (shape, face, words) in _LOOKS.items()
        if any(c.kind == kind for c in shown)
    ]
    ax.legend(handles=handles, loc="upper right", frameon=False, fontsize=8)
    return ax


def _label(candidate: Candidate, search: Search) -> str:
    if candidate is search.chosen:
        return f"chosen\n{number(candidate.verification.kl, 3)}"
    if candidate.kind == "searched":
        return ""
    return candidate.label.split(" (")[0]


def _mark(ax: Axes, candidate: Candidate, chosen: bool) -> None:
    shape, face, _ = _LOOKS[candidate.kind]
    kl = Estimate(candidate.verification.kl, candidate.verification.kl_error)
    look = {"size": 10, "edge": 1.4, "zorder": 5} if chosen else {"size": 6}
    _figures.point(ax, candidate.total_bytes / 1e6, kl, shape, face, **look)


def plot_sensitivity(sensitivity: Sensitivity, ax: Axes | None = None) -> Axes:
    """Layers by kinds of tensors: KL that a relative weight error of 10 % in one tensor causes.

    From the coarsest format measured, KL / error² · 0.01. The embedding and the head have rows of
    their own. Grey where nothing was measured.
    """
    ax = _figures._axes(ax)
    values = {
        unit.name: 0.01 * sensitivity.per_error(unit)
        for unit in sensitivity.units
        if sensitivity.measured[unit.name]
    }
    draw_map(ax, sensitivity.units, values, "KL at 10 % weight error, nats")
    ax.set_title("Sensitivity of each tensor alone")
    return ax


def draw_map(ax: Axes, units: Sequence[Unit], values: Mapping[str, float], label: str) -> None:
    """Draw values by tensor as a map of layers by kinds, logarithmic; grey where there is none."""
    kinds, rows, places = arrange(units)
    grid = np.full((len(rows), len(kinds)), np.nan)
    for unit in units:
        grid[places[unit.name]] = values.get(unit.name, np.nan)
    seen = grid[np.isfinite(grid) & (grid > 0)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (1e-6, 1.0)
    image = ax.imshow(
        np.ma.masked_invalid(np.where(grid < low, low, grid)),  # zeros have no logarithm
        norm=LogNorm(low, max(high, low * 1.01)),
        # Alike for all eyes, and in grey.
        cmap=matplotlib.colormaps["cividis"].with_extremes(bad="#e4e4e4"),
        aspect="auto",
        interpolation="nearest",
    )
    ax.set_xticks(range(len(kinds)), kinds, rotation=40, ha="right")
    every = max(1, len(rows) // 16)
    ticks = [i for i, row in enumerate(rows) if not row.isdigit() or int(row) % every == 0]
    ax.set_yticks(ticks, [rows[i] for i in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(False)
    ax.set_ylabel("layer")
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=ax)
    bar.set_label(label)
    if high < 100 * low:  # less than two decades have few ticks of their own
        _few_ticks(bar, low, high)


def _few_ticks(bar: Any, low: float, high: float) -> None:
    """Give a logarithmic colour bar ticks at round numbers, three or more of them."""
    steps = [m * 10.0**e for e in range(-12, 6) for m in (1, 1.5, 2, 3, 5, 7)]
    ticks = [t for t in steps if low <= t <= high]
    if len(ticks) < 3:
        ticks = list(np.geomspace(low, high, 3))
    bar.set_ticks(ticks, labels=[f"{t:.3g}" for t in ticks])
    bar.minorticks_off()


def _height(sensitivity: Sensitivity) -> float:
    layers = {unit.layer for unit in sensitivity.units}
    return min(max(2.6 + 0.13 * len(layers), 3.2), 7.5)
