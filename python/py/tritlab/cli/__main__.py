"""`python -m tritlab.cli`."""

from tritlab.cli import main

main()
