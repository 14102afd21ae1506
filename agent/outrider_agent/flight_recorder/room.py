"""Room for dumps: what their disk has left, or where that is memory, what the machine has left of it."""

from __future__ import annotations

import functools
import os
import re
import threading
from pathlib import Path
from typing import Final

LEFT_BYTES_MIN: Final = 128 << 20  # after whatever is written
BYTES_MAX: Final = 512 << 20  # of one capture, while it is made; a ring of 2,000 entries with stacks is 1 MB
MOUNTS: Final = Path("/proc/self/mountinfo")
MEMORY: Final = Path("/proc/meminfo")
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_AVAILABLE: Final = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)


class NoRoom(OSError):
    """Nothing more is written; the message says why."""


class Room:
    """What one capture may write. Several threads may ask."""

    def __init__(self, most: int = BYTES_MAX) -> None:
        self._most = most
        self._left = most
        self._lock = threading.Lock()

    def take(self, descriptor: int, size: int) -> None:
        """Count ``size`` bytes that are about to be written to ``descriptor``. Raises NoRoom, and OSError."""
        check(descriptor, size)
        with self._lock:
            if size > self._left:
                raise NoRoom(f"not enough room: one capture keeps at most {self._most >> 20} MiB")
            self._left -= size

    def give(self, size: int) -> None:
        """What was written is gone again."""
        with self._lock:
            self._left += size


def check(descriptor: int, size: int = 0) -> None:
    """Raise NoRoom where ``size`` bytes more would leave too little where ``descriptor`` lies."""
    found = os.fstatvfs(descriptor)
    free = found.f_bavail * found.f_frsize
    memory = _memory() if _in_memory(os.fstat(descriptor).st_dev) else None
    if free < LEFT_BYTES_MIN + size:
        raise NoRoom(f"not enough room: less than {LEFT_BYTES_MIN >> 20} MiB would be left on its disk")
    if memory is not None and memory < LEFT_BYTES_MIN + size:
        raise NoRoom(
            f"not enough room: its disk is memory, of which less than {LEFT_BYTES_MIN >> 20} MiB would be left"
        )


@functools.cache
def _in_memory(device: int) -> bool:
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        rows = [line.split() for line in MOUNTS.read_text(errors="replace").splitlines()]
    except OSError:
        return False
    kinds = [row[row.index("-") + 1] for row in rows if len(row) > 6 and row[2] == number and "-" in row[6:]]
    return any(kind in _IN_MEMORY for kind in kinds)


def _memory() -> int | None:
    """Bytes that may be had without swapping; None where the kernel does not tell."""
    try:
        found = _AVAILABLE.search(MEMORY.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
