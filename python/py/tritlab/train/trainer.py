"""The training loop: resumable, with a log that figures are made from."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tritlab._files import write_atomic
from tritlab.errors import TritlabError
from tritlab.train import checkpoint, log
from tritlab.train.bitlinear import set_blend
from tritlab.train.optimizer import Optimizer, schedule
from tritlab.train.windows import Windows, checked


@dataclass(frozen=True)
class TrainConfig:
    """Everything but the model and the data that a training depends on."""

    steps: int
    batch: int = 16
    context: int = 512
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: float = 0.05  # share of the steps
    decay: float = 0.5  # share of the steps
    blend_steps: int = 0  # BitLinear's λ rises over these, at most `steps`; the last is at 1
    clip: float = 1.0  # norm of the gradient
    seed: int = 0
    bf16: bool = False  # matrix products in bfloat16; weights and optimiser stay float32
    compile: bool = False  # torch.compile, which needs a C++ compiler
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("context", 1), ("seed", 0)):
            self._whole(name, least)
        self._whole("blend_steps")
        for name, most in (
            ("muon_lr", math.inf),
            ("adam_lr", math.inf),
            ("warmup", 1),
            ("decay", 1),
        ):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not (number and 0 <= value <= most and math.isfinite(value)):  # NaN is neither
                upper = "up" if most == math.inf else f"to {most}"
                raise TritlabError(f"{name}={value!r} is not a finite number from 0 {upper}")
            object.__setattr__(self, name, float(value))
        clip = self.clip
        if not isinstance(clip, Real) or isinstance(clip, bool) or not clip > 0:
            raise TritlabError(f"clip={clip!r} is not a number above 0; math.inf is no clipping")
        object.__setattr__(self, "clip", float(clip))
        for name in ("bf16", "compile"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)):
                raise TritlabError(f"{name}={value!r} is neither True nor False")
            object.__setattr__(self, name, bool(value))
        if not 0 <= self.blend_steps <= self.steps:
            raise TritlabError(
                f"blend_steps={self.blend_steps} is not between 0 and steps={self.steps}: training "
                "would end with weights that are not rounded yet"
            )

    def _whole(self, name: str, least: int | None = None) -> None:
        """Make the field an int, from NumPy's too: a checkpoint holds plain numbers only."""
        value = getattr(self, name)
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or (least is not None and value < least):
            least = 0 if least is None else least
            raise TritlabError(f"{name}={value!r} is not a whole number from {least} up")
        object.__setattr__(self, name, int(value))


