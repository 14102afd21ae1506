"""``decide(state, fact, policy) -> conclusions``: the one place where anything is decided.

The shell calls it with the state before the fact; it answers with the rows that follow from the fact, in order. Time
comes from the fact. Nothing in here reads a clock, a file or a random number, so the simulator, the replay tool and
the tests drive exactly what production runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from outrider import records as spoken
from outrider_controller.core import ailing, findings, hangs, incidents, node_checks, numbers, records, suspicion, trust
from outrider_controller.core import evolve as evolving
from outrider_controller.core import policy as policies
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import case as cases
from outrider_controller.core.turn import Turn

SETTLE_AGAIN_S: Final = 1.0  # the ranks are still being stopped when the time for news is over: look again then
ATTACH: Final = "attach"
ATTACH_WAIT_S: Final = 30.0  # a job that has sent no mark by then is taken for one that never will, until it does
ENDED_BY_OBSERVATION: Final = frozenset({"keeper-lost", "start-failed"})


def decide(state: states.State, fact: records.Fact, policy: policies.Policy) -> tuple[records.Conclusion, ...]:
    """Conclusions of ``fact`` in ``state`` (the state before the fact)."""
    handler = _HANDLERS.get(type(fact))
    if handler is None:
        return ()
    turn = Turn(evolving.evolve(state, fact), fact.at, policy)
    handler(turn, fact, state)
    return tuple(turn.rows)


def _job_submitted(turn: Turn, fact: records.JobSubmitted, before: states.State) -> None:
    old = before.jobs.get(fact.job)
    if old is not None and not old.over:
        turn.note(fact.job, f"a job named {fact.job} is already {old.state}; the second submission was ignored")
        return
    trust.find(turn, fact.job, None)


def _node_joined(turn: Turn, fact: records.NodeJoined, before: states.State) -> None:
    node_checks.joined(turn, fact, before)
    for keeper in fact.keepers:
        _stop_stale(turn, fact.node, keeper)
    ailing.lift(turn, fact.node)
    for name, job in tuple(turn.state.jobs.items()):
        if evolving.lost_its_ranks(job, fact) and job.attempt is not None and not job.attempt.stop_wanted:
            old = before.nodes.get(fact.node)
            since = old.silent_since if old is not None else None
            text, by = f"node {fact.node} came back without the ranks it had", "node-returned"
            if old is not None and old.boot_id == fact.boot_id:  # the host was there all the time
                text, by = f"{text} and was not booted anew: their keeper is gone", "keeper-lost"
            _interrupt(turn, name, since or turn.at, fact.job_steps.get(name), text, by)
        _proceed(turn, name)
    ailing.returned(turn, fact)


def _node_found(turn: Turn, fact: records.NodeFound, before: states.State) -> None:
    ailing.found(turn, fact)
    for name in tuple(turn.state.jobs):
        _proceed(turn, name)


def _stop_stale(turn: Turn, node: str, keeper: spoken.KeeperState) -> None:
    """A node that had been cut off comes back with ranks of an attempt that is over: they are ended now."""
    job = turn.state.jobs.get(keeper.job)
    if job is None or not any(rank.alive for rank in keeper.ranks):
        return
    attempt = job.attempt
    wanted = attempt is not None and keeper.generation == attempt.generation and not attempt.stop_wanted
    if job.over or not wanted:
        grace_s = job.spec.limits.grace_s
        about = job.incident.incident if job.incident else None
        args: dict[str, object] = {"generation": keeper.generation, "placement": [node], "grace_s": grace_s}
        turn.effect(keeper.job, "stop-attempt", about, **args)


def _node_silent(turn: Turn, fact: records.NodeSilent, before: states.State) -> None:
    for name, job in tuple(turn.state.jobs.items()):
        if job.attempt is not None and fact.node in job.attempt.placement:
            incidents.arm_silence(turn, name)
            incidents.arm_absence(turn, name)


def _absent(turn: Turn, fact: records.TimerFired, before: states.State) -> None:
    """A node is still silent. With its job at a stand while other nodes of it are heard, that is a fault.

    Where no node of the job is heard, silence is all there is, and nothing is done on silence alone.
    """
    job = turn.job(fact.job)
    silent = cases.silent_with_ranks(job, turn.state.nodes)
    old = before.jobs[fact.job].absent_step
    stands = fact.job_step == old
    if not silent or job.attempt is None or job.attempt.stop_wanted:
        return
    if not stands:
        incidents.arm_absence(turn, fact.job)
        return
    names = ", ".join(n.node for n in silent)
    since = min(n.silent_since or turn.at for n in silent)
    if len(silent) == len(job.attempt.placement):
        text = f"no node of {fact.job} is heard ({names}), so nothing tells whether it trains; a person should look"
        turn.note(fact.job, text)
        return
    text = f"{names} is silent and the job has finished no step for {turn.at - since:.0f} s"
    _interrupt(turn, fact.job, since, fact.job_step, text, "node-silent")


def _observed(turn: Turn, fact: records.Observed, before: states.State) -> None:
    if findings.observed(turn, fact, before):
        return
    job = turn.state.jobs.get(fact.job)
    seen = fact.observation
    if job is None or job.attempt is None:
        return
    if seen.generation != job.attempt.generation:
        turn.note(
            fact.job, f"{seen.kind} of generation {seen.generation} ignored; the job is at {job.attempt.generation}"
        )
        return
    if job.over:
        return
    if seen.kind == "rank-exited":
        _rank_exited(turn, fact, job)
    elif seen.kind in ENDED_BY_OBSERVATION:
        _interrupt(turn, fact.job, seen.at, fact.job_step, seen.text, seen.kind)
    elif seen.kind in suspicion.OBSERVED:
        hangs.observed(turn, fact)
    _proceed(turn, fact.job)


def _rank_exited(turn: Turn, fact: records.Observed, job: states.JobState) -> None:
    attempt = job.attempt
    assert attempt is not None
    exit_ = evolving.rank_exit(fact.observation)
    failed = exit_.signal is not None or exit_.code != 0
    if attempt.stop_wanted:
        return
    if exit_.asked:
        # Who told it was not us, or it was us because the start has failed; then the start's result comes next.
        if attempt.running_at is not None:
            _ended_by_its_keeper(turn, fact.job, exit_, fact.job_step)
    elif failed:
        _interrupt(turn, fact.job, exit_.at, fact.job_step, fact.observation.text, "rank-exited")
    elif len(attempt.ended_ranks) == job.spec.world_size:
        _complete(turn, fact.job)


def _ended_by_its_keeper(turn: Turn, name: str, exit_: spoken.RankExit, step: int | None) -> None:
    """A keeper that is told to end (its host shuts down) ends its ranks; the job is broken, with whatever status."""
    text = f"rank {exit_.rank} was told to end by its keeper and not by the controller: the keeper itself was ended"
    _interrupt(turn, name, exit_.at, step, text, "keeper-lost")


def _complete(turn: Turn, name: str) -> None:
    job = turn.job(name)
    assert job.attempt is not None
    assert all(e.code == 0 and not e.asked for _, e in job.attempt.exits)
    turn.move(name, "completed", f"all {job.spec.world_size} ranks ended with status 0")
    incidents.end_job(turn, name)


def _interrupt(turn: Turn, name: str, fault_at: float, step: int | None, text: str, by: str) -> None:
    """Open an incident unless the one that is open already speaks of this attempt."""
    job = turn.job(name)
    assert job.attempt is not None
    if job.incident is not None and job.incident.generation == job.attempt.generation:
        return
    incidents.open_incident(turn, name, fault_at, step, text, by)


def _attached(turn: Turn, fact: records.Attached, before: states.State) -> None:
    job = turn.state.jobs.get(fact.job)
    if job is None or job.attempt is None or job.attempt.generation != fact.generation or job.over:
        return
    turn.cancel(fact.job, ATTACH)
    incidents.arm_absence(turn, fact.job)
    if job.state == "training" and job.attempt.training_at is None:
        turn.move(fact.job, "starting", "the job has begun to send marks")


def _training(turn: Turn, fact: records.Training, before: states.State) -> None:
    job = turn.state.jobs.get(fact.job)
    if (
        job is None
        or job.attempt is None
        or job.attempt.generation != fact.generation
        or job.attempt.stop_wanted
        or job.over
    ):
        return
    turn.move(fact.job, "training", f"step {fact.step} finished")
    lost = job.incident.lost_step if job.incident else None
    if job.incident is not None and (lost is None or fact.step >= lost):
        incidents.close(turn, fact.job, "regained")


def _step_reached(turn: Turn, fact: records.StepReached, before: states.State) -> None:
    job = turn.state.jobs.get(fact.job)
    if job is None or job.attempt is None or job.attempt.generation != fact.generation:
        return
    trust.step_reached(turn, fact.job, before)
    if job.incident is None:
        return
    lost = job.incident.lost_step
    if job.incident.generation < fact.generation and (lost is None or fact.step >= lost):
        incidents.close(turn, fact.job, "regained")


def _timer_fired(turn: Turn, fact: records.TimerFired, before: states.State) -> None:
    job = turn.state.jobs.get(fact.job)
    if job is None or job.over:
        return
    if fact.timer == trust.LOOK_AGAIN:
        trust.look_again(turn, fact.job)
        return
    if fact.timer == ATTACH:
        _runs_without_marks(turn, fact.job)
    elif fact.timer == records.TIMER_ABSENT:
        _absent(turn, fact, before)
    elif fact.timer == records.TIMER_LOOK:
        hangs.look_again(turn, fact)
    elif fact.timer == records.TIMER_AILING:
        ailing.look_again(turn, fact)
    elif fact.timer == ailing.DRAIN:
        ailing.overdue(turn, fact)
    elif fact.timer == ailing.LATER:
        ailing.consider(turn, fact.job)
    elif job.incident is not None and job.incident.decision is None and not job.incident.planned:
        if fact.timer == incidents.SETTLE and not incidents.acting(job):
            incidents.conclude(turn, fact.job)
            return
        if fact.timer == incidents.SETTLE:
            turn.timer(fact.job, incidents.SETTLE, turn.at + SETTLE_AGAIN_S)
    _proceed(turn, fact.job)


def _runs_without_marks(turn: Turn, name: str) -> None:
    job = turn.job(name)
    if (
        job.attempt is not None
        and job.attempt.running_at is not None
        and job.attempt.attached_at is None
        and not job.attempt.stop_wanted
    ):
        turn.move(name, "training", "it runs and sends no marks")
        if job.incident is not None and job.incident.generation < job.attempt.generation:
            incidents.close(turn, name, "regained")


def _effect_done(turn: Turn, fact: records.EffectDone, before: states.State) -> None:
    old = before.jobs.get(fact.job)
    effect = next((e for e in old.pending if e.effect == fact.effect), None) if old else None
    if not fact.job:
        node_checks.done(turn, fact, before)
        for name in tuple(turn.state.jobs):
            _proceed(turn, name)
    if effect is None:
        return
    job = turn.job(fact.job)
    current = job.attempt is not None and effect.args.get("generation") == job.attempt.generation
    if effect.name == "start-attempt" and current and not job.over:
        _started(turn, fact)
    elif effect.name == hangs.CAPTURE:
        hangs.captured(turn, fact, effect)
    elif effect.name in trust.ASIDE:
        trust.verified(turn, fact, effect)
        findings.tell(turn, fact.job, before)
        return
    elif effect.name == "find-checkpoint" and not fact.ok and not job.over and not incidents.undiagnosed(job):
        turn.cancel(fact.job, incidents.SETTLE, incidents.SILENCE)
        incidents.hold(turn, fact.job, incidents.unfound(job))
        return
    elif effect.name == "find-checkpoint" and not job.over and (left := trust.nothing_left(job)):
        incident = job.incident
        if incident is None or incident.planned or incident.decision is not None or job.state == "held":
            incidents.hold_without_checkpoint(turn, fact.job, left)
            return
    _proceed(turn, fact.job)


def _started(turn: Turn, fact: records.EffectDone) -> None:
    job = turn.job(fact.job)
    assert job.attempt is not None
    if not fact.ok:
        if not job.attempt.stop_wanted:
            text = f"the attempt could not be started: {fact.error}"
            _interrupt(turn, fact.job, turn.at, fact.job_step, text, "start-refused")
        return
    told = [exit_ for _, exit_ in job.attempt.exits if exit_.asked]
    if told and not job.attempt.stop_wanted:
        _ended_by_its_keeper(turn, fact.job, told[0], fact.job_step)
    elif not job.speaks and not job.attempt.stop_wanted:
        turn.timer(fact.job, ATTACH, turn.at + ATTACH_WAIT_S)


def _proceed(turn: Turn, name: str) -> None:
    """Do what has become possible: conclude an incident, carry out a person's wish, start a waiting job."""
    job = turn.job(name)
    if job.over or job.state == "held":
        return
    incident = job.incident
    if incident is not None and incident.planned and incident.decision is None:
        _planned(turn, name)
    elif incident is not None and incident.decision is None:
        if incidents.news_is_in(turn, name) and not incidents.awaits_news(turn, name):
            incidents.conclude(turn, name)
    elif incidents.waits_for_nodes(job):
        blamed = incident.diagnosis.nodes if incident and incident.diagnosis else ()
        excluded = frozenset(n for n in blamed if not turn.state.nodes[n].usable)
        incidents.begin_attempt(turn, name, excluded)


