"""Merged digests -> who broke which collective, and nobody else; why; and ``unknown`` where that is the truth.

    waits (board) -> the graph of waits and its ends (graph) -> one finding for each end (rules) -> Verdict

See docs/decisions for how blame is given and what was turned down.
"""

from __future__ import annotations

from typing import Any

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import (
    absence,
    board,
    graph,
    hidden,
    laggards,
    mismatch,
    moving,
    order,
    revealed,
    rules,
    slow,
    unseen,
    words,
)
from outrider_analysis.flight_recorder.verdict.finding import UNKNOWN, VERDICTS, Finding, Verdict, Where
from outrider_analysis.flight_recorder.verdict.hints import Hint, HintError, Hints

__all__ = ["VERDICTS", "Finding", "Hint", "HintError", "Hints", "Verdict", "Where", "judge"]

NONE: float = 0.9  # that nothing is stuck, where all were heard
DISMISSED: float = 0.5  # where ranks do wait for each other, and no time tells whether the job moves
DEVICES_MAX: int = 3
FORGOT: float = 0.6  # no more than this where rings have forgotten the first operations that are not over
GUESSED: float = 0.5  # where the members of the group are not told
GUESSED_MAX: int = 2  # culprits in such groups: more, and it is the guess that is wrong
SURE: float = 0.7  # a straggler is not put in the place of another finding with less
DOUBT: float = 0.75  # no more than this where dumps are missing that could change the answer


def judge(merged: Merged, hints: Hints | None = None) -> Verdict:
    """The verdict over all ranks that were heard. ``hints``: what a look at the ranks told beside their records."""
    if not merged.ranks:
        return Verdict(merged, [], note="No dump could be read.")
    hints = (hints or Hints()).before_the_end(merged.world)
    shown = revealed.reveal(merged, hints)
    merged = shown.merged
    waits = board.lay_out(merged)
    orders = order.Orders(merged)
    wrong = {}
    for group, found in mismatch.find(waits, orders).items():
        at = waits.at.get((group, found.seq))
        if at is not None:
            wrong[at] = found
    network = graph.build(waits, absence.possible(waits, orders), wrong)
    case = rules.Case(waits, orders, network, wrong)
    findings = []
    for end, reached in zip(network.ends, network.victims(), strict=True):
        if len(reached) == len(end) and not any(node[0] == "wait" or node[1] in merged.ranks for node in end):
            continue  # of a rank without a dump that need not be the reason of any wait
        finding = rules.judge(case, end)
        if finding is not None:
            finding.victims = tuple(sorted({n for kind, n in reached if kind == "rank"} - set(finding.culprits)))
            findings.append(finding)
    findings = moving.stuck(case, _weighed(case, findings, hints, shown), len(findings))
    if case.dismissed:
        findings = _untold(case)
    findings = _remembered(case, findings)
    findings += _behind_those(case, findings)
    findings.sort(key=_rank)
    _doubt(case, findings)
    _distrust(case, findings)
    findings.sort(key=_rank)
    doubtful = case.pictured and all(f.kind in moving.WEAK or f.kind == "unknown" for f in findings)
    if (doubtful or not findings) and not hidden.anywhere(merged):
        straggler = slow.find(case)  # whom all wait for again and again, so that this moment is one more such wait
        if straggler is not None and (not findings or straggler.confidence >= SURE):
            findings = [straggler]
    return _verdict(case, findings)


def _behind_those(case: rules.Case, findings: list[Finding]) -> list[Finding]:
    """Second faults that the first ones hide; gloo hides too much for that."""
    if not findings or any(rank.gloo for rank in case.merged.ranks.values()):
        return []
    named = {rank for finding in findings for rank in (*finding.culprits, *finding.candidates)}
    found = laggards.find(case, named)
    for finding in found:
        finding.confidence = min([finding.confidence, *(other.confidence for other in findings)])
    return found


def _weighed(case: rules.Case, findings: list[Finding], hints: Hints, shown: revealed.Revealed) -> list[Finding]:
    """Without what another finding explains, and ranks without dumps that may each have been the one as one finding.

    An operation that all have joined is explained by a rank to blame that is in it, or that waits with its members; a
    circle by a rank in it that is to blame by itself.
    """
    findings = unseen.weigh(case, _absentees(findings), hints, shown)
    alone = {finding.culprits[0] for finding in findings if len(finding.culprits) == 1}
    findings = [f for f in findings if len(f.culprits) < 2 or not alone.intersection(f.culprits)]
    findings = _devices(findings)
    blamed = [finding for finding in findings if finding.culprits]
    close = {rank for finding in blamed for rank in (*finding.culprits, *finding.victims)}
    close |= {rank for finding in blamed if finding.where for rank in finding.where.ranks}
    return [
        finding
        for finding in findings
        if not (finding.joined or finding.kind == "all-joined-stuck")
        or finding.where is None
        or not close.intersection(finding.where.ranks)
    ]


def _devices(findings: list[Finding]) -> list[Finding]:
    """Devices do not fail by the dozen: many that seem stuck are of dumps of different moments, or behind another."""
    stuck = [finding for finding in findings if finding.kind == "device-stuck"]
    if len(stuck) < DEVICES_MAX:
        return findings
    rest = [finding for finding in findings if finding.kind != "device-stuck"]
    if not any(finding.culprits for finding in rest):
        first = min(stuck, key=lambda finding: (finding.since_ns or 2**63, finding.culprits))
        first.candidates = tuple(sorted({rank for finding in stuck for rank in finding.culprits}))
        first.kind, first.confidence, first.culprits, first.stack = "unknown", UNKNOWN, (), ()
        first.sentence = (
            f"{len(stuck)} devices seem not to finish what their peers did; that many are not stuck at once."
        )
        rest.append(first)
    return rest


