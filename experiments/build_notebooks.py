"""Runs the notebooks and writes what they found: `.ipynb` files, figures and the index.

    .venv/bin/python experiments/build_notebooks.py            # all; `make notebooks` does this
    .venv/bin/python experiments/build_notebooks.py 02 07      # only these
    .venv/bin/python experiments/build_notebooks.py --jobs 2   # several at once: not for timings

From `NN-question.py` come `NN-question.ipynb` with outputs and `figures/NN-question-K.svg`; the index in README.md is
made of their first and last cells. A notebook that fails changes none of its files, and the others are still run.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm
from tritlab._files import write_atomic
from tritlab.notebook import build

FOLDER = Path(__file__).resolve().parent
MOST_BYTES = 150_000
"""Of one `.ipynb` file: they are kept in the repository."""


def make(source: Path, bar: tqdm, lock: threading.Lock) -> str:
    """Runs one notebook and writes its files; gives what went wrong, or nothing."""
    started = time.monotonic()

    def on_cell(number: int, total: int) -> None:
        with lock:
            bar.set_description(f"{source.stem} {number}/{total}")

    try:
        notebook = build.run(source, on_cell=on_cell)
        build.entry(source, notebook)
        figures = build.take_svg(notebook)
        text = build.written(notebook)
        if len(text.encode()) > MOST_BYTES:
            raise build.NotebookError(
                f"{source.name}: {len(text.encode()):,} bytes of .ipynb, more than {MOST_BYTES:,}"
            )
    except build.NotebookError as error:
        with lock:
            bar.update()
        return str(error)
    for old in (FOLDER / "figures").glob(f"{source.stem}-*.svg"):
        old.unlink()
    for number, svg in enumerate(figures, start=1):
        write_atomic(FOLDER / "figures" / f"{source.stem}-{number}.svg", svg)
    write_atomic(source.with_suffix(".ipynb"), text)
    with lock:
        bar.write(
            f"{source.stem}: {time.monotonic() - started:.1f} s, {len(text.encode()):,} bytes"
        )
        bar.update()
    return ""


def write_index(sources: list[Path]) -> None:
    """Writes the index from the notebooks as they are on disk."""
    readme = FOLDER / "README.md"
    files = [(s, s.with_suffix(".ipynb")) for s in sources]
    entries = [build.entry(s, build.load(path)) for s, path in files if path.is_file()]
    text = readme.read_text(encoding="utf-8")
    write_atomic(readme, build.splice(text, build.index(entries)))


def main() -> None:
    """Builds what was asked for; exits with 1 if a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; without any, all notebooks")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks that run at once")
    parser.add_argument("--index", action="store_true", help="write the index only; run nothing")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    every = build.sources(FOLDER)
    chosen = [s for s in every if not options.names or s.stem.startswith(tuple(options.names))]
    unknown = [n for n in options.names if not any(s.stem.startswith(n) for s in every)]
    if unknown:
        parser.error(
            f"no notebook begins with {unknown[0]!r}: there are {', '.join(s.stem for s in every)}"
        )
    if not options.names:  # one that was asked for by name says itself what it lacks
        for source in [s for s in chosen if build.missing(s)]:
            lacking = ", ".join(build.missing(source))
            print(
                f"{source.name} WAS NOT RUN, its files stay: {lacking} not installed",
                file=sys.stderr,
            )
            chosen.remove(source)
    failed: list[str] = []
    if not options.index:
        lock = threading.Lock()
        with (
            tqdm(total=len(chosen), unit="notebook") as bar,
            ThreadPoolExecutor(options.jobs) as pool,
        ):
            failed = [e for e in pool.map(lambda s: make(s, bar, lock), chosen) if e]
    write_index(every)
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
