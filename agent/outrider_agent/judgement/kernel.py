"""Rows that events answer: which observation kinds the kernel's log and NVML's event set give for them.

The kernel's log is judged by ``outrider_analysis.kernel_log``, whose tables hold severity and recovery; here stand the
words of the driver's recovery action (NVML field 230), and what NVML's other events mean.
"""

from __future__ import annotations

from typing import Final

RECOVERY_ACTIONS: Final = (
    (1, "reset_gpu"),
    (2, "reboot"),
    (3, "drain"),  # drain the traffic between peers, then reset
    (4, "reset_gpu"),  # drain, then reset
    (5, "check_fabric"),  # the IMEX domain
    (6, "reset_gpu"),  # the bus
    (7, "reboot"),
)

# kind of the event -> (observation kind, severity, recovery); None: counters tell it better.
NVML_EVENTS: Final[dict[str, tuple[str, str, str] | None]] = {
    "ecc-single-bit": None,
    "ecc-double-bit": ("ecc-uncorrected", "fatal", "reset_gpu"),
    "ecc-single-bit-storm": ("ecc-corrected", "error", "drain"),
    "dram-retirement": ("row-remap-pending", "warning", "reset_gpu"),
    "dram-retirement-failure": ("row-remap-failed", "fatal", "replace"),
    "poison": ("ecc-uncorrected", "error", "restart_app"),
    "fatal-poison": ("ecc-uncorrected", "fatal", "reset_gpu"),
    "gpu-unavailable": ("gpu-lost", "fatal", "reboot"),
    "recovery-action": ("recovery-action", "fatal", "contact_support"),
    "pstate": None,
    "clock": None,
}
UNKNOWN_EVENT: Final = ("gpu-event", "warning", "contact_support")

# Row of rows.ROWS -> observation kinds that events give for it, with the readings' rules beside them.
ANSWERED: Final[dict[str, tuple[str, ...]]] = {
    "gpu/off-bus-text": ("xid",),
    "gpu/recovery-action": ("recovery-action", "xid"),
    "gpu/driver-mismatch": ("driver-mismatch",),
    "gpu/driver-not-loaded": ("gpu-init-failed",),
    "memory/volatile-uncorrected": ("ecc-uncorrected",),
    "links/fabric-manager": ("fabric-manager",),
    "links/sxid": ("sxid",),
    "links/discovery": ("nvlink-discovery-failed",),
    "pcie/aer": ("pcie-aer", "pcie-contained", "pcie-lost"),
    "xid/table": ("xid", "uvm-fatal"),
    "xid/off-bus": ("xid",),
    "xid/first-and-echoes": ("xid",),
    "xid/collapse": ("xid",),
    "xid/close": ("xid",),
    "network/adapter-driver": ("adapter-command-timeout", "adapter-health"),
    "network/adapter-soft": ("adapter-power", "adapter-temperature", "adapter-cable", "adapter-register"),
    "network/gpu-direct": ("peer-memory-invalid-context",),
    "host/memory-errors": ("memory-uncorrected", "memory-corrected"),
    "host/machine-check": ("machine-check", "firmware-error-record"),
    "host/panic": ("kernel-panic", "kernel-oops", "previous-boot-error"),
    "host/lockup": ("soft-lockup", "hard-lockup", "rcu-stall"),
    "host/hung-task": ("hung-task",),
    "host/oom": ("oom-kill",),
    "host/limits": ("file-handles-exhausted", "processes-exhausted"),
    "host/read-only": ("file-system-read-only",),
    "host/nvme": ("nvme-timeout", "nvme-disabled", "nvme-no-path"),
    "host/block": ("block-io-error", "file-system-error", "raid-member-lost"),
    "host/nfs": ("nfs-not-responding", "nfs-state-lost"),
    "host/clock": ("clock-unstable",),
    "host/nccl-segfault": ("nccl-segfault",),
    "thermal/elsewhere": ("thermal-critical", "cpu-throttled"),
}
