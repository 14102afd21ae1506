"""Every word that more than one part of Outrider says, each list in this one place.

A *cause* is the same word in a diagnosis, in ``runbooks/<cause>.md``, in ``tests/scenarios/<cause>.py`` and in a metric
label; a test holds these sets equal. Observation kinds, decisions and injected faults are vocabularies of their own.
"""

from __future__ import annotations

from typing import Final

CAUSES: Final = (
    "rank-killed",
    "rank-crashed",
    "user-error",
    "out-of-memory",
    "node-lost",
    "rank-hung",
    "rank-stopped",
    "job-stalled",
    "collective-mismatch",
    "device-stuck",
    "loss-nan",
    "checkpoint-corrupt",
    "checkpoint-torn",
    "disk-full",
    "no-progress",
    "gpu-lost",
    "gpu-memory",
    "gpu-processor",
    "gpu-hung",
    "gpu-fault",
    "gpu-overheating",
    "power-brake",
    "nvlink-fault",
    "pcie-fault",
    "network-fault",
    "adapter-fault",
    "host-memory",
    "host-fault",
    "host-storage",
    "host-chassis",
    "unknown",
)

DECISIONS: Final = (
    "watch",
    "capture-evidence",
    "drain-at-checkpoint",
    "restart",
    "restart-without-suspect",
    "reset-gpu",
    "reboot-node",
    "shrink",
    "grow",
    "hold-for-person",
)

BINS: Final = (
    "start",
    "productive",
    "checkpoint",
    "detection",
    "diagnosis",
    "restart",
    "redo",
    "planned",
    "held",
    "idle",
)

JOB_STATES: Final = ("starting", "training", "interrupted", "held", "completed", "failed")
NODE_STATES: Final = ("healthy", "suspect", "cordoned", "lost", "spare", "unknown")
SEVERITIES: Final = ("fatal", "error", "warning", "info")

