"""A verdict as what people look at: the graph of waits, bounded, and who is where in the operation that blocked first.

    Verdict -> {"graph": {"nodes", "edges", "left_out"}, "tables": [one for each finding, or null], "limits": [...]}

Every rank is in at most one node, and a node is named by its first rank. A small job is drawn rank by rank. Beyond,
ranks that wait for the same are one node: first those in the same operation, then those in groups of the same kind at
the same distance from a root, then all at that distance. The finest of these that a person can follow is taken.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from outrider import mesh as meshes
from outrider_analysis.flight_recorder import digest, model, ranges
from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import board as boards
from outrider_analysis.flight_recorder.verdict.finding import Verdict, Where

NODES_MAX: Final = 200
SINGLE_MAX: Final = 8  # ranks that are drawn one by one
LEGIBLE_MAX: Final = 24  # nodes that a person can follow; a finer drawing with more than this is not taken
EDGES_MAX: Final = 800
TABLES_MAX: Final = 64
KIND_RANKS_MAX: Final = 4096  # of a group, to see along which axes it lies
KINDS_MAX: Final = 6  # of groups that are named where several operations are drawn as one
SIGNATURE_BYTES: Final = 4
RUNS_MAX: Final = 48  # runs of ranks in one text
ROLES: Final = ("culprit", "candidate", "absent", "victim", "other")
STATES: Final = ("finished", "waits", "behind", "not-there", "no-dump")


def draw(
    judged: Verdict, nodes_max: int = NODES_MAX, legible_max: int = LEGIBLE_MAX, single_max: int = SINGLE_MAX
) -> dict[str, Any]:
    """``graph``, ``tables`` and ``limits``, plain JSON, to be stored beside the contract's keys of the verdict.

    A node is ``{"rank", "ranks", "count", "role", "dump", "coords", "distance", "waits_in"}``: its first rank, all of
    them as text (``8-63``), the coordinates that they share, over how many waits they hang on a root (null where they
    do not), and what they wait in (null for nothing) as ``{"group", "description", "op", "seq", "from_to",
    "operations", "kinds"}``, each null where it is not the same for all of the ``operations`` that are drawn as one,
    while ``kinds`` names the axes (else the descriptions) of their groups. An edge is
    ``{"from", "to", "group", "description", "op", "seq"}`` between first ranks, from who waits to who is waited for.
    ``left_out`` counts ranks beyond ``nodes_max``. ``limits`` says why the verdict can be no surer than it is.
    """
    return {
        "graph": _graph(judged, nodes_max, legible_max, single_max),
        "tables": [_table(judged.merged, item.where) for item in judged.findings[:TABLES_MAX]],
        "limits": list(limits(judged)),
    }


def limits(judged: Verdict) -> Iterator[str]:
    """What these dumps leave open."""
    merged = judged.merged
    read = list(merged.ranks.values())
    if merged.absent and read:
        yield f"{len(merged.absent)} of {merged.world} ranks left no dump that could be read"
    if any(rank.gloo for rank in read):
        yield "gloo records no send, no recv and no state, so who waits in those is not seen"
    if bare := sum(rank.active_only for rank in read):
        yield f"{_dumps(bare, len(read))} unfinished operations alone, so what was called before is not known"
    if any(not group.told for group in merged.groups):
        yield "the members of some groups are guessed from who mentions them"
    if read and not any(rank.taken_ns for rank in read):
        yield (
            "when the dumps were taken is not known (cp -p keeps their times), so a job at work may look like one that "
            "stands still"
        )
    kinds = {item.kind for item in judged.findings}
    if kinds & {"device-stuck", "all-joined-stuck"} and not any(rank.timing for rank in read):
        yield "without TORCH_NCCL_ENABLE_TIMING nothing tells which devices have begun"


def _dumps(some: int, every: int) -> str:
    return "the dumps hold" if some == every else f"{some} of {every} dumps hold"


def state(merged: Merged, at: int, where: Where, rank: int) -> tuple[str, str]:
    """Where ``rank`` is in that operation of group ``at``: one of STATES, and more in words or nothing."""
    if rank not in merged.ranks:
        return "no-dump", ""
    seen = merged.seen(rank, at) if at >= 0 else None
    if seen is None:
        return "not-there", "has called nothing on this group"
    if where.pair is not None:
        return ("waits", "") if _pending(merged, at, where, rank) else ("not-there", "")
    if seen.enqueued is None or seen.enqueued < where.seq:
        called = seen.enqueued if seen.enqueued is not None and seen.enqueued > 0 else 0
        return "not-there", f"has called up to number {called}" if called else "has called none"
    completed = seen.completed or 0
    if completed >= where.seq:
        return "finished", ""
    return ("waits", "") if completed == where.seq - 1 else ("behind", f"in number {completed + 1}")


def text(ranks: Iterable[int]) -> str:
    """``0-6:2,9``: at most RUNS_MAX runs, and ``...`` for the rest."""
    parts = ranges.encode(sorted(ranks)).split(",")
    return ",".join([*parts[:RUNS_MAX], "..."] if len(parts) > RUNS_MAX else parts)


def _pending(merged: Merged, at: int, where: Where, rank: int) -> bool:
    assert where.pair is not None
    group = merged.groups[at]
    other = where.pair[1] if rank == where.pair[0] else where.pair[0]
    place = group.ranks.index(other) if other in group.ranks else -1
    slot = group.slots.get(rank)
    return any(op.group == slot and op.p2p and op.peer == place for op in merged.ranks[rank].unfinished)


def _table(merged: Merged, where: Where | None) -> dict[str, Any] | None:
    """Who of the group finished the operation, who waits in it, who did not come, who left no dump, who called what."""
    if where is None:
        return None
    named = (where.group, where.ranks)
    at = next((n for n, group in enumerate(merged.groups) if (group.name, group.ranks) == named), -1)
    members = where.pair or where.ranks
    calls = {rank: _call(merged, at, where, rank) for rank in members}
    different = len({(call.op, call.numel, call.dtype) for call in calls.values() if call is not None}) > 1
    states: dict[tuple[str, str, str], list[int]] = {}
    for rank in members:
        call = calls[rank] if different else None
        said = (call.text or call.op) if call is not None else ""
        states.setdefault((*state(merged, at, where, rank), said), []).append(rank)
    rows = sorted(states.items(), key=lambda item: (STATES.index(item[0][0]), -len(item[1]), min(item[1])))
    return {
        "group": where.group,
        "description": where.description,
        "op": where.op,
        "seq": where.seq,
        "from_to": list(where.pair) if where.pair else None,
        "size": len(where.ranks),
        "rows": [
            {
                "state": word,
                "more": more,
                "call": call,
                "count": len(ranks),
                "ranks": text(ranks),
                "coords": _shared(merged, ranks),
            }
            for (word, more, call), ranks in rows[:RUNS_MAX]
        ],
    }


def _call(merged: Merged, at: int, where: Where, rank: int) -> model.Signature | None:
    """What ``rank`` called under that number; None where its dump does not tell."""
    seen = merged.seen(rank, at) if rank in merged.ranks and at >= 0 and where.pair is None else None
    if seen is None or not seen.first <= where.seq < seen.first + len(seen.window) // SIGNATURE_BYTES:
        return None
    return merged.signatures.get(seen.signatures()[where.seq - seen.first])


@dataclass(slots=True)
class _Net:
    """Ranks in the drawing: what each of them waits in (index in ``board.waits``), for whom, and its role."""

    board: boards.Board
    roles: dict[int, str]
    waits: dict[int, int] = field(default_factory=dict)
    targets: dict[int, tuple[int, ...]] = field(default_factory=dict)  # of a wait
    near: dict[int, int] = field(default_factory=dict)  # waits between a rank and the nearest root


def _graph(judged: Verdict, nodes_max: int, legible_max: int, single_max: int) -> dict[str, Any]:
    net = _net(judged)
    groups: list[list[int]] = []
    for level in range(_LEVELS):
        groups = _grouped(net, level)
        if len(groups) <= (legible_max if level else single_max):
            break
    groups.sort(key=lambda ranks: (ROLES.index(net.roles[ranks[0]]), net.near.get(ranks[0], 1 << 30), ranks[0]))
    shown = groups[:nodes_max]
    return {
        "nodes": [_node(judged.merged, net, ranks) for ranks in shown],
        "edges": list(_edges(net, shown))[:EDGES_MAX],
        "left_out": sum(len(ranks) for ranks in groups[nodes_max:]),
    }


def _net(judged: Verdict) -> _Net:
    board = boards.lay_out(judged.merged)
    roles = dict.fromkeys(judged.victims, "victim")
    roles.update({rank: "candidate" for item in judged.findings for rank in item.candidates})
    roles.update(dict.fromkeys(judged.culprits, "culprit"))
    net = _Net(board, roles)
    blamed = set(judged.culprits)
    queue = list(roles)
    for rank in queue:  # and whoever these wait for, though the verdict says nothing of them
        fronts = board.fronts.get(rank)
        if not fronts:
            continue
        net.waits[rank] = fronts[0]
        if fronts[0] in net.targets:
            continue
        net.targets[fronts[0]] = _awaited(board, fronts[0], blamed)
        for other in net.targets[fronts[0]]:
            if other not in roles:
                roles[other] = _unnamed(judged.merged, board, other)
                queue.append(other)
    net.near = _near(judged, net)
    return net


def _unnamed(merged: Merged, board: boards.Board, rank: int) -> str:
    """The role of a rank that others wait for and that the verdict does not speak of."""
    if rank not in merged.ranks:
        return "absent"
    return "victim" if board.fronts.get(rank) else "other"


def _awaited(board: boards.Board, at: int, blamed: set[int]) -> tuple[int, ...]:
    """Whom those in a wait wait for; nobody where all have joined it, have nothing to finish before, and no blame."""
    wait = board.waits[at]
    held = {rank for rank in wait.waiting if not _is_front(board, rank, at)}
    found = {*(wait.missing or wait.unheard or wait.behind), *held, *blamed.intersection(wait.waiting)}
    if not found and wait.pair is not None:  # both are there: what holds them is the rest of a partner's batch
        found = {rank for rank in wait.waiting if _in_batch(board, rank, at)}
    return tuple(sorted(found))


def _in_batch(board: boards.Board, rank: int, at: int) -> bool:
    """Does ``rank`` send to or receive from others in the same batch?"""
    return any(front != at and _is_batch(board, rank, front, at) for front in board.fronts[rank])


def _is_front(board: boards.Board, rank: int, at: int) -> bool:
    """Is this what ``rank`` waits in first? Sends and recvs of one batch have no order among them."""
    first = board.fronts[rank][0]
    return first == at or _is_batch(board, rank, first, at)


def _is_batch(board: boards.Board, rank: int, first: int, at: int) -> bool:
    one, other = board.waits[first], board.waits[at]
    if one.group != other.group or one.pair is None or other.pair is None:
        return False
    return one.waiting[rank].seq == other.waiting[rank].seq


def _near(judged: Verdict, net: _Net) -> dict[int, int]:
    """Breadth first from the roots, against the direction of the edges."""
    back: dict[int, list[int]] = {}
    for at, targets in net.targets.items():
        for rank in targets:
            back.setdefault(rank, []).append(at)
    waiting: dict[int, list[int]] = {}
    for rank, at in net.waits.items():
        waiting.setdefault(at, []).append(rank)
    roots = {rank for rank, role in net.roles.items() if role in ("culprit", "candidate")}
    for item in judged.findings:
        if not item.culprits and not item.candidates and item.where is not None:
            roots.update(rank for rank in item.where.pair or item.where.ranks if rank in net.roles)
    found: dict[int, int] = {}
    done: set[int] = set()
    # After the roots that the verdict names: whoever else is waited for and waits for nobody.
    for start in (roots, {rank for rank in net.roles if rank not in net.waits}):
        queue = sorted(start.difference(found))
        found.update(dict.fromkeys(queue, 0))
        _spread(queue, found, done, back, waiting)
    return found


def _spread(
    queue: list[int], found: dict[int, int], done: set[int], back: dict[int, list[int]], waiting: dict[int, list[int]]
) -> None:
    """``back``: rank -> waits for it; ``waiting``: wait -> who waits in it."""
    for rank in queue:
        for at in back.get(rank, ()):
            if at not in done:
                done.add(at)
                new = [other for other in waiting[at] if other not in found]
                found.update(dict.fromkeys(new, found[rank] + 1))
                queue += new


_LEVELS: Final = 4


def _grouped(net: _Net, level: int) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for rank in sorted(net.roles):
        groups.setdefault(_key(net, level, rank), []).append(rank)
    return list(groups.values())


def _key(net: _Net, level: int, rank: int) -> Hashable:
    """What ranks have in common that are one node at this level. Who is to blame stays alone as long as possible."""
    role, at = net.roles[rank], net.waits.get(rank)
    if level == 0 or (role == "culprit" and level < _LEVELS - 1):
        return rank
    near = net.near.get(rank)
    if level == 1:
        return role, at if at is not None else tuple(net.board.owed.get(rank, ()))
    if at is None or level == 3:
        return role, near, at is None
    wait = net.board.waits[at]
    return role, near, _kind(net, at), wait.op


def _kind(net: _Net, at: int) -> str:
    """The axis of a wait's group: the one that it is described by, else those in which its members differ."""
    merged = net.board.merged
    group = merged.groups[net.board.waits[at].group]
    if group.axis or group.description not in digest.UNDESCRIBED:
        return group.axis or group.description
    places = [_coords(merged, rank) for rank in group.ranks[:KIND_RANKS_MAX]]
    axes = [axis for axis in meshes.AXES if len({place.get(axis) for place in places}) > 1]
    return "+".join(axes) if all(places) and axes else group.name


