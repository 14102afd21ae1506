"""From the runbook's action and limits to the decision: what is done, unless a brake says otherwise.

Every number comes from front matter or from the job's own file; this module only counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from outrider import vocabulary
from outrider_controller.core import health, placement, records
from outrider_controller.core import policy as policies
from outrider_controller.core import state as states


@dataclass(frozen=True)
class Verdict:
    """The chosen decision, its reason, and which nodes must not be used."""

    decision: str
    reason: str
    excluded: frozenset[str] = frozenset()


def verdict(
    state: states.State, job: states.JobState, found: records.Diagnosed, rule: policies.Rule, at: float
) -> Verdict:
    """The decision for a diagnosed incident."""
    brake = _brake(job, found, rule, at)
    action = rule.limits.then if brake else rule.action
    reason = f"{brake}; the runbook {rule.id} then says {action}" if brake else f"the runbook {rule.id} says {action}"
    if action == "hold-for-person":
        return Verdict(action, reason)
    if action == "watch":
        return Verdict("hold-for-person", f"{reason}, and a job that is interrupted does not come back by that")
    if action == "restart" or found.recovery in ("none", "restart_app"):
        return _restart(state, job, found, rule, at, reason if action == "restart" else f"{reason}, {ONCE}")
    return _without(state, job, found, found.nodes, rule, at, reason)


def _brake(job: states.JobState, found: records.Diagnosed, rule: policies.Rule, at: float) -> str | None:
    limits = rule.limits
    restarts = [s for s in job.spent if s.decision.startswith("restart")]
    recent = [s for s in restarts if s.cause == found.cause and at - s.at <= limits.window_s]
    same = [s for s in restarts if s.signature == found.signature and s.checkpoint_step == job.newest_checkpoint_step]
    if 0 <= job.spec.max_restarts <= job.restarts:
        return f"the job's own ceiling of {job.spec.max_restarts} restarts is reached"
    again = [s for s in restarts if s.signature == found.signature]
    if limits.same_step and len(again) >= limits.same_step:
        return f"the same step {len(again) + 1} times, whatever was saved between"
    if limits.same_failure and len(same) >= limits.same_failure:
        return f"the same failure {len(same) + 1} times with no newer checkpoint between"
    if limits.restarts and len(recent) >= limits.restarts:
        return f"{len(recent)} restarts for {found.cause} within {limits.window_s:g} s"
    return None


def _restart(
    state: states.State, job: states.JobState, found: records.Diagnosed, rule: policies.Rule, at: float, reason: str
) -> Verdict:
    blamed = _blamed_often(job, found, rule, at)
    if blamed and placement.place(state, job, blamed) is not None:
        return _without(
            state,
            job,
            found,
            tuple(blamed),
            rule,
            at,
            f"{rule.limits.same_node} restarts blamed {', '.join(sorted(blamed))} before",
        )
    missing = [
        n for n in (job.attempt.placement if job.attempt else ()) if n in state.nodes and not state.nodes[n].usable
    ]
    if missing:
        return Verdict("restart-without-suspect", f"{reason}, and {', '.join(missing)} cannot be used now", frozenset())
    placed, old = placement.place(state, job) or (), job.attempt.placement if job.attempt else ()
    left = [n for n in old if placed and n not in placed]
    if left:
        why = health.why_kept_out(state.nodes[left[0]])
        return Verdict("restart-without-suspect", f"{reason}; {', '.join(left)} is left at this occasion: {why}")
    return Verdict("restart", reason)


def _blamed_often(job: states.JobState, found: records.Diagnosed, rule: policies.Rule, at: float) -> frozenset[str]:
    if not rule.limits.same_node:
        return frozenset()
    recent = [s for s in job.spent if s.decision.startswith("restart") and at - s.at <= rule.limits.window_s]
    return frozenset(n for n in found.nodes if sum(n in s.nodes for s in recent) >= rule.limits.same_node)


def _without(
    state: states.State,
    job: states.JobState,
    found: records.Diagnosed,
    nodes: tuple[str, ...],
    rule: policies.Rule,
    at: float,
    reason: str,
) -> Verdict:
    out, then = nodes_out(job, rule, at), rule.limits.then
    if rule.limits.nodes_out and out + len(nodes) > rule.limits.nodes_out:
        text = f"{out} nodes were taken out within {rule.limits.window_s:g} s; the runbook {rule.id} then says {then}"
        return Verdict(then, text)
    if not found.recovery:
        return Verdict("restart-without-suspect", reason, frozenset(nodes))
    needs = f"needs: {vocabulary.recovery_words(found.recovery)}"
    if not nodes or placement.place(state, job, frozenset(nodes)) is not None:
        kept = (
            f"; {', '.join(nodes)} is kept out until what was found is over, and {needs}" if nodes else f"; it {needs}"
        )
        return Verdict("restart-without-suspect", reason + kept, frozenset(nodes))
    none_free = f"{reason}, but no other node is free; {', '.join(nodes)} {needs}"
    if rule.no_spare == "hold-for-person":
        return Verdict("hold-for-person", none_free)
    if rule.no_spare == "restart":
        return Verdict("restart", f"{none_free}; the runbook then says to try it there again")
    waits = f"{none_free}; the job waits for a node, or until what was found is over"
    return Verdict("restart-without-suspect", waits, frozenset(nodes))


def nodes_out(job: states.JobState, rule: policies.Rule, at: float) -> int:
    """How many nodes were taken out within the rule's window, whatever for."""
    taken = ("restart-without-suspect", "drain-at-checkpoint")
    return sum(len(s.nodes) for s in job.spent if s.decision in taken and at - s.at <= rule.limits.window_s)


ONCE = "but a new start is all that this fault takes"
