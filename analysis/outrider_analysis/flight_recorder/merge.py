"""Digests of any subset of the ranks -> Merged: each process group once, with its members and who of them was heard.

A group is its name and its members, since one name may stand for several disjoint groups. Where dumps do not tell the
members (gloo never does) a file does, else the mesh where the description is an axis, else the number of ranks where it
is the group of all, else whoever mentions the group.
Coordinates come from the mesh where one is given, else from groups that are described by an axis.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from outrider import mesh as meshes
from outrider_analysis.flight_recorder import entries, model, ranges

_AXIS: Final = {
    "tp": ("tp", "tensor", "tensor_parallel", "tensor_model_parallel"),
    "pp": ("pp", "pipe", "pipeline", "pipeline_parallel", "pipeline_model_parallel"),
    "cp": ("cp", "context", "context_parallel"),
    "dp": ("dp", "data", "data_parallel", "fsdp", "dp_shard", "dp_replicate"),
}
_AXIS_OF: Final = {word: axis for axis, words in _AXIS.items() for word in words}
_DEFAULT: Final = "default_pg"  # torch's word for the group of all ranks
RUNS_SAID: Final = 8  # of ranks in a note
_DRESSING: Final = re.compile(r"^(mesh|device_mesh|group|pg)_|_(group|pg|comm)$")


@dataclass(slots=True)
class Group:
    """One process group. ``ranks`` in group order; ``slots`` has for each rank that was heard its place there."""

    name: str
    description: str
    ranks: tuple[int, ...]
    told: bool  # the members are known, and not only guessed from who mentions the group
    slots: dict[int, int] = field(default_factory=dict)

    @property
    def axis(self) -> str:
        """The axis that the description names, or nothing."""
        return axis_of(self.description)


@dataclass(slots=True)
class Merged:
    """The whole job as far as it was heard. ``places``: for each rank, for each of its slots, the index in groups."""

    ranks: dict[int, model.RankDigest]
    groups: list[Group]
    places: dict[int, list[int]]
    signatures: dict[int, model.Signature]
    absent: tuple[int, ...]
    world: int
    mesh: meshes.Mesh | None = None
    coords: dict[int, dict[str, int]] = field(default_factory=dict)
    of_rank: dict[int, list[int]] = field(default_factory=dict)  # rank, absent ones too -> its groups
    unreadable: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()

    def seen(self, rank: int, group: int) -> model.GroupDigest | None:
        """The group as ``rank`` saw it."""
        slot = self.groups[group].slots.get(rank)
        return None if slot is None else self.ranks[rank].groups[slot]


def merge(
    nodes: Iterable[model.NodeDigest],
    groups: Mapping[str, Any] | None = None,
    mesh: meshes.Mesh | None = None,
    world: int | None = None,
) -> Merged:
    """``groups``: name -> {"desc", "ranks"}, used where dumps lack it. ``world``: count of ranks, where it is known."""
    whole = model.join(nodes)
    ranks, problems = _newest(whole.ranks)
    told = world or (mesh.world_size if mesh is not None else 0)
    highest = max(ranks, default=-1)
    if 0 < told <= highest:
        problems.append(f"rank {highest} left a dump, and the job was said to have {told} ranks; is this its mesh?")
    found = _Groups(whole.memberships, groups or {}, mesh, told if told > highest else 0)
    places = {rank: found.place(digested) for rank, digested in ranks.items()}
    found.settle(places)
    found.add_silent()
    size = _world(ranks, found.groups, mesh, world)
    merged = Merged(
        ranks=ranks,
        groups=found.groups,
        places=places,
        signatures=dict(whole.signatures),
        absent=tuple(rank for rank in range(size) if rank not in ranks),
        world=size,
        mesh=mesh,
        unreadable=whole.unreadable,
        problems=tuple(problems),
    )
    for at, group in enumerate(found.groups):
        for rank in group.ranks:
            merged.of_rank.setdefault(rank, []).append(at)
    merged.coords = _coordinates(merged)
    return merged


def combine(nodes: Iterable[model.NodeDigest]) -> model.NodeDigest:
    """Several digests as one that can be merged again, a level between nodes and controller. Each rank is kept once."""
    whole = model.join(nodes)
    ranks, _ = _newest(whole.ranks)
    unreadable = tuple(sorted(set(whole.unreadable)))
    return model.NodeDigest(tuple(ranks.values()), whole.memberships, whole.signatures, unreadable)


def axis_of(description: str) -> str:
    """``tp`` for ``mesh_tp`` or ``TENSOR_MODEL_PARALLEL_GROUP``; nothing where it names no single axis."""
    return _AXIS_OF.get(_bare(description), "")


def axes_of(description: str) -> tuple[str, ...]:
    """``dp`` and ``cp`` for ``mesh_dp_cp``; nothing where a word of it is no axis."""
    words = _bare(description).split("_")
    found: list[str] = []
    while words:
        length = next((n for n in range(len(words), 0, -1) if "_".join(words[:n]) in _AXIS_OF), 0)
        if not length:
            return ()
        found.append(_AXIS_OF["_".join(words[:length])])
        del words[:length]
    return tuple(dict.fromkeys(found))


def _bare(description: str) -> str:
    word = description.lower()
    while (bare := _DRESSING.sub("", word)) != word:
        word = bare
    return word


def _newest(given: Sequence[model.RankDigest]) -> tuple[dict[int, model.RankDigest], list[str]]:
    """One digest for each rank: of several the one that knows most."""
    ranks: dict[int, model.RankDigest] = {}
    again: set[int] = set()
    for item in given:
        other = ranks.get(item.rank)
        if other is not None:
            again.add(item.rank)
            if (_age(other), repr(other)) >= (_age(item), repr(item)):  # the same one, whichever came first
                continue
        ranks[item.rank] = item
    return dict(sorted(ranks.items())), list(_given_again(again))


def _given_again(found: set[int]) -> Iterator[str]:
    if len(found) == 1:
        yield f"rank {min(found)} was given more than once; the newest dump counts"
    elif found:
        text = ranges.encode(sorted(found)).replace(":", " by ").split(",")
        named = ", ".join(text[:RUNS_SAID]) + (" and others" if len(text) > RUNS_SAID else "")
        yield f"ranks {named} were given more than once; the newest dump of each counts"


def _age(item: model.RankDigest) -> tuple[int, ...]:
    counted = sum(max(0, group.enqueued or 0) + group.p2p for group in item.groups)
    return (item.taken_ns, item.newest_ns, counted, item.entries)


class _Groups:
    """Gives each group of each rank its place in the list of all groups."""

    def __init__(
        self,
        memberships: Mapping[str, tuple[int, ...]],
        given: Mapping[str, Any],
        mesh: meshes.Mesh | None,
        world: int,
    ) -> None:
        self.groups: list[Group] = []
        self._memberships, self._mesh, self._world = memberships, mesh, world
        self._given = {str(name): told_groups(value) for name, value in given.items()}
        self._known: dict[tuple[str, str], int] = {}
        self._by_name: dict[str, list[int]] = {}
        self._sets: list[frozenset[int]] = []  # the members of each group, to look ranks up in
        self._waiting: list[tuple[int, int, str, str]] = []  # members not known yet

    def place(self, digested: model.RankDigest) -> list[int]:
        """The index of each of the rank's groups; -1 until ``settle`` where its members are not told."""
        return [self._place(digested.rank, slot, group) for slot, group in enumerate(digested.groups)]

    def _place(self, rank: int, slot: int, group: model.GroupDigest) -> int:
        key = (group.name, group.members)
        at = self._known.get(key)
        if at is None:
            ranks = self._memberships.get(group.members) if group.members else None
            if ranks is None:
                self._waiting.append((rank, slot, group.name, group.description))
                return -1
            at = self._known[key] = self._new(group.name, group.description, ranks, True)
        if rank not in self._sets[at]:
            self._waiting.append((rank, slot, group.name, group.description))
            return -1
        self.groups[at].slots[rank] = slot
        return at

    def _new(self, name: str, description: str, ranks: tuple[int, ...], told: bool) -> int:
        self.groups.append(Group(name, description, ranks, told))
        self._sets.append(frozenset(ranks))
        self._by_name.setdefault(name, []).append(len(self.groups) - 1)
        return len(self.groups) - 1

    def settle(self, places: dict[int, list[int]]) -> None:
        """Find members for groups whose dumps do not tell them."""
        guessed: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for rank, slot, name, description in self._waiting:
            at = next((at for at in self._by_name.get(name, ()) if rank in self._sets[at]), None)
            if at is None and (told := self._elsewhere(rank, name, description)) is not None:
                at = self._new(name, told[0] or description, told[1], True)
            if at is None:
                guessed.setdefault((name, description), []).append((rank, slot))
            else:
                self.groups[at].slots[rank], places[rank][slot] = slot, at
        for (name, description), members in guessed.items():
            at = self._new(name, description, self._likely(tuple(sorted(rank for rank, _ in members))), False)
            for rank, slot in members:
                self.groups[at].slots[rank], places[rank][slot] = slot, at

    def add_silent(self) -> None:
        """Groups that were told and that no dump mentions: on gloo those that carry sends and recvs alone."""
        for name, told in self._given.items():
            if name not in self._by_name:
                for description, ranks in told:
                    self._new(name, description, ranks, True)

    def _elsewhere(self, rank: int, name: str, description: str) -> tuple[str, tuple[int, ...]] | None:
        told = [each for each in self._given.get(name, ()) if rank in each[1]]
        if len(told) == 1:
            return told[0]
        axes = axes_of(description)
        if description == _DEFAULT and rank < self._world:
            return description, tuple(range(self._world))
        if axes and self._mesh is not None and rank < self._mesh.world_size:
            return description, self._spanned(rank, axes)
        return None

    def _spanned(self, rank: int, axes: Iterable[str]) -> tuple[int, ...]:
        """The ranks that differ from ``rank`` in these axes of the mesh alone."""
        assert self._mesh is not None
        coords, sizes = self._mesh.coords(rank), dict(self._mesh.axes)
        ranges = [range(sizes[axis]) if axis in axes else (coords[axis],) for axis in sizes]
        places = (dict(zip(sizes, place, strict=True)) for place in itertools.product(*ranges))
        return tuple(sorted(self._mesh.rank(place) for place in places))

    def _likely(self, heard: tuple[int, ...]) -> tuple[int, ...]:
        """The members of a group that those ranks mention: where most ranks of some axes do, all of them are."""
        mesh = self._mesh
        if mesh is None or len(heard) < 2 or heard[-1] >= mesh.world_size:
            return heard
        coords = [mesh.coords(rank) for rank in heard]
        axes = [axis for axis, _ in mesh.axes if len({place[axis] for place in coords}) > 1]
        whole = self._spanned(heard[0], axes)
        return whole if 2 * len(heard) > len(whole) else heard


