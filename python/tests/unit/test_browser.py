"""Reports as a browser shows them: nothing missing, nothing too wide, the right numbers."""

from __future__ import annotations

import numpy as np
import pytest
from browser import DESKTOP, PHONE
from PIL import Image

SIZES = pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])


@pytest.fixture
def sweep_page(fake, tmp_path):
    """A report of a sweep whose cells are made up: browsers do not care."""
    from tritlab.report.sweep import page
    from tritlab.sweeps import Spec, Sweep
    from tritlab.sweeps._store import COLUMNS

    def row(text, format, bits, kl, seed):
        values = {name: 0.5 if kind == "float64" else None for name, kind in COLUMNS.items()}
        values |= {"status": "ok", "format": format, "kind": format, "activations": "int8"}
        values |= {"bits_per_weight": bits, "kl_nats": kl * (1 + seed / 9), "seed": seed}
        values |= {
            "activation_groups": "32",
            "distinguishable": True,
            "scored_windows": 6,
            "run_cpu": "Example CPU",
        }
        values |= {"model_sha256": "ab" * 32, "text_sha256": "cd" * 32, "tritlab": "0.0.0"}
        return {"model": "a-model-with-quite-a-long-name", "text": text, **values, "kernels": "k"}

    formats = {"Q8_0": (8.5, 0.002), "Q4_0": (4.5, 0.05), "TERNARY": (2.0, 7.0)}
    rows = [
        row(text, name, *facts, seed)
        for text in ("persuasion", "<b>other</b>")
        for name, facts in formats.items()
        for seed in (0, 1)
    ]
    rows[-1] |= {"status": "failed", "error": "ShapeError: " + "/a/very/long/path" * 12}
    spec = Spec(
        name="grid",
        models={rows[0]["model"]: "/models/" + "long" * 30 + ".gguf"},
        texts={"persuasion": tmp_path / "p.txt", "<b>other</b>": tmp_path / "o.txt"},
        formats=list(formats),
        activations=["int8"],
        seeds=[0, 1],
        reference="F16",
        head=None,
        context=512,
        windows=6,
    )
    sweep = Sweep(spec, rows, 12, {}, "tritlab sweep grid.yaml")
    from tritlab.report.figures import png

    return sweep, page(sweep, {name: png(f) for name, f in sweep.figures().items()})


@pytest.fixture
def layer_report(fake):
    """A report of layers whose numbers are made up."""
    from tritlab.layerwise import Layer, LayerReport
    from tritlab.layerwise.result import Swap
    from tritlab.precision.sensitivity import Option, Unit

    def layer(name, role, kl):
        own = Option("F16", 2000, 0.0)
        numbers = {
            "rel_weight_error": 0.08,
            "weight_sqnr_db": None,
            "weight_cosine": 0.997,
            "weight_kurtosis": 3.25 + kl,
            "weight_outlier_share": 0.0,
            "code_entropy_bits": 3.77,
            "zero_code_share": 0.115,
        }
        if role != "embedding":
            numbers |= {"rel_output_error": 0.07, "input_kurtosis": 120.0}
        histograms = {
            "weights": {"edges": [-1.0, 0.0, 1.0], "counts": [40, 60]},
            "codes": {"values": [-1, 0, 1], "counts": [1, 0, 1000]},
        }
        swaps = {"alone": Swap(kl, kl / 9, 20.0, 0.9)}
        return Layer(
            Unit(name, role, own, 1000, "F16"),
            Option("Q4_0", 562, 0.08),
            numbers,
            histograms,
            swaps,
        )

    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    found = [layer("token_embd.weight", "embedding", 0.02)]
    for i in range(30):
        found += [
            layer(f"blk.{i}.{k}.weight", "linear", 1e-4 * (i + j + 1)) for j, k in enumerate(kinds)
        ]
    return LayerReport(
        layers=found,
        format="Q4_0",
        model={"title": "Example <135M>", "name": "m.gguf"},
        text={},
        text_sentence="Text used: all of it.",
        settings={"mode": "alone", "base": "file"},
        machine={},
        versions={},
        command="",
        created="",
    )


def check(seen, size):
    assert seen.console == []
    assert seen.width == size[0]
    assert seen.scroll == seen.width, f"wider than the window: {seen.wide}"
    assert seen.wide == []
    assert seen.images
    assert all(complete and alt for complete, alt in seen.images)
    assert seen.font >= 12  # CSS pixels: readable without zooming
    picture = np.asarray(Image.open(seen.screenshot).convert("L"))[:, : size[0]]
    ink = picture < 128
    assert ink.any(axis=1).mean() > 0.3  # lines of text all the way down
    assert not ink[:, -3:].any()  # nothing runs into the edge


@SIZES
def test_a_comparison(comparison, browser, tmp_path, size):
    page = comparison.save(tmp_path / "out").read_text()
    seen = browser.see(f"comparison-{size[0]}", page, size)
    check(seen, size)
    assert seen.title == "Example <135M>: what low bits cost, and what they buy"
    cost, gain = seen.tables[:2]
    assert cost[0][:3] == ["format", "bits/weight", "perplexity"]
    for row, record in zip(cost[1:], comparison.records, strict=True):
        assert row[0].startswith(record["format"])
        assert float(row[1]) == pytest.approx(record["bits_per_weight"], abs=0.006)
        shown = float(row[2].replace(",", "").split(" ± ")[0])
        assert shown == pytest.approx(record["perplexity"], abs=record["perplexity_error"])
    for row, record in zip(gain[1:], comparison.records, strict=True):
        assert float(row[4].replace(",", "").split(" ± ")[0]) == pytest.approx(
            record["decode_tok_s"], abs=0.6
        )


