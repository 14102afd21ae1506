"""Faults of a 4D job, put into the programs and devices that execute.py runs.

Each fault changes what a rank does and says what is true of it; nothing here looks at a dump. A rank that is stuck
never makes a call; a mismatch changes what it calls; a dead device runs nothing any more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from outrider_simulator.flight_recorder import execute, program
from outrider_simulator.flight_recorder import layout as layouts

STEP: Final = 1  # the step in which a fault strikes; the one before goes well and stands for all earlier ones


@dataclass(frozen=True)
class Fault:
    """One injected fault and what is true of it.

    ``kinds``: words for it, the most fitting first. ``point`` is the call of the rank's own lines that goes wrong.
    ``group`` and ``op``: where that shows first.
    """

    name: str
    kinds: tuple[str, ...]
    rank: int
    point: execute.Point
    group: layouts.Group
    op: str
    lines: Sequence[program.Call] | None = None
    blamed: bool = True
    dead: execute.Point | None = None
    endless: bool = False
    link: bool = False
    dumps: bool = True  # whether the rank can still write a dump
    pair: bool = False  # it concerns a send or recv


@dataclass(frozen=True)
class Job:
    """What faults are put into."""

    layout: layouts.Layout
    stages: Sequence[Sequence[program.Call]]
    chance: random.Random

    def lines(self, rank: int) -> Sequence[program.Call]:
        """The calls of a rank's step."""
        return self.stages[self.layout.mesh.coords(rank)["pp"]]

    def kinds(self, what: str) -> list[str]:
        """Kinds of groups that carry calls of this sort somewhere."""
        return sorted({call.kind for lines in self.stages for call in lines if call.what == what})

    def point(self, rank: int, fits: Callable[[program.Call], bool]) -> int | None:
        """A random call of this rank that fits."""
        found = [index for index, call in enumerate(self.lines(rank)) if fits(call)]
        return self.chance.choice(found) if found else None

    def somewhere(self, fits: Callable[[program.Call], bool]) -> tuple[int, int] | None:
        """A random rank and call that fit, or None where the job has no such call."""
        ranks = list(range(self.layout.world))
        self.chance.shuffle(ranks)
        for rank in ranks[:64]:
            index = self.point(rank, fits)
            if index is not None:
                return rank, index
        return None

    def fault(self, name: str, kinds: tuple[str, ...], rank: int, index: int) -> Fault:
        """A fault at a call, with where it shows."""
        call = self.lines(rank)[index]
        group = self.layout.of[rank][call.kind]
        return Fault(name, kinds, rank, (STEP, index), group, call.op, pair=call.what == program.P2P)


def stuck(job: Job, axis: str) -> Fault | None:
    """A host that stops before a call on this kind of group."""
    found = job.somewhere(lambda call: call.kind == axis and call.what != program.SYNC)
    if found is None:
        return None
    rank, index = found
    lines = list(job.lines(rank))
    fault = job.fault(f"stuck-{axis}", ("rank-missing",), rank, index)
    kinds = ("rank-missing", "p2p-missing") if fault.pair else fault.kinds
    return replace(fault, kinds=kinds, lines=[*lines[:index], program.stop(), *lines[index:]])


def killed(job: Job) -> Fault | None:
    """A process that is gone: its host stops, its device stops a few calls earlier, it leaves no dump."""
    fault = stuck(job, job.chance.choice(_kinds(job)))
    if fault is None:
        return None
    index = max(0, fault.point[1] - job.chance.choice((0, 0, 1, 3)))
    while job.lines(fault.rank)[index].what == program.SYNC:
        index += 1
    gone = job.fault("killed", ("rank-missing", "p2p-missing"), fault.rank, index)
    return replace(gone, lines=fault.lines, dead=(STEP, index), dumps=False)


def wrong_op(job: Job) -> Fault | None:
    """One rank calls another collective."""
    return _changed(job, "wrong-op", ("collective-mismatch", "order-mismatch"), _other_op)


def wrong_size(job: Job) -> Fault | None:
    """One rank's tensor has another size."""
    return _changed(job, "wrong-size", ("size-mismatch",), _other_size)


def wrong_dtype(job: Job) -> Fault | None:
    """One rank's tensor has another type."""
    return _changed(job, "wrong-dtype", ("dtype-mismatch",), _other_dtype)


