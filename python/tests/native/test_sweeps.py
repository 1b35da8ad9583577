"""Sweeps over a tiny model: keys, resuming, damage, failures and engines."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import tritlab as tl
from tritlab import sweeps
from tritlab._native import quantize_gguf
from tritlab.sweeps import _run, _spec
from tritlab.sweeps._cell import draw

FORMATS = ["F16", "Q8_0", "Q4_0", "file"]
SWEEP = [sys.executable, "-m", "tritlab.cli", "sweep"]


@pytest.fixture
def grid(tmp_path, path, rng):
    """A sweep's content; its text is token ids, as the tiny model has no tokenizer."""
    np.save(tmp_path / "noise.npy", rng.integers(0, 128, 1024, dtype=np.int32))
    return {
        "models": {"tiny": str(path)},
        "texts": {"noise": str(tmp_path / "noise.npy")},
        "formats": ["Q8_0", "Q4_0", "TERNARY"],
        "seeds": [0, 1],
        "windows": 3,
        "context": 32,
    }


def run(grid, out, **options):
    return tl.sweep(grid, out, **({"engine": "serial", "progress": False} | options))


def written(tmp_path, grid):
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(grid, sort_keys=False))
    return file


def command(file, out, *options):
    """`tritlab sweep` as a process of its own."""
    return subprocess.run(
        [*SWEEP, str(file), "-o", str(out), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def table(out):
    """Rows of a finished sweep without how they were run."""
    frame = pd.read_parquet(Path(out) / "results.parquet")
    return frame[[name for name in frame if not name.startswith("run_")]]


def test_a_cell_has_the_numbers_of_perplexity(grid, tmp_path, path):
    got = run(grid, tmp_path / "out")
    assert len(got.records) == 6
    assert not got.failed
    for row in got.records:
        ids = np.load(tmp_path / "noise.npy")
        part = draw(ids, 32, 3, row["seed"])
        q = tl.perplexity(
            tl.Model.load(path, row["format"]),
            part.ids,
            context=32,
            reference=tl.Model.load(path, "F16"),
        )
        assert row["perplexity"] == q.perplexity.value
        assert row["kl_nats"] == q.against.kl.value
        assert row["same_top"] == q.against.same_top.value
        assert row["scored_tokens"] == q.scored
    assert len({row["key"] for row in got.records}) == 6
    line = got.lines()[0]
    assert line.mean("kl_nats").value == np.mean([r["kl_nats"] for r in got.records[:2]])


def test_seeds_draw_windows_of_the_text():
    ids = np.arange(1000, dtype=np.int32)
    first, second = draw(ids, 10, 5, 0), draw(ids, 10, 5, 1)
    assert first.windows == 5
    for part in (first, second):
        starts = part.ids[::10]
        assert (starts % 10 == 0).all()
        assert (np.diff(starts) > 0).all()  # in the text's order, none twice
        assert np.array_equal(part.ids.reshape(5, 10), starts[:, None] + np.arange(10))
    assert not np.array_equal(first.ids, second.ids)
    # The draw is part of what a cell's key promises: it may never change.
    assert list(first.ids[::10]) == DRAWN
    assert np.array_equal(draw(ids, 10, None, 3).ids, ids)
    assert np.array_equal(draw(ids, 10, 200, 3).ids, ids)


DRAWN = [150, 440, 460, 870, 990]


def test_f32_activations_are_those_of_the_decoded_weights(grid, tmp_path, path):
    grid |= {"formats": ["Q4_0", "F16", "TERNARY"], "activations": ["int8", "f32"], "seeds": [0]}
    got = run(grid, tmp_path / "out")
    assert [(r["format"], r["activations"]) for r in got.records] == [
        ("Q4_0", "int8"),
        ("Q4_0", "f32"),
        ("F16", "f32"),  # rounds no activations: one cell
        ("TERNARY", "int8"),
        ("TERNARY", "f32"),
    ]
    assert "activations that nothing rounds" in got.to_markdown()
    int8, f32, dense, *ternary = got.records
    assert (int8["activation_groups"], f32["activation_groups"]) == ("32", "f32")
    for name in ("bits_per_weight", "linear_bytes", "rel_weight_error"):
        assert int8[name] == f32[name]
    assert dense["kl_nats"] == 0
    quantize_gguf(path, tmp_path / "q.gguf", "Q4_0")
    decoded = tl.Model.load(tmp_path / "q.gguf", "F32")
    part = draw(np.load(tmp_path / "noise.npy"), 32, 3, 0)
    assert f32["perplexity"] == tl.perplexity(decoded, part.ids, context=32).perplexity.value
    assert f32["perplexity"] != int8["perplexity"]
    # A format that GGUF has not: the same weights, beside the same reference, without the rounding.
    assert [row["activation_groups"] for row in ternary] == ["token", "f32"]
    assert ternary[0]["rel_weight_error"] == ternary[1]["rel_weight_error"]
    assert ternary[0]["perplexity"] != ternary[1]["perplexity"]
    decoded = tl.Model.load(path, "TERNARY", activations="f32")
    assert ternary[1]["nll_nats"] == tl.perplexity(decoded, part.ids, context=32).nll.value


@pytest.mark.parametrize("format", ["TERNARY", "TERNARY_B3_ROW", "TERNARY_G32+optimal", "SIGN_ROW"])
def test_f32_activations_multiply_what_the_format_decodes_to(path, ids, format):
    """Beside a product in NumPy: what the model does with a layer's input."""
    int8 = tl.Model.load(path, format)
    f32 = tl.Model.load(path, format, activations="f32")
    assert f32.tensors() == int8.tensors()
    name = "blk.0.attn_q.weight"
    w = f32.matrix(name).dequantize()
    assert np.array_equal(w, int8.matrix(name).dequantize())
    x = np.ascontiguousarray(f32.capture(ids, "blk.0.attn_q.input")["blk.0.attn_q.input"].T)
    exact = w.astype(np.float64) @ x

    def error(y):
        return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))

    assert error(tl.quantize(w, "F32") @ x) < 1e-6 < 1e-4 < error(int8.matrix(name) @ x)
    assert f32.fingerprint(ids) != int8.fingerprint(ids)
    with pytest.raises(tl.errors.FormatError, match='no activations "int4"; there are: int8'):
        tl.Model.load(path, format, activations="int4")


