import json

import pytest


@pytest.fixture
def results(comparison, tmp_path):
    from tritlab._files import to_json, write_atomic

    path = tmp_path / "out" / "results.json"
    path.parent.mkdir()
    write_atomic(path, to_json(comparison.to_dict()))
    return path


def test_receipt_says_everything(comparison, model, text):
    got = comparison.rows[2].receipt
    assert got["schema"] == "tritlab.receipt/1"
    assert got["model"]["name"] == "model.gguf"
    assert len(got["model"]["sha256"]) == len(got["text"]["sha256"]) == 64
    assert (got["format"], got["reference"], got["seed"]) == ("Q4_0", "F16", None)
    assert (got["backend"], got["threads"]) == ("avx512", 2)
    assert got["text"]["windows"] == 4
    assert got["command"].startswith("tritlab.compare(")
    assert set(got["results"]) >= {"fingerprint", "nll_sha256", "kl_sha256", "perplexity"}
    assert "kl_sha256" not in comparison.rows[0].receipt["results"]


def test_rerun_is_equal(results):
    from tritlab import receipt

    checks = receipt.rerun(receipt.read(results), folder=results.parent)
    assert len({check.label for check in checks}) == 5
    assert all(check.equal for check in checks)


def test_rerun_finds_a_changed_number(results):
    from tritlab import receipt

    items = receipt.read(results)
    items[1]["results"]["perplexity"] *= 1 + 1e-9
    items[2]["results"]["fingerprint"] = "0" * 64
    wrong = [c for c in receipt.rerun(items) if not c.equal]
    assert [(c.label, c.name) for c in wrong] == [("Q8_0", "perplexity"), ("Q4_0", "fingerprint")]


@pytest.mark.parametrize("what", ["model", "text"])
def test_rerun_refuses_another_file(results, model, text, what):
    from tritlab import errors, receipt

    {"model": model, "text": text}[what].write_bytes(b"GGUF other" * 999)
    with pytest.raises(errors.ReceiptError, match=f"not the {what} of the receipt"):
        receipt.rerun(receipt.read(results))


def test_rerun_finds_moved_files(results, model, text):
    from tritlab import receipt

    moved = model.rename(results.parent / "model.gguf")
    elsewhere = text.rename(results.parent / "moved.txt")
    items = receipt.read(results)
    assert all(c.equal for c in receipt.rerun(items, folder=results.parent, text=elsewhere))
    other = moved.rename(moved.with_name("b.gguf"))
    assert all(c.equal for c in receipt.rerun(items, model=str(other), text=elsewhere))
    with pytest.raises(FileNotFoundError, match="--text"):
        receipt.rerun(items, model=str(other))


@pytest.mark.parametrize(
    ("content", "message"),
    [("no", "not JSON"), ("[]", "no receipt"), ("[1]", "not int"), ('{"schema": "x"}', "not x")],
)
def test_not_a_receipt(fake, tmp_path, content, message):
    from tritlab import errors, receipt

    path = tmp_path / "receipt.json"
    path.write_text(content)
    with pytest.raises(errors.ReceiptError, match=message):
        receipt.read(path)


def test_text_from_memory_must_be_given(fake, model, text):
    from tritlab import errors, receipt

    content = text.read_text()
    made = fake.compare(model, ["Q4_0"], content, chunks=1, progress=False)
    items = [json.loads(json.dumps(row.receipt)) for row in made.rows]
    with pytest.raises(errors.ReceiptError, match="--text"):
        receipt.rerun(items)
    assert all(c.equal for c in receipt.rerun(items, text=text))


def test_rerun_of_another_model_has_the_same_reference(fake, model, text, tmp_path):
    from tritlab import receipt
    from tritlab._files import to_json, write_atomic

    other = tmp_path / "trained.gguf"
    other.write_bytes(b"GGUF trained in ternary")
    found = fake.compare(
        model, ["Q8_0"], text, others={"trained": (other, "TERNARY")}, progress=False
    )
    path = tmp_path / "results.json"
    write_atomic(path, to_json(found.to_dict()))
    checks = receipt.rerun(receipt.read(path))
    assert {c.label for c in checks} == {"F16", "Q8_0", "trained"}
    assert all(c.equal for c in checks)
    other.write_bytes(b"GGUF another one")
    with pytest.raises(fake.errors.ReceiptError, match="not the model of the receipt"):
        receipt.rerun(receipt.read(path))