class Trainer:
    """Trains `model` on `windows`, leaving a log and checkpoints in `folder`.

    Stopped and started again, it goes on from the last checkpoint, and comes to the same weights as
    without the stop (same machine, same number of threads): a checkpoint has PyTorch's random state
    too, which dropout draws from. A checkpoint of other tokens, another model (its sizes, its rules
    of rounding) or another configuration is a `TritlabError` that says what differs, and so is one
    that is damaged. `TritlabError`, too, for a log in `folder` that no training wrote.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: npt.NDArray[Any],
        config: TrainConfig,
        folder: str | os.PathLike[str],
        validation: npt.NDArray[Any] | None = None,
    ) -> None:
        folder = Path(folder)
        of_model = getattr(model, "config", None)
        vocabulary = getattr(of_model, "vocab_size", None)
        positions = getattr(of_model, "max_position_embeddings", None)
        if isinstance(positions, int) and config.context > positions:
            raise TritlabError(
                f"context={config.context} is more than the model's {positions} positions"
            )
        tokens = checked("tokens", tokens, vocabulary)
        if validation is not None:
            validation = checked("validation", validation, vocabulary)
            _require_window(validation, config.context)
        self.config, self.folder, self.validation = config, folder, validation
        self.model = model.to(config.device)
        self.windows = Windows(tokens, config.context, config.batch, config.seed)
        self.optimizer = Optimizer(self.model, config.muon_lr, config.adam_lr)
        self.step = 0
        self.identity = checkpoint.identity(config, self.model, tokens)
        self.log_path, self.checkpoint_path = folder / "log.jsonl", folder / "checkpoint.pt"
        self.losses: list[Tensor] = []  # since the last row of the log
        self.random: dict[str, Any] | None = None  # to be taken up by the next `run`
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise TritlabError(
                f"{folder} cannot be a training's folder: there is a file in its place"
            ) from None
        if self.checkpoint_path.exists():
            self._resume()
        else:
            if self.log_path.exists() and log.rows(self.log_path):  # an error unless it is one
                self.log_path.replace(self.log_path.with_suffix(".jsonl.old"))
            self.log_path.write_text("")

    def run(
        self,
        *,
        until: int | None = None,
        log_every: int = 20,
        validate_every: int = 250,
        checkpoint_every: int = 100,
        stop: Callable[[], bool] | None = None,
        progress: bool = True,
        label: str = "training",
        position: int | None = None,
    ) -> None:
        """Train to the end, until step `until`, or until `stop` says so; a checkpoint is left.

        `stop` is asked before every step, so that a signal's handler need only note the signal.

        A row of the log comes every `log_every` steps, with the loss on the validation tokens every
        `validate_every`, and at the end of the run. `TritlabError` if the loss is not finite.
        """
        for name, value in (
            ("log_every", log_every),
            ("validate_every", validate_every),
            ("checkpoint_every", checkpoint_every),
        ):
            if value < 1:
                raise TritlabError(f"{name}={value} is less than 1")
        if not self.model.training:
            raise TritlabError(
                "the model is in evaluation mode, where dropout does nothing; call model.train()"
            )
        c = self.config
        end = c.steps if until is None else min(c.steps, until)
        loss_of = torch.compile(self._loss) if c.compile else self._loss
        self._take_up_random()
        began, since = time.perf_counter(), self.step
        from tqdm.auto import tqdm  # which warns, when imported, in a notebook without widgets

        bar = tqdm(
            total=c.steps,
            initial=self.step,
            unit="step",
            desc=label,
            position=position,
            disable=not progress,
        )
        with bar:
            while self.step < end and not (stop is not None and stop()):
                self._blend(self.step + 1)
                inputs, targets = (x.to(c.device) for x in self.windows.batch_at(self.step))
                # Of whoever computed some before, or of a step that was interrupted here.
                self.model.zero_grad(set_to_none=True)
                loss = loss_of(inputs, targets)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
                factor = schedule(self.step, c.steps, c.warmup, c.decay)
                self.optimizer.step(factor)
                self.step += 1
                self.losses.append(loss.detach())
                bar.update(1)
                last = self.step == end
                validates = self.validation is not None and (
                    last or self.step % validate_every == 0
                )
                if last or validates or self.step % log_every == 0:
                    mean = self._mean_loss()
                    spent = time.perf_counter() - began
                    rate = (self.step - since) * c.batch * c.context / spent
                    row = {
                        "step": self.step,
                        "loss": mean,
                        "factor": factor,
                        "tokens_per_second": rate,
                    }
                    if validates:
                        row["validation"] = self.validate()
                    self._log(row)
                    bar.set_postfix_str(f"loss {mean:.3f}, {rate:,.0f} tok/s")
                    self.losses, began, since = [], time.perf_counter(), self.step
                if last or self.step % checkpoint_every == 0:
                    self._save()
        if self.step < end:
            self._save()
        self.random = self._random()  # another `run` goes on from here, whatever is drawn between

    def validate(self) -> float:
        """Mean loss on the validation tokens, nats per token."""
        assert self.validation is not None
        c = self.config
        return cross_entropy(self.model, self.validation, c.context, bf16=c.bf16)

    def _blend(self, step: int) -> None:
        """λ as it is in step `step`, counted from 1."""
        if self.config.blend_steps:
            set_blend(self.model, min(1.0, step / self.config.blend_steps))

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return batch_loss(self.model, inputs, targets, self.config.device, self.config.bf16)

    def _log(self, row: dict[str, float]) -> None:
        with self.log_path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _mean_loss(self) -> float:
        """Mean of the losses since the last row."""
        mean = torch.stack(self.losses).mean().item()
        if not math.isfinite(mean):
            raise TritlabError(f"the loss is {mean} at step {self.step}; see {self.log_path}")
        return mean

    def _save(self) -> None:
        # What is not finite stays so: the checkpoint before it is worth more.
        if self.losses:
            self._mean_loss()
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise TritlabError(
                    f"{name} has numbers that are not finite after step {self.step}; "
                    f"see {self.log_path}"
                )
        state = {
            "identity": self.identity,
            "step": self.step,
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": [loss.item() for loss in self.losses],
            "random": self._random(),
        }
        checkpoint.write(self.checkpoint_path, state)

    def _random(self) -> dict[str, Any]:
        """What PyTorch's random numbers go on from, here and on the device."""
        state: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if torch.device(self.config.device).type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.config.device)
        return state

    def _take_up_random(self) -> None:
        """Go on from a checkpoint's random state, whatever was drawn since it was read."""
        if self.random is not None:
            torch.set_rng_state(self.random["cpu"].cpu())
            if "cuda" in self.random:
                torch.cuda.set_rng_state(self.random["cuda"].cpu(), self.config.device)
            self.random = None

    def _resume(self) -> None:
        state = checkpoint.read(self.checkpoint_path, self.identity, self.config.device)
        if not self.log_path.exists():
            raise TritlabError(
                f"{self.log_path} is missing beside {self.checkpoint_path.name}, which goes on "
                f"from step {state['step']}; put it back, or remove the checkpoint to start again"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.losses = [torch.tensor(x, device=self.config.device) for x in state.get("losses", ())]
        self.random = state.get("random")  # checkpoints of earlier versions have none
        self._blend(self.step)  # no checkpoint has λ, and a new model is at 1
        # Rows after the checkpoint are of steps that will be done again.
        kept = [line for step, line in log.rows(self.log_path) if step <= self.step]
        write_atomic(self.log_path, "".join(kept))


def batch_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, device: str, bf16: bool
) -> Tensor:
    """Mean loss of a batch in nats per token, to be differentiated.

    `inputs` and `targets` are int64 [batch, time], on `device` as `model` is.
    """
    with _precision(device, bf16):
        logits = _logits(model(inputs))
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def _logits(output: Any) -> Tensor:
    """Of a model that returns them, or, as transformers' do, something that has them."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise TritlabError(f"the model returns {type(output).__name__}, which has no logits")
    return logits


@torch.no_grad()
def cross_entropy(
    model: nn.Module,
    tokens: npt.NDArray[Any],
    context: int,
    *,
    batch: int = 16,
    bf16: bool = False,
    each: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> float:
    """Mean loss in nats per token over windows of `context` tokens that do not overlap.

    The model is in evaluation mode meanwhile: dropout drops nothing, and draws no random numbers.
    `each` is called with inputs int64 [batch, time], logits float32 [batch, time, vocabulary] and
    targets int64 [batch, time].
    """
    tokens = checked("tokens", tokens)
    device = str(next(model.parameters()).device)
    total, count = 0.0, 0
    with _evaluating(model):
        for inputs, targets in _in_order(tokens, context, batch):
            with _precision(device, bf16):
                logits = _logits(model(inputs.to(device))).float().cpu()
            flat = logits.flatten(0, 1)
            total += F.cross_entropy(flat, targets.flatten(), reduction="sum").item()
            count += targets.numel()
            if each is not None:
                each(inputs, logits, targets)
    return total / count


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own: some of them may be frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _in_order(
    tokens: npt.NDArray[Any], context: int, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    _require_window(tokens, context)
    stream = torch.from_numpy(tokens.astype("int64"))
    count = (len(stream) - 1) // context
    inputs = stream[: count * context].view(count, context)
    targets = stream[1 : count * context + 1].view(count, context)
    yield from zip(inputs.split(batch), targets.split(batch), strict=True)


def _require_window(tokens: npt.NDArray[Any], context: int) -> None:
    if len(tokens) <= context:
        raise TritlabError(f"{len(tokens)} tokens are fewer than one window of {context}")


def _precision(device: str, bf16: bool) -> contextlib.AbstractContextManager[Any]:
    if not bf16:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
