"""All ranks at one moment -> what holds the job up: who is to blame, who waits for whom, how sure that is.

The rule is the one a person would use. A rank that is neither stopped nor in a collective while others wait is the one
they wait for. Where stacks move, somebody works, and slowness is no hang. Where all wait and nobody is elsewhere, no
rank is to blame. Nothing is concluded from a rank that nobody could look at, except that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from outrider_analysis.stalls import reading as readings
from outrider_analysis.stalls.groups import Group, ranges

# rank-stopped, rank-hung and job-stalled may be acted on; of the others people are told.
VERDICTS: Final = (
    "rank-stopped",
    "rank-hung",
    "job-stalled",
    "suspended",
    "traced",
    "working",
    "could-not-look",
)
HUNG: Final = ("rank-stopped", "rank-hung", "job-stalled")
CONFIDENT: Final = 0.95  # stopped, or outside every collective while the others wait in one
LIKELY: Final = 0.7  # by the majority's place, or several kinds of odd ranks
WEAK: Final = 0.5
ROWS_MAX: Final = 12
FRAMES_SHOWN: Final = 6
PLACES_MAX: Final = 64


@dataclass(frozen=True)
class Row:
    """One piece of evidence: what ``ranks`` were seen to do. ``kind``: process, stack, waits or unseen."""

    ranks: tuple[int, ...]
    kind: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What a look came to. ``places``: one for each of ``ranks`` (at most PLACES_MAX), or where all wait."""

    kind: str
    ranks: tuple[int, ...]
    confidence: float
    sentence: str
    places: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """One group with its reading."""

    group: Group
    reading: readings.Reading

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.group.ranks


def judge(groups: Sequence[Group], world_size: int, unanswered: Iterable[int] = ()) -> Verdict:
    """The verdict over ``groups``; ``unanswered`` are ranks whose node gave no answer at all."""
    seen = [_Seen(group, readings.read(group.evidence)) for group in groups]
    known = {rank for item in seen for rank in item.ranks}
    missing = tuple(sorted((set(unanswered) | set(range(world_size))) - known))
    for rule in (_traced, _stopped, _nobody_seen, _working, _elsewhere, _odd_ones, _all_wait):
        found = rule(seen, missing)
        if found is not None:
            return found
    return _verdict("working", (), WEAK, "no rank stands out, and none waits", seen, missing)


def common(
    before: tuple[Sequence[int], Sequence[str]], now: tuple[Sequence[int], Sequence[str]]
) -> tuple[int, ...] | None:
    """The ranks that two looks blame alike, each in the same place; None where the looks do not agree.

    Looks that blame nobody agree when the waits are in the same places.
    """
    if not before[0] and not now[0]:
        return () if set(before[1]) == set(now[1]) else None
    places = dict(zip(before[0], before[1], strict=False))
    alike = tuple(rank for rank, place in zip(now[0], now[1], strict=False) if places.get(rank) == place)
    return alike or None


def _traced(seen: list[_Seen], missing: tuple[int, ...]) -> Verdict | None:
    ranks = _ranks(seen, "traced")
    text = f"{_named(ranks)} {_are(ranks)} held by a debugger; it is left alone"
    return _verdict("traced", ranks, CONFIDENT, text, seen, missing) if ranks else None


def _stopped(seen: list[_Seen], missing: tuple[int, ...]) -> Verdict | None:
    ranks = _ranks(seen, "stopped")
    if not ranks:
        return None
    others = [item for item in seen if item.reading.kind not in ("stopped", "gone")]
    if not others and not missing and len(ranks) > 1:
        text = f"all {len(ranks)} ranks are stopped: somebody suspended the whole job, and it is left alone"
        return _verdict("suspended", ranks, CONFIDENT, text, seen, missing)
    waiting = _waits_for(seen)
    text = f"{_named(ranks)} {_are(ranks)} stopped (SIGSTOP or a frozen group){waiting}"
    return _verdict("rank-stopped", ranks, CONFIDENT, text, seen, missing)


