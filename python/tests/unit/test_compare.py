import ast
import csv
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest


def test_reference_is_first_and_loaded_once(comparison):
    assert [row.label for row in comparison.rows] == [
        "F16",
        "Q8_0",
        "Q4_0",
        "file (Q4_1)",
        "TERNARY",
    ]
    assert [row.is_reference for row in comparison.rows] == [True, False, False, False, False]
    assert comparison.reference == "F16"


def test_reference_is_added(fake, model, text):
    got = fake.compare(model, ["Q4_0"], text, chunks=1, progress=False)
    assert [row.label for row in got.rows] == ["F16", "Q4_0"]


def test_file_can_be_the_reference(fake, model, text):
    got = fake.compare(model, ["Q4_0"], text, reference="file", chunks=1, progress=False)
    assert got.reference == "file (Q4_1)"
    assert got.rows[1].receipt["reference"] == "file"
    assert "Compared with the file as it is (Q4_1)" in got.to_markdown()


def test_records(comparison):
    record = comparison.records[2]
    assert record["bits_per_weight"] == 4.5
    assert record["share_of_bandwidth"] == pytest.approx(0.74 / 1.01, rel=1e-3)
    assert record["decode_gb_s"] == pytest.approx(
        record["bytes_per_token"] * record["decode_tok_s"] / 1e9
    )
    assert record["kl_nats"] > 0
    assert comparison.records[0]["kl_nats"] == 0
    frame = comparison.to_pandas()
    assert list(frame.index) == [row.label for row in comparison.rows]
    assert frame.loc["Q4_0", "perplexity"] == record["perplexity"]


def test_ternary_says_that_ruin_is_expected(comparison):
    row = next(line for line in comparison.to_markdown().splitlines() if "TERNARY" in line)
    assert r"(ruin expected\*)" in row
    assert "A model trained in ternary is a different thing" in comparison.to_markdown()
    assert comparison.rows[3].note == ""  # the file as it is was not rounded


def test_every_table_says_what_was_compared_and_how_much_was_read(comparison):
    for shown in (comparison.to_markdown(), comparison._repr_html_()):
        assert "own weights expanded to F16" in shown
        assert "the first 2048 of 8800 tokens (4 windows of 512" in shown
        assert "already quantised (Q4_1)" in shown


