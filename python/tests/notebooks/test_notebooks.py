"""Every notebook runs from its source to its verdict, and what is kept of it comes from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tritlab.notebook import build

FOLDER = Path(__file__).parents[3] / "experiments"
SOURCES = build.sources(FOLDER)
MOST_BYTES = 150_000
each = pytest.mark.parametrize("source", SOURCES, ids=[s.stem for s in SOURCES])


def test_there_are_notebooks_and_all_of_them_have_sources():
    assert len(SOURCES) >= 5
    assert {s.stem for s in SOURCES} == {path.stem for path in FOLDER.glob("*.ipynb")}


def marks(source):
    """Large ones are for `make test-large`; the summary says which lack a package (conftest.py)."""
    found = [pytest.mark.large] if build.is_large(source) else []
    if lacking := build.missing(source):
        found.append(pytest.mark.skip(reason=f"not installed: {', '.join(lacking)}"))
    return found


@pytest.mark.notebooks
@pytest.mark.parametrize("source", [pytest.param(s, id=s.stem, marks=marks(s)) for s in SOURCES])
def test_the_verdict_holds(source):
    entry = build.entry(source, build.run(source, timeout=300))
    assert entry.verdict


@each
def test_the_kept_notebook_comes_from_its_source(source):
    assert build.same_source(source, source.with_suffix(".ipynb")) == ""


@each
def test_the_kept_notebook_has_nothing_of_a_machine(source):
    path = source.with_suffix(".ipynb")
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    for place in (str(Path.home()), str(FOLDER.parent), "/tmp/", "site-packages"):
        assert place not in text
    kinds = {o["output_type"] for cell in notebook["cells"] for o in cell.get("outputs", [])}
    assert "error" not in kinds
    assert len(text.encode()) <= MOST_BYTES


@each
def test_its_figures_are_kept_for_papers(source):
    notebook = build.load(source.with_suffix(".ipynb"))
    shown = sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    kept = sorted((FOLDER / "figures").glob(f"{source.stem}-*.svg"))
    assert len(kept) == shown >= 1
    for path in kept:
        assert "<svg" in path.read_text(encoding="utf-8")[:1000]


def test_the_index_is_made_of_the_notebooks():
    entries = [build.entry(s, build.load(s.with_suffix(".ipynb"))) for s in SOURCES]
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert build.splice(text, build.index(entries)) == text
