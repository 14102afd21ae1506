"""The effects that concern checkpoints: find the one to load, verify one beside training, remove old ones.

Each may be repeated under its id: looking changes nothing, the fence only rises, and what is removed stays removed.

    CheckpointError   (checkpoints) the directory or its file system is not what it should be
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from outrider_controller import bounded, checkpoints, finding, retention, verifier
from outrider_controller.core import jobs, records

FENCE: Final = ".outrider-fence"
FENCE_BYTES_MAX: Final = 4096
FIND_S_MAX: Final = 60.0
VERIFY_S_MAX: Final = 6 * 3600.0  # beside training, at the lowest priority
PRUNE_S_MAX: Final = 1800.0

Json = dict[str, Any]


class CheckpointEffects:
    """Performs them. One verification at a time for each job, since each reads as fast as the disk allows."""

    def __init__(self, ledger_id: str) -> None:
        self._ledger_id = ledger_id
        self._verifying: dict[str, asyncio.Lock] = {}  # job -> held while a checkpoint of it is verified

    async def find(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> Json:
        """The newest checkpoint that is trusted. Raises CheckpointError."""
        directory = checkpoint_dir(spec)
        if directory is None:
            return {"path": "", "step": 0, "trust": "", "rejected": [], "passed_over": [], "judged": []}
        args = effect.args
        known, distrusted = args.get("known") or {}, args.get("distrusted") or {}
        given = {absolute(spec, path): path for path in (*known, *distrusted)}
        wanted = finding.Wanted(
            directory,
            spec.checkpoint_layout,
            spec.name,
            {absolute(spec, path): about for path, about in known.items()},
            {absolute(spec, path): why for path, why in distrusted.items()},
            args.get("before_step"),
            spec.limits.verify_s,
        )
        try:
            generation, first = int(args["generation"]), effect.incident is None
            await bounded.call("raise-fence", FIND_S_MAX, self._fence, directory, spec, generation, first)
            return _as_given(await finding.find(wanted), given)
        except TimeoutError as error:
            words = str(error) or f"it did not answer within {FIND_S_MAX:g} s; is its file system there?"
            raise checkpoints.CheckpointError(f"{directory}: {words}") from error

    async def verify(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> Json:
        """The verdict on one checkpoint. Raises CheckpointError."""
        path = Path(absolute(spec, str(effect.args["path"])))
        async with self._verifying.setdefault(effect.job, asyncio.Lock()):
            try:
                seen = await bounded.call(
                    "verify-checkpoint", FIND_S_MAX, checkpoints.survey, path.parent, spec.checkpoint_layout, spec.name
                )
                step, tree = effect.args.get("step"), str(effect.args.get("tree") or "")
                found = await checkpoints.verified(seen, str(path), VERIFY_S_MAX, step=step, tree=tree)
            except (verifier.CouldNotLookError, TimeoutError) as error:
                raise checkpoints.CheckpointError(str(error) or f"{path}: its directory does not answer") from error
        return {**found, "path": str(effect.args["path"]), "step": step if found["step"] is None else found["step"]}

    async def prune(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> Json:
        """Remove old checkpoints. Raises CheckpointError, OSError."""
        directory = checkpoint_dir(spec)
        if directory is None:
            return {"removed": [], "kept": []}
        given = {absolute(spec, str(path)): str(path) for path in effect.args.get("protect") or ()}
        keep = int(effect.args["keep"])
        try:
            removed, kept = await bounded.call("prune", PRUNE_S_MAX, _prune, directory, spec, keep, frozenset(given))
        except TimeoutError as error:
            words = str(error) or f"checkpoints were not removed within {PRUNE_S_MAX:g} s; is its file system there?"
            raise checkpoints.CheckpointError(f"{directory}: {words}") from error
        return {"removed": [given.get(path, path) for path in removed], "kept": [given.get(p, p) for p in kept]}

    def _fence(self, directory: Path, spec: jobs.JobSpec, generation: int, first: bool) -> None:
        if first:
            make_directory(directory, spec.user)
        elif not (directory / FENCE).is_file():
            raise checkpoints.CheckpointError(
                f"{directory}: the file {FENCE} that marked it is gone, so this is not the directory that the job "
                "wrote to. Mount its file system again; if it was emptied on purpose, make an empty file of that name"
            )
        raise_fence(directory, generation, self._ledger_id)


def checkpoint_dir(spec: jobs.JobSpec) -> Path | None:
    """The job's directory of checkpoints; a relative one counts from where its ranks run."""
    return Path(spec.cwd or ".", spec.checkpoint_dir).absolute() if spec.checkpoint_dir else None


def absolute(spec: jobs.JobSpec, path: str) -> str:
    """A path that a rank spoke of, as seen from anywhere."""
    return os.path.normpath(Path(spec.cwd or ".", path).absolute())


def make_directory(directory: Path, user: str) -> None:
    """Make the job's directory before its first attempt, for the user whose ranks will write there."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if user and os.geteuid() == 0:
            try:
                shutil.chown(path, user)
            except LookupError as error:
                raise checkpoints.CheckpointError(
                    f"user {user!r}: is not known on the controller's machine; name another in the job's file"
                ) from error


def raise_fence(directory: Path, generation: int, ledger_id: str) -> None:
    """From now on ranks of a generation before ``generation`` may not commit a checkpoint in ``directory``.

    The fence of one ledger never falls, even if an old effect is repeated late. One that another ledger left belongs to
    a run that is gone, and its numbers say nothing about ours.
    """
    path = directory / FENCE
    if _standing(path, ledger_id) >= generation:
        return
    draft = directory / f"{FENCE}-{secrets.token_hex(4)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)  # the ranks may be another user's
            json.dump({"generation": generation, "ledger": ledger_id}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync(directory)


def _prune(directory: Path, spec: jobs.JobSpec, keep: int, protect: frozenset[str]) -> tuple[list[str], list[str]]:
    retention.sweep(directory)
    seen = checkpoints.survey(directory, spec.checkpoint_layout, spec.name)
    there = [c.path for c in seen.candidates if checkpoints.is_checkpoint(c)]
    going = retention.choose(there, keep, protect)
    for path in going:
        retention.remove(Path(path))
    return going, [path for path in there if path not in going]


def _as_given(answer: Json, given: dict[str, str]) -> Json:
    """The answer with paths written as the core knows them."""

    def renamed(items: Iterable[Json]) -> list[Json]:
        return [{**item, "path": given.get(item["path"], item["path"])} for item in items]

    lists = {key: renamed(answer[key]) for key in ("rejected", "passed_over", "judged")}
    return {**answer, **lists, "path": given.get(answer["path"], answer["path"])}


def _standing(path: Path, ledger_id: str) -> int:
    try:
        with path.open(encoding="ascii") as file:
            found = json.loads(file.read(FENCE_BYTES_MAX))
        return int(found["generation"]) if found.get("ledger") == ledger_id else -1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return -1


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
