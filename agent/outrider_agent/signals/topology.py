"""The PCI devices that matter for training, and how near they are to each other.

In: bus/pci/devices in sysfs, whose links show the way from the root complex down to each device. Out: GPUs, network
adapters, NVMe drives, NVSwitches and the bridges above them, each with its ancestors and NUMA node. What an adapter is
for follows from that and not from its name: whoever shares a PCIe switch with a GPU carries the GPUs' traffic.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider_agent.signals import files

NVIDIA: Final = "0x10de"
DEVICES_MAX: Final = 4096
GPU, ADAPTER, NVME, SWITCH, BRIDGE = "gpu", "adapter", "nvme", "switch", "bridge"
COMPUTE, STORAGE, MANAGEMENT = "compute", "storage", "management"
ADDRESS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# The first four digits of a PCI class; NVSwitches call themselves "bridge, other".
_KINDS: Final = {"0x0302": GPU, "0x0200": ADAPTER, "0x0207": ADAPTER, "0x0108": NVME, "0x0604": BRIDGE}


@dataclass(frozen=True)
class Device:
    """One PCI function. ``above``: addresses from the root port down to its parent; ``root``: its host bridge."""

    address: str
    kind: str
    path: str
    root: str
    above: tuple[str, ...]
    numa: int
    virtual: bool


@dataclass(frozen=True)
class Role:
    """What an adapter is for, and why we say so."""

    role: str
    basis: str


def devices(sysfs: Path) -> dict[str, Device]:
    """By address: what is of a kind that matters. Bridges only where such a device lies below them."""
    folder = str(sysfs / "bus/pci/devices")
    found = {}
    for address in files.names(folder)[:DEVICES_MAX]:
        kind = kind_of(files.text(f"{folder}/{address}/class"), files.text(f"{folder}/{address}/vendor"))
        if kind:
            found[address] = _device(f"{folder}/{address}", address, kind)
    below = {bridge for device in found.values() if device.kind != BRIDGE for bridge in device.above}
    return {address: one for address, one in found.items() if one.kind != BRIDGE or address in below}


def kind_of(pci_class: str, vendor: str) -> str:
    """The kind of a device by its class (``0x030200``), "" for what does not matter here."""
    if vendor == NVIDIA:
        if pci_class.startswith("0x0300"):
            return GPU
        if pci_class.startswith("0x0680"):
            return SWITCH
    return _KINDS.get(pci_class[:6], "")


def address_of(path: str) -> str:
    """The PCI address of what ``path`` leads to, or of the device it belongs to; "" where there is none."""
    found = [part for part in os.path.realpath(path).split("/") if ADDRESS.fullmatch(part)]
    return found[-1] if found else ""


def roles(pci: Mapping[str, Device], adapters: Mapping[str, str], routed: Iterable[str]) -> dict[str, Role]:
    """What each adapter is for. ``adapters``: name to PCI address; ``routed``: those that hold the default route.

    Where machines show no switches (guests do not) nearness is the NUMA node. A default route wins over everything but
    a shared switch, because management traffic is what goes out by default.
    """
    gpus = [one for one in pci.values() if one.kind == GPU]
    nvmes = [one for one in pci.values() if one.kind == NVME]
    shared = {name: _beside(pci.get(address), gpus) for name, address in adapters.items()}
    any_shared = any(shared.values())
    default = set(routed)
    found = {}
    for name, address in adapters.items():
        device = pci.get(address)
        if not gpus or device is None:
            found[name] = Role("unknown", "no GPU to be near to" if not gpus else "its PCI device is not to be seen")
        elif shared[name]:
            found[name] = Role(COMPUTE, f"shares a PCIe switch with GPU {shared[name]}")
        elif name in default:
            found[name] = Role(MANAGEMENT, "holds the default route")
        elif any_shared:
            near = any(one.numa == device.numa for one in [*gpus, *nvmes]) or device.numa < 0
            basis = f"shares no PCIe switch with a GPU; NUMA node {device.numa}"
            found[name] = Role(STORAGE if near else MANAGEMENT, basis)
        elif any(one.numa == device.numa for one in gpus):
            found[name] = Role(COMPUTE, f"no PCIe switch is to be seen; NUMA node {device.numa} has GPUs")
        else:
            found[name] = Role(STORAGE, f"no GPU on its NUMA node {device.numa}")
    return found


def _device(link: str, address: str, kind: str) -> Device:
    path = os.path.realpath(link)
    parts = path.split("/")
    above = tuple(part for part in parts[:-1] if ADDRESS.fullmatch(part))
    root = next((part for part in parts if part.startswith("pci") and ":" in part), "")
    try:
        numa = int(files.text(f"{link}/numa_node"))
    except ValueError:
        numa = -1
    return Device(address, kind, path, root, above, numa, os.path.lexists(f"{link}/physfn"))


def _beside(device: Device | None, gpus: list[Device]) -> str:
    """The first GPU below the same switch. Sharing a root port is that: a port leads to one device or one switch."""
    if device is None or not device.above:
        return ""
    return next((gpu.address for gpu in gpus if gpu.above and gpu.above[0] == device.above[0]), "")
