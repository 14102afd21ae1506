"""The file systems that are mounted: room, inodes, read-only, missing, and the ones that no longer answer.

In: /proc/self/mountinfo, statvfs of every mount in a disposable thread with a deadline (a dead file server costs one
reading and never holds the agent), and for those that ask for it a small file written, read back and removed. Out, a
mount point: mounted, read-only, size and room, how long it took to answer. ``fs_turned_readonly`` is what the kernel
does at an error: the file system is read-only though it was mounted for writing. Mounts without a device of their own
(pods' layers, kernel interfaces) are left out unless they are expected. Where procfs is not the kernel's own, the room
lies there as text, ``self/statvfs``: a line a mount point with size, free, inodes and free inodes.
"""

from __future__ import annotations

import functools
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider_agent import bounded, readings
from outrider_agent.signals import disks, files, waits

NAME: Final = "filesystems"
ANSWER_WITHIN_S: Final = 5.0
MOUNTS_MAX: Final = 64
TABLE_BYTES_MAX: Final = 4 * 1024 * 1024
PROBE_BYTES: Final = 4096
PROBE_NAME: Final = ".outrider-probe"
NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "cifs", "smb3", "9p", "glusterfs"),
        *("fuse.glusterfs", "fuse.ceph", "fuse.sshfs", "fuse.juicefs", "panfs", "orangefs", "vastnfs"),
    )
)
# Read-only by nature: their room says nothing.
_SEALED: Final = frozenset(("squashfs", "iso9660", "erofs", "cramfs", "udf"))
READINGS: Final[files.Names] = {
    "fs_mounted": files.Kind("", "/proc/self/mountinfo"),
    "fs_type": files.Kind("", "/proc/self/mountinfo"),
    "fs_network": files.Kind("", "/proc/self/mountinfo, type"),
    "fs_readonly": files.Kind("", "/proc/self/mountinfo, options"),
    "fs_turned_readonly": files.Kind("", "/proc/self/mountinfo: mounted rw, superblock ro; or rw at an earlier look"),
    "fs_size": files.Kind("bytes", "statvfs"),
    "fs_free": files.Kind("bytes", "statvfs, for ordinary users"),
    "fs_used": files.Kind("%", "statvfs, as df computes it"),
    "fs_inodes": files.Kind("", "statvfs; 0 where they are not counted"),
    "fs_inodes_free": files.Kind("", "statvfs"),
    "fs_inodes_used": files.Kind("%", "statvfs"),
    "fs_answer_s": files.Kind("s", "duration of statvfs"),
    "fs_probe_s": files.Kind("s", "duration of write, sync, read and unlink of a small file"),
}
_ROOM: Final = ("fs_size", "fs_free", "fs_used", "fs_inodes", "fs_inodes_free", "fs_inodes_used", "fs_answer_s")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. ``device``: major and minor number; ``readonly``: of the mount or its file system."""

    point: str
    device: str
    kind: str
    source: str
    readonly: bool
    turned_readonly: bool


@dataclass(frozen=True)
class Room:
    """What statvfs says of one mount, and how long it took."""

    size: int
    free: int
    used_share: float
    inodes: int
    inodes_free: int
    took_s: float


class Filesystems:
    """A readings.Signal. ``expected``: mount points that have to be there; ``probed``: those that are written to."""

    name = NAME
    period_s = 60.0
    deadline_s = 15.0

    def __init__(
        self,
        procfs: Path,
        clock: clocks.Clock | None = None,
        expected: Iterable[str] = (),
        probed: Iterable[str] = (),
        stat: Callable[[str], Room] | None = None,
    ) -> None:
        self._procfs = procfs
        self._clock = clock
        self._expected = tuple(dict.fromkeys([*expected, *probed]))
        self._probed = frozenset(probed)
        self._stat = stat or (room if files.is_live_procfs(procfs) else recorded(procfs))
        self._rooms: waits.Waits[Room] = waits.Waits()
        self._probes: waits.Waits[float] = waits.Waits()
        self._writable: set[str] = set()

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        try:
            mounts = parse(files.whole(f"{self._procfs}/self/mountinfo", TABLE_BYTES_MAX))
        except OSError as error:
            return look.sweep(error=f"/proc/self/mountinfo: {error.strerror or error}")
        watched = chosen(mounts, self._expected)
        self._writable &= set(watched)
        for point in self._expected:
            if point not in watched:
                look.add(point, "fs_mounted", False)
        rooms = self._rooms.ask({point: functools.partial(self._stat, point) for point in watched}, ANSWER_WITHIN_S)
        probes = {point: functools.partial(probe, point) for point in watched if point in self._probed}
        probed = self._probes.ask(probes, ANSWER_WITHIN_S) if probes else {}
        for point, mount in watched.items():
            self._one(look, mount)
            _room(look, point, rooms[point])
            if point in probed:
                _probe(look, point, probed[point])
        stuck = sorted(self._rooms.asking | self._probes.asking)
        return look.sweep(absent=not watched and not self._expected, context={"stuck": stuck})

    def _one(self, look: files.Look, mount: Mount) -> None:
        point = mount.point
        turned = mount.turned_readonly or (mount.readonly and point in self._writable)
        if not mount.readonly:
            self._writable.add(point)
        look.add(point, "fs_mounted", True)
        look.add(point, "fs_type", mount.kind)
        look.add(point, "fs_network", mount.kind in NETWORK)
        look.add(point, "fs_readonly", mount.readonly)
        look.add(point, "fs_turned_readonly", turned)


def parse(said: str) -> list[Mount]:
    """The lines of mountinfo (proc(5)): the options of the mount come before the dash, the file system's after it."""
    found = []
    for line in said.splitlines():
        fields = line.split(" ")
        if "-" not in fields[6:]:
            continue
        dash = fields.index("-", 6)
        if len(fields) < dash + 4:
            continue
        mount, superblock = fields[5].split(","), fields[dash + 3].split(",")
        turned = "ro" in superblock and "ro" not in mount
        readonly = turned or "ro" in mount
        kind, source = fields[dash + 1], disks.plain(fields[dash + 2])
        found.append(Mount(disks.plain(fields[4]), fields[2], kind, source, readonly, turned))
    return found


