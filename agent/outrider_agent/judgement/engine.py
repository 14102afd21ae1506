"""Sweeps in, observations out: each finding told when it begins, when it turns graver, and when it is over."""

from __future__ import annotations

from collections.abc import Iterable

from outrider import records
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.judgement import rules as ruling


class Judge:
    """One node's readings and events, judged. ``forgotten``: what was dropped for want of room.

    ``memory`` and ``restore``: what must outlive a restart of the agent, as JSON, so that the next one neither repeats
    nor forgets a finding, and knows when it is over.
    """

    def __init__(
        self,
        node: str,
        rules: Iterable[ruling.Rule] = (),
        expectations: ruling.Expectations | None = None,
        simulated: bool = False,
    ) -> None:
        self.forgotten = 0
        self._node = node
        self._rules = tuple(rules)
        self._expectations = expectations or ruling.Expectations()
        self._simulated = simulated

    def take(self, sweep: readings.Sweep) -> list[records.Observation]:
        """What is new by this sweep; ``seq`` of each is 0, the spool numbers them."""
        return []

    def silent(self, signal: str, at: float, why: str) -> list[records.Observation]:
        """A look that did not come in time, or whose worker failed."""
        return []

    def memory(self) -> Json:
        """All that is not yet over, the counters' last values, and what devices were seen."""
        return {}

    def restore(self, memory: object) -> None:
        """Take up ``memory``; what does not look like it is passed over."""
