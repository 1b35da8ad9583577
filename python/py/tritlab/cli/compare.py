"""`tritlab compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tritlab._options import (
    BackendOption,
    ContextOption,
    HeadOption,
    JsonOption,
    ModelArgument,
    OutOption,
    TextOption,
    ThreadsOption,
)
from tritlab._terminal import command_line, new_console, reporter
from tritlab.cli._app import app


@app.command(short_help="Quality, size and speed of several formats, with a report.")
def compare(
    model: ModelArgument,
    text: TextOption,
    formats: Annotated[
        str,
        typer.Option(
            "--formats", "-f", metavar="A,B,…", help='Formats, separated by commas; "file" as is.'
        ),
    ] = "F16,Q8_0,Q4_0,file,TERNARY",
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="LABEL=MODEL[:FORMAT]",
            help="A row of another model with the same tokenizer; may be repeated.",
        ),
    ] = None,
    reference: Annotated[
        str,
        typer.Option("--reference", "-r", metavar="NAME", help="What to compare with."),
    ] = "F16",
    out: OutOption = Path("tritlab-results"),
    context: ContextOption = 512,
    chunks: Annotated[
        int,
        typer.Option("--chunks", "-n", min=0, metavar="N", help="Windows; 0 for the whole text."),
    ] = 6,
    prompt: Annotated[
        int, typer.Option("--prompt", "-p", min=1, metavar="N", help="Tokens of the timed prefill.")
    ] = 512,
    gen: Annotated[
        int, typer.Option("--gen", "-g", min=1, metavar="N", help="Tokens of the timed decode.")
    ] = 64,
    repetitions: Annotated[
        int, typer.Option("--repetitions", min=1, metavar="N", help="Timed repetitions.")
    ] = 3,
    speed: Annotated[
        str,
        typer.Option(
            "--speed",
            metavar="auto|model|shapes|none",
            help="What is timed: the model, or its formats at BitNet 2B-4T's shapes, from memory; "
            "auto takes the shapes where the model may stay in a cache.",
        ),
    ] = "auto",
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="FOLDER",
            help="Keep each row's log-probabilities here, and use those that are.",
            show_default=False,
        ),
    ] = None,
    store_type: Annotated[
        str, typer.Option("--store-type", metavar="f32|f16", help="f16 rounds, and says how much.")
    ] = "f32",
    head: HeadOption = None,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Compare formats of one model on one text: quality, size, speed.

    Writes results.csv, results.json (with receipts), per-token.npz, figures and a report.html that
    stands alone. The reference F16 is the file's own weights expanded to F16.

    \b
    Examples:
      tritlab compare smollm2 --text book.txt
      tritlab compare my.gguf -t book.txt -f F16,Q8_0,Q4_0,TQ2_0 --chunks 0 -o results
      tritlab compare full.gguf -t book.txt --also trained=ternary.gguf
      tritlab compare my.gguf -t book.txt -f Q4_K --store runs   # later formats: F16 is there
      tritlab compare my.gguf -t book.txt --reference file --json | jq '.records[].kl_nats'
    """
    from tritlab import comparison
    from tritlab._extras import plots_missing
    from tritlab._files import to_json
    from tritlab.report.text import footnotes, tables

    if missing := plots_missing():
        print(f"The report will have no figures: {missing}", file=sys.stderr)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)  # a folder that can't be written is said before the work
    try:
        result = comparison.compare(
            model,
            [name.strip() for name in formats.split(",") if name.strip()],
            text,
            others=_others(also or []),
            reference=reference,
            head=head,
            context=context,
            chunks=chunks or None,
            n_prompt=prompt,
            n_gen=gen,
            repetitions=repetitions,
            speed=speed,  # type: ignore[arg-type]  # it is checked there
            store=store,
            store_type=store_type,
            threads=threads,
            backend=backend,
            progress=reporter(),
            command=command_line(),
        )
    except BaseException:
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    report = result.save(out)
    if json:
        print(to_json(result.to_dict()))
        return
    console = new_console()
    console.print()
    for table in tables(result):
        console.print(table)
    for line in footnotes(result):
        console.print(line, markup=False, highlight=False)
    console.print(f"\nReport: {report}", markup=False, highlight=False, soft_wrap=True)


def _others(given: list[str]) -> dict[str, tuple[str, str | None]]:
    """Labels, models and formats of `--also`."""
    from tritlab._formats import FILE, parse_format
    from tritlab.errors import FormatError

    others: dict[str, tuple[str, str | None]] = {}
    for item in given:
        label, equals, model = item.partition("=")
        if not (label and equals and model):
            raise typer.BadParameter(f"{item!r} is not LABEL=MODEL[:FORMAT]", param_hint="--also")
        if label in others:
            raise typer.BadParameter(f"two rows are called {label!r}", param_hint="--also")
        path, colon, name = model.rpartition(":")
        try:  # a path may have a colon of its own
            others[label] = (path, parse_format(name) or FILE) if colon else (model, None)
        except FormatError:
            others[label] = (model, None)
    return others
