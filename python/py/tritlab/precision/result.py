"""What a search found, and the files that say so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tritlab import _native, receipt
from tritlab._files import to_json, write_atomic
from tritlab._native import Imatrix, Model
from tritlab.errors import SearchError
from tritlab.paired import Difference, difference
from tritlab.precision.measuring import Part
from tritlab.precision.sensitivity import Sensitivity
from tritlab.recipe import Recipe, tensor_types
from tritlab.records import Records, csv_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from tritlab._types import Progress


IMATRIX = "imatrix.gguf"
"""Name of the importance matrix's file in a search's folder."""


@dataclass(frozen=True)
class Candidate:
    """A recipe that was measured."""

    label: str
    kind: Literal["file", "uniform", "searched"]
    formats: dict[str, str]
    """By GGUF's name, of the tensors that are not as in the file."""
    total_bytes: int
    bits_per_weight: float
    """Over all weights, norms included."""
    predicted: float | None
    """KL by the costs when it was solved for, on the windows where tensors were measured."""
    sensitivity: Part
    """Measured on those windows."""
    verification: Part
    """Measured on the windows that nothing else has used."""
    results: dict[str, Any]
    """Of all windows together, as in a receipt."""

    def agrees(self, factor: float) -> bool:
        """Whether the measured KL is within a factor of the predicted one."""
        if self.predicted is None:
            return True
        low, high = sorted((max(self.predicted, 1e-12), max(self.sensitivity.kl, 1e-12)))
        return high <= factor * low

    def record(self) -> dict[str, Any]:
        """One flat dictionary; units are in the names."""
        return {
            "recipe": self.label,
            "kind": self.kind,
            "total_bytes": self.total_bytes,
            "bits_per_weight": self.bits_per_weight,
            **self.verification.record(),
            "predicted_kl_nats": self.predicted,
            "sensitivity_kl_nats": self.sensitivity.kl,
            "sensitivity_kl_nats_error": self.sensitivity.kl_error,
            "fingerprint": self.results["fingerprint"],
        }


