"""The processors: the frequency governor, which cores are there and which are on, and the NUMA nodes.

In: devices/system/cpu and devices/system/node in sysfs. Out: one word for the governor (``mixed`` where cores differ;
the context has how many use which) and counts. Cores that are present and off were taken out by somebody, or by the
kernel after a machine check.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files

NAME: Final = "cpu"
DEVICE: Final = "cpu"
CORES_MAX: Final = 8192
READINGS: Final[files.Names] = {
    "governor": files.Kind("", "devices/system/cpu/cpufreq/policyN/scaling_governor"),
    "cores_online": files.Kind("", "devices/system/cpu/online"),
    "cores_present": files.Kind("", "devices/system/cpu/present"),
    "numa_nodes": files.Kind("", "devices/system/node/online"),
}


class Cpu:
    """A readings.Signal."""

    name = NAME
    period_s = 60.0
    deadline_s = 5.0

    def __init__(self, sysfs: Path, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._cpu = str(sysfs / "devices/system/cpu")
        self._node = str(sysfs / "devices/system/node")
        self._procfs = procfs
        self._clock = clock

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        for name, path in (
            ("cores_online", f"{self._cpu}/online"),
            ("cores_present", f"{self._cpu}/present"),
            ("numa_nodes", f"{self._node}/online"),
        ):
            with look.tried(DEVICE, name):
                look.add(DEVICE, name, float(how_many(files.read(path))))
        return look.sweep(context=self._governor(look))

    def _governor(self, look: files.Look) -> Json:
        policies = [name for name in files.names(f"{self._cpu}/cpufreq") if name.startswith("policy")]
        said: Counter[str] = Counter()
        with look.tried(DEVICE, "governor"):
            if not policies:
                raise files.Unknown("unsupported", "the frequency is not ours to govern (a guest, or the firmware's)")
            for policy in policies[:CORES_MAX]:
                said[files.read(f"{self._cpu}/cpufreq/{policy}/scaling_governor")] += 1
            look.add(DEVICE, "governor", next(iter(said)) if len(said) == 1 else "mixed")
        return {"governors": dict(said)}


def how_many(said: str) -> int:
    """How many numbers a list such as ``0-3,8,10-11`` names. Raises Unknown."""
    found = 0
    for part in said.split(",") if said else ():
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise files.Unknown("unreadable", f"{said[:60]!r} is not a list of numbers")
        found += int(last or first) - int(first) + 1
    return found
