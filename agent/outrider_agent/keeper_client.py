"""The agent's end of a keeper: start one or adopt the one that runs, give it orders, take its events.

Flow: orders (``keeper.orders``) -> one JSON line each over the keeper's Unix socket -> answers matched by number;
events arrive numbered, in order, and again after a new connection until they are acknowledged. A keeper has one
client at a time, and a newer one replaces the older.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import logging
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outrider import places, records
from outrider_agent.keeper import cold, command, environment, journal, orders, sessions
from outrider_agent.keeper import home as homes

log = logging.getLogger(__name__)

ANSWER_S: Final = 30.0  # for orders that only look or signal
PREPARE_S: Final = 600.0  # importing torch from a cold network disk
START_S: Final = 600.0
READY_S: Final = 60.0  # a new keeper's interpreter on a machine under heavy load
HELLO_S: Final = 600.0  # a keeper that is busy importing greets when it is done
EVENTS_QUEUED_MAX: Final = 2 * journal.EVENTS_MAX  # more than a keeper keeps, so reached only by a client that sleeps
LOG_TAIL_BYTES: Final = 2000


class KeeperError(Exception):
    """Something with a keeper went wrong; the message names the job and the way out."""


class KeeperRefused(KeeperError):
    """The keeper is there and said no. Trying again unchanged is useless."""


class KeeperGone(KeeperError):
    """No keeper answers (any more): its ranks are gone with it, or another client has taken the connection over."""


class KeeperNotStarted(KeeperError):
    """A keeper could not be brought up at all."""


@dataclass(frozen=True)
class Settings:
    """What a new keeper is started with. ``env`` goes above the agent's own, before anything is imported."""

    job: str
    node: str
    runtime: Path  # the node's runtime directory
    command: tuple[str, ...] = ()  # of the job: its interpreter, when it has one, runs the keeper
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""  # of the job, to find its interpreter by a relative path
    ranks: int = 0  # that will run here; with more than one, OMP_NUM_THREADS is 1 unless set
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
    home = homes.of(settings.runtime, settings.job)
    env = {**os.environ, **settings.env}
    found = command.find(settings.command[0], env.get("PATH"), settings.cwd) if settings.command else None
    of_job = found if found and command.is_python(settings.command[0]) else None
    trouble = ""
    for interpreter in dict.fromkeys(name for name in (of_job, sys.executable) if name):
        trouble = await _spawn(interpreter, settings, home, environment.of_keeper(env, home, settings.ranks))
        keeper = await adopt(settings.runtime, settings.job)
        if keeper is not None:
            return keeper
        log.warning("a keeper did not come up", extra={"job": settings.job, "interpreter": interpreter, "why": trouble})
    raise KeeperNotStarted(f"job {settings.job}: its keeper did not come up: {trouble}. Its log is {home.log}")


async def _spawn(interpreter: str, settings: Settings, home: homes.Home, env: dict[str, str]) -> str:
    """Start a keeper process and wait until it listens; what went wrong, or nothing."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        homes.socket_path(home)
        who = _user(settings, home, env)
        with open(home.log, "ab") as keeper_log:
            process = subprocess.Popen(
                _command(interpreter, settings, home, writing),
                stdin=subprocess.DEVNULL,
                stdout=keeper_log,
                stderr=keeper_log,
                env=env,
                pass_fds=(writing,),
                start_new_session=True,
                **who,
            )
    except (OSError, KeyError) as error:
        os.close(reading)
        return str(error)
    finally:
        os.close(writing)
    said = await _read_all(reading)
    process.wait()  # it leaves at once: the keeper is its child, in a session of its own
    if said == b"ready\n":
        return ""
    return said.decode(errors="replace") or _log_tail(home)


def _command(interpreter: str, settings: Settings, home: homes.Home, ready_fd: int) -> list[str]:
    words = [interpreter, cold.entry(), cold.client_folder(), "keeper", "--home", str(home.path)]
    words += ["--job", settings.job, "--node", settings.node]
    words += ["--linger-s", str(settings.linger_s), "--ready-fd", str(ready_fd)]
    return [*words, "--allow-root"] if settings.allow_root else words


def _user(settings: Settings, home: homes.Home, env: dict[str, str]) -> dict[str, Any]:
    """Make the keeper's directories, and what Popen needs to run it as the job's user. Raises OSError, KeyError."""
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in settings.own:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not settings.user:
        return {}
    try:
        entry = pwd.getpwnam(settings.user)
    except KeyError:
        raise KeyError(f"there is no user {settings.user} on this node") from None
    if entry.pw_uid == os.geteuid():
        return {}
    if os.geteuid() != 0:
        raise PermissionError(f"running ranks as {settings.user} needs an agent that runs as root")
    for path in (home.path, *settings.own):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    for path in (settings.runtime, home.path.parent):
        path.chmod(path.stat().st_mode | 0o011)  # the user may pass through, and list nothing
    env.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


async def _read_all(fd: int) -> bytes:
    """Everything a pipe says until it is closed, or what came within READY_S."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb"))
    try:
        return await asyncio.wait_for(reader.read(), READY_S)
    except TimeoutError:
        return f"it was not ready within {READY_S:.0f} s".encode()
    finally:
        transport.close()


def _log_tail(home: homes.Home) -> str:
    try:
        return home.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return "it ended without a word"


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
            line = await asyncio.wait_for(self._reader.readline(), HELLO_S)
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
            document = await asyncio.wait_for(answer, within_s)
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


# --- after a keeper's death -----------------------------------------------------------------------------------------


def kill_strays(runtime: Path, job: str) -> tuple[int, ...]:
    """After a keeper died: SIGKILL what its ranks left behind (data loaders, shells' children), and return the pids.

    Raises KeeperError while a keeper of this job lives: what it holds is no stray.
    """
    home = homes.of(runtime, job)
    if _is_held(home):
        raise KeeperError(f"job {job}: its keeper lives; stop its ranks with an order")
    mark = f"{environment.MARK}={home.path}".encode()
    strays = tuple(pid for pid in _processes() if mark in _environ(pid))
    for pid in strays:
        sessions.send(pid, signal.SIGKILL)
    return strays


def _is_held(home: homes.Home) -> bool:
    try:
        fd = os.open(home.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _environ(pid: int) -> frozenset[bytes]:
    try:
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return frozenset()  # gone, or not ours to look at


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
    "places",
    "start",
]
