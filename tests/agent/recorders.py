"""Ranks whose flight records can be asked for without NCCL: processes that do what torch's monitor thread does.

``SCRIPT`` makes the pipe that torch would make (``<prefix><rank>.pipe``, opened for reading without waiting), reads it
about as torch does, and when something comes writes the rank's dump to where torch would write it: plainly, to the
final name. The dumps themselves are made by the simulator. It stands for ProcessGroupNCCL's heartbeat monitor and is
none: no NCCL and no GPU is here, so what torch does beyond that (locks it takes, stacks it waits for) is not tested.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from outrider_analysis.flight_recorder import merge, model, verdict
from outrider_simulator import flight_recorder
from tests.agent import world

MESH = "dp=2,pp=1,cp=1,tp=2"
SCRIPT = """
import http.server, importlib, json, multiprocessing, os, pathlib, socketserver, sys, threading, time

if __name__ != "__main__":
    time.sleep(600)  # a worker that was spawned

EMPTY = b'{"version": "2.10", "pg_config": {}, "pg_status": {}, "comm_lib_version": ""}'

rank = int(os.environ["RANK"])
dumps, begun = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
how = json.loads(sys.argv[3]).get(str(rank), "whole")
data = (dumps / f"rank_{rank}").read_bytes()
target = os.environ.get("TORCH_FR_DUMP_TEMP_FILE", os.environ["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"]) + str(rank)

