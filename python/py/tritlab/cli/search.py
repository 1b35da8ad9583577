"""`tritlab search`."""

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


@app.command(short_help="A format for each tensor, the best within a budget.")
def search(
    model: ModelArgument,
    text: TextOption,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="SIZE",
            help='Most bytes of all weights: "60MB", "57MiB" or "3.0 bpw" (bits per weight).',
            show_default=False,
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl",
            metavar="NATS",
            help="Or the most mean KL divergence per token: the smallest recipe that keeps it.",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--formats",
            "-f",
            metavar="A,B,…",
            help="Formats to choose from (default: all of GGUF but the ternary ones).",
            show_default=False,
        ),
    ] = None,
    base: BaseOption = "file",
    out: OutOption = Path("tritlab-search"),
    context: ContextOption = 512,
    chunks: Annotated[
        int,
        typer.Option("--chunks", "-n", min=1, metavar="N", help="Windows to measure tensors on."),
    ] = 2,
    verify: Annotated[
        int,
        typer.Option(
            "--verify", min=1, metavar="N", help="Windows after them, to compare recipes on."
        ),
    ] = 4,
    sensitivity: Annotated[
        str,
        typer.Option(
            "--sensitivity",
            metavar="one|two|exhaustive",
            help="In how many formats each tensor is measured.",
        ),
    ] = "one",
    refine: Annotated[
        int,
        typer.Option("--refine", min=0, metavar="N", help="Most rounds of fitting and solving."),
    ] = 3,
    front: Annotated[
        int,
        typer.Option("--front", min=0, metavar="N", help="Other budgets to solve and measure."),
    ] = 5,
    imatrix: ImatrixOption = None,
    gguf: Annotated[bool, typer.Option("--gguf/--no-gguf", help="Write the model.")] = True,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Choose a format for each tensor by measurement: the least KL divergence within a budget.

    Each tensor's sensitivity is measured, a solver picks the formats, and the recipe is measured on
    other text beside every uniform format: it is never worse than the best of those that fits.

    Writes recipe.json (for quantize and rerun), model.gguf, tensor-types.txt (for llama-quantize
    --tensor-type-file), results.csv, results.json, sensitivity.csv, figures and a report.html.
    Measurements are kept in the folder's cells: a search that was stopped goes on, and one with
    another budget measures only its recipes.

    \b
    Examples:
      tritlab search smollm2 --text book.txt --budget 80MB
      tritlab search my-f16.gguf -t book.txt --budget "4.0 bpw" --sensitivity two -o results
      tritlab search my-f16.gguf -t book.txt --max-kl 0.02 --formats Q4_K,Q5_K,Q6_K,Q8_0
      tritlab search my-f16.gguf -t book.txt --budget 80MB --imatrix importance.gguf
      tritlab quantize my-f16.gguf small.gguf --recipe tritlab-search/recipe.json
    """
    from typing import cast

    from tritlab import precision
    from tritlab._files import to_json
    from tritlab.report import search as report
    from tritlab.report import search_figures  # noqa: F401  # matplotlib may be absent: say so now

    if (budget is None) == (max_kl is None):
        raise typer.BadParameter("give either --budget or --max-kl", param_hint="--budget")
    out.mkdir(parents=True, exist_ok=True)  # a folder that can't be written is said before the work
    result = precision.search(
        model,
        text,
        budget=budget,
        max_kl=max_kl,
        formats=formats,
        base=base,
        context=context,
        chunks=chunks,
        verify_chunks=verify,
        sensitivity=cast("precision.How", sensitivity),
        refine=refine,
        front=front,
        imatrix=imatrix,
        store=out / "cells",
        threads=threads,
        backend=backend,
        progress=reporter("all steps"),
        command=command_line(),
    )
    page = result.save(out, gguf=gguf)
    if json:
        print(to_json(result.to_dict()))
        return
    console = new_console()
    console.print()
    console.print(report.terminal_table(result))
    for line in (report.verdict(result), *report.notes(result)):
        console.print(line, markup=False, highlight=False)
    console.print(f"\nReport: {page}", markup=False, highlight=False, soft_wrap=True)
