"""`tritlab explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritlab import _native
from tritlab._options import I2SOption, JsonOption
from tritlab.cli._app import app


@app.command(short_help="Draw a block's bytes as the fields they are.")
def explain(
    format: Annotated[
        str | None,
        typer.Argument(
            metavar="FORMAT",
            help="A format of `tritlab.formats()`; of a file's tensor it may be left out.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", metavar="MODEL", help="A GGUF file, or a packaged model.", show_default=False
        ),
    ] = None,
    tensor: Annotated[
        str | None,
        typer.Option("--tensor", metavar="NAME", help="Its tensor.", show_default=False),
    ] = None,
    row: Annotated[int, typer.Option("--row", min=0, metavar="R", help="Row of the tensor.")] = 0,
    block: Annotated[
        int, typer.Option("--block", min=0, metavar="B", help="Block of the row.")
    ] = 0,
    hex: Annotated[
        str | None,
        typer.Option("--hex", metavar="BYTES", help="The block itself.", show_default=False),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            metavar="X",
            help="With --hex: the scale outside the block, where there is one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of the random weights.")
    ] = 0,
    weight: Annotated[
        int | None,
        typer.Option(
            "--weight", "-w", min=0, metavar="I", help="Only this weight.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Also write a page in colours.", show_default=False
        ),
    ] = None,
    i2_s: I2SOption = "I2_S",
    json: JsonOption = False,
) -> None:
    """Draw a block's bytes as the fields they are, and how weights come out of them.

    The block is of a file's tensor, the bytes of --hex, or one of normally distributed weights.

    \b
    Examples:
      tritlab explain Q4_K
      tritlab explain Q4_K --weight 37
      tritlab explain --file my.gguf --tensor blk.0.ffn_up.weight --row 3 --block 1
      tritlab explain TERNARY --hex 86 --scale 0.5 --html ternary.html
    """
    from tritlab._explain import block_of, facts, page
    from tritlab._files import to_json, write_atomic

    if file is None and format is None:
        raise typer.BadParameter("name a format, or a file and its tensor", param_hint="FORMAT")
    if (file is None) != (tensor is None):
        raise typer.BadParameter("--file and --tensor go together")
    if file is not None and hex is not None:
        raise typer.BadParameter("a block comes from --file or from --hex, not from both")
    if file is None and (row or block):
        raise typer.BadParameter("--row and --block are of a tensor: --file and --tensor name it")
    if scale is not None and hex is None:
        raise typer.BadParameter("--scale goes with --hex; elsewhere the scale is known")
    if hex is not None:
        try:
            data = bytes.fromhex(hex)
        except ValueError:
            raise typer.BadParameter(
                "pairs of hexadecimal digits are wanted", param_hint="--hex"
            ) from None
        assert format is not None
        explained = _native.explain(format, data, scale)
    elif file is not None and tensor is not None:
        from tritlab import _models

        explained = _native.explain_gguf(_models.resolve(file), tensor, row, block, i2_s=i2_s)
        if format is not None and format.upper() != explained.format:
            raise _native.FormatError(f"{tensor} is {explained.format}, not {format.upper()}")
    else:
        assert format is not None
        explained = block_of(format, seed)
    trace = None if weight is None else explained.trace(weight)
    if html is not None:
        write_atomic(html, page(explained))
    if json:
        print(to_json(facts(explained, trace)))
    else:
        print(str(explained if trace is None else trace).rstrip("\n"))
