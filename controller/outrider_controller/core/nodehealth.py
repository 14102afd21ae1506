"""How nodes and the attempts on them move with the rows that tell of the nodes' health: pure steps from row to state.

Each function is one row's part of ``evolve``: it writes down what the row says and decides nothing.
"""

from __future__ import annotations

import dataclasses

from outrider_controller.core import health, records
from outrider_controller.core import state as states

State = states.State


def found(state: State, row: records.NodeFound) -> State:
    """A finding begins, changes or is over; an attempt on that node may ail from now on."""
    node = state.nodes.get(row.node)
    if node is None:
        return state
    nodes = {**state.nodes, row.node: health.taken(node, row.observation, row.at)}
    state = dataclasses.replace(state, nodes=nodes)
    jobs = {
        name: dataclasses.replace(job, step_s=row.step_s[name])
        for name, job in state.jobs.items()
        if row.step_s.get(name) is not None and job.attempt is not None and row.node in job.attempt.placement
    }
    state = dataclasses.replace(state, jobs={**state.jobs, **jobs}) if jobs else state
    return ails(state, row.node, row.at, row.job_steps)


def ails(state: State, name: str, at: float, job_steps: records.Json) -> State:
    """Note since when, and at which step, the attempts on a node have to do with a fault that breaks jobs."""
    node = state.nodes[name]
    breaks = any(health.weight(item.seen) == health.BREAKS for item in health.standing(node))
    for job in state.jobs.values():
        attempt = job.attempt
        if job.over or attempt is None or name not in attempt.placement or attempt.stop_wanted:
            continue
        if breaks and attempt.ailing is None:
            new = states.Ailing(job_steps.get(job.spec.name), at)
        elif not breaks and attempt.ailing is not None and not any_breaks(state, job):
            new = None
        else:
            continue
        changed = dataclasses.replace(job, attempt=dataclasses.replace(attempt, ailing=new))
        state = dataclasses.replace(state, jobs={**state.jobs, job.spec.name: changed})
    return state


def any_breaks(state: State, job: states.JobState) -> bool:
    """Whether some node of the attempt has a fault that breaks jobs."""
    placed = job.attempt.placement if job.attempt is not None else ()
    nodes = [state.nodes[name] for name in placed if name in state.nodes]
    return any(health.weight(item.seen) == health.BREAKS for node in nodes for item in health.standing(node))


def timer(job: states.JobState, row: records.TimerFired) -> states.JobState:
    """How far an ailing job is now: a finished step is a sign of progress."""
    attempt = job.attempt
    if attempt is None or attempt.ailing is None or attempt.ailing.job_step == row.job_step:
        return job
    return dataclasses.replace(job, attempt=dataclasses.replace(attempt, ailing=states.Ailing(row.job_step, row.at)))


def asked(state: State, row: records.PersonAsked) -> State:
    """A person who lets a node be used again has seen what was found of it."""
    node = state.nodes.get(row.node or "")
    if row.verb != "uncordon" or node is None:
        return state
    nodes = {**state.nodes, node.node: dataclasses.replace(node, excused_at=row.at)}
    return ails(dataclasses.replace(state, nodes=nodes), node.node, row.at, {})


def drain_wanted(job: states.JobState, row: records.DrainWanted) -> states.JobState:
    """The attempt leaves the node at its next checkpoint."""
    return dataclasses.replace(job, drain=states.Drain(row.generation, row.node, row.key, row.due_at, row.why))


def drain_dropped(job: states.JobState, row: records.DrainDropped) -> states.JobState:
    """It does not."""
    return dataclasses.replace(job, drain=None)