def _nobody_seen(seen: list[_Seen], missing: tuple[int, ...]) -> Verdict | None:
    if any(item.reading.kind not in ("unseen", "gone") for item in seen):
        return None
    return _verdict("could-not-look", (), 0.0, "could not look at any rank", seen, missing)


def _working(seen: list[_Seen], missing: tuple[int, ...]) -> Verdict | None:
    moving = [item for item in seen if item.reading.kind == "moving"]
    if not moving:
        return None
    ranks = _ranks(seen, "moving")
    first = f", such as rank {moving[0].ranks[0]}: {moving[0].reading.text}"
    return _verdict("working", (), WEAK, f"{_named(ranks)} {_are(ranks)} at work{first}", seen, missing)


def _elsewhere(seen: list[_Seen], missing: tuple[int, ...]) -> Verdict | None:
    """Some ranks outside of every collective while others wait in one."""
    waiting = _ranks(seen, "waiting")
    if not waiting:
        return None
    spinning, blocked = _of(seen, "spinning"), _of(seen, "blocked")
    # A rank that sleeps may wait in a way that is not known here; beside one that burns a core it is not blamed.
    culprits = spinning or blocked
    total = sum(len(item.ranks) for item in seen)
    if spinning and len(_all(spinning)) > total // 2:
        text = f"{_named(_all(spinning))} {_are(_all(spinning))} computing and the others wait for that"
        return _verdict("working", (), WEAK, text, seen, missing)
    if culprits:
        sure = LIKELY if spinning and blocked else CONFIDENT
        return _blamed(culprits, sure, seen, missing)
    doubtful = [item for item in seen if item.reading.elsewhere]
    if doubtful and len(_all(doubtful)) * 2 < total:
        return _blamed(doubtful, LIKELY, seen, missing)
    unseen = _of(seen, "unseen")
    if unseen and len(_all(unseen)) * 2 < total:
        return _blamed(unseen, WEAK, seen, missing)
    return None


def _odd_ones(seen: list[_Seen], missing: tuple[int, ...]) -> Verdict | None:
    """No collective that is known here: few that burn a core while most sleep, or few elsewhere than most."""
    if _of(seen, "waiting"):
        return None
    standing = [item for item in seen if item.reading.kind in ("spinning", "blocked")]
    spinning, blocked = _of(seen, "spinning"), _of(seen, "blocked")
    total = len(_all(standing))
    if total == 1:
        return _blamed(standing, WEAK, seen, missing)
    if spinning and blocked and len(_all(spinning)) * 2 <= total:
        # Where as many sleep as compute, one of these may as well poll for one of those.
        return _blamed(spinning, LIKELY if len(_all(spinning)) * 2 < total else WEAK, seen, missing)
    places: dict[str, list[_Seen]] = {}
    for item in standing:
        places.setdefault(item.reading.place, []).append(item)
    most = max(places.values(), key=lambda items: len(_all(items)), default=[])
    few = [item for item in standing if item not in most]
    if few and len(_all(most)) * 2 > total:
        return _blamed(few, WEAK, seen, missing)
    return None


def _all_wait(seen: list[_Seen], missing: tuple[int, ...]) -> Verdict | None:
    waiting, blocked = _of(seen, "waiting"), _of(seen, "blocked")
    standing = waiting or blocked
    if not standing or _of(seen, "spinning"):
        return None
    ranks = _all(standing)
    what = "wait in a collective" if waiting else "sleep in one place"
    text = f"all {len(ranks)} ranks that were looked at {what}, and nobody is elsewhere"
    if missing:
        text += f"; could not look at rank {ranges(missing)}"
    places = sorted({item.reading.place for item in standing})[:PLACES_MAX]
    found = _verdict("job-stalled", (), LIKELY if waiting else WEAK, text, seen, missing)
    return Verdict(found.kind, (), found.confidence, text, tuple(places), found.rows)


