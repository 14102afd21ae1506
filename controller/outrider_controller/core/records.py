"""The rows of the ledger: what happened (facts) and what was concluded from it (conclusions), each a frozen dataclass.

``decide(state, fact)`` returns conclusions; the shell writes the fact and its conclusions as one transaction;
``evolve`` applies each row. A row is never changed: fields are only added, with defaults. Times (``at``) are Unix
seconds, UTC, given by the shell; nothing in here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from outrider import records as spoken

Json = dict[str, Any]

SCHEMA: Final = 1
TIMER_ABSENT: Final = "absent"  # looks again at a job of which a node is silent; its firing is state
TIMER_LOOK: Final = "look"  # looks again at the ranks of a job that shows no progress; its firing is state, too


# --- facts: inputs that can change a decision
# --------------------------------------------------------------------------


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


@dataclass(frozen=True)
class NodeSilent:
    """The connection of a node's agent ended or its heartbeats stopped. By itself this harms nobody."""

    kind: ClassVar[str] = "node-silent"
    at: float
    node: str
    since: float  # last moment the agent was heard
    job_steps: Json = field(default_factory=dict)  # newest finished step of each live job, as the shell knows it


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


# --- conclusions: what the core makes of them
# --------------------------------------------------------------------------


@dataclass(frozen=True)
class JobMoved:
    """The job's state changed (vocabulary.JOB_STATES)."""

    kind: ClassVar[str] = "job-moved"
    at: float
    job: str
    was: str
    now: str
    why: str


@dataclass(frozen=True)
class AttemptPlanned:
    """The next attempt: where it runs and what it resumes from. ``resume_path`` empty: from the beginning."""

    kind: ClassVar[str] = "attempt-planned"
    at: float
    job: str
    attempt: int
    generation: int
    placement: tuple[str, ...]
    resume_path: str = ""
    resume_step: int = 0
    incident: str | None = None


@dataclass(frozen=True)
class IncidentOpened:
    """One disturbance of one job begins. ``fault_at``: when it struck, by the node's clock."""

    kind: ClassVar[str] = "incident-opened"
    at: float
    job: str
    incident: str
    planned: bool
    fault_at: float
    attempt: int
    generation: int
    lost_step: int | None
    text: str
    supersedes: str | None = None
    wanted: str = ""  # for a planned one: stop or hold
    opened_by: str = "rank-exited"  # what showed it: an observation kind, start-failed, node-returned, stalled, person
    interrupted: bool = True  # false for a finding that is only watched: the running attempt goes on
    about: str = ""  # of such a one: state.Finding.key


@dataclass(frozen=True)
class Diagnosed:
    """Cause, suspects and evidence of an incident."""

    kind: ClassVar[str] = "diagnosed"
    at: float
    job: str
    incident: str
    cause: str
    cause_group: str | None
    confidence: float
    ranks: tuple[int, ...]
    nodes: tuple[str, ...]
    gpus: tuple[str, ...]
    links: tuple[str, ...]
    evidence: tuple[Json, ...]  # {"at","source","kind","text","for"}
    signature: str  # equal for failures that look alike; what "the same failure again" compares
    sentence: str


@dataclass(frozen=True)
class Decided:
    """The chosen action, why, what it costs, and what was turned down. ``decision``: vocabulary.DECISIONS."""

    kind: ClassVar[str] = "decided"
    at: float
    job: str
    incident: str
    decision: str
    reason: str
    price_gpu_h: float | None
    alternatives: tuple[Json, ...]  # {"action","price_gpu_h","why_not"}
    runbook: str
    policy_hash: str
    automatic: bool
    page: bool = False


@dataclass(frozen=True)
class EffectRequested:
    """One effect on the world, to be carried out once; repeated under the same id until EffectDone is in the ledger.

    Names, their ``args`` and the ``result`` they bring:

    - start-attempt: attempt, generation, placement, resume_path, resume_step
      -> {"warm": bool, "pids": {rank: pid}, "why_cold"}
    - stop-attempt: generation, placement, grace_s -> {"stopped": [node], "unreached": [node]}
    - capture-evidence: generation, placement, ranks (empty: all)
      -> {"ranks": [{"ranks": [rank], "evidence": spoken.RankEvidence of the first as a mapping}], "unanswered": [node]}
      (ranks that were found doing the same thing are told once)
    - find-checkpoint: generation, before_step (None: any), distrusted {path: why}, known {path: a Verdict's trust,
      fingerprint and tree} -> {"path" (empty for none), "step", "trust", "rejected": [{"path", "why"}],
      "judged": [Verdict]}; raises the fence first
    - verify-checkpoint: path, step -> Verdict: {"path", "step", "trust", "fingerprint", "tree", "problems": [{"file",
      "kind", "text"}], "bytes", "files", "seconds", "gone": bool}
    - prune-checkpoints: keep, protect [path] -> {"removed": [path], "kept": [path]}
    - release-job: placement -> {} (the job is over: keepers go away)
    - notify: incident, event (opened or closed) -> {"delivered": [sink], "failed": [{"sink", "error"}]}
    """

    kind: ClassVar[str] = "effect-requested"
    at: float
    job: str
    effect: str  # id, unique in the ledger
    name: str
    args: Json
    incident: str | None = None


