"""What has to be judged on an eight-GPU H100 node: one row a thing, in the order of the road from GPU to host.

Each row is answered by rules, by events of the kernel's log, or it is information: ``readings`` that are measured,
exported and used (as bounds, as evidence), and that alone are no fault. ``tried``: on a machine that has the thing. The
others are read in their recorded or documented form, and simulated in tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Row:
    """``name``: section and thing. ``asks``: what is to be known; ``source``: where it is read."""

    name: str
    asks: str
    source: str
    readings: tuple[str, ...] = ()
    tried: bool = False


ROWS: Final = (
    # GPU presence and reachability
    Row("gpu/count", "are all GPUs there, by every way of counting", "NVML count, PCI scan, device files"),
    Row("gpu/lost", "does a GPU say that it is lost", "NVML code 15"),
    Row("gpu/reset-required", "does a GPU ask for a reset", "NVML code 16"),
    Row("gpu/handle-error", "can every GPU be opened", "NVML codes 17 and 999"),
    Row("gpu/driver-mismatch", "do library and kernel module fit", "nvmlInit 18, versions of both"),
    Row("gpu/driver-not-loaded", "is the driver loaded", "nvmlInit 9, kernel log"),
    Row("gpu/call-hang", "does every call come back", "the helper process that makes the calls"),
    Row("gpu/recovery-action", "what does the driver say has to be done", "NVML field 230, Xid 154, NVML event"),
    Row("gpu/reset-status", "is a reset, or a drain and reset, asked for", "NVML fields 226 and 227"),
    Row("gpu/repair-status", "is a repair of rows or channels pending", "nvmlDeviceGetRepairStatus"),
    Row("gpu/off-bus-text", "did a GPU fall off the bus, without a number", "kernel log"),
    # Temperature
    Row("thermal/core", "is a GPU warmer than it may be", "nvmlDeviceGetTemperature, threshold 3"),
    Row("thermal/memory", "is its memory warmer than it may be", "NVML fields 82 and 195"),
    Row("thermal/margin", "has a GPU used up its margin", "nvmlDeviceGetMarginTemperature, field 194"),
    Row("thermal/margin-early", "is little of the margin left", "nvmlDeviceGetMarginTemperature"),
    Row(
        "thermal/thresholds",
        "what are the limits of this board",
        "nvmlDeviceGetTemperatureThreshold, fields 193 to 196; the bounds of the rules above",
        ("temperature_max", "temperature_slowdown", "temperature_shutdown", "temperature_memory_max"),
    ),
    Row("thermal/outlier", "is one GPU much warmer than its equally busy siblings", "NVML temperature of all"),
    Row(
        "thermal/sensor-sanity",
        "is the margin to be believed: it is judged only while another sensor says that it is warm",
        "temperature and clock event reasons beside the margin",
        ("temperature_margin",),
    ),
    Row("thermal/elsewhere", "are inlet, switches, adapters, disks and CPUs cool enough", "hwmon, thermal zones"),
    # Power and clocks
    Row("power/draw", "does a busy GPU report power", "NVML power"),
    Row("power/limit", "is the power limit what it should be", "enforced and default limit, field 190"),
    Row("power/reasons", "why are clocks not higher", "clock event reasons", ("clocks_event_reasons",)),
    Row(
        "power/idle-and-pinned", "has somebody pinned the clocks", "clock event reasons 0x2; 0x1 and 0x100 are ignored"
    ),
    Row(
        "power/software-cap",
        "how long is it held at its power limit, which is usual at full load",
        "clock event reasons 0x4, violation time",
        ("clocks_event_reasons", "power_violation"),
    ),
    Row("power/hardware-slowdown", "does hardware slow a GPU down", "clock event reasons 0x8"),
    Row("power/software-thermal", "does the driver slow a GPU down because of heat", "clock event reasons 0x20"),
    Row("power/hardware-thermal", "does hardware slow a GPU down because of heat", "clock event reasons 0x40"),
    Row("power/brake", "does the power supply slow a GPU down", "clock event reasons 0x80"),
    Row("power/violation-time", "for how long is it slowed down", "nvmlDeviceGetViolationStatus, fields 74 to 79"),
    Row("power/clock-siblings", "is one GPU slower than its equally busy siblings", "SM clock of all"),
    Row(
        "power/energy",
        "does energy only rise; a fall tells of a reset",
        "nvmlDeviceGetTotalEnergyConsumption",
        ("energy",),
    ),
    Row("power/supply-fans", "are power supplies and fans sound", "BMC over Redfish, hwmon"),
    # Memory
    Row("memory/ecc-mode", "is ECC on and will it stay on", "nvmlDeviceGetEccMode"),
    Row("memory/volatile-uncorrected", "was data lost since the start", "NVML ECC counts, field 4, NVML event"),
    Row("memory/aggregate-sram", "did SRAM lose data over its life, beyond the threshold", "NVML ECC counts"),
    Row("memory/sram-threshold", "is SRAM beyond the threshold", "nvmlDeviceGetSramEccErrorStatus"),
    Row("memory/corrected-rate", "are corrections so many that they slow it down", "NVML ECC counts, field 3"),
    Row("memory/aggregate-corrected", "were corrections many over its life", "NVML ECC counts, field 5"),
    Row("memory/remap-pending", "does a remapped row wait for a reset", "nvmlDeviceGetRemappedRows"),
    Row("memory/remap-failure", "could a row not be remapped", "nvmlDeviceGetRemappedRows"),
    Row("memory/uncorrectable-remaps", "is there nothing left to remap to", "field 143, row remapper histogram"),
    Row("memory/bank-availability", "is little left to remap to", "row remapper histogram"),
    Row("memory/retired-pages", "are too many pages retired (older boards)", "nvmlDeviceGetRetiredPages"),
    Row("memory/inforom", "is the board's own record sound", "nvmlDeviceValidateInforom, NVML code 14"),
    Row("memory/used-while-idle", "does somebody unseen hold memory", "nvmlDeviceGetMemoryInfo, processes"),
    # NVLink and fabric
    Row("links/state", "is every link up", "nvmlDeviceGetNvLinkState"),
    Row("links/errors", "do links err", "nvmlDeviceGetNvLinkErrorCounter, fields 161 to 163"),
    Row("links/legacy-fields", "fields 32 to 59 and 96 to 119 say nothing on Hopper, so nobody reads them", "none", ()),
    Row("links/throughput", "does traffic flow: evidence for a stall", "fields 138 to 141", ("nvlink_tx", "nvlink_rx")),
    Row("links/peer-to-peer", "can every pair of GPUs talk", "nvmlDeviceGetP2PStatus"),
    Row("links/fabric-state", "did a GPU join the fabric", "nvmlDeviceGetGpuFabricInfoV"),
    Row("links/fabric-health", "is the fabric whole", "nvmlDeviceGetGpuFabricInfoV, health mask"),
    Row("links/fabric-manager", "does the fabric manager run and agree", "service manager, kernel log"),
    Row(
        "links/applicability",
        "is there a fabric at all: by switches that were found, never by a product's name",
        "NVML and PCI",
        ("nvswitch_present", "nvlink_remote_nvswitch"),
    ),
    Row("links/sxid", "what do the switches say", "kernel log"),
    Row("links/discovery", "did the driver find the links", "kernel log"),
    # PCIe
    Row("pcie/link", "has a busy GPU its full link", "NVML current and largest generation and width"),
    Row("pcie/replays", "are replays more than a sound link makes", "NVML field 94, rollovers 95"),
    Row("pcie/counters", "does PCIe err", "NVML fields 169 and 173 to 183"),
    Row("pcie/adapter-links", "have adapters and disks their full link", "sysfs"),
    Row("pcie/aer", "did PCIe report errors", "sysfs aer_dev_*, kernel log"),
    Row("pcie/access-control", "is peer traffic sent over the root complex", "PCI configuration"),
    # Xid
    Row("xid/table", "what does the GPU's driver say by number", "kernel log, NVML event set"),
    Row("xid/off-bus", "both texts of a GPU off the bus that carry no number", "kernel log"),
    Row("xid/first-and-echoes", "which fault was first, which ones followed from it", "kernel log and all rules"),
    Row("xid/collapse", "is the same line told once", "kernel log"),
    Row("xid/close", "is a fault over by a reset or a reboot", "boot id, counts that began anew"),
    Row("xid/gsp", "is the firmware the same on all GPUs", "nvmlDeviceGetGspFirmwareVersion and Mode"),
    # InfiniBand and RoCE
    Row("network/port-state", "is a port up that was up", "sysfs state, phys_state"),
    Row("network/expected-ports", "are as many ports up as there should be", "sysfs"),
    Row("network/rate", "has a port its full rate", "sysfs rate"),
    Row("network/vanished", "is every adapter still there", "sysfs"),
    Row("network/flap", "does a port come and go", "state over time, carrier_changes"),
    Row("network/link-downed", "did a link go down in between", "counters/link_downed"),
    Row("network/error-recovery", "did a link recover often", "counters/link_error_recovery"),
    Row("network/symbol-errors", "is the signal bad", "counters/symbol_error"),
    Row("network/receive-errors", "are packets damaged", "counters/port_rcv_errors"),
    Row("network/integrity", "does the link lose packets", "local_link_integrity, excessive_buffer_overrun"),
    Row("network/discards", "are packets dropped when sent", "counters/port_xmit_discards"),
    Row("network/wait", "does a port wait to send", "counters/port_xmit_wait", ("port_xmit_wait",)),
    Row(
        "network/remote-errors",
        "what errs elsewhere in the fabric",
        "counters",
        (
            "port_rcv_remote_physical_errors",
            "port_rcv_switch_relay_errors",
            "port_rcv_constraint_errors",
            "VL15_dropped",
        ),
    ),
    Row("network/sequence", "do packets come out of order or get lost", "hw_counters"),
    Row("network/ack-timeout", "does the other side not answer", "hw_counters/local_ack_timeout_err"),
    Row("network/retries", "did a connection give up", "hw_counters"),
    Row("network/adaptive", "does RoCE start slowly again", "hw_counters/roce_*"),
    Row(
        "network/congestion-marks",
        "is there congestion",
        "hw_counters",
        ("np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"),
    ),
    Row("network/pause", "is a port paused for long", "ethtool, by priority"),
    Row("network/fec", "are blocks beyond correction", "ethtool, physical layer"),
    Row("network/adapter-driver", "does an adapter answer its driver", "kernel log"),
    Row("network/adapter-soft", "power, heat, cable and registers of an adapter", "kernel log"),
    Row("network/unreadable", "a counter that cannot be read costs only itself", "any file"),
    Row("network/gpu-direct", "can adapters reach the GPUs' memory", "module list, kernel log"),
    Row(
        "network/roles",
        "which port is for computing, storage or management: by distance, not by name",
        "PCI and NUMA topology",
        ("port_role",),
    ),
    # Host
    Row("host/memory-errors", "does the host's memory err", "EDAC, kernel log"),
    Row("host/machine-check", "did a processor or the firmware report an error", "kernel log"),
    Row("host/panic", "did the kernel fail, now or in the boot before", "kernel log, pstore", tried=True),
    Row("host/lockup", "does a CPU stand still", "kernel log"),
    Row("host/hung-task", "does a process stand still in the kernel", "kernel log, /proc", tried=True),
    Row("host/zombies", "does nobody wait for the dead", "/proc", tried=True),
    Row("host/oom", "was a process killed for want of memory", "kernel log, vmstat, cgroup", tried=True),
    Row("host/memory-available", "is there memory left", "/proc/meminfo", ("hugepages_free", "swap_used"), tried=True),
    Row("host/limits", "are files and processes about to run out", "/proc, kernel log", tried=True),
    Row("host/disk-space", "is there room on disk", "statvfs with a deadline", tried=True),
    Row("host/read-only", "did a file system become read-only", "mount table, kernel log", tried=True),
    Row("host/nvme", "are disks sound", "sysfs, SMART, kernel log"),
    Row("host/block", "do disks give errors", "kernel log"),
    Row("host/nfs", "do file servers answer", "a probe with a deadline, kernel log"),
    Row("host/mounts", "is all mounted that should be", "mount table", tried=True),
    Row("host/clock", "is the clock right", "adjtimex, kernel log", tried=True),
    Row("host/cpu", "do CPUs run at full speed, all of them", "sysfs", tried=True),
    Row("host/inventory", "did versions and parts change", "inventory hash"),
    Row("host/persistence", "does the driver stay loaded", "nvmlDeviceGetPersistenceMode"),
    Row("host/services", "do the services run that jobs need", "service manager", tried=True),
    Row(
        "host/load",
        "do processes wait for memory or disks",
        "pressure files",
        ("load", "pressure_cpu_some"),
        tried=True,
    ),
    Row("host/bmc", "what does the management controller say", "Redfish, when configured"),
    Row("host/nccl-segfault", "did a process crash within NCCL", "kernel log"),
)

BY_NAME: Final = {row.name: row for row in ROWS}
