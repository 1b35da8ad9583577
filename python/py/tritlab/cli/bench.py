"""`tritlab bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from tritlab._options import BackendOption, HeadOption, I2SOption
from tritlab._terminal import Bar, new_console, use_settings
from tritlab.cli._app import app


@app.command(short_help="Time prefill and decode; llama-bench's rows; the machine's limits.")
def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A GGUF file, a Hugging Face folder, or a packaged model; none with --roofline.",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--formats", "-f", metavar="A,B,…", help='Formats, separated by commas; "file" as is.'
        ),
    ] = "file",
    prompt: Annotated[
        int,
        typer.Option("--prompt", "-p", min=0, metavar="N", help="Tokens of prefill; 0 for none."),
    ] = 512,
    gen: Annotated[
        int, typer.Option("--gen", "-g", min=0, metavar="N", help="Tokens of decode; 0 for none.")
    ] = 128,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, metavar="N", help="Timed repetitions.")
    ] = 5,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads", metavar="N,M,…", help="Thread counts to try.", show_default=False
        ),
    ] = None,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", help="Measure no model, but what this machine can do at most."),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="md|csv|json|jsonl",
            help="Form of the rows (default: md; of --roofline, a table).",
            show_default=False,
        ),
    ] = None,
    head: HeadOption = None,
    i2_s: I2SOption = "I2_S",
    backend: BackendOption = None,
    json: Annotated[bool, typer.Option("--json", help="Short for --output json.")] = False,
) -> None:
    """Time prefill and decode; rows as llama-bench writes them.

    Beside llama-bench's fields stand the machine's limits, measured in the same run, and the share
    of them that is reached: decode of reading memory, prefill of int8 dot products. --roofline
    shows the limits alone: reading of memory and cache, and dot products of each backend.

    \b
    Examples:
      tritlab bench smollm2
      tritlab bench my.gguf -f file,Q8_0,TQ2_0 --threads 1,2,4
      tritlab bench my.gguf -p 512 -g 0 --output csv > prefill.csv
      tritlab bench --roofline --threads 1,2
    """
    from tritlab import bench as benchmark

    if json:
        output = "json"
    if output not in (None, *benchmark.OUTPUTS):
        raise typer.BadParameter(
            f"one of {', '.join(benchmark.OUTPUTS)}, not {output!r}", param_hint="--output"
        )
    counts = _counts(threads)
    use_settings(None, backend)
    if roofline:
        if model is not None:
            raise typer.BadParameter("--roofline measures no model: leave MODEL out")
        _print_limits(counts, output)
        return
    if model is None:
        raise typer.BadParameter("a model, or --roofline", param_hint="MODEL")
    if prompt == 0 and gen == 0:
        raise typer.BadParameter("nothing to time: --prompt and --gen are both 0")
    with Bar() as bar:
        rows = benchmark.bench(
            model,
            [name.strip() for name in formats.split(",") if name.strip()],
            n_prompt=prompt,
            n_gen=gen,
            repetitions=repetitions,
            threads=counts,
            head=head,
            i2_s=i2_s,
            progress=bar.step("time"),
        )
    print(benchmark.render(rows, output or "md"))


def _counts(threads: str | None) -> list[int]:
    try:
        counts = [int(item) for item in threads.split(",")] if threads else []
    except ValueError:
        counts = [0]
    if any(count < 1 for count in counts):
        raise typer.BadParameter(
            f"thread counts are numbers from 1, separated by commas, not {threads!r}",
            param_hint="--threads",
        )
    return counts


def _print_limits(counts: list[int], output: str | None) -> None:
    from tritlab.limits import roofline

    try:
        found = roofline(counts or None)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--threads") from None
    if output is not None:
        print(found.render(output))
        return
    from rich import box
    from rich.table import Table

    heads, rows = found.table()
    table = Table(box=box.SIMPLE_HEAD, title="At most", title_justify="left", title_style="bold")
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    new_console().print(table)
    print(found.caption)
