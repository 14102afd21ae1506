"""Which faults the demo injects, when, and into what: settled by the seed before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
import random
from dataclasses import dataclass
from typing import Final

from outrider import vocabulary
from outrider_cli import errors, parsing

STEPS_AFTER_MIN: Final = 2  # steps between the last fault and the end, so that coming back can be seen
STEPS_PER_FAULT_MIN: Final = 3
# Simulated hardware is found by looking at it every second, and left at the next checkpoint; then it is mended.
STEPS_PER_HARDWARE_FAULT: Final = 24
BEFORE_IT_WAS_VERIFIED: Final = 0.3  # share of the damaged checkpoints that nobody had looked at before
WORDS: Final = {
    "kill": "SIGKILL of rank {rank}",
    "stop": "SIGSTOP of rank {rank}",
    "spin": "rank {rank} loops in Python at its next step, and the others wait for it in a collective",
    "corrupt": "256 bytes of the newest checkpoint flipped, then SIGKILL of rank {rank}",
    "node": "SIGKILL of the whole simulated host of rank {rank}: agent, keeper and ranks",
    "nan": "the loss turns NaN at the next step",
    "gpu-lost": "simulated: the GPU of rank {rank} falls off the bus (Xid 79), and the rank fails with a CUDA error",
    "xid": "simulated: the GPU of rank {rank} reports Xid 119 (GSP time-out), and the rank fails with a CUDA error",
    "thermal": "simulated: the GPU of rank {rank} is at 93 C; the job trains on",
    "power-brake": "simulated: the power supply slows down the GPU of rank {rank}; the job trains on",
    "ecc": "simulated: uncorrectable memory error (Xid 48) on the GPU of rank {rank}, which fails with a CUDA error",
}


@dataclass(frozen=True)
class Fault:
    """One fault. ``step``: injected once the job has finished this step; ``rank``: whom, or whose host, it hits.

    ``early``: a checkpoint is damaged as soon as it appears, before it was verified; ``where``: at this part of a file.
    """

    kind: str
    step: int
    rank: int
    delay_s: float
    early: bool = False
    where: float = 0.5

    @property
    def words(self) -> str:
        """What is about to happen."""
        return WORDS[self.kind].format(rank=self.rank)


def parse(text: str) -> tuple[str, ...]:
    """The kinds in ``kill,node`` or ``none``; refuses unknown ones, and those that this version cannot heal."""
    if text.strip() in ("none", ""):
        return ()
    kinds = tuple(word.strip() for word in text.split(","))
    ready = ", ".join(vocabulary.DEMO_FAULTS_READY)
    for kind in kinds:
        if kind not in vocabulary.DEMO_FAULTS:
            near = parsing.near(kind, vocabulary.DEMO_FAULTS)
            raise errors.CommandError(f"--faults: {kind!r} is not known{near}; there are {ready}, or none")
        if kind not in vocabulary.DEMO_FAULTS_READY:
            raise errors.CommandError(f"--faults: {kind} is not ready in this version; ready are {ready}")
    if len(set(kinds)) < len(kinds):
        raise errors.CommandError(f"--faults {text}: each fault is injected once, so name each once")
    return kinds


def fitting(kinds: tuple[str, ...], steps: int, checkpoint_every: int) -> tuple[str, ...]:
    """As many of the kinds, from the first on, as find room in so few steps."""
    room = steps - STEPS_AFTER_MIN - checkpoint_every - 1
    needed = list(itertools.accumulate(map(_width, kinds)))
    return tuple(kind for kind, until in zip(kinds, needed, strict=True) if until <= room)


def _latest(kind: str) -> float:
    """Share of its steps by which a fault strikes: what hardware does is seen some seconds later."""
    return 0.2 if kind in vocabulary.DEMO_FAULTS_SIMULATED else 0.8


def _width(kind: str) -> int:
    """Steps that a fault takes at least, until the job is well again."""
    return STEPS_PER_HARDWARE_FAULT if kind in vocabulary.DEMO_FAULTS_SIMULATED else STEPS_PER_FAULT_MIN


def plan(kinds: tuple[str, ...], seed: int, steps: int, checkpoint_every: int, world_size: int) -> list[Fault]:
    """A moment for each fault, in its own part of the steps after the first checkpoint. Equal for equal arguments."""
    chance = random.Random(f"outrider demo {seed}")
    first, last = checkpoint_every + 1, steps - STEPS_AFTER_MIN
    if len(fitting(kinds, steps, checkpoint_every)) < len(kinds):
        needed = checkpoint_every + 1 + STEPS_AFTER_MIN + sum(map(_width, kinds))
        raise errors.CommandError(f"--steps {steps}: is too few for {len(kinds)} faults; give at least {needed}")
    share = (last - first) / max(1, sum(map(_width, kinds)))
    begins = list(itertools.accumulate(map(_width, kinds), initial=0))
    faults = [
        Fault(
            kind=kind,
            step=int(first + share * (begins[place] + _width(kind) * chance.uniform(0.1, _latest(kind)))),
            rank=chance.randrange(world_size),
            delay_s=chance.uniform(0.0, 0.3),
            early=chance.random() < BEFORE_IT_WAS_VERIFIED,
            where=chance.random(),
        )
        for place, kind in enumerate(kinds)
    ]
    # A checkpoint is damaged once there is an older one to fall back to.
    return [
        dataclasses.replace(fault, step=min(last, max(fault.step, 2 * checkpoint_every)))
        if fault.kind == "corrupt"
        else fault
        for fault in faults
    ]
