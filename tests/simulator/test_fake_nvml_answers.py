"""Every function of the fake library, called by real pynvml in a process of its own."""

import ctypes
import json
import pathlib
import subprocess
import sys

import pytest

from outrider_simulator import fake_nvml
from outrider_simulator.fake_nvml import symbols
from tests.simulator import children

# Every function of the library by its own name, with what is to be read from the answer.
EVERY_FUNCTION = """
import os
n.nvmlInit()
h, peer = gpus()[:2]
L = n.nvmlLib
U = ctypes.c_uint
def raw(name, *arguments, out=U):
    value = out()
    answer = getattr(L, name)(*arguments, ctypes.byref(value))
    return value.value if answer == 0 else -answer
def struct(call, made, *fields):
    call(h, ctypes.byref(made))
    return [getattr(made, field) for field in fields]
def same(call, *arguments):
    found = n.c_nvmlDevice_t()
    answer = getattr(L, call)(*arguments, ctypes.byref(found))
    return answer == 0 and n.nvmlDeviceGetUUID(found) == n.nvmlDeviceGetUUID(h)
uuid, serial = n.nvmlDeviceGetUUID(h), n.nvmlDeviceGetSerial(h)
pci = n.nvmlDeviceGetPciInfo(h)
memory = n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)
histogram = n.nvmlDeviceGetRowRemapperHistogram(h)
events = n.nvmlEventSetCreate()
ext = n.nvmlPciInfoExt_v1_t(); ext.version = n.nvmlPciInfoExt_v1
remote = n.nvmlDeviceGetNvLinkRemotePciInfo(h, 5)
answers = {
    "nvmlInit": L.nvmlInit(), "nvmlInit_v2": L.nvmlInit_v2(), "nvmlInitWithFlags": L.nvmlInitWithFlags(0),
    "nvmlShutdown": [L.nvmlShutdown(), L.nvmlShutdown(), L.nvmlShutdown()],
    "nvmlErrorString": n.nvmlErrorString(15), "outriderSimulated": L.outriderSimulated(),
    "nvmlSystemGetDriverVersion": n.nvmlSystemGetDriverVersion(),
    "nvmlSystemGetNVMLVersion": n.nvmlSystemGetNVMLVersion(),
    "nvmlSystemGetCudaDriverVersion": n.nvmlSystemGetCudaDriverVersion(),
    "nvmlSystemGetCudaDriverVersion_v2": n.nvmlSystemGetCudaDriverVersion_v2(),
    "nvmlSystemGetDriverBranch": n.nvmlSystemGetDriverBranch().branch,
    "nvmlSystemGetProcessName": n.nvmlSystemGetProcessName(os.getpid()) == sys.executable,
    "nvmlDeviceGetCount": raw("nvmlDeviceGetCount"), "nvmlDeviceGetCount_v2": n.nvmlDeviceGetCount(),
    "nvmlDeviceGetHandleByIndex": same("nvmlDeviceGetHandleByIndex", 0),
    "nvmlDeviceGetHandleByIndex_v2": [code(n.nvmlDeviceGetHandleByIndex, 7), code(n.nvmlDeviceGetHandleByIndex, 8)],
    "nvmlDeviceGetHandleByUUID": same("nvmlDeviceGetHandleByUUID", uuid.encode()),
    "nvmlDeviceGetHandleBySerial": same("nvmlDeviceGetHandleBySerial", serial.encode()),
    "nvmlDeviceGetHandleByPciBusId": same("nvmlDeviceGetHandleByPciBusId", b"0000:18:00.0"),
    "nvmlDeviceGetHandleByPciBusId_v2": [same("nvmlDeviceGetHandleByPciBusId_v2", b"00000000:18:00.0"),
                                         code(n.nvmlDeviceGetHandleByPciBusId, b"0000:19:00.0")],
    "nvmlDeviceGetName": n.nvmlDeviceGetName(h), "nvmlDeviceGetUUID": uuid[:4], "nvmlDeviceGetSerial": len(serial),
    "nvmlDeviceGetIndex": n.nvmlDeviceGetIndex(peer), "nvmlDeviceGetMinorNumber": n.nvmlDeviceGetMinorNumber(peer),
    "nvmlDeviceGetModuleId": n.nvmlDeviceGetModuleId(peer), "nvmlDeviceGetNumaNodeId": n.nvmlDeviceGetNumaNodeId(peer),
    "nvmlDeviceGetPciInfo_v3": [pci.busId, pci.busIdLegacy, pci.bus, hex(pci.pciDeviceId), hex(pci.pciSubSystemId)],
    "nvmlDeviceGetPciInfoExt": struct(n.nvmlDeviceGetPciInfoExt, ext, "busId", "baseClass", "subClass", "bus"),
    "nvmlDeviceGetBoardPartNumber": n.nvmlDeviceGetBoardPartNumber(h),
    "nvmlDeviceGetBoardId": n.nvmlDeviceGetBoardId(h),
    "nvmlDeviceGetBrand": n.nvmlDeviceGetBrand(h), "nvmlDeviceGetArchitecture": n.nvmlDeviceGetArchitecture(h),
    "nvmlDeviceGetCudaComputeCapability": n.nvmlDeviceGetCudaComputeCapability(h),
    "nvmlDeviceGetNumGpuCores": n.nvmlDeviceGetNumGpuCores(h),
    "nvmlDeviceGetMemoryBusWidth": n.nvmlDeviceGetMemoryBusWidth(h),
    "nvmlDeviceGetVbiosVersion": n.nvmlDeviceGetVbiosVersion(h),
    "nvmlDeviceGetInforomImageVersion": n.nvmlDeviceGetInforomImageVersion(h),
    "nvmlDeviceGetInforomVersion": [n.nvmlDeviceGetInforomVersion(h, 0), n.nvmlDeviceGetInforomVersion(h, 1),
                                    code(n.nvmlDeviceGetInforomVersion, h, 2)],
    "nvmlDeviceGetInforomConfigurationChecksum": n.nvmlDeviceGetInforomConfigurationChecksum(h) > 0,
    "nvmlDeviceValidateInforom": code(n.nvmlDeviceValidateInforom, h),
    "nvmlDeviceGetGspFirmwareVersion": n.nvmlDeviceGetGspFirmwareVersion(h),
    "nvmlDeviceGetGspFirmwareMode": n.nvmlDeviceGetGspFirmwareMode(h),
    "nvmlDeviceGetPersistenceMode": n.nvmlDeviceGetPersistenceMode(h),
    "nvmlDeviceGetMigMode": n.nvmlDeviceGetMigMode(h),
    "nvmlDeviceGetComputeMode": n.nvmlDeviceGetComputeMode(h),
    "nvmlDeviceGetDisplayMode": n.nvmlDeviceGetDisplayMode(h),
    "nvmlDeviceGetDisplayActive": n.nvmlDeviceGetDisplayActive(h),
    "nvmlDeviceGetMultiGpuBoard": n.nvmlDeviceGetMultiGpuBoard(h),
    "nvmlDeviceGetTemperature": n.nvmlDeviceGetTemperature(h, 0),
    "nvmlDeviceGetTemperatureV": n.nvmlDeviceGetTemperatureV(h, 0),
    "nvmlDeviceGetTemperatureThreshold": [n.nvmlDeviceGetTemperatureThreshold(h, which) for which in range(4)],
    "nvmlDeviceGetMarginTemperature": n.nvmlDeviceGetMarginTemperature(h),
    "nvmlDeviceGetFanSpeed": code(n.nvmlDeviceGetFanSpeed, h),
    "nvmlDeviceGetPowerUsage": n.nvmlDeviceGetPowerUsage(h),
    "nvmlDeviceGetPowerManagementMode": n.nvmlDeviceGetPowerManagementMode(h),
    "nvmlDeviceGetPowerManagementLimit": n.nvmlDeviceGetPowerManagementLimit(h),
    "nvmlDeviceGetPowerManagementLimitConstraints": n.nvmlDeviceGetPowerManagementLimitConstraints(h),
    "nvmlDeviceGetPowerManagementDefaultLimit": n.nvmlDeviceGetPowerManagementDefaultLimit(h),
    "nvmlDeviceGetEnforcedPowerLimit": n.nvmlDeviceGetEnforcedPowerLimit(h),
    "nvmlDeviceGetTotalEnergyConsumption": n.nvmlDeviceGetTotalEnergyConsumption(h),
    "nvmlDeviceGetSamples": [n.nvmlDeviceGetSamples(h, 0, 0)[0], len(n.nvmlDeviceGetSamples(h, 0, 0)[1]),
                             n.nvmlDeviceGetSamples(h, 0, 0)[1][7].sampleValue.uiVal,
                             code(n.nvmlDeviceGetSamples, h, 7, 0)],
    "nvmlDeviceGetPerformanceState": n.nvmlDeviceGetPerformanceState(h),
    "nvmlDeviceGetPowerState": n.nvmlDeviceGetPowerState(h),
    "nvmlDeviceGetClockInfo": [n.nvmlDeviceGetClockInfo(h, which) for which in range(4)],
    "nvmlDeviceGetMaxClockInfo": [n.nvmlDeviceGetMaxClockInfo(h, which) for which in range(4)],
    "nvmlDeviceGetClock": [n.nvmlDeviceGetClock(h, 1, 0), n.nvmlDeviceGetClock(h, 1, 3)],
    "nvmlDeviceGetApplicationsClock": n.nvmlDeviceGetApplicationsClock(h, 1),
    "nvmlDeviceGetCurrentClocksEventReasons": n.nvmlDeviceGetCurrentClocksEventReasons(h),
    "nvmlDeviceGetCurrentClocksThrottleReasons": n.nvmlDeviceGetCurrentClocksThrottleReasons(h),
    "nvmlDeviceGetSupportedClocksEventReasons": n.nvmlDeviceGetSupportedClocksEventReasons(h),
    "nvmlDeviceGetSupportedClocksThrottleReasons": n.nvmlDeviceGetSupportedClocksThrottleReasons(h),
    "nvmlDeviceGetViolationStatus": [n.nvmlDeviceGetViolationStatus(h, 1).violationTime,
                                     n.nvmlDeviceGetViolationStatus(h, 1).referenceTime > 1e15],
    "nvmlDeviceGetUtilizationRates": [n.nvmlDeviceGetUtilizationRates(h).gpu,
                                      n.nvmlDeviceGetUtilizationRates(h).memory],
    "nvmlDeviceGetMemoryInfo": n.nvmlDeviceGetMemoryInfo(h).used >> 20,
    "nvmlDeviceGetMemoryInfo_v2": [memory.total >> 20, memory.reserved >> 20, memory.used >> 20, memory.free >> 20],
    "nvmlDeviceGetBAR1MemoryInfo": n.nvmlDeviceGetBAR1MemoryInfo(h).bar1Total >> 20,
    "nvmlDeviceGetComputeRunningProcesses_v2": len(n.nvmlDeviceGetComputeRunningProcesses_v2(h)),
    "nvmlDeviceGetComputeRunningProcesses_v3": [[p.pid, p.usedGpuMemory >> 20]
                                                for p in n.nvmlDeviceGetComputeRunningProcesses_v3(h)],
    "nvmlDeviceGetGraphicsRunningProcesses_v2": len(n.nvmlDeviceGetGraphicsRunningProcesses_v2(h)),
    "nvmlDeviceGetGraphicsRunningProcesses_v3": len(n.nvmlDeviceGetGraphicsRunningProcesses_v3(h)),
    "nvmlDeviceGetEccMode": n.nvmlDeviceGetEccMode(h), "nvmlDeviceGetDefaultEccMode": n.nvmlDeviceGetDefaultEccMode(h),
    "nvmlDeviceGetTotalEccErrors": [n.nvmlDeviceGetTotalEccErrors(h, kind, age) for kind in (0, 1) for age in (0, 1)],
    "nvmlDeviceGetMemoryErrorCounter": [n.nvmlDeviceGetMemoryErrorCounter(h, 1, 0, 7),
                                        n.nvmlDeviceGetMemoryErrorCounter(h, 0, 1, 2),
                                        code(n.nvmlDeviceGetMemoryErrorCounter, h, 0, 0, 1)],
    "nvmlDeviceGetDetailedEccErrors": n.nvmlDeviceGetDetailedEccErrors(h, 0, 1).deviceMemory,
    "nvmlDeviceGetSramEccErrorStatus": struct(n.nvmlDeviceGetSramEccErrorStatus, n.c_nvmlEccSramErrorStatus_v1_t(),
                                              "aggregateUncSecDed", "volatileUncSecDed", "bThresholdExceeded"),
    "nvmlDeviceGetRetiredPages": code(n.nvmlDeviceGetRetiredPages, h, 0),
    "nvmlDeviceGetRetiredPages_v2": code(n.nvmlDeviceGetRetiredPages_v2, h, 0),
    "nvmlDeviceGetRetiredPagesPendingStatus": code(n.nvmlDeviceGetRetiredPagesPendingStatus, h),
    "nvmlDeviceGetRemappedRows": n.nvmlDeviceGetRemappedRows(h),
    "nvmlDeviceGetRowRemapperHistogram": [histogram.max, histogram.high, histogram.low, histogram.none],
    "nvmlDeviceGetRepairStatus": n.nvmlDeviceGetRepairStatus(h),
    "nvmlDeviceGetCurrPcieLinkGeneration": n.nvmlDeviceGetCurrPcieLinkGeneration(h),
    "nvmlDeviceGetMaxPcieLinkGeneration": n.nvmlDeviceGetMaxPcieLinkGeneration(h),
    "nvmlDeviceGetGpuMaxPcieLinkGeneration": n.nvmlDeviceGetGpuMaxPcieLinkGeneration(h),
    "nvmlDeviceGetCurrPcieLinkWidth": n.nvmlDeviceGetCurrPcieLinkWidth(h),
    "nvmlDeviceGetMaxPcieLinkWidth": n.nvmlDeviceGetMaxPcieLinkWidth(h),
    "nvmlDeviceGetPcieReplayCounter": n.nvmlDeviceGetPcieReplayCounter(h),
    "nvmlDeviceGetPcieThroughput": n.nvmlDeviceGetPcieThroughput(h, 0) > 0,
    "nvmlDeviceGetNvLinkState": [sum(n.nvmlDeviceGetNvLinkState(h, link) for link in range(18)),
                                 n.nvmlDeviceGetNvLinkState(h, 4), code(n.nvmlDeviceGetNvLinkState, h, 18)],
    "nvmlDeviceGetNvLinkVersion": n.nvmlDeviceGetNvLinkVersion(h, 0),
    "nvmlDeviceGetNvLinkCapability": [n.nvmlDeviceGetNvLinkCapability(h, 0, which) for which in range(6)],
    "nvmlDeviceGetNvLinkErrorCounter": [n.nvmlDeviceGetNvLinkErrorCounter(h, 3, 0),
                                        n.nvmlDeviceGetNvLinkErrorCounter(h, 3, 2),
                                        code(n.nvmlDeviceGetNvLinkErrorCounter, h, 3, 3)],
    "nvmlDeviceGetNvLinkRemotePciInfo_v2": [remote.busId, hex(remote.pciDeviceId)],
    "nvmlDeviceGetNvLinkRemoteDeviceType": n.nvmlDeviceGetNvLinkRemoteDeviceType(h, 0),
    "nvmlDeviceGetNvLinkUtilizationCounter": code(n.nvmlDeviceGetNvLinkUtilizationCounter, h, 0, 0),
    "nvmlDeviceGetP2PStatus": [n.nvmlDeviceGetP2PStatus(h, peer, 2), n.nvmlDeviceGetP2PStatus(peer, gpus()[2], 2)],
    "nvmlDeviceGetTopologyCommonAncestor": [n.nvmlDeviceGetTopologyCommonAncestor(h, peer),
                                            n.nvmlDeviceGetTopologyCommonAncestor(h, gpus()[7])],
    "nvmlDeviceGetTopologyNearestGpus": len(n.nvmlDeviceGetTopologyNearestGpus(h, 40)),
    "nvmlDeviceGetCpuAffinity": [hex(word) for word in n.nvmlDeviceGetCpuAffinity(gpus()[7], 2)],
    "nvmlDeviceGetGpuFabricInfo": struct(n.nvmlDeviceGetGpuFabricInfo, n.c_nvmlGpuFabricInfo_t(), "state", "status"),
    "nvmlDeviceGetGpuFabricInfoV": [struct(n.nvmlDeviceGetGpuFabricInfoV, n.c_nvmlGpuFabricInfo_v2_t(), "state",
                                           "healthMask"),
                                    struct(n.nvmlDeviceGetGpuFabricInfoV, n.c_nvmlGpuFabricInfo_v3_t(), "state",
                                           "healthSummary")],
    "nvmlDeviceGetFieldValues": [[v.fieldId, v.nvmlReturn, v.value.siVal if v.valueType == 5 else v.value.ullVal]
        for v in n.nvmlDeviceGetFieldValues(h, [1, 4, 5, 12, 32, 82, 91, 94, 142, (161, 3), (163, 3), (165, 4),
                                                (165, 5),
                                                185, 186, 190, 193, 194, 230, 307, 999])],
    "nvmlDeviceGetSupportedEventTypes": hex(n.nvmlDeviceGetSupportedEventTypes(h)),
    "nvmlDeviceRegisterEvents": code(n.nvmlDeviceRegisterEvents, h, 0x800A, events),
    "nvmlEventSetCreate": code(n.nvmlEventSetCreate),
    "nvmlEventSetWait": L.nvmlEventSetWait(events, ctypes.byref(n.c_nvmlEventData_t()), 1),
    "nvmlEventSetWait_v2": code(n.nvmlEventSetWait_v2, events, 1), "nvmlEventSetFree": code(n.nvmlEventSetFree, events),
}
tell(answers)
"""

