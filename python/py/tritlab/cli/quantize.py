"""`tritlab quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritlab import _native
from tritlab._options import (
    ForceOption,
    HeadOption,
    I2SOption,
    ImatrixOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
)
from tritlab._terminal import Bar, use_settings
from tritlab.cli._app import app


@app.command(short_help="Write a model as GGUF in another format.")
def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The GGUF file to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="Format of the linear layers.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="Formats of all tensors, in place of --format, --head and --fallback: what "
            "`tritlab search` wrote, or a --tensor-type-file of llama-quantize.",
            show_default=False,
        ),
    ] = None,
    head: HeadOption = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            "--fallback",
            metavar="NAME",
            help='Format of tensors whose rows do not fit; "llama.cpp" as llama-quantize chooses. '
            "Without it they are an error.",
            show_default=False,
        ),
    ] = None,
    imatrix: ImatrixOption = None,
    i2_s: I2SOption = "I2_S",
    force: ForceOption = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Write a GGUF file, or a Hugging Face folder, as GGUF in another format.

    The file appears whole or not at all. Quantising a file that is already quantised adds a second
    loss to the first; start from F16 or BF16 where you can.

    \b
    Examples:
      tritlab quantize my-f16.gguf my-q4.gguf --format Q4_0
      tritlab quantize my-model/ my-q8.gguf --format Q8_0
      tritlab quantize my-f16.gguf my-tern.gguf --format TQ2_0 --head Q8_0
      tritlab quantize smollm2 my-q4k.gguf --format Q4_K --fallback llama.cpp
      tritlab quantize my-f16.gguf my-q2.gguf --format Q2_K --imatrix my.imatrix.gguf
      tritlab quantize my-f16.gguf small.gguf --recipe tritlab-search/recipe.json
    """
    from tritlab import _models
    from tritlab._files import to_json
    from tritlab._formats import parse_format
    from tritlab.report.text import megabytes

    use_settings(threads, None)
    wanted = parse_format(format)
    if wanted is None and recipe is None:
        raise typer.BadParameter("name a format to quantise to", param_hint="--format")
    if recipe is not None and (wanted or head or fallback):
        raise typer.BadParameter("it says all formats: give no other", param_hint="--recipe")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; --force replaces it")
    with Bar() as bar:
        report = _native.quantize_gguf(
            _models.resolve(model),
            out,
            wanted,
            head=head,
            fallback=fallback,
            recipe=recipe,
            i2_s=i2_s,
            imatrix=imatrix,
            progress=bar.step("quantise"),
        )
    if json:
        print(to_json(report))
        return
    done = f"linear layers to {report['format']}" if report["format"] else f"as {recipe} says"
    print(
        f"{out}: {report['quantized']} of {report['tensors']} tensors changed, {done}, "
        f"{megabytes(report['bytes_in'])} -> {megabytes(report['bytes_out'])}, "
        f"weight error {report['weight_error']:.2%}"
    )
    if report["fallbacks"]:
        print(f"{report['fallbacks']} tensors have rows that do not fit and were replaced:")
        for share in report["replaced"]:
            print(f"  {share['type']:6} {share['tensors']:4} tensors  {megabytes(share['bytes'])}")
