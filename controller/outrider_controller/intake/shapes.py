"""The bodies of the REST door as OpenAPI describes them. Documents may carry more keys than are listed here."""

from __future__ import annotations

from typing import Any

import pydantic


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
    nodes: list[dict[str, Any]]
    ranks: list[dict[str, Any]]
    open_incident: str | None


class Incident(_Open):
    """One incident."""

    id: str
    job: str
    planned: bool
    opened_at: str | None
    closed_at: str | None
    cause: str | None
    cause_group: str | None
    confidence: float | None
    suspects: dict[str, list[Any]]
    evidence: list[dict[str, Any]]
    action: str | None
    phases: dict[str, float]
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
    """Finished steps, oldest first."""

    job: str
    samples: list[Sample]


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

    by: str = "person"
