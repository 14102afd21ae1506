"""How fast a device has to be: what its maker says, and the share of it that a check asks for. Pure.

The shares are chosen, not measured: far enough below what healthy devices reach that a busy, warm or power-capped one
passes, and far above what a device with half of its links, lanes or memory gives. No GPU has tried them yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from outrider_analysis import peaks


@dataclass(frozen=True)
class Share:
    """Below ``fail`` of the maker's figure a check fails, below ``warn`` it warns."""

    fail: float
    warn: float


MATMUL: Final = Share(0.45, 0.6)  # a power-capped H100 does about two thirds of its dense peak on large matrices
DEVICE_MEMORY: Final = Share(0.6, 0.75)
PCIE: Final = Share(0.45, 0.65)  # half the lanes, or one generation lower, is below
NVLINK: Final = Share(0.5, 0.65)
ALL_REDUCE: Final = Share(0.3, 0.45)  # bus bandwidth, of what a GPU's links carry one way
SIBLINGS: Final = Share(0.7, 0.85)  # of the median of the same check on this node's other devices
CORES: Final = Share(0.25, 0.5)  # of the median core; a neighbour on the same core halves it

# GB/s of a device's memory. NVIDIA's datasheets (not re-read); for the A100 that of the 40 GB board, the slower one.
MEMORY_GB_S: Final[dict[str, float]] = {
    "H100-SXM5": 3350.0,
    "H100-PCIe": 2000.0,
    "H100-NVL": 3900.0,
    "H200-SXM": 4800.0,
    "H200-NVL": 4800.0,
    "A100-SXM4": 1555.0,
    "A100-PCIe": 1555.0,
    "L40S": 864.0,
}
# GB/s one way over all NVLinks of a GPU: links x 25 GB/s, 18 on SXM boards of the fourth generation, 12 of the third.
NVLINK_GB_S: Final[dict[str, float]] = {
    "H100-SXM5": 450.0,
    "H200-SXM": 450.0,
    "H800-SXM": 200.0,
    "A100-SXM4": 300.0,
}
# GB/s one way of 16 lanes: 16 or 32 GT/s, 128b/130b coded.
PCIE_GB_S: Final[dict[str, float]] = {
    **dict.fromkeys(("H100-SXM5", "H100-PCIe", "H100-NVL", "H200-SXM", "H200-NVL", "H800-SXM", "H20"), 63.0),
    **dict.fromkeys(("A100-SXM4", "A100-PCIe", "A800", "L40S"), 31.5),
}
# A core of any server copies several GB/s; below this it or its memory is sick, or the machine is overloaded.
HOST_COPY_GB_S: Final = 1.0
FILE_WRITE_MB_S: Final = 20.0  # with fsync; a hard disk on a bad day does this
FILE_LATENCY_S: Final = Share(5.0, 1.0)  # seconds for 4 KiB with fsync, above which it fails or warns
FILE_FREE_BYTES_MIN: Final = 1 << 30
FILE_FREE_SHARE_MIN: Final = 0.02


def device_of(name: str) -> str:
    """The maker's device for the name that a driver gives, empty for one that is not known."""
    upper = name.upper()
    return next((device for words, device in peaks.NAMES if all(word in upper for word in words)), "")


def peak_tflops(name: str, precision: str) -> float | None:
    """Dense peak of a device in a precision, None where nobody has told."""
    found = peaks.PEAKS.get((device_of(name), precision))
    return found.tflops if found else None
