"""`tritlab bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from tritlab._options import BackendOption, HeadOption, I2SOption, ModelArgument
from tritlab._terminal import Bar, use_settings
from tritlab.cli._app import app


@app.command(short_help="Time prefill and decode; llama-bench's rows.")
def bench(
    model: ModelArgument,
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
    output: Annotated[
        str, typer.Option("--output", metavar="md|csv|json|jsonl", help="Form of the rows.")
    ] = "md",
    head: HeadOption = None,
    i2_s: I2SOption = "I2_S",
    backend: BackendOption = None,
    json: Annotated[bool, typer.Option("--json", help="Short for --output json.")] = False,
) -> None:
    """Time prefill and decode; rows as llama-bench writes them.

    Beside llama-bench's fields stand bytes per token, GB/s, the memory bandwidth measured in the
    same run, and the share of it that decode reaches.

    \b
    Examples:
      tritlab bench smollm2
      tritlab bench my.gguf -f file,Q8_0,TQ2_0 --threads 1,2,4
      tritlab bench my.gguf -p 512 -g 0 --output csv > prefill.csv
    """
    from tritlab import bench as benchmark

    if json:
        output = "json"
    if output not in benchmark.OUTPUTS:
        raise typer.BadParameter(
            f"one of {', '.join(benchmark.OUTPUTS)}, not {output!r}", param_hint="--output"
        )
    if prompt == 0 and gen == 0:
        raise typer.BadParameter("nothing to time: --prompt and --gen are both 0")
    try:
        counts = [int(item) for item in threads.split(",")] if threads else []
    except ValueError:
        counts = [0]
    if any(count < 1 for count in counts):
        raise typer.BadParameter(
            f"thread counts are numbers from 1, separated by commas, not {threads!r}",
            param_hint="--threads",
        )
    use_settings(None, backend)
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
    print(benchmark.render(rows, output))
