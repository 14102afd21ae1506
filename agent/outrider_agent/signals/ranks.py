"""What the ranks of this node say of themselves, through the marks that ``outrider.attach`` sends.

In: datagrams on the node's marks socket, from processes of this user, any of which may be broken. Out: where each rank
stands (records.RankProgress), finished steps and committed checkpoints for the controller. A mark that cannot be read,
or that no running attempt could have sent, is counted and forgotten; it never ends anything. ``Board`` is the judgement
and knows no socket and no clock; ``Listener`` is the socket.

Memory is bounded by what the agent was told to expect: ranks by the attempts that run here, samples by
SAMPLES_PENDING_MAX between two flushes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from outrider import records, vocabulary, wire

log = logging.getLogger(__name__)

MARK_BYTES_MAX: Final = 2048
MARKS_PER_WAKE_MAX: Final = 256  # the loop has other things to do between
SAMPLES_PENDING_MAX: Final = 2048  # steps of one job between two flushes
CHECKPOINTS_PENDING_MAX: Final = 64
PHASES_NESTED_MAX: Final = 16
JOBS_MAX: Final = 64
SEEN_MAX_S: Final = 1e6  # a phase longer than this is a broken clock

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


@dataclass
class _Rank:
    local_rank: int
    pid: int
    at: float
    base: str = "start"
    nested: list[tuple[str, float]] = field(default_factory=list)
    step: int | None = None
    stall_s: float = 0.0

    @property
    def phase(self) -> str:
        """The innermost phase that the vocabulary knows."""
        known = [name for name, _ in self.nested if name in vocabulary.PHASES]
        return known[-1] if known else self.base


@dataclass
class _Attempt:
    """One job's running attempt on this node, and what has not been flushed yet."""

    generation: int
    expected: frozenset[int]
    ranks: dict[int, _Rank] = field(default_factory=dict)
    loss_speaker: int | None = None
    attached: bool = False
    mesh: str | None = None
    flops: float | None = None
    steps: deque[records.StepSample] = field(default_factory=lambda: deque(maxlen=SAMPLES_PENDING_MAX))
    checkpoints: deque[records.CheckpointMark] = field(default_factory=lambda: deque(maxlen=CHECKPOINTS_PENDING_MAX))
    dirty: bool = False


class Board:
    """Where every rank of this node stands. ``received`` counts marks taken, ``refused`` garbage, ``stale`` marks of
    attempts that are over, ``dropped`` samples lost because nobody fetched them in time."""

    def __init__(self) -> None:
        self.received = 0
        self.refused = 0
        self.stale = 0
        self.dropped = 0
        self.refusal = ""  # why the last one was refused
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
        rank = attempt.ranks.setdefault(mark.rank, _Rank(mark.local_rank, mark.pid, now))
        rank.local_rank, rank.pid, rank.at = mark.local_rank, mark.pid, now
        self._apply(attempt, rank, mark)
        attempt.attached = attempt.dirty = (
            True  # only a script that attached speaks; its attach mark may have been lost
        )
        return True

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

    def _apply(self, attempt: _Attempt, rank: _Rank, mark: Mark) -> None:
        if mark.kind == "attach":
            attempt.mesh = mark.mesh or attempt.mesh
            attempt.flops = _finite(mark.flops) or attempt.flops
        elif mark.kind == "step" and mark.step is not None:
            # A finished step ends whatever is open: the datagram that should have ended it may have been lost, and a
            # rank must not be taken for one that saves a checkpoint ever after.
            rank.stall_s += _closed(rank, 0, mark.at)
            rank.base, rank.step = "step", mark.step
            self._sample(attempt, mark)
        elif mark.kind == "begin" and mark.phase:
            if len(rank.nested) < PHASES_NESTED_MAX:
                rank.nested.append((mark.phase, mark.at))
        elif mark.kind == "end" and mark.phase:
            rank.stall_s += _ended(rank, mark)
        elif mark.kind == "checkpoint" and mark.step is not None and mark.path:
            self._checkpoint(attempt, rank, mark)
        elif mark.kind == "done":
            rank.base, rank.nested = "done", []

    def _sample(self, attempt: _Attempt, mark: Mark) -> None:
        # Under pipeline parallelism only the last stage has a loss, so beside the node's lowest rank
        # the lowest one that ever gave a loss speaks as well.
        if mark.loss is not None and (attempt.loss_speaker is None or mark.rank < attempt.loss_speaker):
            attempt.loss_speaker = mark.rank
        if mark.rank not in (min(attempt.expected), attempt.loss_speaker) or mark.step is None:
            return
        self.dropped += len(attempt.steps) == SAMPLES_PENDING_MAX  # the oldest makes room
        loss, grad_norm = _finite(mark.loss), _finite(mark.grad_norm)
        odd = tuple(
            f"{name}={value}"
            for name, value in (("loss", mark.loss), ("grad_norm", mark.grad_norm))
            if isinstance(value, str)
        )
        attempt.steps.append(
            records.StepSample(mark.step, mark.at, mark.rank, _finite(mark.tokens), loss, grad_norm, not_finite=odd)
        )

    def _checkpoint(self, attempt: _Attempt, rank: _Rank, mark: Mark) -> None:
        stall_s = rank.stall_s
        # A checkpoint is usually announced inside its own phase: that phase counts up to here, and from here on anew.
        open_at = [began for name, began in rank.nested if name == "checkpoint"]
        if open_at:
            stall_s += _lasted(open_at[0], mark.at)
            rank.nested = [(name, mark.at if name == "checkpoint" else began) for name, began in rank.nested]
        rank.stall_s = 0.0
        self.dropped += len(attempt.checkpoints) == CHECKPOINTS_PENDING_MAX
        attempt.checkpoints.append(records.CheckpointMark(mark.path or "", mark.step or 0, mark.at, mark.rank, stall_s))


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
        records.RankProgress(job, attempt.generation, number, rank.local_rank, rank.pid, rank.step, rank.phase, rank.at)
        for number, rank in sorted(attempt.ranks.items())
    ]


def _ended(rank: _Rank, mark: Mark) -> float:
    """Close the innermost phase of that name and whatever is open inside it; seconds that adds to the stall."""
    for index in range(len(rank.nested) - 1, -1, -1):
        if rank.nested[index][0] == mark.phase:
            return _closed(rank, index, mark.at)
    return 0.0


def _closed(rank: _Rank, depth: int, at: float) -> float:
    """Close every phase from ``depth`` inwards; seconds of a checkpoint that this ended."""
    began = [start for name, start in rank.nested if name == "checkpoint"]
    rank.nested = rank.nested[:depth]
    still = any(name == "checkpoint" for name, _ in rank.nested)
    return 0.0 if still or not began else _lasted(began[0], at)


def _lasted(began: float, ended: float) -> float:
    return min(max(0.0, ended - began), SEEN_MAX_S)


def _finite(value: float | str | None) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None
