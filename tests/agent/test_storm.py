"""An agent that dies again and again, with the controller away: each observation arrives once, and in order."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from outrider_agent import spool
from tests.agent import world

AGENT = Path(__file__).with_name("storm_agent.py")
AN_HOUR = 36_000  # ten a second: far more than a node says whose every part is sick


class Writer(threading.Thread):
    """Appends ``lines`` numbered lines to a log while agents live and die."""

    def __init__(self, path: Path, lines: int, per_block: int) -> None:
        super().__init__(daemon=True)
        self._path, self._lines, self._per_block = path, lines, per_block
        path.touch()

    def run(self) -> None:
        for first in range(0, self._lines, self._per_block):
            with self._path.open("a") as file:
                file.writelines(f"line {n}\n" for n in range(first, min(first + self._per_block, self._lines)))
            time.sleep(0.005)


@contextmanager
def agent(node: world.Node, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end, whatever it does."""
    assert node.runtime
    words = [sys.executable, str(AGENT), str(node.state), str(log)]
    with (node.state / "agent.log").open("a") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n", node.log()
        yield process
    finally:
        process.kill()
        process.wait()


def storm(kills: int, lines: int, seed: int = 4) -> None:
    chance = random.Random(seed)
    with world.node() as node:
        log = node.state / "lines.log"
        writer = Writer(log, lines, max(1, lines // (kills * 20)))
        writer.start()
        for _ in range(kills):
            with agent(node, log):
                time.sleep(chance.uniform(0, 0.2))  # the moment of its death
        writer.join()
        found = asyncio.run(_told(node, log, lines, chance, kills))
    assert [one.text for one in found] == [f"line {n}" for n in range(lines)]
    assert [one.evidence["count"] for one in found] == list(range(1, lines + 1)), "the judge forgot nothing"
    numbers = [one.seq for one in found]
    assert numbers == sorted(set(numbers))


async def _told(node: world.Node, log: Path, lines: int, chance: random.Random, kills: int) -> list[Any]:
    """What the controller has once it is back; the agent dies a few times more while it sends."""
    async with world.Controller(node.state) as controller:
        for _ in range(min(kills, 3)):
            with agent(node, log):
                await asyncio.sleep(chance.uniform(0, 0.5))
        with agent(node, log):
            await world.until(lambda: len(controller.ledger) >= lines, f"{lines} observations")
            await asyncio.sleep(0.1)  # one too many would come now
    assert len({spool_id for spool_id, _ in controller.ledger}) == 1
    return [controller.ledger[key] for key in sorted(controller.ledger)]


def test_an_agent_killed_five_times_under_load_tells_everything_once_and_in_order() -> None:
    storm(kills=5, lines=2_000)


@pytest.mark.slow
def test_an_agent_killed_a_hundred_times_keeps_an_hour_of_observations() -> None:
    storm(kills=100, lines=AN_HOUR)


def test_a_full_disk_costs_no_order_and_no_memory(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    db = kept._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    kept.add_all([_observation("before")], {"judge": b"1"})
    db.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(20):
        assert kept.add_all([_observation(f"{number}" + "y" * 9000)], {"judge": str(number).encode() * 5000}) == 1
    assert "full" in kept.problem
    assert kept.kept() == {"judge": b"1"}, "what is on disk goes together"
    texts = [one.text.rstrip("y") for one in kept.after(0, 100, 1 << 20)]
    assert texts == ["before", *map(str, range(20))]
    db.execute("PRAGMA max_page_count = 100000")
    assert kept.flush()
    assert kept.kept() == {"judge": b"19" * 5000}
    kept.close()
    again = spool.Spool(tmp_path / "spool.db")
    assert [one.text.rstrip("y") for one in again.after(0, 100, 1 << 20)] == texts
    assert again.waiting() == 21
    again.close()


def _observation(text: str) -> Any:
    from outrider import records

    return records.Observation(0, "xid", "error", 1.0, "n0", text)
