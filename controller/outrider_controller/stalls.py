"""The watch over silence: which job has given no sign of progress for longer than its own history explains.

In: what ranks say of themselves (handed on by ``nodes``), the nodes' connections, the state. Out: the facts Suspected
and Resumed, found by comparing with the state, so that asking twice gives nothing twice and what was not recorded is
found again. Durations of phases go to the series store and outlive attempts and controllers.

Nobody is suspected while a node of the job is not heard, while the attempt is being started or ended, or before the job
has ever spoken. Time is monotonic, counts from the start of this controller, and stands still while the controller
itself did: a machine that was suspended is no hang.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from outrider import clock as clock_module
from outrider import records as spoken
from outrider_analysis import deadlines
from outrider_controller import ledger as ledgers
from outrider_controller import nodes as nodes_module
from outrider_controller import pace as paces
from outrider_controller import turns as turns_module
from outrider_controller.core import jobs, records
from outrider_controller.core import state as states

LOOK_S: Final = 0.5
DEAF_S_MIN: Final = 2.0  # a longer pause between two rounds: we were not running and heard nobody
HEARTBEATS_TO_BE_HEARD: Final = 2.0  # after a gap, until each rank's standing has come again
RANKS_NAMED_MAX: Final = 64
JOBS_MAX: Final = 256

log = logging.getLogger(__name__)


class Store(Protocol):
    """Where durations outlive this controller (series.Series)."""

    def add_durations(self, job: str, found: Iterable[tuple[str, float]]) -> None:
        """Keep (phase, seconds)."""
        ...

    def durations(self, job: str) -> Mapping[str, list[float]]:
        """What was kept, by phase, oldest first."""
        ...


@dataclass
class _Watched:
    """One job. ``baseline``: signs when it was last found silent; more of them mean that it goes on."""

    history: dict[str, deque[float]]
    pace: paces.Pace | None = None
    baseline: int = 0
    heard_since: float | None = None  # every node of it has been heard since
    deadlines: dict[str, tuple[int, deadlines.Deadline]] = field(default_factory=dict)  # phase -> (samples seen, found)
    learned: dict[str, int] = field(default_factory=dict)  # phase -> samples ever


class Stalls:
    """All jobs of one controller; ``nodes`` says who is heard, and how far each job is."""

    def __init__(
        self,
        turns: turns_module.Turns,
        store: Store,
        clock: clock_module.Clock,
        nodes: nodes_module.Nodes,
        heartbeat_s: float,
    ) -> None:
        self._turns = turns
        self._store = store
        self._clock = clock
        self._heard = nodes.heard_s
        self._job_step = nodes.job_step
        self._heartbeat_s = heartbeat_s
        self._jobs: dict[str, _Watched] = {}
        self._last_round: float | None = None
        self._recovered: dict[str, int] = {}  # job -> generation that was under way when this controller began

    def recovered(self, state: states.State) -> None:
        """The attempts of ``state`` ran before this controller began: what it first hears of them may be old."""
        self._recovered = {name: job.generation for name, job in state.jobs.items() if not job.over}

    def take(self, job: str, generation: int, ranks: Iterable[spoken.RankProgress]) -> None:
        """What ranks of the attempt under way say of themselves."""
        state = self._turns.state.jobs.get(job)
        watched = self._watched(job, state) if state is not None else None
        if watched is not None and watched.pace is not None and watched.pace.generation == generation:
            watched.pace.take(ranks, self._clock.monotonic())

    def forget(self, job: str) -> None:
        """A job of this name begins anew; what its phases took is still the best guess."""
        self._jobs.pop(job, None)

    async def run(self) -> None:
        """Look at every job, for ever."""
        while True:
            await self._clock.sleep(LOOK_S)
            self._mind_the_gap(self._clock.monotonic())
            for name in list(self._turns.state.jobs):
                self.learn(name)
                if self.edges(name, self._turns.state):
                    await self._tell(name)

    async def _tell(self, name: str) -> None:
        try:
            await self._turns.submit_made(lambda state: self.edges(name, state))
        except (ledgers.LedgerError, turns_module.StoppedError) as error:
            log.warning("a silence could not be recorded", extra={"job": name, "why": error})

    def _mind_the_gap(self, now: float) -> None:
        """While this process did not run, nobody was silent to it."""
        gap = now - self._last_round if self._last_round is not None else 0.0
        self._last_round = now
        if gap < DEAF_S_MIN:
            return
        for watched in self._jobs.values():
            watched.heard_since = None
            if watched.pace is not None:
                watched.pace.sign_at = min(now, watched.pace.sign_at + gap)

    def learn(self, name: str) -> None:
        """Take over what phases took."""
        watched = self._jobs.get(name)
        news = watched.pace.take_news() if watched is not None and watched.pace is not None else []
        if watched is None or not news:
            return
        for item in news:
            watched.history.setdefault(item.phase, _empty()).append(item.seconds)
            watched.learned[item.phase] = watched.learned.get(item.phase, 0) + 1
        self._store.add_durations(name, [(item.phase, item.seconds) for item in news])

    def edges(self, name: str, state: states.State) -> list[records.Fact]:
        """Suspected or Resumed, where the state does not show it yet."""
        job = state.jobs.get(name)
        watched = self._watched(name, job) if job is not None else None
        if job is None or watched is None or watched.pace is None or job.attempt is None:
            return []
        if job.attempt.stop_wanted:
            return []  # the last words of ranks that are ended are no progress
        found, now = job.attempt.suspicion, self._clock.monotonic()
        if found is not None and found.silent:
            return self._resumed(name, watched, found) if watched.pace.signs > watched.baseline else []
        watched.baseline = watched.pace.signs
        if not self._may_suspect(job, watched, state, now):
            return []
        return self._suspected(name, job.spec.limits, watched, now)

    def _resumed(self, name: str, watched: _Watched, found: states.Suspicion) -> list[records.Fact]:
        assert watched.pace is not None
        at = self._clock.now()
        silent_s = max(0.0, at - found.since - (self._clock.monotonic() - watched.pace.sign_at))
        return [records.Resumed(at, name, watched.pace.generation, silent_s, self._job_step(name))]

    def _suspected(self, name: str, limits: jobs.Limits, watched: _Watched, now: float) -> list[records.Fact]:
        pace = watched.pace
        assert pace is not None
        silent_s = now - pace.sign_at
        expected = deadlines.largest([self._deadline(watched, phase, limits.stall_s) for phase in pace.phases()])
        if expected is None or silent_s <= expected.look_s:
            return []
        at = self._clock.now()
        return [
            records.Suspected(
                at=at,
                job=name,
                generation=pace.generation,
                phase=expected.phase,
                since=at - silent_s,
                deadline_s=expected.look_s,
                act_s=expected.act_s,
                basis=expected.basis,
                ranks=pace.oldest(RANKS_NAMED_MAX),
                job_step=self._job_step(name),
            )
        ]

    def _may_suspect(self, job: states.JobState, watched: _Watched, state: states.State, now: float) -> bool:
        attempt, pace = job.attempt, watched.pace
        if attempt is None or pace is None or job.over or job.state == "held" or job.spec.limits.stall_s <= 0:
            return False
        if attempt.running_at is None:
            pace.touch(now)
        if attempt.running_at is None or attempt.stop_wanted or not (job.speaks or pace.speaks):
            return False
        silent = any(node not in state.nodes or state.nodes[node].silent_since for node in attempt.placement)
        ages = [self._heard(node) for node in attempt.placement]
        if silent or any(age is None or age > HEARTBEATS_TO_BE_HEARD * self._heartbeat_s for age in ages):
            watched.heard_since = None
            return False
        watched.heard_since = now if watched.heard_since is None else watched.heard_since
        return now - watched.heard_since >= HEARTBEATS_TO_BE_HEARD * self._heartbeat_s

    def _deadline(self, watched: _Watched, phase: str, stall_s: float) -> deadlines.Deadline:
        """Worked out anew when there is more to learn from."""
        count = watched.learned.get(phase, 0)
        known = watched.deadlines.get(phase)
        if known is None or known[0] != count:
            known = (count, deadlines.deadline(phase, tuple(watched.history.get(phase, ())), stall_s))
            watched.deadlines[phase] = known
        return known[1]

    def _watched(self, name: str, job: states.JobState) -> _Watched | None:
        """The job's entry, with the pace of its attempt under way."""
        watched = self._jobs.get(name)
        if watched is None:
            if len(self._jobs) >= JOBS_MAX and not self._make_room():
                return None
            kept = self._store.durations(name)
            watched = _Watched({phase: deque(items, deadlines.DURATIONS_MAX) for phase, items in kept.items()})
            watched.learned = {phase: len(items) for phase, items in kept.items()}
            self._jobs[name] = watched
        attempt = job.attempt
        if attempt is None or job.over:
            watched.pace = None
        elif watched.pace is None or watched.pace.generation != attempt.generation:
            self.learn(name)
            old = self._recovered.get(name) == attempt.generation
            now = self._clock.monotonic()
            watched.pace = paces.Pace(attempt.generation, now, job.spec.world_size, first_heard_counts=not old)
            watched.baseline, watched.heard_since = 0, None
        return watched

    def _make_room(self) -> bool:
        jobs_now = self._turns.state.jobs
        for name in [name for name in self._jobs if name not in jobs_now or jobs_now[name].over]:
            del self._jobs[name]
        return len(self._jobs) < JOBS_MAX


def _empty() -> deque[float]:
    return deque(maxlen=deadlines.DURATIONS_MAX)
