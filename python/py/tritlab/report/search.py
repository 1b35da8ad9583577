"""A search in words, tables and a page that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from tritlab._files import to_json
from tritlab.records import latex_table, markdown_table
from tritlab.report.html import document, facts_list, figure, notes_list, small_print, table
from tritlab.report.text import estimate, new_table, number
from tritlab.statistics import Estimate

if TYPE_CHECKING:
    from rich.table import Table

    from tritlab.precision import Candidate, Search

HEADS = (
    "recipe",
    "weights",
    "bits/weight",
    "KL, nats",
    "perplexity",
    "same top-1",
    "KL predicted → measured",
)

_CAPTIONS = {
    "front": (
        "Size against quality. Squares are uniform recipes, diamonds searched ones; the dashed "
        "line is the predicted front, the dotted one what was asked for. Bars are standard errors."
    ),
    "sensitivity": (
        "Which tensors hurt: KL divergence that one tensor alone causes, at the same relative "
        "error of its weights. Dark is harmless."
    ),
}


def megabytes(n: int) -> str:
    """Show bytes in MB (10⁶), to four digits: recipes of nearly one size are compared."""
    return f"{number(n / 1e6)} MB"


def cells(search: Search, candidate: Candidate) -> list[str]:
    """Cells under `HEADS`."""
    v = candidate.verification
    compared = "–"
    if candidate.predicted is not None:
        compared = f"{number(candidate.predicted, 3)} → {number(candidate.sensitivity.kl, 3)}"
    mark = (
        " ← chosen"
        if candidate is search.chosen
        else " (best uniform)"
        if candidate is search.best_uniform
        else ""
    )
    return [
        candidate.label + mark,
        megabytes(candidate.total_bytes),
        f"{candidate.bits_per_weight:.3f}",
        estimate(Estimate(v.kl, v.kl_error)) if v.kl > 0 else "0",
        number(v.perplexity),
        f"{v.same_top:.1%}".replace("%", " %"),
        compared,
    ]


def verdict(search: Search) -> str:
    """The answer in a sentence or two."""
    c, u = search.chosen, search.best_uniform
    asked = (
        f"a budget of {megabytes(search.target)}"
        if search.target is not None
        else f"a mean KL of at most {search.max_kl:g} nats"
    )
    said = (
        f"For {asked}: {c.label}, with mean KL {number(c.verification.kl, 3)} nats in "
        f"{megabytes(c.total_bytes)} ({c.bits_per_weight:.3f} bits per weight)."
    )
    if u is None:
        return f"{said} No uniform recipe fits."
    if u is c:
        return f"{said} It is a uniform recipe: nothing that was searched is better."
    change = f"KL {number(u.verification.kl, 3)} in {megabytes(u.total_bytes)}"
    difference = search.paired()
    return (
        f"{said} The best uniform recipe that fits, {u.label}, has {change}; difference in KL "
        + (f"{difference}.")
    )


def notes(search: Search) -> list[str]:
    """Sentences that the table must not be shown without."""
    n, total = search.settings["chunks"], search.text["windows"]
    base = search.settings["base"]
    lines = [
        f"Tensors were measured on windows 1 to {n} of {search.text['context']} tokens, recipes "
        f"are compared on windows {n + 1} to {total}, which were used for nothing else (the second "
        f"half of each is scored; the text has {search.text['tokens']} tokens).",
        "KL is from "
        + (
            "the file as it is."
            if base == "file"
            else f"the file's weights expanded to {base}; coded formats multiply with int8 "
            "activations, a part of every KL."
        ),
        "Sizes are of all weights, norms included; a file also holds the tokenizer.",
        "A uniform recipe has its linear layers in one format and the file's own head, or "
        '("+ head") embedding and head in it too; where rows do not fit, the format that '
        "llama-quantize takes instead is named.",
        f"Sensitivity: each tensor in {_how(search.settings['sensitivity'])}; other formats by the "
        "square of the relative weight error. Nothing is drawn at random.",
    ]
    if search.damaged:
        lines.append(
            f"{len(search.damaged)} damaged files of the store were measured again: "
            f"{', '.join(search.damaged)}."
        )
    return lines


def _how(sensitivity: str) -> str:
    return {
        "one": "the coarsest format that fits it",
        "two": "the coarsest and a middle format",
        "exhaustive": "every format",
    }[sensitivity]


def markdown(search: Search) -> str:
    """The table in Markdown, the answer before it and the notes below."""
    made = markdown_table(HEADS, (cells(search, c) for c in search.ordered))
    said = "\n".join(f"{line}  " for line in notes(search)).rstrip()
    return f"{verdict(search)}\n\n{made}\n{said}\n"


def latex(search: Search) -> str:
    """The table for a paper, with the notes."""
    rows = [
        [cell.replace(" ← chosen", " (chosen)") for cell in cells(search, c)]
        for c in search.ordered
    ]
    heads = [head.replace("→", "/") for head in HEADS]
    return latex_table(
        heads, [[c.replace(" → ", " / ") for c in row] for row in rows], notes(search)
    )


def terminal_table(search: Search) -> Table:
    """The table for a terminal."""
    made = new_table()
    for head in HEADS:
        stacked = head.replace(" ", "\n", 1).replace("/weight", "/\nweight")
        made.add_column(stacked, justify="left" if head == "recipe" else "right")
    for c in search.ordered:
        made.add_row(*cells(search, c), style="bold" if c is search.chosen else None)
    return made


def fragment(search: Search) -> str:
    """The answer, the table and the notes, for notebooks."""
    return f"<p><b>{escape(verdict(search))}</b></p>{_table(search)}{small_print(notes(search))}"


def page(search: Search, images: dict[str, bytes]) -> str:
    """Build the whole report. `images` are PNG files by figure name."""
    s = search
    size = f"{s.model['n_params'] / 1e6:,.0f} M parameters"
    return document(
        f"{s.model['title']}: a format for each tensor",
        f"{size}, {s.model['n_layers']} layers ({s.model['architecture']}) · {s.machine['cpu']}",
        [
            f"<p>{escape(verdict(s))}</p>",
            "<h2>All recipes that were measured</h2>",
            _table(s),
            notes_list(notes(s)),
            "<h2>Figures</h2>",
            *[figure(_CAPTIONS[name], data, narrow=True) for name, data in images.items()],
            "<h2>The recipe</h2>",
            table(("tensor", "format", "number", "layers"), _formats(s), words=2),
            "<h2>How it was made</h2>",
            facts_list(_facts(s)),
            "<h2>Receipt</h2>",
            "<p><code>tritlab rerun recipe.json</code> makes the chosen recipe's result again and "
            "checks that every number comes out equal, on any machine, with any number of "
            "threads.</p>",
            "<details><summary>logits fingerprint <code>"
            f"{escape(s.chosen.results['fingerprint'][:16])}…</code></summary>"
            f"<pre>{escape(to_json(s.recipe.record['receipts']))}</pre></details>",
        ],
    )


def _table(search: Search) -> str:
    return table(HEADS, (cells(search, c) for c in search.ordered))


def _formats(search: Search) -> list[tuple[str, str, str, str]]:
    """Which kind of tensor has which format in which layers."""
    where: dict[tuple[str, str], list[int | None]] = {}
    for unit in search.sensitivity.units:
        format = search.chosen.formats.get(unit.name, f"{unit.own.format} (as in the file)")
        where.setdefault((unit.kind, format), []).append(unit.layer)
    return [
        (kind, format, str(len(layers)), _ranges(layers))
        for (kind, format), layers in sorted(where.items())
    ]


def _ranges(layers: Sequence[int | None]) -> str:
    """Numbers in order, those that follow each other as one range."""
    numbers = sorted(layer for layer in layers if layer is not None)
    spans: list[list[int]] = []
    for layer in numbers:
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans) or "–"


def _facts(search: Search) -> dict[str, str]:
    s = search
    return {
        "command": s.command,
        "when": s.created,
        "model": f"{s.model['name']}, {megabytes(s.model['nbytes'])}, SHA-256 {s.model['sha256']}",
        "text": f"{s.text['source'] or 'from memory'}, {s.text['tokens']} tokens, "
        f"SHA-256 {s.text['sha256']}",
        "formats": ", ".join(s.settings["formats"]),
        "factors of the costs, fitted": ", ".join(
            f"{name} {factor:.2f}" for name, factor in s.factors.items()
        ),
        "machine": f"{s.machine['cpu']}, {s.machine['threads']} threads, backend "
        f"{s.machine['backend']}",
        "versions": ", ".join(f"{name} {value}" for name, value in s.versions.items()),
        "seed": "none: nothing is drawn at random",
    }
