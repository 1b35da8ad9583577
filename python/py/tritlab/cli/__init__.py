"""The command `tritlab`: the library's calls, from a shell. One command per file.

The modules that need NumPy load inside the commands: `tritlab --help` answers at once.
"""

from importlib import import_module

from tritlab.cli._app import app

__all__ = ["app", "main"]

# In the order of `tritlab --help`; importing a command adds it.
for _command in (
    "compare",
    "sweep",
    "search",
    "layers",
    "perplexity",
    "generate",
    "chat",
    "inspect",
    "explain",
    "quantize",
    "convert",
    "verify",
    "imatrix",
    "bench",
    "kernels",
    "rerun",
):
    import_module(f"tritlab.cli.{_command}")


def main() -> None:
    """Run the command line."""
    app()
