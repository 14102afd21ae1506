"""Who is to blame when some pairs fail. Pure.

Two rounds in which everybody has another partner each time name one culprit: it fails with both of its partners, and
each of them does well with somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Blame:
    """``members`` fail with whomever; ``pairs`` fail though both do well with others; ``unclear``: nobody can say."""

    members: tuple[int, ...] = ()
    pairs: tuple[Pair, ...] = ()
    unclear: tuple[Pair, ...] = ()


def rounds(count: int, most: int) -> list[list[Pair]]:
    """Up to ``most`` rounds of disjoint pairs among ``count`` members, no pair twice (the circle method).

    With an odd count one sits out each round, so one round more is made.
    """
    if count < 2:
        return []
    seats: list[int | None] = [*range(count)] + ([None] if count % 2 else [])
    wanted = min(most + count % 2, len(seats) - 1)
    found = []
    for _ in range(wanted):
        half = len(seats) // 2
        sides = zip(seats[:half], reversed(seats[half:]), strict=True)
        found.append([(min(a, b), max(a, b)) for a, b in sides if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return found


def blame(results: Mapping[Pair, bool]) -> Blame:
    """Whom the failed pairs speak against. ``results``: pair -> whether it did well."""
    failed = [pair for pair, good in results.items() if not good]
    well = {member for pair, good in results.items() if good for member in pair}
    members = sorted(
        {one for pair in failed for one in pair if one not in well and _partners_do_well(one, failed, well)}
    )
    rest = [pair for pair in failed if not set(pair) & set(members)]
    links = tuple(pair for pair in rest if set(pair) <= well)
    return Blame(tuple(members), links, tuple(pair for pair in rest if pair not in links))


def _partners_do_well(member: int, failed: Sequence[Pair], well: set[int]) -> bool:
    return all(other in well for pair in failed if member in pair for other in pair if other != member)
