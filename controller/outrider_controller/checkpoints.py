"""What checkpoints lie in a directory, how far each is trusted, and which one a restart may load.

In: a directory that a job writes, possibly full of half-written, damaged or hostile files. Out: a ``Survey`` of its
candidates, newest first, from their names and manifests alone; and from the verifier (``verifier``) a verdict for
each that is asked for. A bad candidate is ``rejected`` with its reason and harms nobody; a directory that cannot be
read is an error, because "could not look" is not "there is none".

    CheckpointError   the directory cannot be read, or nothing in it could be looked at
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outrider_analysis.checkpoints import Problem
from outrider_controller import manifests, verifier
from outrider_controller.verification import files, megatron

ENTRIES_MAX: Final = 100_000  # of one directory
CHECKPOINTS_LISTED_MAX: Final = 1_000
TRACKER_BYTES_MAX: Final = 64
LISTED: Final = ("path", "step", "attempt", "layout", "trust", "problems", "bytes", "files")
VERIFIED: Final = (*LISTED, "tree", "notes", "seconds")

Verdict = dict[str, Any]
Progress = Callable[[str, int], None]  # path, bytes read


class CheckpointError(OSError):
    """The directory of checkpoints cannot be read; the message names it and the way out."""


@dataclass(frozen=True)
class Candidate:
    """One folder that may be a checkpoint. ``step`` is None where nothing readable says it."""

    path: str
    step: int | None
    generation: int
    manifest: manifests.Manifest | None = None


@dataclass(frozen=True)
class Survey:
    """A directory: its candidates, newest first, and what they say about each other."""

    directory: Path
    layout: str
    candidates: tuple[Candidate, ...]
    run: str = ""  # the run that the directory belongs to
    latest: int | None = None  # of Megatron's tracker
    tracker: Problem | None = None  # why the tracker cannot be believed

    def request(self, path: str, **changes: Any) -> verifier.Request:
        """What the verifier has to know about the one at ``path``."""
        others = [c for c in self.candidates if c.path != path and c.manifest is not None]
        own = [c.manifest.step for c in others if c.manifest is not None and c.manifest.run == self.run]
        given: dict[str, Any] = {
            "layout": self.layout,
            "manifest": bool(others) and self.layout == "dcp",
            "run": self.run if own else "",
            "run_step_min": min(own, default=None),
            "latest": self.latest,
            **changes,
        }
        return verifier.Request(path, **given)


def survey(directory: Path, layout: str = "dcp", run: str = "") -> Survey:
    """Look at names and manifests. ``run``: of the job that asks, else that of the newest save.

    Raises CheckpointError.
    """
    names = _names(directory)
    if layout == "megatron":
        latest, problem = _tracker(directory / megatron.TRACKER)
        steps = [(manifests.step_of_name(name), name) for name in names if name.startswith("iter_")]
        found = [Candidate(str(directory / name), step, 0) for step, name in steps if step is not None]
        return Survey(directory, layout, _newest_first(found), "", latest, problem)
    found = [_candidate(directory, name) for name in names]
    if not run:
        saved = [c.manifest for c in found if c.manifest is not None]
        run = max(saved, key=lambda manifest: manifest.saved_at).run if saved else ""
    return Survey(directory, layout, _newest_first(found), run)


def exists(directory: Path) -> bool:
    """Whether there is a directory; one that was never made holds no checkpoint. Raises CheckpointError."""
    return directory.exists() or not directory.parent.is_dir()


def surroundings(path: Path, layout: str) -> Survey:
    """The survey of the directory that a checkpoint lies in. Raises CheckpointError."""
    return survey(path.parent, layout)


async def verified(seen: Survey, path: str, within_s: float | None = None, **changes: Any) -> Verdict:
    """The verdict on one of the candidates. Raises verifier.CouldNotLookError."""
    progress = changes.pop("progress", None)
    if seen.tracker is not None:
        against = seen.tracker
        problem = {"file": against.file, "kind": against.kind, "text": against.text}
        found = await verifier.verify(seen.request(path, **{**changes, "quick": True}), within_s)
        return found if found["trust"] == "rejected" else {**found, "trust": "rejected", "problems": [problem]}
    return await verifier.verify(seen.request(path, **changes), within_s, progress)


async def listing(
    directory: Path, layout: str = "dcp", *, quick: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """The document of ``outrider checkpoint list``. Raises CheckpointError, verifier.CouldNotLookError."""
    seen = survey(directory, layout)
    found = []
    for candidate in seen.candidates:
        tell = None if progress is None else _for(progress, candidate.path)
        if tell is not None:
            tell(0)
        found.append(await verified(seen, candidate.path, quick=quick, urgent=True, progress=tell))
    best = next((v["path"] for v in found if v["trust"] in verifier.TRUSTED and v["step"] is not None), None)
    return {"checkpoints": [{key: v[key] for key in LISTED} for v in found if not v["gone"]], "resume_from": best}


def load_argument(path: str, layout: str) -> str:
    """What a loader is given for the checkpoint at ``path``: Megatron wants the directory with the tracker file."""
    return os.path.dirname(path) if path and layout == "megatron" else path


def is_checkpoint(candidate: Candidate) -> bool:
    """Whether a folder is surely one of the job's checkpoints, so that it may be removed as such."""
    folder = Path(candidate.path)
    if folder.is_symlink() or candidate.step is None:
        return False
    named = manifests.OURS.fullmatch(folder.name) or folder.name.startswith("iter_")
    return bool(named or candidate.manifest is not None or (folder / ".metadata").is_file())


