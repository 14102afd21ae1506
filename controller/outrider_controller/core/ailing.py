"""What is done about a node with something wrong with it, while its job still runs.

A finding that breaks jobs and a job that finishes no step are two independent signs: together they end the attempt at
once, without waiting for any deadline of a hang. A job that goes on in spite of it, or that the node merely slows down
or endangers, is never interrupted for it: where the runbook says so and a spare is free it leaves the node at its next
checkpoint (``drain-at-checkpoint``, a planned incident), and otherwise people are told once (``watch``).

A node that was taken out for what was found of it comes back as a spare once none of that stands any more.
"""

from __future__ import annotations

from typing import Final

from outrider import vocabulary
from outrider_controller.core import (
    brakes,
    diagnosis,
    findings,
    hangs,
    health,
    incidents,
    node_checks,
    placement,
    pricing,
    records,
    trust,
)
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import hardware
from outrider_controller.core.turn import Turn

DRAIN: Final = "drain"  # timer, and what an incident of it wants
LATER: Final = "later"  # timer
LOOK_S: Final = 10.0  # what somebody should look at is told after this: it may be the beginning of more
STAND_STEPS: Final = 3.0  # no step in the time of so many, and in STAND_S_MIN beyond a checkpoint's, is a standstill
STAND_S_MIN: Final = 3.0


def found(turn: Turn, fact: records.NodeFound) -> None:
    """A node's agent found something, or that it is over."""
    lift(turn, fact.node)
    for name, job in tuple(turn.state.jobs.items()):
        if job.over or job.attempt is None or fact.node not in job.attempt.placement:
            continue
        _drop_needless(turn, name)
        step = fact.job_steps.get(name)
        if _silent(job) and _broken(turn, name) is not None:
            _act(turn, name, step)
        elif job.attempt.ailing is not None and job.attempt.ailing.still_since == fact.at:
            turn.timer(name, records.TIMER_AILING, turn.at + _stand_s(job))
        consider(turn, name)


def lift(turn: Turn, node: str) -> None:
    """Let a node that was taken out for its findings be used again, once none of them stands."""
    known = turn.state.nodes.get(node)
    if known is not None and known.lifts == "findings" and known.mark == "cordoned" and not health.tier(known):
        node_checks.back(turn, node, "what was found of it is over")


def suspected(turn: Turn, fact: records.Suspected, before: states.State) -> None:
    """A job gives no sign of progress: where a node of it has a fault that breaks jobs, that is the second sign."""
    job = turn.state.jobs.get(fact.job)
    current = job is not None and job.attempt is not None and job.attempt.generation == fact.generation
    if job is not None and current and _running(job) and _broken(turn, fact.job) is not None:
        _act(turn, fact.job, fact.job_step)
    else:
        hangs.suspected(turn, fact, before)


def look_again(turn: Turn, fact: records.TimerFired) -> None:
    """Has the job finished a step since its node broke?"""
    job = turn.job(fact.job)
    if not _running(job) or job.attempt is None or job.attempt.ailing is None:
        return
    stood = turn.at - job.attempt.ailing.still_since
    seen_at_work = job.speaks and job.attempt.training_at is not None
    if stood >= _stand_s(job) and seen_at_work and _broken(turn, fact.job) is not None:
        _act(turn, fact.job, fact.job_step)
        return
    consider(turn, fact.job)


def consider(turn: Turn, name: str) -> None:
    """Leave a bad node at the next checkpoint, or tell people: once for each thing that was found."""
    for suspect in _untold(turn, name):
        job = turn.job(name)
        if not _running(job) or job.incident is not None:
            return
        if job.drain is not None and job.drain.node == suspect.node:
            continue  # it leaves that node already
        told_at = suspect.item.since + LOOK_S
        if suspect.weight == health.LOOK and turn.at < told_at:
            turn.timer(name, LATER, told_at)
            continue
        rule = turn.policy.rule(suspect.cause)
        leaves = rule.while_training == "drain-at-checkpoint" and suspect.weight != health.LOOK
        why_not = _why_no_drain(turn, name, suspect) if leaves else "its runbook says to watch"
        if why_not:
            _watch(turn, name, suspect, why_not)
        elif job.drain is None:
            due = turn.at + rule.limits.drain_s
            text = hardware.sentence(suspect.seen)
            assert job.attempt is not None
            generation = job.attempt.generation
            wanted = records.DrainWanted(turn.at, name, generation, suspect.node, health.key(suspect.item), due, text)
            turn.emit(wanted)
            turn.timer(name, DRAIN, due)
            turn.note(name, f"{name} leaves {suspect.node} at its next checkpoint: {text}")


