"""Nothing is stuck: does one rank keep the others waiting, time after time?

Only ranks that run the same program are compared, so that the way of the work through the pipeline does not count.
With timing on, a collective takes long on those who came early and is short on the one who came last. Without it, the
calls' own times tell who came last; hosts' clocks differ, so each is first set by when it saw the same collectives end,
and no lateness is believed that is not well beyond what such a setting leaves open. A slow host shows without clocks as
well: it takes longer from any call to the next.

A slow rank makes all those late that wait for it, so it alone is named that is last in every group in which anybody is.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import waited, words
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, Finding

SAMPLES_MIN: Final = 4  # collectives that all members saw
OFTEN: Final = 0.75  # share of them in which the same rank is last
SHARE: Final = 0.25  # late by this part of the time between two collectives of the group
FLOOR_BY_CALLS_NS: Final = 10_000_000
LOOK_NS: Final = 100_000_000  # torch looks for ends so often, each process at moments of its own
LOOK_SPREAD: Final = 0.41  # standard deviation of the difference of two such looks, in their distance: 1/sqrt(6)
SLOWER: Final = 3.0  # a slow host takes so many times as long between two calls as its mates
SLOWEST: Final = 1.25  # and so many times as long as any that only waits for it
FAR_SLOWEST: Final = 3.0  # to be told with confidence, where others are slow at all
GROUPS_TOLD: Final = 4
MATES_MIN: Final = 3
BETWEEN_MIN_NS: Final = 500_000
GAPS_MIN: Final = 12
TURNS_SHARED: Final = 0.75
BY_CALLS: Final = "the times of the calls"

Rows = dict[int, list[tuple[int, ...]]]
_Turn = tuple[tuple[str, int], tuple[str, int]]  # kind of group and number of one call, and of the next


@dataclass(frozen=True, slots=True)
class _Late:
    rank: int
    group: int
    times: int  # in so many of
    samples: int
    by_ns: float
    share: float  # of the time between two collectives
    how: str


@dataclass(frozen=True, slots=True)
class _Host:
    """``rank`` takes so long from one call to the next, and others of its role ``usual`` (ns). ``alone``: it alone."""

    rank: int
    between: float
    usual: float
    alone: bool


def find(case: cases.Case) -> Finding | None:
    """The straggler, where one stands out."""
    merged = case.merged
    alike = waited.alike(case)
    waits = waited.measure(case, alike)
    slow = waited.find(case, waits, alike)
    if slow is not None:
        return _told_waited(case, slow)
    found = {at: late for at in sorted(alike) if (late := _in_group(case, at)) is not None}
    # Where times on the devices are known they tell more than those of the calls.
    chosen = _root(merged, found) if not waits else None
    host = _slow_host(case)
    own = [late for late in found.values() if host is not None and late.rank == host.rank]
    if host is not None and (chosen is None or own):
        return _told_host(case, host, own)
    return _told(case, chosen) if chosen is not None else None


def _root(merged: Merged, found: dict[int, _Late]) -> _Late | None:
    """The one that is last wherever anybody is; of several the one that most groups show, if it is one."""
    by_rank: dict[int, list[_Late]] = defaultdict(list)
    for late in found.values():
        by_rank[late.rank].append(late)
    standing = {
        rank: lates
        for rank, lates in by_rank.items()
        if all(found[at].rank == rank for at in merged.of_rank.get(rank, ()) if at in found)
        and math.prod(waited.chance(late.times, late.samples, len(merged.groups[late.group].ranks)) for late in lates)
        * merged.world
        < waited.CHANCE_MAX
    }
    if not standing:
        return None
    most = max(len(lates) for lates in standing.values())
    tied = [rank for rank, lates in standing.items() if len(lates) == most]
    first = tied if len(tied) == 1 else [r for r in tied if all(_is_behind(merged, r, o) for o in tied if o != r)]
    if len(first) != 1:
        return None
    chosen = max(standing[first[0]], key=lambda late: (late.times, late.share))
    # What others are late by comes from it, so it is no more than its own.
    own = max(late.by_ns for late in standing[first[0]])
    return chosen if all(late.by_ns <= 2 * own for late in found.values()) else None


def _is_behind(merged: Merged, rank: int, other: int) -> bool:
    """Has ``rank`` called less than ``other`` in a group of both?"""
    for at in merged.of_rank.get(rank, ()):
        mine, theirs = merged.seen(rank, at), merged.seen(other, at)
        if mine is not None and theirs is not None and (mine.enqueued or 0) < (theirs.enqueued or 0):
            return True
    return False


def _in_group(case: cases.Case, at: int) -> _Late | None:
    merged = case.merged
    ranks = merged.groups[at].ranks
    if len(ranks) < 2 or any(rank not in merged.groups[at].slots for rank in ranks):
        return None
    columns = {}
    for rank, slot in merged.groups[at].slots.items():
        columns[rank] = merged.ranks[rank].groups[slot].times()
    shared = sorted(set.intersection(*map(set, columns.values())))
    if len(shared) < SAMPLES_MIN:
        return None
    rows: Rows = {rank: [column[number] for number in shared] for rank, column in columns.items()}
    return _by_arrival(at, rows)


def _by_arrival(at: int, rows: Rows) -> _Late | None:
    whole = [k for k in _whole(rows, 0) if k in set(_whole(rows, 1))]
    if len(whole) < SAMPLES_MIN:
        return None
    ends = {k: statistics.median(row[k][1] for row in rows.values()) for k in whole}
    clock, doubt = {}, 0.0
    for rank, row in rows.items():
        off = [row[k][1] - ends[k] for k in whole]
        clock[rank] = statistics.mean(off)
        looks = len({row[k][1] for k in whole})
        doubt = max(doubt, max(statistics.pstdev(off), LOOK_SPREAD * LOOK_NS) / math.sqrt(looks))
    lates = [{rank: row[k][0] - clock[rank] for rank, row in rows.items()} for k in whole]
    found = _judge(at, rows, lates, BY_CALLS)
    return found if found is not None and found.by_ns >= max(FLOOR_BY_CALLS_NS, 3 * doubt) else None


def _whole(rows: Rows, column: int) -> list[int]:
    """The collectives of which this time is known on all members."""
    return [k for k in range(len(next(iter(rows.values())))) if all(row[k][column] for row in rows.values())]


def _judge(at: int, rows: Rows, lates: Sequence[dict[int, float]], how: str) -> _Late | None:
    """``lates``: for each collective how late each rank was, from any origin."""
    if len(lates) < SAMPLES_MIN:
        return None
    last = [max(late, key=lambda rank: late[rank]) for late in lates]
    rank = statistics.mode(last)
    if last.count(rank) < OFTEN * len(lates):
        return None
    by = statistics.median(late[rank] - max(value for other, value in late.items() if other != rank) for late in lates)
    pace = _pace(rows.values())
    if not pace or by < SHARE * pace:
        return None
    return _Late(rank, at, last.count(rank), len(lates), by, by / pace, how)


def _pace(rows: Iterable[list[tuple[int, ...]]]) -> float:
    """The usual time between two collectives of the group, ns: of calls or of ends, since hosts may run ahead."""
    found = []
    for row in rows:
        for column in (0, 1):
            times = [entry[column] for entry in row if entry[column]]
            if len(times) > 1:
                found.append((max(times) - min(times)) / (len(times) - 1))
    return statistics.median(found) if found else 0.0


def _slow_host(case: cases.Case) -> _Host | None:
    """The rank whose host takes longest from one call to the next."""
    by_role: dict[object, dict[int, dict[_Turn, int]]] = defaultdict(dict)
    for rank in case.merged.ranks:
        by_role[case.orders.role(rank)][rank] = _turns(case, rank)
    slow: list[tuple[float, int, float]] = []
    for turns in by_role.values():
        of_role = _between(turns)
        if not of_role:
            continue
        usual = sorted(of_role.values())[len(of_role) // 4]
        if len(of_role) > MATES_MIN:
            least = max(BETWEEN_MIN_NS, SLOWER * usual)
            slow += [(time, rank, usual) for rank, time in of_role.items() if time >= least]
    slow.sort(reverse=True)
    if not slow or (len(slow) > 1 and slow[0][0] < SLOWEST * slow[1][0]):
        return None
    time, rank, usual = slow[0]
    near = {other for at in case.merged.of_rank.get(rank, ()) for other in case.merged.groups[at].ranks}
    if not all(other in near for _, other, _ in slow):
        return None
    return _Host(rank, time, usual, len(slow) == 1 or time >= FAR_SLOWEST * slow[1][0])


def _turns(case: cases.Case, rank: int) -> dict[_Turn, int]:
    """How long the host took from each recorded collective to the next (ns)."""
    made = []
    for kind, group in zip(case.orders.kinds(rank), case.merged.ranks[rank].groups, strict=True):
        made += [(created, kind, number) for number, (created, _, _) in group.times().items() if created]
    made.sort()
    return {(a[1:], b[1:]): b[0] - a[0] for a, b in itertools.pairwise(made)}


def _between(turns: Mapping[int, Mapping[_Turn, int]]) -> dict[int, float]:
    """How long each host takes at least (a tenth are quicker) in the turns that most ranks of its role recorded."""
    seen = Counter(turn for each in turns.values() for turn in each)
    found = {}
    for rank, each in turns.items():
        gaps = sorted(took for turn, took in each.items() if TURNS_SHARED * len(turns) <= seen[turn])
        if len(gaps) >= GAPS_MIN:
            found[rank] = float(gaps[len(gaps) // 10])
    return found


def _told_host(case: cases.Case, host: _Host, own: list[_Late]) -> Finding:
    merged, rank = case.merged, host.rank
    where = None
    if own:
        where = _where(merged, max(own, key=lambda late: late.times).group)
    sentence = (
        f"Nothing is stuck, but the host of {words.named(merged, (rank,))} takes {host.between / 1e6:.1f} ms from one "
        f"call to the next where others of its role take {host.usual / 1e6:.1f} ms."
    )
    evidence = [f"last in {late.times} of {late.samples} of {words.group(merged, late.group)}" for late in own[:4]]
    sure = CONFIDENCE["slow" if host.alone else "slow-host"]
    if not host.alone:
        evidence.append("others that it meets take long as well, and may be waiting for it")
    return Finding("straggler", (rank,), sure, where, sentence, evidence, stack=merged.ranks[rank].stack)


def _told_waited(case: cases.Case, slow: waited.Slow) -> Finding:
    """By the times on the devices."""
    merged, rank, found = case.merged, slow.rank, slow.waits
    most = max(found.causes, key=lambda at: (found.causes[at] * found.times[at][0], -at))
    evidence = ["measured by time on the devices"]
    for at in sorted(found.causes, key=lambda at: (-found.causes[at], at))[:GROUPS_TOLD]:
        last, times = found.times[at]
        evidence.append(f"last in {last} of the {times} times that {words.group(merged, at)} lost much")
    if not slow.sure:
        evidence.append("that is seldom, and may be chance")
    sentence = (
        f"Nothing is stuck, but {words.named(merged, (rank,))} is the last to come in {words.group(merged, most)}, "
        f"which spends {min(1.0, found.causes[most]):.0%} of its time waiting for it."
    )
    sure = CONFIDENCE["slow" if slow.sure else "slow-host"]
    return Finding("straggler", (rank,), sure, _where(merged, most), sentence, evidence, stack=merged.ranks[rank].stack)


def _told(case: cases.Case, late: _Late) -> Finding:
    merged = case.merged
    sentence = (
        f"Nothing is stuck, but {words.named(merged, (late.rank,))} is the last to come in "
        f"{words.group(merged, late.group)} in {late.times} of {late.samples} times, by {late.by_ns / 1e6:.1f} ms "
        f"({late.share:.0%} of the time between two collectives there)."
    )
    # By the times of its calls, who waits for a slow partner in the pipeline looks much the same.
    led = late.how == BY_CALLS and any(group.pairs for group in merged.ranks[late.rank].groups)
    return Finding(
        kind="straggler",
        culprits=(late.rank,),
        confidence=CONFIDENCE["slow-host" if led else "slow"],
        where=_where(merged, late.group),
        sentence=sentence,
        evidence=[f"measured by {late.how}"],
        stack=merged.ranks[late.rank].stack,
    )


def _where(merged: Merged, at: int) -> findings.Where:
    group = merged.groups[at]
    newest = max((merged.ranks[r].groups[s].enqueued or 0 for r, s in group.slots.items()), default=0)
    return findings.Where(group.name, group.description, group.ranks, newest, "", None)
