"""What judging costs: the sweeps of an eight-GPU node, milliseconds of CPU for each second of its life.

Every reading that the signals can give, in each signal's own period, on 8 GPUs with 18 links, 10 ports and interfaces,
and the host. The sweeps are made before the clock runs. Prints CPU a second, readings a second, the size of what is
remembered, and the machine's load.

    python bench/judgement.py [--seconds 1800]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from typing import Final

from outrider_agent import readings
from outrider_agent.judgement import engine
from outrider_agent.nvml import names
from outrider_agent.signals import catalog, files

CYCLE_S: Final = 60
GPUS: Final = [f"gpu{number}" for number in range(8)]
LINKS: Final = [f"{gpu}/link{link}" for gpu in GPUS for link in range(18)]
PORTS: Final = [f"mlx5_{number}/1" for number in range(10)]
# signal -> (devices, period in seconds) where that is not the whole node each 30 s
DEVICES: Final = {
    "infiniband": (PORTS, 10),
    "ethtool": ([f"ib{number}" for number in range(10)], 10),
    "pcie": ([f"0000:{number:02x}:00.0" for number in range(40)], 30),
    "hwmon": ([f"hwmon{number}/temp1" for number in range(20)], 15),
    "edac": ([f"mc{number}" for number in range(16)], 30),
    "nvme": ([f"nvme{number}" for number in range(6)], 60),
    "filesystems": (["/", "/ckpt", "/scratch", "/home"], 15),
    "services": (["nvidia-fabricmanager", "nvidia-persistenced", "containerd"], 30),
}
PORT_STATES: Final = ("port_state", "port_phys_state", "port_rate", "carrier_changes")
WORDS: Final = {"port_state": "ACTIVE", "port_phys_state": "LinkUp", "nvme_state": "live", "service_active": "active"}


def main() -> int:
    """Judge ``--seconds`` of a node's life; exit status 1 where a quiet node gave a finding that is grave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=1800)
    seconds = parser.parse_args().seconds
    judge = engine.Judge("n0")
    cycle = [list(_second(second)) for second in range(CYCLE_S)]
    count = sum(len(sweep.readings) for sweeps in cycle for sweep in sweeps) / CYCLE_S
    _judge(judge, cycle, CYCLE_S, 0)  # the first look makes what later ones find
    begun = time.process_time()
    grave = _judge(judge, cycle, seconds, CYCLE_S)
    used = time.process_time() - begun
    begun = time.process_time()
    size = len(json.dumps(judge.memory()))
    kept = time.process_time() - begun
    print(f"judgement: {1000 * used / seconds:.2f} ms of CPU a second for {count:.0f} readings a second")
    print(
        f"           {size / 1024:.0f} KiB of memory as JSON, made in {1000 * kept:.0f} ms; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    return 1 if grave else 0


def _judge(judge: engine.Judge, cycle: list[list[readings.Sweep]], seconds: int, since: int) -> int:
    grave = 0
    for second in range(since, since + seconds):
        shift = float(second // CYCLE_S * CYCLE_S)
        for sweep in cycle[second % CYCLE_S]:
            object.__setattr__(sweep, "at", sweep.at % CYCLE_S + 1e9 // CYCLE_S * CYCLE_S + shift)
            grave += sum(one.severity in ("fatal", "error") for one in judge.take(sweep))
    return grave


def _second(second: int) -> Iterable[readings.Sweep]:
    """All sweeps that fall due in this second of the cycle."""
    fast = [name for name in names.FAST if name in names.READINGS]
    gpu = [name for name in names.READINGS if name not in names.FAST and not name.startswith(("nvlink_", "gpu_count"))]
    nvml = [*_of(GPUS, fast, names.READINGS)]
    if second % 30 == 0:
        nvml += _of(GPUS, gpu, names.READINGS)
        nvml += _of(LINKS, ("nvlink_state", "nvlink_replay", "nvlink_recovery", "nvlink_crc"), names.READINGS)
    yield _sweep("nvml", second, nvml)
    yield _sweep("infiniband", second, _of(PORTS, PORT_STATES, catalog.READINGS["infiniband"]))
    for signal, given in catalog.READINGS.items():
        devices, period = DEVICES.get(signal, ([""], 30))
        if second % period == 0:
            yield _sweep(signal, second, _of(devices, given, given))


def _sweep(signal: str, second: int, found: list[readings.Reading]) -> readings.Sweep:
    devices = {gpu: {"pci": f"0000:{number + 25:02x}:00.0"} for number, gpu in enumerate(GPUS)}
    context = {"boot_id": "boot", "board": "sxm", "nvswitch": True, "devices": devices} if signal == "nvml" else {}
    return readings.Sweep(signal, float(second), 0.01, "ok", tuple(found), context=context)


def _of(devices: Iterable[str], wanted: Iterable[str], given: files.Names) -> list[readings.Reading]:
    return [
        readings.Reading(device, name, _value(name), given[name].unit, counter=given[name].counter)
        for device in devices
        for name in wanted
    ]


def _value(name: str) -> float | str | bool:
    """Healthy, as far as a constant can be."""
    if name in WORDS:
        return WORDS[name]
    on = ("mode", "valid", "present", "mounted", "peermem", "synchronised", "on_bus", "nvlink_state", "reachable")
    if any(word in name for word in on):
        return True
    return (
        3.0 if name == "fabric_state" else 100.0 if name.endswith(("spare", "total", "_max", "size", "free")) else 0.0
    )


if __name__ == "__main__":
    raise SystemExit(main())
