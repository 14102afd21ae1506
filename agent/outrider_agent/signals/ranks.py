"""Where the ranks of this node stand: by the marks that ``outrider.attach`` sends, else by their logs, else by what
their flight recorders count.

In: datagrams on the node's marks socket, from processes of this user, any of which may be broken; findings in log
lines; counters. Out: where each rank stands (records.RankProgress), finished steps and committed checkpoints for the
controller. A mark that cannot be read, or that no running attempt could have sent, is counted and forgotten; it never
ends anything. As soon as one rank of an attempt has sent a mark, log lines of that attempt count no longer. ``Board``
is the judgement and knows no socket and no clock; ``Listener`` is the socket.

Memory is bounded by what the agent was told to expect: ranks by the attempts that run here, samples by
SAMPLES_PENDING_MAX between two flushes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from outrider import records, wire
from outrider_agent.signals.rank import Rank
from outrider_analysis.job_log import progress

log = logging.getLogger(__name__)

MARK_BYTES_MAX: Final = 2048
MARKS_PER_WAKE_MAX: Final = 256  # the loop has other things to do between
SAMPLES_PENDING_MAX: Final = 2048  # steps of one job between two flushes
CHECKPOINTS_PENDING_MAX: Final = 64
JOBS_MAX: Final = 64
CHANGES_MAX: Final = 8192  # of phases, kept for whoever aligns power with them

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Step = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
_Number = float | Literal["nan", "inf", "-inf"] | None


class Mark(msgspec.Struct, frozen=True):
    """One datagram. ``v`` is the version of this shape; a number that is not finite travels as its name."""

    v: Literal[1]
    kind: Literal["attach", "step", "begin", "end", "checkpoint", "done"]
    rank: _Whole
    local_rank: _Whole
    pid: _Whole
    job: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    gen: _Whole
    at: float
    step: _Step | None = None
    tokens: _Number = None
    loss: _Number = None
    grad_norm: _Number = None
    phase: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    mesh: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    flops: _Number = None
    path: str | None = None


_DECODER: Final = msgspec.json.Decoder(Mark, strict=True)


class PhaseChange(NamedTuple):
    """From ``at`` (Unix seconds by the teller's clock) on a rank of an attempt is in ``phase``."""

    job: str
    generation: int
    rank: int
    phase: str
    at: float


@dataclass
class _Attempt:
    """One job's running attempt on this node, and what has not been flushed yet."""

    generation: int
    expected: frozenset[int]
    ranks: dict[int, Rank] = field(default_factory=dict)
    loss_speaker: int | None = None
    line_speaker: int | None = None  # the lowest rank whose log has lines of steps
    marked: bool = False  # a mark has come
    sign_at: float = 0.0  # when the newest mark or line came
    attached: bool = False
    mesh: str | None = None
    flops: float | None = None
    steps: deque[records.StepSample] = field(default_factory=lambda: deque(maxlen=SAMPLES_PENDING_MAX))
    checkpoints: deque[records.CheckpointMark] = field(default_factory=lambda: deque(maxlen=CHECKPOINTS_PENDING_MAX))
    dirty: bool = False


@dataclass(frozen=True)
class Line:
    """Whose log a line stands in, and when it was written (Unix seconds, as well as that is known).

    ``pids``: processes of the attempt's ranks on this node, as far as they live.
    """

    job: str
    generation: int
    rank: int
    pids: Mapping[int, int]
    at: float


class Board:
    """Where every rank of this node stands. ``received`` counts marks taken, ``refused`` garbage, ``stale`` marks of
    attempts that are over, ``dropped`` samples lost because nobody fetched them in time."""

    def __init__(self) -> None:
        self.received = 0
        self.refused = 0
        self.stale = 0
        self.dropped = 0
        self.refusal = ""  # why the last one was refused
        # Of phases, newest last; signal power takes them from its own thread, which a deque allows.
        self.changes: deque[PhaseChange] = deque(maxlen=CHANGES_MAX)
        self._attempts: dict[str, _Attempt] = {}

    def expect(self, job: str, generation: int, ranks: list[int]) -> Callable[[], None]:
        """From now on marks of this attempt count, and those of an older one of this job do not.

        Returns what undoes it, for an attempt that did not start after all.
        """
        known = self._attempts.get(job)
        if known is not None and known.generation >= generation:
            return lambda: None
        if known is None and len(self._attempts) >= JOBS_MAX:
            del self._attempts[next(iter(self._attempts))]
        expected = self._attempts[job] = _Attempt(generation, frozenset(ranks))

        def undo() -> None:
            if self._attempts.get(job) is expected:
                del self._attempts[job]
                if known is not None:
                    self._attempts[job] = known

        return undo

    def forget(self, job: str) -> None:
        """The job is over on this node."""
        self._attempts.pop(job, None)

    def take(self, datagram: bytes, now: float) -> bool:
        """Judge one datagram that came at ``now``; whether there is something new to flush."""
        if len(datagram) > MARK_BYTES_MAX:
            return self._refuse(f"a mark of more than {MARK_BYTES_MAX} bytes")
        try:
            mark = _DECODER.decode(datagram)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return self._refuse(str(error))
        attempt = self._attempts.get(mark.job)
        if attempt is None or mark.gen < attempt.generation:
            self.stale += 1
            return False
        if mark.gen > attempt.generation or mark.rank not in attempt.expected or not math.isfinite(mark.at):
            return self._refuse(
                f"rank {mark.rank} of generation {mark.gen} of job {mark.job} does not run on this node"
            )
        self.received += 1
        before = attempt.ranks[mark.rank].innermost if mark.rank in attempt.ranks else None
        rank = attempt.ranks.setdefault(mark.rank, Rank(mark.local_rank, mark.pid, now))
        rank.local_rank, rank.pid, rank.at, rank.source = mark.local_rank, mark.pid, now, "marks"
        self._apply(attempt, rank, mark)
        if rank.innermost != before:
            self.changes.append(PhaseChange(mark.job, mark.gen, mark.rank, rank.innermost, mark.at))
        attempt.marked = attempt.attached = attempt.dirty = (
            True  # only a script that attached speaks; its attach mark may have been lost
        )
        attempt.sign_at = now
        return True

    def sign_at(self, job: str, generation: int) -> float | None:
        """When the newest mark or line of this attempt came, 0 before the first; None where it does not run here."""
        attempt = self._attempts.get(job)
        return None if attempt is None or attempt.generation != generation else attempt.sign_at

    def wants_lines(self, job: str, generation: int) -> bool:
        """Whether log lines of this attempt would count: it runs here and has sent no mark."""
        attempt = self._attempts.get(job)
        return attempt is not None and attempt.generation == generation and not attempt.marked

    def take_line(self, line: Line, found: progress.Found, tokens: float | None = None) -> bool:
        """Count what one line of a rank's log says; whether there is something new to flush.

        A rank whose own log has no steps (in Megatron-LM the last one alone tells them) stands where its job does: what
        any rank of the node prints moves it too, because no rank of such a job is a step ahead of another.
        """
        attempt = self._attempts.get(line.job)
        if attempt is None or not self.wants_lines(line.job, line.generation) or line.rank not in attempt.expected:
            return False
        if isinstance(found, progress.Sequence):
            return False
        heard = attempt.expected if isinstance(found, progress.Step) else {line.rank}
        for number in sorted(heard - attempt.ranks.keys()):
            attempt.ranks[number] = Rank(_place(attempt, number), line.pids.get(number, 0), line.at, source="log")
        rank = attempt.ranks[line.rank]
        rank.tells_steps = rank.tells_steps or isinstance(found, progress.Step)
        if isinstance(found, progress.Saved):
            self._checkpoint(attempt, records.CheckpointMark(found.path, found.step, line.at, line.rank), rank)
        for number, other in attempt.ranks.items():
            if number == line.rank or not other.tells_steps:
                other.at, other.source = max(other.at, line.at), "log"
                before = other.innermost
                other.hear(found, line.at)
                if other.innermost != before:
                    self.changes.append(PhaseChange(line.job, line.generation, number, other.innermost, line.at))
        if isinstance(found, progress.Step):
            attempt.attached = True  # nothing less tells that steps will be told
            attempt.line_speaker = line.rank if attempt.line_speaker is None else min(attempt.line_speaker, line.rank)
            numbers = (tokens, found.loss, found.grad_norm)
            self._sample(attempt, records.StepSample(found.step, line.at, line.rank, *numbers, found.not_finite))
        attempt.sign_at = max(attempt.sign_at, line.at)
        attempt.dirty = True
        return True

    def take_collectives(self, job: str, generation: int, rank: int, pid: int, count: int, now: float) -> None:
        """Count what a rank's flight recorder says it has enqueued so far; heartbeats carry it.

        A rank that tells nothing else is at work from the first time that its counter has grown.
        """
        attempt = self._attempts.get(job)
        if attempt is None or attempt.generation != generation or rank not in attempt.expected:
            return
        known = attempt.ranks.setdefault(rank, Rank(_place(attempt, rank), pid, now, source="collectives"))
        if known.source == "collectives" and known.collectives is not None and count > known.collectives:
            known.at, known.base = now, "step"
        known.collectives = count

    def flush(self) -> list[wire.Marks]:
        """What came since the last flush, one message a job; forgotten here by this call."""
        found = []
        for job, attempt in self._attempts.items():
            if not attempt.dirty:
                continue
            found.append(
                wire.Marks(
                    job=job,
                    generation=attempt.generation,
                    attached=attempt.attached,
                    mesh=attempt.mesh,
                    flops_per_token=attempt.flops,
                    steps=tuple(attempt.steps),
                    checkpoints=tuple(attempt.checkpoints),
                    ranks=tuple(_progress(job, attempt)),
                )
            )
            attempt.steps.clear()
            attempt.checkpoints.clear()
            attempt.dirty = False
        return found

    @property
    def dirty(self) -> bool:
        """Something waits for the next flush."""
        return any(attempt.dirty for attempt in self._attempts.values())

    def progress(self) -> tuple[records.RankProgress, ...]:
        """Where every rank that has spoken stands."""
        return tuple(rank for job, attempt in self._attempts.items() for rank in _progress(job, attempt))

    def step_and_phase(self, job: str, generation: int, rank: int) -> tuple[int | None, str | None]:
        """Newest finished step and phase of one rank, as far as it has said."""
        attempt = self._attempts.get(job)
        if attempt is None or attempt.generation != generation or rank not in attempt.ranks:
            return None, None
        return attempt.ranks[rank].step, attempt.ranks[rank].phase

    def _refuse(self, why: str) -> bool:
        self.refused += 1
        self.refusal = why[:200]
        return False

    def _apply(self, attempt: _Attempt, rank: Rank, mark: Mark) -> None:
        if mark.kind == "attach":
            attempt.mesh = mark.mesh or attempt.mesh
            attempt.flops = _finite(mark.flops) or attempt.flops
        elif mark.kind == "step" and mark.step is not None:
            rank.finish(mark.step, mark.at)
            self._sample(attempt, _sample_of(mark, mark.step))
        elif mark.kind == "begin" and mark.phase:
            rank.enter(mark.phase, mark.at)
        elif mark.kind == "end" and mark.phase:
            rank.leave(mark.phase, mark.at)
        elif mark.kind == "checkpoint" and mark.step is not None and mark.path:
            self._checkpoint(attempt, records.CheckpointMark(mark.path, mark.step, mark.at, mark.rank), rank)
        elif mark.kind == "done":
            rank.end()

    def _sample(self, attempt: _Attempt, sample: records.StepSample) -> None:
        # Under pipeline parallelism only the last stage has a loss, so beside the node's lowest rank
        # the lowest one that ever gave a loss speaks as well.
        has_loss = sample.loss is not None or any(odd.startswith("loss=") for odd in sample.not_finite)
        if has_loss and (attempt.loss_speaker is None or sample.rank < attempt.loss_speaker):
            attempt.loss_speaker = sample.rank
        if sample.rank not in (min(attempt.expected), attempt.loss_speaker, attempt.line_speaker):
            return
        self.dropped += len(attempt.steps) == SAMPLES_PENDING_MAX  # the oldest makes room
        attempt.steps.append(sample)

    def _checkpoint(self, attempt: _Attempt, mark: records.CheckpointMark, rank: Rank) -> None:
        self.dropped += len(attempt.checkpoints) == CHECKPOINTS_PENDING_MAX
        attempt.checkpoints.append(dataclasses.replace(mark, stall_s=rank.saved(mark.at)))


class Listener:
    """The marks' socket of one node; hands each datagram to the board and calls ``woken`` when there is news."""

    def __init__(self, path: Path, board: Board, now: Callable[[], float], woken: Callable[[], None]) -> None:
        self._path = path
        self._board = board
        self._now = now
        self._woken = woken
        path.unlink(missing_ok=True)  # of a former agent; ours is the lock, so nobody listens there
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        # Who may enter the directory may speak: under a root agent, ranks are of the job's user.
        path.chmod(0o666 if os.geteuid() == 0 else 0o600)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Hear no more. The path goes too, so that ranks drop their marks at once."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _readable(self) -> None:
        news = False
        for _ in range(MARKS_PER_WAKE_MAX):
            try:
                datagram = self._socket.recv(MARK_BYTES_MAX + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                log.warning("the marks socket could not be read", extra={"why": error})
                break
            news = self._board.take(datagram, self._now()) or news
        if news:
            self._woken()


def _progress(job: str, attempt: _Attempt) -> list[records.RankProgress]:
    return [
        records.RankProgress(
            job,
            attempt.generation,
            number,
            rank.local_rank,
            rank.pid,
            rank.step,
            rank.phase,
            rank.at,
            rank.source,
            rank.collectives,
        )
        for number, rank in sorted(attempt.ranks.items())
    ]


def _place(attempt: _Attempt, rank: int) -> int:
    """The local rank, for those that did not say it themselves."""
    return sorted(attempt.expected).index(rank)


def _sample_of(mark: Mark, step: int) -> records.StepSample:
    given = (("loss", mark.loss), ("grad_norm", mark.grad_norm))
    odd = tuple(f"{name}={value}" for name, value in given if isinstance(value, str))
    return records.StepSample(
        step, mark.at, mark.rank, _finite(mark.tokens), _finite(mark.loss), _finite(mark.grad_norm), not_finite=odd
    )


def _finite(value: float | str | None) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None
