"""The report code is tested over a stand-in for the native module: no model, no build."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, MISSING, Browser


@pytest.fixture
def fake():
    """A fresh `tritlab` package over the stand-in; the real one is put back afterwards."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _ours(name)}
    path = Path(__file__).parents[1] / "fake_native.py"
    spec = importlib.util.spec_from_file_location("tritlab._native", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tritlab._native"] = module
    spec.loader.exec_module(module)
    package = importlib.import_module("tritlab")
    package._native = module
    yield package
    for name in [name for name in sys.modules if _ours(name)]:
        del sys.modules[name]
    sys.modules.update(kept)


def _ours(name: str) -> bool:
    return name == "tritlab" or name.startswith("tritlab.")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF stand-in")
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("All work and no play. " * 400)
    return path


@pytest.fixture
def comparison(fake, model, text):
    return fake.compare(
        model, ["F16", "Q8_0", "q4_0", None, "TERNARY"], text, chunks=4, progress=False
    )


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A real browser; where there is none, what was not checked is said, and CI fails."""
    if CHROMIUM is None:
        assert not os.environ.get("TRITLAB_CI"), MISSING
        pytest.skip(MISSING)
    return Browser(tmp_path_factory.mktemp("browser"))


def pytest_terminal_summary(terminalreporter):
    if CHROMIUM is None:
        terminalreporter.write_line(MISSING)
