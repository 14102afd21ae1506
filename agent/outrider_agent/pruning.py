"""Old logs and dumps of this node's jobs are removed, and people are told which: a ``logs-removed`` observation each.

In: a start order that was carried out, and captures that made room for themselves. Out: a process that removes what is
beyond the job's bounds (``old_attempts``), with the rights of the job's user and ended when it takes too long. What
went until then is told in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from outrider import clock as clock_module
from outrider_agent import bounded, observe, spool, tasks

log = logging.getLogger(__name__)

WITHIN_S: Final = 600.0  # 16,384 ranks' logs on a busy file server
LOOK_S: Final = 5.0
LEAVE_S: Final = 2.0  # until what is under way has said what it did
LINE_BYTES_MAX: Final = 1 << 16
LINES_MAX: Final = 200_000
PATHS_MAX: Final = 512  # that one observation names


@dataclass(frozen=True)
class Bounds:
    """Of one job: how many attempts and bytes are kept (0 for no bound), and the first attempt that must stay."""

    attempts: int
    bytes: int
    keep_from: int


@dataclass(frozen=True)
class Current:
    """The attempt that runs, where its job logs, and the user that its ranks run as ("" for the agent's own)."""

    job: str
    generation: int
    attempt: int
    logs: Path
    user: str = ""


class _Removed(msgspec.Struct):
    attempt: int
    bytes: int
    files: int


class _Said(msgspec.Struct):
    """What the process says in one line, and all its lines together. ``begun``: an attempt whose end was not told."""

    begun: int | None = None
    removed: list[_Removed] = []
    left: list[str] = []
    shared: bool = False
    claimed: bool = False
    error: str = ""

    def take(self, line: bytes) -> None:
        """Add one line; one that was cut off is none. Raises msgspec.DecodeError."""
        if line.endswith(b"\n"):
            one = msgspec.json.decode(line, type=_Said)
            self.begun = one.begun
            self.removed += one.removed
            self.left += one.left
            self.shared |= one.shared
            self.error = one.error


class Pruner:
    """Removes for one agent. Its owner calls ``close``."""

    def __init__(self, node: str, spool_: spool.Spool, clock: clock_module.Clock, wake: Callable[[], None]) -> None:
        self._node = node
        self._spool = spool_
        self._clock = clock
        self._wake = wake
        self._threads = bounded.Threads()
        self._tasks = tasks.Tasks()

    def begin(self, current: Current, bounds: Bounds) -> None:
        """Remove what ``current`` has made too much; nothing waits for it. One at a time for each job."""
        if (bounds.attempts or bounds.bytes) and current.attempt and not self._tasks.running(current.job):
            self._tasks.start(current.job, self._run(current, bounds))

    def captures_removed(self, job: str, generation: int, paths: Sequence[str], kept: int) -> None:
        """Tell of captures that gave way to a newer one; ``kept``: how many there may be."""
        if paths:
            why = f"removed after {kept} newer captures"
            self._tell(Current(job, generation, 0, Path(paths[0]).parent), paths, why, {"shared": False})

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.cancel()

    async def _run(self, current: Current, bounds: Bounds) -> None:
        about: dict[str, Any] = {"job": current.job, "folder": str(current.logs)}
        said = _Said()
        try:
            await self._ask(current, bounds, said)
        except (OSError, KeyError, bounded.CouldNotLook, msgspec.DecodeError, ValueError) as error:
            said.error = said.error or f"{error}" or "it took too long"
        finally:  # also where the agent ends
            if said.begun is not None:
                said.removed.append(_Removed(said.begun, 0, 0))
                said.left.append(f"attempt-{said.begun}: cut off, so some of it may be left")
            if said.error or said.left:
                log.warning("old logs were not all removed", extra={**about, "why": said.error or ", ".join(said.left)})
            if said.removed:
                self._tell_attempts(current, bounds, said)

    def _tell_attempts(self, current: Current, bounds: Bounds, said: _Said) -> None:
        paths = [str(current.logs / f"attempt-{one.attempt}") for one in said.removed]
        numbers: dict[str, Any] = {
            "bytes": sum(one.bytes for one in said.removed),
            "files": sum(one.files for one in said.removed),
            "left": said.left,
            "shared": said.shared,
        }
        most = f"{bounds.attempts} attempts" if bounds.attempts else ""
        size = f"{bounds.bytes / 2**30:.3g} GiB" if bounds.bytes else ""
        self._tell(current, paths, f"removed after {' or '.join(filter(None, (most, size)))}", numbers)

    async def _ask(self, current: Current, bounds: Bounds, said: _Said) -> None:
        """Have it done; ``said`` fills as it goes."""
        who = await self._threads.ask(f"user and logs of {current.job}", lambda: _who(current), LOOK_S)
        plan = {
            **who,
            "logs": str(current.logs),
            "job": current.job,
            "node": self._node,
            "attempt": current.attempt,
            "generation": current.generation,
            "keep_from": bounds.keep_from,
            "attempts": bounds.attempts,
            "bytes": bounds.bytes,
        }
        words = [sys.executable, "-P", "-B", "-m", "outrider_agent.old_attempts"]
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, stderr=null, limit=LINE_BYTES_MAX
        )
        assert process.stdin is not None
        try:
            async with asyncio.timeout(WITHIN_S):
                process.stdin.write(msgspec.json.encode(plan) + b"\n")
                process.stdin.close()
                await _hear(process, said)
            if process.returncode:
                raise ValueError(f"the process that removes them ended with status {process.returncode}")
        finally:
            await _end(process, said)

    def _tell(self, current: Current, paths: Sequence[str], why: str, numbers: dict[str, Any]) -> None:
        place = observe.Place(self._node, current.job, current.generation)
        one = observe.logs_removed(place, list(paths)[-PATHS_MAX:], len(paths), why, numbers, self._clock.now())
        log.info("old logs and dumps were removed", extra={"job": current.job, "what": one.text})
        self._spool.add(one)
        self._wake()


def _who(current: Current) -> dict[str, int]:
    """Whose the log directory must be, and whom to become. Raises KeyError. Hangs where the directory's disk does."""
    os.access(current.logs, os.F_OK)
    if os.geteuid() != 0:
        return {}
    if not current.user:
        return {"owner": 0}
    entry = pwd.getpwnam(current.user)
    return {"owner": entry.pw_uid} | ({"user": entry.pw_uid, "group": entry.pw_gid} if entry.pw_uid else {})


async def _hear(process: asyncio.subprocess.Process, said: _Said) -> None:
    """Take what it says until it has ended."""
    assert process.stdout is not None
    for _ in range(LINES_MAX):
        line = await process.stdout.readline()
        if not line:
            break
        said.take(line)
    await process.wait()


async def _end(process: asyncio.subprocess.Process, said: _Said) -> None:
    """End it where it runs yet, and hear what it did until then."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError, ValueError, msgspec.DecodeError):
        async with asyncio.timeout(LEAVE_S):
            await _hear(process, said)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
