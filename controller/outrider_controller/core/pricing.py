"""What each action would cost, in GPU-hours: detection and restart, lost steps, capacity. Printed with the losers.

Estimates from this job's own past (seconds a step, seconds from plan to first step) where it has one; the assumed
figures are named below and shown as such in ``docs/architecture.md``.
"""

from __future__ import annotations

from typing import Final

from outrider import records as spoken
from outrider_controller.core import state as states

RESTART_S_ASSUMED: Final = (
    60.0  # before this job has been restarted once; a cold start of 8 ranks on 2 cores took 15 to 20 s
)
PERSON_S_ASSUMED: Final = 1800.0  # until a paged person has looked; half an hour
SPARE_HELD_S: Final = 3600.0  # a spare that is used up stands for an hour's capacity of one node until repaired


def restart_gpu_h(job: states.JobState, incident: states.OpenIncident) -> float:
    """Restart plus the lost steps, over all ranks."""
    lost = max(0, (incident.lost_step or 0) - incident.checkpoint_step)
    step_s = incident.step_s or job.step_s or 0.0
    seconds = (job.restart_s or RESTART_S_ASSUMED) + lost * step_s
    return round(seconds * job.spec.world_size / 3600, 4)


def price(action: str, job: states.JobState, incident: states.OpenIncident) -> float | None:
    """GPU-hours of ``action``, or None where waiting would never end."""
    if action == "watch" and job.incident is not None and job.incident.watched:
        return 0.0
    if action in ("restart", "drain-at-checkpoint"):
        return restart_gpu_h(job, incident)
    if action == "restart-without-suspect":
        return round(restart_gpu_h(job, incident) + SPARE_HELD_S * job.spec.ranks_per_node / 3600, 4)
    if action == "hold-for-person":
        return round(restart_gpu_h(job, incident) + PERSON_S_ASSUMED * job.spec.world_size / 3600, 4)
    return None


_WHY_NOT: Final = {
    "watch": "a synchronous job cannot go on without a rank",
    "restart": "would put the job back where it has just failed",
    "restart-without-suspect": "nothing speaks against a node strongly enough to spend a spare",
    "hold-for-person": "nothing here needs a person",
}


_NO_DRAIN: Final = {
    "watch": "the node would go on to slow the job down, or break it between two checkpoints",
    "restart-without-suspect": "at once it would lose the steps since the last checkpoint, for a job that still trains",
    "hold-for-person": "a spare is free and nothing here needs a person",
}


def alternatives(chosen: str, job: states.JobState, incident: states.OpenIncident) -> tuple[spoken.Json, ...]:
    """The actions turned down, each with its price and the reason."""
    if chosen == "drain-at-checkpoint":
        return tuple({"action": a, "price_gpu_h": price(a, job, incident), "why_not": w} for a, w in _NO_DRAIN.items())
    losers = [action for action in _WHY_NOT if action != chosen]
    return tuple({"action": a, "price_gpu_h": price(a, job, incident), "why_not": _why_not(a, chosen)} for a in losers)


def _why_not(action: str, chosen: str) -> str:
    if chosen == "watch":
        return "the job trains on, and stopping it would cost what nothing has cost yet"
    if action == "restart" and chosen == "hold-for-person":
        return "a brake of the runbook is reached; another restart would most likely fail the same way"
    if action == "restart-without-suspect" and chosen == "hold-for-person":
        return "the failure does not follow a node"
    return _WHY_NOT[action]
