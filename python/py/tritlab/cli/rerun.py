"""`tritlab rerun`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritlab._options import BackendOption, JsonOption, ThreadsOption
from tritlab._terminal import Bar, new_console, short, use_settings
from tritlab.cli._app import app


@app.command(short_help="Check that a receipt's results come out equal.")
def rerun(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="RECEIPT",
            help="A receipt, or the results.json of a comparison.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="Where the model is now.", show_default=False
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", "-t", metavar="FILE", help="Where the text is now.", show_default=False
        ),
    ] = None,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Make the results of a receipt again and check that they are equal.

    Model and text are checked by their hashes first. Quality must come out equal on any machine,
    backend and number of threads; speed is not checked. Status 1 if anything differs.

    \b
    Examples:
      tritlab rerun tritlab-results/results.json
      tritlab rerun receipt.json --backend portable --threads 1
    """
    from rich import box
    from rich.table import Table

    from tritlab import receipt
    from tritlab._files import to_json

    use_settings(threads, backend)
    with Bar() as bar:
        checks = receipt.rerun(
            receipt.read(file),
            model=model,
            text=text,
            folder=file.parent,
            progress=bar.step("rerun"),
        )
    differ = sum(not check.equal for check in checks)
    if json:
        print(
            to_json(
                [
                    {
                        "format": c.label,
                        "name": c.name,
                        "recorded": c.recorded,
                        "now": c.now,
                        "equal": c.equal,
                    }
                    for c in checks
                ]
            )
        )
    else:
        table = Table(box=box.SIMPLE_HEAD)
        for head in ("format", "number", "recorded", "now", ""):
            table.add_column(head)
        for c in checks:
            table.add_row(
                c.label,
                c.name,
                short(c.recorded, 18),
                short(c.now, 18),
                "equal" if c.equal else "DIFFERS",
                style=None if c.equal else "bold red",
            )
        new_console().print(table)
        print("all equal" if not differ else f"{differ} of {len(checks)} numbers differ")
    if differ:
        raise typer.Exit(1)
