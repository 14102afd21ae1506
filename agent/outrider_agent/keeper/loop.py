"""The keeper's life: one thread, one epoll, nothing that waits.

Flow: orders from the door, ends of ranks from their pidfds, and the clock -> processes started and stopped, events into
the journal and on to the client. What a rank's end is gets on disk before anyone hears of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import sys
import time
from typing import Any, Final

import outrider
from outrider import fence, records
from outrider_agent.keeper import command, environment, gate, journal, launch, orders, preload, ranks, server
from outrider_agent.keeper import home as homes

FAR_S: Final = 86_400.0  # even unacknowledged events hold an idle keeper no longer than a day
DOOR_LOOK_S: Final = 1.0  # between two looks, while nobody is in, at whether the socket is still there
LOOK_S: Final = 0.1  # at least, between two looks of an idle keeper at what it lives in
TERMINATED_GRACE_S: Final = 2.0  # for the ranks, when the keeper itself is told to end


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a keeper is told at its start and for good."""

    job: str
    node: str
    home: homes.Home
    linger_s: float = 300.0
    allow_root: bool = False


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The newest attempt, as it was started and as it was answered."""

    order: orders.Start
    result: dict[str, Any]


class Keeper:
    """Holds the ranks of one job on one node. ``generation`` is the newest it has heard of; it never falls."""

    def __init__(self, settings: Settings, lock_fd: int) -> None:
        self._settings = settings
        self._epoll = select.epoll()
        self._ranks = ranks.Ranks(self._epoll)
        self._journal = journal.Journal(settings.home.journal)
        self._door = server.Door(settings.home, self._epoll)
        self._lock_fd = lock_fd
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._wake[0], select.EPOLLIN)
        self._base_env = environment.base(os.environ)
        self.generation = _standing(settings.home)
        self._attempt: Attempt | None = None
        self._prepared = False
        self._why_cold: str | None = None
        self._push_from: int | None = None  # the next event the client waits for
        self._released = False
        self._terminated = False
        self._quiet_since = time.monotonic()

    def run(self) -> int:
        """Live until nothing is left to do; in a forked rank, ``child.Forked`` comes out instead."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake[1])
        while not self._may_leave():
            ready = [fd for fd, _ in self._epoll.poll(self._timeout_s(), ranks.READY_MAX)]
            # Ends come first: a stop order in the same round must not claim a death that was there before it.
            self._take_ends([fd for fd in ready if fd in self._ranks])
            for fd in ready:
                self._serve(fd)
            for rank in self._ranks.kill_due(time.monotonic()):
                _say(f"rank {rank} had its grace and was killed")
            if self._ranks:
                self._door.reopen()
        self._leave()
        return 0

    # --- ends ------------------------------------------------------------------------------------------------------

    def _take_ends(self, pidfds: list[int]) -> None:
        if not pidfds:
            return
        at = time.time()
        ended = [self._ranks.describe(pidfd, at) for pidfd in pidfds]
        generations = {rank.pidfd: rank.generation for rank in self._ranks.live}
        self._tell(
            *(
                {"kind": "rank-exited", "generation": generations[pidfd], **dataclasses.asdict(one)}
                for pidfd, one in zip(pidfds, ended, strict=True)
            )
        )
        for one in ended:
            how = f"on {one.signal}" if one.signal else f"with {one.code}"
            _say(f"rank {one.rank} (pid {one.pid}) ended {how}, number {one.order} of its attempt, asked: {one.asked}")
        self._ranks.reap(pidfds)
        if not self._ranks and self._attempt is not None:
            self._end_attempt(self._attempt.order)

    def _end_attempt(self, order: orders.Start) -> None:
        self._tell(
            {"kind": "attempt-ended", "generation": order.generation, "attempt": order.attempt, "at": time.time()}
        )
        self._quiet_since = time.monotonic()

    def _tell(self, *events: records.Json) -> None:
        self._journal.add(list(events))
        self._push()

    def _push(self) -> None:
        if self._push_from is None:
            return
        for n, event in self._journal.since(self._push_from):
            if self._door.client is None or self._door.busy:
                return
            self._door.send({"type": "event", "n": n, "event": event})
            self._push_from = n + 1

    # --- orders ----------------------------------------------------------------------------------------------------

    def _serve(self, fd: int) -> None:
        if fd == self._wake[0]:
            os.read(fd, 4096)
            if self._terminated:
                self._ranks.ask(self.generation, time.monotonic() + TERMINATED_GRACE_S)
        elif fd == self._door.listener.fileno():
            if self._door.accept():
                self._push_from = None
                self._door.send(self._hello())
        elif self._door.is_client(fd):
            for line in self._door.read():
                self._door.send(self._answer(line))
            self._door.flush()
            self._push()

    def _hello(self) -> records.Json:
        return {
            "type": "keeper",
            "protocol": orders.PROTOCOL,
            "version": outrider.__version__,
            "job": self._settings.job,
            "pid": os.getpid(),
            "journal": self._journal.identity,
            "next_event": self._journal.next_event,
            "state": self._state(),
        }

    def _answer(self, line: bytes) -> records.Json:
        identity: object = None
        try:
            document = json.loads(line)
            if not isinstance(document, dict):
                raise orders.OrderError('a line must be one JSON object, such as {"id": 1, "do": "status"}')
            identity = document.get("id")
            return {"id": identity, "ok": True, "error": None, "result": self._do(orders.decode(document))}
        except (ValueError, RecursionError) as error:  # OrderError is one; a line that is no JSON another
            return {"id": identity, "ok": False, "error": str(error)[:2000], "result": {}}
        except launch.LaunchError as error:
            return {"id": identity, "ok": False, "error": str(error), "result": {"rank": error.rank}}

    def _do(self, order: orders.Order) -> records.Json:
        match order:
            case orders.Prepare():
                return self._prepare(order)
            case orders.Start():
                return self._start(order)
            case orders.Stop():
                return self._stop(order)
            case orders.Events():
                self._push_from = order.from_event
                return {"next_event": self._journal.next_event}
            case orders.Ack():
                self._journal.ack(order.event)
                return {}
            case orders.Release():
                return self._release()
            case orders.Status():
                return self._state()

    def _prepare(self, order: orders.Prepare) -> records.Json:
        begun = time.monotonic()
        program = command.read(order.command) if order.command else command.Program("other", ())
        if not self._prepared and program.is_python and not self._ranks:
            self._prepared = True
            self._why_cold = preload.load(order.preload, program, order.cwd or os.getcwd())
        why = self._cold_reason(program, order.cwd or os.getcwd())
        return {"warm": why is None, "why_cold": why, "seconds": time.monotonic() - begun}

    def _cold_reason(self, program: command.Program, cwd: str) -> str | None:
        if not program.is_python:
            return f"not a Python script: {program.command[0] if program.command else 'nothing'}"
        if program.flags:
            return f"the interpreter's flags {' '.join(program.flags)} need a fresh interpreter"
        found = command.find(program.command[0], os.environ.get("PATH"), cwd)
        if found is None or not _same_interpreter(found):
            return f"the command's interpreter {found or program.command[0]} is not the keeper's {sys.executable}"
        if program.kind == "script" and os.path.isdir(os.path.join(cwd, program.target)):
            return f"{program.target} is a folder, which a fresh interpreter has to unpack"
        if self._why_cold:
            return self._why_cold
        if hidden := gate.hidden_modules(command.folder(program, cwd)):
            files = ", ".join(sorted(hidden.values())[:3])
            return f"{files} in the script's folder takes the place of a module that the keeper has imported"
        return gate.why_not_fork()

    def _start(self, order: orders.Start) -> records.Json:
        if self._attempt and _repeats(order, self._attempt.order) and self._attempt.result:
            return self._attempt.result
        self._refuse(order)
        begun = time.monotonic()
        self._prepare(orders.Prepare(order.command, order.cwd, order.preload))
        program = command.read(order.command)
        why = self._cold_reason(program, order.cwd or os.getcwd()) or self._environment_reason(order)
        self._raise_fence(order.generation)
        self._ranks.new_attempt()
        self._attempt = Attempt(order, {})
        told = {"generation": order.generation, "attempt": order.attempt, "at": time.time()}
        if why and program.is_python:
            self._tell({"kind": "cold-start", "text": why, **told})
        pids = self._launch(order, program, why is None, told)
        seconds = time.monotonic() - begun
        env = {**self._base_env, **order.env}
        gpus = {"visible_devices": env.get("CUDA_VISIBLE_DEVICES"), "device_order": env.get("CUDA_DEVICE_ORDER")}
        result = {"pids": pids, "warm": why is None, "why_cold": why, "seconds": seconds, **gpus}
        self._attempt = Attempt(order, result)
        self._tell({"kind": "ranks-started", **told, **result})
        _say(f"generation {order.generation}: started ranks {pids} in {seconds:.3f} s, {why or 'forked'}")
        return result

    def _launch(self, order: orders.Start, program: command.Program, warm: bool, told: records.Json) -> dict[int, int]:
        files = (self._lock_fd, *self._wake, self._journal.fileno(), self._epoll, self._door.listener)
        clients = (self._door.client,) if self._door.client is not None else ()
        settings = self._settings
        site = launch.Site(settings.job, settings.node, settings.home, self._base_env, files + clients)
        try:
            return launch.launch(order, program, warm, site, self._ranks)
        except launch.LaunchError as error:
            _say(str(error))
            self._tell({"kind": "start-failed", "rank": error.rank, "text": error.text, **told})
            self._ranks.ask(order.generation, time.monotonic())
            if not self._ranks:
                self._end_attempt(order)
            raise

    def _refuse(self, order: orders.Start) -> None:
        """Raise OrderError for a start that must not be."""
        if order.generation <= self.generation:
            raise orders.OrderError(
                f"start: generation {order.generation} is older than or the same as {self.generation}, which was "
                "started or stopped here already (older generation); a new attempt needs a higher one"
            )
        if self._ranks:
            alive = sorted(rank.rank for rank in self._ranks.live)
            raise orders.OrderError(f"start: ranks {alive} of generation {self.generation} still run; stop them first")
        if os.geteuid() == 0 and not self._settings.allow_root:
            raise orders.OrderError(
                "start: the keeper runs as root, and ranks are not run as root. Give the job a user, or start the "
                "agent with --allow-root"
            )
        if self._journal.full:
            raise orders.OrderError(f"start: {journal.EVENTS_MAX} events wait for an acknowledgement; take them first")
        if self._released or self._terminated:
            raise orders.OrderError("start: this keeper is about to leave; start a new one")

    def _environment_reason(self, order: orders.Start) -> str | None:
        env = environment.of_rank(
            order, order.ranks[0], self._settings.job, self._settings.node, self._settings.home, self._base_env
        )
        changed = environment.changed_since_import(env, os.environ)
        return f"{changed} differs from the one under which the keeper has imported" if changed else None

    def _raise_fence(self, generation: int) -> None:
        try:
            self.generation = max(self.generation, fence.raise_to(str(self._settings.home.fence), generation))
        except OSError as error:
            raise orders.OrderError(f"the fence {self._settings.home.fence} cannot be raised: {error}") from None

    def _stop(self, order: orders.Stop) -> records.Json:
        if order.generation < self.generation:
            raise orders.OrderError(f"stop: generation {order.generation} is older than {self.generation}")
        self._raise_fence(order.generation)  # a start of it that comes late is refused from now on
        # Whoever has died by now died by itself.
        self._take_ends([fd for fd, _ in self._epoll.poll(0, ranks.READY_MAX) if fd in self._ranks])
        return {"ranks": self._ranks.ask(order.generation, time.monotonic() + order.grace_s)}

    def _release(self) -> records.Json:
        if self._ranks:
            alive = sorted(rank.rank for rank in self._ranks.live)
            raise orders.OrderError(f"release: ranks {alive} still run; stop them first")
        self._released = True
        self._quiet_since = time.monotonic()
        return {}

    def _state(self) -> records.Json:
        order = self._attempt.order if self._attempt else None
        live = self._ranks.live
        shown = tuple(records.RankState(rank.rank, rank.local_rank, rank.pid, True) for rank in live)
        word = "running" if live else "ended" if order else "idle"
        if any(rank.asked for rank in live):
            word = "stopping"
        result = self._attempt.result if self._attempt else {}
        warm, gpus = bool(result.get("warm")), (result.get("visible_devices"), result.get("device_order"))
        attempt = order.attempt if order else -1
        state = records.KeeperState(self._settings.job, self.generation, attempt, word, warm, shown, *gpus)
        return dataclasses.asdict(state)

    # --- leaving ---------------------------------------------------------------------------------------------------

    def _timeout_s(self) -> float | None:
        now = time.monotonic()
        due = [at for at in (self._ranks.next_kill_at(), self._leaving_at()) if at is not None]
        if not self._ranks:
            due.append(now + max(self._settings.linger_s, LOOK_S))  # to see whether the socket is still there
        elif self._door.client is None:
            due.append(now + DOOR_LOOK_S)
        return max(0.0, min(due) - now) if due else None

    def _leaving_at(self) -> float | None:
        """When an idle keeper may leave, by the monotonic clock; None while it is needed."""
        if self._ranks:
            return None
        if self._terminated:
            return self._quiet_since  # what is unacknowledged is on disk for the next keeper
        alone_since = max(self._quiet_since, self._door.parted_at)
        alone_until = None if self._door.client is not None else alone_since + self._settings.linger_s
        if not self._journal.empty:
            # Without its socket nobody can come for them any more.
            return self._quiet_since + FAR_S if self._settings.home.socket.exists() else alone_until
        return self._quiet_since if self._released else alone_until

    def _may_leave(self) -> bool:
        at = self._leaving_at()
        return at is not None and time.monotonic() >= at

    def _leave(self) -> None:
        home = self._settings.home
        _say("leaving: nothing runs and nothing is waiting to be heard")
        self._door.flush()
        self._door.part()
        self._door.listener.close()
        gone = [home.socket, home.info]
        if self._released:
            gone += [home.journal, home.fence]
        for path in gone:
            path.unlink(missing_ok=True)

    def _terminate(self, number: int, frame: object) -> None:
        self._terminated = True  # the byte in the wake pipe brings the loop here next


def _standing(home: homes.Home) -> int:
    try:
        return fence.generation(str(home.fence))
    except (OSError, ValueError):
        return -1


def _repeats(order: orders.Start, before: orders.Start) -> bool:
    return order.generation == before.generation and order.ranks == before.ranks


def _same_interpreter(found: str) -> bool:
    """The very file, not what it links to: a virtual environment is told apart by its link alone."""
    return os.path.normpath(found) == os.path.normpath(sys.executable) or (
        os.path.dirname(os.path.abspath(found)) == os.path.dirname(os.path.abspath(sys.executable))
        and os.path.realpath(found) == os.path.realpath(sys.executable)
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} keeper: {text}", file=sys.stderr, flush=True)
