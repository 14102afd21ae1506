"""Rows of the ledger -> one unbroken line of time: what each second of a job went into, and which incident owns it.

In: the ledger's rows of one job, in order, and the time up to which to look. Out: segments that follow each other from
the moment the job was submitted to its end, so that the bins sum to the elapsed time by construction.

The rules, from the vocabulary's bins:

- ``idle`` until the first attempt is planned (the job waits for nodes), ``start`` until it finishes its first step.
- ``productive`` while it finishes new steps; ``checkpoint`` is what its checkpoints stalled of that.
- An incident owns every second from its fault to its close: ``detection`` until it was opened, ``diagnosis`` until it
  was decided, ``restart`` until the next attempt finished a step, ``redo`` until the lost step is regained. One that a
  person asked for is ``planned`` up to that first step. ``held`` is the time a person was waited for.
- A job that sends no marks cannot be seen at work. Once it was taken for running, or has completed, its ranks' time is
  ``productive``; after an incident it is ``redo`` until the incident closes, because nobody sees what it does again.
- A checkpoint within an incident's ``redo`` stays ``redo``: an incident's phases sum to its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from outrider import vocabulary
from outrider_controller.core import evolve, records

PHASES = ("detection", "diagnosis", "restart", "redo", "planned", "held")  # the bins that belong to an incident


@dataclass(frozen=True)
class Segment:
    """One stretch of a job's time. ``begin`` and ``end`` are Unix seconds; ``incident`` owns it where one does."""

    bin: str
    begin: float
    end: float
    incident: str | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin


@dataclass(frozen=True)
class Life:
    """One life of a job name, from a submission that was taken to the end; the name may be used again after that."""

    rows: tuple[records.Row, ...]
    submitted_at: float
    ended_at: float | None
    state: str
    ended_by: str | None  # "person" when a person stopped it or gave it up


def lives(rows: Iterable[records.Row], job: str) -> list[Life]:
    """Every life of ``job``, oldest first; rows of other jobs and of nodes are left out."""
    groups: list[list[records.Row]] = []
    over = True
    for row in rows:
        if getattr(row, "job", None) != job:
            continue
        if isinstance(row, records.JobSubmitted) and over:
            groups.append([])
            over = False
        if groups:
            groups[-1].append(row)
        over = over or _ends(row)
    return [_life(group) for group in groups]


def segments(rows: Iterable[records.Row], job: str, now: float) -> list[Segment]:
    """Where the latest life of ``job`` spent its time, up to its end or ``now``; empty for an unknown job."""
    found = lives(rows, job)
    return of_life(found[-1], now) if found else []


def of_life(life: Life, now: float) -> list[Segment]:
    """The segments of one life."""
    end = life.ended_at if life.ended_at is not None else max(now, life.submitted_at)
    changes = _changes(life, end)
    ends = [*(change.at for change in changes[1:]), end]
    plain = [Segment(c.bin, c.at, until, c.incident) for c, until in zip(changes, ends, strict=True)]
    return _merged(_with_checkpoints(plain, _stalls(life)))


def bins(found: Iterable[Segment]) -> dict[str, float]:
    """Seconds in each bin of the vocabulary; they sum to the time that the segments span."""
    parts: dict[str, list[float]] = {name: [] for name in vocabulary.BINS}
    for segment in found:
        parts[segment.bin].append(segment.seconds)
    return {name: math.fsum(seconds) for name, seconds in parts.items()}


def phases(found: Iterable[Segment]) -> dict[str, dict[str, float]]:
    """Seconds in each phase of each incident; an incident's phases sum to its length."""
    parts: dict[str, dict[str, float]] = {}
    for segment in found:
        if segment.incident is not None:
            mine = parts.setdefault(segment.incident, dict.fromkeys(PHASES, 0.0))
            mine[segment.bin] += segment.seconds
    return parts


@dataclass(frozen=True)
class _Change:
    at: float
    bin: str
    incident: str | None


@dataclass
class _Sweep:
    """What is known while the rows are read in order."""

    speaks: bool
    seen_running: bool  # a job without marks that was taken for running, or that completed
    generation: int | None = None
    planned_at: float = 0.0
    working: bool = False  # the current attempt finishes steps
    incident: records.IncidentOpened | None = None
    decided: bool = False
    held: bool = False
    free_since: float = 0.0  # no incident owns the time from here on
    starts: dict[str, int] = field(default_factory=dict)  # effect -> generation that it starts

    def bin(self) -> str:
        """The bin of this moment."""
        incident = self.incident
        if incident is None:
            return "idle" if self.generation is None else "productive" if self.working else "start"
        if self.held:
            return "held"
        if self.working and (self.generation or 0) > incident.generation:
            return "redo"
        if incident.planned:
            return "planned"
        return "restart" if self.decided else "diagnosis"

    def take(self, row: records.Row, at: float) -> None:
        """Learn from one row; ``at`` is its time, never before that of the row ahead of it."""
        match row:
            case records.AttemptPlanned():
                self.generation, self.planned_at, self.working = row.generation, at, False
            case records.EffectRequested(name="start-attempt"):
                self.starts[row.effect] = int(row.args.get("generation", -1))
            case records.EffectDone(ok=True) if self.starts.get(row.effect, -1) == self.generation:
                self.working = self.working or (not self.speaks and self.seen_running)
            case records.Training() if row.generation == self.generation:
                self.working = True
            case records.Decided() if self.incident is not None and row.incident == self.incident.incident:
                self.decided = True
            case records.JobMoved():
                self.held = row.now == "held"
            case records.IncidentClosed() if self.incident is not None and row.incident == self.incident.incident:
                self.incident, self.free_since = None, at


