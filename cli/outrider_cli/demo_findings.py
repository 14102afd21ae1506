"""What became of each of the demo's faults: the incident it led to, and whether that names what was really done.

In: the faults as they were injected and the incidents as the controller tells them. Out: the faults with their incident
and a verdict, and a table for a terminal. The controller was told of no fault, so this is where it is marked.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Final

from outrider import vocabulary
from outrider_cli import views

# The causes that are right for each fault. A rank that is killed while a checkpoint is damaged was killed.
CAUSES: Final = {
    "kill": ("rank-killed",),
    "stop": ("rank-stopped",),
    "spin": ("rank-hung",),
    "corrupt": ("rank-killed",),
    "node": ("node-lost",),
    "nan": ("loss-nan",),
    "gpu-lost": ("gpu-lost",),
    "xid": ("gpu-processor",),
    "thermal": ("gpu-overheating",),
    "power-brake": ("power-brake",),
    "ecc": ("gpu-memory",),
}

# What slows the job down and breaks nothing: it is left at the next checkpoint, which is a planned incident.
LEFT_AT_A_CHECKPOINT: Final = frozenset({"thermal", "power-brake"})

Json = dict[str, Any]


def judge(faults: Sequence[Json], incidents: Sequence[Json]) -> list[Json]:
    """Each fault with ``incident``, ``cause``, ``named`` (None where there is nobody to name) and ``back_s``."""
    taken: set[str] = set()
    judged = []
    for place, fault in enumerate(faults):
        until = faults[place + 1]["at"] if place + 1 < len(faults) else float("inf")
        found = next((one for one in incidents if one["id"] not in taken and _led_to(fault, until, one)), None)
        if found is not None:
            taken.add(found["id"])
        judged.append(fault | _verdict(fault, found))
    return judged


def table(faults: Sequence[Json]) -> str:
    """One line a fault."""
    head = ("FAULT", "HIT", "INCIDENT", "CAUSE", "NAMED", "NEXT STEP AFTER")
    rows = [
        (
            fault["fault"],
            fault["node"] if fault["fault"] == "node" else f"rank {fault['rank']}",
            fault["incident"] or views.DASH,
            fault["cause"] or views.DASH,
            _named(fault),
            views.duration(fault["back_s"]),
        )
        for fault in faults
    ]
    return views.table(head, rows) if rows else ""


def recorded(faults: Sequence[Json]) -> list[str]:
    """A line for each fault of which the ranks' flight records told."""
    return [
        f"{fault['fault']}, by the flight records ({found['confidence']:.0%} sure): {found['sentence']}"
        for fault in faults
        if (found := fault.get("flight_recorder")) is not None
    ]


def all_right(faults: Sequence[Json]) -> bool:
    """Every fault led to an incident of the right cause that names the right rank or host."""
    return all(fault["cause_right"] and fault["named"] is not False for fault in faults)


def _led_to(fault: Json, until: float, one: Json) -> bool:
    """Whether the incident interrupted the attempt that the fault struck, after it and before the next fault."""
    ended = _seconds(one["closed_at"]) if one["closed_at"] else float("inf")
    attempt = one["attempt_before"] in (None, fault["attempt"])
    interrupted = one["action"] != "watch"
    planned = one["planned"] == (fault["fault"] in LEFT_AT_A_CHECKPOINT)
    since = ended > fault["at"] and _seconds(one["opened_at"]) < until
    return bool(interrupted and planned and attempt and since)


def _verdict(fault: Json, one: Json | None) -> Json:
    if one is None:
        nothing = {"incident": None, "cause": None, "cause_right": False, "named": False, "back_s": None}
        return nothing | {"flight_recorder": None}
    hit, suspects = fault["fault"], one["suspects"]
    named: bool | None = suspects["ranks"] == [fault["rank"]]
    if hit in vocabulary.DEMO_FAULTS_SIMULATED:
        named = named and suspects["nodes"] == [fault["node"]]
    elif hit == "node":
        named = suspects["nodes"] == [fault["node"]]
    elif hit == "nan":
        named = None  # the loss is the sum over all ranks
    if hit == "corrupt":
        fault = fault | {"damage_refused": _refusal(fault["checkpoint"]["path"], one["from_checkpoint"] or {})}
    phases = one["phases"]
    stepped = _seconds(one["opened_at"]) + sum(phases[key] for key in phases if key != "redo_s")
    return {
        "incident": one["id"],
        "cause": one["cause"],
        "cause_right": one["cause"] in CAUSES[hit] and fault.get("damage_refused") != "",
        "named": named,
        "back_s": max(0.0, stepped - fault["at"]) if one["attempt_after"] is not None else None,
        "flight_recorder": _recorded(one.get("flight_recorder")),
        **({"damage_refused": fault["damage_refused"]} if "damage_refused" in fault else {}),
    }


def _recorded(found: Json | None) -> Json | None:
    """Whom the flight records named, and in what words."""
    return {key: found[key] for key in ("verdict", "culprits", "confidence", "sentence")} if found else None


def _refusal(path: str, found: Json) -> str:
    """Why the damaged checkpoint was turned down; empty when it was loaded, or passed over without a reason."""
    refused = [one for one in found.get("rejected") or () if one["path"] == path]
    return str(refused[0]["why"]) if refused and found.get("path") != path else ""


def _named(fault: Json) -> str:
    if fault["fault"] == "corrupt" and fault["incident"]:
        refused = "damage refused" if fault.get("damage_refused") else "DAMAGE NOT SEEN"
        return f"{'right' if fault['named'] else 'WRONG'}, {refused}"
    if fault["named"] is None:
        return "right" if fault["cause_right"] else "WRONG CAUSE"
    return "right" if fault["named"] and fault["cause_right"] else "WRONG"


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
