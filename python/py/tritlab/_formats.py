"""What formats are called, by people and by the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritlab import _native
from tritlab._native import FormatError

if TYPE_CHECKING:
    from tritlab._types import TensorInfo

FILE = "file"
"""Name of the row whose weights stay as the file has them."""

_FILE_NAMES = {"file", "as-shipped", "as shipped", "shipped"}
PROJECTIONS = ("absmean", "absmax", "twn", "optimal", "sign", "centred_sign")
_DENSE = {"F32", "F16", "BF16"}


def is_ternary(format: str) -> bool:
    """Whether a format has the three values −1, 0, 1 times a scale."""
    return format.startswith(("TERNARY", "TQ"))


def is_dense(format: str) -> bool:
    """Whether a format is plain floating point."""
    return format in _DENSE


def names() -> list[str]:
    """Names of the table's formats, in its order."""
    return [info["name"] for info in _native.formats()]


def parse_format(name: str | None) -> str | None:
    """Spell a format as the table does; `None` for the file's own types.

    "TQ2_0+optimal" is a ternary format and the projection that makes weights ternary.
    """
    if name is None or name.lower() in _FILE_NAMES:
        return None
    known = names()
    format, plus, projection = name.partition("+")
    if format.upper() not in known:
        raise FormatError(f"no format {name!r}; there are: {', '.join([*known, FILE])}")
    if plus and projection.lower() not in PROJECTIONS:
        raise FormatError(f"no projection {projection!r}; there are: {', '.join(PROJECTIONS)}")
    return format.upper() + plus + projection.lower()


def describe(format: str | None, tensors: list[TensorInfo]) -> tuple[str, str]:
    """Name of the format of most linear weights, and the label of the row."""
    if format is not None:
        return format.partition("+")[0], format
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor["role"] == "linear":
            sizes[tensor["format"]] = sizes.get(tensor["format"], 0) + tensor["n_params"]
    if not sizes:
        return FILE, FILE
    kind = max(sizes, key=lambda name: sizes[name])
    mostly = "" if sizes[kind] >= 0.99 * sum(sizes.values()) else "mostly "
    return kind, f"{FILE} ({mostly}{kind})"
