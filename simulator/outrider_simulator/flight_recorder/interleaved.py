"""The interleaved pipeline: each stage holds several chunks of the model and works on them in turns.

All stages go by one table: in each row a stage computes one chunk of one microbatch or rests, and afterwards everybody
hands over what that row made, in one batch of sends and recvs with both neighbours. The last stage sends its forward
result round the corner to the first, which holds the next chunk.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final, NamedTuple

FORWARD: Final = "forward"
BACKWARD: Final = "backward"


class Action(NamedTuple):
    """One chunk of one microbatch. ``chunk`` counts over the whole model: stages times chunks of each."""

    direction: str
    chunk: int
    microbatch: int


@dataclass
class _Stage:
    """Where one stage is in its own order of work."""

    forwards: list[Action]
    backwards: list[Action]
    ahead: int  # forwards it makes before its first backward
    forward: int = 0
    backward: int = 0

    def pick(self, over: set[Action], last: int) -> Action | None:
        """What it does in this row: one forward and one backward by turns once it is far enough ahead."""
        forward = self.forwards[self.forward] if self.forward < len(self.forwards) else None
        backward = self.backwards[self.backward] if self.backward < len(self.backwards) else None
        if forward is not None and forward.chunk and forward._replace(chunk=forward.chunk - 1) not in over:
            forward = None
        if backward is not None:
            before = Action(FORWARD, last, backward.microbatch)
            if backward.chunk < last:
                before = backward._replace(chunk=backward.chunk + 1)
            if before not in over:
                backward = None
        wants_backward = self.forward - self.backward >= self.ahead or forward is None
        found = backward if backward is not None and wants_backward else forward
        return found or backward


@dataclass
class _Table:
    stages: list[_Stage]
    rows: list[tuple[Action | None, ...]] = field(default_factory=list)


@functools.lru_cache(maxsize=64)
def table(stages: int, chunks: int, microbatches: int) -> tuple[tuple[Action | None, ...], ...]:
    """Rows of what each stage computes; None where it rests. ``chunks`` are those of one stage.

    Raises ValueError where the microbatches are not a multiple of the stages, which the schedule needs.
    """
    if microbatches % stages:
        raise ValueError(f"{microbatches} microbatches do not go round {stages} stages; take a multiple of {stages}")
    last = stages * chunks - 1
    made = _Table([_stage(place, stages, chunks, microbatches) for place in range(stages)])
    over: set[Action] = set()
    while any(stage.backward < len(stage.backwards) for stage in made.stages):
        row = tuple(stage.pick(over, last) for stage in made.stages)
        for stage, action in zip(made.stages, row, strict=True):
            stage.forward += action is not None and action.direction == FORWARD
            stage.backward += action is not None and action.direction == BACKWARD
        over |= {action for action in row if action is not None}
        made.rows.append(row)
    return tuple(made.rows)


def _stage(place: int, stages: int, chunks: int, microbatches: int) -> _Stage:
    def order(direction: str, turns: list[int]) -> list[Action]:
        return [
            Action(direction, turn * stages + place, microbatch)
            for first in range(0, microbatches, stages)
            for turn in turns
            for microbatch in range(first, first + stages)
        ]

    ahead = min(microbatches * chunks, (stages - place - 1) * 2 + (chunks - 1) * stages + 1)
    turns = list(range(chunks))
    return _Stage(order(FORWARD, turns), order(BACKWARD, turns[::-1]), ahead)


def handed(row: tuple[Action | None, ...], place: int, last: int) -> list[tuple[str, int]]:
    """Sends and recvs of a stage after a row: direction and step (1 to the next stage, -1 to the one before)."""
    own, before, after = row[place], row[place - 1], row[(place + 1) % len(row)]
    found = []
    if own is not None and own.direction == FORWARD and own.chunk < last:
        found.append(("send", 1))
    if own is not None and own.direction == BACKWARD and own.chunk > 0:
        found.append(("send", -1))
    if before is not None and before.direction == FORWARD and before.chunk < last:
        found.append(("recv", -1))
    if after is not None and after.direction == BACKWARD and after.chunk > 0:
        found.append(("recv", 1))
    return found
