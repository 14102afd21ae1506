"""The life of an incident: opened once, diagnosed when the news is in, decided, closed once.

An incident opens when a rank of the current attempt dies of its own (or a node comes back without the ranks it had).
The attempt is stopped at once, because a synchronous job cannot go on without a rank, and the newest checkpoint is
looked for meanwhile. It is diagnosed when every rank is accounted for, or its node has been silent for as long as the
runbook says, or the time for news is over. It closes when the job has regained the step it had lost.
"""

from __future__ import annotations

from outrider_controller.core import brakes, diagnosis, findings, health, placement, pricing, records, trust
from outrider_controller.core import policy as policies
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import case as cases
from outrider_controller.core.diagnosis import hang, hardware
from outrider_controller.core.turn import Turn

SETTLE = "settle"
SILENCE = "silence"
NEWS = "news"
CAPTURE = "capture-evidence"
RECORDS = "records"
RECORDS_S = 12.0  # the ranks' flight records are waited for so long: an agent answers within 10 s or not at all
NEWS_S = 3.0  # readings of a GPU are taken every few seconds, and its kernel's lines come within one
START_STALLS = 6.0  # of limits.stall_s: as long may a start go on without a step while a node of it is silent,
KEPT_OUT_TOLD_MAX = 4
START_USUAL = 3.0  # and as many times the last start of this job


def open_incident(
    turn: Turn, name: str, fault_at: float, lost_step: int | None, text: str, by: str, wanted: str = "", about: str = ""
) -> None:
    """Open an incident of the current attempt, stop the attempt, look for the checkpoint.

    ``by``: what showed it (IncidentOpened.opened_by). A former incident is superseded, and its lost step inherited.
    """
    job = turn.job(name)
    attempt, former = job.attempt, job.incident
    assert attempt is not None, "a job without an attempt has nothing that could be disturbed"
    if former is not None:
        lost_step = max((s for s in (lost_step, former.lost_step) if s is not None), default=None)
        _close(turn, name, "superseded")
    number = f"{name}-{job.incidents + 1}"
    turn.move(name, "interrupted", text)
    turn.emit(
        records.IncidentOpened(
            at=turn.at,
            job=name,
            incident=number,
            planned=bool(wanted),
            fault_at=min(max(fault_at, attempt.planned_at), turn.at),
            attempt=attempt.attempt,
            generation=attempt.generation,
            lost_step=lost_step,
            text=text,
            supersedes=former.incident if former else None,
            wanted=wanted,
            opened_by=by,
            about=about,
        )
    )
    turn.effect(
        name,
        "stop-attempt",
        number,
        generation=attempt.generation,
        placement=list(attempt.placement),
        grace_s=job.spec.limits.grace_s,
    )
    if wanted != "stop":
        trust.find(turn, name, number)
    settle_s = max(rule.limits.settle_s for rule in turn.policy.rules.values())
    turn.timer(name, SETTLE, turn.at + settle_s)
    arm_silence(turn, name)


def arm_silence(turn: Turn, name: str) -> None:
    """Wake up when the silence of a node has lasted as long as its runbook asks."""
    job = turn.job(name)
    silent = cases.silent_with_ranks(job, turn.state.nodes)
    if job.incident is None or job.incident.decision is not None or not silent:
        return
    due = max(n.silent_since or turn.at for n in silent) + silence_s(turn.policy)
    turn.timer(name, SILENCE, max(due, turn.at))


def arm_absence(turn: Turn, name: str) -> None:
    """Look again at a job that goes on though a node of it is silent. A job without marks shows nothing to look at."""
    job = turn.job(name)
    attempt = job.attempt
    running = attempt is not None and attempt.running_at is not None and not attempt.stop_wanted
    if job.speaks and running and not job.over and cases.silent_with_ranks(job, turn.state.nodes):
        absent_s = _of_lost_nodes(turn.policy).absent_s
        if attempt is not None and attempt.training_at is None:  # no step tells yet whether it stands or starts
            absent_s = max(absent_s, START_STALLS * job.spec.limits.stall_s, START_USUAL * (job.restart_s or 0.0))
        turn.timer(name, records.TIMER_ABSENT, turn.at + absent_s)


