"""What the command `tritlab explain` adds to `tritlab.explain`: a random block, a page, JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from tritlab import _native

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<body>
{body}
</body>
</html>
"""


def block_of(format: str, seed: int) -> _native.Explanation:
    """The first block of normally distributed weights."""
    weights = np.random.default_rng(seed).standard_normal((1, 256), dtype=np.float32)
    return _native.Matrix.quantize(weights, format).explain(0, 0)


def page(explained: _native.Explanation) -> str:
    """A whole HTML page, light or dark as the reader's browser is."""
    return _PAGE.format(title=f"{explained.format} block", body=explained.to_html())


def facts(explained: _native.Explanation, trace: _native.Trace | None) -> dict[str, Any]:
    """The explanation, or one weight's, for JSON."""
    if trace is not None:
        return {"weight": trace.weight, "steps": trace.steps, "sources": trace.sources}
    fields = [
        {
            **field,
            "bytes": field["bytes"].hex(),
            "values": {name: values.tolist() for name, values in field["values"].items()},
        }
        for field in explained.fields
    ]
    return {
        "format": explained.format,
        "bytes": explained.bytes.hex(),
        "formula": explained.formula,
        "fields": fields,
        "weights": explained.weights.tolist(),
    }
