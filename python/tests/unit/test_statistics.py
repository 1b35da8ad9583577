import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

FLOATS = st.lists(st.floats(0, 20), min_size=2, max_size=50)


@pytest.fixture(scope="module")
def stats():
    # Pure functions: take the module by its file, whatever `tritlab` is at the moment.
    import importlib.util
    import sys
    from pathlib import Path

    found = importlib.util.find_spec("tritlab")
    path = Path(found.submodule_search_locations[0]) / "statistics.py"
    spec = importlib.util.spec_from_file_location("tritlab_statistics", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tritlab_statistics"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["tritlab_statistics"]


def evaluation(rng, n=500):
    ref = rng.gamma(2, 1.5, n)
    nll = ref + rng.normal(0.1, 0.3, n)
    return {
        "n_chunks": 2,
        "nll": nll,
        "token": np.zeros(n, np.int32),
        "position": np.arange(n),
        "ref_nll": ref,
        "kl": rng.gamma(1, 0.1, n),
        "same_top": rng.random(n) < 0.9,
        "p": np.exp(-np.maximum(nll, 0)),
        "ref_p": np.exp(-ref),
    }


def test_perplexity_by_hand(stats):
    # mean 2, mean square 14/3, variance 2/3, error of the mean sqrt(2/3 / 2)
    got = stats.perplexity([1.0, 2.0, 3.0])
    assert got.value == pytest.approx(math.exp(2))
    assert got.error == pytest.approx(math.exp(2) * math.sqrt(1 / 3))


def test_perplexity_of_a_uniform_guess_is_the_vocabulary(stats):
    got = stats.perplexity(np.full(100, math.log(49152)))
    assert got.value == pytest.approx(49152)
    assert got.error == pytest.approx(0, abs=1e-6)


@given(FLOATS)
def test_mean_is_numpy_s(stats, values):
    got = stats.mean(values)
    assert got.value == pytest.approx(np.mean(values))
    assert got.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-12)


