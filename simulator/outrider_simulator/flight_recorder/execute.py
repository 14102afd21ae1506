"""Runs the ranks' programs until nothing more can happen: what is blocked then is blocked for a reason.

Each rank has a host, which calls ahead of its device and waits where the program (or a full queue) makes it wait, and a
device with one stream for each communicator. An operation starts on a device once the host has called it, the stream
is free and the computation before it is over. A collective completes once the devices of all members have started the
same operation of the same sizes; a send once its recv has started, and the other way round. No order of execution can
change the outcome, so a simple worklist finds it. Times are seconds from the start of the first step.
"""

from __future__ import annotations

import contextlib
import gc
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from outrider_simulator.flight_recorder import layout as layouts
from outrider_simulator.flight_recorder import program

Key = tuple[int, bool, int, int]  # group, batched, sending rank, receiving rank
Point = tuple[int, int]  # step, index of the call within it


@dataclass
class Record:
    """One operation of one rank. ``arrived``: its device started it; ``done``: it completed; None while it has not."""

    __slots__ = (
        "_need",
        "_ready",
        "arrived",
        "call",
        "created",
        "cseq",
        "done",
        "group",
        "op_id",
        "point",
        "pseq",
        "rank",
        "record",
        "waiters",
    )

    call: program.Call
    rank: int
    group: layouts.Group
    point: Point
    record: int  # record_id of the first entry it leaves
    cseq: int
    pseq: int
    op_id: int  # after it
    created: float

    def __post_init__(self) -> None:
        self.arrived: float | None = None
        self.done: float | None = None
        self.waiters: list[tuple[Record, float]] = []
        self._need = 0
        self._ready = 0.0


@dataclass(frozen=True)
class Plan:
    """What is run. ``lines`` are a rank's own calls of a step where they differ from those of its stage.

    ``dead``: from this call on the rank's device does nothing. ``endless``: this operation never ends on the rank's
    device, though its peers' end. ``links``: operations (of any member) that nobody ends. ``slow_host`` and
    ``slow_device`` multiply the time between a rank's calls and that of its computation.
    """

    layout: layouts.Layout
    stages: Sequence[Sequence[program.Call]]
    steps: int = 4
    ahead: int = 16  # operations a host may have called that are not over
    first_step: int = 0  # steps finished before, which count in sequence numbers
    seed: int = 0
    lines: Mapping[tuple[int, int], Sequence[program.Call]] = field(default_factory=dict)
    dead: Mapping[int, Point] = field(default_factory=dict)
    endless: Mapping[int, Point] = field(default_factory=dict)
    links: frozenset[tuple[int, Point]] = frozenset()
    slow_host: Mapping[int, float] = field(default_factory=dict)
    slow_device: Mapping[int, float] = field(default_factory=dict)


@dataclass
class Rank:
    """Where one rank's host and device are."""

    number: int
    calls: Sequence[program.Call]
    chance: random.Random
    step: int = 0
    at: int = 0
    time: float = 0.0
    records: list[Record] = field(default_factory=list)
    pending: deque[Record] = field(default_factory=deque)
    seqs: dict[int, list[int]] = field(default_factory=dict)  # group -> collectives, sends and recvs, operations
    next_record: int = 0
    streams: dict[tuple[int, int], Record] = field(default_factory=dict)
    chain: Record | None = None  # what the computation waits for last
    since: float = 0.0  # computation called since then
    stopped: bool = False  # the host stands at a STOP
    ended: bool = False  # all steps done
    parked: Record | None = None


@dataclass
class _Meeting:
    """The members of a collective that have arrived."""

    signature: tuple[object, ...]
    records: list[Record] = field(default_factory=list)
    latest: float = 0.0
    broken: bool = False


