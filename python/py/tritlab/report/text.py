"""A comparison in words and text tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from tritlab._row import Row
    from tritlab.comparison import Comparison
    from tritlab.statistics import Estimate

COST = (
    "format",
    "bits/weight",
    "perplexity",
    "bits/byte",
    "× reference",
    "KL, nats",
    "same top-1",
    "weight error",
)
GAIN = ("format", "linear layers", "model")
SPEED = ("prefill tok/s", "decode tok/s", "GB/s read", "of bandwidth")


def number(x: float, digits: int = 4) -> str:
    """Show a number to `digits` significant digits, with thousands apart; from 10⁶ with a power."""
    if not math.isfinite(x):
        return "∞" if x == math.inf else "–"
    if x == 0:
        return "0"
    if abs(x) >= 1e6:
        mantissa, exponent = f"{x:.{min(digits, 3) - 1}e}".split("e")
        return f"{mantissa} × {_power(int(exponent))}"
    if abs(x) >= 10 ** (digits - 1):
        return f"{x:,.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(x)))
    return f"{x:.{min(max(decimals, 0), 8)}f}"


def _power(exponent: int) -> str:
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def estimate(e: Estimate) -> str:
    """Show a value and its error, to the digit that the error makes doubtful.

    Two digits of an error that begins with 1 or 2, one of any other.
    """
    if math.isfinite(e.value) and abs(e.value) >= 1e6 and math.isfinite(e.error):
        scale = math.floor(math.log10(abs(e.value)))
        unit = 10.0**scale
        shown = estimate(type(e)(e.value / unit, e.error / unit))
        return f"({shown}) × {_power(scale)}" if e.error > 0 else f"{shown} × {_power(scale)}"
    if not (math.isfinite(e.value) and math.isfinite(e.error)):
        return number(e.value)
    if 0 < e.error < 5e-7 and 0 < abs(e.value) < 1:  # six decimals would not show the error
        scale = math.floor(math.log10(abs(e.value)))
        unit = 10.0**scale
        return f"({estimate(type(e)(e.value / unit, e.error / unit))}) × {_power(scale)}"
    if e.error <= 0:
        return number(e.value)
    exponent = math.floor(math.log10(e.error))
    digits = 2 if e.error < 3 * 10.0**exponent else 1
    decimals = min(max(digits - 1 - exponent, 0), 6)
    return f"{e.value:,.{decimals}f} ± {e.error:,.{decimals}f}"


def percent(e: Estimate) -> str:
    """Show a share and its error in percent."""
    if not math.isfinite(e.error) or e.error <= 0:
        return f"{e.value:.1%}".replace("%", " %")
    return f"{100 * e.value:.1f} ± {100 * e.error:.1f} %"


def megabytes(n: int) -> str:
    """Show bytes in MB (10⁶)."""
    return f"{n / 1e6:,.1f} MB" if n < 1e10 else f"{n / 1e9:,.2f} GB"


def cost_cells(comparison: Comparison, row: Row) -> list[str]:
    """Cells under `COST`."""
    mark = " (reference)" if row.is_reference else " (ruin expected*)" if row.note else ""
    return [
        row.label + mark,
        f"{row.bits_per_weight:.2f}",
        estimate(row.quality.perplexity),
        number(comparison.bits_per_byte(row).value),
        "–" if row.quality.against is None else estimate(row.quality.against.ratio),
        "–" if row.is_reference else estimate(row.kl),
        "–" if row.is_reference else percent(row.same_top),
        # of another model's weights against these there is nothing to say
        "–" if row.other else f"{100 * row.rel_error:.2g} %",
    ]


def gain_heads(comparison: Comparison) -> tuple[str, ...]:
    """`GAIN`, and `SPEED` of what was timed."""
    if comparison.settings["speed"] == "none":
        return GAIN
    # "BitNet 2B-4T" is too wide for a column of a terminal; the notes say it in full.
    of = f", {shapes(comparison).split()[-1]} shapes" if shapes(comparison) else ""
    prefill, decode, *rest = SPEED
    return (*GAIN, prefill + of, decode + of, *rest)


def gain_cells(comparison: Comparison, row: Row) -> list[str]:
    """Cells under `gain_heads`."""
    cells = [row.label, megabytes(row.linear_bytes), megabytes(row.total_bytes)]
    if row.speed is None:
        return cells
    return [
        *cells,
        _speed(row.prefill),
        _speed(row.decode),
        f"{row.decode_bytes_s / 1e9:.1f}",
        f"{row.decode_bytes_s / comparison.bandwidth:.0%}".replace("%", " %"),
    ]


def gain_title(comparison: Comparison) -> str:
    """What stands over the table of `gain_heads`."""
    name = shapes(comparison)
    return f"What it buys (speed: at {name}'s shapes)" if name else "What it buys"


def shapes(comparison: Comparison) -> str:
    """Name of the model at whose layers' shapes formats were timed; empty if they were not."""
    found = comparison.settings.get("shapes")
    return str(found["model"]) if found else ""


