"""Where in the calls of two ranks there is room for a send or recv between them that no record shows.

A rank's *gap* lies between two recorded calls in a row and is named by the first of them. A transfer takes place in one
gap of each of its two ranks at one time, so the two have to overlap: neither rank may have left its gap (made the next
call) before the other came into its own (all members had made the call before, which finished it). Pairs of the same
roles in other pipelines, which have passed the gap, show in which gaps of the partner a transfer can be at all. What
is earlier and what later is read off the hosts' clocks. A rank that was seen to call on before all had come to its last
call does not wait for calls of that kind; where that is so of every kind, the clocks differ, and nothing is read off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from outrider_analysis.flight_recorder import calls as signatures
from outrider_analysis.flight_recorder.verdict import hidden
from outrider_analysis.flight_recorder.verdict.case import Case
from outrider_analysis.flight_recorder.verdict.order import Call

PAIRS_MAX: Final = 16  # pairs of other pipelines that are looked at
RANKS_MAX: Final = 64  # ranks whose clocks are compared with their calls
START: Final[Call] = ("", False, 0, "", -1)  # before the first call


@dataclass(frozen=True, slots=True)
class Room:
    """Of a rank and one partner: may they be in a transfer that the partner has passed by (``skipped``), or that it has
    not come to (``ahead``)? ``told``: pairs of other pipelines say so.
    """

    skipped: bool = True
    ahead: bool = True
    told: bool = False


@dataclass(slots=True)
class Clock:
    """When each rank made each call, and when it was over at the earliest."""

    case: Case
    created: dict[int, dict[tuple[int, int], int]] = field(default_factory=dict)
    loose: set[str] = field(default_factory=set)  # kinds of groups whose calls do not keep their callers
    alike: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # groups, by description and size
    mates: dict[int, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rank, digested in self.case.merged.ranks.items():
            times: dict[tuple[int, int], int] = {}
            for slot, group in enumerate(digested.groups):
                times |= {(slot, number): told[0] for number, told in group.times().items() if told[0]}
            self.created[rank] = times
        for at in hidden.groups(self.case.merged):
            whole = self.case.merged.groups[at]
            self.alike.setdefault((whole.description, len(whole.ranks)), []).append(at)
        for rank in list(self.created)[:RANKS_MAX]:
            made = self.case.orders.calls(rank)
            for call, after in itertools.pairwise(made):
                if 0 < self.made(rank, after) < self.over(rank, call):
                    self.loose.add(call[0])

    @property
    def sound(self) -> bool:
        """Are the clocks and the calls of one mind?"""
        kinds = {kind for rank in list(self.created)[:RANKS_MAX] for kind in self.case.orders.kinds(rank)}
        return not kinds or not kinds <= self.loose

    def made(self, rank: int, call: Call) -> int:
        """When ``rank`` made this call (ns), 0 where that is not known."""
        kinds = self.case.orders.kinds(rank)
        return self.created[rank].get((kinds.index(call[0]), call[2]), 0) if call[0] in kinds else 0

    def over(self, rank: int, call: Call) -> int:
        """When this call of ``rank`` was over at the earliest: no member is done before all have come."""
        kinds = self.case.orders.kinds(rank)
        if call[0] not in kinds:
            return 0
        slot = kinds.index(call[0])
        own = self.created[rank].get((slot, call[2]), 0)
        place = self.case.merged.places[rank][slot]
        if place < 0 or call[0] in self.loose or not signatures.is_synchronous(call[3]):
            return own
        members = self.case.merged.groups[place].slots.items()
        return max([own, *(self.created[other].get((theirs, call[2]), 0) for other, theirs in members)])


def between(case: Case, clock: Clock, rank: int, group: int, partner: int) -> Room:
    """The room for a transfer between ``rank``, which has no unfinished call, and ``partner``."""
    heard = case.merged.ranks
    if rank not in heard or partner not in heard or not clock.sound:
        return Room()
    own = case.orders.calls(rank)
    last = own[-1] if own else START
    gaps: set[Call] | None = None
    for mine, other in itertools.islice(_pairs(case, clock, rank, group, partner), PAIRS_MAX):
        found = _shared(case, clock, mine, last, other)
        if found is not None:
            gaps = found if gaps is None else gaps & found
    if gaps is None:
        return Room()
    theirs = case.orders.calls(partner)
    place = {call: at for at, call in enumerate(theirs)}
    passed = {call for call in gaps if (call == START and theirs) or place.get(call, len(theirs)) < len(theirs) - 1}
    return Room(bool(passed), bool(gaps - passed), True)


def _pairs(case: Case, clock: Clock, rank: int, group: int, partner: int) -> Iterator[tuple[int, int]]:
    """The pairs at the same places of other groups of the same kind, of the same roles."""
    groups = case.merged.groups
    own = groups[group]
    alike = clock.alike.get((own.description, len(own.ranks)), [])
    if len(alike) < 2:  # a job's largest groups have none like them, and most pairs
        return
    places = own.ranks.index(rank), own.ranks.index(partner)
    if rank not in clock.mates:
        clock.mates[rank] = frozenset(case.orders.mates(rank))
    mates = clock.mates[rank]
    for at in alike:
        mine, other = groups[at].ranks[places[0]], groups[at].ranks[places[1]]
        if at != group and mine in mates and other in case.merged.ranks:
            yield mine, other


def _shared(case: Case, clock: Clock, rank: int, last: Call, partner: int) -> set[Call] | None:
    """The gaps of ``partner`` that overlap with the one of ``rank`` after its call ``last``; None where it has not left
    that gap, or where times are missing.
    """
    made = case.orders.calls(rank)
    if last != START and last not in made:
        return None
    at = made.index(last) + 1 if last != START else 0
    if at >= len(made):
        return None
    left = clock.made(rank, made[at])
    came = clock.over(rank, last) if last != START else 1
    if not left or not came:
        return None
    theirs = case.orders.calls(partner)
    found = {START} if theirs and (clock.made(partner, theirs[0]) or came) >= came and _whole(case, partner) else set()
    for place, call in enumerate(theirs):
        after = clock.made(partner, theirs[place + 1]) if place + 1 < len(theirs) else 0
        begun = clock.over(partner, call)
        known_late = bool(begun) and begun > left
        known_early = bool(after) and after < came
        if not after and call[0] not in clock.loose and _is_in(case, partner, call):
            continue  # it is still in that call, and so not past it
        if not known_late and not known_early:
            found.add(call)
    return found


def _whole(case: Case, rank: int) -> bool:
    """Do its calls go back to the beginning?"""
    digested = case.merged.ranks[rank]
    return not digested.wrapped and not digested.active_only


def _is_in(case: Case, rank: int, call: Call) -> bool:
    """Is this call of ``rank`` unfinished?"""
    slot = case.orders.kinds(rank).index(call[0])
    at = case.board.at.get((case.merged.places[rank][slot], call[2]))
    return at is not None and rank in case.board.waits[at].waiting
