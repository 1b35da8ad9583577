"""What a comparison times: the models, their formats at a real model's shapes, or nothing."""

import dataclasses
import importlib
import json
import math

import numpy as np
import pytest

FORMATS = ["F16", "Q4_0", "TERNARY"]


@pytest.fixture
def speed(fake):
    return importlib.import_module("tritlab.speed")


@pytest.fixture
def cache(fake, monkeypatch):
    """As if every model could stay in a cache: the stand-in is one of 143 MB and more."""
    timing = importlib.import_module("tritlab.timing")
    monkeypatch.setattr(timing, "CACHE", 1 << 30)
    return timing


@pytest.fixture
def at_shapes(fake, cache, model, text, monkeypatch):
    """A small model beside another of its formats; rounds whose times are known."""

    def in_turns(work, seconds, **_):
        for call in work.values():
            call()
        assert seconds == pytest.approx(3 * 1.2)
        seconds_of = {"decode F16": 8e-3, "decode Q4_0": 2e-3, "decode TERNARY": 1e-3}
        seconds_of |= {"prefill F16": 80e-3, "prefill Q4_0": 40e-3, "prefill TERNARY": 20e-3}
        found = {name: np.array([0.5, 1.0, 1.5]) * t for name, t in seconds_of.items()}
        assert list(work) == ["read", *list(found)[:3], "evict", *list(found)[3:]]
        return found | {"read": np.array([30e9, 40e9, 20e9])}

    monkeypatch.setattr(cache, "in_turns", in_turns)
    fake._native.products.clear()
    return fake.compare(
        model, FORMATS, text, others={"trained": (model, "TERNARY")}, chunks=1, progress=False
    )


def test_a_small_model_s_formats_are_timed_at_a_real_models_shapes(fake, at_shapes, speed):
    shapes = [(2560, 2560), (640, 2560), (640, 2560), (2560, 2560)]
    shapes += [(6912, 2560), (6912, 2560), (2560, 6912)]
    assert at_shapes.settings["shapes"]["linear"] == [list(shape) for shape in shapes]
    # Two rows are TERNARY, which is timed once.
    wanted = [(f, s, n) for n in (1, 128) for f in FORMATS for s in shapes]
    assert fake._native.products == wanted

    assert at_shapes.settings["speed"] == "shapes"
    assert at_shapes.bandwidth == 40e9
    f16, q4_0, ternary, trained = at_shapes.records
    weights = 30 * sum(rows * cols for rows, cols in shapes)
    for record, bits, decode, prefill in (
        (f16, 16, 8e-3, 80e-3),
        (q4_0, 4.5, 2e-3, 40e-3),
        (ternary, 2, 1e-3, 20e-3),
        (trained, 2, 1e-3, 20e-3),
    ):
        assert record["speed_of"] == "shapes of BitNet 2B-4T"
        assert record["decode_tok_s"] == pytest.approx(1 / (30 * decode))
        assert record["prefill_tok_s"] == pytest.approx(128 / (30 * prefill))
        assert record["timed_bytes_per_token"] == weights * bits / 8
        rate = weights * bits / 8 / (30 * decode)
        assert record["decode_gb_s"] == pytest.approx(rate / 1e9)
        assert record["share_of_bandwidth"] == pytest.approx(rate / 40e9)
        products = weights * 128 / (30 * prefill)
        assert record["prefill_g_products_s"] == pytest.approx(products / 1e9)
    # What is about the model itself stays so.
    assert q4_0["bytes_per_token"] == q4_0["total_bytes"] == at_shapes.rows[1].total_bytes


def test_everything_that_shows_the_speeds_says_whose_they_are(at_shapes, tmp_path):
    size = f"{at_shapes.rows[0].total_bytes / 1e6:.1f} MB"
    page = at_shapes.save(tmp_path / "out").read_text()
    for shown in (at_shapes.to_markdown(), page, at_shapes._repr_html_(), at_shapes.to_latex()):
        assert "prefill tok/s, 2B-4T shapes" in shown
        assert "decode tok/s, 2B-4T shapes" in shown
        assert f"which is so small ({size}) that it lives in cache" in shown
        said = shown.replace("&#x27;", "'")
        assert "products at the shapes of BitNet 2B-4T's linear layers, weights from memory" in said
        assert "the matrices of its 30 layers alone would allow" in shown
        assert "Rows of one format share one measurement." in shown
        assert "the median absolute deviation of 3 rounds for speed" in shown
    page = page.replace("&#x27;", "'")
    assert "What it buys (speed: at BitNet 2B-4T's shapes)" in page
    assert "What it buys, by layers of BitNet 2B-4T's shapes whose weights come from mem" in page
    assert "decoding at BitNet 2B-4T's shapes is 4.0× as fast as the reference" in page
    assert "Speed at BitNet 2B-4T's shapes: TERNARY decodes fastest" in page
    assert "matrices of 2560 × 2560, 640 × 2560" in page
    left, right = at_shapes.figures()["speed"].axes
    for ax in (left, right):
        assert "at 2B-4T's shapes" in ax.get_title(loc="left")
        assert "linear layers of BitNet 2B-4T, from memory" in ax.get_ylabel()
    assert "128 tokens at once" in right.get_ylabel()
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["settings"]["shapes"]["rounds"] == 3
    assert content["samples"][0]["decode_tok_s"] == pytest.approx(
        [1 / (30 * t) for t in (4e-3, 8e-3, 12e-3)]
    )


