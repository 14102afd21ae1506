"""What this node is made of: kernel, driver, firmware, modules, NVSwitches, and what a crashed kernel left behind.

In: sysfs, procfs, and the folder that systemd moves crash records to. Out: versions as words, presence as flags, and
``inventory_hash`` over all that nodes of one kind should share: versions and firmware by model, without serial numbers,
addresses and counts of what comes and goes. The context holds what was hashed, so that a difference can be named.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files, topology

NAME: Final = "inventory"
PSTORE_ARCHIVE: Final = Path("/var/lib/systemd/pstore")
DEVICES_MAX: Final = 128
READINGS: Final[files.Names] = {
    "kernel_release": files.Kind("", "/proc/sys/kernel/osrelease"),
    "kernel_module_version": files.Kind("", "/proc/driver/nvidia/version"),
    "kernel_module_open": files.Kind("", "/proc/driver/nvidia/version, 'Open Kernel Module'"),
    "bios_version": files.Kind("", "class/dmi/id/bios_version"),
    "adapter_firmware": files.Kind("", "class/infiniband/DEVICE/fw_ver"),
    "nvme_firmware": files.Kind("", "class/nvme/nvmeN/firmware_rev"),
    "nvidia": files.Kind("", "module/nvidia"),
    "nvidia_peermem": files.Kind("", "module/nvidia_peermem or module/nv_peer_mem"),
    "gdrdrv": files.Kind("", "module/gdrdrv"),
    "nvswitch_present": files.Kind("", "bus/pci/devices of vendor 10de and class 0680"),
    "nvswitch_count": files.Kind("", "bus/pci/devices of vendor 10de and class 0680"),
    "gpu_count_pci": files.Kind("", "bus/pci/devices of vendor 10de and class 0302 or 0300"),
    "pstore_records": files.Kind("", "fs/pstore and /var/lib/systemd/pstore"),
    "inventory_hash": files.Kind("", "SHA-256 over what nodes of one kind share"),
}
_VERSION: Final = re.compile(r"\b(\d{3,4}\.\d{1,3}(?:\.\d{1,3})?)\b")


class Inventory:
    """A readings.Signal."""

    name = NAME
    period_s = 600.0
    deadline_s = 15.0

    def __init__(
        self,
        sysfs: Path,
        procfs: Path,
        clock: clocks.Clock | None = None,
        pstore_archive: Path | None = None,
    ) -> None:
        self._sysfs = sysfs
        self._sys = str(sysfs)
        self._procfs = procfs
        self._clock = clock
        real = files.is_live_sysfs(sysfs)
        self._archive = str(pstore_archive or (PSTORE_ARCHIVE if real else sysfs / "var/lib/systemd/pstore"))

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        pci = Counter(one.kind for one in topology.devices(self._sysfs).values())
        shared: Json = {
            "kernel": look.word("", "kernel_release", f"{self._procfs}/sys/kernel/osrelease"),
            "bios": look.word("", "bios_version", f"{self._sys}/class/dmi/id/bios_version"),
            "product": files.text(f"{self._sys}/class/dmi/id/product_name"),
            "driver": self._driver(look),
            "adapters": self._firmware(look, "infiniband", "adapter_firmware", "fw_ver", "board_id"),
            "drives": self._firmware(look, "nvme", "nvme_firmware", "firmware_rev", "model"),
            "nvswitches": pci[topology.SWITCH],
            "gpus": pci[topology.GPU],
        }
        look.add("", "nvswitch_present", pci[topology.SWITCH] > 0)
        look.add("", "nvswitch_count", float(pci[topology.SWITCH]))
        look.add("", "gpu_count_pci", float(pci[topology.GPU]))
        for reading, modules in (
            ("nvidia", ("nvidia",)),
            ("nvidia_peermem", ("nvidia_peermem", "nv_peer_mem")),
            ("gdrdrv", ("gdrdrv",)),
        ):
            look.add("", reading, any(os.path.isdir(f"{self._sys}/module/{module}") for module in modules))
        left = self._pstore(look)
        digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]
        look.add("", "inventory_hash", digest)
        return look.sweep(context={"inventory": shared, "pstore": left})

    def _driver(self, look: files.Look) -> str:
        """The kernel module's version; empty where it is not loaded."""
        version = ""
        with look.tried("", "kernel_module_version", "kernel_module_open"):
            said = files.read(f"{self._procfs}/driver/nvidia/version")
            version = driver_version(said)
            look.add("", "kernel_module_version", version)
            look.add("", "kernel_module_open", "Open Kernel Module" in said.splitlines()[0])
        return version

    def _firmware(self, look: files.Look, kind: str, reading: str, file: str, model: str) -> list[str]:
        """How many devices of each model run which firmware."""
        found: Counter[str] = Counter()
        folder = f"{self._sys}/class/{kind}"
        for name in files.names(folder)[:DEVICES_MAX]:
            if kind == "infiniband" and os.path.lexists(f"{folder}/{name}/device/physfn"):
                continue
            version = look.word(name, reading, f"{folder}/{name}/{file}")
            found[f"{files.text(f'{folder}/{name}/{model}')} {version}"] += 1
        return [f"{count} {what}" for what, count in sorted(found.items())]

    def _pstore(self, look: files.Look) -> list[str]:
        """Names of the records; a kernel that died writes them, and systemd moves them away at the next boot."""
        left: list[str] = []
        with look.tried("", "pstore_records"):
            found = False
            for folder in (f"{self._sys}/fs/pstore", self._archive):
                try:
                    left += sorted(os.listdir(folder))
                    found = True
                except FileNotFoundError:
                    continue
            if not found:
                raise files.Unknown("unsupported", "the kernel keeps no crash records here")
            look.add("", "pstore_records", float(len(left)))
        return left[:DEVICES_MAX]


def driver_version(said: str) -> str:
    """The version in the first line of /proc/driver/nvidia/version. Raises Unknown."""
    found = _VERSION.search(said.partition("\n")[0])
    if found is None:
        raise files.Unknown("unreadable", f"{said[:80]!r} names no version")
    return found[1]
