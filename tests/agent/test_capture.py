"""The order ``capture`` with real keepers and real ranks: waiting, spinning, stopped, traced, frozen, killed meanwhile,
holding the interpreter lock, and without Python."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from outrider import records
from outrider_agent import bounded, capture, evidence, rank_look
from outrider_agent.keeper import home
from outrider_agent.signals import control, processes, stacks
from outrider_analysis.flight_recorder import status
from tests.agent import world

# One behaviour a rank; each says that it has begun by a file of its name.
SCRIPT = """
import os, pathlib, re, sys, threading, time

def wait_on_a_pipe():
    os.read(os.pipe()[0], 1)

def spin_in_python():
    count = 0
    while True:
        count += 1
        count -= 1

def hold_the_interpreter_lock():
    re.match("(a+)+$", "a" * 64 + "b")

threading.Thread(target=time.sleep, args=(600,), daemon=True, name="a helper").start()
what = [wait_on_a_pipe, spin_in_python, hold_the_interpreter_lock]
rank = int(os.environ["RANK"])
pathlib.Path(sys.argv[1], str(rank)).touch()
what[rank % 3]()
"""
Scenario = Callable[[world.Node, world.Controller, dict[int, int]], Awaitable[None]]


def play(scenario: Scenario, command: list[str] | None = None, ranks: int = 3, user: str = "") -> None:
    """Run ``scenario`` with ``ranks`` ranks that have begun; it is given their pids."""

    async def all_of_it() -> None:
        with world.node() as node:
            begun = node.state / "begun"
            begun.mkdir()
            script = node.state / "ranks.py"
            script.write_text(SCRIPT)
            words = command or [sys.executable, str(script), str(begun)]
            spec = {"name": "j", "command": words, "cwd": str(node.state), "ranks_per_node": ranks}
            if user:
                node.state.parent.chmod(0o755)
                node.state.chmod(0o755)
                spec["user"] = user
            place = {"attempt": 0, "world_size": ranks, "nnodes": 1, "node_rank": 0, "ranks": list(range(ranks))}
            address = {"master_addr": "127.0.0.1", "master_port": 29999, "resume_path": "", "fence": []}
            async with world.Controller(node.state) as controller:
                node.start()
                started = await controller.order("start", {"spec": spec, **place, **address})
                assert started.ok, started.error
                if command is None:
                    await world.until(lambda: len(list(begun.iterdir())) == ranks, "the ranks to begin")
                await scenario(node, controller, {int(rank): pid for rank, pid in started.result["pids"].items()})

    asyncio.run(all_of_it())


async def look(controller: world.Controller, *ranks: int, **args: Any) -> dict[int, records.RankEvidence]:
    """What a capture tells, by rank."""
    result = await controller.order("capture", {"ranks": ranks, **args})
    assert result.ok, result.error
    found = [records.RankEvidence(**{**one, "frames": tuple(one["frames"])}) for one in result.result["ranks"]]
    return {one.rank: one for one in found}


def names(one: records.RankEvidence) -> list[str]:
    """Functions of the stack, innermost first."""
    return [frame.partition(" in ")[2] for frame in one.frames]


def test_ranks_without_torch_answer_with_their_stacks_whatever_holds_them() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        found = await look(controller)
        assert sorted(found) == [0, 1, 2]
        assert {rank: one.pid for rank, one in found.items()} == pids
        waits, spins, holds = (found[rank] for rank in range(3))
        assert names(waits)[:2] == ["wait_on_a_pipe", "<module>"]
        assert waits.frames[0].startswith(f"{node.state}/ranks.py:5 in ")
        assert (waits.state, waits.moved, waits.pending, waits.cpu) == ("sleeping", False, None, 0.0)
        assert "pipe" in waits.blocked_on
        assert names(spins)[0] == "spin_in_python"
        assert (spins.state, spins.moved) == ("running", False), "another line of a loop is no movement"
        assert spins.cpu is not None
        assert spins.cpu > 0
        assert "hold_the_interpreter_lock" in names(holds)[:5]
        assert {one.answered for one in found.values()} <= {"faulthandler", "py-spy"}
        assert all("has not loaded torch" in one.error for one in found.values())
        assert all(world.alive(pid) for pid in pids.values())

    play(scenario)


def test_the_whole_answer_is_kept_privately_beside_the_logs() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        one = (await look(controller, 0))[0]
        kept = Path(one.file)
        assert kept.parent == node.state / "logs" / "j" / "evidence"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
        whole = json.loads(kept.read_text())
        assert (whole["rank"], whole["pid"], whole["job"], len(whole["looks"])) == (0, pids[0], "j", 2)
        assert "wait_on_a_pipe" in whole["stacks"][0]
        assert {thread["state"] for thread in whole["kernel"]["threads"]} == {"sleeping"}
        again = (await look(controller, 0))[0]
        assert again.file != one.file

    play(scenario)


def test_a_stopped_rank_is_seen_stopped_and_is_not_asked() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        os.kill(pids[0], signal.SIGSTOP)
        await world.until(lambda: processes.look(_process(pids[0]), 0).state == "stopped", "the stop")
        found = await look(controller)
        assert (found[0].state, found[0].cpu) == ("stopped", 0.0)
        assert "it is stopped" in found[0].error
        assert found[0].answered in ("proc", "py-spy")
        assert names(found[1])[0] == "spin_in_python", "the others answer as ever"
        stacks_file = home.of(node.runtime, "j").stacks(0)
        assert len(stacks_file.read_text().splitlines()) == 1, "no signal waits for it"

    play(scenario)


def test_a_rank_killed_while_it_is_looked_at_is_told_as_gone() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        threading.Timer(0.3, os.kill, (pids[1], signal.SIGKILL)).start()
        found = await look(controller)
        assert found[1].state in ("gone", "zombie")
        assert "ended" in found[1].error
        assert names(found[0])[0] == "wait_on_a_pipe"
        later = await look(controller, 0, 1)
        assert (later[1].state, later[1].answered) == ("gone", "none")
        assert "does not run on n0" in later[1].error

    play(scenario)


def test_a_rank_that_is_no_python_is_looked_at_and_never_signalled() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        one = (await look(controller))[0]
        assert (one.answered, one.frames, one.state) == ("proc", (), "sleeping")
        assert "no Python" in one.error
        assert world.alive(pids[0])

    play(scenario, ["/bin/sleep", "600"], ranks=1)


def test_a_handler_of_the_scripts_own_is_never_called() -> None:
    text = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGUSR2, lambda *_: os._exit(3))\n"
        "def train():\n    print('begun', flush=True)\n    time.sleep(600)\n"
        "train()\n"
    )

    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        log = node.state / "logs" / "j" / "attempt-0" / "rank_0.log"
        await world.until(lambda: "begun" in log.read_text(), "the script")
        assert names((await look(controller))[0])[0] == "train"
        assert world.alive(pids[0])
        assert log.read_text() == "begun\n", "the rank's log stays its own"

    with world.short_directory() as folder:
        (folder / "own.py").write_text(text)
        play(scenario, [sys.executable, str(folder / "own.py")], ranks=1)


def test_a_job_that_is_not_here_or_was_started_anew_is_no_job_that_hangs() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        other = await controller.order("capture", {"ranks": []}, job="other")
        assert "no rank of job other runs on n0" in other.error
        old = await controller.order("capture", {"ranks": []}, generation=0)
        assert "is at generation 1, not 0" in old.error
        wrong = await controller.order("capture", {"ranks": [], "deadline_s": 1e9})
        assert "deadline_s" in wrong.error
        assert world.alive(pids[0])

    play(scenario, ranks=1)


def test_the_answer_is_the_same_when_the_order_comes_again_and_after_another_agent() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        first = await controller.order("capture", {"ranks": []}, order="look")
        again = await controller.order("capture", {"ranks": []}, order="look")
        assert first.result == again.result
        node.agents[0].kill()
        node.agents[0].wait()
        node.start()
        await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        one = (await look(controller, 0))[0]
        assert names(one)[0] == "wait_on_a_pipe"
        assert Path(one.file).exists(), "where the job logs is known to the next agent"

    play(scenario, ranks=1)


# --- looks at single processes ----------------------------------------------------------------------------------------


def test_a_rank_whose_socket_never_answers_holds_nothing_up() -> None:
    async def scenario(folder: Path) -> None:
        silent = socket.socket(socket.AF_UNIX)
        silent.bind(str(folder / "0.sock"))
        silent.listen()
        child = _spawn("import time\nprint('up', flush=True)\ntime.sleep(600)")
        try:
            began = time.monotonic()
            (one,) = await _look(folder, [child.pid], 1.5)
            took = time.monotonic() - began
            assert took < 1.5 + capture.KEEP_S + 1.0 + world.WAIT_S, "bounded, however busy the machine"
            assert (one["answered"], one["state"], one["pending"]) == ("proc", "sleeping", None)
            assert "gave no answer within" in one["error"]
        finally:
            child.kill()
            child.wait()
            silent.close()

    _with_folder(scenario)


def test_a_question_that_the_kernel_never_answers_ends_with_the_deadline() -> None:
    async def scenario(folder: Path) -> None:
        blocked = threading.Event()
        threads = bounded.Threads()
        try:
            with pytest.raises(bounded.CouldNotLook, match=r"no answer within 0\.05 s"):
                await threads.ask("a dead disk", blocked.wait, 0.05)
            with pytest.raises(bounded.CouldNotLook, match="has not come back yet"):
                await threads.ask("a dead disk", lambda: None, 5.0)
            assert await threads.ask("a living disk", lambda: 7, 5.0) == 7
            with pytest.raises(OSError, match="no such thing"):
                await threads.ask("a broken disk", _raise, 5.0)
        finally:
            blocked.set()
        await world.until(lambda: not threads.asking, "the late answer")
        assert await threads.ask("a dead disk", lambda: 8, 5.0) == 8

    _with_folder(scenario)


def test_a_traced_process_is_no_fault_and_is_not_signalled() -> None:
    async def scenario(folder: Path) -> None:
        child = _spawn(
            "import ctypes, os, signal, sys\n"
            "pid = os.fork()\n"
            "if not pid:\n"
            "    if ctypes.CDLL(None).ptrace(0, 0, 0, 0):\n        os._exit(9)\n"
            "    os.kill(os.getpid(), signal.SIGUSR1)\n    os._exit(0)\n"
            "os.waitpid(pid, os.WUNTRACED)\nprint(pid, flush=True)\nsys.stdin.read()"
        )
        try:
            assert child.stdout is not None
            pid = int(child.stdout.readline())
            if not world.alive(pid):
                pytest.skip("this machine lets no process be traced")
            seen = processes.look(_process(pid), 0.0)
            assert (seen.state, seen.how) == ("traced", "")
            (one,) = await _look(folder, [pid], 2.0)
            assert one["state"] == "traced"
            assert "it is traced" in one["error"]
            watcher = processes.Watcher("n0")
            assert [watcher.judge({_process(pid): seen}, at) for at in (1.0, 2.0, 3.0)] == [[], [], []]
        finally:
            child.kill()
            child.wait()

    _with_folder(scenario)


def test_a_pid_that_is_another_process_by_now_is_never_signalled() -> None:
    async def scenario(folder: Path) -> None:
        child = _spawn("import time\nprint('up', flush=True)\ntime.sleep(600)")
        try:
            (folder / "0.stacks").write_text(f"{child.pid} 7 0x1\n")
            strange = rank_look.Target(
                processes.Process("j", 1, 0, child.pid, parent=1), folder / "0.sock", folder / "0.stacks"
            )
            answer = await capture.Capture(_Clock()).look([strange], folder, 2.0)
            assert answer["ranks"][0]["state"] == "gone"
            with pytest.raises(stacks.NoStack, match="not prepared"):
                stacks.ask_by_signal(child.pid, 0, folder / "0.stacks", 0.1)
            assert child.poll() is None, "the signal would have ended it"
        finally:
            child.kill()
            child.wait()

    _with_folder(scenario)


def test_a_link_in_the_log_directory_is_not_followed() -> None:
    async def scenario(folder: Path) -> None:
        (folder / "elsewhere").mkdir()
        (folder / "logs").mkdir()
        (folder / "logs" / "evidence").symlink_to(folder / "elsewhere")
        with pytest.raises(OSError, match="evidence"):
            evidence.keep(folder / "logs", "a.json", b"{}")
        assert not list((folder / "elsewhere").iterdir())

    _with_folder(scenario)


def test_evidence_stays_within_its_bounds_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(folder: Path) -> None:
        monkeypatch.setattr(evidence, "FILES_MAX", 3)
        monkeypatch.setattr(evidence, "FOLDER_BYTES_MAX", 250)
        for number in range(5):
            path = evidence.keep(folder, f"{number}.json", b"x" * 100)
            os.utime(path, (number, number))
        assert sorted(path.name for path in (folder / "evidence").iterdir()) == ["3.json", "4.json"]
        with pytest.raises(OSError, match="at most"):
            evidence.keep(folder, "big.json", b"x" * (evidence.FILE_BYTES_MAX + 1))

    _with_folder(scenario)


class _Clock:
    """The machine's clock."""

    now, monotonic = staticmethod(time.time), staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _look(folder: Path, pids: list[int], within_s: float) -> list[dict[str, Any]]:
    targets = [
        rank_look.Target(processes.Process("j", 1, rank, pid), folder / f"{rank}.sock", folder / f"{rank}.stacks")
        for rank, pid in enumerate(pids)
    ]
    found: list[dict[str, Any]] = (await capture.Capture(_Clock()).look(targets, folder, within_s))["ranks"]
    return found


