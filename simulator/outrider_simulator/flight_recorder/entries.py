"""What a rank's recorder holds at a moment: the ring of entries, the groups' status and their members.

Flow: a Run and a moment -> Dump, plain values in the recorder's own words. Properties of the recorder that a reader has
to live with are kept: members of a coalesced batch never change their state, completion is noticed by a thread that
looks every 100 ms, nothing is known of a start without timing, and one sequence number stands for sends and recvs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from outrider_simulator.flight_recorder import execute, program
from outrider_simulator.flight_recorder import layout as layouts

SCHEDULED, STARTED, COMPLETED = "scheduled", "started", "completed"
WATCH_S = 0.1  # the watchdog's rest between two looks
TIMEOUT_MS = 600_000
FOREVER = 1e6  # a moment by which all that can happen has happened


@dataclass(frozen=True)
class Settings:
    """How ranks record and dump. ``version`` is the format's; ``ring`` the number of entries kept.

    ``told_members``: members of a coalesced batch share its state, as writers other than torch's may have it.
    """

    version: str = "2.10"
    ring: int = 2000
    form: str = "pickle"  # or "json"
    stacks: bool = True
    timing: bool = False
    active_only: bool = False
    told_members: bool = False

    @property
    def minor(self) -> int:
        """The second number of the version."""
        return int(self.version.partition(".")[2])


@dataclass(frozen=True, eq=False)
class Line:
    """What all entries of one call on one group have in common; ``sizes`` of input and output."""

    pg_id: int
    group: layouts.Group
    name: str  # profiling name
    inputs: program.Sizes
    outputs: program.Sizes
    dtypes: tuple[tuple[str, ...], tuple[str, ...]]
    p2p: bool
    frames: tuple[tuple[str, str, int], ...]
    thread: str
    event: bool  # whether it has events of its own, so that its state ever changes


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. Times are nanoseconds on the clock of the rank's host; None where nothing was noticed."""

    line: Line
    record: int
    cseq: int
    pseq: int
    op_id: int
    created: int
    state: str
    started: int | None
    completed: int | None
    retired: bool
    duration_ms: float | None


@dataclass(frozen=True)
class Dump:
    """Everything one rank writes."""

    rank: int
    settings: Settings
    config: tuple[layouts.Group, ...]
    status: tuple[tuple[int, tuple[int, int, int]], ...]  # pg_id, last enqueued, started and completed
    entries: tuple[Entry, ...]


