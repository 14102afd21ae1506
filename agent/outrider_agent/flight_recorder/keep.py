"""Dumps kept on the node: copied whole from where torch writes them, one folder a capture, a bounded number of those.

torch writes a dump to its final name, piece by piece, and may write it again; so a file is taken once it has stood
still, is copied, and counts if it is the same file afterwards. The folder lies beside the job's logs, which may belong
to the job's user while the agent is root: nothing here follows a link that lies in it, and the folder is held open,
since its name may lead elsewhere a moment later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider_agent.flight_recorder import ask, room

FOLDER: Final = "flight-records"
GENERATION: Final = "-generation-"  # so ends the name of a capture, with the number
CAPTURES_MAX: Final = 8
BYTES_MAX: Final = 256 << 20  # of all captures but the newest and the first of a generation
DUMP_BYTES_MAX: Final = 64 << 20  # a ring of 2,000 entries with stacks is 1 MB
_ENDS: Final = (b".", b"}", b"]")  # a pickle and JSON; what is cut off seldom ends so


class NotKept(Exception):
    """A file that is no dump to be kept; the message says why."""


class NotYet(NotKept):
    """It may be whole in a moment."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which writing of a file it is."""

    inode: int
    size: int
    written_ns: int


def stamp(path: str) -> Stamp | None:
    """The file's stamp now, None where there is none."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def copy(path: str, into: str, user: int, space: room.Room) -> Stamp:
    """Copy the dump at ``path`` to ``into`` with its time, into ``space``; which writing it was. Raises NotKept."""
    part = f"{into}.part"
    try:
        descriptor = _opened(path, user)
        try:
            before = _sound(descriptor, path, user)
            _write(descriptor, part, before.size, space)
            if _sound(descriptor, path, user) != before:
                raise NotYet("it changed while it was read")
        finally:
            os.close(descriptor)
        os.utime(part, ns=(before.written_ns, before.written_ns))
        os.replace(part, into)
    except OSError as error:
        raise NotKept(f"{error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)
    return before


def _opened(path: str, user: int) -> int:
    """A descriptor to read ``path`` by. What it is is seen first: to open a device is to do something to it."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _plain(os.fstat(handle), user)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)


def _plain(found: os.stat_result, user: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotKept("is no regular file")
    if found.st_uid != user:
        raise NotKept(f"is of user {found.st_uid}, not of the job's")


def _sound(descriptor: int, path: str, user: int) -> Stamp:
    found = os.fstat(descriptor)
    _plain(found, user)
    if not found.st_size:
        raise NotYet("is empty")
    if found.st_size > DUMP_BYTES_MAX:
        raise NotKept(f"has {found.st_size} bytes; at most {DUMP_BYTES_MAX} are read")
    if os.pread(descriptor, 1, found.st_size - 1) not in _ENDS:
        raise NotYet("is cut off")
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _write(source: int, part: str, size: int, space: room.Room) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        space.take(descriptor, size)
        while size > 0 and (piece := os.read(source, min(size, ask.PIECE))):
            ask.write(descriptor, piece)
            size -= len(piece)
    finally:
        os.close(descriptor)


def folder(above: Path, node: str, name: str, went: list[str]) -> tuple[str, int]:
    """Make ``above/flight-records/node/name``, for our eyes alone, and let older ones beside it go; its path and a
    descriptor of it. The paths of those that go are added to ``went``, also where it raises OSError.
    """
    at = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in (FOLDER, node):
            at = _below(at, step, above)
        _make_room(at, name, lambda old: went.append(str(above / FOLDER / node / old)))
        room.check(at)
        os.mkdir(name, 0o700, dir_fd=at)
        held = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)
    return str(above / FOLDER / node / name), held


def _below(at: int, name: str, above: Path) -> int:
    """A descriptor of a folder within ``at``, which is ours and nobody else's to write in; ``at`` is closed."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=at)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    found = os.fstat(inner)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        os.close(inner)
        raise PermissionError(
            f"{above}: {name} in it is of user {found.st_uid}, or others may write there; remove it and a new one is "
            "made"
        )
    os.close(at)
    return inner


def _make_room(at: int, new: str, went: Callable[[str], None]) -> None:
    """Remove the oldest captures: those beyond the bounds, so that ``new`` keeps them too, and more where the disk is
    too full and that helps. The newest that is there stays, and so does the first of the same generation, which is
    nearest to the fault.
    """
    found: dict[str, int] = {}
    for name in sorted(os.listdir(at), reverse=True):  # they begin with their time
        with contextlib.suppress(OSError):
            found[name] = _bytes(at, name)
    stay = {*list(found)[:1], *_of_generation(new, found)[-1:]}
    total, places = sum(found[name] for name in stay), CAPTURES_MAX - 1 - len(stay)
    others = [name for name in found if name not in stay]
    within = 0
    for name in others[:places]:
        total += found[name]
        if total > BYTES_MAX:
            break
        within += 1
    spare = sum(found[name] for name in others[:within])
    while len(others) > within or (others and _is_low(at) and not _is_low(at, -spare)):
        oldest = others.pop()
        spare -= found[oldest] if len(others) < within else 0
        shutil.rmtree(oldest, ignore_errors=True, dir_fd=at)
        went(oldest)


def _of_generation(new: str, names: Iterable[str]) -> list[str]:
    """Those of the generation that the capture ``new`` is of, as its name tells."""
    _, mark, number = new.rpartition(GENERATION)
    return [name for name in names if mark and name.endswith(mark + number)]


def _is_low(at: int, more: int = 0) -> bool:
    """Whether ``more`` bytes would leave too little."""
    try:
        room.check(at, more)
    except room.NoRoom:
        return True
    return False


def _bytes(at: int, name: str) -> int:
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        return sum(os.stat(each, dir_fd=inner, follow_symlinks=False).st_size for each in os.listdir(inner))
    finally:
        os.close(inner)
