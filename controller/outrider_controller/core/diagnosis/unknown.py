"""What nobody could name. Saying so plainly is better than blaming whoever spoke last."""

from __future__ import annotations

from typing import Final

from outrider_controller.core.diagnosis.case import Case, Finding, evidence

CONFIDENCE: Final = 0.2
ROWS_MAX: Final = 8


def find(case: Case) -> Finding:
    """The cause whose runbook takes anything; it suspects nobody."""
    cause = next(name for name, rule in case.policy.rules.items() if rule.match.anything)
    judged = case.judged()
    rows = tuple(evidence(j.exit.at, j.node, "rank-exited", j.text, cause) for j in judged[:ROWS_MAX])
    early = [j.exit.rank for j in judged if j.kind == "clean"]
    if early:
        named = ", ".join(str(rank) for rank in early[:ROWS_MAX])
        sentence = f"rank {named} left with status 0 while others were still at work; nobody else died of its own"
        return Finding(cause, CONFIDENCE, sentence, f"left-early:{named}", tuple(early[:ROWS_MAX]), (), rows)
    if judged:
        return Finding(
            cause,
            CONFIDENCE,
            f"{len(judged)} ranks died of a lost peer and no first death was seen",
            "lost-peer",
            (),
            (),
            rows,
        )
    return Finding(cause, CONFIDENCE, "the attempt ended and nothing said why", "silent-end", (), (), rows)
