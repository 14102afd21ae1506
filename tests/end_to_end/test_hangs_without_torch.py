"""A job without torch that hangs: its ranks meet through sockets; stacks and processes alone tell who holds it up."""

import json
import os
import signal

import pytest

from outrider_controller.core import records
from tests.end_to_end.world import World, wait_for

# Every step all ranks tell rank 0 that they have come, and wait for its answer. Where the file ``spin`` names a rank,
# that rank burns a core instead, once; ``slow`` makes one work for long in ever changing places.
MEETING_JOB = """\
import os, pathlib, socket, sys, time
import outrider

steps, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
rank, world, attempt = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["OUTRIDER_ATTEMPT"]
address = str(folder / f"meet-{attempt}")
run = outrider.attach(mesh=f"dp={world}")

def listen():
    server = socket.socket(socket.AF_UNIX)
    server.bind(address + "-draft")
    server.listen(world)
    os.rename(address + "-draft", address)
    return [server.accept()[0] for _ in range(world - 1)]

def connect():
    while not os.path.exists(address):
        time.sleep(0.02)
    link = socket.socket(socket.AF_UNIX)
    link.connect(address)
    return [link]

def receive(link):
    if not link.recv(1):
        raise ConnectionResetError("Connection reset by peer")

def meet(links):
    if rank == 0:
        for link in links:
            receive(link)
    for link in links:
        link.send(b"x")
    if rank != 0:
        receive(links[0])

def asked(what):
    path = folder / what
    try:
        found = path.read_text()  # the rank that it names may take it away meanwhile
    except FileNotFoundError:
        return False
    if found != str(rank):
        return False
    path.unlink()
    return True

def shuffle():
    while True:
        pass

def first(until):
    while time.monotonic() < until:
        yield

def second(until):
    while time.monotonic() < until:
        yield

def work_for_long():
    end = time.monotonic() + 9
    while time.monotonic() < end:
        for _ in first(min(end, time.monotonic() + 0.3)):
            pass
        time.sleep(0.3)
        for _ in second(min(end, time.monotonic() + 0.3)):
            pass

links = listen() if rank == 0 else connect()
for step in range(1, steps + 1):
    time.sleep(0.05)
    if asked("spin"):
        shuffle()
    if asked("slow"):
        work_for_long()
    meet(links)
    run.step(step)
    if rank == 0:
        (folder / "step").write_text(str(step))
"""
STEPS = 40


class Meeting:
    """Four ranks that meet every step."""

    def __init__(self, world: World) -> None:
        self.world = world
        script = world.script(MEETING_JOB)
        self.process = world.start(
            "run", "--nproc-per-node", "4", "--stall-s", "3", "--job", "meeting", script, str(STEPS), str(world.work)
        )
        wait_for(lambda: self.step() >= 4)

    def step(self) -> int:
        try:
            return int((self.world.work / "step").read_text() or 0)
        except FileNotFoundError:
            return 0

    def ask(self, what: str, rank: int) -> None:
        """Have a rank do something; the file is whole from its first moment on."""
        draft = self.world.work / f"{what}-draft"
        draft.write_text(str(rank))
        draft.rename(self.world.work / what)

    def end(self) -> list[dict[str, object]]:
        """Its incidents, once it is through."""
        _, err = self.process.communicate(timeout=200)
        assert self.process.returncode == 0, err
        found: list[dict[str, object]] = self.world.document("incidents")["incidents"]
        return found


def test_a_rank_that_spins_in_its_own_code_is_named_with_the_function(world: World) -> None:
    job = Meeting(world)
    job.ask("spin", 2)
    [incident] = job.end()
    assert (incident["cause"], incident["suspects"]) == (
        "rank-hung",
        {"ranks": [2], "gpus": [], "nodes": ["n0"], "links": []},
    ), json.dumps(incident)
    assert " in shuffle" in json.dumps(incident["evidence"])
    assert " in receive" in json.dumps(incident["evidence"]), "and what the others waited in"


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_stopped_rank_is_named_by_its_process_alone(world: World, rank: int) -> None:
    job = Meeting(world)
    os.kill(world.pids()[rank], signal.SIGSTOP)
    [incident] = job.end()
    assert (incident["cause"], incident["suspects"]) == (
        "rank-stopped",
        {"ranks": [rank], "gpus": [], "nodes": ["n0"], "links": []},
    ), json.dumps(incident)


@pytest.mark.slow
def test_a_rank_that_works_for_long_is_looked_at_and_left_alone(world: World) -> None:
    job = Meeting(world)
    job.ask("slow", 1)
    assert job.end() == []
    rows = world.rows()
    assert any(isinstance(row, records.Suspected) for row in rows)
    assert any(isinstance(row, records.Resumed) for row in rows)
    assert sum(isinstance(row, records.AttemptPlanned) for row in rows) == 1