@dataclass(frozen=True)
class Search(Records):
    """Outcome of `search`. Shows itself in a notebook; `save` writes recipe, model and report."""

    chosen: Candidate
    best_uniform: Candidate | None
    """Of the candidates within the budget (or the quality); the file as it is counts as uniform."""
    candidates: list[Candidate]
    sensitivity: Sensitivity
    matrices: list[tuple[str, str]]
    """Name and type in the file of every matrix, those included that nothing was chosen for."""
    front: list[tuple[int, float]]
    """Bytes and predicted KL of the best recipes for many budgets."""
    target: int | None
    """Budget in bytes."""
    max_kl: float | None
    factors: dict[str, float]
    """What the costs in each format were multiplied with, fitted to measured recipes."""
    model: dict[str, Any]
    text: dict[str, Any]
    path: Path
    ids: npt.NDArray[np.int32]
    """Tokens of the fingerprints."""
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    created: str
    imatrix: Imatrix | None = None
    """The importance matrix that every rounding went by."""
    reused: int = 0
    """Measurements that were taken from the store."""
    damaged: list[str] | None = None
    """Files of the store that were damaged, and measured again."""

    _index: ClassVar[str | None] = "recipe"

    @property
    def ordered(self) -> list[Candidate]:
        """Candidates, smallest first."""
        return sorted(self.candidates, key=lambda c: (c.total_bytes, c.verification.kl))

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary per candidate, smallest first."""
        return [{**c.record(), "chosen": c is self.chosen} for c in self.ordered]

    def paired(self) -> Difference | None:
        """KL of the chosen recipe minus that of the best uniform one, with its interval."""
        if self.best_uniform is None or self.best_uniform is self.chosen:
            return None
        a, b = self.chosen.verification.kl_windows, self.best_uniform.verification.kl_windows
        return difference(a, b, list(range(len(a))))

    @property
    def recipe(self) -> Recipe:
        """The chosen recipe with its receipt: for `Model.load(..., recipe=)`, or to be saved."""
        c = self.chosen
        uniform = self.best_uniform
        receipts = [
            receipt.make(
                command=self.command,
                model={k: self.model[k] for k in ("source", "name", "sha256", "nbytes")},
                text=self.text,
                format=None,
                label=c.label,
                head=None,
                reference=self.settings["base"],
                reference_head=None,
                measured=c.results,
                overrides=c.formats,
                imatrix=self._imatrix_facts,
            )
        ]
        return Recipe(
            overrides=tuple(c.formats.items()),
            record={
                "label": c.label,
                "created": self.created,
                "command": self.command,
                "model": self.model,
                "text": self.text,
                "windows": self.windows,
                "settings": self.settings,
                "seed": None,  # nothing is drawn at random
                "total_bytes": c.total_bytes,
                "bits_per_weight": c.bits_per_weight,
                "predicted_kl_nats": c.predicted,
                "measured": {
                    "sensitivity": c.sensitivity.record(),
                    "verification": c.verification.record(),
                },
                "best_uniform": None if uniform is None else uniform.record(),
                "fingerprint": c.results["fingerprint"],
                "receipts": receipts,
            },
        )

    @property
    def _imatrix_facts(self) -> dict[str, str] | None:
        """Where `save` puts the importance matrix, beside the recipe, and what it says."""
        digest = self.settings["imatrix"]
        return None if digest is None else {"source": IMATRIX, "sha256": digest}

    @property
    def windows(self) -> dict[str, list[int]]:
        """Which windows of the text were used for what: first, and the one after the last."""
        n = self.settings["chunks"]
        return {"sensitivity": [0, n], "verification": [n, self.text["windows"]]}

    @property
    def tensor_types(self) -> str:
        """Text for llama-quantize's `--tensor-type-file`: every matrix, changed or not.

        The type after the file's name, which is for what no line names, must be a quantised one:
        with F16, or with `--pure`, llama-quantize reads no list.
        """
        chosen = self.chosen.formats
        return tensor_types((name, chosen.get(name, own)) for name, own in self.matrices)

    def to_markdown(self) -> str:
        """Table of all candidates, with the sentences that it must not be shown without."""
        from tritlab.report.search import markdown

        return markdown(self)

    def to_latex(self) -> str:
        """The same table for a paper (package booktabs)."""
        from tritlab.report.search import latex

        return latex(self)

    def figures(self) -> dict[str, Figure]:
        """Figures by name: "front" and "sensitivity" (needs the extra `plot`)."""
        from tritlab.report.search_figures import figures

        return figures(self)

    def _repr_html_(self) -> str:
        from tritlab.report.search import fragment

        return fragment(self)

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        c = self.chosen
        return (
            f"<Search of {self.model['name']}: {c.label}, {c.bits_per_weight:.2f} bits per weight, "
            f"KL {c.verification.kl:.4g}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        paired = self.paired()
        return {
            "schema": "tritlab.search/1",
            "created": self.created,
            "command": self.command,
            "model": self.model,
            "text": self.text,
            "windows": self.windows,
            "settings": self.settings,
            "seeds": {"search": None},
            "versions": self.versions,
            "machine": self.machine,
            "budget_bytes": self.target,
            "max_kl": self.max_kl,
            "chosen": self.chosen.label,
            "best_uniform": None if self.best_uniform is None else self.best_uniform.label,
            "chosen_minus_best_uniform": None if paired is None else paired.record(),
            "records": self.records,
            "recipes": {c.label: c.formats for c in self.candidates},
            "factors": self.factors,
            "front": [{"total_bytes": n, "predicted_kl_nats": kl} for n, kl in self.front],
            "sensitivity": self.sensitivity.records,
            "receipts": self.recipe.record["receipts"],
        }

    def write_gguf(
        self, path: str | os.PathLike[str], progress: Progress | None = None
    ) -> dict[str, Any]:
        """Write the model by the recipe, load the file, and check that it is the model measured.

        Raises `SearchError` if its logits have another fingerprint than the recipe had.
        """
        report = _native.quantize_gguf(
            self.path, path, recipe=self.recipe, imatrix=self.imatrix, progress=progress
        )
        mark = Model.load(path, context=self.settings["context"]).fingerprint(self.ids)
        expected = self.chosen.results["fingerprint"]
        if mark != expected:
            raise SearchError(
                f"{os.fspath(path)} does not answer as the recipe did: its logits have the "
                f"fingerprint {mark[:16]}…, not {expected[:16]}…"
            )
        return dict(report)

    def save(self, folder: str | os.PathLike[str], *, gguf: bool = True) -> Path:
        """Write recipe.json, model.gguf, tensor-types.txt, tables, PNG figures and report.html.

        And imatrix.gguf, where one was used: `quantize --recipe` wants it too.
        Each file is whole or absent; the folder is made. Returns the path of the report.
        """
        from tritlab.report import figures
        from tritlab.report.search import page

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        if self.imatrix is not None:
            self.imatrix.save(out / IMATRIX)
        self.recipe.save(out / "recipe.json")
        write_atomic(out / "tensor-types.txt", self.tensor_types)
        if gguf:
            self.write_gguf(out / "model.gguf")
        write_atomic(out / "results.csv", csv_text(self.records))
        write_atomic(out / "results.json", to_json(self.to_dict()) + "\n")
        write_atomic(out / "results.md", self.to_markdown())
        write_atomic(out / "sensitivity.csv", csv_text(self.sensitivity.records))
        images = figures.write(out, self.figures())
        report = out / "report.html"
        write_atomic(report, page(self, images))
        return report
