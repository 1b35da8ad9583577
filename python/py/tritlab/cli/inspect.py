"""`tritlab inspect`."""

from __future__ import annotations

from json import loads as parse
from typing import Annotated, Any

import typer

from tritlab import _native
from tritlab._options import JsonOption, ModelArgument
from tritlab._terminal import new_console, plain_cell, short
from tritlab.cli._app import app


@app.command(short_help="Show what a GGUF file or a folder holds.")
def inspect(
    model: ModelArgument,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a GGUF file or a Hugging Face folder holds, without reading its weights.

    \b
    Examples:
      tritlab inspect smollm2
      tritlab inspect my.gguf --tensors
      tritlab inspect my.gguf --json | jq '.metadata["general.architecture"]'
    """
    from rich import box
    from rich.table import Table

    from tritlab import _models
    from tritlab._files import model_files, to_json
    from tritlab.report.text import megabytes

    path = _models.resolve(model)
    info: dict[str, Any]
    if path.is_dir():
        found = _native.inspect_folder(path)
        info = {"metadata": parse((path / "config.json").read_text()), **found}
        kind = "Hugging Face folder"
    else:
        info = {**_native.inspect_gguf(path)}
        kind = f"GGUF version {info['version']}"
    if json:
        print(to_json({"file": str(path), **info}))
        return
    console = new_console()
    size = sum(file.stat().st_size for file in model_files(path))
    print(f"{path.name}: {kind}, {len(info['tensors'])} tensors, {megabytes(size)}")

    table = Table(box=box.SIMPLE_HEAD, title="Metadata", title_justify="left", title_style="bold")
    table.add_column("key")
    table.add_column("value", overflow="fold")
    for key, value in info["metadata"].items():
        table.add_row(plain_cell(key), plain_cell(short(value)))
    console.print(table)

    if cache := info["cache"]:
        print(
            f"Key-value cache at the full context of {cache['context']:,} tokens: "
            f"{megabytes(cache['f32'])} in f32, {megabytes(cache['f16'])} in f16\n"
        )

    kinds: dict[str, list[int]] = {}
    for tensor in info["tensors"]:
        weights = 1
        for size in tensor["shape"]:
            weights *= size
        entry = kinds.setdefault(tensor["type"], [0, 0, 0])
        entry[0] += 1
        entry[1] += weights
        entry[2] += tensor["nbytes"]
    table = Table(box=box.SIMPLE_HEAD, title="Types", title_justify="left", title_style="bold")
    for head in ("type", "tensors", "weights", "size", "bits/weight"):
        table.add_column(head, justify="left" if head == "type" else "right")
    for kind, (count, weights, nbytes) in sorted(kinds.items(), key=lambda item: -item[1][2]):
        table.add_row(
            kind,
            str(count),
            f"{weights:,}",
            megabytes(nbytes),
            f"{8 * nbytes / max(weights, 1):.3f}",
        )
    console.print(table)

    if tensors:
        table = Table(
            box=box.SIMPLE_HEAD, title="Tensors", title_justify="left", title_style="bold"
        )
        for head in ("name", "shape", "type", "size"):
            table.add_column(head, justify="right" if head == "size" else "left")
        for tensor in info["tensors"]:
            shape = " × ".join(str(size) for size in tensor["shape"])
            table.add_row(
                plain_cell(tensor["name"]), shape, tensor["type"], megabytes(tensor["nbytes"])
            )
        console.print(table)
    elif info["tensors"]:
        print("--tensors lists every tensor.")
