"""Shapes of the dictionaries that cross the native boundary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypeAlias, TypedDict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Messages: TypeAlias = "list[dict[str, Any]]"
"""A chat: each message has `role` and `content`, and whatever else a template knows."""

Prompt: TypeAlias = "str | npt.NDArray[np.int32] | Messages"
"""What a model continues: a text, token ids, or a chat."""

Replacement: TypeAlias = (
    "npt.NDArray[np.float32] | Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32] | None]"
)
"""A layer's output, float32 [n, E], or a function of the output it would have."""

Overrides: TypeAlias = "Mapping[str, str | None] | Sequence[tuple[str, str | None]]"
"""Patterns of tensor names and the formats they are to be in, in order; `None`: as in the file."""

Progress: TypeAlias = "Callable[[int, int, str], object]"
"""Called now and then as `progress(done, total, what)`; an exception it raises ends the call."""


class FormatInfo(TypedDict):
    """One weight format: a row of the table the kernels iterate."""

    name: str
    block: int  # weights per block
    bytes: int  # bytes per block
    bits_per_weight: float
    activation: str  # how activations are quantised: "f32" (not at all), "token", "256" to "32"
    scales: str  # "none", "block", "row" or "tensor"
    summary: str
    in_gguf: bool  # whether GGUF has a tensor type for it


class PackingInfo(TypedDict):
    """One layout of another project that ternary weights can be read from and written to."""

    name: str
    scales: str  # "tensor" or "row"
    scale_outside: bool  # whether the scale is beside the bytes
    summary: str


class BackendInfo(TypedDict):
    """One instruction-set backend."""

    name: str
    available: bool  # this CPU can run it
    selected: bool


class InstructionCounts(TypedDict):
    """Executed instructions per 256 weights and token, or 256 numbers."""

    total: float
    loads: float  # those that read memory
    stores: float  # those that write memory
    dots: float  # multiply and add neighbours: vpdpbusd, vpmaddubsw, …
    shuffles: float
    multiplies: float  # others, fused or not
    other: float  # logic, shifts, additions, addresses, branches
    bytes_read: float


class InstructionInfo(TypedDict):
    """One instruction of a kernel's hot loop."""

    at: int  # offset in its function
    text: str  # Intel's syntax
    kind: str  # "dot", "shuffle", "multiply", "load", "store" or "other"
    bytes_read: int
    bytes_written: int
    executed: float  # per what the counts are per


class FieldFacts(TypedDict):
    """One field of a block's bytes."""

    name: str  # ggml's, where the format is ggml's: "qs"
    offset: int  # first byte
    bytes: bytes
    holds: str  # "element", "scale", "minimum", "lowest", "sub-scales", "codes" or "high bits"
    about: str
    values: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int32]]  # by name: "d", "scale"


class TraceSource(TypedDict):
    """One number of a weight's formula."""

    symbol: str  # "q[5]"
    value: float
    bits: list[tuple[int, int]]  # (byte, bit), the most significant first


class MachineFacts(TypedDict):
    """The facts about this machine that a result depends on."""

    cpu: str
    features: list[str]
    cores: int
    memory_bytes: int
    arch: str
    os: str


class TensorInfo(TypedDict):
    """One weight tensor of a loaded model."""

    name: str
    gguf_name: str  # what overrides go by; parts of one matrix ("name[0]") have it in common
    role: str  # "linear", "embedding", "head" or "norm"
    file_type: str
    format: str
    shape: tuple[int, ...]
    n_params: int
    nbytes: int
    bits_per_weight: float
    rel_error: float  # |W - Wq| / |W| (Frobenius) against the file's own weights; 0 when kept


class Evaluation(TypedDict):
    """Per-token results of `Model.evaluate`, one element per scored token."""

    n_chunks: int
    nll: npt.NDArray[np.float64]  # natural log
    token: npt.NDArray[np.int32]
    position: npt.NDArray[np.int64]  # index into the ids that were given
    ref_nll: NotRequired[npt.NDArray[np.float64]]
    kl: NotRequired[npt.NDArray[np.float64]]  # KL(reference || model), nats
    same_top: NotRequired[npt.NDArray[np.bool_]]
    p: NotRequired[npt.NDArray[np.float64]]  # probability of the true token
    ref_p: NotRequired[npt.NDArray[np.float64]]


class BenchTimes(TypedDict):
    """Wall times of `Model.bench`, nanoseconds, one per repetition."""

    prompt_ns: list[int]
    gen_ns: list[int]


class GgufTensor(TypedDict):
    """One tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]  # NumPy order: rows first
    type: str
    offset: int  # from the start of the data section
    nbytes: int


class CacheSize(TypedDict):
    """Bytes of a model's key-value cache at its full context."""

    context: int  # tokens
    f32: int
    f16: int


class GgufInfo(TypedDict):
    """What a GGUF file says about itself."""

    version: int
    metadata: dict[str, Any]
    tensors: list[GgufTensor]
    cache: CacheSize | None  # `None` where it holds no model that is supported


class TypeShare(TypedDict):
    """What of a file is in one tensor type."""

    type: str
    tensors: int
    weights: int
    bytes: int


class FolderTensor(TypedDict):
    """One tensor of a Hugging Face folder."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int


class FolderInfo(TypedDict):
    """What a Hugging Face folder holds."""

    tensors: list[FolderTensor]
    cache: CacheSize


class ConvertReport(TypedDict):
    """What `convert` wrote."""

    tensors: int
    bytes_out: int
    tokenizer: bool  # not where the source has none, or one that the other side has no form for


class FoundDifference(TypedDict):
    """The first difference of two models; what has no meaning for its kind is None."""

    kind: str
    tensor: str
    row: int | None
    col: int | None
    first: float | None
    second: float | None
    types: tuple[str, str] | None
    shapes: tuple[tuple[int, int], tuple[int, int]] | None


class VerifyReport(TypedDict):
    """What `verify_models` found."""

    tensors: int
    weights: int
    difference: FoundDifference | None


class QuantizeReport(TypedDict):
    """What `quantize_gguf` wrote.

    `fallbacks` counts tensors that the fallback took, `replaced` by type;
    `weight_error` is |w - q| / |w| over the tensors that changed, against the source's own weights.
    """

    format: str | None  # `None` where the file's own types were kept
    tensors: int
    quantized: int
    fallbacks: int
    weight_error: float
    replaced: list[TypeShare]
    types: list[TypeShare]
    bytes_in: int
    bytes_out: int


class KitCase(TypedDict):
    """One case of the kit: what a kernel gets and must give; `None` where a check has none."""

    case: str
    rows: int
    cols: int
    n: int  # activation vectors
    weights_are: str  # a sentence, or ""
    numbers_are: str
    blocks: npt.NDArray[np.uint8] | None  # [rows, row_bytes]
    scales: npt.NDArray[np.float32] | None  # outside the blocks: [rows], [1] or [0]
    numbers: npt.NDArray[np.float32] | None  # activations [n, cols], or weights [rows, cols]
    codes: npt.NDArray[np.int8] | None  # [n, cols]
    code_scales: npt.NDArray[np.float32] | None  # [n, groups]
    y: npt.NDArray[np.float32] | None  # [n, rows]
    sums: npt.NDArray[np.float64] | None  # [n, rows], the product in float64
    bounds: npt.NDArray[np.float64] | None  # [n, rows], what float32 rounding can do to it
    masses: npt.NDArray[np.float64] | None  # [n, rows], the sums of the absolute terms
