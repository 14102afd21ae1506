"""Every signal of host and fabric, built from the roots and the few settings they need.

The GPU's own (NVML) and the kernel log are built beside these by whoever runs signals, since they have settings and
processes of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider_agent import readings
from outrider_agent.signals import (
    clock,
    cpu,
    edac,
    ethtool,
    files,
    filesystems,
    hwmon,
    infiniband,
    inventory,
    memory,
    nvme,
    pcie,
    redfish,
    redfish_client,
    services,
    tasks,
)

READINGS: Final[Mapping[str, files.Names]] = {
    module.NAME: module.READINGS
    for module in (
        *(infiniband, ethtool, pcie, edac, hwmon, nvme, filesystems, memory),
        *(tasks, clock, cpu, inventory, services, redfish),
    )
}


@dataclass(frozen=True)
class Roots:
    """Where to read, and what this node should have.

    ``expected_mounts``: mount points that have to be there; ``probed_mounts``: those that a small file is written to;
    ``redfish``: the management controller, None where none is configured.
    """

    sysfs: Path = Path("/sys")
    procfs: Path = Path("/proc")
    devfs: Path = Path("/dev")
    expected_mounts: tuple[str, ...] = ()
    probed_mounts: tuple[str, ...] = ()
    services: Mapping[str, str] = field(default_factory=lambda: services.SERVICES)
    redfish: redfish_client.Settings | None = None


def all_signals(roots: Roots, ticking: clocks.Clock | None = None) -> list[readings.Signal]:
    """One of each, the quickest first. Nothing is read yet."""
    sysfs, procfs = roots.sysfs, roots.procfs
    found: list[readings.Signal] = [
        infiniband.Infiniband(sysfs, procfs, ticking),
        ethtool.Ethtool(sysfs, procfs, ticking),
        memory.Memory(sysfs, procfs, ticking),
        pcie.Pcie(sysfs, procfs, ticking),
        edac.Edac(sysfs, procfs, ticking),
        clock.Clock(procfs, ticking),
        cpu.Cpu(sysfs, procfs, ticking),
        hwmon.Hwmon(sysfs, procfs, ticking),
        nvme.Nvme(sysfs, procfs, ticking, roots.devfs),
        filesystems.Filesystems(procfs, ticking, roots.expected_mounts, roots.probed_mounts),
        tasks.Tasks(procfs, ticking),
        services.Services(procfs, ticking, roots.services),
        inventory.Inventory(sysfs, procfs, ticking),
    ]
    if roots.redfish is not None:
        found.append(redfish.Redfish(roots.redfish, procfs, ticking))
    return found
