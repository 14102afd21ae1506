"""A file system: writes a file, has it on the disk, reads it back, and measures small writes as checkpoints do them.

Everything lies in one folder of its own that is removed at the end. The kernel is asked to forget what it holds of the
file before it is read, so that the reading comes from the disk where the file system heeds that.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PREFIX: Final = ".outrider-check-"
BLOCK: Final = 4 << 20
SMALL_BYTES: Final = 4096
FREE_SHARE_MAX: Final = 0.05  # of the room that is left, for the large file

Write = Callable[[int, bytes], int]


def run(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Task: path, bytes, small (how many small files). The measurements, or {"remove": True} to clean up alone."""
    path = Path(task["path"])
    if task.get("remove"):
        shutil.rmtree(path, ignore_errors=True)
        return {}
    tell("asking for its room")
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    found: dict[str, Any] = {
        "free_bytes": free,
        "size_bytes": room.f_blocks * room.f_frsize,
        "free_inodes": room.f_favail,
        "inodes": room.f_files,
    }
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path))
        try:
            tell(str(folder))  # who kills us knows from this what to remove
            size = max(BLOCK, min(int(task["bytes"]), int(free * FREE_SHARE_MAX)))
            return {**found, **examined(folder, size, int(task["small"]), tell)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        return {**found, "error": error.strerror or str(error), "errno": errno.errorcode.get(error.errno or 0, "")}


def examined(
    folder: Path,
    size: int,
    small: int,
    tell: Any,
    clock: Callable[[], float] = time.perf_counter,
    write: Write = os.write,
) -> dict[str, Any]:
    """{"bytes", "write_mb_s", "read_mb_s", "same": bool, "latency_s": slowest small write, "median_s"}."""
    path = folder / "large"
    blocks = max(1, size // BLOCK)
    text = random.Random(20260101).randbytes(2 * BLOCK)
    tell(f"writing in {folder}")
    began, written = clock(), hashlib.sha256()
    with _opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        for block in range(blocks):
            piece = _block(text, block)
            written.update(piece)
            _write_all(fd, piece, write)
        os.fsync(fd)
    write_s = clock() - began
    tell(f"reading in {folder}")
    began, read = clock(), hashlib.sha256()
    with _opened(path, os.O_RDONLY) as fd:
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := os.read(fd, BLOCK):
            read.update(piece)
    read_s = clock() - began
    tell(f"small files in {folder}")
    times = sorted(_small(folder, number, clock, write) for number in range(small)) or [0.0]
    return {
        "bytes": blocks * BLOCK,
        "write_mb_s": blocks * BLOCK / max(write_s, 1e-9) / 1e6,
        "read_mb_s": blocks * BLOCK / max(read_s, 1e-9) / 1e6,
        "same": read.digest() == written.digest(),
        "latency_s": times[-1],
        "median_s": times[len(times) // 2],
    }


def _small(folder: Path, number: int, clock: Callable[[], float], write: Write) -> float:
    """Seconds to have 4 KiB under its final name on the disk."""
    began = clock()
    part, final = folder / f"{number}.part", folder / f"{number}"
    with _opened(part, os.O_CREAT | os.O_WRONLY) as fd:
        _write_all(fd, b"\1" * SMALL_BYTES, write)
        os.fsync(fd)
    part.replace(final)
    with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
    return clock() - began


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Any:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, piece: bytes, write: Write) -> None:
    while piece:
        piece = piece[write(fd, piece) :]


def _block(text: bytes, block: int) -> bytes:
    turn = block * 4099 % BLOCK
    return text[turn : turn + BLOCK]
