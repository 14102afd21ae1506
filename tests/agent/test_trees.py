"""The made node: complete, and no node that could not exist."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agent import trees


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> trees.Node:
    return trees.healthy(tmp_path_factory.mktemp("node"))


def test_the_node_has_what_an_hgx_h100_has(node: trees.Node) -> None:
    assert (len(node.gpus), len(node.nvswitches), len(node.adapters), len(node.drives)) == (8, 4, 10, 8)
    assert node.gpus[0] == "0000:18:00.0"
    assert [one.role for one in node.adapters.values()].count("compute") == 8
    names = [name for name, one in node.adapters.items() if one.role != "compute"]
    assert names == ["mlx5_3", "mlx5_9"], "a name that follows the bus says nothing of the role"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda node: node.set_port("mlx5_0", "ACTIVE", "Polling"),
        lambda node: node.set_port("mlx5_0", "DOWN", "LinkUp"),
        lambda node: node.set_port("mlx5_0", "FINE"),
        lambda node: node.set_port("mlx5_0", rate=333),
        lambda node: node.set_port("mlx5_77"),
        lambda node: node.count("mlx5_0", "symbol_errors", 1),
        lambda node: node.count("mlx5_0", "symbol_error", -1),
        lambda node: node.ethtool("mlx5_0", rx_prio3_pause=-1),
        lambda node: node.set_link(node.gpus[0], generation=6),
        lambda node: node.set_link(node.gpus[0], width=12),
        lambda node: node.set_link(node.nvswitches[0], width=4),
        lambda node: node.aer(node.gpus[0], "fatal", "BadTLP", 1),
        lambda node: node.memory_errors(0, 9, corrected=1),
        lambda node: node.memory_errors(0, 0, corrected=-1),
        lambda node: node.temperature("hwmon0/temp1", 400),
        lambda node: node.temperature("hwmon77/temp1", 40),
        lambda node: node.fan("hwmon20/fan1", 0, alarm=False),
        lambda node: node.smart("nvme0", spare=3),
        lambda node: node.drive("nvme0", "well"),
        lambda node: node.room("/", 10, 20),
        lambda node: node.memory(MemAvailable=10**12),
        lambda node: node.process(7, "x", "Q"),
        lambda node: node.service("docker", "active", "not-found"),
        lambda node: node.unmount("/nowhere"),
        lambda node: node.clock(3.0),
        lambda node: node.reboot(trees.BOOT_ID),
        lambda node: node.breaks(node.sysfs / "nothing"),
        lambda node: node.remove_adapter("mlx5_77"),
        lambda node: node.pci("0000:ff:00.0"),
    ],
)
def test_a_node_that_could_not_exist_is_refused(node: trees.Node, wrong: Callable[[trees.Node], None]) -> None:
    with pytest.raises(trees.ImpossibleNode):
        wrong(node)


def test_counters_rise_and_begin_anew_with_a_boot(node: trees.Node) -> None:
    node.count("mlx5_0", "symbol_error", 7)
    with pytest.raises(trees.ImpossibleNode):
        node.count("mlx5_0", "symbol_error", 6)
    node.reboot("another")
    node.count("mlx5_0", "symbol_error", 6)