def saved(turn: Turn, fact: records.CheckpointSaved, before: states.State) -> None:
    """A checkpoint was saved: the moment that a drain waits for."""
    trust.saved(turn, fact, before)
    job = turn.state.jobs.get(fact.job)
    if job is not None and job.drain is not None and job.drain.generation == fact.generation:
        _drain(turn, fact.job, fact.step)


def overdue(turn: Turn, fact: records.TimerFired) -> None:
    """No checkpoint was saved within the runbook's time."""
    job = turn.job(fact.job)
    if job.drain is None:
        return
    if job.newest_checkpoint_step:
        _drain(turn, fact.job, fact.job_step)
    else:
        _give_up(turn, fact.job, "no checkpoint was ever saved, and everything would be lost")


def _running(job: states.JobState) -> bool:
    attempt = job.attempt
    return not job.over and attempt is not None and attempt.running_at is not None and not attempt.stop_wanted


def _silent(job: states.JobState) -> bool:
    suspicion = job.attempt.suspicion if job.attempt is not None else None
    return _running(job) and suspicion is not None and suspicion.silent


def _stand_s(job: states.JobState) -> float:
    longest = job.attempt.checkpoint_s if job.attempt is not None else 0.0
    return max(STAND_S_MIN, STAND_STEPS * (job.step_s or 0.0)) + longest


def _suspects(turn: Turn, name: str) -> list[hardware.Suspect]:
    """What stands against nodes of the attempt."""
    job = turn.job(name)
    placed = job.attempt.placement if job.attempt is not None else ()
    found = []
    for node in placed:
        known = turn.state.nodes.get(node)
        for item in health.standing(known) if known is not None else ():
            cause = hardware.cause_of_finding(turn.policy, item.seen)
            if cause is not None:
                found.append(hardware.Suspect(node, item, cause, health.weight(item.seen)))
    return sorted(found, key=lambda s: (health.echo_prone(s.seen), s.seen.at))


def _broken(turn: Turn, name: str) -> hardware.Suspect | None:
    """The first fault that breaks jobs on a node of this one, where no other incident speaks of the attempt yet."""
    job = turn.job(name)
    if job.incident is not None and job.attempt is not None and job.incident.generation == job.attempt.generation:
        return None
    return next((suspect for suspect in _suspects(turn, name) if suspect.weight == health.BREAKS), None)


def _act(turn: Turn, name: str, job_step: int | None) -> None:
    """Two signs agree: end the attempt."""
    suspect, job = _broken(turn, name), turn.job(name)
    assert suspect is not None, "nothing is ended without a fault that breaks jobs"
    assert job.attempt is not None
    suspicion, ailing = job.attempt.suspicion, job.attempt.ailing
    since = suspicion.since if suspicion is not None else ailing.still_since if ailing is not None else turn.at
    since = max(since, suspect.item.since)
    turn.cancel(name, records.TIMER_AILING, records.TIMER_LOOK)
    text = f"{hardware.sentence(suspect.seen)}; no step was finished for {max(0.0, turn.at - since):.0f} s since"
    incidents.open_incident(turn, name, suspect.seen.at, job_step, text, hardware.OPENED_BY)


def _untold(turn: Turn, name: str) -> list[hardware.Suspect]:
    """What no incident has told of, of those that do not end the attempt: the job goes on in spite of them."""
    job = turn.job(name)
    goes_on = records.TIMER_AILING not in dict(job.timers)  # still being looked at
    wanted = {health.DEGRADES, health.LOOK, *((health.BREAKS,) if goes_on else ())}
    return [s for s in _suspects(turn, name) if s.weight in wanted and health.key(s.item) not in job.told]


def _why_no_drain(turn: Turn, name: str, suspect: hardware.Suspect) -> str:
    """Why the job cannot leave the node now; empty where it can."""
    job, rule = turn.job(name), turn.policy.rule(suspect.cause)
    spare = placement.place(turn.state, job, frozenset({suspect.node}))
    if spare is None or any(health.tier(turn.state.nodes[node]) for node in set(spare) - set(_placed(job))):
        return "no sound spare is free to take its place"
    out = brakes.nodes_out(job, rule, turn.at)
    if rule.limits.nodes_out and out + 1 > rule.limits.nodes_out:
        return f"{out} nodes were taken out within {rule.limits.window_s:g} s"
    return ""