def told_groups(value: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Those of one name: one, or a list of several that have no rank in common."""
    found = (told_group(each) for each in (value if isinstance(value, list) else (value,)))
    return tuple(each for each in found if each is not None)


def told_group(value: Any) -> tuple[str, tuple[int, ...]] | None:
    """Description and members of a group that a file tells, {"desc", "ranks"}; None where that is something else."""
    ranks = value.get("ranks") if isinstance(value, Mapping) else None
    if isinstance(ranks, str):
        ranks = entries.parse_ranks(ranks)
    if not isinstance(ranks, list | tuple) or not ranks:
        return None
    if not all(type(rank) is int and 0 <= rank < ranges.RANKS_MAX for rank in ranks):
        return None
    return str(value.get("desc") or ""), tuple(ranks)


def _world(ranks: Mapping[int, Any], groups: Sequence[Group], mesh: meshes.Mesh | None, world: int | None) -> int:
    known = [world or 0, mesh.world_size if mesh is not None else 0, max(ranks, default=-1) + 1]
    return max(known + [max(group.ranks, default=-1) + 1 for group in groups])


def _coordinates(merged: Merged) -> dict[int, dict[str, int]]:
    if merged.mesh is not None and merged.mesh.world_size >= merged.world:
        return {rank: merged.mesh.coords(rank) for rank in range(merged.world)}
    coords: dict[int, dict[str, int]] = {}
    for group in merged.groups:
        axis = group.axis
        if axis and group.told:
            for at, rank in enumerate(group.ranks):
                coords.setdefault(rank, {}).setdefault(axis, at)
    return coords
