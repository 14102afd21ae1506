"""Progress of ranks that tell nothing themselves: how many collectives their flight recorders have counted.

In: the flight record of one rank per job of this node, asked for over its control socket while no mark and no line of
a log has come for QUIET_S. Out: the board's counters, which heartbeats carry.
Who speaks that often is never asked.

What it costs, measured with torch 2.13 on 2 shared cores (load 5): a full record of 2,000 entries takes a rank 0.07 s
(median of 40 answers, 0.96 MB), in a thread of its own that needs no interpreter lock; a rank asked once a second made
62.8 steps a second, left alone 61.9. So a rank is asked every ASK_S, and less often where its answers take so long that
this would be more than COST_SHARE_MAX of the time. The pauses between two answers are what the deadline of such a job
is learned from, so asking seldom means noticing late.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Final

from outrider import clock as clock_module
from outrider_agent import bounded, keepers
from outrider_agent.keeper import home
from outrider_agent.signals import control, ranks
from outrider_analysis.flight_recorder import status

log = logging.getLogger(__name__)

ASK_S: Final = 2.0
LOOK_S: Final = 0.5  # how often it is looked whether somebody may be asked
QUIET_S: Final = 5.0
ANSWER_WITHIN_S: Final = 2.0
COST_SHARE_MAX: Final = 0.05


class Asker:
    """Asks in turn. One owner, the agent's event loop. ``asked`` and ``answered`` count since the agent began."""

    def __init__(self, runtime: Path, keepers_: keepers.Keepers, board: ranks.Board, clock: clock_module.Clock) -> None:
        self._runtime = runtime
        self._keepers = keepers_
        self._board = board
        self._clock = clock
        self._threads = bounded.Threads()
        self._speaker: dict[str, int] = {}  # job -> which of its ranks here is asked; another once that one is silent
        self._due: dict[str, float] = {}  # job -> when it may be asked again (monotonic)
        self.asked = 0
        self.answered = 0

    async def run(self) -> None:
        """Ask for ever, while there is a job."""
        while True:
            await self._keepers.some()
            await self.look()
            await self._clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask one rank of every job of this node that is quiet and may be asked again."""
        held = {one.job: one.standing for one in self._keepers.all() if one.standing.living}
        self._speaker = {job: rank for job, rank in self._speaker.items() if job in held}
        self._due = {job: due for job, due in self._due.items() if job in held}
        for job, standing in held.items():
            sign_at = self._board.sign_at(job, standing.generation)
            quiet = sign_at is not None and self._clock.now() - sign_at >= QUIET_S
            if quiet and self._clock.monotonic() >= self._due.get(job, 0.0):
                await self._ask(job, standing.generation, dict(standing.living))

    async def _ask(self, job: str, generation: int, pids: dict[int, int]) -> None:
        rank = self._speaker.get(job, min(pids))
        if rank not in pids:
            rank = min(pids)
        began = self._clock.monotonic()
        self.asked += 1
        try:
            path = home.of(self._runtime, job).control_socket(rank)
            answer = await control.flight_record(path, ANSWER_WITHIN_S)
            took_s = self._clock.monotonic() - began
            read = functools.partial(status.read_status, answer)
            found = await self._threads.ask(f"flight record of {job}", read, ANSWER_WITHIN_S)
        except (control.ControlError, bounded.CouldNotLook, status.StatusError) as error:
            took_s = 0.0
            self._speaker[job] = min((other for other in pids if other > rank), default=min(pids))
            log.debug("a rank's flight record could not be had", extra={"job": job, "rank": rank, "why": error})
        else:
            self.answered += 1
            self._speaker[job] = rank
            self._board.take_collectives(job, generation, rank, pids[rank], found.enqueued, self._clock.now())
        self._due[job] = self._clock.monotonic() + max(ASK_S, took_s / COST_SHARE_MAX)
