"""A real controller on a real port, and agents made by hand that speak the protocol over real sockets."""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import msgspec
from websockets.asyncio import client

from outrider import records, wire
from outrider_controller import controller as controllers
from outrider_controller import runbook_files
from outrider_controller import settings as settings_module
from outrider_controller.core import jobs

PATIENCE_S = 20.0
HEARTBEAT_S = 0.2


def run(work: Coroutine[Any, Any, None]) -> None:
    """An async test."""
    asyncio.run(asyncio.wait_for(work, 100))


@contextlib.asynccontextmanager
async def controller(state: Path, **settings: Any) -> AsyncIterator[controllers.Controller]:
    """A started controller with quick heartbeats and no output."""
    given = {"port": 0, "log_to_stderr": False, "heartbeat_s": HEARTBEAT_S, **settings}
    made = controllers.Controller(settings_module.Settings(state=state, **given))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def quick_runbooks(where: Path) -> Path:
    """The runbooks of this version, but a node that is silent for 0.2 s counts as lost."""
    made = where / "quick-runbooks"
    made.mkdir()
    for book in runbook_files.BUILT_IN.glob("*.md"):
        (made / book.name).write_text(re.sub(r"silence_s: [\d.]+", "silence_s: 0.2", book.read_text()))
    return made


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until a condition holds; fails by name rather than by a clock."""
    for _ in range(int(PATIENCE_S / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never came: {what}")


def spec(name: str = "demo", **changes: Any) -> jobs.JobSpec:
    """A job of two nodes with two ranks each."""
    return jobs.parse({"name": name, "command": ["train"], "nodes": 2, "ranks_per_node": 2, **changes})


class Api:
    """The people's door."""

    def __init__(self, house: controllers.Controller, right: str | None = "act") -> None:
        token = house.tokens.file(right).read_text().strip() if right else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.AsyncClient(base_url=house.url, headers=headers, trust_env=False, timeout=20)

    async def __aenter__(self) -> httpx.AsyncClient:
        return self.http

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()


