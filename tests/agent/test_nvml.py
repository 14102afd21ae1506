"""The node's GPUs as real pynvml reads them from the fake library, in a helper process."""

import pathlib
import subprocess
import sys
import time

import pytest

from outrider_agent.nvml import names, presence, process
from outrider_agent.signals import nvml
from outrider_simulator import fake_nvml
from tests.agent import nvml_worlds
from tests.agent.nvml_worlds import QUICK, alive, reading, until, value
from tests.simulator import children

EIGHT = {f"gpu{number}" for number in range(8)}


def test_a_first_look_tells_everything_that_there_is_to_tell(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, driver="580.95.05")
    with world.together():
        world.set(2, "temperature", 71)
        world.set(2, "power", 512)
        world.set(2, "clock_event_reasons", 0x80)
        world.count_up(3, "ecc_volatile_uncorrected_sram", 2)
        world.set(3, "sram_threshold_exceeded", 1)
        world.set(4, "banks_low", 2)
        world.set(4, "remap_pending", 1)
        world.link(5, 7, "state", 0)
        world.link(5, 8, "recovery", 3)
        world.set(6, "fabric_health_mask", 0b1000010001)
        world.set(6, "inforom_corrupt", 1)
        world.set(7, "recovery_action", 2)
        world.processes(1, {4242: 100})
        world.set(1, "violation_power_brake", 3)
    with reading(world) as gpus:
        sweep = gpus.read()
    assert (sweep.state, sweep.error, alive(sweep)) == ("ok", "", EIGHT)
    told = {(one.device, one.name) for one in sweep.readings}
    assert {name for _, name in told} == set(names.READINGS)
    assert value(sweep, "gpu2", "temperature") == 71.0
    assert value(sweep, "gpu2", "power_instant") == pytest.approx(512, abs=1)
    assert int(value(sweep, "gpu2", "clocks_event_reasons")) & 0x80
    assert value(sweep, "gpu3", "ecc_volatile_uncorrected_sram") == 2.0
    assert value(sweep, "gpu3", "ecc_volatile_uncorrected") == 2.0
    assert value(sweep, "gpu3", "sram_threshold_exceeded") is True
    assert (value(sweep, "gpu4", "remap_banks_low"), value(sweep, "gpu4", "remap_pending")) == (2.0, True)
    assert (value(sweep, "gpu5/link7", "nvlink_state"), value(sweep, "gpu5/link8", "nvlink_state")) == (0.0, 1.0)
    assert value(sweep, "gpu5/link8", "nvlink_recovery") == 3.0
    health = [value(sweep, "gpu6", f"fabric_{name}") for name in ("degraded_bandwidth", "route_unhealthy")]
    assert health == [True, True]
    assert value(sweep, "gpu6", "fabric_incorrect_configuration") is True
    assert value(sweep, "gpu6", "fabric_route_recovery") == "unsupported"
    assert (value(sweep, "gpu6", "inforom_valid"), value(sweep, "gpu6", "nvml_code")) == (False, 14.0)
    assert value(sweep, "gpu7", "recovery_action") == 2.0
    assert (value(sweep, "gpu1", "processes"), value(sweep, "gpu1", "power_brake_violation")) == (1.0, 3.0)
    assert value(sweep, "gpu1", "memory_total") == 81559 * 2**20
    assert (value(sweep, "", "gpu_count"), value(sweep, "", "p2p_broken")) == (8.0, 0.0)
    assert all(one.unit == names.READINGS[one.name].unit for one in sweep.readings)


def test_the_context_says_whose_numbers_these_are_and_that_they_are_simulated(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path)
    with reading(world) as gpus:
        context = gpus.read().context
    assert (context["driver_version"], context["simulated"], context["boot_id"] != "") == ("570.133.20", True, True)
    assert (context["board"], context["nvswitch"]) == ("sxm", True)
    assert set(context["devices"]) == EIGHT
    assert context["devices"]["gpu3"]["pci"] == "0000:5d:00.0"
    assert context["devices"]["gpu3"]["uuid"].startswith("GPU-")


def test_later_looks_hold_what_is_due(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path)
    with reading(world) as gpus:
        gpus.read()
        sweep = gpus.read()
        assert value(sweep, "gpu0", "temperature") == 30.0
        assert value(sweep, "gpu0", "uuid") is None
        assert value(sweep, "gpu0/link4", "nvlink_state") is None  # as it was
        world.link(0, 4, "state", 0)
        assert value(gpus.read(), "gpu0/link4", "nvlink_state") == 0.0


