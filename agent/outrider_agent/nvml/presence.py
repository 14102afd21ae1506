"""What the machine says of its GPUs without the driver's library: PCI functions, device files, the kernel module.

In: roots of sysfs, /dev and /proc. Out: plain values; a root that is not there has none of them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

VENDOR: Final = "0x10de"
GPU_CLASSES: Final = ("0x0302", "0x0300")  # a 3D controller; boards with a display are VGA controllers
SWITCH_CLASS: Final = "0x0680"  # a bridge of no other kind: NVSwitch
DEVICES_MAX: Final = 65_536
_FILE: Final = re.compile(r"nvidia\d+")
_VERSION: Final = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")


def pci(sysfs: Path) -> tuple[list[str], int]:
    """Addresses of NVIDIA's GPUs, sorted, and how many NVSwitches there are. Raises OSError where nobody can look."""
    folder = sysfs / "bus/pci/devices"
    gpus: list[str] = []
    switches = 0
    for name in sorted(os.listdir(folder)[:DEVICES_MAX]):
        if _word(folder / name / "vendor") != VENDOR:
            continue
        kind = _word(folder / name / "class")[:6]
        switches += kind == SWITCH_CLASS
        if kind in GPU_CLASSES:
            gpus.append(name.lower())
    return gpus, switches


def files(devfs: Path) -> int:
    """How many device files of GPUs there are. Raises OSError."""
    return sum(_FILE.fullmatch(name) is not None for name in os.listdir(devfs))


def module_version(procfs: Path) -> str:
    """The version of the loaded kernel module, "" where none is loaded."""
    try:
        line = (procfs / "driver/nvidia/version").read_text(errors="replace").partition("\n")[0]
    except OSError:
        return ""
    found = _VERSION.search(line)
    return found.group(1) if found else ""


def _word(path: Path) -> str:
    try:
        return path.read_text().strip().lower()
    except OSError:
        return ""