def test_stored_cells_are_not_measured_again(grid, tmp_path):
    first = run(grid, tmp_path / "out")
    again = run(grid, tmp_path / "out")
    assert (first.made, again.made) == (6, 0)
    assert again.records == first.records  # timings too: nothing ran
    more = run(grid | {"seeds": [0, 1, 2]}, tmp_path / "out")
    assert more.made == 3
    renamed = run(grid | {"models": {"other": grid["models"]["tiny"]}}, tmp_path / "out")
    assert renamed.made == 0  # labels are not content
    assert {row["model"] for row in renamed.records} == {"other"}
    assert run(grid | {"context": 48}, tmp_path / "out").made == 6


def test_another_text_model_or_kernel_is_another_cell(grid, tmp_path, rng, monkeypatch):
    first = run(grid, tmp_path / "out")
    np.save(tmp_path / "noise.npy", rng.integers(0, 128, 1024, dtype=np.int32))
    assert run(grid, tmp_path / "out").made == 6
    monkeypatch.setattr(_run, "kernels_fingerprint", lambda: "other kernels")
    assert sweeps.plan(grid, tmp_path / "out").done == {}
    assert first.records[0]["kernels"] != "other kernels"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "of another cell", "edited"])
def test_a_damaged_cell_is_noticed_and_made_again(grid, tmp_path, damage):
    out = tmp_path / "out"
    whole = run(grid, out)
    file, other = sorted((out / "cells").glob("*.parquet"))[:2]
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        held = next(row for row in whole.records if row["key"] == file.stem)["nll_sha256"]
        data[data.index(held.encode())] ^= 1  # elsewhere it might be padding, and harmless
    elif damage == "empty":
        data = bytearray()
    elif damage == "of another cell":
        data = bytearray(other.read_bytes())
    else:  # a valid Parquet file, but with another number in it
        import pyarrow.parquet as pq

        content = pq.read_table(file)
        at = content.schema.get_field_index("kl_nats")
        content = content.set_column(at, content.schema.field(at), [[0.125]])
        pq.write_table(content, file)
        data = bytearray(file.read_bytes())
    file.write_bytes(data)
    assert list(sweeps.plan(grid, out).damaged) == [file.stem]
    again = run(grid, out)
    assert (again.made, list(again.damaged)) == (1, [file.stem])
    assert again.results() == whole.results()


