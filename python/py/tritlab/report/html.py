"""One page that stands alone: tables, reading, figures and receipts, nothing loaded from a net."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from tritlab._extras import plots_missing
from tritlab._files import to_json
from tritlab.report.text import (
    COST,
    cost_cells,
    footnotes,
    gain_cells,
    gain_heads,
    gain_title,
    megabytes,
    reading,
    shapes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tritlab.comparison import Comparison

_CAPTIONS = {
    "quality": (
        "What it costs. Left: perplexity; the dashed line is the reference, and bars are the "
        "standard error of the difference from it on the same tokens. Right: KL divergence from "
        "the reference's predictions, a finer measure, with the share of positions where both "
        "find the same token likeliest."
    ),
    "speed": (
        "What it buys{of}. Left: decode speed; the curve is the speed at which this machine's "
        "memory, read at its measured bandwidth, could deliver the weights, and the percentages "
        "are fractions of that bandwidth. Right: prefill speed, which arithmetic limits."
    ),
    "kl-tokens": (
        "Token by token: a mean hides whether a format is a little wrong everywhere or very wrong "
        "at times. A curve further left is better."
    ),
}

_STYLE = """
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
color:#1a1a1a;background:#fff;max-width:62rem;margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p.lead{color:#555;margin:0 0 1.2rem}table{border-collapse:collapse;font-size:.86rem;
font-variant-numeric:tabular-nums;width:100%}th,td{padding:.36rem .5rem;text-align:right;
border-bottom:1px solid #e2e2e2;white-space:nowrap}th:first-child,td:first-child{text-align:left;
padding-left:0;white-space:normal;min-width:9rem}th.word,td.word{text-align:left}
td.word:not(:first-child){white-space:normal;min-width:5rem}
thead th{border-bottom:2px solid #1a1a1a;font-weight:600;white-space:normal}
tr.ref td{background:#f6f6f6}.scroll{overflow-x:auto}.notes{font-size:.86rem;color:#555;
padding-left:1.1rem}figure{margin:1.6rem 0}figure img{width:100%;height:auto;display:block}
figure.narrow img{max-width:42rem}figcaption{font-size:.86rem;color:#555;margin-top:.3rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;font-size:.9rem}
dt{color:#555}dd{margin:0;overflow-wrap:anywhere}code,pre{
font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.85em}
pre{background:#f6f6f6;padding:.8rem;overflow-x:auto}
details{margin:.4rem 0}summary{cursor:pointer}
td.text{white-space:normal;min-width:18rem}mark{background:#fde68a}
p,li,summary{overflow-wrap:anywhere}
@media(max-width:40rem){body{margin:1.5rem auto}h1{font-size:1.4rem}dl{grid-template-columns:1fr}
dd{margin-bottom:.5rem}.scroll>img{width:44rem;max-width:none}figure.narrow .scroll>img{width:30rem}
th:first-child,td:first-child{position:sticky;left:0;background:#fff;white-space:normal;
min-width:5.5rem}tr.ref td:first-child{background:#f6f6f6}td.text:first-child{min-width:14rem;
position:static}}
"""


def page(comparison: Comparison, images: dict[str, bytes]) -> str:
    """Build the whole report. `images` are PNG files by figure name."""
    c = comparison
    title = f"{c.model['title']}: what low bits cost, and what they buy"
    size = f"{c.model['n_params'] / 1e6:,.0f} M parameters"
    lead = f"{size}, {c.model['n_layers']} layers ({c.model['architecture']}) · {c.machine['cpu']}"
    parts = [
        "<h2>What it costs</h2>",
        _table(c, COST, (cost_cells(c, row) for row in c.rows), c.impossible),
        f"<h2>{escape(gain_title(c))}</h2>",
        _table(c, gain_heads(c), (gain_cells(c, row) for row in c.rows)),
        notes_list(footnotes(c)),
        "<h2>In words</h2>",
        *[f"<p>{escape(line)}</p>" for line in reading(c)],
        "<h2>Figures</h2>",
        *([] if images else [f"<p>None here: {escape(plots_missing())}</p>"]),
        *[
            figure(_caption(c, name), data, narrow=name == "kl-tokens")
            for name, data in images.items()
        ],
        *_worst(c),
        "<h2>How it was made</h2>",
        _facts(c),
        "<h2>Receipts</h2>",
        "<p>Each result can be made again: <code>tritlab rerun results.json</code> checks that "
        "model and text are the same and that every number of quality comes out equal, on any "
        "machine, with any number of threads.</p>",
        *[
            f"<details><summary>{escape(row.label)}: logits fingerprint <code>"
            f"{escape(row.receipt['results']['fingerprint'][:16])}…</code></summary>"
            f"<pre>{escape(to_json(row.receipt))}</pre></details>"
            for row in c.rows
        ],
    ]
    return document(title, lead, parts)


def document(title: str, lead: str, parts: Iterable[str]) -> str:
    """A whole page: a title, a line under it, and HTML elements."""
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>',
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def fragment(comparison: Comparison) -> str:
    """Both tables and their notes, with inline style, for notebooks."""
    c = comparison
    cell = "padding:.3em .7em;text-align:right;white-space:nowrap"

    def table(heads: Sequence[str], rows: Iterable[list[str]]) -> str:
        head = "".join(f'<th style="{cell}">{escape(h)}</th>' for h in heads)
        body = "".join(
            "<tr>" + "".join(f'<td style="{cell}">{escape(x)}</td>' for x in row) + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    return (
        f"<p><b>{escape(c.model['title'])}</b></p>"
        + table(COST, (cost_cells(c, row) for row in c.rows))
        + table(gain_heads(c), (gain_cells(c, row) for row in c.rows))
        + small_print(footnotes(c))
    )


def _caption(comparison: Comparison, name: str) -> str:
    made = shapes(comparison)
    of = f", by layers of {made}'s shapes whose weights come from memory" if made else ""
    return _CAPTIONS.get(name, name).format(of=of)


def small_print(lines: Iterable[str]) -> str:
    """Small print with inline style, for notebooks."""
    return "".join(f'<p style="font-size:.85em;margin:.2em 0">{escape(x)}</p>' for x in lines)


def _table(
    comparison: Comparison,
    heads: Sequence[str],
    rows: Iterable[list[str]],
    impossible: Iterable[str] = (),
) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = ""
    for row, cells in zip(comparison.rows, rows, strict=True):
        note = f' title="{escape(row.note)}"' if row.note else ""
        style = ' class="ref"' if row.is_reference else ""
        body += f"<tr{style}{note}>" + "".join(f"<td>{escape(x)}</td>" for x in cells) + "</tr>"
    for label in impossible:
        body += f"<tr><td>{escape(label)} (not possible†)</td>" + "<td>–</td>" * (len(heads) - 1)
        body += "</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table whose first `words` columns are text; wider than the page, it scrolls."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=word' if i < words else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', heads)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def notes_list(lines: list[str]) -> str:
    """Small print under a table."""
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def figure(caption: str, data: bytes, *, narrow: bool = False) -> str:
    """A PNG file inside the page, and its caption; on a phone a wide one is scrolled, not small."""
    encoded = base64.b64encode(data).decode()
    kind = ' class="narrow"' if narrow else ""
    return (
        f'<figure{kind}><div class="scroll"><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{encoded}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _worst(comparison: Comparison) -> list[str]:
    """Where each row is furthest from the reference, folded away."""
    rows = [row for row in comparison.rows if row.worst]
    if not rows:
        return []
    parts = [
        "<h2>Worst tokens</h2>",
        "<p>Where the predictions differ most from the reference's: the text before, the token "
        "that came, its probability for the reference and for the row, and the KL divergence of "
        "the two predictions.</p>",
    ]
    for row in rows:
        lines = "".join(
            f"<tr><td class='text'>…{escape(t['context'])}<mark>{escape(t['token'])}</mark></td>"
            f"<td>{t['p']:.3f}</td><td>{t['q']:.3f}</td><td>{t['kl']:.3g}</td></tr>"
            for t in row.worst
        )
        parts.append(
            f"<details><summary>{escape(row.label)}</summary><div class='scroll'><table><thead><tr>"
            f"<th>text and token</th><th>reference</th><th>{escape(row.label)}</th>"
            f"<th>KL, nats</th></tr></thead><tbody>{lines}</tbody></table></div></details>"
        )
    return parts


def _facts(comparison: Comparison) -> str:
    c = comparison
    facts = {
        "command": c.command,
        "when": c.created,
        "model file": f"{c.model['name']}, {megabytes(c.model['nbytes'])}, "
        f"SHA-256 {c.model['sha256']}",
        "text": f"{c.text['source'] or 'from memory'}, {c.text['tokens']} tokens, "
        f"SHA-256 {c.text['sha256']}",
        "machine": f"{c.machine['cpu']}, {c.machine['cores']} cores, {c.machine['arch']}, "
        f"{c.machine['os']}",
        "threads and backend": f"{c.machine['threads']}, {c.machine['backend']}",
        "measured limits": "none"
        if c.settings["speed"] == "none"
        else f"memory read {c.bandwidth / 1e9:.1f} GB/s, "
        f"int8 {c.dot_peak / 1e12:.2f} T multiply-adds/s",
        "speed tests": _speed_tests(c),
        "versions": ", ".join(f"{name} {value}" for name, value in c.versions.items()),
        "seed": "none: nothing is sampled",
    }
    return facts_list(facts)


def _speed_tests(comparison: Comparison) -> str:
    s = comparison.settings
    if s["speed"] == "none":
        return "none"
    if "shapes" in s:
        sizes = ", ".join(f"{rows} × {cols}" for rows, cols in s["shapes"]["linear"])
        return (
            f"products of one vector and of {s['shapes']['prompt']} with matrices of {sizes}; all "
            f"formats in turns, {s['shapes']['rounds']} rounds after a warm-up, medians"
        )
    return (
        f"prefill of {s['n_prompt']} tokens, decode of {s['n_gen']}, {s['repetitions']} "
        "repetitions after a warm-up, medians"
    )


def facts_list(facts: dict[str, str]) -> str:
    """Names and values."""
    items = (f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{''.join(items)}</dl>"
