"""How a job's suspicion moves with the rows that tell of it: suspected, looked at, resumed, a rank stopped or running
again. Nothing is decided here; ``evolve`` calls these for the rows of the attempt that is under way.

Once the attempt is being stopped, what was known of it is evidence and stays: ranks that lose the one that is ended
first say a last word of their own, and that is no progress.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from outrider_controller.core import records
from outrider_controller.core import state as states

STOPPED: Final = "rank-stopped"
CONTINUED: Final = "rank-continued"
OBSERVED: Final = frozenset({STOPPED, CONTINUED})
STOPPED_RANKS_MAX: Final = 65536


def suspected(job: states.JobState, row: records.Suspected) -> states.JobState:
    """The job is silent. What was seen of stopped ranks before is kept."""
    if not _concerns(job, row.generation):
        return job
    before = _of(job) or states.Suspicion(row.since)
    return _with(
        job,
        dataclasses.replace(
            before,
            since=row.since,
            silent=True,
            phase=row.phase,
            look_s=row.deadline_s,
            act_s=row.act_s,
            basis=row.basis,
            job_step=row.job_step,
            still_since=row.since,
        ),
    )


def resumed(job: states.JobState, row: records.Resumed) -> states.JobState:
    """A sign of progress: the silence is over. A stopped rank remains one."""
    found = _of(job)
    if found is None or not _concerns(job, row.generation):
        return job
    if not found.stopped:
        return _with(job, None)
    return _with(job, states.Suspicion(row.at, stopped=found.stopped, job_step=row.job_step, still_since=row.at))


def looked(job: states.JobState, row: records.Looked) -> states.JobState:
    """A look at all ranks, and how long silence has to last after it."""
    found = _of(job)
    if found is None or not _concerns(job, row.generation):
        return job
    return _with(job, dataclasses.replace(found, look=row, looks=found.looks + 1, act_s=row.act_s))


def observed(job: states.JobState, row: records.Observed) -> states.JobState:
    """An agent saw a rank stopped, or running again."""
    seen, found = row.observation, _of(job)
    if seen.rank is None or job.attempt is None or seen.generation != job.attempt.generation:
        return job
    others = tuple(rank for rank in (found.stopped if found else ()) if rank != seen.rank)
    if seen.kind == STOPPED and len(others) < STOPPED_RANKS_MAX:
        since = _number(seen.evidence.get("since"), seen.at)
        before = found or states.Suspicion(since, job_step=row.job_step, still_since=row.at)
        return _with(job, dataclasses.replace(before, stopped=tuple(sorted((*others, seen.rank)))))
    if found is None or job.attempt.stop_wanted:
        return job
    return _with(job, dataclasses.replace(found, stopped=others) if others or found.silent else None)


def timer(job: states.JobState, row: records.TimerFired) -> states.JobState:
    """How far the job is at the moment of the next look: a finished step is a sign of its own."""
    found = _of(job)
    if found is None or job.attempt is None or job.attempt.stop_wanted or row.job_step == found.job_step:
        return job
    return _with(job, dataclasses.replace(found, job_step=row.job_step, still_since=row.at))


def _of(job: states.JobState) -> states.Suspicion | None:
    return job.attempt.suspicion if job.attempt is not None else None


def _concerns(job: states.JobState, generation: int) -> bool:
    return job.attempt is not None and job.attempt.generation == generation and not job.attempt.stop_wanted


def _with(job: states.JobState, found: states.Suspicion | None) -> states.JobState:
    assert job.attempt is not None
    return dataclasses.replace(job, attempt=dataclasses.replace(job.attempt, suspicion=found))


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
