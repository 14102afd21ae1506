"""The readings of signal ``nvml``: unit, where each comes from, and which are counters.

``FAST`` are those of each look: what a GPU that is left alone cannot tell.
"""

from __future__ import annotations

from typing import Final

from outrider_agent.signals.files import Kind, Names

FAST: Final = (
    "temperature",
    "power",
    "clocks_event_reasons",
    "power_average",
    "power_instant",
    "temperature_memory",
    "reset_status",
    "drain_and_reset_status",
    "recovery_action",
)


def _field(number: int, unit: str = "", counter: bool = False) -> Kind:
    return Kind(unit, f"nvmlDeviceGetFieldValues, field {number}", counter)


def _of(function: str, unit: str = "", counter: bool = False) -> Kind:
    return Kind(unit, function, counter)


_NODE: Final[Names] = {
    "nvml_init": _of("nvmlInit"),
    "gpu_count": _of("nvmlDeviceGetCount"),
    "gpu_count_pci": Kind("", "bus/pci/devices/*/vendor, class"),
    "gpu_count_files": Kind("", "/dev/nvidiaN"),
    "driver_version": _of("nvmlSystemGetDriverVersion"),
    "library_version": _of("nvmlSystemGetNVMLVersion"),
    "kernel_module_version": Kind("", "/proc/driver/nvidia/version"),
    "p2p_broken": _of("nvmlDeviceGetP2PStatus", "pairs"),
    "nvml_helper_restarts": Kind("", "the helper processes", True),
    "nvml_helpers_stuck": Kind("", "the helper processes"),
    "nvml_call_hung": Kind("s", "the helper processes"),
}
_IDENTITY: Final[Names] = {
    "uuid": _of("nvmlDeviceGetUUID"),
    "serial": _of("nvmlDeviceGetSerial"),
    "pci_address": _of("nvmlDeviceGetPciInfo"),
    "name": _of("nvmlDeviceGetName"),
    "vbios_version": _of("nvmlDeviceGetVbiosVersion"),
    "inforom_version": _of("nvmlDeviceGetInforomImageVersion"),
    "gsp_firmware": _of("nvmlDeviceGetGspFirmwareVersion"),
    "gsp_mode": _of("nvmlDeviceGetGspFirmwareMode"),
    "persistence_mode": _of("nvmlDeviceGetPersistenceMode"),
    "inforom_valid": _of("nvmlDeviceValidateInforom"),
    "ecc_mode": _of("nvmlDeviceGetEccMode"),
    "ecc_mode_pending": _of("nvmlDeviceGetEccMode"),
    "nvml_code": _of("every call"),
    "recovery_action": _field(230),
    "reset_status": _field(226),
    "drain_and_reset_status": _field(227),
    "repair_pending": _of("nvmlDeviceGetRepairStatus"),
}
_SENSORS: Final[Names] = {
    "temperature": _of("nvmlDeviceGetTemperatureV, nvmlDeviceGetTemperature", "C"),
    "temperature_memory": _field(82, "C"),
    "temperature_margin": _of("nvmlDeviceGetMarginTemperature", "C"),
    "temperature_max": _of("nvmlDeviceGetTemperatureThreshold 3", "C"),
    "temperature_slowdown": _of("nvmlDeviceGetTemperatureThreshold 1", "C"),
    "temperature_shutdown": _of("nvmlDeviceGetTemperatureThreshold 0", "C"),
    "temperature_memory_max": _of("nvmlDeviceGetTemperatureThreshold 2", "C"),
    "temperature_margin_slowdown": _field(194, "C"),
    "power": _of("nvmlDeviceGetPowerUsage", "W"),
    "power_average": _field(185, "W"),
    "power_instant": _field(186, "W"),
    "power_limit": _of("nvmlDeviceGetEnforcedPowerLimit", "W"),
    "power_limit_default": _of("nvmlDeviceGetPowerManagementDefaultLimit", "W"),
    "energy": Kind("J", "nvmlDeviceGetFieldValues, field 83; nvmlDeviceGetTotalEnergyConsumption", True),
    "clocks_event_reasons": _of("nvmlDeviceGetCurrentClocksEventReasons, nvmlDeviceGetCurrentClocksThrottleReasons"),
    "power_violation": _field(74, "s", True),
    "thermal_violation": _field(75, "s", True),
    "board_limit_violation": _field(77, "s", True),
    "reliability_violation": _field(79, "s", True),
    "software_thermal_violation": _field(269, "s", True),
    "hardware_thermal_violation": _field(270, "s", True),
    "power_brake_violation": _field(271, "s", True),
    "sm_clock": _of("nvmlDeviceGetClockInfo 1", "MHz"),
    "memory_clock": _of("nvmlDeviceGetClockInfo 2", "MHz"),
    "sm_clock_max": _of("nvmlDeviceGetMaxClockInfo 1", "MHz"),
    "utilization": _of("nvmlDeviceGetUtilizationRates", "%"),
    "memory_utilization": _of("nvmlDeviceGetUtilizationRates", "%"),
    "memory_used": _of("nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetMemoryInfo", "B"),
    "memory_total": _of("nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetMemoryInfo", "B"),
    "processes": _of("nvmlDeviceGetComputeRunningProcesses_v3, _v2"),
}
_MEMORY: Final[Names] = {
    "ecc_volatile_corrected": _field(3, "", True),
    "ecc_volatile_uncorrected": _field(4, "", True),
    "ecc_aggregate_corrected": _field(5, "", True),
    "ecc_aggregate_uncorrected": _field(6, "", True),
    "ecc_volatile_uncorrected_sram": _of("nvmlDeviceGetMemoryErrorCounter, place 7", "", True),
    "ecc_volatile_uncorrected_dram": _of("nvmlDeviceGetMemoryErrorCounter, place 2", "", True),
    "ecc_aggregate_uncorrected_sram": _of("nvmlDeviceGetMemoryErrorCounter, place 7", "", True),
    "ecc_aggregate_corrected_sram": _of("nvmlDeviceGetMemoryErrorCounter, place 7", "", True),
    "ecc_aggregate_corrected_dram": _of("nvmlDeviceGetMemoryErrorCounter, place 2", "", True),
    "sram_threshold_exceeded": _of("nvmlDeviceGetSramEccErrorStatus"),
    "remapped_correctable": _of("nvmlDeviceGetRemappedRows", "rows", True),
    "remapped_uncorrectable": _of("nvmlDeviceGetRemappedRows", "rows", True),
    "remap_pending": _of("nvmlDeviceGetRemappedRows"),
    "remap_failure": _of("nvmlDeviceGetRemappedRows"),
    "remap_banks_low": _of("nvmlDeviceGetRowRemapperHistogram", "banks"),
    "remap_banks_none": _of("nvmlDeviceGetRowRemapperHistogram", "banks"),
    "retired_pages_single": _field(29, "pages", True),
    "retired_pages_double": _field(30, "pages", True),
    "retired_pending": _field(31),
}
_PATHS: Final[Names] = {
    "nvlink_state": _field(165),
    "nvlink_replay": _field(161, "", True),
    "nvlink_recovery": _field(162, "", True),
    "nvlink_crc": _field(163, "", True),
    "nvlink_links_expected": _field(91, "links"),
    "nvlink_tx": _field(138, "B", True),
    "nvlink_rx": _field(139, "B", True),
    "nvlink_remote_nvswitch": _of("nvmlDeviceGetNvLinkRemoteDeviceType"),
    **{
        f"fabric_{name}": _of("nvmlDeviceGetGpuFabricInfoV, nvmlDeviceGetGpuFabricInfo")
        for name in (
            "state",
            "status",
            "health_summary",
            "degraded_bandwidth",
            "route_recovery",
            "route_unhealthy",
            "access_timeout",
            "incorrect_configuration",
        )
    },
    "pcie_generation": _of("nvmlDeviceGetCurrPcieLinkGeneration"),
    "pcie_generation_max": _of("nvmlDeviceGetMaxPcieLinkGeneration"),
    "pcie_width": _of("nvmlDeviceGetCurrPcieLinkWidth", "lanes"),
    "pcie_width_max": _of("nvmlDeviceGetMaxPcieLinkWidth", "lanes"),
    "pcie_replay": _field(94, "", True),
    "pcie_replay_rollover": _field(95, "", True),
    "pcie_recovery": _field(169, "", True),
    "pcie_correctable": _field(173, "", True),
    "pcie_nak_received": _field(174, "", True),
    "pcie_nak_sent": _field(177, "", True),
    "pcie_bad_tlp": _field(176, "", True),
    "pcie_bad_dllp": _field(178, "", True),
    "pcie_nonfatal": _field(179, "", True),
    "pcie_fatal": _field(180, "", True),
    "pcie_lane_errors": _field(183, "", True),
    "pcie_tx": _field(197, "B", True),
    "pcie_rx": _field(198, "B", True),
}
READINGS: Final[Names] = {**_NODE, **_IDENTITY, **_SENSORS, **_MEMORY, **_PATHS}
