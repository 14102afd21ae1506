"""Processes that are not our children: is that one still alive, and is it still the same one?

A process id comes back after a while, so wherever it is kept it stands beside the start time in clock ticks that
/proc gives; the two together name one process for as long as the machine is up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

POLL_S: Final = 0.02


def start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses, so the fields are counted from its end.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, started: int | None = None) -> bool:
    """Whether ``pid`` lives and, where ``started`` is known, is still the same process."""
    ticks = start_ticks(pid)
    return ticks is not None and (started is None or ticks == started)


def send(pid: int, signal_number: signal.Signals) -> None:
    """Send a signal; a process that is gone already is what was wanted."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def children(pid: int) -> list[int]:
    """Direct children of a process, empty when it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_gone(pids: Iterable[int], timeout_s: float) -> list[int]:
    """Wait until all are gone, at most ``timeout_s``; those that are left."""
    left = list(pids)
    until = time.monotonic() + timeout_s
    while left := [pid for pid in left if alive(pid)]:
        if time.monotonic() > until:
            return left
        time.sleep(POLL_S)
    return []
