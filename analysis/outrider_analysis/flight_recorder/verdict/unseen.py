"""Gloo records no send and no recv, so a rank that waits in one looks idle and is none to blame.

One such rank alone is named with doubt. Of several any may be the one that the others wait for in what is not seen, so
they are candidates; whom others waited for first is said. After a mismatch, or where a rank left no dump to which waits
lead, all that look idle are explained.
"""

from __future__ import annotations

from typing import Final

from outrider_analysis.flight_recorder.verdict import moving
from outrider_analysis.flight_recorder.verdict.finding import UNKNOWN, Finding
from outrider_analysis.flight_recorder.verdict.hints import Hints
from outrider_analysis.flight_recorder.verdict.rules import Case

ALONE: Final = 0.6


def weigh(case: Case, findings: list[Finding], hints: Hints) -> list[Finding]:
    """The findings, less those that an unseen send or recv may explain; unchanged without gloo."""
    idle = [finding for finding in findings if finding.kind in moving.CAME_NOT and not finding.absent]
    if not idle or not any(rank.gloo for rank in case.merged.ranks.values()):
        return findings
    if any(finding.kind in moving.PROOF or (finding.absent and finding.culprits) for finding in findings):
        return [finding for finding in findings if finding not in idle]
    first = min(idle, key=lambda finding: (finding.since_ns or 2**63, finding.culprits))
    unheard = {rank for wait in case.board.waits for rank in wait.unheard}
    if len(idle) == 1 and not unheard:
        first.confidence = min(first.confidence, ALONE)
        first.evidence.append("gloo records no send and no recv, in which it may wait unseen")
    else:
        _doubt(first, idle, unheard)
    return [finding for finding in findings if finding is first or finding not in idle]


def _doubt(first: Finding, idle: list[Finding], unheard: set[int]) -> None:
    waited = ", ".join(map(str, first.culprits))
    candidates = unheard | {rank for finding in idle for rank in finding.culprits}
    first.kind, first.confidence = "unknown", UNKNOWN
    first.culprits, first.stack, first.candidates = (), (), tuple(sorted(candidates))
    first.victims = tuple(sorted({rank for finding in idle for rank in finding.victims} - candidates))
    first.sentence = (
        f"{len(candidates)} ranks that others wait for look idle or left no dump; gloo records no send and no recv, "
        f"in which some of them may wait; rank {waited} was waited for first."
    )
