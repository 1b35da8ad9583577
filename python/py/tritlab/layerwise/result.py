"""What was measured, layer by layer, and the forms it comes in."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tritlab._extras import plots_missing
from tritlab._files import to_json, write_atomic
from tritlab.errors import EvaluationError
from tritlab.precision.measuring import Part
from tritlab.precision.sensitivity import Option, Unit
from tritlab.records import Records, csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tritlab.layerwise.widget import Explorer


@dataclass(frozen=True, slots=True)
class Swap:
    """The model with some layers in the format, beside the reference."""

    kl: float
    """Mean KL from the reference, nats per token."""
    kl_error: float
    perplexity: float
    """NaN where nothing was swapped, and so nothing measured."""
    same_top: float

    @classmethod
    def of(cls, part: Part | None) -> Swap:
        """Of what was measured; `None` where the layer stays as it is."""
        if part is None:
            return cls(0.0, 0.0, math.nan, 1.0)
        return cls(part.kl, part.kl_error, part.perplexity, part.same_top)


_NUMBERS = (
    "rel_weight_error",
    "weight_sqnr_db",
    "weight_cosine",
    "weight_kurtosis",
    "weight_outlier_share",
    "input_kurtosis",
    "input_outlier_share",
    "input_sqnr_db",
    "rel_output_error",
    "output_sqnr_db",
    "output_cosine",
    "rel_output_error_f32_activations",
    "code_entropy_bits",
    "zero_code_share",
)


@dataclass(frozen=True)
class Layer:
    """One weight matrix in the format."""

    unit: Unit
    option: Option
    """How it came out."""
    numbers: dict[str, Any]
    """See `tritlab.layerwise.measuring`; `None` where there is none, or none that is finite."""
    histograms: dict[str, dict[str, list[Any]]]
    """Of "weights", "inputs", "codes" and "scales", those that there are."""
    swaps: dict[str, Swap]
    """By how it was swapped: "alone", "up_to"."""

    @property
    def name(self) -> str:
        """GGUF's name of the tensor."""
        return self.unit.name


@dataclass(frozen=True)
class LayerReport(Records):
    """Outcome of `layers`. Shows itself in a notebook; `explorer` is interactive there."""

    layers: list[Layer]
    format: str
    model: dict[str, Any]
    text: dict[str, Any]
    text_sentence: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    created: str
    reused: int = 0
    """Measurements that were taken from the store."""
    damaged: list[str] = field(default_factory=list)
    """Files of the store that were damaged, and measured again."""

    _index: ClassVar[str | None] = "tensor"

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary per layer, in the order of the model; units are in the names.

        `kl_share` is the layer's part of the sum of what all layers do alone; where they were
        swapped one after the other only, its step from the one before, as a part of the last.
        """
        shares = self.shares()
        return [self._record(layer, shares[layer.name]) for layer in self.layers]

    def _record(self, layer: Layer, share: float) -> dict[str, Any]:
        unit, option = layer.unit, layer.option
        row: dict[str, Any] = {
            "tensor": unit.name,
            "layer": unit.layer,
            "kind": unit.kind,
            "role": unit.role,
            "n_params": unit.n_params,
            "file_type": unit.file_type,
            "format": option.format,
            "nbytes": option.nbytes,
            "bits_per_weight": 8 * option.nbytes / unit.n_params,
            **{name: layer.numbers.get(name) for name in _NUMBERS},
        }
        for how in ("alone", "up_to"):
            swap = layer.swaps.get(how)
            row |= {
                f"kl_{how}_nats": swap and swap.kl,
                f"kl_{how}_nats_error": swap and swap.kl_error,
                f"same_top_{how}": swap and swap.same_top,
            }
        return row | {"kl_share": share}

    def shares(self) -> dict[str, float]:
        """Each layer's share of the KL divergence, by name; NaN where there is none to share."""
        alone = [layer.swaps["alone"].kl for layer in self.layers if "alone" in layer.swaps]
        if not alone:
            steps = [layer.swaps["up_to"].kl for layer in self.layers]
            alone = [b - a for a, b in zip([0.0, *steps], steps, strict=False)]
        total = math.fsum(alone)
        return {
            layer.name: kl / total if total > 0 else math.nan
            for layer, kl in zip(self.layers, alone, strict=True)
        }

    def layer(self, name: str) -> Layer:
        """A layer by GGUF's name of it, with ".weight" or without."""
        for layer in self.layers:
            if name in (layer.name, layer.name.removesuffix(".weight")):
                return layer
        raise EvaluationError(
            f"no layer {name!r}; there are {', '.join(layer.name for layer in self.layers[:4])}, …"
        )

    def to_markdown(self) -> str:
        """A table of the layers, with the sentences that it must not be shown without."""
        from tritlab.report.layers import markdown

        return markdown(self)

    def to_latex(self) -> str:
        """The same table for a paper (package booktabs), and its notes."""
        from tritlab.report.layers import latex

        return latex(self)

    def figure(self, tensor: str | None = None) -> Figure:
        """All layers as maps, or one layer with its histograms (needs the extra `plot`)."""
        from tritlab.report.layer_figures import one, overview

        return overview(self) if tensor is None else one(self, self.layer(tensor))

    def figures(self) -> dict[str, Figure]:
        """Figures by name: "layers", and "worst", the layer that costs most."""
        return {"layers": self.figure(), "worst": self.figure(self.worst().name)}

    def worst(self) -> Layer:
        """The layer with the largest share of the KL divergence."""
        shares = self.shares()
        return max(self.layers, key=lambda layer: _least(shares[layer.name]))

    def explorer(self) -> Explorer:
        """A widget for notebooks: the map by any measure, and each layer's histograms.

        Needs the extra `widget`; `to_html` is the same as a page, and needs nothing.
        """
        from tritlab.layerwise.widget import explorer

        return explorer(self)

    def to_html(self, *, metric: str | None = None, tensor: str | None = None) -> str:
        """The explorer as one page that stands alone, opened at a measure and a layer."""
        from tritlab.layerwise.widget import page, state

        return page(state(self, metric, tensor))

    def _repr_html_(self) -> str:
        from tritlab.report.layers import fragment

        return fragment(self)

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        worst = self.worst()
        share = self.shares()[worst.name]
        said = f", {worst.name} {share:.0%} of the KL" if math.isfinite(share) else ""
        return f"<LayerReport of {self.model['name']} in {self.format}: {len(self.layers)}{said}>"

    def to_dict(self) -> dict[str, Any]:
        """Everything, histograms included, ready for JSON."""
        return {
            "schema": "tritlab.layers/1",
            "created": self.created,
            "command": self.command,
            "model": self.model,
            "text": self.text,
            "text_sentence": self.text_sentence,
            "settings": self.settings,
            "seeds": None,  # nothing is drawn at random
            "versions": self.versions,
            "machine": self.machine,
            "records": self.records,
            "histograms": {layer.name: layer.histograms for layer in self.layers},
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write results.csv, results.json, results.md, figures (PNG, SVG) and explorer.html.

        Each file is whole or absent; the folder is made. Without the extra `plot` there are no
        figures. Returns the path of the page.
        """
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "results.csv", csv_text(self.records))
        write_atomic(out / "results.json", to_json(self.to_dict()) + "\n")
        write_atomic(out / "results.md", self.to_markdown())
        if not plots_missing():
            from tritlab.report import figures

            figures.write(out, self.figures(), vector=True)
        page = out / "explorer.html"
        write_atomic(page, self.to_html())
        return page


def _least(x: float) -> float:
    return x if math.isfinite(x) else -math.inf
