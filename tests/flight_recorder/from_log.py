"""What NCCL's recorder would have held of a recorded campaign's run: its log of calls as dumps of that form.

Gloo's own dumps hide sends and recvs and never show a state. The log has both, of the same real ranks, and every call
of gloo blocks its caller as a call of NCCL blocks its stream; so begin and end become creation and completion.
"""

from __future__ import annotations

import typing

from outrider_simulator.flight_recorder import encoding, entries, layout

# In the order in which the ranks make them, which is that of the local numbers.
NAMES = {"world": "default_pg", "tp": "mesh_tp", "cp": "mesh_cp", "pp": "mesh_pp", "dp_cp": "mesh_dp_cp"}
P2P = ("send", "recv")


def dumps(case: dict[str, typing.Any], settings: entries.Settings) -> dict[int, bytes]:
    """Rank to bytes, for the ranks that left a log."""
    made = _groups(case["groups"])
    return {int(rank): encoding.encode(_dump(int(rank), log, made, settings)) for rank, log in case["logs"].items()}


def _groups(given: dict[str, typing.Any]) -> list[layout.Group]:
    return [
        layout.Group(
            number,
            item["desc"],
            name,
            item["desc"],
            tuple(item["ranks"]),
            {r: at for at, r in enumerate(item["ranks"])},
        )
        for number, (name, item) in enumerate(sorted(given.items()))
    ]


def _dump(rank: int, log: list[list[typing.Any]], made: list[layout.Group], settings: entries.Settings) -> entries.Dump:
    own = {axis: group for axis, word in NAMES.items() for group in made if group.kind == word and rank in group.places}
    numbers = {axis: number for number, axis in enumerate(own)}
    counts = {axis: [0, 0] for axis in own}
    status = {axis: [-1, -1] for axis in own}
    found = []
    for record, (axis, op, peer, shape, dtype, begin, end) in enumerate(log):
        group, p2p = own[axis], op in P2P
        counts[axis][p2p] += 1
        status[axis][0] = counts[axis][p2p]
        if end is not None:
            status[axis][1] = counts[axis][p2p]
        name = f"nccl:{op}"
        if p2p:
            name += f" {group.places[rank]}{'->' if op == 'send' else '<-'}{group.places[peer]}"
        out = (shape[0] * len(group.ranks), *shape[1:]) if op == "all_gather" else tuple(shape)
        line = entries.Line(
            numbers[axis],
            group,
            name,
            (tuple(shape),),
            (out,),
            ((dtype,), (dtype,)),
            p2p,
            entries.stack(op, axis),
            "",
            True,
        )
        state = entries.SCHEDULED if end is None else entries.COMPLETED
        collectives, transfers = counts[axis]
        found.append(
            entries.Entry(
                line, record, collectives, transfers, sum(counts[axis]), begin, state, None, end, end is not None, None
            )
        )
    if settings.active_only:
        found = [entry for entry in found if entry.state != entries.COMPLETED]
    used = [axis for axis in own if status[axis][0] >= 0]
    told = tuple((numbers[axis], (status[axis][0], -1, status[axis][1])) for axis in used)
    return entries.Dump(rank, settings, tuple(own[axis] for axis in used), told, tuple(found))
