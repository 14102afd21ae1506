"""The order ``capture``: whom it concerns, and where these can be asked and have their records; then ``capture`` looks.

In: a job's name and generation, and some of its ranks or none for all. Out: the result of the order. A job whose ranks
have all ended is still told of: their dumps lie on this node, and say what nobody can be asked any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from outrider import wire
from outrider.records import Json
from outrider_agent import capture, jobs, keepers, pruning, rank_look, standing
from outrider_agent.flight_recorder import gather, keep
from outrider_agent.keeper import home
from outrider_agent.signals import processes

SLACK_S: Final = 30.0  # after a capture, in which a dump is still one that was asked for: stacks take torch long


class CaptureError(Exception):
    """A job that cannot be looked at here; the message names it, and the way out."""


class Captures:
    """Carries captures out. ``asked`` is told of jobs whose ranks are about to be asked for dumps, and for how long;
    ``pruner`` of kept dumps that made room for new ones.
    """

    def __init__(
        self,
        node: str,
        runtime: Path,
        keepers_: keepers.Keepers,
        book: jobs.Book,
        look: capture.Capture,
        asked: Callable[[str, float], None],
        pruner: pruning.Pruner,
    ) -> None:
        self._node = node
        self._runtime = runtime
        self._keepers = keepers_
        self._book = book
        self._look = look
        self._asked = asked
        self._pruner = pruner

    async def carry_out(self, order: wire.Order, ranks: Iterable[int], within_s: float) -> Json:
        """What the ranks of the job are doing. Waits for no keeper: one that is busy tells nothing of its ranks."""
        now, parent = self._standing(order)
        place = home.of(self._runtime, order.job)
        wanted = sorted(set(ranks) or set(now.living) or now.gone)
        targets = [
            rank_look.Target(
                processes.Process(order.job, now.generation, rank, now.living[rank], parent),
                place.control_socket(rank),
                place.stacks(rank),
            )
            for rank in wanted
            if rank in now.living
        ]
        why = f"rank {{}} of job {order.job} does not run on {self._node}"
        missing = [capture.absent(rank, why.format(rank)) for rank in wanted if rank not in now.living]
        self._asked(order.job, within_s + SLACK_S)
        logs = self._logs(order.job)
        found = await self._look.look(targets, logs, within_s, self._sought(now, wanted, place, logs))
        removed = found["flight_recorder"].pop("removed")
        self._pruner.captures_removed(order.job, now.generation, removed, keep.CAPTURES_MAX)
        return {**found, "ranks": found["ranks"] + missing}

    def _standing(self, order: wire.Order) -> tuple[standing.Standing, int]:
        """What is known of the job's ranks, and their keeper's pid. Raises CaptureError."""
        held = next((one for one in self._keepers.all() if one.job == order.job), None)
        if held is None and any(state.job == order.job for state in self._keepers.states()):
            raise CaptureError(f"the keeper of job {order.job} has not answered the agent of this node yet; ask again")
        known = self._book.of(order.job)
        if held is not None:
            now, parent = held.standing, held.keeper.hello.pid
        elif known is not None:
            now, parent = standing.Standing(self._node, order.job, known.generation, known.attempt), 0
        else:
            raise CaptureError(f"no rank of job {order.job} runs on {self._node}")
        if now.generation != order.generation:
            raise CaptureError(
                f"job {order.job} on {self._node} is at generation {now.generation}, not {order.generation}"
            )
        return now, parent

    def _logs(self, job: str) -> Path | None:
        known = self._book.of(job)
        return Path(known.logs) if known is not None else None

    def _sought(self, now: standing.Standing, wanted: list[int], place: home.Home, logs: Path | None) -> gather.Sought:
        """Records of whom was asked for and of whoever has ended: what those wrote is all that is left of them."""
        pids = {**dict.fromkeys(now.gone, 0), **{rank: now.living.get(rank, 0) for rank in wanted}}
        return gather.Sought(
            job=now.job,
            generation=now.generation,
            node=self._node,
            home=place.path,
            control=str(place.control_socket(0)).removesuffix("0.sock"),
            pids=pids,
            keep=(*([logs] if logs is not None else []), self._runtime),
        )
