"""Sweeps: a grid of models, formats, activations, texts and seeds, measured cell by cell.

A YAML file says the grid (`_spec`). A cell has a key, the hash of all that its numbers depend on
(`_cell`), and a Parquet file of one row under that key (`_store`). joblib runs the cells here, in
processes or on a cluster (`_engine`); workers write to the store and share nothing else, so a sweep
that was killed goes on where it was. What came out is a `Sweep` (`_result`).
"""

from tritlab.sweeps._engine import ENGINES
from tritlab.sweeps._result import Sweep
from tritlab.sweeps._run import Plan, plan, sweep
from tritlab.sweeps._spec import Spec

__all__ = ["ENGINES", "Plan", "Spec", "Sweep", "plan", "sweep"]
