"""Token streams cut into windows, in an order that depends on the seed and the step alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tritlab.errors import TritlabError


class Windows:
    """Batches of `batch` windows of `context` + 1 tokens out of one long stream.

    Every epoch cuts the stream at another offset and goes through its windows in another order.
    `batch_at(step)` needs no state, so an interrupted training goes on where it was.
    """

    def __init__(self, tokens: npt.NDArray[Any], context: int, batch: int, seed: int = 0) -> None:
        tokens = checked("tokens", tokens)
        self.tokens, self.context, self.batch, self.seed = tokens, context, batch, seed
        self.per_epoch = (len(tokens) - context) // context // batch
        if self.per_epoch < 1:
            raise TritlabError(
                f"{len(tokens)} tokens are too few for a batch of {batch} windows of {context}"
            )

    def batch_at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `step`, int64 [batch, context]; targets are one token later."""
        epoch, index = divmod(step, self.per_epoch)
        rng = np.random.default_rng((self.seed, epoch))
        offset = int(rng.integers(self.context))
        count = (len(self.tokens) - offset - 1) // self.context
        order = rng.permutation(count)[index * self.batch : (index + 1) * self.batch]
        starts = offset + order * self.context
        rows = self.tokens[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)
        rows = torch.from_numpy(rows)
        return rows[:, :-1], rows[:, 1:]


def checked(
    argument: str, tokens: npt.ArrayLike, vocabulary: int | None = None
) -> npt.NDArray[Any]:
    """`tokens` as an array; `TritlabError` unless it is one row of ids of the vocabulary."""
    array = np.asarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TritlabError(
            f"{argument} has the shape {array.shape} and holds {array.dtype}; one row of whole "
            "numbers is expected"
        )
    most = math.inf if vocabulary is None else vocabulary - 1
    if array.size and not (array.min() >= 0 and array.max() <= most):
        wrong = array.min() if array.min() < 0 else array.max()
        at = int((array == wrong).argmax())
        of = "from 0 up" if vocabulary is None else f"below the model's vocab_size={vocabulary}"
        raise TritlabError(f"{argument} has the id {wrong} at {at}; ids {of} are expected")
    return array
