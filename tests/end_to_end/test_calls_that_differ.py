"""Real gloo ranks of which one makes another call than its peers, in groups that carry no description."""

from typing import Any

import pytest

from outrider_controller.core import records
from tests.end_to_end.world import World

pytestmark = pytest.mark.timeout(600)

STEPS = 9
# The fault strikes in the first attempt alone, as where data had led there.
JOB = """\
import datetime, os, sys, time
import torch
import torch.distributed as dist
import outrider

steps, fault = int(sys.argv[1]), sys.argv[2]
run = outrider.attach()
long = datetime.timedelta(seconds=600)
dist.init_process_group("gloo", timeout=long)
rank, mine = dist.get_rank(), {}
for kind, lists in {"quad": [[0, 1, 2, 3]], "row": [[0, 1], [2, 3]], "column": [[0, 2], [1, 3]]}.items():
    for ranks in lists:
        group = dist.new_group(ranks, timeout=long)
        if rank in ranks:
            mine[kind] = group

def reduce(kind, count=8):
    dist.all_reduce(torch.ones(count), group=mine[kind])

for step in range(1, steps + 1):
    time.sleep(0.1)
    wrong = rank == 2 and step == 5 and os.environ["OUTRIDER_ATTEMPT"] == "0"
    reduce("row")
    if not wrong or fault != "skip":
        reduce("quad", 9 if wrong and fault == "size" else 8)
    reduce("column")
    reduce("quad")
    run.step(step)
"""


def played(world: World, fault: str) -> dict[str, Any]:
    """The one incident of a job that trains to its end after it."""
    pytest.importorskip("torch")
    options = ["--nproc-per-node", "4", "--stall-s", "3", "--job", "differs"]
    done = world.run("run", *options, world.script(JOB), str(STEPS), fault, wait_s=500)
    assert done.returncode == 0, done.stderr
    assert world.left() == []
    [incident] = world.document("incidents")["incidents"]
    assert incident["cause"] == "collective-mismatch", incident["evidence"]
    assert incident["suspects"]["nodes"] == [], "it is no node's fault"
    assert [row.decision for row in world.rows() if isinstance(row, records.Decided)] == ["restart"]
    found: dict[str, Any] = incident
    return found


def test_a_size_for_which_gloo_ends_an_innocent_rank_is_a_mismatch_and_blames_nobody(world: World) -> None:
    incident = played(world, "size")
    assert incident["suspects"]["ranks"] == []
    assert "bytes from a peer where its call takes" in incident["sentence"], incident
    assert "(all_reduce at job.py:18 in reduce)" in incident["sentence"]


@pytest.mark.slow
def test_a_call_that_was_left_out_is_named_with_confidence(world: World) -> None:
    incident = played(world, "skip")
    assert incident["suspects"]["ranks"] == [2]
    assert incident["confidence"] >= 0.7
    assert incident["flight_recorder"]["culprits"] == [2]
    assert "skipped a call" in incident["sentence"], incident["sentence"]