def unchanged(path: str, known: dict[str, Any]) -> bool:
    """Whether no file of a checkpoint was touched since a verdict on it. Raises OSError."""
    return bool(known.get("fingerprint")) and files.fingerprint_of(Path(path)) == known["fingerprint"]


def _for(progress: Progress, path: str) -> Callable[[int], None]:
    return lambda count: progress(path, count)


def _names(directory: Path) -> list[str]:
    """Names of folders and of links (which are turned down later); hidden ones are no candidates."""
    try:
        with os.scandir(directory) as entries:
            found = [
                entry.name
                for _, entry in zip(range(ENTRIES_MAX), entries, strict=False)
                if not entry.name.startswith(".") and (entry.is_symlink() or entry.is_dir(follow_symlinks=False))
            ]
    except OSError as error:
        raise CheckpointError(
            f"{directory}: checkpoints cannot be looked for: {error.strerror or error}. "
            "Mount or repair it, or give checkpoint_dir another value"
        ) from error
    return sorted(found)


def _candidate(directory: Path, name: str) -> Candidate:
    manifest = manifests.read(directory / name).manifest
    step = manifest.step if manifest is not None else manifests.step_of_name(name)
    return Candidate(str(directory / name), step, manifest.generation if manifest is not None else 0, manifest)


def _newest_first(found: list[Candidate]) -> tuple[Candidate, ...]:
    def age(candidate: Candidate) -> tuple[int, int, str]:
        return (-1 if candidate.step is None else candidate.step, candidate.generation, candidate.path)

    return tuple(sorted(found, key=age, reverse=True)[:CHECKPOINTS_LISTED_MAX])


def _tracker(path: Path) -> tuple[int | None, Problem | None]:
    text, trouble = manifests.read_bounded(path, TRACKER_BYTES_MAX)
    if trouble is not None or text is None:
        return None, trouble or Problem(megatron.TRACKER, "missing", "is missing: no iteration was ever finished")
    word = text.decode("ascii", errors="replace").strip()
    if not word.isascii() or not word.isdigit() or len(word) > 15:
        return None, Problem(megatron.TRACKER, "not-a-number", f"says {word!r}, which is no iteration")
    return int(word), None
