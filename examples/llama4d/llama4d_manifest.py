"""What makes a directory of files a checkpoint: fresh, described, and moved into place in one step.

A checkpoint library notices a missing or a short file, and loads a flipped bit, another step's file or a mixture of
two saves without a word. So every save goes to a directory of its own, a manifest with the size and SHA-256 of every
file is written there last, and a rename puts the whole under its name. What has no manifest is no checkpoint.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

FORMAT = 1
MANIFEST = "manifest.json"
NO_DIGEST = "0" * 64  # stands in the digest's place while the digest is computed
TEMPORARY = re.compile(r"\.tmp-step-\d{8,}-attempt-\d{3,}-(\d+)")
REPLACED = ".replaced-"
READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Label:
    """Which save this is."""

    step: int
    run: str
    attempt: int
    generation: int
    mesh: str
    world_size: int

    @property
    def name(self) -> str:
        """The directory it is committed under."""
        return f"step-{self.step:08d}-attempt-{self.attempt:03d}"

    @property
    def temporary_name(self) -> str:
        """The directory it is written in."""
        return f".tmp-{self.name}-{self.generation}"


def make_fresh(folder: Path, label: Label) -> Path:
    """An empty directory to write this save in; what an interrupted save left under its name goes."""
    temporary = folder / label.temporary_name
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def describe(path: Path) -> dict[str, int | str]:
    """Size in bytes and SHA-256 of one file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def write(temporary: Path, label: Label, files: dict[str, dict[str, int | str]]) -> None:
    """Writes the manifest, after everything it names; refuses when that is not exactly what lies there."""
    there = {str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file()}
    if there != set(files):
        raise ValueError(f"{temporary}: files {sorted(there ^ set(files))} are on disk or described, and not both")
    saved_at = datetime.datetime.now(datetime.UTC).isoformat()
    about = {"format": FORMAT, **dataclasses.asdict(label), "saved_at": saved_at, "digest": NO_DIGEST}
    text = json.dumps({**about, "files": dict(sorted(files.items()))}, indent=1)
    draft = temporary / f"{MANIFEST}.tmp"
    with draft.open("w") as file:
        file.write(text.replace(NO_DIGEST, _digest(text), 1))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(temporary / MANIFEST)
    _sync(temporary)


def _digest(text: str) -> str:
    """SHA-256 of the manifest with zeros in its digest's place: it vouches for the files, and this for it."""
    return hashlib.sha256(text.encode()).hexdigest()


def commit(temporary: Path, label: Label) -> Path:
    """Moves a described save under its name and returns where it is."""
    final = temporary.parent / label.name
    replaced = temporary.parent / f"{REPLACED}{label.name}"
    if final.exists():  # this step was saved before, by a run that was told to start from an older checkpoint
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def committed(folder: Path) -> list[Path]:
    """Every committed checkpoint, newest first by the time it was saved."""
    found = []
    for path in folder.glob("step-*-attempt-*"):
        record = read(path)
        if record is not None:
            found.append((str(record["saved_at"]), path.name, path))
    return [path for *_, path in sorted(found, reverse=True)]


def read(path: Path) -> dict[str, object] | None:
    """The manifest of a checkpoint; None where there is none to be read."""
    try:
        record = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and {"format", "step", "saved_at", "files"} <= set(record)
    return record if whole else None


def problem(path: Path) -> str | None:
    """Why a checkpoint cannot be loaded, in one sentence; None when every byte is as it was written."""
    record = read(path)
    if record is None:
        return f"{path} has no readable {MANIFEST}, so it was never committed"
    if record["format"] != FORMAT:
        return f"{path}/{MANIFEST} has format {record['format']!r}; this job reads format {FORMAT}"
    digest = str(record.get("digest", ""))
    if digest and _digest((path / MANIFEST).read_text().replace(digest, NO_DIGEST, 1)) != digest:
        return f"{path}/{MANIFEST} is not what was written: its own digest differs"
    files = record["files"]
    assert isinstance(files, dict)
    for name, expected in files.items():
        try:
            found = describe(path / name)
        except OSError as error:
            return f"{path / name} cannot be read: {error.strerror}"
        if found != expected:
            return f"{path / name} is {found}, and its manifest says {expected}"
    return None


def sweep(folder: Path, generation: int | None) -> list[str]:
    """Removes what interrupted saves left, those of this generation and older ones alone; None removes all."""
    removed = []
    for path in folder.glob(f"{REPLACED}*"):  # its commit was interrupted between two renames
        final = folder / path.name.removeprefix(REPLACED)
        if final.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(final)
    for path in sorted(folder.glob(".tmp-step-*")):
        match = TEMPORARY.fullmatch(path.name)
        if match and (generation is None or int(match[1]) <= generation):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed


def prune(folder: Path, keep: int, resumed_from: str | None = None) -> list[str]:
    """Removes all committed checkpoints but the newest `keep`, oldest first; 0 removes none.

    What this attempt was told to resume from stays, since no newer one may have been looked at yet; and nothing goes
    unless one of those that are kept is, byte for byte, as it was written.
    """
    found = committed(folder) if keep else []
    kept, old = found[:keep], found[keep:]
    if not old or not any(problem(path) is None for path in kept):
        return []
    removed = []
    for path in reversed(old):
        if resumed_from and path.resolve() == Path(resumed_from).resolve():
            continue
        # Without its manifest it is no checkpoint any more, whatever interrupts the rest.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path.name)
    return removed


def _sync(folder: Path) -> None:
    """Makes the names in a directory survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
