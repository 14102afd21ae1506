"""Dumps that torch writes of itself, when its watchdog gives up or the host raises: noticed and told, once a rank.

In: the jobs of this node, and a look at the files their ranks may write, in a thread that may hang. Out: one
observation a rank and generation, once its file has stood still for a look. Nothing is read or kept here: the file
stays where it is, and a capture finds it, also when its rank has ended. Dumps that a capture asked for are not told.

The files may lie on a disk that thousands of nodes share, so a look asks for the folder's time alone and for files that
are known to be there: a new file changes that time, and one that is written anew is known. Only where it has changed,
and for some looks after that (times of file servers may be coarse), each rank's file is asked for. A job at which
nothing changes is looked at less and less often, until its ranks are asked for dumps, or one ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from outrider import clock as clock_module
from outrider import records
from outrider_agent import bounded, keepers, observe, spool
from outrider_agent.flight_recorder import find, keep
from outrider_agent.keeper import home

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
SELDOM_S: Final = 8.0  # between two looks at a job where nothing changes
RESTLESS_LOOKS: Final = 3  # at every file, after a folder has changed
WITHIN_S: Final = 2.0
KEPT: Final = "flight-records"  # under this name the spool keeps what was told
JOBS_MAX: Final = 64
RANKS_MAX: Final = 1_024  # of one job, on one node


@dataclass(frozen=True)
class Seen:
    """One look at one job: files by rank. ``known`` is None while there is no note; ``folders``: their inode and time,
    None for one that is not there; ``there``: files that may be written anew, with their ranks; ``restless``: how many
    looks at every file are still to follow.
    """

    known: find.Job | None
    files: dict[int, tuple[str, keep.Stamp]]
    folders: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    there: dict[str, int] = field(default_factory=dict)
    restless: int = 0


_NOTHING: Final = Seen(None, {})


@dataclass(frozen=True)
class Wanted:
    """A job that is looked at: ``home`` of its keeper, its ranks that nothing was told of, those that something was
    ``told`` of, how many have ``gone``, and what was seen before.
    """

    job: str
    generation: int
    home: str
    ranks: tuple[int, ...]
    before: Seen = _NOTHING
    told: Collection[int] = ()
    gone: int = 0


@dataclass
class _Pace:
    """When a job is looked at next (monotonic), and how long after that; ``gone``: ranks that had ended by then."""

    due: float = 0.0
    every_s: float = LOOK_S
    gone: int = 0


class _Told(msgspec.Struct):
    """Ranks that were told of, of one generation."""

    generation: int
    ranks: list[int]


class Written:
    """The looks of one agent. Its owner runs ``run``."""

    def __init__(
        self,
        node: str,
        runtime: Path,
        spool_: spool.Spool,
        keepers_: keepers.Keepers,
        clock: clock_module.Clock,
        wake: Callable[[], None],
    ) -> None:
        self._node = node
        self._runtime = runtime
        self._spool = spool_
        self._keepers = keepers_
        self._clock = clock
        self._wake = wake
        self._threads = bounded.Threads()
        self._told = _decoded(spool_.kept().get(KEPT))
        self._seen: dict[str, tuple[int, Seen]] = {}  # by job, with the generation
        self._asked: dict[str, list[tuple[float, float]]] = {}  # by job: from when to when dumps are asked for
        self._paces: dict[str, _Pace] = {}

    async def run(self) -> None:
        """Look for ever, while there is a job."""
        while True:
            await self._keepers.some()
            await self.look()
            await self._clock.sleep(LOOK_S)

    def asked(self, job: str, for_s: float) -> None:
        """The ranks of ``job`` are asked for dumps now; what they write in ``for_s`` seconds is no news."""
        now = self._clock.now()
        self._asked[job] = [*self._asked.get(job, [])[-8:], (now, now + for_s)]
        self._paces.pop(job, None)

    async def look(self) -> None:
        """One look at all jobs whose turn it is. Raises nothing."""
        all_jobs = self._wanted()
        jobs = {one.job for one in all_jobs}
        self._seen = {job: seen for job, seen in self._seen.items() if job in jobs}
        self._asked = {job: spans for job, spans in self._asked.items() if job in jobs}
        self._paces = {job: pace for job, pace in self._paces.items() if job in jobs}
        wanted = [one for one in all_jobs if self._is_due(one)]
        found = await asyncio.gather(*map(self._one, wanted))
        told = [news for one, seen in zip(wanted, found, strict=True) if seen for news in self._news(one, seen)]
        if told:
            self._spool.add_all(told, {KEPT: msgspec.json.encode(self._told)})
            self._wake()

    def _is_due(self, wanted: Wanted) -> bool:
        """Whether a job is to be looked at now; notes when it is again. One at which something happens, at once."""
        now, pace = self._clock.monotonic(), self._paces.setdefault(wanted.job, _Pace())
        lively = wanted.before.known is None or wanted.before.restless > 0 or wanted.gone != pace.gone
        if not lively and now < pace.due:
            return False
        pace.every_s = LOOK_S if lively else min(SELDOM_S, 2 * pace.every_s)
        pace.due, pace.gone = now + pace.every_s - LOOK_S / 2, wanted.gone
        return True

    async def _one(self, wanted: Wanted) -> Seen | None:
        """A look at one job, whose dead disk must not hide another's files; None where it does not come back."""
        try:
            return await self._threads.ask(f"flight records of {wanted.job}", lambda: look(wanted), WITHIN_S)
        except (bounded.CouldNotLook, OSError) as error:
            log.debug("the files of flight records could not be looked at", extra={"job": wanted.job, "why": error})
            return None

    def _wanted(self) -> list[Wanted]:
        found: list[Wanted] = []
        for held in self._keepers.all():
            now, told = held.standing, self._told.get(held.job)
            past = told.ranks if told is not None and told.generation == now.generation else []
            ranks = sorted({*now.living, *now.gone} - set(past))[:RANKS_MAX]
            if not ranks:
                continue
            generation, seen = self._seen.get(held.job, (0, _NOTHING))
            before = seen if generation == now.generation else _NOTHING
            path = str(home.of(self._runtime, held.job).path)
            found.append(Wanted(held.job, now.generation, path, tuple(ranks), before, past, len(now.gone)))
        return found

    def _news(self, wanted: Wanted, seen: Seen) -> list[records.Observation]:
        """What stood still since the look before, is whole as far as one can see, and was not asked for."""
        generation, before = self._seen.get(wanted.job, (0, _NOTHING))
        self._seen[wanted.job] = wanted.generation, seen
        told = self._told.get(wanted.job)
        past = set(told.ranks) if told is not None and told.generation == wanted.generation else set()
        news: list[records.Observation] = []
        for rank, (path, stamp) in sorted(seen.files.items()):
            still = generation == wanted.generation and before.files.get(rank) == (path, stamp)
            if not still or not stamp.size or rank in past or self._was_asked(wanted.job, stamp.written_ns / 1e9):
                continue
            past.add(rank)
            place = observe.Place(self._node, wanted.job, wanted.generation)
            one = observe.flight_record_written(place, rank, path, stamp.size, stamp.written_ns / 1e9)
            log.info("torch has written a flight record", extra={"job": wanted.job, "rank": rank, "file": path})
            news.append(one)
        if news:
            self._told.pop(wanted.job, None)
            self._told[wanted.job] = _Told(wanted.generation, sorted(past)[-RANKS_MAX:])
            while len(self._told) > JOBS_MAX:
                self._told.pop(next(iter(self._told)))
        return news

    def _was_asked(self, job: str, at: float) -> bool:
        return any(begin - 1.0 <= at <= end for begin, end in self._asked.get(job, ()))


