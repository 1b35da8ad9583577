"""Training needs PyTorch, which is no dependency: without it these tests say so and are skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

WITH_TORCH = importlib.util.find_spec("torch") is not None
SAYS = (
    "**** tritlab.train WAS NOT CHECKED: torch is not installed (pip install 'tritlab[train]') ****"
)

if not WITH_TORCH:
    collect_ignore_glob = ["test_*.py"]


def pytest_terminal_summary(terminalreporter):
    if not WITH_TORCH:
        terminalreporter.write_line(SAYS)


@pytest.fixture
def torch():
    import torch

    torch.manual_seed(5)
    return torch


@pytest.fixture
def decoder(torch):
    """Makes a tiny decoder of BitNet's block, its layers BitLinear unless `options` is None."""
    from tritlab import train

    def make(options=(), **shape):
        sizes = {
            "vocab_size": 96,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        }
        model = train.Decoder(train.DecoderConfig(**{**sizes, **shape}))
        if options is not None:
            train.replace_linear(model, **dict(options))
        # At their first values the norms are all ones and attention is flat: nothing would be seen.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.1))
        return model

    return make


@pytest.fixture
def stream():
    """Tokens that can be learnt: a walk with few successors per token."""
    import numpy as np

    rng = np.random.default_rng(1)
    steps = rng.choice([1, 5, 17], 6000, p=[0.7, 0.2, 0.1])
    return (np.cumsum(steps) % 96).astype(np.uint16)


@pytest.fixture
def script():
    return Path(__file__).parents[3] / "experiments/train_pair.py"