@SIZES
def test_a_comparison_unfolded(comparison, browser, tmp_path, size):
    """Receipts and worst tokens, which a click shows, fit too."""
    page = comparison.save(tmp_path / "out").read_text()
    seen = browser.see(f"unfolded-{size[0]}", page, size, unfold=True)
    check(seen, size)
    for row in comparison.rows:
        assert row.receipt["results"]["fingerprint"] in seen.text
    assert len(seen.tables) == 2 + len(comparison.rows) - 1  # worst tokens of all but the reference


@SIZES
def test_a_sweep(sweep_page, browser, size):
    sweep, page = sweep_page
    seen = browser.see(f"sweep-{size[0]}", page, size)
    check(seen, size)
    assert [row[0] for row in seen.tables[0][1:]] == ["Q8_0", "Q4_0", "TERNARY"] * 2
    assert seen.tables[0][-1][3] == "<b>other</b>"
    for row, line in zip(seen.tables[0][1:], sweep.lines(), strict=True):
        assert float(row[7].split(" ± ")[0]) == pytest.approx(line.mean("kl_nats").value, rel=0.1)
    assert "1 of 12 cells failed" in seen.text
    assert "ShapeError: /a/very/long/path" in seen.text


@SIZES
def test_the_explorer_of_layers(layer_report, browser, size):
    seen = browser.see(f"layers-{size[0]}", layer_report.to_html(), size)
    assert seen.console == []
    assert seen.scroll == seen.width == size[0], seen.wide
    assert seen.wide == []
    assert seen.font >= 12
    assert seen.title == "Example <135M>: its layers in Q4_0"
    facts = dict(seen.tables[0])
    assert facts["kurtosis of weights"] == "3.270"
    assert facts["KL, alone"] == "0.0200 ± 0.0022 nats"
    assert facts["weight SQNR"] == "– dB"
    assert "token_embd.weight" in seen.text  # the layer that costs most
    assert "Text used: all of it." in seen.text
    picture = np.asarray(Image.open(seen.screenshot).convert("RGB")).astype(int)[:, : size[0]]
    assert len({tuple(p) for p in picture.reshape(-1, 3)[::7]}) > 100  # a map in many colours


def test_the_explorer_does_what_is_clicked(layer_report, browser):
    """Another layer by a click and by a key, another measure: numbers, colours and marks follow."""
    page = layer_report.to_html(metric="kl_alone_nats", tensor="blk.3.attn_q.weight")
    script = """<script type="module">
const at = (name) => document.querySelector(`[data-tensor="${name}"]`);
const log = document.createElement("ol");
const item = () => document.createElement("li");
const note = (what) => log.append(Object.assign(item(), { textContent: what }));
const text = (what, i = 0) => document.querySelectorAll(what)[i].textContent;
const shown = () => `${text("h3")} ${text("td", 1)}`;
const of = (name, attribute) => at(name).getAttribute(attribute);
note(`${shown()} ${of("blk.3.attn_q.weight", "aria-pressed")}`);
at("blk.7.ffn_up.weight").dispatchEvent(new MouseEvent("click"));
note(`${shown()} ${of("blk.3.attn_q.weight", "aria-pressed")}`);
at("blk.7.ffn_up.weight").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
note(`${shown()} ${document.activeElement.getAttribute("data-tensor")}`);
at("blk.8.ffn_up.weight").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
note(shown());
const before = of("blk.0.attn_q.weight", "fill");
const select = document.querySelector("select");
select.value = "input_kurtosis";
select.dispatchEvent(new Event("change"));
note(`${before} ${of("blk.0.attn_q.weight", "fill")}`);
note(`${of("token_embd.weight", "fill")} ${of("token_embd.weight", "aria-label")}`);
const bar = (r) => `${r.dataset.count}:${Math.round(r.getAttribute("height"))}`;
note([...document.querySelectorAll("[data-count]")].map(bar).join(" "));
document.body.append(log);
</script></body>"""
    seen = browser.see("layers-clicked", page.replace("</body>", script), DESKTOP)
    assert seen.console == []
    said = [line.strip() for line in seen.text.splitlines() if line.strip()]
    bits = "Q4_0, 4.496 bits per weight"
    steps = said[-7:]
    assert steps[0] == f"blk.3.attn_q.weight {bits} true"
    assert steps[1] == f"blk.7.ffn_up.weight {bits} false"
    assert steps[2] == f"blk.8.ffn_up.weight {bits} blk.8.ffn_up.weight"
    assert steps[3] == f"blk.8.ffn_down.weight {bits}"
    low, middle = "rgb(0,34,78)", "rgb(125,124,116)"
    assert steps[4] == f"{low} {middle}"  # the least KL; and all kurtoses are equal
    assert steps[5] == "#e4e4e4 token_embd.weight: –"
    assert steps[6] == "40:73 60:80 1:3 0:0 1000:80"


def test_the_browser_would_notice(browser):
    """What `check` is about: a page with each of the faults."""
    wide = "<table style='width:700px'><tr><td>wide</table>"
    broken = "<img alt='x' src='data:image/png;base64,AAAA'>"
    script = "<script>console.error('so it goes'); missing()</script>"
    seen = browser.see("faults", f"<!doctype html><body>{wide}{broken}{script}", PHONE)
    assert seen.scroll > seen.width == 390
    assert seen.wide
    assert seen.images == [[False, "x"]]
    assert any("so it goes" in line for line in seen.console)
    assert any("missing is not defined" in line for line in seen.console)