def _speed(median_mad: tuple[float, float]) -> str:
    median, mad = median_mad
    decimals = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:,.{decimals}f} ± {mad:,.{decimals}f}"


def new_table(title: str | None = None) -> Table:
    """An empty table for the terminal."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def tables(comparison: Comparison) -> list[Table]:
    """Two tables for the terminal: what the formats cost, and what they buy."""
    cost, gain = new_table("What it costs"), new_table(gain_title(comparison))

    # Bits per byte follow from perplexity, and a terminal has no room for both.
    def narrow(cells: Sequence[str]) -> list[str]:
        return [cell for head, cell in zip(COST, cells, strict=True) if head != "bits/byte"]

    for table, heads in ((cost, narrow(COST)), (gain, gain_heads(comparison))):
        for head in heads:
            # Two short lines each, so that all numbers fit into 80 columns.
            stacked = head.replace(" ", "\n").replace("/weight", "/\nweight")
            table.add_column(stacked, justify="left" if head == "format" else "right")
    for row in comparison.rows:
        name, *cells = narrow(cost_cells(comparison, row))
        cost.add_row(name.replace(f"{row.label} ", f"{row.label}\n"), *cells)
        gain.add_row(*gain_cells(comparison, row))
    for label in comparison.impossible:
        cost.add_row(f"{label}\n(not possible†)", *["–"] * (len(cost.columns) - 1))
    return [cost, gain]


def footnotes(comparison: Comparison) -> list[str]:
    """Sentences that the table must not be shown without."""
    threads = comparison.machine["threads"]
    lines = [
        comparison.text_sentence,
        reference_sentence(comparison),
        "± is one standard error for quality (× reference and KL are paired, token by token, so "
        f"their errors are smaller than perplexity's){_deviation(comparison)}.",
        *speed_sentences(comparison),
        f"{comparison.machine['cpu']}, {threads} thread{'s' if threads != 1 else ''}, backend "
        f"{comparison.machine['backend']}{_memory(comparison)}.",
    ]
    lines += store_sentence(comparison)
    lines += pairs_sentence(comparison)
    seen = dict.fromkeys(row.note for row in comparison.rows if row.note and not row.is_reference)
    lines += [f"* {note}." for note in seen]
    lines += [f"† {label}: {reason}." for label, reason in comparison.impossible.items()]
    return lines


def _deviation(comparison: Comparison) -> str:
    settings = comparison.settings
    if settings["speed"] == "none":
        return ""
    count = f"{settings['repetitions']} repetitions"
    if "shapes" in settings:
        count = f"{settings['shapes']['rounds']} rounds"
    return f", the median absolute deviation of {count} for speed"


def _memory(comparison: Comparison) -> str:
    if comparison.settings["speed"] == "none":
        return ""
    return f"; memory read at {comparison.bandwidth / 1e9:.1f} GB/s here, the limit of decode"


def speed_sentences(comparison: Comparison) -> list[str]:
    """What the speeds are of, where that is not plain."""
    from tritlab.speed import in_cache

    title, rows = comparison.model["title"], comparison.rows
    size = megabytes(rows[0].total_bytes)
    small = in_cache(rows[0].total_bytes)
    name = shapes(comparison)
    if not name:
        if small and comparison.settings["speed"] == "model":
            return [f"{title} ({size}) may stay in a cache: then memory does not limit its decode."]
        return []
    made = comparison.settings["shapes"]
    why = f", which is so small ({size}) that it lives in cache" if small else ""
    once = len({row.kind for row in rows}) < len(rows)
    said = [
        f"Speed is not that of {title}{why}. It is that of products at the shapes of {name}'s "
        f"linear layers, weights from memory: one vector for decode, {made['prompt']} at once for "
        f"prefill; tokens/s is what the matrices of its {made['layers']} layers alone would allow."
        + (" Rows of one format share one measurement." if once else "")
    ]
    said += [f"{row.label} is timed as {row.kind} throughout." for row in rows if row.mixed]
    return said


def store_sentence(comparison: Comparison) -> list[str]:
    """Where log-probabilities were kept, and what that changed."""
    store = comparison.settings.get("store")
    if store is None:
        return []
    said = f"Log-probabilities are kept in {store['folder']} as {store['type']}"
    if store["reused"]:
        said += f"; those of {', '.join(store['reused'])} were there before"
    if store["type"] == "f32":
        return [f"{said}."]
    from tritlab.logprobs import StoreError

    worst = max(store["errors"].items(), key=lambda item: item[1]["kl_max"])
    return [f"{said}, which changes KL; the most in {worst[0]}: {StoreError(**worst[1])}."]


def pairs_sentence(comparison: Comparison) -> list[str]:
    """Pairs of rows whose perplexities this text cannot tell apart."""
    from tritlab.paired import FEW

    found = comparison.differences()
    if not found:
        return []
    if found[0]["clusters"] < FEW:
        return [
            f"The text has {found[0]['clusters']} windows, fewer than the {FEW} that a paired test "
            "of two rows needs."
        ]
    alike = [f"{d['a']} and {d['b']}" for d in found if not d["distinguishable"]]
    level = f"{found[0]['level']:.0%}".replace("%", " %")
    method = f"paired, {level} interval, bootstrap over windows"
    if not alike:
        return [f"All pairs of rows differ in perplexity ({method})."]
    return [f"Not distinguishable in perplexity ({method}): {'; '.join(alike)}."]


def reference_sentence(comparison: Comparison) -> str:
    """What the rows are compared with, and what that can't show."""
    from tritlab._formats import is_dense

    row = comparison.rows[0]
    if row.format is None:
        what = f"the file as it is ({row.kind})"
    else:
        what = (
            f"{row.label}: the file's own weights expanded to {row.label}"
            if row.label in ("F16", "BF16", "F32")
            else f"the file's own weights re-quantised to {row.label}"
        )
    sentence = f"Compared with {what}."
    head = comparison.settings.get("head")
    if head:
        sentence += f" Embedding and output head: {head} in every row but the reference's."
    if any(not is_dense(r.kind) for r in comparison.rows) and is_dense(row.kind):
        sentence += (
            " Coded formats multiply with int8 activations, dense ones with f32: part of every KL."
        )
    if others := [r.label for r in comparison.rows if r.other]:
        verb = "is another model" if len(others) == 1 else "are other models"
        sentence += f" {', '.join(others)} {verb} with the same tokens."
    kinds = {
        t["file_type"]
        for t in row.tensors
        if t["role"] == "linear" and t["file_type"] not in ("F32", "F16", "BF16")
    }
    if kinds:
        sentence += (
            f" The file itself is already quantised ({', '.join(sorted(kinds))}); "
            "what that lost before is not in these numbers."
        )
    return sentence


