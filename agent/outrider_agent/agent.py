"""The agent's shell: one process per node that holds the lock, the clock and the wiring, and nothing else.

In: settings. Out: an exit status. The parts are the marks' socket, the keepers, the spool, the orders, the connection
to the controller and, where asked for, /metrics. An agent may die at any moment: ranks and keepers go on, and the next
agent finds the spool and adopts the keepers.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import signal
import stat
import sys
from pathlib import Path
from typing import Final, TextIO

import msgspec

from outrider import clock as clock_module
from outrider import places, version, vocabulary, wire
from outrider_agent import (
    exporter,
    jobs,
    keeper_client,
    keepers,
    logs,
    node_signals,
    node_view,
    observe,
    orders,
    pruning,
    report,
    resident,
    spool,
    tasks,
    watch,
    watchers,
)
from outrider_agent import settings as settings_module
from outrider_agent.flight_recorder import written
from outrider_agent.signals import collectives, disks, host, job_log, ranks

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
SETTLED_S: Final = 10.0  # after which every part has begun
LOOK_SELDOM_S: Final = 5.0  # where nobody waits for it to be idle
MARKS_REFUSED_EVERY_S: Final = 60.0  # at most one observation of refused marks in this time


class AgentError(Exception):
    """An agent that cannot start; the message names the thing, the value and the way out."""


def main(settings: settings_module.Settings) -> int:
    """Run an agent until it is told to leave; its exit status. Says on standard error why it could not start."""
    logs.to_standard_error()
    resident.begin()
    try:
        return asyncio.run(run(settings))
    except (settings_module.SettingsError, places.PlaceError, AgentError) as error:
        print(f"outrider agent: {error}", file=sys.stderr)
        return vocabulary.EXIT_COULD_NOT


async def run(settings: settings_module.Settings) -> int:
    """Run an agent until SIGTERM, SIGINT or idleness. Raises SettingsError, PlaceError or AgentError at the start."""
    settings_module.check(settings)
    places.make_private(settings.state)
    runtime = _own(places.make_private(places.runtime_dir(settings.state, settings.node), "OUTRIDER_RUNTIME"))
    with _lock(runtime, settings):
        agent = Agent(settings, runtime, clock_module.RealClock())
        await agent.run()
    return vocabulary.EXIT_DONE


class Agent:
    """All parts of one agent, wired together."""

    def __init__(self, settings: settings_module.Settings, runtime: Path, clock: clock_module.Clock) -> None:
        self._settings = settings
        self._runtime = runtime
        self._clock = clock
        self._boot_id = boot_id(runtime, settings.simulated)
        self._spool = spool.Spool(runtime / "spool.db")
        self._board = ranks.Board()
        self._book = jobs.Book(runtime)
        self._keepers = keepers.Keepers(settings.node, runtime, self._spool, self._board, clock, self._wake)
        self._reporter = report.Reporter(settings, clock, self._spool, self._board, self._hello, self._take_order)
        self._written = written.Written(settings.node, runtime, self._spool, self._keepers, clock, self._wake)
        self._orders = orders.Orders(
            settings,
            runtime,
            self._spool,
            self._keepers,
            self._board,
            self._book,
            clock,
            self._reporter.answer,
            lambda seen: self._watchers.tell("check", (seen,)),
            self._written.asked,
            pruning.Pruner(settings.node, self._spool, clock, self._wake),
            lambda: node_view.gpus(self._watchers),
        )
        own = (disks.Place(str(settings.state), "Outrider's state"), disks.Place(str(runtime), "the agent's spool"))
        self._watch = watch.Watch(
            settings.node, own, runtime, self._spool, self._keepers, self._book, clock, self._wake
        )
        self._job_logs = job_log.Follower(self._book, self._keepers, self._board, clock, self._wake)
        self._collectives = collectives.Asker(runtime, self._keepers, self._board, clock)
        self._watchers = self._make_watchers(settings.sources)
        self._parts = tasks.Tasks()
        self._leave = asyncio.Event()
        self._marks_told = 0
        self._marks_told_at = -MARKS_REFUSED_EVERY_S
        self._busy_at = clock.monotonic()

    async def run(self) -> None:
        """Start every part, wait for the word to leave, and let go of everything without touching a rank."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        self._say_damage()
        listener = ranks.Listener(self._runtime / "marks.sock", self._board, self._clock.now, self._wake)
        server = None
        try:
            server = await self._serve_metrics()
            await self._keepers.adopt_all()
            self._parts.start("report", tasks.keep_going("report", self._reporter.run))
            self._parts.start("look", tasks.keep_going("look", self._look))
            self._parts.start("job logs", tasks.keep_going("job logs", self._job_logs.run))
            self._parts.start("collectives", tasks.keep_going("collectives", self._collectives.run))
            self._parts.start("flight records", tasks.keep_going("flight records", self._written.run))
            self._parts.start("processes", tasks.keep_going("processes", self._watch.watch_processes))
            self._parts.start("disks", tasks.keep_going("disks", self._watch.watch_disks))
            self._parts.start("signals", tasks.keep_going("signals", self._watchers.run))
            log.info(
                "the agent runs", extra={"node": self._settings.node, "pid": os.getpid(), "state": self._settings.state}
            )
            loop.call_later(SETTLED_S, resident.settle)
            await self._leave.wait()
        finally:
            log.info("the agent leaves; ranks and keepers go on", extra={"node": self._settings.node})
            if server is not None:
                server.close()
            await self._parts.cancel()
            await self._watchers.close()
            await self._orders.close()
            await self._keepers.close()
            listener.close()
            self._spool.close()

    def _hello(self) -> wire.Hello:
        given = self._settings
        return wire.Hello(
            protocol=wire.PROTOCOL,
            version=version.__version__,
            node=given.node,
            boot_id=self._boot_id,
            spool_id=self._spool.spool_id,
            address=given.address,
            slots=given.slots,
            supervises=given.supervise,
            simulated=self._simulated,
            sent_at=self._clock.now(),
            keepers=self._keepers.states(),
            findings=self._watchers.findings.told(),
        )

    def _make_watchers(self, sources: settings_module.Sources | None) -> watchers.Watchers:
        """A host that only pretends to be one, and was told of no source, watches its ranks and disks alone."""
        given = sources or settings_module.Sources()
        self._pretends = given.pretends
        signals = node_signals.of(given, board=self._board) if sources is not None else []
        judge = node_signals.judge(self._settings.node, given, self._settings.simulated or self._pretends)
        return watchers.Watchers(signals, judge, self._spool, self._clock, self._wake)

    @property
    def _simulated(self) -> bool:
        """Whether the host, or what its GPUs say, is made up; every figure and finding of it says so."""
        return self._settings.simulated or self._pretends or self._watchers.newest.simulated

    def _wake(self) -> None:
        self._reporter.wake()

    def _take_order(self, order: wire.Order) -> None:
        self._orders.take(order)

    def _say_damage(self) -> None:
        if self._spool.damage:
            path = str(self._spool.path)
            log.error("the spool was damaged and was set aside", extra={"file": path, "why": self._spool.damage})
            self._spool.add(observe.spool_damaged(self._settings.node, path, self._spool.damage, self._clock.now()))

    async def _look(self) -> None:
        """From time to time: garbage among the marks, and whether anybody still needs this agent."""
        while True:
            now = self._clock.monotonic()
            if self._board.refused > self._marks_told and now - self._marks_told_at >= MARKS_REFUSED_EVERY_S:
                self._tell_refused(now)
            if self._reporter.state == "connected" or self._keepers.living():
                self._busy_at = now
            idle_s = self._settings.leave_idle_s
            if idle_s is not None and now - self._busy_at >= idle_s:
                await self._leave_idle(idle_s)
                return
            await self._clock.sleep(LOOK_S if idle_s is not None else LOOK_SELDOM_S)

    def _tell_refused(self, now: float) -> None:
        refused = self._board.refused - self._marks_told
        self._marks_told, self._marks_told_at = self._board.refused, now
        found = observe.marks_refused(self._settings.node, refused, self._board.refusal, self._clock.now())
        log.warning("marks were refused", extra={"node": self._settings.node, "why": found.text})
        self._spool.add(found)
        self._wake()

    async def _leave_idle(self, idle_s: float) -> None:
        log.info("nobody needs this agent: no controller and no rank for a while", extra={"idle_s": idle_s})
        for held in self._keepers.all():
            try:
                await self._keepers.release(held)
            except keeper_client.KeeperError as error:
                log.warning("a keeper did not leave", extra={"job": held.job, "why": error})
        self._leave.set()

    async def _serve_metrics(self) -> asyncio.Server | None:
        listen = self._settings.metrics_listen
        if listen is None:
            return None
        try:
            server = await exporter.serve(settings_module.listen_address(listen), self._reading)
        except OSError as error:
            raise AgentError(f"--metrics-listen {listen}: cannot be opened: {error.strerror or error}") from error
        log.info("metrics are served", extra={"port": server.sockets[0].getsockname()[1]})
        return server

    def _reading(self) -> exporter.Reading:
        board, held = self._board, self._keepers.all()
        marks = {"received": board.received, "refused": board.refused, "stale": board.stale, "dropped": board.dropped}
        return exporter.Reading(
            node=self._settings.node,
            simulated=self._simulated,
            version=version.__version__,
            connection=self._reporter.state,
            observations=self._spool.taken,
            observations_waiting=self._spool.waiting(),
            observations_lost=self._spool.dropped,
            acked_seq=self._spool.acked,
            spool_on_disk=not self._spool.problem,
            marks=marks,
            orders={"done": self._orders.carried_out - self._orders.failed, "failed": self._orders.failed},
            ranks_alive={one.job: len(one.standing.living) for one in held},
            keeper_warm={one.job: one.standing.warm for one in held},
            ranks_stopped=self._watch.stopped,
            disks=self._watch.rooms,
            hardware=node_view.of(self._watchers, held),
        )


