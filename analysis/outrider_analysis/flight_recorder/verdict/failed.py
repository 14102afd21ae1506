"""Calls of gloo that a dead peer let fail: recorded as finished, and who made one may stand anywhere since.

Where a process dies, the calls of its peers raise. What a job makes of that (an except clause, a teardown) keeps them
from the next collective, so that they look like the ranks to blame, while the dead one left no dump.
"""

from __future__ import annotations

from array import array
from typing import Final

from outrider_analysis.flight_recorder.verdict import moving, words
from outrider_analysis.flight_recorder.verdict.case import Case
from outrider_analysis.flight_recorder.verdict.finding import Finding

DOUBT: Final = 0.65  # its last call was one with a rank of which nothing is known
CALL_WORDS: Final = 3  # of a call: group and kind, number, signature
SLOT: Final = 0xFFFF


def settle(case: Case, findings: list[Finding], dark: set[int]) -> list[Finding]:
    """``findings`` without those of ranks whose last call may have failed. ``dark``: ranks without dump and look.

    A rank that finished what another member still waits in becomes a candidate beside those who left nothing; one whose
    last call was with such a rank is named with doubt.
    """
    split = [finding for finding in findings if finding.kind == "unknown" and dark.intersection(finding.candidates)]
    found = []
    for finding in findings:
        rank = finding.culprits[0] if len(finding.culprits) == 1 else -1
        if finding in split or finding.kind not in moving.CAME_NOT or not _is_gloo(case, rank):
            found.append(finding)
            continue
        root = next((other for other in split if _finished(case, other, rank)), None)
        if root is not None:
            _join(case, root, finding)
            continue
        if lost := sorted(dark.intersection(_company(case, rank))):
            finding.confidence = min(finding.confidence, DOUBT)
            finding.evidence.append(
                f"its last call was one with {words.named(case.merged, lost)}, of which nothing is known, and may have "
                "failed"
            )
        found.append(finding)
    return found


def _is_gloo(case: Case, rank: int) -> bool:
    return rank in case.merged.ranks and case.merged.ranks[rank].gloo


def _finished(case: Case, root: Finding, rank: int) -> bool:
    """Did ``rank`` finish the operation in which others still wait?"""
    where = root.where
    if where is None or where.pair is not None or rank not in where.ranks:
        return False
    named = (where.group, where.ranks)
    at = next((n for n, group in enumerate(case.merged.groups) if (group.name, group.ranks) == named), -1)
    seen = case.merged.seen(rank, at) if at >= 0 else None
    return seen is not None and seen.completed is not None and seen.completed >= where.seq


def _join(case: Case, root: Finding, finding: Finding) -> None:
    """``finding`` may be a consequence of ``root``."""
    said = "where a process dies gloo lets the calls of its peers fail, and then they look finished"
    if said not in root.evidence:
        root.evidence.append(said)
    root.candidates = tuple(sorted({*root.candidates, *finding.culprits}))
    root.victims = tuple(sorted({*root.victims, *finding.victims} - set(root.candidates)))
    assert root.where is not None
    root.sentence = (
        f"Some finished {words.blocked(root.where)} and others did not, as where a process dies in it; "
        f"{words.named(case.merged, root.candidates)} may have caused this."
    )


def _company(case: Case, rank: int) -> set[int]:
    """The members of the group of its newest call; of all its groups where the calls were not kept."""
    merged, digested = case.merged, case.merged.ranks[rank]
    calls = array("I", digested.calls[-4 * CALL_WORDS :])
    slots = [calls[0] & SLOT] if calls else range(len(merged.places[rank]))
    places = [merged.places[rank][slot] for slot in slots if slot < len(merged.places[rank])]
    return {member for at in places if at >= 0 for member in merged.groups[at].ranks}
