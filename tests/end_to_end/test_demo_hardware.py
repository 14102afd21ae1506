"""The demo's simulated hardware breaks: found through real pynvml and a kernel log, named, left, and mended."""

import json
import sqlite3
from typing import Any

import pytest

from outrider import vocabulary
from outrider_cli import demo_worlds
from tests.end_to_end.world import World


def demo(world: World, steps: int, faults: str, wait_s: float) -> tuple[dict[str, Any], str]:
    path = world.folder / "report.json"
    options = ["--mesh", "dp=2", "--nodes", "2", "--steps", str(steps), "--faults", faults]
    done = world.run("demo", "--headless", "--json", str(path), *options, wait_s=wait_s)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert world.left() == []
    return json.loads(path.read_text()), said


def check(report: dict[str, Any], said: str) -> dict[str, dict[str, Any]]:
    assert report["loss_equal_to_uninterrupted"] is True
    assert report["faults_not_injected"] == []
    assert all(fault["cause_right"] and fault["named"] for fault in report["faults"]), said
    incidents = {one["id"]: one for one in report["incidents"]}
    found = {fault["fault"]: incidents[fault["incident"]] for fault in report["faults"]}
    for fault in report["faults"]:
        one = found[fault["fault"]]
        assert one["suspects"]["nodes"] == [fault["node"]]
        assert one["suspects"]["gpus"]
        assert "(simulated)" in one["sentence"]
    assert "booted anew (simulated)" in said
    return found


def test_a_lost_gpu_is_named_and_left_and_a_braked_node_is_left_at_a_checkpoint(world: World) -> None:
    report, said = demo(world, 56, "gpu-lost,power-brake", 200)
    found = check(report, said)
    lost, braked = found["gpu-lost"], found["power-brake"]
    assert (lost["planned"], lost["action"], lost["cause_group"]) == (False, "restart-without-suspect", "Faulty GPU")
    assert (braked["planned"], braked["action"]) == (True, "drain-at-checkpoint")
    assert braked["lost_steps"] == 0
    assert braked["phases"]["detection_s"] == braked["phases"]["restart_s"] == 0
    assert report["bins"]["planned"] > 0
    with sqlite3.connect(f"file:{report['state_dir']}/ledger.db?mode=ro", uri=True) as ledger:
        marks = [json.loads(row[0]) for row in ledger.execute("select data from rows where kind = 'node-marked'")]
    assert [mark["mark"] for mark in marks if mark["lifts"] == "findings"] == ["cordoned", "cordoned"]
    assert any(mark["mark"] == "clear" and "is over" in mark["why"] for mark in marks)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_every_fault_of_simulated_hardware_is_named_and_costs_no_bit(world: World) -> None:
    report, said = demo(world, 140, ",".join(vocabulary.DEMO_FAULTS_SIMULATED), 650)
    found = check(report, said)
    assert {one["action"] for kind, one in found.items() if kind in demo_worlds.BREAKING} == {"restart-without-suspect"}
    assert report["by_cause"].keys() == {"gpu-lost", "gpu-processor", "gpu-memory"}
    assert report["interruptions"]["planned"] == 2
