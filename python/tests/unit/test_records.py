"""One table in every form: the values are the same in each."""

from __future__ import annotations

import csv
import re

import pandas as pd
import pytest


def test_every_form_has_the_same_values(comparison, tmp_path):
    records = comparison.records
    parquet = pd.read_parquet(comparison.to_parquet(tmp_path / "x.parquet"))
    polars = comparison.to_polars()
    pandas = comparison.to_pandas().reset_index()
    for i, record in enumerate(records):
        assert polars.row(i, named=True) == record
        assert pandas.loc[i].to_dict() == record
        assert parquet.loc[i].to_dict() == record
    with comparison.to_csv(tmp_path / "x.csv").open() as file:
        read = list(csv.DictReader(file))
    assert read == [{name: str(value) for name, value in record.items()} for record in records]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] == "x") == ["x.csv", "x.parquet"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Q4_0", r"Q4\_0"),
        ("50 % of {a} & #1 $x", r"50 \% of \{a\} \& \#1 \$x"),
        (r"C:\x~y^z", r"C:\textbackslash{}x\textasciitilde{}y\textasciicircum{}z"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("30.3 ± 1.1", r"30.3 $\pm$ 1.1"),
        ("(4.2 ± 0.6) × 10⁸", r"(4.2 $\pm$ 0.6) $\times$ 10$^{8}$"),
        ("10⁻¹² tokens", "10$^{-12}$ tokens"),
        ("[a] *", "{[}a] {*}"),
        ("∞ – …", r"$\infty$ -- \ldots{}"),
        ("two\nlines", "two lines"),
        ("", ""),
    ],
)
def test_latex_is_escaped(fake, text, wanted):
    from tritlab.records import latex

    assert latex(text) == wanted


def test_latex_of_a_comparison_has_every_row_and_note(fake, comparison):
    got = comparison.to_latex()
    assert got.count(r"\begin{tabular}") == got.count(r"\end{tabular}") == 2
    for table in re.findall(r"\\begin\{tabular\}\{(lr*)\}\n(.*?)\\end\{tabular\}", got, re.S):
        lines = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert len(lines) == 1 + len(comparison.rows)
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(table[0]) - 1 for line in lines)
        assert [rule for rule in ("top", "mid", "bottom") if rf"\{rule}rule" in table[1]] == [
            "top",
            "mid",
            "bottom",
        ]
    # Outside of escapes, nothing that LaTeX would take for a command.
    plain = re.sub(r"\\[%&_#{}$]", "", got)
    assert not re.search(r"[%#_]", plain)
    assert plain.isascii()
    assert "the first 2048 of 8800 tokens" in got


def test_markdown_cells_cannot_break_a_table(fake):
    from tritlab.records import markdown_table

    assert markdown_table(["a", "b"], [["x|y*", "1\n2"]]) == (
        "| a | b |\n| --- | ---: |\n| x\\|y\\* | 1 2 |\n"
    )
