"""What a job's state keeps of its checkpoints and of findings that did not interrupt it: pure steps from row to state.

Each function is one row's part of ``evolve``: it writes down what the row says and decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from outrider import vocabulary
from outrider_controller.core import records
from outrider_controller.core import state as states

PROBLEMS_KEPT_MAX: Final = 4
WHY_CHARS_MAX: Final = 500
DAMAGED: Final = "damaged-checkpoint"
DISK_FULL: Final = "disk-full"
DISK_CLEAR: Final = "disk-clear"
RECORDING_FAILED: Final = "recording-failed"


def checkpoint(job: states.JobState, path: str) -> states.KnownCheckpoint | None:
    """What is known of the checkpoint at ``path``."""
    return next((k for k in job.checkpoints if k.path == path), None)


def damaged_key(path: str) -> str:
    """The key of the finding that a checkpoint is damaged."""
    return f"{DAMAGED}:{path}"


def saved(job: states.JobState, row: records.CheckpointSaved) -> states.JobState:
    """A checkpoint of which nothing is known yet; one that was there under its name is gone with its past."""
    return _put(job, states.KnownCheckpoint(row.path, row.step, row.generation, row.at))


def verified(job: states.JobState, verdict: Mapping[str, Any], at: float, tell: bool) -> states.JobState:
    """A verdict on the files of one checkpoint. ``tell``: a fresh rejection becomes a finding."""
    path = str(verdict.get("path") or "")
    if verdict.get("gone"):
        return _without(job, (path,))
    old = checkpoint(job, path)
    if not path or (old is None and verdict.get("step") is None):
        return job
    old = old or states.KnownCheckpoint(path, int(verdict["step"]), None, at)
    new = _looked_at(old, verdict)
    if tell and new.trust == vocabulary.REJECTED and old.trust != vocabulary.REJECTED:
        job = with_finding(job, states.Finding(damaged_key(path), DAMAGED, at, "verifier", words(new.problems), path))
    return _put(job, new)


def _looked_at(old: states.KnownCheckpoint, verdict: Mapping[str, Any]) -> states.KnownCheckpoint:
    trust, fingerprint = str(verdict.get("trust") or "written"), str(verdict.get("fingerprint") or "")
    if old.trust == "survived" and trust in vocabulary.TRUST and (old.tree == verdict.get("tree", "") or not old.tree):
        trust = "survived"  # the same content, looked at again
    return dataclasses.replace(
        old,
        trust=trust,
        fingerprint=fingerprint,
        tree=str(verdict.get("tree") or ""),
        problems=tuple(verdict.get("problems") or ())[:PROBLEMS_KEPT_MAX],
        tried=True,
    )


def looked(job: states.JobState, effect: records.EffectRequested, row: records.EffectDone) -> states.JobState:
    """A look beside training has ended; one that brought no answer is not taken at once again."""
    path = str(effect.args.get("path") or "")
    old = checkpoint(job, path)
    job = _put(job, dataclasses.replace(old, tried=True)) if old is not None else job
    return verified(job, {**row.result, "path": path}, row.at, tell=True) if row.ok else job


def found_for_incident(job: states.JobState, row: records.EffectDone) -> states.JobState:
    """The same, and the step that the incident's next attempt resumes from."""
    job = found(job, row.result, row.at)
    if job.incident is None:
        return job
    return dataclasses.replace(job, incident=dataclasses.replace(job.incident, checkpoint_step=job.resume_step))


def found(job: states.JobState, result: Mapping[str, Any], at: float) -> states.JobState:
    """What find-checkpoint answered: the one to load, those turned down, the verdicts that it reached on the way."""
    newest = job.newest_checkpoint_step
    for verdict in result.get("judged") or ():
        job = verified(job, verdict, at, tell=False)
    path = str(result.get("path") or "")
    step = int(result.get("step") or 0) if path else 0
    refused = tuple(_refused(job, item) for item in result.get("rejected") or ())
    keys = {damaged_key(item.path) for item in refused}
    return dataclasses.replace(
        job,
        resume_path=path,
        resume_step=step,
        newest_checkpoint_step=step,
        refused=refused[: states.CHECKPOINTS_KNOWN_MAX],
        vanished_step=newest if not path and not refused else 0,
        findings=tuple(f for f in job.findings if f.key not in keys),  # the incident's evidence tells of them
    )


def _refused(job: states.JobState, item: Mapping[str, Any]) -> states.Refused:
    path, step = str(item["path"]), item.get("step")
    known = checkpoint(job, path)
    if step is None:
        step = known.step if known is not None else -1
    why = str(item.get("why") or (known.distrust or words(known.problems) if known is not None else ""))
    return states.Refused(path, int(step), why[:WHY_CHARS_MAX])