def write(*pieces, pause=0.4):
    with open(target, "wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)
            time.sleep(pause)

def answer():
    third = len(data) // 3
    if how in ("whole", "itself", "whole, with workers"):
        write(data, pause=0)
    elif how == "slow":
        write(data[:third], data[third:2 * third], data[2 * third:])
    elif how == "cut, then whole":
        write(data[:third] + b".", pause=0.8)
        write(data, pause=0)
    elif how == "hostile":
        write(b"cos\\nsystem\\n(Vtouch " + str(begun).encode() + b"/owned\\ntR.", pause=0)
    elif how == "huge":
        with open(target, "wb") as file:
            file.truncate(1 << 30)

def serve():
    # torch's worker server in a build with NCCL: each handler is asked for by POST, and unknown ones give 404.
    record = (dumps.parent / "json" / f"rank_{rank}").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            name = self.path.rpartition("/")[2]
            known = {"dump_nccl_trace_pickle": data, "dump_nccl_trace_json": record, "fr_trace_json": EMPTY}
            if name == "dump_nccl_trace_pickle":
                (begun / f"stacks-asked-{rank}-{time.monotonic_ns()}").touch()
            if name == "dump_nccl_trace_pickle" and how == "socket, lock held":
                time.sleep(600)
            self.send_response(200 if name in known else 404)
            self.end_headers()
            self.wfile.write(known.get(name, b"not found"))

        def log_message(self, *_):
            pass

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    server = Server(os.environ["TORCH_WORKER_SERVER_SOCKET"], Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

if how == "itself":
    answer()
if how.startswith("socket"):
    serve()
sys.path.insert(0, str(begun.parent / "empty"))
importlib.import_module("torch.distributed")  # at which the hook of a rank lets torch make a pipe; unseen by the keeper
pipe = os.environ["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] + f"{rank}.pipe"
reader = None
if how not in ("no pipe", "itself") and not how.startswith("socket"):
    os.mkfifo(pipe)
    if how == "no reader":
        pass
    else:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
if how.endswith("with workers"):
    workers = [multiprocessing.get_context(kind).Process(target=time.sleep, args=(600,)) for kind in ("fork", "spawn")]
    [one.start() for one in workers]
    (begun.parent / f"workers-{rank}").write_text(json.dumps([one.pid for one in workers]))
(begun / str(rank)).touch()
launcher = os.getppid() if "LAUNCHED" in os.environ else 0
while True:
    time.sleep(0.1)
    if launcher and os.getppid() != launcher:
        os._exit(9)  # torchrun's workers end with it too
    if (begun / f"end-{rank}").exists():
        os._exit(7)
    try:
        if reader is not None and os.read(reader, 128):
            answer()
    except BlockingIOError:
        pass
"""
# What torchrun is to its workers: one process of ours, whose children are the ranks, with settings of its own.
LAUNCHER = """
import os, subprocess, sys
own = {"LAUNCHED": "1"}
own |= {"TORCH_FR_DUMP_TEMP_FILE": os.getcwd() + "/inner_", "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": os.getcwd() + "/ask_"}
each = [subprocess.Popen(sys.argv[1:], env={**os.environ, **own, "RANK": str(rank)}) for rank in range(4)]
[one.wait() for one in each]
"""
Scenario = Callable[["Job"], Awaitable[None]]


class Job:
    """A job of four ranks on one node that is stuck as the simulator made it."""

    def __init__(self, node: world.Node, controller: world.Controller, truth: flight_recorder.Truth) -> None:
        self.node = node
        self.controller = controller
        self.truth = truth
        self.pids: dict[int, int] = {}
        self.begun = node.state / "begun"

    async def start(
        self,
        how: dict[int, str],
        generation: int = 1,
        env: dict[str, str] | None = None,
        launcher: bool | tuple[str, ...] = False,
        attempt: int = 0,
        limits: dict[str, int] | None = None,
    ) -> None:
        """Start the ranks; each does as ``how`` says, or answers its pipe. ``launcher``: a rank of ours starts them, by
        these words where there are any.
        """
        script = self.node.state / "recorders.py"
        script.write_text(SCRIPT)
        self.begun.mkdir(exist_ok=True)
        for path in self.begun.iterdir():
            path.unlink()
        empty = self.node.state / "empty" / "torch" / "distributed"
        empty.mkdir(parents=True, exist_ok=True)
        for path in (empty, empty.parent):
            (path / "__init__.py").touch()
        words = [sys.executable, str(script), str(self.node.state / "dumps"), str(self.begun), json.dumps(how)]
        ranks = [0] if launcher else [0, 1, 2, 3]
        if isinstance(launcher, tuple):
            words = [*launcher, *words[1:]]
        elif launcher:
            (self.node.state / "launcher.py").write_text(LAUNCHER)
            words = [sys.executable, str(self.node.state / "launcher.py"), *words]
        spec = {
            "name": "j",
            "command": words,
            "cwd": str(self.node.state),
            "ranks_per_node": len(ranks),
            "env": env or {},
            "limits": limits or {},
        }
        place = {"attempt": attempt, "world_size": len(ranks), "nnodes": 1, "node_rank": 0, "ranks": ranks}
        address = {"master_addr": "127.0.0.1", "master_port": 29999, "resume_path": "", "fence": []}
        started = await self.controller.order("start", {"spec": spec, **place, **address}, generation=generation)
        assert started.ok, started.error
        self.pids = {int(rank): pid for rank, pid in started.result["pids"].items()}
        await world.until(lambda: len(list(self.begun.iterdir())) == 4, "the ranks to begin")

    async def capture(self, within_s: float = 20.0, generation: int = 1, ranks: tuple[int, ...] = ()) -> dict[str, Any]:
        """The result of one capture."""
        args = {"ranks": ranks, "deadline_s": within_s}
        done = await self.controller.order("capture", args, generation=generation)
        assert done.ok, done.error
        assert set(done.result) == {"ranks", "flight_recorder"}
        found: dict[str, Any] = done.result
        return found

    async def end(self, *ranks: int) -> None:
        """Have ranks end, and wait until that is told."""
        for rank in ranks:
            (self.begun / f"end-{rank}").touch()
        await world.until(
            lambda: {one.rank for one in self.controller.observed("rank-exited")} >= set(ranks), "the ranks' ends"
        )


def play(scenario: Scenario, seed: int = 5, ring: int = 100, **started: Any) -> None:
    """Run ``scenario`` with an agent and, below its state directory, the dumps of a job that is stuck."""

    async def all_of_it() -> None:
        with world.node() as node:
            settings = flight_recorder.Settings(ring=ring)
            case = flight_recorder.make(seed, name="stuck-tp", mesh=MESH, settings=settings)
            flight_recorder.write(case, node.state)
            (node.state / "json").mkdir()
            as_json = flight_recorder.make(
                seed, name="stuck-tp", mesh=MESH, settings=flight_recorder.Settings(ring=ring, form="json")
            )
            for rank, body in as_json.dumps():
                (node.state / "json" / f"rank_{rank}").write_bytes(body)
            async with world.Controller(node.state) as controller:
                node.start(**started)
                await scenario(Job(node, controller, case.truth))

    asyncio.run(all_of_it())


def digest(found: dict[str, Any]) -> model.NodeDigest:
    """The digest in the result of a capture, as the controller reads it from the wire."""
    return model.from_json(json.loads(json.dumps(found["flight_recorder"]["digest"])))


def ranks(found: dict[str, Any]) -> list[int]:
    """Whose records are in the digest of a capture's result."""
    return [one.rank for one in digest(found).ranks] if found["flight_recorder"]["digest"] else []


def verdict_of(found: dict[str, Any]) -> Any:
    """What the analyzer makes of the digest."""
    return verdict.judge(merge.merge([digest(found)]))


def kept(found: dict[str, Any]) -> dict[int, Path]:
    """The files kept on the node, by rank."""
    return {int(rank): Path(path) for rank, path in found["flight_recorder"]["files"].items()}