def test_every_flipped_bit_of_a_cell_is_noticed_or_harmless(grid, tmp_path):
    out = tmp_path / "out"
    run(grid | {"formats": ["Q8_0"], "seeds": [0]}, out)
    (file,) = (out / "cells").glob("*.parquet")
    store, data = sweeps.plan(grid, out).store, file.read_bytes()
    right = store.read(file.stem)
    noticed = 0
    for at in range(0, len(data), 37):  # prime: every part of the file, in a second or two
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        file.write_bytes(broken)
        try:
            assert store.read(file.stem) == right, at
        except ValueError:
            noticed += 1
    assert noticed > 100


def test_a_failing_cell_is_a_row_and_the_rest_is_finished(grid, tmp_path):
    grid |= {"formats": ["Q2_K", "Q8_0"]}  # the tiny model's rows do not fit Q2_K
    file = written(tmp_path, grid)
    got = command(file, tmp_path / "out", "--engine", "serial")
    assert got.returncode == 1
    assert "FAILED: tiny Q2_K int8 noise 0 and 1 more: ShapeError: " in got.stdout
    rows = table(tmp_path / "out")
    assert list(rows["status"]) == ["failed", "failed", "ok", "ok"]
    assert rows["error"][0].startswith("ShapeError: ")
    assert rows["perplexity"].isna().tolist() == [True, True, False, False]
    again = run(grid, tmp_path / "out")
    assert again.made == 2  # failures are tried again


def test_a_model_that_changed_since_the_plan_is_refused(grid, tmp_path, path, monkeypatch):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    grid |= {"models": {"tiny": str(copy)}, "formats": ["Q8_0"], "seeds": [0]}
    real = _run._engine.run

    def late(*arguments):
        data = bytearray(copy.read_bytes())
        data[-1] ^= 1
        copy.write_bytes(data)
        real(*arguments)

    monkeypatch.setattr(_run._engine, "run", late)
    (row,) = run(grid, tmp_path / "out").failed
    assert "is another file here than where the sweep was planned" in row["error"]


