"""Ports, their adapters' statistics, and PCIe: each fault on a made node, recorded formats, and this machine's own."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from outrider_agent.signals import ethtool, files, infiniband, pcie, topology
from tests.agent import looking, trees
from tests.agent.looking import states, values

RECORDED = Path(__file__).parents[1] / "recorded/host"


@pytest.fixture
def node(tmp_path: Path) -> trees.Node:
    return trees.healthy(tmp_path)


@pytest.fixture
def clock() -> looking.Clock:
    return looking.Clock()


@pytest.fixture
def ports(node: trees.Node, clock: looking.Clock) -> infiniband.Infiniband:
    return infiniband.Infiniband(node.sysfs, node.procfs, clock)


# --- ports ------------------------------------------------------------------------------------------------------------


def test_a_healthy_port_is_told_with_its_counters(ports: infiniband.Infiniband) -> None:
    found = values(ports.read())
    assert found["mlx5_0/1", "port_state"] == "ACTIVE"
    assert found["mlx5_0/1", "port_phys_state"] == "LinkUp"
    assert found["mlx5_0/1", "port_rate"] == 400.0
    assert found["mlx5_0/1", "link_layer"] == "InfiniBand"
    assert found["mlx5_0/1", "carrier_changes"] == 2.0
    assert {found["mlx5_0/1", name] for name in (*trees.COUNTERS, *trees.HW_COUNTERS)} == {0.0}
    assert ("mlx5_0/1", "lifespan") not in found, "a setting that lies among the counters"
    assert (found["", "ports_active"], found["", "ports_expected"]) == (8.0, 8.0)
    assert found["", "adapters_on_bus"] == 10.0


def test_what_a_port_is_for_follows_from_where_it_sits(ports: infiniband.Infiniband, node: trees.Node) -> None:
    sweep = ports.read()
    found = values(sweep)
    assert {name: found[f"{name}/1", "port_role"] for name in node.adapters} == {
        name: one.role for name, one in node.adapters.items()
    }
    assert sweep.context["roles"]["mlx5_4"]["basis"] == "shares a PCIe switch with GPU 0000:5d:00.0"
    assert sweep.context["interfaces"]["mlx5_3/1"] == "ens3np0"


def test_counters_are_read_every_ten_seconds_and_the_state_each_time(
    ports: infiniband.Infiniband, clock: looking.Clock, node: trees.Node
) -> None:
    assert ("mlx5_0/1", "symbol_error") in values(ports.read())
    clock.move(1)
    node.count("mlx5_0", "symbol_error", 5)
    node.set_port("mlx5_0", "INIT")
    found = values(ports.read())
    assert ("mlx5_0/1", "symbol_error") not in found
    assert found["mlx5_0/1", "port_state"] == "INIT"
    clock.move(9)
    assert values(ports.read())["mlx5_0/1", "symbol_error"] == 5.0


def test_a_port_that_goes_down_is_seen_at_the_next_look(
    ports: infiniband.Infiniband, clock: looking.Clock, node: trees.Node
) -> None:
    ports.read()
    clock.move(1)
    node.set_port("mlx5_4", "DOWN", "Polling")
    found = values(ports.read())
    assert (found["mlx5_4/1", "port_state"], found["mlx5_4/1", "port_phys_state"]) == ("DOWN", "Polling")
    assert found["mlx5_4/1", "carrier_changes"] == 3.0
    assert (found["", "ports_active"], found["", "ports_expected"]) == (7.0, 8.0)
    clock.move(240)
    assert values(ports.read())["mlx5_4/1", "port_down_s"] == 240.0


def test_a_port_that_comes_and_goes_is_counted_and_its_times_are_kept(
    ports: infiniband.Infiniband, clock: looking.Clock, node: trees.Node
) -> None:
    ports.read()
    began = clock.now()
    for down_s in (30, 5, 40):  # the short one is left to carrier_changes
        node.set_port("mlx5_4", "DOWN", "Polling")
        ports.read()
        clock.move(down_s)
        node.set_port("mlx5_4")
        sweep = ports.read()
        clock.move(100)
    found = values(sweep)
    assert (found["mlx5_4/1", "port_flaps"], found["mlx5_4/1", "carrier_changes"]) == (2.0, 8.0)
    times = sweep.context["flaps"]["mlx5_4/1"]
    assert times == [(began, began + 30), (began + 130, began + 135), (began + 235, began + 275)]


def test_the_flap_history_stays_small(ports: infiniband.Infiniband, clock: looking.Clock, node: trees.Node) -> None:
    for _ in range(infiniband.FLAPS_KEPT + 3):
        node.set_port("mlx5_4", "DOWN", "Polling")
        ports.read()
        clock.move(1)
        node.set_port("mlx5_4")
        sweep = ports.read()
    assert len(sweep.context["flaps"]["mlx5_4/1"]) == infiniband.FLAPS_KEPT


def test_a_second_port_that_was_never_cabled_is_not_expected(node: trees.Node) -> None:
    node.set_port("mlx5_3", "DOWN", "Disabled")
    found = values(infiniband.Infiniband(node.sysfs, node.procfs).read())
    assert found["mlx5_3/1", "port_expected"] is False
    assert (found["", "ports_active"], found["", "ports_expected"]) == (8.0, 8.0)


@pytest.mark.parametrize("from_bus", [False, True])
def test_an_adapter_that_vanished_is_told_for_as_long_as_the_agent_lives(
    ports: infiniband.Infiniband, clock: looking.Clock, node: trees.Node, from_bus: bool
) -> None:
    ports.read()
    node.remove_adapter("mlx5_6", from_bus=from_bus)
    for _ in range(3):
        clock.move(61)
        sweep = ports.read()
        found = values(sweep)
        assert sweep.state == "ok", "a look that worked"
        assert found["mlx5_6", "adapter_present"] is False
        assert ("mlx5_6/1", "port_state") not in found
        assert (found["", "ports_active"], found["", "ports_expected"]) == (7.0, 8.0)
        assert "mlx5_6" not in str(found["", "adapters"]).split()
        assert found["", "adapters_on_bus"] == (9.0 if from_bus else 10.0)


def test_all_adapters_gone_is_no_absence(ports: infiniband.Infiniband, node: trees.Node) -> None:
    ports.read()
    for name in node.adapters:
        node.remove_adapter(name)
    sweep = ports.read()
    assert sweep.state == "ok"
    assert values(sweep)["", "ports_active"] == 0.0


def test_an_adapter_under_another_name_did_not_vanish(
    ports: infiniband.Infiniband, clock: looking.Clock, node: trees.Node
) -> None:
    ports.read()
    old = node.sysfs / "class/infiniband/mlx5_6"
    target = old.resolve()
    old.unlink()
    target.rename(target.with_name("mlx5_16"))
    (node.sysfs / "class/infiniband/mlx5_16").symlink_to(target.with_name("mlx5_16"))
    clock.move(1)
    found = values(ports.read())
    assert ("mlx5_6", "adapter_present") not in found
    assert found["mlx5_16/1", "port_role"] == "compute"
    assert found["", "ports_expected"] == 8.0


def test_one_counter_that_cannot_be_read_costs_one_reading(ports: infiniband.Infiniband, node: trees.Node) -> None:
    home = node.port("mlx5_0")
    node.breaks(home / "counters/symbol_error")
    node.put(home / "counters/VL15_dropped", "N/A (no PMA)")
    node.put(home / "hw_counters/out_of_sequence", "N/A")
    sweep = ports.read()
    found = states(sweep)
    assert found["mlx5_0/1", "symbol_error"] == "unreadable"
    assert found["mlx5_0/1", "VL15_dropped"] == "unreadable"
    assert found["mlx5_0/1", "out_of_sequence"] == "unsupported"
    assert found["mlx5_0/1", "port_rcv_errors"] == found["mlx5_1/1", "symbol_error"] == "value"
    assert sweep.state == "partial"


def test_a_state_that_cannot_be_read_is_neither_up_nor_down(
    ports: infiniband.Infiniband, node: trees.Node, clock: looking.Clock
) -> None:
    ports.read()
    node.breaks(node.port("mlx5_0") / "state")
    clock.move(30)
    found = values(ports.read())
    assert ("mlx5_0/1", "port_state") not in found
    assert found["mlx5_0/1", "port_down_s"] == 0.0
    assert found["mlx5_0/1", "port_flaps"] == 0.0


def test_counters_of_other_drivers_are_read_under_their_own_names(
    ports: infiniband.Infiniband, node: trees.Node
) -> None:
    node.put(node.port("mlx5_0") / "hw_counters/tx_cnp_special", 3)
    (reading,) = [one for one in ports.read().readings if one.name == "tx_cnp_special"]
    assert (reading.value, reading.counter) == (3.0, True)


def test_functions_of_guests_are_left_alone(node: trees.Node) -> None:
    (node.adapters["mlx5_0"].home / "physfn").symlink_to(node.adapters["mlx5_1"].home)
    found = values(infiniband.Infiniband(node.sysfs, node.procfs).read())
    assert ("mlx5_0", "adapter_present") not in found
    assert found["", "adapters_on_bus"] == 9.0


def test_without_switches_nearness_is_the_numa_node(tmp_path: Path) -> None:
    """A guest sees every device on a root port of its own."""
    devices = {
        "g": topology.Device("g", topology.GPU, "", "pci0000:00", ("a",), 0, False),
        "n0": topology.Device("n0", topology.ADAPTER, "", "pci0000:00", ("b",), 0, False),
        "n1": topology.Device("n1", topology.ADAPTER, "", "pci0000:00", ("c",), 1, False),
        "n2": topology.Device("n2", topology.ADAPTER, "", "pci0000:00", ("d",), 0, False),
    }
    found = topology.roles(devices, {"x": "n0", "y": "n1", "z": "n2"}, ["z"])
    assert {name: one.role for name, one in found.items()} == {"x": "compute", "y": "storage", "z": "management"}
    alone = topology.roles({"n0": devices["n0"]}, {"x": "n0"}, [])
    assert (alone["x"].role, alone["x"].basis) == ("unknown", "no GPU to be near to")


def test_a_bond_carries_the_default_route_for_those_below_it(node: trees.Node) -> None:
    route = (node.procfs / "net/route").read_text().replace("ens9np0", "bond0")
    node.put(node.procfs / "net/route", route.rstrip())
    node.put(node.procfs / "net/bonding/bond0", "Bonding Mode: 802.3ad\n\nSlave Interface: ens9np0\nMII Status: up")
    found = infiniband.Infiniband(node.sysfs, node.procfs).read().context["roles"]
    assert (found["mlx5_9"]["role"], found["mlx5_3"]["role"]) == ("management", "storage")


# --- ethtool ----------------------------------------------------------------------------------------------------------


def test_a_recorded_answer_of_mlx5_gives_pauses_fec_and_raw_errors() -> None:
    found = ethtool.chosen(ethtool.parse((RECORDED / "ethtool-mlx5.txt").read_text()))
    assert found["rx_prio3_pause"] == 148213
    assert found["rx_prio3_pause_duration"] == 3320119
    assert found["rx_corrected_bits_phy"] == 91_337_120
    assert found["rx_err_lane_3_phy"] == 12_551
    assert found["rx_prio3_buf_discard"] == 2
    assert found["fec_uncorrected_blocks"] == 1
    assert "rx_packets" not in found


def test_a_recorded_answer_of_another_driver_carries_our_names() -> None:
    found = ethtool.chosen(ethtool.parse((RECORDED / "ethtool-bnxt.txt").read_text()))
    assert found["fec_corrected_blocks"] == 8812
    assert found["fec_uncorrected_blocks"] == 3
    assert found["rx_prio3_pause"] == 17
    assert found["rx_crc_errors_phy"] == 4


def test_an_answer_of_a_virtual_adapter_has_nothing_for_us() -> None:
    said = ethtool.parse((RECORDED / "ethtool-virtio.txt").read_text())
    assert said["rx_kicks"] == 4002
    assert ethtool.chosen(said) == {}


def test_statistics_rise_on_the_made_node(node: trees.Node, clock: looking.Clock) -> None:
    signal = ethtool.Ethtool(node.sysfs, node.procfs, clock)
    node.ethtool("mlx5_3", rx_prio3_pause_duration=50_000, rx_fec_uncorrectable_blocks=2)
    sweep = signal.read()
    found = values(sweep)
    assert found["ens3np0", "rx_prio3_pause_duration"] == 50_000.0
    assert found["ens3np0", "fec_uncorrected_blocks"] == 2.0
    assert all(one.counter for one in sweep.readings)
    (reading,) = [one for one in sweep.readings if (one.device, one.name) == ("ib0", "rx_prio0_pause_duration")]
    assert reading.unit == "us"
    assert sweep.context["pci"]["ib0"] == "0000:19:00.0"


def test_one_interface_without_an_answer_costs_the_others_nothing(node: trees.Node) -> None:
    node.breaks(node.netdev("mlx5_0") / "ethtool_statistics")
    (node.netdev("mlx5_1") / "ethtool_statistics").unlink()
    sweep = ethtool.Ethtool(node.sysfs, node.procfs).read()
    assert sweep.state == "partial"
    assert sweep.context["unreadable"] == ["ib0"]
    assert sweep.context["without_statistics"] == ["ib1"]
    assert ("ib2", "rx_prio0_pause") in values(sweep)


def test_the_kernel_is_asked_for_real_where_there_is_an_adapter() -> None:
    """The ioctl itself, on whatever this machine has; the loopback has no statistics and says so."""
    kernel = ethtool.Kernel()
    with pytest.raises(OSError, match=r"supported|permitted") as said:
        kernel.ask("lo")
    assert files.state_of(said.value) == "unsupported"
    asked = 0
    for interface in files.names("/sys/class/net"):
        try:
            first, second = kernel.ask(interface), kernel.ask(interface)
        except OSError:
            continue
        assert first.keys() == second.keys()
        asked += 1
    if not asked:
        pytest.skip("no interface here has statistics")


# --- PCIe -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bus(node: trees.Node, clock: looking.Clock) -> pcie.Pcie:
    return pcie.Pcie(node.sysfs, node.procfs, clock)


def test_links_and_errors_of_what_matters_are_told(bus: pcie.Pcie, node: trees.Node) -> None:
    found = values(bus.read())
    kinds = [value for (_, name), value in found.items() if name == "kind"]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "gpu": 8,
        "adapter": 10,
        "nvme": 8,
        "switch": 4,
        "bridge": 8 * 5 + 4 + 2,
    }
    gpu = node.gpus[0]
    assert [found[gpu, name] for name in ("link_speed", "link_width", "link_width_max", "on_bus")] == [32, 16, 16, True]
    assert found[gpu, "aer_correctable"] == 0.0
    assert found["0000:15:01.0", "acs_enabled"] is False
    assert ("0000:15:01.0", "link_speed") not in found, "a bridge's link is the link of what is below it"


def test_a_link_that_lost_lanes_or_speed_is_told(bus: pcie.Pcie, node: trees.Node) -> None:
    bus.read()
    node.set_link(node.gpus[2], width=8)
    node.set_link("0000:19:00.0", generation=3)
    found = values(bus.read())
    assert (found[node.gpus[2], "link_width"], found[node.gpus[2], "link_width_max"]) == (8.0, 16.0)
    assert (found["0000:19:00.0", "link_speed"], found["0000:19:00.0", "link_speed_max"]) == (8.0, 32.0)


def test_a_card_in_a_smaller_slot_is_not_broken(node: trees.Node) -> None:
    slot = node.pci("0000:41:00.0").parent
    node.put(slot / "max_link_width", 8)
    node.set_link("0000:41:00.0", width=8)
    found = values(pcie.Pcie(node.sysfs, node.procfs).read())
    assert (found["0000:41:00.0", "link_width"], found["0000:41:00.0", "link_width_max"]) == (8.0, 8.0)


def test_functions_of_guests_have_no_link_of_their_own(node: trees.Node) -> None:
    (node.adapters["mlx5_0"].home / "physfn").symlink_to(node.adapters["mlx5_1"].home)
    found = values(pcie.Pcie(node.sysfs, node.procfs).read())
    assert (node.adapters["mlx5_0"].address, "kind") not in found


def test_aer_totals_rise(bus: pcie.Pcie, node: trees.Node) -> None:
    node.aer(node.gpus[1], "fatal", "DLP", 1)
    node.aer(node.gpus[1], "correctable", "BadTLP", 12)
    found = values(bus.read())
    assert (found[node.gpus[1], "aer_fatal"], found[node.gpus[1], "aer_correctable"]) == (1.0, 12.0)


def test_older_kernels_name_no_total() -> None:
    assert pcie.aer_total("RxErr 2\nBadTLP 3") == 5.0
    with pytest.raises(files.Unknown):
        pcie.aer_total("")


def test_a_device_that_fell_off_the_bus_answers_with_ones(bus: pcie.Pcie, node: trees.Node) -> None:
    node.off_the_bus(node.gpus[3])
    sweep = bus.read()
    assert values(sweep)[node.gpus[3], "on_bus"] is False
    assert states(sweep)[node.gpus[3], "link_speed"] == "unsupported"
    assert states(sweep)[node.gpus[3], "link_width"] == "unreadable"
    assert values(sweep)[node.gpus[4], "link_width"] == 16.0


def test_a_device_that_is_gone_is_gone_from_a_look_that_worked(bus: pcie.Pcie, node: trees.Node) -> None:
    bus.read()
    node.remove_pci(node.gpus[5])
    sweep = bus.read()
    assert sweep.state == "ok"
    assert (node.gpus[5], "kind") not in values(sweep)


def test_access_control_that_redirects_is_found(node: trees.Node) -> None:
    node.put(node.pci("0000:15:01.0") / "config", trees.config(0x8086, bridge=True, redirects=True))
    assert values(pcie.Pcie(node.sysfs, node.procfs).read())["0000:15:01.0", "acs_enabled"] is True


@pytest.mark.parametrize(
    ("room", "state"),
    [(bytes(64), "unreadable"), (trees.config(0x8086, bridge=False), "unsupported"), (bytes(4096), "unsupported")],
)
def test_a_config_space_without_an_answer_says_which_kind_of_none(room: bytes, state: str) -> None:
    with pytest.raises(files.Unknown) as said:
        pcie.acs_redirects(room)
    assert said.value.state == state


def test_a_config_space_whose_list_has_no_end_ends(tmp_path: Path) -> None:
    room = bytearray(4096)
    struct.pack_into("<I", room, 0x100, 0x0001 | 0x100 << 20)
    with pytest.raises(files.Unknown, match="no access control"):
        pcie.acs_redirects(bytes(room))


def test_a_bus_that_goes_away_altogether_is_no_absence(bus: pcie.Pcie, node: trees.Node) -> None:
    bus.read()
    shutil.rmtree(node.sysfs / "devices")
    assert (bus.read().state, bus.read().readings) == ("ok", ())
