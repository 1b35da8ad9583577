"""A sweep in words, tables and one page."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tritlab._formats import FILE
from tritlab.paired import FEW
from tritlab.report.html import document, facts_list, figure, notes_list, small_print, table
from tritlab.report.text import estimate, percent

if TYPE_CHECKING:
    from tritlab.sweeps._result import Line, Sweep

HEADS = (
    "format",
    "activations",
    "model",
    "text",
    "bits/weight",
    "perplexity",
    "ln ratio",
    "KL, nats",
    "same top-1",
)
CAPTION = (
    "KL divergence from the reference against bits per weight, one panel per model and text. Bars "
    "are standard errors: over seeds where there are several, else over tokens."
)


def cells(line: Line) -> list[str]:
    """Cells under `HEADS`."""
    first = line.rows[0]
    kind = f"{FILE} ({first['kind']})" if line.format == FILE else line.format
    return [
        kind,
        _activations(line),
        line.model,
        line.text,
        f"{first['bits_per_weight']:.2f}",
        estimate(line.mean("perplexity")),
        estimate(line.mean("ln_ppl_ratio")) + (" ≈" if _alike(line) else ""),
        estimate(line.mean("kl_nats")),
        percent(line.mean("same_top")),
    ]


def _activations(line: Line) -> str:
    groups = str(line.rows[0]["activation_groups"])
    if groups == "f32":
        return "f32"
    return f"int8 per {groups}" if groups != "mixed" else "int8"


def _alike(line: Line) -> bool:
    """Whether no cell's perplexity can be told from the reference's, though a test was possible."""
    return all(row["kl_nats"] > 0 and not row["distinguishable"] for row in line.rows) and not (
        _few(line)
    )


def _few(line: Line) -> bool:
    return any(row["scored_windows"] < FEW for row in line.rows)


def notes(sweep: Sweep) -> list[str]:
    """Sentences that the table must not be shown without."""
    spec = sweep.spec
    reference = "each model's file as it is" if spec.reference is None else spec.reference
    windows = (
        "all whole windows of the text"
        if spec.windows is None
        else f"{spec.windows} windows that the seed draws"
    )
    several = (
        f"± is one standard error of the mean over {len(spec.seeds)} seeds, which draw other parts "
        "of the text."
        if len(spec.seeds) > 1
        else "± is one standard error over tokens, taken as independent."
    )
    lines = [
        f"Compared, token by token, with {reference} of the same model. A cell reads {windows}, "
        f"{spec.context} tokens each; the second half of each is scored.",
        several,
    ]
    if any(map(_few, sweep.lines())):
        lines.append(
            f"Cells of fewer than {FEW} windows have no paired test of whether perplexity differs."
        )
    if any(map(_alike, sweep.lines())):
        lines.append(
            "≈: perplexity is not distinguishable from the reference's in any cell (paired, 95 % "
            "interval, bootstrap over windows)."
        )
    if any(line.rows[0]["activation_groups"] == "f32" for line in sweep.lines()):
        lines.append(
            "f32 activations: linear layers multiply their decoded weights with activations that "
            "nothing rounds, so that the weights' own rounding is seen alone."
        )
    if sweep.failed:
        lines.append(f"{len(sweep.failed)} of {len(sweep.records)} cells failed and are left out.")
    return lines


def failures(sweep: Sweep) -> list[str]:
    """One sentence per error: how many cells it stopped, and the first of them."""
    counts = Counter(row["error"] for row in sweep.failed)
    found = []
    for error, count in counts.items():
        row = next(row for row in sweep.failed if row["error"] == error)
        where = f"{row['model']} {row['format']} {row['activations']} {row['text']} {row['seed']}"
        more = f" and {count - 1} more" if count > 1 else ""
        found.append(f"{where}{more}: {error}")
    return found


def page(sweep: Sweep, images: dict[str, bytes]) -> str:
    """Build the whole report. `images` are PNG files by figure name."""
    spec = sweep.spec
    sizes = {
        "model": len(spec.models),
        "format": len(spec.formats),
        "text": len(spec.texts),
        "seed": len(spec.seeds),
    }
    counts = ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in sizes.items())
    counts += f": {len(sweep.records)} cells"
    panels = len({(line.model, line.text) for line in sweep.lines()})
    stopped = failures(sweep)
    return document(
        f"Sweep {spec.name}: what low bits cost",
        counts,
        [
            "<h2>Results</h2>",
            table(HEADS, map(cells, sweep.lines()), words=4),
            notes_list(notes(sweep)),
            *(["<h2>Cells that failed</h2>", notes_list(stopped)] if stopped else []),
            "<h2>Figures</h2>",
            *[figure(CAPTION, data, narrow=panels == 1) for data in images.values()],
            "<h2>How it was made</h2>",
            facts_list(_facts(sweep)),
            "<p>Every row, with its key and hashes, is in results.parquet and results.csv beside "
            "this page.</p>",
        ],
    )


def _facts(sweep: Sweep) -> dict[str, str]:
    spec, rows = sweep.spec, sweep.records
    cpus = dict.fromkeys(str(row["run_cpu"]) for row in rows)
    facts = {"command": sweep.command, "machines": ", ".join(cpus)}
    for label, source in spec.models.items():
        digest = next(row["model_sha256"] for row in rows if row["model"] == label)
        facts[f"model {label}"] = f"{source}, SHA-256 {digest}"
    for label, path in spec.texts.items():
        digest = next(row["text_sha256"] for row in rows if row["text"] == label)
        facts[f"text {label}"] = f"{path}, SHA-256 {digest}"
    facts["seeds"] = ", ".join(map(str, spec.seeds))
    facts["versions"] = f"tritlab {rows[0]['tritlab']}, kernels {rows[0]['kernels']}"
    return facts


def fragment(sweep: Sweep) -> str:
    """The table and its notes, for notebooks."""
    return table(HEADS, map(cells, sweep.lines()), words=4) + small_print(notes(sweep))
