"""Ranks that wait for each other: who left the order, and who had no reason to wait?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import ends, order, words
from outrider_analysis.flight_recorder.verdict.board import Wait
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, UNKNOWN, Finding

BESIDE_ABSENT: Final = 0.6
CIRCLE_MAX: Final = 256  # ranks of a circle whose order is compared


def judge(case: cases.Case, waits: list[int], ranks: list[int]) -> Finding:
    """The finding for a circle of these waits and ranks."""
    found = _judge(case, waits, ranks)
    found.circle = True
    return found


def _judge(case: cases.Case, waits: list[int], ranks: list[int]) -> Finding:
    """Ranks that wait for each other: who left the order, who had no reason to wait?"""
    within = {*ranks, *(rank for at in waits for rank in case.board.waits[at].waiting)}
    heard = [rank for rank in sorted(within) if rank in case.merged.ranks][:CIRCLE_MAX]
    first = case.board.waits[min(waits, key=lambda at: (case.board.waits[at].since_ns or 2**63, at))]
    near = {rank: cases.company(case, rank) for rank in heard}
    lefts = [order.deviation(case.orders, rank, case.orders.mates(rank, near[rank])) for rank in heard]
    known = [left for left in lefts if left is not None]
    if known and 2 * len(known) <= max(2, len(heard)):  # of many that differ the measure is wrong, not they
        return deviated(case, known, first)
    late = [rank for rank in heard if _unexcused(case, rank)]
    absent = [rank for rank in ranks if rank not in case.merged.ranks]
    if late:
        found = _late(case, late)
        if absent:  # of which one may be the first fault, and this a second behind it
            found.confidence = min(found.confidence, BESIDE_ABSENT)
            found.evidence.append(f"waits lead to ranks without a dump as well: {words.runs(absent)}")
        return found
    crossed = [left for rank in heard if (left := order.crossing(case.orders, rank)) is not None]
    if crossed:
        return deviated(case, crossed, first)
    if absent:
        found = ends.absent(case, absent)
        if heard:  # what keeps them may keep it too, since it may wait for one of them
            found.confidence = min(found.confidence, BESIDE_ABSENT)
            found.evidence[1:2] = ["it may be waiting for one of those who wait for it"]
        return found
    pairs = [case.board.waits[at] for at in waits]
    receive = all(case.board.waits[case.board.fronts[rank][0]].waiting[rank].op == "recv" for rank in heard)
    if len(heard) == 2 and receive and all(wait.pair is not None for wait in pairs):
        sentence = (
            f"{words.named(case.merged, heard).capitalize()} wait for each other's send: both receive, and "
            "no other pipeline tells which of them is wrong."
        )
        evidence = ["each waits for the other"]
        return cases.told(case, "unknown", (), UNKNOWN, first, sentence, evidence, tuple(heard))
    ranks = sorted(within)
    joined = [at for at in waits if case.board.waits[at].joined]
    if joined and not any(case.board.waits[at].missing or case.board.waits[at].unheard for at in waits):
        return ends.joined(case, min(joined, key=lambda at: (case.board.waits[at].since_ns or 2**63, at)))
    sentence = (
        f"{words.named(case.merged, ranks).capitalize()} wait for each other in a circle; nothing tells who began it."
    )
    evidence = [f"{len(waits)} operations in the circle"]
    return cases.told(case, "unknown", (), UNKNOWN, first, sentence, evidence, tuple(ranks))


def _late(case: cases.Case, late: list[int]) -> Finding:
    rank = late[0]
    waits = cases.waits_for(case, rank)
    mates = case.orders.mates(rank, cases.company(case, rank))
    wait = case.board.waits[cases.first_owed(case, rank, waits, mates)]
    what = words.operation(case.merged, wait)
    sentence = (
        f"{words.named(case.merged, late).capitalize()} never called {what}, though others of its role "
        "did while they waited for the same as it does."
    )
    kind = "p2p-missing" if wait.pair is not None else "rank-missing"
    evidence = ["its own unfinished operations did not keep its mates from making this call"]
    return cases.told(case, kind, tuple(late), CONFIDENCE["unexcused"], wait, sentence, evidence)


def deviated(case: cases.Case, lefts: Sequence[order.Deviation], wait: Wait) -> Finding:
    """Ranks that left the order of their mates."""
    merged = case.merged
    culprits = tuple(sorted(left.rank for left in lefts))
    left = lefts[0]
    kind = "order-mismatch"
    p2p = (left.mine is not None and left.mine[1], left.theirs[1])
    if left.how == "skipped" and left.theirs[1]:
        kind = "p2p-missing"
    elif all(p2p) and left.how != "extra":
        kind = "p2p-deadlock"
    own = words.call(left.mine) if left.mine is not None else "nothing"
    how = {
        "skipped": "it skipped a call",
        "extra": "it made a call too many",
        "swapped": "it swapped two calls",
        "open": "it left their order there",
    }
    sentence = (
        f"{words.named(merged, culprits).capitalize()} called {own} where ranks of the same role called "
        f"{words.call(left.theirs)}: {how[left.how]}."
    )
    sure = CONFIDENCE["habit"] if left.by_habit else CONFIDENCE["order"]
    evidence = [f"{left.votes} ranks of its role made the other call" + (", by habit" if left.by_habit else "")]
    found = cases.told(case, kind, culprits, sure, wait, sentence, evidence)
    shows = left.mine if left.how == "extra" and left.mine is not None else left.theirs
    found.where = cases.spot(case, left.rank, shows, wait)
    found.proof = True
    return found


def _unexcused(case: cases.Case, rank: int) -> bool:
    """Did mates of this rank make the call that it owes, while what it waits for kept them waiting too?"""
    own = {cases.token(case, rank, at) for at in case.board.fronts.get(rank, ())}
    mates = set(case.orders.mates(rank))
    for at in cases.waits_for(case, rank):
        wait = case.board.waits[at]
        if wait.pair is not None or not _is_usual(case, sorted(mates), wait):
            continue
        for other in wait.waiting:
            theirs = {cases.token(case, other, front) for front in case.board.fronts.get(other, ())}
            if other in mates and own <= theirs:
                return True
    return False


def _is_usual(case: cases.Case, mates: Sequence[int], wait: Wait) -> bool:
    """Have most ranks of the role made the call? Else those who did may have made one too many; one alone, too."""
    kind = case.orders.kind(wait.group)
    made = [case.orders.reached(mate).get((kind, False)) for mate in mates[: cases.MATES_ASKED]]
    known = [reached[0] for reached in made if reached is not None]
    return len(known) > 1 and 2 * sum(number >= wait.seq for number in known) > len(known)
