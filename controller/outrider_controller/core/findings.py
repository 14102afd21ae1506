"""Findings: something is wrong and the job trains on. Each becomes an incident that is only watched.

A damaged checkpoint, a file system without room, rows that the controller's own disk refused: nothing is interrupted,
so such an incident is opened, diagnosed, decided (``watch``) and closed in one turn, and people are told once. While
another incident is open the finding waits in the state (``JobState.findings``) and is noted; it gets its own incident
as soon as that one is closed, so none is ever lost.
"""

from __future__ import annotations

from typing import Final

from outrider_controller.core import diagnosis, known, pricing, records
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import hardware, storage
from outrider_controller.core.turn import Turn

WATCHED: Final = "watched"  # the outcome of an incident that interrupted nothing
KINDS: Final = frozenset({known.DISK_FULL, known.DISK_CLEAR})


def observed(turn: Turn, fact: records.Observed, before: states.State) -> bool:
    """Take an observation about a disk; whether it was one."""
    if fact.observation.kind not in KINDS:
        return False
    if fact.job in turn.state.jobs:
        tell(turn, fact.job, before)
    return True


def recording_failed(turn: Turn, fact: records.RecordingFailed, before: states.State) -> None:
    """The controller's disk takes rows again."""
    since = max(0.0, fact.at - fact.since)
    turn.note(fact.job, f"nothing could be recorded for {since:.1f} s, and nothing new was begun: {fact.error}")
    if fact.job in turn.state.jobs:
        tell(turn, fact.job, before)


def tell(turn: Turn, name: str, before: states.State | None = None) -> None:
    """An incident for every finding that waits, or a note for the new ones while another incident is open."""
    job = turn.job(name)
    if job.incident is None:
        for finding in job.findings:
            note_finding(turn, name, finding)
        return
    old = before.jobs.get(name) if before is not None else None
    keys = {f.key for f in old.findings} if old is not None else set()
    for finding in job.findings:
        if before is not None and finding.key not in keys:
            turn.note(name, f"found while {job.incident.incident} is open, to be told of after it: {finding.text}")


def note_finding(turn: Turn, name: str, finding: states.Finding, why: str = "") -> None:
    """Open, diagnose, decide and close an incident of something that has not interrupted the job.

    ``why``: nothing more is done than to watch.
    """
    job = turn.job(name)
    attempt = job.attempt
    number = f"{name}-{job.incidents + 1}"
    if finding.kind == hardware.WATCHED:
        found = hardware.of_finding(finding, job, turn.state, turn.policy)
    else:
        found = storage.of_finding(job, finding, turn.policy)
    opened = records.IncidentOpened(
        at=turn.at,
        job=name,
        incident=number,
        planned=False,
        fault_at=turn.at,
        attempt=attempt.attempt if attempt else 0,
        generation=attempt.generation if attempt else job.generation,
        lost_step=None,
        text=found.sentence,
        opened_by=finding.kind,
        interrupted=False,
        about=finding.key,
    )
    turn.emit(opened)
    turn.emit(diagnosis.diagnosed(found, name, number, turn.policy, turn.at))
    _decide(turn, name, number, found.cause, f"; {why}" if why else "")
    turn.emit(records.IncidentClosed(turn.at, name, number, WATCHED, 0, None))
    turn.effect(name, "notify", number, incident=number, event="opened")


def _decide(turn: Turn, name: str, number: str, cause: str, why: str) -> None:
    job, rule = turn.job(name), turn.policy.rule(cause)
    assert job.incident is not None
    turn.emit(
        records.Decided(
            at=turn.at,
            job=name,
            incident=number,
            decision="watch",
            reason=f"the job goes on and nothing has to be stopped for it{why}",
            price_gpu_h=pricing.price("watch", job, job.incident),
            alternatives=pricing.alternatives("watch", job, job.incident),
            runbook=rule.id,
            policy_hash=turn.policy.hash,
            automatic=True,
            page=rule.page == "always",
        )
    )
