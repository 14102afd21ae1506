"""What the signals of host and fabric cost: CPU time of each at its own period, on the made node with 3,000 processes.

The files lie on an ordinary file system, so what a real driver adds to a read (a port's state asks its firmware) is not
in it; nor is the process that asks systemd once a minute.

    python -m tests.agent.cost_of_signals
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from outrider_agent.signals import catalog
from tests.agent import looking, trees

PROCESSES = 3_000
LOOKS_S = 600.0
LOOKS_MIN = 10


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        node, clock = trees.healthy(Path(folder)), looking.Clock()
        for pid in range(10_000, 10_000 + PROCESSES):
            node.process(pid, f"rank{pid}")
        total = 0.0
        for signal in catalog.all_signals(catalog.Roots(node.sysfs, node.procfs, expected_mounts=("/ckpt",)), clock):
            signal.read()
            looks = max(LOOKS_MIN, int(LOOKS_S / signal.period_s))
            begun = time.process_time()
            for _ in range(looks):
                clock.move(signal.period_s)
                signal.read()
            each_s = (time.process_time() - begun) / looks
            total += each_s / signal.period_s
            print(
                f"{signal.name:12} {each_s * 1e3:6.2f} ms each {signal.period_s:3.0f} s: {each_s / signal.period_s:.3%}"
            )
        print(f"together {total:.2%} of a core")


if __name__ == "__main__":
    main()
