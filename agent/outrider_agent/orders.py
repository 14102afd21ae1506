"""Orders of the controller, carried out on this node through the job's keeper, each at most once.

In: wire.Order. Out: one wire.OrderResult each. A result is written down before it is sent, under the order's id, which
never changes: an order that comes again after a lost connection or a new agent is answered and not carried out again.
Between carrying out and writing down lies a moment in which an agent may die; there the keeper's generation decides
(it answers a start that it has made already with what runs).
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from outrider import clock as clock_module
from outrider import records, wire
from outrider_agent import (
    bounded,
    capture,
    captures,
    jobs,
    keeper_client,
    keepers,
    node_check,
    ports,
    pruning,
    spool,
    tasks,
    visible,
)
from outrider_agent import settings as settings_module
from outrider_agent.keeper import home
from outrider_agent.keeper import orders as keeper_orders
from outrider_agent.signals import job_log, ranks

log = logging.getLogger(__name__)

ORDERS_RUNNING_MAX: Final = 64
END_PATIENCE_S: Final = 30.0  # after SIGKILL; a process that the kernel holds longer (a dead disk) is a finding
T = TypeVar("T")
RELEASE_PATIENCE_S: Final = 8.0
LOG_SIZES_WITHIN_S: Final = 2.0
RESUME_MARK: Final = "{checkpoint}"


class OrderError(Exception):
    """An order that cannot be carried out; the message names the thing, the value and the way out."""


EXPECTED: Final = (
    OrderError,
    captures.CaptureError,
    ports.PortError,
    keeper_client.KeeperError,
    keepers.TooManyKeepersError,
    node_check.CheckError,
)


class Limits(msgspec.Struct, frozen=True):
    """A job's [limits], as far as a node needs them."""

    grace_s: float = 2.0
    memory_bytes: int = 0
    open_files: int = 0
    attempts_kept: int = 0  # a controller of an older release says nothing, and nothing is removed
    logs_bytes: int = 0


class Job(msgspec.Struct, frozen=True):
    """A job's document, as far as a node needs it; other keys pass."""

    name: str
    command: tuple[str, ...]
    ranks_per_node: int = 1
    env: dict[str, str] = {}
    preload: tuple[str, ...] = ("auto",)
    resume: tuple[str, ...] = ()
    user: str = ""
    cwd: str = ""
    log_dir: str = ""
    checkpoint_dir: str = ""
    max_restarts: int = 0
    limits: Limits = Limits()


class Prepare(msgspec.Struct, frozen=True):
    """Arguments of a prepare order."""

    spec: Job


class ReservePort(msgspec.Struct, frozen=True):
    """Arguments of a reserve-port order; 0 asks for any free port."""

    wanted: int = 0


class Start(msgspec.Struct, frozen=True):
    """Arguments of a start order: this node's share of one attempt."""

    spec: Job
    attempt: int
    world_size: int
    nnodes: int
    node_rank: int
    ranks: tuple[int, ...]
    master_addr: str
    master_port: int
    resume_path: str = ""
    fence: tuple[str, ...] = ()
    log_dir: str = ""
    keep_from: int | None = None  # the first attempt that an open incident may need; None for this one


class Stop(msgspec.Struct, frozen=True):
    """Arguments of a stop order."""

    grace_s: float = 2.0


class Capture(msgspec.Struct, frozen=True):
    """Arguments of a capture order; no ranks stands for all of the job here."""

    ranks: tuple[int, ...] = ()
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=capture.DEADLINE_S_MAX)] = capture.DEADLINE_S


