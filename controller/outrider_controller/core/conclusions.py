"""The rows that say what the core made of the facts, each a frozen dataclass.

Read with ``records``, which says what all rows have in common and under whose name everybody uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

Json = dict[str, Any]


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
    recovery: str = ""  # what the hardware needs, a word of the agent's findings; empty where no hardware is blamed
    flight_recorder: str = ""  # the capture-evidence whose result tells what the flight records say


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
      -> {"warm": bool, "pids": {rank: pid}, "why_cold", "gpus": {rank: "gpu3", "" where not known}; absent where each
      rank uses the GPU of its local number}
    - stop-attempt: generation, placement, grace_s -> {"stopped": [node], "unreached": [node]}
    - capture-evidence: generation, placement, ranks (empty: all), mesh
      -> {"ranks": [{"ranks": [rank], "evidence": spoken.RankEvidence of the first as a mapping}], "unanswered": [node],
      "flight_recorder": the document of `outrider fr analyze --json` with its drawing, bounded}
      (ranks that were found doing the same thing are told once; no flight_recorder where no node told of any)
    - find-checkpoint: generation, before_step (None: any), distrusted {path: why}, known {path: a Verdict's trust,
      fingerprint and tree, and why it was rejected} -> {"path" (empty for none), "step", "trust",
      "rejected": [{"path", "why"}], "passed_over": [{"path", "why"}] (of which nothing is known), "judged": [Verdict],
      "note" (where one was taken that is only known to be complete)}; raises the fence first
    - verify-checkpoint: path, step, tree (of the verdict before, if any) -> Verdict: {"path", "step", "trust",
      "fingerprint", "tree", "problems": [{"file", "kind", "text"}], "bytes", "files", "seconds", "gone": bool}
    - prune-checkpoints: keep, protect [path] -> {"removed": [path], "kept": [path]}
    - check-node: node, deep (of no job) -> {"verdict", "sentence", "seconds", "checks": [those that did not pass]}
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
    lifts: str = ""  # "findings": the mark goes when nothing that was found speaks against the node any more
    check: str = ""  # wanted: it goes when the node passes its check; failed, unanswered: what came of that


@dataclass(frozen=True)
class DrainWanted:
    """The job trains on and leaves ``node`` at its next checkpoint, or at ``due_at`` where none is saved by then."""

    kind: ClassVar[str] = "drain-wanted"
    at: float
    job: str
    generation: int
    node: str
    key: str  # of the finding
    due_at: float
    why: str


@dataclass(frozen=True)
class DrainDropped:
    """The job need not, or cannot, leave the node for now."""

    kind: ClassVar[str] = "drain-dropped"
    at: float
    job: str
    why: str


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
class FlightRecord:
    """What the flight records of a job came to, as far as decisions need it; no row of its own.

    ``effect``: the capture-evidence whose result has the whole answer. ``place``: the operation that blocked first, in
    words that are the same in each attempt, ``at``: the very one. ``ranks_read`` 0: nothing could be read. ``alone``:
    how sure it is of that verdict without what looks told, 0 where it comes to another one.
    """

    effect: str
    verdict: str = ""  # of outrider_analysis.flight_recorder.verdict
    culprits: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    confidence: float = 0.0
    sentence: str = ""
    place: str = ""
    at: str = ""
    rows: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()
    table: tuple[str, ...] = ()
    ranks_read: int = 0
    alone: float = 0.0


@dataclass(frozen=True)
class Looked:
    """What a look at all ranks of a suspected attempt came to. Nothing was touched.

    ``verdict``: a word of outrider_analysis.stalls.VERDICTS or of flight_record.HUNG; ``ranks``: who is to blame;
    ``places``: where each of them stood; ``agrees``: the look before said the same, of the ranks ``common``. ``act_s``:
    how long the silence has to last from here on. ``by_looks`` and what follows it: the verdict without the flight
    record, where that is another one. ``doubt``: the two contradict each other.
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
    record: FlightRecord | None = None
    doubt: bool = False
    by_looks: str = ""
    by_looks_ranks: tuple[int, ...] = ()
    by_looks_places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Noted:
    """Something recorded and ignored, such as a message of an older generation."""

    kind: ClassVar[str] = "noted"
    at: float
    job: str
    text: str