@dataclass(frozen=True)
class TimerSet:
    """Wake the core at ``due_at`` with TimerFired(timer). A timer of the same name replaces the former."""

    kind: ClassVar[str] = "timer-set"
    at: float
    job: str
    timer: str
    due_at: float


@dataclass(frozen=True)
class TimerCancelled:
    """The timer is no longer wanted."""

    kind: ClassVar[str] = "timer-cancelled"
    at: float
    job: str
    timer: str


@dataclass(frozen=True)
class IncidentClosed:
    """The job has regained the step it had lost, or has ended, or a newer incident took over (``outcome`` says
    which).
    """

    kind: ClassVar[str] = "incident-closed"
    at: float
    job: str
    incident: str
    outcome: str  # regained, superseded, held-ended, job-ended, watched
    lost_steps: int | None
    attempt_after: int | None


@dataclass(frozen=True)
class NodeMarked:
    """A node's standing changed: ``mark`` is lost, cordoned or clear."""

    kind: ClassVar[str] = "node-marked"
    at: float
    node: str
    mark: str
    why: str
    incident: str | None = None


@dataclass(frozen=True)
class CheckpointTrusted:
    """The standing of a checkpoint changed by what became of a job that loaded it, not by looking at its files.

    ``trust``: survived, rejected for one that is demoted (a crash or a NaN soon after the load), or written for one
    that is no longer blamed.
    """

    kind: ClassVar[str] = "checkpoint-trusted"
    at: float
    job: str
    path: str
    step: int
    trust: str
    why: str


@dataclass(frozen=True)
class Looked:
    """What a look at all ranks of a suspected attempt came to. Nothing was touched.

    ``verdict``: a word of outrider_analysis.stalls.VERDICTS; ``ranks``: who is to blame; ``places``: where each of them
    stood; ``agrees``: the look before said the same, of the ranks ``common``. ``act_s``: how long the silence has to
    last from here on.
    """

    kind: ClassVar[str] = "looked"
    at: float
    job: str
    generation: int
    verdict: str
    ranks: tuple[int, ...]
    confidence: float
    sentence: str
    act_s: float
    agrees: bool = False
    common: tuple[int, ...] = ()
    places: tuple[str, ...] = ()
    evidence: tuple[Json, ...] = ()  # {"source","kind","text"}


@dataclass(frozen=True)
class Noted:
    """Something recorded and ignored, such as a message of an older generation."""

    kind: ClassVar[str] = "noted"
    at: float
    job: str
    text: str


Fact = (
    JobSubmitted
    | NodeJoined
    | NodeSilent
    | Observed
    | Attached
    | Training
    | StepReached
    | CheckpointSaved
    | TimerFired
    | EffectDone
    | PersonAsked
    | Suspected
    | Resumed
    | NotFinite
    | RecordingFailed
    | LedgerCut
)
Conclusion = (
    JobMoved
    | AttemptPlanned
    | IncidentOpened
    | Diagnosed
    | Decided
    | EffectRequested
    | TimerSet
    | TimerCancelled
    | IncidentClosed
    | NodeMarked
    | CheckpointTrusted
    | Looked
    | Noted
)
Row = Fact | Conclusion

FACTS: Final = (
    JobSubmitted,
    NodeJoined,
    NodeSilent,
    Observed,
    Attached,
    Training,
    StepReached,
    CheckpointSaved,
    TimerFired,
    EffectDone,
    PersonAsked,
    Suspected,
    Resumed,
    NotFinite,
    RecordingFailed,
    LedgerCut,
)
CONCLUSIONS: Final = (
    JobMoved,
    AttemptPlanned,
    IncidentOpened,
    Diagnosed,
    Decided,
    EffectRequested,
    TimerSet,
    TimerCancelled,
    IncidentClosed,
    NodeMarked,
    CheckpointTrusted,
    Looked,
    Noted,
)
ROWS: Final = {cls.kind: cls for cls in (*FACTS, *CONCLUSIONS)}
