"""Sends and recvs that gloo does not record: between whom they may take place, and where the records leave room.

Gloo writes no entry for a send or a recv; only ``op_id`` of the group's next collective skips a number. A group that
carries nothing else leaves no trace but a hole in the local numbers of groups. So whom a rank may wait for unseen is
told by groups that were given and never shown, by the pipeline axis of the mesh, and by such holes.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from outrider_analysis.flight_recorder.merge import Group, Merged, axis_of

AXIS: Final = "pp"
NEVER: Final = -1


def with_groups(merged: Merged) -> Merged:
    """The job with the groups of its pipeline, where a mesh tells those and no dump does. Unchanged without gloo."""
    mesh = merged.mesh
    if mesh is None or not any(rank.gloo for rank in merged.ranks.values()):
        return merged
    size = dict(mesh.axes).get(AXIS, 1)
    if size < 2 or mesh.world_size < merged.world or any(group.axis == AXIS for group in merged.groups):
        return merged
    made: dict[tuple[int, ...], Group] = {}
    for rank in range(merged.world):
        coords = mesh.coords(rank)
        ranks = tuple(mesh.rank({**coords, AXIS: at}) for at in range(size))
        made.setdefault(ranks, Group(f"{AXIS} {ranks[0]}", AXIS, ranks, told=True))
    groups = [*merged.groups, *made.values()]
    of_rank = {rank: list(found) for rank, found in merged.of_rank.items()}
    for at, group in enumerate(groups[len(merged.groups) :], start=len(merged.groups)):
        for rank in group.ranks:
            of_rank.setdefault(rank, []).append(at)
    return dataclasses.replace(merged, groups=groups, of_rank=of_rank)


def groups(merged: Merged) -> list[int]:
    """All groups in which sends and recvs may take place that leave no entry."""
    return [at for at, group in enumerate(merged.groups) if len(group.ranks) > 1 and _may_hide(merged, at)]


def groups_of(merged: Merged, rank: int) -> list[int]:
    """Those of ``rank``."""
    return [at for at in merged.of_rank.get(rank, ()) if len(merged.groups[at].ranks) > 1 and _may_hide(merged, at)]


def partners(merged: Merged, rank: int) -> list[tuple[int, int]]:
    """(group, partner) of all sends and recvs that ``rank`` may be in unseen; group NEVER where a hole alone tells.

    Within a pipeline those are its neighbours, the first and the last stage being neighbours too.
    """
    found = []
    for at in groups_of(merged, rank):
        ranks = merged.groups[at].ranks
        place = ranks.index(rank)
        near = {ranks[place - 1], ranks[(place + 1) % len(ranks)]}
        narrow = axis_of(merged.groups[at].description) == AXIS
        found += [(at, other) for other in ranks if other != rank and (not narrow or other in near)]
    if found or rank not in merged.ranks or not merged.ranks[rank].gloo:
        return found
    holes = _holes(merged, rank)
    return [(NEVER, other) for other in merged.ranks if other != rank and holes & _holes(merged, other)]


def anywhere(merged: Merged) -> bool:
    """May any time between two calls of some rank have gone into a transfer that no record shows?"""
    return any(rank.gloo and partners(merged, number) for number, rank in merged.ranks.items())


def _may_hide(merged: Merged, at: int) -> bool:
    """Never shown by any of its members, or shown with numbers skipped."""
    group = merged.groups[at]
    heard = [merged.ranks[rank] for rank in group.ranks if rank in merged.ranks] or list(merged.ranks.values())
    if not any(rank.gloo for rank in heard):
        return False
    shown = [merged.ranks[rank].groups[slot] for rank, slot in group.slots.items()]
    return not shown or any(seen.hidden_p2p for seen in shown)


def _holes(merged: Merged, rank: int) -> set[int]:
    """Local numbers of groups below the highest one that never showed an entry; one member alone leaves one as well."""
    shown = {group.local for group in merged.ranks[rank].groups if group.local >= 0}
    alone = _alone(merged, rank)
    missing = set(range(max(shown, default=0))) - shown
    return missing if len(missing) > alone else set()


def _alone(merged: Merged, rank: int) -> int:
    """How many axes of the mesh have one place alone, whose groups are never used."""
    return sum(size == 1 for _, size in merged.mesh.axes) if merged.mesh is not None else 0
