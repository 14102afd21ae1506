"""What runs of one job on this node, as its keeper's events tell it, and what each event means.

In: events in the order of their numbers, from a keeper that lives or from the journal that a dead one left; where the
board knows a rank, its step and phase. Out: an observation for each event that is one, and the ranks that still live.
Nothing here talks to anyone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from outrider import records
from outrider_agent import observe
from outrider_agent.signals import host, ranks

log = logging.getLogger(__name__)


@dataclass
class Standing:
    """One job on this node. Invariant: a rank is in ``living`` or in ``gone``, never in both."""

    node: str
    job: str
    generation: int = 0
    attempt: int = 0
    warm: bool = False
    living: dict[int, int] = field(default_factory=dict)  # pid by rank, of ``generation``
    gone: set[int] = field(default_factory=set)  # ranks of ``generation`` whose end has come
    visible_devices: str | None = None
    device_order: str | None = None
    oom_kills_before: int | None = None

    def started(
        self,
        generation: int,
        attempt: int,
        pids: dict[int, int],
        warm: bool,
        visible_devices: str | None = None,
        device_order: str | None = None,
    ) -> None:
        """Ranks run, as an answer or an event says; the same news twice is one, older news is none."""
        if generation < self.generation:
            return
        if generation > self.generation:
            self.gone.clear()
            self.living.clear()
            self.oom_kills_before = host.oom_kills()
        self.generation, self.attempt, self.warm = generation, attempt, warm
        self.visible_devices, self.device_order = visible_devices, device_order
        self.living.update({rank: pid for rank, pid in pids.items() if rank not in self.gone})

    def judge(self, event: records.Json, board: ranks.Board, now: float) -> records.Observation | None:
        """What ``event`` of the keeper means; None for one that is no observation."""
        kind, generation = event.get("kind"), event.get("generation")
        place = observe.Place(self.node, self.job, generation if isinstance(generation, int) else self.generation)
        at = event.get("at")
        at = float(at) if isinstance(at, int | float) else now
        if kind == "rank-exited":
            return self._exited(place, event, board)
        if kind == "ranks-started":
            visible, order = (_word(event.get(key)) for key in ("visible_devices", "device_order"))
            warm = event.get("warm") is True
            self.started(place.generation, _whole(event.get("attempt")), _pids(event), warm, visible, order)
            return observe.ranks_started(place, event, at)
        if kind == "cold-start":
            return observe.cold_start(place, event, at)
        if kind == "start-failed":
            return observe.start_failed(place, event, at)
        return None

    def state(self) -> records.KeeperState:
        """The same as the controller is told it in a hello."""
        first = min({*self.living, *self.gone}, default=0)
        known = {**dict.fromkeys(self.gone, 0), **self.living}
        found = [records.RankState(rank, rank - first, pid, pid > 0) for rank, pid in sorted(known.items())]
        state = "running" if self.living else "ended" if self.gone else "idle"
        gpus = self.visible_devices, self.device_order
        return records.KeeperState(self.job, self.generation, self.attempt, state, self.warm, tuple(found), *gpus)

    def _exited(self, place: observe.Place, event: records.Json, board: ranks.Board) -> records.Observation | None:
        known = observe.exit_of(event)
        if known is None:
            log.error("a rank-exited event cannot be read", extra={"job": self.job, "event": event})
            return None
        step, phase = board.step_and_phase(self.job, place.generation, known.rank)
        now = host.oom_kills()
        risen = now - self.oom_kills_before if now is not None and self.oom_kills_before is not None else 0
        if place.generation == self.generation:
            self.living.pop(known.rank, None)
            self.gone.add(known.rank)
        return observe.rank_exited(place, observe.completed(known, step, phase, risen))


def of_state(node: str, state: records.KeeperState) -> Standing:
    """What an adopted keeper says runs."""
    return Standing(
        node,
        state.job,
        state.generation,
        state.attempt,
        state.warm,
        {rank.rank: rank.pid for rank in state.ranks if rank.alive},
        {rank.rank for rank in state.ranks if not rank.alive},
        state.visible_devices,
        state.device_order,
    )


def _pids(event: records.Json) -> dict[int, int]:
    given = event.get("pids")
    items = given.items() if isinstance(given, dict) else ()
    return {int(rank): pid for rank, pid in items if str(rank).isdigit() and isinstance(pid, int)}


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
