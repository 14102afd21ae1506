"""A second fault behind the first: a host that stopped while it waited for the same as ranks that went on.

Such a rank is a victim by the graph, since what it has called waits for somebody else. But its mates wait for just the
same and have called more since; so it is not its device that keeps its host.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import words
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, Finding

MATES_MIN: Final = 2  # that went on; of two ranks alone nobody tells who is early
RANKS_MAX: Final = 4096  # in more than these the first are looked at
LOOKED_MAX: Final = 256  # ranks that stand where no mate stands

Pending = tuple[tuple[str, bool, int, str], ...]


def find(case: cases.Case, named: set[int]) -> list[Finding]:
    """One finding for each such rank that somebody waits for and that is not ``named`` yet."""
    pending = {rank: _pending(case, rank) for rank in list(case.board.fronts)[:RANKS_MAX]}
    mates: dict[object, list[int]] = defaultdict(list)
    for rank, calls in pending.items():
        if rank not in named:
            mates[case.orders.role(rank), calls[0]].append(rank)
    alike = {key: Counter(pending[rank] for rank in of_role) for key, of_role in mates.items()}
    found: list[Finding] = []
    looked = 0
    for rank in sorted(set(case.board.owed) & set(pending) - named):
        key = case.orders.role(rank), pending[rank][0]
        if alike[key][pending[rank]] > 1 or looked == LOOKED_MAX:
            continue  # who stands where a mate stands has not stopped early; nearly all do, so this keeps it linear
        looked += 1
        told = _judge(case, rank, pending, mates[key])
        found += [told] if told is not None else []
    # Where many stopped at one place their program waits there, whatever it is that the others did.
    return found if len(found) <= 2 else []


def _judge(case: cases.Case, rank: int, pending: dict[int, Pending], mates: list[int]) -> Finding | None:
    """``mates`` have the same role and the same first pending call; the rank is one of them."""
    mine = pending[rank]
    further = [mate for mate in mates if len(pending[mate]) > len(mine) and pending[mate][: len(mine)] == mine]
    if len(further) < MATES_MIN or len(further) < len(mates) - 1 - len(further):
        return None
    kind, p2p, seq, op = pending[further[0]][len(mine)]
    kinds, merged = case.orders.kinds(rank), case.merged
    group = merged.places[rank][kinds.index(kind)] if kind in kinds else -1
    waits = [at for at in case.board.owed[rank] if case.board.waits[at].group == group] or case.board.owed[rank]
    wait = case.board.waits[min(waits, key=lambda at: (case.board.waits[at].since_ns or 2**63, at))]
    sentence = (
        f"{words.named(merged, (rank,)).capitalize()} stopped before {words.operation(merged, wait)}, though "
        f"{len(further)} ranks of its role that wait for the same went on to it."
    )
    evidence = [f"{len(mine)} unfinished operations, the same as its mates; they called {op} of {kind} after that"]
    found = cases.told(
        case, "p2p-missing" if p2p else "rank-missing", (rank,), CONFIDENCE["unexcused"], wait, sentence, evidence
    )
    if group >= 0 and wait.group != group and not p2p:
        told = merged.groups[group]
        found.where = findings.Where(told.name, told.description, told.ranks, seq, op)
    return found


def _pending(case: cases.Case, rank: int) -> Pending:
    kinds = case.orders.kinds(rank)
    return tuple((kinds[op.group], op.p2p, op.seq, op.op) for op in case.merged.ranks[rank].unfinished)
