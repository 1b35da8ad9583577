"""Training: it learns, it goes on after a stop with the same bits, and it says when it cannot."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import tritlab as tl
from tritlab import train

SETTINGS = {"steps": 12, "batch": 4, "context": 32}


def trained(decoder, torch, stream, folder, *, stops=(), **settings):
    """Weights after a training that is stopped at `stops` and taken up by another process."""
    config = train.TrainConfig(**{**SETTINGS, **settings})
    for end in (*stops, config.steps):
        torch.manual_seed(7)
        model = decoder()
        trainer = train.Trainer(model, stream, config, folder, stream[:200])
        trainer.run(until=end, log_every=1, checkpoint_every=5, progress=False)
    return model


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_resumed_training_gives_the_same_weights(decoder, torch, stream, tmp_path):
    whole = trained(decoder, torch, stream, tmp_path / "a", blend_steps=6)
    parts = trained(decoder, torch, stream, tmp_path / "b", stops=(3, 8), blend_steps=6)
    for (name, one), two in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert [r["step"] for r in rows(tmp_path / "b")] == list(range(1, 13))
    losses = [[r["loss"] for r in rows(tmp_path / f)] for f in "ab"]
    assert losses[0] == losses[1]


def test_steps_after_the_last_checkpoint_are_done_again(decoder, torch, stream, tmp_path):
    whole = trained(decoder, torch, stream, tmp_path / "a")
    torch.manual_seed(7)
    config = train.TrainConfig(**SETTINGS)
    trainer = train.Trainer(decoder(), stream, config, tmp_path / "b", stream[:200])

    class KilledError(Exception):
        pass

    def loss(inputs, targets):
        if trainer.step == 8:
            raise KilledError
        return trainer.__class__._loss(trainer, inputs, targets)

    trainer._loss = loss
    with pytest.raises(KilledError):
        trainer.run(log_every=1, checkpoint_every=5, progress=False)
    assert rows(tmp_path / "b")[-1]["step"] == 8
    with (tmp_path / "b/log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')  # a line that was being written
    parts = trained(decoder, torch, stream, tmp_path / "b")
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [r["step"] for r in rows(tmp_path / "b")] == list(range(1, 13))


def test_it_learns(decoder, torch, stream, tmp_path):
    trained(decoder, torch, stream, tmp_path, steps=60, batch=8)
    log = rows(tmp_path)
    assert log[-1]["validation"] < log[0]["loss"] - 1.0


def test_validation_needs_no_row_of_the_log_at_its_step(decoder, torch, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    trainer = train.Trainer(decoder(), stream, config, str(tmp_path), stream[:200])
    trainer.run(log_every=5, validate_every=4, progress=False)
    found = rows(tmp_path)
    assert [r["step"] for r in found] == [4, 5, 8, 10, 12]
    assert [r["step"] for r in found if "validation" in r] == [4, 8, 12]


def test_a_run_until_a_step_does_no_more(decoder, stream, tmp_path):
    trainer = train.Trainer(decoder(), stream, train.TrainConfig(**SETTINGS), tmp_path)
    trainer.run(until=0, progress=False)
    assert trainer.step == 0
    trainer.run(until=2, progress=False)
    assert trainer.step == 2
    for name in ("log_every", "validate_every", "checkpoint_every"):
        with pytest.raises(tl.TritlabError, match=f"{name}=0 is less than 1"):
            trainer.run(**{name: 0})


def test_every_window_once_per_epoch_and_targets_one_later():
    tokens = np.arange(1000, dtype=np.uint16)
    windows = train.Windows(tokens, context=10, batch=3)
    seen = [windows.batch_at(step) for step in range(windows.per_epoch)]
    starts = sorted(int(row[0]) for inputs, _ in seen for row in inputs)
    assert len(starts) == len(set(starts)) == windows.per_epoch * 3
    assert len({s % 10 for s in starts}) == 1
    assert all((targets == inputs + 1).all() for inputs, targets in seen)
    first, again = windows.batch_at(0), train.Windows(tokens, 10, 3).batch_at(0)
    assert (first[0] == again[0]).all()
    later = windows.batch_at(windows.per_epoch)
    assert not (first[0] == later[0]).all()


@pytest.mark.parametrize("blend_steps", [12, 5, 1])
def test_blend_ends_at_1(decoder, torch, stream, tmp_path, blend_steps):
    """λ of each step, and 1 from step `blend_steps` to the last: what is exported was trained."""
    config = train.TrainConfig(**SETTINGS, blend_steps=blend_steps)
    model = decoder()
    trainer = train.Trainer(model, stream, config, tmp_path / "t")
    layer = model.model["layers"][0].mlp.up_proj
    seen = []
    loss = trainer._loss
    trainer._loss = lambda *batch: seen.append(layer.blend.item()) or loss(*batch)
    trainer.run(progress=False)
    assert seen == pytest.approx([min(1.0, n / blend_steps) for n in range(1, 13)])
    assert seen[-1] == 1.0
    train.export(model, tmp_path / "m")


def test_a_model_that_is_half_blended_when_it_is_taken_up_again(decoder, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS, blend_steps=8)
    train.Trainer(decoder(), stream, config, tmp_path).run(until=2, progress=False)
    model = decoder()
    train.Trainer(model, stream, config, tmp_path)
    assert model.model["layers"][0].mlp.up_proj.blend.item() == 0.25


@pytest.mark.parametrize("blend_steps", [13, -1])
def test_a_blend_that_does_not_end_is_refused(blend_steps):
    message = f"blend_steps={blend_steps} is not between 0 and steps=12"
    with pytest.raises(tl.TritlabError, match=message):
        train.TrainConfig(**SETTINGS, blend_steps=blend_steps)


def test_schedule():
    factors = [train.schedule(s, 100, warmup=0.1, decay=0.5) for s in range(100)]
    assert factors[0] == 0.1
    assert factors[9:51] == [1.0] * 42
    assert all(a > b for a, b in pairwise(factors[51:]))
    assert 0 < factors[-1] < 0.03
    assert train.schedule(0, 1) > 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps=0 is not a whole number from 1 up"),
        ({"steps": 2.5}, "steps=2.5 is not a whole number"),
        ({"batch": 0}, "batch=0 is not a whole number from 1 up"),
        ({"context": 0}, "context=0 is not a whole number from 1 up"),
        ({"muon_lr": float("nan")}, "muon_lr=nan is not a finite number from 0 up"),
        ({"adam_lr": -1.0}, "adam_lr=-1.0 is not a finite number from 0 up"),
        ({"adam_lr": float("inf")}, "adam_lr=inf is not a finite number"),
        ({"warmup": 1.5}, "warmup=1.5 is not a finite number from 0 to 1"),
        ({"clip": 0.0}, "clip=0.0 is not a number above 0"),
    ],
)
def test_settings_out_of_range_are_named(setting, message):
    with pytest.raises(tl.TritlabError, match=re.escape(message)):
        train.TrainConfig(**{**SETTINGS, **setting})


def test_wrong_settings_are_named(decoder, torch, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    with pytest.raises(tl.TritlabError, match="20 tokens are too few for a batch of 4 windows"):
        train.Trainer(decoder(), stream[:20], config, tmp_path)
    with pytest.raises(tl.TritlabError, match="fewer than one window of 64"):
        train.cross_entropy(decoder(), stream[:20], 64)
    trained(decoder, torch, stream, tmp_path)
    other = train.TrainConfig(**{**SETTINGS, "seed": 1})
    with pytest.raises(
        tl.TritlabError, match=r"checkpoint\.pt is of another training: seed was 0 and is"
    ):
        train.Trainer(decoder(), stream, other, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weights": "twn"},
            r"q_proj was .*weights=absmean.* and is .*twn.*, and 11 more;",
        ),
        ({"group": 16}, r"absmean, activations=int8.* and is .*group=16, activations"),
        ({"activations": "int4"}, r"activations=int8.* and is .*activations=int4"),
        (None, r"q_proj was BitLinear\(.* and is Linear\("),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(decoder, stream, tmp_path, options, message):
    config = train.TrainConfig(**SETTINGS)
    train.Trainer(decoder(), stream, config, tmp_path).run(until=1, progress=False)
    with pytest.raises(tl.TritlabError, match=f"another training: .*{message}"):
        train.Trainer(decoder(options), stream, config, tmp_path)
    with pytest.raises(tl.TritlabError, match=r"config\.rope_theta was 10000\.0 and is 5000"):
        train.Trainer(decoder(rope_theta=5000.0), stream, config, tmp_path)


def test_a_checkpoint_of_other_tokens_is_refused(decoder, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    train.Trainer(decoder(), stream, config, tmp_path).run(until=1, progress=False)
    other = stream.copy()
    other[5000] ^= 1
    with pytest.raises(tl.TritlabError, match=r"tokens was 6000 with SHA-256 \w+ and is 6000 with"):
        train.Trainer(decoder(), other, config, tmp_path)
    # the same numbers in another dtype are the same tokens
    assert train.Trainer(decoder(), stream.astype("int64"), config, tmp_path).step == 1


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "byte", "other"])
def test_a_damaged_checkpoint_is_named(decoder, torch, stream, tmp_path, damage):
    config = train.TrainConfig(**SETTINGS)
    train.Trainer(decoder(), stream, config, tmp_path).run(until=1, progress=False)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"step": 1}, path)
    else:
        half = len(whole) // 2
        byte = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
        damaged = {"empty": b"", "text": b"no zip", "cut": whole[:-1000], "byte": byte}
        path.write_bytes(damaged[damage])
    with pytest.raises(tl.TritlabError, match=r"checkpoint\.pt is damaged or no checkpoint"):
        train.Trainer(decoder(), stream, config, tmp_path)


def test_a_loss_that_is_not_finite_stops(decoder, torch, stream, tmp_path):
    model = decoder()
    with torch.no_grad():
        model.model["norm"].weight[0] = float("nan")
    trainer = train.Trainer(model, stream, train.TrainConfig(**SETTINGS), tmp_path)
    with pytest.raises(tl.TritlabError, match="the loss is nan at step 1"):
        trainer.run(log_every=1, progress=False)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps"),
        (["--steps", "-5"], "--steps"),
        (["--threads", "0"], "--threads"),
        (["--threads", "-1"], "--threads"),
        (["--muon-lr", "nan"], "--muon-lr"),
        (["--muon-lr", "0"], "--muon-lr"),
        (["--muon-lr", "-0.1"], "--muon-lr"),
        (["--member", "half"], "--member"),
    ],
)
def test_wrong_arguments_of_the_pair_are_usage_errors(script, tmp_path, arguments, message):
    command = [sys.executable, script, "--smoke", "--out", tmp_path / "out", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert f"Invalid value for {message}" in done.stderr.replace("'", "")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        ({"vocab_size": 2048}, "vocab_size was 2048 and is 512"),
        ({"vocab_size": 512, "text_sha256": "ab"}, "text_sha256 was ab and is"),
        (None, "vocab_size was not written down"),
    ],
)
def test_a_tokenizer_of_another_run_is_refused(script, tmp_path, made_of, message):
    (tmp_path / "tokenizer.json").write_text("{}")
    if made_of is not None:
        (tmp_path / "tokenizer-made-of.json").write_text(json.dumps(made_of))
    command = [sys.executable, script, "--smoke", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    words = " ".join(done.stderr.replace("│", " ").split())  # typer draws a box around it
    assert message in words
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("bf16", [{"bf16": 0.9}, {"bf16": 0.96}, {}])
def test_bf16_is_chosen_where_it_saves_time(bf16):
    assert train.faster({"f32": 1.0, **bf16}) == ("bf16" if bf16.get("bf16") == 0.9 else "f32")


def test_steps_are_timed_in_each_dtype(decoder, torch, stream, monkeypatch):
    """Both dtypes are run, in what they are called, and the model stays as it was."""
    from tritlab.train import dtype

    seen = []

    def slow_in_f32(model, inputs, targets, device, bf16):
        seen.append((tuple(inputs.shape), bf16))
        loss = train.trainer.batch_loss(model, inputs, targets, device, bf16)
        time.sleep(0.0 if bf16 else 0.3)
        return loss

    monkeypatch.setattr(dtype, "batch_loss", slow_in_f32)
    model = decoder()
    before = [p.clone() for p in model.parameters()]
    seconds = train.step_seconds(model, stream, train.TrainConfig(**SETTINGS), steps=2)
    assert seen == [((4, 32), False), ((4, 32), True)] * 3
    assert train.faster(seconds) == "bf16"
    assert seconds["f32"] > seconds["bf16"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_bf16_products_are_in_bfloat16(decoder, torch, stream, tmp_path):
    model = decoder()
    seen = []
    projection = model.model["layers"][0].mlp.up_proj
    projection.register_forward_hook(lambda _module, _inputs, y: seen.append(y.dtype))
    config = train.TrainConfig(**SETTINGS, bf16=True)
    train.Trainer(model, stream, config, tmp_path).run(until=1, progress=False)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("asked", ["f32", "bf16"])
def test_a_dtype_is_kept_when_training_goes_on(script, torch, tmp_path, asked):
    command = [sys.executable, script, "--smoke", "--out", tmp_path, "--member", "full"]
    command += ["--threads", "1"]
    first = [*command, "--steps", "2", "--dtype", asked]
    subprocess.run(first, check=True, capture_output=True, timeout=300)
    again = subprocess.run(
        [*command, "--steps", "2"], check=True, capture_output=True, text=True, timeout=300
    )
    assert "training in" not in again.stdout, "it was timed again"
    state = torch.load(tmp_path / "full/checkpoint.pt", weights_only=True)
    assert state["config"]["bf16"] == (asked == "bf16")
    other = [*command, "--steps", "2", "--dtype", "f32" if asked == "bf16" else "bf16"]
    done = subprocess.run(other, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert f"is in {asked}, not" in " ".join(done.stderr.replace("│", " ").split())


def processes_with(word):
    """Ids of processes that have `word` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # one that has just ended
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked up there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_the_children_with_a_checkpoint(
    script, torch, tmp_path, number
):
    command = [sys.executable, script, "--smoke", "--out", tmp_path, "--threads", "1"]
    parent = subprocess.Popen(
        [*command, "--steps", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    logs = [tmp_path / member / "log.jsonl" for member in ("full", "ternary")]
    try:
        until = time.monotonic() + 300
        while not all(log.exists() and log.stat().st_size for log in logs):
            assert parent.poll() is None, parent.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.1)
        assert len(processes_with(str(tmp_path))) >= 3
        parent.send_signal(number)
        said = parent.communicate(timeout=60)[1]
    finally:
        parent.kill()
    assert parent.returncode == 128 + number
    assert processes_with(str(tmp_path)) == []
    assert "Traceback" not in said
    for log in logs:
        state = torch.load(log.parent / "checkpoint.pt", weights_only=True)
        assert state["step"] >= rows(log.parent)[-1]["step"] >= 20
        assert f"{log.parent.name} stopped at step {state['step']} of 100000" in said


def test_a_run_that_is_told_to_stop_leaves_a_checkpoint(decoder, stream, tmp_path):
    config = train.TrainConfig(**SETTINGS)
    trainer = train.Trainer(decoder(), stream, config, tmp_path)
    trainer.run(stop=lambda: trainer.step == 3, checkpoint_every=100, progress=False)
    assert trainer.step == 3
    assert train.Trainer(decoder(), stream, config, tmp_path).step == 3


def test_smoke_run_of_the_pair(script, tmp_path):
    """Both members, 20 steps, and folders that load."""
    command = [sys.executable, script, "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tmp_path /= "results/pair-smoke"  # which a full run does not share
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert judged["dtype"]["asked"] == "auto"
    assert f"training in {judged['dtype']['dtype']}, kept in" in done.stdout
    assert set(judged["dtype"]["seconds"]) == {"f32", "bf16"}
    for member in ("full", "ternary"):
        log = rows(tmp_path / member)
        assert judged[member]["training"]["bf16"] == (judged["dtype"]["dtype"] == "bf16")
        assert log[-1]["step"] == 20
        assert log[-1]["validation"] < 6.0  # ln 512 = 6.24 is what knows nothing
        scores = judged[member]["scores"]["persuasion"]
        assert scores["tritlab_loss"] == pytest.approx(scores["torch_loss"], rel=1e-4)
        assert scores["same_argmax"] > 0.999
        assert tl.Model.load(tmp_path / "exported" / member).generate("It was", max_tokens=4)
    ids = np.arange(40, dtype=np.int32)
    packed, master = (
        tl.Model.load(tmp_path / "exported" / name).fingerprint(ids)
        for name in ("ternary", "ternary-master")
    )
    assert packed == master
