"""Figures of layers: maps of all of them, and one with its histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab.precision.sensitivity import arrange
from tritlab.report import figures as _figures  # says which extra to install without matplotlib
from tritlab.report.search_figures import draw_map
from tritlab.report.text import number

import matplotlib  # isort: skip
from matplotlib.backends.backend_agg import FigureCanvasAgg  # isort: skip
from matplotlib.figure import Figure  # isort: skip
from matplotlib.ticker import FuncFormatter  # isort: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tritlab.layerwise import Layer, LayerReport

_WORDS = {
    "weights": ("Weights of the reference", "weight"),
    "inputs": ("Inputs", "activation"),
    "codes": ("Codes", "code"),
    "scales": ("Scales", "scale of a group"),
}


def overview(report: LayerReport) -> Figure:
    """Maps of layers by kinds: weight error, output error, KL share; and KL of all up to each."""
    shares = report.shares()
    units = [layer.unit for layer in report.layers]
    numbers = {layer.name: layer.numbers for layer in report.layers}

    def number_of(key: str) -> dict[str, Any]:
        return {name: found.get(key) for name, found in numbers.items()}

    plots = [
        ("Weight error", "relative error, %", number_of("rel_weight_error")),
        ("Output error", "relative error, %", number_of("rel_output_error")),
        ("Share of the KL divergence", "share, %", shares),
    ]
    kinds, rows, _ = arrange(units)
    steps = [layer.swaps["up_to"] for layer in report.layers if "up_to" in layer.swaps]
    with matplotlib.rc_context(_figures._STYLE):
        high, wide = min(max(2.8 + 0.14 * len(rows), 3.2), 8.0), 1.7 + 0.34 * len(kinds)
        columns, lines = (2, 2) if steps else (3, 1)
        figure = Figure(figsize=(columns * wide, lines * high), layout="constrained")
        FigureCanvasAgg(figure)
        axes = [figure.add_subplot(lines, columns, i + 1) for i in range(3 + bool(steps))]
        for ax, (title, words, values) in zip(axes, plots, strict=False):
            draw_map(ax, units, {name: _hundred(x) for name, x in values.items()}, words)
            ax.set_title(title)
        if steps:
            _cumulative(axes[3], report)
    return figure


def _hundred(x: float | None) -> float:
    return math.nan if x is None else 100 * x


def _cumulative(ax: Axes, report: LayerReport) -> None:
    """KL while one layer after the other is swapped, and the sum of what they do alone."""
    places = np.arange(1, len(report.layers) + 1)
    kls = [layer.swaps["up_to"].kl for layer in report.layers]
    ax.plot(places, kls, color=_figures._INK, label="all up to it")
    if all("alone" in layer.swaps for layer in report.layers):
        total = np.cumsum([layer.swaps["alone"].kl for layer in report.layers])
        ax.plot(places, total, color="#e6862a", linestyle=(0, (5, 1.5)), label="sum of each alone")
        ax.legend(frameon=False, loc="upper left", fontsize=8)
    ax.set_xlim(0, len(places) + 1)
    ax.set_ylim(0)
    ax.set_title("One layer after the other")
    ax.set_xlabel("layers swapped, in the order of the model")
    ax.set_ylabel("mean KL per token, nats")


def one(report: LayerReport, layer: Layer) -> Figure:
    """The histograms of one layer: weights, inputs, codes and scales, those that there are."""
    names = [name for name in _WORDS if name in layer.histograms]
    with matplotlib.rc_context(_figures._STYLE):
        figure, axes = _figures._new(len(names), (2.9 * len(names) + 0.6, 3.3))
        for ax, name in zip(axes, names, strict=True):
            plot_histogram(layer.histograms[name], ax)
            title, words = _WORDS[name]
            ax.set_title(title)
            ax.set_xlabel(words)
        axes[0].set_ylabel("count")
        n = layer.numbers
        said = [f"weight error {number(100 * n['rel_weight_error'], 3)} %"]
        if n.get("rel_output_error") is not None:
            said.append(f"output error {number(100 * n['rel_output_error'], 3)} %")
        said += [
            f"KL {number(swap.kl, 3)} nats {'alone' if how == 'alone' else 'with all before it'}"
            for how, swap in layer.swaps.items()
        ]
        figure.suptitle(
            f"{layer.name} in {layer.option.format}: {', '.join(said)}",
            x=0.01,
            ha="left",
            fontsize=10,
        )
    return figure


def plot_histogram(histogram: Mapping[str, Sequence[Any]], ax: Axes) -> None:
    """Bars of counts on a logarithmic axis: a tail is as much as the middle."""
    counts = np.asarray(histogram["counts"], np.float64)
    if "values" in histogram:
        values = np.asarray(histogram["values"], np.float64)
        ax.bar(values, counts, width=0.82, color="#2c7fb8")
        if np.ptp(values) <= 8:
            ax.set_xticks(values, [f"{v:g}" for v in values])
    else:
        ax.stairs(counts, histogram["edges"], fill=True, color="#2c7fb8")
    ax.set_yscale("log")
    ax.set_ylim(0.5, max(counts.max(initial=1.0), 1.0) * 2)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
