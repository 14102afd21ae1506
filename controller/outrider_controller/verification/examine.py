"""The look at one checkpoint, as the child process does it: from what costs nothing to what reads every byte.

Flow: what lies there (``files``), what its manifest and its name claim, what its metadata says, and only if all of
that agrees the content of every file (``payload``). The first stage that finds something wrong is the last.

    GoneError      there is nothing at the path any more
    ChangedError   files changed while they were read; looked at again, they may be whole
    OSError        the file system did not let us look
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outrider_analysis.checkpoints import Problem, claims, metadata, pickled
from outrider_analysis.checkpoints.metadata import Entry
from outrider_controller import manifests
from outrider_controller.verification import files, limits, megatron, payload
from outrider_controller.verification.request import Request, Verdict, verdict

METADATA_BYTES_MAX: Final = 4 << 30
TORN_S_MIN: Final = 10.0  # clocks of the machines that write may differ by as much

Tell = Callable[[dict[str, Any]], None]


class GoneError(Exception):
    """There is nothing at the path."""


class ChangedError(Exception):
    """Files changed while they were read."""


@dataclass
class _Look:
    """What is known so far."""

    request: Request
    folder: Path
    found: dict[str, files.File] = field(default_factory=dict)
    manifest: manifests.Manifest | None = None
    spans: dict[str, Sequence[Entry]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def step(self) -> int | None:
        """The step that its manifest, else its name, speaks of."""
        return self.manifest.step if self.manifest else manifests.step_of_name(self.folder.name)

    def answer(self, trust: str, problems: Sequence[Problem] = (), tree: str = "") -> Verdict:
        """The verdict."""
        return verdict(
            self.request,
            trust,
            tuple(problems),
            step=self.step,
            attempt=self.manifest.attempt if self.manifest else None,
            fingerprint=files.fingerprint(self.found),
            tree=tree,
            size=sum(file.size for file in self.found.values()),
            files=len(self.found),
            notes=tuple(self.notes),
        )


def examine(request: Request, tell: Tell) -> Verdict:
    """The verdict on one checkpoint. ``tell`` is given each stage as it begins, and bytes read."""
    look = _Look(request, Path(request.path))
    against = _surface(look)
    if not against:
        against = _described(look, tell)
    if against:
        return look.answer("rejected", against)
    if request.quick:
        return look.answer("complete")
    return _content(look, tell)


def _surface(look: _Look) -> Sequence[Problem]:
    """What a look at names, sizes and the manifest shows."""
    folder = look.folder
    try:
        if folder.is_symlink():
            return [Problem(folder.name, "symlink", "is a link; a checkpoint must lie in its directory itself")]
        look.found, against = files.walk(folder)
    except FileNotFoundError as error:
        raise GoneError from error
    except NotADirectoryError:
        return [Problem(folder.name, "not-a-folder", "is no folder")]
    if against:
        return against
    if look.request.layout == "megatron":
        return megatron.surface(look.request, look.found)
    claim = manifests.read(folder)
    if claim.problems:
        return claim.problems
    look.manifest = claim.manifest
    if claim.manifest is None:
        needed = look.request.manifest or manifests.OURS.fullmatch(folder.name)
        return [_no_manifest(look)] if needed else _foreign(look)
    return _claimed(look, claim.manifest)


def _no_manifest(look: _Look) -> Problem:
    if metadata.NAME not in look.found:
        return Problem(metadata.NAME, "missing", "is missing: the checkpoint was never finished")
    text = "is missing: other checkpoints of this directory have one, so this was never finished or is being removed"
    return Problem(manifests.NAME, "missing", text)


def _claimed(look: _Look, manifest: manifests.Manifest) -> Sequence[Problem]:
    """Names and sizes against the manifest, and the manifest against the folder and the directory it lies in."""
    request = look.request
    if (trouble := manifests.contradiction_of_name(look.folder.name, manifest)) is not None:
        return [trouble]
    if request.step is not None and manifest.step != request.step:
        return [Problem(manifests.NAME, "step", f"is that of step {manifest.step}, step {request.step} was saved")]
    if request.run and manifest.run != request.run and manifest.step >= (request.run_step_min or 0):
        text = f"is that of run {manifest.run!r}, in the directory of run {request.run!r}"
        return [Problem(manifests.NAME, "run", text)]
    there = {name: (file.size, "") for name, file in look.found.items()}
    against = claims.differences(manifest.claimed, there, manifests.NAME, [manifests.NAME])
    if not against and metadata.NAME not in manifest.claimed:
        against = [Problem(metadata.NAME, "missing", "is missing: the manifest does not name it")]
    return against


def _foreign(look: _Look) -> Sequence[Problem]:
    """Without a manifest: the metadata is written last, so nothing that belongs to it may be much younger."""
    last = look.found.get(metadata.NAME)
    if last is None:
        return [Problem(metadata.NAME, "missing", "is missing: the checkpoint was never finished")]
    if look.step is None:
        return [Problem(look.folder.name, "no-step", "neither a manifest nor the folder's name says its step")]
    look.notes.append("has no manifest: its checksums find damage, and nothing shows that a file is of this step")
    return [
        Problem(file.name, "torn", f"was written {late:.0f} s after {metadata.NAME}, which is written last")
        for file in look.found.values()
        if file.name.endswith(".distcp") and (late := (file.mtime_ns - last.mtime_ns) / 1e9) > TORN_S_MIN
    ]


def _described(look: _Look, tell: Tell) -> Sequence[Problem]:
    """What the metadata says, and whether the files are what it speaks of."""
    if look.request.layout == "megatron":
        against, look.spans, notes = megatron.described(look.folder, look.found)
        look.notes += notes
        if against or metadata.NAME not in look.found:
            return against
    summary = _metadata(look.folder, look.found[metadata.NAME].size, tell)
    if isinstance(summary, Problem):
        return [summary]
    there = {name: file.size for name, file in look.found.items()}
    against = [*summary.problems, *metadata.sizes(summary, there)]
    look.spans = {**look.spans, **summary.files}
    strays = [name for name in there if name.endswith(".distcp") and name not in summary.files]
    if strays and look.manifest is None:
        look.notes.append(f"{len(strays)} data files belong to another save, {strays[0]} is one")
    return against


def _metadata(folder: Path, size: int, tell: Tell) -> metadata.Summary | Problem:
    """The metadata, read within bounds; what breaks them is a reason against it."""
    if size > METADATA_BYTES_MAX:
        return Problem(metadata.NAME, "too-large", f"has {size} bytes, at most {METADATA_BYTES_MAX} are read")
    descriptor = files.open_plain(folder / metadata.NAME)
    bound = limits.memory(size)
    data = files.read_at(descriptor, 0, size)
    tell({"stage": "metadata", "processor_s": limits.processor(size)})
    try:
        found: metadata.Summary | Problem = metadata.read(data)
    except pickled.RefusedError as error:
        found = Problem(metadata.NAME, "pickle", str(error))
    except MemoryError:
        found = Problem(metadata.NAME, "memory", f"needs more than {bound >> 20} MiB of memory to be read")
    except RecursionError:
        found = Problem(metadata.NAME, "pickle", "is nested deeper than anything torch writes")
    limits.processor_unbounded()
    tell({"stage": "content"})
    return found


def _content(look: _Look, tell: Tell) -> Verdict:
    """Every byte, against the manifest, the checksums within, and what was recorded before."""
    read = payload.read(look.folder, look.found, look.spans, lambda count: tell({"bytes": count}))
    against = list(read.problems.listed(look.folder.name))
    if look.manifest is not None:
        there = {name: (file.size, read.hashes[name]) for name, file in look.found.items()}
        against = [*claims.differences(look.manifest.claimed, there, manifests.NAME, [manifests.NAME]), *against]
    _unchanged(look)
    tree = claims.tree(read.hashes)
    if not against and look.request.tree and look.request.tree != tree:
        text = "changed after it was verified: its files are no longer those that were looked at then"
        against = [Problem(look.folder.name, "changed", text)]
    if against:
        return look.answer("rejected", against, tree)
    if read.unchecked:
        look.notes.append(f"{read.unchecked} entries carry no checksum of their own")
    return look.answer(_trust(look, tree), (), tree)


def _trust(look: _Look, tree: str) -> str:
    """How far up the ladder: each word promises what the one before it does, and more (docs/decisions/0012)."""
    if look.manifest is None and look.request.tree != tree:
        return "complete"
    return "loadable" if metadata.NAME in look.found else "hashed"


def _unchanged(look: _Look) -> None:
    try:
        now, _ = files.walk(look.folder)
    except FileNotFoundError as error:
        raise GoneError from error
    if files.fingerprint(now) != files.fingerprint(look.found):
        raise ChangedError


def as_request(text: str) -> Request:
    """A request as the parent sent it."""
    values: Mapping[str, Any] = json.loads(text)
    return Request(**values)
