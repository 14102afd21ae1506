"""What ranks are told of torch's flight recorder: both names, the job's word above ours, and where records appear."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_agent.keeper import environment, orders, recorder
from outrider_agent.keeper import home as homes

NEW, OLD = recorder.DUMPS
BUFFER_NEW, BUFFER_OLD = recorder.BUFFER


def rank_env(env: dict[str, str], *command: str, rank: int = 1) -> dict[str, str]:
    """The environment of a rank whose job says ``env``."""
    order = orders.Start(2, 5, 4, 1, 0, (0, 1), command or ("python", "train.py"), "/logs/attempt-2", env, "/job")
    return environment.of_rank(order, rank, "j", "n0", homes.Home(Path("/run/k/j")), {"HOME": "/home/u"})


def test_both_names_are_set_and_the_folder_is_one_of_this_generation_and_node() -> None:
    env = rank_env({})
    assert env[NEW] == env[OLD] == "/logs/attempt-2/fr/n0/generation-5/rank_"
    assert env[BUFFER_NEW] == env[BUFFER_OLD] == "2000"
    assert env[recorder.LATER] == "/run/k/j/ctl/ask_"
    assert recorder.PIPES not in env, "what the script starts before it has torch, such as a container, gets no pipe"
    assert (env["TORCH_NCCL_DUMP_ON_TIMEOUT"], env["TORCH_NCCL_EXTRA_DUMP_ON_EXEC"]) == ("1", "1")
    assert recorder.place(env, "/job") == recorder.Place((env[NEW],), "/run/k/j/ctl/ask_")


@pytest.mark.parametrize("name", [NEW, OLD])
def test_what_the_job_says_under_either_name_holds_for_both(name: str) -> None:
    env = rank_env({name: "mine_"})
    assert env[NEW] == env[OLD] == "mine_"
    assert recorder.place(env, "/job").dumps == ("/job/mine_",)


@pytest.mark.parametrize("name", [BUFFER_NEW, BUFFER_OLD])
def test_a_recorder_that_the_job_turned_off_stays_off_and_that_is_said(name: str) -> None:
    env = rank_env({name: "0"})
    assert env[BUFFER_NEW] == env[BUFFER_OLD] == "0"
    assert "turned its flight recorder off" in recorder.place(env, "/job").trouble


def test_two_different_words_of_the_job_are_both_left_and_both_looked_at() -> None:
    env = rank_env({NEW: "/a/new_", OLD: "/a/old_", recorder.PIPES: "/a/pipe_", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"})
    assert (env[NEW], env[OLD], env["TORCH_NCCL_DUMP_ON_TIMEOUT"]) == ("/a/new_", "/a/old_", "0")
    assert recorder.place(env, "/job") == recorder.Place(("/a/new_", "/a/old_"), "/a/pipe_")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("torchrun train.py", recorder.PIPES),
        ("torchrun --no-python apptainer exec image python train.py", ""),
        ("/usr/bin/python3.11 train.py", recorder.LATER),
        ("python -m torch.distributed.run --no_python docker run image", ""),
        ("apptainer exec image python train.py", ""),
    ],
)
def test_only_programs_that_run_where_we_start_them_get_a_pipe(command: str, name: str) -> None:
    env = rank_env({}, *command.split())
    assert [each for each in (recorder.PIPES, recorder.LATER) if each in env] == ([name] if name else [])
    assert recorder.LATER not in rank_env({recorder.PIPES: ""}, *command.split()), "a job that wants none has none"
    assert recorder.place(rank_env({recorder.PIPES: ""}, *command.split()), "/job").pipes == ""


SCRIPT = """
import os, subprocess, sys
show = "import os, sys; print(sys.argv[1], *(n for n in os.environ if 'PIPE' in n), flush=True)"
subprocess.run([sys.executable, "-c", show, "before"])
if "torch" in sys.argv:
    import torch
print("rank", os.environ.get("TORCH_NCCL_DEBUG_INFO_PIPE_FILE"), flush=True)
subprocess.run([sys.executable, "-c", show, "after"])
"""


@pytest.mark.parametrize("folder", ["there", "not there"])
def test_a_real_rank_lets_torch_make_a_pipe_once_it_has_torch_and_only_where_it_can(
    tmp_path: Path, folder: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    pipes = f"{tmp_path}/{folder}/ask_"
    run = "import os, runpy, sys; from outrider_agent import rank_hook; rank_hook.prepare(os.environ); "
    run += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    words = [sys.executable, "-c", run, str(tmp_path / "script.py"), "torch"]
    done = subprocess.run(words, env={**os.environ, recorder.LATER: pipes}, capture_output=True, text=True, check=True)
    given = folder == "there"
    after = f"after {recorder.PIPES}" if given else "after"
    assert done.stdout.splitlines() == ["before", f"rank {pipes if given else None}", after]
    assert ("cannot be written to, so this rank has no pipe" in done.stderr) is not given
    assert recorder.open_pipes(of_job := {recorder.PIPES: "/mine_"}, pipes) == ""
    assert of_job == {recorder.PIPES: "/mine_"}


def test_without_any_setting_torchs_own_places_are_looked_at() -> None:
    found = recorder.place({"HOME": "/home/u"}, "/job").dumps
    assert found == ("/home/u/.cache/torch/comm_lib_trace_rank_", "/tmp/nccl_trace_rank_")
    found = recorder.place({"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}, "/job").dumps
    assert found[0] == "/c/torch/comm_lib_trace_rank_"
    assert recorder.DYNAMIC in recorder.place({recorder.DYNAMIC: "True"}, "/job").trouble