class Recorder:
    """The recorders of all ranks of a run. ``clocks`` is each host's clock less the true time, in seconds."""

    def __init__(self, run: execute.Run, start_ns: int, clocks: dict[int, float] | None = None) -> None:
        self._run = run
        self._layout = run.plan.layout
        self._start_ns = start_ns
        self._clocks = clocks or {}
        self._lines: dict[tuple[int, int, int], list[Line]] = {}
        self._counts: dict[int, tuple[dict[str, list[int]], int]] = {}  # by id of a stage's list of calls
        self._pg_ids = [{group.index: pg_id for pg_id, group in enumerate(of.values())} for of in self._layout.of]
        ends = (record.done for rank in run.ranks for record in rank.records if record.point[0] == 0)
        self._period = max((end for end in ends if end is not None), default=0.0) + 1e-3

    def dump(self, rank: int, settings: Settings, at: float = FOREVER) -> Dump:
        """What ``rank`` writes at a moment, in seconds from the start of the run."""
        found = self._run.ranks[rank]
        clock = self._start_ns + int(self._clocks.get(self._layout.node(rank), 0.0) * 1e9)
        seen = [record for record in found.records if record.created <= at]
        at = min(at, self._settled(found) + 600.0)
        room, parts = settings.ring, []
        for record, back in self._newest_first(found, seen):
            made = list(self._entries(record, back, settings, at, clock))[-room:]
            room -= len(made)
            parts.append(made)
            if room <= 0:
                break
        entries = tuple(entry for made in reversed(parts) for entry in made)
        if settings.active_only:
            entries = tuple(entry for entry in entries if entry.state != COMPLETED)
        groups = self._used(found, seen)
        status = tuple((self._pg_id(rank, group), self._status(found, seen, group, settings, at)) for group in groups)
        return Dump(rank, settings, groups, status, entries)

    def _settled(self, rank: execute.Rank) -> float:
        """When the last thing happened on this rank."""
        last = rank.records[-8:]
        return max([rank.time, *(record.done or record.created for record in last)])

    def _newest_first(self, rank: execute.Rank, seen: list[execute.Record]) -> Iterator[tuple[execute.Record, int]]:
        """Records of the run, then those of the steps before it, which went as its first step did."""
        yield from ((record, 0) for record in reversed(seen))
        first = [record for record in rank.records if record.point[0] == 0]
        for back in range(1, self._run.plan.first_step + 1):
            yield from ((record, back) for record in reversed(first))

    def _entries(self, record: execute.Record, back: int, settings: Settings, at: float, clock: int) -> Iterator[Entry]:
        counts, entries = self._per_step(record)
        cseq, pseq, op_id = record.cseq, record.pseq, record.op_id
        number, shift = record.record - back * entries, back * self._period
        if back:
            cseq, pseq, op_id = (value - back * each for value, each in zip((cseq, pseq, op_id), counts, strict=True))
        lines = self._lines_of(record)
        created = clock + int((record.created - shift) * 1e9)
        state, started, completed, retired = self._seen(record, shift, settings, at, clock)
        duration = None
        if settings.timing and retired and record.done is not None and record.arrived is not None:
            duration = round((record.done - record.arrived) * 1e3, 6)
        op = op_id - record.call.operations
        for place, line in enumerate(lines):
            moment = created + place * 700
            if place < record.call.operations:
                op += 1
            if line.event or settings.told_members:
                yield Entry(line, number + place, cseq, pseq, op, moment, state, started, completed, retired, duration)
            elif line.p2p or settings.minor >= 7:
                yield Entry(line, number + place, cseq, pseq, op, moment, SCHEDULED, None, None, False, None)

    def _seen(
        self, record: execute.Record, shift: float, settings: Settings, at: float, clock: int
    ) -> tuple[str, int | None, int | None, bool]:
        """State, moments of discovery and whether the watchdog has dropped it."""
        arrived = record.arrived is not None and record.arrived <= at
        now = clock + int(at * 1e9)
        if record.done is not None and (record.done <= at or shift):
            phase = record.rank * 0.618 % 1.0  # each process' watchdog looks at moments of its own
            look = (math.ceil((record.done - shift) / WATCH_S - phase) + phase) * WATCH_S
            retired = look <= at
            noticed = clock + int(look * 1e9) if retired else now
            return COMPLETED, noticed if settings.timing else None, noticed, retired
        if arrived and settings.timing:
            return STARTED, now, None, False
        return SCHEDULED, None, None, False

    def _per_step(self, record: execute.Record) -> tuple[tuple[int, int, int], int]:
        calls = self._run.ranks[record.rank].calls
        if id(calls) not in self._counts:
            self._counts[id(calls)] = execute.per_step(calls)
        counts, entries = self._counts[id(calls)]
        each = counts.get(record.call.kind, [0, 0, 0])
        return (each[0], each[1], each[2]), entries

    def _lines_of(self, record: execute.Record) -> list[Line]:
        differs = record.call.parts or record.call.op == program.ALL_TO_ALL
        key = (id(record.call), record.group.index, record.group.places[record.rank] if differs else -1)
        found = self._lines.get(key)
        if found is None:
            found = self._lines[key] = list(_lines(record, self._pg_id(record.rank, record.group)))
        return found

    def _pg_id(self, rank: int, group: layouts.Group) -> int:
        return self._pg_ids[rank][group.index]

    def _used(self, rank: execute.Rank, seen: list[execute.Record]) -> tuple[layouts.Group, ...]:
        """Groups with a communicator: those used so far."""
        kinds = {record.call.kind for record in seen}
        if self._run.plan.first_step:
            kinds |= {call.kind for call in rank.calls}
        return tuple(group for kind, group in self._layout.of[rank.number].items() if kind in kinds)

    def _status(
        self, rank: execute.Rank, seen: list[execute.Record], group: layouts.Group, settings: Settings, at: float
    ) -> tuple[int, int, int]:
        """The watchdog's own count: of collectives, or of sends and recvs where one was the last."""
        enqueued = started = completed = -1
        past = execute.per_step(rank.calls)[0].get(group.kind, [0, 0, 0])
        if self._run.plan.first_step:
            last = [call for call in rank.calls if call.kind == group.kind][-1:]
            each = past[1] if last and last[0].what == program.P2P else past[0]
            enqueued = completed = each * self._run.plan.first_step
            started = completed if settings.timing else -1
        for record in seen:
            if record.group is not group:
                continue
            enqueued = record.cseq if record.call.what == program.COLLECTIVE else record.pseq
            if record.done is not None and record.done <= at:
                completed = enqueued
            if settings.timing and record.arrived is not None and record.arrived <= at:
                started = enqueued
        return enqueued, started, completed


