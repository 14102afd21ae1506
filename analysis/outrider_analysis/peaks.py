"""Dense peak arithmetic of devices, each number with its source. Vendors print the sparse one, twice as high.

``verify`` in a source says that nobody has re-read the vendor's own page for this row.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Peak(NamedTuple):
    """``tflops``: dense TFLOP/s of one device."""

    tflops: float
    source: str


# (device, precision)
PEAKS: Final[dict[tuple[str, str], Peak]] = {
    ("H100-SXM5", "bf16"): Peak(
        989.4, "NVIDIA H100 datasheet: 1979 with 2:4 sparsity; dense is half (989.4 in the Hopper whitepaper)"
    ),
    ("H100-SXM5", "fp16"): Peak(989.4, "NVIDIA H100 datasheet: 1979 with sparsity"),
    ("H100-SXM5", "tf32"): Peak(494.7, "NVIDIA H100 datasheet: 989 with sparsity"),
    ("H100-SXM5", "fp8"): Peak(1978.9, "NVIDIA H100 datasheet: 3958 with sparsity"),
    ("H100-PCIe", "bf16"): Peak(
        756.0, "NVIDIA H100 PCIe datasheet: 1513 with sparsity; 756 is the constant used by TorchTitan"
    ),
    ("H100-PCIe", "fp8"): Peak(
        1513.0, "NVIDIA H100 PCIe datasheet: 3026 with sparsity (vendor figure not re-read; verify)"
    ),
    ("H100-NVL", "bf16"): Peak(
        835.0, "NVIDIA H100 NVL datasheet: 1671 with sparsity; 835 is the constant used by TorchTitan"
    ),
    ("H100-NVL", "fp8"): Peak(
        1670.5, "NVIDIA H100 NVL datasheet: 3341 with sparsity (vendor figure not re-read; verify)"
    ),
    ("H200-SXM", "bf16"): Peak(989.4, "Same GH100 compute as H100 SXM5; TorchTitan uses 989"),
    ("H200-SXM", "fp8"): Peak(1978.9, "Same GH100 compute as H100 SXM5"),
    ("H200-NVL", "bf16"): Peak(835.5, "NVIDIA H200 NVL datasheet: 1671 with sparsity (not re-read; verify)"),
    ("H800-SXM", "bf16"): Peak(
        989.4, "Same tensor throughput as H100 SXM5 (NVLink and FP64 are what is reduced); not re-read; verify"
    ),
    ("H20", "bf16"): Peak(148.0, "NVIDIA H20 product brief (not re-read; verify)"),
    ("H20", "fp8"): Peak(296.0, "NVIDIA H20 product brief (not re-read; verify)"),
    ("A100-SXM4", "bf16"): Peak(312.0, "NVIDIA A100 datasheet; TorchTitan uses 312"),
    ("A100-PCIe", "bf16"): Peak(312.0, "NVIDIA A100 datasheet; TorchTitan uses 312 for every A100"),
    ("A800", "bf16"): Peak(312.0, "Same tensor throughput as A100 (not re-read; verify)"),
    ("L40S", "bf16"): Peak(362.0, "Constant used by TorchTitan"),
    ("B200-HGX-1000W", "bf16"): Peak(2250.0, "NVIDIA Blackwell datasheet: 4500 with sparsity; TorchTitan uses 2250"),
    ("B200-HGX-1000W", "fp8"): Peak(4500.0, "NVIDIA Blackwell datasheet: 9000 with sparsity"),
    ("B200-HGX-1000W", "fp4"): Peak(9000.0, "NVIDIA Blackwell datasheet: 18000 with sparsity"),
    ("GB200-per-GPU-1200W", "bf16"): Peak(
        2500.0, "NVIDIA GB200 NVL72: 5000 with sparsity per GPU (360 PF per 72-GPU rack)"
    ),
    ("GB200-per-GPU-1200W", "fp8"): Peak(5000.0, "NVIDIA GB200 NVL72: 10000 with sparsity per GPU (720 PF per rack)"),
    ("GB200-per-GPU-1200W", "fp4"): Peak(10000.0, "NVIDIA GB200 NVL72: 20000 with sparsity per GPU (1440 PF per rack)"),
    ("B300-HGX", "bf16"): Peak(
        2250.0, "Secondary table (sparse 4500); another secondary source claims 3500; verify before use"
    ),
    ("B300-HGX", "fp8"): Peak(
        4500.0, "Secondary table (sparse 9000); another secondary source claims 7000; verify before use"
    ),
    ("GB300-per-GPU", "bf16"): Peak(2500.0, "Derived from 360 PF sparse BF16 per 72-GPU rack (not re-read; verify)"),
    ("GB300-per-GPU", "fp8"): Peak(5000.0, "Derived from 360 PF dense FP8 per 72-GPU rack (secondary)"),
    ("MI300X", "bf16"): Peak(1307.4, "AMD MI300X data sheet (not re-read; verify); TorchTitan rounds to 1300"),
    ("MI300X", "fp8"): Peak(2614.9, "AMD MI300X data sheet (not re-read; verify)"),
    ("MI325X", "bf16"): Peak(1307.4, "AMD MI325X data sheet (not re-read; verify); TorchTitan rounds to 1300"),
    ("MI355X", "bf16"): Peak(2516.6, "AMD MI355X data sheet (not re-read; verify)"),
    ("MI250X-per-GCD", "bf16"): Peak(191.5, "Constant used by TorchTitan (383 per two-die module)"),
}

# Words in the name that a driver gives a device, and the device. The first row that fits is taken.
NAMES: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("H100", "PCIE"), "H100-PCIe"),
    (("H100", "NVL"), "H100-NVL"),
    (("H100",), "H100-SXM5"),
    (("H200", "NVL"), "H200-NVL"),
    (("H200",), "H200-SXM"),
    (("H800",), "H800-SXM"),
    (("H20",), "H20"),
    (("A100", "PCIE"), "A100-PCIe"),
    (("A100",), "A100-SXM4"),
    (("A800",), "A800"),
    (("L40S",), "L40S"),
    (("GB200",), "GB200-per-GPU-1200W"),
    (("GB300",), "GB300-per-GPU"),
    (("B200",), "B200-HGX-1000W"),
    (("B300",), "B300-HGX"),
    (("MI300X",), "MI300X"),
    (("MI325X",), "MI325X"),
    (("MI355X",), "MI355X"),
    (("MI250X",), "MI250X-per-GCD"),
)
