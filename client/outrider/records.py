"""The records that agent and controller both speak. Plain frozen dataclasses; times are Unix seconds, UTC.

The wire and the disk carry them as JSON with these very field names, so a field is never renamed, only added with a
default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Observation:
    """One judged, typed fact about a node, a rank or a device, with its evidence.

    ``seq`` numbers a node's observations within one spool (``spool_id`` in the hello); the controller takes each
    number once.
    """

    seq: int
    kind: str
    severity: str
    at: float
    node: str
    text: str
    job: str | None = None
    generation: int | None = None
    rank: int | None = None
    device: str | None = None
    evidence: Json = field(default_factory=dict)
    recovery: str | None = None


@dataclass(frozen=True)
class RankExit:
    """How one rank ended: the ``evidence`` of a ``rank-exited`` observation.

    ``order`` counts deaths within the node and attempt from 0, in the order the kernel reported them. ``code`` is the
    exit status, or None when ``signal`` (its name, such as SIGKILL) ended it. ``asked`` tells that we had told it to
    stop.
    """

    rank: int
    local_rank: int
    pid: int
    order: int
    code: int | None
    signal: str | None
    asked: bool
    at: float
    phase: str | None = None
    step: int | None = None
    error_type: str | None = None  # class of the Python exception that ended it, from its error file or its log
    error_message: str | None = None
    error_where: str | None = None  # "file.py:12 in f" of the innermost frame
    log_path: str | None = None
    log_tail: str = ""  # last lines of its log, at most LOG_TAIL_BYTES_MAX
    oom_kills: int = 0  # rise of the host's oom_kill counter since the attempt began


LOG_TAIL_BYTES_MAX = 4096


@dataclass(frozen=True)
class RankProgress:
    """Where one rank stands, from its marks; carried by heartbeats. ``phase`` is a word of vocabulary.PHASES."""

    job: str
    generation: int
    rank: int
    local_rank: int
    pid: int
    step: int | None
    phase: str
    at: float  # when the last mark came
    source: str = "marks"  # what tells of it: marks, log (lines of its log) or collectives (its flight recorder)
    collectives: int | None = None  # collectives it has enqueued so far, where its flight recorder was asked


PROCESS_STATES = ("running", "sleeping", "disk", "stopped", "traced", "zombie", "gone", "unknown")
ANSWERS = ("control", "py-spy", "faulthandler", "proc", "none")  # whom a rank's evidence came from, the richest first


@dataclass(frozen=True)
class RankEvidence:
    """What one rank was doing while it was looked at, before anything is done to it; part of a capture's result.

    ``frames``: its main thread's Python stack, innermost first, each ``file.py:12 in f`` with the file's whole path.
    ``pending`` tells whether its flight recorder holds a collective that is enqueued and not finished (None: it could
    not be read), and ``collective`` is the oldest of those: {"group", "description", "op", "seq", "state"}.
    """

    rank: int
    pid: int
    state: str  # a word of PROCESS_STATES
    answered: str  # a word of ANSWERS
    cpu: float | None = None  # cores in use during the look, None where it could not be measured
    frames: tuple[str, ...] = ()
    # Its stack was another one at the second look (another line of the innermost function is not another stack); None
    # with fewer than two stacks.
    moved: bool | None = None
    pending: bool | None = None
    collective: Json | None = None
    enqueued: int | None = None  # collectives enqueued so far, over all groups
    blocked_on: str = ""  # the kernel function it sleeps in (wchan), where it can be read
    file: str = ""  # where the node keeps the whole answer
    error: str = ""  # why something of it could not be read


EVIDENCE_FRAMES_MAX = 40


@dataclass(frozen=True)
class StepSample:
    """One finished step as one rank of the node reported it (the node's lowest rank speaks for the node)."""

    step: int
    at: float
    rank: int
    tokens: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    not_finite: tuple[str, ...] = ()  # "loss=nan": values that JSON cannot carry; their own fields are then None


@dataclass(frozen=True)
class CheckpointMark:
    """A checkpoint that the job says it has committed. ``stall_s``: seconds in phase checkpoint since the one
    before.
    """

    path: str
    step: int
    at: float
    rank: int
    stall_s: float = 0.0


@dataclass(frozen=True)
class RankState:
    """One process as its keeper sees it."""

    rank: int
    local_rank: int
    pid: int
    alive: bool


@dataclass(frozen=True)
class KeeperState:
    """What a keeper on a node holds. ``state``: idle, running, stopping or ended."""

    job: str
    generation: int
    attempt: int
    state: str
    warm: bool
    ranks: tuple[RankState, ...] = ()
    visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES as the ranks were started with it
    device_order: str | None = None  # CUDA_DEVICE_ORDER likewise
