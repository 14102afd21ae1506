"""The faults that can be asked for, and what happens to a job that meets one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.examples import job

GROUPS = """
import datetime, sys
import torch.distributed as dist
import llama4d_mesh, llama4d_parallel, llama4d_supervisor
launch = llama4d_supervisor.launch()
llama4d_parallel.start(launch, llama4d_mesh.parse("tp=2,cp=1"), 17.0)
for group in dist.distributed_c10d._world.pg_map:
    backend = group._get_backend(llama4d_parallel.torch.device("cpu"))
    print(group.group_desc, backend.options._timeout.total_seconds())
dist.destroy_process_group()
"""


def test_every_process_group_has_the_time_out_that_was_asked_for(start: job.Starter, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "groups.py"
    script.write_text(GROUPS)
    ended = start(2, script=script)
    assert ended.codes == [0, 0], ended.errors
    found = dict(line.rsplit(" ", 1) for line in ended.output.splitlines())
    assert {"mesh_pp", "mesh_cp", "mesh_dp_cp", "mesh_tp", "checkpoint"} < set(found)
    assert set(found.values()) == {"17.0"}


@pytest.mark.parametrize("mesh", ["pp=2", "tp=2"])
def test_ranks_that_wait_for_a_stuck_one_end_at_the_time_out(start: job.Starter, mesh: str) -> None:
    ended = start(2, "--mesh", mesh, "--timeout-s", "2", "--slow-rank", "1:3600", survivors_s=0.0)
    assert ended.codes == [1, -9]
    assert "timed out" in ended.errors.lower()
    assert ended.metrics == []


def test_a_raising_rank_ends_the_job_and_says_which_step(start: job.Starter) -> None:
    ended = start(2, "--mesh", "cp=2", "--steps", "4", "--raise-at", "3:1")
    assert 0 not in ended.codes
    assert "RuntimeError: rank 1 was told by --raise-at to fail in step 3" in ended.errors
    assert [line["step"] for line in ended.metrics] == [1, 2]


def test_a_raising_job_raises_again_after_a_restart(start: job.Starter) -> None:
    ended = start(1, "--steps", "4", "--raise-at", "3", environment={"TORCHELASTIC_RESTART_COUNT": "1"})
    assert ended.codes == [1]


def test_a_loss_that_turned_nan_is_reported_and_never_saved(start: job.Starter, tmp_path: pathlib.Path) -> None:
    saving = ["--checkpoint-dir", str(tmp_path), "--checkpoint-every", "2"]
    ended = start(2, "--mesh", "pp=2", "--steps", "4", "--nan-at", "3", *saving)
    assert ended.codes == [0, 0], ended.errors
    assert [line["loss_hex"] == "nan" for line in ended.metrics] == [False, False, True, True]
    assert ended.metrics[2]["loss"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002-attempt-000"]
    assert "step 4 is not finite, so it was not saved" in ended.errors


def test_the_loss_turns_nan_in_the_first_attempt_alone(start: job.Starter) -> None:
    ended = start(1, "--steps", "2", "--nan-at", "2", environment={"OUTRIDER_ATTEMPT": "1"})
    assert ended.metrics[1]["loss"] is not None


@pytest.mark.slow
def test_torchrun_restarts_a_killed_job_and_no_bit_differs(start: job.Starter, tmp_path: pathlib.Path) -> None:
    arguments = ["--mesh", "dp=2", "--steps", "8", "--checkpoint-every", "2"]
    reference = start(2, *arguments, "--checkpoint-dir", str(tmp_path / "reference"))
    metrics = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--standalone", str(job.SCRIPT), *arguments, "--step-floor-s", "0.5"]
    command += ["--checkpoint-dir", str(tmp_path / "saves"), "--metrics", str(metrics)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as torchrun:
        assert torchrun.stdout is not None
        for line in torchrun.stdout:
            if line.startswith("step 5/8") and not json.loads(metrics.read_text().splitlines()[-1])["attempt"]:
                os.kill(_newest_child(torchrun.pid), signal.SIGKILL)
    assert torchrun.returncode == 0
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert {line["attempt"] for line in lines} == {0, 1}
    assert job.Ended([], "", "", lines).bits() == reference.bits()


def _newest_child(pid: int) -> int:
    """A rank that torchrun started."""
    for _ in range(100):
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[-1])
        time.sleep(0.05)
    raise AssertionError(f"torchrun {pid} has no children")
