"""Checkpoints and disks: a load that failed on what it read, a save that found no room, and what was found beside
training.

A rank that dies while it loads the checkpoint that we gave it speaks against that checkpoint when its last words do, or
when nothing else is named and it was in phase ``load``. The same failure after another load speaks against the script.
What the search for a checkpoint turned down is evidence of every incident (``refused``), whatever its cause.
"""

from __future__ import annotations

from typing import Final

from outrider_controller.core import known
from outrider_controller.core import policy as policies
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import crash
from outrider_controller.core.diagnosis.case import Case, Finding, Judged, cause_of, evidence

CONFIDENCE: Final = 0.9
CONFIDENCE_BY_PHASE: Final = 0.6  # it died while loading and said nothing of the checkpoint
CONFIDENCE_FOUND: Final = 0.99  # the files were read
REFUSED_ROWS_MAX: Final = 8
# Kinds of problems of a checkpoint of which something is not there; all others are about what is there.
TORN_KINDS: Final = frozenset(
    {"missing", "size", "torn", "empty", "gap", "entry-missing", "entry-short", "chunk-gap", "not-latest", "ranks"}
)
OTHER_REASONS: Final = frozenset({"other-model", "storage", "device-error", "address-in-use", "nccl-usage"})
WORDS: Final = {"torn": "checkpoint-torn", "damaged": "checkpoint-damaged"}  # words of job_log and of runbooks


def find(case: Case) -> Finding | None:
    """The checkpoint that the attempt could not load, or the disk that a rank could not write to."""
    own = [j for j in case.judged() if j.kind not in crash.ECHOES and j.kind != "clean"]
    first = own[0] if own else None
    if first is None:
        return None
    if first.kind == "disk-full":
        return _no_room(case, first)
    loaded = case.attempt.resume_path
    if not loaded or case.attempt.training_at is not None:
        return None
    kind = first.kind if first.kind in WORDS.values() else ""
    if not kind and _died_loading(case, first):
        kind = WORDS["damaged"]
    cause = cause_of(case.policy, exit_=kind) if kind else None
    return _not_loaded(case, first, cause) if cause is not None else None


def _died_loading(case: Case, first: Judged) -> bool:
    """It ended by an error of its own in phase load, and never so after another load."""
    if first.exit.phase != "load" or first.kind not in ("python-error", "native-crash"):
        return False
    elsewhere = any(s.signature == first.signature and s.loaded != case.attempt.resume_path for s in case.job.spent)
    return first.pattern not in OTHER_REASONS and not elsewhere


def _not_loaded(case: Case, first: Judged, cause: str) -> Finding:
    attempt = case.attempt
    k = known.checkpoint(case.job, attempt.resume_path)
    step = k.step if k is not None else attempt.resume_step
    named = first.kind in WORDS.values()
    rows = [
        evidence(first.exit.at, first.node, "rank-exited", first.text, cause),
        evidence(
            case.at, "controller", "checkpoint", f"the attempt was loading step {step}: {attempt.resume_path}", cause
        ),
    ]
    rows += crash.echo_rows(first, case.judged(), cause)
    return Finding(
        cause=cause,
        confidence=CONFIDENCE if named else CONFIDENCE_BY_PHASE,
        sentence=f"the checkpoint of step {step} could not be loaded: {first.text}, on {first.node}",
        signature=first.signature,
        evidence=tuple(rows),
    )


def _no_room(case: Case, first: Judged) -> Finding | None:
    cause = cause_of(case.policy, exit_=first.kind)
    if cause is None:
        return None
    rows = [evidence(first.exit.at, first.node, "rank-exited", first.text, cause)]
    rows += [
        evidence(case.at, node, "disk-full", f"{mount or 'a file system'} of {node} has no room", cause)
        for node, mount in case.job.full_disks
    ]
    rows += crash.echo_rows(first, case.judged(), cause)
    return Finding(
        cause=cause,
        confidence=CONFIDENCE,
        sentence=f"{first.text}, on {first.node}",
        signature=first.signature,
        ranks=(first.exit.rank,),
        evidence=tuple(rows),
    )


def refused(case: Case, cause: str) -> tuple[dict[str, object], ...]:
    """One row of evidence for every checkpoint that was turned down for this restart."""
    items = case.job.refused[:REFUSED_ROWS_MAX]
    return tuple(
        evidence(case.at, "controller", "checkpoint-refused", f"{item.path} was refused: {item.why}", cause)
        for item in items
    )


def of_finding(job: states.JobState, finding: states.Finding, policy: policies.Policy) -> Finding:
    """The cause of something that did not interrupt the job."""
    if finding.kind == known.DAMAGED:
        return _damaged(job, finding, policy)
    cause = _disk_cause(finding, policy)
    row = evidence(finding.at, finding.source, finding.kind, finding.text, cause)
    nodes = () if finding.kind == known.RECORDING_FAILED else (finding.source,)
    return Finding(cause, CONFIDENCE_FOUND, finding.text, finding.key, (), nodes, (row,))


def _disk_cause(finding: states.Finding, policy: policies.Policy) -> str:
    full = finding.kind == known.DISK_FULL or any(word in finding.text.lower() for word in _FULL)
    word = cause_of(policy, exit_="disk-full") if full else None
    return word or next(name for name, rule in policy.rules.items() if rule.match.anything)


_FULL: Final = ("disk is full", "no space left", "errno 28", "quota exceeded")  # SQLite's words and the kernel's


def _damaged(job: states.JobState, finding: states.Finding, policy: policies.Policy) -> Finding:
    k = known.checkpoint(job, finding.device)
    first = str(k.problems[0].get("kind")) if k is not None and k.problems else ""
    word = WORDS["torn" if first in TORN_KINDS else "damaged"]
    cause = cause_of(policy, exit_=word) or next(name for name, rule in policy.rules.items() if rule.match.anything)
    step = f"of step {k.step}" if k is not None else "at " + finding.device
    newest = "newest " if job.checkpoints and job.checkpoints[0].path == finding.device else ""
    best = next((other for other in job.checkpoints if other.trusted), None)
    left = f"the newest good one is of step {best.step}" if best else "no other is known to be good"
    sentence = f"the {newest}checkpoint {step} was refused: {finding.text}; {left}"
    rows = [evidence(finding.at, finding.source, "checkpoint-refused", f"{finding.device}: {finding.text}", cause)]
    if best is not None:
        rows.append(evidence(finding.at, "controller", "checkpoint", f"{best.path} is {best.trust}", cause))
    return Finding(cause, CONFIDENCE_FOUND, sentence, finding.key, (), (), tuple(rows))
