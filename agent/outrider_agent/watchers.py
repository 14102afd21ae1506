"""The rounds over the node's signals: each looked at in its period by a worker of its own, judged, and told.

In: signals (``readings.Signal``) and a judge of their sweeps. Out: observations in the spool, the newest readings and
findings for /metrics and for the hello, and how each signal fares. A look that does not come back in time is told to
the judge; it holds no other signal, and its late answer is taken when it comes.

What the judge and the signals remember is kept in the spool, in one stroke with the observations it led to. So an agent
that dies at any moment has told each thing once: either its successor finds both, or neither and looks again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from outrider import clock as clock_module
from outrider import findings as standing
from outrider import records
from outrider.records import Json
from outrider_agent import pacing, readings, spool, workers

log = logging.getLogger(__name__)

MEMORY_EVERY_S: Final = 60.0  # what the judge remembers is written so often when it tells nothing
READINGS_MAX: Final = 16_384
LOG_EVERY_S: Final = 300.0  # of one signal; /metrics says more
STALE_PERIODS: Final = 3  # readings of a signal that failed for longer are no longer shown
STALE_S_MIN: Final = 15.0


class Judging(Protocol):
    """What makes observations of sweeps; pure, and able to hand its memory to the next agent."""

    def take(self, sweep: readings.Sweep) -> Iterable[records.Observation]:
        """What this sweep begins or ends."""
        ...

    def memory(self) -> Json:
        """What it must know to go on."""
        ...

    def silent(self, signal: str, at: float, why: str) -> Iterable[records.Observation]:
        """What it means that a look did not come in time."""
        ...

    def restore(self, memory: object) -> None:
        """Go on from there; damaged memory counts as none."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A signal that follows something. ``memory``: what to keep once its last sweep was taken, None for no change."""

    def memory(self) -> Json | None:
        """Called in the signal's own thread, right after its look."""
        ...

    def restore(self, memory: object) -> None:
        """Go on from there; called before the first look."""
        ...


@runtime_checkable
class Waiting(Protocol):
    """A signal that knows when there is something to look at."""

    def fileno(self) -> int | None:
        """What is readable then; None where nothing tells. Asked between looks alone."""
        ...


@dataclass
class Health:
    """How one signal fares. ``state``: starting, overdue, or that of its newest sweep."""

    signal: str
    period_s: float
    state: str = "starting"
    duration_s: float = 0.0
    looks: int = 0
    failures: int = 0
    error: str = ""
    succeeded_at: float | None = None  # monotonic seconds of its newest sweep that was ok, partial or absent

    told_at: float | None = None  # monotonic seconds of the newest line in the log about it

    @property
    def success(self) -> bool:
        """Whether the newest look told what there is to tell."""
        return self.state in ("ok", "partial", "absent")


@dataclass
class Newest:
    """The newest readings, by signal and then by device and name; and the newest context of each signal."""

    known: dict[str, dict[tuple[str, str], readings.Reading]] = field(default_factory=dict)
    context: dict[str, Json] = field(default_factory=dict)

    def take(self, sweep: readings.Sweep) -> None:
        """A sweep may hold a part of its signal's readings; the others stay. Those beyond READINGS_MAX are left out."""
        known = self.known.setdefault(sweep.signal, {})
        room = READINGS_MAX - sum(map(len, self.known.values()))
        for one in sweep.readings:
            key = (one.device, one.name)
            if key not in known:
                if room <= 0:
                    continue
                room -= 1
            known[key] = one
        if sweep.context:
            self.context[sweep.signal] = sweep.context

    @property
    def simulated(self) -> bool:
        """Whether a library that pretends feeds this node."""
        return any(context.get("simulated") is True for context in self.context.values())


