"""What the node's signals read, as metrics: dcgm-exporter's names and labels where it has one, else ``outrider_*``.

In: the newest readings, how each signal fares, the findings that stand, where ranks run. Out: metric families. A
reading that could not be read has no sample and is counted in ``outrider_gpu_unreadable``; one that a board does not
have has none either. Job and rank stand in ``outrider_rank_info`` alone, so that a restart begins no other new series.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import core

from outrider.records import Json
from outrider_agent import readings
from outrider_agent.exporter_families import Maker, Values

MIB: Final = 2**20
LINK_ERRORS: Final = ("nvlink_replay", "nvlink_recovery", "nvlink_crc")
PORTS_SHOWN_MAX: Final = 16
SIGNALS_SHOWN_MAX: Final = 32

# dcgm-exporter's family -> our reading, what its unit is of ours, whether it counts up, and what it says.
DCGM: Final[tuple[tuple[str, str, float, bool, str], ...]] = (
    ("DCGM_FI_DEV_GPU_TEMP", "temperature", 1, False, "GPU temperature (C)"),
    ("DCGM_FI_DEV_MEMORY_TEMP", "temperature_memory", 1, False, "memory temperature (C)"),
    ("DCGM_FI_DEV_POWER_USAGE", "power", 1, False, "power draw (W)"),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "energy", 1000, True, "energy since the driver was loaded (mJ)"),
    ("DCGM_FI_DEV_SM_CLOCK", "sm_clock", 1, False, "SM clock (MHz)"),
    ("DCGM_FI_DEV_GPU_UTIL", "utilization", 1, False, "GPU utilization (%)"),
    ("DCGM_FI_DEV_FB_USED", "memory_used", 1 / MIB, False, "frame buffer in use (MiB)"),
    ("DCGM_FI_DEV_FB_FREE", "memory_free", 1 / MIB, False, "frame buffer free (MiB)"),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "clocks_event_reasons", 1, False, "mask of reasons why clocks are lowered"),
    ("DCGM_FI_DEV_THERMAL_VIOLATION", "thermal_violation", 1e6, True, "time with clocks lowered for heat (us)"),
    ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "ecc_volatile_corrected", 1, True, "memory errors corrected since load"),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "ecc_volatile_uncorrected", 1, True, "memory errors not corrected since load"),
    (
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "remapped_uncorrectable",
        1,
        True,
        "rows remapped after a loss of data",
    ),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "remap_failure", 1, False, "1 where a row could not be remapped"),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "pcie_replay", 1, True, "PCIe retries"),
)
POWER: Final[tuple[tuple[str, str, str], ...]] = (
    ("outrider_node_power_watts", "power_node", "power of all GPUs of the node"),
    ("outrider_node_power_ramp_100ms_watts_per_second", "power_ramp_100ms", "steepest change within 0.1 s, of late"),
    ("outrider_node_power_ramp_1s_watts_per_second", "power_ramp_1s", "steepest change within 1 s, of late"),
    ("outrider_node_power_ramp_10s_watts_per_second", "power_ramp_10s", "steepest change within 10 s, of late"),
    ("outrider_node_power_dynamic_range_watts", "power_dynamic_range", "highest less lowest power, of late"),
    ("outrider_node_power_sampling_hertz", "sampling_hz", "how often power is known"),
)


@dataclass(frozen=True)
class Rank:
    """One rank that runs here. ``gpu``: the index of the one it uses, ``unknown`` where that cannot be told."""

    job: str
    rank: int
    gpu: str


@dataclass(frozen=True)
class Signal:
    """How one signal fares; ``age_s`` None: it never succeeded."""

    name: str
    state: str
    success: bool
    duration_s: float
    age_s: float | None


@dataclass(frozen=True)
class Node:
    """What is known of the node at one moment. ``devices`` and ``driver``: of the NVML signal's context."""

    readings: Sequence[readings.Reading] = ()
    devices: Mapping[str, Json] = field(default_factory=dict)
    driver: str = ""
    signals: Sequence[Signal] = ()
    findings: Mapping[str, int] = field(default_factory=dict)  # by severity
    xids: Mapping[str, int] = field(default_factory=dict)  # newest number by device
    ranks: Sequence[Rank] = ()


def families(node: Node, name: str, make: Maker) -> Iterable[core.Metric]:
    """All families of the node ``name``, the most wanted first."""
    labels = {device: _labels(device, node, name) for device in _gpus(node)}
    known = {(one.device, one.name): one for one in node.readings}
    for family, reading, times, counts, text in DCGM:
        values: dict[object, float] = {}
        for device, base in labels.items():
            value = _free(known, device) if reading == "memory_free" else _number(known.get((device, reading)))
            if value is not None:
                values[base] = value * times
        yield (make.untyped if counts else make.gauge)(family, text, values)
    xids = {base: node.xids.get(device, 0) for device, base in labels.items()}
    yield make.gauge("DCGM_FI_DEV_XID_ERRORS", "number of the newest Xid, 0 for none", xids)
    yield from _gpu_families(node, known, make)
    yield from _signal_families(node.signals[:SIGNALS_SHOWN_MAX], make)
    by_severity = {(("severity", word),): node.findings.get(word, 0) for word in ("fatal", "error", "warning")}
    yield make.gauge("outrider_findings", "what is wrong on this node and not over", by_severity)
    yield from _node_families(node, known, make)
    ranks = {_rank_labels(one, name): 1 for one in node.ranks}
    yield make.info("outrider_rank", "where each rank runs; gpu is the index of the one it uses", ranks)


