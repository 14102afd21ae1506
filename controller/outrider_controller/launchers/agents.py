"""The embedded launcher: Outrider's own agents, on one machine or on many, over the connections they opened.

In: an attempt and its placement. Out: all of its ranks running, or none. Order ids are made of the ledger's id, the
effect and the node, so that a repeated effect repeats no work, and a fresh ledger is never answered from an old one's
results.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

from outrider import clock as clock_module
from outrider import records as spoken
from outrider import wire
from outrider_controller import launchers
from outrider_controller.core import jobs
from outrider_controller.launchers import orders as orders_module

RESERVE_S_MAX: Final = 10.0
STOP_REPLY_S_MAX: Final = 35.0  # beyond the grace: agents wait 30 s for what the kernel does not let die
RELEASE_S_MAX: Final = 10.0
CAPTURE_SLACK_S: Final = 5.0  # beyond the agents' own deadline, for the way there and back on a busy machine
CAPTURE_AWAY_S_MAX: Final = 1.0
CHECK_WAIT_S: Final = 30.0  # for ranks that are being ended on the node
CHECK_SLACK_S: Final = 30.0  # beyond the agent's own deadline
CHECK_AWAY_S_MAX: Final = 10.0
PREPARE_S_MAX: Final = 120.0
START_AWAY_S_MAX: Final = 5.0  # an agent that was killed is back within 2 s; one that is not makes the start fail
STOP_AWAY_S_MAX: Final = 3.0
BACKGROUND_ORDERS_MAX: Final = 1024
ERROR_CHARS_MAX: Final = 2000

log = logging.getLogger(__name__)


class AgentsLauncher:
    """Keeps the launchers.Launcher protocol over connected agents."""

    def __init__(self, orders: orders_module.Orders, clock: clock_module.Clock, ledger_id: str) -> None:
        self._orders = orders
        self._clock = clock
        self._ledger_id = ledger_id
        self._background: set[asyncio.Task[None]] = set()

    def nodes(self) -> Mapping[str, launchers.Node]:
        """Every node with a connection."""
        now = self._clock.monotonic()
        return {
            node: launchers.Node(node, True, now - link.heard, link.hello.slots, link.hello.keepers)
            for node, link in self._orders.links.items()
        }

    async def start(self, plan: launchers.Plan) -> launchers.Started:
        """Reserve a port on the first node, then start on all nodes at once; one failure stops all."""
        try:
            port = await self._reserve(plan)
            results = await _all_or_first_error(
                [self._start_on(plan, place, port) for place in range(len(plan.placement))]
            )
        except (launchers.LaunchError, orders_module.OrderError) as error:
            await self.stop(
                f"{plan.effect}.undo", plan.spec.name, plan.generation, plan.placement, plan.spec.limits.grace_s
            )
            raise launchers.LaunchError(str(error)[:ERROR_CHARS_MAX]) from error
        pids = {int(rank): pid for result in results for rank, pid in result.get("pids", {}).items()}
        cold = [str(result["why_cold"]) for result in results if result.get("why_cold")]
        gpus = {int(rank): str(gpu) for result in results for rank, gpu in (result.get("gpus") or {}).items()}
        return launchers.Started(all(result.get("warm") for result in results), pids, cold[0] if cold else None, gpus)

    async def stop(
        self, effect: str, job: str, generation: int, placement: tuple[str, ...], grace_s: float
    ) -> launchers.Stopped:
        """Stop on all nodes at once; those that do not answer in time are ``unreached``."""
        args = {"grace_s": grace_s}
        answers = await asyncio.gather(
            *(
                self._ask(effect, node, "stop", job, generation, args, grace_s + STOP_REPLY_S_MAX, STOP_AWAY_S_MAX)
                for node in placement
            ),
            return_exceptions=True,
        )
        unreached = []
        for node, answer in zip(placement, answers, strict=True):
            if isinstance(answer, orders_module.OrderError | launchers.LaunchError):
                log.warning(
                    "a node could not be asked to stop its ranks", extra={"job": job, "node": node, "why": answer}
                )
                unreached.append(node)
            elif isinstance(answer, BaseException):
                raise answer
        return launchers.Stopped(tuple(n for n in placement if n not in unreached), tuple(unreached))

    async def capture(
        self,
        effect: str,
        job: str,
        generation: int,
        asked: Mapping[str, tuple[int, ...]],
        deadline_s: float,
        told: launchers.Told | None = None,
    ) -> launchers.Captured:
        """Ask all nodes at once; one that is away, refuses or answers too late is ``unanswered``, and nobody waits."""
        within_s = deadline_s + CAPTURE_SLACK_S

        async def one(node: str, ranks: tuple[int, ...]) -> spoken.Json:
            args = {"ranks": list(ranks), "deadline_s": deadline_s}
            answer = await self._ask(effect, node, "capture", job, generation, args, within_s, CAPTURE_AWAY_S_MAX)
            if told is not None:
                told(node, answer)
            return answer

        answers = await asyncio.gather(*(one(node, ranks) for node, ranks in asked.items()), return_exceptions=True)
        found: list[spoken.Json] = []
        unanswered = []
        for node, answer in zip(asked, answers, strict=True):
            ranks = answer.get("ranks") if isinstance(answer, dict) else None
            if isinstance(ranks, list):
                found += ranks
                continue
            unanswered.append(node)
            why = answer if isinstance(answer, Exception) else "its answer names no ranks"
            log.warning("a node gave no evidence of its ranks", extra={"job": job, "node": node, "why": why})
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
        return launchers.Captured(tuple(found), tuple(unanswered))

    async def check(self, effect: str, node: str, deep: bool, within_s: float) -> spoken.Json:
        """Have the node's agent check it; waits for ranks that are being ended."""
        args = {"deep": deep, "timeout_s": within_s, "wait_s": CHECK_WAIT_S}
        try:
            return await self._ask(
                effect, node, "check", "", 0, args, within_s + CHECK_WAIT_S + CHECK_SLACK_S, CHECK_AWAY_S_MAX
            )
        except orders_module.OrderError as error:
            raise launchers.LaunchError(str(error)) from error

    async def release(self, effect: str, job: str, placement: tuple[str, ...]) -> None:
        """Let keepers go on the placement and wherever else one may be kept warm; a node that is away keeps its own."""
        nodes = {*placement, *self._holding(job)}
        asked = [self._ask(effect, node, "release", job, 0, {}, RELEASE_S_MAX, 0.0) for node in sorted(nodes)]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, BaseException):
                log.info("a node was not told that the job is over", extra={"job": job, "why": answer})
        for link in self._orders.links.values():
            link.prepared.discard(job)

    def prepare(self, effect: str, spec: jobs.JobSpec, nodes: Iterable[str]) -> None:
        """Have keepers ready on spare nodes, so that one of them can step in warm. Nothing depends on the answer."""
        for node in nodes:
            link = self._orders.links.get(node)
            if link is None or spec.name in link.prepared:
                continue
            link.prepared.add(spec.name)
            args = {"spec": jobs.document(spec)}
            self._later(self._ask(effect, node, "prepare", spec.name, 0, args, PREPARE_S_MAX, 0.0), f"prepare-{node}")

    def end_stale(self, job: str, node: str, keeper: spoken.KeeperState, over: bool, grace_s: float) -> None:
        """End what a returning node still holds of an older generation, or of a job that is over."""
        effect = f"return-{job}-g{keeper.generation}"
        kind, args = ("release", {}) if over else ("stop", {"grace_s": grace_s})
        asked = self._ask(effect, node, kind, job, keeper.generation, args, grace_s + STOP_REPLY_S_MAX, STOP_AWAY_S_MAX)
        self._later(asked, f"{effect}-{node}")

    def status(self, job: str) -> Mapping[str, Any]:
        """Keepers of ``job`` by node, as the agents said when they connected."""
        return {
            node: keeper
            for node, link in self._orders.links.items()
            for keeper in link.hello.keepers
            if keeper.job == job
        }

    async def cordon(self, node: str) -> None:
        """Agents need not be told: the controller places no rank there."""

    async def uncordon(self, node: str) -> None:
        """Agents need not be told."""

    async def close(self) -> None:
        """End what runs in the background."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _holding(self, job: str) -> list[str]:
        return [
            node
            for node, link in self._orders.links.items()
            if job in link.prepared or any(keeper.job == job for keeper in link.hello.keepers)
        ]

    async def _reserve(self, plan: launchers.Plan) -> tuple[str, int]:
        args = {"wanted": plan.spec.master_port}
        first = plan.placement[0]
        result = await self._ask(
            plan.effect, first, "reserve-port", plan.spec.name, plan.generation, args, RESERVE_S_MAX, START_AWAY_S_MAX
        )
        try:
            return str(result["address"]), int(result["port"])
        except (KeyError, TypeError, ValueError) as error:
            raise launchers.LaunchError(f"node {first} answered reserve-port with {result!r}") from error

    async def _start_on(self, plan: launchers.Plan, place: int, port: tuple[str, int]) -> spoken.Json:
        spec = plan.spec
        args = {
            "spec": jobs.document(spec),
            "attempt": plan.attempt,
            "world_size": spec.world_size,
            "nnodes": len(plan.placement),
            "node_rank": place,
            "ranks": plan.ranks(place),
            "master_addr": port[0],
            "master_port": port[1],
            "resume_path": plan.load,
            "fence": list(plan.fence),
            "log_dir": spec.log_dir,
            "keep_from": plan.attempt if plan.keep_from is None else plan.keep_from,
        }
        node = plan.placement[place]
        return await self._ask(
            plan.effect, node, "start", spec.name, plan.generation, args, spec.limits.start_s, START_AWAY_S_MAX
        )

    async def _ask(
        self,
        effect: str,
        node: str,
        kind: str,
        job: str,
        generation: int,
        args: spoken.Json,
        within_s: float,
        away_s_max: float,
    ) -> spoken.Json:
        """The result of one order; raises OrderError without an answer and LaunchError for a refusal."""
        order = wire.Order(f"{self._ledger_id}.{effect}.{kind}.{node}", kind, job, generation, args)
        answer = await self._orders.ask(node, order, within_s, away_s_max)
        if not answer.ok:
            raise launchers.LaunchError(f"node {node} refused {kind}: {answer.error or 'it gave no reason'}")
        return answer.result

    def _later(self, asked: Coroutine[Any, Any, spoken.Json], name: str) -> None:
        if len(self._background) >= BACKGROUND_ORDERS_MAX:
            asked.close()
            return
        task = asyncio.create_task(_guarded(asked, name), name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _guarded(asked: Coroutine[Any, Any, spoken.Json], name: str) -> None:
    try:
        await asked
    except (orders_module.OrderError, launchers.LaunchError) as error:
        log.info("an order in the background had no effect", extra={"order": name, "why": error})


async def _all_or_first_error(asked: list[Coroutine[Any, Any, spoken.Json]]) -> list[spoken.Json]:
    """All results; the first error ends the wait for the others."""
    tasks = [asyncio.create_task(item, name="start-on-node") for item in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