EXPECTED = {
    "nvmlInit": 0,
    "nvmlInit_v2": 0,
    "nvmlInitWithFlags": 0,
    "nvmlShutdown": [0, 0, 0],
    "nvmlErrorString": "GPU is lost",
    "outriderSimulated": 1,
    "nvmlSystemGetDriverVersion": "580.95.05",
    "nvmlSystemGetNVMLVersion": "13.580.95.05",
    "nvmlSystemGetCudaDriverVersion": 13000,
    "nvmlSystemGetCudaDriverVersion_v2": 13000,
    "nvmlSystemGetDriverBranch": "r580_00",
    "nvmlSystemGetProcessName": True,
    "nvmlDeviceGetCount": 8,
    "nvmlDeviceGetCount_v2": 8,
    "nvmlDeviceGetHandleByIndex": True,
    "nvmlDeviceGetHandleByIndex_v2": [0, 2],
    "nvmlDeviceGetHandleByUUID": True,
    "nvmlDeviceGetHandleBySerial": True,
    "nvmlDeviceGetHandleByPciBusId": True,
    "nvmlDeviceGetHandleByPciBusId_v2": [True, 6],
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetUUID": "GPU-",
    "nvmlDeviceGetSerial": 13,
    "nvmlDeviceGetIndex": 1,
    "nvmlDeviceGetMinorNumber": 1,
    "nvmlDeviceGetModuleId": 2,
    "nvmlDeviceGetNumaNodeId": 0,
    "nvmlDeviceGetPciInfo_v3": ["00000000:18:00.0", "0000:18:00.0", 0x18, "0x233010de", "0x16c110de"],
    "nvmlDeviceGetPciInfoExt": ["00000000:18:00.0", 3, 2, 0x18],
    "nvmlDeviceGetBoardPartNumber": "692-2G520-0200-000",
    "nvmlDeviceGetBoardId": 0x1800,
    "nvmlDeviceGetBrand": 14,
    "nvmlDeviceGetArchitecture": 9,
    "nvmlDeviceGetCudaComputeCapability": [9, 0],
    "nvmlDeviceGetNumGpuCores": 16896,
    "nvmlDeviceGetMemoryBusWidth": 5120,
    "nvmlDeviceGetVbiosVersion": "96.00.74.00.01",
    "nvmlDeviceGetInforomImageVersion": "G520.0200.00.05",
    "nvmlDeviceGetInforomVersion": ["2.1", "7.16", 3],
    "nvmlDeviceGetInforomConfigurationChecksum": True,
    "nvmlDeviceValidateInforom": 0,
    "nvmlDeviceGetGspFirmwareVersion": "580.95.05",
    "nvmlDeviceGetGspFirmwareMode": [1, 1],
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetComputeMode": 0,
    "nvmlDeviceGetDisplayMode": 1,
    "nvmlDeviceGetDisplayActive": 0,
    "nvmlDeviceGetMultiGpuBoard": 0,
    "nvmlDeviceGetTemperature": 30,
    "nvmlDeviceGetTemperatureV": 30,
    "nvmlDeviceGetTemperatureThreshold": [92, 87, 95, 83],
    "nvmlDeviceGetMarginTemperature": 57,
    "nvmlDeviceGetFanSpeed": 3,
    "nvmlDeviceGetPowerUsage": 85000,
    "nvmlDeviceGetPowerManagementMode": 1,
    "nvmlDeviceGetPowerManagementLimit": 700000,
    "nvmlDeviceGetPowerManagementLimitConstraints": [200000, 700000],
    "nvmlDeviceGetPowerManagementDefaultLimit": 700000,
    "nvmlDeviceGetEnforcedPowerLimit": 700000,
    "nvmlDeviceGetTotalEnergyConsumption": 850000,
    "nvmlDeviceGetSamples": [1, 120, 85000, 3],
    "nvmlDeviceGetPerformanceState": 0,
    "nvmlDeviceGetPowerState": 0,
    "nvmlDeviceGetClockInfo": [345, 345, 2619, 765],
    "nvmlDeviceGetMaxClockInfo": [1980, 1980, 2619, 1545],
    "nvmlDeviceGetClock": [345, 1980],
    "nvmlDeviceGetApplicationsClock": 1980,
    "nvmlDeviceGetCurrentClocksEventReasons": 1,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 1,
    "nvmlDeviceGetSupportedClocksEventReasons": 0x1FF,
    "nvmlDeviceGetSupportedClocksThrottleReasons": 0x1FF,
    "nvmlDeviceGetViolationStatus": [2_500_000_000, True],
    "nvmlDeviceGetUtilizationRates": [0, 0],
    "nvmlDeviceGetMemoryInfo": 455 + 70000,
    "nvmlDeviceGetMemoryInfo_v2": [81559, 454, 70001, 81559 - 454 - 70001],
    "nvmlDeviceGetBAR1MemoryInfo": 131072,
    "nvmlDeviceGetComputeRunningProcesses_v2": 1,
    "nvmlDeviceGetComputeRunningProcesses_v3": [[4711, 70000]],
    "nvmlDeviceGetGraphicsRunningProcesses_v2": 0,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": 0,
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetDefaultEccMode": [1],
    "nvmlDeviceGetTotalEccErrors": [5, 12, 1, 1],
    "nvmlDeviceGetMemoryErrorCounter": [1, 12, 3],
    "nvmlDeviceGetDetailedEccErrors": 12,
    "nvmlDeviceGetSramEccErrorStatus": [1, 1, 1],
    "nvmlDeviceGetRetiredPages": 3,
    "nvmlDeviceGetRetiredPages_v2": 3,
    "nvmlDeviceGetRetiredPagesPendingStatus": 3,
    "nvmlDeviceGetRemappedRows": [2, 3, 1, 0],
    "nvmlDeviceGetRowRemapperHistogram": [2555, 4, 1, 0],
    "nvmlDeviceGetRepairStatus": [1, 0],
    "nvmlDeviceGetCurrPcieLinkGeneration": 4,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetGpuMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetCurrPcieLinkWidth": 8,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetPcieReplayCounter": 9,
    "nvmlDeviceGetPcieThroughput": True,
    "nvmlDeviceGetNvLinkState": [17, 0, 2],
    "nvmlDeviceGetNvLinkVersion": 6,
    "nvmlDeviceGetNvLinkCapability": [1, 0, 1, 0, 0, 1],
    "nvmlDeviceGetNvLinkErrorCounter": [6, 7, 3],
    "nvmlDeviceGetNvLinkRemotePciInfo_v2": ["00000000:06:00.0", "0x22a310de"],
    "nvmlDeviceGetNvLinkRemoteDeviceType": 2,
    "nvmlDeviceGetNvLinkUtilizationCounter": 3,
    "nvmlDeviceGetP2PStatus": [6, 0],
    "nvmlDeviceGetTopologyCommonAncestor": [40, 50],
    "nvmlDeviceGetTopologyNearestGpus": 3,
    "nvmlDeviceGetCpuAffinity": ["0xff00000000000000", "0xffffffffffff"],
    "nvmlDeviceGetGpuFabricInfo": [3, 0],
    "nvmlDeviceGetGpuFabricInfoV": [[3, 0x1AA], [3, 1]],
    "nvmlDeviceGetFieldValues": [
        *([1, 0, 1], [4, 0, 1], [5, 0, 12], [12, 0, 0], [32, 3, 0], [82, 0, 38], [91, 0, 18], [94, 0, 9], [142, 0, 2]),
        *([161, 0, 6], [163, 0, 7], [165, 0, 0], [165, 0, 1], [185, 0, 85000], [186, 0, 85000], [190, 0, 700000]),
        *([193, 0, -8], [194, 0, -2], [230, 0, 2], [307, 2, 0], [999, 2, 0]),
    ],
    "nvmlDeviceGetSupportedEventTypes": "0xff1f",
    "nvmlDeviceRegisterEvents": 0,
    "nvmlEventSetCreate": 0,
    "nvmlEventSetWait": 10,
    "nvmlEventSetWait_v2": 10,
    "nvmlEventSetFree": 0,
}


