"""Which process is taken for a rank: real ones that fork and spawn helpers as data loaders do, or launch ranks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_agent.flight_recorder import family
from outrider_agent.signals import processes
from tests.agent import recorders, world

# A rank that listens on its pipe and has one worker of each kind that a DataLoader may have.
RANK = """
import json, multiprocessing, os, sys, time

def work():
    time.sleep(600)

if __name__ == "__main__":
    pipe = sys.argv[2] + os.environ["RANK"] + ".pipe"
    reader = None
    if sys.argv[3] == "pipe":
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    if len(sys.argv) > 4:
        os.environ["RANK"] = sys.argv[4]  # as scripts do that take their number from elsewhere
    kinds = ("fork", "spawn")
    workers = [multiprocessing.get_context(kind).Process(target=work) for kind in kinds]
    [one.start() for one in workers]
    said = {"rank": os.getpid(), "workers": [one.pid for one in workers]}
    open(sys.argv[1] + os.environ["RANK"] + f".{os.getpid()}", "w").write(json.dumps(said))
    time.sleep(600)
"""
LAUNCHER = """
import os, subprocess, sys
own = {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
each = [subprocess.Popen(sys.argv[1:], env={**os.environ, **own, "RANK": str(rank)}) for rank in range(2)]
[one.wait() for one in each]
"""


@contextlib.contextmanager
def started(folder: Path, *words: str, **env: str) -> Iterator[int]:
    """A process of ours in a group of its own; all of the group are ended."""
    process = subprocess.Popen(words, env={**os.environ, **env}, cwd=folder, start_new_session=True)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def told(folder: Path, ranks: int) -> dict[int, dict[str, object]]:
    """What ``ranks`` processes said of themselves and their workers, once they all have."""
    import asyncio

    def read() -> dict[int, dict[str, object]] | None:
        files = [path for path in folder.glob("said_*") if path.read_text().endswith("}")]
        found = {int(path.name.removeprefix("said_").split(".")[0]): json.loads(path.read_text()) for path in files}
        return found if len(found) == ranks else None

    return asyncio.run(world.until(read, "the ranks to begin"))


@pytest.mark.parametrize("listens", ["pipe", "no pipe"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_data_loaders_worker_is_never_taken_for_its_rank(tmp_path: Path, listens: str, wrapped: bool) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    words = [sys.executable, "rank.py", f"{tmp_path}/said_", f"{tmp_path}/ask_", listens]
    if wrapped:
        words = ["sh", "-c", "MINE=1 " + " ".join(f"'{word}'" for word in words) + "; true"]
    with started(tmp_path, *words, RANK="3", WORLD_SIZE="4", TORCHELASTIC_RUN_ID="j") as pid:
        said = told(tmp_path, 1)[3]
        found = family.of({3: pid}, "4", "j", os.geteuid())
        assert found.heads == {}, "no worker is a rank of its own"
        assert len(found.members[3]) >= 3
        is_it = found.pid_of(3, [f"{tmp_path}/ask_3.pipe"])
        # Without a pipe a shell that waits for the rank cannot be told from it.
        assert is_it == (said["rank"] if listens == "pipe" else pid)
        assert family.of({3: pid}, "4", "j", os.geteuid() + 1).told == []


def test_a_script_that_numbers_itself_and_has_workers_is_the_rank_and_not_they(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    words = [sys.executable, "rank.py", f"{tmp_path}/said_", f"{tmp_path}/ask_", "pipe", "7"]
    with started(tmp_path, *words, RANK="3", WORLD_SIZE="4", TORCHELASTIC_RUN_ID="j") as pid:
        told(tmp_path, 1)
        (tmp_path / "ask_3.pipe").rename(tmp_path / "ask_7.pipe")
        found = family.of({3: pid}, "4", "j", os.geteuid())
        assert found.pid_of(7, [f"{tmp_path}/ask_7.pipe"]) == pid


@pytest.mark.parametrize("listens", ["pipe", "no pipe"])
def test_ranks_that_a_launcher_has_numbered_are_told_from_it_and_from_their_workers(
    tmp_path: Path, listens: str
) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    words = [sys.executable, "launcher.py", sys.executable, "rank.py", f"{tmp_path}/said_", f"{tmp_path}/ask_", listens]
    with started(tmp_path, *words, RANK="0", WORLD_SIZE="1", TORCHELASTIC_RUN_ID="j") as pid:
        said = told(tmp_path, 2)
        found = family.of({0: pid}, "1", "j", os.geteuid())
        assert found.heads == {rank: one["rank"] for rank, one in said.items()}
        assert found.above == {0: 0, 1: 0}
        for rank in (0, 1):
            assert found.pid_of(rank, [f"{tmp_path}/ask_{rank}.pipe"]) == said[rank]["rank"]


HELPED = """
import os, subprocess, sys
own = dict(word.split("=") for word in sys.argv[1].split(","))
helper = subprocess.Popen(["sleep", "600"], env={**os.environ, **own})
open("helper", "w").write(str(helper.pid) + ".")
helper.wait()
"""


@pytest.mark.parametrize(
    "own", ["WORLD_SIZE=1", "WORLD_SIZE=1,TORCHELASTIC_RUN_ID=eval", "WORLD_SIZE=8,RANK=1,TORCHELASTIC_RUN_ID=eval"]
)
def test_an_evaluation_that_one_rank_starts_is_no_rank_of_the_job(tmp_path: Path, own: str) -> None:
    (tmp_path / "rank.py").write_text(HELPED)
    env = {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "j"}
    with (
        started(tmp_path, sys.executable, "rank.py", own, RANK="0", **env) as first,
        started(tmp_path, "sleep", "600", RANK="1", **env) as second,
    ):
        helper = begun(tmp_path)
        found = family.of({0: first, 1: second}, "2", "j", os.geteuid())
        assert found.numbering() is None
        assert helper in found.members[0]
        assert (found.pid_of(0, []), found.pid_of(1, [])) == (first, second)


def test_a_keeper_that_tells_no_world_makes_no_helper_a_rank(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(HELPED)
    words = (sys.executable, "rank.py", "OMP_NUM_THREADS=1")
    with started(tmp_path, *words, RANK="0", WORLD_SIZE="2", TORCHELASTIC_RUN_ID="j") as pid:
        begun(tmp_path)
        found = family.of({0: pid}, "", "", os.geteuid())
        assert found.numbering() is None
        assert found.pid_of(0, []) == pid


def begun(folder: Path) -> int:
    """The helper's pid, once it has been started."""
    import asyncio

    async def wait() -> str:
        helper = folder / "helper"
        return await world.until(
            lambda: helper.exists() and helper.read_text().endswith(".") and helper.read_text(), "it"
        )

    return int(asyncio.run(wait()).rstrip("."))


def test_workers_that_are_stopped_hold_no_rank_up_and_a_rank_that_is_stopped_is_told_although_they_run() -> None:
    async def scenario(job: recorders.Job) -> None:
        await job.start(dict.fromkeys(range(4), "whole, with workers"))
        workers = {rank: json.loads((job.begun.parent / f"workers-{rank}").read_text()) for rank in range(4)}
        for pid in workers[1]:
            os.kill(pid, signal.SIGSTOP)
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1, 2, 3], found["flight_recorder"]["notes"]
        os.kill(job.pids[2], signal.SIGSTOP)
        one = processes.Process("j", 1, 2, job.pids[2])
        await world.until(lambda: processes.look(one, 0).state == "stopped", "the stop")
        found = await job.capture(8.0)
        assert "rank 2 is stopped and was not asked" in found["flight_recorder"]["notes"]
        for pid in [pid for pids in workers.values() for pid in pids]:
            os.kill(pid, signal.SIGKILL)

    recorders.play(scenario)
