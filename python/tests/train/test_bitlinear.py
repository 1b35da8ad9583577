"""BitLinear against its definition, and its rules against the library's own projections."""

from __future__ import annotations

import numpy as np
import pytest

import tritlab as tl
from tritlab import train

RULES = ["absmean", "twn", "sign", "centred_sign"]


@pytest.mark.parametrize("group", [None, 16, 64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_rules_are_those_of_project(torch, rule, group, seed):
    rng = np.random.default_rng(seed)
    weights = (rng.standard_t(3, (24, 128)) * 10.0 ** rng.integers(-6, 3)).astype(np.float32)
    weights[3] = 0
    codes, scales = train.ternary(torch.from_numpy(weights), rule, group)
    expected = tl.project(weights, rule, per=group)
    np.testing.assert_array_equal(codes.reshape(24, 128).numpy(), expected.codes)
    np.testing.assert_array_equal(scales.numpy().ravel(), expected.scales.ravel())
    rounded = train.round_weight(torch.from_numpy(weights), rule, group)
    np.testing.assert_array_equal(rounded.numpy(), expected.dequantize())


@pytest.mark.parametrize("seed", range(4))
def test_activations_are_those_of_products(torch, seed):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((64, 3)) * 10.0 ** rng.integers(-4, 4)).astype(np.float32)
    x[:, 1] *= x[:, 1] > 1e9
    rounded = train.round_activations(torch.from_numpy(x.T.copy()))
    expected = tl.quantize_activations(x, "token").dequantize()
    np.testing.assert_array_equal(rounded.numpy().T, expected)


def test_int4_has_15_values(torch):
    x = torch.linspace(-3, 3, 1001)[None]
    assert len(train.round_activations(x, "int4").unique()) == 15


@pytest.mark.parametrize("activations", ["int8", "int4", None])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("group", [None, 32])
def test_forward_is_rounded_and_backward_is_not(torch, rule, group, activations):
    layer = train.BitLinear(64, 12, weights=rule, group=group, activations=activations)
    plain = torch.nn.Linear(64, 12, bias=False)
    x = torch.randn(5, 64, requires_grad=True)
    rounded = x if activations is None else train.round_activations(x, activations)
    expected = rounded @ train.round_weight(layer.weight, rule, group).T
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    # the gradient is that of a linear layer with the rounded numbers, taken as its own
    torch.testing.assert_close(layer.weight.grad, gradient.T @ rounded.detach())
    torch.testing.assert_close(
        x.grad, gradient @ train.round_weight(layer.weight.detach(), rule, group)
    )
    assert plain.weight.shape == layer.weight.shape


def test_blend_goes_from_full_precision_to_rounded(torch):
    layer = train.BitLinear(64, 12)
    x = torch.randn(5, 64)
    full, rounded = torch.nn.functional.linear(x, layer.weight), layer(x)
    train.set_blend(layer, 0.0)
    torch.testing.assert_close(layer(x), full)
    train.set_blend(layer, 0.5)
    assert not torch.allclose(layer(x), full)
    assert not torch.allclose(layer(x), rounded)
    with pytest.raises(tl.TritlabError, match=r"blend=1\.5 is not between 0 and 1"):
        train.set_blend(layer, 1.5)


def test_replace_linear_keeps_weights_and_skips_the_head(torch):
    model = torch.nn.Sequential()
    model.add_module("a", torch.nn.Linear(8, 8))
    model.add_module("block", torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()))
    model.add_module("lm_head", torch.nn.Linear(4, 2))
    weight, bias = model.a.weight, model.a.bias
    assert train.replace_linear(model, weights="twn", group=4) == ["a", "block.0"]
    assert model.a.weight is weight
    assert model.a.bias is bias
    assert model.a.group == 4
    assert type(model.lm_head) is torch.nn.Linear
    assert "twn" in repr(model.a)
    assert set(model.state_dict()) == {
        f"{name}.{kind}" for name in ("a", "block.0", "lm_head") for kind in ("weight", "bias")
    }
    assert train.replace_linear(model) == []


def test_a_shared_layer_stays_shared(torch):
    model = torch.nn.Module()
    model.first = torch.nn.Linear(8, 8)
    model.again = torch.nn.ModuleDict({"other": torch.nn.Linear(8, 8), "inner": model.first})
    assert train.replace_linear(model) == ["first", "again.other", "again.inner"]
    assert isinstance(model.first, train.BitLinear)
    assert model.again["inner"] is model.first
    assert model.again["other"] is not model.first
    # and a shared block is gone through once for each of its places
    block = torch.nn.Sequential(torch.nn.Linear(8, 8))
    model = torch.nn.Sequential(block, block)
    assert train.replace_linear(model) == ["0.0", "1.0"]
    assert isinstance(block[0], train.BitLinear)