def test_a_sweep_killed_in_the_middle_goes_on(grid, tmp_path):
    """SIGKILL, again and again: the table is that of a run that nothing stopped."""
    grid |= {"formats": FORMATS, "seeds": list(range(12))}
    file, out = written(tmp_path, grid), tmp_path / "killed"
    kills = 0
    for wanted in (3, 11, 23):
        process = subprocess.Popen(
            [*SWEEP, str(file), "-o", str(out), "-e", "processes", "-w", "2", "--threads", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        limit = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < limit:
            if len(list((out / "cells").glob("*.parquet"))) >= wanted:
                os.killpg(process.pid, signal.SIGKILL)  # its workers too, whatever they are doing
                break
            time.sleep(0.005)
        kills += process.wait(60) == -signal.SIGKILL
    assert kills >= 2
    assert not (out / "results.parquet").exists()
    left = sweeps.plan(file, out)
    assert 0 < len(left.done) < 48
    assert command(file, out, "--engine", "serial").returncode == 0
    run(grid, tmp_path / "whole").save(tmp_path / "whole")
    pd.testing.assert_frame_equal(table(out), table(tmp_path / "whole"), check_exact=True)


def test_unfinished_files_of_killed_processes_go(grid, tmp_path):
    cells = tmp_path / "out" / "cells"
    cells.mkdir(parents=True)
    old, new = cells / ".a.parquet.x.tmp", cells / ".b.parquet.y.tmp"
    for file in (old, new):
        file.write_bytes(b"PAR1")
    os.utime(old, (0, 0))
    run(grid, tmp_path / "out")
    assert (old.exists(), new.exists()) == (False, True)  # the new one may be another process's


ENGINES = [
    "processes",
    "dask",
    pytest.param("ray", marks=pytest.mark.large),  # `make test-large` installs it
]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_the_same_rows(grid, tmp_path, engine):
    grid |= {"formats": ["Q2_K", "Q8_0", "TERNARY"]}
    file = written(tmp_path, grid)
    got = command(file, tmp_path / engine, "-e", engine, "-w", "2", "--threads", "1")
    assert got.returncode == 1, got.stderr  # Q2_K does not fit
    run(grid, tmp_path / "serial", threads=2).save(tmp_path / "serial")
    pd.testing.assert_frame_equal(
        table(tmp_path / engine), table(tmp_path / "serial"), check_exact=True
    )
    frame = pd.read_parquet(tmp_path / engine / "results.parquet")
    assert set(frame["run_threads"]) == {1}


def test_dask_workers_share_nothing_but_the_store(grid, tmp_path):
    """A cluster of two workers that someone else started, each a process in its own folder."""
    file, found = written(tmp_path, grid), tmp_path / "scheduler.json"
    join = ["--scheduler-file", str(found), "--no-dashboard"]
    started = []

    def start(name, what, *options):
        (tmp_path / name).mkdir()
        line = [sys.executable, "-m", f"distributed.cli.dask_{what}", *join, *options]
        quiet = subprocess.DEVNULL
        started.append(subprocess.Popen(line, cwd=tmp_path / name, stdout=quiet, stderr=quiet))

    try:
        start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0")
        for name in ("one", "two"):
            start(name, "worker", "--nthreads", "1", "--name", name)
        limit = time.monotonic() + 120
        while not found.exists() and time.monotonic() < limit:
            time.sleep(0.1)
        address = json.loads(found.read_text())["address"]
        got = command(file, tmp_path / "out", "-e", "dask", "--address", address, "--threads", "1")
        assert got.returncode == 0, got.stderr
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)
    run(grid, tmp_path / "serial").save(tmp_path / "serial")
    pd.testing.assert_frame_equal(
        table(tmp_path / "out"), table(tmp_path / "serial"), check_exact=True
    )


def test_this_process_keeps_its_threads_and_backend(grid, tmp_path):
    tl.threads(2)
    before = tl._native.current_backend()
    got = run(grid, tmp_path / "out", threads=1, backend="portable")
    assert {(r["run_threads"], r["run_backend"]) for r in got.records} == {(1, "portable")}
    assert (tl.threads(), tl._native.current_backend()) == (2, before)
    assert got.results() == run(grid, tmp_path / "other").results()


def test_save_writes_table_figures_and_report(grid, tmp_path):
    out = tmp_path / "out"
    got = run(grid, out)
    report = got.save(out)
    assert sorted(p.name for p in out.iterdir()) == [
        "cells",
        "kl.png",
        "kl.svg",
        "report.html",
        "results.csv",
        "results.md",
        "results.parquet",
        "results.tex",
    ]
    page = report.read_text()
    for row in got.lines():
        assert row.format in page
    assert got.records[0]["model_sha256"] in page
    frame = pd.read_parquet(out / "results.parquet")
    pd.testing.assert_frame_equal(frame, got.to_pandas(), check_dtype=False, check_exact=True)
    with (out / "results.csv").open() as file:
        for read, row in zip(csv.DictReader(file), got.records, strict=True):
            said = {name: "" if value is None else str(value) for name, value in row.items()}
            assert read == said
    assert "\\toprule" in (out / "results.tex").read_text()
    assert got._repr_html_().count("<tr>") == 1 + len(got.lines())


def test_alike_is_said_where_a_test_can_tell(grid, tmp_path):
    grid |= {"formats": ["Q8_0", "SIGN"], "seeds": [0]}
    enough = run(grid | {"windows": 8}, tmp_path / "out")
    enough.records[1]["distinguishable"] = True  # random weights are not, on random text
    enough = enough.to_markdown()
    near, ruined = (line for line in enough.splitlines() if line.startswith(("| Q8_0", "| SIGN")))
    assert "≈" in near
    assert "≈" not in ruined
    assert "not distinguishable from the reference's" in enough
    few = run(grid | {"windows": 3}, tmp_path / "out").to_markdown()
    assert "≈" not in few
    assert "Cells of fewer than 5 windows have no paired test" in few


def test_dry_run_says_what_would_run(grid, tmp_path):
    got = command(written(tmp_path, grid), tmp_path / "out", "--dry-run")
    assert got.stdout == "6 cells, 0 of them stored; 6 to run\n"
    assert not (tmp_path / "out").exists()


def test_progress_says_the_time_left(grid, tmp_path):
    got = command(written(tmp_path, grid), tmp_path / "out", "-e", "serial")
    lines = got.stderr.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("[1/6, about ")
    assert " left] tiny Q8_0 int8 noise 0: perplexity " in lines[0]
    assert lines[-1].startswith("[6/6] tiny TERNARY int8 noise 1: ")


MISTAKES = [
    ({"model": {}}, "model: expected one of the keys models, texts, formats"),
    ({"formats": None}, "formats: expected a list of formats, found nothing"),
    ({"formats": []}, "formats: expected a list of formats, found an empty list"),
    ({"formats": ["Q8_0", "Q9"]}, "formats[1]: expected one of F32, F16, .*, file, found 'Q9'"),
    ({"formats": ["Q8_0", 4]}, "formats[1]: expected one of F32, .*, found 4"),
    (
        {"formats": ["TQ2_0+best"]},
        "formats[0]: expected one of absmean, .* after the +, found 'TQ2",
    ),
    ({"reference": "F17"}, "reference: expected one of .*, found 'F17'"),
    ({"head": 8}, "head: expected one of .*, found 8"),
    ({"activations": ["int4"]}, "activations[0]: expected int8 .* or f32 .*, found 'int4'"),
    ({"seeds": [0, -1]}, "seeds[1]: expected a whole number of 0 or more, found -1"),
    ({"seeds": [True]}, "seeds[0]: expected a whole number of 0 or more, found True"),
    ({"context": 3}, "context: expected a whole number of 4 or more, found 3"),
    ({"context": "512"}, "context: expected a whole number of 4 or more, found '512'"),
    ({"windows": 0}, "windows: expected a whole number of 1 or more, found 0"),
    ({"windows": None}, "windows: expected a number of windows for the seeds to draw, found none"),
    ({"models": {}}, "models: expected labels with paths, or a list of paths, found an empty map"),
    ({"models": {"a": 1}}, "models.a: expected a path, found 1"),
    ({"models": {"a": "absent.gguf"}}, "models.a: expected a GGUF file, .*found 'absent.gguf': no"),
    ({"models": ["a/m.gguf", "b/m.gguf"]}, "models: expected files of different names, or labels"),
    ({"texts": {"t": "absent.txt"}}, "texts.t: expected a file, found 'absent.txt', which is none"),
    ({"texts": "t"}, "texts: expected labels with paths, or a list of paths, found 't'"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[m[1][:24] for m in MISTAKES])
def test_mistakes_are_said_before_anything_runs(grid, tmp_path, change, message):
    file = written(tmp_path, grid | change)
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(tl.errors.SweepError, match=f"^{re.escape(str(file))}: {pattern}"):
        tl.sweep(file, tmp_path / "out", engine="serial", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models: [", "not YAML: "),
        ("- a\n", "expected keys and values, found a list"),
        ("", "expected keys and values, found nothing"),
        ("formats: [F16]\nformats: [Q8_0]\n", "line 2: the key 'formats' comes twice"),
        ("1: 2\n", "line 1: expected a name as key, found 1"),
        ("formats: [F16]\n", "models: expected this key, found none"),
        ("models: !!python/object:os.system {}\n", "not YAML: could not determine a constructor"),
    ],
)
def test_files_that_are_no_sweep(tmp_path, content, message):
    file = tmp_path / "grid.yaml"
    file.write_text(content)
    with pytest.raises(tl.errors.SweepError) as caught:
        _spec.Spec.read(file)
    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(5), r"token ids are int32 \[n\], found int64 \[5\]"),
        (np.zeros((2, 2), np.int32), r"found int32 \[2, 2\]"),
    ],
)
def test_token_ids_of_another_type(grid, tmp_path, array, message):
    np.save(tmp_path / "noise.npy", array)
    with pytest.raises(tl.errors.EvaluationError, match=message):
        sweeps.plan(grid, tmp_path / "out")


