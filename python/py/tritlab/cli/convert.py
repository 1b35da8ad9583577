"""`tritlab convert`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tritlab import _native
from tritlab._options import I2SOption, JsonOption, ModelArgument
from tritlab._terminal import Bar
from tritlab.cli._app import app


@app.command(short_help="Hugging Face folder to GGUF file, or back.")
def convert(
    model: ModelArgument,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The GGUF file or the new folder.", show_default=False),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an OUT file.")] = False,
    i2_s: I2SOption = "I2_S",
    json: JsonOption = False,
) -> None:
    """Convert a Hugging Face folder to a GGUF file, or a GGUF file to a new folder.

    GGUF to GGUF is `tritlab quantize`.

    Weights keep their bits where the other side can hold them: F32, F16 and BF16 on both, BitLinear
    layers as packed codes in a folder and as TQ2_0 with a scale in GGUF. Other quantised types
    become F32 in a folder. OUT appears whole or not at all.

    \b
    Examples:
      tritlab convert my-model/ my-model.gguf
      tritlab convert my.gguf my-model/
    """
    from tritlab import _models
    from tritlab._files import to_json
    from tritlab.report.text import megabytes

    source = _models.resolve(model)
    # An OUT that is MODEL, or a file for a folder, can be nothing: the library says why.
    possible = out.exists() and not source.samefile(out) and (source.is_dir() or out.is_dir())
    if possible and not (force and out.is_file()):
        hint = "; --force replaces it" if out.is_file() else ""
        raise FileExistsError(f"{out} exists{hint}")
    with Bar() as bar:
        report = _native.convert(source, out, i2_s=i2_s, force=force, progress=bar.step("convert"))
    if json:
        print(to_json({"out": str(out), **report}))
        return
    print(f"{out}: {report['tensors']} tensors, {megabytes(report['bytes_out'])}")
    if not report["tokenizer"]:
        print(
            "no tokenizer was written: the source has none, or one that the other side has no form "
            "for; token ids still work",
            file=sys.stderr,
        )
