"""A healthy eight-GPU node, its noise, and whatever is broken on it: sweeps of every signal at any moment.

Loads swing between nothing and everything, links train down while idle, counters rise as they do on sound hardware, one
file cannot be read for good, one counter wraps, and the node boots when it is told to. ``broken`` overrides single
readings: a value, a function of the seconds since the fault, or a state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from outrider_agent import readings

GPUS, LINKS, PORTS = 8, 18, 10
START = 1_700_000_000.0
DAY_S = 86_400.0
FAST_S, SLOW_S = 10.0, 30.0
UNSUPPORTED = ("temperature_margin_slowdown", "retired_pages_single", "retired_pages_double", "retired_pending")
Broken = Callable[[float], Any] | float | str | bool | None


@dataclass
class Node:
    """``busy_from``, ``busy_until``: hours of the day with load. ``boots``: times at which the node boots."""

    seed: int = 0
    board: str = "sxm"
    boots: tuple[float, ...] = ()
    broken: dict[tuple[str, str, str], Broken] = field(default_factory=dict)
    broken_at: float = float("inf")
    gone: set[tuple[str, str]] = field(default_factory=set)
    events: list[tuple[str, readings.Event]] = field(default_factory=list)
    busy: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.at = START
        self.booted_at = START - 3 * DAY_S
        self.boot = 0
        self.counters: dict[tuple[str, str, str], list[float]] = {}
        self.context = {
            "devices": {f"gpu{n}": {"pci": f"0000:{0x19 + n:02x}:00.0"} for n in range(GPUS)},
            "board": self.board,
            "nvswitch": self.board == "sxm",
            "simulated": True,
        }

    def load(self, at: float) -> float:
        """Share of full load: jobs of some hours, with steps, checkpoints and pauses between them."""
        if at - self.booted_at < 300.0:
            return 0.0
        if self.busy is not None:
            return self.busy(at)
        into = (at - START) % (6 * 3600.0)
        if into > 5 * 3600.0:  # no job
            return 0.0
        if into % 1800.0 < 40.0:  # a checkpoint
            return 0.15
        return 0.97

    def sweeps(self, at: float, *signals: str) -> Iterator[readings.Sweep]:
        """What each of ``signals`` reads at ``at``; nvml by its classes ``fast`` and ``slow``."""
        self.at = at
        for boot in self.boots:
            if self.booted_at < boot <= at:
                self.booted_at, self.boot = boot, self.boot + 1
                for counter in self.counters.values():
                    counter[:] = [0.0, at]
        for signal in signals:
            name = signal.partition("-")[0] if signal.startswith("nvml-") and signal != "nvml-events" else signal
            made = tuple(self._judged(name, list(getattr(self, "_" + signal.replace("-", "_"))())))
            events = tuple(event for of, event in self.events if of == signal)
            self.events = [(of, event) for of, event in self.events if of != signal]
            context = {"boot_id": f"boot-{self.boot}", **(self.context if name == "nvml" else {})}
            if made or events:
                yield readings.Sweep(name, at, 0.1, "ok", made, events, context=context)

    def _judged(self, signal: str, found: list[readings.Reading]) -> Iterator[readings.Reading]:
        for one in found:
            key = (signal, one.device, one.name)
            if (signal, one.device) in self.gone and self.at >= self.broken_at:
                continue
            if key not in self.broken or self.at < self.broken_at:
                yield one
                continue
            broken = self.broken[key]
            if callable(broken):
                broken = broken(self.at - self.broken_at)
            if broken is None:
                yield readings.Reading(one.device, one.name, None, one.unit, "unreadable", one.counter, "broken")
            elif one.counter and isinstance(broken, int | float):
                yield readings.Reading(one.device, one.name, float(one.value or 0) + broken, one.unit, counter=True)
            else:
                yield readings.Reading(one.device, one.name, broken, one.unit, counter=one.counter)

    def _value(self, device: str, name: str, value: Any, unit: str = "") -> readings.Reading:
        return readings.Reading(device, name, value, unit)

    def _count(
        self, device: str, name: str, per_s: float = 0.0, signal: str = "", start: float = 0.0
    ) -> readings.Reading:
        """A counter that rises by ``per_s``; it begins anew with a boot."""
        key = (signal, device, name)
        counter = self.counters.get(key)
        if counter is None:
            counter = self.counters[key] = [start, self.at]
        counter[0] += per_s * (self.at - counter[1])
        counter[1] = self.at
        return readings.Reading(device, name, float(int(counter[0])), "", counter=True)

    def _nvml_fast(self) -> Iterator[readings.Reading]:
        load = self.load(self.at)
        noise = self.random.random
        for n in range(GPUS):
            gpu = f"gpu{n}"
            yield self._value(gpu, "nvml_code", 0.0)
            yield self._value(gpu, "nvml_call_hung", 0.0)
            yield self._value(gpu, "utilization", round(load * 100 - (2 * noise() if load else 0)))
            yield self._value(gpu, "temperature", round(32 + 36 * load + 3 * noise() + n % 4), "C")
            yield self._value(gpu, "temperature_memory", round(40 + 40 * load + 3 * noise()), "C")
            yield self._value(gpu, "temperature_margin", round(55 - 36 * load - 3 * noise()), "C")
            yield self._value(gpu, "power", 75 + 610 * load * (0.9 + 0.1 * noise()), "W")
            # Full load runs into the power cap now and then; an idle GPU says that it is idle; a slowdown may blink.
            blink = 0x8 if noise() < 0.002 else 0x80 if noise() < 0.002 else 0
            yield self._value(
                gpu, "clocks_event_reasons", float((0x1 if load < 0.05 else 0x4 if noise() < 0.6 else 0) | blink)
            )
            yield self._value(gpu, "sm_clock", 345.0 if load < 0.05 else 1980.0 - 60 * noise(), "MHz")
            yield self._value(gpu, "recovery_action", 0.0)
            yield self._value(gpu, "reset_status", False)
            yield self._value(gpu, "drain_and_reset_status", False)
            yield self._count(gpu, "energy", 75 + 600 * load, start=2**32 - 1e6 * (n + 1))
            yield self._count(gpu, "power_violation", 0.4 * load)
            yield self._count(gpu, "thermal_violation", 0.001 * load)
            yield self._count(gpu, "board_limit_violation", 0.001 * load)
            yield self._value(gpu, "processes", 1.0 if load else 0.0)
        for name, value in (("nvml_init", 0.0), ("gpu_count", 8.0), ("gpu_count_pci", 8.0), ("gpu_count_files", 8.0)):
            yield self._value("", name, value)
        yield self._value("", "nvml_helpers_stuck", 0.0)
        yield self._count("", "nvml_helper_restarts", 1 / DAY_S)

    def _nvml_slow(self) -> Iterator[readings.Reading]:
        load, up = self.load(self.at), self.at - self.booted_at
        for n in range(GPUS):
            gpu = f"gpu{n}"
            for name, value in _LIMITS.items():
                yield self._value(gpu, name, value)
            for name in UNSUPPORTED:
                yield readings.Reading(gpu, name, None, state="unsupported")
            for name in _FLAGS:
                yield self._value(gpu, name, name in _FLAGS_ON)
            yield self._value(gpu, "memory_used", 6e8 + 7e10 * load, "B")
            yield self._value(gpu, "pcie_generation", 5.0 if load > 0.05 else 1.0)
            yield self._value(gpu, "pcie_width", 16.0)
            yield self._value(gpu, "fabric_state", 3.0 if up > 120 else 2.0)
            yield self._value(gpu, "fabric_status", 0.0)
            yield self._value(gpu, "fabric_health_summary", 1.0)
            for name in _ZERO:
                yield self._count(gpu, name)
            yield self._count(gpu, "ecc_volatile_corrected", 3 / DAY_S)
            yield self._count(gpu, "pcie_replay", 0.002 * load, start=2**32 - 200.0)
            yield self._count(gpu, "pcie_recovery", 0.01)
            yield self._count(gpu, "pcie_correctable", 2 / 3600.0)
            for link in range(LINKS):
                yield self._value(f"{gpu}/link{link}", "nvlink_state", 1.0)
                for name in ("nvlink_replay", "nvlink_recovery", "nvlink_crc"):
                    yield self._count(f"{gpu}/link{link}", name)
        yield self._value("", "p2p_broken", 0.0)
        for name, value in (
            ("library_version", "570.124"),
            ("kernel_module_version", "570.124"),
            ("driver_version", "570.124"),
        ):
            yield self._value("", name, value)

    def _infiniband(self) -> Iterator[readings.Reading]:
        load, up = self.load(self.at), self.at - self.booted_at
        for n in range(PORTS):
            port = f"mlx5_{n}/1"
            unused = n == PORTS - 1  # no cable, and never had one
            there = up > 25 and not unused
            yield self._value(port, "port_state", "ACTIVE" if there else "DOWN")
            yield self._value(port, "port_phys_state", "LinkUp" if there else "Polling" if unused else "LinkUp")
            yield self._value(port, "port_rate", (400.0 if n < 8 else 100.0) if there else 10.0, "Gb/s")
            yield self._value(port, "port_role", "compute" if n < 8 else "storage")
            yield self._value(f"mlx5_{n}", "adapter_present", True)
            for name in _PORT_ZERO:
                yield self._count(port, name)
            if n == 3:  # the one file that is no use
                yield readings.Reading(port, "VL15_dropped", None, state="unreadable", counter=True, error="EINVAL")
                yield readings.Reading(
                    port, "link_error_recovery", None, state="unreadable", counter=True, error="EINVAL"
                )
            yield self._count(port, "symbol_error", 1 / 3600.0, start=2**32 - 30.0)
            yield self._count(port, "port_xmit_wait", 1e6 * load)
            yield self._count(port, "out_of_sequence", 0.05 * load)
            yield self._count(port, "np_cnp_sent", 200 * load)
            yield self._count(port, "roce_slow_restart", 0.2 * load)
        yield self._value("", "ports_active", 9.0 if up > 25 else 0.0)
        yield self._value("", "ports_expected", 8.0)

    def _pcie(self) -> Iterator[readings.Reading]:
        load = self.load(self.at)
        for n in range(GPUS):
            address = f"0000:{0x19 + n:02x}:00.0"
            yield self._value(address, "kind", "gpu")
            yield self._value(address, "link_speed", 32.0 if load > 0.05 else 2.5, "GT/s")
            yield self._value(address, "link_speed_max", 32.0, "GT/s")
        for n in range(PORTS):
            address = f"0000:{0x50 + n:02x}:00.0"
            yield self._value(address, "kind", "adapter")
            yield self._value(address, "on_bus", True)
            for name in ("link_speed", "link_speed_max"):
                yield self._value(address, name, 32.0, "GT/s")
            for name in ("link_width", "link_width_max"):
                yield self._value(address, name, 16.0)
            yield self._count(address, "aer_fatal")
            yield self._count(address, "aer_nonfatal")
            yield self._count(address, "aer_correctable", 1 / 3600.0)

    def _memory(self) -> Iterator[readings.Reading]:
        load = self.load(self.at)
        for name, value in (
            ("memory_total", 2e12),
            ("memory_available", 1.9e12 - 1.2e12 * load),
            ("file_handles", 2e4),
        ):
            yield self._value("", name, value, "bytes")
        for name, value in (("file_handles_max", 9e6), ("processes_count", 3e3), ("processes_max", 4e6)):
            yield self._value("", name, value)
        yield self._value("", "pressure_memory_full", 0.0)
        yield self._value("", "pressure_io_full", 8.0 if self.random.random() < 0.01 else 0.2, "%")
        yield self._count("", "oom_kills")

    def _filesystems(self) -> Iterator[readings.Reading]:
        for mount, used in (("/", 41.0), ("/ckpt", 63.0), ("/scratch", 20.0)):
            yield self._value(mount, "fs_mounted", True)
            yield self._value(mount, "fs_readonly", False)
            yield self._value(mount, "fs_turned_readonly", False)
            yield self._value(mount, "fs_used", used, "%")
            yield self._value(mount, "fs_inodes_used", 7.0, "%")
            yield self._value(mount, "fs_free", 3e11, "bytes")
            # A slow answer now and then is a busy server.
            yield self._value(mount, "fs_answer_s", 7.0 if self.random.random() < 0.003 else 0.002, "s")

    def _services(self) -> Iterator[readings.Reading]:
        up = self.at - self.booted_at
        for name in ("nvidia-fabricmanager", "nvidia-persistenced", "containerd"):
            yield self._value(name, "service_active", "active" if up > 20 else "activating")
            yield self._count(name, "service_restarts")
        yield self._value("docker", "service_active", "inactive")
        yield self._value("slurmd", "service_active", "not-found")

    def _clock(self) -> Iterator[readings.Reading]:
        yield self._value("", "clock_synchronised", self.at - self.booted_at > 90)
        yield self._value("", "clock_offset", 0.002 * self.random.random() - 0.001, "s")

    def _cpu(self) -> Iterator[readings.Reading]:
        yield self._value("cpu", "governor", "performance")
        yield self._value("cpu", "cores_online", 192.0)
        yield self._value("cpu", "cores_present", 192.0)
        yield self._value("cpu", "numa_nodes", 2.0)

    def _tasks(self) -> Iterator[readings.Reading]:
        for name in ("tasks_blocked", "tasks_blocked_driver", "zombies_old"):
            yield self._value("", name, 0.0)
        yield self._value("", "zombies", 3.0)

    def _inventory(self) -> Iterator[readings.Reading]:
        yield self._value("", "inventory_hash", "abc")
        yield self._value("", "kernel_release", "5.15.0-1053")
        yield self._value("", "nvidia_peermem", True)
        yield self._value("", "nvswitch_present", True)
        yield self._value("", "pstore_records", 0.0)

    def _edac(self) -> Iterator[readings.Reading]:
        for n in range(16):
            yield self._count(f"mc{n}", "memory_corrected", 4 / DAY_S)
            yield self._count(f"mc{n}", "memory_uncorrected")

    def _hwmon(self) -> Iterator[readings.Reading]:
        load = self.load(self.at)
        for n in range(6):
            yield self._value(f"hwmon{n}/temp1", "temperature", 35 + 30 * load, "C")
            yield self._value(f"hwmon{n}/temp1", "temperature_crit", 105.0, "C")
            yield self._value(f"hwmon{n}/temp1", "temperature_alarm", False)
            yield self._value(f"hwmon{n}/fan1", "fan_alarm", False)

    def _nvme(self) -> Iterator[readings.Reading]:
        for n in range(4):
            name = f"nvme{n}"
            yield self._value(name, "nvme_present", True)
            yield self._value(name, "nvme_state", "live")
            yield self._value(name, "critical_warning", 0.0)
            yield self._value(name, "available_spare", 100.0, "%")
            yield self._value(name, "available_spare_threshold", 10.0, "%")
            yield self._value(name, "percentage_used", 12.0, "%")
            yield self._count(name, "media_errors")

    def _ethtool(self) -> Iterator[readings.Reading]:
        for n in range(PORTS):
            for priority in range(8):
                yield self._count(f"ib{n}", f"rx_prio{priority}_pause_duration", 900.0 * self.load(self.at))
            yield self._count(f"ib{n}", "fec_corrected_blocks", 5000.0)
            yield self._count(f"ib{n}", "fec_uncorrected_blocks")

    def _redfish(self) -> Iterator[readings.Reading]:
        for n in range(6):
            yield self._value(f"psu{n}", "health", "OK")
        yield self._value("chassis", "power_supply_redundancy", "OK")
        yield self._value("chassis", "fan_redundancy", "OK")
        yield self._count("log/SEL", "log_critical")

    def _kernel_log(self) -> Iterator[readings.Reading]:
        yield self._count("", "kernel_log_records", 0.1)

    def _nvml_events(self) -> Iterator[readings.Reading]:
        yield self._count("", "nvml_events")


_LIMITS = {
    "temperature_max": 83.0,
    "temperature_slowdown": 87.0,
    "temperature_shutdown": 92.0,
    "temperature_memory_max": 95.0,
    "power_limit": 700.0,
    "power_limit_default": 700.0,
    "pcie_generation_max": 5.0,
    "pcie_width_max": 16.0,
    "gsp_firmware": "570.124",
    "vbios_version": "96.00.74",
    "remap_banks_low": 0.0,
    "remap_banks_none": 0.0,
    "remapped_uncorrectable": 0.0,
    "ecc_aggregate_corrected_dram": 120.0,
    "ecc_aggregate_corrected_sram": 2.0,
    "ecc_aggregate_uncorrected_sram": 0.0,
}
_FLAGS_ON = ("ecc_mode", "ecc_mode_pending", "persistence_mode", "inforom_valid")
_FLAGS = (
    *_FLAGS_ON,
    *("remap_pending", "remap_failure", "sram_threshold_exceeded", "repair_pending", "fabric_degraded_bandwidth"),
    *("fabric_route_recovery", "fabric_route_unhealthy", "fabric_access_timeout", "fabric_incorrect_configuration"),
)
_ZERO = (
    *("ecc_volatile_uncorrected", "ecc_volatile_uncorrected_sram", "ecc_volatile_uncorrected_dram"),
    *("pcie_replay_rollover", "pcie_fatal", "pcie_nonfatal", "pcie_bad_tlp", "pcie_bad_dllp", "pcie_lane_errors"),
)
_PORT_ZERO = (
    *("link_downed", "port_rcv_errors", "local_link_integrity_errors", "excessive_buffer_overrun_errors"),
    *("port_xmit_discards", "packet_seq_err", "local_ack_timeout_err", "rnr_nak_retry_err"),
    *("req_transport_retries_exceeded", "carrier_changes"),
)
# Each signal's own period, seconds.
PERIODS = {
    "nvml-fast": FAST_S,
    "nvml-slow": SLOW_S,
    "infiniband": FAST_S,
    "pcie": 60.0,
    "memory": 15.0,
    "filesystems": 30.0,
    "services": 30.0,
    "clock": 60.0,
    "cpu": 60.0,
    "tasks": 60.0,
    "inventory": 3600.0,
    "edac": 60.0,
    "hwmon": 30.0,
    "nvme": 60.0,
    "ethtool": 30.0,
    "redfish": 60.0,
    "kernel-log": 60.0,
    "nvml-events": 60.0,
}


def due(since: float, at: float, stretch: float = 1.0) -> list[str]:
    """The signals whose period ended between ``since`` and ``at``; ``stretch`` makes all of them rarer."""
    return [
        name for name, period in PERIODS.items() if int(since // (period * stretch)) != int(at // (period * stretch))
    ]
