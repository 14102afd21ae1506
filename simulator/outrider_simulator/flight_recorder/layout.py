"""Ranks, process groups and their names: what a launcher and `new_group` would have made of a mesh."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from outrider import mesh as meshes

WORLD: Final = "world"
EMBEDDING: Final = "embedding"
EXPERT: Final = "ep"
MODEL: Final = "mp"  # all stages and tensor ranks of one replica

# Descriptions of groups as four ways of making them leave it. Torch writes "undefined" where none is given.
DESCRIPTIONS: Final[dict[str, dict[str, str]]] = {
    "mesh": {
        "tp": "mesh_tp",
        "cp": "mesh_cp",
        "pp": "mesh_pp",
        "dp": "mesh_dp",
        "dp_cp": "mesh_dp_cp",
        EXPERT: "mesh_ep",
    },
    "axis": {"tp": "tp", "cp": "cp", "pp": "pp", "dp": "dp", "dp_cp": "dp_cp", EXPERT: "ep", MODEL: "mp"},
    "megatron": {
        "tp": "TENSOR_MODEL_PARALLEL_GROUP",
        "cp": "CONTEXT_PARALLEL_GROUP",
        "pp": "PIPELINE_MODEL_PARALLEL_GROUP",
        "dp": "DATA_PARALLEL_GROUP",
        "dp_cp": "DATA_PARALLEL_GROUP_WITH_CP",
        EMBEDDING: "EMBEDDING_GROUP",
        EXPERT: "EXPERT_MODEL_PARALLEL_GROUP",
        MODEL: "MODEL_PARALLEL_GROUP",
    },
    "undefined": {},
}
NAMINGS: Final = ("counter", "hash", "split")


@dataclass(frozen=True, eq=False)
class Group:
    """One process group. ``kind`` is the axis (or WORLD, EMBEDDING) it stands on; ``index`` its place among all."""

    index: int
    kind: str
    name: str
    description: str
    ranks: tuple[int, ...]
    places: dict[int, int] = field(repr=False)  # global rank -> rank within the group


@dataclass(frozen=True)
class Layout:
    """A mesh with its groups. ``of[rank]`` maps a kind to the rank's group; kinds of one member are left out."""

    mesh: meshes.Mesh
    groups: tuple[Group, ...]
    of: tuple[dict[str, Group], ...]
    ranks_per_node: int

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.mesh.world_size

    def size(self, axis: str) -> int:
        """Number of ranks along an axis."""
        return dict(self.mesh.axes)[axis]

    def node(self, rank: int) -> int:
        """The host of a rank."""
        return rank // self.ranks_per_node


def lay_out(
    mesh: str,
    naming: str = "counter",
    descriptions: str = "mesh",
    embedding: bool = True,
    ranks_per_node: int = 8,
    experts: int = 1,
    model: bool = False,
) -> Layout:
    """Make every group of a mesh text. Data is sharded over dp and cp together where there is a cp axis.

    ``experts``: so many data ranks, one after another, share the experts of a layer; left out where they do not go
    into the data ranks evenly. ``model``: the ranks of one replica over pp and tp have a group of their own.

    ``naming``: ``counter`` gives each group of the job its own number; ``hash`` digests the members; ``split`` gives
    all groups of one axis the same name on different ranks, as splitting a communicator does.
    """
    layout = meshes.parse(mesh)
    sizes = dict(layout.axes)
    words = DESCRIPTIONS[descriptions]
    members: list[tuple[str, list[tuple[int, ...]]]] = [(WORLD, [tuple(range(layout.world_size))])]
    data = ("dp", "cp") if sizes["cp"] > 1 else ("dp",)
    for axes in (("tp",), ("cp",), ("pp",), data):
        found = _along(layout, axes)
        if len(found[0]) > 1 and (len(axes) == 1 or sizes["dp"] > 1):
            members.append(("_".join(axes), found))
    replicas = _along(layout, data)
    if experts > 1 and len(replicas[0]) % experts == 0:
        blocks = [ranks[at : at + experts] for ranks in replicas for at in range(0, len(ranks), experts)]
        members.append((EXPERT, blocks))
    if model and sizes["pp"] > 1 and sizes["tp"] > 1 and len(replicas[0]) > 1:
        members.append((MODEL, _along(layout, ("pp", "tp"))))
    if embedding and sizes["pp"] > 2:
        members.append((EMBEDDING, [(ranks[0], ranks[-1]) for ranks in _along(layout, ("pp",))]))
    groups: list[Group] = []
    of: list[dict[str, Group]] = [{} for _ in range(layout.world_size)]
    for kind, lists in members:
        for ranks in lists:
            name = _name(naming, kind, ranks, len(groups), [word for word, _ in members].index(kind))
            description = "default_pg" if kind == WORLD else words.get(kind, "undefined")
            places = {rank: place for place, rank in enumerate(ranks)}
            group = Group(len(groups), kind, name, description, ranks, places)
            groups.append(group)
            for rank in ranks:
                of[rank][kind] = group
    return Layout(layout, tuple(groups), tuple(of), ranks_per_node)


def _along(mesh: meshes.Mesh, axes: tuple[str, ...]) -> list[tuple[int, ...]]:
    """The lists of ranks that differ in these axes alone; within a list the ranks ascend."""
    lists: dict[tuple[int, ...], list[int]] = {}
    for rank in range(mesh.world_size):
        coords = mesh.coords(rank)
        lists.setdefault(tuple(coords[axis] for axis, _ in mesh.axes if axis not in axes), []).append(rank)
    return [tuple(ranks) for ranks in lists.values()]


def _name(naming: str, kind: str, ranks: tuple[int, ...], counter: int, axis: int) -> str:
    if kind == WORLD:
        return "0"
    if naming == "hash":
        twice = kind if kind in (EXPERT, MODEL) else ""  # other groups may have the very same members
        return hashlib.sha256((",".join(map(str, ranks)) + twice).encode()).hexdigest()[:40]
    return str(axis) if naming == "split" else str(counter)
