"""`tritlab sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritlab._options import BackendOption, JsonOption
from tritlab._terminal import command_line, new_console, plain_cell, reporter
from tritlab.cli._app import app


@app.command(short_help="A grid of models, formats, activations, texts and seeds, resumable.")
def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.yaml", help="The grid.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Cells and results (default: the file's name and -results).",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", "-e", metavar="NAME", help="serial, processes, ray or dask (joblib's)."
        ),
    ] = "processes",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-w",
            min=1,
            metavar="N",
            help="Cells at once (default: one per two processors).",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            metavar="N",
            help="Threads of each worker (default: the processors, shared out).",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="A running cluster of ray or dask; without it one is started here.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file, say what would run, and stop.")
    ] = False,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Measure every cell of a grid, and go on where a killed run stopped.

    The file is checked before anything runs. Each cell is kept in FOLDER/cells as a Parquet file
    under the hash of all it depends on: cells that are there are not measured again, damaged ones
    are. A cell that fails is recorded with its error; the rest is finished, and the status is 1.

    \b
    The file (paths are from where it lies):
      models:                    # or a list of paths
        smollm2: smollm2
        mine: models/mine.gguf
      texts:                     # UTF-8, or .npy files of int32 token ids
        persuasion: persuasion.txt
      formats: [Q8_0, Q4_0, file, TERNARY]
      activations: [int8, f32]   # int8 in each format's groups; f32: not rounded
      seeds: [0, 1, 2]           # each draws its own windows of a text
      windows: 6                 # without it: the whole text
      context: 512
      reference: F16             # of the same model
      head: Q8_0                 # without it: as in the file

    \b
    Examples:
      tritlab sweep grid.yaml --dry-run
      tritlab sweep grid.yaml -o results/grid --workers 2 --threads 1
      tritlab sweep grid.yaml --engine dask --address tcp://10.0.0.1:8786
    """
    from tritlab import sweeps
    from tritlab._files import to_json
    from tritlab.report import figures  # noqa: F401  # matplotlib may be absent: say so now

    folder = out or Path(f"{file.stem}-results")
    if dry_run:
        print(sweeps.plan(file, folder))
        return
    result = sweeps.sweep(
        file,
        folder,
        engine=engine,
        workers=workers,
        threads=threads,
        address=address,
        backend=backend,
        progress=reporter("all cells"),
        command=command_line(),
    )
    report = result.save(folder)
    if json:
        print(to_json(result.records))
    else:
        _show(result, report)
    if result.failed:
        raise typer.Exit(1)


def _show(result: object, report: Path) -> None:
    from tritlab.report.sweep import HEADS, cells, failures, notes
    from tritlab.report.text import new_table
    from tritlab.sweeps import Sweep

    assert isinstance(result, Sweep)
    console = new_console()
    table = new_table()
    for i, head in enumerate(HEADS):
        table.add_column(head, justify="left" if i < 4 else "right")
    for line in result.lines():
        table.add_row(*map(plain_cell, cells(line)))
    console.print(table)
    for note in notes(result):
        console.print(note, markup=False, highlight=False)
    for reason in result.damaged.values():
        console.print(f"A damaged cell was made again: {reason}.", markup=False, highlight=False)
    for said in failures(result):
        console.print(f"FAILED: {said}", markup=False, highlight=False)
    console.print(f"\nReport: {report}", markup=False, highlight=False, soft_wrap=True)