def test_every_function_answers_what_the_world_says(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, driver="580.95.05", stopped=True)
    world.advance(10)
    with world.together():
        for name, value in {
            "violation_thermal": 2.5,
            "ecc_volatile_corrected_dram": 5,
            "ecc_aggregate_corrected_dram": 7,
            "ecc_volatile_uncorrected_sram": 1,
            "sram_threshold_exceeded": 1,
            "remapped_corrected": 2,
            "remapped_uncorrected": 3,
            "remap_pending": 1,
            "banks_high": 4,
            "banks_low": 1,
            "channel_repair_pending": 1,
            "pcie_generation": 4,
            "pcie_width": 8,
            "pcie_replays": 9,
            "recovery_action": 2,
        }.items():
            world.set(0, name, value)
        world.processes(0, {4711: 70000})
        world.link(0, 4, "state", 0)
        world.link(0, 3, "replay", 6)
        world.link(0, 3, "crc", 7)
        world.p2p(0, 1, 6)
    answers = children.told(world, EVERY_FUNCTION)
    assert answers == EXPECTED
    assert set(answers) == set(symbols.SINCE)


BOARD = """
n.nvmlInit()
h = gpus()[0]
fabric = n.c_nvmlGpuFabricInfo_v2_t()
n.nvmlDeviceGetGpuFabricInfoV(h, ctypes.byref(fabric))
fields = n.nvmlDeviceGetFieldValues(h, [(161, 0), 46, 91, 160, 194])
tell([n.nvmlDeviceGetName(h), n.nvmlDeviceGetMemoryInfo(h).total >> 20, n.nvmlDeviceGetEnforcedPowerLimit(h) // 1000,
      sum(code(n.nvmlDeviceGetNvLinkState, h, link) == 0 for link in range(36)), code(n.nvmlDeviceGetNvLinkState, h, 0),
      fabric.state, code(n.nvmlDeviceGetMarginTemperature, h), n.nvmlDeviceGetMaxPcieLinkGeneration(h),
      [v.nvmlReturn for v in fields]])
"""


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ("h200-sxm", ["NVIDIA H200", 143771, 700, 18, 0, 3, 0, 5, [0, 3, 0, 3, 0]]),
        ("h100-pcie", ["NVIDIA H100 PCIe", 81559, 350, 0, 3, 0, 0, 5, [3, 3, 3, 3, 0]]),
        ("a100-sxm", ["NVIDIA A100-SXM4-80GB", 81920, 400, 12, 0, 0, 3, 4, [3, 0, 0, 3, 3]]),
    ],
)
def test_each_board_has_what_its_generation_has(board: str, expected: list[object], tmp_path: pathlib.Path) -> None:
    assert children.told(fake_nvml.World(tmp_path, board=board), BOARD) == expected


