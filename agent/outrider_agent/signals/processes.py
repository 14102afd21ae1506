"""What the kernel says of the ranks' processes: running, blocked, stopped, traced; and the ones that stopped.

In: files below /proc and the control groups', for pids that a keeper says are its ranks'. Out: a Look at one process,
or why it could not be looked at; and, from ``Watcher``, an observation when a rank was found stopped at two looks in a
row, and another once it runs again. Zombies and processes that are gone are the keeper's to tell of, and a process held
by a debugger (state ``t``) is somebody's business, not a fault. A pid that belongs to another process by now is never
taken for the rank: the process has to be a child of the keeper and to have begun when it began.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import records
from outrider_agent import observe

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")
STOPPED_LOOKS: Final = 2  # in a row, before it is told: a debugger that attaches stops a process for a moment
WATCHED_MAX: Final = 4_096
THREADS_SHOWN_MAX: Final = 256
_STATES: Final = {
    "R": "running",
    "S": "sleeping",
    "I": "sleeping",
    "D": "disk",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "X": "gone",
    "x": "gone",
}
# Fields of /proc/PID/stat, counted from the state, which is field 3 in proc(5).
_PARENT, _USER_TICKS, _SYSTEM_TICKS, _THREADS, _STARTED = 1, 11, 12, 17, 19


@dataclass(frozen=True)
class Process:
    """The process of one rank. ``parent``: its keeper's pid, 0 where that is not known."""

    job: str
    generation: int
    rank: int
    pid: int
    parent: int = 0


@dataclass(frozen=True)
class Look:
    """One look at one process. ``state`` is a word of records.PROCESS_STATES; ``started`` and ``cpu`` are in ticks.

    ``how`` says what stopped it. ``error`` says why it could not be looked at; ``state`` is then ``unknown``.
    """

    state: str
    at: float
    started: int = 0
    cpu: int = 0
    threads: int = 0
    how: str = ""
    error: str = ""


def look(process: Process, at: float, proc: Path = PROC, cgroups: Path = CGROUPS) -> Look:
    """Look once at ``process``. ``at``: the monotonic time of the look."""
    try:
        text = (proc / str(process.pid) / "stat").read_bytes()
        # The name in parentheses may hold anything; the fields begin after the last one.
        fields = text.rpartition(b")")[2].split()
        state = _STATES.get(fields[0].decode(), "unknown")
        parent, started, threads = int(fields[_PARENT]), int(fields[_STARTED]), int(fields[_THREADS])
        cpu = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
    except (FileNotFoundError, ProcessLookupError):
        return _hidden(process, at)
    except (OSError, ValueError, IndexError) as error:
        return Look("unknown", at, error=f"{proc}/{process.pid}/stat cannot be read: {error}")
    if process.parent and parent != process.parent and state != "zombie":
        return Look("gone", at)  # the pid is somebody else's by now
    how = "SIGSTOP or another stop signal" if state == "stopped" else ""
    if state in ("sleeping", "disk") and frozen(process.pid, proc, cgroups):
        state, how = "stopped", "a frozen control group"
    return Look(state, at, started, cpu, threads, how)


