"""Findings in plain English: ranks with their coordinates, groups with their names, calls with their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from outrider import mesh as meshes
from outrider_analysis.flight_recorder import digest
from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import finding as findings
from outrider_analysis.flight_recorder.verdict.board import Wait
from outrider_analysis.flight_recorder.verdict.order import Call

RANKS_NAMED_MAX = 8
RUNS_SHOWN_MAX = 6


def named(merged: Merged, ranks: Sequence[int]) -> str:
    """``rank 5 (dp=0, pp=1, cp=0, tp=1)``, or ``ranks 0-3``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}{at(merged, ranks[0])}"
    if len(ranks) <= 3 and all(at(merged, rank) for rank in ranks):
        parts = [f"{rank}{at(merged, rank)}" for rank in ranks]
        return f"ranks {', '.join(parts[:-1])} and {parts[-1]}"
    return f"ranks {runs(ranks)}"


def at(merged: Merged, rank: int) -> str:
    """`` (dp=0, pp=1)`` where the mesh is known."""
    coords = merged.coords.get(rank, {})
    sizes = dict(merged.mesh.axes) if merged.mesh is not None else dict.fromkeys(meshes.AXES, 2)
    shown = {axis: coords[axis] for axis in sizes if axis in coords and sizes[axis] > 1}
    return f" ({', '.join(f'{axis}={index}' for axis, index in shown.items())})" if shown else ""


def runs(ranks: Sequence[int]) -> str:
    """``0-3, 8``: a long list is cut and counted."""
    found: list[list[int]] = []
    for rank in sorted(ranks):
        if found and rank == found[-1][1] + 1:
            found[-1][1] = rank
        else:
            found.append([rank, rank])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found[:RUNS_SHOWN_MAX])
    left = sum(b - a + 1 for a, b in found[RUNS_SHOWN_MAX:])
    return shown if not left else f"{shown} and {left} more"


def group(merged: Merged, index: int) -> str:
    """``group mesh_tp (ranks 0-3)``."""
    found = merged.groups[index]
    return _group(found.name, found.description, found.ranks)


def blocked(where: findings.Where) -> str:
    """``all_reduce number 41 of group mesh_tp (ranks 0-3)``."""
    return f"{where.op} number {where.seq} of {_group(where.group, where.description, where.ranks)}"


def _group(name: str, description: str, ranks: Sequence[int]) -> str:
    """Many jobs describe no group; then its name, which may be a mere number, and its members have to do."""
    return f"group {name if description in digest.UNDESCRIBED else description} (ranks {runs(ranks)})"


def operation(merged: Merged, wait: Wait) -> str:
    """``all_reduce number 41 of group mesh_tp (ranks 0-3)``, or ``the send from rank 0 to rank 4``."""
    if wait.pair is not None:
        return f"the send from rank {wait.pair[0]} to rank {wait.pair[1]} in {group(merged, wait.group)}"
    return f"{wait.op} number {wait.seq} of {group(merged, wait.group)}"


def call(made: Call) -> str:
    """One call in the order of a rank: ``all_reduce of mesh_tp, number 41``."""
    kind, p2p, number, op, step = made
    if p2p:
        return f"{op} {'to' if op == 'send' else 'from'} the partner {step} further in {kind}, number {number}"
    return f"{op} of {kind}, number {number}"


def count(ranks: Sequence[int]) -> str:
    """``3 ranks wait``."""
    return f"{len(ranks)} rank{'s' if len(ranks) != 1 else ''} wait{'s' if len(ranks) == 1 else ''}"


def operations(number: int) -> str:
    """``3 operations wait``."""
    return f"{number} operation{'s wait' if number != 1 else ' waits'}"


def verb(ranks: Sequence[int], one: str, many: str) -> str:
    """The verb's form for so many ranks."""
    return one if len(ranks) == 1 else many


def others(ranks: Sequence[int]) -> str:
    """``1 other member``."""
    return f"{len(ranks)} other member{'s' if len(ranks) != 1 else ''}"


def listed(ranks: Sequence[int]) -> str:
    """``rank 20``, or ``ranks 0-3``."""
    return f"{verb(ranks, 'rank', 'ranks')} {runs(ranks)}"


def nothing(read: int, world: int) -> str:
    """That nobody is stuck, as far as ``read`` of ``world`` ranks tell."""
    if read < world:
        return (
            f"Nothing that was read is stuck, but that is {read} of {world} ranks: none of them waits for a rank that "
            "does not come."
        )
    return f"Nothing is stuck: {read} ranks were read, and none waits for a rank that does not come."
