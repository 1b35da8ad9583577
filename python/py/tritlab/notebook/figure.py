"""Figures in the style of the reports: units on axes, colour and shape say the same, a footer.

Families of formats have one mark each: readable in grey and by colour-blind readers.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tritlab._formats import is_dense, is_ternary
from tritlab.notebook._where import provenance
from tritlab.report import figures as _report  # says which extra to install without matplotlib

import matplotlib  # isort: skip
from matplotlib.backends.backend_agg import FigureCanvasAgg  # isort: skip
from matplotlib.figure import Figure  # isort: skip
from PIL import Image  # isort: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1a1a1a"
GREY = "#8a8a8a"
COLOURS = ("#2c7fb8", "#e6862a", "#6a3d9a", "#1a1a1a", "#41ab5d", "#969696")
"""For series without a family: apart in grey in this order, three at a time."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P")

FAMILIES = {
    "float": ("o", "#1a1a1a", "floating point"),
    "block": ("s", "#2c7fb8", "4 to 8 bits, one scale per 32"),
    "k-quant": ("D", "#6a3d9a", "k-quants: 2 to 6 bits, scaled scales"),
    "ternary": ("^", "#e6862a", "ternary"),
    "sign": ("v", "#ffffff", "signs"),
}
"""Mark, face and words of each family of formats."""


def family(format: str) -> str:
    """Family of a format, a key of `FAMILIES`."""
    if is_dense(format):
        return "float"
    if format.startswith("SIGN"):
        return "sign"
    if is_ternary(format):
        return "ternary"
    return "k-quant" if format.endswith("_K") else "block"


def use() -> None:
    """Use the style for everything that this process draws from now on: a notebook's first cell."""
    matplotlib.rcParams.update(_report._STYLE)


@contextmanager
def style() -> Iterator[None]:
    """The style, for figures made inside the `with` block."""
    with matplotlib.rc_context(_report._STYLE):
        yield


def new(columns: int = 1, size: tuple[float, float] = (6.4, 4.0)) -> tuple[Figure, list[Axes]]:
    """A figure of `size` inches with `columns` axes beside each other, in the style."""
    with style():
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    return figure, axes


def points(
    ax: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    formats: Sequence[str],
    lines: Sequence[tuple[Any, Any]] = (),
) -> None:
    """Draw one mark per format, by family, with its name where that covers nothing, nor `lines`.

    The axes must have their scales and limits.
    """
    for x, y, format in zip(xs, ys, formats, strict=True):
        mark(ax, x, y, format)
    label(ax, list(zip(xs, ys, strict=True)), list(formats), lines)


def bits_axis(ax: Axes, low: float = 0.85, high: float = 9.6) -> None:
    """Make the x axis one of bits per weight, logarithmic."""
    _report.bits_axis(ax, low, high, "bits per weight")


def mark(ax: Axes, x: float, y: float, format: str, size: float = 6.5) -> None:
    """Draw one point in the look of the format's family."""
    shape, face, _ = FAMILIES[family(format)]
    ax.plot(
        [x],
        [y],
        marker=shape,
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=INK,
        markeredgewidth=0.7,
        linestyle="none",
        zorder=4,
    )


def label(
    ax: Axes,
    at: Sequence[tuple[float, float]],
    labels: Sequence[str],
    lines: Sequence[tuple[Any, Any]] = (),
) -> None:
    """Write labels beside points where they cover least of each other and of `lines`."""
    with style():
        _report._label(ax, at, labels, lines=lines)


def legend(figure: Figure, formats: Sequence[str]) -> None:
    """Say above the axes which mark is which family, for the families among `formats`."""
    handles = [
        _report.legend_mark(shape, face, words, size=6.5)
        for key, (shape, face, words) in FAMILIES.items()
        if any(family(format) == key for format in formats)
    ]
    with style():
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=min(len(handles), 3),
            frameon=False,
            fontsize=8.5,
        )


def loss_curves(ax: Axes, logs: Mapping[str, Any]) -> None:
    """Draw the losses of trainings by name: frames with `loss` and `validation`, by step.

    Thin lines are the training text, thick ones with marks are held-out text.
    """
    ends = []
    for (name, log), colour, dash, shape in zip(logs.items(), COLOURS, DASHES, MARKS, strict=False):
        ax.plot(log.index, log["loss"], color=colour, linewidth=0.6, alpha=0.6)
        held_out = log["validation"].dropna()
        ax.plot(
            held_out.index,
            held_out,
            color=colour,
            linestyle=dash,
            marker=shape,
            markersize=3.5,
            label=f"{name}: {held_out.iloc[-1]:.3f} at the end",
        )
        ends.append(float(held_out.iloc[-1]))
    lowest = min(float(log["loss"].min()) for log in logs.values())
    ax.set_ylim(min(*ends, lowest) - 0.1, max(ends) + 1.5)
    ax.set(xlabel="step", ylabel="loss, nats per token", title="held-out loss (thin: training)")
    ax.legend(frameon=False)


class Shown:
    """A finished figure: a notebook shows it; `svg` and `pdf` are for papers."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def png(self, dpi: int = 120, colours: int = 128) -> bytes:
        """Bytes of a PNG file, small: of at most 256 `colours`."""
        full = Image.open(io.BytesIO(self._bytes("png", dpi, {"Software": None}))).convert("RGB")
        buffer = io.BytesIO()
        full.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def svg(self) -> bytes:
        """Bytes of an SVG file, the same for the same figure."""
        return self._bytes("svg", 72, {"Date": None, "Creator": None})

    def pdf(self) -> bytes:
        """Bytes of a PDF file."""
        return self._bytes("pdf", 72, {"CreationDate": None, "Creator": None, "Producer": None})

    def _bytes(self, kind: str, dpi: int, metadata: dict[str, None]) -> bytes:
        buffer = io.BytesIO()
        # Text in an SVG file stays text: a third of the size, and a paper can change the font.
        with style(), matplotlib.rc_context({"svg.fonttype": "none"}):
            self.figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        titles = [ax.get_title("left") or ax.get_title() for ax in self.figure.axes]
        return {
            "image/png": base64.b64encode(self.png()).decode(),
            "image/svg+xml": self.svg().decode(),
            "text/plain": f"figure: {'; '.join(t for t in titles if t)}",
        }


def show(figure: Figure) -> Shown:
    """Add the footer, machine and commit; as the last line of a cell this shows the figure.

    The footer has the lower edge for itself: put legends of a figure elsewhere.
    """
    with style():
        # An x label of the figure: constrained layout keeps its line free.
        figure.supxlabel(provenance(), x=0.995, ha="right", fontsize=6.5, color=GREY)
    return Shown(figure)
