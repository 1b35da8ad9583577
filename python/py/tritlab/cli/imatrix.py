"""`tritlab imatrix`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritlab import _native
from tritlab._options import (
    BackendOption,
    ContextOption,
    ForceOption,
    FormatOption,
    I2SOption,
    JsonOption,
    LongRopeOption,
    ModelArgument,
    TextOption,
    ThreadsOption,
)
from tritlab._terminal import Bar, use_settings
from tritlab.cli._app import app


@app.command(short_help="Importance of weights, collected from a text.")
def imatrix(
    model: ModelArgument,
    text: TextOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The GGUF file to write.")
    ] = Path("imatrix.gguf"),
    format: FormatOption = "file",
    i2_s: I2SOption = "I2_S",
    longrope: LongRopeOption = "length",
    context: ContextOption = 512,
    chunks: Annotated[
        int,
        typer.Option("--chunks", "-n", min=0, metavar="N", help="Windows; 0 for the whole text."),
    ] = 0,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Collect how large the inputs of each linear layer are on a text, column by column.

    The file is llama.cpp's imatrix in GGUF form: either program can use it. Formats that search for
    their scales (k-quants, IQ4_NL) weigh errors with it. Collect from text that is not the text you
    will measure on.

    \b
    Examples:
      tritlab imatrix my-f16.gguf --text book.txt -o my.imatrix.gguf
      tritlab imatrix my-f16.gguf --text book.txt --chunks 32 --json
      tritlab quantize my-f16.gguf my-q2.gguf --format Q2_K --imatrix my.imatrix.gguf
    """
    from tritlab import _models
    from tritlab._files import require_folder, to_json
    from tritlab._formats import parse_format
    from tritlab.evaluation import collect_imatrix

    use_settings(threads, backend)
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; --force replaces it")
    require_folder(out)
    with Bar() as bar:
        loaded = _native.Model.load(
            _models.resolve(model),
            parse_format(format),
            context=context,
            i2_s=i2_s,
            longrope=longrope,
            progress=bar.step("load"),
        )
        made = collect_imatrix(
            loaded, text, context=context, chunks=chunks or None, progress=bar.step("imatrix")
        )
    made.save(out)
    matrices = len(made.arrays())
    if json:
        facts = {"matrices": matrices, "chunks": made.chunks, "chunk_size": made.chunk_size}
        print(to_json({"file": str(out), **facts}))
        return
    print(f"{out}: {matrices} matrices, {made.chunks} windows of {made.chunk_size} tokens")
