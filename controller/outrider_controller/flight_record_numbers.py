"""Jobs whose command is a launcher of its own, as torchrun is: its ranks are numbered otherwise than those of the job.

In: what nodes say of that (``numbering`` beside a digest: ``{"world", "ranks": {their number: ours}}``). Out: which of
their ranks are on which node, and below which of ours; what the verdict of such records says of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from outrider import records as spoken

KEY: Final = "numbering"
WORLD_MAX: Final = 2**20
RANKS_MAX: Final = 4_096  # on one node
NAMED_MAX: Final = 8
BY: Final = "ranks by the numbers of the job's own launcher"

Json = spoken.Json


@dataclass(frozen=True)
class Numbers:
    """Ranks of one node by the launcher's numbers, of ``world`` in all; below which of ours each runs."""

    world: int
    ours: Mapping[int, int]


def of_node(told: Mapping[str, Any], held: Sequence[int]) -> Numbers | None:
    """What a node says that holds our ranks ``held``; None where it says nothing. Raises ValueError."""
    given = told.get(KEY)
    if given is None:
        return None
    ranks = given.get("ranks") if isinstance(given, Mapping) else None
    world = given.get("world") if isinstance(given, Mapping) else None
    if not isinstance(ranks, Mapping) or type(world) is not int or not 0 < world <= WORLD_MAX or len(ranks) > RANKS_MAX:
        raise ValueError("what it says of another numbering cannot be read")
    found: dict[int, int] = {}
    for theirs, ours in ranks.items():
        number = int(theirs) if str(theirs).isascii() and str(theirs).isdecimal() and len(str(theirs)) < 8 else world
        if number >= world or type(ours) is not int or ours not in held:
            raise ValueError(
                f"rank {str(theirs)[:20]} of another numbering is not of {world}, or not below a rank of it"
            )
        found[number] = ours
    return Numbers(world, found)


def said(nodes: Mapping[str, Numbers], found: Json) -> Json:
    """What is added to a verdict over such ranks: ``{"world", "ranks": {their number: [node, our rank]}}`` of those it
    names.
    """
    rows: list[Json] = found.get("findings") or []
    named = {rank for row in rows for key in ("culprits", "candidates") for rank in row.get(key) or ()}
    places = {
        str(rank): [node, numbers.ours[rank]]
        for rank in sorted(named)
        for node, numbers in nodes.items()
        if rank in numbers.ours
    }
    return {"world": max(numbers.world for numbers in nodes.values()), "ranks": dict(list(places.items())[:RANKS_MAX])}


def note(about: Json) -> str:
    """The same for people."""
    places: Iterable[tuple[str, list[Any]]] = about["ranks"].items()
    where = [f"rank {rank} is on {node} below rank {ours} of the job" for rank, (node, ours) in places]
    more = f" and {len(where) - NAMED_MAX} more" if len(where) > NAMED_MAX else ""
    text = f"ranks are numbered 0 to {about['world'] - 1} as the job's own launcher (such as torchrun) has done"
    return "; ".join([text, *where[:NAMED_MAX]]) + more
