"""Nothing is stuck: does one rank keep the others waiting, time after time?

Two measures, each within one group, so that the way of the work through the pipeline does not count. With timing on, a
collective takes long on those who came early and is short on the one who came last. Without it, the calls' own times
tell who came last; hosts' clocks differ, so each rank's clock is first set by when it saw the same collectives end
(where it looked often enough for that: the watchdog's look may come a tenth of a second late).
A rank is named only where it is late nearly every time and by a good part of the time that passes between collectives.
"""

from __future__ import annotations

import itertools
import statistics
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict import words
from outrider_analysis.flight_recorder.verdict.board import Board
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, Finding

SAMPLES_MIN: Final = 4  # collectives that all members saw
OFTEN: Final = 0.75  # share of them in which the same rank is last
SHARE: Final = 0.3  # late by this part of the time between two collectives of the group
SHARE_MAX: Final = 1.2  # nobody is later than that by being slow: it is another host's clock
FLOOR_NS: Final = 2_000_000  # less than this is nobody's fault
FLOOR_BY_CALLS_NS: Final = 10_000_000  # clocks of hosts differ by some milliseconds


@dataclass(frozen=True, slots=True)
class _Late:
    rank: int
    group: int
    by_ns: float
    share: float  # of the time between two collectives
    how: str


def find(merged: Merged, board: Board) -> Finding | None:
    """The straggler, where one stands out."""
    found = [late for at in range(len(merged.groups)) if (late := _in_group(merged, at)) is not None]
    if not found:
        return None
    # A slow rank makes its whole group late in others, so the group that it is late in by itself counts: its smallest.
    found.sort(key=lambda late: (-late.share, len(merged.groups[late.group].ranks), late.rank))
    first = found[0]
    others = {late.rank for late in found if late.rank != first.rank and late.share > first.share / 2}
    companions = {rank for at in merged.of_rank.get(first.rank, ()) for rank in merged.groups[at].ranks}
    if others - companions:
        return None
    place = words.group(merged, first.group)
    group = merged.groups[first.group]
    return Finding(
        kind="straggler",
        culprits=(first.rank,),
        confidence=CONFIDENCE["slow"],
        where=findings.Where(group.name, group.description, group.ranks, _last(merged, first.group), "", None),
        sentence=(
            f"Nothing is stuck, but {words.named(merged, (first.rank,))} is the last to come in {place}, "
            f"by {first.by_ns / 1e6:.1f} ms ({first.share:.0%} of the time between two collectives there)."
        ),
        evidence=[f"measured by {first.how}"],
        stack=merged.ranks[first.rank].stack,
    )


def _in_group(merged: Merged, at: int) -> _Late | None:
    columns = {}
    for rank, slot in merged.groups[at].slots.items():
        seen = merged.ranks[rank].groups[slot]
        if seen.arrivals:
            columns[rank] = (seen.first + (len(seen.window) - len(seen.arrivals) // 6) // 4, array("q", seen.arrivals))
    if len(columns) < 2 or len(columns) < len(merged.groups[at].ranks):
        return None
    first = max(start for start, _ in columns.values())
    end = min(start + len(column) // 3 for start, column in columns.values())
    rows = {
        rank: [tuple(column[3 * (seq - start) : 3 * (seq - start) + 3]) for seq in range(first, end)]
        for rank, (start, column) in columns.items()
    }
    rows = {rank: row for rank, row in rows.items() if row}
    if len(rows) < len(columns) or end - first < SAMPLES_MIN:
        return None
    return _by_duration(at, rows) or _by_arrival(at, rows)


def _by_duration(at: int, rows: dict[int, list[tuple[int, ...]]]) -> _Late | None:
    """The last to come is the one on whose device the collective took the shortest time."""
    timed = [k for k in range(len(next(iter(rows.values())))) if all(row[k][2] for row in rows.values())]
    lates = [{rank: float(-row[k][2]) for rank, row in rows.items()} for k in timed]
    return _judge(at, rows, lates, FLOOR_NS, "time on the devices")


def _by_arrival(at: int, rows: dict[int, list[tuple[int, ...]]]) -> _Late | None:
    whole = [k for k in range(len(next(iter(rows.values())))) if all(row[k][0] and row[k][1] for row in rows.values())]
    if len(whole) < SAMPLES_MIN:
        return None
    clock = dict.fromkeys(rows, 0.0)
    ends = {k: statistics.median(row[k][1] for row in rows.values()) for k in whole}
    seen = {rank: [row[k][1] - ends[k] for k in whole] for rank, row in rows.items()}
    if all(max(each) - min(each) < FLOOR_BY_CALLS_NS for each in seen.values()):
        clock = {rank: statistics.median(each) for rank, each in seen.items()}
    lates = [{rank: row[k][0] - clock[rank] for rank, row in rows.items()} for k in whole]
    return _judge(at, rows, lates, FLOOR_BY_CALLS_NS, "the times of the calls")


def _judge(
    at: int, rows: dict[int, list[tuple[int, ...]]], lates: list[dict[int, float]], floor_ns: int, how: str
) -> _Late | None:
    """``lates``: for each collective how late each rank was, from any origin."""
    if len(lates) < SAMPLES_MIN:
        return None
    last = [max(late, key=lambda rank: late[rank]) for late in lates]
    rank = statistics.mode(last)
    if last.count(rank) < OFTEN * len(lates):
        return None
    by = statistics.median(late[rank] - max(value for other, value in late.items() if other != rank) for late in lates)
    pace = _pace(rows.values())
    if by < floor_ns or not pace or not SHARE * pace <= by <= SHARE_MAX * pace:
        return None
    return _Late(rank, at, by, by / pace, how)


def _pace(rows: Iterable[list[tuple[int, ...]]]) -> float:
    """The usual time between two collectives of the group, ns."""
    steps = [b[0] - a[0] for row in rows for a, b in itertools.pairwise(row) if a[0] and b[0]]
    return statistics.mean(steps) if steps else 0.0


def _last(merged: Merged, group: int) -> int:
    return max((merged.ranks[r].groups[s].enqueued or 0 for r, s in merged.groups[group].slots.items()), default=0)
