"""What the marks and heartbeats of a job's ranks amount to: where it stands now, and the few moments the core hears
of.

In: wire messages as they come, of which any may be lost or late. Out: ``edges``, the facts that the job's state does
not show yet (attached, training, a watched step reached, a checkpoint saved), and a view for people (newest step,
every rank's place, median step time, tokens a second). Edges are found by comparing with the state, so asking twice
gives nothing twice, and what was not recorded (a full disk, a crash) is found again. Messages of an older generation
are noted once.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from outrider import records as spoken
from outrider import wire
from outrider_controller.core import records
from outrider_controller.core import state as states

STEP_SECONDS_KEPT_MAX: Final = 64
CHECKPOINTS_WAITING_MAX: Final = 64
GENERATIONS_NOTED_MAX: Final = 1024
RANKS_MAX: Final = 65536
SAMPLES_WAITING_MAX: Final = 4096
STEPS_BEFORE_MAX: Final = 5  # of which the losses are told beside a loss that is no number
OTHERS_TOLD_WITHIN_S: Final = 1.0  # the other nodes' word on a step whose loss is no number is waited for so long


@dataclass(frozen=True)
class FinishedStep:
    """One finished step with the time it took, for the series store."""

    generation: int
    sample: spoken.StepSample
    step_s: float | None


@dataclass
class JobProgress:
    """Where one job stands. ``step_s`` and ``tokens_per_s`` are of late and outlive a restart: they price it."""

    generation: int = -1
    attached: bool = False
    mesh: str | None = None
    flops_per_token: float | None = None
    first_step: int | None = None
    newest_step: int | None = None  # newest step finished in this generation
    former_step: int | None = None  # the same of the generation before
    newest_at: float | None = None
    ranks: dict[int, tuple[str, spoken.RankProgress]] = field(default_factory=dict)  # rank -> (node, progress)
    samples: deque[FinishedStep] = field(default_factory=lambda: deque(maxlen=SAMPLES_WAITING_MAX))
    _kept_step: int | None = None  # newest step in ``samples`` of this generation
    _last: dict[int, spoken.StepSample] = field(default_factory=dict)  # rank -> its newest sample
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=STEP_SECONDS_KEPT_MAX))
    _tokens: float | None = None
    _checkpoints: dict[int, spoken.CheckpointMark] = field(default_factory=dict)  # step -> mark, not yet recorded
    _recent: deque[spoken.StepSample] = field(default_factory=lambda: deque(maxlen=STEPS_BEFORE_MAX + 1))
    _bad: spoken.StepSample | None = None  # the first step of this generation that told a value that is no number
    _bad_ranks: dict[int, bool] = field(default_factory=dict)  # rank -> its word on that step was no number either
    _noted: dict[int, bool] = field(default_factory=dict)  # older generation -> its row has been handed out

    @property
    def step_s(self) -> float | None:
        """Median seconds a step of late, None before two steps."""
        return statistics.median(self._seconds) if self._seconds else None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second of late, None where the job does not say its tokens."""
        seconds = self.step_s
        return self._tokens / seconds if seconds and self._tokens is not None else None

    @property
    def shown_step(self) -> int | None:
        """Newest finished step of this attempt, or of the former while none is finished."""
        return self.former_step if self.newest_step is None else self.newest_step

    def restart(self, generation: int) -> None:
        """Forget the processes of the former generation; keep the pace and what was noted."""
        self.former_step = self.shown_step
        self.generation = generation
        self.attached = False
        self.first_step = self.newest_step = self.newest_at = self._kept_step = None
        self.ranks.clear()
        self._last.clear()
        self._checkpoints.clear()
        self._recent.clear()
        self._bad_ranks.clear()
        self._bad = None

    def take_steps(self, steps: Iterable[spoken.StepSample]) -> None:
        """Finished steps, as the lowest rank of each node tells them."""
        for sample in steps:
            before = self._last.get(sample.rank)
            if before is not None and sample.step <= before.step:
                continue
            step_s = _seconds_between(before, sample)
            if step_s is not None:
                self._seconds.append(step_s)
            if len(self._last) < RANKS_MAX:
                self._last[sample.rank] = sample
            self._tokens = sample.tokens if sample.tokens is not None else self._tokens
            self._take_numbers(sample)
            self._keep(sample, step_s)
            self._finished(sample.step, sample.at)

    def take_checkpoints(self, marks: Iterable[spoken.CheckpointMark]) -> None:
        """Checkpoints that the job says it has committed; several ranks may tell of the same one."""
        for mark in marks:
            if mark.step not in self._checkpoints and len(self._checkpoints) < CHECKPOINTS_WAITING_MAX:
                self._checkpoints[mark.step] = mark

    def take_ranks(self, node: str, ranks: Iterable[spoken.RankProgress]) -> None:
        """Where ranks of ``node`` stand; the newest word of each rank counts."""
        for rank in ranks:
            known = self.ranks.get(rank.rank)
            if known is None and len(self.ranks) >= RANKS_MAX:
                continue
            if known is None or rank.at >= known[1].at:
                self.ranks[rank.rank] = (node, rank)
                self._finished(rank.step, rank.at)

    def checkpoints_after(self, step: int | None) -> list[spoken.CheckpointMark]:
        """Marks of checkpoints newer than ``step``, in order; older ones are forgotten."""
        self._checkpoints = {s: mark for s, mark in self._checkpoints.items() if step is None or s > step}
        return [self._checkpoints[s] for s in sorted(self._checkpoints)]

    def note_once(self, generation: int) -> bool:
        """Whether an older generation is heard for the first time."""
        if generation in self._noted or len(self._noted) >= GENERATIONS_NOTED_MAX:
            return False
        self._noted[generation] = True
        return True

    def not_finite(self, name: str, now: float) -> records.NotFinite | None:
        """The first step of this generation without a number, once the nodes that tell of steps have told of it."""
        bad = self._bad
        if bad is None:
            return None
        behind = any(sample.step < bad.step for sample in self._last.values())
        if behind and now - bad.at < OTHERS_TOLD_WITHIN_S:
            return None
        before = [{"step": s.step, "loss": s.loss, "grad_norm": s.grad_norm} for s in self._recent if s.step < bad.step]
        return records.NotFinite(
            at=now,
            job=name,
            generation=self.generation,
            step=bad.step,
            what=bad.not_finite,
            ranks=tuple(sorted(rank for rank, odd in self._bad_ranks.items() if odd)),
            others=tuple(sorted(rank for rank, odd in self._bad_ranks.items() if not odd)),
            before=tuple(before[-STEPS_BEFORE_MAX:]),
            stepped_at=bad.at,
        )

    def _take_numbers(self, sample: spoken.StepSample) -> None:
        """Notice a value that is no number, and what the others say of the same step."""
        if sample.not_finite and (self._bad is None or sample.step < self._bad.step):
            self._bad = sample
            self._bad_ranks = {rank: False for rank, last in self._last.items() if last.step >= sample.step}
        if self._bad is not None and sample.step == self._bad.step:
            self._bad_ranks[sample.rank] = bool(sample.not_finite)

    def _keep(self, sample: spoken.StepSample, step_s: float | None) -> None:
        """The first node to tell of a step speaks for the job."""
        if self._kept_step is None or sample.step > self._kept_step:
            self._kept_step = sample.step
            if self._bad is None:
                self._recent.append(sample)
            self.samples.append(FinishedStep(self.generation, sample, step_s))

    def know(self, step: int | None) -> None:
        """A step known to be finished that no mark has told of."""
        self._finished(step, self.newest_at)

    def _finished(self, step: int | None, at: float | None) -> None:
        if step is None or (self.newest_step is not None and step <= self.newest_step):
            return
        self.first_step = step if self.first_step is None else self.first_step
        self.newest_step, self.newest_at = step, at