def silence_s(policy: policies.Policy) -> float:
    """How long a node must be silent to count as lost."""
    return _of_lost_nodes(policy).silence_s


def _of_lost_nodes(policy: policies.Policy) -> policies.Limits:
    cause = cases.cause_of(policy, node="lost")
    return policy.rule(cause).limits if cause else policies.Limits()


def news_is_in(turn: Turn, name: str) -> bool:
    """Every rank is accounted for, or its node has been silent long enough; and stop and checkpoint have answered."""
    job = turn.job(name)
    if job.incident is None or job.attempt is None or not job.attempt.stopped:
        return False
    if acting(job):
        return False
    silent = {n.node: n.silent_since or turn.at for n in cases.silent_with_ranks(job, turn.state.nodes)}
    if any(turn.at - since < silence_s(turn.policy) for since in silent.values()):
        return False
    known = set(job.attempt.ended_ranks) | {r for n in (*silent, *job.attempt.gone) for r in cases.ranks_of(job, n)}
    return len(known) >= job.spec.world_size or job.attempt.running_at is None


def awaits_news(turn: Turn, name: str) -> bool:
    """A rank died with words of its device: what its node finds of it is waited for, a moment."""
    job = turn.job(name)
    assert job.incident is not None
    case = cases.Case(job, job.incident, turn.state.nodes, turn.policy, turn.at)
    due = job.incident.opened_at + NEWS_S
    if turn.at < due and hardware.awaits_news(case):
        if NEWS not in dict(job.timers):
            turn.timer(name, NEWS, due)
        return True
    return _asks_for_records(turn, name, case)


def _asks_for_records(turn: Turn, name: str, case: cases.Case) -> bool:
    """Ranks gave up waiting and nobody died first: what their flight recorders left is asked for, once, for a moment.

    A rank that was killed, or that failed by itself, explains the others; then nobody waits for records.
    """
    incident = case.incident
    if incident.record is not None or any(_about(effect, incident) for effect in case.job.pending):
        return False
    if not hang.needs_record(case):
        return False
    turn.effect(name, CAPTURE, incident.incident, **capture_args(case.job))
    turn.timer(name, RECORDS, turn.at + RECORDS_S)
    return True


def _about(effect: records.EffectRequested, incident: states.OpenIncident) -> bool:
    return effect.name == CAPTURE and effect.incident == incident.incident


def capture_args(job: states.JobState) -> dict[str, object]:
    """Arguments of capture-evidence over all ranks of the attempt."""
    assert job.attempt is not None
    place = list(job.attempt.placement)
    return {"generation": job.attempt.generation, "placement": place, "ranks": [], "mesh": job.mesh or job.spec.mesh}


def acting(job: states.JobState) -> bool:
    """Ranks are still being stopped (a node refuses new ones beside old ones), the checkpoint is being looked for, or
    flight records are on their way.
    """
    waited = job.incident is not None and RECORDS in dict(job.timers)
    return any(
        e.name in ("find-checkpoint", "stop-attempt") or (waited and job.incident and _about(e, job.incident))
        for e in job.pending
    )


def conclude(turn: Turn, name: str) -> None:
    """Diagnose and decide the open incident, and begin what was decided."""
    job = turn.job(name)
    assert job.incident is not None
    turn.cancel(name, SETTLE, SILENCE, NEWS, RECORDS)
    found = diagnosis.diagnose(cases.Case(job, job.incident, turn.state.nodes, turn.policy, turn.at))
    turn.emit(found)
    rule = turn.policy.rule(found.cause)
    blamed = trust.blame(turn, name, found)
    chosen = brakes.verdict(turn.state, job, found, rule, turn.at)
    left = unfound(job) or ("" if blamed else trust.nothing_left(job))
    if left and chosen.decision != "hold-for-person":
        chosen = brakes.Verdict("hold-for-person", left)
    _decide(turn, name, found, rule, chosen)
    turn.effect(name, "notify", job.incident.incident, incident=job.incident.incident, event="opened")
    if chosen.decision == "hold-for-person":
        hold(turn, name, f"{found.sentence}; {chosen.reason}")
        return
    excluded = chosen.excluded if found.recovery else _takeable(turn, name, chosen.excluded)
    _mark_nodes(turn, excluded, found)
    if blamed:  # what was found before the diagnosis is the very checkpoint that has failed
        trust.find(turn, name, job.incident.incident)
        return
    begin_attempt(turn, name, excluded)