class Orders:
    """Carries orders out, several at a time. ``answer`` takes each result; it may be lost on the way."""

    def __init__(
        self,
        settings: settings_module.Settings,
        runtime: Path,
        spool_: spool.Spool,
        keepers_: keepers.Keepers,
        board: ranks.Board,
        book: jobs.Book,
        clock: clock_module.Clock,
        answer: Callable[[wire.OrderResult], None],
        tell: Callable[[records.Observation], None],
        asked: Callable[[str, float], None],
        pruner: pruning.Pruner,
        devices: Callable[[], records.Json] = dict,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._spool = spool_
        self._keepers = keepers_
        self._board = board
        self._book = book
        self._clock = clock
        self._answer = answer
        self._ports = ports.Ports()
        look = capture.Capture(clock)
        self._captures = captures.Captures(settings.node, runtime, keepers_, book, look, asked, pruner)
        self._checker = node_check.Checker(settings, keepers_, clock, tell)
        self._pruner = pruner
        self._devices = devices
        self._threads = bounded.Threads()
        self._running = tasks.Tasks()
        self.carried_out = 0
        self.failed = 0

    def take(self, order: wire.Order) -> None:
        """Answer ``order`` from memory, or begin to carry it out; one that is under way already is left to end."""
        known = self._spool.order_result(order.order_id)
        if known is not None:
            self._answer(known)
        elif self._running.running(order.order_id):
            pass
        elif len(self._running) >= ORDERS_RUNNING_MAX:
            error = f"{self._settings.node} carries out {ORDERS_RUNNING_MAX} orders already; send it again later"
            self._answer(wire.OrderResult(order.order_id, False, error))
        else:
            self._running.start(order.order_id, self._carry_out(order))

    async def close(self) -> None:
        """Let go of what is under way: the next agent is sent the same orders."""
        await self._running.cancel()
        await self._pruner.close()

    async def _carry_out(self, order: wire.Order) -> None:
        about = {"job": order.job, "order": order.order_id, "kind": order.kind, "generation": order.generation}
        log.info("an order came", extra=about)
        try:
            result = wire.OrderResult(order.order_id, True, result=await self._do(order))
        except EXPECTED as error:
            result = wire.OrderResult(order.order_id, False, str(error))
        except Exception as error:
            log.exception("an order failed in an unforeseen way", extra=about)
            text = f"{order.kind} of job {order.job} on {self._settings.node} failed: {type(error).__name__}: {error}"
            result = wire.OrderResult(order.order_id, False, text)
        if not result.ok:
            self.failed += 1
            log.error("an order failed", extra={**about, "why": result.error})
        self.carried_out += 1
        self._spool.keep_order_result(result)
        self._answer(result)

    async def _do(self, order: wire.Order) -> dict[str, Any]:
        if not self._settings.supervise:
            raise OrderError(
                f"node {self._settings.node} only watches and takes no order ({order.kind} of job {order.job}); "
                "start its agent with --supervise"
            )
        if order.kind == "prepare":
            return await self._prepare(order, _args(order, Prepare))
        if order.kind == "reserve-port":
            port = self._ports.reserve(_args(order, ReservePort).wanted, self._clock.monotonic())
            return {"address": self._settings.address, "port": port}
        if order.kind == "start":
            return await self._start(order, _args(order, Start))
        if order.kind == "stop":
            return await self._stop(order, _args(order, Stop))
        if order.kind == "release":
            return await self._release(order)
        if order.kind == "capture":
            asked = _args(order, Capture)
            return await self._captures.carry_out(order, asked.ranks, asked.deadline_s)
        if order.kind == "check":
            return await self._checker.check(_args(order, node_check.Check))
        raise OrderError(f"{order.kind!r} is not an order; an agent takes {', '.join(wire.ORDER_KINDS)}")

    async def _prepare(self, order: wire.Order, args: Prepare) -> dict[str, Any]:
        job = self._checked(args.spec, order)
        held = await self._keepers.ensure(self._keeper_settings(job, self._logs(job), job.ranks_per_node))
        found = await held.keeper.prepare(keeper_orders.Prepare(job.command, job.cwd, job.preload))
        return {"warm": found.warm, "why_cold": found.why_cold}

    async def _start(self, order: wire.Order, args: Start) -> dict[str, Any]:
        job = self._checked(args.spec, order)
        free = self._settings.slots - self._keepers.living(besides=order.job)
        if len(args.ranks) > free:
            raise OrderError(
                f"node {self._settings.node} has room for {free} of its {self._settings.slots} ranks, "
                f"and job {order.job} wants {len(args.ranks)}; give the agent more --slots or place the job elsewhere"
            )
        if self._checker.busy:
            raise OrderError(f"node {self._settings.node} is being checked; job {order.job} can begin there after it")
        logs = self._logs(job, args.log_dir)
        held = await self._keepers.ensure(self._keeper_settings(job, logs, len(args.ranks)))
        runs = held.standing.generation == order.generation  # the order comes again, and ranks write already
        self._book.note(order.job, await self._places(order, args, logs, runs))
        undo = self._board.expect(order.job, order.generation, list(args.ranks))
        try:
            done = await held.keeper.start(self._keeper_start(order, args, jobs.attempt_folder(logs, args.attempt)))
        except keeper_client.KeeperError:
            undo()
            raise
        self._keepers.started(held, order.generation, args.attempt, done)
        limits, keep_from = job.limits, args.attempt if args.keep_from is None else args.keep_from
        self._pruner.begin(
            pruning.Current(order.job, order.generation, args.attempt, logs, job.user),
            pruning.Bounds(limits.attempts_kept, limits.logs_bytes, keep_from),
        )
        pids = {str(rank): pid for rank, pid in sorted(done.pids.items())}
        result = {"pids": pids, "warm": done.warm, "why_cold": done.why_cold, "seconds": done.seconds}
        names = visible.gpus(done.visible_devices, done.device_order, len(args.ranks), self._devices())
        return result if names is None else result | {"gpus": dict(zip(map(str, args.ranks), names, strict=True))}

    async def _stop(self, order: wire.Order, args: Stop) -> dict[str, Any]:
        began = self._clock.monotonic()
        held = await self._keepers.get(order.job)
        if held is None:
            return {"ranks": [], "seconds": 0.0}
        ranks_: list[int] = []
        try:
            if (await held.keeper.status()).generation > order.generation:
                return {"ranks": [], "seconds": 0.0}  # a newer attempt began, so nothing of this one is left
            ranks_ = sorted(await held.keeper.stop(order.generation, args.grace_s))
        except keeper_client.KeeperGone:
            log.info("the keeper went while its ranks were to be stopped", extra={"job": order.job})
        left = await self._keepers.wait_ended(held, order.generation, args.grace_s + END_PATIENCE_S)
        if left:
            raise OrderError(
                f"ranks {sorted(left)} of job {order.job} on {self._settings.node} still exist {END_PATIENCE_S:g} s "
                "after SIGKILL; the kernel holds them (see /proc/PID/stack), often for a dead disk or device"
            )
        return {"ranks": ranks_, "seconds": round(self._clock.monotonic() - began, 3)}

    async def _release(self, order: wire.Order) -> dict[str, Any]:
        held = await self._keepers.get(order.job)
        if held is None:
            self._book.forget(order.job)
            return {}
        if held.standing.living:
            everything = wire.Order(order.order_id, "stop", order.job, held.standing.generation)
            await self._stop(everything, Stop())
        try:
            async with asyncio.timeout(RELEASE_PATIENCE_S):
                await self._keepers.release(held)
        except TimeoutError as error:
            raise OrderError(
                f"the keeper of job {order.job} on {self._settings.node} has not left within {RELEASE_PATIENCE_S:g} s; "
                f"its log is {home.of(self._runtime, order.job).log}"
            ) from error
        self._book.forget(order.job)
        return {}

    def _checked(self, job: Job, order: wire.Order) -> Job:
        if job.name != order.job:
            raise OrderError(f"the order is for job {order.job}, and its document describes job {job.name}")
        if os.geteuid() == 0 and not job.user and not self._settings.allow_root:
            raise OrderError(
                f"job {order.job} would run as root on {self._settings.node}; "
                "name a user in the job file, or start the agent with --allow-root"
            )
        return job

    def _logs(self, job: Job, given: str = "") -> Path:
        """Where the job's logs lie, one folder an attempt below it."""
        state = self._settings.state
        return Path(job.cwd or state, given or job.log_dir or state / "logs" / job.name).absolute()

    async def _places(self, order: wire.Order, args: Start, logs: Path, runs: bool) -> jobs.Places:
        job, known = args.spec, self._book.of(order.job)
        checkpoints = str(Path(job.cwd or ".", job.checkpoint_dir).absolute()) if job.checkpoint_dir else ""
        places = jobs.Places(
            order.generation, str(logs), checkpoints, args.attempt, args.world_size, job.cwd or str(Path.cwd())
        )
        if runs and known is not None and known.generation == order.generation:
            return dataclasses.replace(places, log_sizes=known.log_sizes)
        try:
            measure = functools.partial(job_log.sizes, places, args.ranks)
            sizes = await self._threads.ask(f"logs of {order.job}", measure, LOG_SIZES_WITHIN_S)
        except bounded.CouldNotLook as error:
            log.warning("the logs of an attempt will not be followed", extra={"job": order.job, "why": error})
            return places
        return dataclasses.replace(places, log_sizes=sizes)

    def _keeper_settings(self, job: Job, logs: Path, ranks_: int) -> keeper_client.Settings:
        return keeper_client.Settings(
            job=job.name,
            node=self._settings.node,
            runtime=self._runtime,
            command=job.command,
            env=job.env,
            cwd=job.cwd,
            ranks=ranks_,
            user=job.user,
            allow_root=self._settings.allow_root,
            own=(logs,),
        )

    def _keeper_start(self, order: wire.Order, args: Start, log_dir: Path) -> keeper_orders.Start:
        job = args.spec
        resume = tuple(part.replace(RESUME_MARK, args.resume_path) for part in job.resume) if args.resume_path else ()
        return keeper_orders.Start(
            attempt=args.attempt,
            generation=order.generation,
            world_size=args.world_size,
            nnodes=args.nnodes,
            node_rank=args.node_rank,
            ranks=args.ranks,
            command=job.command + resume,
            log_dir=str(log_dir),
            env=job.env,
            cwd=job.cwd,
            master_addr=args.master_addr,
            master_port=args.master_port,
            resume_path=args.resume_path,
            fence=args.fence,
            marks=str(self._runtime / "marks.sock"),
            max_restarts=max(0, job.max_restarts),
            memory_bytes=job.limits.memory_bytes,
            open_files=job.limits.open_files,
            preload=job.preload,
        )


def _args(order: wire.Order, cls: type[T]) -> T:
    try:
        return msgspec.convert(order.args, cls, strict=True)
    except msgspec.ValidationError as error:
        raise OrderError(f"{order.kind} of job {order.job}: its arguments cannot be read: {error}") from error
