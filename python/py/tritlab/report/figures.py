"""Figures of a comparison, for papers: labelled points, units, readable in grey.

Each `plot_*` function draws on the axes it is given, or on new ones, and returns them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tritlab._files import write_atomic
from tritlab._formats import is_dense, is_ternary
from tritlab.errors import NotInstalledError
from tritlab.report.text import number, shapes
from tritlab.statistics import Estimate

try:
    import matplotlib
except ImportError:
    raise NotInstalledError("figures need matplotlib; run: pip install 'tritlab[plot]'") from None
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tritlab._row import Row
    from tritlab.comparison import Comparison
    from tritlab.speed import Speed

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "tritlab",
}
# Dark, middle and light in grey; apart for colour-blind readers. Shape says the same again.
_INK = "#1a1a1a"
_FAMILY = {
    "dense": ("o", "#1a1a1a", "floating point"),
    "block": ("s", "#2c7fb8", "integers in blocks"),
    "ternary": ("^", "#e6862a", "ternary, rounded after training"),
    "other": ("*", "#009e73", "another model, ternary"),
}

_SIDE: dict[int, Literal["left", "center", "right"]] = {1: "left", 0: "center", -1: "right"}
_LEVEL: dict[int, Literal["bottom", "center", "top"]] = {1: "bottom", 0: "center", -1: "top"}
_GAP = 8.0
# Places for a label: steps of `_GAP` away from the point, and the direction.
_SPOTS = [
    (far, dx, dy)
    for far in (1.0, 2.0, 3.2, 4.6, 6.4)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]


def figures(comparison: Comparison) -> dict[str, Figure]:
    """All figures of a comparison, by file name without ending; no "speed" if nothing was timed."""
    with matplotlib.rc_context(_STYLE):
        made = {}
        for name, plots, size in (
            ("quality", (plot_perplexity, plot_kl), (9.0, 3.9)),
            ("speed", (plot_decode, plot_prefill), (9.0, 3.9)),
            ("kl-tokens", (plot_kl_tokens,), (6.2, 3.9)),
        ):
            if name == "speed" and not _timed(comparison):
                continue
            figure, axes = _new(len(plots), size)
            for plot, ax in zip(plots, axes, strict=True):
                plot(comparison, ax)
            if name != "kl-tokens":
                _family_legend(figure, comparison.rows)
            made[name] = figure
        return made


def png(figure: Figure, dpi: int = 200) -> bytes:
    """Bytes of a PNG file; the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Bytes of an SVG file, text as text; the same for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def write(out: Path, made: Mapping[str, Figure], *, vector: bool = False) -> dict[str, bytes]:
    """Write each figure to a folder as PNG, and as SVG if `vector`; the PNG files, for a page."""
    images = {name: png(figure) for name, figure in made.items()}
    for name, figure in made.items():
        write_atomic(out / f"{name}.png", images[name])
        if vector:
            write_atomic(out / f"{name}.svg", svg(figure))
    return images


