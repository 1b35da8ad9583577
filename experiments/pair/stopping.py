"""Ending a training from outside: each step is finished, and children end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C, the polite `kill`, and a terminal that is closed."""


class Stop:
    """Calling it says whether a signal asked for an end; `status` is the exit status for that.

    With `parent`, the id of the process that started this one, its end is a SIGHUP: that is how a
    child learns of a SIGKILL, which the parent itself never sees.
    """

    signal = 0

    def __init__(self, parent: int | None = None) -> None:
        self.parent = parent if os.name == "posix" else None  # elsewhere orphans keep its id

    def __call__(self) -> bool:
        """Whether to end."""
        if self.signal == 0 and self.parent is not None and os.getppid() != self.parent:
            self.signal = signal.SIGHUP
        return self.signal != 0

    @property
    def status(self) -> int:
        """As shells have it: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal


@contextmanager
def noticed(parent: int | None = None) -> Iterator[Stop]:
    """Within it `SIGNALS` end nothing by themselves: whoever works there asks the `Stop`.

    A SIGHUP that is ignored stays so: that is what `nohup` is for.
    """
    stop = Stop(parent)

    def note(number: int, _: Any) -> None:
        stop.signal = number

    hup = getattr(signal, "SIGHUP", None)
    kept = hup if hup is not None and signal.getsignal(hup) == signal.SIG_IGN else None
    before = {number: signal.signal(number, note) for number in SIGNALS if number != kept}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def together(commands: list[list[str]], stop: Stop) -> list[int]:
    """Run commands at the same time to their ends; exit statuses. Asked to stop, it asks them.

    None outlives this function: a signal to the parent alone would leave them to train unseen. A
    SIGKILL ends the parent without a word, and this function with it: children notice that
    themselves, with `noticed(parent)`.
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


def by_signal(status: int) -> bool:
    """Whether an exit status is that of a process which a signal ended, or asked to end."""
    return status < 0 or status > 128
