"""What a training script says, and that saying it can never harm the training."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

import outrider
from outrider import marks, mesh

RANK = {"RANK": "3", "LOCAL_RANK": "1", "OUTRIDER_JOB": "llama", "OUTRIDER_GENERATION": "7"}


class Agent:
    """The far end of the marks: a bound datagram socket that is read when the test wants."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "marks.sock"
        self.environ = {**RANK, "OUTRIDER_MARKS": str(self.path)}
        self.open()

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(str(self.path))

    def heard(self) -> list[dict[str, Any]]:
        found = []
        while True:
            try:
                found.append(json.loads(self.socket.recv(65536)))
            except BlockingIOError:
                return found


@pytest.fixture
def agent() -> Iterator[Agent]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="or-"))
    made = Agent(folder)
    yield made
    made.socket.close()
    shutil.rmtree(folder)


def test_a_run_is_told_from_attach_to_done(agent: Agent) -> None:
    run = outrider.attach(mesh=mesh.parse("dp=2,tp=2"), flops_per_token=1.5, environ=agent.environ)
    run.step(1, tokens=4096, loss=2.5, grad_norm=0.5)
    with run.phase("checkpoint"):
        run.checkpoint_saved(pathlib.Path("/ckpt/1"), 1)
    run.close()
    run.step(2)
    heard = agent.heard()
    who = {"v": 1, "rank": 3, "local_rank": 1, "pid": os.getpid(), "job": "llama", "gen": 7}
    assert all(who.items() <= mark.items() for mark in heard)
    assert all(mark["at"] > 1.7e9 for mark in heard)
    told = [{k: v for k, v in mark.items() if k not in who and k != "at"} for mark in heard]
    assert told == [
        {"kind": "attach", "mesh": "dp=2,tp=2,pp=1,cp=1", "flops": 1.5, "phase": "start"},
        {"kind": "step", "step": 1, "tokens": 4096.0, "loss": 2.5, "grad_norm": 0.5},
        {"kind": "begin", "phase": "checkpoint"},
        {"kind": "checkpoint", "path": "/ckpt/1", "step": 1},
        {"kind": "end", "phase": "checkpoint"},
        {"kind": "done"},
    ]
    assert run.dropped == 0


def test_numbers_that_json_lacks_are_told_as_text(agent: Agent) -> None:
    run = outrider.attach(environ=agent.environ)
    run.step(1, loss=float("nan"), grad_norm=float("inf"), tokens=-float("inf"))
    mark = agent.heard()[-1]
    assert (mark["loss"], mark["grad_norm"], mark["tokens"]) == ("nan", "inf", "-inf")


def test_without_a_supervisor_every_call_does_nothing() -> None:
    run = outrider.attach(mesh="dp=2", environ={})
    with run.phase("load"):
        run.step(1, loss=1.0)
    run.checkpoint_saved("/x", 1)
    run.close()
    assert (run.dropped, run.may_commit(), run.resume_from) == (0, True, "")


def test_an_absent_agent_costs_marks_and_nothing_else(agent: Agent) -> None:
    agent.socket.close()
    agent.path.unlink()
    run = outrider.attach(environ=agent.environ)
    for step in range(5):
        run.step(step)
    assert run.dropped == 5
    agent.open()
    run.step(5)
    # What is said once was kept for this.
    assert [mark["kind"] for mark in agent.heard()] == ["attach", "step"]


def test_a_full_socket_never_blocks_and_what_is_said_once_is_said_later(agent: Agent) -> None:
    run = outrider.attach(environ=agent.environ)
    for step in range(5000):
        run.step(step)
    run.checkpoint_saved("/ckpt/5000", 5000)
    taken = len(agent.heard())
    assert run.dropped == 5000 - (taken - 1)
    run.step(5001)
    assert [mark["kind"] for mark in agent.heard()] == ["checkpoint", "step"]


