"""The explorer of layers: a widget for notebooks, or a page that stands alone.

Both are `explorer.js`, one module of plain JavaScript that draws SVG and loads nothing, over the
same state: `data` (all that is shown, words included), and what is chosen, `metric` and `tensor`.
"""

from __future__ import annotations

import base64
import functools
import json
import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tritlab._extras import need
from tritlab._files import plain
from tritlab.errors import EvaluationError
from tritlab.precision.sensitivity import arrange
from tritlab.report import layers as words

if TYPE_CHECKING:
    from tritlab.layerwise.result import Layer, LayerReport

Explorer: TypeAlias = Any
"""An `anywidget.AnyWidget` with the traits `data`, `metric` and `tensor`, and `to_html()`."""

SCRIPT = Path(__file__).with_name("explorer.js")
_METRICS = {
    "kl_share": ("share of the KL divergence", "%"),
    "kl_alone_nats": ("KL, each alone", "nats"),
    "kl_up_to_nats": ("KL, all up to it", "nats"),
    "rel_weight_error": ("weight error", "%"),
    "rel_output_error": ("output error", "%"),
    "rel_output_error_f32_activations": ("output error with f32 activations", "%"),
    "input_sqnr_db": ("SQNR of rounded inputs", "dB"),
    "weight_kurtosis": ("kurtosis of weights", ""),
    "input_kurtosis": ("kurtosis of inputs", ""),
    "weight_outlier_share": ("outliers among weights", "%"),
    "input_outlier_share": ("outliers among inputs", "%"),
    "code_entropy_bits": ("entropy of codes", "bits"),
    "zero_code_share": ("codes that are 0", "%"),
}
_HISTOGRAMS = {"weights": "weights", "inputs": "inputs", "codes": "codes", "scales": "scales"}


def state(
    report: LayerReport, metric: str | None = None, tensor: str | None = None
) -> dict[str, Any]:
    """What the explorer shows, ready for JSON. `EvaluationError` for a choice that there is not."""
    rows = {row["tensor"]: row for row in report.records}
    metrics = [key for key in _METRICS if any(_known(row[key]) for row in rows.values())]
    if metric is not None and metric not in metrics:
        raise EvaluationError(f"no measure {metric!r}; there are {', '.join(metrics)}")
    kinds, names, places = arrange([layer.unit for layer in report.layers])
    data = {
        "title": words.title(report),
        "notes": words.notes(report),
        "kinds": kinds,
        "rows": names,
        "metrics": [
            {"key": key, "label": _METRICS[key][0], "unit": _METRICS[key][1]} for key in metrics
        ],
        "tensors": [
            {
                "name": layer.name,
                "place": list(places[layer.name]),
                "values": {key: _scaled(rows[layer.name][key], key) for key in metrics},
                "facts": [list(fact) for fact in words.facts(report, layer)],
                "histograms": _histograms(layer),
            }
            for layer in report.layers
        ],
    }
    chosen = report.worst() if tensor is None else report.layer(tensor)
    shown: dict[str, Any] = plain(
        {"data": data, "metric": metric or metrics[0], "tensor": chosen.name}
    )
    return shown


def _known(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def _scaled(x: float | None, key: str) -> float | None:
    if x is None or not math.isfinite(x):
        return None
    return 100 * x if _METRICS[key][1] == "%" else x


def _histograms(layer: Layer) -> list[dict[str, Any]]:
    return [
        {"label": label, **layer.histograms[name]}
        for name, label in _HISTOGRAMS.items()
        if name in layer.histograms
    ]


def explorer(report: LayerReport) -> Explorer:
    """The widget of a report; `NotInstalledError` names the extra where anywidget is missing."""
    need("anywidget", "the explorer")
    return _class()(**state(report))


@functools.cache
def _class() -> Any:
    anywidget: Any = need("anywidget", "the explorer")
    traitlets: Any = need("traitlets", "the explorer")

    class LayerExplorer(anywidget.AnyWidget):  # type: ignore[misc]
        """Layers by any measure, and one of them with its histograms."""

        _esm = SCRIPT
        data = traitlets.Dict().tag(sync=True)
        metric = traitlets.Unicode().tag(sync=True)
        tensor = traitlets.Unicode().tag(sync=True)

        @traitlets.validate("metric")  # type: ignore[untyped-decorator]
        def _one_of_the_metrics(self, proposal: Any) -> Any:
            return _one_of(proposal["value"], [m["key"] for m in self.data["metrics"]], "measure")

        @traitlets.validate("tensor")  # type: ignore[untyped-decorator]
        def _one_of_the_tensors(self, proposal: Any) -> Any:
            return _one_of(proposal["value"], [t["name"] for t in self.data["tensors"]], "layer")

        def to_html(self) -> str:
            """The widget as a page that stands alone, with what is chosen now."""
            return page({"data": self.data, "metric": self.metric, "tensor": self.tensor})

    return LayerExplorer


def _one_of(value: str, known: list[str], what: str) -> str:
    if value not in known:
        shown = ", ".join(known[:12])
        raise EvaluationError(f"no {what} {value!r}; there are {shown}{', …' * (len(known) > 12)}")
    return value


def page(shown: dict[str, Any]) -> str:
    """One page of HTML over a `state`; nothing is loaded from anywhere."""
    script = base64.b64encode(SCRIPT.read_bytes()).decode()
    content = json.dumps(shown, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    title = escape(shown["data"]["title"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title>
<style>body{{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
color:#1a1a1a;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1.25rem}}</style></head>
<body><main id="explorer"></main>
<noscript><p>This page draws with JavaScript, which is switched off.</p></noscript>
<script type="application/json" id="state">{content}</script>
<script type="module">
import {{ standalone }} from "data:text/javascript;base64,{script}";
const state = JSON.parse(document.getElementById("state").textContent);
standalone(document.getElementById("explorer"), state);
</script></body></html>
"""
