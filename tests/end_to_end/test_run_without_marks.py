"""`outrider run` of a script that knows nothing of Outrider: it is followed through what it prints."""

import os
import signal
from typing import Any

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
