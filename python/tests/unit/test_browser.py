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
    sweep = Sweep(spec, rows, 12, ["TERNARY"], {}, "tritlab sweep grid.yaml")
    from tritlab.report.figures import png

    return sweep, page(sweep, {name: png(f) for name, f in sweep.figures().items()})


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
