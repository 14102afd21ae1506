"""A capture: what every rank of a job on this node is doing, asked of all at once and within a deadline.

In: the job's living ranks, where they can be asked, and where their flight records appear. Out: a
records.RankEvidence for each rank, also for those that did not answer; their ``error`` says why; and a digest of the
flight records, which a process of its own collects meanwhile. Whole answers and dumps are kept beside the job's logs.
Nothing is done to any rank.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from outrider import clock as clock_module
from outrider import records
from outrider_agent import bounded, evidence, rank_look, resident
from outrider_agent.flight_recorder import gather
from outrider_agent.signals import stacks

log = logging.getLogger(__name__)

DEADLINE_S: Final = 6.0
DEADLINE_S_MAX: Final = 60.0
AT_ONCE_MAX: Final = 24  # ranks; each may take two threads of bounded.THREADS_MAX
KEEP_S: Final = 1.0  # for writing the whole answer down, within the deadline's last part
FRAMES_PER_ANSWER_MAX: Final = 8_192  # over all ranks, so that 1,024 of them fit into one frame of the wire
FRAMES_MIN: Final = 8
OWED_KEPT_MAX: Final = 4_096


class Capture:
    """Looks at ranks. One owner, the orders; several looks may be under way."""

    def __init__(self, clock: clock_module.Clock) -> None:
        self._clock = clock
        self._tools = rank_look.Tools(bounded.Threads(), clock, stacks.pyspy())
        self._gatherer = gather.Gatherer()
        self._number = 0

    async def look(
        self,
        targets: Sequence[rank_look.Target],
        logs: Path | None,
        within_s: float,
        sought: gather.Sought | None = None,
    ) -> records.Json:
        """Look at all ``targets`` and collect the flight records that are ``sought``, within ``within_s`` seconds; the
        result of the order. ``logs``: the job's, if known. Raises nothing: what hangs is let go of and said.
        """
        self._number += 1
        if sought is None:
            return {"ranks": await self._look_at(targets, logs, within_s)}
        name = f"{self._stamp(self._clock.now())}-{self._number}-generation-{sought.generation}"
        ranks, known = await asyncio.gather(
            self._look_at(targets, logs, within_s), self._gatherer.gather(sought, name, within_s)
        )
        resident.trim()  # what was read is gone, and many threads have had memory of their own for it
        return {"ranks": ranks, "flight_recorder": known}

    async def _look_at(
        self, targets: Sequence[rank_look.Target], logs: Path | None, within_s: float
    ) -> list[records.Json]:
        if len(self._tools.owed) > OWED_KEPT_MAX:
            self._tools.owed.clear()
        limit = asyncio.Semaphore(AT_ONCE_MAX)
        ends = self._clock.monotonic() + within_s
        looks = [rank_look.RankLook(target, self._tools, self._number) for target in targets]
        files: dict[int, str] = {}

        async def one(index: int) -> None:
            async with limit:
                await looks[index].run(within_s)
                files[index] = await self._keep(targets[index], looks[index], logs, ends)

        tasks = [asyncio.create_task(one(index), name=f"look at rank {index}") for index in range(len(looks))]
        late = set[asyncio.Task[None]]()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task, look in zip(tasks, looks, strict=True):
            _say(task, look, within_s)
        most = max(FRAMES_MIN, min(records.EVIDENCE_FRAMES_MAX, FRAMES_PER_ANSWER_MAX // max(1, len(looks))))
        found = [look.evidence(most, files.get(index, "")) for index, look in enumerate(looks)]
        return [dataclasses.asdict(each) for each in found]

    async def _keep(self, target: rank_look.Target, look: rank_look.RankLook, logs: Path | None, ends: float) -> str:
        """Write the whole answer down; where, or "" and a note in the evidence why not."""
        left = min(KEEP_S, ends - self._clock.monotonic())
        if logs is None or left <= 0:
            look.note(
                "the whole answer is not kept: " + ("no time was left" if logs else "where the job logs is unknown")
            )
            return ""
        process, now = target.process, self._clock.now()
        name = f"generation-{process.generation}-{self._stamp(now)}-{self._number}-rank-{process.rank}.json"
        body = look.document(now)
        try:
            asked = f"evidence {process.job}/{name}"
            return str(await self._tools.threads.ask(asked, lambda: evidence.keep(logs, name, body), left))
        except (OSError, bounded.CouldNotLook) as error:
            look.note(f"the whole answer is not kept: {error}")
            return ""

    @staticmethod
    def _stamp(at: float) -> str:
        """A moment (Unix seconds) as names of files have it; they sort by it."""
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]


def absent(rank: int, why: str) -> records.Json:
    """What is answered for a rank that does not run here."""
    return dataclasses.asdict(records.RankEvidence(rank, 0, "gone", "none", error=why))


def _say(task: asyncio.Task[None], look: rank_look.RankLook, within_s: float) -> None:
    if task.cancelled():
        look.note(f"the look was ended after {within_s:g} s")
    elif (error := task.exception()) is not None:
        log.error("a look at a rank failed in an unforeseen way", exc_info=error)
        look.note(f"the look failed: {type(error).__name__}: {error}")