@pytest.mark.parametrize("driver", ["535.183.06", "580.95.05"])
def test_an_older_driver_lacks_the_newer_functions(driver: str, tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, driver=driver)
    source = f"""
    n.nvmlInit()
    h = gpus()[0]
    lacking = [name for name in {sorted(symbols.SINCE)} if not hasattr(n.nvmlLib, name)]
    tell([n.nvmlSystemGetDriverVersion(), lacking, code(n.nvmlDeviceGetTemperatureV, h, 0),
          [v.nvmlReturn for v in n.nvmlDeviceGetFieldValues(h, [186, 230, 270])]])
    """
    version, lacking, code, fields = children.told(world, source)
    branch = int(driver.split(".")[0])
    assert version == driver
    assert lacking == sorted(name for name, since in symbols.SINCE.items() if since > branch)
    assert (code, fields) == ((13, [0, 2, 2]) if branch == 535 else (0, [0, 0, 0]))


def test_named_functions_can_be_absent(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, absent=("nvmlDeviceGetTotalEnergyConsumption",))
    source = "n.nvmlInit(); tell(code(n.nvmlDeviceGetTotalEnergyConsumption, gpus()[0]))"
    assert children.told(world, source) == 13
    with pytest.raises(ValueError, match="absent functions nvmlNever are none of this library's"):
        fake_nvml.build(absent=["nvmlNever"])


