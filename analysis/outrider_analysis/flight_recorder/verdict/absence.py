"""Ranks that left no dump: what else could they be waiting for?

A rank that did not come is to blame unless it may itself wait for somebody. Where it can be is known from both sides:
it has made every call whose group finished it, and it has not made those that others wait for it in. A rank of the same
role says what lies between. Where nothing lies between, it never made that call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict.board import Board
from outrider_analysis.flight_recorder.verdict.graph import Node, explained
from outrider_analysis.flight_recorder.verdict.order import Call, Orders

UNHEARD_MAX: Final = 4096
CROWD: Final = 2**21  # such ranks by all ranks: with more of them (128 of 16,384) they are one knot, to end in time


def possible(board: Board, orders: Orders) -> dict[int, list[Node]]:
    """For each rank without a dump that somebody waits for, the nodes that it may wait for itself."""
    waited: dict[int, list[int]] = {}
    for at, wait in enumerate(board.waits):
        if not wait.device and not explained(board, at):
            for rank in wait.unheard:
                waited.setdefault(rank, []).append(at)
    if len(waited) * board.merged.world > CROWD:
        return _crowd(board, sorted(waited))
    heard = board.merged.ranks
    found: dict[int, list[Node]] = {}
    for rank, waits in waited.items():
        nodes = set(_possible(board, orders, rank, waits))
        # Of a rank without a dump that nobody waits for nothing is known, so nothing is explained by it.
        found[rank] = sorted(node for node in nodes if node[0] == "wait" or node[1] in heard or node[1] in waited)
    return found


def _crowd(board: Board, waited: list[int]) -> dict[int, list[Node]]:
    """Each may wait for any other, and for whoever of their groups was heard and did not come; in linear time.

    A ring says the first, and the second is said once for each group, by whichever of its ranks comes first.
    """
    merged = board.merged
    found: dict[int, list[Node]] = {
        rank: [("rank", after)] for rank, after in zip(waited, [*waited[1:], waited[0]], strict=True)
    }
    told: set[int] = set()
    for rank in waited:
        for group in merged.of_rank.get(rank, ()):
            if group in told:
                continue
            told.add(group)
            finished = _finished(merged, group, rank)
            for other, slot in merged.groups[group].slots.items():
                enqueued = merged.ranks[other].groups[slot].enqueued
                if enqueued is None or enqueued <= finished:
                    found[rank].append(("rank", other))
    return found


def _possible(board: Board, orders: Orders, rank: int, waits: list[int]) -> Iterable[Node]:
    merged = board.merged
    alone = [at for at in waits if len(board.waits[at].unheard) == 1]
    if not alone:  # it may have joined them all, and wait there for another one without a dump
        yield from (("rank", other) for at in waits for other in board.waits[at].unheard if other != rank)
    between = _between(board, orders, rank, alone or waits)
    known = {orders.kind(group) for group in merged.of_rank.get(rank, ())}
    if between is None or any(call[0] not in known for call in between):
        # Of a group whose members are all unheard nobody tells; it may be there.
        yield from (("rank", other) for other in merged.absent[:UNHEARD_MAX] if other != rank and other in board.owed)
    for group in merged.of_rank.get(rank, ()):
        finished = _finished(merged, group, rank)
        kind = orders.kind(group)
        if between is not None and not any(call[0] == kind and not call[1] for call in between):
            continue
        at = board.at.get((group, finished + 1))
        if at is not None and rank in board.waits[at].unheard and explained(board, at):
            yield ("wait", at)  # it may have come there, and what keeps the others keeps it
        for other in merged.groups[group].ranks:
            if other == rank:
                continue
            seen = merged.seen(other, group)
            joined = seen is not None and seen.enqueued is not None and seen.enqueued > finished
            if other not in merged.ranks or not joined:
                yield ("rank", other)
            elif (at := board.at.get((group, finished + 1))) is not None and other in board.waits[at].waiting:
                continue
    if between is not None:
        yield from _partners(merged, orders, rank, between)


def _between(board: Board, orders: Orders, rank: int, waits: list[int]) -> list[Call] | None:
    """The calls at one of which the rank is, without the one that it is waited for in; None where nobody tells."""
    merged = board.merged
    stage = merged.coords.get(rank, {}).get("pp")
    found: list[Call] | None = None
    for at in waits:
        wait = board.waits[at]
        near = [r for r in wait.waiting if r in merged.ranks and merged.coords.get(r, {}).get("pp") == stage]
        for mate in near[:1] or _mates(merged, orders, rank):
            calls = orders.calls(mate)
            kind = orders.kind(wait.group)
            if wait.pair is None:
                high = next((i for i, c in enumerate(calls) if c[:3] == (kind, False, wait.seq)), None)
            else:
                high = None
            if high is None:
                continue
            low = max((_last(calls, merged, orders, group, rank) for group in merged.of_rank[rank]), default=-1)
            piece = calls[low + 1 : high] if low >= 0 else None
            if piece is not None and (found is None or len(piece) < len(found)):
                found = piece
            break
    return found


def _mates(merged: Merged, orders: Orders, rank: int) -> list[int]:
    stage = merged.coords.get(rank, {}).get("pp")
    if stage is None:
        return []
    return [other for other, coords in merged.coords.items() if coords.get("pp") == stage and other in merged.ranks][:2]


def _last(calls: list[Call], merged: Merged, orders: Orders, group: int, rank: int) -> int:
    """Where in the calls of a mate stands the newest one of this group that ``rank`` must have made."""
    finished = _finished(merged, group, rank)
    kind = orders.kind(group)
    return max(
        (i for i, call in enumerate(calls) if call[0] == kind and not call[1] and call[2] <= finished), default=-1
    )


def _finished(merged: Merged, group: int, rank: int) -> int:
    """The newest collective that any member has finished, which is one that all members had joined."""
    told = [merged.ranks[other].groups[slot].completed for other, slot in merged.groups[group].slots.items()]
    return max((number for number in told if number is not None), default=-1)


def _partners(merged: Merged, orders: Orders, rank: int, between: list[Call]) -> Iterable[Node]:
    """Partners of sends and recvs that lie between."""
    for kind, p2p, _, _, step in between:
        if not p2p:
            continue
        for group in merged.of_rank.get(rank, ()):
            members = merged.groups[group].ranks
            if orders.kind(group) == kind and len(members) > 1:
                partner = members[(members.index(rank) + step) % len(members)]
                if partner != rank:
                    yield ("rank", partner)
