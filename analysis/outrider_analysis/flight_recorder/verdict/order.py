"""The order of calls of ranks that run the same program: who left it, who is behind, and what would have come next.

Ranks of one role (the same pipeline stage, whatever their place on the other axes) make the same calls on groups of the
same kind, with the same numbers, so their calls can be laid side by side. Where two differ, the majority is right; of
two, the one whose turn was never taken before is wrong.
"""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Final

from outrider_analysis.flight_recorder import digest, model
from outrider_analysis.flight_recorder.merge import Merged

MATES_MAX: Final = 8
RING_ASKED: Final = 4
_UNKNOWN: Final = (2**31, 2**31)  # when a group was made
LOOK: Final = 12  # calls after a difference among which its end is sought

# Kind of group, send or recv, number, operation, how many places further on in the group the partner is.
Call = tuple[str, bool, int, str, int]


@dataclass(frozen=True, slots=True)
class Deviation:
    """``rank`` made the call ``mine`` where its mates made ``theirs`` (None: it made none). ``how``: for people."""

    rank: int
    mine: Call | None
    theirs: Call
    how: str  # skipped, extra, swapped, or open
    votes: int  # mates that agree with each other against it
    by_habit: bool = False


class Orders:
    """Calls of the ranks, opened when they are asked for."""

    def __init__(self, merged: Merged) -> None:
        self._merged = merged
        self._calls: dict[int, list[Call]] = {}
        self._kinds: dict[int, list[str]] = {}
        self._kinds_counted: dict[int, frozenset[tuple[str, bool]]] = {}
        self._roles: dict[tuple[object, ...], list[int]] | None = None
        self._p2p_kinds: set[str] | None = None
        self._stages = _stages(merged)
        self._carriers: set[int] | None = set() if self._stages else None

    def kinds(self, rank: int) -> list[str]:
        """The kind of each of the rank's groups by slot: its description, or its size and place among those."""
        found = self._kinds.get(rank)
        if found is None:
            names: Counter[str] = Counter()
            groups, places = self._merged.ranks[rank].groups, self._merged.places[rank]
            found = self._kinds[rank] = [""] * len(groups)
            for slot in sorted(range(len(groups)), key=lambda slot: _creation(groups[slot])):
                description, at = groups[slot].description, places[slot]
                size = len(self._merged.groups[at].ranks) if at >= 0 else 0
                kind = f"group of {size}" if description in digest.UNDESCRIBED else description
                names[kind] += 1
                found[slot] = kind if names[kind] == 1 else f"{kind} #{names[kind]}"
        return found

    def alike(self, rank: int, mate: int) -> bool:
        """Do the words for groups mean the same on both?

        Those without a description are counted in the order in which they were made. Where a ring has forgotten one of
        them that order is not known, and the next has its name.
        """
        return self._counted(rank) == self._counted(mate)

    def _counted(self, rank: int) -> frozenset[tuple[str, bool]]:
        found = self._kinds_counted.get(rank)
        if found is None:
            groups = zip(self._merged.ranks[rank].groups, self.kinds(rank), strict=True)
            found = frozenset(
                (kind, _creation(group)[:2] != _UNKNOWN)
                for group, kind in groups
                if group.description in digest.UNDESCRIBED
            )
            self._kinds_counted[rank] = found
        return found

    def kind(self, group: int) -> str:
        """The kind of a group, in the words of a member that was heard."""
        for rank, slot in self._merged.groups[group].slots.items():
            return self.kinds(rank)[slot]
        found = self._merged.groups[group]
        return f"group of {len(found.ranks)}" if found.description in digest.UNDESCRIBED else found.description

    def calls(self, rank: int) -> list[Call]:
        """The newest calls of ``rank``, oldest first; none where its dump left out those that are over."""
        found = self._calls.get(rank)
        if found is None:
            whole = not self._merged.ranks[rank].active_only
            found = self._calls[rank] = list(self._open(rank)) if whole else []
        return found

    def _open(self, rank: int) -> Iterable[Call]:
        kinds, signatures = self.kinds(rank), self._merged.signatures
        column = array("I", self._merged.ranks[rank].calls)
        unknown = model.Signature("")
        for at in range(0, len(column), 3):
            word, number, key = column[at : at + 3]
            signature = signatures.get(key, unknown)
            slot = word & 0xFFFF
            if slot < len(kinds):
                step = -1
                if word & model.CALL_P2P:
                    place = self._merged.places[rank][slot]
                    size = len(self._merged.groups[place].ranks) if place >= 0 else 0
                    step = (signature.peer - signature.me) % size if size else signature.peer - signature.me
                yield kinds[slot], bool(word & model.CALL_P2P), number, signature.op, step

    def reached(self, rank: int) -> dict[tuple[str, bool], tuple[int, Call]]:
        """The newest collective on each kind of group, as a call. Left out where sends and recvs blur the count."""
        found: dict[tuple[str, bool], tuple[int, Call]] = {}
        digested = self._merged.ranks[rank]
        for kind, group in zip(self.kinds(rank), digested.groups, strict=True):
            if group.enqueued is not None and not (digested.active_only and self.carries(kind)):
                found[kind, False] = (group.enqueued, (kind, False, group.enqueued, "a collective", -1))
        return found

    def carries(self, kind: str) -> bool:
        """Does anybody send or receive in groups of this kind?

        Their counters count those too, and a dump of unfinished operations alone does not tell whether they do.
        """
        if self._p2p_kinds is None:
            ranks = self._merged.ranks.items()
            shown = ((rank, slot) for rank, each in ranks for slot, group in enumerate(each.groups) if group.p2p > 0)
            self._p2p_kinds = {self.kinds(rank)[slot] for rank, slot in shown}
        return kind in self._p2p_kinds

    def mates(self, rank: int, near: Iterable[int] = ()) -> list[int]:
        """Ranks that were heard and run the same program, ``near`` ones first."""
        if self._roles is None:
            self._roles = {}
            for other in self._merged.ranks:
                self._roles.setdefault(self.role(other), []).append(other)
        same = self._roles.get(self.role(rank), [])
        members = set(same)
        first = [other for other in near if other in members and other != rank]
        chosen = set(first)
        return first + [other for other in same if other != rank and other not in chosen]

    def role(self, rank: int) -> tuple[object, ...]:
        """The stage; where nothing tells it, the places in the groups that carry sends and recvs, kind by kind."""
        if self._stages:
            return self._stages.get(rank, ())
        if self._carriers is None:
            self._carriers = {at for at in _carriers(self._merged) if not _is_ring(self, self._merged, at)}
        carriers = self._carriers
        if rank in self._merged.ranks:
            kinds, places = self.kinds(rank), self._merged.places[rank]
        else:
            places = self._merged.of_rank.get(rank, [])
            kinds = [self.kind(at) for at in places]
        carrying = [(kind, at) for kind, at in zip(kinds, places, strict=True) if at in carriers]
        return tuple(sorted((kind, self._merged.groups[at].ranks.index(rank)) for kind, at in carrying))