def test_wrong_versions_and_calls_before_init_are_refused(tmp_path: pathlib.Path) -> None:
    source = """
    early = ctypes.CDLL("libnvidia-ml.so.1").nvmlDeviceGetCount_v2(ctypes.byref(ctypes.c_uint()))
    n.nvmlInit()
    h = gpus()[0]
    fabric, temperature = n.c_nvmlGpuFabricInfo_v3_t(), n.c_nvmlTemperature_v1_t()
    fabric.version = 0x4000028
    tell([early, code(n.nvmlDeviceGetGpuFabricInfoV, h, ctypes.byref(fabric)),
          n.nvmlLib.nvmlDeviceGetTemperatureV(h, ctypes.byref(temperature)),
          n.nvmlLib.nvmlDeviceGetName(h, ctypes.create_string_buffer(4), 4),
          n.nvmlLib.nvmlDeviceGetName(ctypes.create_string_buffer(4), ctypes.create_string_buffer(96), 96)])
    """
    assert children.told(fake_nvml.World(tmp_path), source) == [1, 25, 25, 7, 2]


def test_a_library_can_be_chosen_by_its_path(tmp_path: pathlib.Path) -> None:
    # Real pynvml asks the loader for libnvidia-ml.so.1; one that is loaded already under that soname is taken.
    world = fake_nvml.World(tmp_path, count=3)
    code = (
        "import ctypes, sys, pynvml; ctypes.CDLL(sys.argv[1]); pynvml.nvmlInit();"
        "print(pynvml.nvmlDeviceGetCount(), hasattr(pynvml.nvmlLib, 'outriderSimulated'))"
    )
    done = subprocess.run([sys.executable, "-c", code, world.library], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "True"]