def markdown(comparison: Comparison) -> str:
    """One table in Markdown and its footnotes."""
    from tritlab.records import markdown_table

    heads = [*COST, *gain_heads(comparison)[1:]]
    rows = [
        [*cost_cells(comparison, row), *gain_cells(comparison, row)[1:]] for row in comparison.rows
    ]
    table = markdown_table(heads, [*rows, *_not_possible(comparison, len(heads))])
    notes = [
        line.replace("* ", r"\* ", 1) if line.startswith("* ") else line
        for line in footnotes(comparison)
    ]
    return "\n".join([table, *[f"{line}  " for line in notes]]).rstrip() + "\n"


def latex(comparison: Comparison) -> str:
    """Both tables in LaTeX, and their footnotes under the second."""
    from tritlab.records import latex_table

    c = comparison
    cost = [*(cost_cells(c, row) for row in c.rows), *_not_possible(c, len(COST))]
    gain = latex_table(gain_heads(c), [gain_cells(c, row) for row in c.rows], footnotes(c))
    return latex_table(COST, cost) + "\n\\bigskip\n" + gain


def _not_possible(comparison: Comparison, width: int) -> list[list[str]]:
    return [[f"{label} (not possible†)", *["–"] * (width - 1)] for label in comparison.impossible]


def reading(comparison: Comparison) -> list[str]:
    """The result in plain language: one or two sentences per format."""
    lines = [
        f"{comparison.model['title']} was read in "
        f"{sum(not row.other for row in comparison.rows)} forms of its linear "
        f"layers. {comparison.text_sentence} {reference_sentence(comparison)}"
    ]
    lines += [_row_reading(comparison, row) for row in comparison.rows[1:]]
    for label, reason in comparison.impossible.items():
        lines.append(f"{label} is not possible for this model: {reason}.")
    if comparison.settings["speed"] == "none":
        return lines
    where = _where(comparison)
    fastest = max(comparison.rows, key=lambda row: row.decode[0])
    share = fastest.decode_bytes_s / comparison.bandwidth
    lines.append(
        f"Speed{where}: {fastest.label} decodes fastest, {number(fastest.decode[0], 3)} tokens/s; "
        f"it reads {fastest.decode_bytes_s / 1e9:.1f} GB/s of weights, {share:.0%} of what this "
        f"machine's memory gives ({comparison.bandwidth / 1e9:.1f} GB/s)."
        + (
            f" More than 100 % is possible when {_beyond(comparison)}."
            if any(r.decode_bytes_s > comparison.bandwidth for r in comparison.rows)
            else ""
        )
    )
    return lines


