"""Restart after restart with no newer checkpoint: whatever the single failures were, together they are a loop.

Peers burn their whole restart budget on one traceback because nobody compares attempts; here the count since the newest
checkpoint is the evidence.
"""

from __future__ import annotations

from typing import Final

from outrider_controller.core.diagnosis.case import Case, Finding, evidence

CONFIDENCE: Final = 0.9


def find(case: Case) -> Finding | None:
    """The cause whose runbook counts restarts since the newest checkpoint, once that count is reached."""
    job = case.job
    since = [
        s for s in job.spent if s.decision.startswith("restart") and s.checkpoint_step == job.newest_checkpoint_step
    ]
    for cause, rule in case.policy.rules.items():
        most = rule.match.attempts_without_checkpoint
        recent = [s for s in since if case.at - s.at <= rule.limits.window_s]
        if not most or len(recent) < most:
            continue
        named = (
            f"the checkpoint of step {job.newest_checkpoint_step}" if job.newest_checkpoint_step else "the beginning"
        )
        rows = [
            evidence(s.at, "controller", "restart", f"restarted after {s.cause}, still at {named}", cause)
            for s in recent
        ]
        rows += [evidence(j.exit.at, j.node, "rank-exited", j.text, cause) for j in case.judged()[:1]]
        sentence = f"{len(recent)} restarts since {named} and no newer checkpoint"
        nodes = tuple(sorted({n for s in recent for n in s.nodes}))
        return Finding(cause, CONFIDENCE, sentence, f"no-progress:{job.newest_checkpoint_step}", (), nodes, tuple(rows))
    return None
