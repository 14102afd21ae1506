"""Ranks that were found doing the very same thing, told once.

In: one RankEvidence a rank, or the plain mappings that agents send, of which any may be broken. Out: groups, as records
and as plain JSON for the ledger. A job of 16,384 ranks that waits in one collective is one group and one stack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from outrider import records

GROUPS_MAX: Final = 256
FRAMES_OF_MANY_MAX: Final = 12  # frames kept of each once there are more groups than a person would read
MANY_GROUPS: Final = 32
TEXT_CHARS_MAX: Final = 400
RANGES_SHOWN_MAX: Final = 6
RANKS_MAX: Final = 2**20


@dataclass(frozen=True)
class Group:
    """``ranks`` in order, and the evidence of the first of them, which stands for all."""

    ranks: tuple[int, ...]
    evidence: records.RankEvidence


def group(evidence: Iterable[records.RankEvidence]) -> tuple[Group, ...]:
    """Equal ranks together, in order of their lowest rank; at most GROUPS_MAX, which costs detail and never a rank."""
    items = sorted({item.rank: item for item in evidence}.values(), key=lambda item: item.rank)
    for key in (_exactly, _roughly, _by_state):
        found: dict[object, list[records.RankEvidence]] = {}
        for item in items:
            found.setdefault(key(item), []).append(item)
        if len(found) <= GROUPS_MAX:
            break
    frames_max = records.EVIDENCE_FRAMES_MAX if len(found) <= MANY_GROUPS else FRAMES_OF_MANY_MAX
    return tuple(Group(tuple(item.rank for item in alike), _bounded(alike[0], frames_max)) for alike in found.values())


def plain(groups: Iterable[Group]) -> list[records.Json]:
    """Groups as JSON: {"ranks", "evidence"}."""
    return [{"ranks": list(item.ranks), "evidence": dataclasses.asdict(item.evidence)} for item in groups]


def from_plain(items: Iterable[Any]) -> tuple[Group, ...]:
    """What ``plain`` wrote, or the evidence of single ranks as agents send it; broken items are passed over."""
    found = []
    for item in items:
        if not isinstance(item, Mapping):
            continue
        evidence = _evidence(item.get("evidence", item))
        ranks = item.get("ranks", None if evidence is None else [evidence.rank])
        if evidence is None or not isinstance(ranks, list | tuple) or not all(map(_is_rank, ranks)) or not ranks:
            continue
        found.append(Group(tuple(ranks), evidence))
    return tuple(found)


def ranges(ranks: Iterable[int]) -> str:
    """``0-2, 5``: ranks for people; a long list is cut and counted."""
    runs: list[list[int]] = []
    numbers = sorted(ranks)
    for rank in numbers:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:RANGES_SHOWN_MAX])
    told = sum(b - a + 1 for a, b in runs[:RANGES_SHOWN_MAX])
    return shown if told == len(numbers) else f"{shown} and {len(numbers) - told} more"


def _exactly(item: records.RankEvidence) -> object:
    collective = item.collective or {}
    known = tuple(str(collective.get(key)) for key in ("group", "description", "op", "seq", "state"))
    burns = item.cpu is not None and item.cpu >= 0.5
    return (*_by_state(item), item.frames, item.blocked_on, known, item.enqueued, burns, item.error)


def _roughly(item: records.RankEvidence) -> object:
    burns = item.cpu is not None and item.cpu >= 0.5
    return (*_by_state(item), item.frames[:3], burns)


def _by_state(item: records.RankEvidence) -> tuple[object, ...]:
    return (item.state, item.answered, item.moved, item.pending)


def _bounded(item: records.RankEvidence, frames_max: int) -> records.RankEvidence:
    frames = tuple(frame[:TEXT_CHARS_MAX] for frame in item.frames[:frames_max])
    return dataclasses.replace(item, frames=frames, error=item.error[:TEXT_CHARS_MAX])


def _evidence(item: Any) -> records.RankEvidence | None:
    """The evidence in a mapping; fields of a newer agent are passed over, mistyped ones are left at their default."""
    if not isinstance(item, Mapping) or not _is_rank(item.get("rank")):
        return None
    state, answered, pid = item.get("state"), item.get("answered"), item.get("pid")
    frames = item.get("frames")
    return records.RankEvidence(
        rank=item["rank"],
        pid=pid if isinstance(pid, int) else 0,
        state=state if state in records.PROCESS_STATES else "unknown",
        answered=answered if answered in records.ANSWERS else "none",
        cpu=_number(item.get("cpu")),
        frames=tuple(str(frame) for frame in frames) if isinstance(frames, list | tuple) else (),
        moved=_flag(item.get("moved")),
        pending=_flag(item.get("pending")),
        collective=dict(c) if isinstance(c := item.get("collective"), Mapping) else None,
        enqueued=e if isinstance(e := item.get("enqueued"), int) else None,
        blocked_on=_text(item.get("blocked_on")),
        file=_text(item.get("file")),
        error=_text(item.get("error")),
    )


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < RANKS_MAX


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else ""
