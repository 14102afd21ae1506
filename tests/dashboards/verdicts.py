"""Incidents with what flight records came to: the real analysis over generated dumps, as a controller stores it."""

import dataclasses
import functools
import json
from typing import Any

from outrider_analysis.flight_recorder import digest, merge, reading, verdict
from outrider_analysis.flight_recorder.verdict import drawing
from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import cases
from tests.dashboards import answers

Json = dict[str, Any]
MESH = "dp=2,pp=2,cp=1,tp=4"


@functools.cache
def _written(name: str, mesh: str, lost: tuple[int, ...]) -> str:
    case = flight_recorder.make(3, name=name, mesh=mesh, settings=flight_recorder.Settings(ring=64))
    late = max(rank.time for rank in case.run.ranks) + 600.0
    digester = digest.Digester()
    ranks = []
    for rank, data in case.dumps():
        dump = reading.read(data)
        if rank not in lost and isinstance(dump, reading.Dump):
            taken_ns = cases.START_NS + int(min(case.at[rank], late) * 1e9)
            ranks.append(dataclasses.replace(digester.rank(rank, dump), taken_ns=taken_ns))
    node = digester.node(ranks)
    judged = verdict.judge(merge.merge([node]))
    more = {"world": judged.merged.world, "notes": [], "files": {}}
    return json.dumps(judged.to_json() | drawing.draw(judged) | more)


def record(name: str, mesh: str = MESH, lost: tuple[int, ...] = ()) -> Json:
    """The verdict with its drawing over the dumps of a generated fault, less those of ``lost`` ranks."""
    found: Json = json.loads(_written(name, mesh, lost))
    return found


def hang(found: Json | None, number: int = 1, **changes: Any) -> Json:
    """An incident of a hang."""
    culprits = (found or {}).get("culprits") or []
    suspects = {"ranks": culprits, "gpus": [], "nodes": ["n0"] if culprits else [], "links": []}
    more = {"id": f"demo-{number}", "cause": "rank-hung" if culprits else "job-stalled", "flight_recorder": found}
    return answers.incident(suspects=suspects, **more, **changes)


def status(world: int = 16, **changes: Any) -> Json:
    """A job of so many ranks, eight on a simulated host."""
    nodes = [
        {"node": f"n{node}", "state": "healthy", "agent_seen_s": 0.5, "findings": [], "simulated": True, "why": ""}
        for node in range(-(-world // 8))
    ]
    ranks = [
        {"rank": rank, "node": f"n{rank // 8}", "local_rank": rank % 8, "pid": 100 + rank, "coords": {"tp": rank % 8}}
        | {"step": 41, "phase": "step", "ended": None}
        for rank in range(world)
    ]
    return answers.status(nodes=nodes, ranks=ranks, **changes)
