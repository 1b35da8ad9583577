"""What notebooks stand on: verdicts, known distributions, sums in stated orders, sizes."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import numpy as np
import pytest

import tritlab as tl
from tritlab import notebook
from tritlab.notebook import figure, published, sums, timing, weights


def test_a_verdict_needs_conditions_that_are_bools_and_hold():
    found = notebook.verdict("So  it is.", {"a": True, "b": np.bool_(True)})
    assert found.text == "So it is."
    assert found.conditions == ("a", "b")
    with pytest.raises(notebook.VerdictError, match=r"2 of 3 .*: b; c \[the verdict would"):
        notebook.verdict("So it is.", {"a": True, "b": False, "c": np.bool_(False)})
    with pytest.raises(TypeError, match="'a' is ndarray"):
        notebook.verdict("So it is.", {"a": np.array([True])})
    with pytest.raises(TypeError, match="'a' is int"):
        notebook.verdict("So it is.", {"a": 1})
    with pytest.raises(ValueError, match="cannot fail"):
        notebook.verdict("So it is.", {})


def test_sqnr_of_numbers_worked_out_by_hand():
    exact = np.array([3.0, 4.0], np.float32)
    assert weights.sqnr(exact, np.array([3.0, 4.5], np.float32)) == pytest.approx(20.0)
    assert weights.sqnr(exact, exact) == math.inf


def test_the_bound_of_heavy_tails_is_that_of_their_entropy():
    # h of the density on a fine grid, in bits, against the closed form.
    x = np.linspace(-400, 400, 4_000_001)
    scale = math.sqrt(3 / 5)
    density = 8 / (3 * math.pi * math.sqrt(5) * scale) * (1 + (x / scale) ** 2 / 5) ** -3
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-6)
    assert np.trapezoid(density * x**2, x) == pytest.approx(1, abs=1e-4)
    entropy = -np.trapezoid(density * np.log2(density), x)
    gap = 0.5 * math.log2(2 * math.pi * math.e) - entropy
    assert weights.student_t5_limit(0) == pytest.approx(weights.DB_PER_BIT * gap, abs=1e-3)
    step = weights.student_t5_limit(3) - weights.student_t5_limit(2)
    assert step == pytest.approx(weights.DB_PER_BIT)
    assert weights.student_t(400, 400, 0).var() == pytest.approx(1, abs=0.02)


def test_lanes_are_what_they_say():
    w = np.array([[1e8, 1.0, -1e8, 1.0]], np.float32)
    x = np.ones(4, np.float32)
    assert sums.dot_in_lanes(w, x, 1) == [1.0]  # ((1e8 + 1) - 1e8) + 1, 1e8 + 1 being 1e8
    assert sums.dot_in_lanes(w, x, 2) == [2.0]  # (1e8 - 1e8) + (1 + 1)
    with pytest.raises(ValueError, match="lanes must be"):
        sums.dot_in_lanes(w, x, 3)


def test_16_lanes_are_the_order_of_the_library():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 160), dtype=np.float32)
    ours = sums.dot_in_lanes(x, np.ones(160, np.float32), 16)
    assert (sums.ulps(ours, ours) == 0).all()
    assert sums.ulps(np.float32([1.0, -0.0]), np.float32([np.nextafter(1, 2), 0.0])).tolist() == [
        0,
        0,
    ]
    assert sums.ulps(np.float32([1]), np.nextafter(np.float32([1]), np.float32(2))) == [1]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "phi3-long", "bitnet-gguf-tq2_0"])
def test_shapes_give_the_librarys_bytes(name):
    path = notebook.fixture(name)
    shape = published.Shape.of(path)
    for to in ("F16", "Q8_0", "TERNARY", "TERNARY_B3", "SIGN_ROW"):
        model = tl.Model.load(path, to)
        assert shape.params == model.n_params
        assert shape.linear == model.linear_params
        assert shape.linear_bytes(to) == model.linear_bytes
    for kv, element in (("f32", 4), ("f16", 2)):
        if shape.window:  # a batch of a prompt must fit behind the window
            assert shape.kv_bytes(1024, element) < model.cache_bytes(1024, kv)
        else:
            assert shape.kv_bytes(1024, element) == model.cache_bytes(1024, kv)


def test_windows_bound_the_cache():
    shape = next(s for s in published.MODELS if s.name == "Gemma 3 1B")
    full = 2 * 1 * 256 * 2
    assert shape.kv_bytes(100) == 26 * full * 100
    assert shape.kv_bytes(1000) == full * (4 * 1000 + 22 * 512)


def test_rows_that_do_not_fit_are_said_or_fall_back():
    assert published.matrix_bytes(2, 640, "Q4_K") == published.matrix_bytes(2, 640, "Q5_0")
    with pytest.raises(tl.errors.FormatError, match="multiple of 256"):
        published.matrix_bytes(2, 640, "TQ2_0")
    with pytest.raises(tl.errors.FormatError, match="no format 'Q9'"):
        published.matrix_bytes(2, 640, "Q9")


def test_turns_are_taken():
    calls = []
    work = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b") or 7.0}
    found = timing.in_turns(work, seconds=0, best_of=2, least=2)
    assert "".join(calls) == "ab" + "aab" + "baa"  # what returns a number is not timed
    assert found["b"].tolist() == [7.0, 7.0]
    assert len(found["a"]) == 2
    with pytest.raises(ValueError, match="multiple of 64"):
        timing.matrix("Q4_0", 100, 64)


@pytest.mark.parametrize("format", ["F16", "Q4_K", "TERNARY", "SIGN_ROW"])
def test_a_matrix_to_time_is_its_strip_repeated(format):
    made = timing.matrix(format, 192, 256)
    assert made.shape == (192, 256)
    rows = made.dequantize()
    assert (rows[:64] == rows[128:]).all()
    assert made.nbytes == published.matrix_bytes(192, 256, format)


def test_a_figure_is_the_same_twice_and_says_where_it_is_from():
    def draw():
        fig, (ax,) = figure.new()
        figure.bits_axis(ax)
        ax.set(ylim=(0, 10), ylabel="dB", title="A title")
        figure.points(ax, [2.0, 4.5], [3.0, 5.0], ["TERNARY", "Q4_0"])
        figure.legend(fig, ["TERNARY", "Q4_0"])
        return figure.show(fig)

    first, second = draw(), draw()
    assert first.svg() == second.svg()
    assert first.png() == second.png()
    assert first.pdf()[:5] == b"%PDF-"
    texts = [text.get_text() for text in first.figure.texts]
    assert notebook.provenance() in [*texts, first.figure.get_supxlabel()]
    assert first._repr_mimebundle_()["text/plain"] == "figure: A title"


def test_every_format_has_a_family():
    assert {figure.family(f["name"]) for f in tl.formats()} == set(figure.FAMILIES)


def test_outside_a_checkout_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="not inside a checkout"):
        notebook.repository(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there are .*llama"):
        notebook.fixture("none")


def test_int4_has_15_levels_per_group():
    x = np.array([[7.0], [-7.0], [3.4], [0.2], [0.0], [0.0], [0.0], [0.0]], np.float32)
    assert weights.round_to_int4(x, 4)[:, 0].tolist() == [7, -7, 3, 0, 0, 0, 0, 0]
    assert weights.round_to_int4(x * 2, 8)[:4, 0].tolist() == [14, -14, 6, 0]
    with pytest.raises(ValueError, match="groups of 3"):
        weights.round_to_int4(x, 3)


@pytest.mark.parametrize(
    ("absent", "module", "extra"),
    [
        ("nbclient", "build", r"notebooks need nbclient; .*'tritlab\[notebooks\]'"),
        ("jupytext", "build", r"notebooks need jupytext; .*'tritlab\[notebooks\]'"),
        ("matplotlib", "figure", r"'tritlab\[plot\]'"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(absent, module, extra):
    code = f"import sys; sys.modules[{absent!r}] = None; import tritlab.notebook.{module}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert re.search(f"NotInstalledError: .*{extra}", ran.stderr)
