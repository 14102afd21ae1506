"""Sets of ranks as short text: the world of 16,384 ranks is ``0-16383``, a data-parallel group ``0-16376:8``.

The order of ranks is kept, since it is what a rank within a group means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

RANKS_MAX: Final = 2**20
_RUN: Final = re.compile(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?")


def encode(ranks: Sequence[int]) -> str:
    """``0-6:2,9``: runs of equal steps."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    while at < len(ranks):
        first, end, step = ranks[at], at + 1, 0
        if end < len(ranks) and ranks[end] > first:
            step = ranks[end] - first
            while end < len(ranks) and ranks[end] - ranks[end - 1] == step:
                end += 1
            if end - at == 2 and step > 1:
                end, step = at + 1, 0  # two single ones are shorter than a run
        runs.append((first, ranks[end - 1], step))
        at = end
    return ",".join(_run(*run) for run in runs)


def decode(text: str, most: int = RANKS_MAX) -> tuple[int, ...]:
    """What ``encode`` wrote, of at most ``most`` ranks, and never more than RANKS_MAX. Raises ValueError."""
    most = min(most, RANKS_MAX)
    ranks: list[int] = []
    for part in text.split(",") if text else ():
        found = _RUN.fullmatch(part)
        if found is None:
            raise ValueError(f"{part[:40]!r} is not FIRST, FIRST-LAST or FIRST-LAST:STEP")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if step < 1 or len(ranks) + (last - first) // step >= most:
            raise ValueError(f"{part[:40]!r}: a step of 1 or more and at most {most} ranks were expected")
        ranks += range(first, last + 1, step)
    return tuple(ranks)


def _run(first: int, last: int, step: int) -> str:
    if first == last:
        return str(first)
    return f"{first}-{last}" if step == 1 else f"{first}-{last}:{step}"
