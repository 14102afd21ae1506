"""What travels between an agent and the controller: one JSON text frame per message, told apart by ``type``.

The agent dials in (``/v1/agents/connect``, ``Authorization: Bearer <node token>``), says Hello, and is answered
Welcome or Refused. Observations are repeated until acknowledged; heartbeats and marks may be lost. An order carries
an id that never changes: an agent that has carried it out before repeats the result and does nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from outrider import records

PROTOCOL: Final = 1  # spoken here
PROTOCOL_OLDEST: Final = 1  # still understood: one version back, once there is one

HEARTBEAT_S: Final = 2.0
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
OBSERVATIONS_PER_FRAME_MAX: Final = 256

NODE_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
NODE_LENGTH_MAX: Final = 63  # the length of a host name's label

# capture: args {"ranks": [rank], "deadline_s": s}, empty ranks for all, also where all have ended; result {"ranks":
# [records.RankEvidence], "flight_recorder": {"digest": NodeDigest as JSON or None, "files": {rank: path on the node},
# "notes": [what could not be had], "numbering": {"world", "ranks": {its number: ours}} where a launcher of the job's
# own, such as torchrun, has numbered ranks below ours}}.
# check: args {"deep": bool, "timeout_s": s, "wait_s": s (for ranks to end)}, of the node and of no job; result: the
# document of `outrider check --json`.
ORDER_KINDS: Final = ("prepare", "reserve-port", "start", "stop", "release", "capture", "check")


@dataclass(frozen=True)
class Hello:
    """First frame of an agent. ``slots``: ranks the node can take; ``address``: how other nodes reach it; ``findings``:
    what was observed of the node and is not over, so that a controller that starts knows it.
    """

    protocol: int
    version: str
    node: str
    boot_id: str
    spool_id: str
    address: str
    slots: int
    supervises: bool
    simulated: bool
    sent_at: float
    keepers: tuple[records.KeeperState, ...] = ()
    findings: tuple[records.Observation, ...] = ()
    type: str = "hello"


@dataclass(frozen=True)
class Observations:
    """A run of spooled observations in ascending ``seq``."""

    items: tuple[records.Observation, ...]
    type: str = "observations"


@dataclass(frozen=True)
class Heartbeat:
    """The agent is alive and this is where its ranks stand."""

    sent_at: float
    ranks: tuple[records.RankProgress, ...] = ()
    type: str = "heartbeat"


@dataclass(frozen=True)
class Marks:
    """Marks of the node's ranks for one job and generation, sent as they come (coalesced to at most 10 frames a
    second).
    """

    job: str
    generation: int
    attached: bool = False
    mesh: str | None = None
    flops_per_token: float | None = None
    steps: tuple[records.StepSample, ...] = ()
    checkpoints: tuple[records.CheckpointMark, ...] = ()
    ranks: tuple[records.RankProgress, ...] = ()
    type: str = "marks"


@dataclass(frozen=True)
class OrderResult:
    """What came of an order. ``error`` names the thing, the value and the way out."""

    order_id: str
    ok: bool
    error: str | None = None
    result: records.Json = field(default_factory=dict)
    type: str = "order-result"


@dataclass(frozen=True)
class Welcome:
    """The controller takes the agent. ``acked_seq``: every observation of this spool up to here is in the ledger."""

    protocol: int
    version: str
    controller_id: str
    epoch: int
    acked_seq: int
    heartbeat_s: float = HEARTBEAT_S
    type: str = "welcome"


@dataclass(frozen=True)
class Refused:
    """The controller does not take the agent (or a frame), and what would help."""

    reason: str
    remedy: str
    type: str = "refused"


@dataclass(frozen=True)
class Ack:
    """Every observation up to ``seq`` is in the ledger; the spool may forget them."""

    seq: int
    type: str = "ack"


@dataclass(frozen=True)
class Order:
    """One thing for the agent to do. Orders of a generation older than the keeper's are refused by the keeper."""

    order_id: str
    kind: str
    job: str
    generation: int
    args: records.Json = field(default_factory=dict)
    type: str = "order"


def is_node_name(name: str) -> bool:
    """Whether a node may be called so: letters, digits and ``-_.``, beginning with a letter or digit."""
    return 0 < len(name) <= NODE_LENGTH_MAX and set(name) <= NODE_LETTERS and name[0] not in "-."


FromAgent = Hello | Observations | Heartbeat | Marks | OrderResult
FromController = Welcome | Refused | Ack | Order
MESSAGES: Final = {
    cls.__dataclass_fields__["type"].default: cls
    for cls in (Hello, Observations, Heartbeat, Marks, OrderResult, Welcome, Refused, Ack, Order)
}
