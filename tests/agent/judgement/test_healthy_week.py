"""A week of a healthy node's noise gives no fatal and no error observation; each fault within that noise is found."""

import pathlib
from collections.abc import Collection, Iterator

import pytest

from outrider import records
from outrider_agent import readings
from outrider_agent.judgement import engine, rules
from outrider_analysis.kernel_log import judge as kernel_judge
from outrider_analysis.kernel_log import lines
from tests.agent.judgement import healthy

BOOT_LINES = pathlib.Path(__file__).parents[2] / "recorded/kernel_log/boot.txt"
BOOTS = (healthy.START + 2.3 * healthy.DAY_S, healthy.START + 5.1 * healthy.DAY_S)
EXPECTED = rules.Expectations(gpus=8, port_rate=400.0, checkpoint_mounts=("/ckpt",))


def test_a_healthy_week_is_quiet() -> None:
    """Every five minutes, and closely around each start, end and checkpoint of a job and each boot."""
    told = _week(list(_moments()))
    assert not [one for one in told if one.severity in ("fatal", "error")]
    # What is told: the file that cannot be read, and no more than a handful of it.
    assert not [one for one in told if one.severity == "warning"]
    assert len(told) <= 40
    assert all(one.evidence["simulated"] for one in told if one.at > healthy.START + 60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_healthy_week_is_quiet_at_the_pace_of_an_agent() -> None:
    steps = int(7 * healthy.DAY_S / healthy.FAST_S)
    told = _week([healthy.START + healthy.FAST_S * step for step in range(1, steps)], restart_every=20_000)
    assert not [one for one in told if one.severity in ("fatal", "error")]


def _moments() -> Iterator[float]:
    close = [*BOOTS, *(healthy.START + hours * 3600.0 for hours in (0.01, 5.0, 6.0, 29.0, 30.0, 30.5))]
    at = healthy.START
    end = healthy.START + 7 * healthy.DAY_S
    while at < end:
        near = any(moment - 30.0 <= at <= moment + 420.0 for moment in close)
        at = at + healthy.FAST_S if near else min([at + 300.0, *(m - 30.0 for m in close if m - 30.0 > at)])
        yield at


def _week(moments: list[float], restart_every: int = 500) -> list[records.Observation]:
    node = healthy.Node(seed=4, boots=BOOTS)
    judge = engine.Judge("n0", (), EXPECTED)
    told: list[records.Observation] = []
    before, boot = healthy.START - 4000.0, 0
    for order, at in enumerate(moments):
        # What is read every half minute is read every half hour between the close looks; a week has 20,000 of them.
        stretch = 1.0 if at - before <= healthy.FAST_S else 30.0
        names = ["nvml-fast", "infiniband", *healthy.due(before, at, stretch)]
        for sweep in node.sweeps(at, *dict.fromkeys(names)):
            told += judge.take(sweep)
        if node.boot != boot or order == 0:
            boot = node.boot
            for sweep in _boot_log(at, f"boot-{boot}"):
                told += judge.take(sweep)
        if order % restart_every == restart_every - 1 or (node.booted_at == at):
            memory = judge.memory()
            judge = engine.Judge("n0", (), EXPECTED)
            judge.restore(memory)
        before = at
    assert judge.forgotten == 0
    return told


def _boot_log(at: float, boot_id: str) -> Iterator[readings.Sweep]:
    """The scary but harmless lines of a normal boot, by the way they really take."""
    kernel = kernel_judge.Judge()
    found = [
        one
        for line in lines.parse_all(BOOT_LINES.read_text(errors="replace").splitlines())
        for one in kernel.take(line)
    ]
    events = tuple(
        readings.Event(
            *(at, "kernel-log", one.kind, one.device, one.text),
            {**one.evidence, "severity": one.severity, "recovery": one.recovery, "boot_id": boot_id},
        )
        for one in found
    )
    yield readings.Sweep("kernel-log", at, 0.0, "ok", (), events, context={"boot_id": boot_id})


def _rising(per_s: float):
    return lambda since_s: per_s * max(since_s, 0.0)


def _event(kind: str, device: str, severity: str, recovery: str, **more: object) -> readings.Event:
    evidence = {"severity": severity, "recovery": recovery, "boot_id": "boot-0", "seq": 7, **more}
    return readings.Event(healthy.START + 600.0, "kernel-log", kind, device, f"{kind} on {device}", evidence)


# name -> (observation kind, severity, what is broken: (signal, device, reading) -> value or rate)
FAULTS: dict[str, tuple[str, str, dict[tuple[str, str, str], object]]] = {
    "lost": ("gpu-lost", "fatal", {("nvml", "gpu3", "nvml_code"): 15.0}),
    "reset required": ("gpu-reset-required", "fatal", {("nvml", "gpu3", "nvml_code"): 16.0}),
    "handle": ("gpu-handle-error", "fatal", {("nvml", "gpu3", "nvml_code"): 999.0}),
    "count": ("gpu-count", "fatal", {("nvml", "", "gpu_count"): 7.0}),
    "driver gone": ("driver-not-loaded", "fatal", {("nvml", "", "nvml_init"): 9.0}),
    "mismatch": ("driver-mismatch", "error", {("nvml", "", "nvml_init"): 18.0}),
    "hang": ("nvml-hang", "fatal", {("nvml", "gpu3", "nvml_call_hung"): lambda s: s}),
    "action": ("recovery-action", "fatal", {("nvml", "gpu3", "recovery_action"): 1.0}),
    "hot": ("gpu-temperature", "error", {("nvml", "gpu3", "temperature"): 85.0}),
    "hot memory": ("gpu-memory-temperature", "error", {("nvml", "gpu3", "temperature_memory"): 97.0}),
    "warmer": ("gpu-warmer-than-siblings", "warning", {("nvml", "gpu3", "temperature"): 83.0}),
    "brake": ("power-brake", "error", {("nvml", "gpu3", "clocks_event_reasons"): 128.0}),
    "slowdown": ("hardware-slowdown", "error", {("nvml", "gpu3", "clocks_event_reasons"): 8.0}),
    "thermal": ("thermal-throttle", "error", {("nvml", "gpu3", "clocks_event_reasons"): 64.0}),
    "slow": ("clock-below-siblings", "warning", {("nvml", "gpu3", "sm_clock"): 1400.0}),
    "no power": ("gpu-power-missing", "error", {("nvml", "gpu3", "power"): 0.0}),
    "power unreadable": ("gpu-power-missing", "error", {("nvml", "gpu3", "power"): None}),
    "limit": ("power-limit", "warning", {("nvml", "gpu3", "power_limit"): 500.0}),
    "held down": ("clocks-held-down", "warning", {("nvml", "gpu3", "thermal_violation"): _rising(0.5)}),
    "ecc": ("ecc-uncorrected", "fatal", {("nvml", "gpu3", "ecc_volatile_uncorrected"): 1.0}),
    "corrections": ("ecc-corrected", "error", {("nvml", "gpu3", "ecc_volatile_corrected"): _rising(5000.0)}),
    "some corrections": ("ecc-corrected", "warning", {("nvml", "gpu3", "ecc_volatile_corrected"): _rising(50.0)}),
    "remap": ("row-remap-failed", "fatal", {("nvml", "gpu3", "remap_failure"): True}),
    "remap pending": ("row-remap-pending", "warning", {("nvml", "gpu3", "remap_pending"): True}),
    "sram": ("ecc-sram-threshold", "fatal", {("nvml", "gpu3", "sram_threshold_exceeded"): True}),
    "ecc off": ("ecc-mode", "error", {("nvml", "gpu3", "ecc_mode"): False}),
    "inforom": ("inforom-invalid", "error", {("nvml", "gpu3", "inforom_valid"): False}),
    "link down": ("nvlink-down", "fatal", {("nvml", "gpu3/link7", "nvlink_state"): 0.0}),
    "link crc": ("nvlink-errors", "error", {("nvml", "gpu3/link7", "nvlink_crc"): _rising(200.0)}),
    "link replay": ("nvlink-errors", "warning", {("nvml", "gpu3/link7", "nvlink_replay"): 1.0}),
    "peers": ("p2p-broken", "fatal", {("nvml", "", "p2p_broken"): 2.0}),
    "fabric": ("fabric-state", "fatal", {("nvml", "gpu3", "fabric_state"): 2.0}),
    "fabric ill": ("fabric-health", "error", {("nvml", "gpu3", "fabric_route_unhealthy"): True}),
    "pcie width": ("pcie-degraded", "error", {("nvml", "gpu3", "pcie_width"): 8.0}),
    "pcie generation": ("pcie-degraded", "error", {("nvml", "gpu3", "pcie_generation"): 3.0}),
    "replays": ("pcie-replays", "warning", {("nvml", "gpu3", "pcie_replay"): _rising(2.0)}),
    "pcie fatal": ("pcie-aer", "error", {("nvml", "gpu3", "pcie_fatal"): 1.0}),
    "adapter link": ("pcie-degraded", "error", {("pcie", "0000:52:00.0", "link_width"): 8.0}),
    "adapter aer": ("pcie-aer", "fatal", {("pcie", "0000:52:00.0", "aer_fatal"): 1.0}),
    "port": ("port-down", "fatal", {("infiniband", "mlx5_2/1", "port_state"): "DOWN"}),
    "port rate": ("port-rate", "error", {("infiniband", "mlx5_2/1", "port_rate"): 200.0}),
    "storage rate": ("port-rate", "error", {("infiniband", "mlx5_8/1", "port_rate"): 50.0}),
    "ports": ("ports-missing", "fatal", {("infiniband", "", "ports_active"): 7.0}),
    "downed": ("link-downed", "fatal", {("infiniband", "mlx5_2/1", "link_downed"): 1.0}),
    "flapping": (
        "port-flapping",
        "error",
        {("infiniband", "mlx5_2/1", "port_state"): lambda s: "DOWN" if s % 60 < 35 else "ACTIVE"},
    ),
    "symbols": ("port-errors", "fatal", {("infiniband", "mlx5_2/1", "symbol_error"): _rising(0.5)}),
    "integrity": ("port-errors", "fatal", {("infiniband", "mlx5_2/1", "local_link_integrity_errors"): 1.0}),
    "timeouts": ("transport-timeouts", "warning", {("infiniband", "mlx5_2/1", "local_ack_timeout_err"): _rising(3.0)}),
    "gave up": ("transport-gave-up", "fatal", {("infiniband", "mlx5_2/1", "req_transport_retries_exceeded"): 1.0}),
    "paused": ("port-paused", "warning", {("ethtool", "ib2", "rx_prio3_pause_duration"): _rising(90_000.0)}),
    "fec": ("fec-errors", "error", {("ethtool", "ib2", "fec_uncorrected_blocks"): _rising(2.0)}),
    "peer memory": ("peer-memory-missing", "error", {("inventory", "", "nvidia_peermem"): False}),
    "edac": ("memory-uncorrected", "fatal", {("edac", "mc2", "memory_uncorrected"): 1.0}),
    "hung task": ("hung-task", "fatal", {("tasks", "", "tasks_blocked_driver"): 1.0}),
    "oom": ("oom-kill", "error", {("memory", "", "oom_kills"): 1.0}),
    "memory": ("memory-low", "warning", {("memory", "", "memory_available"): 1e10}),
    "disk": ("disk-low", "error", {("filesystems", "/ckpt", "fs_used"): 91.0}),
    "read-only": ("file-system-read-only", "error", {("filesystems", "/ckpt", "fs_readonly"): True}),
    "mount": ("mount-missing", "error", {("filesystems", "/ckpt", "fs_mounted"): False}),
    "silent": ("file-system-silent", "error", {("filesystems", "/ckpt", "fs_answer_s"): None}),
    "nvme": ("nvme-missing", "error", {("nvme", "nvme1", "nvme_present"): False}),
    "nvme ill": ("nvme-health", "error", {("nvme", "nvme1", "critical_warning"): 4.0}),
    "clock": ("clock-offset", "error", {("clock", "", "clock_offset"): -1.5}),
    "fabric manager": ("service-stopped", "error", {("services", "nvidia-fabricmanager", "service_active"): "failed"}),
    "supply": ("power-supply", "error", {("redfish", "chassis", "power_supply_redundancy"): "lost"}),
    "fan": ("fan-failed", "error", {("hwmon", "hwmon2/fan1", "fan_alarm"): True}),
    "bmc": ("bmc-event", "error", {("redfish", "log/SEL", "log_critical"): 1.0}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_within_the_noise_is_found(name: str) -> None:
    kind, severity, broken = FAULTS[name]
    node = healthy.Node(seed=7, broken=broken, broken_at=healthy.START + 120.0, busy=lambda at: 0.97)  # type: ignore[arg-type]
    signals = {signal for signal, _, _ in broken} | {"infiniband"} | {"nvml-slow", "nvml-fast"}
    told = _minutes(node, 20, signals - {"nvml"}, (kind, severity))
    faults = [one for one in told if one.severity in ("fatal", "error", "warning")]
    assert (kind, severity) in {(one.kind, one.severity) for one in faults}, faults
    assert all(one.at >= healthy.START + 120.0 for one in faults), "nothing is told before it is broken"
    assert len(told) <= 8, "a fault is told in few words"


def test_an_adapter_that_is_gone_is_found() -> None:
    node = healthy.Node(seed=7, broken_at=healthy.START + 600.0, busy=lambda at: 0.97)
    node.gone = {("infiniband", "mlx5_2/1")}
    assert ("adapter-missing", "fatal") in {(one.kind, one.severity) for one in _minutes(node, 15)}


def test_an_xid_within_the_noise_is_found_and_ends_with_the_reboot() -> None:
    node = healthy.Node(seed=7, boots=(healthy.START + 900.0,), busy=lambda at: 0.97)
    fault = _event("xid", "0000:1c:00", "fatal", "reboot_node", xid=79, first=True)
    node.events.append(("kernel-log", fault))
    told = _minutes(node, 20)
    assert [(one.severity, one.device, one.recovery) for one in told if one.kind == "xid"] == [
        ("fatal", "gpu3", "reboot_node"),
        ("info", "gpu3", "none"),
    ]


def _minutes(
    node: healthy.Node, minutes: int, signals: Collection[str] = tuple(healthy.PERIODS), until: object = None
) -> list[records.Observation]:
    """What is told of so many minutes, or until ``until`` (kind and severity) is."""
    judge = engine.Judge("n0", (), EXPECTED)
    told: list[records.Observation] = []
    before = healthy.START - 4000.0
    # The hourly inventory as well: it is looked at when it is broken, not an hour later.
    for step in range(1, minutes * 6):
        at = healthy.START + healthy.FAST_S * step
        names = [*healthy.due(before, at), *(["inventory"] if step % 30 == 0 else [])]
        for sweep in node.sweeps(at, *(name for name in names if name in signals)):
            told += judge.take(sweep)
        before = at
        if told and (told[-1].kind, told[-1].severity) == until:
            return told
    return told


def test_what_is_remembered_of_a_node_does_not_grow() -> None:
    node = healthy.Node(seed=1)
    judge = engine.Judge("n0", (), EXPECTED)
    sizes = []
    for step in range(1, 200):
        for sweep in node.sweeps(healthy.START + 30.0 * step, *healthy.PERIODS):
            judge.take(sweep)
        sizes.append(len(judge.cells))
    assert sizes[2:] == [sizes[2]] * len(sizes[2:])
