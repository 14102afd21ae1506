"""How one rank stands: its phase, its newest finished step, and how long it stood still to save checkpoints.

In: phases entered and left, steps finished, in whatever order what tells of them arrives; any of it may be lost. Out:
values. Nothing here knows a clock; times are Unix seconds as the teller gave them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from outrider import vocabulary
from outrider_analysis.job_log import progress

PHASES_NESTED_MAX: Final = 16
SEEN_MAX_S: Final = 1e6  # a phase longer than this is a broken clock


@dataclass
class Rank:
    """One rank of an attempt. ``stall_s``: seconds in phase checkpoint since the newest checkpoint."""

    local_rank: int
    pid: int
    at: float
    base: str = "start"
    nested: list[tuple[str, float]] = field(default_factory=list)
    step: int | None = None
    stall_s: float = 0.0
    source: str = "marks"  # as records.RankProgress has it
    tells_steps: bool = False  # its own log has lines of steps
    collectives: int | None = None

    @property
    def phase(self) -> str:
        """The innermost phase that the vocabulary knows."""
        known = [name for name, _ in self.nested if name in vocabulary.PHASES]
        return known[-1] if known else self.base

    @property
    def innermost(self) -> str:
        """The innermost phase by whatever name the script gave it."""
        return self.nested[-1][0] if self.nested else self.base

    def finish(self, step: int, at: float) -> None:
        """A finished step ends whatever is open: what should have ended it may have been lost, and a rank must not be
        taken for one that saves a checkpoint ever after.
        """
        self.stall_s += self._close(0, at)
        self.base, self.step = "step", step

    def enter(self, phase: str, at: float) -> None:
        """A phase begins, inside those that are open."""
        if len(self.nested) < PHASES_NESTED_MAX:
            self.nested.append((phase, at))

    def leave(self, phase: str, at: float) -> None:
        """Close the innermost phase of that name and whatever is open inside it."""
        for index in range(len(self.nested) - 1, -1, -1):
            if self.nested[index][0] == phase:
                self.stall_s += self._close(index, at)
                return

    def saved(self, at: float) -> float:
        """A checkpoint is complete; seconds that the rank stood still for it."""
        stall_s = self.stall_s
        # A checkpoint is usually announced inside its own phase: that phase counts up to here, and from here on anew.
        open_at = [began for name, began in self.nested if name == "checkpoint"]
        if open_at:
            stall_s += _lasted(open_at[0], at)
            self.nested = [(name, at if name == "checkpoint" else began) for name, began in self.nested]
        self.stall_s = 0.0
        return stall_s

    def end(self) -> None:
        """The script says that it is done."""
        self.base, self.nested = "done", []

    def hear(self, found: progress.Found, at: float) -> None:
        """Move by what a line of a log says. Several ranks may print the same; saying it again changes nothing."""
        if isinstance(found, progress.Step):
            self.finish(found.step, at)
        elif isinstance(found, progress.Phase) and not found.begins:
            self.leave(found.name, at)
        elif isinstance(found, progress.Phase):
            if all(name != found.name for name, _ in self.nested):
                self.enter(found.name, at)
        elif isinstance(found, progress.Saved):
            self.leave("checkpoint", at)
            self.base = "step"
        elif isinstance(found, progress.Validated):
            self.leave("evaluation", at)

    def _close(self, depth: int, at: float) -> float:
        """Close every phase from ``depth`` inwards; seconds of a checkpoint that this ended."""
        began = [start for name, start in self.nested if name == "checkpoint"]
        self.nested = self.nested[:depth]
        still = any(name == "checkpoint" for name, _ in self.nested)
        return 0.0 if still or not began else _lasted(began[0], at)


def _lasted(began: float, ended: float) -> float:
    return min(max(0.0, ended - began), SEEN_MAX_S)