def skipped(job: Job) -> Fault | None:
    """One rank leaves a collective out and goes on."""
    found = job.somewhere(lambda call: call.what == program.COLLECTIVE)
    if found is None:
        return None
    rank, index = found
    lines = list(job.lines(rank))
    kinds = ("order-mismatch", "collective-mismatch", "size-mismatch", "dtype-mismatch", "rank-missing")
    return replace(job.fault("skipped", kinds, rank, index), lines=[*lines[:index], *lines[index + 1 :]])


def extra(job: Job) -> Fault | None:
    """One rank makes a collective call that nobody else makes."""
    found = job.somewhere(lambda call: call.what == program.COLLECTIVE)
    if found is None:
        return None
    rank, index = found
    lines = list(job.lines(rank))
    call = lines[index]
    other = replace(call, op="broadcast", inputs=((1,),), outputs=((1,),), members=())
    more = call if job.chance.random() < 0.5 else other
    kinds = ("order-mismatch", "collective-mismatch", "size-mismatch", "dtype-mismatch")
    return replace(job.fault("extra", kinds, rank, index), lines=[*lines[:index], more, *lines[index:]])


def no_send(job: Job) -> Fault | None:
    """A send that is never made, while the rank goes on."""
    return _without(job, "no-send", "send")


def no_recv(job: Job) -> Fault | None:
    """A recv that is never made, while the rank goes on."""
    return _without(job, "no-recv", "recv")


def both_receive(job: Job) -> Fault | None:
    """A rank receives where it should send."""
    found = job.somewhere(lambda call: any(part.direction == "send" for part in call.parts))
    if found is None:
        return None
    rank, index = found
    lines = list(job.lines(rank))
    parts = tuple(replace(part, direction="recv") for part in lines[index].parts if part.direction == "send")
    op = lines[index].op if lines[index].batched else "recv"
    lines[index] = replace(lines[index], parts=parts, op=op, blocking=True)
    kinds = ("p2p-deadlock", "p2p-missing", "order-mismatch", "collective-mismatch")
    return replace(job.fault("both-receive", kinds, rank, index), lines=lines)


def swapped(job: Job) -> Fault | None:
    """A rank makes two neighbouring calls in the wrong order; of sends and recvs, or across groups."""
    pairs = job.chance.random() < 0.6
    what = program.P2P if pairs else program.COLLECTIVE
    found = job.somewhere(lambda call: call.what == what)
    if found is None:
        return None
    rank, index = found
    lines = list(job.lines(rank))
    later = [place for place in range(index + 1, len(lines)) if _swaps(lines[index], lines[place])][:1]
    if not later:
        return None
    lines[index], lines[later[0]] = lines[later[0]], lines[index]
    kinds = ("p2p-deadlock", "p2p-missing", "order-mismatch", "rank-missing")
    if not pairs:
        kinds = ("order-mismatch", "rank-missing", "p2p-missing", "p2p-deadlock")
    return replace(job.fault("p2p-order" if pairs else "group-order", kinds, rank, index), lines=lines)


def device_late(job: Job) -> Fault | None:
    """A device that starts nothing from some call on, while its host goes on calling."""
    found = job.somewhere(lambda call: call.what == program.COLLECTIVE)
    if found is None:
        return None
    fault = job.fault("device-late", ("device-stuck",), *found)
    return replace(fault, dead=fault.point)


def device_endless(job: Job) -> Fault | None:
    """A device on which an operation never ends that its peers have ended."""
    found = job.somewhere(lambda call: call.what == program.COLLECTIVE)
    if found is None:
        return None
    return replace(job.fault("device-endless", ("device-stuck",), *found), endless=True)


def link(job: Job) -> Fault | None:
    """An operation that all have joined and nobody ends."""
    found = job.somewhere(lambda call: call.what in (program.COLLECTIVE, program.P2P))
    if found is None:
        return None
    kinds = ("all-joined-stuck",)
    return replace(job.fault("link", kinds, *found), link=True, blamed=False)


def apply(plan: execute.Plan, faults: Sequence[Fault]) -> execute.Plan:
    """The plan with these faults in it."""
    return replace(
        plan,
        lines={(fault.rank, fault.point[0]): fault.lines for fault in faults if fault.lines is not None},
        dead={fault.rank: fault.dead for fault in faults if fault.dead is not None},
        endless={fault.rank: fault.point for fault in faults if fault.endless},
        links=frozenset((fault.rank, fault.point) for fault in faults if fault.link),
    )


