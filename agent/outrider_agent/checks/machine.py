"""What the machine has, without asking a driver: a sick one could not hang us here.

In: /dev, /proc and /sys, and what is installed. Out: a Machine.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GPU_FILE: Final = re.compile(r"nvidia\d+")
CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """``cores``: those that we may use; ``nodes``: NUMA node -> one of them; ``memory_bytes``: free for us."""

    gpus: int  # device files of NVIDIA GPUs
    cores: tuple[int, ...]
    nodes: dict[str, int]
    memory_bytes: int


def look(dev: Path = Path("/dev"), sysfs: Path = Path("/sys"), procfs: Path = Path("/proc")) -> Machine:
    """Look once."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Machine(
        gpus=sum(GPU_FILE.fullmatch(name) is not None for name in os.listdir(dev)),
        cores=cores,
        nodes=_nodes(sysfs / "devices/system/node", cores) or {"0": cores[0]},
        memory_bytes=_memory(procfs / "meminfo"),
    )


def has_torch() -> bool:
    """Whether our own interpreter can find torch; it is not imported."""
    return importlib.util.find_spec("torch") is not None


def _nodes(folder: Path, cores: tuple[int, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in sorted(folder.glob("node[0-9]*")):
        try:
            of_node = _listed((path / "cpulist").read_text())
        except (OSError, ValueError):
            continue
        ours = [core for core in of_node if core in cores]
        if ours:
            found[path.name.removeprefix("node")] = ours[0]
    return found


def _listed(text: str) -> list[int]:
    """Numbers of ``0-3,8``."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _memory(meminfo: Path) -> int:
    """Bytes that we may take: what the kernel calls available, or less where our control group has a limit."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    try:
        limit = int((CGROUP / "memory.max").read_text())
        available = min(available, limit - int((CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no limit, or another version of control groups
    return max(0, available)
