"""`tritlab verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tritlab._options import JsonOption, ModelArgument, ThreadsOption
from tritlab._terminal import Bar, use_settings
from tritlab.cli._app import app


@app.command(short_help="Do two models hold the same weights?")
def verify(
    first: ModelArgument,
    second: ModelArgument,
    rtol: Annotated[
        float,
        typer.Option(
            "--rtol", min=0.0, metavar="X", help="Relative difference that scales may have."
        ),
    ] = 0.0,
    i2_s: Annotated[
        str,
        typer.Option(
            "--i2-s", metavar="NAME", help="Order of I2_S codes: I2_S, I2_S_64 or I2_S_ROWS4."
        ),
    ] = "I2_S",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Say whether two models hold the same weights, in whatever files and packings.

    Weights are compared as numbers: I2_S, TQ1_0, TQ2_0, base 3, packed safetensors, floats. If they
    do not: status 1, and the first tensor, row and column that differ, with both values.

    \b
    Examples:
      tritlab verify bitnet-tq2_0.gguf bitnet-hf-folder/
      tritlab verify model-i2_s.gguf model-tq1_0.gguf --rtol 0.0005
    """
    from tritlab._files import to_json
    from tritlab.verification import verify as compare

    use_settings(threads, None)
    with Bar() as bar:
        found = compare(first, second, rtol=rtol, i2_s=i2_s, progress=bar.step("verify"))
    print(to_json({"same": found.same, **asdict(found)}) if json else found)
    if not found:
        raise typer.Exit(1)
