"""Speed of a comparison's rows: of the models, or of formats at a published model's shapes.

A model that stays in a cache is fast for that reason, whatever its format: its speed says nothing
about models that people use. For such a one, products are timed at the shapes of the linear layers
of BitNet b1.58 2B-4T (`SHAPE`), their weights read from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from tritlab import _native, published, timing
from tritlab._native import EvaluationError
from tritlab.statistics import median_mad

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritlab._native import Model
    from tritlab._types import Progress

Choice: TypeAlias = Literal["auto", "model", "shapes", "none"]
CHOICES: tuple[str, ...] = get_args(Choice)

SHAPE = published.model("BitNet 2B-4T")
"""Whose layers' shapes are timed."""
PROMPT = 128
"""Vectors that are multiplied at once for the speed of prefill."""
SECONDS = 1.2
"""Seconds of rounds per format."""


@dataclass(frozen=True)
class Speed:
    """Prefill and decode of one row, and the sizes of what was timed, which give their limits."""

    prefill_tok_s: tuple[float, ...]
    decode_tok_s: tuple[float, ...]
    """Tokens/s of each repetition, or round."""
    bandwidth: float
    """Bytes/s that memory gave in the same minute."""
    bytes_per_token: int
    """Bytes of weights that decode reads for a token."""
    linear_bytes: int
    linear_params: int
    """Bytes and number of the weights of all linear layers."""

    @property
    def prefill(self) -> tuple[float, float]:
        """Median and median absolute deviation of prefill speed, tokens/s."""
        return median_mad(self.prefill_tok_s)

    @property
    def decode(self) -> tuple[float, float]:
        """Median and median absolute deviation of decode speed, tokens/s."""
        return median_mad(self.decode_tok_s)

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the linear layers that were timed."""
        return 8 * self.linear_bytes / self.linear_params

    @property
    def decode_bytes_s(self) -> float:
        """Bytes of weights read per second while decoding."""
        return self.bytes_per_token * self.decode[0]

    @property
    def prefill_products_s(self) -> float:
        """Products of the linear layers per second while prefilling; multiply and add are one."""
        return self.linear_params * self.prefill[0]


def check(asked: str) -> None:
    """`EvaluationError` unless it is one of `CHOICES`."""
    if asked not in CHOICES:
        raise EvaluationError(f"speed: expected {', '.join(CHOICES)}, found {asked!r}")


def choose(asked: str, model: Model) -> str:
    """Say what "auto" means for a model: "shapes" where all its weights may stay in a cache."""
    if asked != "auto":
        return asked
    return "shapes" if in_cache(model.total_bytes) else "model"


def in_cache(nbytes: int) -> bool:
    """Whether weights of so many bytes may stay in a usual machine's last cache."""
    return nbytes <= timing.CACHE


def of_model(
    model: Model, n_prompt: int, n_gen: int, repetitions: int, progress: Progress | None = None
) -> Speed:
    """Speed of a model: prefill of `n_prompt` tokens, decode of `n_gen`."""
    bandwidth = _native.measure_bandwidth(_native.get_threads())
    times = model.bench(n_prompt, n_gen, repetitions, progress)
    return Speed(
        prefill_tok_s=tuple(n_prompt * 1e9 / ns for ns in times["prompt_ns"]),
        decode_tok_s=tuple(n_gen * 1e9 / ns for ns in times["gen_ns"]),
        bandwidth=bandwidth,
        bytes_per_token=model.bytes_per_token,
        linear_bytes=model.linear_bytes,
        linear_params=model.linear_params,
    )


def at_shapes(formats: Sequence[str], seconds: float | None = None) -> dict[str, Speed]:
    """Speed of each format at `SHAPE`, from memory, with the threads and the backend in use.

    The linear layers of one block are multiplied one after another, with one vector (decode) and
    with `PROMPT` at once (prefill); tokens/s is what the matrices of all blocks alone would allow.
    All formats and the bandwidth of memory take turns, and between two products of a format with
    one vector more than a last cache is read. `seconds` of rounds, by default `SECONDS` for each
    format, at least three rounds.
    A block is held in each format, twice (as in a file, and as kernels read it), 17 MB per bit of a
    weight: 0.9 GB for the ten formats of `make demo`.
    """
    names = list(dict.fromkeys(formats))
    blocks = {
        name: [timing.matrix(name, *shape) for shape in SHAPE.linear_shapes] for name in names
    }
    threads = _native.get_threads()
    # Decode has other reading of memory on either side, since every second round runs backwards.
    work: dict[str, Callable[[], float | None]] = {
        "read": lambda: _native.measure_bandwidth(threads, 0.06)
    }
    work |= {f"decode {name}": _products(block, 1) for name, block in blocks.items()}
    work["evict"] = timing.eviction()
    work |= {f"prefill {name}": _products(block, PROMPT) for name, block in blocks.items()}
    total = SECONDS * len(names) if seconds is None else seconds
    rounds = timing.in_turns(work, total, best_of=1, least=3)
    bandwidth = float(rounds["read"].max())

    def speed(name: str) -> Speed:
        nbytes = SHAPE.layers * sum(matrix.nbytes for matrix in blocks[name])
        return Speed(
            prefill_tok_s=tuple(PROMPT / (SHAPE.layers * rounds[f"prefill {name}"])),
            decode_tok_s=tuple(1 / (SHAPE.layers * rounds[f"decode {name}"])),
            bandwidth=bandwidth,
            bytes_per_token=nbytes,
            linear_bytes=nbytes,
            linear_params=SHAPE.linear,
        )

    return {name: speed(name) for name in names}


def facts() -> dict[str, Any]:
    """What `at_shapes` multiplies, for receipts of a result."""
    return {
        "model": SHAPE.name,
        "layers": SHAPE.layers,
        "linear": [list(shape) for shape in SHAPE.linear_shapes],
        "prompt": PROMPT,
    }


def _products(block: Sequence[_native.Matrix], n: int) -> Callable[[], float]:
    """Seconds of each matrix times `n` vectors, as a call."""
    return lambda: _native.measure_products(block, n)
