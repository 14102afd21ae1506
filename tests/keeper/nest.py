"""A place where real keepers hold real ranks, for the tests of both.

Everything lies in one short directory (Unix socket paths are bounded), and nothing outlives the test.
"""

import asyncio
import os
import pathlib
import signal
import socket
import sys
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

from outrider import records
from outrider_agent import keeper_client
from outrider_agent.keeper import environment, home, orders

PATIENCE_S = 60.0


class Nest:
    """One runtime directory, one job, and what the agent would hold: a connection and the events taken from it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.runtime = path / "r"
        self.job = "job"
        self.home = home.of(self.runtime, self.job)
        self.taken: list[keeper_client.Event] = []
        self.generation = 0
        self._keeper: keeper_client.Keeper | None = None
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    def run(self, story: Callable[["Nest"], Awaitable[None]]) -> None:
        """Play one test's story to its end."""

        async def told() -> None:
            try:
                await asyncio.wait_for(story(self), 4 * PATIENCE_S)
            finally:
                await self.let_go()

        asyncio.run(told())

    # --- what a test writes -----------------------------------------------------------------------------------------

    def file(self, name: str, text: str) -> pathlib.Path:
        path = self.path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def script(self, text: str, *arguments: str, flags: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The command that runs this Python text."""
        return (sys.executable, *flags, str(self.file("train.py", text)), *arguments)

    # --- what an agent does -----------------------------------------------------------------------------------------

    @property
    def keeper(self) -> keeper_client.Keeper:
        assert self._keeper is not None, "no keeper is connected"
        return self._keeper

    async def open(self, command: tuple[str, ...] = (), **settings: Any) -> keeper_client.Keeper:
        """Start (or adopt) the keeper and take its events from the first untaken one."""
        chosen = {"allow_root": True, **settings}
        self._hold(await keeper_client.start(self.settings(command, **chosen)))
        return self.keeper

    def settings(self, command: tuple[str, ...] = (), **more: Any) -> keeper_client.Settings:
        return keeper_client.Settings(self.job, "n0", self.runtime, command, **more)

    async def adopt(self) -> keeper_client.Keeper:
        keeper = await keeper_client.adopt(self.runtime, self.job)
        assert keeper is not None, "there is no keeper to adopt"
        self._hold(keeper)
        return keeper

    async def start(
        self, command: tuple[str, ...], ranks: int | tuple[int, ...] = 1, **more: Any
    ) -> keeper_client.Started:
        """Start a next generation of so many ranks, or of these."""
        if self._keeper is None:
            await self.open(command)
        self.generation += 1
        return await self.keeper.start(self.order(command, ranks, **more))

    def order(self, command: tuple[str, ...], ranks: int | tuple[int, ...] = 1, **more: Any) -> orders.Start:
        chosen = tuple(range(ranks)) if isinstance(ranks, int) else ranks
        values: dict[str, Any] = {
            "attempt": self.generation,
            "generation": self.generation,
            "world_size": len(chosen),
            "nnodes": 1,
            "node_rank": 0,
            "ranks": chosen,
            "command": command,
            "log_dir": str(self.path / f"logs-{self.generation}"),
            "master_port": free_port(),
        }
        return orders.Start(**{**values, **more})

    async def ended(self, generation: int | None = None) -> list[records.RankExit]:
        """Wait until an attempt is over; how its ranks ended, in order."""
        wanted = self.generation if generation is None else generation
        await self.event("attempt-ended", wanted)
        return self.exits(wanted)

    async def event(self, kind: str, generation: int) -> records.Json:
        """Wait for an event of a generation."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := self.events(kind, generation)):
                self._changed.clear()
                await self._changed.wait()
        return found[0]

    def events(self, kind: str, generation: int) -> list[records.Json]:
        return [e.event for e in self.taken if e.event["kind"] == kind and e.event["generation"] == generation]

    def exits(self, generation: int) -> list[records.RankExit]:
        found = self.events("rank-exited", generation)
        return [records.RankExit(**{k: v for k, v in e.items() if k not in ("kind", "generation")}) for e in found]

    async def let_go(self) -> None:
        """Leave the keeper to itself."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._keeper is not None:
            await self._keeper.close()
        self._keeper = self._reading = None

    def _hold(self, keeper: keeper_client.Keeper) -> None:
        self._keeper = keeper
        self._reading = asyncio.create_task(self._take(keeper))

    async def _take(self, keeper: keeper_client.Keeper) -> None:
        last = self.taken[-1].n if self.taken else 0
        async for event in keeper.events(last + 1):
            self.taken.append(event)
            self._changed.set()

    # --- what a test looks at ---------------------------------------------------------------------------------------

    def log(self, rank: int = 0, generation: int | None = None) -> str:
        number = self.generation if generation is None else generation
        return (self.path / f"logs-{number}" / f"rank_{rank}.log").read_text()

    async def log_has(self, text: str, rank: int = 0) -> str:
        """Wait until a rank has written ``text``; its whole log."""
        await until(lambda: (self.path / f"logs-{self.generation}" / f"rank_{rank}.log").exists())
        await until(lambda: text in self.log(rank))
        return self.log(rank)

    def sweep(self) -> None:
        """End whatever this nest has started."""
        mark = f"{environment.MARK}={self.home.path}".encode()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if mark in pathlib.Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                continue


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and only waits to be reaped does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