def _process(pid: int) -> processes.Process:
    return processes.Process("j", 1, 0, pid)


def _spawn(text: str) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    if "print('up'" in text:
        assert child.stdout.readline() == b"up\n"
    return child


def _with_folder(scenario: Callable[[Path], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        with world.short_directory() as folder:
            await scenario(folder)

    asyncio.run(all_of_it())


def _raise() -> None:
    raise OSError("no such thing")


def test_the_control_socket_of_a_rank_says_what_is_wrong_with_it() -> None:
    async def scenario(folder: Path) -> None:
        with pytest.raises(control.NoSocket, match="has not loaded torch"):
            await control.ask(folder / "none.sock", control.TRACEBACK, 1.0)

        async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"what?\r\n\r\n")
            writer.close()

        async with await asyncio.start_unix_server(rude, str(folder / "rude.sock")):
            with pytest.raises(control.ControlError, match="speaks no HTTP"):
                await control.ask(folder / "rude.sock", control.TRACEBACK, 5.0)

    _with_folder(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run ranks as another user")
def test_an_agent_of_root_looks_at_ranks_of_another_user_and_keeps_the_answers_to_itself() -> None:
    if (python := _python_of_everyone()) is None:
        pytest.skip("no interpreter that another user may run together with this checkout")

    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        def stack() -> Path:
            return home.of(node.runtime, "j").stacks(0)

        await world.until(lambda: stack().exists() and stack().read_bytes(), "the rank to be prepared")
        assert Path(f"/proc/{pids[0]}").stat().st_uid != 0
        for _ in range(10):
            one = (await look(controller))[0]
            if "wait_on_a_pipe" in names(one):
                break
        assert names(one)[0] == "wait_on_a_pipe"
        kept = Path(one.file)
        assert (kept.stat().st_uid, kept.parent.stat().st_uid) == (0, 0)
        assert kept.parent.parent.stat().st_uid != 0

    with world.short_directory() as folder:
        folder.chmod(0o755)
        (folder / "begun").mkdir(mode=0o777)
        (folder / "begun").chmod(0o777)
        (folder / "ranks.py").write_text(SCRIPT)
        play(scenario, [python, str(folder / "ranks.py"), str(folder / "begun")], ranks=1, user="nobody")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_agent_that_may_not_look_at_a_process_says_so() -> None:
    if (python := _python_of_everyone()) is None:
        pytest.skip("no interpreter that another user may run together with this checkout")
    program = (
        "import asyncio, json, pathlib, sys\n"
        "from outrider import clock\nfrom outrider_agent import capture, rank_look\n"
        "from outrider_agent.signals import processes\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "one = processes.Process('j', 1, 0, int(sys.argv[2]))\n"
        "target = rank_look.Target(one, folder / '0.sock', folder / '0.stacks')\n"
        "print(json.dumps(asyncio.run(capture.Capture(clock.RealClock()).look([target], folder, 3.0))))\n"
    )
    child = _spawn("import time\nprint('up', flush=True)\ntime.sleep(600)")
    try:
        with world.short_directory() as folder:
            folder.chmod(0o755)
            (folder / "0.stacks").write_text(f"{child.pid} 7 0x1\n")
            (folder / "0.stacks").chmod(0o600)
            (folder / "0.sock").touch(0o600)
            done = subprocess.run(
                [python, "-c", program, str(folder), str(child.pid)],
                user="nobody", capture_output=True, text=True, check=False, env={"PYTHONPATH": _python_path()},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        (one,) = json.loads(done.stdout)["ranks"]
        assert (one["state"], one["answered"], one["frames"], one["file"]) == ("sleeping", "proc", [], "")
        assert "Permission denied" in one["error"]
        assert "not kept" in one["error"]
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def _python_of_everyone() -> str | None:
    """An interpreter that may run the agent as somebody else."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            words = [python, "-c", "import msgspec, outrider_agent.capture"]
            environment = {"PYTHONPATH": _python_path()}
            if subprocess.run(words, user="nobody", capture_output=True, check=False, env=environment).returncode == 0:
                return python
        except OSError:
            continue
    return None


def _python_path() -> str:
    """Where the packages lie, for an interpreter that was not installed with them."""
    outer = {records: 1, capture: 1, status: 2, msgspec: 1}  # how far above each its package's folder lies
    return os.pathsep.join(str(Path(str(module.__file__)).parents[depth]) for module, depth in outer.items())
