"""What is read of each GPU, how often, and how: the newest way that the driver knows, else an older one.

A ``Call`` gives some readings by the first of its ``ways`` that works. Fields are asked for together, one call of the
driver for each GPU and round. Field and enumeration numbers are those of nvml.h, written out, because older versions of
pynvml lack the newer names. Nothing here calls NVML when it is imported.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pynvml as n

FAST: Final = "fast"  # every look
USUAL: Final = "usual"  # some seconds
SLOW: Final = "slow"  # half a minute
RARE: Final = "rare"  # at the start and hourly
ALL_LINKS: Final = 0xFFFFFFFF
SWITCH: Final = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH
LINKS_ASKED: Final = 18
POWER_SAMPLES: Final = 0  # NVML_TOTAL_POWER_SAMPLES

Value = float | str | bool | None
Values = tuple[Value, ...]


class Way(NamedTuple):
    """One NVML function; ``read`` takes the handle and gives one value for each name, None for "not on this board"."""

    function: str
    read: Callable[[Any], Values]


class Fields(NamedTuple):
    """Values of nvmlDeviceGetFieldValues: (field, scope), what to multiply by, or that they are flags."""

    ids: tuple[tuple[int, int], ...]
    scale: float = 1
    flag: bool = False


class Call:  # known by itself, so that looking one up costs next to nothing
    """Readings that belong together. ``part``: "" or the link, as in gpu0/link3. ``steady``: told when it changes and
    in every slow round, which is often enough for what is read each second and hardly ever differs.
    """

    __slots__ = ("names", "part", "period", "steady", "ways")

    def __init__(
        self, period: str, names: tuple[str, ...], ways: tuple[Way | Fields, ...], part: str = "", steady: bool = False
    ) -> None:
        self.period, self.names, self.ways = period, names, ways
        self.part, self.steady = part, steady


def of_gpu() -> tuple[Call, ...]:
    """Everything about a GPU but its links."""
    return (*_fast(), *_usual(), *_memory(), *_paths(), *_slow(), *_identity(), *_limits())


def of_link(link: int) -> tuple[Call, ...]:
    """One NVLink. The fields of replay, recovery and CRC are Hopper's; older boards have the counters by function."""
    part = f"link{link}"

    def errors(name: str, field: int, counter: int) -> Call:
        older = _one("nvmlDeviceGetNvLinkErrorCounter", link, counter)
        return Call(SLOW, (name,), (Fields(((field, link),)), older), part)

    state = (Fields(((165, link),)), _one("nvmlDeviceGetNvLinkState", link))
    return (
        Call(FAST, ("nvlink_state",), state, part, steady=True),
        errors("nvlink_replay", 161, 0),
        errors("nvlink_recovery", 162, 1),
        errors("nvlink_crc", 163, 2),
    )


def _one(function: str, *arguments: Any, scale: float = 1, flag: bool = False) -> Way:
    """A function of pynvml that is called as NVML's and answers one number or text."""

    def read(handle: Any) -> Values:
        answer = getattr(n, function)(handle, *arguments)
        if flag:
            return (bool(answer),)
        if isinstance(answer, bytes):
            answer = answer.decode(errors="replace")
        return (answer if isinstance(answer, str) or answer is None else known(answer, scale),)

    return Way(function, read)


def known(number: float, scale: float = 1) -> float | None:
    """A number, or None for what NVML writes where it has none: all bits set. A fraction that is none is none as well,
    because JSON has no way to say it.
    """
    return None if number in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) or not math.isfinite(number) else number * scale


def _fields(period: str, name: str, field: int, *older: Way, scale: float = 1, flag: bool = False) -> Call:
    return Call(period, (name,), (Fields(((field, 0),), scale, flag), *older))