def _placed(job: states.JobState) -> tuple[str, ...]:
    return job.attempt.placement if job.attempt is not None else ()


def _watch(turn: Turn, name: str, suspect: hardware.Suspect, why: str) -> None:
    seen = suspect.seen
    key, text = health.key(suspect.item), hardware.sentence(seen)
    finding = states.Finding(key, hardware.WATCHED, seen.at, suspect.node, text, seen.device or "", seen)
    findings.note_finding(turn, name, finding, why)


def _drop_needless(turn: Turn, name: str) -> None:
    job = turn.job(name)
    if job.drain is not None and not any(health.key(s.item) == job.drain.key for s in _suspects(turn, name)):
        turn.cancel(name, DRAIN)
        turn.emit(records.DrainDropped(turn.at, name, f"what was found of {job.drain.node} is over, or another thing"))


def _give_up(turn: Turn, name: str, why: str) -> None:
    """The drain cannot be done: people are told, and the job trains on."""
    job = turn.job(name)
    assert job.drain is not None
    suspect = next((s for s in _suspects(turn, name) if health.key(s.item) == job.drain.key), None)
    turn.cancel(name, DRAIN)
    turn.emit(records.DrainDropped(turn.at, name, why))
    if suspect is not None and job.incident is None:
        _watch(turn, name, suspect, why)


def _drain(turn: Turn, name: str, step: int | None) -> None:
    """Stop here and go on without the node: planned, and decided before anything is stopped."""
    job = turn.job(name)
    assert job.drain is not None
    if not _running(job) or job.incident is not None:
        return
    suspect = next((s for s in _suspects(turn, name) if health.key(s.item) == job.drain.key), None)
    why_not = "what was found is over" if suspect is None else _why_no_drain_now(turn, name, suspect)
    if suspect is None or why_not:
        _give_up(turn, name, why_not)
        return
    turn.cancel(name, DRAIN, records.TIMER_AILING)
    text = f"{name} leaves {suspect.node} at the checkpoint of step {step}: {hardware.sentence(suspect.seen)}"
    key = health.key(suspect.item)
    incidents.open_incident(turn, name, turn.at, step, text, hardware.OPENED_BY, DRAIN, key)
    turn.cancel(name, incidents.SETTLE, incidents.SILENCE)
    _conclude(turn, name, suspect)


def _why_no_drain_now(turn: Turn, name: str, suspect: hardware.Suspect) -> str:
    spare = placement.place(turn.state, turn.job(name), frozenset({suspect.node}))
    return "" if spare is not None else "no sound spare is free any more"


def _conclude(turn: Turn, name: str, suspect: hardware.Suspect) -> None:
    job = turn.job(name)
    assert job.incident is not None
    seen, number = suspect.seen, job.incident.incident
    finding = states.Finding(health.key(suspect.item), hardware.WATCHED, seen.at, suspect.node, "", "", seen)
    told = hardware.of_finding(finding, job, turn.state, turn.policy)
    turn.emit(diagnosis.diagnosed(told, name, number, turn.policy, turn.at))
    rule, chosen = turn.policy.rule(told.cause), "drain-at-checkpoint"
    kept = f"{suspect.node} is kept out until that is over; it needs: {vocabulary.recovery_words(told.recovery)}"
    turn.emit(
        records.Decided(
            at=turn.at,
            job=name,
            incident=number,
            decision=chosen,
            reason=f"the runbook {rule.id} says so, a checkpoint has just been saved and a spare is free; {kept}",
            price_gpu_h=pricing.price(chosen, job, job.incident),
            alternatives=pricing.alternatives(chosen, job, job.incident),
            runbook=rule.id,
            policy_hash=turn.policy.hash,
            automatic=True,
            page=rule.page == "always",
        )
    )
    turn.effect(name, "notify", number, incident=number, event="opened")
    turn.emit(records.NodeMarked(turn.at, suspect.node, "cordoned", told.sentence, number, "findings"))


def returned(turn: Turn, fact: records.NodeJoined) -> None:
    """An agent said hello and told what is not over on its node; and there may be a spare now."""
    lift(turn, fact.node)
    for name, job in tuple(turn.state.jobs.items()):
        if job.over or job.attempt is None:
            continue
        _drop_needless(turn, name)
        ailing = job.attempt.ailing
        if fact.node in job.attempt.placement and ailing is not None and ailing.still_since == fact.at:
            turn.timer(name, records.TIMER_AILING, turn.at + _stand_s(job))
        consider(turn, name)
