"""What former attempts of a job left in its log directory, removed beyond the job's bounds: logs, error files, and the
dumps that torch wrote of itself.

    a plan, one line of JSON -> one line of JSON: what was removed, what was left and why

It is a process of its own, with the rights of whom the log directory belongs to: the disk may be dead, and a job's user
may lay links there. Nothing is followed below the directory, and nothing is removed but what ranks and keepers write.
Where nodes share the directory, the first to lay its claim for an attempt does the work for all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

ENTRIES_MAX: Final = 1_000_000  # names that are looked at in one folder
FRESH_S: Final = 600.0  # where something was written so lately, somebody may be at work after all
TOLD_MAX: Final = 8
CLAIM: Final = ".outrider-removing-"
_ATTEMPT: Final = re.compile(r"attempt-(\d{1,9})\Z")
_OURS: Final = re.compile(r"rank_\d{1,7}\.(log|error\.json)\Z")
_DUMPS: Final = "fr"  # keeper.recorder.FOLDER; this process loads nothing that it can do without
_GENERATION: Final = re.compile(r"generation-\d{1,9}\Z")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Attempt:
    """What one attempt left: bytes on the disk, files, the newest time (Unix s) and nodes with dumps of theirs."""

    number: int
    bytes: int = 0
    files: int = 0
    newest: float = 0.0
    nodes: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Told:
    """What became of it. ``left``: names that are not ours, or could not be removed; ``shared``: other nodes write here
    too; ``claimed``: another node does it.
    """

    removed: list[Attempt] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    shared: bool = False
    claimed: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON."""
        removed = [{"attempt": one.number, "bytes": one.bytes, "files": one.files} for one in self.removed]
        return {"removed": removed, "left": self.left, "shared": self.shared, "claimed": self.claimed}