def chosen(mounts: list[Mount], expected: Iterable[str] = ()) -> dict[str, Mount]:
    """By mount point: what is expected, and of each device or file server the mount nearest to the root.

    The last mount on a point hides those before it. Devices lie below /dev; a server's name holds a colon or the type
    says that it is one.
    """
    top = {mount.point: mount for mount in mounts}
    found = {point: top[point] for point in expected if point in top and top[point].kind != "autofs"}
    seen = {mount.device for mount in found.values()}
    for mount in sorted(top.values(), key=lambda one: (one.point.count("/"), len(one.point), one.point)):
        real = mount.source.startswith("/dev/") or mount.kind in NETWORK or mount.kind in ("zfs", "btrfs", "bcachefs")
        if len(found) >= MOUNTS_MAX:
            break
        if real and mount.kind not in _SEALED and mount.device not in seen and mount.point not in found:
            seen.add(mount.device)
            found[mount.point] = mount
    return found


def room(point: str) -> Room:
    """Ask statvfs. Raises OSError; blocks on a dead file system."""
    begun = time.monotonic()
    said = os.statvfs(point)
    took_s = time.monotonic() - begun
    used = said.f_blocks - said.f_bfree
    share = 100.0 * used / (used + said.f_bavail) if used + said.f_bavail else 0.0
    size, free = said.f_blocks * said.f_frsize, said.f_bavail * said.f_frsize
    return Room(size, free, share, said.f_files, said.f_favail, took_s)


def recorded(procfs: Path) -> Callable[[str], Room]:
    """Asks a file in place of the kernel."""

    def ask(point: str) -> Room:
        for line in files.whole(f"{procfs}/self/statvfs", TABLE_BYTES_MAX).splitlines():
            words = line.split()
            if len(words) == 5 and words[0] == point:
                size, free, inodes, inodes_free = (int(word) for word in words[1:])
                return Room(size, free, 100.0 * (1 - free / size) if size else 0.0, inodes, inodes_free, 0.0)
        raise files.Unknown("unsupported", "self/statvfs does not name it")

    return ask


def probe(point: str) -> float:
    """Write, sync, read back and remove a small file below ``point``; the seconds it took. Raises OSError, Unknown."""
    begun = time.monotonic()
    path = f"{point}/{PROBE_NAME}-{os.uname().nodename}-{os.getpid()}"
    wrote = secrets.token_bytes(PROBE_BYTES)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(file, wrote)
        os.fsync(file)
        same = os.pread(file, PROBE_BYTES + 1, 0) == wrote
    finally:
        os.close(file)
        os.unlink(path)
    if not same:
        raise files.Unknown("unreadable", f"{path}: what was read back is not what was written")
    return time.monotonic() - begun


def _room(look: files.Look, point: str, found: Room | Exception) -> None:
    if isinstance(found, Exception):
        state = found.state if isinstance(found, files.Unknown) else "unreadable"
        for name in _ROOM:
            look.lack(point, name, state, _why(found))
        return
    used = 100.0 * (1 - found.inodes_free / found.inodes) if found.inodes else 0.0
    values = (found.size, found.free, found.used_share, found.inodes, found.inodes_free, used, found.took_s)
    for name, value in zip(_ROOM, values, strict=True):
        look.add(point, name, float(value))


def _probe(look: files.Look, point: str, found: float | Exception) -> None:
    if isinstance(found, Exception):
        look.lack(point, "fs_probe_s", "unreadable", _why(found))
    else:
        look.add(point, "fs_probe_s", found)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, bounded.CouldNotLook | files.Unknown) else f"{type(error).__name__}: {error}"
