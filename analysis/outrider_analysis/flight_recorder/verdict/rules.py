"""One end of the graph of waits -> what happened there, who did it, and what says so.

The order of the rules is the order of their evidence: what a rank called differently, what its device did not finish,
that it waits for nobody, that it left the order of its mates. Where none of them holds, all are candidates.
"""

from __future__ import annotations

from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import circle, ends, order, words
from outrider_analysis.flight_recorder.verdict import mismatch as mismatches
from outrider_analysis.flight_recorder.verdict.board import Wait
from outrider_analysis.flight_recorder.verdict.case import Case
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, UNKNOWN, Finding
from outrider_analysis.flight_recorder.verdict.graph import Node

__all__ = ["Case", "judge"]


def judge(case: Case, end: list[Node]) -> Finding | None:
    """The finding for one end; None where it is none (nobody waits for it)."""
    waits = [at for kind, at in end if kind == "wait"]
    ranks = [rank for kind, rank in end if kind == "rank"]
    wrong = [at for at in waits if at in case.mismatched]
    if wrong:
        return _mismatch(case, wrong[0])
    if not waits and all(rank not in case.merged.ranks for rank in ranks):
        return _strayed(case, ranks) or ends.absent(case, ranks)
    if not waits:
        return _idle(case, ranks[0])
    if len(waits) == 1 and case.board.waits[waits[0]].device:
        return ends.device(case, waits[0])
    joined = [at for at in waits if case.board.waits[at].joined]
    if len(end) == 1 and joined:
        wait = case.board.waits[joined[0]]
        batch = None if wait.pair else mismatches.in_batch(case.merged, case.orders, wait.group, wait.seq)
        if batch is not None:
            case.mismatched[joined[0]] = batch
            return _mismatch(case, joined[0])
        return ends.joined(case, joined[0])
    return circle.judge(case, waits, ranks)


def _mismatch(case: Case, at: int) -> Finding:
    wait, found = case.board.waits[at], case.mismatched[at]
    merged = case.merged
    kind = "order-mismatch" if found.shifted else mismatches.VERDICT[found.kind]
    place = f"number {found.seq} of {words.group(merged, found.group)}"
    called = f"called {found.theirs.text} where the others called {found.right.text}, {place}"
    evidence = [called, f"decided by {found.by or 'nothing'}"]
    if not found.culprits:
        who = words.named(merged, found.candidates)
        sentence = (
            f"{who[0].upper()}{who[1:]} called different things under {place}: {found.theirs.text} "
            f"and {found.right.text}. Nothing tells which of them is wrong."
        )
        return cases.told(case, "unknown", (), UNKNOWN, wait, sentence, evidence, found.candidates)
    who = words.named(merged, found.culprits)
    sentence = f"{who[0].upper()}{who[1:]} {called}."
    if found.shifted:
        evidence.append(
            f"its calls are those of the others with one {'left out' if found.shifted == 'skipped' else 'more'}"
        )
        sentence = f"{sentence[:-1]}: it {'skipped a call' if found.shifted == 'skipped' else 'made a call too many'}."
    return cases.told(case, kind, found.culprits, CONFIDENCE[found.by], wait, sentence, evidence)


def _strayed(case: Case, absent: list[int]) -> Finding | None:
    """Who waits for ranks without a dump in a call that its mates did not make there: they need not have come."""
    waits = sorted({at for rank in absent for at in cases.waits_for(case, rank)})
    waiting = sorted({rank for at in waits for rank in case.board.waits[at].waiting})[: circle.CIRCLE_MAX]
    lefts = [
        left for rank in waiting if (left := order.deviation(case.orders, rank, case.orders.mates(rank))) is not None
    ]
    if not lefts or 2 * len(lefts) > max(2, len(waiting)) or any(left.by_habit for left in lefts):
        return None
    own = [at for at in waits if lefts[0].rank in case.board.waits[at].waiting]
    return circle.deviated(case, lefts, case.board.waits[own[0]])


def _idle(case: Case, rank: int) -> Finding | None:
    """A rank that waits for nobody, while others wait for it."""
    merged = case.merged
    waits = cases.waits_for(case, rank)
    if not waits:
        return None
    mates = case.orders.mates(rank, [other for at in waits for other in case.board.waits[at].waiting])
    left = order.deviation(case.orders, rank, mates)
    wait = case.board.waits[cases.first_owed(case, rank, waits, mates)]
    if left is not None and left.mine is not None:
        return circle.deviated(case, [left], wait)
    if merged.ranks[rank].unfinished_count:
        return _hidden(case, rank, wait)
    many = [other for other in wait.missing if case.board.idle(other)]
    if wait.pair is None and len(many) > max(1, len(wait.waiting)):
        return _crowd(case, wait, many)
    kind = "p2p-missing" if wait.pair is not None else "rank-missing"
    what = words.operation(merged, wait)
    sentence = (
        f"{words.named(merged, (rank,)).capitalize()} never called {what}; it waits for nobody, "
        f"and {words.count(list(wait.waiting))} for it there."
    )
    evidence = [f"has no unfinished operation; {words.operations(len(waits))} for it"]
    if merged.ranks[rank].stack:
        evidence.append(f"its last call came from {merged.ranks[rank].stack[0]}")
    return cases.told(case, kind, (rank,), CONFIDENCE["idle"], wait, sentence, evidence)


def _hidden(case: Case, rank: int, wait: Wait) -> Finding:
    """It waits itself, in a group whose members nobody told."""
    count = case.merged.ranks[rank].unfinished_count
    sentence = (
        f"{words.named(case.merged, (rank,)).capitalize()} never called {words.operation(case.merged, wait)}, but has "
        f"{count} unfinished operations of its own; nothing tells for whom it waits there."
    )
    evidence = ["the members of their group are not told; a mesh or the groups would tell them"]
    return cases.told(case, "unknown", (), UNKNOWN, wait, sentence, evidence, (rank,))


def untold(case: Case, wait: Wait, sentence: str) -> Finding:
    """Nothing is known but that ranks wait."""
    return cases.told(case, "unknown", (), UNKNOWN, wait, sentence, ["members of groups are not told"])


def _crowd(case: Case, wait: Wait, many: list[int]) -> Finding:
    """Most are missing and idle: it may be the few who came that are wrong."""
    merged = case.merged
    lefts = []
    for rank in sorted(wait.waiting)[: circle.CIRCLE_MAX]:
        left = order.deviation(case.orders, rank, case.orders.mates(rank, many))
        if left is not None:
            lefts.append(left)
    if lefts:
        return circle.deviated(case, lefts, wait)
    what = words.operation(merged, wait)
    sentence = (
        f"{len(wait.waiting)} members wait in {what} and {len(many)} others neither came nor wait for anything; "
        "nothing tells which side is wrong."
    )
    evidence = [f"missing: ranks {words.runs(many)}"]
    return cases.told(case, "unknown", (), UNKNOWN, wait, sentence, evidence, tuple(sorted({*many, *wait.waiting})))
