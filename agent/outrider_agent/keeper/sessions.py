"""The processes of a session: every rank leads one, and what it starts (data loaders, children) belongs to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection


def members(sessions: Collection[int]) -> dict[int, list[int]]:
    """Pids by session, for the sessions asked for. Costs one look at every process of the machine."""
    found: dict[int, list[int]] = {session: [] for session in sessions}
    if not found:
        return found
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        session = _session(name)
        if session in found:
            found[session].append(int(name))
    return found


def kill(sessions: Collection[int]) -> tuple[int, ...]:
    """SIGKILL every member of ``sessions``. Each leader must still be ours to reap, so that no number is reused."""
    killed = tuple(pid for pids in members(sessions).values() for pid in pids)
    for pid in killed:
        send(pid, signal.SIGKILL)
    return killed


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, or to a group (negative), that may be gone or no longer ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _session(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[3])
    except (OSError, ValueError, IndexError):
        return None
