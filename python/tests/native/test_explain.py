"""`tl.explain`: one block as fields, formulas and drawings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import gguf
import numpy as np
import pytest

import tritlab as tl

FORMATS = {info["name"]: info for info in tl.formats()}
CODED = [name for name, info in FORMATS.items() if info["block"] > 1]


def random_matrix(rng, format, rows=2):
    return tl.quantize(rng.standard_normal((rows, 512), dtype=np.float32), format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_block_of_a_matrix(rng, format):
    w, info = random_matrix(rng, format), FORMATS[format]
    decoded = w.dequantize()
    last = -(-512 // info["block"]) - 1
    for row, block in ((0, 0), (1, last), (1, 0)):
        explained = w.explain(row, block)
        start = block * info["block"]
        wanted = decoded[row, start : start + info["block"]]
        assert explained.weights.dtype == np.float32
        assert np.array_equal(explained.weights.view(np.uint32), wanted.view(np.uint32))
        assert b"".join(field["bytes"] for field in explained.fields) == explained.bytes
        offsets = [field["offset"] for field in explained.fields]
        assert offsets == [*np.cumsum([0] + [len(f["bytes"]) for f in explained.fields])[:-1]]
        assert explained.format == format
        assert format in repr(explained)


@pytest.mark.parametrize("format", CODED)
def test_trace_gives_every_weight(rng, format):
    explained = random_matrix(rng, format).explain()
    for i, weight in enumerate(explained.weights):
        trace = explained.trace(i)
        assert trace.weight == weight
        assert f"q[{i}]" in trace.steps[0]
        assert str(trace).startswith(f"w[{i}] = ")
        last = trace.steps[-1].replace("−", "-")
        assert np.float32(last) == weight
        for source in trace.sources:
            for byte, bit in source["bits"]:
                assert 0 <= byte < len(explained.bytes)
                assert 0 <= bit < 8


@pytest.mark.parametrize("format", ["Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K", "Q2_K", "TQ1_0"])
def test_weights_are_gguf_s(rng, format):
    info = FORMATS[format]
    explained = random_matrix(rng, format).explain()
    data = np.frombuffer(explained.bytes, np.uint8)
    wanted = gguf.dequantize(data, gguf.GGMLQuantizationType[format])
    assert np.array_equal(explained.weights, wanted)
    assert len(data) == info["bytes"]


def test_bytes_arrays_and_scales():
    block = bytes([0b1000_0110])
    forms = (block, bytearray(block), np.frombuffer(block, np.uint8))
    for form in forms:
        assert tl.explain("TERNARY", form).weights.tolist() == [1, 0, -1, 1]
        assert tl.explain("ternary", form, 0.5).weights.tolist() == [0.5, 0, -0.5, 0.5]
    assert "in units of alpha" in str(tl.explain("TERNARY", block))
    (codes,) = tl.explain("TERNARY", block).fields
    assert codes["holds"] == "codes"
    assert codes["values"]["qs"].tolist() == [1, 0, -1, 1]
    assert codes["values"]["qs"].dtype == np.int32


def test_values_of_q4_k(rng):
    explained = random_matrix(rng, "Q4_K").explain()
    d, dmin, scales, qs = explained.fields
    assert d["values"]["d"] == np.frombuffer(explained.bytes[:2], np.float16).astype(np.float32)
    scale, low = scales["values"]["scale"], scales["values"]["min"]
    q = qs["values"]["qs"].reshape(8, 32)
    first = d["values"]["d"] * scale.astype(np.float32)
    second = dmin["values"]["dmin"] * low.astype(np.float32)
    wanted = first[:, None] * q.astype(np.float32) - second[:, None]
    assert np.array_equal(explained.weights, wanted.ravel())
    sources = explained.trace(40).sources
    assert [s["symbol"] for s in sources] == ["q[40]", "scale[1]", "min[1]", "d", "dmin"]
    assert sources[0]["bits"] == [(16 + 8, bit) for bit in (7, 6, 5, 4)]


@pytest.mark.parametrize("format", FORMATS)
def test_text_fits_a_terminal(rng, format):
    text = str(random_matrix(rng, format).explain())
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "w[0] = " in text


class _Elements(HTMLParser):
    """Counts elements, and fails where one is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.words = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        self.open.append(tag)
        if ("class", "b") in attrs:
            self.cells.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.mark.parametrize("format", FORMATS)