def test_the_line_of_the_figure_is_memory_s_limit_at_the_shapes(at_shapes):
    ax = at_shapes.figures()["speed"].axes[0]
    line = next(line for line in ax.lines if len(line.get_xdata()) == 200)
    weights = 30 * 69_468_160
    np.testing.assert_allclose(line.get_ydata(), 40e9 / (weights * line.get_xdata() / 8))


def test_a_larger_model_is_timed_itself(comparison):
    assert comparison.settings["speed"] == "model"
    assert "shapes" not in comparison.settings
    assert all(record["speed_of"] == "model" for record in comparison.records)
    shown = comparison.to_markdown()
    assert "| prefill tok/s | decode tok/s | GB/s read |" in shown
    assert "shapes" not in shown
    assert "cache" not in shown


def test_the_rule_is_about_the_reference_s_bytes(fake, model, text, speed, monkeypatch):
    timing = importlib.import_module("tritlab.timing")
    loaded = fake.Model.load(model, "Q4_0")
    assert speed.choose("auto", loaded) == "model"
    monkeypatch.setattr(timing, "CACHE", loaded.total_bytes)
    assert speed.choose("auto", loaded) == "shapes"
    assert speed.choose("model", loaded) == "model"
    assert speed.choose("none", loaded) == "none"
    # F16 is larger than that, so memory is what these rows wait for, some of them at least.
    got = fake.compare(model, ["F16", "Q4_0"], text, chunks=1, progress=False)
    assert got.settings["speed"] == "model"


def test_a_choice_wins_over_the_rule(fake, cache, model, text, speed, monkeypatch):
    got = fake.compare(model, ["Q4_0"], text, chunks=1, speed="model", progress=False)
    assert got.settings["speed"] == "model"
    assert "may stay in a cache: then memory does not limit its decode" in got.to_markdown()

    monkeypatch.setattr(cache, "CACHE", 0)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    got = fake.compare(model, ["Q4_0"], text, chunks=1, speed="shapes", progress=False)
    assert got.settings["speed"] == "shapes"
    assert got.settings["shapes"]["rounds"] == 3
    shown = got.to_markdown()
    assert "Speed is not that of Example <135M>. It is that of products" in shown
    assert "cache" not in shown
    assert "share one measurement" not in shown


def test_nothing_is_timed_if_nothing_is_asked_for(fake, model, text, tmp_path, monkeypatch):
    def measured(*_):
        raise AssertionError

    for name in ("measure_bandwidth", "measure_dot_peak"):
        monkeypatch.setattr(fake._native, name, measured)
    monkeypatch.setattr(fake.Model, "bench", measured)
    got = fake.compare(model, ["Q4_0"], text, chunks=1, speed="none", progress=False)
    page = got.save(tmp_path / "out").read_text()
    assert math.isnan(got.records[1]["decode_tok_s"])
    assert got.records[1]["speed_of"] == "none"
    for shown in (got.to_markdown(), page, got.to_latex()):
        assert "tok/s" not in shown
        assert "bandwidth" not in shown
        assert "deviation" not in shown
    assert "nan" not in got.to_markdown()
    assert not (tmp_path / "out" / "speed.png").exists()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["samples"] == []
    from tritlab.report.figures import plot_decode, plot_prefill

    for plot in (plot_decode, plot_prefill):
        assert plot(got).texts[0].get_text() == "not timed"


def test_a_file_of_several_formats_says_as_which_it_is_timed(at_shapes):
    row = at_shapes.rows[1]
    linear = next(t for t in row.tensors if t["role"] == "linear")
    other = linear | {"name": "blk.1.attn_q.weight", "format": "Q8_0"}
    assert "throughout" not in at_shapes.to_markdown()
    at_shapes.rows[1] = dataclasses.replace(row, tensors=[*row.tensors, other])
    assert "Q4_0 is timed as Q4_0 throughout." in at_shapes.to_markdown()


def test_a_wrong_choice(fake, model, text):
    with pytest.raises(fake.errors.EvaluationError, match="expected auto, model, shapes, none"):
        fake.compare(model, ["Q4_0"], text, speed="fast", progress=False)


def test_the_command_s_choice(fake, model, text, tmp_path):
    from typer.testing import CliRunner

    from tritlab.cli import app

    line = ["compare", str(model), "-t", str(text), "-f", "Q4_0", "-n", "1", "-o", str(tmp_path)]
    got = CliRunner().invoke(app, [*line, "--speed", "none", "--json"])
    assert got.exit_code == 0, got.stderr
    content = json.loads(got.stdout)
    assert content["settings"]["speed"] == "none"
    assert content["limits"] == {"read_bandwidth": None, "dot_peak": None}
    got = CliRunner().invoke(app, [*line, "--speed", "none"])
    assert "tok/s" not in got.stdout
