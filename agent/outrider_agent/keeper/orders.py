"""What a keeper can be told, as frozen records, and how they are read from JSON lines without trusting them.

Flow: the agent's records -> one JSON object a line -> checked records in the keeper. A wrong field is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Final

PROTOCOL: Final = 1
LINE_BYTES_MAX: Final = 4 * 1024 * 1024  # a command and an environment fit many times over
RANKS_MAX: Final = 1024  # on one node


class OrderError(ValueError):
    """An order that cannot be carried out; the message names the field or the thing, its value and the way out."""


@dataclass(frozen=True)
class Prepare:
    """Import ahead what the job will import. ``preload``: modules; ``auto`` reads torch and numpy off the script."""

    command: tuple[str, ...]
    cwd: str = ""
    preload: tuple[str, ...] = ("auto",)


@dataclass(frozen=True)
class Start:
    """Start this node's ranks of one attempt. Paths are absolute; ``env`` goes above the keeper's own."""

    attempt: int
    generation: int
    world_size: int
    nnodes: int
    node_rank: int
    ranks: tuple[int, ...]
    command: tuple[str, ...]
    log_dir: str
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    resume_path: str = ""
    fence: tuple[str, ...] = ()  # fence files of the job beside the keeper's own
    marks: str = ""  # socket that takes the ranks' marks; empty for none
    max_restarts: int = 0
    memory_bytes: int = 0  # RLIMIT_AS of a rank; 0 for none
    open_files: int = 0  # RLIMIT_NOFILE of a rank; 0 leaves the system's
    preload: tuple[str, ...] = ("auto",)  # used when nothing was prepared


@dataclass(frozen=True)
class Stop:
    """End every rank of ``generation`` and older: SIGTERM, and SIGKILL after ``grace_s`` seconds."""

    generation: int
    grace_s: float = 2.0


@dataclass(frozen=True)
class Status:
    """What runs? Answered with a records.KeeperState."""


@dataclass(frozen=True)
class Events:
    """Push every event from number ``from_event`` on, those that are there and those to come."""

    from_event: int = 0


@dataclass(frozen=True)
class Ack:
    """Every event up to ``event`` is safe elsewhere and may be forgotten."""

    event: int


@dataclass(frozen=True)
class Release:
    """The job is over: leave once nothing runs and every event is acknowledged."""


Order = Prepare | Start | Stop | Status | Events | Ack | Release
KINDS: Final[dict[str, type[Order]]] = {
    "prepare": Prepare,
    "start": Start,
    "stop": Stop,
    "status": Status,
    "events": Events,
    "ack": Ack,
    "release": Release,
}
_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "tuple[int, ...]": "a list of whole numbers",
    "tuple[str, ...]": "a list of texts",
    "dict[str, str]": "a table of texts",
}


def encode(identity: int, order: Order) -> bytes:
    """The line that carries ``order`` under the number ``identity``, which its answer repeats."""
    kind = next(kind for kind, cls in KINDS.items() if isinstance(order, cls))
    return json.dumps({"id": identity, "do": kind, **dataclasses.asdict(order)}).encode() + b"\n"


def decode(document: dict[str, Any]) -> Order:
    """The order of one decoded line; raises OrderError."""
    kind = document.get("do")
    cls = KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise OrderError(f"do: {kind!r} is not an order of a keeper; it takes {', '.join(KINDS)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    given = {key: value for key, value in document.items() if key not in ("id", "do")}
    for key in given:
        if key not in fields:
            raise OrderError(f"{kind}.{key}: is unknown; {kind} takes {', '.join(fields) or 'nothing'}")
    for name, entry in fields.items():
        missing = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if missing and name not in given:
            raise OrderError(f"{kind}.{name}: is missing")
    order = cls(**{key: _value(f"{kind}.{key}", value, str(fields[key].type)) for key, value in given.items()})
    if isinstance(order, Start):
        _consistent(order)
    return order


def _value(key: str, value: Any, kind: str) -> Any:
    if not _fits(value, kind):
        raise OrderError(f"{key}: {str(value)[:80]!r} is not {_WORDS[kind]}")
    return tuple(value) if kind.startswith("tuple") else value


def _fits(value: Any, kind: str) -> bool:
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if kind == "str":
        return isinstance(value, str) and "\0" not in value
    if kind == "dict[str, str]":
        return isinstance(value, dict) and all(
            _fits(k, "str") and k and "=" not in k and _fits(v, "str") for k, v in value.items()
        )
    return isinstance(value, list | tuple) and all(_fits(item, kind[len("tuple[") : -len(", ...]")]) for item in value)


def _consistent(order: Start) -> None:
    if not order.command:
        raise OrderError("start.command: is empty; give the program and its arguments")
    if not order.ranks or len(order.ranks) > RANKS_MAX or len(set(order.ranks)) != len(order.ranks):
        raise OrderError(f"start.ranks: {list(order.ranks)[:16]} must be 1 to {RANKS_MAX} different ranks")
    if any(not 0 <= rank < order.world_size for rank in order.ranks):
        raise OrderError(f"start.ranks: {list(order.ranks)[:16]} must lie within the world of {order.world_size}")
    for key in ("attempt", "generation", "node_rank", "memory_bytes", "open_files"):
        if getattr(order, key) < 0:
            raise OrderError(f"start.{key}: {getattr(order, key)} must not be below 0")
    for key in ("log_dir", "cwd"):
        path = getattr(order, key)
        if (path or key == "log_dir") and not path.startswith("/"):
            raise OrderError(f"start.{key}: {path!r} is not an absolute path")
