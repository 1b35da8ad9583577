"""What a training keeps and refuses: random state, running losses, its log, tokens, settings."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tritlab as tl
from tritlab import train

SETTINGS = {"steps": 12, "batch": 4, "context": 32}


def with_dropout(torch):
    """Guesses the next token from the last, with dropout between."""
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Embedding(96, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 96)
    )


def trained(torch, stream, folder, *, stops=(), **options):
    config = train.TrainConfig(**SETTINGS)
    for end in (*stops, config.steps):
        model = with_dropout(torch)
        trainer = train.Trainer(model, stream, config, folder, stream[:200])
        torch.rand(3)  # as a program may, between the two
        if end == (*stops, config.steps)[0]:
            torch.manual_seed(8)
        trainer.run(until=end, progress=False, **options)
    return model


def same(torch, one, two):
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_dropout_goes_on_where_it_was(torch, stream, tmp_path):
    whole = trained(torch, stream, tmp_path / "a")
    parts = trained(torch, stream, tmp_path / "b", stops=(3, 8))
    assert same(torch, whole, parts)


def test_validation_is_without_dropout_and_changes_nothing(torch, stream, tmp_path):
    often = trained(torch, stream, tmp_path / "a", validate_every=1)
    seldom = trained(torch, stream, tmp_path / "b")
    assert same(torch, often, seldom)
    often[1].eval()  # a module that is frozen stays so
    losses = {train.cross_entropy(often, stream[:200], 32) for _ in range(3)}
    assert len(losses) == 1
    assert [m.training for m in often.modules()] == [True, True, False, True]


def test_the_first_row_after_a_stop_is_of_all_its_steps(torch, stream, tmp_path):
    trained(torch, stream, tmp_path / "a", log_every=12, validate_every=12)
    config = train.TrainConfig(**SETTINGS)
    stop = train.Trainer(with_dropout(torch), stream, config, tmp_path / "b", stream[:200])
    torch.manual_seed(8)
    stop.run(stop=lambda: stop.step == 5, log_every=12, progress=False)
    again = train.Trainer(with_dropout(torch), stream, config, tmp_path / "b", stream[:200])
    again.run(log_every=12, progress=False)
    found = [train.log.rows(tmp_path / f / "log.jsonl") for f in "ab"]
    losses = [re.findall('"loss": ([0-9.]+)', line) for rows in found for _, line in rows]
    assert len(losses) == 2
    assert losses[0] == losses[1]


@pytest.mark.parametrize("where", ["loss", "weight"])
def test_what_is_not_finite_is_not_saved(torch, stream, tmp_path, where):
    config = train.TrainConfig(**SETTINGS)
    trainer = train.Trainer(with_dropout(torch), stream, config, tmp_path)
    trainer.run(until=2, progress=False)
    before = trainer.checkpoint_path.read_bytes()

    def spoilt(inputs, targets):
        loss = train.Trainer._loss(trainer, inputs, targets)
        # The root's gradient is infinite at 0: a loss that is finite, weights that are not.
        return loss * float("nan") if where == "loss" else loss + (loss - loss).sqrt()

    trainer._loss = spoilt
    with pytest.raises(tl.TritlabError, match=r"is nan at step 3|not finite after step 3"):
        trainer.run(checkpoint_every=1, log_every=100, progress=False)
    assert trainer.checkpoint_path.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "my notes\n",
        "my notes",
        '{"name": "another"}\n',
        '{"name": "another"}',
        '{"step": 3, "note": "another"}\n',
        '{"step": 1e999, "loss": 1}\n',
        "[1]\n",
    ],
)
@pytest.mark.parametrize("steps", [0, 1])
def test_a_log_of_something_else_is_kept(torch, stream, tmp_path, text, steps):
    config = train.TrainConfig(**SETTINGS)
    path = tmp_path / "log.jsonl"
    if steps:
        train.Trainer(with_dropout(torch), stream, config, tmp_path).run(until=1, progress=False)
    path.write_text(text)
    with pytest.raises(tl.TritlabError, match=r"log\.jsonl is no log of a training: line 1 is"):
        train.Trainer(with_dropout(torch), stream, config, tmp_path)
    assert path.read_text() == text


def test_a_checkpoint_without_its_log_is_an_error(torch, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    train.Trainer(with_dropout(torch), stream, config, tmp_path).run(until=1, progress=False)
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(tl.TritlabError, match=r"log\.jsonl is missing beside checkpoint\.pt"):
        train.Trainer(with_dropout(torch), stream, config, tmp_path)


def test_a_file_in_the_place_of_the_folder_is_named(torch, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/inside"):
        with pytest.raises(tl.TritlabError, match="cannot be a training's folder"):
            train.Trainer(with_dropout(torch), stream, config, place)


def test_whole_numbers_of_numpy_are_whole_numbers(torch, stream, tmp_path):
    numpys = train.TrainConfig(**{k: np.int64(v) for k, v in SETTINGS.items()}, seed=np.int32(0))
    assert repr(numpys) == repr(train.TrainConfig(**SETTINGS))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": True}, "steps=True is not a whole number from 1 up"),
        ({"blend_steps": 1.5}, "blend_steps=1.5 is not a whole number from 0 up"),
        ({"seed": -1}, "seed=-1 is not a whole number from 0 up"),
        ({"muon_lr": "0.1"}, "muon_lr='0.1' is not a finite number"),
    ],
)
def test_settings_of_another_kind_are_named(setting, message):
    with pytest.raises(tl.TritlabError, match=re.escape(message)):
        train.TrainConfig(**{**SETTINGS, **setting})


def test_tokens_are_one_row_of_ids(torch, decoder, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    assert train.Trainer(decoder(), stream.tolist(), config, tmp_path / "a").step == 0
    wrong = stream.astype(np.int64)
    for value in (96, -1):
        wrong[70] = value
        message = f"^tokens has the id {value} at 70; ids below the model's vocab_size=96 are"
        with pytest.raises(tl.TritlabError, match=message):
            train.Trainer(decoder(), wrong, config, tmp_path / "b")
        with pytest.raises(tl.TritlabError, match=r"^validation has the id"):
            train.Trainer(decoder(), stream, config, tmp_path / "b", wrong)
    for tokens in (stream.astype(float), stream.reshape(2, -1)):
        with pytest.raises(tl.TritlabError, match=r"tokens has the shape .* one row of whole"):
            train.Trainer(decoder(), tokens, config, tmp_path / "b")
    with pytest.raises(tl.TritlabError, match="20 tokens are fewer than one"):
        train.Trainer(decoder(), stream, config, tmp_path / "b", stream[:20])
    assert not (tmp_path / "b").exists()


def test_embeddings_are_known_by_their_type(torch):
    model = torch.nn.Module()
    model.embedded_decoder = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Embedding(4, 8))
    matrices, rest = train.Optimizer(model, 0.1, 0.1).parts
    assert [p.shape for p in matrices.param_groups[0]["params"]] == [(8, 8)]
    assert len(rest.param_groups[0]["params"]) == 2
    for alone in (torch.nn.Embedding(4, 8), torch.nn.Linear(4, 8, bias=False)):
        assert len(train.Optimizer(alone, 0.1, 0.1).parts) == 1
    with pytest.raises(tl.TritlabError, match="ReLU has no parameters to train"):
        train.Optimizer(torch.nn.ReLU(), 0.1, 0.1)


def final(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def test_gradients_of_something_else_are_not_trained_on(torch, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    clean = train.Trainer(with_dropout(torch), stream, config, tmp_path / "clean")
    other = train.Trainer(with_dropout(torch), stream, config, tmp_path / "other")
    for parameter in other.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for trainer in (clean, other):
        torch.manual_seed(5)
        trainer.run(until=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(final(clean), final(other), strict=True))


def test_a_pause_in_one_object_is_none(torch, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    whole = train.Trainer(with_dropout(torch), stream, config, tmp_path / "whole")
    torch.manual_seed(5)
    whole.run(until=4, progress=False)
    paused = train.Trainer(with_dropout(torch), stream, config, tmp_path / "paused")
    torch.manual_seed(5)
    paused.run(until=2, progress=False)
    torch.rand(7)
    paused.run(until=4, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(final(whole), final(paused), strict=True))


def test_settings_of_numpy_come_back_from_a_checkpoint(torch, stream, tmp_path):
    config = train.TrainConfig(
        **{**SETTINGS, "muon_lr": np.float64(0.02), "clip": np.float32(1), "bf16": np.bool_(False)}
    )
    train.Trainer(with_dropout(torch), stream, config, tmp_path).run(until=1, progress=False)
    assert train.Trainer(with_dropout(torch), stream, config, tmp_path).step == 1


@pytest.mark.parametrize("setting", [{"bf16": "no"}, {"clip": "1"}, {"muon_lr": True}])
def test_settings_that_cannot_be(setting):
    with pytest.raises(tl.TritlabError, match=next(iter(setting))):
        train.TrainConfig(**{**SETTINGS, **setting})


def test_a_context_that_the_model_has_no_positions_for(decoder, stream, tmp_path):
    model = decoder()
    context = model.config.max_position_embeddings + 1
    config = train.TrainConfig(steps=1, batch=1, context=context)
    with pytest.raises(tl.TritlabError, match=f"context={context} is more than the model's"):
        train.Trainer(model, stream, config, tmp_path)


def test_a_model_in_evaluation_mode_is_not_trained(torch, stream, tmp_path):
    model = with_dropout(torch).eval()
    trainer = train.Trainer(model, stream, train.TrainConfig(**SETTINGS), tmp_path)
    with pytest.raises(tl.TritlabError, match=r"call model\.train\(\)"):
        trainer.run(progress=False)


def test_an_output_that_has_logits(torch, stream, tmp_path):
    from types import SimpleNamespace

    plain = with_dropout(torch).eval()
    wrapped = with_dropout(torch).eval()
    wrapped.register_forward_hook(lambda *a: SimpleNamespace(logits=a[2]))
    values = [train.cross_entropy(m, stream[:100], 16) for m in (plain, wrapped)]
    assert values[0] == values[1]
    wrapped.register_forward_hook(lambda *_: {"loss": 1})
    with pytest.raises(tl.TritlabError, match="returns dict, which has no logits"):
        train.cross_entropy(wrapped, stream[:100], 16)
