"""Which functions the library exports, and from which driver branch on.

An older driver's library truly lacks the symbol: dlsym finds nothing, and pynvml answers FunctionNotFound. The branch
is the one in whose NVML the function first appeared; where NVIDIA's change log does not say, it is the first branch
whose public header has it, give or take one.
"""

from __future__ import annotations

from typing import Final

# Each driver with the CUDA version its library reports. Any other version of a known branch may be asked for too.
DRIVERS: Final[dict[str, int]] = {
    "470.256.02": 11040,
    "535.183.06": 12020,
    "550.144.03": 12040,
    "565.57.01": 12070,
    "570.133.20": 12080,
    "575.57.08": 12090,
    "580.95.05": 13000,
}
DEFAULT_DRIVER: Final = "570.133.20"

_ALWAYS: Final = """
nvmlInit nvmlInit_v2 nvmlInitWithFlags nvmlShutdown nvmlErrorString outriderSimulated
nvmlSystemGetDriverVersion nvmlSystemGetNVMLVersion nvmlSystemGetCudaDriverVersion nvmlSystemGetCudaDriverVersion_v2
nvmlSystemGetProcessName
nvmlDeviceGetCount nvmlDeviceGetCount_v2 nvmlDeviceGetHandleByIndex nvmlDeviceGetHandleByIndex_v2
nvmlDeviceGetHandleByUUID nvmlDeviceGetHandleByPciBusId nvmlDeviceGetHandleByPciBusId_v2 nvmlDeviceGetHandleBySerial
nvmlDeviceGetName nvmlDeviceGetUUID nvmlDeviceGetSerial nvmlDeviceGetIndex nvmlDeviceGetMinorNumber
nvmlDeviceGetPciInfo_v3 nvmlDeviceGetBoardPartNumber nvmlDeviceGetBoardId nvmlDeviceGetBrand
nvmlDeviceGetArchitecture nvmlDeviceGetCudaComputeCapability nvmlDeviceGetVbiosVersion
nvmlDeviceGetInforomImageVersion nvmlDeviceGetInforomVersion nvmlDeviceGetInforomConfigurationChecksum
nvmlDeviceValidateInforom nvmlDeviceGetPersistenceMode nvmlDeviceGetComputeMode nvmlDeviceGetMigMode
nvmlDeviceGetDisplayMode nvmlDeviceGetDisplayActive nvmlDeviceGetMultiGpuBoard
nvmlDeviceGetTemperature nvmlDeviceGetTemperatureThreshold nvmlDeviceGetFanSpeed
nvmlDeviceGetPowerUsage nvmlDeviceGetPowerManagementMode nvmlDeviceGetPowerManagementLimit
nvmlDeviceGetPowerManagementLimitConstraints nvmlDeviceGetPowerManagementDefaultLimit nvmlDeviceGetEnforcedPowerLimit
nvmlDeviceGetTotalEnergyConsumption nvmlDeviceGetSamples nvmlDeviceGetPerformanceState nvmlDeviceGetPowerState
nvmlDeviceGetClockInfo nvmlDeviceGetMaxClockInfo nvmlDeviceGetClock nvmlDeviceGetApplicationsClock
nvmlDeviceGetCurrentClocksThrottleReasons nvmlDeviceGetSupportedClocksThrottleReasons nvmlDeviceGetViolationStatus
nvmlDeviceGetUtilizationRates nvmlDeviceGetMemoryInfo nvmlDeviceGetBAR1MemoryInfo
nvmlDeviceGetComputeRunningProcesses_v2 nvmlDeviceGetGraphicsRunningProcesses_v2
nvmlDeviceGetEccMode nvmlDeviceGetDefaultEccMode nvmlDeviceGetTotalEccErrors nvmlDeviceGetMemoryErrorCounter
nvmlDeviceGetDetailedEccErrors nvmlDeviceGetRetiredPages nvmlDeviceGetRetiredPages_v2
nvmlDeviceGetRetiredPagesPendingStatus nvmlDeviceGetRemappedRows nvmlDeviceGetRowRemapperHistogram
nvmlDeviceGetCurrPcieLinkGeneration nvmlDeviceGetMaxPcieLinkGeneration nvmlDeviceGetCurrPcieLinkWidth
nvmlDeviceGetMaxPcieLinkWidth nvmlDeviceGetPcieReplayCounter nvmlDeviceGetPcieThroughput
nvmlDeviceGetNvLinkState nvmlDeviceGetNvLinkVersion nvmlDeviceGetNvLinkCapability nvmlDeviceGetNvLinkErrorCounter
nvmlDeviceGetNvLinkRemotePciInfo_v2 nvmlDeviceGetNvLinkRemoteDeviceType nvmlDeviceGetNvLinkUtilizationCounter
nvmlDeviceGetP2PStatus nvmlDeviceGetTopologyCommonAncestor nvmlDeviceGetTopologyNearestGpus nvmlDeviceGetCpuAffinity
nvmlDeviceGetFieldValues
nvmlDeviceGetSupportedEventTypes nvmlDeviceRegisterEvents nvmlEventSetCreate nvmlEventSetWait nvmlEventSetWait_v2
nvmlEventSetFree
"""

_SINCE: Final[dict[int, str]] = {
    510: """nvmlDeviceGetMemoryInfo_v2 nvmlDeviceGetComputeRunningProcesses_v3
        nvmlDeviceGetGraphicsRunningProcesses_v3 nvmlDeviceGetGpuMaxPcieLinkGeneration nvmlDeviceGetNumGpuCores
        nvmlDeviceGetMemoryBusWidth""",
    525: "nvmlDeviceGetGspFirmwareVersion nvmlDeviceGetGspFirmwareMode nvmlDeviceGetGpuFabricInfo",
    535: """nvmlDeviceGetCurrentClocksEventReasons nvmlDeviceGetSupportedClocksEventReasons nvmlDeviceGetModuleId
        nvmlDeviceGetNumaNodeId""",
    545: "nvmlDeviceGetGpuFabricInfoV nvmlDeviceGetPciInfoExt",
    550: "nvmlDeviceGetSramEccErrorStatus",
    560: "nvmlSystemGetDriverBranch",
    565: "nvmlDeviceGetTemperatureV nvmlDeviceGetMarginTemperature",
    580: "nvmlDeviceGetRepairStatus",
}

# The simulator's own door to the same code: what a world file would be, asked without any driver call.
SIMULATOR_SYMBOLS: Final = ("outriderCheckWorld", "outriderReading", "outriderHistory", "outriderWriteLog")

SINCE: Final[dict[str, int]] = {
    **dict.fromkeys(_ALWAYS.split(), 0),
    **{name: branch for branch, names in _SINCE.items() for name in names.split()},
}


def exported(driver: str, absent: frozenset[str] = frozenset()) -> list[str]:
    """The symbols a library of this driver has, sorted, without those named in `absent`."""
    branch = branch_of(driver)
    return sorted({name for name, since in SINCE.items() if since <= branch} - absent | set(SIMULATOR_SYMBOLS))


def branch_of(driver: str) -> int:
    """The branch of a driver version: 570 of 570.133.20."""
    head = driver.split(".", 1)[0]
    if not head.isdigit() or int(head) < 470:
        raise ValueError(f"driver {driver!r} is not a version from 470 on; known ones: {', '.join(DRIVERS)}")
    return int(head)


def cuda_of(driver: str) -> int:
    """The CUDA version, as NVML counts it (12080 is 12.8), of the newest known driver that is not newer than this."""
    branch = branch_of(driver)
    return max(cuda for known, cuda in DRIVERS.items() if branch_of(known) <= branch)
