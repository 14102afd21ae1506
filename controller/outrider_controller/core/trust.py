"""Which checkpoint a job may be restarted from: the ladder of trust, what moves a checkpoint on it, and what is kept.

    written < complete < hashed < loadable < survived;  rejected stands outside and is never loaded

Files are looked at beside training (effect ``verify-checkpoint``, asked for after each save and again every
LOOK_AGAIN_S), so a restart need look only at what is new or has changed. What no look at files can show is told by what
becomes of the jobs that load them: SURVIVED_STEPS steps trained from it make a checkpoint ``survived``; a load that
fails on its content takes it out at once; a crash or a loss that is no number soon after the load does so at the
second time. A killed rank, a lost node, or a failure that also struck an attempt that had loaded something else says
nothing about a checkpoint.

``Could not read`` is never ``step 0``: a job of which checkpoints exist and none is trusted waits for a person.
"""

from __future__ import annotations

from typing import Final

from outrider import vocabulary
from outrider_controller.core import known, records
from outrider_controller.core import state as states
from outrider_controller.core.turn import Turn

LOOK_AGAIN: Final = "look-at-checkpoints"
LOOK_AGAIN_S: Final = 600.0  # damage on the disk is found within this, while an older checkpoint still stands
FAILURES_MAX: Final = 2  # crashes or losses without a number soon after loads of one checkpoint
DAMAGE: Final = frozenset({"checkpoint-corrupt", "checkpoint-torn"})
# Causes that may lie in the numbers that were loaded.
DOUBTS: Final = frozenset({"loss-nan", "rank-crashed", "user-error"})
AFTER_NAN: Final = "it was saved at or after step"
# Effects that nobody waits for: neither the end of a job nor its restart.
ASIDE: Final = frozenset({"verify-checkpoint", "prune-checkpoints"})


def find(turn: Turn, name: str, incident: str | None) -> None:
    """Ask for the newest checkpoint that the next attempt may load, with all that is known already."""
    job = turn.job(name)
    looked_at = {k.path: _looked_at(k) for k in job.checkpoints if k.fingerprint}
    distrusted = {k.path: k.distrust for k in job.checkpoints if k.distrust}
    turn.effect(
        name,
        "find-checkpoint",
        incident,
        generation=job.generation + 1,
        before_step=job.not_finite_step,
        distrusted=distrusted,
        known=looked_at,
    )


def _looked_at(k: states.KnownCheckpoint) -> dict[str, str]:
    """What the last look at it found; the reason goes along, so that whoever refuses it unread can say why."""
    found = {"trust": k.trust, "fingerprint": k.fingerprint, "tree": k.tree}
    return {**found, "why": known.words(k.problems)} if k.trust == vocabulary.REJECTED else found


def saved(turn: Turn, fact: records.CheckpointSaved, before: states.State) -> None:
    """A checkpoint was committed: it is looked at beside training, unless its numbers are none."""
    job = turn.state.jobs.get(fact.job)
    if job is None or job.attempt is None or job.attempt.generation != fact.generation or job.over:
        return
    bad = job.attempt.not_finite
    if bad is not None and fact.step >= bad.step:
        turn.emit(_after_nan(turn, fact.job, fact.path, fact.step, bad))
        return
    look(turn, fact.job)


def not_finite(turn: Turn, name: str, bad: records.NotFinite) -> None:
    """What the attempt saved at or after its first step without numbers is not loaded again."""
    for k in turn.job(name).checkpoints:
        if k.generation == bad.generation and k.step >= bad.step and not k.distrust:
            turn.emit(_after_nan(turn, name, k.path, k.step, bad))


def _after_nan(turn: Turn, name: str, path: str, step: int, bad: records.NotFinite) -> records.CheckpointTrusted:
    why = f"{AFTER_NAN} {bad.step}, whose {' and '.join(bad.what)}"
    return records.CheckpointTrusted(turn.at, name, path, step, vocabulary.REJECTED, why)


