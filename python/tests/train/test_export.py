"""What is trained is what runs: torch models, exported, answer the same in tritlab."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tritlab as tl
from tritlab import train


def compare(torch, model, loaded, stream):
    """(relative difference of cross-entropy, share of positions with the same argmax)."""
    theirs = ours = same = count = 0

    def each(inputs, logits, targets):
        nonlocal theirs, ours, same, count
        for ids, theirs_here, next_ids in zip(inputs, logits, targets, strict=True):
            ours_here = torch.from_numpy(loaded.logits(ids.numpy().astype(np.int32)))
            theirs += torch.nn.functional.cross_entropy(
                theirs_here, next_ids, reduction="sum"
            ).item()
            ours += torch.nn.functional.cross_entropy(ours_here, next_ids, reduction="sum").item()
            same += int((theirs_here.argmax(-1) == ours_here.argmax(-1)).sum())
            count += len(ids)

    train.cross_entropy(model, stream, 64, each=each)
    return abs(ours / theirs - 1), same / count


@pytest.mark.parametrize("act", ["silu", "relu2"])
@pytest.mark.parametrize("weights", ["packed", "master"])
def test_bitlinear_round_trip(torch, decoder, stream, tmp_path, weights, act):
    model = decoder(hidden_act=act)
    loaded = tl.Model.load(train.export(model, tmp_path / "m", weights=weights))
    difference, same = compare(torch, model, loaded, stream)
    assert difference < 1e-4
    assert same > 0.999


def test_packed_master_and_gguf_are_one_model(decoder, stream, tmp_path):
    model = decoder(hidden_size=256, intermediate_size=256)
    packed = train.export(model, tmp_path / "packed")
    master = train.export(model, tmp_path / "master", weights="master")
    tl.convert(packed, tmp_path / "m.gguf")
    ids = stream[:48].astype(np.int32)
    prints = {tl.Model.load(p).fingerprint(ids) for p in (packed, master, tmp_path / "m.gguf")}
    assert len(prints) == 1
    assert tl.verify(packed, tmp_path / "m.gguf").same


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_plain_model_round_trip(torch, decoder, stream, tmp_path, dtype):
    model = decoder(None)
    if dtype == "float16":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.half())
    loaded = tl.Model.load(train.export(model, tmp_path / "m", dtype=dtype))
    difference, same = compare(torch, model, loaded, stream)
    assert difference < 1e-5
    assert same > 0.999


@pytest.mark.parametrize("options", [{"group": 16}, {"weights": "twn"}, {"activations": None}])
def test_dense_holds_every_rule(torch, decoder, stream, tmp_path, options):
    model = decoder({"activations": None, **options})
    loaded = tl.Model.load(train.export(model, tmp_path / "m", weights="dense"))
    difference, same = compare(torch, model, loaded, stream)
    assert difference < 1e-5
    assert same > 0.999


@pytest.mark.parametrize(
    ("rule", "formats"),
    [
        ("absmean", ["TERNARY", "TERNARY_B3"]),
        ("twn", ["TERNARY"]),
        ("sign", ["TERNARY", "SIGN"]),
        ("centred_sign", ["SIGN"]),
    ],
)
def test_dense_with_one_scale_loaded_as_ternary(torch, decoder, stream, tmp_path, rule, formats):
    """Codes are found again in dense weights, and activations are rounded as in training."""
    model = decoder({"weights": rule})
    folder = train.export(model, tmp_path / "m", weights="dense")
    for name in formats:
        difference, same = compare(torch, model, tl.Model.load(folder, name), stream)
        assert difference < 1e-4
        assert same > 0.999


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("rule", ["absmean", "twn"])
def test_groups_run_packed_with_scales_in_float16(torch, decoder, stream, tmp_path, rule, group):
    model = decoder({"weights": rule, "group": group, "activations": None})
    folder = train.export(model, tmp_path / "m", weights="dense")
    loaded = tl.Model.load(folder, f"TERNARY_G{group}+optimal", activations="f32")
    for name, layer in model.named_modules():
        if isinstance(layer, train.BitLinear):
            codes, scales = layer.ternary()
            matrix = loaded.matrix(f"{name}.weight")
            np.testing.assert_array_equal(matrix.codes, codes.reshape(layer.weight.shape))
            np.testing.assert_array_equal(matrix.group_scales, scales[..., 0].half().float())
    difference, same = compare(torch, model, loaded, stream)
    assert difference < 1e-4
    assert same > 0.99  # not 0.999: scales lose up to one part in 2,048


@pytest.mark.parametrize("rule", ["twn", "sign", "centred_sign"])
def test_packed_holds_other_rules_with_one_scale(torch, decoder, stream, tmp_path, rule):
    model = decoder({"weights": rule})
    loaded = tl.Model.load(train.export(model, tmp_path / "m"))
    difference, same = compare(torch, model, loaded, stream)
    assert difference < 1e-4
    assert same > 0.999


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ({"group": 16}, {}, "q_proj has a scale per 16 weights; export it as dense"),
        ({"activations": "int4"}, {}, "activations='int4', and BitNet's form means int8"),
        ({"weights": "twn"}, {"weights": "master"}, "weights='twn', and readers of master weights"),
        ({}, {"weights": "q4"}, "weights='q4' is none of packed, master, dense"),
        ({}, {"dtype": "int8"}, "dtype='int8' is none of float32, float16"),
    ],
)
def test_what_a_form_cannot_hold_is_an_error(decoder, tmp_path, layers, options, message):
    with pytest.raises(tl.TritlabError, match=message):
        train.export(decoder(layers), tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", ["packed", "master", "dense"])
def test_a_model_that_is_part_full_precision_is_not_exported(decoder, tmp_path, weights):
    model = decoder()
    train.set_blend(model, 0.5)
    with pytest.raises(tl.TritlabError, match=r"layers\.0\.self_attn\.q_proj is at λ = 0\.5"):
        train.export(model, tmp_path / "m", weights=weights)
    assert list(tmp_path.iterdir()) == []
    train.set_blend(model, 1.0)
    train.export(model, tmp_path / "m", weights=weights)


def test_numbers_that_are_not_finite_are_an_error(torch, decoder, tmp_path):
    model = decoder()
    with torch.no_grad():
        model.model["norm"].weight[3] = 1e6
    with pytest.raises(
        tl.TritlabError, match=r"model\.norm\.weight has numbers that are not finite"
    ):
        train.export(model, tmp_path / "m", dtype="float16")
    with torch.no_grad():
        model.model["layers"][0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(tl.TritlabError, match=r"up_proj\.weight"):
        train.export(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_kept_unless_told(decoder, tmp_path):
    model = decoder()
    folder = train.export(model, tmp_path / "m", weights="master")
    with pytest.raises(tl.TritlabError, match="exists; overwrite=True replaces it"):
        train.export(model, folder)
    train.export(model, folder, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["quantization_mode"] == "offline"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["notes.txt"], "m has notes.txt, so it is no export"),
        (["config.json", "model.safetensors", "mine"], "m has mine, so it is no export"),
        (["config.json"], "m has no model.safetensors, so it is no export"),
        (["config.json", "tokenizer.json"], "m has no model.safetensors"),
    ],
)
def test_a_folder_that_is_no_export_is_never_replaced(decoder, tmp_path, files, message):
    folder = tmp_path / "m"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("kept")
    with pytest.raises(tl.TritlabError, match=message):
        train.export(decoder(), folder, overwrite=True)
    assert {p.name: p.read_text() for p in folder.iterdir()} == dict.fromkeys(files, "kept")


def test_an_empty_folder_can_be_replaced_and_a_file_cannot(decoder, tmp_path):
    model = decoder()
    (tmp_path / "m").mkdir()
    train.export(model, tmp_path / "m", overwrite=True)
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        for overwrite in (False, True):
            with pytest.raises(tl.TritlabError, match="file is a file, and the folder"):
                train.export(model, place, overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("weights", ["packed", "master"])
@pytest.mark.parametrize(("part", "key"), [("self_attn", "attention_bias"), ("mlp", "mlp_bias")])
def test_biases_are_in_the_configuration_or_an_error(
    torch, decoder, stream, tmp_path, weights, part, key
):
    model = decoder()
    for layer in model.model["layers"]:
        for linear in layer.get_submodule(part).children():
            if isinstance(linear, train.BitLinear):
                linear.bias = torch.nn.Parameter(torch.randn(linear.out_features))
    with pytest.raises(tl.TritlabError, match=rf'{part}.*_proj has a bias.*"{key}": True'):
        train.export(model, tmp_path / "m", weights=weights)
    assert list(tmp_path.iterdir()) == []
    config = {**model.config.to_dict(), key: True}
    loaded = tl.Model.load(train.export(model, tmp_path / "m", weights=weights, config=config))
    difference, same = compare(torch, model, loaded, stream)
    assert difference < 1e-4
    assert same > 0.999


def test_a_model_without_config_is_an_error(torch, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    train.replace_linear(model)
    with pytest.raises(tl.TritlabError, match="has no config"):
        train.export(model, tmp_path / "m")


def test_a_list_of_plain_layers_has_the_head(decoder, tmp_path):
    """Without it, readers make the head BitLinear too."""
    model = decoder({"skip": ["model.layers.0.mlp.down_proj"]})
    train.export(model, tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    listed = settings["modules_to_not_convert"]
    assert listed == ["model.layers.0.mlp.down_proj", "lm_head"]


def test_a_model_that_no_export_wrote_is_never_replaced(decoder, tmp_path):
    from safetensors.numpy import save

    folder = tmp_path / "m"
    folder.mkdir()
    files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": save({})}
    for broken in ({}, {"config.json": b"{"}, {"config.json": b"[]"}, {"model.safetensors": b"a"}):
        for name, content in {**files, **broken}.items():
            (folder / name).write_bytes(content)
        with pytest.raises(tl.TritlabError, match="m is a model that no export wrote"):
            train.export(decoder(), folder, overwrite=True)
        assert (folder / "config.json").read_bytes() == {**files, **broken}["config.json"]
    # exports of other families are; and a model of BitNet's form is not one by that
    model = decoder()
    config = {**model.config.to_dict(), "model_type": "mine"}
    train.export(model, tmp_path / "mine", config=config)
    train.export(model, tmp_path / "mine", overwrite=True)
    tensors = tmp_path / "mine/model.safetensors"
    tensors.write_bytes(save({}))
    (tmp_path / "mine/config.json").write_text('{"model_type": "bitnet"}')
    with pytest.raises(tl.TritlabError, match="mine is a model that no export wrote"):
        train.export(model, tmp_path / "mine", overwrite=True)


def test_a_quantization_config_of_another_model_is_not_passed_on(decoder, tmp_path):
    model = decoder({"activations": None, "weights": "twn"})
    stale = {"quant_method": "bitnet", "quantization_mode": "online"}
    config = {**model.config.to_dict(), "quantization_config": stale}
    train.export(model, tmp_path / "m", weights="dense", config=config)
    assert "quantization_config" not in json.loads((tmp_path / "m/config.json").read_text())


def test_a_link_is_not_replaced(decoder, tmp_path):
    model = decoder()
    train.export(model, tmp_path / "m")
    (tmp_path / "link").symlink_to("m")
    (tmp_path / "nowhere").symlink_to("gone")
    for name, target in [("link", "m"), ("nowhere", "gone")]:
        with pytest.raises(tl.TritlabError, match=f"symbolic link.* name its target, {target}"):
            train.export(model, tmp_path / name, overwrite=True)
        assert (tmp_path / name).is_symlink()


def test_a_tokenizer_that_is_missing_is_named(decoder, tmp_path):
    with pytest.raises(tl.TritlabError, match=r"tokenizer='gone\.json' is no file"):
        train.export(decoder(), tmp_path / "m", tokenizer="gone.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", ["sign", "twn"])
def test_a_layer_of_zeros_is_dense(torch, decoder, tmp_path, rule):
    model = decoder({"weights": rule})
    with torch.no_grad():
        model.model["layers"][0].mlp.up_proj.weight.zero_()
    with pytest.raises(tl.TritlabError, match=r"up_proj\.weight has a scale of 0.* as dense"):
        train.export(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    tl.Model.load(train.export(model, tmp_path / "m", weights="dense"))


def test_biases_of_some_layers_are_an_error(torch, decoder, tmp_path):
    model = decoder()
    for layer in model.model["layers"]:
        layer.self_attn.q_proj.bias = torch.nn.Parameter(torch.randn(64))
    config = {**model.config.to_dict(), "attention_bias": True}
    with pytest.raises(tl.TritlabError, match=r"k_proj has no bias, and .*give it one of zeros"):
        train.export(model, tmp_path / "m", config=config)
    assert list(tmp_path.iterdir()) == []
