"""Real runs for the tests: the command as a process, a job without torch, and looks at what is left and recorded."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from outrider_controller import ledger
from outrider_controller.core import evolve, records
from outrider_controller.core import state as states
from tests import saves

# Ranks that count, mark their steps, and save every fifth one; a resume continues from the checkpoint it is given.
# What it saves is what a checkpoint library writes, so that it is trusted.
COUNTING_JOB = (
    f"SOUND = {saves.content(5)!r}\n"
    """\
import os, pathlib, sys, time
import outrider

steps, step_s, folder = int(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3])
rank, attempt = int(os.environ["RANK"]), os.environ["OUTRIDER_ATTEMPT"]
resume = os.environ["OUTRIDER_RESUME_FROM"]
done = int(pathlib.Path(resume).name.rpartition("-")[2]) if resume else 0
run = outrider.attach(mesh=f"dp={os.environ['WORLD_SIZE']}")
peers = sys.argv[4:] == ["coupled"] and folder / f"peers-{attempt}"

def check_peers():  # as a collective would: a peer that has gone without a word is an error
    peers.mkdir(exist_ok=True)
    (peers / str(rank)).write_text(str(os.getpid()))
    for peer in peers.glob("[0-9]*"):
        if (pid := peer.read_text()) and not (peers / f"done-{peer.name}").exists():
            stat = pathlib.Path(f"/proc/{pid}/stat")
            if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                raise ConnectionResetError("Connection reset by peer")

for step in range(done + 1, steps + 1):
    time.sleep(step_s)
    while step == steps and (folder / "hold").exists():  # a test still looks at the running job
        time.sleep(0.05)
    if peers:
        check_peers()
    run.step(step, tokens=8, loss=1 / step, grad_norm=1.0)
    if rank == 0:
        with open(folder / "journal", "a") as journal:
            journal.write(f"{attempt} {step} {os.getpid()}\\n")
        print(f"step {step}", flush=True)
        if step % 5 == 0 and run.may_commit():
            draft, final = folder / f".draft-{os.getpid()}", folder / "checkpoints" / f"step-{step}"
            draft.mkdir(parents=True)
            for name, data in SOUND.items():
                (draft / name).write_bytes(data)
            final.parent.mkdir(exist_ok=True)
            draft.rename(final)
            run.checkpoint_saved(str(final), step)
if peers:
    (peers / f"done-{rank}").touch()
"""
)


class World:
    """One state directory with what runs on it."""

    python = sys.executable

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.work = folder / "work"
        self.work.mkdir()
        self.started: list[subprocess.Popen[str]] = []
        outside = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
        self.environment = outside | {"OUTRIDER_RUNTIME": str(folder / "r"), "OUTRIDER_STATE": str(self.state)}

    def script(self, text: str, name: str = "job.py") -> str:
        path = self.work / name
        path.write_text(text)
        return str(path)

    def counting(self, steps: int, step_s: float = 0.1) -> list[str]:
        """Arguments of `outrider run` for the counting job with two ranks."""
        options = ["--nproc-per-node", "2", "--checkpoint-dir", str(self.work / "checkpoints")]
        return [*options, self.script(COUNTING_JOB), str(steps), str(step_s), str(self.work)]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`outrider ARGUMENTS` in a session of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "outrider_cli", *arguments],
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, wait_s: float = 240) -> subprocess.CompletedProcess[str]:
        """`outrider ARGUMENTS` to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=wait_s)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def document(self, *arguments: str) -> Any:
        """What `outrider ARGUMENTS --json` prints."""
        done = self.run(*arguments, "--json")
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    def journal(self) -> list[tuple[int, int, int]]:
        """Attempt, step and process id of every step that rank 0 of the counting job has done."""
        path = self.work / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(map(int, line.split())) for line in lines]  # type: ignore[misc]

    def rows(self) -> list[records.Row]:
        if not (self.state / "logs" / "agent-n0.log").exists() and not (self.state / "controller.json").exists():
            return []  # the ledger may be half made
        return [row for _, row in ledger.read(self.state / "ledger.db")]

    def recorded(self) -> states.State:
        """The state as `evolve` alone rebuilds it."""
        return evolve.evolve_all(states.State(), self.rows())

    def pids(self, attempt: int = 0) -> dict[int, int]:
        """Process of each rank of an attempt, as the ledger has it; empty before it runs."""
        ran = [
            row.result["pids"] for row in self.rows() if isinstance(row, records.EffectDone) and "pids" in row.result
        ]
        return {int(rank): pid for rank, pid in ran[attempt].items()} if len(ran) > attempt else {}

    def agent_pid(self, node: str = "n0") -> int:
        for pid, words in processes(str(self.state)):
            if "--supervise" in words and node in words:
                return pid
        raise AssertionError(f"no agent of {node} runs")

    def left(self) -> list[str]:
        """Processes that name this world on their command lines."""
        return [" ".join(words) for _, words in processes(str(self.folder))]

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for pid, _ in processes(str(self.folder)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def processes(place: str) -> list[tuple[int, list[str]]]:
    """Process id and command line of every living process that has ``place`` on its command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if place in text:
                found.append((int(entry.name), text.split("\0")))
    return found


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer of ``what``."""
    until = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
    return answer


def make() -> Iterator[World]:
    """A world that is gone afterwards. Its path is short, as sockets lie in it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="oe2e-"))
    made = World(folder)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


world = pytest.fixture(make)
