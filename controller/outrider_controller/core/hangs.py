"""A job that shows no sign of progress: looked at, and ended only where two independent signs agree.

Silence alone harms nobody. Past its deadline (or as soon as an agent sees a rank stopped) every rank is looked at, and
nothing is touched. What may be done follows from the looks, of which the last two have to agree:

- a stopped process, and a job that stands still: ended at once;
- ranks that stand elsewhere while others wait for them, a job that waits as a whole, or what its flight records show
  (``flight_record``): ended once the silence has lasted for ``act_s``;
- ranks at work: that is slowness. The time doubles, and they are looked at again;
- nobody could be looked at, a debugger, a job suspended as a whole, a node that is not heard: people are told.

A look that fails or that nobody answers holds nothing up. From the opened incident on the usual road is taken.
"""

from __future__ import annotations

from typing import Final

from outrider import records as spoken
from outrider_analysis import stalls
from outrider_controller.core import flight_record, incidents, records
from outrider_controller.core import state as states
from outrider_controller.core import suspicion as suspicions
from outrider_controller.core.diagnosis import case as cases
from outrider_controller.core.turn import Turn

STALLED: Final = "stalled"  # IncidentOpened.opened_by
CAPTURE: Final = incidents.CAPTURE
AGAIN_S_MIN: Final = 2.0
LOOKS_AT_FULL_PACE_MAX: Final = 6  # then each look waits twice as long as the one before
AGAIN_S_MAX: Final = 600.0
FRESH_S: Final = 15.0  # beyond the pause between two looks: an older one says nothing about now
STAND_STEPS: Final = 3  # a job of which a rank is stopped and that finishes no step for so long stands still
STAND_S_MIN: Final = 3.0
SLOWER: Final = 2.0  # for each look that finds ranks at work,
ACT_S_MAX: Final = 3600.0  # up to this, so that a job that was slow for long and then hangs is still ended


def suspected(turn: Turn, fact: records.Suspected, before: states.State) -> None:
    """The job has been silent for longer than its history explains: look at every rank."""
    if _concerned(turn, fact.job, fact.generation) is not None:
        _look(turn, fact.job)


def resumed(turn: Turn, fact: records.Resumed, before: states.State) -> None:
    """The job goes on by itself."""
    job = turn.state.jobs.get(fact.job)
    if job is not None and (job.attempt is None or job.attempt.suspicion is None):
        turn.cancel(fact.job, records.TIMER_LOOK)


def observed(turn: Turn, fact: records.Observed) -> None:
    """An agent saw a rank stopped, or running again."""
    job = _concerned(turn, fact.job, fact.observation.generation)
    if job is None:
        turn.cancel(fact.job, records.TIMER_LOOK)
    elif fact.observation.kind == suspicions.STOPPED and job.spec.limits.stall_s > 0:
        _look(turn, fact.job)


def look_again(turn: Turn, fact: records.TimerFired) -> None:
    """The time for the next look, or for acting on the last two."""
    job = turn.job(fact.job)
    if job.attempt is None or _concerned(turn, fact.job, job.attempt.generation) is None:
        return
    if _may_act(turn, fact.job, fact.job_step):
        _act(turn, fact.job, fact.job_step)
    else:
        _look(turn, fact.job)


def captured(turn: Turn, fact: records.EffectDone, effect: records.EffectRequested) -> None:
    """A look has come back: judge it, and act, or look again later."""
    job = _concerned(turn, fact.job, effect.args.get("generation"))
    if job is None:
        return
    turn.emit(_looked(turn, job, fact))
    if _may_act(turn, fact.job, fact.job_step):
        _act(turn, fact.job, fact.job_step)
    else:
        turn.timer(fact.job, records.TIMER_LOOK, _next_look(turn, fact.job))


def _looked(turn: Turn, job: states.JobState, fact: records.EffectDone) -> records.Looked:
    """What this look came to, beside the flight records and the look before."""
    attempt, suspicion = _suspected(job)
    seen, record = _judged(job, fact), flight_record.read(fact.effect, fact.result)
    joined, not_before = flight_record.join(seen, record), turn.at - _pause_s(suspicion) - FRESH_S
    common = _common(suspicion.look, joined.verdict, not_before)
    if common is None and (alike := _common_by_looks(suspicion.look, seen, not_before)) is not None:
        # The record tells one thing now and another then, or not each time: the looks stand by themselves.
        joined, common = flight_record.by_looks_alone(seen), alike
    found, act_s = joined.verdict, suspicion.act_s
    if found.kind == "working":
        act_s = max(act_s, min(act_s * SLOWER, ACT_S_MAX))
    other = found.kind != seen.kind or found.ranks != seen.ranks
    return records.Looked(
        at=turn.at,
        job=fact.job,
        generation=attempt.generation,
        verdict=found.kind,
        ranks=found.ranks,
        confidence=found.confidence,
        sentence=found.sentence,
        act_s=act_s,
        agrees=common is not None,
        common=common or (),
        places=found.places,
        evidence=tuple(_row(job, row) for row in found.rows),
        record=record,
        doubt=joined.doubt,
        by_looks=seen.kind if other else "",
        by_looks_ranks=seen.ranks if other else (),
        by_looks_places=seen.places if other else (),
    )


def _concerned(turn: Turn, name: str, generation: int | None) -> states.JobState | None:
    """The job, if it is its running attempt that is suspected."""
    job = turn.state.jobs.get(name)
    if job is None or job.over or job.state == "held" or job.attempt is None:
        return None
    attempt = job.attempt
    running = attempt.running_at is not None and not attempt.stop_wanted
    return job if running and attempt.generation == generation and attempt.suspicion is not None else None


