"""A node fell silent and its peers died of the loss: the host is gone.

Silence alone harms nobody and proves nothing (an agent may be restarting while its ranks train on). Two things
together do: the agent is not heard for the runbook's ``silence_s``, and the job has broken. A death that the node's
own agent still managed to report before it fell silent belongs to the vanishing host too.
"""

from __future__ import annotations

from typing import Final

from outrider_controller.core.diagnosis import crash
from outrider_controller.core.diagnosis.case import Case, Finding, cause_of, evidence, ranks_of

CONFIDENCE: Final = 0.9
OWN_BEYOND_DOUBT: Final = frozenset({"killed", "native-crash", "out-of-memory", "collective-mismatch"})
CLOCK_SLACK_S: Final = 1.0  # stamps of different nodes are compared no finer than this


def find(case: Case) -> Finding | None:
    """``node-lost`` for nodes that are still silent or came back empty, unless a rank elsewhere had died of its own."""
    cause = cause_of(case.policy, node="lost")
    if cause is None:
        return None
    lost = _returned_empty(case) or _still_silent(case, case.policy.rule(cause).limits.silence_s)
    if not lost or _died_elsewhere_first(case, lost):
        return None
    names = tuple(lost)
    ranks = tuple(rank for name in names for rank in ranks_of(case.job, name))
    rows = [evidence(since, name, "node-silent", words, cause) for name, (since, words) in lost.items()]
    echoes = [j for j in case.judged() if j.node not in names][: crash.ECHO_ROWS_MAX]
    rows += [evidence(j.exit.at, j.node, "echo", j.text, cause) for j in echoes]
    sentence = f"{'; '.join(words for _, words in lost.values())}; {len(ranks)} ranks went with it"
    return Finding(cause, CONFIDENCE, sentence, "node-lost:" + ",".join(names), ranks, names, tuple(rows))


def _still_silent(case: Case, silence_s: float) -> dict[str, tuple[float, str]]:
    """Silent nodes by name: since when, and the words for it."""
    found = {}
    for node in case.silent():
        since = case.at if node.silent_since is None else node.silent_since
        if case.at - since >= silence_s:
            found[node.node] = (since, f"the agent of {node.node} has not been heard for {case.at - since:.1f} s")
    return found


def _returned_empty(case: Case) -> dict[str, tuple[float, str]]:
    words = "was booted anew and came back without the ranks it had"
    return {name: (since, f"{name} {words}") for name, since in case.attempt.rebooted}


def _died_elsewhere_first(case: Case, lost: dict[str, tuple[float, str]]) -> bool:
    """A signal or an out-of-memory elsewhere is never the echo of a vanished host; an odd exception may be, unless
    it came first.
    """
    earliest = min(since for since, _ in lost.values())
    own = [j for j in case.judged() if j.kind not in crash.ECHOES and j.kind != "clean" and j.node not in lost]
    return any(j.kind in OWN_BEYOND_DOUBT or j.exit.at < earliest - CLOCK_SLACK_S for j in own)
