"""Ends of the graph that are no circle: a device, an operation that all have joined, ranks without a dump."""

from __future__ import annotations

from outrider_analysis.flight_recorder import calls, model
from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import mismatch, order, words
from outrider_analysis.flight_recorder.verdict.board import Wait
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, UNKNOWN, Finding


def device(case: cases.Case, at: int) -> Finding:
    wait, merged = case.board.waits[at], case.merged
    stuck = tuple(sorted(wait.waiting))
    what = words.operation(merged, wait)
    evidence = [f"{words.count(stuck)} in it; finished by {words.listed(wait.done)}"]
    if len(stuck) > len(wait.done):
        sentence = (
            f"{words.named(merged, wait.done).capitalize()} finished {what}, and {len(stuck)} ranks did not; "
            "nothing tells whose device is stuck."
        )
        return cases.told(case, "unknown", (), UNKNOWN, wait, sentence, evidence, stuck)
    sentence = (
        f"{words.named(merged, stuck).capitalize()} enqueued {what} and did not finish it, though "
        f"{words.others(wait.done)} did: its device is stuck."
    )
    return cases.told(case, "device-stuck", stuck, CONFIDENCE["device"], wait, sentence, evidence)


def joined(case: cases.Case, at: int) -> Finding:
    wait, merged = case.board.waits[at], case.merged
    what = words.operation(merged, wait)
    if wait.done:  # the other side of a send or recv
        inside = tuple(sorted(wait.waiting))
        sentence = (
            f"{words.named(merged, inside).capitalize()} did not finish {what}, though "
            f"{words.named(merged, wait.done)} did; nothing tells whether its device is stuck."
        )
        half = cases.told(case, "unknown", (), UNKNOWN, wait, sentence, ["its partner is through"], inside)
        half.joined = True
        return half
    started = [rank for rank, op in wait.waiting.items() if op.started]
    late = tuple(
        rank
        for rank, op in sorted(wait.waiting.items())
        if not op.started and _timed(merged.ranks[rank]) and case.board.fronts[rank][0] == at
    )
    if wait.pair is None and started and late and len(late) <= len(started):
        sentence = (
            f"{words.named(merged, late).capitalize()} enqueued {what} and never started it, though "
            f"{words.others(started)} did: its device is stuck."
        )
        evidence = [f"started by {words.listed(started)}"]
        return cases.told(case, "device-stuck", late, CONFIDENCE["not-started"], wait, sentence, evidence)
    sentence = (
        f"All {len(wait.waiting)} members of {what} have joined it and none has finished: no rank is to "
        "blame; look at the group's links."
    )
    evidence = ["every member has enqueued it"]
    begun = len(started) == len(wait.waiting)
    if begun:
        evidence.append("every member's device has begun it")
    else:
        evidence.append(
            "starts are not recorded, so a device that never began it is not seen (TORCH_NCCL_ENABLE_TIMING)"
        )
    sure = CONFIDENCE["joined" if begun else "joined-untimed"]
    return cases.told(case, "all-joined-stuck", (), sure, wait, sentence, evidence)


def absent(case: cases.Case, ranks: list[int]) -> Finding:
    """Ranks without a dump to which all waits lead."""
    merged = case.merged
    waits = sorted({at for rank in ranks for at in cases.waits_for(case, rank)})
    first = min(waits, key=lambda at: (case.board.waits[at].since_ns or 2**63, at))
    if len(ranks) == 1:
        first = cases.first_owed(case, ranks[0], waits, case.orders.mates(ranks[0], cases.company(case, ranks[0])))
    wait = case.board.waits[first]
    what = words.operation(merged, wait)
    odd = _odd(case, wait)
    ranks = sorted({*ranks, *odd})
    who = words.named(merged, ranks)
    evidence = ["left no dump", "those who did explain the wait by nobody else"]
    if odd:
        evidence = [f"ranks {words.runs(odd)} called there what ranks of their role did not; the others left no dump"]
    if len(ranks) > 1:
        sentence = (
            f"All waits lead to {who}, of whom there is no dump; any of them may be the one that did not come "
            f"to {what}."
        )
        found = cases.told(case, "unknown", (), UNKNOWN, wait, sentence, evidence, tuple(ranks))
    else:
        sentence = (
            f"{who.capitalize()} left no dump and did not come to {what}; nothing that the others show would "
            "have kept it."
        )
        kind = "p2p-missing" if wait.pair is not None else "rank-missing"
        found = cases.told(case, kind, tuple(ranks), CONFIDENCE["absent"], wait, sentence, evidence)
    found.absent = True
    return found


def _odd(case: cases.Case, wait: Wait) -> list[int]:
    """Who waits there in another call than all ranks of its role made under this number?"""
    found = []
    for rank in sorted(wait.waiting) if wait.pair is None else ():
        kind, known = case.orders.kind(wait.group), []
        for mate in case.orders.mates(rank)[: order.MATES_MAX]:
            kinds = case.orders.kinds(mate)
            at = case.merged.places[mate][kinds.index(kind)] if kind in kinds else -1
            told = mismatch.called(case.merged, mate, at, wait.seq) if at >= 0 and at != wait.group else None
            if told is not None:
                known.append(told)
        mine = mismatch.called(case.merged, rank, wait.group, wait.seq)
        if mine is not None and len(known) > 1 and all(calls.difference(mine, other) for other in known):
            found.append(rank)
    return found


def _timed(rank: model.RankDigest) -> bool:
    """Would a start have been recorded? Of a dump of unfinished operations nothing else tells; ranks are set alike."""
    return rank.timing or rank.active_only