def look(wanted: Wanted) -> Seen:
    """The files that the job's ranks have written in this generation. Runs in a thread."""
    before, known = wanted.before, wanted.before.known
    if known is None:
        try:
            known = find.noted(wanted.home, wanted.generation)
        except find.NoNote:
            return _NOTHING
    folders = {folder: _mark(folder) for folder in _folders(known)}
    changed = before.known is None or folders != before.folders
    restless = RESTLESS_LOOKS if changed else max(0, before.restless - 1)
    asked = _all_files(known, wanted) if changed or before.restless else before.there
    told = set(wanted.told) if asked else set[int]()
    files: dict[int, tuple[str, keep.Stamp]] = {}
    there: dict[str, int] = {}
    for path, rank in asked.items():
        stamp = keep.stamp(path) if rank not in told else None
        if stamp is not None:
            there[path] = rank
            if any(spot.fresh(path, stamp.written_ns) for spot in known.spots if path in spot.dumps(rank)):
                files.setdefault(rank, (path, stamp))
    if files != before.files:
        restless = RESTLESS_LOOKS  # one that was written anew may be written on
    return Seen(known, files, folders, there, restless)


def _folders(known: find.Job) -> list[str]:
    """Where files may appear."""
    dumps = [os.path.dirname(prefix) for spot in known.spots for prefix in spot.place.dumps]
    return list(dict.fromkeys([*dumps, *([known.own] if known.own else [])]))


def _mark(folder: str) -> tuple[int, int] | None:
    """What changes with each new name in a folder."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _all_files(known: find.Job, wanted: Wanted) -> Mapping[str, int]:
    """Every file that a rank may write, with its rank."""
    ranks = [*wanted.ranks, *list(known.in_own())[:RANKS_MAX]]
    return {path: rank for spot in known.spots for rank in dict.fromkeys(ranks) for path in spot.dumps(rank)}


def _decoded(body: bytes | None) -> dict[str, _Told]:
    try:
        return msgspec.json.decode(body, type=dict[str, _Told]) if body else {}
    except msgspec.DecodeError:  # msgspec.ValidationError among them
        return {}
