"""What a notebook of experiments needs: a verdict that can fail, figures of one style, data.

from tritlab import notebook
from tritlab.notebook import figure, published, sums, timing, weights

figure.show(fig)                       # PNG and SVG, with machine and commit in the footer
notebook.verdict("what was found", {"what must hold for it": bool, ...})  # the last cell

`tritlab.notebook.build` runs notebooks from their sources: pip install 'tritlab[notebooks]'.
"""

from tritlab import published, timing
from tritlab.notebook._verdict import MIME, Verdict, VerdictError, verdict
from tritlab.notebook._where import fixture, provenance, repository

__all__ = [
    "MIME",
    "Verdict",
    "VerdictError",
    "fixture",
    "provenance",
    "published",
    "repository",
    "timing",
    "verdict",
]