def _planned(turn: Turn, name: str) -> None:
    job = turn.job(name)
    if job.incident is None or job.attempt is None or not job.attempt.stopped:
        return
    turn.cancel(name, incidents.SETTLE, incidents.SILENCE)
    if job.incident.wanted == "stop":
        turn.move(name, "failed", f"{evolving.BY_PERSON}stopped it")
        incidents.end_job(turn, name)
    else:
        turn.move(name, "held", f"{evolving.BY_PERSON}holds it")


def _person_asked(turn: Turn, fact: records.PersonAsked, before: states.State) -> None:
    if fact.verb in ("cordon", "uncordon"):
        _cordon(turn, fact)
        return
    job = turn.state.jobs.get(fact.job)
    if job is None or job.over:
        return
    if fact.verb in ("stop", "hold"):
        _stop_or_hold(turn, fact, job)
    elif job.state == "held" and fact.verb == "approve":
        _approve(turn, fact.job)
    elif job.state == "held" and fact.verb == "reject":
        turn.move(fact.job, "failed", f"{evolving.BY_PERSON}gave it up")
        incidents.end_job(turn, fact.job)
    else:
        turn.note(fact.job, f"{fact.verb} was asked by {fact.by}, but the job is {job.state}, not held")


def _stop_or_hold(turn: Turn, fact: records.PersonAsked, job: states.JobState) -> None:
    ended = job.attempt is None or job.state == "held"
    if not ended:
        incidents.open_incident(
            turn, fact.job, turn.at, fact.job_step, f"{fact.by} asked for {fact.verb}", "person", fact.verb
        )
    elif fact.verb == "stop":
        turn.move(fact.job, "failed", f"{evolving.BY_PERSON}stopped it")
        incidents.end_job(turn, fact.job)
    else:
        turn.move(fact.job, "held", f"{evolving.BY_PERSON}holds it")