def undiagnosed(job: states.JobState) -> bool:
    """An unplanned incident is open of which the cause is still to be named."""
    return job.incident is not None and not job.incident.planned and job.incident.decision is None


def unfound(job: states.JobState) -> str:
    """Why no checkpoint could be looked for, empty where one could: that is never taken for none."""
    return f"the checkpoints could not be looked at: {job.find_error}" if job.find_error else ""


def hold_without_checkpoint(turn: Turn, name: str, why: str) -> None:
    """Nothing is left to restart from: a decision of its own where an incident is open, and the job is held."""
    job = turn.job(name)
    incident = job.incident
    if incident is not None and incident.diagnosis is not None:
        rule = turn.policy.rule(incident.diagnosis.cause)
        _decide(turn, name, incident.diagnosis, rule, brakes.Verdict("hold-for-person", why))
    turn.cancel(name, SETTLE, SILENCE, NEWS, RECORDS)
    hold(turn, name, why)


def _takeable(turn: Turn, name: str, suspects: frozenset[str]) -> frozenset[str]:
    """Suspects that are taken out: all where spares stand in for them, else only those that cannot be used anyway.

    A node that rebooted and is back is better than no job where there is no spare.
    """
    if placement.place(turn.state, turn.job(name), suspects) is not None:
        return suspects
    return frozenset(n for n in suspects if n not in turn.state.nodes or not turn.state.nodes[n].usable)


def _decide(turn: Turn, name: str, found: records.Diagnosed, rule: policies.Rule, chosen: brakes.Verdict) -> None:
    job = turn.job(name)
    assert job.incident is not None
    held = chosen.decision == "hold-for-person"
    turn.emit(
        records.Decided(
            at=turn.at,
            job=name,
            incident=found.incident,
            decision=chosen.decision,
            reason=chosen.reason,
            price_gpu_h=pricing.price(chosen.decision, job, job.incident),
            alternatives=pricing.alternatives(chosen.decision, job, job.incident),
            runbook=rule.id,
            policy_hash=turn.policy.hash,
            automatic=not held,
            page=rule.page == "always" or (held and rule.page == "when-held"),
        )
    )


def decide_by_person(turn: Turn, name: str, decision: str, reason: str) -> None:
    """A person's decision on the open incident stands beside the automatic ones, marked as a person's."""
    job = turn.job(name)
    assert job.incident is not None
    runbook = job.incident.diagnosis.cause if job.incident.diagnosis else ""
    turn.emit(
        records.Decided(
            at=turn.at,
            job=name,
            incident=job.incident.incident,
            decision=decision,
            reason=reason,
            price_gpu_h=pricing.price(decision, job, job.incident),
            alternatives=(),
            runbook=runbook,
            policy_hash=turn.policy.hash,
            automatic=False,
        )
    )


def _mark_nodes(turn: Turn, nodes: frozenset[str], found: records.Diagnosed) -> None:
    for node in sorted(nodes):
        known = turn.state.nodes.get(node)
        if known is not None and known.mark == "clear":
            mark = "lost" if known.silent_since is not None else "cordoned"
            lifts = "findings" if found.recovery and mark == "cordoned" else ""
            turn.emit(records.NodeMarked(turn.at, node, mark, found.sentence, found.incident, lifts))


