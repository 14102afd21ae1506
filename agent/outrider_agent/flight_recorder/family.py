"""Which process is a rank, among those that the keeper started and all that these started.

A data loader's worker has its rank's environment, RANK and all; one that was forked also has its rank's pipe open. So
neither tells by itself. A process is a rank of its own where its parent gave it a number, a world or a run that the
parent does not have, as torchrun does, gave them to nobody else, and where all of our ranks do so; all others, such as
an evaluation that one rank starts, are helpers of the rank above them. Of a rank and its helpers the topmost that has
the rank's pipe open is the one that made it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_agent.flight_recorder import plain

ENVIRON_BYTES_MAX: Final = 1 << 20
PROCESSES_MAX: Final = 65_536
BELOW_MAX: Final = 1_024  # processes of one job whose environment is read
OPENERS_MAX: Final = 32  # processes of one rank whose open files are looked at
FILES_MAX: Final = 4_096
RANK_MAX: Final = 2**20


@dataclass(frozen=True, slots=True)
class Identity:
    """Which rank a process says it is: its number, of how many, in which run."""

    rank: int
    world: str
    run: str


@dataclass(frozen=True, slots=True)
class Process:
    """One process below a rank of ours, with the environment it was started with."""

    pid: int
    parent: int
    env: Mapping[str, str]
    cwd: str


@dataclass(slots=True)
class Family:
    """``heads``: pids of ranks that a launcher of the job's own has numbered; ``above``: for each, which of our ranks
    it runs below; ``worlds``: of how many they say they are; ``told``: processes with an environment of their own;
    ``members``: of each rank, parents first.
    """

    heads: dict[int, int] = field(default_factory=dict)
    above: dict[int, int] = field(default_factory=dict)
    worlds: set[str] = field(default_factory=set)
    told: list[Process] = field(default_factory=list)
    members: dict[int, list[int]] = field(default_factory=dict)

    def numbering(self) -> dict[str, Any] | None:
        """``{"world", "ranks": {their number: ours}}``; None where none runs below ours, or they do not agree."""
        world = next(iter(self.worlds), "") if len(self.worlds) == 1 else ""
        if not world.isascii() or not world.isdecimal() or len(world) > 7 or max(self.heads, default=0) >= int(world):
            return None
        return {"world": int(world), "ranks": {str(rank): above for rank, above in sorted(self.above.items())}}

    def pid_of(self, rank: int, pipes: Iterable[str]) -> int:
        """The process of ``rank``, 0 where it has none. ``pipes``: where it may listen."""
        members = self.members.get(rank, [])
        if not members:
            return 0
        for path in pipes:
            with contextlib.suppress(OSError):
                wanted = os.stat(path, follow_symlinks=False)
                for pid in members[:OPENERS_MAX]:
                    if _has_open(pid, path, wanted):
                        return pid
        return self.heads.get(rank, members[0])


def of(ours: Mapping[int, int], world: str, run: str, user: int) -> Family:
    """The processes of our ranks ``ours`` (pid by rank), whom the keeper told of ``world`` and ``run``, and those of
    ``user`` below them.
    """
    found = Family()
    whose = {pid: Identity(rank, world, run) for rank, pid in ours.items() if pid}
    roots = {pid: rank for rank, pid in ours.items() if pid}
    environs = {pid: _environ(pid) for pid in roots}
    same: dict[tuple[int, Identity], list[int]] = {}
    order: list[tuple[int, int]] = [(pid, 0) for pid in roots]
    for pid, parent in _below(roots):
        if parent not in whose:
            continue
        env = _environ(pid)
        whose[pid] = whose[parent]
        environs[pid] = env
        roots[pid] = roots[parent]
        order.append((pid, parent))
        if not env or env == environs[parent]:
            continue  # forked: what stands there is its parent's, and of a rank that was forked, the keeper's
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid != user:
                continue
            found.told.append(Process(pid, parent, env, os.readlink(f"/proc/{pid}/cwd")))
            who = _identity(env)
            if who is not None and who != whose[parent]:
                whose[pid] = who
                same.setdefault((parent, who), []).append(pid)
    helpers = {pid: parent for (parent, _), pids in same.items() if len(pids) > 1 for pid in pids}
    _fill(found, order, whose, roots, same, helpers)
    if found.heads and set(found.above.values()) != set(roots.values()):
        # A launcher numbers the ranks of a whole job. Below some of ours alone it is an evaluation, or the like.
        found.heads, found.above, found.worlds, found.members = {}, {}, set(), {}
        for pid, _ in order:
            found.members.setdefault(roots[pid], []).append(pid)
    return found


def _fill(
    found: Family,
    order: list[tuple[int, int]],
    whose: Mapping[int, Identity],
    roots: Mapping[int, int],
    same: Mapping[tuple[int, Identity], list[int]],
    helpers: Mapping[int, int],
) -> None:
    for (parent, who), pids in same.items():
        # The parent may be that rank itself, where its script gave it a number that nobody sees from outside.
        found.members.setdefault(who.rank, []).append(parent)
        others = sum(above == parent for above, _ in same)
        if len(pids) == 1 and (_is_launched(who, whose[parent]) or others > 1):
            found.heads.setdefault(who.rank, pids[0])
            found.above.setdefault(who.rank, roots[pids[0]])
            found.worlds.add(who.world)
    for pid, _ in order:
        if pid not in helpers:
            members = found.members.setdefault(whose[pid].rank, [])
            if pid not in members:
                members.append(pid)


def _is_launched(who: Identity, above: Identity) -> bool:
    """Does it belong to another world than the rank that started it, and to none that is smaller?

    A keeper of an older release tells neither world nor run, so nothing can be said there.
    """
    known = bool(above.world or above.run)
    return known and (who.world, who.run) != (above.world, above.run) and _number(who.world) >= _number(above.world)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0


def _identity(env: Mapping[str, str]) -> Identity | None:
    rank = env.get("RANK", "")
    if not rank.isascii() or not rank.isdecimal() or len(rank) > 7 or int(rank) >= RANK_MAX:
        return None
    return Identity(int(rank), env.get("WORLD_SIZE", ""), env.get("TORCHELASTIC_RUN_ID", ""))


def _below(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Processes below ``pids`` with their parents, these left out, parents first."""
    children: dict[int, list[int]] = {}
    for name in [name for name in os.listdir("/proc") if name.isdecimal()][:PROCESSES_MAX]:
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = plain.contents(f"/proc/{name}/stat", 4096)
            children.setdefault(int(text.rpartition(b")")[2].split()[1]), []).append(int(name))
    found: list[tuple[int, int]] = []
    left = [(child, pid) for pid in pids for child in sorted(children.get(pid, ()))]
    while left and len(found) < BELOW_MAX:
        found += left
        left = [(child, pid) for pid, _ in left for child in sorted(children.get(pid, ()))]
    return found[:BELOW_MAX]


def stopped(pid: int) -> bool:
    """Whether a signal or a debugger holds the process, so that it answers nobody."""
    try:
        return plain.contents(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def _environ(pid: int) -> Mapping[str, str]:
    """The environment that a process was started with; nothing where it is gone, or not ours to look at."""
    try:
        text = plain.contents(f"/proc/{pid}/environ", ENVIRON_BYTES_MAX)
    except OSError:
        return {}
    pairs = (row.partition(b"=") for row in text.split(b"\0") if b"=" in row)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _has_open(pid: int, path: str, wanted: os.stat_result) -> bool:
    folder, name = f"/proc/{pid}/fd", os.path.basename(path)
    with contextlib.suppress(OSError):
        for each in os.listdir(folder)[:FILES_MAX]:
            with contextlib.suppress(OSError):
                # Its name is asked for first: of a file on a dead disk nothing else is told without waiting.
                same = os.path.basename(os.readlink(f"{folder}/{each}")) == name
                if same and os.path.samestat(os.stat(f"{folder}/{each}"), wanted):
                    return True
    return False
