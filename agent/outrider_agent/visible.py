"""Which GPU each rank of a node uses, where CUDA numbers the GPUs otherwise than NVML does.

In: CUDA's variables as the ranks of this node were started with them, and the node's GPUs as NVML names them. Out:
``gpu3`` for each rank in the order of their local numbers, "" where that cannot be told. Pure. Rules from the CUDA C++
Programming Guide, "CUDA Environment Variables": entries are indices or UUIDs, which may be cut short where that is
unique; what follows an entry that names no GPU is not visible. Indices count the fastest GPUs first, unless
``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``, which is NVML's order too: so where GPUs differ they tell nothing without it.
What a script sets by itself is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
_BY_PCI: Final = "PCI_BUS_ID"
_MIG: Final = "MIG-"  # a part of a GPU: findings are of whole ones
_UUID: Final = "gpu-"


def gpus(visible: str | None, order: str | None, places: int, devices: Mapping[str, Any]) -> tuple[str, ...] | None:
    """For local ranks 0 to ``places`` - 1; None where CUDA's numbers are NVML's. ``visible``, ``order``: the variables.
    ``devices``: name -> {"uuid", "name"} of the node's GPUs, empty where nobody has read them. Where one GPU alone is
    visible, all use it; else each uses that of its local number.
    """
    by_pci = order == _BY_PCI or len({about["name"] for about in _known(devices).values() if about.get("name")}) < 2
    if visible is None:
        return None if by_pci else ("",) * places
    seen: list[str] = []
    for word in visible.split(","):
        name = _name(word.strip(), devices, by_pci)
        if name is None:
            break
        seen.append(name)
    if len(seen) == 1:
        return (seen[0],) * places
    return tuple(seen[place] if place < len(seen) else "" for place in range(places))


def _known(devices: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: about for name, about in devices.items() if isinstance(about, dict)}


def _name(word: str, devices: Mapping[str, Any], by_pci: bool) -> str | None:
    """The GPU of an entry, "" where it is not known, None where there is no such GPU."""
    if word.isascii() and word.isdigit():
        name = f"gpu{int(word[:9])}"
        return (name if by_pci else "") if not devices or name in devices else None
    if word.startswith(_MIG):
        return ""
    if not word.lower().startswith(_UUID):
        return None
    if not devices:
        return ""
    uuids = {name: str(about.get("uuid") or "").lower() for name, about in _known(devices).items()}
    found = [name for name, uuid in uuids.items() if uuid.startswith(word.lower())]
    return found[0] if len(found) == 1 else "" if not all(uuids.values()) else None