def _creation(group: model.GroupDigest) -> tuple[int, int, str]:
    """Groups in the order in which they were made: by name where names are counted, else by the process's count."""
    counted = int(group.name) if group.name.isdecimal() and len(group.name) < 10 else 2**31
    return (counted, group.local if group.local >= 0 else 2**31, group.name)


def _laid(one: list[Call], other: list[Call], i: int, j: int) -> tuple[int, int]:
    """Members of a batch may be alike, and a ring may begin between them: what is alike is laid together by its end."""
    mine = [at for at, call in enumerate(one) if call == one[i]]
    theirs = [at for at, call in enumerate(other) if call == other[j]]
    both = min(len(mine), len(theirs))
    return mine[-both], theirs[-both]


def compare(one: list[Call], other: list[Call]) -> tuple[int, int, str]:
    """Where two lists of calls part: index in each, and how ``one`` stands: same, behind, ahead, differ or apart.

    Rings forget at different places, so the lists are first laid upon a call that both have.
    """
    place = {call: at for at, call in reversed(list(enumerate(other)))}
    start = next(((at, place[call]) for at, call in enumerate(one) if call in place), None)
    if start is None:
        return 0, 0, "apart" if one and other else ("behind" if other else "ahead" if one else "same")
    i, j = _laid(one, other, *start)
    while i < len(one) and j < len(other) and one[i] == other[j]:
        i += 1
        j += 1
    if i == len(one):
        return i, j, "same" if j == len(other) else "behind"
    return i, j, "ahead" if j == len(other) else "differ"


def deviation(orders: Orders, rank: int, mates: list[int]) -> Deviation | None:
    """How ``rank`` left the order that its mates keep; None where it keeps it, or where nobody can tell who left it."""
    mine = orders.calls(rank)
    against: Counter[Call] = Counter()
    where: dict[Call, tuple[int, int, int]] = {}
    agreeing = 0
    for mate in [mate for mate in mates[: 8 * MATES_MAX] if orders.alike(rank, mate)][:MATES_MAX]:
        i, j, how = compare(mine, orders.calls(mate))
        if how == "differ":
            theirs = orders.calls(mate)[j]
            against[theirs] += 1
            tail = len(orders.calls(mate)) - j
            if theirs not in where or tail > len(orders.calls(where[theirs][0])) - where[theirs][2]:
                where[theirs] = (mate, i, j)
        elif how != "apart":
            agreeing += 1
    if not against:
        return None
    theirs, votes = against.most_common(1)[0]
    mate, i, j = where[theirs]
    by_habit = False
    if votes <= agreeing:
        return None
    if votes + agreeing < 2:
        by_habit = True
        if not (_is_new(mine, i) and not _is_new(orders.calls(mate), j)):
            return None
    return Deviation(rank, mine[i], theirs, _how(mine, i, orders.calls(mate), j), votes, by_habit)


