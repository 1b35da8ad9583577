"""Every error class of the library; all are subclasses of `TritlabError`, itself a `ValueError`."""

from tritlab._native import (
    BackendError,
    EvaluationError,
    FormatError,
    GgufError,
    MissingFileError,
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
    "MissingFileError",
    "ModelError",
    "NotInstalledError",
    "ReceiptError",
    "RecipeError",
    "SearchError",
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


class RecipeError(TritlabError):
    """A recipe of formats that cannot be read; the message has the file and what is wrong in it."""


class SearchError(TritlabError):
    """A search for a recipe that cannot be done: a budget out of reach, a text too short for it."""
