"""The search over a stand-in whose costs are known: what is solved, stored and chosen."""

import itertools
import json
import sys

import numpy as np
import pytest


@pytest.fixture
def precision(fake):
    from tritlab import precision

    return precision


SIZES = {"context": 64, "chunks": 2, "verify_chunks": 6, "progress": False}


# ---- budgets ----


@pytest.mark.parametrize(
    ("budget", "nbytes"),
    [
        (1234, 1234),
        (1e6, 1_000_000),
        ("1234", 1234),
        ("60MB", 60_000_000),
        ("0.5 gb", 500_000_000),
        ("2 KiB", 2048),
        ("1.5MiB", 1_572_864),
        ("3.0 bpw", 375_000),
        ("3BPW", 375_000),
        (".5bpw", 62_500),
    ],
)
def test_budgets(fake, budget, nbytes):
    from tritlab.precision.budget import parse_budget

    assert parse_budget(budget, 1_000_000) == nbytes


@pytest.mark.parametrize(
    "budget", ["", "MB", "60 MBit", "-3 bpw", "1e6", "3 bits", "0", 0, -1, float("nan"), "0.0bpw"]
)
def test_budgets_that_are_none(fake, budget):
    from tritlab.precision.budget import parse_budget

    with pytest.raises(fake.errors.SearchError, match="budget"):
        parse_budget(budget, 1_000_000)


# ---- the knapsack ----


def test_a_worked_knapsack(precision):
    from tritlab.precision.knapsack import least_cost, least_size

    # Three tensors in 1, 2 or 4 bytes. With 7 bytes the most is gained by giving 4 to the second
    # (9 saved), then 2 to the first (3 saved): 2 + 4 + 1 = 7, cost 1 + 0 + 1 = 2.
    costs = [[4.0, 1.0, 0.5], [9.0, 5.0, 0.0], [1.0, 0.5, 0.2]]
    sizes = [[1, 2, 4], [1, 2, 4], [1, 2, 4]]
    assert least_cost(costs, sizes, 7) == [1, 2, 0]
    assert least_cost(costs, sizes, 3) == [0, 0, 0]
    assert least_cost(costs, sizes, 12) == [2, 2, 2]
    assert least_size(costs, sizes, 2.0) == [1, 2, 0]
    assert least_size(costs, sizes, 100.0) == [0, 0, 0]


def test_knapsacks_are_solved_exactly(fake, precision, rng):
    from tritlab.precision.knapsack import least_cost, least_size

    for _ in range(20):
        n, m = 5, 4
        sizes = rng.integers(1, 10_000, (n, m)).tolist()
        costs = (10.0 ** rng.uniform(-6, 0, (n, m))).tolist()  # as KL is: of many sizes
        choices = list(itertools.product(range(m), repeat=n))
        size = {c: sum(sizes[i][j] for i, j in enumerate(c)) for c in choices}
        cost = {c: sum(costs[i][j] for i, j in enumerate(c)) for c in choices}
        low, high = min(size.values()), max(size.values())
        budget = int(rng.integers(low, high))
        found = tuple(least_cost(costs, sizes, budget))
        best = min(cost[c] for c in choices if size[c] <= budget)
        assert size[found] <= budget
        assert cost[found] <= best * (1 + 1e-5) + 1e-9
        most = float(np.median(list(cost.values())))
        small = tuple(least_size(costs, sizes, most))
        assert cost[small] <= most
        assert size[small] <= min(size[c] for c in choices if cost[c] <= most) * (1 + 1e-5)
        with pytest.raises(fake.errors.SearchError, match="smallest options"):
            least_cost(costs, sizes, low - 1)
        with pytest.raises(fake.errors.SearchError, match="best options"):
            least_size(costs, sizes, min(cost.values()) * 0.99)


# ---- costs ----


def test_costs_follow_the_square_of_the_error(precision):
    from tritlab.precision.sensitivity import Option, Unit, probes

    own = Option("F16", 200, 0.0)
    unit = Unit("blk.12.ffn_down.weight", "linear", own, 100, "F16")
    unit.options["F16"] = own
    for name, nbytes, error in (("A", 20, 0.4), ("B", 40, 0.1), ("C", 80, 0.01)):
        unit.add(Option(name, nbytes, error))
    unit.add(Option("F16", 1, 0.5))  # of another file: the own type stays
    assert (unit.layer, unit.kind) == (12, "ffn_down")
    assert [probes(unit, how) for how in ("one", "two", "exhaustive")] == [
        ["A"],
        ["A", "B"],
        ["A", "B", "C"],
    ]
    one = precision.Sensitivity([unit], {unit.name: {"A": 0.16}})
    assert one.cost(unit, "F16") == 0.0
    assert one.cost(unit, "A") == 0.16
    assert one.cost(unit, "B") == pytest.approx(0.01)
    assert one.cost(unit, "C") == pytest.approx(0.0001)
    assert one.per_error(unit) == pytest.approx(1.0)
    two = precision.Sensitivity([unit], {unit.name: {"A": 0.16, "B": 0.02}})
    assert two.cost(unit, "B") == 0.02
    assert two.cost(unit, "C") == pytest.approx(0.0002)  # from B, which is nearer


