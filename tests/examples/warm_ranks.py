"""Starts the ranks of a job by forking a process that has already imported what they need.

Importing torch costs each rank two seconds of processor time, so eight ranks on two cores would spend most of a test
on it. Outrider starts ranks the same way. One order a line on standard input, one answer a line on standard output:
`{"ranks", "script", "arguments", "environment", "path", "folder", "kill": {"rank", "after"} | null, "limit_s",
"survivors_s"}` ->
`{"codes": [exit code of each rank, negative for a signal]}`. Each rank writes to `rank_<N>.out` and `.err` in folder.
"""

import ctypes
import gc
import importlib
import json
import os
import pathlib
import runpy
import signal
import socket
import sys
import time
import typing

MODULES = ("checkpoint", "data", "faults", "flops", "manifest", "mesh", "model", "options", "parallel", "pipeline")
MODULES += ("supervisor",)
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def main(script: str) -> None:
    sys.path.insert(0, str(pathlib.Path(script).parent))
    for module in MODULES:
        importlib.import_module(f"llama4d_{module}")
    importlib.import_module("torch.distributed.elastic.multiprocessing.errors")
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps({"codes": run(json.loads(line))}), flush=True)


def run(order: dict[str, typing.Any]) -> list[int]:
    """Forks the ranks of one job and returns how each ended; kills what the order says, and what is left at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [_fork(order, rank, port) for rank in range(order["ranks"])]
    running = dict(enumerate(started))
    codes: dict[int, int] = {}
    kill, limit = order["kill"], time.monotonic() + order["limit_s"]
    while running:
        for rank, pid in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[rank]
                codes[rank] = os.waitstatus_to_exitcode(status)
                limit = min(limit, time.monotonic() + order["survivors_s"]) if codes[rank] else limit
        if kill and kill["after"] in (pathlib.Path(order["folder"]) / "rank_0.out").read_text():
            os.kill(started[kill["rank"]], signal.SIGKILL)
            kill = None
        if time.monotonic() > limit:
            for pid in running.values():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[rank] for rank in range(order["ranks"])]


def _fork(order: dict[str, typing.Any], rank: int, port: int) -> int:
    folder = pathlib.Path(order["folder"])
    outputs = [folder / f"rank_{rank}.{end}" for end in ("out", "err")]
    for output in outputs:
        output.touch()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    for descriptor, path in enumerate((pathlib.Path(os.devnull), *outputs)):
        os.dup2(os.open(path, os.O_RDWR), descriptor)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(order["ranks"]),
        LOCAL_WORLD_SIZE=str(order["ranks"]),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        **order["environment"],
    )
    sys.path[:0] = order["path"]
    sys.argv = [order["script"], *order["arguments"]]
    runpy.run_path(order["script"], run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
