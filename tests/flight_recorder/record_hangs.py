"""Records hangs of the example job: flight records and the agent's look at each rank, with the truth.

    python tests/flight_recorder/record_hangs.py [--out FOLDER]

Every rank of `examples/llama4d` is forked from one process that has imported what it needs, and answers the agent as a
rank that it started does. A fault file makes one rank spin or stop itself at a point of the job, or a signal stops it
wherever it is. Once the others have come to rest the agent's look is taken, and each rank's flight record as its
control socket gives it. Nothing here knows how they are judged.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import gzip
import importlib
import json
import os
import pathlib
import runpy
import signal
import socket
import sys
import tempfile
import time
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from outrider import mesh as meshes
from outrider_agent import rank_hook
from outrider_agent.signals import control
from tests.flight_recorder import record_campaign

SCRIPT = record_campaign.ROOT / "examples" / "llama4d" / "train.py"
OUT = record_campaign.OUT.parent / "hangs"
MODULES = ("checkpoint", "data", "faults", "flops", "manifest", "mesh", "model", "options", "parallel", "pipeline")
RING = 60
STARTED_S_MAX = 240.0
QUIET_S = 12.0
ASK_S = 5.0
EARLY = ("start", "before-load", "load", "first-step")
BY_TWO, BY_FOUR = "dp=2,pp=2,cp=1,tp=2", "dp=1,pp=4,cp=1,tp=2"


@dataclass(frozen=True)
class Hang:
    """``kind``: spin or stop at ``point`` of the job, or signal, ``after_s`` seconds after its second step."""

    kind: str
    rank: int
    point: str
    mesh: str = BY_TWO
    after_s: float = 0.0

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return f"{self.kind}-{self.rank}-{self.point}-pp{dict(meshes.parse(self.mesh).axes)['pp']}"


HANGS = (
    Hang("spin", 4, "start"),
    Hang("stop", 3, "before-load"),
    Hang("spin", 3, "first-step"),
    Hang("spin", 5, "step"),
    Hang("stop", 2, "step"),
    Hang("spin", 6, "evaluation"),
    Hang("stop", 0, "checkpoint"),
    Hang("signal", 6, "anywhere", after_s=0.35),
    Hang("signal", 1, "anywhere", after_s=1.23),
    Hang("spin", 3, "step", BY_FOUR),
    Hang("stop", 0, "step", BY_FOUR),
    Hang("signal", 5, "anywhere", BY_FOUR, 0.6),
)


def record(hang: Hang) -> dict[str, typing.Any]:
    """Run the job, hang it, and gather what its ranks tell."""
    world = meshes.parse(hang.mesh).world_size
    with tempfile.TemporaryDirectory(prefix="hang-") as place, socket.socket() as probe:
        folder = pathlib.Path(place)
        (folder / "faults").mkdir()
        if hang.point in EARLY:
            _order(hang, folder)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        pids = {rank: _fork(hang, rank, world, port, folder) for rank in range(world)}
        try:
            _strike(hang, folder, pids)
            looks = asyncio.run(record_campaign.look(pids, folder))
            dumps = asyncio.run(_dumps(hang, pids, folder))
        finally:
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    truth = {"fault": hang.kind, "point": hang.point, "culprits": [hang.rank]}
    taken = dict.fromkeys(dumps, time.time_ns())
    return {"mesh": hang.mesh, "truth": truth, "dumps": dumps, "taken_ns": taken, "looks": looks}


def _fork(hang: Hang, rank: int, world: int, port: int, folder: pathlib.Path) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    for number in (0, 1, 2):
        os.dup2(os.open(os.devnull if number == 0 else folder / f"log_{rank}", os.O_RDWR | os.O_CREAT), number)
    os.environ.update({
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        rank_hook.CONTROL_SOCKET: str(folder / f"control_{rank}"),
        rank_hook.STACKS_FILE: str(folder / f"stacks_{rank}"),
    })  # fmt: skip
    rank_hook.prepare(os.environ)
    options = {
        "mesh": hang.mesh, "steps": 100_000, "timeout-s": 600, "faults-dir": folder / "faults",
        "metrics": folder / "metrics", "checkpoint-dir": folder / "ck", "checkpoint-every": 3, "eval-every": 4,
    }  # fmt: skip
    sys.argv = [str(SCRIPT), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        os._exit(1)


def _order(hang: Hang, folder: pathlib.Path) -> None:
    (folder / "faults" / f"{hang.kind}.{hang.rank}").write_text(hang.point)


def _strike(hang: Hang, folder: pathlib.Path, pids: Mapping[int, int]) -> None:
    """Hang the job, and wait until the ranks that are left have used next to no processor time for a while."""
    metrics, taken = folder / "metrics", folder / "faults" / f"{hang.kind}.{hang.rank}.taken"
    if hang.point not in EARLY:
        _until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, folder)
        time.sleep(hang.after_s)
        if hang.kind == "signal":
            os.kill(pids[hang.rank], signal.SIGSTOP)
        else:
            _order(hang, folder)
    if hang.kind != "signal":
        _until(taken.exists, folder)
    since, before = time.monotonic(), _used(hang, pids)
    while time.monotonic() - since < QUIET_S:
        time.sleep(1.0)
        now = _used(hang, pids)
        if now - before > 5 * len(pids):
            since = time.monotonic()
        before = now


def _until(there: typing.Callable[[], bool], folder: pathlib.Path) -> None:
    until = time.monotonic() + STARTED_S_MAX
    while not there():
        time.sleep(0.05)
        if time.monotonic() > until:
            raise SystemExit(f"nothing after {STARTED_S_MAX:.0f} s:\n{(folder / 'log_0').read_text()[-2000:]}")


def _used(hang: Hang, pids: Mapping[int, int]) -> int:
    """Ticks of processor time that all ranks but the hung one have used."""
    stats = [pathlib.Path(f"/proc/{pid}/stat").read_text() for rank, pid in pids.items() if rank != hang.rank]
    return sum(sum(map(int, stat.rpartition(")")[2].split()[11:13])) for stat in stats)


async def _dumps(hang: Hang, pids: Mapping[int, int], folder: pathlib.Path) -> dict[str, str]:
    """The flight records, in base 64; a stopped rank gives none."""
    asked = [rank for rank in pids if hang.kind == "spin" or rank != hang.rank]
    found = {}
    for rank in asked:
        answer = await control.ask(folder / f"control_{rank}", control.FLIGHT_RECORDER, ASK_S)
        found[str(rank)] = base64.b64encode(answer).decode()
    return found


def main() -> None:
    """Record all hangs, each in a process of its own."""
    options = argparse.ArgumentParser(description="record hangs of the example job")
    options.add_argument("--out", type=pathlib.Path, default=OUT, help="folder for the records")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", TORCH_FR_BUFFER_SIZE=str(RING))
    sys.path.insert(0, str(SCRIPT.parent))
    for module in MODULES:
        importlib.import_module(f"llama4d_{module}")
    importlib.import_module("torch.distributed.elastic.multiprocessing.errors")
    gc.freeze()
    for hang in HANGS:
        written = gzip.compress(json.dumps(record(hang), sort_keys=True).encode(), 9, mtime=0)
        (chosen.out / f"{hang.name}.json.gz").write_bytes(written)
        print(f"{hang.name}: {len(written)} bytes", flush=True)


if __name__ == "__main__":
    main()
