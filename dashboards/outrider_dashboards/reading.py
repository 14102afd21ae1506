"""The controller's documents -> what the page says of them. Plain functions of plain values; every key may be missing.

In: a ``Picture``. Out: the state the page is in, the incidents split into interruptions and findings, the stretches of
time to mark, the ranks to blame. An older controller that lacks a document is read as far as it goes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from outrider_dashboards import looking, words

Json = dict[str, Any]
PHASES: Final = ("detection", "diagnosis", "restart", "redo", "planned", "held")


def state(picture: looking.Picture) -> str:
    """A key of ``look.STATES``."""
    if picture.kind:
        return picture.kind
    status = picture.status
    if status is None:
        return "empty"
    found = str(status.get("state"))
    if found == "failed" and status.get("ended_by"):
        return "stopped"
    if found in ("starting", "training") and suspicion(picture):
        return "suspected"
    if found == "training" and status.get("open_incident"):
        return "regaining"
    return found if found in ("starting", "training", "interrupted", "held", "completed", "failed") else "starting"


def suspicion(picture: looking.Picture) -> Json | None:
    """What the controller says of a job that gives no sign of progress, None where it says nothing."""
    found = (picture.status or {}).get("suspected")
    return found if isinstance(found, dict) and found else None


def incidents(picture: looking.Picture) -> list[Json]:
    """Every incident of the job, newest first."""
    found = (picture.report or {}).get("incidents") or []
    return [one for one in reversed(found) if isinstance(one, dict)]


def interruptions(picture: looking.Picture) -> list[Json]:
    """The incidents that interrupted the job, newest first."""
    return [one for one in incidents(picture) if one.get("interrupted", True)]


def findings(picture: looking.Picture) -> list[Json]:
    """The incidents that interrupted nothing and are watched, newest first."""
    return [one for one in incidents(picture) if not one.get("interrupted", True)]


def open_incident(picture: looking.Picture) -> Json | None:
    """The open one, None where there is none or its document has not come yet."""
    name = (picture.status or {}).get("open_incident")
    return next((one for one in incidents(picture) if name and one.get("id") == name), None)


def culprits(picture: looking.Picture) -> set[int]:
    """Ranks that the open incident blames, and those that were found stopped."""
    one = open_incident(picture) or {}
    stopped = (suspicion(picture) or {}).get("stopped_ranks") or []
    return {*((one.get("suspects") or {}).get("ranks") or []), *stopped}


def simulated(picture: looking.Picture) -> set[str]:
    """Nodes that are pretended hosts of one machine."""
    nodes = (picture.status or {}).get("nodes") or []
    return {str(node.get("node")) for node in nodes if node.get("simulated")}


def segments(picture: looking.Picture) -> list[Json]:
    """Stretches of time without progress; made from the incidents' phases where the controller tells none."""
    if picture.timeline is not None:
        return list(picture.timeline.get("segments") or [])
    found: list[Json] = []
    for one in reversed(interruptions(picture)):
        at = words.moment(one.get("opened_at"))
        for phase in PHASES:
            seconds = (one.get("phases") or {}).get(f"{phase}_s") or 0.0
            if at is not None and seconds > 0:
                end = at + timedelta(seconds=seconds)
                found.append({"bin": phase, "from_at": at.isoformat(), "to_at": end.isoformat(), "incident": one["id"]})
                at = end
    return found


def attempts(picture: looking.Picture) -> list[Json]:
    """The job's attempts, oldest first; empty where the controller tells none."""
    return list((picture.timeline or {}).get("attempts") or [])


def latest(picture: looking.Picture) -> Json:
    """The newest finished step, empty before one."""
    return picture.series[-1] if picture.series else {}


def whom(one: Json, pretended: set[str]) -> str:
    """Who is blamed, in words; empty where nobody is."""
    suspects = one.get("suspects") or {}
    ranks, nodes = suspects.get("ranks") or [], suspects.get("nodes") or []
    parts = []
    if ranks:
        parts.append(f"rank {words.listed(ranks)}")
    parts += [words.listed(suspects[kind]) for kind in ("gpus", "links") if suspects.get(kind)]
    if nodes:
        shown = [f"{node} (simulated)" if node in pretended else str(node) for node in nodes]
        parts.append(f"{'on ' if ranks else ''}{words.listed(shown)}")
    return " ".join(parts)


def length_s(one: Json) -> float:
    """Seconds from its fault to its close, or to now."""
    found = one.get("length_s")
    return float(found) if isinstance(found, int | float) else sum((one.get("phases") or {}).values())
