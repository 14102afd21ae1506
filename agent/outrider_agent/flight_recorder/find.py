"""Where the flight records of one job on this node are to be looked for: by the keeper's note, and by the environment
of whatever the ranks started themselves (torchrun as the job's command, a script that sets its own variables).

In: a keeper's directory and the pids of its ranks. Out: ``Spot``s, and the ranks that run below the job's own. A note
belongs to the job's user and so does an environment, so what they name is only read where it is that user's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_agent.flight_recorder import family, plain
from outrider_agent.keeper import recorder

NOTE_BYTES_MAX: Final = 1 << 20
SPOTS_MAX: Final = 64
RANKS_MAX: Final = 2_048
OWN_FILES_MAX: Final = 4_096
EARLIER_NS: Final = 2 * 10**9  # clocks of file servers differ by so much


@dataclass(frozen=True, slots=True)
class Spot:
    """Where records appear. ``user``: whose files count. Older files than ``since_ns`` (Unix) are of another run, and
    those that lay there ``before`` and were not written since.
    """

    place: recorder.Place
    user: int
    since_ns: int
    before: Mapping[str, int] = field(default_factory=dict)

    def fresh(self, path: str, written_ns: int) -> bool:
        """Whether a file that was written then is of this generation."""
        return written_ns != self.before.get(path) and written_ns >= self.since_ns - EARLIER_NS

    def dumps(self, rank: int) -> tuple[str, ...]:
        """The files that ``rank`` may write."""
        return tuple(f"{prefix}{rank}" for prefix in self.place.dumps)

    def pipe(self, rank: int) -> str:
        """The pipe that ``rank`` may listen on; "" for none."""
        return f"{self.place.pipes}{rank}.pipe" if self.place.pipes else ""


@dataclass(slots=True)
class Job:
    """What is known of a job's records here. ``own``: the folder of this generation alone, "" where there is none;
    ``ranks``: those that the keeper started, as ``world`` and ``run`` in their environment say.
    """

    spots: list[Spot] = field(default_factory=list)
    own: str = ""
    ranks: tuple[int, ...] = ()
    world: str = ""
    run: str = ""
    notes: list[str] = field(default_factory=list)

    def in_own(self) -> dict[int, str]:
        """Files of this generation's own folder by rank, also of ranks that nobody knows (any more)."""
        found: dict[int, str] = {}
        with contextlib.suppress(OSError), os.scandir(self.own or "/nonexistent") as entries:
            for entry, _ in zip(entries, range(OWN_FILES_MAX), strict=False):
                number = entry.name.removeprefix(recorder.PREFIX)
                if number != entry.name and number.isdecimal() and len(number) < 8:
                    found[int(number)] = entry.path
        return found


class NoNote(Exception):
    """The keeper's note cannot be had; the message says why."""


def noted(home: str, generation: int) -> Job:
    """What the keeper in ``home`` noted for ``generation``. Raises NoNote."""
    path = os.path.join(home, "recorder.json")
    try:
        user = os.stat(home).st_uid
        given = json.loads(plain.contents(path, NOTE_BYTES_MAX))
        dumps, pipes, own = given["dumps"], given["pipes"], given["own"]
        if given["generation"] != generation:
            raise NoNote(f"the keeper's note is of generation {given['generation']!r}, not {generation}"[:200])
        world, run = given.get("world", ""), given.get("run", "")  # a keeper of an older release tells neither
        texts = [*dumps, pipes, own, given["trouble"], world, run]
        if type(dumps) is not list or not all(type(text) is str and "\0" not in text for text in texts):
            raise TypeError("a path is no text")
        since_ns = int(float(given["at"]) * 1e9)
        ranks = tuple(int(rank) for rank in given["ranks"] if 0 <= int(rank) < family.RANK_MAX)[:RANKS_MAX]
        before = {str(file): int(at) for file, at in given["before"].items()}
    except OSError as error:
        raise NoNote(f"{path}: {error.strerror or error}") from None
    except (AttributeError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise NoNote(f"{path} cannot be read: {type(error).__name__}: {str(error)[:100]}") from None
    place = recorder.Place(tuple(dumps[:8]), pipes, given["trouble"][:300])
    notes = [place.trouble] if place.trouble else []
    return Job([Spot(place, user, since_ns, before)], own, ranks, world, run, notes)


def add_below(job: Job, pids: Mapping[int, int], user: int, since_ns: int) -> family.Family:
    """Add what the processes below ``pids`` (by rank) have in their environment, where it may be read; who they are."""
    found = family.of({rank: pid for rank, pid in pids.items() if pid}, job.world, job.run, user)
    known = {spot.place for spot in job.spots}
    for one in found.told:
        if "RANK" not in one.env:
            continue
        place = recorder.place(one.env, one.cwd)
        if place not in known and len(known) < SPOTS_MAX:
            known.add(place)
            job.spots.append(Spot(place, user, since_ns))
    return found


def known(values: Mapping[str, Any]) -> dict[int, int]:
    """Ranks and pids as they stand in JSON; a pid of 0 is a rank that has ended."""
    return {int(rank): int(pid) for rank, pid in values.items()}