def look(turn: Turn, name: str) -> None:
    """Have the newest checkpoint that nobody has looked at verified; one at a time, the newest first.

    Of a job that is complete that is the last one alone: what it was trained for.
    """
    job = turn.job(name)
    if any(e.name == "verify-checkpoint" for e in job.pending) or (job.over and job.state != "completed"):
        return
    known_ones = job.checkpoints[:1] if job.over else job.checkpoints
    new = next((k for k in known_ones if not k.tried and not k.distrust and k.generation is not None), None)
    if new is not None:
        turn.effect(name, "verify-checkpoint", None, path=new.path, step=new.step)
        if not job.over and LOOK_AGAIN not in dict(job.timers):
            turn.timer(name, LOOK_AGAIN, turn.at + LOOK_AGAIN_S)


def look_again(turn: Turn, name: str) -> None:
    """Look at the newest trusted checkpoint once more, and at those of which the last look brought no answer."""
    job = turn.job(name)
    if job.over:
        return
    turn.timer(name, LOOK_AGAIN, turn.at + LOOK_AGAIN_S)
    if any(e.name == "verify-checkpoint" for e in job.pending):
        return
    best = next((k for k in job.checkpoints if not k.distrust and k.trust != vocabulary.REJECTED), None)
    if best is not None:
        turn.effect(name, "verify-checkpoint", None, path=best.path, step=best.step, tree=best.tree)


def verified(turn: Turn, fact: records.EffectDone, effect: records.EffectRequested) -> None:
    """A verdict is in: the next look, and what need not be kept any longer."""
    job = turn.job(fact.job)
    look(turn, fact.job)
    if job.over:
        return
    new = known.checkpoint(job, str(effect.args.get("path") or ""))
    if fact.ok and new is not None and new.trusted:
        _prune(turn, fact.job)


def _prune(turn: Turn, name: str) -> None:
    job = turn.job(name)
    if job.spec.checkpoint_keep < 1 or any(e.name == "prune-checkpoints" for e in job.pending):
        return
    best = next((k for k in job.checkpoints if k.trusted), None)
    if best is None or sum(k.trusted for k in job.checkpoints) <= job.spec.checkpoint_keep:
        return
    loaded = job.attempt.resume_path if job.attempt else ""
    protect = [k.path for k in job.checkpoints if k.step >= best.step or k.path == loaded]
    protect += [loaded] if loaded and loaded not in protect else []
    turn.effect(name, "prune-checkpoints", None, keep=job.spec.checkpoint_keep, protect=protect)


def step_reached(turn: Turn, name: str, before: states.State) -> None:
    """An attempt has trained SURVIVED_STEPS steps: what it had loaded was good."""
    job = turn.job(name)
    old, attempt = before.jobs[name].attempt, job.attempt
    if attempt is None or not attempt.proven or old is None or old.proven:
        return
    loaded = known.checkpoint(job, attempt.resume_path)
    if loaded is not None and loaded.trust != vocabulary.REJECTED:
        why = f"attempt {attempt.attempt} trained {states.SURVIVED_STEPS} steps from it"
        turn.emit(records.CheckpointTrusted(turn.at, name, loaded.path, loaded.step, "survived", why))


def blame(turn: Turn, name: str, found: records.Diagnosed) -> bool:
    """Demote the checkpoint that the broken attempt had loaded, where the failure speaks against it."""
    job = turn.job(name)
    attempt = job.attempt
    loaded = known.checkpoint(job, attempt.resume_path) if attempt is not None else None
    if attempt is None or loaded is None or attempt.proven:
        return False
    elsewhere = any(s.signature == found.signature and s.loaded != loaded.path for s in job.spent)
    if elsewhere and found.cause not in DAMAGE:  # two checkpoints may well be torn alike
        _forgive(turn, name, found)
        return False
    why = _reason(job, loaded, attempt, found)
    if why and not loaded.distrust:
        turn.emit(records.CheckpointTrusted(turn.at, name, loaded.path, loaded.step, vocabulary.REJECTED, why))
    return bool(why)


