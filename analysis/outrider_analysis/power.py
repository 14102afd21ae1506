"""The power of a node over time: its GPUs added up on one grid, how fast that changes, and what the job did meanwhile.

In: samples of each GPU, (seconds, W), in order, at whatever rate it gives them. Out: the node's power every 0.02, 0.1
or 1 s, as the GPU that is sampled least allows, ramps, range, and the same by phase of the job. Between two samples
power is taken to be a line. The node's power is known while every GPU's is: a gap is a gap, and a GPU that joins or
falls silent begins a new stretch, so that no change of company is taken for a change of power. Bounded in time and in
number.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

STEP_S: Final = 0.02
STEPS_S: Final = ((0.03, STEP_S), (0.15, 0.1), (math.inf, 1.0))  # usual spacing of samples up to -> step of the grid
KEPT_S: Final = 60.0
GAP_S: Final = 2.5  # between two samples; a longer one is a gap
SILENT_S: Final = 5.0  # a GPU without a sample for longer no longer counts
SAMPLES_MAX: Final = 8192  # of one GPU, waiting for the others
GPUS_MAX: Final = 64
POINTS_MAX: Final = int(KEPT_S / STEP_S)
RAMPS_S: Final = (0.1, 1.0, 10.0)
SELDOM: Final = 0.8  # samples within a window, below which it is not told
RATES: Final = 64  # intervals that tell how often a GPU is sampled
PHASES_MAX: Final = 16
CHANGES_MAX: Final = 512  # changes of phase that are kept for one rank

Sample = tuple[float, float]


@dataclass(frozen=True, slots=True)  # three thousand of them are kept
class Point:
    """The node's power ``watts`` at ``at``; points of one ``stretch`` may be compared."""

    at: float
    watts: float
    stretch: int


@dataclass(frozen=True)
class Summary:
    """What the newest points say. W, W/s and Hz; None where it is not known or sampled too seldom to say."""

    watts: float | None
    peak: float | None  # among the newest points
    ramps: dict[float, float | None]  # window in s -> steepest change within it, up or down
    range: float | None  # highest less lowest of the last KEPT_S
    hertz: float
    gpus: int


@dataclass
class _Gpu:
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    newest: float = -math.inf
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=RATES))

    @property
    def spacing(self) -> float:
        """Usual seconds between two samples; infinite before there are two."""
        return sorted(self.gaps)[len(self.gaps) // 2] if self.gaps else math.inf

    def add(self, samples: Iterable[Sample]) -> None:
        newest, keep, gap = self.newest, self.samples.append, self.gaps.append
        for sample in samples:
            at, watts = sample
            if not (newest < at < math.inf and -math.inf < watts < math.inf):
                continue  # told before: buffers are asked for what overlaps
            if newest > -math.inf:
                gap(at - newest)
            keep(sample)
            newest = at
        self.newest = newest

    def at(self, moments: Sequence[float]) -> list[float | None]:
        """Power at moments that do not go back, within one call nor from one to the next; None in a gap."""
        samples, found = self.samples, []
        for moment in moments:
            while len(samples) > 1 and samples[1][0] <= moment:
                samples.popleft()
            watts: float | None = None
            if samples:
                began, watts = samples[0]
                if began > moment:
                    watts = None
                elif began != moment:
                    watts = self._between(moment)
            found.append(watts)
        return found

    def _between(self, moment: float) -> float | None:
        began, first = self.samples[0]
        if len(self.samples) < 2 or self.samples[1][0] - began > GAP_S:
            return None
        ended, last = self.samples[1]
        return first + (last - first) * (moment - began) / (ended - began)


class Meter:
    """All GPUs of a node. ``add`` samples as they come, then ``advance`` from time to time."""

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=POINTS_MAX)
        self._gpus: dict[int, _Gpu] = {}
        self._counted: frozenset[int] = frozenset()
        self._stretch = 0
        self._next: float | None = None
        self._step = STEP_S
        self._extremes: deque[tuple[float, float, float]] = (
            deque()
        )  # of what each look added: first at, lowest, highest

    def add(self, gpu: int, samples: Iterable[Sample]) -> None:
        """Samples of one GPU. Those that are not newer than its newest are dropped."""
        known = self._gpus.get(gpu)
        if known is None:
            if len(self._gpus) >= GPUS_MAX:
                return
            known = self._gpus[gpu] = _Gpu()
        known.add(samples)

    def advance(self, now: float) -> Summary:
        """Add up as far as every GPU is known; the summary speaks of what is new by this. ``now`` as the samples'."""
        for number in [number for number, one in self._gpus.items() if now - one.newest > SILENT_S]:
            del self._gpus[number]
        counted = frozenset(self._gpus)
        spacing = max((one.spacing for one in self._gpus.values()), default=math.inf)
        step = next(step for most, step in STEPS_S if spacing <= most)
        if counted != self._counted or step != self._step:
            self._counted, self._step, self._next = counted, step, None
            self._stretch += 1
        fresh = self._add_up()
        hertz = 1 / spacing if 0 < spacing < math.inf else 0.0
        return self._summary(fresh, hertz)

    def _add_up(self) -> list[Point]:
        gpus = list(self._gpus.values())
        if not gpus:
            return []
        until = min(one.newest for one in gpus)
        if self._next is None:
            begun = max(one.samples[0][0] if one.samples else math.inf for one in gpus)
            if not math.isfinite(begun):
                return []
            last = self.points[-1].at + self._step / 2 if self.points else begun
            self._next = math.ceil(max(begun, last) / self._step) * self._step
        self._next = max(self._next, until - POINTS_MAX * self._step)
        moments: list[float] = []
        while self._next <= until:
            moments.append(self._next)
            self._next += self._step
        fresh: list[Point] = []
        for moment, *watts in zip(moments, *(one.at(moments) for one in gpus), strict=True):
            if None not in watts:
                fresh.append(Point(moment, sum(watts), self._stretch))
            elif (fresh or self.points) and (fresh or self.points)[-1].stretch == self._stretch:
                self._stretch += 1
        self.points += fresh
        return fresh

    def _summary(self, fresh: Sequence[Point], hertz: float) -> Summary:
        newest = fresh[-1] if fresh else None
        new = len(fresh)
        longest = new + round(max(RAMPS_S) / self._step)
        points = list(itertools.islice(reversed(self.points), longest))[::-1]
        ramps = {
            # Sampled more seldom than that, a window would tell of the line between two samples.
            window: steepest(points, window, new, self._step) if hertz * window >= SELDOM else None
            for window in RAMPS_S
        }
        return Summary(
            newest.watts if newest else None,
            max((point.watts for point in fresh), default=None),
            ramps,
            self._range(fresh),
            hertz,
            len(self._counted),
        )

    def _range(self, fresh: Sequence[Point]) -> float | None:
        """Highest less lowest of the last KEPT_S; what one look added counts until its first point is older."""
        if not fresh:
            return None
        powers = [point.watts for point in fresh]
        self._extremes.append((fresh[0].at, min(powers), max(powers)))
        while self._extremes[0][0] <= fresh[-1].at - KEPT_S and len(self._extremes) > 1:
            self._extremes.popleft()
        return max(one[2] for one in self._extremes) - min(one[1] for one in self._extremes)