def _blamed(culprits: list[_Seen], confidence: float, seen: list[_Seen], missing: tuple[int, ...]) -> Verdict:
    ranks = _all(culprits)
    first = culprits[0].reading
    more = "" if len(culprits) == 1 else f", and {_named(tuple(r for c in culprits[1:] for r in c.ranks))} likewise"
    text = f"{_named(culprits[0].ranks)} {first.elsewhere or first.text}{more}{_waits_for(seen, ranks)}"
    return _verdict("rank-hung", ranks, confidence, text, seen, missing)


def _verdict(
    kind: str, ranks: tuple[int, ...], confidence: float, text: str, seen: list[_Seen], missing: tuple[int, ...]
) -> Verdict:
    by_rank = {rank: item.reading.place for item in seen for rank in item.ranks}
    places = tuple(by_rank.get(rank, "") for rank in ranks)[:PLACES_MAX]
    return Verdict(kind, ranks, confidence, text, places, _rows(frozenset(ranks), seen, missing))


def _rows(culprits: frozenset[int], seen: list[_Seen], missing: tuple[int, ...]) -> tuple[Row, ...]:
    """The culprits first, then who waits, the largest groups first; what was not seen comes last and always."""
    order = sorted(seen, key=lambda item: (not culprits.intersection(item.ranks), -len(item.ranks)))
    rows = [Row(item.ranks, _row_kind(item.reading), _row_text(item)) for item in order[: ROWS_MAX - 2]]
    if len(order) > ROWS_MAX - 2:
        left = tuple(rank for item in order[ROWS_MAX - 2 :] for rank in item.ranks)
        rows.append(Row(tuple(sorted(left)), "stack", f"{len(left)} more ranks are in other places"))
    if missing:
        rows.append(Row(missing, "unseen", "its node gave no answer in time"))
    return tuple(rows)


def _row_kind(found: readings.Reading) -> str:
    if found.kind in ("stopped", "traced", "gone"):
        return "process"
    return {"waiting": "waits", "unseen": "unseen"}.get(found.kind, "stack")


def _row_text(item: _Seen) -> str:
    evidence = item.group.evidence
    pids = f" (pid {evidence.pid})" if len(item.ranks) == 1 and evidence.pid else ""
    colon = ":" if len(item.ranks) > 1 else ""
    text = f"{_named(item.ranks)}{pids}{colon} {item.reading.elsewhere or item.reading.text}"
    if item.reading.kind in ("stopped", "gone") or not evidence.frames:
        return text
    shown = " < ".join(readings.short(frame) for frame in evidence.frames[:FRAMES_SHOWN])
    same = {False: ", the same at both looks", True: ", changing", None: ""}[evidence.moved]
    return f"{text}; stack{same}: {shown}{' < ...' if len(evidence.frames) > FRAMES_SHOWN else ''}"


def _waits_for(seen: list[_Seen], culprits: Sequence[int] = ()) -> str:
    """``; 7 others wait for it (all_reduce of group dp, number 41)``: the largest wait speaks for all."""
    waiting = [item for item in _of(seen, "waiting") if not set(culprits) & set(item.ranks)]
    if not waiting:
        return ""
    largest = max(waiting, key=lambda item: len(item.ranks))
    count = len(_all(waiting))
    return f"; {count} other{'s' if count > 1 else ''} wait{'' if count > 1 else 's'} ({largest.reading.awaited})"


def _of(seen: list[_Seen], kind: str) -> list[_Seen]:
    return [item for item in seen if item.reading.kind == kind]


def _all(items: Iterable[_Seen]) -> tuple[int, ...]:
    return tuple(sorted(rank for item in items for rank in item.ranks))


def _ranks(seen: list[_Seen], kind: str) -> tuple[int, ...]:
    return _all(_of(seen, kind))


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {ranges(ranks)}"


def _are(ranks: Sequence[int]) -> str:
    return "are" if len(ranks) > 1 else "is"
