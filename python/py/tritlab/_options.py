"""Options that several commands share, each with one name, one help text and one type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help='A GGUF file, a Hugging Face folder, or "smollm2".',
        show_default=False,
    ),
]
TextOption = Annotated[
    Path,
    typer.Option("--text", "-t", metavar="FILE", help="UTF-8 text to score.", show_default=False),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format", "-f", metavar="NAME", help='Format of the linear layers; "file" keeps them.'
    ),
]
HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="NAME",
        help="Format of the embedding and the output head (default: as in the file).",
        show_default=False,
    ),
]
ContextOption = Annotated[
    int,
    typer.Option(
        "--context",
        "-c",
        min=4,
        metavar="N",
        help="Tokens per window, or that a model has room for.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Threads.", show_default=False),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend", metavar="NAME", help="Force a backend, e.g. portable.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