def test_the_example_is_a_sweep(smollm2, tmp_path):
    example = Path(__file__).parents[3] / "experiments/sweeps/smollm2.yaml"
    found = sweeps.plan(example, tmp_path)
    assert f"{len(found.cells)} cells" in example.read_text()
    # In its text, each seed draws other windows.
    ids = smollm2.tokenize(found.spec.texts["persuasion"].read_text())
    drawn = [draw(ids, 512, 6, seed).ids.tobytes() for seed in found.spec.seeds]
    assert len(set(drawn)) == 3


def test_paths_are_from_the_file(grid, tmp_path, monkeypatch):
    file = written(tmp_path, grid | {"texts": ["noise.npy"]})
    monkeypatch.chdir("/")
    assert sweeps.Spec.read(file).texts == {"noise": tmp_path / "noise.npy"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"engine": "spark"},
            "engine: expected one of serial, processes, ray, dask, found 'spark'",
        ),
        ({"address": "tcp://x:1"}, "only ray and dask have an address"),
        ({"workers": 0}, "workers: expected a whole number of 1 or more, found 0"),
        ({"threads": 0}, "threads: expected"),
    ],
)
def test_wrong_options(grid, tmp_path, options, message):
    with pytest.raises(tl.errors.SweepError, match=message):
        run(grid, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "engine", "extra"),
    [
        ("joblib", "serial", "sweep"),
        ("pyarrow", "serial", "parquet"),
        ("distributed", "dask", "dask"),
        ("ray.util.joblib", "ray", "ray"),
    ],
)
def test_what_is_missing_names_its_extra(grid, tmp_path, monkeypatch, module, engine, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(tl.errors.NotInstalledError, match=rf"pip install 'tritlab\[{extra}\]'"):
        run(grid, tmp_path / "out", engine=engine)


def test_a_file_without_yaml_names_its_extra(grid, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(tl.errors.NotInstalledError, match=r"needs PyYAML; .*tritlab\[sweep\]"):
        sweeps.Spec.read(written(tmp_path, grid))


def test_an_engine_that_gives_up_says_how_to_go_on(grid, tmp_path, monkeypatch):
    def die(*_, **__):
        raise RuntimeError("worker died")

    monkeypatch.setattr("joblib.Parallel", die)
    with pytest.raises(tl.errors.SweepError, match=r"worker died.*the same command goes on"):
        run(grid, tmp_path / "out")