def _node(merged: Merged, net: _Net, ranks: list[int]) -> dict[str, Any]:
    waits = sorted({net.waits[rank] for rank in ranks if rank in net.waits})
    return {
        "rank": ranks[0],
        "ranks": text(ranks),
        "count": len(ranks),
        "role": net.roles[ranks[0]],
        "dump": "read" if ranks[0] in merged.ranks else "absent",
        "coords": _shared(merged, ranks),
        "distance": net.near.get(ranks[0]),
        "waits_in": _operation(net, waits) if waits else None,
    }


def _operation(net: _Net, waits: Sequence[int]) -> dict[str, Any]:
    """What is the same for all of these waits, null what is not."""
    found = [net.board.waits[at] for at in waits]
    groups = {wait.group for wait in found}
    names = {net.board.merged.groups[group].name for group in groups}
    described = {net.board.merged.groups[group].description for group in groups}
    ops, seqs = {wait.op for wait in found}, {wait.seq for wait in found}
    alone = len(found) == 1
    return {
        "group": names.pop() if len(names) == 1 else None,
        "description": described.pop() if len(described) == 1 else None,
        "op": ops.pop() if len(ops) == 1 else None,
        "seq": seqs.pop() if len(seqs) == 1 else None,
        "from_to": list(found[0].pair) if alone and found[0].pair is not None else None,
        "operations": len(found),
        "kinds": sorted({_kind(net, at) for at in waits})[:KINDS_MAX],
    }