def _changes(life: Life, end: float) -> list[_Change]:
    """The moments at which the bin or its owner changes, in order; the first is the submission."""
    sweep = _Sweep(_speaks(life), _seen_running(life), free_since=life.submitted_at)
    at = life.submitted_at
    found = [_Change(at, sweep.bin(), None)]
    for row in life.rows:
        at = min(max(at, row.at), end)  # a clock that was set back, and what is told after the end
        if isinstance(row, records.IncidentOpened) and not row.interrupted:
            continue  # it owns no second: the job goes on
        if isinstance(row, records.IncidentOpened):
            _open(sweep, row, at, found)
        else:
            sweep.take(row, at)
        _put(found, _Change(at, sweep.bin(), sweep.incident.incident if sweep.incident else None))
    return found


def _open(sweep: _Sweep, row: records.IncidentOpened, at: float, found: list[_Change]) -> None:
    """Begin an incident at its fault, within the time of its attempt that no incident owns yet."""
    earliest = max(sweep.free_since, sweep.planned_at, found[0].at)
    fault_at = min(max(row.fault_at, earliest), at)
    sweep.incident, sweep.decided = row, False
    while len(found) > 1 and found[-1].at > fault_at:
        found.pop()
    _put(found, _Change(fault_at, "planned" if row.planned else "detection", row.incident))


def _put(found: list[_Change], change: _Change) -> None:
    if found[-1].at == change.at and len(found) > 1:
        found[-1] = change
    elif (found[-1].bin, found[-1].incident) != (change.bin, change.incident):
        found.append(change)


def _stalls(life: Life) -> list[tuple[float, float]]:
    """When checkpoints held training up, without overlap: the seconds just before each was told of."""
    found: list[tuple[float, float]] = []
    generation: int | None = None
    for row in life.rows:
        if isinstance(row, records.AttemptPlanned):
            generation = row.generation
        elif isinstance(row, records.CheckpointSaved) and row.stall_s > 0 and row.generation == generation:
            begin = max(row.at - row.stall_s, found[-1][1] if found else -math.inf)
            if begin < row.at:
                found.append((begin, row.at))
    return found


def _with_checkpoints(plain: Sequence[Segment], stalls: Sequence[tuple[float, float]]) -> list[Segment]:
    """Productive segments with the stalls taken out of them. Both run forward in time, so one pass is enough."""
    found: list[Segment] = []
    first = 0
    for segment in plain:
        while first < len(stalls) and stalls[first][1] <= segment.begin:
            first += 1
        at, index = segment.begin, first
        while segment.bin == "productive" and index < len(stalls) and stalls[index][0] < segment.end:
            begin, until = max(stalls[index][0], at), min(stalls[index][1], segment.end)
            found += [Segment("productive", at, begin), Segment("checkpoint", begin, until)]
            at, index = until, index + 1
        found.append(Segment(segment.bin, at, segment.end, segment.incident))
    return found


def _merged(found: Iterable[Segment]) -> list[Segment]:
    """Without empty segments, and with like neighbours joined."""
    merged: list[Segment] = []
    for segment in found:
        if segment.end <= segment.begin:
            continue
        last = merged[-1] if merged else None
        if last and (last.bin, last.incident) == (segment.bin, segment.incident):
            merged[-1] = Segment(last.bin, last.begin, segment.end, last.incident)
        else:
            merged.append(segment)
    return merged


def _life(rows: list[records.Row]) -> Life:
    moves = [row for row in rows if isinstance(row, records.JobMoved)]
    last = moves[-1] if moves else None
    ended = last is not None and _ends(last)
    begin = rows[0].at
    by_person = ended and last is not None and last.now == "failed" and last.why.startswith(evolve.BY_PERSON)
    return Life(
        rows=tuple(rows),
        submitted_at=begin,
        ended_at=max(begin, last.at) if ended and last is not None else None,
        state=last.now if last is not None else "starting",
        ended_by="person" if by_person else None,
    )


def _ends(row: records.Row) -> bool:
    return isinstance(row, records.JobMoved) and row.now in ("completed", "failed")


def _speaks(life: Life) -> bool:
    return any(isinstance(row, records.Attached | records.Training) for row in life.rows)


def _seen_running(life: Life) -> bool:
    return any(isinstance(row, records.JobMoved) and row.now in ("training", "completed") for row in life.rows)