class Run:
    """One execution; ``ranks`` hold the outcome."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        layout = plan.layout
        place = [layout.mesh.coords(rank)["pp"] for rank in range(layout.world)]
        self.ranks = [
            Rank(rank, plan.stages[place[rank]], random.Random(plan.seed * 1_000_003 + rank))
            for rank in range(layout.world)
        ]
        self._meetings: dict[tuple[int, int], _Meeting] = {}
        self._sends: dict[Key, deque[Record | None]] = {}
        self._recvs: dict[Key, deque[Record | None]] = {}
        self._parts: dict[int, list[float]] = {}  # by id of the record: parts without a partner, latest arrival
        self._over: list[tuple[Record, float]] = []
        self._hosts: deque[Rank] = deque(self.ranks)
        for rank in self.ranks:
            self._count_past(rank)
        with no_collector():
            while self._hosts:
                self._host(self._hosts.popleft())

    @property
    def blocked(self) -> bool:
        """Whether no rank got to the end."""
        return not any(rank.ended for rank in self.ranks)

    def _count_past(self, rank: Rank) -> None:
        counts, records = per_step(rank.calls)
        groups = self.plan.layout.of[rank.number]
        for kind, (collectives, p2p, operations) in counts.items():
            past = self.plan.first_step
            rank.seqs[groups[kind].index] = [collectives * past, p2p * past, operations * past]
        rank.next_record = records * self.plan.first_step

    def _host(self, rank: Rank) -> None:
        """Let a host call on until it has to wait, stops or is through."""
        plan = self.plan
        lines = plan.lines.get((rank.number, rank.step), rank.calls)
        slow = plan.slow_host.get(rank.number, 1.0)
        rank.parked = None
        while True:
            if rank.at >= len(lines):
                rank.step, rank.at = rank.step + 1, 0
                lines = plan.lines.get((rank.number, rank.step), rank.calls)
            if rank.step >= plan.steps:
                rank.ended = True
                return
            call = lines[rank.at]
            if not self._waited(rank, 0 if call.what == program.SYNC else plan.ahead):
                return
            if call.what == program.STOP:
                rank.stopped = True
                return
            rank.at += 1
            rank.time += (20e-6 + 15e-6 * rank.chance.random()) * slow
            if call.what != program.SYNC:
                self._enqueue(rank, call)
                self._settle()

    def _waited(self, rank: Rank, ahead: int) -> bool:
        """Whether at most ``ahead`` operations are pending; parks the host where it has to wait for one."""
        pending = rank.pending
        while len(pending) > ahead or (pending and pending[0].done is not None and pending[0].done <= rank.time):
            if pending[0].done is None:
                rank.parked = pending[0]
                return False
            rank.time = max(rank.time, pending.popleft().done or 0.0)
        return True

    def _enqueue(self, rank: Rank, call: program.Call) -> None:
        group = self.plan.layout.of[rank.number][call.kind]
        seqs = rank.seqs[group.index]
        if call.what == program.COLLECTIVE:
            seqs[0] += 1
        else:
            seqs[1] += 1
        seqs[2] += call.operations
        record = Record(
            call, rank.number, group, (rank.step, rank.at - 1), rank.next_record, seqs[0], seqs[1], seqs[2], rank.time
        )
        rank.next_record += call.entries
        rank.records.append(record)
        rank.pending.append(record)
        slow = self.plan.slow_device.get(rank.number, 1.0)
        rank.since += call.compute_us * 1e-6 * slow * (0.9 + 0.2 * rank.chance.random())
        record._ready = rank.time + 5e-6
        self._after(record, rank.chain, rank.since)
        stream = _stream(group, rank.number, call)
        self._after(record, rank.streams.get(stream), 0.0)
        rank.streams[stream] = record
        if call.blocking:
            rank.chain, rank.since = record, 0.0
        if record._need == 0:
            self._arrive(record)

    def _after(self, record: Record, earlier: Record | None, offset: float) -> None:
        if earlier is None:
            return
        if earlier.done is None:
            earlier.waiters.append((record, offset))
            record._need += 1
        else:
            record._ready = max(record._ready, earlier.done + offset)

    def _arrive(self, record: Record) -> None:
        """The record's device is free for it: it starts, and may complete a meeting."""
        dead = self.plan.dead.get(record.rank)
        if dead is not None and record.point >= dead:
            return
        record.arrived = record._ready
        if record.call.what == program.COLLECTIVE:
            self._meet(record)
        else:
            self._pair(record)

    def _meet(self, record: Record) -> None:
        key = (record.group.index, record.cseq)
        meeting = self._meetings.get(key)
        if meeting is None:
            meeting = self._meetings[key] = _Meeting(record.call.signature)
        meeting.broken |= meeting.signature != record.call.signature
        meeting.broken |= bool(self.plan.links) and (record.rank, record.point) in self.plan.links
        meeting.records.append(record)
        meeting.latest = max(meeting.latest, record._ready)
        if len(meeting.records) == len(record.group.ranks) and not meeting.broken:
            end = meeting.latest + 120e-6
            self._over.extend((member, end) for member in meeting.records)
            del self._meetings[key]

    def _pair(self, record: Record) -> None:
        """Match each part with the peer's; parts of one pair match in order."""
        group, place = record.group, record.group.places[record.rank]
        broken = bool(self.plan.links) and (record.rank, record.point) in self.plan.links
        self._parts[id(record)] = [len(record.call.parts), record._ready]
        for part in record.call.parts:
            peer = group.ranks[(place + part.step) % len(group.ranks)]
            sends = part.direction == "send"
            ends = (record.rank, peer) if sends else (peer, record.rank)
            key = (group.index, record.call.batched, *ends)
            mine, theirs = (self._sends, self._recvs) if sends else (self._recvs, self._sends)
            waiting = theirs.get(key)
            if not waiting:
                mine.setdefault(key, deque()).append(None if broken else record)
                continue
            other = waiting.popleft()
            if other is not None and not broken and _fits(part, other, record):
                self._joined(record, other)
                self._joined(other, record)

    def _joined(self, record: Record, other: Record) -> None:
        parts = self._parts[id(record)]
        parts[0] -= 1
        parts[1] = max(parts[1], other._ready)
        if parts[0] == 0:
            del self._parts[id(record)]
            self._over.append((record, parts[1] + 60e-6))

    def _settle(self) -> None:
        """Follow completions until nothing more follows."""
        while self._over:
            record, end = self._over.pop()
            if self.plan.endless.get(record.rank) == record.point:
                continue
            record.done = end
            for waiter, offset in record.waiters:
                waiter._need -= 1
                waiter._ready = max(waiter._ready, end + offset)
                if waiter._need == 0:
                    self._arrive(waiter)
            record.waiters = []
            rank = self.ranks[record.rank]
            if rank.parked is record:
                rank.parked = None
                self._hosts.append(rank)


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Records point at each other in great number and none is garbage yet; walking them takes most of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def per_step(calls: Sequence[program.Call]) -> tuple[dict[str, list[int]], int]:
    """What a list of calls adds to each group's counters, and the number of entries it leaves."""
    counts: dict[str, list[int]] = {}
    entries = 0
    for call in calls:
        if call.what not in (program.COLLECTIVE, program.P2P):
            continue
        found = counts.setdefault(call.kind, [0, 0, 0])
        collective = call.what == program.COLLECTIVE
        found[0] += collective
        found[1] += not collective
        found[2] += call.operations
        entries += call.entries
    return counts, entries


def _stream(group: layouts.Group, rank: int, call: program.Call) -> tuple[int, int]:
    """A single send or recv has a communicator of its two ranks; everything else the group's."""
    if call.what == program.COLLECTIVE or call.batched:
        return group.index, -1
    return group.index, group.ranks[(group.places[rank] + call.parts[0].step) % len(group.ranks)]


def _fits(part: program.Part, other: Record, record: Record) -> bool:
    """Whether the peer's part on the other end has the same form."""
    direction = "recv" if part.direction == "send" else "send"
    group = record.group
    place = group.places[other.rank]
    return any(
        found.direction == direction
        and group.ranks[(place + found.step) % len(group.ranks)] == record.rank
        and (found.sizes, found.dtype) == (part.sizes, part.dtype)
        for found in other.call.parts
    )