@given(FLOATS, st.randoms())
def test_mean_does_not_depend_on_order(stats, values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert stats.mean(shuffled).value == stats.mean(values).value


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_values_have_no_error(stats, count):
    assert math.isnan(stats.mean(np.ones(count)).error)
    assert math.isnan(stats.same_top(np.ones(count, bool)).error)


def test_same_top_is_binomial(stats):
    got = stats.same_top([True] * 9 + [False])
    assert got.value == 0.9
    assert got.error == pytest.approx(math.sqrt(0.9 * 0.1 / 9))


def test_ln_ratio_is_paired(stats, rng):
    e = evaluation(rng)
    got = stats.ln_ratio(e["nll"], e["ref_nll"])
    # llama.cpp writes it with a covariance; it is the error of the mean difference.
    n = len(e["nll"])
    own, ref = np.var(e["nll"]) / (n - 1), np.var(e["ref_nll"]) / (n - 1)
    covariance = np.cov(e["nll"], e["ref_nll"], ddof=0)[0, 1] / (n - 1)
    assert got.value == pytest.approx(np.mean(e["nll"]) - np.mean(e["ref_nll"]))
    assert got.error == pytest.approx(math.sqrt(own + ref - 2 * covariance))
    assert got.error < math.sqrt(own + ref) / 2


def test_against_reference(stats, rng):
    e = evaluation(rng)
    q = stats.quality(e)
    a = q.against
    ppl, base = np.exp(np.mean(e["nll"])), np.exp(np.mean(e["ref_nll"]))
    assert (q.windows, q.scored) == (2, 500)
    assert a.ratio.value == pytest.approx(ppl / base)
    assert a.ratio.error == pytest.approx(a.ratio.value * a.ln_ratio.error)
    assert a.difference.value == pytest.approx(ppl - base)
    assert a.correlation == pytest.approx(np.corrcoef(e["nll"], e["ref_nll"])[0, 1])
    assert a.kl.value == pytest.approx(np.mean(e["kl"]))
    assert a.delta_p.value == pytest.approx(np.mean(e["p"] - e["ref_p"]))
    assert a.delta_p_rms.value == pytest.approx(np.sqrt(np.mean((e["p"] - e["ref_p"]) ** 2)))
    assert a.kl_percentiles["median"] == pytest.approx(np.median(e["kl"]))
    assert a.kl_percentiles["max"] == e["kl"].max()
    assert a.kl_percentiles["min"] == e["kl"].min()


def test_a_small_case_worked_out(stats):
    """Four tokens of a vocabulary of three; all numbers below are multiples of ln 2 = L.

    | reference     | model         | true | -ln p, ref, model | KL                      | top  |
    | 1/2, 1/4, 1/4 | 1/4, 1/2, 1/4 | 1st  | L, 2 L            | L/2 - L/4 = L/4         | no   |
    | 1/2, 1/4, 1/4 | 1/2, 1/4, 1/4 | 1st  | L, L              | 0                       | same |
    | 1/4, 1/2, 1/4 | 1/4, 1/4, 1/2 | 2nd  | L, 2 L            | L/2 - L/4 = L/4         | no   |
    | 1/4, 1/4, 1/2 | 1/2, 1/4, 1/4 | 1st  | 2 L, L            | L/2 - L/4 = L/4         | no   |
    """
    one = math.log(2)
    a = stats.against(
        {
            "nll": np.array([2, 1, 2, 1]) * one,
            "ref_nll": np.array([1, 1, 1, 2]) * one,
            "kl": np.array([1, 0, 1, 1]) * one / 4,
            "same_top": np.array([False, True, False, False]),
            "p": np.array([1, 2, 1, 2]) / 4,
            "ref_p": np.array([2, 2, 2, 1]) / 4,
        }
    )
    close = pytest.approx
    assert a.perplexity.value == close(2**1.25)  # mean (1 + 1 + 1 + 2) / 4 = 5/4
    assert a.ratio.value == close(2**0.25)  # 6/4 - 5/4
    # differences 1, 0, 1, -1: mean 1/4, mean square 3/4, variance 3/4 - 1/16 = 11/16
    assert a.ln_ratio.value == close(one / 4)
    assert a.ln_ratio.error == close(one * math.sqrt(11 / 16 / 3))
    assert a.ratio.error == close(2**0.25 * one * math.sqrt(11 / 16 / 3))
    assert a.difference.value == close(2**1.5 - 2**1.25)
    # deviations (1, -1, 1, -1)/2 and (-1, -1, -1, 3)/4: covariance -1/8, variances 1/4 and 3/16
    assert a.correlation == close(-(1 / 8) / math.sqrt(1 / 4 * 3 / 16))
    # 1, 0, 1, 1 quarters: mean 3/4, variance 3/4 - 9/16 = 3/16, error sqrt(3/16 / 3) = 1/4
    assert a.kl.value == close(3 / 16 * one)
    assert a.kl.error == close(1 / 16 * one)
    assert a.kl_percentiles["median"] == close(one / 4)
    assert a.kl_percentiles["10 %"] == close(0.3 * one / 4)  # 0.1 · 3 = 0.3 of the way from 0
    assert (a.kl_percentiles["min"], a.kl_percentiles["max"]) == (0, close(one / 4))
    # -1/4, 0, -1/4, 1/4
    assert a.delta_p.value == close(-1 / 16)
    assert a.delta_p.error == close(math.sqrt((3 / 64 - 1 / 256) / 3))
    assert a.delta_p_rms.value == close(math.sqrt(3 / 64))
    assert (a.same_top.value, a.same_top.error) == (1 / 4, close(math.sqrt(3 / 16 / 3)))


def test_percentiles_interpolate_as_llama_cpp_does(stats):
    got = stats.percentiles(np.arange(11.0), (100.0, 99.0, 50.0, 5.0, 0.0))
    assert got == pytest.approx({"max": 10, "99 %": 9.9, "median": 5, "5 %": 0.5, "min": 0})


def test_an_identical_model_differs_by_nothing(stats, rng):
    e = evaluation(rng)
    e |= {
        "ref_nll": e["nll"],
        "kl": np.zeros(500),
        "same_top": np.ones(500, bool),
        "ref_p": e["p"],
    }
    a = stats.quality(e).against
    assert (a.ln_ratio.value, a.ln_ratio.error) == (0, 0)
    assert (a.kl.value, a.same_top.value, a.delta_p_rms.value) == (0, 1, 0)
    assert a.correlation == pytest.approx(1)
    assert a.difference.value == 0
    assert a.difference.error == pytest.approx(0, abs=1e-6)


def test_without_reference_there_is_no_comparison(stats):
    q = stats.quality({"n_chunks": 1, "nll": np.ones(4)})
    assert q.against is None
    assert [r["statistic"] for r in q.records()] == ["mean nll (nats)", "perplexity"]
    assert str(q) == "perplexity 2.7183 ± 0.0000 (4 tokens scored in 1 windows)"


def test_an_infinite_perplexity_is_said(stats):
    assert stats.perplexity([1e6, 1e6 + 1]).value == math.inf


def test_median_mad(stats):
    assert stats.median_mad([1, 2, 3, 4, 100]) == (3, 1)
