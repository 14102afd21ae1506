"""One attempt's signs of progress, and how long its phases take: what deadlines are learned from and compared with.

In: where each rank stands (records.RankProgress), as marks and heartbeats bring it, and the controller's monotonic time
of receipt. Out: when the last sign came, in which phases the ranks are, and each duration once it is over. A sign is
anything new of any rank: a mark, a step, a phase, a grown count of collectives; a heartbeat that repeats itself is
none. Nothing in here reads a clock.

Steps are timed by the lowest rank that tells of them, because its neighbours tell of the same ones; the other phases
from the first rank that enters to the last that leaves, because that is how long the job waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from outrider import records as spoken
from outrider_analysis import deadlines

START: Final = "start"
FIRST_STEP: Final = "first-step"
STEP: Final = "step"
EPISODES: Final = frozenset({"load", "checkpoint", "evaluation"})
RANKS_MAX: Final = 65536
NEWS_MAX: Final = 1024


@dataclass(frozen=True)
class Duration:
    """How long one phase took, in seconds."""

    phase: str
    seconds: float


@dataclass
class _Rank:
    said: spoken.RankProgress
    sign_at: float  # monotonic, of its own last sign


@dataclass
class Pace:
    """One attempt. Times are monotonic seconds of the controller; ``planned_at`` is when the attempt was planned.

    ``first_heard_counts``: what is heard of a rank for the first time is a sign. After a restart of the controller it
    is not: the rank may have said it long ago.
    """

    generation: int
    planned_at: float
    world_size: int
    first_heard_counts: bool = True
    signs: int = field(default=0, init=False)
    sign_at: float = field(
        default=0.0, init=False
    )  # of the last one; the plan of the attempt, or the controller's start, is the first
    ranks: dict[int, _Rank] = field(default_factory=dict, init=False)
    news: list[Duration] = field(default_factory=list, init=False)
    _phases: Counter[str] = field(default_factory=Counter, init=False)
    _began: dict[str, float] = field(default_factory=dict, init=False)  # phase -> when the first rank entered it
    _attached_at: float | None = field(default=None, init=False)
    _stepped: bool = field(default=False, init=False)  # some rank has finished a step
    _speaker: int | None = field(default=None, init=False)  # the rank whose steps are timed
    _speaker_at: float | None = field(default=None, init=False)  # when its present step began, by its own clock

    def __post_init__(self) -> None:
        """Time counts from the plan of the attempt, or from when this controller first saw it."""
        self.sign_at = self.planned_at

    @property
    def speaks(self) -> bool:
        """Some rank has said something in this attempt."""
        return bool(self.ranks)

    def take(self, ranks: Iterable[spoken.RankProgress], now: float) -> None:
        """What ranks say; ``now`` is when it was received."""
        for said in ranks:
            known = self.ranks.get(said.rank)
            if known is None and len(self.ranks) >= RANKS_MAX:
                continue
            if known is not None and (said.at < known.said.at or _same(known.said, said)):
                continue
            if known is not None or self.first_heard_counts:
                self.signs += 1
                self.sign_at = now
            self._learn(known.said if known is not None else None, said, now)
            self.ranks[said.rank] = _Rank(said, now)

    def touch(self, now: float) -> None:
        """Time counts from here: the ranks are still being started."""
        self.sign_at = now

    def phases(self) -> set[str]:
        """The phases that decide how long silence may last: those its ranks are in, as keys of deadlines.FLOORS."""
        if not self.ranks:
            return {START}
        found = {self._phase(phase) for phase, count in self._phases.items() if count > 0}
        if len(self.ranks) < self.world_size and not self._stepped:
            found.add(START)  # ranks that have not come up yet; a job may also let a few of its ranks alone speak
        return found

    def oldest(self, most: int) -> tuple[int, ...]:
        """Ranks whose own last sign is the oldest, at most ``most``."""
        order = sorted(self.ranks, key=lambda rank: (self.ranks[rank].sign_at, rank))
        return tuple(order[:most])

    def take_news(self) -> list[Duration]:
        """Durations since the last call."""
        found, self.news = self.news, []
        return found

    def _phase(self, phase: str) -> str:
        if phase in (START, STEP):
            return STEP if self._stepped else FIRST_STEP
        return phase if phase in deadlines.FLOORS else STEP

    def _learn(self, before: spoken.RankProgress | None, said: spoken.RankProgress, now: float) -> None:
        if self._attached_at is None:
            self._attached_at = now
            if self.first_heard_counts:
                self._tell(START, now - self.planned_at)
        if before is None or before.phase != said.phase:
            self._enter(before.phase if before is not None else None, said.phase, now)
        finished = said.step is not None and (before is None or before.step is None or said.step > before.step)
        if finished and not self._stepped:
            self._stepped = True
            if self.first_heard_counts:
                self._tell(FIRST_STEP, now - self._attached_at)
        if said.step is None and said.source == "collectives":
            self._time_collectives(before, said)
        else:
            self._time_step(before, said, finished)

    def _time_collectives(self, before: spoken.RankProgress | None, said: spoken.RankProgress) -> None:
        """A job that tells no steps: the pauses between two signs of one rank stand in for them."""
        if before is None or (said.collectives or 0) <= (before.collectives or 0):
            return
        self._stepped = True
        if self._speaker is None or said.rank <= self._speaker:
            self._speaker = said.rank
            self._tell(STEP, said.at - before.at)

    def _enter(self, left: str | None, entered: str, now: float) -> None:
        self._phases[entered] += 1
        if entered in EPISODES:
            self._began.setdefault(entered, now)
        if left is None:
            return
        self._phases[left] -= 1
        if left in EPISODES and self._phases[left] == 0 and left in self._began:
            seconds = now - self._began.pop(left)
            self._tell(left, seconds)
            if left == "load" and not self._stepped:
                self._attached_at = now  # the first step begins when the last rank has loaded

    def _time_step(self, before: spoken.RankProgress | None, said: spoken.RankProgress, finished: bool) -> None:
        """A step of the speaker counts where nothing but steps lay between; its own clock tells how long it took."""
        if finished and (self._speaker is None or said.rank < self._speaker):
            self._speaker, self._speaker_at = said.rank, None
        if said.rank != self._speaker:
            return
        if said.phase != STEP:
            self._speaker_at = None
            return
        if finished and before is not None and before.step is not None and said.step is not None:
            # A log tells of every tenth step, or of several in one look: the pause between two lines is what to expect.
            steps = said.step - before.step if said.source != "log" else 1
            if self._speaker_at is not None and before.phase == STEP:
                self._tell(STEP, (said.at - self._speaker_at) / steps)
        self._speaker_at = said.at

    def _tell(self, phase: str, seconds: float) -> None:
        if seconds > 0 and len(self.news) < NEWS_MAX:
            self.news.append(Duration(phase, seconds))


def _same(a: spoken.RankProgress, b: spoken.RankProgress) -> bool:
    return (a.at, a.step, a.phase, a.collectives) == (b.at, b.step, b.phase, b.collectives)
