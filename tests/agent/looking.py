"""Helpers of the tests of signals: a clock that stands until it is moved, and readings by device and name."""

from __future__ import annotations

from outrider_agent import readings


class Clock:
    """outrider.clock.Clock that moves when it is told to."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += seconds

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


def values(sweep: readings.Sweep) -> dict[tuple[str, str], float | str | bool | None]:
    """What was read, by device and name; readings without a value are left out."""
    return {(one.device, one.name): one.value for one in sweep.readings if one.state == "value"}


def states(sweep: readings.Sweep) -> dict[tuple[str, str], str]:
    """Value, unsupported or unreadable, by device and name."""
    return {(one.device, one.name): one.state for one in sweep.readings}
