"""Cells on disk: one Parquet file of one row each, under the cell's key.

A file is written under another name and renamed, so that a kill leaves whole files only. A row
carries the SHA-256 of its own values: a file that something else damaged is noticed.
"""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path
from typing import Any

from tritlab._extras import need
from tritlab._files import to_json, write_atomic
from tritlab.records import parquet

LEFTOVER_S = 3600.0
"""Age at which the unfinished file of a killed process is removed."""

COLUMNS: dict[str, str] = {
    # What the cell is: with these and nothing else its numbers come out again.
    "key": "string",
    "model_sha256": "string",
    "text_sha256": "string",
    "format": "string",
    "activations": "string",
    "seed": "int64",
    "reference": "string",
    "head": "string",
    "context": "int64",
    "windows": "int64",
    "tritlab": "string",
    "kernels": "string",
    # What came out.
    "status": "string",
    "error": "string",
    "kind": "string",
    "activation_groups": "string",
    "bits_per_weight": "float64",
    "linear_bytes": "int64",
    "total_bytes": "int64",
    "rel_weight_error": "float64",
    "scored_tokens": "int64",
    "scored_windows": "int64",
    "nll_nats": "float64",
    "nll_nats_error": "float64",
    "perplexity": "float64",
    "perplexity_error": "float64",
    "bits_per_byte": "float64",
    "reference_perplexity": "float64",
    "ln_ppl_ratio": "float64",
    "ln_ppl_ratio_error": "float64",
    "ln_ppl_ratio_low": "float64",
    "ln_ppl_ratio_high": "float64",
    "distinguishable": "bool_",
    "kl_nats": "float64",
    "kl_nats_error": "float64",
    "kl_median_nats": "float64",
    "kl_p99_nats": "float64",
    "kl_max_nats": "float64",
    "delta_p": "float64",
    "delta_p_error": "float64",
    "delta_p_rms": "float64",
    "same_top": "float64",
    "same_top_error": "float64",
    "fingerprint": "string",
    "nll_sha256": "string",
    "kl_sha256": "string",
    # How it was run: these may differ from run to run, and nothing else may.
    "run_load_s": "float64",
    "run_evaluate_s": "float64",
    "run_threads": "int64",
    "run_backend": "string",
    "run_cpu": "string",
}
"""Columns of a cell's file, and their types by pyarrow's names."""


def schema(extra: tuple[str, ...] = ()) -> Any:
    """Schema of a row, as pyarrow has it, after the string columns `extra`."""
    arrow = need("pyarrow", "a sweep")
    fields = [(name, arrow.string()) for name in extra]
    fields += [(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()]
    return arrow.schema(fields)


class Store:
    """The folder of a sweep's cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> None:
        """Make the folder, and remove what killed processes left unfinished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob(".*.tmp"):
            if time.time() - file.stat().st_mtime > LEFTOVER_S:
                file.unlink(missing_ok=True)

    def file(self, key: str) -> Path:
        """Where the cell of a key is."""
        return self.folder / f"{key}.parquet"

    def write(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        arrow = need("pyarrow", "a sweep")
        whole = {name: row.get(name) for name in COLUMNS}
        fields = schema().append(arrow.field("checksum", arrow.string()))
        data = parquet([whole | {"checksum": _checksum(whole)}], fields)
        write_atomic(self.file(str(row["key"])), data)

    def read(self, key: str) -> dict[str, Any] | None:
        """The row of a key; `None` if it was not made yet, `ValueError` if its file is damaged."""
        need("pyarrow", "a sweep")
        try:
            data = self.file(key).read_bytes()
        except FileNotFoundError:
            return None
        try:
            table = need("pyarrow.parquet", "a sweep").read_table(
                io.BytesIO(data), page_checksum_verification=True
            )
            rows = table.to_pylist()
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(f"not a Parquet file ({type(error).__name__})") from None
        if len(rows) != 1 or set(rows[0]) != {*COLUMNS, "checksum"}:
            raise ValueError("not one row of a cell's columns")
        found = rows[0].pop("checksum")
        row = {name: rows[0][name] for name in COLUMNS}
        if found != _checksum(row):
            raise ValueError("the checksum does not fit the values")
        if row["key"] != key:
            raise ValueError(f"the row is that of {row['key']}")
        return row


def _checksum(row: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(row, indent=None).encode()).hexdigest()
