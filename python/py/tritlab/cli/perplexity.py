"""`tritlab perplexity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritlab import _native
from tritlab._options import (
    BackendOption,
    ContextOption,
    FormatOption,
    HeadOption,
    I2SOption,
    JsonOption,
    ModelArgument,
    TextOption,
    ThreadsOption,
)
from tritlab._terminal import Bar, command_line, print_quality, use_settings
from tritlab.cli._app import app


@app.command(short_help="Perplexity and KL divergence of one format.")
def perplexity(
    model: ModelArgument,
    text: TextOption,
    format: FormatOption = "file",
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="NAME",
            help="Also compare with this format.",
            show_default=False,
        ),
    ] = None,
    context: ContextOption = 512,
    chunks: Annotated[
        int,
        typer.Option("--chunks", "-n", min=0, metavar="N", help="Windows; 0 for the whole text."),
    ] = 0,
    head: HeadOption = None,
    i2_s: I2SOption = "I2_S",
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt",
            metavar="FILE",
            help="Write a receipt for `tritlab rerun`.",
            show_default=False,
        ),
    ] = None,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Perplexity by llama.cpp's convention, and KL divergence from a reference.

    Windows do not overlap and the second half of each is scored, so the number can be put beside
    llama-perplexity's. With --reference all statistics of its --kl-divergence come too.

    \b
    Examples:
      tritlab perplexity smollm2 --text book.txt
      tritlab perplexity my.gguf -t book.txt -f Q4_0 --reference F16 --chunks 8
      tritlab perplexity my.gguf -t book.txt --receipt receipt.json
    """
    from tritlab import _models
    from tritlab import receipt as receipts
    from tritlab._files import require_folder, to_json, write_atomic
    from tritlab._formats import describe, parse_format
    from tritlab.evaluation import Corpus, cut, measure

    if receipt is not None:
        require_folder(receipt)
    use_settings(threads, backend)
    path = _models.resolve(model)
    wanted = parse_format(format)
    base = None if reference is None else parse_format(reference)
    corpus = Corpus.read(text)
    with Bar() as bar:
        other = None
        if reference is not None:
            other = _native.Model.load(
                path, base, context=context, i2_s=i2_s, progress=bar.step("reference")
            )
        loaded = _native.Model.load(
            path, wanted, head=head, context=context, i2_s=i2_s, progress=bar.step("load")
        )
        part = cut(corpus.tokenize(loaded), context, chunks or None)
        measured = measure(loaded, part, other, bar.step("evaluate"))
    made = receipts.make(
        command=command_line(),
        model=receipts.model_facts(model, path),
        text=receipts.text_facts(corpus, part),
        format=wanted,
        label=describe(wanted, loaded.tensors())[1],
        head=head,
        reference=None if reference is None else base or "file",
        reference_head=None,
        i2_s=i2_s,
        measured=measured,
    )
    if receipt is not None:
        write_atomic(receipt, to_json(made) + "\n")
    if json:
        print(to_json({"statistics": measured.quality.records(), "receipt": made}))
        return
    print_quality(measured.quality, made["label"], part.sentence)
