"""Layers in words and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tritlab.records import latex_table, markdown_table
from tritlab.report.html import small_print, table
from tritlab.report.text import estimate, new_table, number
from tritlab.statistics import Estimate

if TYPE_CHECKING:
    from rich.table import Table

    from tritlab.layerwise import Layer, LayerReport

MOST = 20
"""Rows that a terminal and a notebook show: those that cost most."""


def heads(report: LayerReport) -> list[str]:
    """Heads of the table; columns of what was not measured are left out."""
    mode = report.settings["mode"]
    return [
        "tensor",
        "format",
        "bits/weight",
        "weight error",
        "output error",
        *(["KL alone, nats"] if mode != "up_to" else []),
        "share of KL",
        *(["KL up to here"] if mode != "alone" else []),
        "kurtosis w",
        "kurtosis x",
        "entropy",
        "zeros",
    ]


def cells(report: LayerReport, layer: Layer, share: float) -> list[str]:
    """Cells under `heads`."""
    n, option = layer.numbers, layer.option
    swaps = [layer.swaps.get(how) for how in ("alone", "up_to")]
    kls = ["–" if s is None else _kl(Estimate(s.kl, s.kl_error)) for s in swaps]
    mode = report.settings["mode"]
    return [
        layer.name.removesuffix(".weight"),
        option.format,
        f"{8 * option.nbytes / layer.unit.n_params:.3f}",
        share_text(n["rel_weight_error"]),
        share_text(n.get("rel_output_error")),
        *([kls[0]] if mode != "up_to" else []),
        share_text(share),
        *([kls[1]] if mode != "alone" else []),
        plain(n["weight_kurtosis"], 3),
        plain(n.get("input_kurtosis"), 3),
        "–" if n["code_entropy_bits"] is None else f"{n['code_entropy_bits']:.3f}",
        share_text(n["zero_code_share"]),
    ]


def _kl(kl: Estimate) -> str:
    return "0" if kl.value == 0 else estimate(kl)


def plain(x: float | None, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return "–" if x is None else number(x, digits)


def share_text(x: float | None) -> str:
    """A share or a relative error in percent; a dash where there is none."""
    if x is None or not math.isfinite(x):
        return "–"
    return "0" if x == 0 else f"{number(100 * x, 3)} %"


def lines(report: LayerReport) -> list[list[str]]:
    """Cells of all layers, in the order of the model."""
    shares = report.shares()
    return [cells(report, layer, shares[layer.name]) for layer in report.layers]


def dearest(report: LayerReport) -> list[list[str]]:
    """Cells of the layers that cost most, at most `MOST`, the dearest first."""
    shares = report.shares()

    def cost(layer: Layer) -> float:
        share = shares[layer.name]
        return share if math.isfinite(share) else -math.inf

    order = sorted(report.layers, key=cost, reverse=True)[:MOST]
    return [cells(report, layer, shares[layer.name]) for layer in order]


def notes(report: LayerReport) -> list[str]:
    """Sentences that the table must not be shown without."""
    base, mode = report.settings["base"], report.settings["mode"]
    reference = "the file as it is" if base == "file" else f"the file's weights expanded to {base}"
    said = [
        f"{report.text_sentence} KL is from {reference}.",
        "Errors are relative: of a layer's weights, and of its products with the inputs that it "
        "has in the reference (scored half of the windows), rounding of activations included. "
        "Kurtosis is 3 for a Gaussian; w are the reference's weights, x its inputs. Entropy is of "
        "the codes, in bits, and zeros are codes that are 0.",
        "The share is of the sum of what the layers do alone."
        if mode != "up_to"
        else "The share is a layer's step from the one before it; a negative one repairs.",
    ]
    names = [layer.name for layer in report.layers if "rel_output_error" not in layer.numbers]
    if names:
        said.append(
            f"No output is measured of {', '.join(names[:4])}{', …' if len(names) > 4 else ''}: "
            "an embedding looks up, and a norm inside a layer changes its input."
        )
    if report.damaged:
        said.append(
            f"{len(report.damaged)} damaged files of the store were measured again: "
            f"{', '.join(report.damaged)}."
        )
    return said


def title(report: LayerReport) -> str:
    """What it is about, in a line."""
    what = "as in its file" if report.format == "file" else f"in {report.format}"
    return f"{report.model['title']}: its layers {what}"


def markdown(report: LayerReport) -> str:
    """The table in Markdown and the notes below."""
    said = "\n".join(f"{line}  " for line in notes(report)).rstrip()
    return f"{markdown_table(heads(report), lines(report))}\n{said}\n"


def latex(report: LayerReport) -> str:
    """The table for a paper, with the notes."""
    return latex_table(heads(report), lines(report), notes(report))


def fragment(report: LayerReport) -> str:
    """The dearest layers and the notes, for notebooks."""
    return table(heads(report), dearest(report), words=2) + small_print(_few(report))


def _few(report: LayerReport) -> list[str]:
    shown = f"The {MOST} layers that cost most, of {len(report.layers)}."
    return [*([shown] if len(report.layers) > MOST else []), *notes(report)]


def terminal(report: LayerReport) -> tuple[Table, Sequence[str]]:
    """The dearest layers as a table for a terminal, and the notes."""
    made = new_table()
    for i, head in enumerate(heads(report)):
        made.add_column(head.replace(" ", "\n", 1), justify="left" if i < 2 else "right")
    for row in dearest(report):
        made.add_row(*row)
    return made, _few(report)


def facts(report: LayerReport, layer: Layer) -> list[tuple[str, str]]:
    """Everything that is known of one layer, as names and texts."""
    n, unit, option = layer.numbers, layer.unit, layer.option

    def show(name: str, how: Any = plain) -> str:
        return str(how(n.get(name)))

    said = [
        ("format", f"{option.format}, {8 * option.nbytes / unit.n_params:.3f} bits per weight"),
        ("weights", f"{unit.n_params:,} ({unit.file_type} in the file)"),
        ("weight error", share_text(n["rel_weight_error"])),
        ("weight SQNR", f"{show('weight_sqnr_db')} dB"),
        ("weight cosine", show("weight_cosine", _cosine)),
        ("output error", show("rel_output_error", share_text)),
        ("… with f32 activations", show("rel_output_error_f32_activations", share_text)),
        ("output SQNR", f"{show('output_sqnr_db')} dB"),
        ("output cosine", show("output_cosine", _cosine)),
        ("kurtosis of weights", show("weight_kurtosis")),
        ("outliers among weights", show("weight_outlier_share", share_text)),
        ("kurtosis of inputs", show("input_kurtosis")),
        ("outliers among inputs", show("input_outlier_share", share_text)),
        ("SQNR of rounded inputs", f"{show('input_sqnr_db')} dB"),
        ("entropy of codes", f"{show('code_entropy_bits')} bits"),
        ("codes that are 0", show("zero_code_share", share_text)),
    ]
    for how, words in (("alone", "KL, alone"), ("up_to", "KL, all up to it")):
        swap = layer.swaps.get(how)
        if swap is not None:
            said.append((words, f"{_kl(Estimate(swap.kl, swap.kl_error))} nats"))
    said.append(("share of KL", share_text(report.shares()[layer.name])))
    return said


def _cosine(x: float | None) -> str:
    return "–" if x is None else f"{x:.6f}"