def _fast() -> tuple[Call, ...]:
    temperature = (
        Way("nvmlDeviceGetTemperatureV", lambda h: (n.nvmlDeviceGetTemperatureV(h, 0),)),
        _one("nvmlDeviceGetTemperature", 0),
    )
    reasons = (
        _one("nvmlDeviceGetCurrentClocksEventReasons"),
        _one("nvmlDeviceGetCurrentClocksThrottleReasons"),
    )
    return (
        Call(FAST, ("temperature",), temperature),
        Call(FAST, ("power",), (_one("nvmlDeviceGetPowerUsage", scale=0.001),)),
        Call(FAST, ("clocks_event_reasons",), reasons),
        _fields(FAST, "power_average", 185, scale=0.001),
        _fields(FAST, "power_instant", 186, scale=0.001),
        _fields(FAST, "temperature_memory", 82),
        _fields(FAST, "reset_status", 226, flag=True),
        _fields(FAST, "drain_and_reset_status", 227, flag=True),
        _fields(FAST, "recovery_action", 230),
    )


def _usual() -> tuple[Call, ...]:
    def utilization(handle: Any) -> Values:
        rates = n.nvmlDeviceGetUtilizationRates(handle)
        return known(rates.gpu), known(rates.memory)

    return (
        Call(USUAL, ("temperature_margin",), (_one("nvmlDeviceGetMarginTemperature"),)),
        Call(USUAL, ("sm_clock",), (_one("nvmlDeviceGetClockInfo", 1),)),
        Call(USUAL, ("memory_clock",), (_one("nvmlDeviceGetClockInfo", 2),)),
        Call(USUAL, ("utilization", "memory_utilization"), (Way("nvmlDeviceGetUtilizationRates", utilization),)),
        Call(USUAL, ("nvlink_tx",), (Fields(((138, ALL_LINKS),), 1024),)),
        Call(USUAL, ("nvlink_rx",), (Fields(((139, ALL_LINKS),), 1024),)),
        _fields(USUAL, "energy", 83, _one("nvmlDeviceGetTotalEnergyConsumption", scale=0.001), scale=0.001),
    )


def _memory() -> tuple[Call, ...]:
    """ECC, spare rows, retired pages."""

    def total(name: str, field: int, kind: int, counter: int) -> Call:
        return _fields(SLOW, name, field, _one("nvmlDeviceGetTotalEccErrors", kind, counter))

    def placed(name: str, kind: int, counter: int, place: int) -> Call:
        return Call(SLOW, (name,), (_one("nvmlDeviceGetMemoryErrorCounter", kind, counter, place),))

    def sram(handle: Any) -> Values:
        status = n.c_nvmlEccSramErrorStatus_v1_t()
        n.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
        return (bool(status.bThresholdExceeded),)

    def rows(handle: Any) -> Values:
        corrected, uncorrected, pending, failed = n.nvmlDeviceGetRemappedRows(handle)
        return corrected, uncorrected, bool(pending), bool(failed)

    def banks(handle: Any) -> Values:
        histogram = n.nvmlDeviceGetRowRemapperHistogram(handle)
        return histogram.low, histogram.none

    def repairs(handle: Any) -> Values:
        return (any(n.nvmlDeviceGetRepairStatus(handle)),)

    def pages(cause: int) -> Way:
        return Way("nvmlDeviceGetRetiredPages", lambda h: (len(n.nvmlDeviceGetRetiredPages(h, cause)),))

    sram_place, dram_place = 7, 2
    remapped = ("remapped_correctable", "remapped_uncorrectable", "remap_pending", "remap_failure")
    return (
        total("ecc_volatile_corrected", 3, 0, 0),
        total("ecc_volatile_uncorrected", 4, 1, 0),
        total("ecc_aggregate_corrected", 5, 0, 1),
        total("ecc_aggregate_uncorrected", 6, 1, 1),
        placed("ecc_volatile_uncorrected_sram", 1, 0, sram_place),
        placed("ecc_volatile_uncorrected_dram", 1, 0, dram_place),
        placed("ecc_aggregate_uncorrected_sram", 1, 1, sram_place),
        placed("ecc_aggregate_corrected_sram", 0, 1, sram_place),
        placed("ecc_aggregate_corrected_dram", 0, 1, dram_place),
        Call(SLOW, ("sram_threshold_exceeded",), (Way("nvmlDeviceGetSramEccErrorStatus", sram),)),
        Call(SLOW, remapped, (Way("nvmlDeviceGetRemappedRows", rows),)),
        Call(SLOW, ("remap_banks_low", "remap_banks_none"), (Way("nvmlDeviceGetRowRemapperHistogram", banks),)),
        Call(SLOW, ("repair_pending",), (Way("nvmlDeviceGetRepairStatus", repairs),)),
        _fields(SLOW, "retired_pages_single", 29, pages(0)),
        _fields(SLOW, "retired_pages_double", 30, pages(1)),
        _fields(SLOW, "retired_pending", 31, _one("nvmlDeviceGetRetiredPagesPendingStatus", flag=True), flag=True),
    )


