"""The controller's end of every agent: who is connected, what they say, and who has fallen silent.

In: messages of agents that have shown their token. Out: facts for the core (joined, silent, observed, and the edges
of a job's progress), acknowledgements once the ledger has them, samples for the series store. Heartbeats and marks
never reach the core; they move the picture that ``progress`` keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from outrider import clock as clock_module
from outrider import findings as standing
from outrider import records as spoken
from outrider import wire
from outrider_controller import ledger as ledgers
from outrider_controller import progress as progress_module
from outrider_controller import turns as turns_module
from outrider_controller.core import health, records
from outrider_controller.core import state as states
from outrider_controller.launchers import agents, orders

HEARTBEATS_MISSED_MAX: Final = 3
OF_THE_NODE: Final = frozenset({"disk-full", "disk-clear"})  # they concern the job there, whoever they name
AGENTS_OWN: Final = frozenset({"marks-refused", "spool-damaged"})  # they concern the agent, and nothing ends them
FINDING_SHOWN_S_MAX: Final = 600.0  # what nothing ends says nothing about now after so long; the ledger has it
TEXT_CHARS_MAX: Final = 500
WATCHES_PER_HEARTBEAT: Final = 4
JOIN_S_MAX: Final = 30.0  # from hello to welcome; the ledger and a busy machine lie between
UNRECORDED_MAX: Final = 256  # frames of one node that wait for the disk

# Who is handed what ranks say of themselves: job, generation, where they stand.
Told = Callable[[str, int, Sequence[spoken.RankProgress]], None]

log = logging.getLogger(__name__)


class FrameError(ValueError):
    """A message that reads well and cannot be true; the connection ends."""


class Nodes:
    """All agents of a controller."""

    def __init__(
        self,
        turns: turns_module.Turns,
        progress: progress_module.Progress,
        links: orders.Orders,
        launcher: agents.AgentsLauncher,
        clock: clock_module.Clock,
        heartbeat_s: float,
    ) -> None:
        self._turns = turns
        self._progress = progress
        self._links = links
        self._launcher = launcher
        self._clock = clock
        self._began = clock.now()
        self._began_monotonic = clock.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._joining: dict[str, float] = {}  # node that has said hello and is not connected -> since when, monotonic
        self.stopping = False  # connections that we end ourselves are no silence
        self._telling: set[str] = set()  # jobs whose edges are on their way to the ledger
        self.heartbeat_s = heartbeat_s
        self._findings: dict[str, standing.Standing] = {}  # node -> what it saw of itself
        self.versions: dict[str, str] = {}
        self.told: Told = lambda job, generation, ranks: None

    async def join(self, hello: wire.Hello) -> int:
        """Record that a node is there; the number up to which its spool is in the ledger. Raises LedgerError."""
        self._joining[hello.node] = self._clock.monotonic()
        self._links.expect(hello.node)
        joined = records.NodeJoined(
            self._clock.now(),
            hello.node,
            hello.boot_id,
            hello.address,
            hello.slots,
            hello.supervises,
            hello.simulated,
            hello.keepers,
            self._job_steps(),
            tuple(seen for seen in _own(hello) if _of_hardware(seen) and seen.severity in health.GRAVE),
        )
        await self._turns.submit((joined,))
        self.versions[hello.node] = hello.version
        self._know_findings(hello)
        self._processes(hello)
        return await self._turns.know_acked(hello.node, hello.spool_id)

    def link(self, node: str) -> orders.Link | None:
        """The node's open connection."""
        return self._links.links.get(node)

    def connect(self, hello: wire.Hello) -> orders.Link:
        """The node has been welcomed: it takes orders now. What it holds of the past ends."""
        link = orders.Link(hello, self._clock.monotonic())
        former = self._links.links.get(link.hello.node)
        self._links.add(link)
        self._joining.pop(link.hello.node, None)
        if former is not None:
            former.close("a newer connection of the same node has taken its place")
        for keeper in link.hello.keepers:
            self._end_stale(link.hello.node, keeper)
        return link

    async def leave(self, link: orders.Link) -> None:
        """A connection ended."""
        if not self._links.remove(link) or self.stopping or self._turns.stopped is not None:
            return
        since = self._clock.now() - (self._clock.monotonic() - link.heard)
        await self._silent(link.hello.node, since, link.why or "its connection ended")

    async def take(self, link: orders.Link, message: wire.FromAgent) -> None:
        """One message of a welcomed agent; raises FrameError for what cannot be true, LedgerError for a full disk."""
        link.heard = self._clock.monotonic()
        node, now = link.hello.node, self._clock.now()
        match message:
            case wire.Observations():
                await self._observations(link, message)
            case wire.OrderResult():
                self._links.answer(node, message)
            case wire.Heartbeat():
                self._hand_on(message.ranks)
                await self._note(self._progress.heartbeat(node, message, self._turns.state, now))
                for job in sorted({rank.job for rank in message.ranks}):
                    await self._tell_edges(job)
            case wire.Marks():
                self._hand_on(message.ranks)
                await self._note(self._progress.marks(node, message, self._turns.state, now))
                await self._tell_edges(message.job)
            case _:
                raise FrameError("a second hello on one connection")

    def _hand_on(self, ranks: tuple[spoken.RankProgress, ...]) -> None:
        """Tell the watch over silence what ranks say of themselves."""
        by_attempt: dict[tuple[str, int], list[spoken.RankProgress]] = {}
        for rank in ranks:
            by_attempt.setdefault((rank.job, rank.generation), []).append(rank)
        for (job, generation), found in by_attempt.items():
            self.told(job, generation, found)

    def heard_s(self, node: str) -> float | None:
        """Seconds since the agent of a node was heard, None while it is not connected."""
        link = self._links.links.get(node)
        return None if link is None else self._clock.monotonic() - link.heard

    async def watch(self) -> None:
        """Find nodes that have stopped talking, for ever."""
        while True:
            await self._clock.sleep(self.heartbeat_s / WATCHES_PER_HEARTBEAT)
            patience_s = self.heartbeat_s * HEARTBEATS_MISSED_MAX
            now = self._clock.monotonic()
            for link in list(self._links.links.values()):
                if now - link.heard > patience_s:
                    link.close(f"no word for {now - link.heard:.1f} s")
            if now - self._began_monotonic > patience_s and self._turns.stopped is None:
                await self._never_returned()

    def _job_steps(self) -> records.Json:
        steps = {name: self.job_step(name) for name, job in self._turns.state.jobs.items() if not job.over}
        return {name: step for name, step in steps.items() if step is not None}

    def job_step(self, job: str) -> int | None:
        """Newest step that the job's current attempt is known to have finished."""
        found, state = self._progress.of(job), self._turns.state.jobs.get(job)
        current = state is not None and state.attempt is not None and state.attempt.generation == found.generation
        return found.newest_step if current else None

    def _processes(self, hello: wire.Hello) -> None:
        for keeper in hello.keepers:
            job = self._turns.state.jobs.get(keeper.job)
            if job is not None and job.attempt is not None and job.attempt.generation == keeper.generation:
                ranks = [(rank.rank, rank.local_rank, rank.pid) for rank in keeper.ranks if rank.alive]
                self._progress.processes(keeper.job, keeper.generation, hello.node, ranks, self._clock.now())

    async def _never_returned(self) -> None:
        """Nodes that the ledger calls connected and that have not come back since this controller began."""
        for node in list(self._turns.state.nodes.values()):
            if node.silent_since is None and not self._here(node.node):
                since = max(self._began, node.joined_at)
                await self._silent(node.node, since, "it has not come back since the controller started")

    async def _silent(self, node: str, since: float, why: str) -> None:
        log.info("a node is not heard", extra={"node": node, "why": why})
        try:
            await self._turns.submit_made(lambda state: self._silence_of(state, node, since))
        except (ledgers.LedgerError, turns_module.StoppedError) as error:
            log.warning("a silence could not be recorded", extra={"node": node, "why": error})

    def _silence_of(self, state: states.State, node: str, since: float) -> list[records.Row]:
        known = state.nodes.get(node)
        if self._here(node) or known is None or known.silent_since is not None:
            return []
        return [records.NodeSilent(self._clock.now(), node, since, self._job_steps())]

    def _here(self, node: str) -> bool:
        """Connected, or about to be: a silence that was written between a node's hello and its welcome would stay."""
        since = self._joining.get(node)
        joining = since is not None and self._clock.monotonic() - since < JOIN_S_MAX
        return joining or node in self._links.links

    async def _observations(self, link: orders.Link, message: wire.Observations) -> None:
        _check(link.hello.node, message.items)
        if len(link.unrecorded) >= UNRECORDED_MAX:
            link.close("more observations came than can wait for the disk; they are sent again")
        elif link.unrecorded:  # an acknowledgement speaks for all before it, so their order is kept
            link.unrecorded.append(message)
        else:
            try:
                await self._record(link, message)
            except ledgers.UnwritableError:
                link.unrecorded.append(message)
                self._later(self._record_later(link))

    async def _record(self, link: orders.Link, message: wire.Observations) -> None:
        """Have a node's observations in the ledger, and only then acknowledge them."""
        node, spool_id = link.hello.node, link.hello.spool_id
        if message.items:
            acked = ledgers.Acked(node, spool_id, message.items[-1].seq)
            await self._turns.submit_made(lambda state: self._fresh(state, spool_id, message.items), (acked,))
        link.send(wire.Ack(self._turns.acked(node, spool_id)))

    async def _record_later(self, link: orders.Link) -> None:
        """Offer what the disk did not take again, until it does or the connection ends: the agent still has it."""
        while link.unrecorded and self._links.links.get(link.hello.node) is link and not self.stopping:
            await self._clock.sleep(turns_module.TRY_AGAIN_S)
            try:
                while link.unrecorded:
                    await self._record(link, link.unrecorded[0])
                    link.unrecorded.popleft()
            except ledgers.UnwritableError:
                continue
            except (ledgers.LedgerError, turns_module.StoppedError):
                return

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="record-later")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fresh(self, state: states.State, spool_id: str, items: tuple[spoken.Observation, ...]) -> list[records.Row]:
        """Rows of the observations that the ledger does not have yet, whichever connection brought them first.

        What marks told before goes before them: after the end of its last rank a job takes no news any more.
        """
        fresh = [seen for seen in items if seen.seq > self._turns.acked(seen.node, spool_id)]
        jobs = sorted({seen.job for seen in fresh if seen.job is not None})
        return [row for job in jobs for row in self._edges(state, job)] + [self._row(seen) for seen in fresh]

    def _row(self, seen: spoken.Observation) -> records.Row:
        now = self._clock.now()
        named = self._turns.state.jobs.get(seen.job or "")
        of_the_node = seen.kind in OF_THE_NODE
        if named is None or of_the_node:
            self._findings.setdefault(seen.node, standing.Standing()).take(seen)
        if seen.job is not None and named is not None and not (of_the_node and named.over):
            found = self._progress.of(seen.job)
            return records.Observed(now, seen.job, seen, self._step_with(seen), found.step_s)
        if of_the_node and (job := self._job_on(seen.node)):
            return records.Observed(now, job, seen, self.job_step(job), self._progress.of(job).step_s)
        if _of_hardware(seen) and self._bears(seen):
            all_ = {name: self._progress.of(name).step_s for name in self._on(seen.node)}
            paces = {name: step_s for name, step_s in all_.items() if step_s is not None}
            return records.NodeFound(now, seen.node, seen, self._job_steps(), paces)
        about = f" (job {seen.job} is {'over' if named else 'unknown here'})" if seen.job else ""
        text = f"node {seen.node} saw {seen.kind}: {seen.text}{about}"
        return records.Noted(now, seen.job or "", text[:TEXT_CHARS_MAX])

    def _bears(self, seen: spoken.Observation) -> bool:
        """Whether a finding may change a decision: it is grave, or it changes one that was."""
        node = self._turns.state.nodes.get(seen.node)
        standing_ = [item.seen for item in node.findings if item.over_at is None] if node is not None else []
        known = {(one.kind, one.device) for one in standing_}
        return seen.severity in health.GRAVE or (seen.kind, seen.device) in known

    def _on(self, node: str) -> list[str]:
        jobs = self._turns.state.jobs.items()
        return [n for n, j in jobs if not j.over and j.attempt is not None and node in j.attempt.placement]

    def _know_findings(self, hello: wire.Hello) -> None:
        """The agent knows best what is not over; what came of jobs on its node stays as it was."""
        former = self._findings.get(hello.node, standing.Standing()).all()
        own = _own(hello)
        self._findings[hello.node] = standing.Standing([*(seen for seen in former if not _of_hardware(seen)), *own])

    def _job_on(self, node: str) -> str | None:
        """The live job whose ranks are placed on a node: whatever ails the node concerns it."""
        return next(iter(self._on(node)), None)

    def _step_with(self, seen: spoken.Observation) -> int | None:
        """The job's newest step, also by what the dead rank itself had finished: its last mark may be on its way."""
        job = self._turns.state.jobs[seen.job or ""]
        step = seen.evidence.get("step")
        if job.attempt is not None and seen.generation == job.attempt.generation and isinstance(step, int):
            self._progress.know(seen.job or "", job.attempt.generation, step)
        return self.job_step(seen.job or "")

    async def _note(self, rows: list[records.Row]) -> None:
        if rows:
            with contextlib.suppress(ledgers.UnwritableError):  # they are notes
                await self._turns.submit(rows)

    async def _tell_edges(self, name: str) -> None:
        """Record what the job's state does not show yet; once at a time, since every turn brings it up to date."""
        job = self._turns.state.jobs.get(name)
        if name in self._telling or job is None or not self._progress.edges(name, job, self._clock.now()):
            return
        self._telling.add(name)
        try:
            await self._turns.submit_made(lambda state: self._edges(state, name))
        except ledgers.UnwritableError:
            pass  # the next mark or heartbeat finds the same edges
        finally:
            self._telling.discard(name)

    def _edges(self, state: states.State, name: str) -> list[records.Row]:
        job = state.jobs.get(name)
        return list(self._progress.edges(name, job, self._clock.now())) if job is not None else []

    def _end_stale(self, node: str, keeper: spoken.KeeperState) -> None:
        job = self._turns.state.jobs.get(keeper.job)
        if job is None:
            log.warning("a node runs a job that is unknown here", extra={"node": node, "job": keeper.job})
            return
        attempt = job.attempt
        # A newer generation than the ledger knows is one that the ledger has lost.
        current = attempt is not None and keeper.generation == attempt.generation and not attempt.stopped
        if job.over or (not current and keeper.state in ("running", "stopping")):
            self._launcher.end_stale(keeper.job, node, keeper, job.over, job.spec.limits.grace_s)

    def findings(self, node: str) -> list[spoken.Observation]:
        """What is wrong on a node and not over, by its own words."""
        since = self._clock.now() - FINDING_SHOWN_S_MAX
        known = self._findings[node].all() if node in self._findings else []
        return [seen for seen in known if seen.at > since or seen.kind in OF_THE_NODE or _of_hardware(seen)]

    def describe(self, node: str) -> dict[str, Any]:
        """What is known of a node beyond the ledger."""
        link = self._links.links.get(node)
        return {
            "connected": link is not None,
            "agent_seen_s": None if link is None else round(self._clock.monotonic() - link.heard, 3),
            "version": self.versions.get(node),
            "findings": [dataclasses.asdict(seen) for seen in self.findings(node)],
        }


def _own(hello: wire.Hello) -> list[spoken.Observation]:
    return [seen for seen in hello.findings[: standing.FINDINGS_MAX] if seen.node == hello.node]


def _of_hardware(seen: spoken.Observation) -> bool:
    """Whether an agent's signals saw it: such a finding lasts until the agent says that it is over."""
    return seen.job is None and seen.kind not in AGENTS_OWN and seen.kind not in OF_THE_NODE


def _check(node: str, items: tuple[spoken.Observation, ...]) -> None:
    if len(items) > wire.OBSERVATIONS_PER_FRAME_MAX:
        most = wire.OBSERVATIONS_PER_FRAME_MAX
        raise FrameError(f"{len(items)} observations in one frame, at most {most} are taken")
    before = 0
    for seen in items:
        if seen.node != node:
            raise FrameError(f"an observation speaks of node {seen.node[:64]!r}, this connection is {node!r}'s")
        if seen.seq <= before:
            raise FrameError(f"observation {seen.seq} follows {before}; numbers start at 1 and rise")
        before = seen.seq