def _untold(case: rules.Case) -> list[Finding]:
    """Where members of groups are guessed, what looks like a job at work may be stuck. Gloo never tells them."""
    groups = case.merged.groups
    if any(rank.gloo for rank in case.merged.ranks.values()):
        return []
    waits = [wait for wait in case.board.waits if not groups[wait.group].told]
    if 2 * len(waits) <= len(case.board.waits):
        return []
    first = min(waits, key=lambda wait: wait.since_ns or 2**63)
    sentence = (
        f"{len(case.board.fronts)} ranks wait in groups whose members nothing tells, so whether for somebody who does "
        "not come is not known; a mesh or a file of groups would tell."
    )
    return [rules.untold(case, first, sentence)]


def _remembered(case: rules.Case, findings: list[Finding]) -> list[Finding]:
    """Without what blames nobody at ranks whose rings have forgotten what they wait in first, if others remember."""
    ranks = case.merged.ranks

    def forgotten(finding: Finding) -> bool:
        told = [ranks[rank] for rank in (finding.where.ranks if finding.where else ()) if rank in ranks]
        return not finding.culprits and bool(told) and all(rank.active_only and rank.wrapped for rank in told)

    kept = [finding for finding in findings if not forgotten(finding)]
    return kept if case.forgot and kept else findings


def _absentees(findings: list[Finding]) -> list[Finding]:
    doubtful = [finding for finding in findings if finding.absent and not finding.culprits]
    if len(doubtful) < 2:
        return findings
    first = min(doubtful, key=lambda finding: (finding.since_ns or 2**63, finding.candidates))
    first.candidates = tuple(sorted({rank for finding in doubtful for rank in finding.candidates}))
    first.victims = tuple(sorted({rank for finding in doubtful for rank in finding.victims} - set(first.candidates)))
    return [finding for finding in findings if finding is first or finding not in doubtful]


def _rank(item: Finding) -> tuple[Any, ...]:
    """Findings that name somebody come first, then those that most wait for."""
    return (not item.culprits, item.kind == "unknown", -len(item.victims), item.since_ns, item.culprits)


def _doubt(case: rules.Case, findings: list[Finding]) -> None:
    """What is missing might show another root: dumps, members of groups, and what rings have forgotten."""
    unheard = {rank for wait in case.board.waits for rank in wait.unheard}
    forgot = case.forgot
    for finding in findings:
        if unheard - set(finding.culprits):
            finding.confidence = min(finding.confidence, DOUBT)
            finding.evidence.append(
                f"{len(unheard)} {'rank' if len(unheard) == 1 else 'ranks'} that others wait for left no dump"
            )
        if finding.looked:
            continue
        if forgot:
            finding.confidence = min(finding.confidence, FORGOT)
            finding.evidence.append("rings of some ranks no longer hold what they were the first to wait in")
        if finding.where is not None and _is_guessed(case, finding.where):
            finding.confidence = min(finding.confidence, GUESSED)
            finding.evidence.append("nothing tells the members of this group but who mentions it")


def _distrust(case: rules.Case, findings: list[Finding]) -> None:
    """Groups that share a name are one by a guess, and then seem broken at many places: nobody is named by that."""
    guessed = [f for f in findings if not f.looked and f.where is not None and _is_guessed(case, f.where)]
    if len({rank for finding in guessed for rank in finding.culprits}) <= GUESSED_MAX:
        return
    for finding in guessed:
        finding.candidates = tuple(sorted({*finding.candidates, *finding.culprits}))
        finding.kind, finding.confidence, finding.culprits, finding.stack = "unknown", UNKNOWN, (), ()
        finding.sentence += " This takes for one group whoever mentions its name, which cannot be right here."


def _is_guessed(case: rules.Case, where: Where) -> bool:
    return any(
        not group.told and (group.name, group.ranks) == (where.group, where.ranks) for group in case.merged.groups
    )


def _verdict(case: rules.Case, findings: list[Finding]) -> Verdict:
    culprits = {rank for finding in findings for rank in finding.culprits}
    blocked = {rank for finding in findings for rank in finding.victims if rank in case.board.fronts} - culprits
    waits = []
    for rank in sorted(blocked):
        wait = case.board.waits[case.board.fronts[rank][0]]
        ranks = wait.missing or wait.unheard or sorted({*wait.behind, *wait.waiting} - {rank})
        waits.append((rank, case.merged.groups[wait.group].name, tuple(ranks[:64])))
    heard = len(case.merged.ranks) / max(1, case.merged.world)
    sure = min(NONE * heard, DISMISSED if case.dismissed else NONE)
    merged = revealed.heard(case.merged)
    note = words.nothing(len(merged.ranks), merged.world)
    if not any(rank.timing or rank.gloo for rank in merged.ranks.values()):
        note += " A slow device would not show: times on the devices were not recorded (TORCH_NCCL_ENABLE_TIMING)."
    return Verdict(merged, findings, waits, tuple(sorted(blocked)), note, sure)