def _paths() -> tuple[Call, ...]:
    """PCIe and the fabric."""
    counters = (
        ("pcie_replay_rollover", 95),
        ("pcie_recovery", 169),
        ("pcie_correctable", 173),
        ("pcie_nak_received", 174),
        ("pcie_nak_sent", 177),
        ("pcie_bad_tlp", 176),
        ("pcie_bad_dllp", 178),
        ("pcie_nonfatal", 179),
        ("pcie_fatal", 180),
        ("pcie_lane_errors", 183),
        ("pcie_tx", 197),
        ("pcie_rx", 198),
    )
    return (
        Call(SLOW, ("pcie_generation",), (_one("nvmlDeviceGetCurrPcieLinkGeneration"),)),
        Call(SLOW, ("pcie_width",), (_one("nvmlDeviceGetCurrPcieLinkWidth"),)),
        _fields(SLOW, "pcie_replay", 94, _one("nvmlDeviceGetPcieReplayCounter")),
        *(_fields(SLOW, name, field) for name, field in counters),
        Call(
            SLOW,
            ("fabric_state", "fabric_status", "fabric_health_summary", *_HEALTH),
            (
                Way("nvmlDeviceGetGpuFabricInfoV", lambda h: _fabric(h, "c_nvmlGpuFabricInfo_v3_t")),
                Way("nvmlDeviceGetGpuFabricInfoV", lambda h: _fabric(h, "c_nvmlGpuFabricInfo_v2_t")),
                Way("nvmlDeviceGetGpuFabricInfo", _fabric_first),
            ),
        ),
    )


# Name -> where its bits begin in the health mask, and how many there are. 0 is "not known here"; of the two-bit ones 1
# is true and 2 false; the last is 1 for "none" and above it says what is wrong.
_HEALTH: Final = {
    "fabric_degraded_bandwidth": (0, 2),
    "fabric_route_recovery": (2, 2),
    "fabric_route_unhealthy": (4, 2),
    "fabric_access_timeout": (6, 2),
    "fabric_incorrect_configuration": (8, 4),
}


def _fabric(handle: Any, version: str) -> Values:
    info = getattr(n, version)()
    n.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    if not info.state:
        return (None,) * (3 + len(_HEALTH))  # the board is part of no fabric
    flags: list[Value] = []
    for name, (shift, width) in _HEALTH.items():
        bits = info.healthMask >> shift & (1 << width) - 1
        flags.append((bits > 1 if name == "fabric_incorrect_configuration" else bits == 1) if bits else None)
    summary = getattr(info, "healthSummary", 0)
    return (info.state, info.status, summary or None, *flags)


def _fabric_first(handle: Any) -> Values:
    info = n.c_nvmlGpuFabricInfo_t()
    n.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(info))
    nothing = (None,) * (1 + len(_HEALTH))
    return (info.state, info.status, *nothing) if info.state else (None, None, *nothing)