def _approve(turn: Turn, name: str) -> None:
    """A person lets a held job go on, from the checkpoint that is newest now (it may have been repaired meanwhile)."""
    job = turn.job(name)
    if job.incident is not None:
        incidents.decide_by_person(turn, name, "restart", "a person looked and lets it go on")
    turn.move(name, "starting" if job.attempt is None else "interrupted", f"{evolving.BY_PERSON}lets it go on")
    trust.forgive_all(turn, name)
    trust.find(turn, name, job.incident.incident if job.incident else None)


def _cordon(turn: Turn, fact: records.PersonAsked) -> None:
    node = turn.state.nodes.get(fact.node or "")
    if node is None or node_checks.person(turn, fact, node):
        return
    mark = "cordoned" if fact.verb == "cordon" else "clear"
    if node.mark != mark:
        turn.emit(records.NodeMarked(turn.at, node.node, mark, f"{fact.by} asked for {fact.verb}"))
    for name in tuple(turn.state.jobs) if mark == "clear" else ():
        _proceed(turn, name)


_HANDLERS: Final[dict[type, Callable[[Turn, Any, states.State], None]]] = {
    records.JobSubmitted: _job_submitted,
    records.NodeJoined: _node_joined,
    records.NodeSilent: _node_silent,
    records.NodeFound: _node_found,
    records.Observed: _observed,
    records.Attached: _attached,
    records.Training: _training,
    records.StepReached: _step_reached,
    records.CheckpointSaved: ailing.saved,
    records.NotFinite: numbers.not_finite,
    records.RecordingFailed: findings.recording_failed,
    records.Suspected: ailing.suspected,
    records.Resumed: hangs.resumed,
    records.TimerFired: _timer_fired,
    records.EffectDone: _effect_done,
    records.PersonAsked: _person_asked,
}