def prune(plan: dict[str, Any]) -> Told:
    """``plan``: logs, node, attempt (the current one), generation, keep_from (the first attempt that an open incident
    may need), attempts (so many newest are kept, 0 for no bound) and bytes (of all that is kept, 0 for no bound).
    Raises OSError.
    """
    told = Told()
    logs = os.open(plan["logs"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        now = _claim(logs, plan["attempt"], plan["generation"])
        if now is None:
            told.claimed = True
            return told
        first_kept = min(plan["attempt"], plan["keep_from"])
        found = sorted((number for number in _attempts(logs) if number <= plan["attempt"]), reverse=True)
        measured = [_measure(logs, number) for number in found]
        told.shared = any(one.nodes - {plan["node"]} for one in measured)
        for one in reversed(_beyond(measured, plan["attempts"], plan["bytes"])):
            if one.files and one.number < first_kept and one.newest < now - FRESH_S:
                _remove(logs, one, told)
    finally:
        os.close(logs)
    return told


def _claim(logs: int, attempt: int, generation: int) -> float | None:
    """Be the one that does it for this attempt; the time now as the disk has it, None where another node is the one."""
    name = f"{CLAIM}{attempt}-{generation}"
    try:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=logs)
    except FileExistsError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return time.time()  # a disk that takes nothing is what this is for; others may come to do it too
    try:
        now = os.fstat(file).st_mtime
    finally:
        os.close(file)
    for entry in _entries(logs):
        older = re.fullmatch(re.escape(CLAIM) + r"(\d{1,9})-(\d{1,9})", entry.name)
        if older and (int(older[1]), int(older[2])) < (attempt, generation):
            with contextlib.suppress(OSError):
                os.unlink(entry.name, dir_fd=logs)
    return now


def _attempts(logs: int) -> Iterator[int]:
    for entry in _entries(logs):
        match = _ATTEMPT.match(entry.name)
        if match and entry.name == f"attempt-{int(match[1])}" and entry.is_dir(follow_symlinks=False):
            yield int(match[1])


def _beyond(newest_first: Sequence[Attempt], attempts: int, bytes_max: int) -> list[Attempt]:
    """Those beyond the bounds, newest first; the newest of all is never one of them."""
    beyond: list[Attempt] = []
    total = 0
    for place, one in enumerate(newest_first):
        total += one.bytes
        if place and ((attempts and place >= attempts) or (bytes_max and total > bytes_max)):
            beyond.append(one)
    return beyond


def _measure(logs: int, number: int) -> Attempt:
    found = Attempt(number)

    def add(_: int, __: str, seen: os.stat_result, node: str) -> None:
        found.bytes += seen.st_blocks * 512
        found.files += 1
        found.newest = max(found.newest, seen.st_mtime)
        found.nodes |= {node} if node else set()

    with contextlib.suppress(OSError):
        _each(logs, number, add, lambda *_: None)
    return found


def _remove(logs: int, one: Attempt, told: Told) -> None:
    before = len(told.left)
    gone = Attempt(one.number)

    def leave(name: str) -> None:
        if len(told.left) < TOLD_MAX:
            told.left.append(f"attempt-{one.number}/{name}")

    def unlink(folder: int, name: str, seen: os.stat_result, node: str) -> None:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            leave(f"{name}: {error.strerror or error}")
            return
        gone.bytes += seen.st_blocks * 512
        gone.files += 1

    try:
        _each(logs, one.number, unlink, lambda folder, name: os.rmdir(name, dir_fd=folder))
        os.rmdir(f"attempt-{one.number}", dir_fd=logs)
    except OSError as error:
        if len(told.left) == before:
            leave(f"{_one_name(logs, one.number)}: {error.strerror or error}")
    if gone.files:
        told.removed.append(gone)


def _one_name(logs: int, number: int) -> str:
    """What is still in an attempt's folder, one name of it."""
    with contextlib.suppress(OSError), _opened(logs, f"attempt-{number}") as folder:
        return next((entry.name for entry in _entries(folder)), "")
    return ""


def _each(
    logs: int,
    number: int,
    file: Callable[[int, str, os.stat_result, str], None],
    emptied: Callable[[int, str], None],
) -> None:
    """Call ``file`` with folder, name, stamp and node ("" for logs) of each file of an attempt that is ours, and
    ``emptied`` with each folder of ours once all in it was told. A link is a file: it is never followed.
    """
    with _opened(logs, f"attempt-{number}") as folder:
        for entry in list(_entries(folder)):
            if _OURS.match(entry.name) and not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    file(folder, entry.name, entry.stat(follow_symlinks=False), "")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _opened(folder, _DUMPS) as dumps:
            for node in [each.name for each in _entries(dumps) if each.is_dir(follow_symlinks=False)]:
                with contextlib.suppress(OSError):
                    _each_dump(dumps, node, file, emptied)
                    emptied(dumps, node)
        with contextlib.suppress(OSError):
            emptied(folder, _DUMPS)


def _each_dump(
    dumps: int, node: str, file: Callable[[int, str, os.stat_result, str], None], emptied: Callable[[int, str], None]
) -> None:
    with _opened(dumps, node) as folder:
        for generation in [each.name for each in _entries(folder) if _GENERATION.match(each.name)]:
            with contextlib.suppress(OSError):
                with _opened(folder, generation) as inner:
                    for entry in list(_entries(inner)):
                        if not entry.is_dir(follow_symlinks=False):
                            with contextlib.suppress(FileNotFoundError):
                                file(inner, entry.name, entry.stat(follow_symlinks=False), node)
                emptied(folder, generation)


@contextlib.contextmanager
def _opened(above: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, _FOLDER, dir_fd=above)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise NotADirectoryError(name)
        yield descriptor
    finally:
        os.close(descriptor)


def _entries(folder: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry, _ in zip(entries, range(ENTRIES_MAX), strict=False):
            yield entry


def main() -> None:
    """Carry out the plan on standard input."""
    with contextlib.suppress(OSError):
        os.nice(10)
    plan = json.loads(sys.stdin.readline())
    try:
        if "user" in plan:  # only now: who that is may not be let through to our own files
            os.setgroups([])
            os.setresgid(plan["group"], plan["group"], plan["group"])
            os.setresuid(plan["user"], plan["user"], plan["user"])
        said = prune(plan).document()
    except OSError as error:
        said = {"error": f"{plan['logs']}: {error.strerror or error}"}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