def boot_id(runtime: Path, simulated: bool) -> str:
    """Which boot of the node this is. A simulated host has boots of its own: removing the file is one."""
    machine, path = host.boot_id(), runtime / "boot_id"
    try:
        known = path.read_text().strip()
    except OSError:
        known = ""
    current = known if simulated and known.startswith(machine) else machine
    if simulated and current == machine:
        current = f"{machine}-{secrets.token_hex(4)}"
    if current != known:
        path.write_text(current + "\n")
    return current


def _lock(runtime: Path, settings: settings_module.Settings) -> TextIO:
    """The node's lock, held until the file is closed; raises AgentError naming the agent that has it."""
    file = (runtime / "agent.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read(32).strip() or "unknown"
        file.close()
        raise AgentError(
            f"another agent (pid {holder}) serves node {settings.node} of {settings.state}; "
            "stop it first, or give another --node or --state"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    who = {"pid": os.getpid(), "node": settings.node, "started_at": host.start_ticks(os.getpid())}
    part = runtime / f"agent.json.{os.getpid()}.part"
    part.write_bytes(msgspec.json.encode(who))
    part.replace(runtime / "agent.json")
    return file


def _own(runtime: Path) -> Path:
    """The runtime directory may lie below a world-writable one: prove that nobody else made it or may enter it."""
    for path in (runtime, runtime.parent):
        found = path.lstat()
        if found.st_uid not in (os.geteuid(), 0) or not stat.S_ISDIR(found.st_mode):
            raise places.PlaceError(
                f"{path}: belongs to user {found.st_uid}; give a directory of your own with OUTRIDER_RUNTIME"
            )
    if stat.S_IMODE(runtime.stat().st_mode) & 0o066:  # passing through is for ranks of another user
        raise places.PlaceError(f"{runtime}: others may enter it; run chmod go-rwx {runtime}")
    return runtime
