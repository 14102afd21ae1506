"""Which faults the demo injects, when, and into what: settled by the seed before anything runs."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Final

from outrider import vocabulary
from outrider_cli import errors, parsing

STEPS_AFTER_MIN: Final = 2  # steps between the last fault and the end, so that coming back can be seen
STEPS_PER_FAULT_MIN: Final = 3
BEFORE_IT_WAS_VERIFIED: Final = 0.3  # share of the damaged checkpoints that nobody had looked at before
WORDS: Final = {
    "kill": "SIGKILL of rank {rank}",
    "stop": "SIGSTOP of rank {rank}",
    "spin": "rank {rank} loops in Python at its next step, and the others wait for it in a collective",
    "corrupt": "256 bytes of the newest checkpoint flipped, then SIGKILL of rank {rank}",
    "node": "SIGKILL of the whole simulated host of rank {rank}: agent, keeper and ranks",
    "nan": "the loss turns NaN at the next step",
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
    room = (steps - STEPS_AFTER_MIN - checkpoint_every - 1) // STEPS_PER_FAULT_MIN
    return kinds[: max(0, room)]


def plan(kinds: tuple[str, ...], seed: int, steps: int, checkpoint_every: int, world_size: int) -> list[Fault]:
    """A moment for each fault, in its own part of the steps after the first checkpoint. Equal for equal arguments."""
    chance = random.Random(f"outrider demo {seed}")
    first, last = checkpoint_every + 1, steps - STEPS_AFTER_MIN
    if len(fitting(kinds, steps, checkpoint_every)) < len(kinds):
        needed = checkpoint_every + 1 + STEPS_AFTER_MIN + STEPS_PER_FAULT_MIN * len(kinds)
        raise errors.CommandError(f"--steps {steps}: is too few for {len(kinds)} faults; give at least {needed}")
    width = (last - first) / max(1, len(kinds))
    faults = [
        Fault(
            kind=kind,
            step=int(first + width * (place + chance.uniform(0.1, 0.8))),
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
