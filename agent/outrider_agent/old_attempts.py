"""What former attempts of a job left in its log directory, removed beyond the job's bounds: logs, error files, and the
dumps that torch wrote of itself.

    a plan, one line of JSON -> lines of JSON: each attempt as it is begun and as it is gone; then what was left and why

It is a process of its own, with the rights of the job's user and in a directory of theirs: the disk may be dead, and
links may lie there. Nothing is followed below the directory, and nothing is removed but what ranks and keepers write.
Where nodes share the directory, the first to lay its claim for an attempt does the work for all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

ENTRIES_MAX: Final = 1_000_000  # names that are looked at in one folder
FRESH_S: Final = 600.0  # where something was written so lately, somebody may be at work after all
TOLD_MAX: Final = 8
CLAIM: Final = ".outrider-removing-"
MARK: Final = ".outrider-job-"  # keeper.environment.JOB_MARK
_ATTEMPT: Final = re.compile(r"attempt-(\d{1,9})\Z")
_OURS: Final = re.compile(r"rank_\d{1,7}\.(log|error\.json)\Z")
_DUMPS: Final = "fr"  # keeper.recorder.FOLDER; this process loads nothing that it can do without
_GENERATION: Final = re.compile(r"generation-\d{1,9}\Z")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Attempt:
    """What one attempt left: bytes on the disk, files, the newest time (Unix s) and nodes that wrote there."""

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
        """As JSON, without the attempts, which were told one by one."""
        return {"left": self.left, "shared": self.shared, "claimed": self.claimed}


def prune(plan: dict[str, Any], tell: Callable[[dict[str, Any]], None] = lambda _: None) -> Told:
    """``plan``: logs, job, node, attempt (the current one), generation, keep_from (the first attempt that an open
    incident may need), attempts (so many newest are kept, 0 for no bound), bytes (of all that is kept, 0 for no bound)
    and owner (the user id that the directory must have, None for any). ``tell`` hears of each attempt before and after.
    Raises OSError; the claim of a round that was not ended is taken back.
    """
    told = Told()
    logs = _opened_logs(plan)
    claimed = ended = False
    try:
        now = _claim(logs, plan["job"], plan["attempt"], plan["generation"])
        if now is None:
            told.claimed = True
            return told
        claimed = True
        first_kept = min(plan["attempt"], plan["keep_from"])
        found = sorted((each for each in _attempts(logs, plan["job"]) if each <= plan["attempt"]), reverse=True)
        measured = [_measure(logs, number) for number in found]
        told.shared = any(one.nodes - {plan["node"]} for one in measured)
        for one in reversed(_beyond(measured, plan["attempts"], plan["bytes"])):
            if one.number < first_kept and one.newest < now - FRESH_S:
                _remove(logs, one, plan["job"], told, tell)
        ended = True
    finally:
        if claimed and not ended:
            with contextlib.suppress(OSError):
                os.unlink(_claim_name(plan["job"], plan["attempt"], plan["generation"]), dir_fd=logs)
        os.close(logs)
    return told


def _opened_logs(plan: dict[str, Any]) -> int:
    """The log directory, where it is of whom the plan says: through a link of somebody else's it may be anybody's."""
    owner = plan.get("owner")
    link = os.lstat(plan["logs"])
    logs = os.open(plan["logs"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(logs)
    if owner is None or (found.st_uid == owner and link.st_uid in (0, owner)):
        return logs
    os.close(logs)
    other = link.st_uid if found.st_uid == owner else found.st_uid
    raise PermissionError(errno.EPERM, f"belongs to user {other}, not to user {owner} of the job; all is left there")


def _claim_name(job: str, attempt: int, generation: int) -> str:
    return f"{CLAIM}{job}-{attempt}-{generation}"


def _claim(logs: int, job: str, attempt: int, generation: int) -> float | None:
    """Be the one that does it for this attempt; the time now as the disk has it, None where another node is the one."""
    name = _claim_name(job, attempt, generation)
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
        older = re.fullmatch(re.escape(f"{CLAIM}{job}-") + r"(\d{1,9})-(\d{1,9})", entry.name)
        if older and (int(older[1]), int(older[2])) < (attempt, generation):
            with contextlib.suppress(OSError):
                os.unlink(entry.name, dir_fd=logs)
    return now


def _attempts(logs: int, job: str) -> Iterator[int]:
    """Those that this job alone wrote: another that logs here too knows best what it needs of its own."""
    for entry in _entries(logs):
        match = _ATTEMPT.match(entry.name)
        if match and entry.name == f"attempt-{int(match[1])}" and entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError), _opened(logs, entry.name) as folder:
                if {each.name for each in _entries(folder) if each.name.startswith(MARK)} == {f"{MARK}{job}"}:
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

    def add(_: int, __: str, seen: os.stat_result) -> None:
        found.bytes += seen.st_blocks * 512
        found.files += 1
        found.newest = max(found.newest, seen.st_mtime)

    try:
        _each(logs, number, add, lambda *_: None)
        found.nodes = _nodes(logs, number)
    except OSError:
        found.newest = math.inf  # nobody knows what is there, so it stays
    return found


def _nodes(logs: int, number: int) -> set[str]:
    """Who wrote there: each keeper makes a folder of its node's, whether or not a dump comes."""
    try:
        with _opened(logs, f"attempt-{number}") as folder, _opened(folder, _DUMPS) as dumps:
            return {each.name for each in _entries(dumps) if each.is_dir(follow_symlinks=False)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _remove(logs: int, one: Attempt, job: str, told: Told, tell: Callable[[dict[str, Any]], None]) -> None:
    before = len(told.left)
    gone = Attempt(one.number)

    def leave(name: str) -> None:
        if one.files and len(told.left) < TOLD_MAX:  # what an earlier round left was told by it
            told.left.append(_printable(f"attempt-{one.number}/{name}"))

    def unlink(folder: int, name: str, seen: os.stat_result) -> None:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            leave(f"{name}: {error.strerror or error}")
            return
        gone.bytes += seen.st_blocks * 512
        gone.files += 1

    if one.files:
        tell({"begun": one.number, "shared": told.shared})
    try:
        _each(logs, one.number, unlink, lambda folder, name: os.rmdir(name, dir_fd=folder))
        if not _one_name(logs, one.number):  # the mark goes last: it tells who may go on with this
            with _opened(logs, f"attempt-{one.number}") as folder:
                os.unlink(f"{MARK}{job}", dir_fd=folder)
        os.rmdir(f"attempt-{one.number}", dir_fd=logs)
    except OSError as error:
        if len(told.left) == before:
            leave(f"{_one_name(logs, one.number)}: {error.strerror or error}")
    finally:  # also where somebody ends this
        if gone.files:
            told.removed.append(gone)
            tell({"removed": [{"attempt": gone.number, "bytes": gone.bytes, "files": gone.files}]})


def _printable(name: str) -> str:
    """A name with what is no UTF-8 in it written out."""
    return name.encode(errors="backslashreplace").decode()


def _one_name(logs: int, number: int) -> str:
    """What is still in an attempt's folder besides its mark, one name of it."""
    with contextlib.suppress(OSError), _opened(logs, f"attempt-{number}") as folder:
        return next((entry.name for entry in _entries(folder) if not entry.name.startswith(MARK)), "")
    return ""


def _each(
    logs: int,
    number: int,
    file: Callable[[int, str, os.stat_result], None],
    emptied: Callable[[int, str], None],
) -> None:
    """Call ``file`` with folder, name and stamp of each file of an attempt that is ours, and
    ``emptied`` with each folder of ours once all in it was told. A link is a file: it is never followed.
    """
    with _opened(logs, f"attempt-{number}") as folder:
        for entry in list(_entries(folder)):
            if _OURS.match(entry.name) and not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    file(folder, entry.name, entry.stat(follow_symlinks=False))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _opened(folder, _DUMPS) as dumps:
            for node in [each.name for each in _entries(dumps) if each.is_dir(follow_symlinks=False)]:
                with contextlib.suppress(OSError):
                    _each_dump(dumps, node, file, emptied)
                    emptied(dumps, node)
        with contextlib.suppress(OSError):
            emptied(folder, _DUMPS)


def _each_dump(
    dumps: int, node: str, file: Callable[[int, str, os.stat_result], None], emptied: Callable[[int, str], None]
) -> None:
    with _opened(dumps, node) as folder:
        for generation in [each.name for each in _entries(folder) if _GENERATION.match(each.name)]:
            with contextlib.suppress(OSError):
                with _opened(folder, generation) as inner:
                    for entry in list(_entries(inner)):
                        if not entry.is_dir(follow_symlinks=False):
                            with contextlib.suppress(FileNotFoundError):
                                file(inner, entry.name, entry.stat(follow_symlinks=False))
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


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


def _leave(*_: object) -> NoReturn:
    sys.exit(1)


def main() -> None:
    """Carry out the plan on standard input; SIGTERM ends it with what is done told."""
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(OSError):
        os.nice(10)
    plan = json.loads(sys.stdin.readline())
    try:
        if "user" in plan:  # only now: who that is may not be let through to our own files
            os.setgroups([])
            os.setresgid(plan["group"], plan["group"], plan["group"])
            os.setresuid(plan["user"], plan["user"], plan["user"])
        _say(prune(plan, _say).document())
    except OSError as error:
        _say({"error": f"{plan['logs']}: {error.strerror or error}"})


if __name__ == "__main__":
    main()
