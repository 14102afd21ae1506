"""Where the jobs of this node write: their logs and their checkpoints, remembered for the agent after this one.

In: the documents of start orders. Out: ``Places`` of a job, as long as it is held here. They lie in the agent's own
runtime directory, because a keeper's directory belongs to the job's user, and an agent of another user writes nothing
where somebody else could lay a link.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from outrider_agent.keeper import environment

log = logging.getLogger(__name__)

JOBS_MAX: Final = 256


@dataclass(frozen=True)
class Places:
    """Absolute paths. ``logs``: the job's log directory, an attempt's folder below it; ``checkpoints``: "" for none.

    ``world``: ranks of the attempt on all nodes; ``log_sizes``: how long the log of each rank of this node was when the
    attempt began (what stands there is of an earlier one), None where nobody could look.
    """

    generation: int
    logs: str
    checkpoints: str = ""
    attempt: int = 0
    world: int = 0
    cwd: str = ""
    log_sizes: dict[int, int] | None = None

    def log_of(self, rank: int) -> Path:
        """Where ``rank`` of this attempt writes."""
        return Path(attempt_folder(self.logs, self.attempt), environment.log_name(rank))


def attempt_folder(logs: str | Path, attempt: int) -> Path:
    """Where the ranks of one attempt write, below the job's log directory."""
    return Path(logs, f"attempt-{attempt}")


class Book:
    """The places of every job that this node has."""

    def __init__(self, runtime: Path) -> None:
        self._folder = runtime / "jobs"
        self._known: dict[str, Places] = {}
        for path in sorted(self._folder.glob("*.json"))[:JOBS_MAX]:
            try:
                self._known[path.stem] = msgspec.json.decode(path.read_bytes(), type=Places)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("where a job writes is not known any more", extra={"file": path, "why": error})

    def of(self, job: str) -> Places | None:
        """Where ``job`` writes; None where that was never told."""
        return self._known.get(job)

    def note(self, job: str, places: Places) -> None:
        """Remember ``places``. A disk that takes nothing costs the agent after this one the knowledge, and no more."""
        if len(self._known) >= JOBS_MAX and job not in self._known:
            self.forget(next(iter(self._known)))
        self._known[job] = places
        part = self._folder / f".{job}.{os.getpid()}.part"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            part.write_bytes(msgspec.json.encode(places))
            part.replace(self._folder / f"{job}.json")
        except OSError as error:
            log.warning("where a job writes could not be noted", extra={"job": job, "why": error})

    def forget(self, job: str) -> None:
        """The job is over on this node."""
        self._known.pop(job, None)
        try:
            (self._folder / f"{job}.json").unlink(missing_ok=True)
        except OSError as error:
            log.warning("a note could not be removed", extra={"job": job, "why": error})
