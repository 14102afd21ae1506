"""With timing on: who makes the others wait? The time that each rank spends waiting in collectives, by all its groups.

In a collective the last to come waits for nobody, and its operation is the shortest; what the others spend beyond that
they wait. So whoever is slow waits least of all that run the same program, in every group that it is in; those that it
keeps waiting are quick to come to nothing but to each other. That needs no clocks, and holds where a rank is late at
one call of many.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from outrider_analysis.flight_recorder.verdict import case as cases

SAMPLES_MIN: Final = 4  # collectives of a group whose time is known on all members
LOST: Final = 0.1  # of the time of a group, that it spends waiting for one member
MOSTLY: Final = 0.7  # of what a group loses is lost to that member
MUCH: Final = 0.5  # of the mean: who was last by less than that is not counted
WAITS: Final = 0.5  # who waits more than this part of what it lets others wait is itself kept
LEAST: Final = 0.2  # weight of one that is worth a word
TIMES_MIN: Final = 3  # seldomer than that in a group is no habit
OFTEN: Final = 0.9
MUCH_LOST: Final = 0.3  # weight of one that is seldom late, and then much
FLOOR_NS: Final = 200_000  # less than this is nobody's fault
CHANCE_MAX: Final = 1e-3  # that any rank is the last so often by chance
CLEAR: Final = 1.5  # it loses others so many times as much as the next that nobody keeps

Row = tuple[int, int, int]  # created, seen to be over, on the device


@dataclass(frozen=True, slots=True)
class Slow:
    """``rank`` keeps others waiting; ``sure``: so often that chance is no reason."""

    rank: int
    waits: Waits
    sure: bool


@dataclass(slots=True)
class Waits:
    """Of one rank: by group the share of its time that it waits there; and that which it lets the others wait.

    ``times``: in how many collectives of how many it was last, in the groups that wait for it.
    """

    own: dict[int, float] = field(default_factory=dict)
    causes: dict[int, float] = field(default_factory=dict)
    times: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def root(self) -> bool:
        """Does it keep others waiting, and wait for nobody itself?"""
        return bool(self.causes) and sum(self.own.values()) <= WAITS * self.weight

    @property
    def weight(self) -> float:
        """What it lets others wait, in all groups, and how steadily."""
        return sum(min(1.0, share) * self.times[at][0] / self.times[at][1] for at, share in self.causes.items())


def find(case: cases.Case, waits: Mapping[int, Waits], alike: AbstractSet[int]) -> Slow | None:
    """The rank that keeps the others waiting, if that is one. ``waits``, ``alike``: of these functions."""
    roots = {rank: told for rank, told in waits.items() if told.root}
    alone = [rank for rank in roots if not _accompanied(case, rank, waits, alike)]
    alone.sort(key=lambda rank: (roots[rank].weight, rank), reverse=True)
    if not alone or (len(alone) > 1 and roots[alone[0]].weight < CLEAR * roots[alone[1]].weight):
        return None
    rank, found = alone[0], roots[alone[0]]
    groups = case.merged.groups
    by_chance = math.prod(chance(*times, len(groups[at].ranks)) for at, times in found.times.items())
    sure = by_chance * case.merged.world <= CHANCE_MAX
    often = max((last for last, of in found.times.values() if last >= OFTEN * of), default=0)
    if found.weight < LEAST or (not sure and (often < TIMES_MIN or found.weight < MUCH_LOST)):
        return None
    return Slow(rank, found, sure)


def chance(times: int, samples: int, members: int) -> float:
    """How likely one given member is the last so often, if all were alike."""
    p = 1 / members
    return sum(math.comb(samples, k) * p**k * (1 - p) ** (samples - k) for k in range(times, samples + 1))


def _accompanied(case: cases.Case, rank: int, waits: Mapping[int, Waits], alike: AbstractSet[int]) -> bool:
    """May it be waiting unseen for another one of a group of its role?

    So it may for one that keeps others waiting too, or of whom nothing is known, unless their group tells that it does
    not wait there.
    """
    own = waits[rank]
    for at in alike & set(case.merged.of_rank.get(rank, ())):
        for other in case.merged.groups[at].ranks:
            told = waits.get(other)
            if other != rank and told is None and at not in own.own:
                return True
            if other != rank and told is not None and told.root and CLEAR * told.weight > own.weight:
                return True
    return False


def alike(case: cases.Case) -> frozenset[int]:
    """Groups all of whose members run the same program: of different ones one is the last by what it does."""
    role, groups = case.orders.role, case.merged.groups
    return frozenset(
        at
        for at, group in enumerate(groups)
        if group.told and len(group.ranks) > 1 and group.slots and _is_one(map(role, group.ranks))
    )


def _is_one(roles: Iterator[object]) -> bool:
    first = next(roles)
    return all(role == first for role in roles)


def measure(case: cases.Case, alike: AbstractSet[int]) -> dict[int, Waits]:
    """What each rank waits in its groups, and lets others wait, as far as durations tell."""
    found: dict[int, Waits] = defaultdict(Waits)
    for at in sorted(alike):
        group = case.merged.groups[at]
        known = {rank: case.merged.ranks[rank].groups[slot].times() for rank, slot in group.slots.items()}
        rows: dict[int, dict[int, int]] = defaultdict(dict)
        for rank, times in known.items():
            for seq, (_, _, spent) in times.items():
                if spent:
                    rows[seq][rank] = spent
        told = [row for _, row in sorted(rows.items()) if len(row) > 1 and 2 * len(row) > len(group.ranks)]
        pace = _pace(known) if len(told) >= SAMPLES_MIN else 0.0
        if pace:
            _in_group(at, len(group.ranks), told, pace, found)
    return dict(found)


def _in_group(at: int, members: int, rows: list[dict[int, int]], pace: float, found: dict[int, Waits]) -> None:
    """``rows``: by rank the time in each of some collectives; ``pace``: the time from one of them to the next."""
    span, floor = pace * len(rows), min(min(row.values()) for row in rows)
    late: list[tuple[float, int]] = []  # by how much which member was the last, in each collective
    waits: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        (first, rank), (after, _) = sorted((spent, rank) for rank, spent in row.items())[:2]
        late.append((float(after - first), rank))
        for other, spent in row.items():  # one whose time is not known may have come after all of these
            waits[other].append(spent - (first if len(row) == members else floor))
    for rank, each in waits.items():
        found[rank].own[at] = sum(each) / (pace * len(each))
    lost: dict[int, float] = defaultdict(float)
    for by, rank in late:
        lost[rank] += by
    rank = max(lost, key=lambda other: (lost[other], other))
    if lost[rank] >= LOST * span and lost[rank] >= MOSTLY * sum(lost.values()):
        mean = sum(lost.values()) / len(late)
        much = [other for by, other in late if by >= MUCH * mean]
        if lost[rank] >= FLOOR_NS * len(much):
            found[rank].causes[at] = lost[rank] / span
            found[rank].times[at] = (much.count(rank), len(much))


def _pace(known: dict[int, dict[int, Row]]) -> float:
    """The usual time between two collectives of the group, ns: of calls or of ends, since hosts may run ahead."""
    paces = []
    for mine in known.values():
        for column in (0, 1):
            times = [row[column] for row in mine.values() if row[column]]
            if len(times) > 1:
                paces.append((max(times) - min(times)) / (len(times) - 1))
    return statistics.median(paces) if paces else 0.0
