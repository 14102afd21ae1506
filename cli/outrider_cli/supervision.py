"""One job on this machine from its start to its end: an embedded controller, simulated hosts, and what a person sees.

Flow: a plan -> controller and agents -> the job's status every TICK_S -> the ranks' output, a progress line, and a
sentence for each incident -> the outcome. The ranks belong to their keepers, not to this process: when it is killed
they train on, and the same command line on the same state directory takes the job up again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outrider import vocabulary
from outrider_agent.nvml import presence
from outrider_cli import errors, local_cluster, progress_line, rank_output, unfinished, views
from outrider_controller import controller as controllers
from outrider_controller import ledger
from outrider_controller import settings as settings_module
from outrider_controller.core import jobs, known, records

TICK_S: Final = 0.2
GIVE_UP_S_MAX: Final = 30.0
JOIN_S_MAX: Final = 20.0
SENTENCE_CHARS_MAX: Final = 300  # a sentence may quote what a library printed; explain shows all of it
EXIT_SIGNALLED: Final = 128  # and the signal's number: 130 for Ctrl-C

Json = dict[str, Any]
Hook = Callable[["Supervision", Json], Awaitable[None]]
Ending = Callable[["Supervision", "Outcome"], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Plan:
    """What to supervise and how. ``shown``: ranks whose output is shown; empty for none."""

    spec: jobs.JobSpec
    state: Path
    spares: int = 0
    shown: tuple[int, ...] = (0,)
    runbooks: Path | None = None
    webhook: str = ""
    webhook_secret_file: Path | None = None
    agent_options: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # by node

    def hosts(self) -> list[local_cluster.Host]:
        """The hosts, spares last. A single one on a machine with GPUs is that machine, and its agent watches them."""
        count = self.spec.nodes + self.spares
        simulated = count > 1 or not _gpus()
        names = [f"n{index}" for index in range(count)]
        each = self.spec.ranks_per_node
        return [local_cluster.Host(name, each, self.agent_options.get(name, ()), simulated) for name in names]


@dataclass(frozen=True)
class Outcome:
    """How it ended. ``code``: the exit status."""

    code: int
    state: str
    sentence: str
    mesh: str | None
    report: Json


class Supervision:
    """The parts of one run, while it runs. ``hook`` is called with every status.

    ``ending`` is called once the job is over, while the controller still answers; a signal cancels it.
    """

    def __init__(self, plan: Plan, hook: Hook | None = None, ending: Ending | None = None) -> None:
        self.plan = plan
        self.line = progress_line.ProgressLine(sys.stderr)
        self.cluster = local_cluster.LocalCluster(plan.state, plan.hosts(), plan.spec.nodes, self.say, self._placement)
        self.incidents: list[Json] = []
        self._hook = hook
        self._ending = ending
        self._ending_now: asyncio.Task[None] | None = None
        self._stop_asked: list[signal.Signals] = []
        self._cold_told = 0  # number of the ledger's row up to which cold starts have been told
        self._hand_over = False  # another controller has taken over, and with it hosts and ranks
        self._controller = controllers.Controller(
            settings_module.Settings(
                state=plan.state,
                port=0,
                runbooks=plan.runbooks,
                webhook_url=plan.webhook,
                webhook_secret_file=plan.webhook_secret_file,
                log_to_stderr=False,
            )
        )
        self._began_at = self._controller.clock.now()
        self._output = self._rank_output(first=0)

    def _placement(self) -> tuple[str, ...]:
        job = self._controller.state.jobs.get(self.plan.spec.name)
        return job.attempt.placement if job is not None and job.attempt is not None and not job.over else ()

    def say(self, sentence: str) -> None:
        """A sentence on standard error."""
        self.line.say(f"outrider: {sentence}")

    async def run(self) -> Outcome:
        """Everything; whatever happens, what was started here is ended."""
        found = unfinished.look(self.plan.state, self.plan.spec)
        try:
            await self._controller.start()
        except controllers.FAILURES as error:
            raise errors.CommandError(str(error)) from error
        left: list[int] = []
        try:
            self._listen_for_signals()
            await self._begin(found)
            if self._stop_asked and self.plan.spec.name not in self._controller.state.jobs:
                return self._never_begun()
            return await self._end(await self._until_over())
        except ledger.LedgerError as error:  # on a disk that is full or gone
            raise errors.CommandError(str(error)) from error
        finally:
            self.line.clear()
            if not self._hand_over:
                left = await asyncio.to_thread(self.cluster.close, len(self._stop_asked) > 1)
            await self._controller.stop()
            if left:
                self.say(f"these processes could not be ended: {', '.join(map(str, left))}")

    async def _begin(self, found: unfinished.Found) -> None:
        name = self.plan.spec.name
        for host in self.plan.hosts():
            self._controller.tokens.make_node(host.node)
        self.cluster.start()
        await self._hosts_have_joined()
        for other in found.give_up:
            self.say(f"job {other} was left unfinished by an earlier run: it is ended")
            if self._controller.state.jobs[other].incident is None:
                await self._controller.ask_job(other, "stop", "outrider run")
            async with asyncio.timeout(GIVE_UP_S_MAX):
                await self._controller.wait_job(other)
        job = self._controller.state.jobs.get(name)
        if job is not None:  # what was over before is no news
            self.incidents = [item for item in await self._controller.incidents(name) if item["closed_at"]]
        if found.adopt and job is not None and job.attempt is not None:
            self.say(f"job {name} is unfinished on {self.plan.state}: it is taken up again, not started twice")
            self._output = self._rank_output(job.attempt.attempt)
            self._output.skip_what_is_there()
        if not found.adopt and not self._stop_asked:
            self._output = self._rank_output(job.attempts if job else 0)
            await self._controller.submit_job(self.plan.spec, "outrider run")
            if self._stop_asked:  # while it was being taken
                await self._stop()

    def _rank_output(self, first: int) -> rank_output.RankOutput:
        spec = self.plan.spec
        log_dir = Path(spec.log_dir) if spec.log_dir else self.plan.state / "logs" / spec.name
        return rank_output.RankOutput(log_dir, self.plan.shown, sys.stdout, first, self.line.clear)

    async def _hosts_have_joined(self) -> None:
        """Wait for every host, so that the first of them get the ranks and the last are the spares."""
        names = [host.node for host in self.plan.hosts()]
        for _ in range(int(JOIN_S_MAX / TICK_S)):
            known = self._controller.state.nodes
            if self._stop_asked or all(name in known and known[name].usable for name in names):
                return
            self.cluster.look()
            await asyncio.sleep(TICK_S)
        raise errors.CommandError(self.cluster.why_absent())

    async def _until_over(self) -> Outcome:
        watch = asyncio.create_task(self.cluster.watch(), name="watch-hosts")
        stopped = asyncio.create_task(self._controller.wait_stopped(), name="controller-stopped")
        over = asyncio.create_task(self._controller.wait_job(self.plan.spec.name), name="job-over")
        follow = asyncio.create_task(self._follow(), name="follow")
        try:
            await asyncio.wait((watch, stopped, over, follow), return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                return await self._outcome()
            if stopped.done():
                self._hand_over = True
                raise errors.CommandError(f"{stopped.result()}; the ranks are left to it")
            for part in (watch, follow):
                if part.done():
                    part.result()
            raise errors.CommandError("the supervision ended before the job did")
        finally:
            for task in (watch, stopped, over, follow):
                task.cancel()
            await asyncio.gather(watch, stopped, over, follow, return_exceptions=True)

    async def _end(self, outcome: Outcome) -> Outcome:
        if self._stop_asked:
            return outcome
        self._ending_now = asyncio.create_task(self._after(outcome), name="ending")
        try:
            await self._ending_now
        except asyncio.CancelledError:
            if not self._stop_asked:
                raise
            if self._ending is None:
                return outcome  # the job had completed before, and that is what the status tells
            return dataclasses.replace(outcome, code=EXIT_SIGNALLED + self._stop_asked[0])
        return outcome

    async def _after(self, outcome: Outcome) -> None:
        if outcome.state == "completed":
            await self._last_checkpoint()
        if self._ending is not None:
            await self._ending(self, outcome)

    async def _last_checkpoint(self) -> None:
        """The last checkpoint is what the job was trained for: wait for its verdict, within the job's own limit."""
        name, told = self.plan.spec.name, False
        end = self._controller.clock.monotonic() + self.plan.spec.limits.verify_s
        while any(e.name == "verify-checkpoint" for e in self._controller.state.jobs[name].pending):
            if not told:
                self.say("the job is complete; its last checkpoint is being verified (Ctrl-C: leave it unverified)")
                told = True
            if self._controller.clock.monotonic() > end:
                break
            await asyncio.sleep(TICK_S)
        last = next(iter(self._controller.state.jobs[name].checkpoints), None)
        if last is not None and last.trust == vocabulary.REJECTED:
            self.say(f"the last checkpoint (step {last.step}) is damaged: {known.words(last.problems)}; {last.path}")
        elif last is not None and (told or not last.trusted):
            trust = last.trust if last.tried and last.trusted else "not verified; see outrider checkpoint verify"
            self.say(f"the last checkpoint (step {last.step}): {trust}")

    def door(self) -> tuple[str, str]:
        """Where the controller answers, and the token to read with."""
        return self._controller.url, self._controller.tokens.file("read").read_text(encoding="ascii").strip()

    def trust_in(self, checkpoint: Path) -> str:
        """How far the job trusts a checkpoint, a word of vocabulary.TRUST or rejected; empty where nothing is known."""
        found = known.checkpoint(self._controller.state.jobs[self.plan.spec.name], str(checkpoint))
        return found.trust if found is not None else ""

    async def _follow(self) -> None:
        told: tuple[object, ...] = ()
        ran: float | None = None
        while True:
            status = self._controller.status(self.plan.spec.name)
            self._output.poll(status["attempt"])
            # Their documents are made of the whole ledger, so they are asked for only when there is news.
            if (news := self._news()) != told:
                await self._tell_incidents()
                told = news
            attempt = self._controller.state.jobs[self.plan.spec.name].attempt
            if attempt is not None and attempt.running_at != ran:
                await self._tell_cold_starts()
                ran = attempt.running_at
            self.line.show(_progress(status))
            if self._hook is not None:
                await self._hook(self, status)
            await asyncio.sleep(TICK_S)

    async def _tell_cold_starts(self) -> None:
        """Why ranks were not forked from the keeper: it is most of a slow restart, and often easily mended."""
        path, name = self.plan.state / "ledger.db", self.plan.spec.name
        rows = await asyncio.to_thread(lambda: list(ledger.read(path, self._cold_told, name)))
        for self._cold_told, row in rows:
            if isinstance(row, records.EffectDone) and row.at >= self._began_at and (why := row.result.get("why_cold")):
                self.say(f"the ranks start cold, each importing everything anew: {why}")

    def _news(self) -> tuple[object, ...]:
        """Changes whenever the job's incidents have something new to tell."""
        job = self._controller.state.jobs[self.plan.spec.name]
        open_one = job.incident
        return (job.incidents, open_one and (open_one.diagnosis, open_one.decision, job.state))

    async def _tell_incidents(self) -> None:
        known = {item["id"]: item for item in self.incidents}
        self.incidents = await self._controller.incidents(self.plan.spec.name)
        for item in self.incidents:
            before = known.get(item["id"])
            if before is None or before["sentence"] != item["sentence"] or before["closed_at"] != item["closed_at"]:
                word = "closed" if item["closed_at"] else "open"
                sentence = textwrap.shorten(item["sentence"], SENTENCE_CHARS_MAX, placeholder=" ...")
                self.say(f"incident {item['id']} ({word}): {sentence}")

    async def _outcome(self) -> Outcome:
        name = self.plan.spec.name
        job = self._controller.state.jobs[name]
        status, report = self._controller.status(name), await self._controller.report(name)
        self._output.poll(status["attempt"])
        self._output.flush()
        await self._tell_incidents()
        await self._tell_cold_starts()
        code = vocabulary.EXIT_DONE if job.state == "completed" else vocabulary.EXIT_NO_RESTART_HELPS
        if self._stop_asked:
            code = EXIT_SIGNALLED + self._stop_asked[0]
        elif job.state == "failed" and not await asyncio.to_thread(_ever_ran, self.plan.state / "ledger.db", name):
            code = vocabulary.EXIT_COULD_NOT
        return Outcome(code, job.state, status["sentence"], status["mesh"], report)

    def _never_begun(self) -> Outcome:
        code = EXIT_SIGNALLED + self._stop_asked[0]
        sentence = f"{self.plan.spec.name} was not begun"
        return Outcome(code, "failed", sentence, self.plan.spec.mesh or None, {"elapsed_s": 0.0, "incidents": []})

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: signal.Signals) -> None:
        self._stop_asked.append(number)
        if self._ending_now is not None and not self._ending_now.done() and len(self._stop_asked) == 1:
            self._ending_now.cancel()  # there is nothing left to stop
            return
        if len(self._stop_asked) > 1:
            self.say("asked again: ending the ranks at once")
            self.cluster.close(at_once=True)
            os._exit(EXIT_SIGNALLED + number)
        self.say(f"{number.name}: stopping the ranks; once more ends them at once")
        asyncio.get_running_loop().create_task(self._stop(), name="stop-job")

    async def _stop(self) -> None:
        name = self.plan.spec.name
        job = self._controller.state.jobs.get(name)
        if job is not None and not job.over and not unfinished.being_stopped(job):
            await self._controller.ask_job(name, "stop", f"a person ({self._stop_asked[0].name})")


