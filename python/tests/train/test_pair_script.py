"""What the pair's script says of files it cannot use, and how its trainings end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def said(script, *arguments, **environment):
    """(exit status, what was said, on one line without the box that typer draws)."""
    command = [sys.executable, script, *arguments]
    env = {**os.environ, "COLUMNS": "400", **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).replace("│", " ").split())


def test_a_corpus_that_is_missing_or_another(script, tmp_path):
    status, words = said(script, "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert status == 1
    assert "error: " in words
    assert "is missing; --fetch gets it (apt-get download" in words
    package = next(word for word in words.split() if word.endswith(".deb"))
    (tmp_path / "none").mkdir()
    Path(package).write_bytes(b"another")
    status, words = said(script, "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert status == 1
    assert "is expected; remove it, and --fetch gets it again" in words
    assert not (tmp_path / "out").exists()


def test_without_torch_it_says_how_to_get_it(script, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    status, words = said(script, "--smoke", "--out", tmp_path / "out", PYTHONPATH=path)
    assert status == 1
    assert words == "error: No module named torch; pip install 'tritlab[train]' has it"


@pytest.mark.parametrize("name", ["out", "out/inside"])
def test_a_file_in_place_of_the_folder(script, tmp_path, name):
    (tmp_path / "out").write_text("kept")
    status, words = said(script, "--smoke", "--out", tmp_path / name)
    assert status == 2
    assert "out is a file, and a folder is expected; name another" in words


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dtype.json", "{"),
        ("dtype.json", '{"dtype": "f8"}'),
        ("tokenizer-made-of.json", "[]"),
        ("tokenizer.json", ""),
    ],
)
def test_damaged_files_of_the_folder(trained, script, name, content):
    path = trained / name
    whole = path.read_text()
    path.write_text(content)
    try:
        status, words = said(script, "--smoke", "--out", trained, "--member", "full")
    finally:
        path.write_text(whole)
    assert status == 2
    assert f"{path} is damaged (" in words
    assert "start again in another folder" in words


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one member, trained for one step."""
    script = Path(__file__).parents[3] / "experiments/train_pair.py"
    out = tmp_path_factory.mktemp("trained")
    options = ["--smoke", "--out", out, "--steps", "1", "--threads", "1", "--dtype", "f32"]
    assert said(script, *options, "--member", "full")[0] == 0
    return out


def test_a_folder_of_something_else_is_refused_before_training(trained, script):
    folder = trained / "exported/ternary-master"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine").write_text("kept")
    status, words = said(script, "--smoke", "--out", trained, "--steps", "1", "--member", "ternary")
    (folder / "mine").unlink()
    assert status == 1
    assert "ternary-master has mine, so it is no export" in words
    assert not (trained / "ternary").exists()


def test_a_refusal_is_not_called_a_stop(trained, script):
    status, words = said(script, "--smoke", "--out", trained, "--steps", "2", "--threads", "1")
    assert status == 1
    assert "another training: steps was 1 and is 2" in words
    assert "training failed: full; the reason is above" in words
    assert "goes on" not in words


def test_a_log_that_is_missing(trained, script):
    log = trained / "full/log.jsonl"
    text = log.read_text()
    log.unlink()
    options = ["--steps", "1", "--member", "full"]
    status, words = said(script, "--smoke", "--out", trained, *options)
    log.write_text(text)
    assert status == 1
    assert "log.jsonl is missing beside checkpoint.pt, which goes on from step 1" in words


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up there")
def test_trainings_end_when_their_parent_is_killed(script, torch, tmp_path):
    """By a SIGKILL, which no process can note: each child leaves a checkpoint."""
    command = [sys.executable, script, "--smoke", "--out", tmp_path, "--threads", "1"]
    with (tmp_path / "said").open("w") as file:
        options = ["--steps", "100000", "--dtype", "f32"]
        parent = subprocess.Popen([*command, *options], stdout=file, stderr=file)
    logs = [tmp_path / member / "log.jsonl" for member in ("full", "ternary")]
    children = []
    try:
        until = time.monotonic() + 300
        while not all(log.exists() and log.stat().st_size for log in logs):
            assert parent.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
        children = [int(child) for child in listed.split()]
        assert len(children) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait(timeout=60)
        until = time.monotonic() + 60
        while any(alive(child) for child in children):
            assert time.monotonic() < until, "a child trains on"
            time.sleep(0.1)
    finally:
        parent.kill()
        for child in filter(alive, children):
            os.kill(child, signal.SIGKILL)
    for log in logs:
        state = torch.load(log.parent / "checkpoint.pt", weights_only=True)
        assert state["step"] >= json.loads(log.read_text().splitlines()[-1])["step"]
        stopped = f"{log.parent.name} stopped at step {state['step']} of 100000"
        assert stopped in (tmp_path / "said").read_text()


def alive(process):
    """Whether a process runs: one that has ended may wait for somebody to ask after it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
