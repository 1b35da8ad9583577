"""`tritlab generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from tritlab import _native
from tritlab._options import (
    BackendOption,
    ContextOption,
    FormatOption,
    HeadOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
)
from tritlab._terminal import Bar, use_settings
from tritlab.cli._app import app


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
