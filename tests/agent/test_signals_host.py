"""Memory, drives, sensors, clock, processors, tasks, inventory and services: each fault, and this machine's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from outrider_agent.signals import (
    clock,
    cpu,
    edac,
    files,
    hwmon,
    inventory,
    memory,
    nvme,
    services,
    tasks,
    topology,
)
from tests.agent import looking, trees
from tests.agent.looking import states, values

RECORDED = Path(__file__).parents[1] / "recorded/host"
PROC = Path("/proc")


@pytest.fixture
def node(tmp_path: Path) -> trees.Node:
    return trees.healthy(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> trees.Node:
    """A node without its hardware, which is made quickly."""
    return trees.healthy(tmp_path, hardware=False)


@pytest.fixture
def ticking() -> looking.Clock:
    return looking.Clock()


# --- memory errors ----------------------------------------------------------------------------------------------------


def test_memory_errors_are_told_of_the_controller_and_of_the_dimm(node: trees.Node) -> None:
    signal = edac.Edac(node.sysfs, node.procfs)
    node.memory_errors(2, 3, corrected=41)
    node.memory_errors(2, 1, uncorrected=1)
    sweep = signal.read()
    found = values(sweep)
    assert (found["mc2", "memory_corrected"], found["mc2", "memory_uncorrected"]) == (41.0, 1.0)
    assert (found["mc2/dimm3", "dimm_corrected"], found["mc2/dimm1", "dimm_uncorrected"]) == (41.0, 1.0)
    assert found["mc1", "memory_corrected"] == 0.0
    assert sweep.context["labels"]["mc2/dimm3"] == "CPU_SrcID#0_MC#2_Chan#1_DIMM#1"
    assert found["", "memory_controllers"] == 8.0


def test_older_kernels_name_rows_and_ranks(tmp_path: Path) -> None:
    home = tmp_path / "devices/system/edac/mc/mc0"
    for path, said in (
        *(("ce_count", 4), ("ue_count", 0), ("csrow0/ce_count", 4), ("csrow0/ue_count", 0)),
        *(("csrow0/ch0_ce_count", 4), ("power/x", 0)),
    ):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(f"{said}\n")
    assert values(edac.Edac(tmp_path, tmp_path).read())["mc0/csrow0", "dimm_corrected"] == 4.0
    (home / "rank1").mkdir()
    (home / "rank1/dimm_ce_count").write_text("9\n")
    found = values(edac.Edac(tmp_path, tmp_path).read())
    assert found["mc0/rank1", "dimm_corrected"] == 9.0
    assert ("mc0/csrow0", "dimm_corrected") not in found, "the same DIMMs under an older name"


# --- sensors ----------------------------------------------------------------------------------------------------------


def test_temperatures_come_with_the_limits_of_their_chip(node: trees.Node) -> None:
    node.temperature("hwmon2/temp1", 79.5)
    node.temperature("zone1", 88)
    sweep = hwmon.Hwmon(node.sysfs, node.procfs).read()
    found = values(sweep)
    assert (found["hwmon2/temp1", "temperature"], found["hwmon2/temp1", "temperature_crit"]) == (79.5, 84.0)
    assert found["hwmon2/temp1", "temperature_alarm"] is False
    assert found["zone1", "temperature"] == 88.0
    assert ("zone1", "temperature_crit") not in found, "its trip point of 0 is no limit"
    assert sweep.context["sensors"]["hwmon2/temp1"] == {"chip": "nvme", "label": "Composite", "pci": "0000:1a:00.0"}


def test_a_zone_names_the_temperature_that_shuts_the_machine_down(node: trees.Node) -> None:
    home = node.sysfs / "class/thermal/thermal_zone0"
    node.put(home / "trip_point_1_type", "critical")
    node.put(home / "trip_point_1_temp", 105000)
    assert values(hwmon.Hwmon(node.sysfs, node.procfs).read())["zone0", "temperature_crit"] == 105.0


def test_cores_are_not_interrupted_for_their_temperature(node: trees.Node) -> None:
    labels = hwmon.Hwmon(node.sysfs, node.procfs).read().context["sensors"]
    assert [one["label"] for one in labels.values() if one["chip"] == "coretemp"] == ["Package id 0"] * 2


def test_a_fan_that_stands_still_is_told(node: trees.Node) -> None:
    node.fan("hwmon20/fan3", 0, alarm=True)
    found = values(hwmon.Hwmon(node.sysfs, node.procfs).read())
    assert (found["hwmon20/fan3", "fan_rpm"], found["hwmon20/fan3", "fan_alarm"]) == (0.0, True)
    assert (found["hwmon20/fan2", "fan_min"], found["hwmon20/fan2", "fan_alarm"]) == (2000.0, False)


def test_a_sensor_that_fails_costs_itself(node: trees.Node) -> None:
    node.breaks(node.sysfs / "class/hwmon/hwmon2/temp1_input")
    sweep = hwmon.Hwmon(node.sysfs, node.procfs).read()
    assert states(sweep)["hwmon2/temp1", "temperature"] == "unreadable"
    assert states(sweep)["hwmon3/temp1", "temperature"] == "value"


# --- drives -----------------------------------------------------------------------------------------------------------


def test_a_drive_tells_its_health(node: trees.Node) -> None:
    node.smart("nvme3", warning=0b101, spare=4, used=97, media_errors=12)
    sweep = nvme.Nvme(node.sysfs, node.procfs).read()
    found = values(sweep)
    names = ("nvme_state", "critical_warning", "available_spare", "percentage_used", "media_errors", "temperature")
    assert [found["nvme3", name] for name in names] == ["live", 5.0, 4.0, 97.0, 12.0, 38.0]
    assert [found["nvme2", name] for name in names] == ["live", 0.0, 100.0, 1.0, 0.0, 38.0]
    assert sweep.context["drives"]["nvme3"]["firmware_rev"] == "MPP95D5Q"


def test_a_drive_that_is_not_live_is_not_asked(node: trees.Node) -> None:
    asked: list[str] = []

    def ask(name: str) -> bytes:
        asked.append(name)
        return bytes(512)

    node.drive("nvme1", "resetting")
    sweep = nvme.Nvme(node.sysfs, node.procfs, ask=ask).read()
    assert "nvme1" not in asked
    assert len(asked) == 7
    assert (values(sweep)["nvme1", "nvme_state"], states(sweep)["nvme1", "media_errors"]) == (
        "resetting",
        "unsupported",
    )


def test_a_drive_that_vanished_is_told(node: trees.Node) -> None:
    signal = nvme.Nvme(node.sysfs, node.procfs)
    signal.read()
    node.remove_drive("nvme5")
    found = values(signal.read())
    assert (found["nvme5", "nvme_present"], found["", "nvme_count"]) == (False, 7.0)
    assert ("nvme5", "nvme_state") not in found


def test_drives_of_a_file_server_are_left_out(node: trees.Node) -> None:
    node.put(node.sysfs / "class/nvme/nvme7/transport", "tcp")
    assert values(nvme.Nvme(node.sysfs, node.procfs).read())["", "nvme_count"] == 7.0


def test_who_may_not_ask_a_drive_could_not_look(node: trees.Node) -> None:
    def refuse(name: str) -> bytes:
        raise PermissionError(13, "Permission denied", name)

    sweep = nvme.Nvme(node.sysfs, node.procfs, ask=refuse).read()
    assert states(sweep)["nvme0", "media_errors"] == "unreadable"
    assert values(sweep)["nvme0", "nvme_state"] == "live"


def test_the_command_reads_the_health_log_and_nothing_else() -> None:
    """The bytes that the kernel gets, by the layout of struct nvme_passthru_cmd."""
    log = bytes(range(256)) * 2

    def ioctl(file: int, request: int, command: bytearray) -> int:
        assert (file, request, len(command)) == (7, 0xC0484E41, 72)
        assert (command[0], command[4:8]) == (0x02, b"\xff\xff\xff\xff")
        assert int.from_bytes(command[36:40], "little") == 512
        assert int.from_bytes(command[40:44], "little") == 127 << 16 | 2
        assert int.from_bytes(command[64:68], "little") == 2000
        ctypes.memmove(int.from_bytes(command[24:32], "little"), log, 512)
        return 0

    assert nvme.health_log(7, ioctl) == log
    with pytest.raises(files.Unknown, match="0x4002"):
        nvme.health_log(7, lambda file, request, command: 0x4002)
    with pytest.raises(files.Unknown, match="100 bytes"):
        nvme.parse(bytes(100))


def test_what_is_no_drive_says_so_for_real() -> None:
    """The ioctl itself, on a device that does not know it."""
    file = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="ioctl") as said:
            nvme.health_log(file)
    finally:
        os.close(file)
    assert files.state_of(said.value) == "unsupported"


# --- memory, handles, pressure ----------------------------------------------------------------------------------------


def test_memory_of_this_machine_agrees_with_itself() -> None:
    found = values(memory.Memory(Path("/sys"), PROC).read())
    total, available = found["", "memory_total"], found["", "memory_available"]
    assert isinstance(total, float)
    assert isinstance(available, float)
    assert 0 < available <= total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    threads, most = found["", "processes_count"], found["", "processes_max"]
    assert isinstance(threads, float)
    assert isinstance(most, float)
    assert 1 <= threads < most


def test_memory_handles_and_pressure_of_the_made_node(host: trees.Node) -> None:
    host.memory(MemAvailable=90_000_000, SwapTotal=8_000_000, SwapFree=7_000_000, HardwareCorrupted=64)
    host.put(host.procfs / "sys/fs/file-nr", "900\t0\t1000")
    host.put(host.procfs / "pressure/io", "some avg10=31.00 avg60=0 avg300=0 total=9\nfull avg10=22.50 avg60=0 total=3")
    host.put(host.procfs / "vmstat", "nr_free_pages 3\noom_kill 4")
    found = values(memory.Memory(host.sysfs, host.procfs).read())
    assert found["", "memory_available"] == 90_000_000 * 1024.0
    assert found["", "swap_used"] == 1_000_000 * 1024.0
    assert found["", "memory_corrupted"] == 65536.0
    assert (found["", "file_handles"], found["", "file_handles_max"]) == (900.0, 1000.0)
    assert (found["", "pressure_io_full"], found["", "pressure_memory_full"]) == (22.5, 0.0)
    assert (found["", "oom_kills"], found["", "load"], found["", "processes_count"]) == (4.0, 12.5, 3120.0)
    assert found["", "processes_max"] == 4194304.0


def test_a_group_that_ran_into_its_own_limit_is_named(host: trees.Node) -> None:
    host.put(host.sysfs / "fs/cgroup/system.slice/memory.events", "low 0\nhigh 2\nmax 9\noom 3\noom_kill 2")
    host.put(host.sysfs / "fs/cgroup/cgroup.procs", "1")
    assert values(memory.Memory(host.sysfs, host.procfs).read())["system.slice", "group_oom_kills"] == 2.0


def test_a_kernel_without_pressure_or_counts_says_so(host: trees.Node) -> None:
    (host.procfs / "pressure/io").unlink()
    host.put(host.procfs / "vmstat", "nr_free_pages 3")
    host.put(host.procfs / "meminfo", "MemTotal: 100 kB")
    sweep = memory.Memory(host.sysfs, host.procfs).read()
    assert {states(sweep)["", name] for name in ("pressure_io_full", "oom_kills", "memory_available", "swap_used")} == {
        "unsupported"
    }
    assert values(sweep)["", "memory_total"] == 102400.0
    assert sweep.state == "ok"


# --- clock ------------------------------------------------------------------------------------------------------------


def test_the_kernel_is_asked_for_the_clock_for_real() -> None:
    kept = clock.ask_kernel()
    assert kept.max_error_s >= 0
    assert kept.state in ("ok", "error", "leap-second", "leap-second-added", "leap-second-deleted", "leap-second-over")
    found = values(clock.Clock(PROC).read())
    assert found["", "clock_synchronised"] is kept.synchronised


def test_the_kernel_says_the_offset_in_two_units() -> None:
    assert clock.kept_of(0, 0x2001, 250_000_000, 2_000_000) == clock.Kept(True, 0.25, 2.0, "ok")
    assert clock.kept_of(0, 0x0001, 250_000, 2_000_000) == clock.Kept(True, 0.25, 2.0, "ok")
    assert clock.kept_of(5, 0x0040, 0, 16_000_000) == clock.Kept(False, 0.0, 16.0, "error")


def test_the_clock_of_the_made_node_is_its_own(host: trees.Node) -> None:
    signal = clock.Clock(host.procfs)
    host.clock(-0.25)
    found = values(signal.read())
    assert [found["", name] for name in ("clock_synchronised", "clock_offset", "clock_state")] == [True, -0.25, "ok"]
    host.clock(synchronised=False)
    found = values(signal.read())
    assert [found["", name] for name in ("clock_synchronised", "clock_max_error")] == [False, 16.0]
    (host.procfs / "adjtimex").unlink()
    assert states(signal.read())["", "clock_synchronised"] == "unsupported"


def test_a_clock_that_was_set_is_told_and_one_that_runs_is_not(host: trees.Node) -> None:
    times = iter([(1000.0, 50.0), (1060.0, 110.0), (1180.0, 170.0)])
    signal = clock.Clock(host.procfs, ask=lambda: clock.Kept(True, 0.0, 0.1, "ok"), times=lambda: next(times))
    assert ("", "clock_step") not in values(signal.read())
    assert values(signal.read())["", "clock_step"] == 0.0
    assert values(signal.read())["", "clock_step"] == 60.0


def test_a_kernel_that_does_not_tell_of_the_clock_could_not_be_looked_at(host: trees.Node) -> None:
    def refuse() -> clock.Kept:
        raise PermissionError(1, "Operation not permitted")

    sweep = clock.Clock(host.procfs, ask=refuse).read()
    assert states(sweep)["", "clock_synchronised"] == "unreadable"


# --- processors -------------------------------------------------------------------------------------------------------


def test_governor_and_cores_are_told(host: trees.Node) -> None:
    signal = cpu.Cpu(host.sysfs, host.procfs)
    found = values(signal.read())
    assert [found["cpu", name] for name in ("governor", "cores_online", "cores_present", "numa_nodes")] == [
        "performance",
        112.0,
        112.0,
        2.0,
    ]
    host.put(host.sysfs / "devices/system/cpu/online", "0-55,57-111")
    host.put(host.sysfs / "devices/system/cpu/cpufreq/policy9/scaling_governor", "powersave")
    sweep = signal.read()
    assert (values(sweep)["cpu", "cores_online"], values(sweep)["cpu", "governor"]) == (111.0, "mixed")
    assert sweep.context["governors"] == {"performance": 111, "powersave": 1}


def test_this_machine_has_as_many_cores_as_the_system_says() -> None:
    assert values(cpu.Cpu(Path("/sys"), PROC).read())["cpu", "cores_online"] == os.sysconf("SC_NPROCESSORS_ONLN")


@pytest.mark.parametrize(("said", "count"), [("0-3,8,10-11", 7), ("0", 1), ("", 0)])
def test_lists_of_cores_are_counted(said: str, count: int) -> None:
    assert cpu.how_many(said) == count
    with pytest.raises(files.Unknown):
        cpu.how_many("0-x")


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_process_that_hangs_in_the_kernel_is_told_after_five_looks(host: trees.Node, ticking: looking.Clock) -> None:
    signal = tasks.Tasks(host.procfs, ticking)
    host.process(77, "train.py", "D")
    host.process(78, "nvidia-smi", "D")
    for look in range(5):
        sweep = signal.read()
        assert values(sweep)["", "tasks_blocked"] == (2.0 if look == 4 else 0.0)
        ticking.move(60)
    assert values(sweep)["", "tasks_blocked_driver"] == 1.0
    assert sweep.context["blocked"][0] == {
        "pid": 77,
        "name": "train.py",
        "for_s": 240.0,
        "waits_in": "nvidia_unlocked_ioctl",
    }


def test_three_hundred_seconds_are_enough(host: trees.Node, ticking: looking.Clock) -> None:
    signal = tasks.Tasks(host.procfs, ticking)
    host.process(77, "dd", "D")
    signal.read()
    ticking.move(300)
    assert values(signal.read())["", "tasks_blocked"] == 1.0


def test_a_process_that_moves_between_looks_is_none(host: trees.Node, ticking: looking.Clock) -> None:
    signal = tasks.Tasks(host.procfs, ticking)
    for look in range(12):
        host.process(77, "dd", "D" if look % 2 else "S")
        ticking.move(60)
        assert values(signal.read())["", "tasks_blocked"] == 0.0


def test_a_pid_that_comes_again_is_another_process(host: trees.Node, ticking: looking.Clock) -> None:
    signal = tasks.Tasks(host.procfs, ticking)
    for look in range(12):
        host.process(77, "dd", "D", started=1000 + look // 4)
        ticking.move(60)
        assert values(signal.read())["", "tasks_blocked"] == 0.0


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        *(("nvidia-smi", True), ("nvidia-modeset/", True), ("irq/194-nvidia", True), ("UVM global queue", True)),
        *(("python3", False), ("irq/12-mlx5_comp", False), ("nvme-wq", False)),
    ],
)
def test_the_drivers_processes_are_known_by_name(name: str, driver: bool) -> None:
    assert tasks.is_driver(name) is driver


def test_a_real_zombie_is_counted_and_grows_old(ticking: looking.Clock) -> None:
    signal = tasks.Tasks(PROC, ticking)
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        until = time.monotonic() + 60
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < until, "the child did not end"
            time.sleep(0.01)
        zombies = values(signal.read())["", "zombies"]
        assert isinstance(zombies, float)
        assert zombies >= 1.0
        ticking.move(301)
        old = values(signal.read())["", "zombies_old"]
        assert isinstance(old, float)
        assert old >= 1.0
    finally:
        child.wait()


def test_where_processes_are_hidden_nobody_could_look(host: trees.Node) -> None:
    host.end(1)
    sweep = tasks.Tasks(host.procfs).read()
    assert (sweep.state, set(states(sweep).values())) == ("failed", {"unreadable"})
    assert "hidepid" in sweep.error


def test_names_that_pretend_to_be_more_than_a_name_are_names(host: trees.Node) -> None:
    host.process(77, "a) D 0 0 (x", "Z")
    found = values(tasks.Tasks(host.procfs).read())
    assert (found["", "zombies"], found["", "tasks_blocked"]) == (1.0, 0.0)


# --- inventory --------------------------------------------------------------------------------------------------------


def test_the_node_is_told_by_its_versions(node: trees.Node) -> None:
    sweep = inventory.Inventory(node.sysfs, node.procfs).read()
    found = values(sweep)
    assert found["", "kernel_release"] == "5.15.0-1053-nvidia"
    assert (found["", "kernel_module_version"], found["", "kernel_module_open"]) == ("550.90.07", True)
    assert (found["", "nvswitch_present"], found["", "nvswitch_count"], found["", "gpu_count_pci"]) == (True, 4.0, 8.0)
    assert (found["", "nvidia"], found["", "nvidia_peermem"], found["", "pstore_records"]) == (True, True, 0.0)
    assert found["mlx5_0", "adapter_firmware"] == "28.39.3004"
    assert sweep.context["inventory"]["adapters"] == ["10 MT_0000000838 28.39.3004"]


def test_two_nodes_of_one_kind_have_one_hash_and_another_firmware_another(tmp_path: Path, node: trees.Node) -> None:
    other = trees.healthy(tmp_path / "other")
    for number, drive in enumerate(other.drives):
        other.put(other.sysfs / "class/nvme" / drive / "serial", f"OTHER{number}")
    one, two = (inventory.Inventory(each.sysfs, each.procfs).read() for each in (node, other))
    assert values(one)["", "inventory_hash"] == values(two)["", "inventory_hash"]
    other.put(other.sysfs / "class/infiniband/mlx5_4/fw_ver", "28.36.1010")
    three = inventory.Inventory(other.sysfs, other.procfs).read()
    assert values(three)["", "inventory_hash"] != values(one)["", "inventory_hash"]
    assert three.context["inventory"]["adapters"] == ["1 MT_0000000838 28.36.1010", "9 MT_0000000838 28.39.3004"]


def test_a_missing_module_and_a_crash_record_are_told(node: trees.Node) -> None:
    (node.sysfs / "module/nvidia_peermem").rmdir()
    node.put(node.sysfs / "fs/pstore/dmesg-efi-170000000001001", "Oops#1 Part1")
    node.put(node.sysfs / "var/lib/systemd/pstore/1700/dmesg.txt", "Panic#2")
    sweep = inventory.Inventory(node.sysfs, node.procfs).read()
    assert values(sweep)["", "nvidia_peermem"] is False
    assert values(sweep)["", "pstore_records"] == 2.0
    assert sweep.context["pstore"] == ["dmesg-efi-170000000001001", "1700"]


def test_a_gh200_is_no_switch_and_a_card_without_switches_has_none(tmp_path: Path) -> None:
    assert topology.kind_of("0x068000", "0x10de") == topology.SWITCH
    assert topology.kind_of("0x068000", "0x15b3") == ""
    node = trees.healthy(tmp_path)
    for address in node.nvswitches:
        node.remove_pci(address)
    assert values(inventory.Inventory(node.sysfs, node.procfs).read())["", "nvswitch_present"] is False


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Tue Feb 13 18:00:00 UTC 2024", "535.161.08"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54  Mon", "550.54"),
    ],
)
def test_the_drivers_version_is_found(said: str, version: str) -> None:
    assert inventory.driver_version(said) == version
    with pytest.raises(files.Unknown):
        inventory.driver_version("NVRM version: none")


# --- services ---------------------------------------------------------------------------------------------------------


def test_services_are_told_in_systemds_words(host: trees.Node) -> None:
    signal = services.Services(host.procfs)
    host.service("nvidia-fabricmanager", "failed", restarts=5)
    host.end(1843)
    found = values(signal.read())
    assert found["nvidia-fabricmanager", "service_active"] == "failed"
    assert found["nvidia-fabricmanager", "service_restarts"] == 5.0
    assert (found["docker", "service_active"], found["slurmd", "service_active"]) == ("not-found", "active")
    assert ("docker", "service_restarts") not in found


def test_a_daemon_of_the_driver_that_runs_in_a_container_is_found_by_its_process(host: trees.Node) -> None:
    host.service("nvidia-fabricmanager", "inactive", "not-found")
    signal = services.Services(host.procfs)
    assert values(signal.read())["nvidia-fabricmanager", "service_active"] == "active"
    host.end(1843)
    assert values(signal.read())["nvidia-fabricmanager", "service_active"] == "not-found"


def test_a_recorded_answer_of_systemd_is_read() -> None:
    units = services.parse((RECORDED / "systemctl-show.txt").read_text())
    assert units["nvidia-fabricmanager"]["ActiveState"] == "active"
    assert (units["containerd"]["NRestarts"], units["crio"]["LoadState"]) == ("2", "not-found")


def test_without_systemd_a_process_that_ends_is_missed_and_one_never_seen_is_not(host: trees.Node) -> None:
    def no_systemd(names: Iterable[str]) -> None:
        return None

    signal = services.Services(host.procfs, ask=no_systemd)
    first = signal.read()
    assert values(first)["nvidia-fabricmanager", "service_active"] == "active"
    assert states(first)["docker", "service_active"] == "unsupported"
    assert first.state == "ok"
    host.end(1843)
    assert values(signal.read())["nvidia-fabricmanager", "service_active"] == "inactive"


def test_a_systemd_that_does_not_answer_is_said(host: trees.Node) -> None:
    def silent(names: Iterable[str]) -> None:
        raise OSError("no answer within 5 s")

    sweep = services.Services(host.procfs, ask=silent).read()
    assert sweep.state == "failed"
    assert "no answer within 5 s" in sweep.error
    assert set(states(sweep).values()) == {"unreadable"}
