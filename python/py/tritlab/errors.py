"""Every error class of the library; all are subclasses of `TritlabError`, itself a `ValueError`."""

from tritlab._native import (
    BackendError,
    EvaluationError,
    FormatError,
    GgufError,
    ModelError,
    ShapeError,
    TokenizerError,
    TritlabError,
)

__all__ = [
    "BackendError",
    "EvaluationError",
    "FormatError",
    "GgufError",
    "ModelError",
    "NotInstalledError",
    "ReceiptError",
    "ShapeError",
    "SweepError",
    "TokenizerError",
    "TritlabError",
]


class NotInstalledError(TritlabError):
    """A package that this call needs is not installed; the message has the command."""


class ReceiptError(TritlabError):
    """A receipt that cannot be read, or whose model or text is not the one recorded."""


class SweepError(TritlabError):
    """A sweep that cannot be run as its file says, or an engine that gave up."""
