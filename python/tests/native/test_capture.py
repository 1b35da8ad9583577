"""Activations as arrays, layers replaced, importance matrices."""

from __future__ import annotations

import numpy as np
import pytest

import tritlab as tl
from tritlab import _native


def norm(x, eps=1e-5):
    return x / np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True) + eps)


def test_shapes_and_names(model, ids):
    n = 40
    got = model.capture(ids[:n], ["token_embd", "blk.*", "blk.*.attention", "blk.*.*.input"])
    layers = model.n_layers
    assert len(got) == 1 + layers * (1 + 1 + 7)
    embedded, width = got["token_embd"], got["token_embd"].shape[1]
    assert embedded.shape == (n, width)
    for i in range(layers):
        assert got[f"blk.{i}"].shape == (n, width)
        weights = got[f"blk.{i}.attention"]
        assert weights.shape[1:] == (n, n)
        assert np.all(np.triu(weights, 1) == 0)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        q, k = got[f"blk.{i}.attn_q.input"], got[f"blk.{i}.attn_k.input"]
        assert np.array_equal(q, k)
    assert all(a.dtype == np.float32 for a in got.values())
    assert set(model.capture(ids[:4], "output.input")) == {"output.input"}


def test_captured_inputs_give_the_outputs(path, ids):
    """The residual stream is what its parts say: o_proj and down_proj of captured inputs."""
    from gguf import GGUFReader

    model = tl.Model.load(path, "F32")
    weights = {t.name: np.array(t.data, np.float32) for t in GGUFReader(path).tensors}
    got = model.capture(ids[:30], ["token_embd", "blk.*", "blk.*.*.input", "output.input"])
    before = got["token_embd"].astype(np.float64)
    for i in range(model.n_layers):
        name = f"blk.{i}"
        attended = (
            before + got[f"{name}.attn_output.input"] @ weights[f"{name}.attn_output.weight"].T
        )
        expected = norm(attended) * weights[f"{name}.ffn_norm.weight"]
        np.testing.assert_allclose(got[f"{name}.ffn_up.input"], expected, rtol=2e-3, atol=2e-3)
        after = attended + got[f"{name}.ffn_down.input"] @ weights[f"{name}.ffn_down.weight"].T
        np.testing.assert_allclose(got[name], after, rtol=2e-3, atol=2e-3)
        before = after
    last = weights["output_norm.weight"] * norm(before)
    np.testing.assert_allclose(got["output.input"], last, rtol=5e-3, atol=5e-3)


