"""Results as tidy tables: one flat dictionary per row, in the forms that people work with.

`Comparison` and `Sweep` have these methods. Packages that a form needs are extras, and the error
names the one that is missing.
"""

from __future__ import annotations

import csv
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tritlab._extras import need
from tritlab._files import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class Records(ABC):
    """Something whose `records` are a table: every dictionary has the same keys."""

    _index: ClassVar[str | None] = None
    """Column that names the rows of a DataFrame of pandas."""

    @property
    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary per row; units are in the names."""

    def to_pandas(self) -> pd.DataFrame:
        """Return `records` as a DataFrame of pandas (needs the extra `frames`)."""
        frame: pd.DataFrame = need("pandas", "a DataFrame").DataFrame.from_records(
            self.records, index=self._index
        )
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Return `records` as a DataFrame of polars (needs the extra `polars`)."""
        frame: pl.DataFrame = need("polars", "a DataFrame of polars").DataFrame(
            self.records, infer_schema_length=None
        )
        return frame

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write `records` as a Parquet file, whole or not at all (needs the extra `parquet`)."""
        file = Path(path)
        write_atomic(file, parquet(self.records))
        return file

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `records` as CSV, whole or not at all; a number has all its digits."""
        file = Path(path)
        write_atomic(file, csv_text(self.records))
        return file


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """CSV with a line of names; `None` is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def parquet(records: Sequence[dict[str, Any]], schema: Any = None) -> bytes:
    """Bytes of a Parquet file; `schema` is pyarrow's, by default what the values look like."""
    arrow = need("pyarrow", "Parquet")
    table = arrow.Table.from_pylist(list(records), schema=schema)
    buffer = io.BytesIO()
    # Bytes damaged later are seen when they are read.
    need("pyarrow.parquet", "Parquet").write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, the first column to the left and numbers to the right."""
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += ["| " + " | ".join(_markdown(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _markdown(cell: str) -> str:
    return "".join(f"\\{c}" if c in "*|" else c for c in cell.replace("\n", " "))


def latex_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    r"""A `tabular` for the package booktabs, the notes under it; text is escaped.

    Any engine of LaTeX sets it, without packages for symbols.
    """
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        "\\toprule",
        " & ".join(latex(head) for head in heads) + r" \\",
        "\\midrule",
        *[" & ".join(latex(cell) for cell in row) + r" \\" for row in rows],
        "\\bottomrule",
        "\\end{tabular}",
    ]
    if notes:
        said = " \\\\\n".join(latex(note) for note in notes)
        lines += ["\\par\\smallskip", f"{{\\footnotesize\\raggedright\n{said}\\par}}"]
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after \\ a bracket would be its argument
    "*": "{*}",  # and a star its form
    "\n": " ",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "∞": r"$\infty$",
    "·": r"$\cdot$",
    "†": r"\dag{}",
    "…": r"\ldots{}",
    "\u00a0": "~",
}
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def latex(text: str) -> str:
    """Text as LaTeX sets it letter for letter; 10⁸ becomes a power."""
    out, power = [], ""
    for letter in f"{text}\0":
        raised = letter.translate(_RAISED)
        if raised != letter:
            power += raised
            continue
        if power:
            out.append(f"$^{{{power}}}$")
            power = ""
        out.append(_LATEX.get(letter, letter))
    return "".join(out[:-1])
