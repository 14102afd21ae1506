"""The real job with one rank that hangs: nobody is told, the right rank is named, and no bit is lost."""

import json
import os
import pathlib
import signal
from typing import Any

import pytest

from outrider import mesh
from outrider_cli import demo_injector, demo_job
from outrider_controller.core import records
from tests.end_to_end.world import World, wait_for

pytestmark = pytest.mark.timeout(900)

TRAIN = demo_job.TRAIN
STEPS = 14
BUSY_S = 800  # patience with a machine that does other things as well


class Job:
    """Two ranks under `outrider run`, looked at after three seconds of silence."""

    def __init__(self, world: World, *more: str) -> None:
        self.world, self.folder = world, world.work
        options = ["--nproc-per-node", "2", "--job", "hung", "--stall-s", "3"]
        options += ["--checkpoint-dir", str(self.folder / demo_job.CHECKPOINTS)]
        self.job = demo_job.DemoJob(mesh.parse("tp=2"), STEPS, 0, 3)
        script = self.job.command(self.folder, 0.1)[1:]
        self.process = world.start("run", *options, *script, "--eval-every", "4", "--timeout-s", "600", *more)

    def tell(self, fault: str, point: str) -> None:
        demo_injector.tell(self.folder / demo_job.FAULTS, fault, point)

    def steps(self) -> list[int]:
        return [line.step for line in demo_job.lines(self.folder / demo_job.METRICS)]

    def end(self) -> list[dict[str, Any]]:
        """Its incidents, once it has trained to the end; every line is compared with every other of its step."""
        _, err = self.process.communicate(timeout=BUSY_S)
        assert self.process.returncode == 0, err
        assert set(self.steps()) == set(range(1, STEPS + 1))
        lines = demo_job.lines(self.folder / demo_job.METRICS)
        assert len({(line.step, line.bits) for line in lines}) == STEPS
        assert self.world.left() == []
        found: list[dict[str, Any]] = self.world.document("incidents")["incidents"]
        return found


def blamed(incident: dict[str, Any]) -> list[int]:
    """Whom the flight records name, in any finding."""
    found = incident["flight_recorder"]
    named = {rank for finding in found["findings"] for rank in finding["culprits"]}
    assert sorted(named) == found["culprits"], found
    return sorted(named)


@pytest.mark.parametrize("point", ["checkpoint", pytest.param("evaluation", marks=pytest.mark.slow)])
def test_a_rank_that_spins_while_the_other_waits_is_named_with_its_stack(world: World, point: str) -> None:
    job = Job(world)
    wait_for(lambda: len(job.steps()) >= 4, BUSY_S)
    job.tell("spin.1", point)
    [incident] = job.end()
    assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-hung", [1])
    assert "llama4d_faults.py" in json.dumps(incident["evidence"])
    assert blamed(incident) == [1]
    assert incident["flight_recorder"]["sentence"] in json.dumps(incident["evidence"], ensure_ascii=False)
    taken = json.loads((job.folder / demo_job.FAULTS / "spin.1.taken").read_text())
    assert taken["point"] == point


def test_a_stopped_rank_is_named_though_it_cannot_answer(world: World) -> None:
    job = Job(world)
    wait_for(lambda: len(job.steps()) >= 4, BUSY_S)
    os.kill(world.pids()[0], signal.SIGSTOP)
    [incident] = job.end()
    assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-stopped", [0])
    assert blamed(incident) == [0]
    assert sum(isinstance(row, records.AttemptPlanned) for row in world.rows()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stop", "spin"])
@pytest.mark.parametrize("point", ["start", "before-load", "load", "first-step"])
def test_a_rank_that_hangs_in_a_restart_is_named_too(world: World, kind: str, point: str) -> None:
    job = Job(world)
    wait_for(lambda: len(job.steps()) >= 4, BUSY_S)
    job.tell(f"{kind}.0", point)
    os.kill(world.pids()[1], signal.SIGKILL)
    incidents = job.end()
    assert incidents[0]["cause"] == "rank-killed"
    assert (incidents[-1]["cause"], incidents[-1]["suspects"]["ranks"]) == (
        "rank-stopped" if kind == "stop" else "rank-hung",
        [0],
    )
    assert incidents[-1]["attempt_after"] == 2


@pytest.mark.slow
def test_a_nan_is_restarted_once_from_before_it(world: World) -> None:
    job = Job(world)
    wait_for(lambda: len(job.steps()) >= 4, BUSY_S)
    job.tell("nan", "step")
    _, err = job.process.communicate(timeout=BUSY_S)
    assert job.process.returncode == 0, err
    [incident] = world.document("incidents")["incidents"]
    assert incident["cause"] == "loss-nan"
    taken = json.loads(pathlib.Path(job.folder, demo_job.FAULTS, "nan.taken").read_text())
    assert (incident["from_checkpoint"]["step"] or 0) < taken["step"]
    good = [line for line in demo_job.lines(job.folder / demo_job.METRICS) if line.finite]
    assert {line.step for line in good} == set(range(1, STEPS + 1))
    assert len({(line.step, line.bits) for line in good}) == STEPS
