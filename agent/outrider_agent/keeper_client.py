"""The agent's end of a keeper: start one or adopt the one that runs, give it orders, take its events.

Flow: orders (``keeper.orders``) -> one JSON line each over the keeper's Unix socket -> answers matched by number;
events arrive numbered, in order, and again after a new connection until they are acknowledged. A keeper has one
client at a time, and a newer one replaces the older.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import records
from outrider_agent import keeper_process
from outrider_agent.keeper import home as homes
from outrider_agent.keeper import journal, orders
from outrider_agent.keeper_process import KeeperError, Settings, kill_strays

__all__ = [
    "Event",
    "Hello",
    "Keeper",
    "KeeperError",
    "KeeperGone",
    "KeeperNotStarted",
    "KeeperRefused",
    "Prepared",
    "Settings",
    "Started",
    "adopt",
    "kill_strays",
    "start",
]

log = logging.getLogger(__name__)

ANSWER_S: Final = 30.0  # for orders that only look or signal
PREPARE_S: Final = 600.0  # importing torch from a cold network disk
START_S: Final = 600.0
HELLO_S: Final = 600.0  # a keeper that is busy importing greets when it is done
ADOPT_PAUSE_S: Final = 0.05
EVENTS_QUEUED_MAX: Final = 2 * journal.EVENTS_MAX  # more than a keeper keeps, so reached only by a client that sleeps


class KeeperRefused(KeeperError):
    """The keeper is there and said no. Trying again unchanged is useless."""


class KeeperGone(KeeperError):
    """No keeper answers (any more): its ranks are gone with it, or another client has taken the connection over."""


class KeeperNotStarted(KeeperError):
    """A keeper could not be brought up at all."""


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
    visible_devices: str | None = None
    device_order: str | None = None


@dataclass(frozen=True)
class Event:
    """One numbered event. ``event["kind"]``: rank-exited, ranks-started, attempt-ended, cold-start or start-failed."""

    n: int
    event: records.Json


# --- finding and starting -------------------------------------------------------------------------------------------


async def adopt(runtime: Path, job: str) -> Keeper | None:
    """Connect to the keeper of ``job`` if one runs; None when none does. Raises KeeperRefused on another protocol."""
    home = homes.of(runtime, job)
    try:
        reader, writer = await asyncio.open_unix_connection(homes.socket_path(home), limit=orders.LINE_BYTES_MAX)
    except OSError:
        return None
    keeper = Keeper(job, reader, writer)
    try:
        await keeper.greet()
    except KeeperGone:
        return None  # it left, or died, between taking the connection and speaking
    except BaseException:
        await keeper.close()
        raise
    return keeper


async def start(settings: Settings) -> Keeper:
    """Bring up a keeper in a session of its own and connect; adopts one that runs. Raises KeeperNotStarted."""
    running = await adopt(settings.runtime, settings.job)
    if running is not None:
        return running
    trouble = ""
    for interpreter in keeper_process.interpreters(settings):
        trouble = await keeper_process.spawn(interpreter, settings)
        keeper = await _adopt_living(settings)
        if keeper is not None:
            return keeper
        log.warning("a keeper did not come up", extra={"job": settings.job, "interpreter": interpreter, "why": trouble})
    keeper_log = homes.of(settings.runtime, settings.job).log
    raise KeeperNotStarted(f"job {settings.job}: its keeper did not come up: {trouble}. Its log is {keeper_log}")


async def _adopt_living(settings: Settings) -> Keeper | None:
    """Adopt a keeper, with patience for one that somebody else has just started and that does not listen yet."""
    until = asyncio.get_running_loop().time() + keeper_process.READY_S
    while True:
        keeper = await adopt(settings.runtime, settings.job)
        lives = keeper_process.is_held(homes.of(settings.runtime, settings.job))
        if keeper is not None or not lives or asyncio.get_running_loop().time() > until:
            return keeper
        await asyncio.sleep(ADOPT_PAUSE_S)


# --- one connection -------------------------------------------------------------------------------------------------


class Keeper:
    """One connection to one keeper. Every call raises KeeperGone once the connection is lost (``gone`` is then set).

    Owns one task, which reads; it ends with the connection.
    """

    hello: Hello

    def __init__(self, job: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.job = job
        self.gone = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[records.Json]] = {}
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(EVENTS_QUEUED_MAX)
        self._last_id = 0
        self._task: asyncio.Task[None] | None = None

    async def greet(self) -> None:
        """Take the keeper's hello and begin to listen. ``adopt`` and ``start`` do this."""
        try:
            async with asyncio.timeout(HELLO_S):
                line = await self._reader.readline()
            document = json.loads(line)
        except (OSError, ValueError, TimeoutError) as error:
            raise KeeperGone(f"job {self.job}: its keeper took the connection and said nothing ({error})") from None
        if document.get("protocol") != orders.PROTOCOL:
            raise KeeperRefused(
                f"job {self.job}: its keeper (version {document.get('version')}) speaks protocol "
                f"{document.get('protocol')}, this agent {orders.PROTOCOL}. Stop the job once, and start it again"
            )
        state = _state(document.pop("state"))
        known = {f.name for f in dataclasses.fields(Hello)}
        self.hello = Hello(state=state, **{key: value for key, value in document.items() if key in known})
        self._task = asyncio.create_task(self._listen(), name=f"keeper of {self.job}: listen")

    async def prepare(self, order: orders.Prepare) -> Prepared:
        """Import ahead; answers when it is done."""
        return Prepared(**await self._ask(order, PREPARE_S))

    async def start(self, order: orders.Start) -> Started:
        """Start ranks; raises KeeperRefused (older generation, missing program, ...)."""
        result = await self._ask(order, START_S)
        return Started(**{**result, "pids": {int(rank): pid for rank, pid in result["pids"].items()}})

    async def stop(self, generation: int, grace_s: float) -> tuple[int, ...]:
        """Begin to end ranks of ``generation`` and older; which. Their ends are events, ``attempt-ended`` the last."""
        return tuple((await self._ask(orders.Stop(generation, grace_s), ANSWER_S))["ranks"])

    async def status(self) -> records.KeeperState:
        """What runs now."""
        return _state(await self._ask(orders.Status(), ANSWER_S))

    async def events(self, from_event: int) -> AsyncIterator[Event]:
        """Every event from a number on, as they come; ends when the connection is lost. One reader a connection."""
        await self._ask(orders.Events(from_event), ANSWER_S)
        while (event := await self._events.get()) is not None:
            yield event

    async def ack(self, event: int) -> None:
        """The keeper may forget events up to this one."""
        await self._ask(orders.Ack(event), ANSWER_S)

    async def release(self) -> None:
        """The keeper leaves, once nothing runs and every event is acknowledged."""
        await self._ask(orders.Release(), ANSWER_S)

    async def close(self) -> None:
        """Let go of the connection; the keeper and its ranks go on."""
        self._writer.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end()

    async def _ask(self, order: orders.Order, within_s: float) -> records.Json:
        if self.gone.is_set():
            raise self._lost()
        self._last_id += 1
        identity = self._last_id
        answer = asyncio.get_running_loop().create_future()
        self._waiting[identity] = answer
        try:
            self._writer.write(orders.encode(identity, order))
            await self._writer.drain()
            # Unlike wait_for, this never loses a cancellation that comes together with the answer.
            async with asyncio.timeout(within_s):
                document = await answer
        except TimeoutError:
            raise KeeperGone(
                f"job {self.job}: its keeper did not answer {type(order).__name__} within {within_s:.0f} s"
            ) from None
        except OSError:
            raise self._lost() from None
        finally:
            del self._waiting[identity]
        if not document["ok"]:
            raise KeeperRefused(f"job {self.job}: {document['error']}")
        result: records.Json = document["result"]
        return result

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError, asyncio.QueueFull) as error:
            log.warning("the connection to a keeper broke", extra={"job": self.job, "why": repr(error)})
        finally:
            self._writer.close()
            self._end()

    def _take(self, document: records.Json) -> None:
        if document.get("type") == "event":
            self._events.put_nowait(Event(document["n"], document["event"]))
            return
        answer = self._waiting.get(document.get("id") or 0)
        if answer is not None and not answer.done():
            answer.set_result(document)

    def _end(self) -> None:
        if self.gone.is_set():
            return
        self.gone.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self._lost())
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(None)

    def _lost(self) -> KeeperGone:
        return KeeperGone(f"job {self.job}: the connection to its keeper is lost; adopt it, or start another")


def _state(document: records.Json) -> records.KeeperState:
    ranks = tuple(records.RankState(**rank) for rank in document["ranks"])
    return records.KeeperState(**{**document, "ranks": ranks})
