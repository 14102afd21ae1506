"""What the agent's tests stand on: a private node directory, a controller in miniature, and ways to wait.

``Controller`` stands for ``outrider_controller``'s door for agents, with real WebSockets: it checks the token, takes a
hello, welcomes or refuses, acknowledges observations as a ledger would (each number once), and keeps everything that
it was told. It decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio import server
from websockets.http11 import Request, Response

from outrider import places, wire

WAIT_S = 20.0
TOKEN = "a-token-of-the-node"


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for sockets; removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="or-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def until(condition: Callable[[], Any], what: str) -> Any:
    """The first truthy answer of ``condition``; the wait is generous, because the machine may be busy."""
    end = time.monotonic() + WAIT_S
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited {WAIT_S} s for {what}"
        await asyncio.sleep(0.01)
    return answer


@dataclass
class Controller:
    """One controller in miniature, for one node ``n0``."""

    state: Path
    token: str = TOKEN
    heartbeat_s: float = 0.1
    refuse: wire.Refused | None = None
    acknowledge: bool = True
    ledger: dict[tuple[str, int], Any] = field(default_factory=dict)  # (spool, seq) -> observation
    told_again: int = 0
    hellos: list[wire.Hello] = field(default_factory=list)
    marks: list[wire.Marks] = field(default_factory=list)
    heartbeats: list[wire.Heartbeat] = field(default_factory=list)
    results: list[wire.OrderResult] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    connection: server.ServerConnection | None = None
    _server: server.Server | None = None

    async def __aenter__(self) -> Controller:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, **options: Any) -> None:
        """Listen on a new port and say so in the state directory, as a controller does when it starts."""
        self._server = await server.serve(self._talk, "127.0.0.1", 0, process_request=self._check, **options)
        port = next(iter(self._server.sockets)).getsockname()[1]
        scheme = "https" if "ssl" in options else "http"
        part = self.state / "controller.json.part"
        part.write_text(json.dumps({"url": f"{scheme}://127.0.0.1:{port}", "pid": os.getpid()}))
        part.replace(self.state / "controller.json")

    async def close(self) -> None:
        """End as if killed: every connection is gone."""
        if self._server is not None:
            self._server.close(close_connections=True)
            await self._server.wait_closed()
        self.connection = None

    async def order(self, kind: str, args: dict[str, Any], job: str = "j", generation: int = 1, order: str = "") -> Any:
        """Send an order and wait for its result."""
        order = order or f"{kind}-{len(self.results)}"
        before = len(self.results)
        await self.send(wire.Order(order, kind, job, generation, args))
        return await until(
            lambda: next((one for one in self.results[before:] if one.order_id == order), None), f"result of {order}"
        )

    async def send(self, message: wire.FromController) -> None:
        """Send one message on the agent's current connection."""
        connection = await until(lambda: self.connection, "the agent to connect")
        await connection.send(msgspec.json.encode(message), text=True)

    def observed(self, kind: str) -> list[Any]:
        """Observations of one kind that are in the ledger."""
        return [one for one in self.ledger.values() if one.kind == kind]

    def _check(self, _: server.ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Authorization") == f"Bearer {self.token}" and request.path == "/v1/agents/connect":
            return None
        return Response(HTTPStatus.UNAUTHORIZED.value, "Unauthorized", type(request.headers)())

    async def _talk(self, connection: server.ServerConnection) -> None:
        hello = msgspec.json.decode(await connection.recv(), type=wire.Hello)
        self.hellos.append(hello)
        if self.refuse is not None:
            await connection.send(msgspec.json.encode(self.refuse), text=True)
            return
        acked = max((seq for spool, seq in self.ledger if spool == hello.spool_id), default=0)
        welcome = wire.Welcome(wire.PROTOCOL, "test", "c1", 1, acked, self.heartbeat_s)
        await connection.send(msgspec.json.encode(welcome), text=True)
        self.connection = connection
        async for frame in connection:
            await self._take(connection, hello, frame)

    async def _take(self, connection: server.ServerConnection, hello: wire.Hello, frame: str | bytes) -> None:
        kind = msgspec.json.decode(frame)["type"]
        message = msgspec.json.decode(frame, type=wire.MESSAGES[kind], strict=True)
        if isinstance(message, wire.Observations):
            for item in message.items:
                self.told_again += (hello.spool_id, item.seq) in self.ledger
                self.ledger[hello.spool_id, item.seq] = item
            if self.acknowledge:
                await connection.send(msgspec.json.encode(wire.Ack(message.items[-1].seq)), text=True)
        elif isinstance(message, wire.Marks):
            self.marks.append(message)
        elif isinstance(message, wire.Heartbeat):
            self.heartbeats.append(message)
        elif isinstance(message, wire.OrderResult):
            self.results.append(message)


class Node:
    """A node directory, and the agent processes that serve it, one after the other."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.runtime_base = root / "r"
        tokens = self.state / "tokens" / "nodes"
        tokens.mkdir(parents=True, mode=0o700)
        (tokens / "n0").write_text(TOKEN + "\n")
        self.agents: list[subprocess.Popen[str]] = []

    @property
    def runtime(self) -> Path:
        """The node's runtime directory."""
        os.environ["OUTRIDER_RUNTIME"] = str(self.runtime_base)
        return places.runtime_dir(self.state, "n0")

    def start(self, **given: Any) -> subprocess.Popen[str]:
        """Start an agent in a process of its own."""
        values = {"node": "n0", "state": str(self.state), "slots": 8, "supervise": True, "allow_root": True, **given}
        program = (
            "import json, pathlib, sys; from outrider_agent import agent, settings; v = json.loads(sys.argv[1]);"
            "v.update({k: pathlib.Path(v[k]) for k in ('state', 'token_file', 'ca_file') if v.get(k)});"
            "sys.exit(agent.main(settings.Settings(**v)))"
        )
        log = (self.state / "agent.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", program, json.dumps(values)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
            env={**os.environ, "OUTRIDER_RUNTIME": str(self.runtime_base)},
            start_new_session=True,
        )
        log.close()
        self.agents.append(process)
        return process

    def log(self) -> str:
        """What the agents have said."""
        return (self.state / "agent.log").read_text()

    def pids(self) -> list[int]:
        """Keepers of this node that live, by their own word."""
        found = []
        for path in self.runtime.glob("keepers/*/keeper.json"):
            pid = json.loads(path.read_text())["pid"]
            if alive(pid):
                found.append(pid)
        return found

    def end(self) -> None:
        """End every agent and keeper that this node has."""
        for process in self.agents:
            if process.poll() is None:
                process.kill()
            process.wait()
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def node() -> Iterator[Node]:
    """A node of a short-lived directory; nothing of it is left afterwards."""
    with short_directory() as root:
        made = Node(root)
        try:
            yield made
        finally:
            made.end()


def alive(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
