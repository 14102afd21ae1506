"""The agent's end of a keeper: start one or adopt the one that runs, give it orders, take its events.

Flow: orders (``keeper.orders``) -> one JSON line each over the keeper's Unix socket -> answers matched by number; events
arrive numbered, in order, and again after a new connection until they are acknowledged. A keeper has one client at a time,
and a newer one replaces the older.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outrider import records
from outrider_agent.keeper import home as homes
from outrider_agent.keeper import orders

log = logging.getLogger(__name__)

ANSWER_S: Final = 30.0  # for orders that only look or signal
PREPARE_S: Final = 600.0  # importing torch from a cold network disk
START_S: Final = 600.0
HELLO_S: Final = 600.0  # a keeper that is busy preloading answers when it is done
EVENTS_QUEUED_MAX: Final = 4096  # beyond it, reading from the keeper waits until the agent has caught up


class KeeperError(Exception):
    """Something with a keeper went wrong; the message names the job and the way out."""


class KeeperRefused(KeeperError):
    """The keeper is there and said no. Trying again unchanged is useless."""


class KeeperGone(KeeperError):
    """No keeper answers (any more): its ranks are gone with it, or the connection was taken over by another client."""


class KeeperNotStarted(KeeperError):
    """A keeper could not be brought up at all."""


@dataclass(frozen=True)
class Settings:
    """What a new keeper is started with. ``env`` goes above the agent's own environment, before anything is imported."""

    job: str
    node: str
    runtime: Path  # the node's runtime directory
    command: tuple[str, ...] = ()  # of the job: its interpreter, when it has one, runs the keeper
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""  # run the keeper and its ranks as this user; needs root
    allow_root: bool = False  # ranks may run as root
    own: tuple[Path, ...] = ()  # directories to create and hand to ``user``, such as the one for the logs
    linger_s: float = 300.0  # an idle keeper without a client leaves after this


@dataclass(frozen=True)
class Hello:
    """The first thing a keeper says. ``journal`` names its numbering: event numbers are unique within one journal."""

    protocol: int
    version: str
    job: str
    pid: int
    journal: str
    next_event: int
    state: records.KeeperState


@dataclass(frozen=True)
class Prepared:
    """Whether ranks would be forked, and why not."""

    warm: bool
    why_cold: str | None
    seconds: float


@dataclass(frozen=True)
class Started:
    """What a start brought: pid by rank, whether they were forked, and why not."""

    pids: dict[int, int]
    warm: bool
    why_cold: str | None
    seconds: float


@dataclass(frozen=True)
class Event:
    """One numbered event. ``event["kind"]``: rank-exited, ranks-started, attempt-ended, cold-start or start-failed."""

    n: int
    event: records.Json


async def adopt(runtime: Path, job: str) -> Keeper | None:
    """Connect to the keeper of ``job`` if one runs; None when none does."""
    raise NotImplementedError


async def start(settings: Settings) -> Keeper:
    """Bring up a keeper in a session of its own and connect; adopts one that runs. Raises KeeperNotStarted."""
    raise NotImplementedError


class Keeper:
    """One connection to one keeper. Every call raises KeeperGone once the connection is lost (``gone`` is then set)."""

    hello: Hello
    gone: asyncio.Event

    async def prepare(self, order: orders.Prepare) -> Prepared:
        """Import ahead; answers when it is done."""
        raise NotImplementedError

    async def start(self, order: orders.Start) -> Started:
        """Start ranks; raises KeeperRefused (older generation, missing program, ...)."""
        raise NotImplementedError

    async def stop(self, generation: int, grace_s: float) -> None:
        """Begin to end ranks of ``generation`` and older; their ends arrive as events, last of all ``attempt-ended``."""
        raise NotImplementedError

    async def status(self) -> records.KeeperState:
        """What runs now."""
        raise NotImplementedError

    def events(self, from_event: int) -> AsyncIterator[Event]:
        """Every event from a number on, as they come; ends when the connection is lost."""
        raise NotImplementedError

    async def ack(self, event: int) -> None:
        """The keeper may forget events up to this one."""
        raise NotImplementedError

    async def release(self) -> None:
        """The keeper leaves, once nothing runs and every event is acknowledged."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of the connection; the keeper and its ranks go on."""
        raise NotImplementedError


def kill_strays(runtime: Path, job: str) -> tuple[int, ...]:
    """After a keeper died: SIGKILL what its ranks left in their sessions (data loaders, shells' children). Pids killed."""
    raise NotImplementedError