def crossing(orders: Orders, rank: int) -> Deviation | None:
    """``rank`` made one call before another, most of its mates the other way round, told by the counts alone.

    That needs no history, so it holds for dumps of unfinished operations too.
    """
    mine = orders.reached(rank)
    votes: Counter[tuple[Call, Call]] = Counter()
    mates = [mate for mate in orders.mates(rank)[: 8 * MATES_MAX] if orders.alike(rank, mate)]
    for mate in mates:
        theirs = orders.reached(mate)
        both = [key for key in mine if key in theirs]
        ahead = [key for key in both if mine[key][0] > theirs[key][0]]
        behind = [key for key in both if mine[key][0] < theirs[key][0]]
        if ahead and behind:
            votes[mine[ahead[0]][1], theirs[behind[0]][1]] += 1
    if not votes or 2 * sum(votes.values()) <= len(mates) or len(mates) < 2:
        return None
    (own, theirs_call), count = votes.most_common(1)[0]
    return Deviation(rank, own, theirs_call, "swapped", count)


def _turn(one: Call, other: Call) -> tuple[object, ...]:
    return (one[0], one[1], one[3], one[4], other[0], other[1], other[3], other[4])


def _is_new(taken: list[Call], at: int) -> bool:
    """Was the turn at ``at`` (this call after that one) never taken before?"""
    if at == 0:
        return False
    turn = _turn(taken[at - 1], taken[at])
    return all(_turn(taken[k - 1], taken[k]) != turn for k in range(1, at))


def _how(mine: list[Call], i: int, theirs: list[Call], j: int) -> str:
    """Whose call is one too many? Numbers on the group in question are shifted by then, so they are left out."""
    own, other = ([(c[0], c[1], c[3], c[4]) for c in side] for side in (mine[i : i + LOOK], theirs[j : j + LOOK]))
    later = other.index(own[0]) if own[0] in other else LOOK  # of mine among theirs
    sooner = own.index(other[0]) if other[0] in own else LOOK
    if later == sooner and (later < LOOK or (mine[i][1] and theirs[j][1])):
        # Calls that come again and again look swapped also where one of them is left out: then what follows differs.
        shifts = [how for how, fits in (("skipped", _fits(own, other[1:])), ("extra", _fits(own[1:], other))) if fits]
        after = max(later, 1) + 1
        return shifts[0] if len(shifts) == 1 and not _fits(own[after:], other[after:]) else "swapped"
    if later == sooner and not theirs[j][1]:
        return _by_past(mine, i, theirs[j])
    return "skipped" if later <= sooner else "extra"


def _by_past(mine: list[Call], i: int, theirs: Call) -> str:
    """Neither side came to the other's call: which of the two has followed the other before?"""
    turns = {_turn(one, other) for one, other in itertools.pairwise(mine[:i])}
    skipped, extra = _turn(theirs, mine[i]) in turns, _turn(mine[i], theirs) in turns
    return "open" if skipped == extra else "skipped" if skipped else "extra"


def _fits(one: Sequence[object], other: Sequence[object]) -> bool:
    """Are they the same as far as both go, and do both go anywhere?"""
    return bool(one) and bool(other) and all(map(eq, one, other))


def _stages(merged: Merged) -> dict[int, tuple[object, ...]]:
    """The stage of each rank by its place on the pipeline axis, where groups or a mesh tell that."""
    if not any("pp" in coords for coords in merged.coords.values()):
        return {}
    return {rank: (coords.get("pp", -1),) for rank, coords in merged.coords.items()}


def _carriers(merged: Merged) -> set[int]:
    """Groups in which somebody sends or receives."""
    return {
        at
        for at, group in enumerate(merged.groups)
        if group.told and any(merged.ranks[rank].groups[slot].pairs for rank, slot in group.slots.items())
    }


def _is_ring(orders: Orders, merged: Merged, at: int) -> bool:
    """Do all members send the same number of places on, in the same order among their other calls?

    Interleaved pipelines go round too, but their stages differ in order. Two ranks may be a pipeline of two.
    """
    group = merged.groups[at]
    size, steps = len(group.ranks), set()
    for rank, slot in group.slots.items():
        me = group.ranks.index(rank)
        steps.add(frozenset(((pair.peer - me) % size, pair.sends) for pair in merged.ranks[rank].groups[slot].pairs))
    if size <= 2 or len(steps) != 1:
        return False
    calls = [orders.calls(rank) for rank in sorted(group.slots)[:RING_ASKED]]
    pairs = [(one, other) for one, other in itertools.pairwise(calls) if min(len(one), len(other)) >= LOOK]
    return any(compare(one, other)[2] in ("same", "behind", "ahead") for one, other in pairs)