def test_attention_mixes_values(path, ids):
    """Softmax rows times values are the input of o_proj (one head per value head here or more)."""
    from gguf import GGUFReader

    model = tl.Model.load(path, "F32")
    weights = {t.name: np.array(t.data, np.float32) for t in GGUFReader(path).tensors}
    got = model.capture(
        ids[:30], ["blk.1.attention", "blk.1.attn_v.input", "blk.1.attn_output.input"]
    )
    values = got["blk.1.attn_v.input"] @ weights["blk.1.attn_v.weight"].T
    if "blk.1.attn_v.bias" in weights:
        values = values + weights["blk.1.attn_v.bias"]
    rows = got["blk.1.attention"]
    mixed = got["blk.1.attn_output.input"].reshape(30, rows.shape[0], -1)
    group = rows.shape[0] // (values.shape[1] // mixed.shape[2])
    values = values.reshape(30, -1, mixed.shape[2])
    for head in range(rows.shape[0]):
        expected = rows[head] @ values[:, head // group]
        np.testing.assert_allclose(mixed[:, head], expected, rtol=1e-3, atol=1e-4)


def test_looking_changes_nothing(model, ids):
    plain = model.logits(ids[:50])
    seen = []
    looked = model.logits(ids[:50], replace={"blk.0": lambda x: seen.append(x.copy())})
    assert np.array_equal(plain, looked)
    assert np.array_equal(seen[0], model.capture(ids[:50], "blk.0")["blk.0"])
    same = model.logits(ids[:50], replace={"blk.0": seen[0]})
    assert np.array_equal(plain, same)
    for backend in ("portable", "oracle"):
        with tl.backend(backend):
            other = model.capture(ids[:9], ["blk.*", "blk.*.attention"])
        for name, array in model.capture(ids[:9], ["blk.*", "blk.*.attention"]).items():
            assert np.array_equal(array, other[name]), name


def test_a_replaced_layer(model, ids):
    n, last = 20, model.n_layers - 1
    stream = model.capture(ids[:n], "blk.0")["blk.0"]
    doubled = model.logits(ids[:n], replace={"blk.0": lambda x: x * np.float32(2)})
    assert np.array_equal(doubled, model.logits(ids[:n], replace={"blk.0": stream * np.float32(2)}))
    assert not np.array_equal(doubled, model.logits(ids[:n]))
    zero = np.zeros_like(stream)
    got = model.capture(ids[:n], ["blk.*", "output.input"], replace={f"blk.{last}": zero})
    assert np.all(got[f"blk.{last}"] == 0)
    assert np.all(got["output.input"] == 0)
    # What comes before is as it was.
    assert np.array_equal(got["blk.0"], stream)


def test_a_hook_cannot_change_its_array(model, ids):
    def in_place(x):
        x *= 2

    with pytest.raises(ValueError, match="read-only"):
        model.logits(ids[:5].copy(), replace={"blk.0": in_place})

    def copy(x):
        x = x.copy()
        x[:] = 0
        return x

    got = model.capture(ids[:5].copy(), "blk.0", replace={"blk.0": copy})
    assert np.all(got["blk.0"] == 0)


def test_wrong_hooks(model, ids):
    few = ids[:5].copy()
    with pytest.raises(tl.errors.ModelError, match=r"nothing to capture .*blk\.9"):
        model.capture(few, ["blk.9*"])
    with pytest.raises(TypeError, match="what: a string or a list of strings is wanted, not int"):
        model.capture(few, 1)
    with pytest.raises(tl.errors.ModelError, match="nothing to replace"):
        model.logits(few, replace={"blk.99": np.zeros((5, 96), np.float32)})
    with pytest.raises(tl.errors.ShapeError, match="layer's output"):
        model.logits(few, replace={"blk.0": np.zeros((4, 96), np.float32)})
    with pytest.raises(TypeError, match="float64"):
        model.logits(few, replace={"blk.0": lambda x: x.astype(np.float64)})

    def fail(x):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        model.capture(few, "blk.0", replace={"blk.1": fail})
    with pytest.raises(tl.errors.ModelError, match="no tokens"):
        model.capture(few[:0].copy(), "blk.0")


def test_imatrix_is_the_mean_square_of_inputs(model, ids, tmp_path):
    from gguf import GGUFReader

    made = tl.imatrix(model, ids, context=32)
    assert (made.chunks, made.chunk_size) == (3, 32)
    sums = {}
    for window in ids.reshape(3, 32):
        for name, x in model.capture(window.copy(), "blk.*.*.input").items():
            weight = name.removesuffix(".input") + ".weight"
            sums[weight] = sums.get(weight, 0) + np.square(x, dtype=np.float64).sum(0)
    arrays = made.arrays()
    assert set(arrays) == set(sums)
    for name, total in sums.items():
        np.testing.assert_allclose(arrays[name], total / 96, rtol=1e-5)

    file = tmp_path / "i.gguf"
    made.save(file)
    again = tl.Imatrix.read(file)
    assert (again.datasets, again.chunks) == (made.datasets, 3)
    for name, array in again.arrays().items():
        assert np.array_equal(array, arrays[name])
    # llama.cpp's form, by another reader.
    reader = GGUFReader(file)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.chunk_count"].contents() == 3
    assert reader.fields["imatrix.chunk_size"].contents() == 32
    assert reader.fields["imatrix.datasets"].contents() == made.datasets
    tensors = {t.name: t for t in reader.tensors}
    assert len(tensors) == 2 * len(arrays)
    for name, total in sums.items():
        np.testing.assert_allclose(tensors[f"{name}.in_sum2"].data.ravel(), total, rtol=1e-5)
        assert tensors[f"{name}.counts"].data.ravel().tolist() == [96]


def test_imatrix_weighs_the_error(model, path, ids, tmp_path):
    """Weighted quantisation errs more on weights and less on what they are multiplied by."""
    made = tl.imatrix(model, ids, context=32)
    file = tmp_path / "i.gguf"
    made.save(file)
    out = tmp_path / "q.gguf"
    report = _native.quantize_gguf(path, out, "IQ4_NL", imatrix=file)
    assert report["quantized"] > 0
    stored = tl.Model.load(out)
    in_memory = tl.Model.load(path, "IQ4_NL", imatrix=made)
    assert stored.fingerprint(ids[:20]) == in_memory.fingerprint(ids[:20])
    plain = tl.Model.load(path, "IQ4_NL")
    assert plain.fingerprint(ids[:20]) != in_memory.fingerprint(ids[:20])


def test_wrong_imatrix(model, path, ids, tmp_path):
    with pytest.raises(tl.errors.ModelError, match=r"general\.type"):
        tl.Model.load(path, "Q4_0", imatrix=path)
    with pytest.raises(FileNotFoundError):
        tl.Model.load(path, "Q4_0", imatrix=tmp_path / "none.gguf")
    with pytest.raises(tl.errors.EvaluationError):
        tl.imatrix(model, ids[:10].copy(), context=32)
