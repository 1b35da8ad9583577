"""Packages that only some calls need, and which extra brings each."""

from __future__ import annotations

import importlib
from types import ModuleType

from tritlab.errors import NotInstalledError

_EXTRAS = {
    "pandas": "frames",
    "polars": "polars",
    "pyarrow": "parquet",
    "pyarrow.parquet": "parquet",
    "scipy.optimize": "search",
    "yaml": "sweep",
    "joblib": "sweep",
    "distributed": "dask",
    "ray": "ray",
    "ray.util.joblib": "ray",
    "anywidget": "widget",
    "traitlets": "widget",
}
_PACKAGES = {"yaml": "PyYAML"}


def plots_missing() -> str:
    """Why there can be no figures, with the command that helps; empty where there can."""
    try:
        importlib.import_module("tritlab.report.figures")
    except NotInstalledError as error:
        return str(error)
    return ""


def need(module: str, what: str) -> ModuleType:
    """Import a module for `what`; `NotInstalledError` has the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = _PACKAGES.get(module, module.partition(".")[0])
        raise NotInstalledError(
            f"{what} needs {package}; run: pip install 'tritlab[{_EXTRAS[module]}]'"
        ) from None