class Progress:
    """All jobs of a controller. Pure: it is handed messages and times, and asks nobody."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobProgress] = {}

    def of(self, job: str) -> JobProgress:
        """Where ``job`` stands; an empty picture before its first message."""
        return self._jobs.get(job) or JobProgress()

    def take_samples(self, job: str) -> list[FinishedStep]:
        """Finished steps since the last call, for the series store."""
        found = self._jobs.get(job)
        if found is None:
            return []
        samples = list(found.samples)
        found.samples.clear()
        return samples

    def forget(self, job: str) -> None:
        """The job is over and nobody asks how fast it is."""
        self._jobs.pop(job, None)

    def processes(
        self, job: str, generation: int, node: str, ranks: Iterable[tuple[int, int, int]], now: float
    ) -> None:
        """Ranks that run, as (rank, local rank, process id): what is known of those that send no marks."""
        found = self._jobs.setdefault(job, JobProgress())
        if found.generation < generation:
            found.restart(generation)
        if found.generation == generation:
            new = [item for item in ranks if item[0] not in found.ranks]
            found.take_ranks(
                node,
                [
                    spoken.RankProgress(job, generation, rank, local, pid, None, "start", now)
                    for rank, local, pid in new
                ],
            )

    def know(self, job: str, generation: int, step: int) -> None:
        """A step known to be finished from elsewhere: the series store after a restart, or a dead rank's end."""
        found = self._jobs.setdefault(job, JobProgress())
        if found.generation < generation:
            found.restart(generation)
        if found.generation == generation:
            found.know(step)

    def heartbeat(self, node: str, message: wire.Heartbeat, state: states.State, now: float) -> list[records.Row]:
        """Take a heartbeat; rows to record of it: late generations, each once."""
        rows: list[records.Row] = []
        by_job: dict[tuple[str, int], list[spoken.RankProgress]] = {}
        for rank in message.ranks:
            by_job.setdefault((rank.job, rank.generation), []).append(rank)
        for (job, generation), ranks in by_job.items():
            found, noted = self._current(node, job, generation, state, now)
            rows += noted
            if found is not None:
                found.take_ranks(node, ranks)
        return rows

    def marks(self, node: str, message: wire.Marks, state: states.State, now: float) -> list[records.Row]:
        """Take marks; rows to record of them: late generations, each once."""
        found, rows = self._current(node, message.job, message.generation, state, now)
        if found is None:
            return rows
        found.attached = found.attached or message.attached or bool(message.steps)
        found.mesh = message.mesh or found.mesh
        found.flops_per_token = message.flops_per_token or found.flops_per_token
        found.take_steps(message.steps)
        found.take_checkpoints(message.checkpoints)
        found.take_ranks(node, message.ranks)
        return rows

    def edges(self, name: str, job: states.JobState, now: float) -> list[records.Fact]:
        """Facts about ``job`` that its state does not show yet, in the order in which they happened."""
        found, attempt = self._jobs.get(name), job.attempt
        if found is None or attempt is None or attempt.generation != found.generation:
            return []
        generation = found.generation
        facts: list[records.Fact] = []
        if found.attached and attempt.attached_at is None:
            facts.append(records.Attached(now, name, generation, found.mesh, found.flops_per_token))
        bad = found.not_finite(name, now) if attempt.not_finite is None else None
        if bad is not None:
            facts.append(bad)
        newest = found.newest_step
        if newest is not None and attempt.training_at is None:
            facts.append(
                records.Training(now, name, generation, newest if found.first_step is None else found.first_step)
            )
        facts += [
            records.CheckpointSaved(now, name, generation, mark.step, mark.path, mark.stall_s)
            for mark in found.checkpoints_after(attempt.checkpoint_step)
        ]
        if newest is not None and job.watch_step is not None and newest >= job.watch_step:
            facts.append(records.StepReached(now, name, generation, newest))
        return facts

    def _current(
        self, node: str, name: str, generation: int, state: states.State, now: float
    ) -> tuple[JobProgress | None, list[records.Row]]:
        """The picture to take a message into, or None and at most one row that says why it is ignored."""
        job = state.jobs.get(name)
        if job is None or job.attempt is None:
            return None, []
        found = self._jobs.setdefault(name, JobProgress())
        current = job.attempt.generation
        if found.generation != current:
            found.restart(current)
        if generation == current:
            return found, []
        if not found.note_once(generation):
            return None, []
        text = f"messages of generation {generation} from node {node} are ignored; the job is at generation {current}"
        return None, [records.Noted(now, name, text)]


def _seconds_between(before: spoken.StepSample | None, after: spoken.StepSample) -> float | None:
    if before is None or after.at <= before.at:
        return None
    return (after.at - before.at) / (after.step - before.step)
