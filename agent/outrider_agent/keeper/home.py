"""The files of one keeper, by name, in ``<runtime dir>/keepers/<job>/``; shared by the keeper and the agent."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider import places


@dataclass(frozen=True)
class Home:
    """One keeper's directory. Sockets lie in it, so its path is short (``outrider.places``)."""

    path: Path

    @property
    def socket(self) -> Path:
        """Where the keeper listens for its client."""
        return self.path / "keeper.sock"

    @property
    def info(self) -> Path:
        """Who the keeper is: pid, job, start ticks."""
        return self.path / "keeper.json"

    @property
    def lock(self) -> Path:
        """Held by the one keeper of this directory for as long as it lives."""
        return self.path / "keeper.lock"

    @property
    def log(self) -> Path:
        """The keeper's own words, and whatever its preloads print."""
        return self.path / "keeper.log"

    @property
    def journal(self) -> Path:
        """Numbered events, kept until acknowledged."""
        return self.path / "events.jsonl"

    @property
    def fence(self) -> Path:
        """The newest generation that was started here."""
        return self.path / "fence"

    @property
    def recorder(self) -> Path:
        """Where the flight records of the newest generation appear (``recorder.note``)."""
        return self.path / "recorder.json"

    def control_socket(self, rank: int) -> Path:
        """Where torch's worker server of ``rank`` answers."""
        return self.path / "ctl" / f"{rank}.sock"

    def stacks(self, rank: int) -> Path:
        """Where ``rank`` writes its stacks when the agent asks by signal."""
        return self.path / "ctl" / f"{rank}.stacks"

    def groups(self, rank: int) -> Path:
        """Where ``rank`` leaves the members of its process groups (``rank_groups``)."""
        return self.path / "ctl" / f"{rank}.groups"


def of(runtime: Path, job: str) -> Home:
    """The home of the keeper of ``job`` below a node's runtime directory."""
    return Home(runtime / "keepers" / job)


def jobs(runtime: Path) -> tuple[str, ...]:
    """Names of the jobs that have, or had, a keeper below ``runtime``."""
    try:
        return tuple(sorted(entry.name for entry in (runtime / "keepers").iterdir() if entry.is_dir()))
    except OSError:
        return ()


def socket_path(home: Home) -> str:
    """The path to bind or connect to; raises PlaceError when the kernel could not take it."""
    path = str(home.socket)
    if len(os.fsencode(path)) > places.SOCKET_PATH_BYTES_MAX:
        raise places.PlaceError(
            f"{path}: is longer than the {places.SOCKET_PATH_BYTES_MAX} bytes a Unix socket's path may have. "
            "Give a shorter runtime directory with OUTRIDER_RUNTIME, or the job a shorter name"
        )
    return path


def write_whole(path: Path, document: dict[str, Any], mode: int = 0o644) -> None:
    """Put a JSON document at ``path`` so that a reader, and a crash, finds the old one or the new one, whole."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, json.dumps(document).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(part, path)


def start_ticks(pid: int) -> int | None:
    """When process ``pid`` began, in ticks since boot; with the pid it names a process for good. None if gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            # The name in parentheses may hold spaces and parentheses of its own; the fields begin after the last one.
            return int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