class Agent:
    """A node by hand. ``spool`` is what it has seen; ``orders`` what it was told, each id carried out once."""

    def __init__(self, state: Path, node: str, slots: int = 2) -> None:
        self.state = state
        self.node = node
        self.slots = slots
        self.boot_id = f"boot-{node}"
        self.spool_id = f"spool-{node}"
        self.spool: list[records.Observation] = []
        self.acked = 0
        self.orders: list[wire.Order] = []
        self.results: dict[str, wire.OrderResult] = {}
        self.refused: list[wire.Refused] = []
        self.welcome: wire.Welcome | None = None
        self.generation = 0
        self.job = ""
        self.keepers: tuple[records.KeeperState, ...] = ()
        self.fails: dict[str, str] = {}  # order kind -> error that it is answered with
        self.deaf: set[str] = set()  # order kinds that are never answered
        self.heartbeats = True
        self.evidence: dict[int, dict[str, Any]] = {}  # rank -> what a look at it brings
        self.gpus: dict[str, str] = {}  # the GPU of each of its ranks, where it numbers them anew
        self.record: dict[str, Any] | None = None  # what it says of its ranks' flight records
        self._pids = itertools.count(1000)
        self._connection: client.ClientConnection | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    def hello(self, **changes: Any) -> wire.Hello:
        """What it says first."""
        given: dict[str, Any] = {
            "protocol": wire.PROTOCOL,
            "version": "0.1.0",
            "node": self.node,
            "boot_id": self.boot_id,
            "spool_id": self.spool_id,
            "address": "127.0.0.1",
            "slots": self.slots,
            "supervises": True,
            "simulated": True,
            "sent_at": time.time(),
            "keepers": self.keepers,
        }
        return wire.Hello(**{**given, **changes})

    async def connect(self, house: controllers.Controller) -> "Agent":
        """Dial in and be welcomed."""
        house.tokens.make_node(self.node)
        token = (self.state / "tokens/nodes" / self.node).read_text().strip()
        self._connection = await dial(house, token)
        await self.say(self.hello())
        answer = read(await self._connection.recv())
        assert isinstance(answer, wire.Welcome), answer
        self.welcome = answer
        self.acked = answer.acked_seq
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat(answer.heartbeat_s))]
        await self.say_observations()
        return self

    async def say(self, message: Any) -> None:
        """Send one message."""
        assert self._connection is not None
        await self._connection.send(msgspec.json.encode(message), text=True)

    async def say_observations(self) -> None:
        """Everything that is not acknowledged."""
        waiting = tuple(seen for seen in self.spool if seen.seq > self.acked)
        if waiting:
            await self.say(wire.Observations(waiting))

    async def see(self, kind: str, text: str = "", **changes: Any) -> None:
        """Observe something and tell it."""
        self.spool.append(observation(len(self.spool) + 1, self.node, kind, text or kind, **changes))
        if self._connection is not None:
            await self.say_observations()

    async def rank_dies(self, rank: int, **how: Any) -> None:
        """One of its ranks ends."""
        evidence = {
            "rank": rank,
            "local_rank": rank % self.slots,
            "pid": 1,
            "order": 0,
            "code": None,
            "signal": "SIGKILL",
            "asked": False,
            "at": time.time(),
            **how,
        }
        words = f"rank {rank} ended"
        about = {"job": self.job, "generation": self.generation, "rank": rank, "evidence": evidence}
        await self.see("rank-exited", words, **about)

    async def marks(self, step: int, **more: Any) -> None:
        """Its lowest rank has finished a step."""
        sample = records.StepSample(step, time.time(), 0, tokens=64.0, loss=2.0, grad_norm=1.0)
        await self.say(wire.Marks(self.job, self.generation, attached=True, steps=(sample,), **more))

    async def go(self) -> None:
        """Lose the connection, as when the agent is killed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connection is not None:
            self._connection.transport.abort()
            self._connection = None

    def ordered(self, kind: str) -> list[wire.Order]:
        """Orders of a kind, each counted once."""
        return list({order.order_id: order for order in self.orders if order.kind == kind}.values())

    async def _listen(self) -> None:
        assert self._connection is not None
        async for frame in self._connection:
            message = read(frame)
            if isinstance(message, wire.Ack):
                self.acked = max(self.acked, message.seq)
            elif isinstance(message, wire.Refused):
                self.refused.append(message)
            elif isinstance(message, wire.Order):
                self.orders.append(message)
                if message.kind not in self.deaf:
                    await self._obey(message)

    async def _obey(self, order: wire.Order) -> None:
        if order.order_id not in self.results:
            self.results[order.order_id] = self._do(order)
        await self.say(self.results[order.order_id])
        if order.kind == "stop":
            await self._stopped(order)

    def _do(self, order: wire.Order) -> wire.OrderResult:
        if order.kind in self.fails:
            return wire.OrderResult(order.order_id, False, self.fails[order.kind])
        result: dict[str, Any] = {}
        if order.kind == "reserve-port":
            result = {"address": "127.0.0.1", "port": 29500}
        if order.kind == "start":
            self.job, self.generation = order.job, order.generation
            result = {"pids": {str(r): next(self._pids) for r in order.args["ranks"]}, "warm": True, "why_cold": None}
            self.ranks = list(order.args["ranks"])
            result |= {"gpus": self.gpus} if self.gpus else {}
        if order.kind == "capture":
            result = {"ranks": [self.evidence[rank] for rank in self.ranks if rank in self.evidence]}
            result |= {"flight_recorder": self.record} if self.record is not None else {}
        return wire.OrderResult(order.order_id, True, None, result)

    async def _stopped(self, order: wire.Order) -> None:
        """The ranks that were still alive tell their end, once."""
        for rank in getattr(self, "ranks", []):
            ends = [seen for seen in self.spool if seen.kind == "rank-exited" and seen.rank == rank]
            told = [seen for seen in ends if seen.generation == order.generation]
            if not told and order.generation == self.generation:
                await self.rank_dies(rank, asked=True, signal="SIGTERM")

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            if self.heartbeats:
                await self.say(wire.Heartbeat(time.time()))


def observation(seq: int, node: str, kind: str, text: str, **changes: Any) -> records.Observation:
    """An observation of this moment."""
    return records.Observation(seq, kind, "error", time.time(), node, text, **changes)


def read(frame: Any) -> wire.FromController:
    """A frame of the controller."""
    name = msgspec.json.decode(frame)["type"]
    found: wire.FromController = msgspec.json.decode(frame, type=wire.MESSAGES[name])
    return found


async def dial(house: controllers.Controller, token: str) -> client.ClientConnection:
    """A bare connection to the agents' door."""
    url = house.url.replace("http", "ws", 1) + "/v1/agents/connect"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await client.connect(url, additional_headers=headers, proxy=None, compression=None)


@contextlib.asynccontextmanager
async def agents(house: controllers.Controller, state: Path, *nodes: str) -> AsyncIterator[list[Agent]]:
    """Connected agents."""
    made = [await Agent(state, node).connect(house) for node in nodes]
    try:
        yield made
    finally:
        for agent in made:
            await agent.go()


async def training(house: controllers.Controller, made: list[Agent], step: int = 1, **changes: Any) -> None:
    """Submit the job and bring it to ``step``."""
    await house.submit_job(spec(**changes))
    await until(lambda: all(agent.ordered("start") for agent in made[:2]), "start orders")
    await made[0].marks(step)
    await until(lambda: house.state.jobs["demo"].state == "training", "training")