def _edges(net: _Net, shown: list[list[int]]) -> Iterator[dict[str, Any]]:
    """One edge for each two nodes, with the operation where it is one alone."""
    of_rank = {rank: ranks[0] for ranks in shown for rank in ranks}
    joined: dict[tuple[int, int], set[int]] = {}
    for ranks in shown:
        for at in {net.waits[rank] for rank in ranks if rank in net.waits}:
            for rank in net.targets[at]:
                to = of_rank.get(rank)
                if to is not None and to != ranks[0]:
                    joined.setdefault((ranks[0], to), set()).add(at)
    for (start, end), waits in joined.items():
        operation = _operation(net, sorted(waits))
        yield {"from": start, "to": end, **{key: operation[key] for key in ("group", "description", "op", "seq")}}


def _shared(merged: Merged, ranks: Iterable[int]) -> dict[str, int]:
    """The coordinates that all of these ranks have in common."""
    shared: dict[str, int] | None = None
    for rank in ranks:
        coords = _coords(merged, rank)
        shared = coords if shared is None else {a: at for a, at in shared.items() if coords.get(a) == at}
        if not shared:
            return {}
    return shared or {}


def _coords(merged: Merged, rank: int) -> dict[str, int]:
    """Without axes of one place alone, where the mesh is known."""
    sizes = dict(merged.mesh.axes) if merged.mesh is not None else {}
    return {axis: at for axis, at in merged.coords.get(rank, {}).items() if sizes.get(axis, 2) > 1}
