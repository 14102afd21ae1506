"""Effects in flight and deadlines that are due: what has to happen after a turn, each in a task of its own.

In: EffectRequested rows that are on the disk, timers in the state. Out: EffectDone and TimerFired facts. A result
that the disk does not take is offered again until it does, because an effect is over only when its result is
recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from outrider import clock as clock_module
from outrider_controller import effects as effects_module
from outrider_controller import ledger as ledgers
from outrider_controller import turns as turns_module
from outrider_controller.core import jobs, records, trust
from outrider_controller.core import state as states

RECORD_AGAIN_S: Final = 1.0
EFFECTS_IN_FLIGHT_MAX: Final = 1024
TIMER_LOOK_S_MAX: Final = 60.0  # a wall clock that jumps is noticed within this

log = logging.getLogger(__name__)


class EffectRunner:
    """Performs effects, each once at a time per id. ``job_step``: newest finished step of a job, for the result."""

    def __init__(
        self,
        effects: effects_module.Effects,
        turns: turns_module.Turns,
        clock: clock_module.Clock,
        job_step: Callable[[str], int | None],
    ) -> None:
        self._effects = effects
        self._turns = turns
        self._clock = clock
        self._job_step = job_step
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._binding: dict[
            str, str
        ] = {}  # effect in flight -> job, for those that a new job of the name must wait for
        self._slots = asyncio.Semaphore(EFFECTS_IN_FLIGHT_MAX)

    def begin(self, rows: Iterable[records.Row]) -> None:
        """Start every effect among ``rows``."""
        for row in rows:
            if not isinstance(row, records.EffectRequested) or row.effect in self._tasks:
                continue
            job = self._turns.state.jobs.get(row.job)
            if job is not None or not row.job:
                self._start(row, job.spec if job is not None else None)

    def resume(self) -> int:
        """After a restart: start again, under the same id, every effect without a result; how many there are."""
        for job in self._turns.state.jobs.values():
            self.begin(job.pending)
        self.begin(node.checking for node in self._turns.state.nodes.values() if node.checking is not None)
        return len(self._tasks)

    def binds(self, job: str) -> bool:
        """Whether an effect in flight still touches the nodes of ``job``."""
        return job in self._binding.values()

    async def close(self) -> None:
        """Let go; what is unfinished is begun again at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, effect: records.EffectRequested, spec: jobs.JobSpec | None) -> None:
        task = asyncio.create_task(self._run(effect, spec), name=f"effect-{effect.effect}-{effect.name}")
        self._tasks[effect.effect] = task
        if effect.job and effect.name != "notify" and effect.name not in trust.ASIDE:
            self._binding[effect.effect] = effect.job
        task.add_done_callback(lambda ended: self._ended(effect.effect, ended))

    def _ended(self, effect: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(effect, None)
        self._binding.pop(effect, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task ended by an error", extra={"task": task.get_name()}, exc_info=error)

    async def _run(self, effect: records.EffectRequested, spec: jobs.JobSpec | None) -> None:
        async with self._slots:
            done = await self._effects.perform(effect, spec)
        done = turns_module.with_job_step(done, self._job_step(effect.job))
        while True:
            try:
                await self._turns.submit((done,))
                return
            except ledgers.UnwritableError:
                await self._clock.sleep(RECORD_AGAIN_S)
            except (ledgers.LedgerError, turns_module.StoppedError):
                return  # a successor, or our own next start, performs it again


class Timers:
    """Brings TimerFired for every deadline in the state."""

    def __init__(
        self, turns: turns_module.Turns, clock: clock_module.Clock, job_step: Callable[[str], int | None]
    ) -> None:
        self._turns = turns
        self._clock = clock
        self._job_step = job_step

    async def run(self) -> None:
        """Wait for the nearest deadline or a change, for ever."""
        while True:
            due = [timer for job in self._turns.state.jobs.values() for timer in job.timers]
            now = self._clock.now()
            if any(at <= now for _, at in due):
                await self._fire()
                continue
            wait_s = min((at - now for _, at in due), default=TIMER_LOOK_S_MAX)
            try:
                async with asyncio.timeout(min(wait_s, TIMER_LOOK_S_MAX)):
                    await self._turns.changed()
            except TimeoutError:
                pass

    async def _fire(self) -> None:
        try:
            await self._turns.submit_made(self._due)
        except ledgers.UnwritableError:
            await self._clock.sleep(RECORD_AGAIN_S)
        except (ledgers.LedgerError, turns_module.StoppedError):
            await self._clock.sleep(TIMER_LOOK_S_MAX)

    def _due(self, state: states.State) -> Sequence[records.Row]:
        """Deadlines that have passed and are still wanted, the oldest first."""
        now = self._clock.now()
        due = sorted((at, name, timer) for name, job in state.jobs.items() for timer, at in job.timers if at <= now)
        return [records.TimerFired(now, name, timer, self._job_step(name)) for _, name, timer in due]