@pytest.mark.parametrize(
    ("board", "links", "unsupported"),
    [
        ("h100-pcie", "unsupported", {"nvlink_tx", "fabric_state", "nvlink_remote_nvswitch"}),
        ("a100-sxm", 12.0, {"temperature_margin", "fabric_state", "temperature_margin_slowdown"}),
    ],
)
def test_other_boards_lack_other_things(
    tmp_path: pathlib.Path, board: str, links: object, unsupported: set[str]
) -> None:
    with reading(fake_nvml.World(tmp_path, board=board, count=4)) as gpus:
        sweep = gpus.read()
    assert sweep.state == "ok"
    assert value(sweep, "gpu3", "nvlink_links_expected") == links
    assert {name for name in unsupported if value(sweep, "gpu3", name) == "unsupported"} == unsupported
    assert sweep.context["nvswitch"] is (board == "a100-sxm")
    if board == "a100-sxm":
        assert value(sweep, "gpu3/link11", "nvlink_replay") == 0.0  # by the older function


def test_an_older_driver_answers_by_older_functions_and_the_rest_is_unsupported(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, driver="470.256.02", count=2)
    world.set(1, "temperature", 61)
    world.set(1, "clock_event_reasons", 4)
    world.processes(1, {77: 10})
    with reading(world) as gpus:
        sweep = gpus.read()
    assert value(sweep, "gpu1", "temperature") == 61.0
    assert int(value(sweep, "gpu1", "clocks_event_reasons")) & 4
    assert value(sweep, "gpu1", "processes") == 1.0
    assert value(sweep, "gpu1", "memory_used") is not None
    for name in ("recovery_action", "power_instant", "sram_threshold_exceeded", "gsp_firmware", "pcie_fatal"):
        assert value(sweep, "gpu1", name) == "unsupported", name
    assert sweep.state == "ok"


def test_what_is_not_supported_is_not_asked_again_each_time(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=1)
    fault = world.unsupported(0, "nvmlDeviceGetTemperature*")
    with reading(world) as gpus:
        assert value(gpus.read(), "gpu0", "temperature") == "unsupported"
        fault.clear()
        assert value(gpus.read(), "gpu0", "temperature") is None


def test_a_lost_gpu_is_told_and_read_again_once_it_is_back(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=4)
    with reading(world) as gpus:
        gpus.read()
        with world.lose_gpu(2):
            sweep = gpus.read()
            assert (value(sweep, "gpu2", "nvml_code"), value(sweep, "gpu1", "nvml_code")) == (15.0, 0.0)
            assert value(sweep, "gpu2", "temperature") == "unreadable"
            assert value(gpus.read(), "gpu2", "nvml_code") == 15.0
            assert alive(sweep) == {"gpu0", "gpu1", "gpu3"}
        sweep = until(gpus, lambda sweep: "gpu2" in alive(sweep))
        assert value(sweep, "gpu2", "nvml_code") == 0.0


def test_one_that_is_lost_when_the_agent_starts_has_the_address_that_nobody_else_has(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path / "node", count=4)
    devices = tmp_path / "sys/bus/pci/devices"
    for address in ("0000:18:00.0", "0000:2a:00.0", "0000:3a:00.0", "0000:5d:00.0"):
        (devices / address).mkdir(parents=True)
        (devices / address / "vendor").write_text("0x10de\n")
        (devices / address / "class").write_text("0x030200\n")
    world.lose_gpu(2)
    with reading(world, sysfs=tmp_path / "sys") as gpus:
        sweep = gpus.read()
        assert value(sweep, "gpu2", "nvml_code") == 15.0
        assert value(sweep, "", "gpu_count_pci") == 4.0
        assert sweep.context["devices"]["gpu2"]["pci"] == "0000:3a:00.0"


def test_one_that_waits_for_a_reset_still_says_what_it_asks_for(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=2)
    world.require_reset(1)
    with reading(world) as gpus:
        sweep = gpus.read()
        assert (value(sweep, "gpu1", "nvml_code"), value(sweep, "gpu1", "recovery_action")) == (16.0, 1.0)
        assert value(sweep, "gpu1", "power") == "unreadable"
        world.reset_gpu(1)
        assert value(gpus.read(), "gpu1", "nvml_code") == 0.0


def test_one_that_vanishes_keeps_its_name_and_so_do_the_others(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=3)
    world.set(2, "temperature", 55)
    with reading(world) as gpus:
        gpus.read()
        world.remove_gpu(0)
        gpus._asked_at.pop("usual")
        sweep = gpus.read()
        assert value(sweep, "", "gpu_count") == 2.0
        assert value(sweep, "gpu2", "temperature") == 55.0


@pytest.mark.parametrize("code", [9, 18, 999])
def test_an_init_that_fails_is_told_by_its_code(tmp_path: pathlib.Path, code: int) -> None:
    world = fake_nvml.World(tmp_path)
    fault = world.fail(None, "nvmlInit", code, system=True)
    with reading(world) as gpus:
        sweep = gpus.read()
        assert (sweep.state, value(sweep, "", "nvml_init")) == ("failed", float(code))
        assert str(code) in sweep.error
        fault.clear()
        assert value(until(gpus, lambda sweep: sweep.state == "ok"), "", "nvml_init") == 0.0


