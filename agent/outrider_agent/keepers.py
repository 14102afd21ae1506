"""The keepers of this node as the agent sees them: found or started, followed, and mourned when they die.

In: keepers' events, and the ends of their connections. Out: observations in the spool (each event once, whatever dies
in between), and for the orders, what runs of each job. A keeper is adopted by every agent after the one that started
it; when its process has gone without having been released, its ranks went with it, and that is an observation.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outrider import clock as clock_module
from outrider import fence, records
from outrider_agent import keeper_client, observe, spool, standing, tasks
from outrider_agent.keeper import home
from outrider_agent.signals import host, ranks

log = logging.getLogger(__name__)

KEEPERS_MAX: Final = 64
LOCKS_MAX: Final = 1_024
ADOPT_ALL_S: Final = 2.0
ADOPT_PAUSE_S: Final = 0.2
LEAVING_S_MAX: Final = 5.0
LEAVING_LOOK_S: Final = 0.01
LOOK_S: Final = 0.5  # how often a wait for ranks to end asks the keeper itself
JOURNAL_BYTES_MAX: Final = 64 * 1024 * 1024


class TooManyKeepersError(Exception):
    """The node has as many keepers as it can follow."""


@dataclass
class Held:
    """One keeper that is being followed. ``changed`` is set whenever something about it is new."""

    keeper: keeper_client.Keeper
    standing: standing.Standing
    released: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def job(self) -> str:
        """Whose keeper it is."""
        return self.standing.job

    @property
    def journal(self) -> str:
        """Name of the numbering of its events."""
        return self.keeper.hello.journal


class Keepers:
    """Every keeper of the node, by job. One owner, the agent's event loop."""

    def __init__(
        self,
        node: str,
        runtime: Path,
        spool_: spool.Spool,
        board: ranks.Board,
        clock: clock_module.Clock,
        wake: Callable[[], None],
    ) -> None:
        self._node = node
        self._runtime = runtime
        self._spool = spool_
        self._board = board
        self._clock = clock
        self._wake = wake
        self._held: dict[str, Held] = {}
        self._not_yet: dict[str, spool.Alive] = {}  # ranks a former agent left, whose keeper has not answered us yet
        self._locks: dict[str, asyncio.Lock] = {}
        self._followers = tasks.Tasks()
        self._some = asyncio.Event()  # set while there is a keeper

    async def adopt_all(self) -> None:
        """Take over every keeper that a former agent left, and account for those that died meanwhile."""
        remembered = self._spool.alive()
        for job in sorted({*home.jobs(self._runtime), *remembered})[:KEEPERS_MAX]:
            alive = remembered.get(job, spool.Alive(0, {}))
            self._not_yet[job] = alive
            self._followers.start(f"adopt-{job}", self._adopt(job, alive))
        # A keeper that is importing greets only afterwards; the controller is not kept waiting for it.
        await self._followers.wait(ADOPT_ALL_S)

    async def get(self, job: str) -> Held | None:
        """The keeper of ``job`` while it lives; waits where it is being started or adopted at this moment."""
        async with self._lock(job):
            return self._held.get(job)

    def all(self) -> tuple[Held, ...]:
        """Every keeper that lives."""
        return tuple(self._held.values())

    async def some(self) -> None:
        """Wait until there is a keeper, so that what follows jobs costs a node without one nothing."""
        await self._some.wait()

    def states(self) -> tuple[records.KeeperState, ...]:
        """What every keeper holds, for the hello.

        A keeper that lives and has not answered yet is no keeper without ranks: it is told with the ranks that it is
        known to have had, also those whose processes have ended since, so that the controller never takes a busy keeper
        for a lost one; where that is not known any more, with the generation that its fence tells. How ranks ended
        follows as observations.
        """
        told = [held.standing.state() for held in self._held.values()]
        for job, alive in self._not_yet.items():
            place = home.of(self._runtime, job)
            generation = alive.generation or _fenced(place)
            if job in self._held or not generation:
                continue
            living = {rank: pid for rank, pid in alive.pids.items() if host.start_ticks(pid) is not None}
            if living or lives(place):
                gone = set(alive.pids) - set(living)
                told.append(standing.Standing(self._node, job, generation, living=living, gone=gone).state())
        return tuple(told)

    def living(self, besides: str = "") -> int:
        """Ranks that run on this node, those of job ``besides`` left out."""
        return sum(len(held.standing.living) for job, held in self._held.items() if job != besides)

    async def ensure(self, settings: keeper_client.Settings) -> Held:
        """The keeper of a job, started now where there is none; raises keeper_client.KeeperError."""
        async with self._lock(settings.job):
            held = self._held.get(settings.job)
            if held is not None and not held.keeper.gone.is_set() and not held.released:
                return held
            if held is not None:
                await self._until_forgotten(held)
            elif len(self._held) >= KEEPERS_MAX:
                raise TooManyKeepersError(f"{self._node} has {KEEPERS_MAX} keepers; release a job that is over first")
            keeper = await keeper_client.start(settings)
            return self._follow(keeper, standing.of_state(self._node, keeper.hello.state))

    def started(self, held: Held, generation: int, attempt: int, done: keeper_client.Started) -> None:
        """The answer to a start order says what runs; the event that says the same comes before or after it."""
        told = done.visible_devices, done.device_order
        held.standing.started(generation, attempt, done.pids, done.warm, *told)
        self._remember(held)

    async def wait_ended(self, held: Held, generation: int, patience_s: float) -> set[int]:
        """Wait until no rank of ``generation`` or older lives; those that still do after ``patience_s`` seconds."""
        until = self._clock.monotonic() + patience_s
        while self._held.get(held.job) is held:
            held.changed.clear()
            left = await self._left(held, generation)
            if not left or self._clock.monotonic() > until:
                return left
            try:
                async with asyncio.timeout(LOOK_S):
                    await held.changed.wait()
            except TimeoutError:
                pass
        return set()

    async def release(self, held: Held) -> None:
        """Let the keeper go and wait until it has; raises keeper_client.KeeperError."""
        held.released = True
        try:
            await held.keeper.release()
        except keeper_client.KeeperGone:
            pass
        except keeper_client.KeeperError:
            held.released = False
            raise
        await self._until_forgotten(held)

    async def close(self) -> None:
        """Let go of every keeper; they and their ranks go on."""
        await self._followers.cancel()
        for held in self._held.values():
            await held.keeper.close()

    async def _adopt(self, job: str, alive: spool.Alive) -> None:
        async with self._lock(job):
            try:
                keeper = await self._connect(job)
            except keeper_client.KeeperError as error:
                log.error("a keeper is left alone", extra={"job": job, "why": error})
                return
            self._not_yet.pop(job, None)
            if keeper is not None:
                log.info("a keeper is adopted", extra={"job": job, "pid": keeper.hello.pid})
                self._follow(keeper, standing.of_state(self._node, keeper.hello.state))
                self._wake()
            elif alive.pids:
                self._mourn(standing.Standing(self._node, job, alive.generation, living=dict(alive.pids)))

    # --- following --------------------------------------------------------------------------------------------------

    def _follow(self, keeper: keeper_client.Keeper, found: standing.Standing) -> Held:
        held = Held(keeper, found)
        self._held[held.job] = held
        self._some.set()
        if found.living:
            self._board.expect(held.job, found.generation, [*found.living, *found.gone])
        self._remember(held)
        self._followers.start(f"keeper-{held.job}", self._watch(held))
        return held

    async def _watch(self, held: Held) -> None:
        """Follow one keeper, across lost connections, until its process has gone."""
        keeper: keeper_client.Keeper | None = held.keeper
        while keeper is not None and keeper.hello.pid == held.keeper.hello.pid:
            held.keeper = keeper
            try:
                async for event in keeper.events(self._spool.last_of(_source(held.journal)) + 1):
                    await self._take(held, event)
            except keeper_client.KeeperError as error:
                log.info("the connection to a keeper ended", extra={"job": held.job, "why": error})
            await keeper.close()
            keeper = await self._reconnect(held)
        await self._until_dead(held.keeper.hello.pid)
        del self._held[held.job]
        if not self._held:
            self._some.clear()
        if keeper is not None or not lives(home.of(self._runtime, held.job)):
            self._mourn(held.standing)
        held.changed.set()
        if keeper is not None:
            self._follow(keeper, standing.of_state(self._node, keeper.hello.state))

    async def _until_dead(self, pid: int) -> None:
        """A keeper that leaves closes its connection first and lets go of its directory last; the next needs that."""
        until = self._clock.monotonic() + LEAVING_S_MAX
        while host.start_ticks(pid) is not None and self._clock.monotonic() < until:
            await self._clock.sleep(LEAVING_LOOK_S)

    async def _reconnect(self, held: Held) -> keeper_client.Keeper | None:
        if lives(home.of(self._runtime, held.job)):
            await self._clock.sleep(ADOPT_PAUSE_S)  # another client took our place; the two must not race
        try:
            return await self._connect(held.job)
        except keeper_client.KeeperError as error:
            log.error("a keeper no longer takes us", extra={"job": held.job, "why": error})
            return None

    async def _take(self, held: Held, event: keeper_client.Event) -> None:
        """One event into the spool, and only then acknowledged to the keeper."""
        found = held.standing.judge(event.event, self._board, self._clock.now())
        source = _source(held.journal)
        if found is not None and self._spool.add(found, source, event.n, {held.job: _alive(held)}) is not None:
            self._wake()
        held.changed.set()
        if found is None or self._spool.last_of(source) >= event.n:
            await held.keeper.ack(event.n)

    def _mourn(self, found: standing.Standing) -> None:
        """A keeper has gone. What it had written down is told; then the ranks whose end nobody saw, if any."""
        journal = self._tell_leftover(found)
        if found.living:
            log.error("a keeper died with its ranks", extra={"job": found.job, "ranks": sorted(found.living)})
            killed = keeper_client.kill_strays(self._runtime, found.job)
            if killed:
                log.warning("ended what dead ranks had left behind", extra={"job": found.job, "pids": killed})
            place = observe.Place(self._node, found.job, found.generation)
            now = self._clock.now()
            told = [observe.keeper_lost(place, found.living, now), *observe.lost_ranks(place, found.living, now)]
            for number, observation in enumerate(told, start=1):
                self._spool.add(observation, f"{_source(journal)}/lost/{found.generation}", number)
        self._spool.remember_alive(found.job, None)
        self._board.forget(found.job)
        self._wake()

    def _tell_leftover(self, found: standing.Standing) -> str:
        """Events that a dead keeper had written and nobody had taken; returns the name of their numbering."""
        journal, events = leftover(home.of(self._runtime, found.job).journal)
        taken = self._spool.last_of(_source(journal))
        for n, event in events:
            if n > taken:
                observation = found.judge(event, self._board, self._clock.now())
                if observation is not None:
                    self._spool.add(observation, _source(journal), n)
        return journal

    # --- small helpers ----------------------------------------------------------------------------------------------

    async def _connect(self, job: str) -> keeper_client.Keeper | None:
        """A new connection to the keeper of ``job``, or None once its process has gone. KeeperRefused: not for us."""
        while True:
            keeper = await keeper_client.adopt(self._runtime, job)
            if keeper is not None or not lives(home.of(self._runtime, job)):
                return keeper
            await self._clock.sleep(ADOPT_PAUSE_S)

    async def _left(self, held: Held, generation: int) -> set[int]:
        if held.standing.generation > generation:
            return set()
        try:
            state = await held.keeper.status()
        except keeper_client.KeeperError:
            return set(held.standing.living)  # the follower finds out what became of it
        return {rank.rank for rank in state.ranks if rank.alive} if state.generation <= generation else set()

    async def _until_forgotten(self, held: Held) -> None:
        while self._held.get(held.job) is held:
            held.changed.clear()
            await held.changed.wait()

    def _lock(self, job: str) -> asyncio.Lock:
        """Held by whoever starts or adopts the keeper of ``job``; two at once would take it from each other."""
        if len(self._locks) >= LOCKS_MAX:
            self._locks = {name: lock for name, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(job, asyncio.Lock())

    def _remember(self, held: Held) -> None:
        """Keep on disk what runs, so that an agent after this one can tell what a dead keeper took with it."""
        self._spool.remember_alive(held.job, _alive(held))


def lives(place: home.Home) -> bool:
    """Whether the process that wrote keeper.json there is still that process."""
    try:
        known = _decoded(place.info.read_bytes())
    except OSError:
        return False
    if known is None or not isinstance(known.get("pid"), int):
        return False
    ticks = host.start_ticks(known["pid"])
    return ticks is not None and ticks == known.get("started_at")


def _fenced(place: home.Home) -> int:
    """The newest generation that a keeper was started or stopped with; 0 where nothing tells."""
    try:
        return fence.generation(str(place.fence))
    except (OSError, ValueError):
        return 0


def leftover(path: Path) -> tuple[str, list[tuple[int, records.Json]]]:
    """Name and numbered events of a dead keeper's journal, as far as it can be read; a torn last line is left out."""
    try:
        with path.open("rb") as file:
            lines = file.read(JOURNAL_BYTES_MAX).splitlines()
    except OSError:
        return "none", []
    entries = [entry for entry in map(_decoded, lines) if entry is not None]
    name = str(entries[0].get("journal", "none")) if entries else "none"
    found = [(entry.get("n"), entry.get("event")) for entry in entries[1:]]
    return name, [(n, event) for n, event in found if isinstance(n, int) and isinstance(event, dict)]


def _alive(held: Held) -> spool.Alive | None:
    now = held.standing
    return spool.Alive(now.generation, dict(now.living)) if now.generation else None


def _decoded(line: bytes) -> records.Json | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _source(journal: str) -> str:
    """Under which the spool counts the events of one journal."""
    return f"keeper/{journal}"