def test_factors_are_found_again(precision):
    from tritlab.precision.sensitivity import fit

    recipes = [{"A": 1.0, "B": 0.0}, {"A": 0.0, "B": 0.1}, {"A": 0.5, "B": 0.05}]
    kls = [3.0 * r["A"] + 0.5 * r["B"] for r in recipes]
    factors = fit(recipes, kls, ["A", "B", "C"])
    assert factors["A"] == pytest.approx(3.0, rel=0.1)
    assert factors["B"] == pytest.approx(0.5, rel=0.1)
    assert factors["C"] == pytest.approx(1.0)  # nothing speaks for another
    assert fit([], [], ["A"]) == {"A": 1.0}


# ---- cells ----


def test_cells_are_kept_and_damage_is_seen(fake, tmp_path):
    from tritlab.precision.cells import Cells

    made = []

    def make(value):
        return lambda: made.append(value) or {"kl": value, "list": [1, 2.5, None]}

    first = Cells(tmp_path)
    key = {"model": "a", "format": "Q4_0"}
    assert not first.has(key)
    assert first.get(key, make(0.1))["kl"] == 0.1
    again = Cells(tmp_path)
    assert again.has(key)
    assert again.get(key, make(0.2)) == {"kl": 0.1, "list": [1, 2.5, None]}
    assert again.get({**key, "model": "b"}, make(0.3))["kl"] == 0.3
    assert (made, again.reused, again.damaged) == ([0.1, 0.3], 1, [])
    name = next(p for p in tmp_path.iterdir() if json.loads(p.read_text())["key"] == key)
    good = name.read_text()
    bad_values = [
        "",
        good[: len(good) // 2],  # a file cut short
        good.replace("0.1", "0.2"),  # another number
        good.replace('"a"', '"c"'),  # of another model
        "[]",
        "{}",
        "\udcff",
    ]
    for bad in bad_values:
        name.write_bytes(bad.encode("utf-8", "surrogateescape"))
        cells = Cells(tmp_path)
        assert cells.get(key, make(0.1))["kl"] == 0.1, bad
        assert cells.damaged == [name.name]
        assert name.read_text() == good  # made again
    assert made.count(0.1) == 1 + len(bad_values)
    assert not list(tmp_path.glob("*.tmp"))


# ---- the whole ----


def test_the_best_recipe_is_found(fake, precision, model, text):
    found = fake.search(model, text, budget="5.2 bpw", **SIZES)
    # By hand: the embedding costs 4 e² for 28 M weights and the layer 0.5 e² for 106 M; of the
    # pairs that fit 5.2 bits, the least of the sums is the answer.
    table = fake._native._TABLE
    own = {"linear": "Q4_1", "embedding": "Q8_0"}

    def cost(kind, format):
        error = 0.0 if own[kind] == format else 0.4 * table[format][3]
        return {"linear": 0.5, "embedding": 4.0}[kind] * error**2

    def size(format, params):
        return params * table[format][1] // table[format][0]

    linear, rest = fake._native._LINEAR, fake._native._REST
    budget = 5.2 * (linear + rest) / 8
    pairs = itertools.product(["Q4_0", "Q4_1", "Q8_0"], repeat=2)
    fitting = [(a, b) for a, b in pairs if size(a, linear) + size(b, rest) <= budget]
    best = min(fitting, key=lambda p: cost("linear", p[0]) + cost("embedding", p[1]))
    formats = {"blk.0.attn_q.weight": best[0], "token_embd.weight": best[1]}
    wanted = {
        name: wanted
        for (name, wanted), kind in zip(formats.items(), own, strict=True)
        if wanted != own[kind]
    }
    assert found.chosen.formats == wanted
    assert found.chosen.total_bytes <= budget
    assert found.chosen.verification.kl == pytest.approx(sum(map(cost, own, best)))
    assert found.best_uniform is not None
    assert found.chosen.verification.kl <= found.best_uniform.verification.kl
    assert found.windows == {"sensitivity": [0, 2], "verification": [2, 8]}
    assert f"{found.chosen.label} ← chosen" in found.to_markdown()


def test_the_smallest_of_a_quality(fake, model, text):
    found = fake.search(model, text, max_kl=0.01, **SIZES)
    assert found.chosen.verification.kl <= 0.01
    assert all(
        c.total_bytes >= found.chosen.total_bytes
        for c in found.candidates
        if c.verification.kl <= 0.01
    )


def test_a_search_goes_on_where_it_was(fake, model, text, tmp_path, monkeypatch):
    native = fake._native.Model
    calls = []
    evaluate = native.evaluate

    def counted(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(native, "evaluate", counted)
    stop = None
    whole = fake.search(model, text, budget="5.2 bpw", **SIZES)
    total = len(calls)
    for stop in range(1, total + 1):
        store = tmp_path / str(stop)
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            fake.search(model, text, budget="5.2 bpw", store=store, **SIZES)
        before, stop = stop, None
        calls.clear()
        resumed = fake.search(model, text, budget="5.2 bpw", store=store, **SIZES)
        assert len(calls) == total - (before - 1)
        assert resumed.reused == before - 1
        assert resumed.records == whole.records
    # Another budget needs only its own recipes; another text, all of it.
    calls.clear()
    fake.search(model, text, budget="5.3 bpw", store=store, front=0, **SIZES)
    assert len(calls) <= 4
    # A damaged cell is measured again, and said.
    cell = next(store.iterdir())
    cell.write_text(cell.read_text()[:-20])
    calls.clear()
    again = fake.search(model, text, budget="5.2 bpw", store=store, **SIZES)
    assert len(calls) == 1
    assert again.damaged == [cell.name]
    assert cell.name in again.to_markdown()
    assert again.records == whole.records


def test_what_cannot_be_searched(fake, model, text):
    error = fake.errors.SearchError
    for settings, why in [
        ({}, "either a budget or max_kl"),
        ({"budget": 1, "max_kl": 1.0}, "either a budget or max_kl"),
        ({"budget": "1kB"}, "smallest recipe has"),
        ({"max_kl": -1.0}, "max_kl must be"),
        ({"budget": "5bpw", "sensitivity": "some"}, "one, two, exhaustive"),
        ({"budget": "5bpw", "chunks": 0}, "chunks must be at least 1"),
        ({"budget": "5bpw", "verify_chunks": 1000}, "windows of 64 tokens"),
    ]:
        with pytest.raises(error, match=why):
            fake.search(model, text, **{**SIZES, **settings})
    with pytest.raises(fake.errors.FormatError, match="no tensor type for TERNARY"):
        fake.search(model, text, budget="5bpw", formats="TERNARY", **SIZES)
    with pytest.raises(fake.errors.FormatError, match="no format 'Q9'"):
        fake.search(model, text, budget="5bpw", formats=["Q9"], **SIZES)


def test_without_scipy_the_extra_is_named(fake, model, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(fake.errors.NotInstalledError, match=r"pip install 'tritlab\[search\]'"):
        fake.search(model, text, budget="5bpw", **SIZES)


def test_everything_is_written(fake, model, text, tmp_path):
    found = fake.search(model, text, budget="5.2 bpw", front=3, **SIZES)
    report = found.save(tmp_path / "new" / "folder")
    page = report.read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 2
    assert found.chosen.results["fingerprint"][:16] in page
    content = json.loads((report.parent / "results.json").read_text())
    assert content["schema"] == "tritlab.search/1"
    assert content["chosen"] == found.chosen.label
    assert content["seeds"] == {"search": None}
    assert {row["recipe"] for row in content["records"]} == {c.label for c in found.candidates}
    recipe = fake.Recipe.read(report.parent / "recipe.json")
    assert recipe.overrides == tuple(found.chosen.formats.items())
    assert recipe.record["measured"]["verification"]["kl_nats"] == found.chosen.verification.kl
    lines = (report.parent / "tensor-types.txt").read_text().splitlines()
    assert len(lines) == 2  # all that could be changed, whether it was or not
    assert "chosen" in found._repr_html_()


def test_a_file_that_is_not_the_recipe_is_refused(fake, model, text, tmp_path, monkeypatch):
    found = fake.search(model, text, budget="5.2 bpw", **SIZES)
    monkeypatch.setattr(fake._native.Model, "fingerprint", lambda self, ids: "0" * 64)
    with pytest.raises(fake.errors.SearchError, match="does not answer as the recipe"):
        found.write_gguf(tmp_path / "out.gguf")