def frozen(pid: int, proc: Path = PROC, cgroups: Path = CGROUPS) -> bool:
    """Whether a control group freezes the process; its state in /proc then says S (version 2) or D (version 1)."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except (OSError, UnicodeError):
        return False
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path == "/":
            continue  # a root group cannot be frozen
        if number == "0":
            for root in (cgroups, cgroups / "unified"):
                if "frozen 1" in _text(root / path.lstrip("/") / "cgroup.events"):
                    return True
        elif controllers == "freezer" and "FROZEN" in _text(cgroups / "freezer" / path.lstrip("/") / "freezer.state"):
            return True
    return False


def details(pid: int, proc: Path = PROC) -> records.Json:
    """What else the kernel shows of a process, for a person to read; what may not be read is left out."""
    home = proc / str(pid)
    found: records.Json = {name: text for name in ("wchan", "stack", "status") if (text := _text(home / name).strip())}
    threads = []
    try:
        numbers = sorted(os.listdir(home / "task"), key=int)[:THREADS_SHOWN_MAX]
    except (OSError, ValueError):
        numbers = []
    for number in numbers:
        name, _, rest = _text(home / "task" / number / "stat").partition("(")[2].rpartition(")")
        if rest:
            threads.append({"tid": int(number), "name": name, "state": _STATES.get(rest.split()[0], "unknown")})
    return {**found, "threads": threads}


@dataclass(frozen=True)
class Stopped:
    """A rank that was told as stopped and has not been seen to run since."""

    job: str
    generation: int
    rank: int
    pid: int
    started: int
    since: float


@dataclass
class _Known:
    """What the looks before this one found. ``since``: Unix seconds of the first look at which it was stopped."""

    pid: int
    started: int
    looks: int = 0
    since: float = 0.0
    told: bool = False


class Watcher:
    """Judges looks at every rank of the node, one after the other. ``stopped`` counts ranks by job."""

    def __init__(self, node: str, told: Iterable[Stopped] = ()) -> None:
        self._node = node
        self._known = {
            (one.job, one.generation, one.rank): _Known(one.pid, one.started, STOPPED_LOOKS, one.since, told=True)
            for one in told
        }

    @property
    def told(self) -> tuple[Stopped, ...]:
        """Ranks that were told as stopped and have not been seen to run since."""
        return tuple(
            Stopped(*key, known.pid, known.started, known.since) for key, known in self._known.items() if known.told
        )

    @property
    def stopped(self) -> dict[str, int]:
        """Ranks that are stopped at present, by job; a job whose ranks all run is in it with 0."""
        found: dict[str, int] = {}
        for (job, _, _), known in self._known.items():
            found[job] = found.get(job, 0) + known.told
        return found

    def judge(self, looks: Mapping[Process, Look], now: float) -> list[records.Observation]:
        """What is new in one round of looks at all ranks, at Unix time ``now``. Ranks left out are forgotten."""
        found: list[records.Observation] = []
        before, self._known = self._known, {}
        for process, seen in list(looks.items())[:WATCHED_MAX]:
            key = (process.job, process.generation, process.rank)
            known = before.get(key)
            if known is None or known.pid != process.pid:
                known = _Known(process.pid, seen.started)
            if seen.state in ("gone", "zombie"):
                continue
            self._known[key] = known
            if seen.started and known.started not in (0, seen.started):
                known.told = False  # the pid is a stranger's by now, and stays one
                continue
            known.started = known.started or seen.started
            found += self._one(process, known, seen, now)
        return found

    def _one(self, process: Process, known: _Known, seen: Look, now: float) -> Iterable[records.Observation]:
        if seen.state == "stopped":
            known.since = known.since if known.looks else now
            known.looks += 1
            if known.looks >= STOPPED_LOOKS and not known.told:
                known.told = True
                yield observe.rank_stopped(
                    _place(self._node, process), process.rank, process.pid, seen.how, known.since
                )
        elif seen.state in ("running", "sleeping", "disk"):
            known.looks = 0
            if known.told:
                known.told = False
                yield observe.rank_continued(_place(self._node, process), process.rank, process.pid, known.since, now)


def look_at_all(processes: Iterable[Process], now: Callable[[], float]) -> dict[Process, Look]:
    """One look at each process; a few system calls each."""
    return {process: look(process, now()) for process in processes}


def _hidden(process: Process, at: float) -> Look:
    """No such file below /proc: the process is gone, or /proc hides what belongs to another user."""
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return Look("gone", at)
    except PermissionError:
        pass
    return Look("unknown", at, error=f"/proc shows no process {process.pid}, though it exists (mounted with hidepid?)")


def _place(node: str, process: Process) -> observe.Place:
    return observe.Place(node, process.job, process.generation)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""