def reached(run: execute.Run, fault: Fault) -> tuple[bool, bool]:
    """Whether the fault's host came past its point, and whether it also took effect on the device."""
    rank = run.ranks[fault.rank]
    host = rank.stopped or (rank.step, rank.at) > fault.point
    if fault.lines is not None and any(call.what == program.STOP for call in fault.lines):
        return rank.stopped, rank.stopped
    before = [record for record in rank.records if record.point < fault.point]
    return host, host and all(record.done is not None for record in before if record.call.blocking)


def _kinds(job: Job) -> list[str]:
    return sorted({*job.kinds(program.COLLECTIVE), *job.kinds(program.P2P)})


def _changed(
    job: Job, name: str, kinds: tuple[str, ...], change: Callable[[program.Call, random.Random], program.Call]
) -> Fault | None:
    found = job.somewhere(lambda call: call.what == program.COLLECTIVE)
    if found is None:
        return None
    rank, index = found
    lines = list(job.lines(rank))
    lines[index] = change(lines[index], job.chance)
    return replace(job.fault(name, kinds, rank, index), lines=lines)


def _other_op(call: program.Call, chance: random.Random) -> program.Call:
    ops = ("all_reduce", "_all_gather_base", "_reduce_scatter_base", "broadcast", program.ALL_TO_ALL)
    if call.members:  # one collective where the others make the batch
        call = replace(call, op=call.members[0].op, inputs=call.members[0].inputs, outputs=call.members[0].outputs)
        return replace(call, members=())
    # Newer releases call the same message by another name: that one mixes with it and is no fault.
    same = call.op.replace("all_gather_single", "_all_gather_base").replace("reduce_scatter_single", ops[2])
    return replace(call, op=chance.choice([op for op in ops if op not in (call.op, same)]))


def _other_size(call: program.Call, chance: random.Random) -> program.Call:
    factor = chance.choice((2, 3))

    def grown(sizes: program.Sizes) -> program.Sizes:
        return tuple((shape[0] * factor, *shape[1:]) if shape else (factor,) for shape in sizes)

    members = tuple(replace(each, inputs=grown(each.inputs), outputs=grown(each.outputs)) for each in call.members)
    return replace(call, inputs=grown(call.inputs), outputs=grown(call.outputs), members=members)


def _other_dtype(call: program.Call, chance: random.Random) -> program.Call:
    return replace(call, dtype=chance.choice([word for word in ("Float", "BFloat16", "Half") if word != call.dtype]))


def _without(job: Job, name: str, direction: str) -> Fault | None:
    found = job.somewhere(lambda call: any(part.direction == direction for part in call.parts))
    if found is None:
        return None
    rank, index = found
    lines = list(job.lines(rank))
    left = tuple(part for part in lines[index].parts if part.direction != direction)
    changed = [replace(lines[index], parts=left)] if left else []
    kinds = ("p2p-missing", "order-mismatch", "rank-missing", "p2p-deadlock")
    return replace(job.fault(name, kinds, rank, index), lines=[*lines[:index], *changed, *lines[index + 1 :]])


def _swaps(one: program.Call, other: program.Call) -> bool:
    """Whether the two in the other order are another program."""
    if one.what == program.P2P:
        return other.what == program.P2P and other.kind == one.kind and other.parts != one.parts
    return other.what == program.COLLECTIVE and other.kind != one.kind


FAULTS: Final[dict[str, Callable[[Job], Fault | None]]] = {
    "killed": killed,
    "wrong-op": wrong_op,
    "wrong-size": wrong_size,
    "wrong-dtype": wrong_dtype,
    "skipped": skipped,
    "extra": extra,
    "no-send": no_send,
    "no-recv": no_recv,
    "both-receive": both_receive,
    "swapped": swapped,
    "device-late": device_late,
    "device-endless": device_endless,
    "link": link,
    **{
        f"stuck-{axis}": (lambda job, axis=axis: stuck(job, axis))  # type: ignore[misc]
        for axis in ("tp", "cp", "pp", "dp", "dp_cp", layouts.EXPERT, layouts.WORLD, layouts.EMBEDDING)
    },
}
