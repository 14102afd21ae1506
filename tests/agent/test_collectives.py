"""Ranks that tell nothing: a real rank with torch is asked what it has enqueued, and never while its job speaks."""

import asyncio
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pytest

from outrider import clock
from outrider_agent import keepers, standing
from outrider_agent.keeper import home
from outrider_agent.signals import collectives, ranks
from tests.agent import world

pytest.importorskip("torch")

# One rank that all-reduces as often as it is told to over standard input.
RANK = """
import sys
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _WorkerServer

server = _WorkerServer(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=0, world_size=1)
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        dist.all_reduce(torch.ones(4))
    print("done", flush=True)
server.shutdown()
"""


@dataclass
class _Held:
    job: str
    standing: standing.Standing


@dataclass
class _Keepers:
    """Stands for the node's keepers: one job, whose ranks were started by this test."""

    held: _Held

    def all(self) -> tuple[_Held, ...]:
        return (self.held,)


class Rank:
    """The real rank, number 1. Rank 0 has no process: nobody answers for it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        door = home.of(folder, "j").control_socket(1)
        door.parent.mkdir(parents=True)
        command = [sys.executable, "-c", RANK, str(door), str(folder / "store")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hears("ready")
        self.done = 0

    def hears(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def works(self, times: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        self.hears("done")
        self.done += times


class Beside:
    """An agent's asker beside the rank, and the board it tells."""

    def __init__(self, rank: Rank) -> None:
        self.board = ranks.Board()
        self.board.expect("j", 1, [0, 1])
        held = _Held("j", standing.Standing("n0", "j", generation=1, living={0: 4_000_000, 1: rank.process.pid}))
        kept = cast(keepers.Keepers, _Keepers(held))
        self.asker = collectives.Asker(rank.folder, kept, self.board, clock.RealClock())

    async def counts(self, wanted: int) -> None:
        """Look until the counter of rank 1 is as wanted."""
        until = time.monotonic() + world.WAIT_S
        while wanted not in [one.collectives for one in self.board.progress() if one.rank == 1]:
            assert time.monotonic() < until, self.board.progress()
            await self.asker.look()
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def rank() -> Iterator[Rank]:
    with world.short_directory() as folder:
        made = Rank(folder)
        try:
            yield made
        finally:
            made.process.kill()
            made.process.communicate()


@pytest.fixture
def beside(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> Beside:
    monkeypatch.setattr(collectives, "ASK_S", 0.05)
    monkeypatch.setattr(collectives, "COST_SHARE_MAX", 1.0)
    return Beside(rank)


def test_a_quiet_rank_is_asked_and_its_counter_grows(rank: Rank, beside: Beside) -> None:
    async def scenario() -> None:
        await beside.counts(rank.done)
        assert [one.phase for one in beside.board.progress()] == ["start"]
        rank.works(7)
        await beside.counts(rank.done)
        (one,) = beside.board.progress()
        assert (one.source, one.phase, one.step, one.local_rank) == ("collectives", "step", None, 1)
        rank.works(3000)  # the ring of 2,000 entries forgets the first ones
        await beside.counts(rank.done)
        assert beside.board.flush() == [], "nothing was said that a job says"

    asyncio.run(scenario())


def test_who_does_not_answer_costs_little_and_is_asked_again(
    rank: Rank, beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await beside.counts(rank.done)
        assert beside.asker.asked > beside.asker.answered, "rank 0 has no socket"
        monkeypatch.setattr(collectives, "ANSWER_WITHIN_S", 0.3)
        rank.process.send_signal(signal.SIGSTOP)
        try:
            asked, answered = beside.asker.asked, beside.asker.answered
            while beside.asker.asked < asked + 3:
                await beside.asker.look()
                await asyncio.sleep(0.02)
            assert beside.asker.answered == answered
        finally:
            rank.process.send_signal(signal.SIGCONT)
        rank.works(5)
        monkeypatch.setattr(collectives, "ANSWER_WITHIN_S", 5.0)
        await beside.counts(rank.done)

    asyncio.run(scenario())


def test_a_job_that_speaks_is_never_asked(beside: Beside) -> None:
    async def scenario() -> None:
        now = time.time()
        mark = f'{{"v":1,"kind":"step","rank":0,"local_rank":0,"pid":4,"job":"j","gen":1,"at":{now},"step":3}}'
        assert beside.board.take(mark.encode(), now)
        for _ in range(5):
            await beside.asker.look()
        assert beside.asker.asked == 0

    asyncio.run(scenario())


def test_costly_answers_are_asked_for_less_often(rank: Rank, beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "COST_SHARE_MAX", 1e-9)

    async def scenario() -> None:
        await beside.counts(rank.done)
        asked = beside.asker.asked
        await asyncio.sleep(0.2)
        for _ in range(5):
            await beside.asker.look()
        assert beside.asker.asked == asked

    asyncio.run(scenario())
