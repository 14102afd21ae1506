"""Groups of real gloo ranks that carry no description: the ranks tell who is in them, so that one that left out a call
is named with confidence, by the capture and later by the files that it kept.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from outrider_analysis.flight_recorder import memberships, merge, model, verdict
from outrider_cli import main
from tests.agent import world

SCRIPT = """
import datetime, os
import torch
import torch.distributed as dist
import outrider

run = outrider.attach()
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
rank, mine = dist.get_rank(), {}
for kind, lists in {"quad": [[0, 1, 2, 3]], "row": [[0, 1], [2, 3]], "column": [[0, 2], [1, 3]]}.items():
    for ranks in lists:
        group = dist.new_group(ranks, timeout=datetime.timedelta(seconds=300))
        if rank in ranks:
            mine[kind] = group
for step in range(6):
    if step == 4:
        run.step(4)
    for kind in ("row", "quad", "column", "quad"):
        if step < 4 or rank != 3 or kind != "quad":
            dist.all_reduce(torch.ones(8), group=mine[kind])
"""


def test_a_call_that_was_left_out_in_groups_without_a_description_is_named_with_confidence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(world, "WAIT_S", 120.0)  # torch is imported on the way

    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        await world.until(lambda: _at_four(controller) == {0, 1, 2, 3}, "the ranks to begin the step")
        ctl = next(node.runtime.glob("keepers/j/ctl"))
        await world.until(lambda: len(list(ctl.glob("*.groups"))) == 4, "the ranks to tell their groups")
        known = await _captured(controller)
        assert {path.name for path in _folder(known).iterdir()} == {
            *(f"rank_{rank}.json" for rank in range(4)),
            "groups.json",
        }
        digest = model.from_json(known["digest"])
        assert {group.ranks for group in merge.merge([digest]).groups if group.told} == {
            *((0, 1, 2, 3), (0, 1), (2, 3), (0, 2), (1, 3)),
        }
        found = verdict.judge(merge.merge([digest]))
        assert (found.kind, found.culprits) == ("order-mismatch", (3,)), found.sentence
        assert found.confidence >= 0.7
        assert (_folder(known) / "groups.json").stat().st_mode & 0o777 == 0o600
        again = _analyzed(_folder(known), capsys)
        assert (again["culprits"], again["confidence"]) == ([3], found.confidence)
        (_folder(known) / "groups.json").unlink()
        assert _analyzed(_folder(known), capsys)["confidence"] < 0.7

        os.kill(pids[1], signal.SIGSTOP)
        (ctl / "0.groups").write_text('{"0": {"desc": "", "ranks": [')
        (ctl / "2.groups").unlink()
        os.mkfifo(ctl / "2.groups")
        known = await _captured(controller)
        assert any("2 ranks tell of their groups is left out; rank 0: no JSON" in note for note in known["notes"])
        told = memberships.groups((_folder(known) / "groups.json").read_bytes())
        assert {group.ranks for group in told} == {(0, 1, 2, 3), (0, 1), (2, 3), (1, 3)}, "the stopped rank's too"
        assert verdict.judge(merge.merge([model.from_json(known["digest"])])).culprits == (3,)

    asyncio.run(_play(scenario))


async def _play(scenario: Any) -> None:
    with world.node() as node:
        script = node.state / "skip.py"
        script.write_text(SCRIPT)
        spec = {"name": "j", "command": [sys.executable, str(script)], "cwd": str(node.state), "ranks_per_node": 4}
        place = {"attempt": 0, "world_size": 4, "nnodes": 1, "node_rank": 0, "ranks": [0, 1, 2, 3]}
        async with world.Controller(node.state) as controller:
            node.start()
            port = (await controller.order("reserve-port", {"wanted": 0})).result["port"]
            address = {"master_addr": "127.0.0.1", "master_port": port, "resume_path": "", "fence": []}
            started = await controller.order("start", {"spec": spec, **place, **address})
            assert started.ok, started.error
            await scenario(node, controller, {int(rank): pid for rank, pid in started.result["pids"].items()})


def _at_four(controller: world.Controller) -> set[int]:
    return {rank.rank for message in controller.marks for rank in message.ranks if rank.step == 4}


async def _captured(controller: world.Controller) -> dict[str, Any]:
    done = await controller.order("capture", {"ranks": [], "deadline_s": 20.0})
    found: dict[str, Any] = done.result["flight_recorder"]
    return found


def _folder(known: dict[str, Any]) -> Path:
    return Path(known["files"]["0"]).parent


def _analyzed(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main.main(["fr", "analyze", str(folder), "--json"]) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
