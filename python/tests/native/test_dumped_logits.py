"""Statistics of a real model beside an independent computation from its dumped logits.

The second computation is written here from llama.cpp's definitions (`llama-perplexity
--kl-divergence`), shares no code with the package, and reads logits from files.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import tritlab as tl
from tritlab import _models
from tritlab._native import quantize_gguf

TEXT = (
    "Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man who, for his own amusement, "
    "never took up any book but the Baronetage; there he found occupation for an idle hour, and "
    "consolation in a distressed one; there his faculties were roused into admiration and respect, "
    "by contemplating the limited remnant of the earliest patents; there any unwelcome sensations, "
    "arising from domestic affairs changed naturally into pity and contempt as he turned over the "
    "almost endless creations of the last century."
)
CONTEXT, WINDOWS = 48, 2


def dump(model, folder):
    """Logits of each window, as the model gives them for it alone: float32 [window, n, vocab]."""
    ids = model.tokenize(TEXT)[: CONTEXT * WINDOWS]
    assert len(ids) == CONTEXT * WINDOWS
    windows = [model.logits(ids[i : i + CONTEXT].copy()) for i in range(0, len(ids), CONTEXT)]
    np.save(folder / "logits.npy", np.stack(windows))
    np.save(folder / "ids.npy", ids)
    return folder


def log_softmax(x):
    x = x.astype(np.longdouble)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def independent(model_folder, reference_folder):
    """Every statistic by name, from two dumps: for each a value and an error, or None."""
    ids = np.load(model_folder / "ids.npy").reshape(WINDOWS, CONTEXT)
    # Predictions at CONTEXT/2 .. CONTEXT-2 of tokens CONTEXT/2+1 .. CONTEXT-1.
    at = slice(CONTEXT // 2, CONTEXT - 1)
    true = ids[:, CONTEXT // 2 + 1 :].ravel()
    q, p = (
        log_softmax(np.load(f / "logits.npy", mmap_mode="r")[:, at]).reshape(len(true), -1)
        for f in (model_folder, reference_folder)
    )
    n = len(true)
    lq, lp = q[np.arange(n), true], p[np.arange(n), true]
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    delta = np.exp(lq) - np.exp(lp)
    same = (q.argmax(axis=1) == p.argmax(axis=1)).mean()

    def error(x):  # sqrt((<x²> - <x>²) / (n - 1))
        return float(np.sqrt(((x * x).mean() - x.mean() ** 2) / (n - 1)))

    ppl, base = float(np.exp(-lq.mean())), float(np.exp(-lp.mean()))
    covariance = float((lq * lp).mean() - lq.mean() * lp.mean()) / (n - 1)
    ratio_error = math.sqrt(error(lq) ** 2 + error(lp) ** 2 - 2 * covariance)
    gap = (ppl * error(lq)) ** 2 + (base * error(lp)) ** 2 - 2 * ppl * base * covariance
    square = delta * delta
    root = float(np.sqrt(square.mean()))

    def percentile(x, share):  # linear between the sorted values around share · (n - 1)
        x = np.sort(x)
        place = share / 100 * (n - 1)
        low = min(int(place), n - 2)
        return float(x[low] + (place - low) * (x[low + 1] - x[low])), None

    found = {
        "mean nll (nats)": (float(-lq.mean()), error(lq)),
        "perplexity": (ppl, ppl * error(lq)),
        "reference perplexity": (base, base * error(lp)),
        "correlation of ln perplexities": (covariance / error(lq) / error(lp), None),
        "ln(perplexity / reference)": (math.log(ppl / base), ratio_error),
        "perplexity / reference": (ppl / base, ppl / base * ratio_error),
        "perplexity - reference": (ppl - base, math.sqrt(max(gap, 0))),
        "mean KL (nats)": (float(kl.mean()), error(kl)),
        "mean delta p": (float(delta.mean()), error(delta)),
        "RMS delta p": (root, error(square) / 2 / root),
        "same top token": (float(same), math.sqrt(same * (1 - same) / (n - 1))),
    }
    names = {100: "max", 50: "median", 0: "min"}
    for share in (100, 99.9, 99, 95, 90, 50, 10, 5, 1, 0.1, 0):
        found[f"KL {names.get(share, f'{share:g} %')} (nats)"] = percentile(kl, share)
    for share in (100, 99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1, 0):
        found[f"delta p {names.get(share, f'{share:g} %')}"] = percentile(delta, share)
    return found


@pytest.fixture(scope="module")
def reference_dump(smollm2, tmp_path_factory):
    return dump(smollm2, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("format", ["Q8_0", "Q4_0", "Q3_K", "Q2_K"])
def test_statistics_equal_those_from_dumped_logits(smollm2, reference_dump, tmp_path, format):
    """The file's Q4_1 weights, re-quantised; rows that do not fit k-quants as llama-quantize."""
    file = tmp_path / "model.gguf"
    quantize_gguf(_models.resolve("smollm2"), file, format, fallback="llama.cpp")
    model = tl.Model.load(file)
    got = tl.perplexity(model, TEXT, reference=smollm2, context=CONTEXT, chunks=WINDOWS)
    wanted = independent(dump(model, tmp_path), reference_dump)
    records = {r["statistic"]: (r["value"], r["error"]) for r in got.records()}
    assert set(records) == set(wanted)
    for name, (value, error) in wanted.items():
        assert records[name][0] == pytest.approx(value, rel=1e-6, abs=1e-6), name
        assert (records[name][1] is None) == (error is None), name
        if error is not None:
            assert records[name][1] == pytest.approx(error, rel=1e-6, abs=1e-6), name
    # KL itself is small for good formats: near it, 1e-6 of its own size.
    assert got.against.kl.value == pytest.approx(wanted["mean KL (nats)"][0], rel=1e-6)
    assert got.against.kl.value > 1e-4
