"""What it costs the agent to look: a round over the processes of 8 ranks each second, and one capture of them.

The ranks are Python scripts without torch, four asleep and four in a loop, prepared as a keeper prepares its ranks, so
their stacks come by signal. The cost is the CPU time of the looking process, its threads included.

    python bench/agent_looks.py [--rounds 1000] [--captures 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import _supervised as bench

from outrider import clock
from outrider_agent import capture, rank_look
from outrider_agent.signals import processes

RANKS: Final = 8
RANK: Final = (
    "import sys, time\nfrom outrider_agent import rank_hook\n"
    "rank_hook.prepare({'OUTRIDER_STACKS': sys.argv[1]})\nprint('up', flush=True)\n"
    "while True:\n    time.sleep(0 if int(sys.argv[2]) % 2 else 600)\n"
)


def main() -> int:
    """Measure both; 1 when a rank gave no stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--captures", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = [_start(folder, rank) for rank in range(RANKS)]
        try:
            ranks = [processes.Process("bench", 1, rank, child.pid, os.getpid()) for rank, child in enumerate(children)]
            _rounds(ranks, options.rounds)
            return asyncio.run(_captures(ranks, folder, options.captures))
        finally:
            for child in children:
                child.kill()
                child.wait()


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", RANK, str(folder / f"{rank}.stacks"), str(rank)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def _rounds(ranks: list[processes.Process], rounds: int) -> None:
    watcher = processes.Watcher("n0")
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        watcher.judge(processes.look_at_all(ranks, time.monotonic), time.time())
    took, spent = (time.perf_counter() - began) / rounds, (time.process_time() - cpu) / rounds
    print(f"one round over {len(ranks)} ranks: {spent * 1e6:.0f} us of CPU, {took * 1e6:.0f} us in all; {bench.load()}")


async def _captures(ranks: list[processes.Process], folder: Path, count: int) -> int:
    looks = capture.Capture(clock.RealClock())
    targets = [rank_look.Target(one, folder / f"{one.rank}.sock", folder / f"{one.rank}.stacks") for one in ranks]
    without = 0
    for _ in range(count):
        began, cpu = time.perf_counter(), time.process_time()
        found = (await looks.look(targets, folder, 5.0))["ranks"]
        took, spent = time.perf_counter() - began, time.process_time() - cpu
        without += sum(not one["frames"] for one in found)
        print(f"one capture of {len(found)} ranks: {took:.2f} s, {spent * 1e3:.0f} ms of CPU; {bench.load()}")
    print(f"ranks without a stack: {without}")
    return int(without > 0)


if __name__ == "__main__":
    raise SystemExit(main())
