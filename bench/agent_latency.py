"""How long until the controller knows: an Xid on the kernel log, a port that goes down, an NVML call that hangs.

A real controller runs in this process, a real agent beside it on eight pretended GPUs, a kernel log that is a FIFO
(like /dev/kmsg it tells that there is more), and a made tree with one InfiniBand port. The time is from the change to
the moment at which the controller counts it among the node's findings. The Xid is done so many times, on another GPU
each; the others once. The design asks for under 1 s, under 2 s and under 10 s.

    python bench/agent_latency.py [--times 5]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import _supervised as bench

from outrider_controller import controller as controllers
from outrider_controller import settings as settings_module
from outrider_simulator import fake_nvml

NODE: Final = "n0"
WAIT_S_MAX: Final = 120.0
REACH_S: Final = {"xid": 1.0, "port-down": 2.0, "nvml-hang": 10.0}
# Of unlike GPUs, each an Xid that was not there before.
XIDS: Final = (79, 48, 62, 95, 119, 74, 64, 109, 110, 120)


def main() -> int:
    """Measure; 1 where a reach was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="olate-"))
    try:
        return asyncio.run(_measured(folder, options.times))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _measured(folder: Path, times: int) -> int:
    given = settings_module.Settings(state=folder / "state", port=0, log_to_stderr=False)
    house = controllers.Controller(given)
    await house.start()
    house.tokens.make_node(NODE)
    made = _Node(folder)
    process = made.start()
    try:
        await _until(lambda: house.nodes.link(NODE) is not None, "the agent")
        await asyncio.sleep(8)  # every signal has looked, the helpers wait for events
        print(f"measuring {times} times; {bench.load()}", flush=True)
        return await _all(_Watch(house), made, times)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        await house.stop()


async def _all(watch: _Watch, made: _Node, times: int) -> int:
    missed = 0
    for kind, begin in (("xid", made.xid), ("port-down", made.port_down), ("nvml-hang", made.hang)):
        rounds = range(times if kind == "xid" else 1)
        took = [await watch.seconds(kind, functools.partial(begin, number)) for number in rounds]
        worst, median = max(took), statistics.median(took)
        missed += worst >= REACH_S[kind]
        print(f"{kind}: median {median:.2f} s, at most {worst:.2f} s of {len(took)}; asked: {REACH_S[kind]:g} s")
    print(bench.load())
    return int(missed > 0)


class _Watch:
    """Looks at the controller every few milliseconds."""

    def __init__(self, house: controllers.Controller) -> None:
        self._house = house

    async def seconds(self, kind: str, begin: Callable[[], None]) -> float:
        """From ``begin`` until one more finding of this kind stands."""
        before = self._count(kind)
        began = time.monotonic()
        begin()
        await _until(lambda: self._count(kind) > before, kind)
        return time.monotonic() - began

    def _count(self, kind: str) -> int:
        return sum(seen.kind == kind for seen in self._house.nodes.findings(NODE))


class _Node:
    """What the agent looks at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fifo = folder / "kmsg"
        os.mkfifo(self._fifo)
        self._gpus = fake_nvml.World(folder / "nvml")
        self._port = folder / "sys" / "class" / "infiniband" / "mlx5_0" / "ports" / "1"
        self._port.mkdir(parents=True)
        for name, text in (("state", "4: ACTIVE"), ("phys_state", "5: LinkUp"), ("rate", "400 Gb/sec (4X NDR)")):
            (self._port / name).write_text(f"{text}\n")
        (self._port / "link_layer").write_text("InfiniBand\n")

    def start(self) -> subprocess.Popen[bytes]:
        """The agent."""
        words = [sys.executable, "-m", "outrider_cli", "agent", "--node", NODE, "--state", str(self._folder / "state")]
        words += ["--nvml-library", str(self._gpus.library), "--kernel-log", str(self._fifo)]
        words += ["--sysfs", str(self._folder / "sys")]
        environment = os.environ | {"OUTRIDER_RUNTIME": str(self._folder / "r")}
        with (self._folder / "agent.log").open("wb") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=environment)

    def xid(self, number: int) -> None:
        """A line of the kernel."""
        pci = f"0000:{0x10 + number:02x}:00"
        line = (
            f"3,{number + 1},{number + 1}000000,-;NVRM: Xid (PCI:{pci}): {XIDS[number % len(XIDS)]}, pid=1, a fault\n"
        )
        with self._fifo.open("w") as file:
            file.write(line)

    def port_down(self, number: int) -> None:
        """The port's state, as sysfs tells it."""
        (self._port / "phys_state").write_text("2: Polling\n")
        (self._port / "state").write_text("1: DOWN\n")

    def hang(self, number: int) -> None:
        """A call that does not come back."""
        self._gpus.hang(1, "nvmlDeviceGetFieldValues")


async def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"never came: {what}")
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    raise SystemExit(main())
