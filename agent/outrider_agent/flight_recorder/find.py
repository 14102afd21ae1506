"""Where the flight records of one job on this node are to be looked for: by the keeper's note, and by the environment
of whatever the ranks started themselves (torchrun as the job's command, a script that sets its own variables).

In: a keeper's directory and the pids of its ranks. Out: ``Spot``s, and the ranks that run below the job's own. A note
belongs to the job's user and so does an environment, so what they name is only read where it is that user's.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_agent.keeper import recorder

NOTE_BYTES_MAX: Final = 1 << 20
ENVIRON_BYTES_MAX: Final = 1 << 20
PROCESSES_MAX: Final = 65_536
BELOW_MAX: Final = 1_024  # processes of one job whose environment is read
RANK_MAX: Final = 2**20
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
    ``ranks``: those that the keeper started; ``below``: those that these started, with their pids.
    """

    spots: list[Spot] = field(default_factory=list)
    own: str = ""
    ranks: tuple[int, ...] = ()
    below: dict[int, int] = field(default_factory=dict)
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
        given = json.loads(contents(path, NOTE_BYTES_MAX))
        dumps, pipes, own = given["dumps"], given["pipes"], given["own"]
        if given["generation"] != generation:
            raise NoNote(f"the keeper's note is of generation {given['generation']!r}, not {generation}"[:200])
        texts = [*dumps, pipes, own, given["trouble"]]
        if type(dumps) is not list or not all(type(text) is str and "\0" not in text for text in texts):
            raise TypeError("a path is no text")
        since_ns = int(float(given["at"]) * 1e9)
        ranks = tuple(int(rank) for rank in given["ranks"] if 0 <= int(rank) < RANK_MAX)[:RANKS_MAX]
        before = {str(file): int(at) for file, at in given["before"].items()}
    except OSError as error:
        raise NoNote(f"{path}: {error.strerror or error}") from None
    except (AttributeError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise NoNote(f"{path} cannot be read: {type(error).__name__}: {str(error)[:100]}") from None
    place = recorder.Place(tuple(dumps[:8]), pipes, given["trouble"][:300])
    return Job([Spot(place, user, since_ns, before)], own, ranks, notes=[place.trouble] if place.trouble else [])


def add_below(job: Job, pids: Iterable[int], user: int, since_ns: int) -> None:
    """Add what the processes below ``pids`` have in their environment, where it may be read."""
    known = {spot.place for spot in job.spots}
    for pid in below(pids):
        try:
            env = environ(pid)
            cwd = os.readlink(f"/proc/{pid}/cwd")
            if os.stat(f"/proc/{pid}").st_uid != user:
                continue
        except OSError:
            continue  # gone, or not ours to look at
        rank = env.get("RANK", "")
        if not rank.isdecimal() or len(rank) > 7 or int(rank) >= RANK_MAX:
            continue
        job.below.setdefault(int(rank), pid)
        place = recorder.place(env, cwd)
        if place not in known and len(known) < BELOW_MAX:
            known.add(place)
            job.spots.append(Spot(place, user, since_ns))


def below(pids: Iterable[int]) -> list[int]:
    """Processes below ``pids``, these left out, parents first."""
    children: dict[int, list[int]] = {}
    for name in [name for name in os.listdir("/proc") if name.isdecimal()][:PROCESSES_MAX]:
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = contents(f"/proc/{name}/stat", 4096)
            children.setdefault(int(text.rpartition(b")")[2].split()[1]), []).append(int(name))
    found: list[int] = []
    left = [child for pid in pids for child in children.get(pid, ())]
    while left and len(found) < BELOW_MAX:
        found += left
        left = [child for pid in left for child in children.get(pid, ())]
    return found[:BELOW_MAX]


def stopped(pid: int) -> bool:
    """Whether a signal or a debugger holds the process, so that it answers nobody."""
    try:
        return contents(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def environ(pid: int) -> Mapping[str, str]:
    """The environment that a process was started with. Raises OSError."""
    text = contents(f"/proc/{pid}/environ", ENVIRON_BYTES_MAX)
    pairs = (row.partition(b"=") for row in text.split(b"\0") if b"=" in row)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def contents(path: str, most: int) -> bytes:
    """The first ``most`` bytes of a file, which is no link and no pipe. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path}: is no regular file")
        parts: list[bytes] = []
        while most > 0 and (part := os.read(descriptor, most)):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def known(values: Mapping[str, Any]) -> dict[int, int]:
    """Ranks and pids as they stand in JSON; a pid of 0 is a rank that has ended."""
    return {int(rank): int(pid) for rank, pid in values.items()}
