"""The fact that a step ended without numbers: it interrupts the job, once an attempt.

Nothing that was trained from that step on is worth keeping, so the attempt is stopped at once and the job goes back to
a checkpoint from before the step. What the attempt saved since is not loaded again.
"""

from __future__ import annotations

from outrider_controller.core import incidents, records, trust
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import numerics
from outrider_controller.core.turn import Turn


def not_finite(turn: Turn, fact: records.NotFinite, before: states.State) -> None:
    """Stop an attempt whose loss or gradient norm is no number any more."""
    job = turn.state.jobs.get(fact.job)
    if job is None or job.attempt is None or job.attempt.generation != fact.generation or job.over:
        return
    old = before.jobs[fact.job].attempt
    if old is None or old.not_finite is not None:
        return
    trust.not_finite(turn, fact.job, fact)
    what = " and ".join(fact.what) or "a value that is no number"
    if job.attempt.stop_wanted or (job.incident is not None and job.incident.generation == job.attempt.generation):
        turn.note(fact.job, f"step {fact.step} ended with {what}; the attempt is being stopped already")
        return
    fault_at = fact.at if fact.stepped_at is None else fact.stepped_at
    text = f"step {fact.step} ended with {what}"
    incidents.open_incident(turn, fact.job, fault_at, fact.step, text, numerics.OPENED_BY)
