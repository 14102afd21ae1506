"""The manifest that a committed checkpoint carries, read as a stranger's words.

``manifest.json`` is written last and says of every file its size and SHA-256. In: the folder of one candidate. Out: a
``Claim``: what the manifest says, or why it is not believed. Whether the files are those that it claims is found out
by ``outrider_analysis.checkpoints.claims``.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from outrider import mesh
from outrider_analysis.checkpoints import claims, problems

NAME: Final = "manifest.json"
FORMAT: Final = 1
MANIFEST_BYTES_MAX: Final = 32 * 1024 * 1024
STEP_MAX: Final = 10**15
FILE_NAME_CHARS_MAX: Final = 1024

OURS: Final = re.compile(r"step-(\d{8,15})-attempt-(\d{3,9})")  # the name under which the manifest's writer commits
_STEP: Final = re.compile(r"(\d{1,15})(?!.*\d)")
_STEP_NAMED: Final = re.compile(r"(?:step|iter|iteration|global_step|checkpoint|ckpt)[-_=]?(\d{1,15})", re.IGNORECASE)

Problem = problems.Problem


@dataclass(frozen=True)
class FileClaim:
    """What the manifest says of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The manifest's keys. ``digest``: SHA-256 of the manifest itself, computed with 64 zeros in its place."""

    format: int
    step: int
    files: dict[str, FileClaim]
    run: str
    attempt: int
    generation: int
    mesh: str
    world_size: int
    saved_at: str
    digest: str = ""

    @property
    def claimed(self) -> dict[str, claims.File]:
        """Size and hash by name."""
        return {name: (claim.bytes, claim.sha256) for name, claim in self.files.items()}


@dataclass(frozen=True)
class Claim:
    """What a candidate says of itself: a manifest, problems with it, or neither (a checkpoint of someone else)."""

    manifest: Manifest | None = None
    problems: tuple[Problem, ...] = ()

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
    return Claim() if text is None else parse(text)


def parse(text: bytes) -> Claim:
    """The claim that the content of a manifest makes."""
    try:
        manifest = msgspec.json.decode(text, type=Manifest, strict=True)
        keys = set(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Claim(problems=(Problem(NAME, "not-a-manifest", f"is not a manifest: {error}"),))
    against = _contradictions(manifest) or _damage(text, manifest, keys)
    return Claim(problems=against) if against else Claim(manifest)


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


def _contradictions(manifest: Manifest) -> tuple[Problem, ...]:
    if manifest.format != FORMAT:
        return (Problem(NAME, "format", f"has format {manifest.format}, this version reads {FORMAT}"),)
    if not 0 <= manifest.step <= STEP_MAX:
        return (Problem(NAME, "step", f"claims step {manifest.step}, which no job reaches"),)
    if not manifest.files:
        return (Problem(NAME, "no-files", "names no file"),)
    if manifest.attempt < 0 or manifest.generation < 0 or manifest.world_size < 0:
        return (Problem(NAME, "negative", "claims a negative attempt, generation or world size"),)
    if bare := claims.unhashed(manifest.claimed):
        return (Problem(bare[0], "no-sha256", "has no SHA-256 in the manifest"),)
    return ()


def _damage(text: bytes, manifest: Manifest, keys: set[str]) -> tuple[Problem, ...]:
    """The manifest vouches for the others; who vouches for the manifest is its own digest.

    One without a digest is held to what its values can show; one with it may have keys that this version knows not.
    """
    if manifest.digest:
        own = manifest.digest.encode("utf-8", "replace")
        blank = text.replace(own, b"0" * len(own)) if text.count(own) == 1 else b""
        if hashlib.sha256(blank).hexdigest() == manifest.digest:
            return ()
        return (Problem(NAME, "sha256", "is not what was written: its own digest differs"),)
    if strange := keys - {field.name for field in dataclasses.fields(Manifest)}:
        return (Problem(NAME, "key", f"has an unknown key {problems.shown(min(strange))} and no digest"),)
    try:
        datetime.datetime.fromisoformat(manifest.saved_at)
        fits = not manifest.mesh or mesh.parse(manifest.mesh).world_size == manifest.world_size
    except ValueError as error:
        return (Problem(NAME, "value", f"has a value that cannot be: {problems.shown(str(error))}"),)
    return () if fits else (Problem(NAME, "value", f"has mesh {manifest.mesh} and {manifest.world_size} ranks"),)


def step_of_name(name: str) -> int | None:
    """The step that a folder's name speaks of; None where it holds no number."""
    found = _STEP_NAMED.search(name) or _STEP.search(name)
    return int(found.group(1)) if found else None


def contradiction_of_name(name: str, manifest: Manifest) -> Problem | None:
    """A manifest of another checkpoint: a folder's name that says another step or attempt than the manifest in it."""
    ours, named = OURS.fullmatch(name), _STEP_NAMED.search(name)
    step = int(ours.group(1)) if ours else int(named.group(1)) if named else manifest.step
    if manifest.step != step:
        return Problem(NAME, "step", f"is that of step {manifest.step}, in the folder of step {step}")
    if ours and int(ours.group(2)) != manifest.attempt:
        text = f"is that of attempt {manifest.attempt}, in the folder of attempt {int(ours.group(2))}"
        return Problem(NAME, "attempt", text)
    return None
