"""One end of the graph of waits -> what happened there, who did it, and what says so.

The order of the rules is the order of their evidence: what a rank called differently, what its device did not finish,
that it waits for nobody, that it left the order of its mates. Where none of them holds, all are candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import mismatch as mismatches
from outrider_analysis.flight_recorder.verdict import order, words
from outrider_analysis.flight_recorder.verdict.board import Board, Wait
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, UNKNOWN, Finding
from outrider_analysis.flight_recorder.verdict.graph import Graph, Node

CIRCLE_MAX = 256  # ranks of a circle whose order is compared


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


def judge(case: Case, end: list[Node]) -> Finding | None:
    """The finding for one end; None where it is none (nobody waits for it)."""
    waits = [at for kind, at in end if kind == "wait"]
    ranks = [rank for kind, rank in end if kind == "rank"]
    wrong = [at for at in waits if at in case.mismatched]
    if wrong:
        return _mismatch(case, wrong[0])
    if not waits and all(rank not in case.merged.ranks for rank in ranks):
        return _absent(case, ranks)
    if not waits:
        return _idle(case, ranks[0])
    if len(waits) == 1 and case.board.waits[waits[0]].device:
        return _device(case, waits[0])
    joined = [at for at in waits if case.board.waits[at].joined]
    if len(end) == 1 and joined:
        return _joined(case, joined[0])
    return _circle(case, waits, ranks)


def _mismatch(case: Case, at: int) -> Finding:
    wait, found = case.board.waits[at], case.mismatched[at]
    merged = case.merged
    kind = "order-mismatch" if found.shifted else mismatches.VERDICT[found.kind]
    place = f"number {found.seq} of {words.group(merged, found.group)}"
    called = f"called {found.theirs.text} where the others called {found.right.text}, {place}"
    evidence = [called, f"decided by {found.by or 'nothing'}"]
    if not found.culprits:
        sentence = (
            f"{words.named(merged, found.candidates)} called different things under {place}: {found.theirs.text} "
            f"and {found.right.text}. Nothing tells which of them is wrong."
        )
        return _finding(case, "unknown", (), UNKNOWN, wait, sentence, evidence, found.candidates)
    who = words.named(merged, found.culprits)
    sentence = f"{who[0].upper()}{who[1:]} {called}."
    if found.shifted:
        evidence.append(
            f"its calls are those of the others with one {'left out' if found.shifted == 'skipped' else 'more'}"
        )
        sentence = f"{sentence[:-1]}: it {'skipped a call' if found.shifted == 'skipped' else 'made a call too many'}."
    return _finding(case, kind, found.culprits, CONFIDENCE[found.by], wait, sentence, evidence)


def _device(case: Case, at: int) -> Finding:
    wait, merged = case.board.waits[at], case.merged
    stuck = tuple(sorted(wait.waiting))
    what = words.operation(merged, wait)
    evidence = [f"{words.count(stuck)} in it; finished by ranks {words.runs(wait.done)}"]
    if len(stuck) > len(wait.done):
        sentence = (
            f"{words.named(merged, wait.done).capitalize()} finished {what}, and {len(stuck)} ranks did not; "
            "nothing tells whose device is stuck."
        )
        return _finding(case, "unknown", (), UNKNOWN, wait, sentence, evidence, stuck)
    sentence = (
        f"{words.named(merged, stuck).capitalize()} enqueued {what} and did not finish it, though {len(wait.done)} "
        "other members did: its device is stuck."
    )
    return _finding(case, "device-stuck", stuck, CONFIDENCE["device"], wait, sentence, evidence)


def _joined(case: Case, at: int) -> Finding:
    wait, merged = case.board.waits[at], case.merged
    what = words.operation(merged, wait)
    started = [rank for rank, op in wait.waiting.items() if op.started]
    late = tuple(
        rank
        for rank, op in sorted(wait.waiting.items())
        if not op.started and merged.ranks[rank].timing and case.board.fronts[rank][0] == at
    )
    if wait.pair is None and started and late and len(late) <= len(started):
        sentence = (
            f"{words.named(merged, late).capitalize()} enqueued {what} and never started it, though {len(started)} "
            "other members did: its device is stuck."
        )
        evidence = [f"started by ranks {words.runs(started)}"]
        return _finding(case, "device-stuck", late, CONFIDENCE["not-started"], wait, sentence, evidence)
    sentence = (
        f"All {len(wait.waiting)} members of {what} have joined it and none has finished: no rank is to "
        "blame; look at the group's links."
    )
    return _finding(
        case, "all-joined-stuck", (), CONFIDENCE["joined"], wait, sentence, ["every member has enqueued it"]
    )


def _idle(case: Case, rank: int) -> Finding | None:
    """A rank that waits for nobody, while others wait for it."""
    merged = case.merged
    waits = _waits_for(case, rank)
    if not waits:
        return None
    mates = case.orders.mates(rank, [other for at in waits for other in case.board.waits[at].waiting])
    left = order.deviation(case.orders, rank, mates)
    wait = case.board.waits[_first(case, rank, waits, mates)]
    if left is not None and left.mine is not None:
        return _deviated(case, [left], wait)
    many = [other for other in wait.missing if case.board.idle(other)]
    if wait.pair is None and len(many) > max(1, len(wait.waiting)):
        return _crowd(case, wait, many)
    kind = "p2p-missing" if wait.pair is not None else "rank-missing"
    what = words.operation(merged, wait)
    sentence = (
        f"{words.named(merged, (rank,)).capitalize()} never called {what}; it waits for nobody, "
        f"and {words.count(list(wait.waiting))} for it there."
    )
    evidence = [f"has no unfinished operation; {len(waits)} operations wait for it"]
    if merged.ranks[rank].stack:
        evidence.append(f"its last call came from {merged.ranks[rank].stack[0]}")
    return _finding(case, kind, (rank,), CONFIDENCE["idle"], wait, sentence, evidence)


def _crowd(case: Case, wait: Wait, many: list[int]) -> Finding:
    """Most are missing and idle: it may be the few who came that are wrong."""
    merged = case.merged
    lefts = []
    for rank in sorted(wait.waiting)[:CIRCLE_MAX]:
        left = order.deviation(case.orders, rank, case.orders.mates(rank, many))
        if left is not None:
            lefts.append(left)
    if lefts:
        return _deviated(case, lefts, wait)
    what = words.operation(merged, wait)
    sentence = (
        f"{len(wait.waiting)} members wait in {what} and {len(many)} others neither came nor wait for anything; "
        "nothing tells which side is wrong."
    )
    evidence = [f"missing: ranks {words.runs(many)}"]
    return _finding(case, "unknown", (), UNKNOWN, wait, sentence, evidence, tuple(sorted({*many, *wait.waiting})))


def _absent(case: Case, ranks: list[int]) -> Finding:
    """Ranks without a dump to which all waits lead."""
    merged = case.merged
    waits = sorted({at for rank in ranks for at in _waits_for(case, rank)})
    wait = case.board.waits[min(waits, key=lambda at: (case.board.waits[at].since_ns or 2**63, at))]
    what = words.operation(merged, wait)
    who = words.named(merged, ranks)
    evidence = ["left no dump", "those who did explain the wait by nobody else"]
    if len(ranks) > 1:
        sentence = (
            f"All waits lead to {who}, of whom there is no dump; any of them may be the one that did not come "
            f"to {what}."
        )
        found = _finding(case, "unknown", (), UNKNOWN, wait, sentence, evidence, tuple(ranks))
    else:
        sentence = (
            f"{who.capitalize()} left no dump and did not come to {what}; nothing that the others show would "
            "have kept it."
        )
        kind = "p2p-missing" if wait.pair is not None else "rank-missing"
        found = _finding(case, kind, tuple(ranks), CONFIDENCE["absent"], wait, sentence, evidence)
    found.absent = True
    return found


def _circle(case: Case, waits: list[int], ranks: list[int]) -> Finding:
    """Ranks that wait for each other: who left the order, who had no reason to wait?"""
    within = {*ranks, *(rank for at in waits for rank in case.board.waits[at].waiting)}
    heard = [rank for rank in sorted(within) if rank in case.merged.ranks][:CIRCLE_MAX]
    first = case.board.waits[min(waits, key=lambda at: (case.board.waits[at].since_ns or 2**63, at))]
    near = {rank: _company(case, rank) for rank in heard}
    lefts = [order.deviation(case.orders, rank, case.orders.mates(rank, near[rank])) for rank in heard]
    known = [left for left in lefts if left is not None]
    if known and 2 * len(known) <= max(2, len(heard)):  # of many that differ the measure is wrong, not they
        return _deviated(case, known, first)
    late = [rank for rank in heard if _unexcused(case, rank)]
    if late:
        return _late(case, late)
    crossed = [left for rank in heard if (left := order.crossing(case.orders, rank)) is not None]
    if crossed:
        return _deviated(case, crossed, first)
    absent = [rank for rank in ranks if rank not in case.merged.ranks]
    if absent:
        return _absent(case, absent)
    pairs = [case.board.waits[at] for at in waits]
    receive = all(case.board.waits[case.board.fronts[rank][0]].waiting[rank].op == "recv" for rank in heard)
    if len(heard) == 2 and receive and all(wait.pair is not None for wait in pairs):
        sentence = (
            f"{words.named(case.merged, heard).capitalize()} wait for each other's send: both receive, and "
            "no other pipeline tells which of them is wrong."
        )
        return _finding(case, "p2p-deadlock", tuple(heard), 0.7, first, sentence, ["each waits for the other"])
    ranks = sorted(within)
    joined = [at for at in waits if case.board.waits[at].joined]
    if joined and not any(case.board.waits[at].missing or case.board.waits[at].unheard for at in waits):
        return _joined(case, min(joined, key=lambda at: (case.board.waits[at].since_ns or 2**63, at)))
    sentence = (
        f"{words.named(case.merged, ranks).capitalize()} wait for each other in a circle; nothing tells who began it."
    )
    evidence = [f"{len(waits)} operations in the circle"]
    return _finding(case, "unknown", (), UNKNOWN, first, sentence, evidence, tuple(ranks))


def _late(case: Case, late: list[int]) -> Finding:
    rank = late[0]
    waits = _waits_for(case, rank)
    mates = case.orders.mates(rank, _company(case, rank))
    wait = case.board.waits[_first(case, rank, waits, mates)]
    what = words.operation(case.merged, wait)
    sentence = (
        f"{words.named(case.merged, late).capitalize()} never called {what}, though others of its role "
        "did while they waited for the same as it does."
    )
    kind = "p2p-missing" if wait.pair is not None else "rank-missing"
    evidence = ["its own unfinished operations did not keep its mates from making this call"]
    return _finding(case, kind, tuple(late), CONFIDENCE["unexcused"], wait, sentence, evidence)


def _deviated(case: Case, lefts: Sequence[order.Deviation], wait: Wait) -> Finding:
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
    how = {"skipped": "it skipped a call", "extra": "it made a call too many", "swapped": "it swapped two calls"}
    sentence = (
        f"{words.named(merged, culprits).capitalize()} called {own} where ranks of the same role called "
        f"{words.call(left.theirs)}: {how[left.how]}."
    )
    sure = CONFIDENCE["habit"] if left.by_habit else CONFIDENCE["order"]
    evidence = [f"{left.votes} ranks of its role made the other call" + (", by habit" if left.by_habit else "")]
    return _finding(case, kind, culprits, sure, wait, sentence, evidence)


def _unexcused(case: Case, rank: int) -> bool:
    """Did mates of this rank make the call that it owes, while what it waits for kept them waiting too?"""
    own = {_token(case, rank, at) for at in case.board.fronts.get(rank, ())}
    for at in _waits_for(case, rank):
        wait = case.board.waits[at]
        if wait.pair is not None:
            continue
        mates = set(case.orders.mates(rank))
        for other in wait.waiting:
            theirs = {_token(case, other, front) for front in case.board.fronts.get(other, ())}
            if other in mates and own <= theirs:
                return True
    return False


def _token(case: Case, rank: int, at: int) -> tuple[str, int, str]:
    wait = case.board.waits[at]
    slot = case.merged.groups[wait.group].slots[rank]
    op = wait.waiting[rank]
    return case.orders.kinds(rank)[slot], op.seq, op.op


def _company(case: Case, rank: int) -> list[int]:
    return [other for at in _waits_for(case, rank) for other in case.board.waits[at].waiting]


def _waits_for(case: Case, rank: int) -> list[int]:
    """The waits from which this rank is missing."""
    return case.board.owed.get(rank, [])


def _first(case: Case, rank: int, waits: list[int], mates: list[int]) -> int:
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


def _finding(
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
