"""Ctrl-C and memory that does not suffice, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import write

import tritlab as tl

START = """
import resource, sys
import numpy as np
import tritlab as tl
model = tl.Model.load(sys.argv[1], context=2**20)
ids = np.arange(100_000, dtype=np.int32) % 90 + 4
model.logits(ids[:4].copy())
"""


def start(file: Path, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + code, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "call",
    [
        "model.logits(ids)",
        "model.fingerprint(ids)",
        "model.evaluate(ids, context=100_000)",
        "model.evaluate(ids, context=100_000, reference=model)",
        "model.generate(ids, max_tokens=2)",
        "list(model.stream(ids, max_tokens=2))",
        "model.generate_ids(ids, max_tokens=2)",
        "model.generate_batch([ids, ids], max_tokens=2)",
    ],
)
def test_ctrl_c_ends_one_long_call(file, call):
    """Alone they would take minutes."""
    child = start(file, f"print('ready', flush=True)\n{call}\n")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.7)
    sent = time.perf_counter()
    child.send_signal(signal.SIGINT)
    try:
        _, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
    assert stderr.rstrip().endswith("KeyboardInterrupt"), stderr
    assert time.perf_counter() - sent < 20


def test_a_stream_goes_on_after_ctrl_c(file):
    code = """
import _thread, threading
stream = model.stream(ids[:5000].copy(), max_tokens=3)
threading.Timer(0.05, _thread.interrupt_main).start()
try:
    while True:
        list(stream)
        raise SystemExit("the interrupt came too late")
except KeyboardInterrupt:
    print("".join(stream) == model.generate(ids[:5000].copy(), max_tokens=3), stream.finish_reason)
"""
    out, stderr = start(file, code).communicate(timeout=300)
    assert out.startswith("True "), (out, stderr)
    assert out != "True None\n"


def test_calls_from_other_threads(file):
    """Signals are Python's main thread's; work of another one is done all the same."""
    model, ids = tl.Model.load(file), np.arange(60, dtype=np.int32)
    got: list[object] = []
    here: list[int] = []

    def work():
        me = threading.get_ident()
        got.append(model.logits(ids))
        got.append(model.fingerprint(ids))
        got.append(model.generate(ids, max_tokens=4))
        model.evaluate(ids, context=20, progress=lambda *_: here.append(threading.get_ident() - me))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(got[0], model.logits(ids))
    assert got[1:] == [model.fingerprint(ids), model.generate(ids, max_tokens=4)]
    assert here == [0] * 4  # callbacks run on the thread that called


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("model.logits(np.tile(ids, 10))", "logits"),
        ("model.capture(ids[:12_000].copy(), 'blk.*.attention')", "attention weights"),
        ("model.capture(np.tile(ids, 10), 'blk.0')", "activations"),
        ("model.fingerprint(np.tile(ids, 10))", "the key-value cache"),
    ],
)
def test_too_little_memory_is_an_error(file, call, what):
    """The process lives on: it used to be aborted."""
    code = f"""
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, resource.RLIM_INFINITY))
try:
    {call}
except MemoryError as error:
    print(error)
print(len(model.fingerprint(ids[:10].copy())))
"""
    out, stderr = start(file, code).communicate(timeout=300)
    assert f"{what} would need" in out, (out, stderr)
    assert out.endswith("\n64\n"), (out, stderr)
