"""What a sweep came out as."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritlab._files import write_atomic
from tritlab.records import Records, latex_table, markdown_table, parquet
from tritlab.statistics import Estimate
from tritlab.sweeps._spec import Spec
from tritlab.sweeps._store import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """The cells that only their seeds tell apart, as one line of a table."""

    model: str
    text: str
    format: str
    activations: str
    rows: list[dict[str, Any]]

    def mean(self, name: str) -> Estimate:
        """Mean over seeds of a column, and its standard error.

        Of one seed, the error is the cell's own; of several, that of the mean of their values: the
        spread between slices of the text.
        """
        values = [float(row[name]) for row in self.rows]
        if len(values) == 1:
            error = self.rows[0].get(f"{name}_error")
            return Estimate(values[0], math.nan if error is None else float(error))
        from tritlab.statistics import mean

        return mean(values)


@dataclass(frozen=True)
class Sweep(Records):
    """Outcome of `sweep`. `records` has a row per cell; `save` writes tables, figures, report."""

    spec: Spec
    rows: list[dict[str, Any]] = field(repr=False)
    made: int
    """Cells that were measured now; the others were stored."""
    damaged: dict[str, str]
    """What was wrong with the files of cells that were made again, by key."""
    command: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """A row per cell, in the order of the file: labels, what the cell is, what came out."""
        return self.rows

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of the cells that failed, with the `error` of each."""
        return [row for row in self.records if row["status"] != "ok"]

    def results(self) -> list[dict[str, Any]]:
        """`records` without the columns of how they were run: equal for every engine."""
        return [
            {name: value for name, value in row.items() if not name.startswith("run_")}
            for row in self.records
        ]

    def lines(self) -> list[Line]:
        """The cells that were measured, seeds together, by model and text.

        A file of dense weights rounds no activations, whatever was asked: it is one line.
        """
        found: dict[tuple[str, str, str, str], Line] = {}
        for row in self.records:
            if row["status"] != "ok":
                continue
            scheme = "f32" if row["activation_groups"] == "f32" else row["activations"]
            key = (row["model"], row["text"], row["format"], scheme)
            line = found.setdefault(key, Line(*key, []))
            if all(row["seed"] != other["seed"] for other in line.rows):
                line.rows.append(row)
        order = list(dict.fromkeys((row["model"], row["text"]) for row in self.records))
        return sorted(found.values(), key=lambda line: order.index((line.model, line.text)))

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write `records` as a Parquet file, whole or not at all."""
        file = Path(path)
        write_atomic(file, parquet(self.records, schema(("model", "text"))))
        return file

    def to_markdown(self) -> str:
        """A line per model, text, format and activations, and what must be known beside it."""
        from tritlab.report.sweep import HEADS, cells, notes

        table = markdown_table(HEADS, map(cells, self.lines()))
        return "\n".join([table, *(f"{note}  " for note in notes(self))]).rstrip() + "\n"

    def to_latex(self) -> str:
        """The same table for a paper (package booktabs), and its notes."""
        from tritlab.report.sweep import HEADS, cells, notes

        return latex_table(HEADS, map(cells, self.lines()), notes(self))

    def figures(self) -> dict[str, Figure]:
        """Figures by name (needs the extra `plot`)."""
        from tritlab.report.sweep_figures import figures

        return figures(self)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write results.parquet, .csv, .md and .tex, figures as PNG and SVG, and report.html.

        Each file is whole or absent; the folder is made. Returns the path of the report.
        """
        from tritlab.report import figures
        from tritlab.report.sweep import page

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        self.to_parquet(out / "results.parquet")
        self.to_csv(out / "results.csv")
        write_atomic(out / "results.md", self.to_markdown())
        write_atomic(out / "results.tex", self.to_latex())
        images = figures.write(out, self.figures(), vector=True)
        report = out / "report.html"
        write_atomic(report, page(self, images))
        return report

    def _repr_html_(self) -> str:
        from tritlab.report.sweep import fragment

        return fragment(self)

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        return f"<Sweep {self.spec.name}: {len(self.records)} cells, {len(self.failed)} failed>"
