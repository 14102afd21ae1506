"""`outrider run` of a script that knows nothing of Outrider: it is followed through what it prints."""

import os
import signal
from typing import Any

import pytest

from outrider_controller import series
from tests.agent.test_job_log import MEGATRON
from tests.end_to_end.world import World, wait_for

# Two ranks; the last one prints its steps in Megatron-LM's form, and the first one its settings.
SCRIPT = f"""
import os, pathlib, sys, time
rank, world, enough = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), pathlib.Path(sys.argv[1])
if rank == 0:
    print("  seq_length " + "." * 38 + " 512", flush=True)
for step in range(1, 10_000):
    time.sleep(0.1)
    if enough.exists():
        break
    if rank == world - 1:
        print({MEGATRON!r}.format(step=step, loss=1 / step), end="", flush=True)
"""


# Two ranks that all-reduce for ever and print nothing; the second leaves the first alone once it is told to.
SILENT = """
import datetime, os, pathlib, sys, time
import torch
import torch.distributed as dist

folder = pathlib.Path(sys.argv[1])
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=600))
goes_on = torch.ones(1)
while goes_on:
    goes_on.fill_(not (folder / "enough").exists())
    dist.all_reduce(goes_on, op=dist.ReduceOp.MIN)
    time.sleep(0.2)
    while dist.get_rank() == 1 and (folder / "spin").exists() and os.environ["OUTRIDER_ATTEMPT"] == "0":
        pass
"""


def test_a_script_that_prints_as_megatron_does_is_followed_killed_and_followed_again(world: World) -> None:
    enough = world.work / "enough"
    run = world.start("run", "--nproc-per-node", "2", "--preload", "none", world.script(SCRIPT), str(enough))

    def training(attempt: int, beyond: int) -> Any:
        seen = world.document("status")
        good = (seen["state"], seen["attempt"]) == ("training", attempt) and seen["step"] > beyond
        return seen if good else None

    wait_for(world.pids)
    seen = wait_for(lambda: training(0, 6))
    assert {one["rank"]: one["phase"] for one in seen["ranks"]} == {0: "step", 1: "step"}
    assert seen["step_s"] is not None
    assert seen["tokens_per_s"] is not None, "samples of a step times tokens of a sequence"
    assert "no marks" not in seen["sentence"]
    os.kill(world.pids()[0], signal.SIGKILL)
    seen = wait_for(lambda: training(1, 12))
    (incident,) = world.document("incidents")["incidents"]
    assert incident["cause"] == "rank-killed"
    assert incident["closed_at"] is not None
    enough.touch()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    kept = series.Series(world.state / "series.db")
    newest = kept.latest("job")
    kept.close()
    assert newest is not None
    assert newest.loss == float(f"{1 / newest.step:.6E}")
    assert newest.grad_norm == 1.5


@pytest.mark.slow
def test_a_rank_that_spins_is_found_in_a_job_that_says_nothing_at_all(world: World) -> None:
    run = world.start("run", "--nproc-per-node", "2", world.script(SILENT), str(world.work))
    wait_for(world.pids)
    wait_for(lambda: world.document("status")["state"] == "training", 120.0)
    assert {one["phase"] for one in world.document("status")["ranks"]} == {"step", "start"}, "one rank is asked"
    (world.work / "spin").touch()
    (incident,) = wait_for(lambda: world.document("incidents")["incidents"], 240.0)
    assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-hung", [1])
    wait_for(lambda: len(world.pids(1)) == 2)
    (world.work / "enough").touch()
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
