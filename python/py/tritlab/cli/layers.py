"""`tritlab layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritlab._options import (
    BackendOption,
    BaseOption,
    ContextOption,
    ImatrixOption,
    JsonOption,
    ModelArgument,
    OutOption,
    TextOption,
    ThreadsOption,
)
from tritlab._terminal import command_line, new_console, reporter
from tritlab.cli._app import app


@app.command(short_help="What a format does to each layer, with a page to explore.")
def layers(
    model: ModelArgument,
    text: TextOption,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help='Format of the layers, a +projection may follow; "file" keeps them.',
        ),
    ],
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="alone|up_to|both",
            help="Swap each layer alone, all up to it, or one after the other.",
        ),
    ] = "alone",
    base: BaseOption = "file",
    out: OutOption = Path("tritlab-layers"),
    context: ContextOption = 512,
    chunks: Annotated[
        int, typer.Option("--chunks", "-n", min=1, metavar="N", help="Windows of the text.")
    ] = 2,
    imatrix: ImatrixOption = None,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a format does to each weight matrix of a model, and what that does to the model.

    Of each layer: errors of its weights and of its output, SQNR, cosine, kurtosis and outliers of
    weights and inputs, entropy and zeros of its codes, and the KL divergence of the model with this
    layer swapped alone, or all up to it.

    Writes results.csv, results.json (with the histograms), results.md, figures, and explorer.html,
    which shows all of it in a browser. Measurements are kept in the folder's cells: the same
    command goes on where it was stopped.

    \b
    Examples:
      tritlab layers smollm2 --format Q4_K --text book.txt
      tritlab layers my.gguf -f TQ2_0 -t book.txt --mode both --base F16 -o results/layers
      tritlab layers pair-ternary -f file -t persuasion
      tritlab layers pair-full -f TERNARY_G256+optimal -t persuasion
    """
    from typing import cast

    from tritlab import layerwise
    from tritlab._files import to_json
    from tritlab.report import layers as report

    out.mkdir(parents=True, exist_ok=True)  # a folder that can't be written is said before the work
    result = layerwise.layers(
        model,
        text,
        format,
        mode=cast("layerwise.Mode", mode),
        base=base,
        context=context,
        chunks=chunks,
        imatrix=imatrix,
        store=out / "cells",
        threads=threads,
        backend=backend,
        progress=reporter("all layers"),
        command=command_line(),
    )
    page = result.save(out)
    if json:
        print(to_json(result.to_dict()))
        return
    console = new_console()
    table, notes = report.terminal(result)
    console.print()
    console.print(table)
    for line in notes:
        console.print(line, markup=False, highlight=False)
    console.print(f"\nExplorer: {page}", markup=False, highlight=False, soft_wrap=True)
