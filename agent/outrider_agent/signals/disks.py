"""The room on the file systems that this node and its jobs write to: seen to run out before a checkpoint is torn by it.

In: directories that matter, and what statvfs says of the file system below each (``measure`` blocks where that is dead,
so it is asked in a thread). Out: an observation when a file system has no room, and another once it has room again: one
a mount point, whatever lies there. No room means less than ROOM_BYTES or ROOM_SHARE of it, whichever is more (but never
more than SMALL_SHARE: a runtime directory of 16 MiB is not full for being small), no inode, or a write of our own that
was refused for want of room. It is over at CLEAR_FACTOR times that, so that a file system at the edge is told of once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import records
from outrider_agent import observe

ROOM_BYTES: Final = 64 * 1024 * 1024
ROOM_SHARE: Final = 0.001
SMALL_SHARE: Final = 0.1
CLEAR_FACTOR: Final = 2
INODES_CLEAR: Final = 128
MOUNTS: Final = "/proc/self/mountinfo"


@dataclass(frozen=True)
class Place:
    """A directory that is written to. ``what`` says what lies there; ``job`` is None for the node's own."""

    path: str
    what: str
    job: str | None = None
    generation: int | None = None


@dataclass(frozen=True)
class Room:
    """The file system at ``mount``: bytes that ordinary users may still write, its size, its inodes (0: it counts
    none).
    """

    mount: str
    free: int
    total: int
    inodes_free: int
    inodes: int

    @property
    def bound(self) -> int:
        """Bytes below which there is no room."""
        return int(min(max(ROOM_BYTES, ROOM_SHARE * self.total), SMALL_SHARE * self.total))

    @property
    def lacking(self) -> str:
        """What there is none of: ``space``, ``inodes``, or "" where there is room."""
        if self.total and (self.free < self.bound or self.free == 0):
            return "space"
        return "inodes" if self.inodes and self.inodes_free <= 0 else ""

    @property
    def clear(self) -> bool:
        """Whether there is room enough to say so."""
        inodes = not self.inodes or self.inodes_free >= min(INODES_CLEAR, self.inodes // 10 + 1)
        return not self.lacking and self.free >= CLEAR_FACTOR * self.bound and inodes


def measure(path: str, mounts: str = MOUNTS) -> Room:
    """The room where ``path`` lies, or would lie once it is made. Raises OSError; blocks on a dead file system."""
    at = Path(path)
    while True:
        try:
            found = os.statvfs(at)
            break
        except FileNotFoundError:
            if at == at.parent:
                raise
            at = at.parent
    mount = mount_point(os.path.realpath(at), mounts)
    return Room(mount, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_favail, found.f_files)


def mount_point(path: str, mounts: str = MOUNTS) -> str:
    """The mount point that ``path`` lies below, by its text; "/" where the mounts cannot be read."""
    try:
        lines = Path(mounts).read_text(errors="replace").splitlines()
    except OSError:
        return "/"
    best = "/"
    for line in lines:
        fields = line.split()
        point = plain(fields[4]) if len(fields) > 4 else "/"
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        best = point if inside and len(point) >= len(best) else best
    return best


class Disks:
    """Judges one round of measurements after the other. ``rooms``: the newest of each mount, None: could not look."""

    def __init__(self, node: str, full: Mapping[str, float] | None = None) -> None:
        self._node = node
        self.rooms: dict[str, Room | None] = {}
        self.full: dict[str, float] = dict(full or {})  # since when, in Unix seconds, by mount point

    def judge(
        self, rooms: Mapping[Place, Room | None], refused: Mapping[str, str], now: float
    ) -> list[records.Observation]:
        """What is new. ``rooms``: None where it could not be looked; ``refused``: by path, what a write was told."""
        by_mount: dict[str, list[Place]] = {}
        self.rooms = {}
        for place, room in rooms.items():
            mount = room.mount if room is not None else mount_point(place.path)
            by_mount.setdefault(mount, []).append(place)
            if room is not None or mount not in self.rooms:
                self.rooms[mount] = room
        found = []
        for mount, places in by_mount.items():
            room = self.rooms[mount]
            told = next((refused[place.path] for place in places if place.path in refused), "")
            if room is None:
                continue  # what was known stays known
            if mount not in self.full and (told or room.lacking):
                self.full[mount] = now
                found.append(observe.disk_full(self._node, _lies(places), _numbers(room), told or room.lacking, now))
            elif mount in self.full and room.clear and not told:
                since = self.full.pop(mount)
                found.append(observe.disk_clear(self._node, _lies(places), _numbers(room), since, now))
        return found


def _lies(places: list[Place]) -> observe.Lies:
    """What lies on a file system, and the job that is named for it: the first one by name."""
    jobs = sorted((place.job, place.generation or 0) for place in places if place.job is not None)
    job, generation = jobs[0] if jobs else (None, None)
    what = [{"path": place.path, "what": place.what, "job": place.job} for place in places]
    return observe.Lies(job, generation, what)


def _numbers(room: Room) -> records.Json:
    return {
        "mount": room.mount,
        "free": room.free,
        "total": room.total,
        "inodes_free": room.inodes_free,
        "inodes": room.inodes,
        "bound": room.bound,
    }


def plain(text: str) -> str:
    """A path as mountinfo writes it, with its blanks back."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text
