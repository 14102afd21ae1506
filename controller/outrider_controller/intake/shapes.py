"""The bodies of the REST door as OpenAPI describes them. Documents may carry more keys than are listed here."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import pydantic

from outrider_controller.core import jobs

BY_CHARS_MAX: Final = 64


class _Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Failure(_Open):
    """Every error. ``remedy`` says what would help."""

    error: str
    remedy: str


class Health(_Open):
    """Whether the controller can do its work."""

    ok: bool
    sentence: str


class Version(_Open):
    """What runs here."""

    version: str
    protocol: int
    protocol_oldest: int
    controller_id: str
    epoch: int
    started_at: str
    policy_hash: str


class JobLine(_Open):
    """One job of the list."""

    job: str
    state: str
    since_at: str | None
    attempt: int | None
    step: int | None
    open_incident: str | None
    sentence: str


class Jobs(_Open):
    """Every job."""

    jobs: list[JobLine]


class StatusNode(_Open):
    """A node that the job runs on or may run on."""

    node: str
    state: str
    agent_seen_s: float | None
    findings: list[str]


class StatusRank(_Open):
    """One rank. ``coords`` has the axes of the job's mesh."""

    rank: int
    node: str
    local_rank: int
    pid: int | None
    coords: dict[str, int]
    step: int | None
    phase: str | None


class Status(_Open):
    """How a job stands."""

    job: str
    state: str
    attempt: int | None
    step: int | None
    step_s: float | None
    tokens_per_s: float | None
    mfu: float | None
    since_at: str | None
    sentence: str
    nodes: list[StatusNode]
    ranks: list[StatusRank]
    open_incident: str | None
    suspected: dict[str, Any] | None


class Incident(_Open):
    """One incident."""

    id: str
    job: str
    planned: bool
    opened_at: str | None
    detected_at: str | None
    closed_at: str | None
    cause: str | None
    cause_group: str | None
    confidence: float | None
    suspects: dict[str, list[Any]]
    evidence: list[dict[str, Any]]
    action: str | None
    alternatives: list[dict[str, Any]]
    runbook: str | None
    from_checkpoint: dict[str, Any] | None
    lost_steps: int | None
    phases: dict[str, float]
    policy_hash: str | None
    attempt_before: int | None
    attempt_after: int | None
    automatic: bool
    sentence: str


class Incidents(_Open):
    """A job's incidents, oldest first."""

    incidents: list[Incident]


class Report(_Open):
    """Where a job's time went."""

    job: str
    elapsed_s: float
    bins: dict[str, float]
    ettr: float | None
    ettr_definition: str
    interruptions: dict[str, int]
    by_cause: dict[str, Any]
    by_cause_group: dict[str, Any]
    mttf: dict[str, Any]
    mfu: dict[str, Any]
    incidents: list[Incident]


class Sample(_Open):
    """One finished step. A loss that is no number is the text nan, inf or -inf."""

    generation: int
    step: int
    at: str | None
    loss: float | str | None
    grad_norm: float | str | None
    tokens: float | None
    step_s: float | None


class Series(_Open):
    """Finished steps, oldest first. ``thinned_from``: how many there were before some were left out."""

    job: str
    samples: list[Sample]
    thinned_from: int


class Segment(_Open):
    """A stretch of time without progress. ``bin`` is a word of the report's bins."""

    bin: str
    from_at: str
    to_at: str
    incident: str | None


class Attempt(_Open):
    """One start of all ranks. ``resume_step`` is null where it began at the beginning."""

    attempt: int
    generation: int
    planned_at: str
    resume_step: int | None


class Timeline(_Open):
    """When the job did not progress, oldest first, and its attempts."""

    job: str
    segments: list[Segment]
    attempts: list[Attempt]


class Runbook(_Open):
    """What a cause's runbook says of itself, and its text (Markdown)."""

    id: str
    title: str
    severity: str | None
    action: str | None
    page: str | None
    text: str


class Node(_Open):
    """One node."""

    node: str
    mark: str
    why: str
    job: str | None
    connected: bool
    agent_seen_s: float | None
    silent_s: float | None
    address: str
    slots: int
    supervises: bool
    simulated: bool


class Nodes(_Open):
    """Every node that ever joined."""

    nodes: list[Node]


class Row(_Open):
    """One row of the ledger."""

    seq: int
    epoch: int
    at: float
    job: str
    kind: str
    schema_: int = pydantic.Field(alias="schema")
    data: dict[str, Any]


class Rows(_Open):
    """Rows in order; ask again with ``after`` set to ``next_after``."""

    rows: list[Row]
    last_seq: int
    next_after: int


class Asked(_Open):
    """What was asked is in the ledger; what comes of it shows in the status."""

    accepted: bool
    sentence: str


class JobAsked(Asked):
    """The same for a job."""

    job: str


class NodeAsked(Asked):
    """The same for a node."""

    node: str


class NodeToken(_Open):
    """A node's credential."""

    node: str
    token: str


class By(pydantic.BaseModel):
    """Who asks; the word goes into the ledger."""

    model_config = pydantic.ConfigDict(extra="forbid")

    by: str = pydantic.Field("person", min_length=1, max_length=BY_CHARS_MAX)


def job() -> dict[str, Any]:
    """What a job's body may hold: every key of ``jobs.JobSpec`` with its type and its default."""
    schema = _keys(jobs.JobSpec)
    schema["properties"]["limits"] = _keys(jobs.Limits)
    return {**schema, "required": ["name", "command"]}


_KINDS: Final[dict[str, dict[str, Any]]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "tuple[str, ...]": {"type": "array", "items": {"type": "string"}},
    "dict[str, str]": {"type": "object", "additionalProperties": {"type": "string"}},
}


def _keys(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in dataclasses.fields(kind):
        found[key.name] = dict(_KINDS.get(str(key.type), {}))
        if key.default is not dataclasses.MISSING:
            found[key.name]["default"] = list(key.default) if isinstance(key.default, tuple) else key.default
    return {"type": "object", "properties": found, "additionalProperties": False}
