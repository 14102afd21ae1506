"""Power at speed: what the node draws many times a second, how fast that changes, and in which phase of the job.

In: the samples that ``Nvml`` fetched from the driver's buffers (50 a second where the driver keeps them, else one a
look), and changes of phase of the node's ranks. Out: one sweep a second. The driver is not called here, so this signal
cannot hang. ``recent`` gives the curve of the last minute.

Phases are told when they are over or later, so power is aligned with them LATE_S behind. A second job on the node takes
the place of the first, and its phases begin anew.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files, nvml, ranks
from outrider_analysis import power

NAME: Final = "power"
LATE_S: Final = 3.0
READINGS: Final[files.Names] = {
    "power_samples": files.Kind("", "nvmlDeviceGetSamples", True),
    "power_node": files.Kind("W", "sum of nvmlDeviceGetSamples, else of field 186"),
    "power_node_peak": files.Kind("W", "sum of nvmlDeviceGetSamples, else of field 186"),
    "power_ramp_100ms": files.Kind("W/s", "sum of nvmlDeviceGetSamples"),
    "power_ramp_1s": files.Kind("W/s", "sum of nvmlDeviceGetSamples, else of field 186"),
    "power_ramp_10s": files.Kind("W/s", "sum of nvmlDeviceGetSamples, else of field 186"),
    "power_dynamic_range": files.Kind("W", "sum of nvmlDeviceGetSamples, else of field 186"),
    "sampling_hz": files.Kind("Hz", "stamps of nvmlDeviceGetSamples"),
    "power_phase_mean": files.Kind("W", "power_node by the ranks' marks"),
    "power_phase_peak": files.Kind("W", "power_node by the ranks' marks"),
    "power_phase_ramp": files.Kind("W/s", "power_node by the ranks' marks"),
    "power_phase_seconds": files.Kind("s", "power_node by the ranks' marks", True),
}
_RAMPS: Final = {0.1: "power_ramp_100ms", 1.0: "power_ramp_1s", 10.0: "power_ramp_10s"}


class Power:
    """A readings.Signal. ``changes``: phases of the ranks, newest last (``ranks.Board.changes``); taken from here."""

    name = NAME
    period_s = 1.0
    deadline_s = 5.0

    def __init__(
        self, source: nvml.Nvml, changes: deque[ranks.PhaseChange] | None = None, clock: clocks.Clock | None = None
    ) -> None:
        self._source = source
        self._changes = changes if changes is not None else deque()
        self._clock = clock or clocks.RealClock()
        self._meter = power.Meter()
        self._phases = power.Phases()
        self._job: tuple[str, int] | None = None
        self._aligned_to = 0.0
        self._counts: dict[int, int] = {}

    def read(self) -> readings.Sweep:
        """Add up what came since the last look."""
        begun, now = time.monotonic(), self._clock.now()
        for batch in self._source.samples.take():
            self._meter.add(batch.gpu, batch.samples)
            self._counts[batch.gpu] = self._counts.get(batch.gpu, 0) + len(batch.samples)
        summary = self._meter.advance(now)
        self._take_changes()
        self._align(now - LATE_S)
        told = [*self._told(summary), *self._by_phase()]
        state, error = self._state(summary)
        context: Json = {"gpus": summary.gpus, "simulated": bool(self._source.readers.hello.get("simulated"))}
        if self._job is not None:
            context |= {"job": self._job[0], "generation": self._job[1]}
        duration_s = time.monotonic() - begun
        return readings.Sweep(NAME, now, duration_s, state, tuple(told), error=error, context=context)

    def recent(self) -> list[tuple[float, float]]:
        """The node's power of the last minute: (Unix seconds, W), oldest first, gaps left out."""
        return [(point.at, point.watts) for point in list(self._meter.points)]

    def _state(self, summary: power.Summary) -> tuple[str, str]:
        if summary.watts is not None:
            return "ok", ""
        if not self._source.readers.hello:
            return "absent", ""
        if summary.gpus:
            return "partial", "the GPUs have no new samples in common"
        return "failed", "no GPU tells its power"

    def _told(self, summary: power.Summary) -> list[readings.Reading]:
        told = [_reading(f"gpu{gpu}", "power_samples", float(count)) for gpu, count in sorted(self._counts.items())]
        if not summary.gpus:
            return told
        told.append(_reading("", "sampling_hz", summary.hertz))
        if summary.watts is None:
            return told
        told.append(_reading("", "power_node", summary.watts))
        told.append(_reading("", "power_node_peak", summary.peak))
        told.append(_reading("", "power_dynamic_range", summary.range))
        for window, name in _RAMPS.items():
            seldom = summary.hertz * window < power.SELDOM
            if summary.ramps[window] is not None or seldom:
                told.append(_reading("", name, summary.ramps[window]))
        return told

    def _by_phase(self) -> list[readings.Reading]:
        told: list[readings.Reading] = []
        for phase, found in self._phases.found.items():
            device = f"phase/{phase}"
            told.append(_reading(device, "power_phase_mean", found.mean))
            told.append(_reading(device, "power_phase_peak", found.peak))
            told.append(_reading(device, "power_phase_ramp", found.ramp))
            told.append(_reading(device, "power_phase_seconds", found.seconds))
        return told

    def _take_changes(self) -> None:
        while self._changes:
            change = self._changes.popleft()
            job = (change.job, change.generation)
            if job != self._job:
                self._job = job
                self._phases.forget()
            self._phases.note(power.Change(change.rank, change.phase, change.at))

    def _align(self, until: float) -> None:
        """Count the points that are old enough for their phase to be known."""
        if self._job is None:
            self._aligned_to = max(self._aligned_to, until)
            return
        since = self._aligned_to - 1.0 - power.STEP_S
        newest_first = itertools.takewhile(lambda point: point.at >= since, reversed(self._meter.points))
        points = [point for point in newest_first if point.at <= until][::-1]
        fresh = [point for point in points if point.at > self._aligned_to]
        if not fresh:
            return
        before = [point for point in points if fresh[0].at - 1.0 - power.STEP_S <= point.at < fresh[0].at]
        self._aligned_to = fresh[-1].at
        self._phases.take(fresh, before)


def _reading(device: str, name: str, value: float | None) -> readings.Reading:
    kind = READINGS[name]
    state, error = ("value", "") if value is not None else ("unsupported", "sampled too seldom to say")
    return readings.Reading(device, name, value, kind.unit, state, kind.counter, error)
