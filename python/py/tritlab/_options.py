"""Options that several commands share, each with one name, one help text and one type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A GGUF file, a Hugging Face folder, or a packaged model (pair-full, pair-ternary, "
        "smollm2, gemma3-270m).",
        show_default=False,
    ),
]
TextOption = Annotated[
    Path,
    typer.Option(
        "--text",
        "-t",
        metavar="FILE",
        help="UTF-8 text to score, or one that is packaged (persuasion, addresses, alice).",
        show_default=False,
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format", "-f", metavar="NAME", help='Format of the linear layers; "file" keeps them.'
    ),
]
BaseOption = Annotated[
    str,
    typer.Option("--base", metavar="NAME", help='Reference: "file" for the file as it is, or F16.'),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the results go.")
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

MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Longest continuation.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", min=0.0, metavar="T", help="0 is greedy.")
]
TopKOption = Annotated[
    int, typer.Option("--top-k", min=0, metavar="K", help="Keep the K likeliest; 0 keeps all.")
]
TopPOption = Annotated[
    float,
    typer.Option("--top-p", min=0.0, max=1.0, metavar="P", help="Keep this share of probability."),
]
MinPOption = Annotated[
    float,
    typer.Option(
        "--min-p",
        min=0.0,
        max=1.0,
        metavar="P",
        help="Keep tokens at least P times as likely as the likeliest.",
    ),
]
PenaltyOption = Annotated[
    float,
    typer.Option("--repetition-penalty", metavar="R", help="Of recent tokens; 1 is none."),
]
PenaltyWindowOption = Annotated[
    int,
    typer.Option("--repetition-window", min=0, metavar="N", help="Tokens that count as recent."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the sampling.")]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End before this text; may be given several times.",
        show_default=False,
    ),
]
KvOption = Annotated[
    str, typer.Option("--kv", metavar="f32|f16", help="Type of the key-value cache.")
]
ImatrixOption = Annotated[
    Path | None,
    typer.Option(
        "--imatrix",
        metavar="FILE",
        help="Importance of columns (see `tritlab imatrix`).",
        show_default=False,
    ),
]
I2SOption = Annotated[
    str,
    typer.Option(
        "--i2-s", metavar="NAME", help="Order of I2_S codes: I2_S, I2_S_64 or I2_S_ROWS4."
    ),
]
LongRopeOption = Annotated[
    str,
    typer.Option(
        "--longrope",
        metavar="length|context",
        help="What chooses the frequencies of Phi-3 and Phi-4-mini: each sequence's length "
        "(transformers) or the context (llama.cpp).",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