def test_marks_kept_for_later_are_bounded(agent: Agent) -> None:
    agent.socket.close()
    run = outrider.attach(environ=agent.environ)
    for step in range(100):
        run.checkpoint_saved("/ckpt", step)
    assert len(run._kept) == marks.KEPT_MAX
    assert run.dropped == 101 - marks.KEPT_MAX


class Hostile:
    """Whatever is done with it raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name}")


def test_no_argument_can_make_a_call_raise(agent: Agent) -> None:
    run = outrider.attach(mesh=Hostile(), flops_per_token=Hostile(), environ=agent.environ)  # type: ignore[arg-type]
    bad: Any = Hostile()
    for value in (bad, "text", [1], {}, object(), "x" * 100_000, 10**400):
        run.step(value, tokens=value, loss=value, grad_norm=value)
        run.checkpoint_saved(value, value)
        with run.phase(value):
            pass
    assert all(mark["kind"] in ("attach", "step", "begin", "end", "checkpoint") for mark in agent.heard())
    assert run.dropped > 0


class OnDevice:
    """A tensor whose value lies on a GPU: reading it would wait for the device."""

    class device:  # noqa: N801
        type = "cuda"

    def __float__(self) -> float:
        raise AssertionError("the step was held up")


class Spread(OnDevice):
    """A DTensor on the CPU: reading it would wait for other ranks."""

    placements = ()

    class device:  # noqa: N801
        type = "cpu"


@pytest.mark.parametrize("value", [OnDevice(), Spread()])
def test_a_value_that_is_not_at_hand_is_left_out(agent: Agent, value: object) -> None:
    run = outrider.attach(environ=agent.environ)
    run.step(1, loss=value)
    assert agent.heard()[-1]["loss"] is None


def test_numbers_of_numpy_and_torch_are_taken(agent: Agent) -> None:
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    run = outrider.attach(environ=agent.environ)
    run.step(numpy.int64(4), tokens=numpy.int32(8), loss=torch.tensor(2.5), grad_norm=numpy.float32(0.5))
    mark = agent.heard()[-1]
    assert (mark["step"], mark["tokens"], mark["loss"], mark["grad_norm"]) == (4, 8.0, 2.5, 0.5)


def test_an_environment_that_makes_no_sense_is_said_once_and_harms_nothing(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    run = outrider.attach(environ={**agent.environ, "RANK": "first"})
    run.step(1)
    assert agent.heard() == []
    assert capsys.readouterr().err.count("no marks are sent") == 1


def test_a_forked_helper_says_nothing_in_its_ranks_name(agent: Agent) -> None:
    run = outrider.attach(environ=agent.environ)
    helper = os.fork()
    if helper == 0:
        run.step(99)
        run.close()
        os._exit(0)
    os.waitpid(helper, 0)
    run.step(1)
    assert [(mark["kind"], mark.get("step")) for mark in agent.heard()] == [("attach", None), ("step", 1)]


def test_a_script_that_ends_says_that_it_is_done(agent: Agent) -> None:
    code = "import outrider; run = outrider.attach(); run.step(1)"
    subprocess.run(_bare("-c", code), env={**agent.environ}, check=True)
    assert [mark["kind"] for mark in agent.heard()] == ["attach", "step", "done"]


def test_the_client_loads_in_a_bare_interpreter_and_brings_nothing_heavy() -> None:
    code = (
        "import sys; import outrider; run = outrider.attach(); run.step(1, loss=0.1)\n"
        "heavy = {'asyncio', 'dataclasses', 'logging', 'numpy', 'subprocess', 'threading', 'torch'}\n"
        "print(outrider.__version__, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(_bare("-c", code), env={}, check=True, capture_output=True, text=True)
    assert done.stdout == f"{outrider.__version__} []\n"


def _bare(*words: str) -> list[str]:
    """An interpreter with nothing but the standard library and the folder that holds the client."""
    folder = pathlib.Path(outrider.__file__).parents[1]
    start = f"import sys; sys.path.append({str(folder)!r}); "
    return [sys.executable, "-I", "-S", words[0], start + words[1]]