def test_notebook_drawing(rng, format):
    explained = random_matrix(rng, format).explain()
    html = explained._repr_html_()
    assert html == explained.to_html()
    parser = _Elements()
    parser.feed(html)
    assert parser.open == []
    assert len(parser.cells) == len(explained.bytes)
    # Every byte has its field's colour and says its bits.
    for i, cell in enumerate(parser.cells):
        assert f"{explained.bytes[i]:08b}" in cell["title"]
    colours = {cell["style"] for cell in parser.cells}
    assert len(colours) == len({field["holds"] for field in explained.fields})
    assert not re.search(r"https?:|<script|url\(", html)
    for field in explained.fields:
        assert field["about"] in parser.words


def test_what_does_not_fit_is_refused(rng):
    with pytest.raises(tl.errors.ShapeError, match="bytes of one block: expected 144"):
        tl.explain("Q4_K", bytes(143))
    with pytest.raises(tl.errors.FormatError, match="unknown format"):
        tl.explain("Q4_KK", bytes(144))
    with pytest.raises(tl.errors.ShapeError, match="scales outside the block"):
        tl.explain("Q4_K", bytes(144), 1.0)
    with pytest.raises(tl.errors.FormatError, match="not a finite number"):
        tl.explain("SIGN", bytes(1), float("nan"))
    with pytest.raises(TypeError, match="block, bytes or uint8"):
        tl.explain("SIGN", [1])
    with pytest.raises(TypeError, match="int8"):
        tl.explain("SIGN", np.zeros(1, np.int8))
    with pytest.raises(tl.errors.ShapeError, match="dimension"):
        tl.explain("SIGN", np.zeros((1, 1), np.uint8))
    w = random_matrix(rng, "Q4_K")
    with pytest.raises(tl.errors.ShapeError, match="row 2: there are 2"):
        w.explain(2)
    with pytest.raises(tl.errors.ShapeError, match="block 2: there are 2"):
        w.explain(0, 2)
    with pytest.raises(tl.errors.ShapeError, match="weight 256: there are 256"):
        w.explain().trace(256)
    with pytest.raises(tl.TritlabError, match="i is -1, but must be an integer from 0"):
        w.explain().trace(-1)


def _run(*args):
    return subprocess.run(
        [sys.executable, "-m", "tritlab.cli", "explain", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command(path, tmp_path):
    first, second = _run("Q4_K"), _run("q4_k", "--seed", 0)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout != _run("Q4_K", "--seed", 1).stdout
    tensor = gguf.GGUFReader(path).tensors[0]
    rows = tensor.data.reshape(-1, tensor.data.shape[-1]).view(np.uint8)
    got = _run("--file", path, "--tensor", tensor.name, "--row", 2, "--json")
    content = json.loads(got.stdout)
    size = FORMATS[content["format"]]["bytes"]
    assert content["format"] == tensor.tensor_type.name
    assert bytes.fromhex(content["bytes"]) == rows[2, :size].tobytes()
    page = tmp_path / "block.html"
    assert _run("SIGN", "--hex", "5a", "--html", page).returncode == 0
    assert "<div class=" in page.read_text()
    for args, status in (
        (("Q4_K", "--hex", "00"), 1),
        (("--file", path, "--tensor", tensor.name, "--row", 10**6), 1),
        (("--file", path, "--tensor", "nothing"), 1),
        ((), 2),
    ):
        got = _run(*args)
        assert got.returncode == status, got.stderr
        assert "Traceback" not in got.stderr
