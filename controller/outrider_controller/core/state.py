"""What the controller knows, rebuilt from the ledger by ``evolve`` alone. Everything here is frozen plain data.

State is kept per job and per node, so an event costs what it touches. Closed incidents live in the ledger; the state
keeps only the bounded history that the brakes count (``JobState.spent``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from outrider import records as spoken
from outrider import vocabulary
from outrider_controller.core import jobs, records

SPENT_ROWS_MAX = 256
CHECKPOINTS_KNOWN_MAX = 64  # of one job, the newest; older ones are looked at afresh should they ever be needed
FINDINGS_KEPT_MAX = 32
TOLD_KEPT_MAX = 256
SURVIVED_STEPS = 10  # a checkpoint from which so many steps were trained has survived its load


@dataclass(frozen=True)
class NodeFinding:
    """Something grave that an agent found of its own node. ``since``: when we learnt of it, ``over_at``: of its end."""

    seen: spoken.Observation
    since: float
    over_at: float | None = None


@dataclass(frozen=True)
class NodeState:
    """One node. ``mark``: clear, lost or cordoned; ``silent_since`` is None while its agent is connected."""

    node: str
    boot_id: str
    address: str
    slots: int
    supervises: bool
    simulated: bool
    joined_at: float
    silent_since: float | None = None
    mark: str = "clear"
    why: str = ""
    lifts: str = ""  # "findings": the mark goes with them
    check: str = ""  # node_checks: wanted, failed or unanswered, while that is why it is out
    checking: records.EffectRequested | None = None  # the check that is under way
    checks: int = 0  # so that no id of one is ever used twice
    findings: tuple[NodeFinding, ...] = ()  # grave ones, oldest first
    excused_at: float = 0.0  # a person let it be used in spite of all that was found up to then

    @property
    def usable(self) -> bool:
        """Ranks may be placed here: it supervises, is heard, and nobody has taken it out."""
        return self.supervises and self.silent_since is None and self.mark == "clear"


@dataclass(frozen=True)
class Suspicion:
    """What is known of an attempt that may hang, while it is looked at.

    ``silent``: it is past its deadline (Suspected); without that only a stopped rank speaks for it. ``act_s`` counts
    from ``since`` and grows while ranks are at work.
    """

    since: float  # its last sign of progress, or when a rank of it was stopped
    silent: bool = False
    phase: str = ""
    look_s: float = 0.0
    act_s: float = 0.0
    basis: str = ""
    stopped: tuple[int, ...] = ()  # ranks that their node's agent found stopped and has not seen running since
    job_step: int | None = None
    still_since: float = 0.0  # no step has been finished since
    look: records.Looked | None = None  # the newest
    looks: int = 0


@dataclass(frozen=True)
class Ailing:
    """A node of the attempt has a fault that breaks jobs: whether this one goes on is looked at. ``still_since``: no
    step was seen to be finished since then.
    """

    job_step: int | None
    still_since: float


@dataclass(frozen=True)
class Drain:
    """The attempt leaves a node at its next checkpoint. ``key``: of the finding that asks for it."""

    generation: int
    node: str
    key: str
    due_at: float
    why: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at the job: one set of processes over one placement."""

    attempt: int
    generation: int
    placement: tuple[str, ...]
    resume_path: str
    resume_step: int
    planned_at: float
    running_at: float | None = None  # every node has started its ranks
    gpus: tuple[tuple[int, str], ...] = ()  # (rank, "gpu3" or "") where CUDA_VISIBLE_DEVICES says which
    attached_at: float | None = None
    training_at: float | None = None
    checkpoint_step: int | None = None  # newest committed within this attempt
    stop_wanted: bool = False
    stopped: bool = False  # the stop-attempt effect is done
    unreached: tuple[str, ...] = ()
    exits: tuple[tuple[str, spoken.RankExit], ...] = ()  # (node, exit) in the order recorded
    gone: tuple[str, ...] = ()  # nodes known to hold no rank any more though no exit was seen (reboot, keeper lost)
    rebooted: tuple[tuple[str, float], ...] = ()  # those of them that were booted anew, and since when each was silent
    not_finite: records.NotFinite | None = None  # the first step of it whose loss or gradient norm was no number
    proven: bool = False  # it has trained SURVIVED_STEPS steps from the checkpoint that it loaded
    suspicion: Suspicion | None = None  # it shows no sign of progress, or one of its ranks is stopped
    ailing: Ailing | None = None  # a node of it has a fault that breaks jobs
    checkpoint_s: float = 0.0  # longest time that a checkpoint held it up

    @property
    def ended_ranks(self) -> frozenset[int]:
        """Ranks known to be gone."""
        return frozenset(exit_.rank for _, exit_ in self.exits)


@dataclass(frozen=True)
class OpenIncident:
    """The incident that a job is in. Its past is in the ledger; this is what the next decision needs."""

    incident: str
    opened_at: float
    fault_at: float
    planned: bool
    attempt: int
    generation: int
    lost_step: int | None
    wanted: str = ""  # for a planned one, the verb of the person: stop or hold
    opened_by: str = ""
    text: str = ""
    observations: tuple[spoken.Observation, ...] = ()
    diagnosis: records.Diagnosed | None = None
    decision: records.Decided | None = None
    step_s: float | None = None
    checkpoint_step: int = 0  # of the checkpoint that the next attempt resumes from; 0 for the beginning
    watched: bool = False  # nothing was interrupted
    record: records.FlightRecord | None = None  # what the ranks that gave up by themselves left behind


