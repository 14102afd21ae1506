"""The rows that say what happened: inputs that can change a decision, each a frozen dataclass.

Read with ``records``, which says what all rows have in common and under whose name everybody uses them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from outrider import records as spoken

Json = dict[str, Any]


@dataclass(frozen=True)
class JobSubmitted:
    """A person gave the controller a job. ``spec``: jobs.JobSpec as a mapping."""

    kind: ClassVar[str] = "job-submitted"
    at: float
    job: str
    spec: Json
    by: str = "person"


@dataclass(frozen=True)
class NodeJoined:
    """An agent said hello (first time, again after silence, or after its own restart)."""

    kind: ClassVar[str] = "node-joined"
    at: float
    node: str
    boot_id: str
    address: str
    slots: int
    supervises: bool
    simulated: bool
    keepers: tuple[spoken.KeeperState, ...] = ()
    job_steps: Json = field(default_factory=dict)  # newest finished step of each live job, as the shell knows it
    findings: tuple[spoken.Observation, ...] = ()  # grave ones that are not over, by the agent's own word


@dataclass(frozen=True)
class NodeSilent:
    """The connection of a node's agent ended or its heartbeats stopped. By itself this harms nobody."""

    kind: ClassVar[str] = "node-silent"
    at: float
    node: str
    since: float  # last moment the agent was heard
    job_steps: Json = field(default_factory=dict)  # newest finished step of each live job, as the shell knows it


@dataclass(frozen=True)
class NodeFound:
    """An agent found something grave of its node's hardware or system, or that it is over (evidence: cleared)."""

    kind: ClassVar[str] = "node-found"
    at: float
    node: str
    observation: spoken.Observation
    job_steps: Json = field(default_factory=dict)  # newest finished step of each live job, as the shell knows it
    step_s: Json = field(default_factory=dict)  # median seconds a step of late of each of them


@dataclass(frozen=True)
class Observed:
    """An agent's observation that concerns a job. ``job_step``: newest step the job had finished when it came."""

    kind: ClassVar[str] = "observed"
    at: float
    job: str
    observation: spoken.Observation
    job_step: int | None = None
    step_s: float | None = None  # median seconds a step of late, for pricing


@dataclass(frozen=True)
class Attached:
    """The first mark of an attempt: this job speaks to us, so its training can be told from its start-up."""

    kind: ClassVar[str] = "attached"
    at: float
    job: str
    generation: int
    mesh: str | None = None
    flops_per_token: float | None = None


@dataclass(frozen=True)
class Training:
    """The attempt finished its first step."""

    kind: ClassVar[str] = "training"
    at: float
    job: str
    generation: int
    step: int


@dataclass(frozen=True)
class StepReached:
    """The job finished a step that the core had asked to hear of (State: ``JobState.watch_step``)."""

    kind: ClassVar[str] = "step-reached"
    at: float
    job: str
    generation: int
    step: int


@dataclass(frozen=True)
class CheckpointSaved:
    """The job says it has committed a checkpoint; ``stall_s`` of training time went into it."""

    kind: ClassVar[str] = "checkpoint-saved"
    at: float
    job: str
    generation: int
    step: int
    path: str
    stall_s: float = 0.0


@dataclass(frozen=True)
class TimerFired:
    """A deadline that the core had asked for has passed."""

    kind: ClassVar[str] = "timer-fired"
    at: float
    job: str
    timer: str
    job_step: int | None = None


@dataclass(frozen=True)
class EffectDone:
    """What came of an effect. ``result`` depends on the effect's name (see EffectRequested)."""

    kind: ClassVar[str] = "effect-done"
    at: float
    job: str
    effect: str
    ok: bool
    result: Json = field(default_factory=dict)
    error: str | None = None
    job_step: int | None = None


@dataclass(frozen=True)
class PersonAsked:
    """A person (or a program in a person's name) asked for something: stop, hold, approve, reject, cordon, uncordon."""

    kind: ClassVar[str] = "person-asked"
    at: float
    job: str  # empty for cordon and uncordon
    verb: str
    by: str = "person"
    node: str | None = None
    job_step: int | None = None


@dataclass(frozen=True)
class Suspected:
    """A job gave no sign of progress for longer than its own history explains. By itself this harms nobody.

    ``since``: its last sign of progress; ``deadline_s``: how long silence in ``phase`` was expected to last at most;
    ``act_s``: how long it has to last before anything may be done; ``basis``: the sentence that says where they come
    from; ``ranks``: those whose own last sign is the oldest.
    """

    kind: ClassVar[str] = "suspected"
    at: float
    job: str
    generation: int
    phase: str  # a word of vocabulary.PHASES, or first-step
    since: float
    deadline_s: float
    act_s: float
    basis: str
    ranks: tuple[int, ...] = ()
    job_step: int | None = None


@dataclass(frozen=True)
class Resumed:
    """A suspected job gave a sign of progress: the suspicion is over."""

    kind: ClassVar[str] = "resumed"
    at: float
    job: str
    generation: int
    silent_s: float  # how long it had been silent
    job_step: int | None = None


@dataclass(frozen=True)
class NotFinite:
    """A finished step had a loss or a gradient norm that is no number. ``what``: such as ``loss=nan``.

    ``ranks`` told of it so, ``others`` told of the same step with numbers; ``before``: the steps before it, oldest
    first, each {"step", "loss", "grad_norm"}. (The lowest rank of each node speaks for its node.)
    """

    kind: ClassVar[str] = "not-finite"
    at: float
    job: str
    generation: int
    step: int
    what: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    before: tuple[Json, ...] = ()
    stepped_at: float | None = None  # when the step ended, by the node's clock


@dataclass(frozen=True)
class RecordingFailed:
    """The disk took no rows from ``since`` until now; what was to be done in that time was not begun."""

    kind: ClassVar[str] = "recording-failed"
    at: float
    job: str
    since: float
    error: str


@dataclass(frozen=True)
class LedgerCut:
    """The end of the ledger could not be read, or was gone: row ``first`` and what followed it is no part of it now.

    ``rows``: how many that were, at most; rows that had been confirmed are lost with them. ``kept``: where what was
    left of them lies, empty where nothing was.
    """

    kind: ClassVar[str] = "ledger-cut"
    at: float
    first: int
    rows: int
    damage: str
    kept: str = ""