def test_a_shared_layer_is_left_alone_when_one_of_its_names_is_skipped(torch):
    model = torch.nn.Module()
    model.proj = model.lm_head = torch.nn.Linear(8, 8)
    assert train.replace_linear(model) == []
    assert model.proj is model.lm_head
    assert type(model.proj) is torch.nn.Linear


def test_layers_that_do_not_call_their_linear_layers_are_refused(torch):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.proj = torch.nn.Linear(16, 16)

    model = Block()
    with pytest.raises(
        tl.TritlabError, match=r"encoder is an nn\.TransformerEncoderLayer, which in"
    ):
        train.replace_linear(model)
    with pytest.raises(tl.TritlabError, match=r"encoder\.self_attn is an nn\.MultiheadAttention"):
        train.replace_linear(model, skip=["linear1", "linear2"])
    assert not any(isinstance(m, train.BitLinear) for m in model.modules())
    assert train.replace_linear(model, skip=["linear1", "linear2", "self_attn"]) == ["proj"]


def test_an_error_leaves_the_model_as_it_was(torch):
    model = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.Linear(24, 8))
    with pytest.raises(
        tl.TritlabError, match=r"^1: rows of 24 weights do not split into groups of 64"
    ):
        train.replace_linear(model, group=64)
    assert [type(m) for m in model] == [torch.nn.Linear] * 2


def test_a_model_that_is_a_linear_layer_is_named(torch):
    with pytest.raises(tl.TritlabError, match="itself a linear layer"):
        train.replace_linear(torch.nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "q4"}, "weights='q4' is none of absmean, twn, sign, centred_sign"),
        ({"activations": "int2"}, "activations='int2' is none of int8, int4"),
        ({"group": 48}, "rows of 64 weights do not split into groups of 48"),
        ({"group": 0}, "groups of 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(tl.TritlabError, match=message):
        train.BitLinear(64, 12, **options)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64"])
def test_a_layer_works_in_the_dtype_of_its_model(torch, name):
    dtype = getattr(torch, name)
    layer = train.BitLinear(8, 4, dtype=dtype)
    y = layer(torch.randn(2, 8, dtype=dtype))
    y.sum().backward()
    assert y.dtype == layer.weight.grad.dtype == dtype


def nested(torch):
    """Layers at a.mlp.up, a.out, b.mlp.up, b.out and head."""

    def block():
        mlp = torch.nn.ModuleDict({"up": torch.nn.Linear(8, 8)})
        return torch.nn.ModuleDict({"mlp": mlp, "out": torch.nn.Linear(8, 8)})

    return torch.nn.ModuleDict({"a": block(), "b": block(), "head": torch.nn.Linear(8, 8)})


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (["mlp"], ["a.mlp.up", "b.mlp.up"]),
        (["a"], ["a.mlp.up", "a.out"]),
        (["a.mlp"], ["a.mlp.up"]),
        (["up", "head"], ["a.mlp.up", "b.mlp.up", "head"]),
        ((), []),
        (["a.mlp.up"], ["a.mlp.up"]),
    ],
)
def test_skip_is_of_a_module_and_what_is_inside(torch, skip, left):
    model = nested(torch)
    train.replace_linear(model, skip=skip)
    assert [n for n, m in model.named_modules() if type(m) is torch.nn.Linear] == left


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ("lm_head", r"skip='lm_head' is one string; give a list of names: \['lm_head'\]"),
        (["mpl"], "skip has 'mpl', and no module is called that; did you mean 'mlp'"),
        (["a.up"], r"skip has 'a\.up', and no module"),
        ([""], "skip has '', and no module"),
    ],
)
def test_a_skip_that_skips_nothing_is_refused(torch, skip, message):
    model = nested(torch)
    with pytest.raises(tl.TritlabError, match=message):
        train.replace_linear(model, skip=skip)
    assert not any(isinstance(m, train.BitLinear) for m in model.modules())


def test_an_encoder_that_is_skipped_is_left_whole(torch):
    model = torch.nn.Module()
    model.encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model.proj = torch.nn.Linear(16, 16)
    assert train.replace_linear(model, skip=["encoder"]) == ["proj"]
    # but not where a linear layer of another place would be replaced in it
    model = torch.nn.Module()
    model.encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model.again = model.encoder.linear1
    assert train.replace_linear(model, skip=["encoder"]) == []
