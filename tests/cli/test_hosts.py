"""Which hosts a run pretends to have, and when it is the machine itself."""

from pathlib import Path

import pytest

from outrider_cli import local_cluster, supervision
from outrider_controller.core import jobs


def plan(tmp_path: Path, nodes: int, spares: int = 0) -> supervision.Plan:
    spec = jobs.parse({"name": "j", "command": ["x"], "nodes": nodes, "ranks_per_node": 8})
    return supervision.Plan(spec, tmp_path, spares)


def test_a_single_host_with_gpus_is_the_machine_and_several_are_pretended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpus, nodes, spares, simulated in ((True, 1, 0, False), (False, 1, 0, True), (True, 2, 0, True)):
        monkeypatch.setattr(supervision, "_gpus", lambda found=gpus: found)
        hosts = plan(tmp_path, nodes, spares).hosts()
        assert [host.simulated for host in hosts] == [simulated] * (nodes + spares)
        told = local_cluster._agent_options(tmp_path, hosts[0])
        assert ("--simulated" in told) is simulated
    monkeypatch.setattr(supervision, "_gpus", lambda: True)
    assert all(host.simulated for host in plan(tmp_path, 1, spares=1).hosts())


def test_gpus_are_found_by_vendor_and_class_and_nothing_is_made_of_what_cannot_be_read(tmp_path: Path) -> None:
    assert not supervision._gpus(tmp_path / "nothing")
    device = tmp_path / "bus/pci/devices/0000:18:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x068000\n")
    assert not supervision._gpus(tmp_path), "a switch is no GPU"
    (device / "class").write_text("0x030200\n")
    assert supervision._gpus(tmp_path)