def _reason(
    job: states.JobState, loaded: states.KnownCheckpoint, attempt: states.Attempt, found: records.Diagnosed
) -> str:
    if found.cause in DAMAGE and attempt.training_at is None:
        return f"attempt {attempt.attempt} could not load it: {found.sentence}"
    if found.cause not in DOUBTS:
        return ""
    times = 1 + sum(
        s.loaded == loaded.path and s.soon and s.cause in DOUBTS and s.at >= loaded.since for s in job.spent
    )
    if times < FAILURES_MAX:
        return ""
    return f"{times} attempts broke within {states.SURVIVED_STEPS} steps of loading it, the last by {found.cause}"


def _forgive(turn: Turn, name: str, found: records.Diagnosed) -> None:
    """The same failure struck after another load: checkpoints that were blamed for it alone are so no longer."""
    job = turn.job(name)
    blamed = {s.loaded for s in job.spent if s.signature == found.signature}
    for k in job.checkpoints:
        if k.path in blamed and k.distrust and not k.distrust.startswith(AFTER_NAN):
            why = f"the same failure struck an attempt that had loaded another one: {found.sentence}"
            turn.emit(records.CheckpointTrusted(turn.at, name, k.path, k.step, "written", why))


def forgive_all(turn: Turn, name: str) -> None:
    """A person has looked and lets the job go on though nothing was left to load: what was demoted is tried again."""
    job = turn.job(name)
    if not nothing_left(job):
        return
    for k in job.checkpoints:
        if k.distrust and not k.distrust.startswith(AFTER_NAN):
            why = "a person looked and lets it be tried again"
            turn.emit(records.CheckpointTrusted(turn.at, name, k.path, k.step, "written", why))


def nothing_left(job: states.JobState) -> str:
    """Why the job cannot be restarted by itself though it once had checkpoints; empty where it can."""
    if job.resume_path:
        return ""
    if job.vanished_step and job.spec.checkpoint_dir:
        return (
            f"no checkpoint is left in {job.spec.checkpoint_dir}, and there was one of step {job.vanished_step}: mount "
            "or restore it; approve the job as it is to begin from the beginning"
        )
    refused = [item for item in job.refused if not _needless(job, item)]
    if not refused:
        return ""
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return (
        f"no checkpoint can be trusted: {named(refused[0])}{more} refused ({refused[0].why}). Repair one, or move all "
        "of them away to begin from the beginning, and approve the job"
    )


def _needless(job: states.JobState, item: states.Refused) -> bool:
    """A refused checkpoint that a start from the beginning leaves out rightly.

    Either nobody said that it was saved and its last file is not there: it was never finished. Or an attempt that had
    itself begun at the beginning saved it after its numbers were gone: nothing good is lost.
    """
    k, attempt = known.checkpoint(job, item.path), job.attempt
    if k is None or k.generation is None:
        words = f"{item.why}; {known.words(k.problems) if k else ''}".replace(": ", " ")
        return any(f"{name} is missing" in words for name in WRITTEN_LAST)
    if attempt is None or attempt.resume_path or attempt.generation != k.generation:
        return False
    return k.distrust.startswith(AFTER_NAN) or (job.not_finite_step is not None and k.step >= job.not_finite_step)


WRITTEN_LAST: Final = (".metadata", "latest_checkpointed_iteration.txt")  # by DCP, by Megatron


def named(item: states.Refused | states.KnownCheckpoint) -> str:
    """``step 8 (step-00000008-attempt-002)``: a checkpoint as a person finds it again."""
    name = item.path.rstrip("/").rsplit("/", 1)[-1] or item.path
    return f"step {item.step} ({name})" if item.step >= 0 else name
