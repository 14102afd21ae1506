"""The demo's simulated hardware: each host's agent reads GPUs, a kernel log and a system of its own, all made up here.

In: the hosts, and faults as the injector orders them. Out: what an agent has to be started with, and worlds of the fake
NVML (``outrider_simulator``) that real pynvml reads. A fault stays until its host is repaired, which is a machine that
was booted anew. Everything that comes of it is labelled simulated by the agents themselves.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outrider_cli import errors

if TYPE_CHECKING:
    from outrider_simulator import fake_nvml

GPUS_MAX: Final = 16  # of one host, as many as the fake library has
LOAD: Final = 0.8  # of every GPU, so that no reading is excused by idleness
TOO_HOT_C: Final = 93.0  # beyond the slow-down temperature of an H100, and possible
HARDWARE_THERMAL: Final = 0x48  # bits of the clocks' event reasons: slowed down by hardware, because of heat
POWER_BRAKE: Final = 0x80
PCI_BUS_FIRST: Final = 0x10
XID: Final = 119  # the GPU's system processor does not answer
BREAKING: Final = frozenset({"gpu-lost", "xid", "ecc"})  # the rank on that GPU fails with a CUDA error
FAULTS: Final = frozenset({*BREAKING, "thermal", "power-brake"})


class Worlds:
    """One world for each host. ``slots``: ranks of a host, each on a GPU of its own."""

    def __init__(self, folder: Path, nodes: list[str], slots: int) -> None:
        self._worlds: dict[str, fake_nvml.World] = {}
        self._folder = folder
        for node in nodes:
            self._worlds[node] = self._world(node, min(slots, GPUS_MAX))

    def options(self, node: str) -> list[str]:
        """What the agent of a host is started with."""
        world, place = self._worlds[node], self._folder / node
        return [
            *("--nvml-library", str(world.library), "--kernel-log", str(place / "kernel-log")),
            *("--sysfs", str(place / "sys"), "--procfs", str(place / "proc")),
        ]

    def strike(self, kind: str, node: str, gpu: int) -> None:
        """Break one GPU of a host."""
        world = self._worlds[node]
        gpu = min(gpu, world.count - 1)
        if kind == "gpu-lost":
            with world.together():
                world.xid(gpu, 79)
                world.lose_gpu(gpu)
        elif kind == "xid":
            world.xid(gpu, XID)
        elif kind == "ecc":
            with world.together():
                world.count_up(gpu, "ecc_volatile_uncorrected_dram")
                world.xid(gpu, 48)
        elif kind == "thermal":
            with world.together():
                world.set(gpu, "temperature", TOO_HOT_C)
                world.set(gpu, "clock_event_reasons", float(HARDWARE_THERMAL))
        elif kind == "power-brake":
            world.set(gpu, "clock_event_reasons", float(POWER_BRAKE))

    def repair(self, node: str) -> None:
        """Mend a host: everything is as in the beginning, and the machine booted anew."""
        world = self._worlds[node]
        with world.together():
            world.clear()
            for gpu in range(world.count):
                world.unset(gpu, "temperature")
                world.unset(gpu, "clock_event_reasons")
            world.reboot()
        (self._folder / node / "kernel-log").write_bytes(b"")
        self._boot(node)

    def _world(self, node: str, gpus: int) -> fake_nvml.World:
        from outrider_simulator import fake_nvml

        place = self._folder / node
        log = place / "kernel-log"
        (place / "sys").mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self._boot(node)
        try:
            world = fake_nvml.World(place / "nvml", count=gpus, kernel_log=log)
        except fake_nvml.BuildError as error:
            wanted = ", ".join(sorted(FAULTS))
            raise errors.CommandError(
                f"--faults: {wanted} need simulated GPUs, but {error}; or leave them out"
            ) from error
        world.set(None, "load", LOAD)
        for gpu in range(gpus):  # no two hosts have a GPU in common
            world.identity(gpu, "uuid", f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{node} {gpu}')}")
            address = f"0000:{PCI_BUS_FIRST + gpu:02x}:00.0"
            world.identity(gpu, "pci", f"0000{address.upper()}")
            device = place / "sys" / "bus" / "pci" / "devices" / address
            device.mkdir(parents=True, exist_ok=True)
            (device / "vendor").write_text("0x10de\n")
            (device / "class").write_text("0x030200\n")
        return world

    def _boot(self, node: str) -> None:
        file = self._folder / node / "proc" / "sys" / "kernel" / "random" / "boot_id"
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(".boot_id")
        draft.write_text(f"{uuid.uuid4()}\n")
        draft.replace(file)
