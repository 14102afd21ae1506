"""What reading eight GPUs each second costs, and how soon a call that never returns is known and its GPU left alone.

Real pynvml over the fake library, so the calls themselves cost what the fake's cost, not a driver's. Processor time is
that of the agent's side and of the helper, in per cent of one core; the hang is measured from the moment it begins to
the first sweep that tells it, and to the one that says that it lasts too long.

    python bench/nvml.py [--seconds 20]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from outrider_agent import readings
from outrider_agent.signals import nvml, nvml_events, power
from outrider_simulator import fake_nvml

HELD: Final = "nvmlDeviceGetTemperatureV"


def main() -> int:
    """Measure; 1 when a sweep was not whole or the hang was not told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bus/pci/devices").mkdir(parents=True)
        world = fake_nvml.World(folder / "node")
        world.set(None, "load", fake_nvml.steady(0.8).noise(0.05, 1))
        gpus = nvml.Nvml(world.library, sysfs=folder, devfs=folder)
        events = nvml_events.NvmlEvents(gpus)
        try:
            whole = _cost(gpus, events, power.Power(gpus), options.seconds)
            told = _hang(gpus, world)
        finally:
            events.close()
            gpus.close()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return int(not (whole and told))


def _cost(gpus: nvml.Nvml, events: nvml_events.NvmlEvents, watts: power.Power, seconds: int) -> bool:
    first = gpus.read()
    events.read()
    _sleep(1.0)
    events.read()
    pid = gpus.readers.pid or 0
    helpers = [pid, *_event_helpers(pid)]
    ours, theirs = time.process_time(), [_processor_s(one) for one in helpers]
    took: list[float] = []
    states: list[str] = []
    begun = time.monotonic()
    for number in range(1, seconds + 1):
        sweep = gpus.read()
        took.append(sweep.duration_s)
        states.append(sweep.state)
        watts.read()
        for _ in range(4):  # as often as the signal is looked at
            events.read()
        _sleep(begun + number - time.monotonic())
    wall = time.monotonic() - begun
    used = [_processor_s(one) - was for one, was in zip(helpers, theirs, strict=True)]
    took.sort()
    print(f"first look {first.duration_s:.2f} s, {len(first.readings)} readings; later {len(sweep.readings)} and more")
    print(
        f"{seconds} looks a second apart: median {statistics.median(took) * 1e3:.1f} ms,"
        f" p99 {took[min(len(took) - 1, int(0.99 * len(took)))] * 1e3:.1f} ms, longest {took[-1] * 1e3:.1f} ms"
    )
    print(
        f"processor: agent's side {(time.process_time() - ours) / wall:.2%} (power and events included),"
        f" helper {used[0] / wall:.2%}, event helper {sum(used[1:]) / wall:.2%} of a core"
    )
    resident = ", ".join(f"{_resident(one) / 2**20:.1f}" for one in helpers)
    print(
        f"resident: helpers {resident} MiB; not shared with others {sum(map(_own, helpers)) / 2**20:.1f} MiB together"
    )
    return set(states) == {"ok"}


def _hang(gpus: nvml.Nvml, world: fake_nvml.World) -> bool:
    begun = time.monotonic()
    fault = world.hang(3, HELD)
    seen: dict[str, float] = {}
    others = 0.0
    last = begun
    while time.monotonic() - begun < 30 and "hung" not in seen:
        sweep = gpus.read()
        now = time.monotonic()
        if _others(sweep):
            others, last = max(others, now - last), now
        seconds = _hung(sweep)
        if seconds:
            seen.setdefault("told", now - begun)
        if seconds >= gpus.limits.act_s:
            seen["hung"] = now - begun
        _sleep(1.0 - sweep.duration_s)
    fault.clear()
    print(
        f"a call that never returns: told after {seen.get('told', -1):.1f} s, hung after {seen.get('hung', -1):.1f} s;"
        f" the other seven never went unread for longer than {others:.1f} s"
    )
    return "hung" in seen


def _hung(sweep: readings.Sweep) -> float:
    found = [one.value for one in sweep.readings if (one.device, one.name) == ("gpu3", "nvml_call_hung")]
    return float(found[-1]) if found and isinstance(found[-1], int | float) else 0.0


def _others(sweep: readings.Sweep) -> bool:
    seen = {one.device for one in sweep.readings if one.name == "temperature" and one.state == "value"}
    return len(seen - {"gpu3"}) == 7


def _sleep(seconds: float) -> None:
    time.sleep(max(0.0, seconds))


def _event_helpers(reader: int) -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if int(pid) != reader]


def _processor_s(pid: int) -> float:
    """Of a process, to the nanosecond: its clock ticks are too coarse for what a look costs."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _own(pid: int) -> int:
    """Bytes that no other process has mapped."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    raise SystemExit(main())
