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
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import case as cases
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import words
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, Finding

SAMPLES_MIN: Final = 4  # collectives that all members saw
OFTEN: Final = 0.75  # share of them in which the same rank is last
CHANCE_MAX: Final = 1e-3  # that any rank is last so often by chance, over all of its groups
SHARE: Final = 0.25  # late by this part of the time between two collectives of the group
WAITED: Final = 0.5  # and by this part of the time that the others spent in the collective
FLOOR_NS: Final = 200_000  # less than this is nobody's fault
FLOOR_BY_CALLS_NS: Final = 10_000_000
LOOK_NS: Final = 100_000_000  # torch looks for ends so often, each process at moments of its own
LOOK_SPREAD: Final = 0.41  # standard deviation of the difference of two such looks, in their distance: 1/sqrt(6)
SLOWER: Final = 3.0  # a slow host takes so many times as long between two calls as its mates
SLOWEST: Final = 1.25  # and so many times as long as any that only waits for it
MATES_MIN: Final = 3
BETWEEN_MIN_NS: Final = 500_000
GAPS_MIN: Final = 12
BY_CALLS: Final = "the times of the calls"

Rows = dict[int, list[tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class _Late:
    rank: int
    group: int
    times: int  # in so many of
    samples: int
    by_ns: float
    share: float  # of the time between two collectives
    how: str


def find(case: cases.Case) -> Finding | None:
    """The straggler, where one stands out."""
    merged = case.merged
    found = {at: late for at in range(len(merged.groups)) if (late := _in_group(case, at)) is not None}
    chosen = _root(merged, found)
    host = _slow_host(case)
    if host is not None and (chosen is None or chosen.rank == host[0] or host[0] in {x.rank for x in found.values()}):
        own = [late for late in found.values() if late.rank == host[0]]
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
        and math.prod(_chance(late, len(merged.groups[late.group].ranks)) for late in lates) * merged.world < CHANCE_MAX
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


def _chance(late: _Late, members: int) -> float:
    """How likely one given member is last so often, if all were alike."""
    p, n = 1 / members, late.samples
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(late.times, n + 1))


def _in_group(case: cases.Case, at: int) -> _Late | None:
    merged = case.merged
    ranks = merged.groups[at].ranks
    if len(ranks) < 2 or any(rank not in merged.groups[at].slots for rank in ranks):
        return None
    if len({case.orders.role(rank) for rank in ranks}) != 1:
        return None
    columns = {}
    for rank, slot in merged.groups[at].slots.items():
        seen = merged.ranks[rank].groups[slot]
        if not seen.arrivals:
            return None
        columns[rank] = (seen.first + (len(seen.window) - len(seen.arrivals) // 6) // 4, array("q", seen.arrivals))
    first = max(start for start, _ in columns.values())
    end = min(start + len(column) // 3 for start, column in columns.values())
    if end - first < SAMPLES_MIN:
        return None
    rows = {
        rank: [tuple(column[3 * (seq - start) : 3 * (seq - start) + 3]) for seq in range(first, end)]
        for rank, (start, column) in columns.items()
    }
    return _by_duration(at, rows) or _by_arrival(at, rows)


def _by_duration(at: int, rows: Rows) -> _Late | None:
    """The last to come is the one on whose device the collective took the shortest time."""
    timed = _whole(rows, 2)
    lates = [{rank: float(-row[k][2]) for rank, row in rows.items()} for k in timed]
    found = _judge(at, rows, lates, "time on the devices")
    if found is None or found.by_ns < FLOOR_NS:
        return None
    others = statistics.median(min(row[k][2] for rank, row in rows.items() if rank != found.rank) for k in timed)
    return found if found.by_ns >= WAITED * others else None


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


def _slow_host(case: cases.Case) -> tuple[int, float, float] | None:
    """A rank, how long its host takes from one call to the next, and how long those of its role do (ns)."""
    by_role: dict[object, dict[int, float]] = defaultdict(dict)
    for rank in case.merged.ranks:
        between = _between(case.merged, rank)
        if between:
            by_role[case.orders.role(rank)][rank] = between
    slow: list[tuple[float, int, float]] = []
    for of_role in by_role.values():
        usual = sorted(of_role.values())[len(of_role) // 4]
        if len(of_role) > MATES_MIN:
            least = max(BETWEEN_MIN_NS, SLOWER * usual)
            slow += [(time, rank, usual) for rank, time in of_role.items() if time >= least]
    slow.sort(reverse=True)
    if not slow or (len(slow) > 1 and slow[0][0] < SLOWEST * slow[1][0]):
        return None
    time, rank, usual = slow[0]
    near = {other for at in case.merged.of_rank.get(rank, ()) for other in case.merged.groups[at].ranks}
    return (rank, time, usual) if all(other in near for _, other, _ in slow) else None


def _between(merged: Merged, rank: int) -> float:
    """How long the host takes at least from one recorded collective to the next (a tenth are quicker), 0 if few."""
    times: list[int] = []
    for group in merged.ranks[rank].groups:
        times += [time for time in array("q", group.arrivals)[::3] if time]
    times.sort()
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    return float(gaps[len(gaps) // 10]) if len(gaps) >= GAPS_MIN else 0.0


def _told_host(case: cases.Case, host: tuple[int, float, float], own: list[_Late]) -> Finding:
    rank, between, usual = host
    merged = case.merged
    where = None
    if own:
        where = _where(merged, max(own, key=lambda late: late.times).group)
    sentence = (
        f"Nothing is stuck, but the host of {words.named(merged, (rank,))} takes {between / 1e6:.1f} ms from one call "
        f"to the next where others of its role take {usual / 1e6:.1f} ms."
    )
    evidence = [f"last in {late.times} of {late.samples} of {words.group(merged, late.group)}" for late in own[:4]]
    return Finding("straggler", (rank,), CONFIDENCE["slow"], where, sentence, evidence, stack=merged.ranks[rank].stack)


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
