"""How a job stands, in the one plain sentence that a person reads first.

In: the job's state and the rest of its status document. Out: one line; what could not be looked at is said as such.
"""

from __future__ import annotations

from outrider import records as spoken
from outrider_controller import incident_documents
from outrider_controller.core import state as states

Json = spoken.Json


def sentence(job: states.JobState, found: Json, now: float) -> str:
    """The sentence of ``found``, the status document as far as it is made."""
    name = job.spec.name
    if job.state == "completed":
        return f"{name} is complete{_at_step(found)}: {job.why}"
    if job.state == "failed":
        return f"{name} has ended: {job.why}" if job.ended_by else f"{name} has failed: {job.why}"
    if job.state == "held":
        return f"{name} is held: {job.why}; outrider job approve lets it go on, outrider job reject ends it"
    if job.incident is not None:
        return f"{_disturbed(job, found)}{_unheard(job, found)}"
    if job.attempt is None:
        return f"{name} waits for nodes: {job.spec.nodes} with {job.spec.ranks_per_node} slots each are needed"
    if job.state == "training":
        drain = f"; it leaves {job.drain.node} at its next checkpoint: {job.drain.why}" if job.drain else ""
        return f"{name} trains on {_where(job)}{_pace(found)}{_suspected(found)}{drain}{_unheard(job, found)}"
    begun = "its ranks run, the first step is not finished" if job.attempt.running_at else "its ranks are being started"
    return f"{name} starts on {_where(job)}: {begun}{_suspected(found)}{_unheard(job, found)}"


def _disturbed(job: states.JobState, found: Json) -> str:
    incident, name = job.incident, job.spec.name
    assert incident is not None
    if job.state == "training":
        target = f", back to {incident.lost_step}" if incident.lost_step is not None else ""
        again = f"{name} trains again after {incident.incident} and re-does lost steps{_at_step(found)}{target}"
        return f"{again}{_suspected(found)}"
    if incident.wanted == "drain":
        what = incident.diagnosis.sentence if incident.diagnosis else job.why
        return f"{name} leaves a node at a checkpoint: {what}; {_restart(job, incident)}"
    if incident.planned:
        return f"{name} is being stopped because a person asked to {incident.wanted or 'stop'} it"
    what = incident.diagnosis.sentence if incident.diagnosis else job.why
    if incident.decision is None:
        return f"{name} is interrupted: {what}; {_waits_for(job)}"
    return f"{name} is interrupted: {what}; decided: {incident.decision.decision}; {_restart(job, incident)}"


def _waits_for(job: states.JobState) -> str:
    names = {effect.name for effect in job.pending}
    if "stop-attempt" in names:
        return "its ranks are being stopped"
    return "the newest checkpoint is being looked for" if "find-checkpoint" in names else "the cause is looked for"


def _restart(job: states.JobState, incident: states.OpenIncident) -> str:
    attempt = job.attempt
    if attempt is None or attempt.generation == incident.generation:
        return "waiting for nodes"
    where = f"step {attempt.resume_step}" if attempt.resume_path else "the beginning"
    begun = "started" if attempt.running_at else "starting"
    return f"attempt {attempt.attempt} is {begun} on {_where(job)} from {where}{_refused(job)}"


def _refused(job: states.JobState) -> str:
    """What was turned down when the checkpoint was looked for; the newest is named."""
    if not job.refused:
        return ""
    first = job.refused[0]
    step = f"of step {first.step}" if first.step >= 0 else f"at {first.path}"
    return f", since the newest checkpoint {step} was refused: {incident_documents.plainly(first.why)}"


def _suspected(found: Json) -> str:
    """That it may hang, and what was found of it so far; nothing is stopped for this alone."""
    suspected = found.get("suspected")
    if not suspected:
        return ""
    stopped = suspected["stopped_ranks"]
    usual = f" (usual step {found['step_s']:.2g} s)" if found.get("step_s") is not None else ""
    silent = f"no sign of progress for {suspected['since_s']:.0f} s{usual}" if suspected["silent"] else ""
    ranks = f"rank {', '.join(map(str, stopped[:NAMES_MAX]))} is stopped" if stopped else ""
    look = suspected["look"] or ("looking at all ranks" if suspected["silent"] else "")
    return "".join(f"; {text.rstrip('.')}" for text in (silent, ranks, look) if text)


def _unheard(job: states.JobState, found: Json) -> str:
    """Nodes of the job of which nobody can say how they are."""
    mine = job.attempt.placement if job.attempt else ()
    unheard = [node for node in found["nodes"] if node["node"] in mine and node["state"] == "unknown"]
    if not unheard:
        return ""
    ages = [node["agent_seen_s"] for node in unheard if node["agent_seen_s"] is not None]
    since = f" for {max(ages):.0f} s" if ages else ""
    return f"; could not look at {_listed([node['node'] for node in unheard])}: no word{since}"


def _where(job: states.JobState) -> str:
    return _listed(list(job.attempt.placement) if job.attempt else [])


def _listed(names: list[str]) -> str:
    """``n0, n1 and 6 more``: a long list is counted, not printed."""
    shown = names if len(names) <= NAMES_MAX else names[: NAMES_MAX - 1]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


NAMES_MAX = 4


def _at_step(found: Json) -> str:
    return f" at step {found['step']}" if found["step"] is not None else ""


def _pace(found: Json) -> str:
    step = f": step {found['step']}" if found["step"] is not None else ""
    pace = f"{',' if step else ':'} {found['step_s']:.3g} s a step" if found["step_s"] is not None else ""
    return step + pace
