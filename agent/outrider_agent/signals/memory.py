"""Memory, handles, processes and the pressure on them: what runs out on a host, and what was killed for it.

In: /proc/meminfo, vmstat, loadavg, sys/fs/file-nr, sys/kernel/pid_max and threads-max, pressure/*, and memory.events of
the top control groups (version 2). psutil knows one root for all, and here every reader takes its own, so the few
lines of text are read directly. Out: readings of the node; what a group's own limit killed carries the group's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider_agent import readings
from outrider_agent.signals import files

NAME: Final = "memory"
GROUPS_MAX: Final = 64
FILE_BYTES_MAX: Final = 65_536
_KIB: Final = 1024.0
READINGS: Final[files.Names] = {
    "memory_total": files.Kind("bytes", "/proc/meminfo MemTotal"),
    "memory_available": files.Kind("bytes", "/proc/meminfo MemAvailable"),
    "memory_dirty": files.Kind("bytes", "/proc/meminfo Dirty"),
    "memory_corrupted": files.Kind("bytes", "/proc/meminfo HardwareCorrupted"),
    "hugepages_total": files.Kind("", "/proc/meminfo HugePages_Total"),
    "hugepages_free": files.Kind("", "/proc/meminfo HugePages_Free"),
    "swap_total": files.Kind("bytes", "/proc/meminfo SwapTotal"),
    "swap_used": files.Kind("bytes", "/proc/meminfo SwapTotal - SwapFree"),
    "oom_kills": files.Kind("", "/proc/vmstat oom_kill", counter=True),
    "group_oom_kills": files.Kind("", "fs/cgroup/GROUP/memory.events oom_kill", counter=True),
    "file_handles": files.Kind("", "/proc/sys/fs/file-nr, first number"),
    "file_handles_max": files.Kind("", "/proc/sys/fs/file-nr, third number"),
    "processes_count": files.Kind("", "/proc/loadavg, threads that exist"),
    "processes_max": files.Kind("", "the lower of /proc/sys/kernel/pid_max and threads-max"),
    "load": files.Kind("", "/proc/loadavg, over one minute"),
    "pressure_memory_full": files.Kind("%", "/proc/pressure/memory full avg10"),
    "pressure_io_full": files.Kind("%", "/proc/pressure/io full avg10"),
    "pressure_cpu_some": files.Kind("%", "/proc/pressure/cpu some avg10"),
}
_PRESSURE: Final = (
    ("pressure_memory_full", "memory", "full"),
    ("pressure_io_full", "io", "full"),
    ("pressure_cpu_some", "cpu", "some"),
)
_MEMINFO: Final = (
    ("memory_total", "MemTotal", _KIB),
    ("memory_available", "MemAvailable", _KIB),
    ("memory_dirty", "Dirty", _KIB),
    ("memory_corrupted", "HardwareCorrupted", _KIB),
    ("hugepages_total", "HugePages_Total", 1.0),
    ("hugepages_free", "HugePages_Free", 1.0),
    ("swap_total", "SwapTotal", _KIB),
)


class Memory:
    """A readings.Signal."""

    name = NAME
    period_s = 15.0
    deadline_s = 5.0

    def __init__(self, sysfs: Path, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._procfs = procfs
        self._proc = str(procfs)
        self._groups = [str(sysfs / "fs/cgroup"), str(sysfs / "fs/cgroup/unified")]
        self._clock = clock

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        self._meminfo(look)
        self._limits(look)
        for name, file, line in _PRESSURE:
            with look.tried("", name):
                look.add("", name, pressure(files.read(f"{self._proc}/pressure/{file}"), line))
        with look.tried("", "oom_kills"):
            counts = _table(files.whole(f"{self._proc}/vmstat", FILE_BYTES_MAX))
            look.add("", "oom_kills", _of(counts, "oom_kill"))
        self._killed(look)
        return look.sweep()

    def _meminfo(self, look: files.Look) -> None:
        names = [name for name, _, _ in _MEMINFO]
        with look.tried("", *names, "swap_used"):
            said = _table(files.whole(f"{self._proc}/meminfo", FILE_BYTES_MAX).replace(":", " "))
            for name, line, scale in _MEMINFO:
                with look.tried("", name):
                    look.add("", name, _of(said, line) * scale)
            with look.tried("", "swap_used"):
                look.add("", "swap_used", (_of(said, "SwapTotal") - _of(said, "SwapFree")) * _KIB)

    def _limits(self, look: files.Look) -> None:
        with look.tried("", "file_handles", "file_handles_max"):
            open_, _, most = files.read(f"{self._proc}/sys/fs/file-nr").split()
            held, allowed = files.number(open_), files.number(most)
            look.add("", "file_handles", held)
            look.add("", "file_handles_max", allowed)
        with look.tried("", "load", "processes_count"):
            words = files.read(f"{self._proc}/loadavg").split()
            load, exist = files.number(words[0]), files.number(words[3].partition("/")[2])
            look.add("", "load", load)
            look.add("", "processes_count", exist)
        with look.tried("", "processes_max"):
            kernel = f"{self._proc}/sys/kernel"
            most_threads = min(files.number(files.read(f"{kernel}/{name}")) for name in ("pid_max", "threads-max"))
            look.add("", "processes_max", most_threads)

    def _killed(self, look: files.Look) -> None:
        """A group's events count those below it too, so the top ones tell of all."""
        for root in self._groups:
            for group in files.names(root)[:GROUPS_MAX]:
                try:
                    events = _table(files.read(f"{root}/{group}/memory.events"))
                except OSError:
                    continue  # a file, a group of version 1, or one without this controller
                if "oom_kill" in events:
                    look.add(group, "group_oom_kills", events["oom_kill"])


def pressure(said: str, line: str) -> float:
    """Percent of the last ten seconds. Raises Unknown where the kernel does not tell this line."""
    for words in map(str.split, said.splitlines()):
        if words and words[0] == line:
            return next(files.number(word[6:]) for word in words if word.startswith("avg10="))
    raise files.Unknown("unsupported", f"has no line {line!r}")


def _table(said: str) -> dict[str, float]:
    """The first number of each line by the line's first word; lines without one are passed over."""
    found = {}
    for words in map(str.split, said.splitlines()):
        if len(words) > 1:
            try:
                found[words[0]] = float(words[1])
            except ValueError:
                continue
    return found


def _of(table: dict[str, float], line: str) -> float:
    if line not in table:
        raise files.Unknown("unsupported", f"has no line {line!r}")
    return table[line]
