"""Old logs and dumps of this node's jobs are removed, and people are told which: a ``logs-removed`` observation each.

In: a start order that was carried out, and captures that made room for themselves. Out: a process that removes what is
beyond the job's bounds (``old_attempts``), with the rights of whom the logs belong to and ended when it takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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
STAT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 4 << 20
PATHS_MAX: Final = 512  # that one observation names


@dataclass(frozen=True)
class Bounds:
    """Of one job: how many attempts and bytes are kept (0 for no bound), and the first attempt that must stay."""

    attempts: int
    bytes: int
    keep_from: int


@dataclass(frozen=True)
class Current:
    """The attempt that runs, and where its job logs."""

    job: str
    generation: int
    attempt: int
    logs: Path


class _Removed(msgspec.Struct):
    attempt: int
    bytes: int
    files: int


class _Said(msgspec.Struct):
    """What the process says."""

    removed: list[_Removed] = []
    left: list[str] = []
    shared: bool = False
    claimed: bool = False
    error: str = ""


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
        try:
            said = await self._ask(current, bounds)
        except (OSError, TimeoutError, bounded.CouldNotLook, msgspec.DecodeError, ValueError) as error:
            log.warning("old logs could not be removed", extra={**about, "why": f"{error}" or "it took too long"})
            return
        if said.error or said.left:
            log.warning("old logs were not all removed", extra={**about, "why": said.error or ", ".join(said.left)})
        if said.removed:
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

    async def _ask(self, current: Current, bounds: Bounds) -> _Said:
        found = await self._threads.ask(f"owner of {current.logs}", lambda: os.stat(current.logs), STAT_S)
        who = {"user": found.st_uid, "group": found.st_gid} if os.geteuid() == 0 and found.st_uid else {}
        plan = {
            **who,
            "logs": str(current.logs),
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
            *words, stdin=pipe, stdout=pipe, stderr=null, limit=ANSWER_BYTES_MAX
        )
        try:
            async with asyncio.timeout(WITHIN_S):
                out, _ = await process.communicate(msgspec.json.encode(plan) + b"\n")
            if process.returncode:
                raise ValueError(f"the process that removes them ended with status {process.returncode}")
            return msgspec.json.decode(out, type=_Said)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    def _tell(self, current: Current, paths: Sequence[str], why: str, numbers: dict[str, Any]) -> None:
        place = observe.Place(self._node, current.job, current.generation)
        one = observe.logs_removed(place, list(paths)[-PATHS_MAX:], len(paths), why, numbers, self._clock.now())
        log.info("old logs and dumps were removed", extra={"job": current.job, "what": one.text})
        self._spool.add(one)
        self._wake()