def trusted(job: states.JobState, row: records.CheckpointTrusted) -> states.JobState:
    """What became of a job that loaded it: survived, rejected, or blamed no more."""
    old = checkpoint(job, row.path) or states.KnownCheckpoint(row.path, row.step, None, row.at)
    if row.trust == vocabulary.REJECTED:
        return _put(job, dataclasses.replace(old, distrust=row.why))
    if row.trust == "survived":
        return _put(job, dataclasses.replace(old, trust="survived"))
    return _put(job, dataclasses.replace(old, distrust=""))


def loaded(job: states.JobState, row: records.AttemptPlanned) -> states.JobState:
    """An attempt begins from a checkpoint."""
    if not row.resume_path:
        return job
    old = checkpoint(job, row.resume_path) or states.KnownCheckpoint(row.resume_path, row.resume_step, None, row.at)
    return _put(job, dataclasses.replace(old, loads=old.loads + 1))


def not_finite(job: states.JobState, row: records.NotFinite) -> states.JobState:
    """The attempt's first step without numbers; no checkpoint from it on is good."""
    attempt = job.attempt
    if attempt is None or attempt.generation != row.generation or attempt.not_finite is not None:
        return job
    step = row.step if job.not_finite_step is None else min(job.not_finite_step, row.step)
    return dataclasses.replace(job, attempt=dataclasses.replace(attempt, not_finite=row), not_finite_step=step)


def reached(job: states.JobState, row: records.StepReached) -> states.JobState:
    """Steps that were watched for are behind the attempt."""
    attempt = job.attempt
    if attempt is None or attempt.generation != row.generation:
        return job
    if attempt.resume_path and row.step >= attempt.resume_step + states.SURVIVED_STEPS:
        job = dataclasses.replace(job, attempt=dataclasses.replace(attempt, proven=True))
    if job.not_finite_step is not None and attempt.not_finite is None and row.step >= job.not_finite_step:
        job = dataclasses.replace(job, not_finite_step=None)
    return job


def removed(job: states.JobState, paths: Iterable[str]) -> states.JobState:
    """Checkpoints that were taken off the disk."""
    return _without(job, paths)


def disk(job: states.JobState, row: records.Observed) -> states.JobState:
    """A file system of one of the job's nodes has no room, or has room again. Once for each until it is clear."""
    seen = row.observation
    place = (seen.node, seen.device or "")
    if seen.kind == DISK_CLEAR:
        return dataclasses.replace(job, full_disks=tuple(p for p in job.full_disks if p != place))
    if place in job.full_disks:
        return job
    job = dataclasses.replace(job, full_disks=(*job.full_disks, place)[-states.FINDINGS_KEPT_MAX :])
    key = f"{DISK_FULL}:{place[0]}:{place[1]}"
    return with_finding(job, states.Finding(key, DISK_FULL, seen.at, seen.node, seen.text, place[1]))


def recording_failed(job: states.JobState, row: records.RecordingFailed) -> states.JobState:
    """The controller's own disk took no rows for a while."""
    text = f"the controller could record nothing for {max(0.0, row.at - row.since):.1f} s: {row.error}"
    finding = states.Finding(f"{RECORDING_FAILED}:{row.since}", RECORDING_FAILED, row.at, "controller", text)
    return with_finding(job, finding)


def with_finding(job: states.JobState, finding: states.Finding) -> states.JobState:
    """Keep a finding until it is told of, each once; more than FINDINGS_KEPT_MAX at a time tell nothing new."""
    if any(f.key == finding.key for f in job.findings) or len(job.findings) >= states.FINDINGS_KEPT_MAX:
        return job
    return dataclasses.replace(job, findings=(*job.findings, finding))


def told(job: states.JobState, key: str) -> states.JobState:
    """An incident of its own tells of the finding."""
    rest = tuple(f for f in job.findings if f.key != key)
    return dataclasses.replace(job, findings=rest, told=(*job.told, key)[-states.TOLD_KEPT_MAX :])


def words(problems: Iterable[Mapping[str, Any]]) -> str:
    """``__3_0.distcp is not what was written``: the problems of a verdict in one line."""
    shown = [f"{p.get('file', '')} {p.get('text', '')}".strip() for p in problems]
    return "; ".join(shown[:PROBLEMS_KEPT_MAX]) or "no reason was given"


def _put(job: states.JobState, new: states.KnownCheckpoint) -> states.JobState:
    others = (k for k in job.checkpoints if k.path != new.path)
    ordered = sorted((new, *others), key=lambda k: (k.step, k.generation or 0, k.since), reverse=True)
    return dataclasses.replace(job, checkpoints=tuple(ordered[: states.CHECKPOINTS_KNOWN_MAX]))


def _without(job: states.JobState, paths: Iterable[str]) -> states.JobState:
    gone = set(paths)
    return dataclasses.replace(job, checkpoints=tuple(k for k in job.checkpoints if k.path not in gone))
