"""What the agent looks at by itself, round after round: its ranks' processes each second, its disks each ten.

In: the living ranks by their keepers, and where the jobs write. Out: observations in the spool, and the figures of the
newest round for /metrics. What was told and is not over is kept in a file, so that the agent after this one neither
tells it again nor forgets to say that it is over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from outrider import clock as clock_module
from outrider import records
from outrider_agent import bounded, jobs, keepers, spool
from outrider_agent.signals import disks, processes

log = logging.getLogger(__name__)

PROCESSES_S: Final = 1.0
DISKS_S: Final = 10.0
LOOK_S: Final = 2.0  # for one disk; a network file system that takes longer is not looked at in this round
PLACES_MAX: Final = 64


@dataclasses.dataclass(frozen=True)
class Told:
    """What was told and is not over: stopped ranks, and since when a mount point has been full."""

    stopped: tuple[processes.Stopped, ...] = ()
    full: dict[str, float] = dataclasses.field(default_factory=dict)


class Watch:
    """The rounds of one agent. Its owner runs ``watch_processes`` and ``watch_disks`` as two tasks."""

    def __init__(
        self,
        node: str,
        places: tuple[disks.Place, ...],
        runtime: Path,
        spool_: spool.Spool,
        keepers_: keepers.Keepers,
        book: jobs.Book,
        clock: clock_module.Clock,
        wake: Callable[[], None],
    ) -> None:
        self._own = places
        self._file = runtime / "told.json"
        self._spool = spool_
        self._keepers = keepers_
        self._book = book
        self._clock = clock
        self._wake = wake
        self._threads = bounded.Threads()
        self._told = _read(self._file)
        self._processes = processes.Watcher(node, self._told.stopped)
        self._disks = disks.Disks(node, self._told.full)

    @property
    def stopped(self) -> dict[str, int]:
        """Ranks that are stopped, by job."""
        return self._processes.stopped

    @property
    def rooms(self) -> dict[str, disks.Room | None]:
        """The newest measurement of every mount point that matters; None: could not look."""
        return self._disks.rooms

    async def watch_processes(self) -> None:
        """Look at every rank's process, once a second, for ever, while there is one."""
        while True:
            ranks = self._ranks()
            if not ranks:
                await self._keepers.some()
                ranks = self._ranks()
            if ranks:
                await self._look_at_processes(ranks)
            await self._clock.sleep(PROCESSES_S)

    async def watch_disks(self) -> None:
        """Measure every disk that matters, once in ten seconds, for ever."""
        while True:
            await self._look_at_disks()
            await self._clock.sleep(DISKS_S)

    async def _look_at_processes(self, ranks: list[processes.Process]) -> None:
        now = self._clock.monotonic
        try:
            looks = await self._threads.ask("processes", lambda: processes.look_at_all(ranks, now), LOOK_S)
        except bounded.CouldNotLook as error:
            log.warning("the ranks' processes could not be looked at", extra={"why": error})
            return
        self._tell(self._processes.judge(looks, self._clock.now()))

    async def _look_at_disks(self) -> None:
        places = self._places()
        paths = sorted({place.path for place in places})
        known = dict(zip(paths, await asyncio.gather(*map(self._measure, paths)), strict=True))
        rooms = {place: known[place.path] for place in places}
        self._spool.flush()  # whether a write is still refused shows only when one is tried
        refused = {str(self._file.parent): self._spool.problem} if "full" in self._spool.problem else {}
        self._tell(self._disks.judge(rooms, refused, self._clock.now()))

    async def _measure(self, path: str) -> disks.Room | None:
        try:
            return await self._threads.ask(f"disk {path}", lambda: disks.measure(path), LOOK_S)
        except (OSError, bounded.CouldNotLook) as error:
            log.warning("the room on a disk could not be looked at", extra={"place": path, "why": error})
            return None

    def _ranks(self) -> list[processes.Process]:
        found = [
            processes.Process(held.job, held.standing.generation, rank, pid, held.keeper.hello.pid)
            for held in self._keepers.all()
            for rank, pid in held.standing.living.items()
        ]
        known = {(one.job, one.generation, one.rank) for one in found}
        # A rank told as stopped is followed to its end, also while its keeper is not adopted yet.
        late = [one for one in self._told.stopped if (one.job, one.generation, one.rank) not in known]
        return found + [processes.Process(one.job, one.generation, one.rank, one.pid) for one in late]

    def _places(self) -> list[disks.Place]:
        """The node's own places, and those of jobs that run here."""
        found = list(self._own)
        for held in self._keepers.all():
            known = self._book.of(held.job)
            if known is None or not held.standing.living:
                continue
            generation = held.standing.generation
            found.append(disks.Place(known.logs, f"logs of job {held.job}", held.job, generation))
            if known.checkpoints:
                found.append(disks.Place(known.checkpoints, f"checkpoints of job {held.job}", held.job, generation))
        # A mount point told as full is followed until it has room, also when nothing of ours lies there any more.
        found += [disks.Place(mount, "what lay here when it was full") for mount in self._disks.full]
        return found[:PLACES_MAX]

    def _tell(self, found: list[records.Observation]) -> None:
        for observation in found:
            log.warning("something changed on this node", extra={"kind": observation.kind, "what": observation.text})
            self._spool.add(observation)
        told = Told(self._processes.told, dict(self._disks.full))
        if told != self._told:
            self._told = told
            _write(self._file, told)
        if found:
            self._wake()


def _read(path: Path) -> Told:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Told)
    except FileNotFoundError:
        return Told()
    except (OSError, msgspec.DecodeError) as error:
        log.warning("what a former agent had told is not known any more", extra={"file": path, "why": error})
        return Told()


def _write(path: Path, told: Told) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(msgspec.json.encode(told))
        part.replace(path)
    except OSError as error:
        log.warning("what was told could not be noted", extra={"file": path, "why": error})
