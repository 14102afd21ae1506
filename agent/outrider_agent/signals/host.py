"""What the host itself says: which boot this is, and how many processes it has killed for memory.

In: files below /proc (a root can be given). Out: plain values; None means "could not look", which is neither zero nor
healthy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PROC = Path("/proc")


def boot_id(proc: Path = PROC) -> str:
    """A text that is the same until the machine boots again."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        pass
    try:
        # Sandboxes hide boot_id; the moment of the boot tells boots apart as well.
        moment = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime"))
        return hashlib.sha256(moment.encode()).hexdigest()[:32]
    except (OSError, StopIteration):
        return "unknown"


def oom_kills(proc: Path = PROC) -> int | None:
    """Processes that the kernel has killed for want of memory since boot; None where it does not count them."""
    try:
        for line in (proc / "vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        return None
    return None


def start_ticks(pid: int, proc: Path = PROC) -> int | None:
    """When process ``pid`` began, in clock ticks since boot; None when it is gone. Pid and ticks name one process."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses; the start time is field 22, the state field 3.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
