"""Processes that hang in the kernel, and dead ones that nobody buried.

In: /proc/PID/stat of every process, once a minute (about 10 us each). Out: how many are in state D for five looks or
300 s (the driver's own counted apart: those hang with a sick GPU), zombies, and zombies older than 300 s, by the time
since they were first seen; the context names the longest. Process and start time together name a process, since pids
come again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files

NAME: Final = "tasks"
BLOCKED_S: Final = 300.0
BLOCKED_LOOKS: Final = 5
OLD_ZOMBIE_S: Final = 300.0
PROCESSES_MAX: Final = 65_536
SHOWN_MAX: Final = 16
READINGS: Final[files.Names] = {
    "tasks_blocked": files.Kind("", "/proc/PID/stat, state D for 5 looks or 300 s"),
    "tasks_blocked_driver": files.Kind("", "of those, names that begin with nvidia, nv_, irq/N-nvidia or UVM"),
    "zombies": files.Kind("", "/proc/PID/stat, state Z"),
    "zombies_old": files.Kind("", "/proc/PID/stat, state Z for more than 300 s"),
}
_DRIVERS: Final = ("nvidia", "nv_", "nv-", "[nv", "uvm", "[uvm")
_STARTED: Final = 19  # field 22 of stat, counted from the state, which is field 3


@dataclass
class _Known:
    """A process in state D or Z. ``since``: monotonic seconds of the first look that saw it so."""

    name: str
    since: float
    looks: int = 0


class Tasks:
    """A readings.Signal."""

    name = NAME
    period_s = 60.0
    deadline_s = 10.0

    def __init__(self, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._procfs = procfs
        self._clock = clock or clocks.RealClock()
        self._known: dict[tuple[int, int, str], _Known] = {}

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        now = self._clock.monotonic()
        try:
            pids = [int(name) for name in os.listdir(self._procfs) if name.isdigit()]
        except OSError as error:
            return look.sweep(error=f"{self._procfs}: {error.strerror or error}")
        if 1 not in pids:
            for name in READINGS:
                look.lack("", name, "unreadable", "processes of others are hidden (/proc is mounted with hidepid)")
            return look.sweep()
        before, self._known = self._known, {}
        for pid in pids[:PROCESSES_MAX]:
            seen = _stat(f"{self._procfs}/{pid}/stat")
            if seen is None or seen[1] not in "DZ":
                continue
            name, state, started = seen
            known = before.get((pid, started, state)) or _Known(name, now)
            known.looks += 1
            self._known[pid, started, state] = known
        zombies = {key: one for key, one in self._known.items() if key[2] == "Z"}
        stuck = {key: one for key, one in self._known.items() if key[2] == "D" and _is_blocked(one, now)}
        look.add("", "tasks_blocked", float(len(stuck)))
        look.add("", "tasks_blocked_driver", float(sum(is_driver(one.name) for one in stuck.values())))
        look.add("", "zombies", float(len(zombies)))
        look.add("", "zombies_old", float(sum(now - one.since > OLD_ZOMBIE_S for one in zombies.values())))
        shown = sorted(stuck.items(), key=lambda item: item[1].since)[:SHOWN_MAX]
        return look.sweep(context={"blocked": [self._about(key[0], one, now) for key, one in shown]})

    def _about(self, pid: int, one: _Known, now: float) -> Json:
        where = files.text(f"{self._procfs}/{pid}/wchan")
        return {"pid": pid, "name": one.name, "for_s": now - one.since, "waits_in": where if where != "0" else ""}


def is_driver(name: str) -> bool:
    """Whether a process is the GPU driver's, by its name; interrupt threads are called ``irq/123-nvidia``."""
    low = name.lower()
    return low.startswith(_DRIVERS) or (low.startswith("irq/") and "-nvidia" in low)


def _is_blocked(one: _Known, now: float) -> bool:
    return one.looks >= BLOCKED_LOOKS or now - one.since >= BLOCKED_S


def _stat(path: str) -> tuple[str, str, int] | None:
    """Name, state and start of a process; None when it is gone or hidden."""
    try:
        said = files.read(path, 1024)
        name, _, rest = said.partition("(")[2].rpartition(")")
        fields = rest.split()
        return name, fields[0], int(fields[_STARTED])
    except (OSError, ValueError, IndexError):
        return None