def _gpu_families(node: Node, known: Mapping[tuple[str, str], readings.Reading], make: Maker) -> Iterable[core.Metric]:
    """What dcgm-exporter has no name for, or tells link by link."""
    up: dict[object, float] = {}
    errors: dict[object, float] = {}
    for one in node.readings:
        gpu, _, link = one.device.partition("/")
        value = _number(one)
        if not link.startswith("link") or value is None:
            continue
        target = up if one.name == "nvlink_state" else errors if one.name in LINK_ERRORS else None
        if target is not None:
            target[_gpu(gpu)] = target.get(_gpu(gpu), 0) + value
    yield make.gauge("outrider_gpu_nvlinks_up", "NVLinks of the GPU that are up", up)
    yield make.counter("outrider_gpu_nvlink_errors", "replays, recoveries and CRC errors of all its links", errors)
    margins = {_gpu(gpu): _number(known.get((gpu, "temperature_margin"))) for gpu in _gpus(node)}
    found = {labels: value for labels, value in margins.items() if value is not None}
    yield make.gauge("outrider_gpu_temperature_margin_celsius", "degrees left before clocks are lowered", found)
    blind: dict[object, float] = {_gpu(gpu): 0 for gpu in _gpus(node)}
    for one in node.readings:
        labels = _gpu(one.device.partition("/")[0])
        if one.state == "unreadable" and labels in blind:
            blind[labels] += 1
    yield make.gauge("outrider_gpu_unreadable", "readings of the GPU that could not be read", blind)


def _signal_families(signals: Sequence[Signal], make: Maker) -> Iterable[core.Metric]:
    """A signal that is absent from this machine says so, and has no figures."""
    success: Values = {(("signal", one.name), ("state", one.state)): one.success for one in signals}
    yield make.gauge("outrider_signal_success", "1 where the newest look told what there is", success)
    here = [one for one in signals if one.state != "absent"]
    took: Values = {(("signal", one.name),): one.duration_s for one in here}
    yield make.gauge("outrider_signal_duration_seconds", "how long the newest look took", took)
    ages: Values = {(("signal", one.name),): one.age_s for one in here if one.age_s is not None}
    yield make.gauge("outrider_signal_age_seconds", "time since the signal last succeeded", ages)


def _node_families(node: Node, known: Mapping[tuple[str, str], readings.Reading], make: Maker) -> Iterable[core.Metric]:
    for family, reading, text in POWER:
        value = _number(known.get(("", reading)))
        yield make.gauge(family, text, {} if value is None else {(): value})
    ports: Values = {
        (("device", one.device),): one.value == "ACTIVE"
        for one in node.readings
        if one.name == "port_state" and one.state == "value"
    }
    shown = dict(sorted(ports.items())[:PORTS_SHOWN_MAX])
    yield make.gauge("outrider_port_active", "1 where the InfiniBand or RoCE port is active", shown)


def _labels(device: str, node: Node, name: str) -> tuple[tuple[str, str], ...]:
    """dcgm-exporter's labels, in its spelling."""
    about = node.devices.get(device) or {}
    index = device.removeprefix("gpu")
    return (
        ("gpu", index),
        ("UUID", str(about.get("uuid") or "")),
        ("pci_bus_id", str(about.get("pci") or "")),
        ("device", f"nvidia{index}"),
        ("modelName", str(about.get("name") or "")),
        ("Hostname", name),
        ("DCGM_FI_DRIVER_VERSION", node.driver),
    )


def _rank_labels(one: Rank, name: str) -> tuple[tuple[str, str], ...]:
    return ("gpu", one.gpu), ("Hostname", name), ("job", one.job), ("rank", str(one.rank))


def _gpus(node: Node) -> list[str]:
    """GPUs by index, also those that only the readings or only the device list name."""
    names = {one.device.partition("/")[0] for one in node.readings} | set(node.devices)
    return sorted((n for n in names if n.startswith("gpu") and n[3:].isdigit()), key=lambda n: int(n[3:]))


def _gpu(device: str) -> tuple[tuple[str, str], ...]:
    return (("gpu", device.removeprefix("gpu")),)


def _free(known: Mapping[tuple[str, str], readings.Reading], device: str) -> float | None:
    total, used = _number(known.get((device, "memory_total"))), _number(known.get((device, "memory_used")))
    return None if total is None or used is None else total - used


def _number(one: readings.Reading | None) -> float | None:
    """Its value as a number; None where there is none."""
    usable = one is not None and one.state == "value" and isinstance(one.value, int | float)
    return float(one.value) if usable and one is not None and one.value is not None else None