def _where(comparison: Comparison) -> str:
    """What a sentence on speed adds where it is that of another model's shapes."""
    name = shapes(comparison)
    return f" at {name}'s shapes" if name else ""


def _beyond(comparison: Comparison) -> str:
    if shapes(comparison):
        return "other programs were busy while the bandwidth was measured"
    return "a part of the weights stays in cache"


def _row_reading(comparison: Comparison, row: Row) -> str:
    reference = comparison.rows[0]
    against = row.quality.against
    assert against is not None
    gain = _gain(comparison, row)
    start = f"{row.label} ({row.bits_per_weight:.2f} bits per weight): "
    change = against.ratio.value - 1
    error = against.ratio.error
    agree = f"picks the same likeliest token in {row.same_top.value:.0%} of positions"
    if against.ln_ratio.value > math.log(3):
        return (
            f"{start}ruined. Perplexity goes from {number(reference.quality.perplexity.value)} to "
            f"{number(row.quality.perplexity.value)} and it {agree}; the {gain}."
            + (f" This is a {row.note}." if row.note else "")
        )
    if abs(change) <= 2 * error:
        verdict = (
            f"no change of perplexity can be seen on this text ({100 * change:+.2f} ± "
            f"{100 * error:.2f} %)"
        )
    else:
        word = "rises" if change > 0 else "falls"
        verdict = f"perplexity {word} by {abs(100 * change):.2g} ± {100 * error:.1g} %"
    return (
        f"{start}{verdict}, mean KL is {number(row.kl.value, 3)} nats, and it {agree}. "
        f"The {gain}." + (f" Note: {row.note}." if row.note else "")
    )


def _gain(comparison: Comparison, row: Row) -> str:
    """What a row saves beside the reference."""
    reference = comparison.rows[0]
    smaller = reference.linear_bytes / row.linear_bytes
    size = f"{smaller:.1f}× smaller" if smaller >= 1 else f"{1 / smaller:.1f}× larger"
    said = f"linear layers are {size}"
    if row.speed is None:
        return f"{said} than the reference's"
    where = _where(comparison)
    faster = row.decode[0] / reference.decode[0]
    return f"{said} and decoding{where} is {faster:.1f}× as fast as the reference"
