"""The manifest that a committed checkpoint carries: read as a stranger's words, and compared with what lies beside it.

``manifest.json`` is written last and says of every file its size and SHA-256. In: the folder of one candidate. Out: a
``Claim`` (what the manifest says, or why it is not believed) and the files that do not match. Sizes are compared here;
hashes are for the fuller verification, since they cost a read of every byte.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

NAME: Final = "manifest.json"
FORMAT: Final = 1
MANIFEST_BYTES_MAX: Final = 32 * 1024 * 1024
STEP_MAX: Final = 10**15
FILE_NAME_CHARS_MAX: Final = 1024
PROBLEMS_MAX: Final = 20  # one line each for a person; a thousand missing files are one finding


@dataclass(frozen=True)
class Problem:
    """One reason against a checkpoint: the file (relative to it), a word for programs and a sentence for people."""

    file: str
    kind: str
    text: str


@dataclass(frozen=True)
class FileClaim:
    """What the manifest says of one file."""

    bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """The manifest's keys."""

    format: int
    step: int
    files: dict[str, FileClaim]
    run: str = ""
    attempt: int = 0
    generation: int = 0
    mesh: str = ""
    world_size: int = 0
    saved_at: float | str = 0.0


@dataclass(frozen=True)
class Claim:
    """What a candidate says of itself: a manifest, problems with it, or neither (a checkpoint of someone else)."""

    manifest: Manifest | None = None
    problems: tuple[Problem, ...] = field(default=())

    @property
    def step(self) -> int | None:
        """The step it claims."""
        return self.manifest.step if self.manifest else None

    @property
    def generation(self) -> int | None:
        """The generation it claims."""
        return self.manifest.generation if self.manifest else None


def read(folder: Path) -> Claim:
    """The claim of the candidate at ``folder``; never raises for what lies there."""
    if folder.is_symlink():
        return Claim()
    text, problem = read_bounded(folder / NAME, MANIFEST_BYTES_MAX)
    if problem is not None:
        return Claim(problems=(problem,))
    if text is None:
        return Claim()
    try:
        manifest = msgspec.json.decode(text, type=Manifest, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Claim(problems=(Problem(NAME, "not-a-manifest", f"is not a manifest: {error}"),))
    problems = _contradictions(manifest)
    return Claim(problems=problems) if problems else Claim(manifest)


def read_bounded(path: Path, bytes_max: int) -> tuple[bytes | None, Problem | None]:
    """Content of a small plain file; None where it is missing, a problem where it is anything but that.

    Opened without following a link and without waiting, since a pipe in its place would hold us for ever.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        kind = "symlink" if path.is_symlink() else "unreadable"
        return None, Problem(path.name, kind, f"cannot be read: {error.strerror}")
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None, Problem(path.name, "not-a-file", "is not a plain file")
        if found.st_size > bytes_max:
            text = f"has {found.st_size} bytes, at most {bytes_max} are read"
            return None, Problem(path.name, "too-large", text)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(bytes_max), None
    except OSError as error:
        return None, Problem(path.name, "unreadable", f"cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)


def problems_of_files(folder: Path, manifest: Manifest) -> list[Problem]:
    """Files that the manifest names and that are not there exactly so; at most PROBLEMS_MAX and how many more."""
    problems: list[Problem] = []
    more = 0
    for name, claim in manifest.files.items():
        problem = _file_problem(folder, name, claim)
        if problem is None:
            continue
        if len(problems) < PROBLEMS_MAX:
            problems.append(problem)
        else:
            more += 1
    if more:
        problems.append(Problem(NAME, "more", f"{more} more files do not match"))
    return problems


def _contradictions(manifest: Manifest) -> tuple[Problem, ...]:
    if manifest.format != FORMAT:
        return (Problem(NAME, "format", f"has format {manifest.format}, this version reads {FORMAT}"),)
    if not 0 <= manifest.step <= STEP_MAX:
        return (Problem(NAME, "step", f"claims step {manifest.step}, which no job reaches"),)
    if not manifest.files:
        return (Problem(NAME, "no-files", "names no file"),)
    if manifest.attempt < 0 or manifest.generation < 0 or manifest.world_size < 0:
        return (Problem(NAME, "negative", "claims a negative attempt, generation or world size"),)
    return ()


def _file_problem(folder: Path, name: str, claim: FileClaim) -> Problem | None:
    shown = name[:FILE_NAME_CHARS_MAX]
    if claim.bytes < 0:
        return Problem(shown, "size", f"is claimed to have {claim.bytes} bytes")
    parts = name.split("/")
    if not name or len(name) > FILE_NAME_CHARS_MAX or "\0" in name or any(part in ("", ".", "..") for part in parts):
        return Problem(shown, "path", "is not a plain path within the checkpoint")
    try:
        for depth in range(1, len(parts)):
            if not stat.S_ISDIR(os.lstat(folder.joinpath(*parts[:depth])).st_mode):
                return Problem(shown, "symlink", "leads through something that is not a folder")
        found = os.lstat(folder / name)
    except FileNotFoundError:
        return Problem(shown, "missing", "is missing")
    except (OSError, ValueError) as error:  # ValueError: a name that the system cannot encode
        return Problem(shown, "unreadable", f"cannot be looked at: {getattr(error, 'strerror', None) or error}")
    if not stat.S_ISREG(found.st_mode):
        return Problem(shown, "symlink" if stat.S_ISLNK(found.st_mode) else "not-a-file", "is not a plain file")
    if found.st_size != claim.bytes:
        return Problem(shown, "size", f"has {found.st_size} bytes, the manifest says {claim.bytes}")
    return None
