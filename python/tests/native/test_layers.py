"""Layers measured one by one: the numbers are those of NumPy over the same arrays."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import tritlab as tl
from tritlab._progress import Quiet
from tritlab.layerwise import measuring

FIXTURES = Path(__file__).parents[3] / "model/tests/data/fixtures"
SIZES = {"context": 32, "chunks": 3, "progress": False}


@pytest.fixture(scope="module")
def text():
    return np.random.default_rng(5).integers(0, 128, 8 * 32, dtype=np.int32)


@pytest.fixture(scope="module")
def found(text, tmp_path_factory):
    path = FIXTURES / "llama/model.gguf"
    return tl.layers(path, text, "Q4_0", mode="both", **SIZES)


def scored(model, text, name):
    """Inputs of a layer at the positions whose predictions are scored, float32 [inputs, tokens]."""
    windows = [model.capture(text[w * 32 : (w + 1) * 32], name)[name][16:31] for w in range(3)]
    return np.ascontiguousarray(np.concatenate(windows).T)


def relative(y, wanted):
    return float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", ["blk.0.attn_q", "blk.1.ffn_down", "output"])
def test_numbers_are_those_of_the_arrays(path, text, found, name):
    row = next(r for r in found.records if r["tensor"] == f"{name}.weight")
    model, rounded = tl.Model.load(path), tl.Model.load(path, "Q4_0", head="Q4_0")
    w = model.matrix(f"{name}.weight").dequantize().astype(np.float64)
    matrix = rounded.matrix(f"{name}.weight")
    q = matrix.dequantize().astype(np.float64)
    assert row["rel_weight_error"] == pytest.approx(relative(q, w), rel=1e-9)
    assert row["weight_sqnr_db"] == pytest.approx(-20 * math.log10(relative(q, w)), rel=1e-9)
    cosine = np.vdot(w, q) / np.linalg.norm(w) / np.linalg.norm(q)
    assert row["weight_cosine"] == pytest.approx(cosine, rel=1e-9)
    z = (w - w.mean()) / w.std()
    assert row["weight_kurtosis"] == pytest.approx(np.mean(z**4), rel=1e-9)
    x = scored(model, text, f"{name}.input" if name != "output" else "output.input")
    z = (x.astype(np.float64) - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
    assert row["input_kurtosis"] == pytest.approx(np.mean(z**4), rel=1e-6)
    assert row["input_outlier_share"] == pytest.approx(np.mean(np.abs(z) > 6))
    y = w @ x
    assert row["rel_output_error"] == pytest.approx(relative(matrix @ x, y), rel=1e-4)
    assert row["rel_output_error_f32_activations"] == pytest.approx(relative(q @ x, y), rel=1e-4)
    assert row["rel_output_error"] > row["rel_output_error_f32_activations"] > 0
    back = tl.quantize_activations(x, "32").dequantize().astype(np.float64)
    assert row["input_sqnr_db"] == pytest.approx(-20 * math.log10(relative(back, x)), rel=1e-6)
    codes = matrix.codes
    assert row["zero_code_share"] == pytest.approx(np.mean(codes == 0))
    p = np.unique(codes, return_counts=True)[1] / codes.size
    assert row["code_entropy_bits"] == pytest.approx(-np.sum(p * np.log2(p)))
    histograms = found.layer(name).histograms
    assert set(histograms) == {"weights", "inputs", "codes", "scales"}
    values, counts = np.unique(codes, return_counts=True)
    assert histograms["codes"] == {"values": values.tolist(), "counts": counts.tolist()}
    assert sum(histograms["scales"]["counts"]) == codes.size // 32
    assert sum(histograms["weights"]["counts"]) == w.size


def test_kl_is_that_of_the_model_with_some_layers_swapped(path, text, found):
    reference = tl.Model.load(path)
    names = [row["tensor"] for row in found.records]
    assert names[0] == "token_embd.weight"
    assert names[-1] == "output.weight"
    assert names[1:8] == [
        f"blk.0.{kind}.weight"
        for kind in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ]

    def kl(swapped):
        model = tl.Model.load(path, overrides=dict.fromkeys(swapped, "Q4_0"))
        return float(np.mean(model.evaluate(text[:96], context=32, reference=reference)["kl"]))

    for i in (0, 4, len(names) - 1):
        row = found.records[i]
        assert row["kl_alone_nats"] == pytest.approx(kl([names[i]]), rel=1e-12)
        assert row["kl_up_to_nats"] == pytest.approx(kl(names[: i + 1]), rel=1e-12)
    alone = [row["kl_alone_nats"] for row in found.records]
    assert [row["kl_share"] for row in found.records] == pytest.approx(np.array(alone) / sum(alone))


def test_up_to_alone_shares_by_steps(path, text):
    found = tl.layers(path, text, "Q4_0", mode="up_to", **SIZES)
    steps = np.diff([0.0, *(row["kl_up_to_nats"] for row in found.records)])
    assert [r["kl_share"] for r in found.records] == pytest.approx(steps / steps.sum())
    assert all(row["kl_alone_nats"] is None for row in found.records)


def test_codes_and_scales_give_the_weights_back(rng):
    w = rng.standard_normal((3, 512), dtype=np.float32)
    for info in tl.formats():
        m = tl.quantize(w, info["name"])
        if info["activation"] == "f32":
            for name in ("codes", "group_scales"):
                with pytest.raises(tl.errors.FormatError, match="has no codes and no scales"):
                    getattr(m, name)
            continue
        scales = m.group_scales
        assert (m.codes.dtype, m.codes.shape, scales.dtype) == (np.int8, (3, 512), np.float32)
        spread = np.repeat(np.broadcast_to(scales, (3, scales.shape[1])), 512 // scales.shape[1], 1)
        product = spread * m.codes
        gap = (product - m.dequantize()).reshape(3, -1, 16)
        # A minimum is one number for all weights that share it, and 0 where a format has none.
        assert np.ptp(gap, axis=2).max() < 1e-5, info["name"]
        has_minimum = info["name"] in ("Q4_1", "Q5_1", "Q4_K", "Q5_K", "Q2_K")
        assert (np.abs(gap).max() > 0) == has_minimum, info["name"]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("bitnet-gguf-tq2_0", "file"),
        ("phi3-short", "Q4_0"),
        ("gemma3", "TERNARY"),
        ("qwen3", "Q4_K"),
    ],
)
def test_other_models(name, format, text):
    """Fused matrices, norms inside, a head that is the embedding; a ternary file as it is."""
    path = FIXTURES / name / "model.gguf"
    ids = text % tl.Model.load(path).n_vocab
    found = tl.layers(path, ids, format, **SIZES)
    rows = found.to_pandas()
    linear = rows[rows.role == "linear"]
    assert (linear.kl_alone_nats > 0).all() == (format != "file")
    if format == "file":
        assert (rows.kl_alone_nats == 0).all()
        assert (rows.rel_weight_error == 0).all()
        assert rows.weight_sqnr_db.isna().all()  # nothing was lost: infinite, which no file can say
        assert linear.zero_code_share.between(0.1, 0.9).all()
        assert linear.code_entropy_bits.between(0.5, 1.585).all()
        # BitLinear layers of this model round activations, and their inputs are known.
        assert linear.rel_output_error.between(1e-4, 0.1).all()
        assert (linear.rel_output_error_f32_activations < 1e-6).all()
    if name == "phi3-short":
        assert "attn_qkv" in set(linear.kind)
    if format == "Q4_K":  # llama-quantize's choice for rows that do not fit
        assert set(linear.format) == {"Q5_0"}
    assert math.isclose(rows.kl_share.sum(), 1.0) or format == "file"


def test_a_report_goes_on_where_it_was(path, text, tmp_path):
    class Stops(Quiet):
        """Ends the work after so many rows, as a kill would."""

        def __init__(self, after=None):
            self.after, self.rows = after, []

        def row(self, summary):
            self.rows.append(summary)
            if len(self.rows) == self.after:
                raise LookupError(summary)

    def run(after=None):
        stops = Stops(after)
        settings = {**SIZES, "progress": stops, "store": tmp_path}
        return tl.layers(path, text, "Q8_0", mode="both", **settings), stops.rows

    with pytest.raises(LookupError):
        run(after=5)
    kept = len(list(tmp_path.glob("*.json")))
    assert kept == 15  # numbers, alone and up to, of five layers
    found, rows = run()
    assert found.reused == 15
    assert len(rows) == len(found.layers) == 16
    whole = tl.layers(path, text, "Q8_0", mode="both", **SIZES)
    assert found.records == whole.records
    cell = next(tmp_path.glob("*.json"))
    cell.write_text(cell.read_text()[:-30])
    again, _ = run()
    assert again.damaged == [cell.name]
    assert cell.name in again.to_markdown()
    assert again.records == whole.records


def test_an_importance_matrix_changes_the_rounding(path, text, tmp_path):
    importance = tl.imatrix(tl.Model.load(path), text[96:], context=32)
    importance.save(tmp_path / "i.gguf")
    plain = tl.layers(path, text, "Q4_0", store=tmp_path / "cells", **SIZES)
    weighed = tl.layers(path, text, "Q4_0", imatrix=importance, store=tmp_path / "cells", **SIZES)
    from_file = tl.layers(path, text, "Q4_0", imatrix=tmp_path / "i.gguf", **SIZES)
    assert weighed.reused == 0
    assert weighed.records == from_file.records
    a, b = plain.to_pandas(), weighed.to_pandas()
    linear = a.role == "linear"
    assert (a[linear].rel_weight_error != b[linear].rel_weight_error).all()
    assert (a[linear].rel_output_error > b[linear].rel_output_error).mean() > 0.8
    assert (a[~linear].rel_weight_error == b[~linear].rel_weight_error).all()


@pytest.mark.parametrize("mode", ["alone", "up_to"])
def test_a_projection_is_each_layers_rule(path, text, tmp_path, mode):
    """As `Model.load` and `compare` take it: the same codes, and the KL of those swapped."""
    asked = {"mode": mode, "store": tmp_path, **SIZES}
    found = tl.layers(path, text, "TERNARY_ROW+optimal", **asked)
    assert found.format == "TERNARY_ROW+optimal"
    own_rule = tl.layers(path, text, "TERNARY_ROW", **asked)
    assert own_rule.reused == 0  # it is kept apart from the other rule's
    whole = tl.Model.load(path, "TERNARY_ROW+optimal")
    reference = tl.Model.load(path)
    names = [row["tensor"] for row in found.records]
    for at, (row, own) in enumerate(zip(found.records, own_rule.records, strict=True)):
        if row["role"] != "linear":
            continue
        assert row["format"] == "TERNARY_ROW"
        exact = reference.matrix(row["tensor"]).dequantize()
        chosen = tl.project(exact, "optimal", per="row")
        assert row["rel_weight_error"] == pytest.approx(relative(chosen.dequantize(), exact))
        assert np.array_equal(whole.matrix(row["tensor"]).codes, chosen.codes)
        assert row["rel_weight_error"] < own["rel_weight_error"]
        if at in (1, 9):
            swapped = names[: at + 1] if mode == "up_to" else [row["tensor"]]
            formats = dict.fromkeys(swapped, "TERNARY_ROW+optimal")
            model = tl.Model.load(path, overrides=formats)
            kl = np.mean(model.evaluate(text[:96], context=32, reference=reference)["kl"])
            assert row[f"kl_{mode}_nats"] == pytest.approx(float(kl), rel=1e-12)


def test_another_rule_changes_a_layer_of_the_same_format(path, text):
    sizes = {**SIZES, "chunks": 1}
    found = tl.layers(path, text, "TERNARY_ROW+twn", base="TERNARY_ROW+optimal", **sizes)
    linear = [row for row in found.records if row["role"] == "linear"]
    assert all(row["kl_alone_nats"] > 0 for row in linear)
    same = tl.layers(path, text, "TERNARY_ROW+twn", base="TERNARY_ROW+twn", **sizes)
    assert [r["kl_alone_nats"] for r in same.records if r["role"] == "linear"] == [0.0] * 14


def test_a_projection_has_no_importance(path, text):
    importance = tl.imatrix(tl.Model.load(path), text, context=32)
    with pytest.raises(tl.errors.FormatError, match="a projection does not use importance"):
        tl.layers(path, text, "TERNARY+twn", imatrix=importance, **SIZES)


def test_what_cannot_be_measured(path, text):
    wrong = tl.errors.EvaluationError
    with pytest.raises(wrong, match="mode is one of alone, up_to, both, not 'all'"):
        tl.layers(path, text, "Q4_0", mode="all")
    with pytest.raises(tl.errors.FormatError, match="no projection 'best'; there are: absmean"):
        tl.layers(path, text, "TERNARY+best", **SIZES)
    with pytest.raises(tl.errors.FormatError, match="Q4_0"):
        tl.layers(path, text, "Q4_0+twn", **SIZES)
    with pytest.raises(tl.errors.FormatError, match="Q9"):
        tl.layers(path, text, "Q9", **SIZES)
    with pytest.raises(wrong, match="fewer than one window"):
        tl.layers(path, text[:20], "Q4_0", **SIZES)


def test_forms_of_the_result(found, tmp_path):
    with pytest.raises(tl.errors.EvaluationError, match=r"no layer 'blk\.9'"):
        found.layer("blk.9")
    page = found.save(tmp_path / "new" / "folder")
    names = {p.name for p in page.parent.iterdir()}
    assert names == {
        "explorer.html",
        *(f"results.{kind}" for kind in ("csv", "json", "md")),
        *(f"{name}.{kind}" for name in ("layers", "worst") for kind in ("png", "svg")),
    }
    content = json.loads((page.parent / "results.json").read_text())
    assert content["schema"] == "tritlab.layers/1"
    assert len(content["records"]) == len(content["histograms"]) == 16
    table = found.to_latex().partition("\\end{tabular}")[0]
    assert table.count("\\\\\n") == 17
    assert found.to_polars()["tensor"].to_list() == [row["tensor"] for row in found.records]
    assert "blk.1.ffn_down" in found._repr_html_()
    assert f"{found.worst().name} " in repr(found)
    assert "http" not in page.read_text().replace("http://www.w3.org/2000/svg", "")


def test_the_widget_has_the_state_and_refuses_another(found, monkeypatch):
    pytest.importorskip("anywidget")
    widget = found.explorer()
    assert widget.metric == "kl_share"
    assert widget.tensor == found.worst().name
    assert len(widget.data["tensors"]) == 16
    widget.tensor, widget.metric = "blk.1.attn_v.weight", "weight_kurtosis"
    assert '"tensor": "blk.1.attn_v.weight"' in widget.to_html()
    assert '"metric": "weight_kurtosis"' in widget.to_html()
    for name in ("tensor", "metric"):
        with pytest.raises(tl.errors.EvaluationError, match=r"no (layer|measure) 'x'; there are"):
            setattr(widget, name, "x")
    synced = widget.get_state()
    assert {"data", "metric", "tensor", "_esm"} <= set(synced)
    assert "export default { render }" in synced["_esm"]
    with pytest.raises(tl.errors.EvaluationError, match="no measure 'x'"):
        found.to_html(metric="x")
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(tl.errors.NotInstalledError, match=r"pip install 'tritlab\[widget\]'"):
        found.explorer()


def test_moments_of_known_numbers():
    x = np.zeros(10_000, np.float32)
    x[:5000], x[5000:] = -1, 1
    assert measuring.shape(x) == {"kurtosis": pytest.approx(1.0), "outlier_share": 0.0}
    x[:] = 0
    x[0] = 100
    got = measuring.shape(x)
    assert got["outlier_share"] == 1e-4
    assert got["kurtosis"] == pytest.approx(10_000 - 3 + 1 / 9999, rel=1e-3)
    assert math.isnan(measuring.shape(np.ones(5, np.float32))["kurtosis"])


def test_the_command_writes_everything(path, text, tmp_path):
    """The tiny model has no tokenizer: the packaged one does."""
    from typer.testing import CliRunner

    from tritlab.cli import app

    line = ["layers", "pair-ternary", "-f", "file", "-t", "persuasion", "-c", "64", "-n", "1"]
    got = CliRunner().invoke(app, [*line, "-o", str(tmp_path / "out")])
    assert got.exit_code == 0, got.stderr
    assert "blk.0.ffn_down" in got.stdout
    assert (tmp_path / "out/explorer.html").is_file()
    again = CliRunner().invoke(app, [*line, "-o", str(tmp_path / "out"), "--json"])
    rows = json.loads(again.stdout)["records"]
    assert {row["kl_alone_nats"] for row in rows} == {0.0}
    ternary = [row for row in rows if row["role"] == "linear"]
    assert all(0.2 < row["zero_code_share"] < 0.6 for row in ternary)
    assert all(1.4 < row["code_entropy_bits"] < 1.585 for row in ternary)