OBSERVATION_KINDS: Final = (
    "rank-exited",  # a rank's process ended; evidence: records.RankExit
    "ranks-started",  # a node's ranks of one attempt run; evidence: pids, warm
    "cold-start",  # the keeper could not fork safely and started each rank afresh; text says why
    "start-failed",  # a rank could not be started at all (no interpreter, no permission)
    "keeper-lost",  # the keeper of a job died, and its ranks with it
    "rank-stopped",  # a rank's process is stopped (SIGSTOP, a frozen cgroup); evidence: pid, state, since
    "rank-continued",  # it runs again
    "flight-record-written",  # torch dumped a rank's flight record of itself; evidence: file, bytes
    "logs-removed",  # logs or dumps of former attempts went, as the job's bounds ask; evidence: paths, why, shared
    "disk-full",  # a file system that the node or its jobs write to has no room; device is its mount point
    "disk-clear",  # it has room again
    "marks-refused",  # garbage on the marks' socket; counted, never fatal
    "spool-damaged",  # the node's spool was unreadable and was set aside
    "check-failed",  # the newest check of the node failed (`outrider check`); evidence: the checks that did
    # What the kernel log tells (outrider_analysis.kernel_log); the evidence has the line, its count and its number.
    "xid",  # the GPU driver reported a fault; evidence: xid (its number), pci, and what the line held
    "sxid",  # an NVSwitch reported a fault; evidence: sxid, pci, link
    "user-space-lookalike",  # a process wrote a line into the kernel log that looks like the kernel's
    "kernel-log-lost",  # records were overwritten before the agent could read them; evidence: count
    "gpu-init-failed",  # the driver could not take a GPU
    "driver-mismatch",  # NVIDIA library and kernel module have different versions
    "uvm-fatal",  # unified memory met an error that only a reboot cures
    "nvlink-discovery-failed",  # the driver cannot find a GPU's links
    "peer-memory-invalid-context",  # GPU direct lost its context below a transfer
    "fabric-manager",  # the fabric manager found a wrong topology or could not set up a multicast team
    "pcie-aer",  # PCIe reported an error; its severity is that of the text
    "pcie-contained",  # a port cut off what is behind it
    "pcie-lost",  # a PCIe device cannot be reached or did not recover
    "memory-uncorrected",  # host memory lost data
    "memory-corrected",  # host memory corrected an error; a warning once it is frequent
    "machine-check",  # the processor reported an error
    "firmware-error-record",  # the firmware reported a hardware error
    "previous-boot-error",  # the firmware kept an error record of the boot before
    "kernel-panic",
    "kernel-oops",  # the kernel met an error of its own
    "soft-lockup",
    "hard-lockup",
    "rcu-stall",
    "hung-task",  # a task stands still within the kernel
    "oom-kill",  # the kernel killed a process for want of memory
    "nccl-segfault",  # a process crashed within NCCL
    "file-handles-exhausted",
    "processes-exhausted",
    "nvme-disabled",
    "nvme-timeout",
    "nvme-no-path",
    "block-io-error",
    "raid-member-lost",
    "file-system-read-only",
    "file-system-error",
    "nfs-not-responding",
    "nfs-state-lost",
    "adapter-command-timeout",  # a network adapter does not answer its driver
    "adapter-health",
    "adapter-temperature",
    "adapter-cable",
    "adapter-power",
    "adapter-register",
    "thermal-critical",
    "cpu-throttled",
    "clock-unstable",
    # What the readings of a node tell (outrider_agent.judgement); evidence: reading, value, bound, unit and since.
    "could-not-look",  # a signal or some of its readings cannot be read: that is no sign of health
    "gpu-count",  # another number of GPUs than expected, or than another way of counting finds
    "gpu-lost",
    "gpu-reset-required",
    "gpu-handle-error",  # a GPU cannot be opened
    "gpu-reset-asked",  # the driver would like to reset a GPU, once it is drained
    "gpu-repair-pending",
    "gpu-unlike",  # firmware that most GPUs of the node do not have
    "gpu-event",  # the driver told of an event that is in no table
    "recovery-action",  # what the driver asks for; outweighs every table
    "driver-not-loaded",
    "persistence-mode-off",
    "nvml-hang",  # a call to the driver does not come back
    "nvml-helper",  # the processes that make these calls are stuck or often started anew
    "gpu-temperature",
    "gpu-memory-temperature",
    "gpu-warmer-than-siblings",
    "thermal-margin",
    "thermal-throttle",  # clocks are held down because of heat
    "sensor-temperature",  # anything but a GPU is too warm
    "hardware-slowdown",
    "power-brake",  # the power supply slows a GPU down
    "clocks-held-down",  # for more seconds of a minute than usual
    "clocks-pinned",
    "sync-boost",
    "clock-below-siblings",
    "gpu-power-missing",  # a busy GPU that reports no power
    "power-limit",
    "power-supply",
    "fan-failed",
    "ecc-mode",  # ECC is off, or will be
    "ecc-uncorrected",  # GPU memory lost data
    "ecc-corrected",  # so many corrections each second that they cost time
    "ecc-corrected-total",
    "ecc-sram-threshold",
    "row-remap-pending",
    "row-remap-failed",
    "row-remap-exhausted",
    "row-remap-banks-low",
    "retired-pages",
    "inforom-invalid",
    "gpu-memory-held",  # by nobody that is seen
    "nvlink-down",
    "nvlink-errors",
    "p2p-broken",
    "fabric-state",  # a GPU did not join the fabric
    "fabric-health",
    "pcie-degraded",  # fewer lanes or a lower speed than possible
    "pcie-replays",
    "pcie-errors-corrected",
    "pcie-access-control",  # traffic between peers takes a detour
    "port-down",
    "ports-missing",
    "port-rate",
    "port-flapping",
    "port-errors",
    "port-congestion",
    "port-paused",
    "link-downed",  # it went down and came back between two looks
    "fec-errors",
    "transport-errors",  # packets lost or out of order
    "transport-timeouts",
    "transport-gave-up",
    "adapter-missing",
    "peer-memory-missing",  # adapters cannot reach the memory of GPUs
    "memory-low",
    "limit-near",  # open files or processes
    "pressure",  # processes wait for memory or disks
    "zombies",
    "disk-low",  # a warning before disk-full
    "mount-missing",
    "file-system-silent",  # does not answer in time
    "nvme-health",
    "nvme-missing",
    "clock-offset",
    "clock-unsynchronised",
    "cpu-governor",
    "cpu-cores",
    "inventory-changed",  # versions or parts
    "service-stopped",
    "service-restarting",
    "bmc-health",
    "bmc-event",
)

