"""``evolve(state, row) -> state``: the only way state changes, in production, in recovery and in tests.

It never decides: it only writes down what a row says. Rows of an older generation leave the state as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from outrider import records as spoken
from outrider_controller.core import flight_record, health, jobs, known, nodehealth, records, suspicion
from outrider_controller.core import state as states

State = states.State


def evolve(state: State, row: records.Row) -> State:
    """State after ``row``. Unknown jobs and nodes are left alone (their rows belong to nobody)."""
    handler = _HANDLERS.get(type(row))
    return handler(state, row) if handler else state


def evolve_all(state: State, rows: Iterable[records.Row]) -> State:
    """State after all ``rows`` in order."""
    for row in rows:
        state = evolve(state, row)
    return state


def _put_job(state: State, name: str, job: states.JobState) -> State:
    return dataclasses.replace(state, jobs={**state.jobs, name: job})


def _put_node(state: State, node: states.NodeState) -> State:
    return dataclasses.replace(state, nodes={**state.nodes, node.node: node})


def _change(state: State, name: str, /, **changes: Any) -> State:
    job = state.jobs.get(name)
    return _put_job(state, name, dataclasses.replace(job, **changes)) if job else state


def _attempt(state: State, name: str, generation: int, /, **changes: Any) -> State:
    job = state.jobs.get(name)
    if job is None or job.attempt is None or job.attempt.generation != generation:
        return state
    return _change(state, name, attempt=dataclasses.replace(job.attempt, **changes))


def _job_submitted(state: State, row: records.JobSubmitted) -> State:
    old = state.jobs.get(row.job)
    if old is not None and not old.over:
        return state
    job = _numbers_skipped(states.JobState(jobs.parse(row.spec), row.at, since_at=row.at), state.cut_rows)
    if old is not None:
        job = dataclasses.replace(
            job, incidents=old.incidents, effects=old.effects, generation=old.generation, attempts=old.attempts
        )
    return _put_job(state, row.job, job)


def _ledger_cut(state: State, row: records.LedgerCut) -> State:
    jobs_ = {name: _numbers_skipped(job, row.rows) for name, job in state.jobs.items()}
    nodes = {name: dataclasses.replace(node, checks=node.checks + row.rows) for name, node in state.nodes.items()}
    return dataclasses.replace(state, jobs=jobs_, nodes=nodes, cut_rows=state.cut_rows + row.rows)


def _numbers_skipped(job: states.JobState, rows: int) -> states.JobState:
    """Each lost row may have given out one number, which agents and ranks remember: none is given out again."""
    return dataclasses.replace(
        job,
        incidents=job.incidents + rows,
        effects=job.effects + rows,
        generation=job.generation + rows,
        attempts=job.attempts + rows,
    )


def _node_joined(state: State, row: records.NodeJoined) -> State:
    old = state.nodes.get(row.node)
    node = states.NodeState(
        node=row.node,
        boot_id=row.boot_id,
        address=row.address,
        slots=row.slots,
        supervises=row.supervises,
        simulated=row.simulated,
        joined_at=row.at,
        mark=old.mark if old else "clear",
        why=old.why if old else "",
        check=old.check if old else "",
        checking=old.checking if old else None,
        checks=old.checks if old else 0,
        lifts=old.lifts if old else "",
        findings=health.rejoined(old, row.findings, row.at),
        excused_at=old.excused_at if old else 0.0,
    )
    state = _put_node(state, node)
    for name, job in state.jobs.items():
        if lost_its_ranks(job, row):
            state = _gone(state, name, row.node)
            if old is not None and old.boot_id != row.boot_id:
                state = _rebooted(state, name, row.node, old.silent_since or row.at)
    return nodehealth.ails(state, row.node, row.at, row.job_steps)


def lost_its_ranks(job: states.JobState, row: records.NodeJoined) -> bool:
    """The node says it holds nothing of the attempt that is known to have been running there."""
    attempt = job.attempt
    if job.over or attempt is None or attempt.running_at is None or row.node not in attempt.placement:
        return False
    return not any(k.job == job.spec.name and k.generation == attempt.generation for k in row.keepers)


def _gone(state: State, name: str, node: str) -> State:
    attempt = state.jobs[name].attempt
    if attempt is None or node in attempt.gone:
        return state
    return _attempt(state, name, attempt.generation, gone=(*attempt.gone, node))


def _rebooted(state: State, name: str, node: str, since: float) -> State:
    attempt = state.jobs[name].attempt
    if attempt is None or node in dict(attempt.rebooted):
        return state
    return _attempt(state, name, attempt.generation, rebooted=(*attempt.rebooted, (node, since)))


def _node_silent(state: State, row: records.NodeSilent) -> State:
    node = state.nodes.get(row.node)
    if node is None or node.silent_since is not None:
        return state
    for name, job in state.jobs.items():
        if job.attempt is not None and row.node in job.attempt.placement:
            state = _change(state, name, absent_step=row.job_steps.get(name))
    return _put_node(state, dataclasses.replace(node, silent_since=row.since))


def _node_marked(state: State, row: records.NodeMarked) -> State:
    node = state.nodes.get(row.node)
    if node is None:
        return state
    changed = dataclasses.replace(node, mark=row.mark, why=row.why, lifts=row.lifts, check=row.check)
    return _put_node(state, changed)


def _known(change: Callable[[states.JobState, Any], states.JobState]) -> Callable[[State, Any], State]:
    """A row that changes nothing but its own job."""

    def changed(state: State, row: Any) -> State:
        job = state.jobs.get(row.job)
        return _put_job(state, row.job, change(job, row)) if job is not None else state

    return changed


def _observed(state: State, row: records.Observed) -> State:
    job = state.jobs.get(row.job)
    seen = row.observation
    if job is not None and seen.kind in (known.DISK_FULL, known.DISK_CLEAR):
        return _put_job(state, row.job, known.disk(job, row))
    if job is None or job.attempt is None or seen.generation != job.attempt.generation:
        return state
    if row.step_s is not None:
        state = _change(state, row.job, step_s=row.step_s)
    if seen.kind in suspicion.OBSERVED:
        state = _put_job(state, row.job, suspicion.observed(state.jobs[row.job], row))
    if seen.kind == "keeper-lost":
        state = _gone(state, row.job, seen.node)
    if job.incident is not None and seen.kind != "rank-exited" and job.incident.generation == seen.generation:
        incident = dataclasses.replace(job.incident, observations=(*job.incident.observations, seen))
        state = _change(state, row.job, incident=incident)
    if seen.kind == "rank-exited" and seen.rank is not None and seen.rank not in job.attempt.ended_ranks:
        exits = (*job.attempt.exits, (seen.node, rank_exit(seen)))
        state = _attempt(state, row.job, job.attempt.generation, exits=exits)
    return state


def rank_exit(seen: spoken.Observation) -> spoken.RankExit:
    """The exit that a ``rank-exited`` observation carries; fields of a newer agent are passed over."""
    known = {f.name for f in dataclasses.fields(spoken.RankExit)}
    return spoken.RankExit(**{key: value for key, value in seen.evidence.items() if key in known})


def _attached(state: State, row: records.Attached) -> State:
    job = state.jobs.get(row.job)
    if job is None or job.attempt is None or job.attempt.generation != row.generation:
        return state
    state = _attempt(state, row.job, row.generation, attached_at=row.at)
    return _change(
        state,
        row.job,
        speaks=True,
        mesh=row.mesh or job.mesh or job.spec.mesh,
        flops_per_token=row.flops_per_token or job.flops_per_token,
    )


def _training(state: State, row: records.Training) -> State:
    job = state.jobs.get(row.job)
    if job is None or job.attempt is None or job.attempt.generation != row.generation:
        return state
    state = _attempt(state, row.job, row.generation, training_at=row.at)
    return _change(state, row.job, restart_s=row.at - job.attempt.planned_at)


def _checkpoint_saved(state: State, row: records.CheckpointSaved) -> State:
    job = state.jobs.get(row.job)
    if job is None or job.attempt is None or job.attempt.generation != row.generation:
        return state
    longest = max(row.stall_s, job.attempt.checkpoint_s)
    state = _attempt(state, row.job, row.generation, checkpoint_step=row.step, checkpoint_s=longest)
    state = _change(state, row.job, newest_checkpoint_step=max(job.newest_checkpoint_step, row.step))
    return _put_job(state, row.job, known.saved(state.jobs[row.job], row))


def _timer_fired(state: State, row: records.TimerFired) -> State:
    state = _timer_gone(state, row)
    if row.timer == records.TIMER_LOOK and row.job in state.jobs:
        return _put_job(state, row.job, suspicion.timer(state.jobs[row.job], row))
    if row.timer == records.TIMER_AILING and row.job in state.jobs:
        return _put_job(state, row.job, nodehealth.timer(state.jobs[row.job], row))
    return _change(state, row.job, absent_step=row.job_step) if row.timer == records.TIMER_ABSENT else state


def _timer_gone(state: State, row: records.TimerFired | records.TimerCancelled) -> State:
    job = state.jobs.get(row.job)
    return _change(state, row.job, timers=tuple(t for t in job.timers if t[0] != row.timer)) if job else state


def _timer_set(state: State, row: records.TimerSet) -> State:
    state = _timer_gone(state, records.TimerCancelled(row.at, row.job, row.timer))
    job = state.jobs.get(row.job)
    return _change(state, row.job, timers=(*job.timers, (row.timer, row.due_at))) if job else state


def _effect_requested(state: State, row: records.EffectRequested) -> State:
    job = state.jobs.get(row.job)
    node = None if row.job else state.nodes.get(row.args.get("node", ""))
    if node is not None:
        return _put_node(state, dataclasses.replace(node, checking=row, checks=node.checks + 1))
    if job is None:
        return state
    state = _change(state, row.job, pending=(*job.pending, row), effects=job.effects + 1)
    if row.name == "stop-attempt":
        state = _attempt(state, row.job, row.args["generation"], stop_wanted=True)
    return state


def _effect_done(state: State, row: records.EffectDone) -> State:
    if not row.job:
        checked = [node for node in state.nodes.values() if node.checking and node.checking.effect == row.effect]
        return _put_node(state, dataclasses.replace(checked[0], checking=None)) if checked else state
    job = state.jobs.get(row.job)
    effect = next((e for e in job.pending if e.effect == row.effect), None) if job else None
    if job is None or effect is None:
        return state
    state = _change(state, row.job, pending=tuple(e for e in job.pending if e.effect != row.effect))
    if effect.name == "stop-attempt":
        return _attempt(
            state, row.job, effect.args["generation"], stopped=True, unreached=tuple(row.result.get("unreached", ()))
        )
    if effect.name == "start-attempt" and row.ok:
        gpus = tuple((int(rank), str(gpu)) for rank, gpu in row.result.get("gpus", {}).items())
        return _attempt(state, row.job, effect.args["generation"], running_at=row.at, gpus=gpus)
    if effect.name == "find-checkpoint":
        state = _change(state, row.job, find_error="" if row.ok else row.error or "no reason given")
    if effect.name == "find-checkpoint" and row.ok:
        return _put_job(state, row.job, known.found_for_incident(state.jobs[row.job], row))
    if effect.name == "capture-evidence":
        return _put_job(state, row.job, flight_record.kept(state.jobs[row.job], effect, row))
    if effect.name == "verify-checkpoint":
        return _put_job(state, row.job, known.looked(state.jobs[row.job], effect, row))
    if effect.name == "prune-checkpoints" and row.ok:
        return _put_job(state, row.job, known.removed(state.jobs[row.job], row.result.get("removed") or ()))
    return state


def _job_moved(state: State, row: records.JobMoved) -> State:
    ended_by = "person" if row.now == "failed" and row.why.startswith(BY_PERSON) else ""
    return _change(state, row.job, state=row.now, since_at=row.at, why=row.why, ended_by=ended_by)


BY_PERSON = "a person "  # how the reason of an end by a person begins


def _attempt_planned(state: State, row: records.AttemptPlanned) -> State:
    attempt = states.Attempt(
        attempt=row.attempt,
        generation=row.generation,
        placement=row.placement,
        resume_path=row.resume_path,
        resume_step=row.resume_step,
        planned_at=row.at,
    )
    state = _change(state, row.job, attempt=attempt, generation=row.generation, attempts=row.attempt + 1, drain=None)
    job = state.jobs.get(row.job)
    return _put_job(state, row.job, known.loaded(job, row)) if job is not None else state


def _incident_opened(state: State, row: records.IncidentOpened) -> State:
    job = state.jobs.get(row.job)
    if job is None:
        return state
    incident = states.OpenIncident(
        incident=row.incident,
        opened_at=row.at,
        fault_at=row.fault_at,
        planned=row.planned,
        attempt=row.attempt,
        generation=row.generation,
        lost_step=row.lost_step,
        wanted=row.wanted,
        opened_by=row.opened_by,
        text=row.text,
        step_s=job.step_s,
        watched=not row.interrupted,
    )
    if row.about:
        job = known.told(job, row.about)
    return _put_job(state, row.job, dataclasses.replace(job, incident=incident, incidents=job.incidents + 1))


def _diagnosed(state: State, row: records.Diagnosed) -> State:
    return _incident(state, row.job, row.incident, diagnosis=row)


def _incident(state: State, name: str, incident: str, /, **changes: Any) -> State:
    job = state.jobs.get(name)
    if job is None or job.incident is None or job.incident.incident != incident:
        return state
    return _change(state, name, incident=dataclasses.replace(job.incident, **changes))


def _decided(state: State, row: records.Decided) -> State:
    job = state.jobs.get(row.job)
    if job is None or job.incident is None or job.incident.incident != row.incident:
        return state
    found = job.incident.diagnosis
    spent = states.Spent(
        at=row.at,
        cause=found.cause if found else "",
        decision=row.decision,
        signature=found.signature if found else "",
        nodes=found.nodes if found else (),
        checkpoint_step=job.newest_checkpoint_step,
        loaded=job.attempt.resume_path if job.attempt else "",
        soon=job.attempt is not None and bool(job.attempt.resume_path) and not job.attempt.proven,
    )
    history = (*job.spent, spent)[-states.SPENT_ROWS_MAX :]
    state = _incident(state, row.job, row.incident, decision=row)
    return _change(state, row.job, spent=history, restarts=job.restarts + row.decision.startswith("restart"))


def _incident_closed(state: State, row: records.IncidentClosed) -> State:
    job = state.jobs.get(row.job)
    if job is None or job.incident is None or job.incident.incident != row.incident:
        return state
    return _change(state, row.job, incident=None)


_HANDLERS: dict[type, Callable[[State, Any], State]] = {
    records.JobSubmitted: _job_submitted,
    records.NodeJoined: _node_joined,
    records.NodeSilent: _node_silent,
    records.NodeFound: nodehealth.found,
    records.PersonAsked: nodehealth.asked,
    records.DrainWanted: _known(nodehealth.drain_wanted),
    records.DrainDropped: _known(nodehealth.drain_dropped),
    records.NodeMarked: _node_marked,
    records.Observed: _observed,
    records.Attached: _attached,
    records.Training: _training,
    records.StepReached: _known(known.reached),
    records.Suspected: _known(suspicion.suspected),
    records.Resumed: _known(suspicion.resumed),
    records.Looked: _known(suspicion.looked),
    records.NotFinite: _known(known.not_finite),
    records.RecordingFailed: _known(known.recording_failed),
    records.CheckpointTrusted: _known(known.trusted),
    records.CheckpointSaved: _checkpoint_saved,
    records.TimerFired: _timer_fired,
    records.TimerCancelled: _timer_gone,
    records.TimerSet: _timer_set,
    records.EffectRequested: _effect_requested,
    records.EffectDone: _effect_done,
    records.JobMoved: _job_moved,
    records.AttemptPlanned: _attempt_planned,
    records.IncidentOpened: _incident_opened,
    records.Diagnosed: _diagnosed,
    records.Decided: _decided,
    records.IncidentClosed: _incident_closed,
    records.LedgerCut: _ledger_cut,
}
