"""/metrics of a full node: dcgm-exporter's names, valid in both formats, few, and honest about what was not read."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable

import prometheus_client
from prometheus_client import parser as plain_parser
from prometheus_client.openmetrics import parser as open_parser

from outrider_agent import exporter, exporter_families, exporter_node, readings
from outrider_agent.signals import disks

SIGNALS = (
    "kernel-log", "nvml", "nvml-events", "power", "infiniband", "ethtool", "pcie", "edac", "hwmon", "nvme",
    "filesystems", "memory", "tasks", "clock", "cpu", "inventory", "services", "redfish",
)  # fmt: skip
READ = {
    "temperature": 61.0, "temperature_memory": 70.0, "temperature_margin": 26.0, "power": 640.5, "energy": 12.5,
    "sm_clock": 1980.0, "utilization": 99.0, "memory_used": 60.0 * 2**30, "memory_total": 80.0 * 2**30,
    "clocks_event_reasons": 4.0, "thermal_violation": 0.25, "ecc_volatile_corrected": 3.0,
    "ecc_volatile_uncorrected": 0.0, "remapped_uncorrectable": 1.0, "remap_failure": False, "pcie_replay": 7.0,
}  # fmt: skip
OPEN = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"


def node() -> exporter_node.Node:
    """Eight GPUs with eighteen links each, eight ports, every signal, a rank on each GPU."""
    read = [readings.Reading(f"gpu{gpu}", name, value) for gpu in range(8) for name, value in READ.items()]
    for gpu in range(8):
        for link in range(18):
            read.append(readings.Reading(f"gpu{gpu}/link{link}", "nvlink_state", 1.0))
            read += [readings.Reading(f"gpu{gpu}/link{link}", name, 2.0) for name in exporter_node.LINK_ERRORS]
    read += [readings.Reading(f"mlx5_{port}/1", "port_state", "ACTIVE" if port else "DOWN") for port in range(8)]
    read += [readings.Reading("", reading, 5000.0) for _, reading, _ in exporter_node.POWER]
    return exporter_node.Node(
        readings=read,
        devices={f"gpu{n}": {"uuid": f"GPU-{n}", "pci": f"00000000:{n:02x}:00.0", "name": "H100"} for n in range(8)},
        driver="550.54.15",
        signals=[exporter_node.Signal(name, "ok", True, 0.01, 0.5) for name in SIGNALS],
        findings={"fatal": 1},
        xids={"gpu3": 79},
        ranks=[exporter_node.Rank("llama", 16 + n, str(n)) for n in range(8)],
    )


def reading(hardware: exporter_node.Node, **given: object) -> exporter.Reading:
    return dataclasses.replace(
        exporter.Reading(
            node="n17", simulated=False, version="1", connection="connected", observations=3, observations_waiting=2,
            observations_lost=0, acked_seq=1, spool_on_disk=True,
            marks={"received": 9, "refused": 1, "stale": 0, "dropped": 0}, orders={"done": 1, "failed": 0},
            ranks_alive={"llama": 8}, keeper_warm={"llama": True}, ranks_stopped={"llama": 0},
            disks={mount: disks.Room(mount, 1, 2, 3, 4) for mount in ("/", "/run", "/ckpt")}, hardware=hardware,
        ), **given)  # type: ignore[arg-type]  # fmt: skip


def scraped(shown: exporter.Reading, accept: str = OPEN) -> tuple[str, str]:
    """The type and the body of one scrape over a real socket."""

    async def scenario() -> bytes:
        server = await exporter.serve(("127.0.0.1", 0), lambda: shown)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        server.close()
        return answer

    head, _, body = asyncio.run(scenario()).decode().partition("\r\n\r\n")
    kind = next(line for line in head.splitlines() if line.lower().startswith("content-type"))
    return kind.partition(": ")[2], body


def samples(families: Iterable[prometheus_client.Metric]) -> dict[tuple[str, str], float]:
    """Values by name of the series and its gpu, device, signal, severity or rank."""
    found = {}
    for family in families:
        for one in family.samples:
            keys = (one.labels.get(k) for k in ("gpu", "device", "signal", "severity", "mount"))
            found[one.name, next((key for key in keys if key is not None), "")] = one.value
    return found


def test_a_full_node_has_fewer_than_three_hundred_series_and_both_formats_parse() -> None:
    kind, text = scraped(reading(node()))
    assert kind.startswith("application/openmetrics-text")
    opened = list(open_parser.text_string_to_metric_families(text))
    count = sum(len(family.samples) for family in opened)
    assert 200 < count < 300
    found = samples(opened)
    assert found[exporter_families.LEFT_OUT, ""] == 0
    plain_kind, plain_text = scraped(reading(node()), "text/plain")
    assert plain_kind.startswith("text/plain")
    plain = samples(plain_parser.text_string_to_metric_families(plain_text))
    assert plain == found, "a query means the same whichever format was scraped"


def test_names_units_and_labels_are_those_of_dcgm_exporter() -> None:
    _, text = scraped(reading(node()))
    found = samples(open_parser.text_string_to_metric_families(text))
    assert found["DCGM_FI_DEV_GPU_TEMP", "3"] == 61
    assert found["DCGM_FI_DEV_FB_USED", "0"] == 60 * 1024
    assert found["DCGM_FI_DEV_FB_FREE", "0"] == 20 * 1024
    assert found["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "7"] == 12_500
    assert (found["DCGM_FI_DEV_XID_ERRORS", "3"], found["DCGM_FI_DEV_XID_ERRORS", "4"]) == (79, 0)
    assert found["outrider_gpu_nvlinks_up", "5"] == 18
    assert found["outrider_gpu_nvlink_errors_total", "5"] == 18 * 3 * 2
    assert (found["outrider_port_active", "mlx5_0/1"], found["outrider_port_active", "mlx5_1/1"]) == (0, 1)
    labels = (
        'DCGM_FI_DEV_POWER_USAGE{gpu="3",UUID="GPU-3",pci_bus_id="00000000:03:00.0",device="nvidia3",modelName="H100",'
        'Hostname="n17",DCGM_FI_DRIVER_VERSION="550.54.15"} 640.5'
    )
    line = next(one for one in text.splitlines() if one.startswith("DCGM_FI_DEV_POWER_USAGE") and 'gpu="3"' in one)
    assert sorted(_labels(line)) == sorted(_labels(labels))
    assert 'outrider_rank_info{Hostname="n17",gpu="2",job="llama",rank="18"} 1.0' in text
    assert "rank=" not in "".join(one for one in text.splitlines() if not one.startswith("outrider_rank_info"))


def test_what_could_not_be_read_has_no_sample_and_is_counted() -> None:
    full = node()
    read = [
        dataclasses.replace(one, value=None, state="unreadable", error="GPU is lost") if one.device == "gpu2" else one
        for one in full.readings
    ]
    absent = exporter_node.Signal("redfish", "absent", True, 0.0, 1.0)
    never = exporter_node.Signal("nvml", "failed", False, 5.0, None)
    lost = dataclasses.replace(full, readings=read, signals=[absent, never])
    found = samples(exporter.Collector(lambda: reading(lost)).collect())
    assert ("DCGM_FI_DEV_GPU_TEMP", "2") not in found
    assert found["DCGM_FI_DEV_GPU_TEMP", "1"] == 61
    assert (found["outrider_gpu_unreadable", "2"], found["outrider_gpu_unreadable", "1"]) == (len(READ), 0)
    assert (found["outrider_signal_success", "nvml"], found["outrider_signal_success", "redfish"]) == (0, 1)
    assert ("outrider_signal_age_seconds", "nvml") not in found
    assert ("outrider_signal_duration_seconds", "redfish") not in found


def test_simulated_values_are_labelled_and_more_than_there_is_room_for_is_counted() -> None:
    jobs = [f"j{n}" for n in range(100)]
    many = reading(
        node(),
        simulated=True,
        ranks_alive=dict.fromkeys(jobs, 1),
        ranks_stopped=dict.fromkeys(jobs, 1),
        keeper_warm=dict.fromkeys(jobs, True),
    )
    families = list(exporter.Collector(lambda: many).collect())
    every = [one for family in families for one in family.samples]
    assert len(every) <= exporter_families.SERIES_MAX
    assert all(one.labels.get("simulated") == "true" for one in every)
    assert samples(families)[exporter_families.LEFT_OUT, ""] > 0
    bare = list(exporter.Collector(lambda: reading(exporter_node.Node())).collect())
    assert all(family.samples for family in bare), "a laptop without GPUs shows no empty families"


def test_garbage_in_the_accept_header_gets_the_plain_format() -> None:
    for accept in ("application/openmetrics-text; version=x", "\x00, ;;;", "application/openmetrics-text; version="):
        kind, body = scraped(reading(node()), accept)
        assert "text" in kind
        assert "DCGM_FI_DEV_GPU_TEMP" in body


def _labels(line: str) -> list[str]:
    return line[line.index("{") + 1 : line.index("}")].split(",")