class Watchers:
    """All signals of one node. Its owner awaits ``run`` and calls ``close``."""

    def __init__(
        self,
        signals: Sequence[readings.Signal],
        judge: Judging,
        spool_: spool.Spool,
        clock: clock_module.Clock,
        wake: Callable[[], None],
        chance: random.Random | None = None,
    ) -> None:
        self._judge = judge
        self._spool = spool_
        self._clock = clock
        self._wake = wake
        self._kept = spool_.kept()
        self._remembered_at = clock.monotonic()
        judge.restore(_decoded(self._kept.get("judge")))
        self.newest = Newest()
        self.findings = standing.Standing(_observations(self._kept.get("findings")))
        self.health = {one.name: Health(one.name, one.period_s) for one in signals}
        self._signals = {one.name: one for one in signals}
        self._workers = {one.name: workers.Worker(one.name, _look(one), workers.ending(one)) for one in signals}
        rounds = [
            pacing.Round(
                one.name,
                one.period_s,
                one.deadline_s,
                self._workers[one.name],
                one.fileno if isinstance(one, Waiting) else None,
            )
            for one in signals
        ]
        self._rounds = pacing.Rounds(rounds, self._answered, self._overdue, chance)
        self._restored = False

    async def run(self) -> None:
        """Look for ever."""
        if not self._restored:
            self._restored = True
            for name, signal in self._signals.items():
                if isinstance(signal, Remembering):
                    signal.restore(_decoded(self._kept.get(f"signal/{name}")))
        self._rounds.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._rounds.stop()

    async def close(self) -> None:
        """End the rounds; a look that hangs is left behind."""
        self._rounds.stop()
        await workers.close_all(self._workers.values())
        self._keep((), {"judge": _encoded(self._judge.memory())})

    def tell(self, source: str, found: Sequence[records.Observation]) -> None:
        """Observations that come from no signal; they stand, are kept and are told like the others."""
        self._tell(source, found, {})

    def ages(self) -> dict[str, float | None]:
        """Seconds since each signal last succeeded, None while it never has."""
        now = self._clock.monotonic()
        return {name: None if one.succeeded_at is None else now - one.succeeded_at for name, one in self.health.items()}

    def fresh(self) -> list[readings.Reading]:
        """The newest readings of signals that still answer, or did until a moment ago."""
        ages = self.ages()
        found: list[readings.Reading] = []
        for name, known in self.newest.known.items():
            age, bound = ages.get(name), max(STALE_S_MIN, STALE_PERIODS * self.health[name].period_s)
            if age is not None and age <= bound:
                found += known.values()
        return found

    def _overdue(self, name: str, waited_s: float) -> None:
        """A look does not come back; told once a period (or deadline) until it does."""
        why = f"no answer for {waited_s:.1f} s, its deadline is {self._signals[name].deadline_s:g} s"
        self._note(name, "overdue", waited_s, why)
        self._tell(name, self._judge.silent(name, self._clock.now(), why), {})

    def _answered(self, name: str, took_s: float, value: Any, error: BaseException | None) -> None:
        """A look came back, with a sweep and what the signal remembers, or with what was raised."""
        if error is not None:
            why = f"{type(error).__name__}: {error}"
            self._note(name, "failed", took_s, why)
            self._tell(name, self._judge.silent(name, self._clock.now(), why), {})
            return
        sweep, memory = value
        self._note(name, sweep.state, sweep.duration_s, sweep.error)
        self.newest.take(sweep)
        kept = {f"signal/{name}": _encoded(memory)} if memory is not None else {}
        self._tell(name, self._judge.take(sweep), kept, bool(sweep.events))

    def _tell(
        self, signal: str, told: Iterable[records.Observation], kept: dict[str, bytes], events: bool = False
    ) -> None:
        """Spool what is new, and in the same stroke what the signal and the judge remember."""
        found = [*told]
        for one in found:
            level = logging.INFO if one.severity == "info" else logging.WARNING
            about = {"signal": signal, "kind": one.kind, "device": one.device, "what": one.text}
            log.log(level, "something changed on this node", extra=about)
            self.findings.take(one)
        now = self._clock.monotonic()
        if found or events or now - self._remembered_at >= MEMORY_EVERY_S:
            self._remembered_at = now
            kept["judge"] = _encoded(self._judge.memory())
        if found:
            kept["findings"] = _encoded(self.findings.all())
        self._keep(found, kept)

    def _keep(self, found: Sequence[records.Observation], kept: dict[str, bytes]) -> None:
        if found or kept:
            self._spool.add_all(found, kept)
        if found:
            self._wake()

    def _note(self, signal: str, state: str, duration_s: float, error: str) -> None:
        health = self.health[signal]
        now = self._clock.monotonic()
        worse = error and state != "absent" and (state, bool(error)) != (health.state, bool(health.error))
        if worse and (health.told_at is None or now - health.told_at >= LOG_EVERY_S):
            health.told_at = now
            log.warning("a signal cannot be read as it should", extra={"signal": signal, "why": error})
        health.state, health.error, health.duration_s = state, error, duration_s
        health.looks += 1
        if health.success:
            health.succeeded_at = now
        else:
            health.failures += 1


def _look(signal: readings.Signal) -> Callable[[], tuple[readings.Sweep, Json | None]]:
    memory = signal.memory if isinstance(signal, Remembering) else None

    def look() -> tuple[readings.Sweep, Json | None]:
        sweep = signal.read()
        return sweep, memory() if memory is not None else None

    return look


def _encoded(memory: Any) -> bytes:
    return msgspec.json.encode(memory)


def _observations(body: bytes | None) -> list[records.Observation]:
    """Findings that were kept; none where they are damaged or of another version."""
    try:
        return msgspec.json.decode(body, type=list[records.Observation]) if body else []
    except msgspec.DecodeError:  # msgspec.ValidationError among them
        return []


def _decoded(body: bytes | None) -> Json | None:
    """What was kept; None where there is nothing or it is damaged."""
    try:
        found = msgspec.json.decode(body) if body else None
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None
