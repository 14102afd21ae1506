"""Bounds of the verifying process: what it may use, and that it ends when whoever started it does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import sys
from typing import Final

MEMORY_BYTES_BASE: Final = 1 << 30  # address space: the interpreter, threads and their blocks
MEMORY_PER_METADATA_BYTE: Final = 40  # measured: 13 bytes of memory for each byte of .metadata
MEMORY_BYTES_MAX: Final = 48 << 30
PROCESSOR_S_BASE: Final = 20
PROCESSOR_BYTES_PER_S: Final = 2 << 20  # of .metadata; measured 20 MB a second on one core
NICE: Final = 19
PR_SET_PDEATHSIG: Final = 1
IO_PRIORITY_IDLE: Final = 3 << 13
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}  # number of the system call; the C library has no name for it


def confine(parent: int, urgent: bool) -> None:
    """Die with ``parent``, leave no core behind, write no file, and step aside for everybody else unless ``urgent``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    memory(0)
    # When memory runs out on the machine, this process is the one to go, and never a rank.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    if not urgent:
        os.nice(NICE)
        number = _IOPRIO_SET.get(platform.machine())
        if number is not None and sys.platform == "linux":
            libc.syscall(number, 1, 0, IO_PRIORITY_IDLE)


def memory(metadata_bytes: int) -> int:
    """Bound the address space to what a ``.metadata`` of this size may need; the bound in bytes."""
    bound = min(MEMORY_BYTES_BASE + MEMORY_PER_METADATA_BYTE * metadata_bytes, MEMORY_BYTES_MAX)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    return bound


def processor(metadata_bytes: int) -> int:
    """Bound the processor time from now on, for reading a ``.metadata`` of this size; the bound in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    bound = PROCESSOR_S_BASE + metadata_bytes // PROCESSOR_BYTES_PER_S
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + bound, hard))
    return bound


def processor_unbounded() -> None:
    """The metadata is read; what follows takes as long as the files are large."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
