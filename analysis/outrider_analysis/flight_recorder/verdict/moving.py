"""Stuck or at work? Dumps of a job that runs show ranks that wait too, each for a moment.

Time tells, where the dumps go on after the last call: torch stamps what it finds finished while it dumps. A job
without a call for longer than its own pauses, or with one that timed out, is stuck; of one wait alone its age tells
nothing, since hosts call far ahead of their devices. Where the dumps end with the last call, the picture tells: a job
at work waits in several places at once for ranks that compute, a stuck one has one end to which everything leads. That
picture may also be a moment of a running job, so nobody is named with confidence by it alone.
"""

from __future__ import annotations

import statistics
from array import array
from typing import Final

from outrider_analysis.flight_recorder.verdict.finding import UNKNOWN, Finding
from outrider_analysis.flight_recorder.verdict.rules import Case

PAUSES: Final = 3.0  # a wait so many times as long as the longest pause between two calls is no pause
TAKEN_NS: Final = 10 * 10**9  # a dump's own moment counts from here on: writing and copying take seconds too
TAKEN_GLOO_NS: Final = 3 * 10**9  # of gloo's, which a thread of the rank gives at once and which show nobody at work
RARE: Final = 8
BY_PICTURE: Final = 0.7  # no more confidence than this where times tell nothing
QUIET_NS: Final = 60 * 10**9  # without a call for so long: stuck, where the job's own pauses are not known
ENDS_MAX: Final = 3
ASKED_MAX: Final = 512  # ranks whose pauses are looked at
CAME_NOT: Final = ("rank-missing", "p2p-missing")
BY_WEAK_PICTURE: Final = 0.5
WEAK: Final = ("device-stuck", "all-joined-stuck")
PROOF: Final = ("collective-mismatch", "size-mismatch", "dtype-mismatch", "order-mismatch")


def stuck(case: Case, findings: list[Finding], ends: int) -> list[Finding]:
    """The findings that stand, of so many ``ends`` of the graph; none where the job moves."""
    ranks = case.merged.ranks.values()
    usual = _usual(case)
    called = max((rank.called_ns for rank in ranks), default=0)
    now, taken = max((rank.newest_ns for rank in ranks), default=0), max((rank.taken_ns for rank in ranks), default=0)
    gloo = any(rank.gloo for rank in ranks)
    timed_out = any(op.timed_out for wait in case.board.waits for op in wait.waiting.values())
    long = PAUSES * usual if usual else QUIET_NS
    # A file's time may be that of a copy, and one fault does not leave many places where all are there.
    many = ends > ENDS_MAX and not gloo and not case.forgot and all(_is_nobodys(finding) for finding in findings)
    later = taken - called > max(long, TAKEN_GLOO_NS if gloo else TAKEN_NS) and not many
    if timed_out or now - called > long or later:
        return findings
    kept = [finding for finding in findings if finding.proof or finding.kind in PROOF]
    if kept:
        return findings
    few = len(findings) == 1 or (ends == len(findings) <= ENDS_MAX and _are_rare(case, findings))
    if not few or _at_work(case, findings):
        case.dismissed = bool(findings)
        return []
    case.pictured = True
    for finding in findings:
        weak = finding.kind in WEAK or len(findings) > 1  # dumps of different moments look so too
        finding.confidence = min(finding.confidence, BY_PICTURE if not weak else BY_WEAK_PICTURE)
        if finding.kind == "device-stuck":
            _spare(finding)
    return findings


def _spare(finding: Finding) -> None:
    """Name no device by the picture alone: its dump may have been taken a moment before those of its peers."""
    finding.candidates = finding.culprits
    finding.kind, finding.confidence, finding.culprits, finding.stack = "unknown", UNKNOWN, (), ()
    finding.sentence += " Dumps that were taken one after another from a job at work look like this as well."


def _is_nobodys(finding: Finding) -> bool:
    """Does this blame no rank, or no more than a device, by nothing but the moment at which its dumps were taken?"""
    return finding.kind in WEAK or (finding.kind == "unknown" and not finding.absent and not finding.proof)


def _usual(case: Case) -> int:
    """How long things take in this job: its longest pause between two calls, or from a call to its end."""
    found = []
    for rank in case.merged.ranks.values():
        if rank.active_only:
            continue  # what it finished is not there, and so neither its pauses
        longest = rank.gap_ns
        for group in rank.groups:
            column = array("q", group.arrivals)
            for at in range(0, len(column), 3):
                if column[at] and column[at + 1]:
                    longest = max(longest, column[at + 1] - column[at])
        found.append(longest)
        if len(found) >= ASKED_MAX:
            break
    return int(statistics.median(found)) if found else 0


def _are_rare(case: Case, findings: list[Finding]) -> bool:
    """Few ranks that did not come, in a job of many: that many faults at once, and not that many who compute."""
    named = {rank for finding in findings for rank in (*finding.culprits, *finding.candidates)}
    came_not = all(finding.kind in CAME_NOT or finding.absent for finding in findings)
    return came_not and RARE * len(named) <= len(case.merged.ranks)


def _at_work(case: Case, findings: list[Finding]) -> bool:
    """Is anybody neither waiting nor waited for?"""
    reached = {rank for f in findings for rank in (*f.victims, *f.culprits, *f.candidates)}
    return any(rank not in reached for rank in case.merged.ranks)
