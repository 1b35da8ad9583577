"""The command `tritlab`: the library's calls, from a shell. One command per file.

The modules that need NumPy load inside the commands: `tritlab --help` answers at once.
"""

# In the order of `tritlab --help`; importing a command adds it.
from tritlab.cli import (  # noqa: I001
    compare,
    perplexity,
    generate,
    chat,
    inspect,
    explain,
    quantize,
    convert,
    verify,
    imatrix,
    bench,
    rerun,
)
from tritlab.cli._app import app

__all__ = ["app", "main"]

_COMMANDS = (
    compare,
    perplexity,
    generate,
    chat,
    inspect,
    explain,
    quantize,
    convert,
    verify,
    imatrix,
    bench,
    rerun,
)


def main() -> None:
    """Run the command line."""
    app()