def steepest(points: Sequence[Point], window_s: float, new: int, step_s: float) -> float | None:
    """The largest change within ``window_s``, W/s without sign, that ends in the ``new`` last points; None where none
    of them has a point of its stretch that long before it. ``points`` lie ``step_s`` apart within a stretch.
    """
    back = max(1, round(window_s / step_s))
    found: float | None = None
    for end in range(max(len(points) - new, back), len(points)):
        first, last = points[end - back], points[end]
        if first.stretch == last.stretch:
            rate = abs(last.watts - first.watts) / (last.at - first.at)
            found = rate if found is None else max(found, rate)
    return found


# ---------------------------------------------------------------- by phase


@dataclass(frozen=True)
class Change:
    """From ``at`` on a rank is in ``phase``."""

    rank: int
    phase: str
    at: float


@dataclass
class ByPhase:
    """Power while the job was in one phase. W, W/s within a second, and seconds."""

    seconds: float = 0.0
    joules: float = 0.0
    peak: float = 0.0
    ramp: float = 0.0

    @property
    def mean(self) -> float:
        """W."""
        return self.joules / self.seconds if self.seconds else 0.0


class Phases:
    """Which phase the node's ranks are in, from changes that may come late and in any order between ranks.

    The node is in the phase of most of its ranks; with as many in another, in the one that began later.
    """

    def __init__(self) -> None:
        self.found: dict[str, ByPhase] = {}
        self._ranks: dict[int, deque[Change]] = {}

    def note(self, change: Change) -> None:
        """One change of one rank; one that goes back in time is dropped."""
        if change.rank not in self._ranks and len(self._ranks) >= GPUS_MAX:
            return
        known = self._ranks.setdefault(change.rank, deque(maxlen=CHANGES_MAX))
        if not known or change.at >= known[-1].at:
            known.append(change)

    def take(self, points: Sequence[Point], before: Sequence[Point] = ()) -> None:
        """Count points, oldest first, all of them later than those before. ``before``: the points of the second before
        them, for ramps that begin there.
        """
        window = [*before, *points]
        begun = len(before)
        low = 0
        for index in range(begun, len(window)):
            point = window[index]
            phase = self.at(point.at)
            if phase is None or (phase not in self.found and len(self.found) >= PHASES_MAX):
                continue
            one = self.found.setdefault(phase, ByPhase())
            last = window[index - 1] if index else None
            if last is not None and last.stretch == point.stretch:
                seconds = point.at - last.at
                one.seconds += seconds
                one.joules += seconds * (point.watts + last.watts) / 2
            one.peak = max(one.peak, point.watts)
            while point.at - window[low].at > 1.0 + 1e-6:
                low += 1
            first = window[low]
            if low < index and first.stretch == point.stretch and point.at - first.at > 1.0 - STEP_S:
                one.ramp = max(one.ramp, abs(point.watts - first.watts) / (point.at - first.at))

    def at(self, moment: float) -> str | None:
        """The node's phase, None where no rank has told of one by then. Moments do not go back."""
        told: dict[str, tuple[int, float]] = {}
        for changes in self._ranks.values():
            while len(changes) > 1 and changes[1].at <= moment:
                changes.popleft()
            if changes and changes[0].at <= moment:
                count, began = told.get(changes[0].phase, (0, -math.inf))
                told[changes[0].phase] = (count + 1, max(began, changes[0].at))
        return max(told, key=lambda phase: told[phase]) if told else None

    def forget(self) -> None:
        """Another job begins."""
        self.found, self._ranks = {}, {}
