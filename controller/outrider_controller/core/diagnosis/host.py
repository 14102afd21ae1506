"""A node fell silent and its peers died of the loss: the host is gone.

Silence alone harms nobody and proves nothing (an agent may be restarting while its ranks train on). Two things
together do: the agent is not heard for the runbook's ``silence_s``, and the job has broken. A death that the node's
own agent still managed to report before it fell silent belongs to the vanishing host too.
"""

from __future__ import annotations

from typing import Final

from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import crash
from outrider_controller.core.diagnosis.case import Case, Finding, cause_of, evidence, ranks_of

CONFIDENCE: Final = 0.9
OWN_BEYOND_DOUBT: Final = frozenset({"killed", "native-crash", "out-of-memory"})
CLOCK_SLACK_S: Final = 1.0  # stamps of different nodes are compared no finer than this


def find(case: Case) -> Finding | None:
    """``node-lost`` for nodes that are still silent, unless a rank elsewhere had died of its own before they fell
    silent.
    """
    cause = cause_of(case.policy, node="lost")
    if cause is None:
        return None
    silence_s = case.policy.rule(cause).limits.silence_s
    gone = [n for n in case.silent() if n.silent_since is not None and case.at - n.silent_since >= silence_s]
    if not gone or _died_elsewhere_first(case, gone):
        return None
    names = tuple(n.node for n in gone)
    ranks = tuple(rank for name in names for rank in ranks_of(case.job, name))
    rows = [
        evidence(
            n.silent_since or case.at,
            n.node,
            "node-silent",
            f"agent of {n.node} not heard for {case.at - (n.silent_since or case.at):.1f} s",
            cause,
        )
        for n in gone
    ]
    echoes = [j for j in case.judged() if j.node not in names]
    rows += [
        evidence(j.exit.at, j.node, "echo", f"rank {j.exit.rank}: {j.text}", cause)
        for j in echoes[: crash.ECHO_ROWS_MAX]
    ]
    which = "node " + names[0] if len(names) == 1 else "nodes " + ", ".join(names)
    sentence = f"{which} fell silent with {len(ranks)} ranks and did not come back within {silence_s:g} s"
    return Finding(cause, CONFIDENCE, sentence, "node-lost:" + ",".join(names), ranks, names, tuple(rows))


def _died_elsewhere_first(case: Case, gone: list[states.NodeState]) -> bool:
    """A signal or an out-of-memory elsewhere is never the echo of a vanished host; an odd exception may be, unless
    it came first.
    """
    names = {n.node for n in gone}
    earliest = min(n.silent_since or case.at for n in gone)
    own = [j for j in case.judged() if j.kind not in crash.ECHOES and j.kind != "clean" and j.node not in names]
    return any(j.kind in OWN_BEYOND_DOUBT or j.exit.at < earliest - CLOCK_SLACK_S for j in own)
