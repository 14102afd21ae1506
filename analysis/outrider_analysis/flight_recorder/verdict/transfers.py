"""Circles of waits that close over a send or recv which only a look at the ranks shows.

Two that wait for each other in the same direction face each other: the one is wrong whose stack differs from those of
its mates at the same place. Where a rank waits in a transfer and its partner has gone on to wait for it elsewhere, the
partner has passed the transfer by, if pairs of other pipelines have it before the place where the partner is now.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import hidden, room, words
from outrider_analysis.flight_recorder.verdict.case import Case
from outrider_analysis.flight_recorder.verdict.finding import UNKNOWN, Finding
from outrider_analysis.flight_recorder.verdict.hints import Hints

BY_STACK: Final = 0.75
PASSED_BY: Final = 0.65  # that the one who waits made a recv too many is not ruled out
MATES_MIN: Final = 2


def find(case: Case, hints: Hints, waiting: set[int]) -> list[Finding]:
    """A finding for each circle in which one of ``waiting`` (ranks in a transfer that no record shows) takes part."""
    found = []
    for end in case.graph.ends:
        ranks = {number for kind, number in end if kind == "rank"}
        pairs = _pairs(case, ranks, waiting)
        if pairs:
            found.append(_judge(case, hints, pairs))
            found[-1].victims = tuple(sorted(ranks - {*found[-1].culprits, *found[-1].candidates}))
    return found


def _pairs(case: Case, ranks: set[int], waiting: set[int]) -> list[tuple[int, int, int]]:
    """(rank, partner, wait) of each transfer within the circle to which the partner has not come."""
    found = []
    for rank in sorted(ranks & waiting):
        for at in case.board.fronts.get(rank, ()):
            wait = case.board.waits[at]
            partner = next((other for other in wait.missing if other in ranks), None)
            if wait.pair is not None and partner is not None:
                found.append((rank, partner, at))
    return found


def _judge(case: Case, hints: Hints, pairs: list[tuple[int, int, int]]) -> Finding:
    known = {(rank, partner) for rank, partner, _ in pairs}
    facing = sorted({rank for rank, partner in known if (partner, rank) in known})
    if facing:
        at = next(at for rank, _, at in pairs if rank in facing)
        wrong = [rank for rank in facing if _differs(case, hints, rank)]
        who = words.named(case.merged, facing).capitalize()
        what = f"{who} wait for each other in the same direction"
        if len(wrong) == 1:
            sentence = f"{what}; rank {wrong[0]} stands at another place of its program than its mates."
            return _made(case, "p2p-deadlock", wrong, [], BY_STACK, at, sentence)
        return _made(case, "unknown", [], facing, UNKNOWN, at, f"{what}; nothing tells which of them is wrong.")
    clock = room.Clock(case)
    passed = {}
    for rank, partner, at in pairs:
        group = case.board.waits[at].group
        if group in hidden.groups_of(case.merged, rank):
            told = room.between(case, clock, rank, group, partner)
            if told.told and told.skipped and not told.ahead:
                passed[partner] = (rank, at)
    if len(passed) == 1 and len({rank for rank, _, _ in pairs}) == 1:
        partner, (rank, at) = next(iter(passed.items()))
        sentence = (
            f"{words.named(case.merged, (partner,)).capitalize()} passed by the transfer in which rank {rank} waits "
            "for it, and waits elsewhere."
        )
        return _made(case, "p2p-missing", [partner], [], PASSED_BY, at, sentence)
    candidates = sorted({number for rank, partner, _ in pairs for number in (rank, partner)})
    sentence = (
        f"{words.named(case.merged, candidates).capitalize()} wait for each other, in transfers that gloo does not "
        "record and elsewhere; nothing tells who passed one by."
    )
    return _made(case, "unknown", [], candidates, UNKNOWN, pairs[0][2], sentence)


def _differs(case: Case, hints: Hints, rank: int) -> bool:
    """Does its stack differ from the one that its mates after the same recorded call have?"""
    own = case.orders.calls(rank)[-1:]
    stacks = [hints.of(mate).stack for mate in case.orders.mates(rank) if case.orders.calls(mate)[-1:] == own]
    common = Counter(stack for stack in stacks if stack).most_common(1)
    return bool(common) and common[0][1] >= MATES_MIN and common[0][0] != hints.of(rank).stack


def _made(
    case: Case, kind: str, culprits: list[int], candidates: list[int], sure: float, at: int, sentence: str
) -> Finding:
    wait = case.board.waits[at]
    evidence = ["a look at the ranks: their stacks stand in a send or recv that no record shows"]
    found = cases.told(case, kind, tuple(culprits), sure, wait, sentence, evidence, tuple(candidates))
    found.where = findings.where(case.merged, wait)
    found.proof = bool(culprits)
    return found
