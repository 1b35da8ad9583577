"""`tritlab perplexity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tritlab import _native
from tritlab._options import (
    BackendOption,
    ContextOption,
    FormatOption,
    HeadOption,
    I2SOption,
    JsonOption,
    LongRopeOption,
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
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="FOLDER",
            help="Keep the reference's log-probabilities here, or use those that are.",
            show_default=False,
        ),
    ] = None,
    store_type: Annotated[
        str, typer.Option("--store-type", metavar="f32|f16", help="f16 rounds, and says how much.")
    ] = "f32",
    context: ContextOption = 512,
    chunks: Annotated[
        int,
        typer.Option("--chunks", "-n", min=0, metavar="N", help="Windows; 0 for the whole text."),
    ] = 0,
    head: HeadOption = None,
    i2_s: I2SOption = "I2_S",
    longrope: LongRopeOption = "length",
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
      tritlab perplexity my.gguf -t book.txt -f Q4_0 --reference F16 --store f16-run
    """
    from tritlab import _models
    from tritlab import receipt as receipts
    from tritlab._files import require_folder, to_json, write_atomic
    from tritlab._formats import describe, parse_format
    from tritlab.evaluation import Corpus, cut, measure
    from tritlab.logprobs import LogProbs

    if store is not None and reference is None:
        raise typer.BadParameter("needs --reference: what is stored", param_hint="--store")
    if receipt is not None:
        require_folder(receipt)
    use_settings(threads, backend)
    path = _models.resolve(model)
    wanted = parse_format(format)
    base = None if reference is None else parse_format(reference)
    corpus = Corpus.read(text)
    common: dict[str, Any] = {"context": context, "i2_s": i2_s, "longrope": longrope}
    with Bar() as bar:
        other: _native.Model | LogProbs | None = None
        if store is not None and store.exists():
            other = LogProbs.open(store)
            other.require(path, base)
        elif reference is not None:
            other = _native.Model.load(path, base, progress=bar.step("reference"), **common)
            if store is not None:
                other = LogProbs.write(
                    store,
                    other,
                    text,
                    context=context,
                    chunks=chunks or None,
                    dtype=store_type,
                    progress=bar.step("store"),
                )
        loaded = _native.Model.load(path, wanted, head=head, progress=bar.step("load"), **common)
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
        longrope=longrope,
        measured=measured,
    )
    if receipt is not None:
        write_atomic(receipt, to_json(made) + "\n")
    if json:
        print(to_json({"statistics": measured.quality.records(), "receipt": made}))
        return
    print_quality(measured.quality, made["label"], part.sentence)
    if isinstance(other, LogProbs) and other.dtype == "f16":
        print(f"Reference stored as f16: {other.error}.")
