"""How fast this machine's cores multiply matrices, measured: the peak that a utilisation on a CPU is a share of.

A CPU has no line in a table of peaks, so the demo measures one: fp32 matrices, one thread a core, the best of as many
products as fit into MEASURE_S, in a process of its own that imports torch and ends. What other programs take at the
time is missing from it, so it is a lower bound of what the machine can do.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

MEASURE_S: Final = 1.5
SIDE: Final = 1024  # of a square matrix: 2 GFLOP a product, so that dozens of them fit
CHILD_S_MAX: Final = 60.0  # importing torch is most of it, and slow on a busy machine

CHILD: Final = """
import os, sys, time, torch
side, seconds = int(sys.argv[1]), float(sys.argv[2])
torch.set_num_threads(len(os.sched_getaffinity(0)))
left, right, out = (torch.rand(side, side) for _ in range(3))
best, until = float("inf"), time.perf_counter() + seconds
while time.perf_counter() < until:
    began = time.perf_counter()
    torch.mm(left, right, out=out)
    best = min(best, time.perf_counter() - began)
print(2 * side**3 / best / 1e12)
"""


def measured_tflops() -> float | None:
    """TFLOP/s of all cores together in fp32; None where it could not be measured."""
    command = [sys.executable, "-c", CHILD, str(SIDE), str(MEASURE_S)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_S_MAX, check=True)
        found = float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return found if found > 0 else None