@dataclass(frozen=True)
class Spent:
    """One past decision that the brakes count."""

    at: float
    cause: str
    decision: str
    signature: str
    nodes: tuple[str, ...]
    checkpoint_step: int  # newest checkpoint known when it was taken
    loaded: str = ""  # the checkpoint that the attempt had begun from; empty for the beginning
    soon: bool = False  # it broke within SURVIVED_STEPS steps of that load


@dataclass(frozen=True)
class KnownCheckpoint:
    """One checkpoint of a job: what its files showed when they were last looked at, and what its history says."""

    path: str
    step: int
    generation: int | None = None  # of the attempt that saved it; None when it was found on the disk
    since: float = 0.0  # when it was saved or found
    trust: str = "written"  # vocabulary.TRUST or rejected: by its files, and survived by what became of a load
    fingerprint: str = ""  # of the files as they were then; empty while nobody has looked
    tree: str = ""
    problems: tuple[spoken.Json, ...] = ()
    distrust: str = ""  # why it is not loaded though its files may be sound; empty while nothing speaks against it
    tried: bool = False  # a look at it has ended, with or without an answer
    loads: int = 0

    @property
    def trusted(self) -> bool:
        """Its files were looked at and are sound, and nothing else speaks against it."""
        return bool(self.fingerprint) and self.trust != vocabulary.REJECTED and not self.distrust


@dataclass(frozen=True)
class Refused:
    """A checkpoint that was turned down when one was looked for; ``step`` is -1 where nothing says it."""

    path: str
    step: int
    why: str


@dataclass(frozen=True)
class Finding:
    """Something wrong that has not interrupted the job, kept until it is told of. ``device``: a path or mount point."""

    key: str  # equal for what is the same thing found again
    kind: str  # damaged-checkpoint, disk-full, recording-failed or node-finding
    at: float
    source: str
    text: str
    device: str = ""
    seen: spoken.Observation | None = None  # where it is a node's


@dataclass(frozen=True)
class JobState:
    """One job."""

    spec: jobs.JobSpec
    submitted_at: float
    state: str = "starting"
    since_at: float = 0.0
    attempt: Attempt | None = None
    incident: OpenIncident | None = None
    incidents: int = (
        0  # incidents, effects, generation and attempts count on when a job of this name is submitted again,
    )
    effects: int = 0  # so that no id and no generation is ever used twice
    generation: int = 0
    attempts: int = 0
    pending: tuple[records.EffectRequested, ...] = ()
    timers: tuple[tuple[str, float], ...] = ()
    spent: tuple[Spent, ...] = ()
    restarts: int = 0
    newest_checkpoint_step: int = 0
    resume_path: str = ""  # what find-checkpoint last answered; empty for the beginning
    resume_step: int = 0
    find_error: str = ""  # why find-checkpoint last failed; empty once it has answered
    checkpoints: tuple[KnownCheckpoint, ...] = ()  # newest first
    refused: tuple[Refused, ...] = ()  # what the last find-checkpoint turned down
    vanished_step: int = 0  # of the newest known checkpoint when the last find-checkpoint met none at all
    not_finite_step: int | None = None  # no checkpoint from this step on is loaded until it was trained with numbers
    findings: tuple[Finding, ...] = ()  # not yet told of
    told: tuple[str, ...] = ()  # keys of findings that incidents have told of, the newest
    drain: Drain | None = None
    full_disks: tuple[tuple[str, str], ...] = ()  # (node, mount point) that have no room now
    absent_step: int | None = None  # newest finished step when a node of it fell silent, or was last looked for
    step_s: float | None = None
    restart_s: float | None = None  # how long the latest attempt took from plan to first step
    speaks: bool = False  # some attempt of it has attached
    mesh: str = ""
    flops_per_token: float | None = None
    why: str = ""
    ended_by: str = ""  # "person" when a person stopped or rejected it

    @property
    def over(self) -> bool:
        """Nothing more will be done for this job."""
        return self.state in ("completed", "failed")

    @property
    def watch_steps(self) -> tuple[int, ...]:
        """Steps of which the shell tells (StepReached) once they are finished, the next one first."""
        attempt, incident = self.attempt, self.incident
        if attempt is None or attempt.training_at is None or attempt.stop_wanted:
            return ()
        found = []
        if incident is not None and incident.generation < attempt.generation and incident.lost_step is not None:
            found.append(incident.lost_step)
        if attempt.resume_path and not attempt.proven:
            found.append(attempt.resume_step + SURVIVED_STEPS)
        if self.not_finite_step is not None and attempt.not_finite is None:
            found.append(self.not_finite_step)
        return tuple(sorted(found))

    @property
    def watch_step(self) -> int | None:
        """The next of them."""
        return next(iter(self.watch_steps), None)


@dataclass(frozen=True)
class State:
    """Everything: nodes and jobs by name."""

    nodes: dict[str, NodeState] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    cut_rows: int = 0  # rows that the ledger has ever lost; a job that it forgot may have used as many numbers
