"""Progress from the logs of ranks that send no marks: what they print in a form that is known, as it is written.

In: the log files of the ranks that run on this node, which belong to the job and may hold anything, be cut off, be
renamed, or lie on a file system that answers late or never. Out: the board's samples and standings. Files are read in
threads of their own, READ_BYTES_MAX of a file a look; who prints more than that is caught up with by passing over.
An attempt's logs are followed from where they ended when it began, and no longer once a mark has come.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outrider import clock as clock_module
from outrider_agent import bounded, jobs, keepers
from outrider_agent.signals import ranks
from outrider_analysis.job_log import progress

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
LOOK_WITHIN_S: Final = 5.0
READ_BYTES_MAX: Final = 256 * 1024
BEHIND_BYTES_MAX: Final = 1024 * 1024  # further behind than this, the middle is passed over
LINE_BYTES_MAX: Final = 4 * progress.LINE_CHARS_MAX
_SAVED_SOMETHING: Final = progress.Phase("checkpoint", False)


@dataclass(frozen=True)
class Chunk:
    """What one look at one log brought. ``written_at``: when the file was last written to, by its file system."""

    found: tuple[progress.Found, ...] = ()
    written_at: float = 0.0
    skipped: int = 0  # bytes passed over


@dataclass
class Tail:
    """One log that is followed; ``offset`` is where it is read on. One thread at a time."""

    path: Path
    offset: int = 0
    inode: int | None = None
    rest: bytes = b""  # the beginning of a line whose end has not come
    torn: bool = False  # the rest of a line is to be passed over

    def read(self) -> Chunk:
        """What has been written since the last look, in whole lines. A file that is not there has nothing new; raises
        OSError where it cannot be read.
        """
        try:
            known = os.stat(self.path)
        except FileNotFoundError:
            return Chunk()
        if (known.st_ino, known.st_size) == (self.inode, self.offset):
            return Chunk()
        # What stands at this path may have become a pipe or a link to anything.
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return self._read(fd, os.fstat(fd))
        finally:
            os.close(fd)

    def _read(self, fd: int, known: os.stat_result) -> Chunk:
        if not stat.S_ISREG(known.st_mode):
            raise OSError(0, "is no regular file", str(self.path))
        first = self.inode is None
        if (not first and known.st_ino != self.inode) or known.st_size < self.offset:
            self.offset, self.rest, self.torn = 0, b"", False  # another file, or cut off: it begins anew
        self.inode = known.st_ino
        found: list[progress.Found] = []
        skipped = 0
        if known.st_size - self.offset > BEHIND_BYTES_MAX:
            if first:  # settings stand at the beginning, steps of then are no news
                found += [
                    f for f in self._take(os.pread(fd, READ_BYTES_MAX, self.offset)) if isinstance(f, progress.Sequence)
                ]
            skipped = known.st_size - READ_BYTES_MAX - self.offset
            self.offset, self.rest, self.torn = known.st_size - READ_BYTES_MAX, b"", True
        data = os.pread(fd, READ_BYTES_MAX, self.offset)
        self.offset += len(data)
        found += self._take(data)
        return Chunk(tuple(found), known.st_mtime, skipped)

    def _take(self, data: bytes) -> list[progress.Found]:
        """What the whole lines of ``data`` say, the rest of the last look in front."""
        lines = (self.rest + data).replace(b"\r", b"\n").split(b"\n")
        self.rest = lines.pop()
        if self.torn and lines:
            lines, self.torn = lines[1:], False
        if self.torn or len(self.rest) > LINE_BYTES_MAX:
            self.rest, self.torn = b"", True
        read = (progress.read_line(line.decode(errors="replace")) for line in lines)
        return [found for found in read if found is not None]


@dataclass
class _Job:
    """One attempt whose logs are followed."""

    generation: int
    tails: dict[int, Tail]
    looked_at: float = 0.0  # the look before, Unix seconds
    sequence: int | None = None  # tokens of a sequence, as the job said
    steps: dict[int, tuple[int, float]] = field(default_factory=dict)  # rank -> newest step and when


class Follower:
    """Follows the logs of every attempt on this node that speaks in no other way. One owner, the agent's event loop.

    ``skipped`` counts bytes that nobody read because a job printed too much.
    """

    def __init__(
        self,
        book: jobs.Book,
        keepers_: keepers.Keepers,
        board: ranks.Board,
        clock: clock_module.Clock,
        wake: Callable[[], None],
    ) -> None:
        self._book = book
        self._keepers = keepers_
        self._board = board
        self._clock = clock
        self._wake = wake
        self._threads = bounded.Threads()
        self._jobs: dict[str, _Job] = {}
        self._trouble: dict[str, str] = {}  # job -> why its logs could not be read at the last look
        self.skipped = 0

    async def run(self) -> None:
        """Look for ever, while there is a job."""
        while True:
            await self._keepers.some()
            await self.look()
            await self._clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once at the logs of every job of this node."""
        held = {one.job: one for one in self._keepers.all()}
        self._jobs = {name: job for name, job in self._jobs.items() if name in held}
        self._trouble = {name: why for name, why in self._trouble.items() if name in held}
        for name, one in held.items():
            generation, places = one.standing.generation, self._book.of(name)
            if not self._board.wants_lines(name, generation):
                self._jobs.pop(name, None)
            elif places is not None and places.generation == generation and places.log_sizes is not None:
                await self._follow(name, places, places.log_sizes, one.standing.living)

    async def _follow(self, name: str, places: jobs.Places, sizes: dict[int, int], pids: dict[int, int]) -> None:
        job = self._jobs.get(name)
        if job is None or job.generation != places.generation:
            tails = {rank: Tail(places.log_of(rank), size) for rank, size in sorted(sizes.items())}
            job = self._jobs[name] = _Job(places.generation, tails)
        before, job.looked_at = job.looked_at, self._clock.now()
        try:
            read = functools.partial(_read, job.tails)
            chunks, trouble = await self._threads.ask(f"logs of {name}", read, LOOK_WITHIN_S)
        except bounded.CouldNotLook as error:
            self._say(name, str(error))
            return
        self._say(name, trouble)
        for rank, chunk in chunks.items():
            self.skipped += chunk.skipped
            # Written between the two looks, whatever the clock of the file system says.
            at = max(before, min(chunk.written_at, job.looked_at)) if before else job.looked_at
            await self._count(job, places, ranks.Line(name, job.generation, rank, pids, at), chunk.found)
        if chunks:
            self._wake()

    async def _count(self, job: _Job, places: jobs.Places, last: ranks.Line, found: tuple[progress.Found, ...]) -> None:
        """Count what one log said; ``last`` tells when its newest line was written."""
        steps = sum(isinstance(one, progress.Step) for one in found)
        began = job.steps[last.rank][1] if last.rank in job.steps else last.at
        share, line = 0, last
        for one in found:
            tokens = None
            if isinstance(one, progress.Sequence):
                job.sequence = one.length
            elif isinstance(one, progress.Step):
                share += 1  # when each line of many was written is not known: evenly, since the newest one before
                line = dataclasses.replace(last, at=began + (last.at - began) * share / steps)
                tokens = one.tokens(places.world, job.sequence, _lasted(job.steps.get(last.rank), one.step, line.at))
                job.steps[last.rank] = (one.step, line.at)
            elif isinstance(one, progress.Saved):
                one = progress.Saved(one.step, os.path.join(places.cwd, one.path))
            self._board.take_line(line, one, tokens)
            if one == _SAVED_SOMETHING and last.rank == min(job.steps, default=None):
                await self._look_for_checkpoint(places, line, job.steps[last.rank][0])

    async def _look_for_checkpoint(self, places: jobs.Places, line: ranks.Line, step: int) -> None:
        """TorchTitan does not say which checkpoint it has saved: that of the step it told last, if that is there."""
        if not places.checkpoints:
            return
        path = Path(places.checkpoints, f"step-{step}")
        try:
            there = await self._threads.ask(f"checkpoint of {line.job}", (path / ".metadata").is_file, LOOK_WITHIN_S)
        except (bounded.CouldNotLook, OSError):
            return
        if there:
            self._board.take_line(line, progress.Saved(step, str(path)))

    def _say(self, name: str, trouble: str) -> None:
        """Once when the logs of a job can no longer be read, and once when they can again."""
        if trouble != self._trouble.get(name, ""):
            if trouble:
                log.warning("the logs of a job cannot be read", extra={"job": name, "why": trouble})
            else:
                log.info("the logs of a job can be read again", extra={"job": name})
            self._trouble[name] = trouble


def sizes(places: jobs.Places, wanted: Iterable[int]) -> dict[int, int]:
    """How long the logs of these ranks are; what is not there has no length. Takes as long as the file system does."""
    found = {}
    for rank in wanted:
        try:
            found[rank] = os.stat(places.log_of(rank)).st_size
        except OSError:
            found[rank] = 0
    return found


def _read(tails: dict[int, Tail]) -> tuple[dict[int, Chunk], str]:
    """What is new in each log, and why one could not be read."""
    chunks, trouble = {}, ""
    for rank, tail in tails.items():
        try:
            chunk = tail.read()
        except OSError as error:
            trouble = f"{tail.path}: {error.strerror or error}"
            continue
        if chunk.found or chunk.skipped:
            chunks[rank] = chunk
    return chunks, trouble


def _lasted(before: tuple[int, float] | None, step: int, at: float) -> float | None:
    """Seconds a step since the line before, None where that cannot be told."""
    if before is None or step <= before[0] or at <= before[1]:
        return None
    return (at - before[1]) / (step - before[0])
