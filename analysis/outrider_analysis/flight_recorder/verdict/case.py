"""What the rules look at, and what several of them ask."""

from __future__ import annotations

from dataclasses import dataclass

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import mismatch as mismatches
from outrider_analysis.flight_recorder.verdict import order
from outrider_analysis.flight_recorder.verdict.board import Board, Wait
from outrider_analysis.flight_recorder.verdict.finding import Finding
from outrider_analysis.flight_recorder.verdict.graph import Graph


@dataclass(slots=True)
class Case:
    """All that the rules look at."""

    board: Board
    orders: order.Orders
    graph: Graph
    mismatched: dict[int, mismatches.Mismatch]  # by index of the wait

    @property
    def merged(self) -> Merged:
        """The job."""
        return self.board.merged


def company(case: Case, rank: int) -> list[int]:
    return [other for at in waits_for(case, rank) for other in case.board.waits[at].waiting]


def waits_for(case: Case, rank: int) -> list[int]:
    """The waits from which this rank is missing."""
    return case.board.owed.get(rank, [])


def first_owed(case: Case, rank: int, waits: list[int], mates: list[int]) -> int:
    """The call that the rank owes first: the one its mates made next, else the one that was waited in first."""
    mine = case.orders.calls(rank)
    for mate in mates[: order.MATES_MAX]:
        theirs = case.orders.calls(mate)
        _, j, how = order.compare(mine, theirs)
        if how != "behind":
            continue
        later: dict[tuple[str, bool], int] = {}
        for place, made in enumerate(theirs[j:]):
            later.setdefault((made[0], made[1]), place)
        reached = [(later[key], at) for at in waits if (key := _key(case, rank, at)) in later]
        if reached:
            return min(reached)[1]
    return min(waits, key=lambda at: (case.board.waits[at].since_ns or 2**63, at))


def _key(case: Case, rank: int, at: int) -> tuple[str, bool]:
    wait = case.board.waits[at]
    slot = case.merged.groups[wait.group].slots.get(rank)
    return (case.orders.kinds(rank)[slot] if slot is not None else "", wait.pair is not None)


def token(case: Case, rank: int, at: int) -> tuple[str, int, str]:
    wait = case.board.waits[at]
    slot = case.merged.groups[wait.group].slots[rank]
    op = wait.waiting[rank]
    return case.orders.kinds(rank)[slot], op.seq, op.op


def told(
    case: Case, kind: str, culprits: tuple[int, ...], sure: float, wait: Wait, sentence: str, evidence: list[str],
    candidates: tuple[int, ...] = (),
) -> Finding:  # fmt: skip
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
