import math
from statistics import NormalDist

import numpy as np
import pytest


@pytest.fixture
def paired(fake):
    import importlib

    return importlib.import_module("tritlab.paired")


def test_value_is_the_mean_over_tokens_and_not_over_clusters(paired):
    got = paired.difference([3.0, 3.0, 3.0, 9.0], [1.0, 1.0, 1.0, 1.0], [0, 0, 0, 1])
    assert got.value == (2 + 2 + 2 + 8) / 4
    assert (got.tokens, got.clusters) == (4, 2)


@pytest.mark.parametrize(
    ("nu", "t"), [(1, 12.7062), (2, 4.30265), (5, 2.570582), (10, 2.228139), (27, 2.051831)]
)
def test_student(paired, nu, t):
    # tables: two-sided 95 %
    assert paired._student_two_sided(t, nu) == pytest.approx(0.95, abs=2e-7)
    expanded = paired._expanded(0.05, nu + 1)
    if nu == 1:  # a normal quantile of 18: outside all drawings, as two clusters deserve
        assert expanded < 1e-60
        return
    assert -NormalDist().inv_cdf(expanded / 2) == pytest.approx(
        t * math.sqrt((nu + 1) / nu), rel=1e-5
    )


@pytest.mark.parametrize("clusters", [6, 20])
def test_interval_holds_the_truth_as_often_as_it_says(paired, clusters):
    rng = np.random.default_rng(11)
    index = np.repeat(np.arange(clusters), 30)
    inside = 0
    for trial in range(400):
        shared = rng.normal(0, 1, clusters)[index]  # tokens of a cluster go together
        delta = 0.3 + shared + rng.normal(0, 1, len(index))
        got = paired.difference(delta, np.zeros_like(delta), index, resamples=2000, seed=trial)
        inside += got.low <= 0.3 <= got.high
    # 0.95 ± 3 standard errors of 400 trials; single tokens as clusters would give about 0.5
    assert 0.915 < inside / 400 < 0.985


def test_pairing_sees_what_two_perplexities_hide(paired):
    rng = np.random.default_rng(2)
    base = rng.gamma(2, 1.5, 2000)
    got = paired.difference(base + rng.normal(0.02, 0.1, 2000), base, np.arange(2000) // 50)
    assert got.distinguishable
    assert "not distinguishable" not in str(got)
    same = paired.difference(base + rng.normal(0, 0.1, 2000), base, np.arange(2000) // 50)
    assert not same.distinguishable
    assert str(same).endswith("not distinguishable")


def test_few_clusters_say_nothing(paired):
    got = paired.difference(np.ones(40), np.zeros(40), np.arange(40) // 10)
    assert not got.distinguishable
    assert "too few clusters to tell" in str(got)
    one = paired.difference([1.0], [0.0], [0])
    assert (one.low, one.high) == (1.0, 1.0)


def test_same_seed_same_interval(paired):
    rng = np.random.default_rng(3)
    a, b, c = rng.normal(size=100), rng.normal(size=100), np.arange(100) // 10
    assert paired.difference(a, b, c) == paired.difference(a, b, c)
    assert paired.difference(a, b, c, seed=1) != paired.difference(a, b, c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0, 3.0], [0, 0, 0]), "paired values"),
        (([1.0, 2.0], [1.0, 2.0], [0]), "clusters"),
        (([], [], []), "no tokens"),
        (([1.0, math.nan], [0.0, 0.0], [0, 1]), "a - b is nan at token 1"),
    ],
)
def test_bad_arrays(paired, fake, arguments, message):
    with pytest.raises(fake.errors.EvaluationError, match=message):
        paired.difference(*arguments)


def test_bad_settings(paired, fake):
    with pytest.raises(fake.errors.EvaluationError, match="level"):
        paired.difference([1.0], [0.0], [0], level=1.0)
    with pytest.raises(fake.errors.EvaluationError, match="resamples"):
        paired.difference([1.0], [0.0], [0], resamples=0)


def test_comparison_tells_pairs_apart_or_says_that_it_cannot(fake, comparison):
    found = {(d["a"], d["b"]): d for d in comparison.differences()}
    assert len(found) == 10
    assert found["TERNARY", "F16"]["difference"] > 0
    label = comparison.rows[0].label
    with pytest.raises(fake.errors.FormatError, match="no row 'Q9'"):
        comparison.paired(label, "Q9")
    position = comparison.rows[0].arrays["position"]
    documents = np.arange(position.max() + 1) // 7
    got = comparison.paired("Q4_0", label, documents=documents)
    assert got.clusters == len(np.unique(documents[position]))
    with pytest.raises(fake.errors.ShapeError, match="documents has 3 entries"):
        comparison.paired("Q4_0", label, documents=documents[:3])


def test_report_names_pairs_that_are_alike(fake, model, text):
    got = fake.compare(model, ["Q8_0"], text, chunks=None, progress=False)
    row = got.rows[1]
    row.arrays["nll"] = got.rows[0].arrays["nll"].copy()
    windows = len(np.unique(row.arrays["position"] // got.settings["context"]))
    shown = got.to_markdown()
    if windows < 5:
        assert f"The text has {windows} windows, fewer than the 5" in shown
    else:
        assert "Not distinguishable in perplexity" in shown
        assert "Q8_0 and F16" in shown