def test_a_machine_without_gpus_and_without_a_driver_lacks_nothing(tmp_path: pathlib.Path) -> None:
    if _driver_is_installed():
        pytest.skip("this machine has NVIDIA's library")
    roots = {"sysfs": tmp_path, "devfs": tmp_path, "procfs": tmp_path}
    bare = nvml.Nvml(limits=QUICK, **roots)
    try:
        sweep = bare.read()
    finally:
        bare.close()
    assert (sweep.state, sweep.error, value(sweep, "", "nvml_init")) == ("absent", "", "unsupported")


def test_gpus_on_the_bus_without_a_library_are_a_failure(tmp_path: pathlib.Path) -> None:
    if _driver_is_installed():
        pytest.skip("this machine has NVIDIA's library")
    device = tmp_path / "bus/pci/devices/0000:18:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    missing = nvml.Nvml(limits=QUICK, sysfs=tmp_path, devfs=tmp_path, procfs=tmp_path)
    try:
        sweep = missing.read()
    finally:
        missing.close()
    assert (sweep.state, value(sweep, "", "nvml_init"), value(sweep, "", "gpu_count_pci")) == ("failed", 12.0, 1.0)


def test_a_library_by_another_name_is_refused_with_the_way_out(tmp_path: pathlib.Path) -> None:
    other = next(path for path in pathlib.Path("/proc/self/maps").read_text().split() if "libc.so" in path)
    odd = nvml.Nvml(pathlib.Path(other), limits=QUICK, sysfs=tmp_path, devfs=tmp_path)
    try:
        sweep = odd.read()
    finally:
        odd.close()
    assert sweep.state == "failed"
    assert "does not call itself libnvidia-ml.so.1" in sweep.error


def test_a_killed_helper_is_replaced_and_nothing_is_blamed(tmp_path: pathlib.Path) -> None:
    with reading(fake_nvml.World(tmp_path, count=2)) as gpus:
        gpus.read()
        first = gpus.readers.pid
        assert first is not None
        process.kill_for_good(first)
        sweep = until(gpus, lambda sweep: gpus.readers.pid not in (first, None) and sweep.state == "ok")
        assert (value(sweep, "", "nvml_helper_restarts"), value(sweep, "gpu0", "nvml_call_hung")) == (1.0, 0.0)
        assert sweep.context["restarted"] is True
        assert value(sweep, "gpu0", "uuid") is not None  # a new helper tells everything


def test_helpers_end_when_their_agent_is_killed(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=1)
    source = f"""
        import pathlib
        from outrider_agent.signals import nvml
        gpus = nvml.Nvml(pathlib.Path({str(world.library)!r}), sysfs=pathlib.Path({str(tmp_path)!r}))
        gpus.read()
        tell(gpus.readers.pid)
        {{}}
    """
    hung = world.hang(0, "nvmlDeviceGetTemperatureV")
    for then in ("time.sleep(600)", "gpus.read(); time.sleep(600)"):
        with children.start(world, source.format(then)) as child:
            pid = children.line(child)
            time.sleep(0.2)
            child.kill()
        assert _gone(pid)
    hung.clear()


def test_memory_of_agent_and_helper_is_flat(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path)
    with reading(world) as gpus:
        sizes = []
        for number in range(240):
            gpus.read()
            gpus.samples.take()
            if number in (80, 239):
                assert gpus.readers._reader is not None
                sizes.append(gpus.readers._reader.helper.resident_bytes())
    assert sizes[1] - sizes[0] < 512 * 1024, sizes


def test_signs_on_the_machine_are_read_without_the_library(tmp_path: pathlib.Path) -> None:
    devices = tmp_path / "bus/pci/devices"
    for address, vendor, kind in (
        ("0000:18:00.0", "0x10de", "0x030200"),
        ("0000:07:00.0", "0x10de", "0x068000"),
        ("0000:00:02.0", "0x8086", "0x030000"),
    ):
        (devices / address).mkdir(parents=True)
        (devices / address / "vendor").write_text(vendor + "\n")
        (devices / address / "class").write_text(kind + "\n")
    assert presence.pci(tmp_path) == (["0000:18:00.0"], 1)
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    assert presence.files(tmp_path) == 1
    version = tmp_path / "driver/nvidia/version"
    for line, said in (
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.06  Wed Jun 26 06:46:07 UTC 2024", "535.183.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build", "570.133.20"),
        ("nothing of the kind", ""),
    ):
        version.write_text(line + "\nGCC version:  gcc version 12.2.0\n")
        assert presence.module_version(tmp_path) == said


def _driver_is_installed() -> bool:
    # Asked in another process: in this one the fake library goes by that name already.
    load = "import ctypes; ctypes.CDLL('libnvidia-ml.so.1')"
    return subprocess.run([sys.executable, "-c", load], stderr=subprocess.DEVNULL).returncode == 0


def _gone(pid: int) -> bool:
    begun = time.monotonic()
    while time.monotonic() - begun < nvml_worlds.PATIENCE_S:
        try:
            words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return True
        if words[0] == "Z":
            return True
        time.sleep(0.05)
    return False
