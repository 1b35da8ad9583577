"""Figures of a sweep, in the style of all reports."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tritlab._formats import FILE, is_dense, is_ternary
from tritlab.report import figures as _report

import matplotlib  # isort: skip  # figures says which extra to install without it
from matplotlib.backends.backend_agg import FigureCanvasAgg  # isort: skip
from matplotlib.figure import Figure  # isort: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tritlab.sweeps._result import Line, Sweep

_COLUMNS = 2
"""Panels side by side: more would be too narrow for their labels."""


def figures(sweep: Sweep) -> dict[str, Figure]:
    """All figures of a sweep, by file name without ending: none where nothing was measured."""
    lines = sweep.lines()
    panels: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        panels.setdefault((line.model, line.text), []).append(line)
    if not panels:
        return {}
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(_report._STYLE):
        figure = Figure(
            figsize=(6.2 if columns == 1 else 9.0, 0.6 + 3.4 * rows), layout="constrained"
        )
        FigureCanvasAgg(figure)
        for i, ((model, text), found) in enumerate(panels.items()):
            ax = figure.add_subplot(rows, columns, i + 1)
            plot_kl(found, ax)
            ax.set_title(f"{model}, {text}")
        _legend(figure, lines)
        figure.supxlabel(_footer(sweep), x=0.995, ha="right", fontsize=6.5, color="#8a8a8a")
    return {"kl": figure}


def plot_kl(lines: list[Line], ax: Axes) -> Axes:
    """Mean KL divergence from the reference against bits per weight, of one model on one text.

    Open marks are cells whose activations nothing rounded, though their format would.
    """
    shown = [line for line in lines if line.mean("kl_nats").value > 0]
    bits = [float(line.rows[0]["bits_per_weight"]) for line in lines]
    _report.bits_axis(ax, min(bits) / 1.35, max(bits) * 1.6)
    ax.set_ylabel("mean KL per token, nats")
    if not shown:
        ax.text(0.5, 0.5, "no difference", ha="center", transform=ax.transAxes)
        return ax
    found = [line.mean("kl_nats") for line in shown]
    _report._log_or_linear(ax, [e.value for e in found])
    points = []
    for line, kl in zip(shown, found, strict=True):
        marker, colour, _ = _report._FAMILY[_family(line)]
        x = float(line.rows[0]["bits_per_weight"])
        points.append((x, kl.value))
        _report.point(ax, x, kl, marker, "white" if _open(line) else colour)
    _report._label(ax, points, [_name(line) for line in shown])
    return ax


def _name(line: Line) -> str:
    name = f"{FILE} ({line.rows[0]['kind']})" if line.format == FILE else line.format
    return f"{name}, f32" if _open(line) else name


def _open(line: Line) -> bool:
    return line.activations == "f32" and not is_dense(str(line.rows[0]["kind"]))


def _family(line: Line) -> str:
    kind = str(line.rows[0]["kind"])
    return "ternary" if is_ternary(kind) else "dense" if is_dense(kind) else "block"


def _legend(figure: Figure, lines: list[Line]) -> None:
    present = {_family(line) for line in lines}
    handles = [
        _report.legend_mark(mark, colour, words)
        for key, (mark, colour, words) in _report._FAMILY.items()
        if key in present
    ]
    if any(map(_open, lines)):
        handles.append(_report.legend_mark("s", "white", "f32 activations"))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 2 if figure.get_figwidth() < 8 else 4),
        frameon=False,
        fontsize=8.5,
    )


def _footer(sweep: Sweep) -> str:
    """Processors, version and kernels: what made the figure."""
    from tritlab.notebook._where import commit

    cpus = dict.fromkeys(str(row["run_cpu"]) for row in sweep.rows)
    return f"{', '.join(cpus)}; tritlab, {commit()}, kernels {sweep.rows[0]['kernels']}"
