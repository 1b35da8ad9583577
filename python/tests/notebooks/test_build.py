"""A notebook that is not as it must be is refused, by name and cell."""

from __future__ import annotations

import pytest

from tritlab.notebook import build

FIRST = """\
# %% [markdown]
# # Is it so?
#
# **Claim.** It is
# so.
#
# **How it could fail.** It is not.

"""
LAST = """\
# %%
from tritlab import notebook

notebook.verdict("It is so: 2.", {"one is one": 1 == 1})
"""


@pytest.fixture
def source(tmp_path):
    def write(text, name="01-so.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_notebook_becomes_an_entry(source):
    path = source(FIRST + "# %%\nprint('here')\n\n" + LAST)
    cells = []
    ran = build.run(path, on_cell=lambda number, total: cells.append((number, total)))
    entry = build.entry(path, ran)
    assert entry == build.Entry("01-so", "Is it so?", "It is so.", "It is not.", "It is so: 2.")
    assert cells == [(1, 3), (2, 3), (3, 3)]
    assert "[01. Is it so?](01-so.ipynb)" in build.index([entry])
    path.with_suffix(".ipynb").write_text(build.written(ran))
    assert build.same_source(path, path.with_suffix(".ipynb")) == ""

    path.write_text(path.read_text().replace("'here'", "'there'"))
    assert build.same_source(path, path.with_suffix(".ipynb")) == (
        "cell 2 of 01-so.ipynb is not that of 01-so.py"
    )
    path.write_text(FIRST + LAST)
    assert "has 3 cells, 01-so.py 2" in build.same_source(path, path.with_suffix(".ipynb"))
    path.with_suffix(".ipynb").write_text(build.written(build.read(path)))
    assert "was not run" in build.same_source(path, path.with_suffix(".ipynb"))
    path.with_suffix(".ipynb").unlink()
    assert build.same_source(path, path.with_suffix(".ipynb")) == "there is no 01-so.ipynb"


def test_packages_that_a_notebook_needs_are_named_if_they_are_missing(source):
    text = FIRST + "# **Needs.** numpy, no_such_package (`pip install it`). Words.\n\n" + LAST
    assert build.missing(source(text)) == ["no_such_package"]
    assert build.missing(source(text.replace("no_such_package", "pandas"))) == []
    assert build.missing(source(FIRST + LAST)) == []


def test_a_verdict_that_does_not_hold_names_cell_and_condition(source):
    path = source(FIRST + LAST.replace("1 == 1", "1 == 2"))
    with pytest.raises(
        build.NotebookError, match=r"01-so\.py, cell 2 of 2 .*VerdictError: 1 of 1 .*one is one"
    ):
        build.run(path)


def test_a_cell_that_fails_is_named(source):
    path = source(FIRST + "# %%\nx = 1\n\n# %%\nx / 0\n\n" + LAST)
    with pytest.raises(build.NotebookError, match=r"cell 3 of 4 \('x / 0'\): ZeroDivisionError"):
        build.run(path)


def test_a_cell_that_hangs_is_ended_and_named(source):
    path = source(FIRST + "# %%\nwhile True:\n    pass\n\n" + LAST)
    with pytest.raises(build.NotebookError, match=r"cell 2 of 3 \('while True:'\): .*timed out"):
        build.run(path, timeout=2)


def test_a_kernel_that_dies_is_named(source):
    path = source(FIRST + "# %%\nimport os\n\nos._exit(3)\n\n" + LAST)
    with pytest.raises(build.NotebookError, match=r"cell 2 of 3 .*died"):
        build.run(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAST, "no question and no claim and no failure"),
        (FIRST.replace("**How it could fail.** It is not.", "") + LAST, "no failure"),
        (FIRST + LAST + "\n# %%\n1 + 1\n", "the last cell must give one"),
        (FIRST + "# %%\n1 + 1\n", "the last cell must give one"),
    ],
)
def test_a_notebook_without_its_parts_is_refused(source, text, says):
    path = source(text)
    ran = build.run(path)
    with pytest.raises(build.NotebookError, match=says):
        build.entry(path, ran)


def test_figures_leave_as_svg_and_stay_as_png(source):
    draw = (
        "# %%\nfrom tritlab.notebook import figure\n\nfig, (ax,) = figure.new()\n"
        "ax.plot([1, 2])\nfigure.show(fig)\n\n"
    )
    path = source(FIRST + draw + LAST)
    ran = build.run(path)
    (svg,) = build.take_svg(ran)
    assert "<svg" in svg
    assert set(ran.cells[1].outputs[0].data) == {"image/png", "text/plain"}
    assert build.take_svg(ran) == []


def test_only_numbered_files_are_notebooks(source, tmp_path):
    source("", "02-b.py")
    source("", "01-a.py")
    source("", "build.py")
    assert [path.name for path in build.sources(tmp_path)] == ["01-a.py", "02-b.py"]


def test_an_index_without_markers_is_refused():
    with pytest.raises(build.NotebookError, match="once each"):
        build.splice("# Experiments", "")
