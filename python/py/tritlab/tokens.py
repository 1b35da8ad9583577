"""Single tokens in their text: where a precision hurts most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tritlab._native import Model
    from tritlab._types import Evaluation


def worst(
    model: Model,
    ids: npt.NDArray[np.int32],
    evaluation: Evaluation,
    count: int = 10,
    before: int = 16,
) -> list[dict[str, Any]]:
    """The `count` tokens with the largest KL divergence from the reference, largest first.

    `ids` is what `evaluation` scored. Each record has `position`, the text of `before` tokens ahead
    of it (`context`), the `token` itself, its probability for the reference (`p`) and for the model
    (`q`), and `kl` in nats. Without a reference the list is empty.
    """
    if "kl" not in evaluation:
        return []
    kl = np.asarray(evaluation["kl"])
    # Ties go to the earlier token, so that the same numbers give the same list.
    order = np.argsort(-kl, kind="stable")[:count]
    records = []
    for i in order:
        at = int(evaluation["position"][i])
        records.append(
            {
                "position": at,
                "context": model.detokenize(ids[max(0, at - before) : at]),
                "token": model.detokenize(ids[at : at + 1]),
                "p": float(evaluation["ref_p"][i]),
                "q": float(evaluation["p"][i]),
                "kl": float(kl[i]),
            }
        )
    return records
