"""The agent's side of a collection: starts the collecting process, listens to it for as long as it may take, ends it.

The agent reads at most ANSWER_BYTES_MAX of what it says and touches no dump itself, so nothing in one, and no disk, can
hold the agent up or make it grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from outrider.records import Json

log = logging.getLogger(__name__)

AT_ONCE_MAX: Final = 2  # collecting processes; a capture that waits longer than it may goes without records
RANK_BYTES: Final = 12 * 1024
DIGEST_BYTES_MAX: Final = 2 << 20  # with the ranks' evidence this fits into one frame of the wire
ANSWER_BYTES_MAX: Final = 3 << 20
PIECE: Final = 64 * 1024
JOBS_MAX: Final = 64
REAP_S: Final = 0.5
WITHIN_SHARE: Final = 0.92  # of the order's deadline; the rest is for starting a process and for the way


class _Said(msgspec.Struct):
    """One line of the collecting process."""

    digest: dict[str, object] | None
    files: dict[str, str]
    notes: list[str]
    silent: list[int]
    removed: list[str] = []  # older captures that made room
    numbering: dict[str, object] | None = None  # family.Family.numbering


@dataclass(frozen=True)
class Sought:
    """Whose records. ``pids`` by rank, 0 for one that has ended; ``home``: the keeper's directory; ``control``: prefix
    of the control sockets; ``keep``: folders that dumps may be kept in, the first that can be written counts.
    """

    job: str
    generation: int
    node: str
    home: Path
    control: str
    pids: dict[int, int]
    keep: tuple[Path, ...]


class Gatherer:
    """Gathers flight records. One owner, the captures; several may be under way."""

    def __init__(self) -> None:
        self._limit = asyncio.Semaphore(AT_ONCE_MAX)
        # Ranks of a job and generation that did not tell their stacks. Each such question holds a thread of theirs
        # until the interpreter lock is let go of, and they have few, so it is put once.
        self._silent: dict[tuple[str, int], set[int]] = {}

    async def gather(self, sought: Sought, name: str, within_s: float) -> Json:
        """``{"digest", "files", "notes"}`` within ``within_s`` seconds, and ``"removed"``, older captures; dumps go to
        folder ``name``. Raises nothing.
        """
        said: list[Json] = []
        why = "no time was left for collecting flight records"
        try:
            async with asyncio.timeout(within_s), self._limit:
                why = f"collecting flight records was ended after {within_s:g} s"
                why = await self._run(sought, name, within_s * WITHIN_SHARE, said)
        except TimeoutError:
            log.warning("flight records were not collected in time", extra={"job": sought.job, "why": why})
        except OSError as error:
            why = f"no process for collecting flight records could be started: {error.strerror or error}"
        answer = said[-1] if said else {"digest": None, "files": {}, "notes": [], "removed": []}
        if silent := answer.pop("silent", None):
            self._silent.setdefault((sought.job, sought.generation), set()).update(silent)
            while len(self._silent) > JOBS_MAX:
                self._silent.pop(next(iter(self._silent)))
        if answer.get("numbering") is None:
            answer.pop("numbering", None)
        return {**answer, "notes": [*answer["notes"], why]} if why else answer

    async def _run(self, sought: Sought, name: str, within_s: float, said: list[Json]) -> str:
        """Take lines into ``said`` until there are no more; what is to be said about its end."""
        plan = {
            "generation": sought.generation,
            "node": sought.node,
            "home": str(sought.home),
            "control": sought.control,
            "ranks": {str(rank): pid for rank, pid in sought.pids.items()},
            "no_stacks": sorted(self._silent.get((sought.job, sought.generation), ())),
            "keep": [str(path) for path in sought.keep],
            "name": name,
            "until": time.monotonic() + within_s,  # the same clock in every process, so that starting one counts
            "rank_bytes": RANK_BYTES,
            "bytes_max": DIGEST_BYTES_MAX,
        }
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        words = [sys.executable, "-P", "-B", "-m", "outrider_agent.flight_recorder.collect", str(os.getpid())]
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=null)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(plan) + b"\n")
            held = b""
            while piece := await process.stdout.read(PIECE):
                *lines, held = (held + piece).split(b"\n")
                for line in lines:
                    said[:] = [msgspec.to_builtins(msgspec.json.decode(line, type=_Said))]
                if len(held) > ANSWER_BYTES_MAX:
                    return f"more than {ANSWER_BYTES_MAX} bytes of flight records"
            code = await process.wait()
            return f"collecting flight records ended with status {code}" if code else ""
        except (msgspec.DecodeError, ConnectionError) as error:
            return f"what collects flight records cannot be understood: {error}"
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it; one that the kernel holds is left behind."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_S):
                await process.wait()