def test_save_writes_whole_files_only(comparison, tmp_path):
    out = tmp_path / "out"
    report = comparison.save(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "kl-tokens.png",
        "per-token.npz",
        "quality.png",
        "report.html",
        "results.csv",
        "results.json",
        "results.md",
        "speed.png",
    ]
    assert report == out / "report.html"
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["format"] for row in rows] == [row.label for row in comparison.rows]
    content = json.loads((out / "results.json").read_text())
    assert content["machine"]["cpu"] == "Example CPU"
    assert len(content["receipts"]) == 5
    assert set(content["versions"]) == {"tritlab", "python", "numpy"}
    assert np.load(out / "per-token.npz")["Q4_0/kl"].shape == (1020,)
    for name in ("quality", "speed", "kl-tokens"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_report_loads_nothing(comparison, tmp_path):
    page = comparison.save(tmp_path).read_text()
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')>\s]{0,30})""", page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"<(script|link|iframe)|@import", page)
    assert "Example &lt;135M&gt;" in page
    assert "<135M>" not in page
    for row in comparison.rows:
        assert row.receipt["results"]["fingerprint"] in page


def test_a_failed_write_leaves_nothing(fake, tmp_path, monkeypatch):
    from tritlab import _files

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(_files.os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        _files.write_atomic(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_needs_its_folder(fake, tmp_path):
    from tritlab import _files

    with pytest.raises(FileNotFoundError, match="no such folder to write into") as caught:
        _files.write_atomic(tmp_path / "absent" / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_nan(fake):
    from tritlab._files import to_json

    assert json.loads(to_json({"a": math.nan, "b": (np.float32(1), math.inf)})) == {
        "a": None,
        "b": [1.0, None],
    }


def test_token_ids_instead_of_a_text(fake, model):
    ids = np.arange(64, dtype=np.int32)
    got = fake.compare(model, ["Q4_0"], ids, context=16, chunks=None, progress=False)
    assert got.text["kind"] == "ids"
    assert got.text["windows"] == 4
    assert "the whole text" in got.text_sentence
    with pytest.raises(TypeError, match="int32"):
        fake.compare(model, ["Q4_0"], ids.astype(np.int64), progress=False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"formats": ["Q9_9"]}, "FormatError", "no format 'Q9_9'; there are: F32, F16"),
        ({"formats": []}, "FormatError", "at least one"),
        ({"chunks": 0}, "EvaluationError", "at least 1"),
        ({"context": 1}, "EvaluationError", "at least 2"),
        ({"context": 100_000}, "EvaluationError", "fewer than one window of 100000"),
        ({"backend": "neon"}, "BackendError", "no backend 'neon'"),
    ],
)
def test_wrong_arguments(fake, model, text, arguments, error, message):
    call = {"formats": ["Q4_0"], "progress": False} | arguments
    with pytest.raises(getattr(fake.errors, error), match=message):
        fake.compare(model, call.pop("formats"), text, **call)


def test_perplexity_function(fake, model, text):
    q = fake.perplexity(model, text, chunks=2)
    assert q.scored == 510
    assert q.against is None
    loaded = fake.Model.load(model)
    reference = fake.Model.load(model, "F16")
    assert fake.perplexity(loaded, text.read_text(), reference=reference).against is not None


def test_a_format_that_does_not_fit_is_a_row_and_not_the_end(fake, model, text, tmp_path):
    got = fake.compare(model, ["F16", "TQ2_0", "Q4_0"], text, chunks=1, progress=False)
    assert [row.label for row in got.rows] == ["F16", "Q4_0"]
    assert "576" in got.impossible["TQ2_0"]
    assert got.to_dict()["impossible"] == got.impossible
    page = got.save(tmp_path / "out").read_text()
    for shown in (page, got.to_markdown()):
        assert "TQ2_0 (not possible†)" in shown
        assert "576 columns" in shown
    with pytest.raises(fake.errors.ShapeError, match="576"):
        fake.compare(model, ["Q4_0"], text, reference="TQ2_0", progress=False)


def test_estimates_show_the_doubtful_digit(fake):
    from tritlab.report.text import estimate, number
    from tritlab.statistics import Estimate

    assert estimate(Estimate(30.3238, 1.073)) == "30.3 ± 1.1"
    assert estimate(Estimate(0.0484, 0.0052)) == "0.048 ± 0.005"
    assert estimate(Estimate(123456.7, 4321.0)) == "123,457 ± 4,321"
    assert estimate(Estimate(1.5, math.nan)) == "1.500"
    assert estimate(Estimate(3.2e-5, 2.1e-7)) == "(3.200 ± 0.021) × 10⁻⁵"
    assert estimate(Estimate(0.25, 1e-12)) == "(2.500000 ± 0.000000) × 10⁻¹"
    assert estimate(Estimate(421_717_647.0, 61_259_179.0)) == "(4.2 ± 0.6) × 10⁸"
    assert number(421_717_647.0) == "4.22 × 10⁸"
    assert (number(0.0), number(math.inf), number(1234.5)) == ("0", "∞", "1,234")


def test_labels_do_not_overlap(comparison):
    for name, figure in comparison.figures().items():
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        for ax in figure.axes:
            boxes = [text.get_window_extent(renderer) for text in ax.texts if text.get_text()]
            for i, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[:i]), (name, ax.get_title())


def test_stand_in_has_the_stub_s_names(fake):
    stub = ast.parse((Path(fake.__file__).parent / "_native.pyi").read_text())
    for node in stub.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert hasattr(fake._native, node.name), node.name


def test_without_any_extra_compare_works_and_says_what_is_missing(
    fake, model, text, tmp_path, monkeypatch
):
    from typer.testing import CliRunner

    from tritlab.cli import app

    for module in EXTRAS:
        monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "out"
    got = CliRunner().invoke(app, ["compare", str(model), "-t", str(text), "-o", str(out)])
    assert got.exit_code == 0
    missing = "figures need matplotlib; run: pip install 'tritlab[plot]'"
    assert got.stderr.startswith(f"The report will have no figures: {missing}\n")
    files = {path.name for path in out.iterdir()}
    assert files == {"results.csv", "results.json", "results.md", "per-token.npz", "report.html"}
    assert "None here: figures need matplotlib" in (out / "report.html").read_text()


EXTRAS = ["matplotlib", "pandas", "polars", "pyarrow", "yaml", "joblib", "distributed", "ray"]
"""Packages that only extras bring."""


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [
        (lambda c, _: c.to_pandas(), "pandas", "frames"),
        (lambda c, _: c.to_polars(), "polars", "polars"),
        (lambda c, folder: c.to_parquet(folder / "x.parquet"), "pyarrow", "parquet"),
        (lambda c, _: c.figures(), "matplotlib", "plot"),
    ],
)
def test_a_form_that_is_missing_names_its_extra(
    fake, comparison, tmp_path, monkeypatch, call, package, extra
):
    for name in [*EXTRAS, "tritlab.report.figures"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "tritlab.report.figures")
    wanted = rf"needs? {package}; run: pip install 'tritlab\[{extra}\]'"
    with pytest.raises(fake.errors.NotInstalledError, match=wanted):
        call(comparison, tmp_path)