# What a training script says it is doing (outrider.Run.phase); "step" is the ordinary work between marks.
PHASES: Final = ("start", "load", "step", "checkpoint", "evaluation", "done")

# How far a checkpoint is trusted, from nothing to most. ``rejected`` stands outside: it is never loaded.
TRUST: Final = ("written", "complete", "hashed", "loadable", "survived")
REJECTED: Final = "rejected"

DEMO_FAULTS_PLAIN: Final = (
    "kill",
    "stop",
    "spin",
    "corrupt",
    "node",
    "nan",
)  # what the demo does unless told otherwise
# These break simulated hardware, which takes a C compiler.
DEMO_FAULTS_SIMULATED: Final = ("gpu-lost", "xid", "thermal", "power-brake", "ecc")
DEMO_FAULTS: Final = (*DEMO_FAULTS_PLAIN, *DEMO_FAULTS_SIMULATED)
DEMO_FAULTS_READY: Final = DEMO_FAULTS  # those that this version injects and recovers from by itself: all of them

# What an observation asks for (``recovery``), and how people are told. Two tables have two words for one act: that of
# Xids says ``reboot_node`` and ``replace_gpu``, that of a node's signals ``reboot`` and ``replace``. Those that begin
# with "check" and "contact" ask somebody to look.
RECOVERIES: Final = {
    "none": "nothing",
    "restart_app": "restart the program",
    "restart_service": "restart the service",
    "reset_gpu": "reset the GPU",
    "reboot": "reboot the node",
    "reboot_node": "reboot the node",
    "drain": "take the node out of use",
    "replace": "replace the part",
    "replace_gpu": "replace the GPU",
    "update_software": "update the software",
    "check_nvlink": "check NVLink",
    "check_cooling": "check the cooling",
    "check_power": "check the power supply",
    "check_cable": "check the cable",
    "check_fabric": "check the fabric",
    "check_settings": "check the settings",
    "check_storage": "check the storage",
    "contact_support": "contact support",
}


def recovery_words(recovery: str | None) -> str:
    """``reboot the node`` for ``reboot_node``; a word of another release as it is."""
    return RECOVERIES.get(recovery or "none", str(recovery).replace("_", " "))


# Component classes of Table 5 of "The Llama 3 Herd of Models" (arXiv:2407.21783).
CAUSE_GROUPS: Final = (
    "Faulty GPU",
    "GPU HBM3 Memory",
    "Software Bug",
    "Network Switch/Cable",
    "Host Maintenance",
    "GPU SRAM Memory",
    "GPU System Processor",
    "NIC",
    "NCCL Watchdog Timeouts",
    "Silent Data Corruption",
    "GPU Thermal Interface + Sensor",
    "SSD",
    "Power Supply",
    "Server Chassis",
    "IO Expansion Board",
    "Dependency",
    "CPU",
    "System Memory",
)

EXIT_DONE: Final = 0
EXIT_PROBLEM: Final = 1
EXIT_COULD_NOT: Final = 2
EXIT_NO_RESTART_HELPS: Final = 93
