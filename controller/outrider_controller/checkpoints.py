"""What checkpoints lie in a directory, and how far each is trusted, without torch and without trusting a byte of
them.

In: a directory that a job writes, possibly full of half-written, damaged or hostile files. Out: one ``Checkpoint``
per candidate with its problems, newest first, and the one to resume from. A bad candidate is ``rejected`` with its
reason and harms nobody; a directory that cannot be read is an error, because "could not look" is not "there is none".

Trust so far: ``complete`` (our manifest, and every file it names is there with its size), ``written`` (a foreign DCP
or Megatron checkpoint whose last file is there), ``rejected``.

    CheckpointError   the directory itself cannot be read
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outrider_controller import manifests

ENTRIES_MAX: Final = 100_000  # of one directory
CHECKPOINTS_LISTED_MAX: Final = 1_000
FILES_COUNTED_MAX: Final = 200_000
TRACKER: Final = "latest_checkpointed_iteration.txt"
TRACKER_BYTES_MAX: Final = 64
METADATA: Final = ".metadata"  # torch.distributed.checkpoint writes it last

_STEP: Final = re.compile(r"(\d{1,15})(?!.*\d)")
_STEP_NAMED: Final = re.compile(r"(?:step|iter|iteration|global_step|checkpoint|ckpt)[-_=]?(\d{1,15})", re.IGNORECASE)
_OURS: Final = re.compile(r"step-\d{8,}-attempt-\d{3,}")  # the name under which the manifest's writer commits
_ITERATION: Final = re.compile(r"iter_(\d{1,15})")

Problem = manifests.Problem


class CheckpointError(OSError):
    """The directory of checkpoints cannot be read; the message names it and the way out."""


@dataclass(frozen=True)
class Checkpoint:
    """One candidate. ``step`` is None where nothing readable says it."""

    path: str
    step: int | None
    attempt: int | None
    generation: int | None
    layout: str
    trust: str
    problems: tuple[Problem, ...]
    bytes: int
    files: int

    @property
    def document(self) -> dict[str, Any]:
        """The entry of ``outrider checkpoint list --json``."""
        return {
            "path": self.path,
            "step": self.step,
            "attempt": self.attempt,
            "layout": self.layout,
            "trust": self.trust,
            "problems": [{"file": p.file, "kind": p.kind, "text": p.text} for p in self.problems],
            "bytes": self.bytes,
            "files": self.files,
        }


def listing(directory: Path, layout: str = "dcp") -> dict[str, Any]:
    """The document of ``outrider checkpoint list``; raises CheckpointError where the directory cannot be read."""
    found = list(judged(directory, layout))
    best = newest_trusted(found)
    return {"checkpoints": [item.document for item in found], "resume_from": best.path if best else None}


def find(directory: Path, layout: str = "dcp") -> dict[str, Any]:
    """What a restart needs to know: path, step and trust of the checkpoint to load, and those turned down on the way.

    A directory that does not exist yet holds no checkpoint; one that exists and cannot be read raises CheckpointError.
    """
    if not directory.exists() and directory.parent.is_dir():
        return _answer(None, [])
    seen: list[Checkpoint] = []
    for item in judged(directory, layout):
        seen.append(item)
        if item.trust == "complete":
            break
    return _answer(newest_trusted(seen), [item for item in seen if item.trust == "rejected"])


def load_argument(path: str, layout: str) -> str:
    """What a loader is given for the checkpoint at ``path``: Megatron wants the directory with the tracker file."""
    return os.path.dirname(path) if path and layout == "megatron" else path


def newest_trusted(found: list[Checkpoint]) -> Checkpoint | None:
    """The newest complete one, else the newest written one, else None."""
    for trust in ("complete", "written"):
        for item in found:
            if item.trust == trust and item.step is not None:
                return item
    return None


def judged(directory: Path, layout: str = "dcp") -> Iterator[Checkpoint]:
    """Candidates of ``directory``, newest first, each judged when it is asked for."""
    names = _candidates(directory)
    if layout == "megatron":
        yield from _megatron(directory, names)
        return
    claims = [(manifests.read(directory / name), name) for name in names]
    steps = [(_claimed_step(claim, name), claim.generation or 0, name, claim) for claim, name in claims]
    for step, _, name, claim in sorted(steps, key=lambda item: item[:3], reverse=True)[:CHECKPOINTS_LISTED_MAX]:
        yield _dcp(directory / name, None if step < 0 else step, claim)


def _candidates(directory: Path) -> list[str]:
    """Names of folders and of links (which are turned down later); half-written ``.tmp-*`` ones are no candidates."""
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


def _claimed_step(claim: manifests.Claim, name: str) -> int:
    if claim.step is not None:
        return claim.step
    found = _STEP_NAMED.search(name) or _STEP.search(name)
    return int(found.group(1)) if found else -1


def _dcp(folder: Path, step: int | None, claim: manifests.Claim) -> Checkpoint:
    problems = list(claim.problems)
    if folder.is_symlink():
        problems = [Problem(folder.name, "symlink", "is a link; a checkpoint must lie in its directory itself")]
    elif claim.manifest is not None:
        problems += manifests.problems_of_files(folder, claim.manifest)
    elif not problems and _OURS.fullmatch(folder.name):
        problems.append(Problem(manifests.NAME, "missing", "is missing: the checkpoint is being removed"))
    if not problems:
        problems += _metadata_problems(folder)
    if not problems and step is None:
        problems.append(Problem(folder.name, "no-step", "neither a manifest nor the folder's name says its step"))
    trust = "rejected" if problems else "complete" if claim.manifest is not None else "written"
    size, files = (0, 0) if folder.is_symlink() else _measure(folder)
    return Checkpoint(
        path=str(folder),
        step=step,
        attempt=claim.manifest.attempt if claim.manifest else None,
        generation=claim.generation,
        layout="dcp",
        trust=trust,
        problems=tuple(problems),
        bytes=size,
        files=files,
    )


def _metadata_problems(folder: Path) -> list[Problem]:
    try:
        found = os.lstat(folder / METADATA)
    except FileNotFoundError:
        return [Problem(METADATA, "missing", "is missing: the checkpoint was never finished")]
    except OSError as error:
        return [Problem(METADATA, "unreadable", f"cannot be looked at: {error.strerror}")]
    if not stat.S_ISREG(found.st_mode):
        return [Problem(METADATA, "not-a-file", "is not a plain file")]
    if found.st_size == 0:
        return [Problem(METADATA, "size", "is empty: the checkpoint was never finished")]
    return []


def _megatron(directory: Path, names: list[str]) -> Iterator[Checkpoint]:
    latest, problem = _tracker(directory / TRACKER)
    steps = [(int(found.group(1)), name) for name in names if (found := _ITERATION.fullmatch(name))]
    for step, name in sorted(steps, reverse=True)[:CHECKPOINTS_LISTED_MAX]:
        folder = directory / name
        size, files = (0, 0) if folder.is_symlink() else _measure(folder)
        problems: list[Problem] = []
        if folder.is_symlink():
            problems.append(Problem(name, "symlink", "is a link; a checkpoint must lie in its directory itself"))
        elif problem is not None:
            problems.append(problem)
        elif latest is not None and step != latest:
            problems.append(
                Problem(TRACKER, "not-latest", f"names iteration {latest}, which is the one a loader takes")
            )
        elif files == 0:
            problems.append(Problem(name, "empty", "holds no file"))
        trust = "rejected" if problems else "written"
        yield Checkpoint(str(folder), step, None, None, "megatron", trust, tuple(problems), size, files)


def _tracker(path: Path) -> tuple[int | None, Problem | None]:
    text, trouble = manifests.read_bounded(path, TRACKER_BYTES_MAX)
    if trouble is not None or text is None:
        return None, trouble or Problem(TRACKER, "missing", "is missing: no iteration was ever finished")
    word = text.decode("ascii", errors="replace").strip()
    if not word.isascii() or not word.isdigit():
        return None, Problem(TRACKER, "not-a-number", f"says {word!r}, which is no iteration")
    return int(word), None


def _measure(folder: Path) -> tuple[int, int]:
    """Bytes and number of the plain files in ``folder``, at most FILES_COUNTED_MAX of them; links are not followed."""
    size = files = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(root, name))
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                size, files = size + found.st_size, files + 1
            if files >= FILES_COUNTED_MAX:
                return size, files
    return size, files


def _answer(best: Checkpoint | None, rejected: list[Checkpoint]) -> dict[str, Any]:
    turned_down = [
        {"path": item.path, "why": "; ".join(f"{p.file}: {p.text}" for p in item.problems)} for item in rejected
    ]
    if best is None or best.step is None:
        return {"path": "", "step": 0, "trust": "", "rejected": turned_down}
    return {"path": best.path, "step": best.step, "trust": best.trust, "rejected": turned_down}
