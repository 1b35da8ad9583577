"""`tritlab kernels`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tritlab import _native
from tritlab._options import JsonOption
from tritlab._terminal import Bar, new_console, plain_cell
from tritlab.cli._app import app


def _names(value: str | None, known: list[str], option: str) -> list[str]:
    """Comma-separated names, each one of `known`; "all" is all."""
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    if names == ["all"]:
        return known
    spelled = {name.lower(): name for name in known}
    for name in names:
        if name.lower() not in spelled:
            raise typer.BadParameter(
                f"no {name!r}; there are: {', '.join(known)}", param_hint=option
            )
    return [spelled[name.lower()] for name in names]


@app.command(short_help="What 256 weights cost in instructions; a kernel's hot loop.")
def kernels(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Show this kernel's hot loop instead.", show_default=False
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            "--backends",
            "-b",
            metavar="A,B,…",
            help='Backends, or "all" that run here (default: the one in use).',
            show_default=False,
        ),
    ] = None,
    ops: Annotated[
        str, typer.Option("--ops", metavar="A,B,…", help='Operations, or "all".')
    ] = "gemv,gemm",
    formats: Annotated[
        str, typer.Option("--formats", "-f", metavar="A,B,…", help='Formats, or "all".')
    ] = "all",
    json: JsonOption = False,
) -> None:
    """Count the instructions that 256 weights take, or show the loop that a kernel spends them in.

    Each kernel is run instruction by instruction (x86-64 Linux), so the counts are of what is
    executed, not of what is written: whole kernels, per token for gemm (several tokens).

    \b
    Examples:
      tritlab kernels
      tritlab kernels -b all -f TERNARY,Q4_0,Q4_K --ops gemv
      tritlab kernels gemv-ternary-avx512
    """
    from tritlab import _instructions
    from tritlab._files import to_json

    if name is not None:
        code = _instructions.kernel(name).disassemble()
        if json:
            facts = ("kernel", "per", "tokens", "compiler", "share", "counts", "instructions")
            print(to_json({fact: getattr(code, fact) for fact in facts}))
        else:
            print(code.text, end="")
        return
    table = _native.kernels().values()
    here = [b["name"] for b in _native.backends() if b["available"]]
    chosen = _names(backends, here, "--backends") or [_native.current_backend()]
    ops_chosen = _names(ops, list(dict.fromkeys(k.op for k in table)), "--ops")
    known = list(dict.fromkeys(k.format for k in table if k.format is not None))
    formats_chosen = [] if formats == "all" else _names(formats, known, "--formats")
    picked = _instructions.choose(chosen, ops_chosen, formats_chosen)
    with Bar() as bar:
        update = bar.step("count")
        done = iter(range(len(picked)))
        rows = list(
            _instructions.records(picked, lambda what: update(next(done), len(picked), what))
        )
    if json:
        print(to_json(rows))
    else:
        _print(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    from tritlab._instructions import KINDS, number

    table = Table(
        box=box.SIMPLE_HEAD,
        title="Instructions per 256 weights (gemm: and token; other operations: 256 numbers)",
        title_justify="left",
        title_style="bold",
    )
    for head in ("kernel", "runs here"):
        table.add_column(head)
    for kind in KINDS:
        table.add_column(kind.replace("_", " "), justify="right")
    for row in rows:
        cells = [number(row[kind]) for kind in KINDS]
        table.add_row(plain_cell(row["kernel"]), "yes" if row["selected"] else "", *cells)
    console = new_console()
    console.print(table)
    print("A dot product that reads memory is among the loads too; bytes read are of all loads.")