def _slow() -> tuple[Call, ...]:
    def throttled(name: str, field: int, *policy: int) -> Call:
        older = (Way("nvmlDeviceGetViolationStatus", lambda h: (_violation(h, *policy),)),) if policy else ()
        return _fields(SLOW, name, field, *older, scale=1e-9)

    def memory(version: str | None) -> Callable[[Any], Values]:
        def read(handle: Any) -> Values:
            info = n.nvmlDeviceGetMemoryInfo(handle, *((getattr(n, version),) if version else ()))
            return known(info.used), known(info.total)

        return read

    def processes(function: str) -> Way:
        return Way(function, lambda h: (len(getattr(n, function)(h)),))

    def ecc_mode(handle: Any) -> Values:
        current, pending = n.nvmlDeviceGetEccMode(handle)
        return bool(current), bool(pending)

    # The second version does not count what the driver keeps for itself as used.
    in_use = (
        Way("nvmlDeviceGetMemoryInfo_v2", memory("nvmlMemory_v2")),
        Way("nvmlDeviceGetMemoryInfo", memory(None)),
    )
    computing = tuple(processes(f"nvmlDeviceGetComputeRunningProcesses{version}") for version in ("_v3", "_v2"))
    return (
        Call(SLOW, ("memory_used", "memory_total"), in_use),
        Call(SLOW, ("processes",), computing),
        Call(SLOW, ("power_limit",), (_one("nvmlDeviceGetEnforcedPowerLimit", scale=0.001),)),
        throttled("power_violation", 74, 0),
        throttled("thermal_violation", 75, 1),
        throttled("board_limit_violation", 77, 3),
        throttled("reliability_violation", 79, 5),
        throttled("software_thermal_violation", 269),
        throttled("hardware_thermal_violation", 270),
        throttled("power_brake_violation", 271),
        Call(SLOW, ("persistence_mode",), (_one("nvmlDeviceGetPersistenceMode", flag=True),)),
        Call(SLOW, ("ecc_mode", "ecc_mode_pending"), (Way("nvmlDeviceGetEccMode", ecc_mode),)),
    )


def _violation(handle: Any, policy: int) -> float | None:
    """Seconds."""
    return known(n.nvmlDeviceGetViolationStatus(handle, policy).violationTime, 1e-9)


def _identity() -> tuple[Call, ...]:
    texts = (
        ("uuid", "nvmlDeviceGetUUID"),
        ("serial", "nvmlDeviceGetSerial"),
        ("name", "nvmlDeviceGetName"),
        ("vbios_version", "nvmlDeviceGetVbiosVersion"),
        ("inforom_version", "nvmlDeviceGetInforomImageVersion"),
        ("gsp_firmware", "nvmlDeviceGetGspFirmwareVersion"),
    )
    return (
        *(Call(RARE, (name,), (_one(function),)) for name, function in texts),
        Call(RARE, ("gsp_mode",), (Way("nvmlDeviceGetGspFirmwareMode", _gsp_mode),)),
        Call(RARE, ("inforom_valid",), (Way("nvmlDeviceValidateInforom", _inforom),)),
        Call(RARE, ("nvlink_remote_nvswitch",), (Way("nvmlDeviceGetNvLinkRemoteDeviceType", _switched),)),
    )


def _gsp_mode(handle: Any) -> Values:
    enabled, _ = n.nvmlDeviceGetGspFirmwareMode(handle)
    return (bool(enabled),)


def _inforom(handle: Any) -> Values:
    n.nvmlDeviceValidateInforom(handle)
    return (True,)


def _switched(handle: Any) -> Values:
    """Whether a switch is at the other end; None where no link is up to say so."""
    for link in range(LINKS_ASKED):
        try:
            return (n.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link) == SWITCH,)
        except n.NVMLError as error:
            if error.value in (3, 13, 15, 16):  # not supported, no such function, lost, reset required
                raise
    return (None,)


def _limits() -> tuple[Call, ...]:
    thresholds = ("temperature_shutdown", "temperature_slowdown", "temperature_memory_max", "temperature_max")
    most = ("nvmlDeviceGetMaxPcieLinkGeneration", "nvmlDeviceGetMaxPcieLinkWidth")
    return (
        *(
            Call(RARE, (name,), (_one("nvmlDeviceGetTemperatureThreshold", number),))
            for number, name in enumerate(thresholds)
        ),
        _fields(RARE, "temperature_margin_slowdown", 194),
        Call(RARE, ("power_limit_default",), (_one("nvmlDeviceGetPowerManagementDefaultLimit", scale=0.001),)),
        Call(RARE, ("sm_clock_max",), (_one("nvmlDeviceGetMaxClockInfo", 1),)),
        Call(RARE, ("pcie_generation_max",), (_one(most[0]),)),
        Call(RARE, ("pcie_width_max",), (_one(most[1]),)),
    )
