"""A capture of real torch ranks: one waits in a gloo all-reduce for another that spins, and a third holds the lock."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from outrider_agent import rank_look
from outrider_analysis.flight_recorder import model
from tests.agent import test_capture, world

pytest.importorskip("torch")

SCRIPT = """
import datetime, os, re
import torch
import torch.distributed as dist
import outrider

run = outrider.attach()
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
for step in range(3):
    dist.all_reduce(torch.ones(4))
run.step(3)

def spin_before_the_collective():
    while True:
        step = 3

def hold_the_interpreter_lock():
    re.match("(a+)+$", "a" * 64 + "b")

if dist.get_rank() == 1:
    spin_before_the_collective()
if dist.get_rank() == 2:
    hold_the_interpreter_lock()
dist.all_reduce(torch.ones(8))
"""


def test_the_waiting_rank_tells_what_it_waits_for_and_the_spinning_one_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(world, "WAIT_S", 120.0)  # torch is imported on the way

    async def scenario(node: world.Node, controller: world.Controller) -> None:
        await world.until(lambda: _at_step(controller, 3) == {0, 1, 2}, "the ranks to finish their steps")
        found = await test_capture.look(controller)
        waits, spins, holds = (found[rank] for rank in range(3))
        assert (waits.answered, waits.pending, waits.moved) == ("control", True, False), waits
        assert waits.collective is not None
        assert (waits.collective["op"], waits.collective["seq"]) == ("all_reduce", 4)
        assert "all_reduce" in test_capture.names(waits)[:3]
        assert (spins.answered, spins.pending, spins.moved) == ("control", False, False), spins
        assert test_capture.names(spins)[0] == "spin_before_the_collective"
        assert waits.enqueued is not None
        assert spins.enqueued == waits.enqueued - 1
        assert (holds.answered, holds.pending) == ("control", False), holds
        assert "hold_the_interpreter_lock" in test_capture.names(holds)[:5], "the lock held by C does not hide it"
        assert "dump_traceback on 2.sock gave no answer" in holds.error
        await _records(controller)
        whole = json.loads(Path(waits.file).read_text())
        assert json.loads(whole["flight_recorder"])["entries"]
        for _ in range(rank_look.OWED_MAX + 1):
            again = (await test_capture.look(controller, 2))[2]
        assert "its interpreter lock is held" in again.error, "no more threads of the rank are taken"
        assert "hold_the_interpreter_lock" in test_capture.names(again)[:5]

    async def all_of_it() -> None:
        with world.node() as node:
            script = node.state / "hang.py"
            script.write_text(SCRIPT)
            spec = {"name": "j", "command": [sys.executable, str(script)], "cwd": str(node.state), "ranks_per_node": 3}
            place = {"attempt": 0, "world_size": 3, "nnodes": 1, "node_rank": 0, "ranks": [0, 1, 2]}
            async with world.Controller(node.state) as controller:
                node.start()
                port = (await controller.order("reserve-port", {"wanted": 0})).result["port"]
                address = {"master_addr": "127.0.0.1", "master_port": port, "resume_path": "", "fence": []}
                started = await controller.order("start", {"spec": spec, **place, **address})
                assert started.ok, started.error
                await scenario(node, controller)

    asyncio.run(all_of_it())


async def _records(controller: world.Controller) -> None:
    """What the ranks' control sockets told, as a digest: real records of real gloo groups."""
    done = await controller.order("capture", {"ranks": [], "deadline_s": 10.0})
    known = done.result["flight_recorder"]
    digest = model.from_json(known["digest"])
    assert [one.rank for one in digest.ranks] == [0, 1, 2], known["notes"]
    assert all(one.gloo for one in digest.ranks)
    (op,) = digest.ranks[0].unfinished
    assert (op.op, op.seq) == ("all_reduce", 4)
    assert not digest.ranks[1].unfinished
    assert json.loads(Path(known["files"]["0"]).read_text())["entries"]


def _at_step(controller: world.Controller, step: int) -> set[int]:
    return {rank.rank for message in controller.marks for rank in message.ranks if rank.step == step}
