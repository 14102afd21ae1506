"""From the files of a node to what is told: a healthy one says nothing, and each fault says its own kind and place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider import records
from outrider_agent import readings
from outrider_agent.judgement import engine, rules, table
from outrider_agent.signals import catalog
from tests.agent import looking, trees

STEP_S = 10.0
Told = set[tuple[str, str]]


class Watch:
    """Every signal of host and fabric at its own period on a clock that jumps, and the judge behind them."""

    def __init__(self, folder: Path) -> None:
        self.node = trees.healthy(folder)
        self._clock = looking.Clock()
        roots = catalog.Roots(self.node.sysfs, self.node.procfs, expected_mounts=("/ckpt",))
        self._due: list[tuple[readings.Signal, float]] = [
            (signal, 0.0) for signal in catalog.all_signals(roots, self._clock)
        ]
        self._judge = engine.Judge("n0", table.RULES, rules.Expectations(), True)

    def go_on(self, seconds: float) -> Told:
        """Kinds and devices that were told within ``seconds``."""
        return {(found.kind, found.device or "") for _ in range(int(seconds / STEP_S)) for found in self._step()}

    def tells(self, kind: str, device: str, within_s: float) -> bool:
        """Whether a finding comes within so many seconds; over as soon as it did."""
        return any((kind, device) in self.go_on(STEP_S) for _ in range(int(within_s / STEP_S)))

    def _step(self) -> Iterator[records.Observation]:
        self._clock.move(STEP_S)
        now = self._clock.now()
        for at, (signal, due) in enumerate(self._due):
            if now >= due:
                self._due[at] = (signal, now + signal.period_s)
                yield from self._judge.take(signal.read())


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_a_healthy_node_is_told_nothing_of(watch: Watch) -> None:
    assert watch.go_on(900) == set()


FAULTS: dict[str, tuple[Callable[[trees.Node], object], str, str]] = {
    "a port": (lambda node: node.set_port("mlx5_4", "DOWN", "Polling"), "port-down", "mlx5_4/1"),
    "an adapter": (lambda node: node.remove_adapter("mlx5_6"), "adapter-missing", "mlx5_6"),
    "a cable": (lambda node: node.count("mlx5_0", "link_downed", 1), "link-downed", "mlx5_0/1"),
    "FEC": (lambda node: node.ethtool("mlx5_3", rx_fec_uncorrectable_blocks=3), "fec-errors", "ens3np0"),
    "a link": (lambda node: node.set_link("0000:19:00.0", width=8), "pcie-degraded", "0000:19:00.0"),
    "the bus": (lambda node: node.off_the_bus(node.gpus[3]), "pcie-lost", "0000:5d:00.0"),
    "AER": (lambda node: node.aer(node.gpus[0], "fatal", "DLP", 1), "pcie-aer", "0000:18:00.0"),
    "memory": (lambda node: node.memory_errors(1, 1, uncorrected=1), "memory-uncorrected", "mc1"),
    "a drive": (lambda node: node.remove_drive("nvme2"), "nvme-missing", "nvme2"),
    "a drive's health": (lambda node: node.smart("nvme3", warning=1, spare=4), "nvme-health", "nvme3"),
    "a fan": (lambda node: node.fan("hwmon20/fan3", 0, alarm=True), "fan-failed", "hwmon20/fan3"),
    "a mount": (lambda node: node.unmount("/ckpt"), "mount-missing", "/ckpt"),
    "a disk": (lambda node: node.mount("/", "ext4", "/dev/md0", "rw", "ro"), "file-system-read-only", "/"),
    "a driver": (lambda node: node.process(99, "nvidia-smi", "D"), "hung-task", ""),
    "a service": (lambda node: node.service("containerd", "failed"), "service-stopped", "containerd"),
    "the clock": (lambda node: node.clock(synchronised=False), "clock-unsynchronised", ""),
    "room": (lambda node: node.memory(MemAvailable=5_000_000), "memory-low", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_by_its_kind_and_place(watch: Watch, fault: str) -> None:
    bring, kind, device = FAULTS[fault]
    assert watch.go_on(60) == set()
    bring(watch.node)
    assert watch.tells(kind, device, 1_800)