def _suspected(job: states.JobState) -> tuple[states.Attempt, states.Suspicion]:
    assert job.attempt is not None
    assert job.attempt.suspicion is not None
    return job.attempt, job.attempt.suspicion


def _look(turn: Turn, name: str) -> None:
    """Ask for evidence of every rank, one look at a time."""
    job = turn.job(name)
    assert job.attempt is not None
    if any(effect.name == CAPTURE for effect in job.pending):
        return
    turn.effect(name, CAPTURE, None, **incidents.capture_args(job))


def _judged(job: states.JobState, fact: records.EffectDone) -> stalls.Verdict:
    """The verdict over what came back; an answer that cannot be read is one that nobody gave."""
    ranks, unanswered = fact.result.get("ranks"), fact.result.get("unanswered")
    groups = stalls.from_plain(ranks) if isinstance(ranks, list | tuple) else ()
    nodes = [n for n in unanswered if isinstance(n, str)] if isinstance(unanswered, list | tuple) else []
    placed = job.attempt.placement if job.attempt else ()
    missing = [rank for node in nodes if node in placed for rank in cases.ranks_of(job, node)]
    found = stalls.judge(groups, job.spec.world_size, missing)
    if fact.ok:
        return found
    return stalls.Verdict("could-not-look", (), 0.0, f"could not look at any rank: {fact.error or 'no reason given'}")


def _common(former: records.Looked | None, now: stalls.Verdict, not_before: float) -> tuple[int, ...] | None:
    if former is None or former.verdict != now.kind or now.kind not in flight_record.HUNG or former.at < not_before:
        return None
    return stalls.common((former.ranks, former.places), (now.ranks, now.places))


def _common_by_looks(former: records.Looked | None, now: stalls.Verdict, not_before: float) -> tuple[int, ...] | None:
    """The same without flight records, where those of one look made another thing of it."""
    if former is None or former.at < not_before or now.kind not in stalls.HUNG:
        return None
    own = (former.by_looks_ranks, former.by_looks_places) if former.by_looks else (former.ranks, former.places)
    return stalls.common(own, (now.ranks, now.places)) if now.kind == (former.by_looks or former.verdict) else None


def _row(job: states.JobState, row: stalls.Row) -> spoken.Json:
    assert job.attempt is not None
    each = job.spec.ranks_per_node
    nodes = list(dict.fromkeys(job.attempt.placement[rank // each] for rank in row.ranks if rank < job.spec.world_size))
    source = nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes"
    return {"source": source, "kind": row.kind, "text": row.text}


def _may_act(turn: Turn, name: str, job_step: int | None) -> bool:
    """Two looks agree, they are of now, every node is heard, and the job has stood still for long enough."""
    job = turn.job(name)
    attempt, suspicion = _suspected(job)
    look = suspicion.look
    if look is None or look.verdict not in flight_record.HUNG or not look.agrees:
        return False
    if turn.at - look.at > _pause_s(suspicion) + FRESH_S or cases.silent_with_ranks(job, turn.state.nodes):
        return False
    if job.incident is not None and job.incident.generation == attempt.generation:
        return False
    if look.verdict == suspicions.STOPPED:
        return suspicion.silent or _stands_still(job, suspicion, turn.at, job_step)
    return suspicion.silent and turn.at >= suspicion.since + suspicion.act_s


def _stands_still(job: states.JobState, suspicion: states.Suspicion, at: float, job_step: int | None) -> bool:
    """No step was finished for some steps' time. A job that never spoke cannot be seen to stand still."""
    stand_s = max(STAND_S_MIN, STAND_STEPS * (job.step_s or 0.0))
    return job.speaks and job_step == suspicion.job_step and at - suspicion.still_since >= stand_s


def _pause_s(suspicion: states.Suspicion) -> float:
    """Seconds between two looks: half the deadline, and more and more of them while nothing comes of it."""
    more = max(0, suspicion.looks - LOOKS_AT_FULL_PACE_MAX)
    return min(_full_pace_s(suspicion) * 2.0 ** min(more, 16), AGAIN_S_MAX)


def _full_pace_s(suspicion: states.Suspicion) -> float:
    return max(AGAIN_S_MIN, suspicion.look_s / 2)


def _next_look(turn: Turn, name: str) -> float:
    """When to look again; where two looks agree already, not later than the moment to act."""
    _, suspicion = _suspected(turn.job(name))
    look = suspicion.look
    due = turn.at + _pause_s(suspicion)
    if look is not None and look.verdict in flight_record.HUNG and not look.agrees:
        return turn.at + _full_pace_s(suspicion)  # what one look found has to be seen by a second
    act_at = suspicion.since + suspicion.act_s
    if look is not None and look.agrees and suspicion.silent and turn.at < act_at:
        return min(due, act_at)
    return due


def _act(turn: Turn, name: str, job_step: int | None) -> None:
    _, suspicion = _suspected(turn.job(name))
    look = suspicion.look
    assert look is not None, "nothing is ended that was not looked at"
    assert look.agrees, "two looks agree before anything is ended"
    assert look.verdict in flight_record.HUNG, "slowness, a debugger and a missing answer are no reason to end anything"
    turn.cancel(name, records.TIMER_LOOK)
    silent = f"no sign of progress for {turn.at - suspicion.since:.0f} s; " if suspicion.silent else ""
    incidents.open_incident(turn, name, suspicion.since, job_step, f"{silent}{look.sentence}", STALLED)