def test_head_is_in_the_receipts(fake, model, text):
    got = fake.compare(model, ["Q4_0"], text, head="Q8_0", chunks=1, progress=False)
    assert [(r.receipt["head"], r.receipt["reference_head"]) for r in got.rows] == [
        (None, None),  # the reference keeps the file's own head
        ("Q8_0", None),
    ]


def test_worst_tokens_are_those_of_largest_kl_in_their_text(comparison):
    assert comparison.rows[0].worst == []
    row = comparison.rows[2]
    kl = row.arrays["kl"]
    assert [t["kl"] for t in row.worst] == sorted(kl, reverse=True)[:10]
    first = row.worst[0]
    at = int(np.argmax(kl))
    assert first["position"] == row.arrays["position"][at]
    assert first["p"] == row.arrays["ref_p"][at]
    assert first["q"] == row.arrays["p"][at]
    assert comparison.to_dict()["worst_tokens"]["Q4_0"] == row.worst


def test_worst_tokens_show_the_text_before_them(fake):
    import importlib

    tokens = importlib.import_module("tritlab.tokens")

    class Letters:
        def detokenize(self, ids):
            return "".join(chr(i) for i in ids)

    ids = np.array([ord(c) for c in "abcdef"], np.int32)
    found = {
        "position": np.array([3, 4, 5]),
        "kl": np.array([0.1, 0.7, 0.7]),
        "p": np.array([0.5, 0.25, 0.125]),
        "ref_p": np.array([0.1, 0.2, 0.3]),
    }
    got = tokens.worst(Letters(), ids, found, count=2, before=2)
    assert [(t["context"], t["token"], t["p"], t["q"]) for t in got] == [
        ("cd", "e", 0.2, 0.25),
        ("de", "f", 0.3, 0.125),
    ]
    assert tokens.worst(Letters(), ids, {"position": found["position"]}) == []


def test_worst_tokens_in_the_report_are_escaped(fake, comparison):
    from tritlab.report.html import page

    comparison.rows[1].worst[0]["context"] = "<script>x</script>"
    html = page(comparison, {})
    assert "&lt;script&gt;" in html
    assert "<script>x" not in html


def test_another_model_is_a_row_of_its_own(fake, model, text, tmp_path):
    trained = tmp_path / "trained.gguf"
    trained.write_bytes(b"GGUF trained in ternary")
    got = fake.compare(
        model, ["Q4_0"], text, others={"trained": (trained, "TERNARY")}, progress=False
    )
    row = got.rows[-1]
    assert (row.label, row.kind, row.other) == ("trained", "TERNARY", True)
    assert row.note == ""  # it was not rounded here
    assert row.receipt["model"]["name"] == "trained.gguf"
    assert row.receipt["reference_model"]["name"] == "model.gguf"
    assert got.rows[1].receipt["reference_model"] is None
    assert got.records[-1]["other_model"] is True
    shown = got.to_markdown()
    assert "trained is another model with the same tokens." in shown
    line = next(line for line in shown.splitlines() if line.startswith("| trained"))
    assert line.split("|")[8].strip() == "–"  # no weight error against weights it never had


@pytest.mark.parametrize("label", ["F16", "file", "Q4_0"])
def test_another_model_cannot_take_the_name_of_a_format(fake, model, text, label):
    with pytest.raises(fake.errors.FormatError, match=f"cannot be called '{label}'"):
        fake.compare(model, ["Q4_0"], text, others={label: model}, progress=False)


def test_another_model_must_have_the_same_tokens(fake, model, text, tmp_path, monkeypatch):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF other")
    real = fake.Model.tokenize

    def tokenize(self, *args, **kwargs):
        ids = real(self, *args, **kwargs)
        return ids + (self.path == str(other))

    monkeypatch.setattr(fake.Model, "tokenize", tokenize)
    with pytest.raises(fake.errors.EvaluationError, match="reads the text as other tokens"):
        fake.compare(model, ["Q4_0"], text, others={"other": other}, progress=False)


def test_bits_per_byte(comparison):
    row = comparison.rows[1]
    # the stand-in's tokens are bytes
    expected = row.quality.nll.value / math.log(2)
    assert comparison.records[1]["bits_per_byte"] == pytest.approx(expected)
    assert comparison.bits_per_byte(row).error == pytest.approx(row.quality.nll.error / math.log(2))
