"""Where things lie on a machine: the state directory, the node's runtime directory, and what a good place for them is.

The state directory holds what must survive (ledger, tokens, logs). The runtime directory holds sockets and spools; it
is short, because a Unix socket's path may have at most 107 bytes, and local, because locks and sockets fail on a
network file system.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

SOCKET_PATH_BYTES_MAX: Final = 107

# File system types (third field of /proc/self/mounts) on which locks, SQLite and sockets cannot be trusted.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "lustre",
        "gpfs",
        "ceph",
        "fuse.ceph",
        "beegfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "9p",
        "afs",
        "wekafs",
        "panfs",
        "pvfs2",
        "fuse.s3fs",
        "fuse.gcsfuse",
    }
)


class PlaceError(OSError):
    """A directory that cannot be used; the message names it, what is wrong, and the way out."""


def state_dir(given: str | None = None) -> Path:
    """The state directory: ``given``, else OUTRIDER_STATE, else the user's local state directory."""
    chosen = given or os.environ.get("OUTRIDER_STATE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(base) / "outrider"


def runtime_dir(state: Path, node: str) -> Path:
    """The node's runtime directory for one state directory: short, local, the same for every restart of the agent."""
    given = os.environ.get("OUTRIDER_RUNTIME")
    base = (
        Path(given)
        if given
        else Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"outrider-{os.getuid()}"
    )
    tag = hashlib.sha256(f"{state.resolve()}\0{node}".encode()).hexdigest()[:10]
    return base / tag


def make_private(path: Path, choice: str = "--state DIR or OUTRIDER_STATE") -> Path:
    """Create ``path`` (mode 0700 where new) and prove that it can be used; raises PlaceError naming ``choice``."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise PlaceError(
            f"{path}: cannot be used as a directory of Outrider: {error.strerror or error}. Give another with {choice}"
        ) from error
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS and not os.environ.get("OUTRIDER_ALLOW_NETWORK_STATE"):
        raise PlaceError(
            f"{path}: lies on a network file system ({kind}), where locks and sockets cannot "
            f"be trusted. Give a local directory with {choice}"
        )
    return path


def file_system(path: Path, mounts: str = "/proc/self/mounts") -> str:
    """Type of the file system that holds ``path`` (``ext4``, ``nfs4``), or ``unknown`` where it cannot be read."""
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return "unknown"
    target = str(path.resolve())
    best, kind = "", "unknown"
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