def plot_perplexity(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Perplexity against bits per weight; the reference is a line.

    Bars are the standard error of the difference from the reference on the same tokens. A ruined
    format, more than 20 times the reference, stands at the upper edge with its number: an axis that
    reached it would hide the differences between all others.
    """
    ax = _axes(ax)
    rows = comparison.rows
    values = [row.quality.perplexity.value for row in rows]
    errors = [_difference_error(row) for row in rows]
    reference = values[0]
    inside = [value <= 20 * reference for value in values]
    _bits_axis(ax, rows)
    _log_or_linear(
        ax,
        [value for value, fits in zip(values, inside, strict=True) if fits],
        [error for error, fits in zip(errors, inside, strict=True) if fits],
    )
    low, high = ax.get_ylim()
    if not all(inside):
        share = 1 / 0.85  # the rest of the height is for what is above the axis
        log = ax.get_yscale() == "log"
        high = low * (high / low) ** share if log else low + (high - low) * share
        ax.set_ylim(low, high)
        rim = low * (high / low) ** 0.86 if log else low + (high - low) * 0.86
        edge = low * (high / low) ** 0.93 if log else low + (high - low) * 0.93
        ax.axhspan(rim, high, color="#f2f2f2", linewidth=0, zorder=0)
        ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= rim])
        ax.yaxis.set_minor_locator(NullLocator())
        values = [value if fits else edge for value, fits in zip(values, inside, strict=True)]
        errors = [error if fits else 0.0 for error, fits in zip(errors, inside, strict=True)]
    ax.axhline(reference, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
    for row, value, error in zip(rows, values, errors, strict=True):
        _point(ax, row, value, error)
    ax.set_title("Perplexity (lower is better)")
    ax.set_ylabel("perplexity")
    labels = [
        f"{row.label}{' (reference)' if row.is_reference else ''}\n"
        + number(row.quality.perplexity.value, 4)
        + ("" if fits else " ↑ off the scale")
        for row, fits in zip(rows, inside, strict=True)
    ]
    line = (np.geomspace(*ax.get_xlim(), 200), np.full(200, reference))
    points = [(row.bits_per_weight, v) for row, v in zip(rows, values, strict=True)]
    _label(ax, points, labels, lines=[line])
    return ax


def _difference_error(row: Row) -> float:
    against = row.quality.against
    error = against.difference.error if against else 0.0
    return error if np.isfinite(error) else 0.0


def plot_kl(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Mean KL divergence from the reference against bits per weight."""
    ax = _axes(ax)
    rows = [row for row in comparison.rows if not row.is_reference and row.kl.value > 0]
    _bits_axis(ax, comparison.rows)
    ax.set_title(f"KL divergence from {comparison.reference} (lower is better)")
    ax.set_ylabel("mean KL per token, nats")
    if not rows:
        return _nothing(ax, ax.get_title(loc="left"), "no difference")
    values = [row.kl.value for row in rows]
    _log_or_linear(ax, values)
    for row in rows:
        _point(ax, row, row.kl.value, row.kl.error)
    few = len(rows) < 7  # otherwise there is no room for a second line
    labels = [
        f"{row.label}\nsame top-1: {row.same_top.value:.0%}" if few else row.label for row in rows
    ]
    _label(ax, [(row.bits_per_weight, v) for row, v in zip(rows, values, strict=True)], labels)
    return ax


def plot_decode(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Decode speed against bits per weight, under the line that memory bandwidth draws."""
    ax = _axes(ax)
    rows, timed = comparison.rows, _timed(comparison)
    if not timed:
        return _nothing(ax, "Decode speed", "not timed")
    _bits_axis(ax, rows)
    low, high = ax.get_xlim()
    bits = np.geomspace(low, high, 200)
    rest = float(np.median([speed.bytes_per_token - speed.linear_bytes for speed in timed]))
    limit = comparison.bandwidth / (timed[0].linear_params * bits / 8 + rest)
    speeds = [row.decode[0] for row in rows]
    top = 1.12 * max(*speeds, *(comparison.bandwidth / speed.bytes_per_token for speed in timed))
    ax.set_ylim(0, top)
    ax.fill_between(bits, limit, top, color="#f2f2f2", linewidth=0, zorder=0)
    ax.plot(bits, limit, color=_INK, linewidth=1.2)
    for row, speed in zip(rows, speeds, strict=True):
        _point(ax, row, speed, row.decode[1])
    _speed_texts(comparison, ax, "Decode", "tokens/s")
    limit_text = f"memory limit: {comparison.bandwidth / 1e9:.0f} GB/s"
    at = int(np.argmin(np.abs(np.log(bits / np.sqrt(low * high)))))
    labels = [f"{row.label}  {row.decode_bytes_s / comparison.bandwidth:.0%}" for row in rows]
    _label(
        ax,
        [
            *[(row.bits_per_weight, s) for row, s in zip(rows, speeds, strict=True)],
            (float(bits[at]), float(limit[at])),
        ],
        [*labels, limit_text],
        lines=[(bits, limit)],
        italic={len(rows)},
    )
    return ax


def plot_prefill(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Prefill speed against bits per weight, under the int8 peak of the threads."""
    ax = _axes(ax)
    rows, timed = comparison.rows, _timed(comparison)
    if not timed:
        return _nothing(ax, "Prefill speed", "not timed")
    _bits_axis(ax, rows)
    speeds = [row.prefill[0] for row in rows]
    peak = comparison.dot_peak / timed[0].linear_params
    shown = peak < 2.5 * max(speeds)
    ax.set_ylim(0, 1.15 * (max(peak, *speeds) if shown else max(speeds)))
    for row, speed in zip(rows, speeds, strict=True):
        _point(ax, row, speed, row.prefill[1])
    made = comparison.settings.get("shapes")
    n_prompt = made["prompt"] if made else comparison.settings["n_prompt"]
    _speed_texts(comparison, ax, "Prefill", f"tokens/s, {n_prompt} tokens at once")
    points = [(row.bits_per_weight, s) for row, s in zip(rows, speeds, strict=True)]
    labels = [row.label for row in rows]
    low, high = ax.get_xlim()
    note = f"int8 peak: {comparison.dot_peak / 1e12:.2f} T multiply-adds/s"
    # At the right, where the slow formats of many bits leave room.
    right: dict[str, Any] = {"ha": "right", "fontsize": 7.5, "fontstyle": "italic"}
    if shown:
        ax.axhline(peak, color=_INK, linewidth=1.2)
        ax.text(0.99, 1.005 * peak, note, va="bottom", transform=ax.get_yaxis_transform(), **right)
        line = (np.geomspace(low, high, 50), np.full(50, peak))
        over_note = (np.geomspace(np.sqrt(low * high), high, 25), np.full(25, 1.03 * peak))
        _label(ax, points, labels, lines=[line, over_note])
    else:
        _label(ax, points, labels)
        note += f"\n= {peak:,.0f} tokens/s, above this picture"
        ax.text(0.99, 0.98, note, va="top", transform=ax.transAxes, **right)
    return ax


def _timed(comparison: Comparison) -> list[Speed]:
    return [row.speed for row in comparison.rows if row.speed]


def _nothing(ax: Axes, title: str, said: str) -> Axes:
    ax.set_title(title)
    ax.text(0.5, 0.5, said, ha="center", transform=ax.transAxes)
    return ax


def _speed_texts(comparison: Comparison, ax: Axes, what: str, unit: str) -> None:
    """Title and name of the axis, which say whose speed it is."""
    name = shapes(comparison)
    of = f" at {name.split()[-1]}'s shapes" if name else " speed"  # there's no room for all of it
    ax.set_title(f"{what}{of} (higher is better)")
    if name:
        unit += f"\nlinear layers of {name}, from memory"
    ax.set_ylabel(unit)


def plot_kl_tokens(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Distribution of the KL divergence over tokens: how bad the bad tokens are."""
    ax = _axes(ax)
    rows = [row for row in comparison.rows if "kl" in row.arrays]
    ax.set_title(f"KL divergence from {comparison.reference}, token by token")
    ax.set_xlabel("KL of a token, nats")
    ax.set_ylabel("share of tokens below, %")
    ax.set_ylim(0, 100)
    dashes: list[Any] = ["-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (8, 3))]
    colours = ["#08306b", "#2c7fb8", "#6a3d9a", "#41ab5d", "#969696"]
    drawn = {"block": 0, "ternary": 0, "other": 0}
    curves = []
    for row in rows:
        kl = np.sort(np.maximum(np.asarray(row.arrays["kl"], dtype=np.float64), 1e-8))
        share = 100 * (np.arange(len(kl)) + 0.5) / len(kl)
        # Ternary rows have their family's colour and differ by dashes; of the others a colour comes
        # again with another dash.
        family = _family(row) if is_ternary(row.kind) else "block"
        n = drawn[family]
        drawn[family] += 1
        colour = colours[n % 5] if family == "block" else _FAMILY[family][1]
        dash = dashes[(n + n // 5) % len(dashes)]
        ax.plot(kl, share, color=colour, linestyle=dash)
        curves.append((row, kl, share))
    ax.set_xscale("log")
    if curves:
        lowest = min(float(np.percentile(kl, 2)) for _, kl, _ in curves)
        highest = max(float(kl[-1]) for _, kl, _ in curves)
        ax.set_xlim(lowest, highest * 1.3)
    # A label per curve at its own height, so that neighbours don't meet.
    order = sorted(curves, key=lambda item: float(np.median(item[1])))
    heights = np.linspace(82, 30, len(order)) if len(order) > 1 else np.full(len(order), 50.0)
    points, labels = [], []
    for (row, kl, share), height in zip(order, heights, strict=True):
        at = int(np.searchsorted(share, height))
        points.append((float(kl[min(at, len(kl) - 1)]), float(height)))
        labels.append(row.label)
    if points:
        _label(ax, points, labels, lines=[(kl, share) for _, kl, share in curves], marks=False)
    return ax


def _new(count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]


def _axes(ax: Axes | None) -> Axes:
    return _new(1, (4.6, 3.9))[1][0] if ax is None else ax


def _family(row: Row) -> str:
    if row.other and is_ternary(row.kind):
        return "other"
    return "ternary" if is_ternary(row.kind) else "dense" if is_dense(row.kind) else "block"


def _point(ax: Axes, row: Row, y: float, error: float) -> None:
    marker, colour, _ = _FAMILY[_family(row)]
    face = "white" if row.format is None else colour
    size = {"^": 8, "*": 12}.get(marker, 7)
    point(ax, row.bits_per_weight, Estimate(y, error), marker, face, size)


def point(
    ax: Axes,
    x: float,
    y: Estimate,
    marker: str,
    face: str,
    size: float = 7,
    *,
    edge: float = 0.7,
    zorder: float = 4,
) -> None:
    """Draw a point with its standard error, if that is known."""
    ax.errorbar(
        x,
        y.value,
        yerr=y.error if np.isfinite(y.error) and y.error > 0 else None,
        marker=marker,
        markersize=size,
        markeredgecolor=_INK,
        markeredgewidth=edge,
        markerfacecolor=face,
        ecolor=_INK,
        elinewidth=0.9,
        capsize=2.5,
        linestyle="none",
        zorder=zorder,
    )


def legend_mark(marker: str, face: str, label: str, size: float = 7) -> Line2D:
    """What a legend shows of a family's points."""
    return Line2D(
        [],
        [],
        marker=marker,
        linestyle="none",
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=_INK,
        markeredgewidth=0.7,
        label=label,
    )


def _family_legend(figure: Figure, rows: Sequence[Row]) -> None:
    present = {_family(row) for row in rows}
    handles = [
        legend_mark(m, colour, text) for key, (m, colour, text) in _FAMILY.items() if key in present
    ]
    if any(row.format is None for row in rows):
        kept = next(row for row in rows if row.format is None)
        handles.append(legend_mark(_FAMILY[_family(kept)][0], "white", "the file as it is"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8.5
    )


def bits_axis(
    ax: Axes, low: float, high: float, label: str = "bits per weight of the linear layers"
) -> None:
    """Make the x axis one of bits per weight, logarithmic."""
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ticks = [t for t in (1, 1.5, 2, 3, 4, 5, 6, 8, 12, 16, 32) if low <= t <= high]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set_xlabel(label)


def _bits_axis(ax: Axes, rows: Sequence[Row]) -> None:
    bits = [row.bits_per_weight for row in rows]
    bits_axis(ax, min(bits) / 1.28, max(bits) * 1.5)


def _log_or_linear(ax: Axes, values: Sequence[float], errors: Sequence[float] = ()) -> None:
    finite = [v for v in values if np.isfinite(v) and v > 0]
    if finite and max(finite) > 4 * min(finite):
        ax.set_yscale("log")
        ax.set_ylim(min(finite) / 3, max(finite) * 3)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
    elif finite:
        bars = [0.0, *(e for e in errors if np.isfinite(e))]
        span = max(max(finite) - min(finite), 2 * max(bars), 0.02 * max(finite))
        ax.set_ylim(min(finite) - 0.5 * span, max(finite) + 0.5 * span)


def _label(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    *,
    lines: Sequence[tuple[Any, Any]] = (),
    italic: frozenset[int] | set[int] = frozenset(),
    marks: bool = True,
) -> None:
    """Put each label where it covers no point, line or earlier label, or least of them."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    unit = figure.dpi / 72  # pixels of a point
    pixels = [ax.transData.transform(point) for point in points]
    curves = [ax.transData.transform(np.column_stack([x, y])) for x, y in lines]
    frame = ax.get_window_extent(renderer)
    placed: list[tuple[float, float, float, float]] = []

    def turn(k: int) -> tuple[bool, int, float, float]:
        # Of points on one spot the first has its sides to itself, the others take what is left.
        same = sum(bool(np.hypot(*(pixels[k] - p)) < 3 * unit) for p in pixels[:k])
        return k in italic, same, points[k][0], -points[k][1]

    for i in sorted(range(len(points)), key=turn):
        if not np.all(np.isfinite(points[i])):
            continue
        text = ax.annotate(
            labels[i],
            points[i],
            (0, 0),
            textcoords="offset points",
            fontsize=8 if i in italic else 8.5,
            fontstyle="italic" if i in italic else "normal",
            linespacing=1.1,
            zorder=6,
        )
        size = text.get_window_extent(renderer)

        def box(
            spot: tuple[float, int, int],
            at: Any = pixels[i],
            wide: float = size.width,
            high: float = size.height,
        ) -> tuple[float, float, float, float]:
            far, dx, dy = spot
            x = at[0] + _GAP * far * dx * unit - wide * (1 - dx) / 2
            y = at[1] + _GAP * far * dy * unit - high * (1 - dy) / 2
            return x - 2 * unit, y - unit, x + wide + 2 * unit, y + high + unit

        def badness(spot: tuple[float, int, int], own: int = i, box: Any = box) -> float:
            x0, y0, x1, y1 = box(spot)
            bad = spot[0]
            bad += 400 * sum(x0 < b[2] and b[0] < x1 and y0 < b[3] and b[1] < y1 for b in placed)
            # A label right above or under a mark looks like its own: keep clear of others.
            bad += 60 * sum(
                x0 - 4 * unit < px < x1 + 4 * unit and y0 - 9 * unit < py < y1 + 9 * unit
                for k, (px, py) in enumerate(pixels)
                if marks and k != own and k not in italic
            )
            bad += 20 * sum(_crosses(c, (x0, y0, x1, y1)) for c in curves)
            outside = max(frame.x0 - x0, 0) + max(x1 - frame.x1, 0)
            outside += max(frame.y0 - y0, 0) + max(y1 - frame.y1, 0)
            return float(bad + 4 * outside)

        best = min(_SPOTS, key=badness)
        far, dx, dy = best
        text.set_position((_GAP * far * dx, _GAP * far * dy))
        text.set_horizontalalignment(_SIDE[dx])
        text.set_verticalalignment(_LEVEL[dy])
        if far > 1:
            _leader(ax, points[i], (_GAP * far * dx, _GAP * far * dy))
        placed.append(box(best))
        if any(_crosses(c, placed[-1]) for c in curves):
            # Only here: a vector figure would keep it as outlines and not as text.
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _crosses(curve: Any, box: tuple[float, float, float, float]) -> bool:
    """Whether a point of a curve is in a box, both in pixels."""
    (x, y), (x0, y0, x1, y1) = curve.T, box
    return bool(np.any((x > x0) & (x < x1) & (y > y0) & (y < y1)))


def _leader(ax: Axes, point: tuple[float, float], offset: tuple[float, float]) -> None:
    """Draw a thin line from a point towards its far label."""
    ax.annotate(
        "",
        point,
        offset,
        textcoords="offset points",
        arrowprops={
            "arrowstyle": "-",
            "color": "#8a8a8a",
            "linewidth": 0.7,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=3,
    )
