"""Run jobs through joblib's backends: here, in processes, or on a cluster of ray or dask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tritlab._extras import need
from tritlab.errors import SweepError, TritlabError
from tritlab.sweeps import _cell

ENGINES = ("serial", "processes", "ray", "dask")

POLL_S = 0.3
"""How often the store is looked at for finished cells."""


def check(engine: str, address: str | None) -> None:
    """Raise where an engine does not exist, is not installed, or cannot be elsewhere."""
    if engine not in ENGINES:
        raise SweepError(f"engine: expected one of {', '.join(ENGINES)}, found {engine!r}")
    if address is not None and engine not in ("ray", "dask"):
        raise SweepError(f"the engine {engine!r} runs here: only ray and dask have an address")
    need("joblib", "a sweep")
    if engine == "ray":
        need("ray.util.joblib", "the engine ray")
    if engine == "dask":
        need("distributed", "the engine dask")


def run(
    jobs: list[_cell.Job],
    engine: str,
    workers: int,
    address: str | None,
    watch: Callable[[], None],
) -> None:
    """Run jobs; `watch` is called now and then, from another thread, and once at the end."""
    joblib = need("joblib", "a sweep")
    over = threading.Event()

    def look() -> None:
        while not over.wait(POLL_S):
            watch()

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        with _backend(engine, workers, jobs[0].threads, address):
            # A cell takes seconds to hours: handing out one at a time costs nothing.
            joblib.Parallel(batch_size=1)(joblib.delayed(_cell.run)(job) for job in jobs)
    except (TritlabError, OSError):
        raise
    except Exception as error:  # an engine's own: a worker died, a cluster is gone
        said = " ".join(str(error).split())
        raise SweepError(
            f"the engine {engine} gave up ({type(error).__name__}: {said}); finished cells are in "
            f"{jobs[0].store}, and the same command goes on from there"
        ) from error
    finally:
        over.set()
        watcher.join()
        _cell.forget()
    watch()


@contextmanager
def _backend(engine: str, workers: int, threads: int, address: str | None) -> Iterator[None]:
    joblib = need("joblib", "a sweep")
    if engine == "serial":
        with joblib.parallel_config("sequential"):
            yield
    elif engine == "processes":
        with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads):
            yield
    elif engine == "dask":
        distributed: Any = need("distributed", "the engine dask")
        if address is not None:
            with (
                distributed.Client(address) as client,
                joblib.parallel_config("dask", client=client),
            ):
                yield
            return
        # A worker is a process of one thread: how many threads a cell has is the library's matter.
        with (
            distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
            joblib.parallel_config("dask", client=client),
        ):
            yield
    else:
        ray: Any = need("ray", "the engine ray")
        need("ray.util.joblib", "the engine ray").register_ray()
        local = {} if address is not None else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
        try:
            with joblib.parallel_config("ray", n_jobs=workers):
                yield
        finally:
            ray.shutdown()
