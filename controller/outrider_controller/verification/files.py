"""The files of one checkpoint as the file system shows them: plain ones, read without following or waiting.

A link, a pipe or a device in a checkpoint is a reason against it. A folder that cannot be read is none: OSError goes
through to whoever says "could not look".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider_analysis.checkpoints import Problem, Problems, claims, problems

FILES_MAX: Final = 1_000_000
DEPTH_MAX: Final = 8
STRAY: Final = ".nfs"  # a file that was removed while somebody had it open, as NFS shows it


class ShrunkError(OSError):
    """A file ended earlier than it did a moment ago."""


@dataclass(frozen=True)
class File:
    """A plain file. ``name`` is relative to the checkpoint, with ``/`` between its parts."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def walk(folder: Path) -> tuple[dict[str, File], tuple[Problem, ...]]:
    """Plain files by name, and what else lies there. Raises OSError."""
    found: dict[str, File] = {}
    against = Problems()
    for name, entry in _entries(str(folder), "", 0, against):
        about = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(about.st_mode):
            kind = "symlink" if stat.S_ISLNK(about.st_mode) else "not-a-file"
            against.add(
                name, kind, "is no plain file" if kind == "not-a-file" else "is a link, which is never followed"
            )
        elif problems.shown(name) != name:
            against.add(name, "name", "has a name that no checkpoint uses")
        else:
            found[name] = File(name, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
        if len(found) > FILES_MAX:
            against.add(folder.name, "too-many", f"holds more than {FILES_MAX} files")
            break
    return found, against.listed(folder.name)


def fingerprint(found: dict[str, File]) -> str:
    """Changes whenever a file is written to, replaced or removed."""
    return claims.fingerprint((f.name, f.size, f.mtime_ns, f.ctime_ns, f.inode) for f in found.values())


def fingerprint_of(folder: Path) -> str:
    """The fingerprint of what lies in ``folder`` now; empty where something other than plain files does."""
    found, against = walk(folder)
    return "" if against else fingerprint(found)


def open_plain(path: Path) -> int:
    """A descriptor of a plain file, opened without following a link and without waiting for a pipe's other end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ShrunkError(f"{path.name} is no plain file any more")


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes; raises OSError when they cannot be read."""
    found = os.pread(descriptor, length, offset)
    while len(found) < length:
        more = os.pread(descriptor, length - len(found), offset + len(found))
        if not more:
            raise ShrunkError(f"ended at byte {offset + len(found)} while it was read")
        found += more
    return found


def _entries(folder: str, prefix: str, depth: int, against: Problems) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        name = prefix + entry.name
        if entry.name.startswith(STRAY):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield name, entry
        elif depth >= DEPTH_MAX:
            against.add(name, "too-deep", f"lies more than {DEPTH_MAX} folders deep")
        else:
            yield from _entries(entry.path, name + "/", depth + 1, against)
