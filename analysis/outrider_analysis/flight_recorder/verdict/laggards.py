"""A second fault behind the first: a host that stopped while what it waits for did not keep its mates from calling on.

Such a rank is a victim by the graph, since what it has called waits for somebody else. But mates went past the place
where it stopped, while calls before that place were not over for them either; so it is not its device that keeps it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder import model
from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import order, words
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, Finding

MATES_MIN: Final = 2  # that went on; of two ranks alone nobody tells who is early
UNWAITED: Final = 0.6  # nobody waits for it yet, so it may only be slower to call
RANKS_MAX: Final = 4096  # in more than these the first are looked at
MATES_ASKED: Final = 256
LOOKED_MAX: Final = 256  # ranks that stand where no mate stands

_Call = tuple[str, bool, int, str]  # kind of group, send or recv, number, operation
_Place = tuple[int, frozenset[tuple[str, int, int]]]  # kinds of groups, newest collective there, newest send or recv


@dataclass(frozen=True, slots=True)
class _Host:
    """How far the calls of a rank go, and the first of them that are not over."""

    reached: Mapping[str, tuple[int, int]]
    pending: Sequence[_Call]
    count: int  # of calls that are not over

    @property
    def place(self) -> _Place:
        """The same, to be compared."""
        return self.count, frozenset((kind, *numbers) for kind, numbers in self.reached.items())

    def has_called(self, call: _Call) -> bool:
        """Did it make this call?"""
        return self.reached.get(call[0], (model.NEVER, 0))[call[1]] >= call[2]

    def is_beyond(self, other: _Host) -> bool:
        """Has it called all that the other has, and more, and has more calls that are not over?

        A host with as many may stand because its queue is full.
        """
        both = ((self.reached[kind], numbers) for kind, numbers in other.reached.items() if kind in self.reached)
        return self.count > other.count and all(mine[k] >= theirs[k] for mine, theirs in both for k in (0, 1))


def find(case: cases.Case, named: set[int]) -> list[Finding]:
    """One finding for each such rank that is not ``named`` yet."""
    by_role: dict[object, dict[int, _Host]] = defaultdict(dict)
    for rank in [rank for rank in case.board.fronts if rank not in named][:RANKS_MAX]:
        by_role[case.orders.role(rank)][rank] = _host(case, rank)
    found: list[Finding] = []
    looked = 0
    for hosts in by_role.values():
        alike = Counter(host.place for host in hosts.values())
        for rank, host in hosts.items():
            if alike[host.place] > 1 or looked == LOOKED_MAX:
                continue  # who stands where a mate stands has not stopped early; nearly all do, so this is linear
            looked += 1
            near = {mate: hosts[mate] for mate in itertools.islice(hosts, MATES_ASKED) if mate != rank}
            if all(case.orders.alike(rank, mate) for mate in near):
                told = _judge(case, rank, host, near)
                found += [told] if told is not None else []
    # Where many stopped at one place their program waits there, whatever it is that the others did.
    return sorted(found, key=lambda finding: finding.culprits) if len(found) <= 2 else []


def _judge(case: cases.Case, rank: int, mine: _Host, mates: Mapping[int, _Host]) -> Finding | None:
    """``mates`` have the same role and wait as well. Those tell that wait for the same first."""
    told = {mate: host for mate, host in mates.items() if host.pending[0] == mine.pending[0]}
    further = [mate for mate, host in told.items() if host.is_beyond(mine)]
    if len(further) < MATES_MIN or 2 * len(further) < len(told):
        return None
    made = _next(case, rank, mine, mates[further[0]], further[0])
    owed = case.board.owed.get(rank, [])
    found = _told(case, rank, len(further), made, owed)
    if found is None:
        return None
    if not owed:
        found.confidence = UNWAITED
        found.evidence.append("nobody waits for it yet")
    return found


def _told(case: cases.Case, rank: int, further: int, made: _Call | None, owed: list[int]) -> Finding | None:
    """``made``: what its mates called where it stopped."""
    merged, kinds = case.merged, case.orders.kinds(rank)
    group = merged.places[rank][kinds.index(made[0])] if made is not None and made[0] in kinds else -1
    waits = [at for at in owed if case.board.waits[at].group == group] or owed
    if not waits and group < 0:
        return None
    at = min(waits or case.board.fronts[rank], key=lambda at: (case.board.waits[at].since_ns or 2**63, at))
    wait = case.board.waits[at]
    what = words.operation(merged, wait)
    if not waits and made is not None:
        what = f"{made[3]} number {made[2]} of {words.group(merged, group)}"
    sentence = (
        f"{words.named(merged, (rank,)).capitalize()} stopped before {what}, though {further} ranks of its role that "
        "wait for the same went on to it."
    )
    count = case.merged.ranks[rank].unfinished_count
    evidence = [f"{count} unfinished operations, the same as its mates"]
    if made is not None:
        evidence[0] += f"; they called {made[3]} of {made[0]} after that"
    kind = "p2p-missing" if (made is not None and made[1]) or (made is None and wait.pair) else "rank-missing"
    found = cases.told(case, kind, (rank,), CONFIDENCE["unexcused"], wait, sentence, evidence)
    if made is not None and group >= 0 and (wait.group != group or not waits) and not made[1]:
        told = merged.groups[group]
        found.where = findings.Where(told.name, told.description, told.ranks, made[2], made[3])
    return found


def _host(case: cases.Case, rank: int) -> _Host:
    kinds, digested = case.orders.kinds(rank), case.merged.ranks[rank]
    reached = {
        kind: (model.NEVER if group.enqueued is None else group.enqueued, group.p2p)
        for kind, group in zip(kinds, digested.groups, strict=True)
        if not (digested.active_only and case.orders.carries(kind))
    }
    return _Host(
        reached, [(kinds[op.group], op.p2p, op.seq, op.op) for op in digested.unfinished], digested.unfinished_count
    )


def _next(case: cases.Case, rank: int, mine: _Host, theirs: _Host, mate: int) -> _Call | None:
    """What the mate called where this rank stopped, None where neither history nor what is pending tells."""
    calls = case.orders.calls(mate)
    _, at, how = order.compare(case.orders.calls(rank), calls)
    if how == "behind" and at < len(calls):
        return calls[at][:4]
    if case.merged.ranks[mate].unfinished_count > len(theirs.pending):
        return None
    return next((call for call in theirs.pending if not mine.has_called(call)), None)