def hold(turn: Turn, name: str, why: str) -> None:
    """Stop here: a person decides; a job without one has failed, because no restart can help."""
    job = turn.job(name)
    if job.spec.attended:
        turn.move(name, "held", why)
        return
    turn.move(name, "failed", why)
    end_job(turn, name)


def begin_attempt(turn: Turn, name: str, excluded: frozenset[str] = frozenset()) -> None:
    """Plan and start the next attempt, or wait for a node when there are too few."""
    job = turn.job(name)
    nodes = placement.place(turn.state, job, excluded)
    if nodes is None:
        can = len(placement.candidates(turn.state, job, excluded))
        needed = f"{job.spec.nodes} with {job.spec.ranks_per_node} slots each"
        out = [(node.node, health.why_kept_out(node)) for node in turn.state.nodes.values() if health.tier(node)]
        kept = "".join(f"; {node} is kept out: {why}" for node, why in sorted(out)[:KEPT_OUT_TOLD_MAX])
        turn.note(name, f"{name} waits for nodes: needed are {needed}, {can} can be used{kept}")
        return
    again = [node for node in nodes if health.tier(turn.state.nodes[node]) > 1]
    if again:
        why = health.why_kept_out(turn.state.nodes[again[0]])
        turn.note(name, f"{name} begins on {', '.join(again)} again in spite of {why}: no other node is free")
    plan_attempt(turn, name, nodes, job.resume_path, job.resume_step)


def plan_attempt(turn: Turn, name: str, nodes: tuple[str, ...], path: str, step: int) -> None:
    """Write down the next attempt under a new generation and ask for it to be started."""
    job = turn.job(name)
    incident = job.incident.incident if job.incident else None
    turn.emit(records.AttemptPlanned(turn.at, name, job.attempts, job.generation + 1, nodes, path, step, incident))
    planned = turn.job(name).attempt
    assert planned is not None
    turn.effect(
        name,
        "start-attempt",
        incident,
        attempt=planned.attempt,
        generation=planned.generation,
        placement=list(nodes),
        resume_path=path,
        resume_step=step,
        keep_from=job.incident.attempt if job.incident else planned.attempt,
    )


def waits_for_nodes(job: states.JobState) -> bool:
    """An attempt was decided, none is planned yet."""
    if job.over or job.state == "held" or acting(job):
        return False
    if job.attempt is None:
        return True
    incident = job.incident
    decided = incident is not None and incident.decision is not None and begins_anew(incident.decision.decision)
    return bool(decided and incident is not None and incident.generation == job.attempt.generation)


def begins_anew(decision: str) -> bool:
    """Whether another attempt follows from this decision."""
    return decision.startswith("restart") or decision == "drain-at-checkpoint"


def close(turn: Turn, name: str, outcome: str) -> None:
    """Close the open incident, if there is one, and tell of what was found meanwhile."""
    _close(turn, name, outcome)
    findings.tell(turn, name)


def _close(turn: Turn, name: str, outcome: str) -> None:
    job = turn.job(name)
    incident = job.incident
    if incident is None:
        return
    turn.cancel(name, SETTLE, SILENCE, NEWS, RECORDS)
    again = job.attempt is not None and job.attempt.generation > incident.generation
    lost = (
        None
        if incident.lost_step is None
        else max(
            0, incident.lost_step - (job.attempt.resume_step if again and job.attempt else incident.checkpoint_step)
        )
    )
    turn.emit(
        records.IncidentClosed(
            at=turn.at,
            job=name,
            incident=incident.incident,
            outcome=outcome,
            lost_steps=lost,
            attempt_after=job.attempt.attempt if again and job.attempt else None,
        )
    )
    turn.effect(name, "notify", incident.incident, incident=incident.incident, event="closed")


def end_job(turn: Turn, name: str) -> None:
    """The job is over: close what is open and let the nodes go."""
    close(turn, name, "job-ended")
    turn.cancel(name, *(timer for timer, _ in turn.job(name).timers))
    job = turn.job(name)
    if job.attempt is not None:
        turn.effect(name, "release-job", None, placement=list(job.attempt.placement))
