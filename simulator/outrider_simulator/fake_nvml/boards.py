"""The boards the fake library can be, each with the characteristics a monitor reads.

Sources, one per table:
- h100-sxm: a published `nvidia-smi -q` of eight H100 SXM5, driver 565.57.01, 2024-11-14 (memory, reserved, BAR1,
  limits 200/700 W, T.Limit 57 C at 30 C, offsets -8/-2/0/0, clocks, 2,560 banks, part numbers, InfoROM, PCI
  addresses). Absolute thresholds from NVIDIA's published defaults for the board: shutdown 92, slowdown 87, memory 95,
  max operating 83 C.
  NVLink 4: 18 links of 26,562 MB/s to four NVSwitches (Hopper whitepaper; `nvidia-smi nvlink -s`).
- h200-sxm: a published `nvidia-smi -q` of an H200, driver 550.90.12, 2024-11-28 (143,771 MiB, 3,072 banks, T.Limit 59 C
  at 28 C). Links and thresholds as the H100's: same GH100, same baseboard.
- a100-sxm: telegraf's recorded a100-sxm4-v12.xml, driver 535.54.03 (81,920 MiB, thresholds 92/89/85, memory 95, no
  T.Limit, fabric N/A, parts), limits 100/400 W from the A100 80GB data sheet (the recorded board is a 500 W variant).
  NVLink 3: 12 links of 25,000 MB/s to six NVSwitches (Ampere whitepaper); 640 banks (NVIDIA's note on row remapping).
- h100-pcie: H100 PCIe product brief PB-11133 (350 W, 80 GB HBM2e, device 0x2331, 14,592 cores, 1,755 MHz). It can be
  bridged in pairs; here it is not, so it has no NVLink. Thresholds and offsets are taken from the SXM board: assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Board:
    """One product. Powers in W, temperatures in C, memory in MiB, clocks in MHz, link speed in MB/s."""

    name: str
    device_id: int
    subsystem_id: int
    board_part: str
    gpu_part: str
    vbios: str
    inforom_image: str
    inforom_oem: str
    inforom_ecc: str
    architecture: int  # NVML_DEVICE_ARCH_*: 7 Ampere, 9 Hopper
    compute_major: int
    cores: int
    bus_width: int
    memory_mib: int
    reserved_mib: int
    bar1_mib: int
    limit_min_w: int
    limit_default_w: int
    limit_max_w: int
    shutdown_c: int
    slowdown_c: int
    memory_max_c: int
    gpu_max_c: int
    margin_zero_c: int  # the temperature at which the thermal margin is 0; 0 where the board has no margin
    margin_shutdown_c: int
    margin_slowdown_c: int
    sm_idle_mhz: int
    sm_max_mhz: int
    memory_mhz: int
    video_idle_mhz: int
    video_max_mhz: int
    banks: int
    pcie_generation: int
    links: int
    link_version: int  # NVML_NVLINK_VERSION_*: 4 is 3.0, 6 is 4.0
    link_mbps: int
    switches: int
    switch_device_id: int
    fabric: int  # 1: the fabric manager's state can be read per GPU
    idle_w: int
    idle_c: int
    busy_c: int


_H100: Final = Board(
    name="NVIDIA H100 80GB HBM3",
    device_id=0x233010DE,
    subsystem_id=0x16C110DE,
    board_part="692-2G520-0200-000",
    gpu_part="2330-885-A1",
    vbios="96.00.74.00.01",
    inforom_image="G520.0200.00.05",
    inforom_oem="2.1",
    inforom_ecc="7.16",
    architecture=9,
    compute_major=9,
    cores=16896,
    bus_width=5120,
    memory_mib=81559,
    reserved_mib=454,
    bar1_mib=131072,
    limit_min_w=200,
    limit_default_w=700,
    limit_max_w=700,
    shutdown_c=92,
    slowdown_c=87,
    memory_max_c=95,
    gpu_max_c=83,
    margin_zero_c=87,
    margin_shutdown_c=-8,
    margin_slowdown_c=-2,
    sm_idle_mhz=345,
    sm_max_mhz=1980,
    memory_mhz=2619,
    video_idle_mhz=765,
    video_max_mhz=1545,
    banks=2560,
    pcie_generation=5,
    links=18,
    link_version=6,
    link_mbps=26562,
    switches=4,
    switch_device_id=0x22A310DE,
    fabric=1,
    idle_w=85,
    idle_c=30,
    busy_c=66,
)


def _like_h100(**different: str | int) -> Board:
    return Board(**{**_H100.__dict__, **different})


BOARDS: Final[dict[str, Board]] = {
    "h100-sxm": _H100,
    "h200-sxm": _like_h100(
        name="NVIDIA H200",
        device_id=0x233510DE,
        subsystem_id=0x18BE10DE,
        board_part="695-2G520-0280-000",
        gpu_part="2335-895-A1",
        vbios="96.00.A5.00.03",
        inforom_image="G520.0280.02.02",
        bus_width=6144,
        memory_mib=143771,
        reserved_mib=700,
        bar1_mib=262144,
        memory_mhz=3201,
        banks=3072,
        idle_w=75,
        idle_c=28,
    ),
    "h100-pcie": _like_h100(
        name="NVIDIA H100 PCIe",
        device_id=0x233110DE,
        subsystem_id=0x162610DE,
        board_part="900-21010-0000-000",
        gpu_part="2331-885-A1",
        vbios="96.00.30.00.01",
        inforom_image="1010.0200.00.02",
        cores=14592,
        limit_default_w=350,
        limit_max_w=350,
        sm_max_mhz=1755,
        memory_mhz=1593,
        links=0,
        link_version=0,
        link_mbps=0,
        switches=0,
        switch_device_id=0,
        fabric=0,
        idle_w=50,
        idle_c=35,
        busy_c=70,
    ),
    "a100-sxm": _like_h100(
        name="NVIDIA A100-SXM4-80GB",
        device_id=0x20B210DE,
        subsystem_id=0x147F10DE,
        board_part="692-2G506-0212-002",
        gpu_part="20B2-895-A1",
        vbios="92.00.36.00.02",
        inforom_image="G506.0212.00.01",
        inforom_oem="2.0",
        inforom_ecc="6.16",
        architecture=7,
        compute_major=8,
        cores=6912,
        memory_mib=81920,
        reserved_mib=869,
        limit_min_w=100,
        limit_default_w=400,
        limit_max_w=400,
        slowdown_c=89,
        gpu_max_c=85,
        margin_zero_c=0,
        margin_shutdown_c=0,
        margin_slowdown_c=0,
        sm_idle_mhz=210,
        sm_max_mhz=1410,
        memory_mhz=1593,
        video_idle_mhz=585,
        video_max_mhz=1290,
        banks=640,
        pcie_generation=4,
        links=12,
        link_version=4,
        link_mbps=25000,
        switches=6,
        switch_device_id=0x1AF110DE,
        fabric=0,
        idle_w=60,
        idle_c=28,
        busy_c=64,
    ),
}
