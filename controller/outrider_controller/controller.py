"""The controller's shell: takes what happened, lets the core decide, records, acts, and feeds the result back.

In: settings. Out: a running controller, standing (``standing``) or embedded in another program:

    controller = Controller(settings)
    await controller.start()
    await controller.submit_job(spec)
    job = await controller.wait_job(spec.name)
    await controller.stop()

Killed anywhere, it is rebuilt by ``evolve`` over its ledger; effects without a result are begun again under their ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from outrider import clock as clock_module
from outrider import places, version, wire
from outrider_controller import (
    codec,
    directory_lock,
    intake,
    integrity,
    logs,
    projection,
    runbook_files,
    runner,
    sentences,
    server,
)
from outrider_controller import documents as documents_module
from outrider_controller import effects as effects_module
from outrider_controller import ledger as ledgers
from outrider_controller import nodes as nodes_module
from outrider_controller import progress as progress_module
from outrider_controller import series as series_module
from outrider_controller import settings as settings_module
from outrider_controller import stalls as stalls_module
from outrider_controller import tokens as tokens_module
from outrider_controller import turns as turns_module
from outrider_controller.actions import webhook
from outrider_controller.core import jobs, placement, records, trust
from outrider_controller.core import state as states
from outrider_controller.intake import doors
from outrider_controller.launchers import agents, orders

SERIES_FLUSH_S: Final = 1.0
BEGIN_AGAIN_S: Final = 1.0
SPARES_WARMED_MAX: Final = 2
SPARES_EVERY_S_MIN: Final = 0.25
LAST_EFFECTS_S_MAX: Final = 30.0  # what a job that is over still owes: keepers let go, sinks told
RESUBMIT_S_MAX: Final = 15.0
FAILURES: Final = (
    places.PlaceError,
    settings_module.SettingsError,
    tokens_module.TokenError,
    ledgers.LedgerError,
    runbook_files.RunbookError,
    server.ServeError,
)

log = logging.getLogger(__name__)


class Controller:
    """One controller on one state directory. Everything is made by ``start`` and let go by ``stop``."""

    tokens: tokens_module.Tokens
    nodes: nodes_module.Nodes
    documents: documents_module.Documents

    def __init__(self, settings: settings_module.Settings, clock: clock_module.Clock | None = None) -> None:
        self._settings = settings
        self.clock = clock or clock_module.RealClock()
        self._progress = progress_module.Progress()
        self._opened = contextlib.AsyncExitStack()
        self._spares_due = asyncio.Event()
        self._started_at = 0.0
        self.url = ""  # where it listens

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything, recover, listen. Raises one of FAILURES with nothing left open."""
        settings_module.check(self._settings)
        self._started_at = self.clock.now()
        state = places.make_private(self._settings.state)
        try:
            self._open(state)
            self._recover()
            await self._listen(state)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let go of everything, last opened first; what is unfinished is taken up at the next start."""
        if hasattr(self, "nodes"):
            self.nodes.stopping = True
        await self._opened.aclose()

    def _open(self, state: Path) -> None:
        """Whatever has to be closed is put on the stack in the moment in which it is opened."""
        settings, clock, closing = self._settings, self.clock, self._opened.callback
        closing(directory_lock.DirectoryLock(state).release)
        closing(logs.leave, logs.to(state, settings.log_to_stderr))
        self.tokens = tokens_module.Tokens(state)
        self.tokens.prepare()
        policy = runbook_files.load(settings.runbooks or runbook_files.BUILT_IN)
        self._policy = dataclasses.replace(policy, check_before=settings.check_before)
        books = runbook_files.read(settings.runbooks or runbook_files.BUILT_IN)
        self._ledger, self._cuts = integrity.open_ledger(state / "ledger.db", clock.now())
        closing(self._ledger.close)
        self._series = series_module.Series(state / "series.db")
        closing(self._series.close)
        self._turns = turns_module.Turns(self._ledger, self._policy, self._after, clock)
        links = orders.Orders(clock)
        self._launcher = agents.AgentsLauncher(links, clock, self._ledger.id)
        self.nodes = nodes_module.Nodes(self._turns, self._progress, links, self._launcher, clock, settings.heartbeat_s)
        self._stalls = stalls_module.Stalls(self._turns, self._series, clock, self.nodes, settings.heartbeat_s)
        self.nodes.told = self._stalls.take
        self.documents = documents_module.Documents(
            self._ledger, self._turns, self._progress, self.nodes, self._series, clock, books
        )
        effects = effects_module.Effects(self._launcher, clock, self._ledger.id, self._sinks(), self.documents.incident)
        self._runner = runner.EffectRunner(effects, self._turns, clock, self.nodes.job_step)

    def _sinks(self) -> list[effects_module.Sink]:
        if not self._settings.webhook_url:
            return []
        secret = settings_module.webhook_secret(self._settings)
        return [webhook.Webhook(self._settings.webhook_url, self.clock, secret)]

    def _recover(self) -> None:
        self._turns.recover(self._cuts)
        for name in self._turns.state.jobs:
            if (last := self._series.latest(name)) is not None:
                self._progress.know(name, last.generation, last.step)
        for closing in (self._turns.close, self._launcher.close, self._runner.close):
            self._opened.push_async_callback(closing)
        self._stalls.recovered(self._turns.state)
        self._turns.start()
        resumed = self._runner.resume()
        self._spawn("timers", runner.Timers(self._turns, self.clock, self.nodes.job_step).run)
        self._spawn("check-history", self._turns.check_history)
        self._spawn("watch-nodes", self.nodes.watch)
        self._spawn("stalls", self._stalls.run)
        self._spawn("series", self._keep_series)
        self._spawn("warm-spares", self._warm_spares)
        log.info(
            "the controller has the state of its ledger",
            extra={"rows": self._turns.seq, "epoch": self.epoch, "effects_resumed": resumed, "pid": os.getpid()},
        )

    async def _listen(self, state: Path) -> None:
        door = server.Server(self._settings, intake.application(self))
        self._opened.push_async_callback(door.stop)
        await door.start()
        self.url = door.url
        about = self.about()
        found = {"url": self.url, "pid": os.getpid(), **{key: about[key] for key in ("controller_id", "started_at")}}
        self._opened.callback(server.withdraw, state, self.controller_id)
        server.announce(state, found)
        self._spawn("announce", lambda: server.keep_announced(state, found, self.clock))
        log.info("the controller listens", extra={"url": self.url})

    def _spawn(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(_kept_going(name, work, self.clock), name=name)
        self._opened.push_async_callback(_cancelled, task)

    # --- what follows a turn ------------------------------------------------------------------------------------------

    def _after(self, row: records.Row, conclusions: Sequence[records.Row]) -> None:
        text, fields = sentences.of_turn(row, conclusions)
        log.info("%s", text, extra=fields)
        if isinstance(row, records.EffectDone) and row.ok and "pids" in row.result:
            self._started(row)
        if isinstance(row, records.NodeJoined | records.EffectDone):
            self._spares_due.set()
        self._runner.begin(conclusions)

    def _started(self, row: records.EffectDone) -> None:
        """Processes of an attempt that has just begun, for those that will send no mark."""
        job = self._turns.state.jobs.get(row.job)
        if job is None or job.attempt is None:
            return
        each = job.spec.ranks_per_node
        for place, node in enumerate(job.attempt.placement):
            ranks = [
                (rank, rank % each, row.result["pids"][str(rank)])
                for rank in range(place * each, (place + 1) * each)
                if str(rank) in row.result["pids"]
            ]
            self._progress.processes(row.job, job.attempt.generation, node, ranks, row.at)

    async def _warm_spares(self) -> None:
        """Have a spare's keeper ready before it is needed, for ever: its imports are most of a restart."""
        while True:
            await self._spares_due.wait()
            self._spares_due.clear()
            self._prepare_spares()
            await self.clock.sleep(SPARES_EVERY_S_MIN)  # a thousand nodes that join at once are looked at together

    def _prepare_spares(self) -> None:
        state = self._turns.state
        for job in state.jobs.values():
            if job.over or job.attempt is None or job.attempt.running_at is None:
                continue
            spares = [name for name in placement.candidates(state, job) if name not in job.attempt.placement]
            self._launcher.prepare(f"{job.spec.name}-a{job.attempt.attempt}", job.spec, spares[:SPARES_WARMED_MAX])

    async def _keep_series(self) -> None:
        while True:
            await self.clock.sleep(SERIES_FLUSH_S)
            for name in list(self._turns.state.jobs):
                samples = [
                    series_module.Sample(
                        found.generation,
                        found.sample.step,
                        found.sample.at,
                        found.sample.loss,
                        found.sample.grad_norm,
                        found.sample.tokens,
                        found.step_s,
                    )
                    for found in self._progress.take_samples(name)
                ]
                if samples:
                    self._series.add(name, samples)

    # --- what people and programs ask ---------------------------------------------------------------------------------

    @property
    def state(self) -> states.State:
        """The state of this moment."""
        return self._turns.state

    @property
    def controller_id(self) -> str:
        """The ledger's id: the same for every controller that continues this history."""
        return self._ledger.id

    @property
    def epoch(self) -> int:
        """This controller's epoch."""
        return self._turns.epoch

    def version(self) -> str:
        """Version of Outrider."""
        return version.__version__

    def about(self) -> dict[str, Any]:
        """Versions and identity."""
        return {
            "version": self.version(),
            "protocol": wire.PROTOCOL,
            "protocol_oldest": wire.PROTOCOL_OLDEST,
            "controller_id": self.controller_id,
            "epoch": self.epoch,
            "started_at": projection.iso(self._started_at),
            "policy_hash": self._policy.hash,
        }

    def ailing(self) -> str:
        """Why the controller cannot do its work, empty while it can."""
        return self._turns.ailing

    def damage(self) -> str:
        """What is wrong with its past, empty where nothing is known to be."""
        return self._turns.damage

    async def submit_job(self, spec: jobs.JobSpec, by: str = "person") -> None:
        """Take a job. Raises ConflictError while one of that name is under way, LedgerError on a full disk.

        A job that would read differently once it is in the ledger (a limit of NaN) raises JobError.
        """
        if codec.job(jobs.document(spec)) != spec:
            raise jobs.JobError(
                f"job {spec.name}: has a value that JSON cannot carry, such as nan or inf, in its limits"
            )
        until = self.clock.monotonic() + RESUBMIT_S_MAX
        while (old := self.state.jobs.get(spec.name)) is not None:
            if not old.over:
                raise doors.ConflictError(
                    f"a job named {spec.name} is already {old.state}", "stop it first, or give this one another name"
                )
            if not self._runner.binds(spec.name):
                break
            if self.clock.monotonic() > until:
                raise doors.ConflictError(
                    f"the former job {spec.name} still lets its nodes go", "send the job again in a moment"
                )
            await self.clock.sleep(0.05)
        self._progress.forget(spec.name)
        self._stalls.forget(spec.name)
        await self._turns.submit((records.JobSubmitted(self.clock.now(), spec.name, jobs.document(spec), by),))

    async def ask_job(self, job: str, verb: str, by: str = "person") -> None:
        """Stop, hold, approve or reject a job. Raises UnknownError, ConflictError, LedgerError."""
        self.documents.known(job)
        found = self.state.jobs[job]
        if found.over:
            raise doors.ConflictError(f"job {job} has {found.state} already", "there is nothing left to ask of it")
        if verb in ("approve", "reject") and found.state != "held":
            raise doors.ConflictError(
                f"job {job} is {found.state}, not held",
                f"{verb} answers a job that waits for a person; hold or stop it",
            )
        await self._turns.submit(
            (records.PersonAsked(self.clock.now(), job, verb, by, job_step=self.nodes.job_step(job)),)
        )

    async def ask_node(self, node: str, verb: str, by: str = "person") -> None:
        """Cordon or uncordon a node. Raises UnknownError, LedgerError."""
        if node not in self.state.nodes:
            names = ", ".join(sorted(self.state.nodes)[:20]) or "none yet"
            raise documents_module.UnknownError(f"node {node!r} is unknown; the nodes are: {names}")
        await self._turns.submit((records.PersonAsked(self.clock.now(), "", verb, by, node),))

    async def wait_job(self, name: str) -> states.JobState:
        """Wait until the job is over and nothing is owed to it any more; its last state."""
        while not self.state.jobs[name].over:
            await self._wait_change()
        try:
            async with asyncio.timeout(LAST_EFFECTS_S_MAX):
                while any(effect.name not in trust.ASIDE for effect in self.state.jobs[name].pending):
                    await self._wait_change()
        except TimeoutError:
            log.warning("a job is over and some of its effects are not", extra={"job": name})
        return self.state.jobs[name]

    async def _wait_change(self) -> None:
        if self._turns.stopped is not None:
            raise self._turns.stopped
        await self._turns.changed()

    def status(self, name: str) -> dict[str, Any]:
        """The document of ``outrider status``."""
        return self.documents.status(name)

    async def incidents(self, name: str) -> list[dict[str, Any]]:
        """The documents of ``outrider incidents``."""
        return await self.documents.incidents(name)

    async def report(self, name: str) -> dict[str, Any]:
        """The document of ``outrider report``."""
        return await self.documents.report(name)

    async def wait_stopped(self) -> Exception:
        """Wait until this controller can do nothing more: another one has taken over."""
        while self._turns.stopped is None:
            await self._turns.changed()
        return self._turns.stopped


async def _kept_going(name: str, work: Callable[[], Coroutine[Any, Any, None]], clock: clock_module.Clock) -> None:
    """A background task for as long as the controller lives; one that fails is told of and begun again."""
    while True:
        try:
            await work()
            return
        except Exception:
            log.exception("a background task failed and begins again", extra={"task": name})
            await clock.sleep(BEGIN_AGAIN_S)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
