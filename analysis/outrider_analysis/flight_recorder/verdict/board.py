"""Who waits in what: every operation that is the first unfinished one of somebody, with who is missing from it.

A rank may have several such fronts, one for each group and for each partner, since those run side by side on the
device. Of a collective a member is *missing* that has not enqueued its number, *behind* with an earlier one of the same
group unfinished, *done* once it has finished it, *unheard* where it left no dump.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from outrider_analysis.flight_recorder import calls, model
from outrider_analysis.flight_recorder.merge import Merged

FRONTS_EACH_MAX: Final = 24  # different fronts of one group that are looked at, the lowest


@dataclass(slots=True)
class Wait:
    """One operation that ``waiting`` ranks have enqueued and not finished. ``pair``: sender and receiver of a send."""

    group: int
    seq: int
    op: str
    pair: tuple[int, int] | None = None
    waiting: dict[int, model.Op] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    unheard: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    since_ns: int = 0  # when the first of the waiting enqueued it

    @property
    def joined(self) -> bool:
        """True where nobody is known or feared to be missing."""
        return not self.missing and not self.behind and not self.unheard

    @property
    def device(self) -> bool:
        """True where some have finished what no member can finish before all have begun."""
        return bool(self.done) and not self.missing and self.pair is None and calls.is_synchronous(self.op)


@dataclass(slots=True)
class Board:
    """All waits, and for each rank its fronts in the order of its calls."""

    merged: Merged
    waits: list[Wait]
    fronts: dict[int, list[int]]
    at: dict[tuple[int, int], int]  # (group, number) of a collective -> index in waits
    owed: dict[int, list[int]] = field(default_factory=dict)  # rank -> the waits that it is missing from
    placed: dict[int, bool] = field(default_factory=dict)  # group -> are partners' places in it known?

    def is_placed(self, group: int) -> bool:
        """Is it known who has which place in the group? Where members are guessed, by the places that they tell."""
        found = self.placed.get(group)
        if found is None:
            found = self.placed[group] = self.merged.groups[group].told or _fits(self.merged, group)
        return found

    def idle(self, rank: int) -> bool:
        """True for a rank that was heard and waits in nothing."""
        return rank in self.merged.ranks and not self.fronts.get(rank)


def lay_out(merged: Merged) -> Board:
    """The board of all ranks that were heard."""
    board = Board(merged, [], {}, {})
    pairs: dict[tuple[int, int, int], int] = {}
    for rank, digested in merged.ranks.items():
        for group, op in _fronts(merged, rank, digested):
            at = _find(board, pairs, rank, group, op)
            if at is not None:
                wait = board.waits[at]
                wait.waiting[rank] = op
                if op.created_ns and (not wait.since_ns or op.created_ns < wait.since_ns):
                    wait.since_ns = op.created_ns
                board.fronts.setdefault(rank, []).append(at)
    for wait in board.waits:
        if wait.pair is None:
            _members(merged, wait)
        else:
            _partner(merged, wait)
    for at, wait in enumerate(board.waits):
        for rank in (*wait.missing, *wait.unheard):
            board.owed.setdefault(rank, []).append(at)
    return board


def _fronts(merged: Merged, rank: int, digested: model.RankDigest) -> Iterator[tuple[int, model.Op]]:
    """The first unfinished operation of each group, and of each partner and direction."""
    seen: set[tuple[int, bool, int, str]] = set()
    for op in digested.unfinished:
        key = (op.group, op.p2p, op.peer, op.op if op.p2p else "")
        if key not in seen:
            seen.add(key)
            group = merged.places[rank][op.group]
            if group >= 0:
                yield group, op


def _find(board: Board, pairs: dict[tuple[int, int, int], int], rank: int, group: int, op: model.Op) -> int | None:
    """The wait that ``op`` is part of; None where the partner of a send is not known."""
    if not op.p2p:
        at = board.at.get((group, op.seq))
        if at is None:
            at = board.at[group, op.seq] = len(board.waits)
            board.waits.append(Wait(group, op.seq, op.op))
        return at
    members = board.merged.groups[group].ranks
    if not board.is_placed(group) or not 0 <= op.peer < len(members):
        return None
    pair = (rank, members[op.peer]) if op.op == "send" else (members[op.peer], rank)
    key = (group, *pair)
    if key not in pairs:
        pairs[key] = len(board.waits)
        board.waits.append(Wait(group, op.seq, op.op, pair))
    return pairs[key]


def _fits(merged: Merged, at: int) -> bool:
    """Is everybody who sends or receives at the place that its calls tell?"""
    group, found = merged.groups[at], False
    for rank, slot in group.slots.items():
        for op in merged.ranks[rank].unfinished:
            if op.p2p and op.group == slot and op.signature in merged.signatures:
                me, found = merged.signatures[op.signature].me, True
                if not 0 <= me < len(group.ranks) or group.ranks[me] != rank:
                    return False
    return found


def _members(merged: Merged, wait: Wait) -> None:
    group = merged.groups[wait.group]
    for rank in group.ranks:
        if rank in wait.waiting:
            continue
        digested = merged.ranks.get(rank)
        slot = group.slots.get(rank)
        if digested is None:
            wait.unheard.append(rank)
            continue
        seen = None if slot is None else digested.groups[slot]
        if seen is None or seen.enqueued is None or seen.enqueued < wait.seq:
            wait.missing.append(rank)
        elif (seen.completed or 0) >= wait.seq:
            wait.done.append(rank)
        else:
            wait.behind.append(rank)


def _partner(merged: Merged, wait: Wait) -> None:
    """Is the other side of a send or recv there, over, or not yet called?"""
    assert wait.pair is not None
    for rank in wait.pair:
        if rank in wait.waiting:
            continue
        if rank not in merged.ranks:
            wait.unheard.append(rank)
            continue
        other = wait.pair[0] if rank == wait.pair[1] else wait.pair[1]
        over = _is_over(merged, wait, rank, wait.waiting[other])
        (wait.done if over else wait.missing).append(rank)


def _is_over(merged: Merged, wait: Wait, rank: int, op: model.Op) -> bool:
    """Has ``rank`` finished its side of ``op``? A batch is unfinished until all of it is, its partners are not.

    That is told by counting, where both dumps go back to the beginning. Elsewhere it counts as not called: then the
    wait has one way more out of it, and no end of the graph is changed by that.
    """
    group = merged.groups[wait.group]
    slot = group.slots.get(rank)
    me = merged.signatures[op.signature].me if op.signature in merged.signatures else model.NEVER
    if slot is None:
        return False
    pair = next(
        (p for p in merged.ranks[rank].groups[slot].pairs if p.peer == me and p.sends != (op.op == "send")), None
    )
    if pair is None or pair.unfinished:
        return False
    waiting = next(r for r in wait.waiting if r != rank)
    whole = not any(merged.ranks[r].wrapped or merged.ranks[r].active_only for r in (rank, waiting))
    return whole and pair.count >= op.nth
