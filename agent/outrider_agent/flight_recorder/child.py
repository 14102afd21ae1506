"""The reading process: files in by lines on standard input, digests out by lines on standard output.

A dump is a stranger's pickle. It is read here, where it finds little memory, cannot write a file, and takes nobody with
it. Before each file its place is written into memory that both sides share, so that whoever waits knows which one ended
this process or keeps it; a line for each would cost more than a fifth of the reading.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import resource
import signal
import stat
import struct
import sys
import time
from typing import Any, Final

from outrider_agent.flight_recorder import groups
from outrider_analysis.flight_recorder import digest, model, reading

PR_SET_PDEATHSIG: Final = 1
EXIT_MEMORY: Final = 77
PIECE: Final = 1 << 20
PLACE: Final = struct.Struct("=q")  # of the file that is being read; -1 before the first


class _Clock:
    """Where the seconds went."""

    def __init__(self) -> None:
        self.read = self.digest = 0.0


def main() -> None:
    """Answer requests until there are no more."""
    parent, memory_bytes, shared = map(int, sys.argv[1:4])
    place = mmap.mmap(shared, PLACE.size)
    confine(parent, memory_bytes)
    gc.disable()  # looking for cycles while a dump is built takes a third of the time; see below
    try:
        for line in sys.stdin:
            _say(_answer(json.loads(line)["files"], place))
            gc.collect()
    except MemoryError:
        os._exit(EXIT_MEMORY)
    os._exit(0)


def confine(parent: int, memory_bytes: int) -> None:
    """Die with ``parent``, leave no core behind, write no file, take so much memory and no more."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)
    for what, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    # When memory runs out on the machine, this process is the one to go, and never a rank.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _answer(files: list[tuple[str, int]], place: mmap.mmap) -> dict[str, Any]:
    digester, beside, clock = digest.Digester(), groups.Beside(), _Clock()
    ranks: list[model.RankDigest] = []
    unreadable: list[tuple[str, str]] = []
    for at, (file, rank) in enumerate(files):
        PLACE.pack_into(place, 0, at)
        found = _one(digester, file, rank, clock)
        if isinstance(found, str):
            unreadable.append((file, found))
        else:
            ranks.append(beside.fill(file, found, digester))
    node = model.to_json(digester.node(ranks, unreadable))
    return {"node": node, "read_s": clock.read, "digest_s": clock.digest}


def _one(digester: digest.Digester, file: str, rank: int, clock: _Clock) -> model.RankDigest | str:
    """The digest of one file, or why there is none."""
    began = time.perf_counter()
    try:
        data = contents(file)
    except OSError as error:
        return error.strerror or str(error)
    if isinstance(data, str):
        return data
    taken_ns, dump = data[1], reading.read(data[0])
    del data
    read = time.perf_counter()
    clock.read += read - began
    if isinstance(dump, reading.Unreadable):
        return f"{dump.kind}: {dump.why}"
    try:
        return digester.rank(rank, dump, taken_ns)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - one strange dump must not cost the others
        return f"damaged: could not be digested ({type(error).__name__})"
    finally:
        clock.digest += time.perf_counter() - read


def contents(file: str) -> tuple[bytes, int] | str:
    """The bytes and when they were written (Unix ns), or why they are not read. Waits for no pipe. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "is no regular file"
        if status.st_size > reading.DUMP_BYTES_MAX:
            return f"too-large: {status.st_size} bytes; at most {reading.DUMP_BYTES_MAX} are read"
        parts: list[bytes] = []
        total = 0
        while total <= reading.DUMP_BYTES_MAX and (part := os.read(descriptor, max(PIECE, status.st_size + 1))):
            parts.append(part)
            total += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts), status.st_mtime_ns
    finally:
        os.close(descriptor)


def _say(what: dict[str, Any]) -> None:
    """One line, however long."""
    line = memoryview(json.dumps(what, separators=(",", ":")).encode("ascii") + b"\n")
    while line:
        line = line[os.write(1, line) :]


if __name__ == "__main__":
    main()
