"""The whole answers of ranks that were looked at, kept on the node for whoever wants to read more than the summary.

In: one JSON document a rank and look. Out: its path below the job's log directory, readable by the agent's user alone,
within FILES_MAX files and FOLDER_BYTES_MAX bytes a job; the oldest go first. The log directory may belong to the job's
user while the agent is root, so nothing here follows a link that lies in it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

FILES_MAX: Final = 256
FOLDER_BYTES_MAX: Final = 64 * 1024 * 1024
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
FOLDER: Final = "evidence"


def keep(logs: Path, name: str, body: bytes) -> Path:
    """Write ``body`` as ``logs/evidence/name``, and let older files go to make room for it. Raises OSError."""
    if len(body) > FILE_BYTES_MAX:
        raise OSError(f"{name}: an answer of {len(body)} bytes; at most {FILE_BYTES_MAX} are kept")
    folder = _folder(logs)
    try:
        _make_room(folder, len(body))
        how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, how, 0o600, dir_fd=folder), "wb") as file:
            file.write(body)
    finally:
        os.close(folder)
    return logs / FOLDER / name


def _folder(logs: Path) -> int:
    """A descriptor of the folder, which is ours and nobody else's to write in."""
    above = os.open(logs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.mkdir(FOLDER, 0o700, dir_fd=above)
        except FileExistsError:
            pass
        folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    finally:
        os.close(above)
    found = os.fstat(folder)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        os.close(folder)
        raise PermissionError(
            f"{logs / FOLDER}: is of user {found.st_uid}, or others may write in it; remove it, and a new one is made"
        )
    return folder


def _make_room(folder: int, size: int) -> None:
    """Remove the oldest files until one more of ``size`` bytes keeps both bounds."""
    found = []
    for name in os.listdir(folder):
        try:
            known = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # another look made room at the same moment
        found.append((known.st_mtime_ns, name, known.st_size))
    found.sort()
    total = sum(bytes_ for _, _, bytes_ in found)
    while found and (len(found) >= FILES_MAX or total + size > FOLDER_BYTES_MAX):
        _, name, bytes_ = found.pop(0)
        total -= bytes_
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
