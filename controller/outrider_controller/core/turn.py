"""One turn of the core: the rows concluded so far, and the state as if they were already written.

``emit`` appends a row and evolves the state at once, so that the next question in the same turn sees what was just
decided. A Turn lives inside one call of ``decide`` and is never shared; from outside, ``decide`` is a pure function.
"""

from __future__ import annotations

from outrider_controller.core import evolve as evolving
from outrider_controller.core import policy as policies
from outrider_controller.core import records
from outrider_controller.core import state as states


class Turn:
    """Rows and state of one turn. ``at``: the fact's time, Unix seconds."""

    def __init__(self, state: states.State, at: float, policy: policies.Policy) -> None:
        self.state = state
        self.at = at
        self.policy = policy
        self.rows: list[records.Conclusion] = []

    def emit(self, row: records.Conclusion) -> None:
        """Conclude one row."""
        self.rows.append(row)
        self.state = evolving.evolve(self.state, row)

    def job(self, name: str) -> states.JobState:
        """The job as it stands in this turn."""
        return self.state.jobs[name]

    def effect(self, job: str, name: str, about: str | None, /, **args: object) -> None:
        """Request one effect under a new id; ``about`` is the incident it belongs to."""
        number = self.job(job).effects + 1
        self.emit(records.EffectRequested(self.at, job, f"{job}-e{number}", name, dict(args), about))

    def timer(self, job: str, timer: str, due_at: float) -> None:
        """Ask to be woken; a timer of the same name is replaced."""
        self.emit(records.TimerSet(self.at, job, timer, due_at))

    def cancel(self, job: str, *timers: str) -> None:
        """Forget timers that are set."""
        armed = {name for name, _ in self.job(job).timers}
        for timer in timers:
            if timer in armed:
                self.emit(records.TimerCancelled(self.at, job, timer))

    def move(self, job: str, now: str, why: str) -> None:
        """Change the job's state, once."""
        was = self.job(job).state
        if was != now:
            self.emit(records.JobMoved(self.at, job, was, now, why))

    def note(self, job: str, text: str) -> None:
        """Record something that is ignored."""
        self.emit(records.Noted(self.at, job, text))
