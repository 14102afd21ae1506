"""Step marks of every job, thinned with age and bounded, in a small database of its own.

In: finished steps with their loss, gradient norm and tokens. Out: the latest one and windows of them, for curves.
When a job has more than SAMPLES_PER_JOB_MAX, every second one of its older half goes, so the recent past stays dense
and the distant past grows sparse. Nothing is decided from here: a damaged or full file costs curves, never the
ledger, so no method raises.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SAMPLES_PER_JOB_MAX: Final = 20_000
DURATIONS_PER_PHASE_MAX: Final = 512
JOBS_MAX: Final = 256
BUSY_WAIT_S: Final = 1.0

log = logging.getLogger(__name__)

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS samples (
  job TEXT NOT NULL, generation INTEGER NOT NULL, step INTEGER NOT NULL, at REAL NOT NULL,
  loss, grad_norm, tokens REAL, step_s REAL, PRIMARY KEY (job, generation, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS durations (
  number INTEGER PRIMARY KEY, job TEXT NOT NULL, phase TEXT NOT NULL, seconds REAL NOT NULL);
CREATE INDEX IF NOT EXISTS durations_of ON durations (job, phase, number);
"""
_WINDOW: Final = (
    "SELECT generation, step, at, loss, grad_norm, tokens, step_s FROM samples WHERE job = ? "
    "ORDER BY generation DESC, step DESC LIMIT ?"
)


@dataclass(frozen=True)
class Sample:
    """One finished step. A loss that is no number is kept as the text ``nan``, ``inf`` or ``-inf``."""

    generation: int
    step: int
    at: float
    loss: float | str | None = None
    grad_norm: float | str | None = None
    tokens: float | None = None
    step_s: float | None = None


class Series:
    """The store. Used by one thread at a time."""

    def __init__(self, path: Path, samples_per_job_max: int = SAMPLES_PER_JOB_MAX) -> None:
        self._path = path
        self._samples_per_job_max = samples_per_job_max
        self._counts: dict[str, int] = {}
        self._complained = False
        self._db = self._open()

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def add(self, job: str, samples: Sequence[Sample]) -> None:
        """Keep ``samples``; the same step of the same generation replaces what was there."""
        rows = [
            (job, s.generation, s.step, s.at, _storable(s.loss), _storable(s.grad_norm), s.tokens, s.step_s)
            for s in samples
        ]
        try:
            if self._db is None:
                return
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                self._counts[job] = self._count(job) + len(rows)
                self._thin(job)
        except sqlite3.Error as error:
            self._complain(error)

    def add_durations(self, job: str, found: Iterable[tuple[str, float]]) -> None:
        """Keep how long phases of a job took, as (phase, seconds); the newest DURATIONS_PER_PHASE_MAX of each stay."""
        rows = [(job, phase, seconds) for phase, seconds in found]
        try:
            if self._db is None or not rows:
                return
            with self._db:
                self._db.executemany("INSERT INTO durations (job, phase, seconds) VALUES (?, ?, ?)", rows)
                for phase in {phase for _, phase, _ in rows}:
                    oldest = "SELECT number FROM durations WHERE job = ? AND phase = ? ORDER BY number DESC LIMIT 1"
                    self._db.execute(
                        f"DELETE FROM durations WHERE job = ? AND phase = ? AND number <= ({oldest} OFFSET ?)",
                        (job, phase, job, phase, DURATIONS_PER_PHASE_MAX),
                    )
        except sqlite3.Error as error:
            self._complain(error)

    def durations(self, job: str) -> dict[str, list[float]]:
        """How long the phases of a job took of late, by phase, oldest first; they outlive attempts and controllers."""
        found: dict[str, list[float]] = {}
        for phase, seconds in self._ask("SELECT phase, seconds FROM durations WHERE job = ? ORDER BY number", (job,)):
            found.setdefault(phase, []).append(seconds)
        return found

    def latest(self, job: str) -> Sample | None:
        """The newest sample of a job."""
        found = self.window(job, 1)
        return found[0] if found else None

    def window(self, job: str, n: int) -> list[Sample]:
        """The newest ``n`` samples of a job, oldest of them first."""
        found = self._ask(_WINDOW, (job, max(0, n)))
        return [Sample(*values) for values in reversed(found)]

    def window_aside(self, job: str, n: int) -> list[Sample]:
        """The same as ``window`` over a connection of its own, for any thread: a long one takes a while to read."""
        try:
            with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
                return [Sample(*values) for values in reversed(db.execute(_WINDOW, (job, max(0, n))).fetchall())]
        except (sqlite3.Error, ValueError) as error:
            self._complain(error)
            return []

    def _ask(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall() if self._db is not None else []
        except sqlite3.Error as error:
            self._complain(error)
            return []

    def _count(self, job: str) -> int:
        if job not in self._counts:
            self._counts[job] = self._ask("SELECT count(*) FROM samples WHERE job = ?", (job,))[0][0]
            self._forget_old_jobs()
        return self._counts[job]

    def _thin(self, job: str) -> None:
        """Drop every second sample of the older half."""
        if self._db is None or self._counts[job] <= self._samples_per_job_max:
            return
        self._db.execute(
            "DELETE FROM samples WHERE (job, generation, step) IN (SELECT job, generation, step FROM ("
            "SELECT job, generation, step, row_number() OVER (ORDER BY generation, step) AS place FROM samples "
            "WHERE job = ?) WHERE place <= ? AND place % 2 = 0)",
            (job, self._counts[job] // 2),
        )
        del self._counts[job]  # counted afresh, since replaced steps were counted twice

    def _forget_old_jobs(self) -> None:
        query = "SELECT job FROM samples GROUP BY job ORDER BY max(at) DESC LIMIT -1 OFFSET ?"
        for (job,) in self._ask(query, (JOBS_MAX - 1,)):
            self._ask("DELETE FROM samples WHERE job = ?", (job,))
            self._ask("DELETE FROM durations WHERE job = ?", (job,))
            self._counts.pop(job, None)

    def _open(self) -> sqlite3.Connection | None:
        try:
            return _connect(self._path)
        except sqlite3.Error as error:
            self._complain(error)
        try:
            self._path.replace(self._path.with_suffix(".damaged"))  # one is kept, the one before goes
            for part in ("-wal", "-shm"):
                self._path.with_name(self._path.name + part).unlink(missing_ok=True)
            return _connect(self._path)
        except (sqlite3.Error, OSError) as error:
            self._complain(error)
            return None

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            log.warning("the series store cannot be used: curves have gaps", extra={"file": self._path, "error": error})


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_WAIT_S, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.executescript(_TABLE)
    db.execute("SELECT count(*) FROM samples WHERE job = ''").fetchone()
    return db


def _storable(value: float | str | None) -> float | str | None:
    """SQLite turns NaN into NULL, which would say "no loss was given"."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