def _lines(record: execute.Record, pg_id: int) -> Iterator[Line]:
    call, group = record.call, record.group
    thread = "pt_autograd_0" if call.place.startswith(("backward", "fsdp_reduce", "ddp")) else "python"
    if call.what == program.COLLECTIVE:
        frames = stack(call.op, call.place)
        both = ((call.dtype,), (call.dtype,))
        for member in call.members:
            name = f"nccl:{member.op}"
            yield Line(pg_id, group, name, member.inputs, member.outputs, both, False, frames, thread, False)
        inputs, outputs = call.inputs, call.outputs
        if call.op == program.ALL_TO_ALL:
            inputs, outputs = _uneven(record, inputs), _uneven(record, outputs, "out")
        dtypes = ((call.dtype,) * len(inputs), (call.dtype,) * len(outputs))
        yield Line(pg_id, group, f"nccl:{call.op}", inputs, outputs, dtypes, False, frames, thread, True)
        return
    place, size = group.places[record.rank], len(group.ranks)
    for part in call.parts:
        peer = (place + part.step) % size
        sign = "->" if part.direction == "send" else "<-"
        name = f"nccl:{part.direction} {place}{sign}{peer}"
        frames = stack(part.direction, call.place)
        dtypes = ((part.dtype,), (part.dtype,))
        yield Line(pg_id, group, name, (part.sizes,), (part.sizes,), dtypes, True, frames, thread, not call.batched)
    if call.batched:
        frames = stack("batch_isend_irecv", call.place)
        yield Line(pg_id, group, "nccl:coalesced", (), (), ((), ()), True, frames, thread, True)


def _uneven(record: execute.Record, sizes: program.Sizes, end: str = "in") -> program.Sizes:
    """The tokens that a router sends to, or gathers from, this member: about a quarter more or less than even."""
    share = zlib.crc32(f"{record.call.place} {end} {record.group.places[record.rank]}".encode()) % 1000 / 2000 + 0.75
    return tuple((int(shape[0] * share), *shape[1:]) if shape else shape for shape in sizes)


def stack(op: str, place: str) -> tuple[tuple[str, str, int], ...]:
    """Frames of a call, innermost first: function, file, line."""
    line = zlib.crc32(place.encode()) % 380 + 10
    torch = "/opt/venv/lib/python3.11/site-packages/torch/distributed"
    return (
        (op, f"{torch}/distributed_c10d.py", 2000 + zlib.crc32(op.encode()) % 3000),
        ("wrapper", f"{torch}/c10d_logger.py", 81),
        (place, f"/opt/job/{place.partition('_')[0]}.py", line),
        ("train_step", "/opt/job/train.py", 214),
        ("main", "/opt/job/train.py", 351),
        ("<module>", "/opt/job/train.py", 402),
    )
