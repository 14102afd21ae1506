"""What a controller's door costs: agents with heartbeats, observations as fast as they go, and the time of a turn.

Starts a controller as a process of its own and agents as bare WebSocket connections that run one job over all of them,
and prints, beside the machine's load: the controller's share of a core under heartbeats, observations recorded a
second, and from an observation to its acknowledgement (read, decided, written, confirmed by the disk).

    python bench/controller_intake.py [--agents 2048] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import msgspec
from websockets.asyncio import client

from outrider import records, wire
from outrider_controller import tokens

RANKS = 8
CONNECTING_MAX = 32
OBSERVATIONS = 51_200
SENDERS = 10
TURNS = 300
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Agent:
    """One node: its connection, and the last number it sent."""

    def __init__(self, node: str, connection: client.ClientConnection) -> None:
        self.node = node
        self.connection = connection
        self.seq = 0
        self.ranks: list[int] = []
        self.acked = asyncio.Condition()
        self.acked_seq = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def say(self, message: wire.FromAgent) -> None:
        """Send one frame."""
        await self.connection.send(msgspec.json.encode(message), text=True)

    async def listen(self) -> None:
        """Take acknowledgements, and carry out orders by saying that they are."""
        async for frame in self.connection:
            if '"type":"ack"' in str(frame):
                async with self.acked:
                    self.acked_seq = msgspec.json.decode(frame, type=wire.Ack).seq
                    self.acked.notify_all()
                continue
            order = msgspec.json.decode(frame, type=wire.Order)
            result: records.Json = {"address": "127.0.0.1", "port": 29500}
            if order.kind == "start":
                self.ranks = order.args["ranks"]
                result = {"pids": {str(rank): 1000 + rank for rank in self.ranks}, "warm": True, "why_cold": None}
            await self.say(wire.OrderResult(order.order_id, True, None, result))

    async def heartbeat(self, offset_s: float) -> None:
        """Tell of its ranks, for ever."""
        await asyncio.sleep(offset_s)
        while True:
            now = time.time()
            ranks = tuple(records.RankProgress("bench", 1, r, r % RANKS, 1000 + r, 5, "step", now) for r in self.ranks)
            await self.say(wire.Heartbeat(now, ranks))
            await asyncio.sleep(wire.HEARTBEAT_S)

    async def observe(self, count: int) -> None:
        """Send ``count`` observations in one frame and wait until they are acknowledged."""
        now = time.time()
        self.seq += count
        items = tuple(
            records.Observation(seq, "cold-start", "info", now, self.node, "a bench speaks", "bench", 1)
            for seq in range(self.seq - count + 1, self.seq + 1)
        )
        await self.say(wire.Observations(items))
        async with self.acked:
            await self.acked.wait_for(lambda: self.acked_seq >= self.seq)


async def connect(state: Path, url: str, node: str, gate: asyncio.Semaphore) -> Agent:
    """Dial in and be welcomed."""
    token = (state / "tokens/nodes" / node).read_text().strip()
    hello = wire.Hello(wire.PROTOCOL, "bench", node, "b", "s", "127.0.0.1", RANKS, True, True, time.time())
    async with gate:
        connection = await client.connect(
            url.replace("http", "ws", 1) + "/v1/agents/connect",
            additional_headers={"Authorization": f"Bearer {token}"},
            proxy=None,
            compression=None,
            open_timeout=60,
            ping_interval=None,
        )
        await connection.send(msgspec.json.encode(hello), text=True)
        await connection.recv()
    agent = Agent(node, connection)
    offset_s = sum(node.encode()) % 100 / 100 * wire.HEARTBEAT_S
    agent.tasks = [asyncio.create_task(agent.listen()), asyncio.create_task(agent.heartbeat(offset_s))]
    return agent


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(state: Path, process: subprocess.Popen[bytes], agents: int, seconds: float) -> None:
    """Everything, printed line by line."""
    url = await listening(state, process)
    held = tokens.Tokens(state)
    names = [f"n{number}" for number in range(agents)]
    for name in names:
        held.make_node(name)
    gate = asyncio.Semaphore(CONNECTING_MAX)
    began, used = time.monotonic(), cpu_s(process.pid)
    made = await asyncio.gather(*(connect(state, url, name, gate) for name in names))
    say(
        "agents joined", f"{agents} in {time.monotonic() - began:.1f} s, {cpu_s(process.pid) - used:.1f} s of processor"
    )
    await start_job(state, url, made)
    await asyncio.sleep(wire.HEARTBEAT_S)
    began, used = time.monotonic(), cpu_s(process.pid)
    await asyncio.sleep(seconds)
    share = (cpu_s(process.pid) - used) / (time.monotonic() - began)
    say(f"heartbeats of {agents} agents every {wire.HEARTBEAT_S:g} s", f"{share:.2f} of one core")
    await turns(made[0])
    await flood(made[:SENDERS], process.pid)
    for task in [task for agent in made for task in agent.tasks]:
        task.cancel()
    say("controller's memory", f"{memory_mib(process.pid):.0f} MiB")


async def start_job(state: Path, url: str, made: list[Agent]) -> None:
    """One job over all agents, so that every heartbeat tells of ranks that matter."""
    token = (state / "tokens/act").read_text().strip()
    job = {"name": "bench", "command": ["train"], "nodes": len(made), "ranks_per_node": RANKS}
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60) as http:
        began = time.monotonic()
        (await http.post(f"{url}/v1/jobs", json=job)).raise_for_status()
        while not all(agent.ranks for agent in made):
            await asyncio.sleep(0.05)
        say("start orders", f"{len(made)} answered in {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        size = len((await http.get(f"{url}/v1/jobs/bench/status")).content)
        say(f"status of {len(made) * RANKS} ranks", f"{(time.monotonic() - began) * 1000:.0f} ms, {size / 1e6:.1f} MB")


async def turns(agent: Agent) -> None:
    """One observation at a time."""
    taken = []
    for _ in range(TURNS):
        began = time.monotonic()
        await agent.observe(1)
        taken.append((time.monotonic() - began) * 1000)
    p99 = statistics.quantiles(taken, n=100)[98]
    say("observation to acknowledgement", f"median {statistics.median(taken):.1f} ms, p99 {p99:.1f} ms")


async def flood(senders: list[Agent], pid: int) -> None:
    """As many as go."""
    most = wire.OBSERVATIONS_PER_FRAME_MAX

    async def send(agent: Agent) -> None:
        for _ in range(OBSERVATIONS // most // len(senders)):
            await agent.observe(most)

    began, used = time.monotonic(), cpu_s(pid)
    await asyncio.gather(*(send(agent) for agent in senders))
    wall = time.monotonic() - began
    say("observations recorded", f"{OBSERVATIONS / wall:.0f} a second, {cpu_s(pid) - used:.1f} s of processor")


async def listening(state: Path, process: subprocess.Popen[bytes]) -> str:
    """The controller's address, once it says so."""
    while process.poll() is None:
        try:
            return str(json.loads((state / "controller.json").read_text())["url"])
        except FileNotFoundError:
            await asyncio.sleep(0.05)
    raise SystemExit("the controller ended before it listened")


def say(what: str, value: str) -> None:
    """One figure."""
    print(f"{what:<48} {value}", flush=True)


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=2048, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=20.0, help="of heartbeats (default %(default)s)")
    options = parser.parse_args()
    say("load of this machine before", f"{os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        command = [sys.executable, "-m", "outrider_cli", "controller", "--listen", "127.0.0.1:0", "--state", folder]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                asyncio.run(measure(state, process, options.agents, options.seconds))
            finally:
                process.terminate()
    say("load of this machine after", f"{os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
