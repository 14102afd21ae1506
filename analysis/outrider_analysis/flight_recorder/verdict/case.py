"""What the rules look at, and what several of them ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import mismatch as mismatches
from outrider_analysis.flight_recorder.verdict import order
from outrider_analysis.flight_recorder.verdict.board import Board, Wait
from outrider_analysis.flight_recorder.verdict.finding import Finding
from outrider_analysis.flight_recorder.verdict.graph import Graph

MATES_ASKED: Final = 64


@dataclass(slots=True)
class Case:
    """All that the rules look at."""

    board: Board
    orders: order.Orders
    graph: Graph
    mismatched: dict[int, mismatches.Mismatch]  # by index of the wait
    dismissed: bool = False  # waits were taken for those of a job at work, by the looks of them alone
    pictured: bool = False  # the same for those of one that is stuck: no time tells

    @property
    def merged(self) -> Merged:
        """The job."""
        return self.board.merged

    @property
    def forgot(self) -> bool:
        """True where a ring holds no finished operation though others' do: its first unfinished ones may be gone."""
        ranks = self.merged.ranks.values()
        full = any(rank.entries and not rank.active_only for rank in ranks)
        return full and any(rank.active_only and rank.unfinished_count for rank in ranks)


def company(case: Case, rank: int) -> list[int]:
    """The ranks that wait for this one."""
    return [other for at in waits_for(case, rank) for other in case.board.waits[at].waiting]


def waits_for(case: Case, rank: int) -> list[int]:
    """The waits from which this rank is missing."""
    return case.board.owed.get(rank, [])


def first_owed(case: Case, rank: int, waits: list[int], mates: list[int]) -> int:
    """The call that the rank owes first: the one its mates made next, else the one that most of them are through.

    ``rank`` may have left no dump; then its mates alone tell.
    """
    made = _next_made(case, rank, waits, mates) if rank in case.merged.ranks else None
    return made if made is not None else _most_passed(case, rank, waits, mates)


def _next_made(case: Case, rank: int, waits: list[int], mates: list[int]) -> int | None:
    mine = case.orders.calls(rank)
    for mate in mates[: order.MATES_MAX]:
        theirs = case.orders.calls(mate)
        _, j, how = order.compare(mine, theirs)
        if how != "behind":
            continue
        later: dict[tuple[str, bool], int] = {}
        for place, made in enumerate(theirs[j:]):
            later.setdefault((made[0], made[1]), place)
        reached = [(later[key], at) for at in waits if (key := _key(case, at)) in later]
        if reached:
            return min(reached)[1]
    return None


def _most_passed(case: Case, rank: int, waits: list[int], mates: list[int]) -> int:
    known = [_progress(case, mate) for mate in mates[:MATES_ASKED]]

    def standing(at: int) -> tuple[float, int, int, int]:
        wait, key = case.board.waits[at], _key(case, at)
        number = _reached(case, rank, wait.group) + 1 if wait.pair is not None else wait.seq
        told = [over[key] for over, _ in known if key in over]
        passed = sum(newest >= number for newest in told) / max(1, len(told))
        behind = max((turn[key] for _, turn in known if key in turn), default=0)
        return (-passed, behind, wait.since_ns or 2**63, at)

    return min(standing(at) for at in waits)[3]


def _reached(case: Case, rank: int, group: int) -> int:
    """The newest send or recv of ``rank`` in the group; beyond all where nothing tells."""
    seen = case.merged.seen(rank, group)
    hidden = seen is None or (not seen.p2p and case.merged.ranks[rank].active_only)  # those that are over were left out
    return seen.p2p if seen is not None and not hidden else 2**31


def _progress(case: Case, rank: int) -> tuple[dict[tuple[str, bool], int], dict[tuple[str, bool], int]]:
    """For each kind of group the newest number that the rank is through, and the turn in which it waits there."""
    digested, kinds = case.merged.ranks[rank], case.orders.kinds(rank)
    turn: dict[tuple[str, bool], int] = {}
    for place, op in enumerate(digested.unfinished):
        turn.setdefault((kinds[op.group], op.p2p), place)
    over: dict[tuple[str, bool], int] = {}
    for kind, group in zip(kinds, digested.groups, strict=True):
        if group.completed is not None:
            over[kind, False] = group.completed
        over[kind, True] = group.p2p if (kind, True) not in turn else -1
    return over, turn


def _key(case: Case, at: int) -> tuple[str, bool]:
    wait = case.board.waits[at]
    return case.orders.kind(wait.group), wait.pair is not None


def token(case: Case, rank: int, at: int) -> tuple[str, int, str]:
    """A wait in the words that all ranks of a role share: kind of group, number, operation."""
    wait = case.board.waits[at]
    slot = case.merged.groups[wait.group].slots[rank]
    op = wait.waiting[rank]
    return case.orders.kinds(rank)[slot], op.seq, op.op


def spot(case: Case, rank: int, call: order.Call, otherwise: Wait) -> findings.Where:
    """Where a call of ``rank`` (made or left out) shows: what is waited in there, else the call itself."""
    kind, p2p, seq, op, step = call
    kinds = case.orders.kinds(rank)
    at = case.merged.places[rank][kinds.index(kind)] if kind in kinds else -1
    if at < 0:
        return findings.where(case.merged, otherwise)
    mine = {*waits_for(case, rank), *case.board.fronts.get(rank, ())}
    seen = [w for n in sorted(mine) if (w := case.board.waits[n]).group == at and (w.pair is not None) == p2p]
    if seen:
        return findings.where(case.merged, min(seen, key=lambda wait: (wait.since_ns or 2**63, wait.seq)))
    group = case.merged.groups[at]
    pair = None
    if p2p and rank in group.ranks:
        peer = group.ranks[(group.ranks.index(rank) + step) % len(group.ranks)]
        pair = (rank, peer) if op == "send" else (peer, rank)
    return findings.Where(group.name, group.description, group.ranks, seq, op, pair)


def told(
    case: Case, kind: str, culprits: tuple[int, ...], sure: float, wait: Wait, sentence: str, evidence: list[str],
    candidates: tuple[int, ...] = (),
) -> Finding:  # fmt: skip
    """The finding at ``wait``, with the stack of the first culprit."""
    stack: tuple[str, ...] = ()
    for rank in culprits[:1]:
        digested = case.merged.ranks.get(rank)
        if digested is not None:
            stack = next((op.stack for op in digested.unfinished if op.stack), digested.stack)
    return Finding(
        kind=kind,
        culprits=culprits,
        confidence=sure,
        where=findings.where(case.merged, wait),
        sentence=sentence,
        evidence=evidence,
        candidates=candidates,
        since_ns=wait.since_ns,
        stack=stack,
    )