def _gpus(sysfs: Path = Path("/sys")) -> bool:
    """Whether this machine has NVIDIA GPUs; one that cannot be looked at counts as one without."""
    try:
        return bool(presence.pci(sysfs)[0])
    except OSError:
        return False


def _ever_ran(path: Path, name: str) -> bool:
    """Whether any attempt of the job's latest life had all of its ranks running."""
    started: set[str] = set()
    ran = False
    for _, row in ledger.read(path, job=name):
        if isinstance(row, records.JobSubmitted):
            ran = False
        elif isinstance(row, records.EffectRequested) and row.name == "start-attempt":
            started.add(row.effect)
        elif isinstance(row, records.EffectDone) and row.ok and row.effect in started:
            ran = True
    return ran


def _progress(status: Json) -> str:
    """``training  step 12  0.41 s/step  attempt 1``."""
    words = [status["state"]]
    if status["step"] is not None:
        words.append(f"step {status['step']}")
    if status["step_s"] is not None:
        words.append(f"{status['step_s']:.2f} s/step")
    if status["attempt"] is not None:
        words.append(f"attempt {status['attempt']}")
    if status["open_incident"]:
        words.append(f"incident {status['open_incident']}")
    return "  ".join(words)


def run(plan: Plan) -> Outcome:
    """Supervise ``plan`` to its end, and say in one sentence how it ended."""
    supervision = Supervision(plan)
    outcome = asyncio.run(supervision.run())
    seconds = views.duration(outcome.report["elapsed_s"])
    supervision.say(f"{outcome.sentence} ({seconds}, {len(outcome.report['incidents'])} incidents)")
    return outcome
