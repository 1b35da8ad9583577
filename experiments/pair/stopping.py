"""Ending a training from outside: each step is finished, and children end with their parent."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Calling it says whether a signal asked for an end; `status` is the exit status for that."""

    signal = 0

    def __call__(self) -> bool:
        """Whether to end."""
        return self.signal != 0

    @property
    def status(self) -> int:
        """As shells have it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal


@contextmanager
def noticed() -> Iterator[Stop]:
    """Within it SIGINT and SIGTERM end nothing by themselves: whoever works there asks the `Stop`."""
    stop = Stop()

    def note(number: int, _: Any) -> None:
        stop.signal = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def together(commands: list[list[str]], stop: Stop) -> list[int]:
    """Run commands at the same time to their ends; exit statuses. Asked to stop, it asks them.

    None outlives this function: a signal to the parent alone would leave them to train unseen.
    """
    running: list[subprocess.Popen[bytes]] = []
    told = False
    try:
        running.extend(subprocess.Popen(command) for command in commands)
        while any(process.poll() is None for process in running):
            if stop() and not told:
                told = True
                for process in running:
                    process.terminate()
            time.sleep(0.1)
    except BaseException:
        for process in running:
            process.kill()
        raise
    return [process.wait() for process in running]
