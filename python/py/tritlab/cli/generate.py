"""`tritlab generate`."""

from __future__ import annotations

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
    KvOption,
    LongRopeOption,
    MaxTokensOption,
    MinPOption,
    ModelArgument,
    PenaltyOption,
    PenaltyWindowOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
)
from tritlab._terminal import Bar, use_settings
from tritlab.cli._app import app


@app.command(short_help="Continue a text.")
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue.")],
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    repetition_window: PenaltyWindowOption = 64,
    stop: StopOption = None,
    seed: SeedOption = 0,
    kv: KvOption = "f32",
    format: FormatOption = "file",
    head: HeadOption = None,
    i2_s: I2SOption = "I2_S",
    longrope: LongRopeOption = "length",
    context: ContextOption = 2048,
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    json: JsonOption = False,
) -> None:
    """Continue a text.

    The same prompt, format and seed give the same text on every machine.

    \b
    Examples:
      tritlab generate pair-ternary "It was a truth" --temperature 0.8 --seed 1
      tritlab generate smollm2 "Anne Elliot was"
      tritlab generate smollm2 "Anne Elliot was" --format TERNARY
      tritlab generate my.gguf "Once" --temperature 0.8 --top-p 0.95 --seed 7
    """
    from tritlab import _models
    from tritlab._files import to_json
    from tritlab._formats import parse_format

    use_settings(threads, backend)
    wanted = parse_format(format)
    with Bar() as bar:
        loaded = _native.Model.load(
            _models.resolve(model),
            wanted,
            head=head,
            context=context,
            i2_s=i2_s,
            longrope=longrope,
            progress=bar.step("load"),
        )

    # The prompt is shown with the first piece: an error before it has a line of its own.
    shown = [prompt]

    def piece(text: str) -> None:
        print(*shown, text, sep="", end="", flush=True)
        shown.clear()

    settings: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "repetition_window": repetition_window,
        "stop": stop or [],
        "seed": seed,
        "kv": kv,
    }
    continuation = loaded.generate(prompt, callback=None if json else piece, **settings)
    if json:
        settings["format"] = wanted or "file"
        print(to_json({"prompt": prompt, "text": continuation, **settings}))
    else:
        print(*shown)
