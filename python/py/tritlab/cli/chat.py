"""`tritlab chat`."""

from __future__ import annotations

import sys
from itertools import count
from typing import Annotated, Any

import typer

from tritlab import _native
from tritlab._options import (
    BackendOption,
    ContextOption,
    FormatOption,
    HeadOption,
    I2SOption,
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


@app.command(short_help="Talk with a model.")
def chat(
    model: ModelArgument,
    message: Annotated[
        str | None,
        typer.Option(
            "--message", "-m", metavar="TEXT", help="Say this once and leave.", show_default=False
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="System message.", show_default=False),
    ] = None,
    max_tokens: MaxTokensOption = 512,
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
) -> None:
    """Talk with a model, by the chat template it brings.

    A line is a message. Answers appear as they are made; Ctrl-C ends one, Ctrl-D or an empty line
    ends the chat. Where input is not a terminal, nothing but the answers is printed.

    Control tokens spelled in a message, such as <|im_end|>, are read as control tokens, as
    transformers does: text from outside can end its own turn and speak in another's name.

    \b
    Examples:
      tritlab chat smollm2
      tritlab chat smollm2 --message "Name three novels by Jane Austen."
      tritlab chat my.gguf --system "Answer in one word." --temperature 0.7 --seed 7
    """
    from tritlab import _models
    from tritlab._formats import parse_format

    use_settings(threads, backend)
    with Bar() as bar:
        loaded = _native.Model.load(
            _models.resolve(model),
            parse_format(format),
            head=head,
            context=context,
            i2_s=i2_s,
            longrope=longrope,
            progress=bar.step("load"),
        )
    messages: list[dict[str, Any]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})

    def answer(said: str) -> None:
        messages.append({"role": "user", "content": said})
        text = ""
        stream = loaded.stream(
            messages,
            max_tokens=_room(loaded, messages, max_tokens),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            repetition_window=repetition_window,
            stop=stop,
            seed=seed,
            kv=kv,
        )
        with stream:
            try:
                for piece in stream:
                    text += piece
                    print(piece, end="", flush=True)
            except KeyboardInterrupt:
                if message is not None:
                    raise
        print()
        messages.append({"role": "assistant", "content": text})

    if message is not None:
        answer(message)
        return
    terminal = sys.stdin.isatty()
    for number in count(1):
        if terminal:
            print("> ", end="", flush=True)
        line = _line(number)
        if not line.strip():
            if terminal and not line:
                print()
            return
        answer(line.rstrip("\n"))


def _line(number: int) -> str:
    """The next line of standard input, whatever the locale; empty at the end."""
    raw = sys.stdin.buffer.readline()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _native.TritlabError(
            f"line {number} of standard input is not UTF-8 text (byte {error.start} of {len(raw)})"
        ) from None


def _room(model: _native.Model, messages: list[dict[str, Any]], wanted: int) -> int:
    """Tokens that an answer may have: what is wanted, or what the context has left."""
    prompt = model.apply_chat_template(messages)
    used = len(model.tokenize(prompt, add_special=False, parse_special=True))
    # With no room at all, the model says what is wrong.
    return min(wanted, max(model.context - used, 1))
