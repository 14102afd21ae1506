"""Ranks that died of NCCL's own time-out left dumps on their node: these name the one that they had waited for."""

import dataclasses
import time

import pytest

from outrider_controller.core import records
from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import entries
from tests.end_to_end.world import World

MESH = "dp=2,pp=1,cp=1,tp=2"
STEPS = 8
STALE_S = 600.0  # between the last call and the dump, as with torch's usual time-out

# In its first attempt all ranks but one do what torch does when the watchdog's time is over: write the dump to where
# the environment says, say so, and abort, none before all have written: the first end is everybody's. The one is
# somewhere else and never ends by itself.
TIMED_OUT_JOB = """\
import os, pathlib, resource, shutil, sys, time
import outrider

steps, folder, culprit = int(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
rank, attempt = int(os.environ["RANK"]), int(os.environ["OUTRIDER_ATTEMPT"])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
run = outrider.attach(mesh=sys.argv[4])
for step in range(1, steps + 1):
    time.sleep(0.05)
    if attempt == 0 and step == 5:
        if rank == culprit:
            time.sleep(3600)
        time.sleep(0.5)
        written = folder / "dumps" / f"rank_{rank}"
        shutil.copyfile(written, os.environ["TORCH_FR_DUMP_TEMP_FILE"] + str(rank))
        (folder / f"written-{rank}").touch()
        while len(list(folder.glob("written-*"))) < (4 if culprit < 0 else 3):
            time.sleep(0.05)
        print(f"[rank{rank}]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=41, OpType=ALLREDUCE, "
              "Timeout(ms)=600000) ran for 600029 milliseconds before timing out.", file=sys.stderr, flush=True)
        os.abort()
    run.step(step)
"""


def case(name: str) -> flight_recorder.Case:
    """The simulated hang, as of now."""
    made = flight_recorder.make(3, name=name, mesh=MESH)
    late = max(rank.time for rank in made.run.ranks) + STALE_S
    return dataclasses.replace(made, recorder=entries.Recorder(made.run, time.time_ns() - int(late * 1e9)))


@pytest.mark.parametrize("name", ["stuck-tp", pytest.param("wrong-size", marks=pytest.mark.slow)])
def test_the_dumps_that_dead_ranks_left_name_the_one_that_they_had_waited_for(world: World, name: str) -> None:
    made = case(name)
    [culprit] = made.truth.culprits
    flight_recorder.write(made, world.work)
    options = ["--nproc-per-node", "4", "--stall-s", "0", "--job", "dead"]
    script = world.script(TIMED_OUT_JOB)
    stays = str(culprit if name == "stuck-tp" else -1)
    done = world.run("run", *options, script, str(STEPS), str(world.work), stays, MESH, wait_s=200)
    assert done.returncode == 0, done.stderr
    [incident] = world.document("incidents")["incidents"]
    found = incident["flight_recorder"]
    assert found is not None, incident["evidence"]
    assert found["culprits"] == [culprit], found
    if name == "stuck-tp":
        assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-hung", [culprit])
        assert found["ranks_read"] == 3
    else:
        assert (incident["cause"], incident["suspects"]["nodes"]) == ("collective-mismatch", [])
    asked = [row for row in world.rows() if isinstance(row, records.EffectRequested) and row.name == "capture-evidence"]
    assert [row.incident for row in asked] == [incident["id"]]
    assert world.left() == []
