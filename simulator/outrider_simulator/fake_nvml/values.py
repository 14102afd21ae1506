"""What can be set on each simulated GPU and link: name, kind, bounds and default. The C source is built from it.

Kinds: `gauge` goes up and down; `counter` only rises until the GPU is reset; `lifetime` never falls; `flag` is 0 or 1.
A default of None means the library derives the reading from `load` and the board.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ENDLESS: Final = 1e18


@dataclass(frozen=True)
class Value:
    name: str
    kind: str
    low: float
    high: float
    default: float | None
    unit: str


def _gauge(name: str, low: float, high: float, unit: str, default: float | None = None) -> Value:
    return Value(name, "gauge", low, high, default, unit)


def _counter(name: str, unit: str = "") -> Value:
    return Value(name, "counter", 0, ENDLESS, 0, unit)


def _flag(name: str, default: float = 0) -> Value:
    return Value(name, "flag", 0, 1, default, "")


def _lifetime(name: str) -> Value:
    return Value(name, "lifetime", 0, ENDLESS, 0, "")


VALUES: Final[tuple[Value, ...]] = (
    # Everything marked None below follows from the load where it is not set.
    _gauge("load", 0, 1, "share", 0),
    _gauge("temperature", 0, 105, "C"),
    _gauge("memory_temperature", 0, 115, "C"),
    _gauge("margin", -30, 105, "C"),
    _flag("margin_broken"),  # the call answers 0 for good, as seen on some H100 boards
    _gauge("power", 0, 1e9, "W"),
    _gauge("power_limit", 0, 1e9, "W"),
    _gauge("enforced_limit", 0, 1e9, "W"),
    _gauge("sm_clock", 0, 1e9, "MHz"),
    _gauge("memory_clock", 0, 1e9, "MHz"),
    _gauge("clock_event_reasons", 0, 0x1FF, "mask"),
    _gauge("utilization", 0, 100, "%"),
    _gauge("memory_utilization", 0, 100, "%"),
    _gauge("memory_used", 0, 1e9, "MiB"),
    _gauge("performance_state", 0, 15, "P-state"),
    _flag("persistence", 1),
    _flag("ecc_mode", 1),
    _flag("ecc_pending", 1),
    _counter("ecc_volatile_corrected_sram"),
    _counter("ecc_volatile_corrected_dram"),
    _counter("ecc_volatile_uncorrected_sram"),
    _counter("ecc_volatile_uncorrected_dram"),
    # The aggregate counts of earlier boots; what is read is this and the volatile count together.
    _lifetime("ecc_aggregate_corrected_sram"),
    _lifetime("ecc_aggregate_corrected_dram"),
    _lifetime("ecc_aggregate_uncorrected_sram"),
    _lifetime("ecc_aggregate_uncorrected_dram"),
    _flag("sram_threshold_exceeded"),
    Value("remapped_corrected", "lifetime", 0, 512, 0, "rows"),
    Value("remapped_uncorrected", "lifetime", 0, 512, 0, "rows"),
    _flag("remap_pending"),
    _flag("remap_failed"),
    _gauge("banks_high", 0, 1e6, "banks", 0),
    _gauge("banks_partial", 0, 1e6, "banks", 0),
    _gauge("banks_low", 0, 1e6, "banks", 0),
    _gauge("banks_none", 0, 1e6, "banks", 0),
    _gauge("pcie_generation", 1, 6, ""),
    _gauge("pcie_width", 1, 16, "lanes", 16),
    _gauge("pcie_tx", 0, 1e9, "KB/s"),
    _gauge("pcie_rx", 0, 1e9, "KB/s"),
    _counter("pcie_replays"),
    _counter("pcie_replay_rollovers"),
    _counter("pcie_recoveries"),
    _counter("pcie_correctable"),
    _counter("pcie_naks_received"),
    _counter("pcie_receiver_errors"),
    _counter("pcie_bad_tlp"),
    _counter("pcie_naks_sent"),
    _counter("pcie_bad_dllp"),
    _counter("pcie_non_fatal"),
    _counter("pcie_fatal"),
    _counter("pcie_unsupported_requests"),
    _counter("pcie_lcrc_errors"),
    _counter("pcie_lane_errors"),
    _counter("violation_power", "s"),
    _counter("violation_thermal", "s"),
    _counter("violation_sync_boost", "s"),
    _counter("violation_board_limit", "s"),
    _counter("violation_low_utilization", "s"),
    _counter("violation_reliability", "s"),
    _counter("violation_sw_thermal", "s"),
    _counter("violation_hw_thermal", "s"),
    _counter("violation_power_brake", "s"),
    _gauge("fabric_state", 0, 3, ""),
    _gauge("fabric_status", 0, 999, "NVML code", 0),
    _gauge("fabric_health_mask", 0, 0xFFFF, "mask"),
    _gauge("fabric_health_summary", 0, 3, "", 1),
    _gauge("recovery_action", 0, 7, "", 0),
    _flag("drain_and_reset"),
    _flag("channel_repair_pending"),
    _flag("tpc_repair_pending"),
    _flag("inforom_corrupt"),
    # How often the GPU was reset or the node booted: what allows counters to begin again.
    _lifetime("resets"),
)

LINK_VALUES: Final[tuple[Value, ...]] = (
    _flag("state", 1),
    _counter("replay"),
    _counter("recovery"),
    _counter("crc"),
)

BY_NAME: Final = {value.name: value for value in VALUES}
LINK_BY_NAME: Final = {value.name: value for value in LINK_VALUES}