def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(fake_nvml.BuildError, match=r"none was found as [$]CC, cc or gcc; install one"):
        fake_nvml.build(tmp_path)
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(fake_nvml.BuildError, match="ended with 1:\nno such header"):
        fake_nvml.build(tmp_path, compiler=str(broken))


def test_a_build_is_made_once(tmp_path: pathlib.Path) -> None:
    path = fake_nvml.build()
    before = path.stat()
    assert fake_nvml.build() == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert ctypes.CDLL(str(path)).outriderSimulated() == 1


def test_ten_thousand_calls_cost_little(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path)
    world.set(None, "load", fake_nvml.steady(0.8).sine(0.1, 40).noise(0.05))
    source = """
    n.nvmlInit()
    h = gpus()[0]
    began = time.process_time()
    for _ in range(10_000):
        n.nvmlDeviceGetPowerUsage(h)
    single = time.process_time() - began
    began = time.process_time()
    for _ in range(100):
        n.nvmlDeviceGetFieldValues(h, list(range(1, 101)))
    tell([single, time.process_time() - began])
    """
    single_s, batched_s = children.told(world, source)
    print(f"\n10,000 calls: {single_s * 1e3:.0f} ms of CPU; 100 batches of 100 fields: {batched_s * 1e3:.0f} ms")
    assert json.dumps([single_s, batched_s])
