"""Worlds over time, and worlds that could not be."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from outrider_simulator import fake_nvml
from tests.simulator import children

World = fake_nvml.World


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One world for all refusals: a refused change is taken back, so each finds it as it was."""
    return World(tmp_path_factory.mktemp("held"), stopped=True)


IMPOSSIBLE: list[tuple[Callable[[World], object], str]] = [
    (lambda w: w.set(3, "power", 900), "gpu 3 power reaches 900 W, the NVIDIA H100 80GB HBM3 can draw 700 W: lower"),
    (lambda w: w.set(3, "power", fake_nvml.steady(680).sine(90, 5)), "gpu 3 power reaches 770 W"),
    (lambda w: w.set(3, "power_limit", 900), "gpu 3 power_limit reaches 900..900 W, the .* takes 200..700 W"),
    (lambda w: w.set(3, "temperature", -5), "gpu 3 temperature reaches -5..-5 C, possible is 0..105"),
    (lambda w: w.set(3, "margin", 20), "gpu 3 margin 20..20 C does not fit its temperature 30..30 C"),
    (lambda w: w.set(3, "remapped_corrected", 513), "gpu 3 remapped_corrected reaches 513..513 rows"),
    (lambda w: w.set(3, "banks_none", 2561), "gpu 3 has 2561 banks, the NVIDIA H100 80GB HBM3 has 2560"),
    (lambda w: w.set(3, "memory_used", 90000), "gpu 3 memory_used reaches 90000 MiB, free to use are 81105"),
    (lambda w: w.set(3, "pcie_width", 32), "gpu 3 pcie_width reaches 32..32 lanes, possible is 1..16"),
    (lambda w: w.set(3, "pcie_width", 12), "gpu 3 pcie_width 12..12 is not one of 1, 2, 4, 8, 16"),
    (lambda w: w.set(3, "pcie_generation", 6), "gpu 3 pcie_generation is 6, the NVIDIA H100 80GB HBM3 has 5"),
    (lambda w: w.set(3, "sm_clock", 2500), "gpu 3 sm_clock reaches 2500 MHz, the .* 1980"),
    (lambda w: w.set(3, "pcie_replays", fake_nvml.steady(1).sine(1, 1)), "gpu 3 pcie_replays"),
    (lambda w: w.set(3, "pcie_replays", fake_nvml.steady(9).rate(-1, 0)), "pcie_replays"),
    (lambda w: w.link(3, 18, "state", 0), "line [0-9]+ cannot be understood: link 3 18 state"),
    (lambda w: w.link(3, 2, "state", 2), "gpu 3 link 2 state reaches 2..2"),
    (lambda w: w.xid(3, 999), "event [0-9]+ is Xid 999, which does not exist: known are 1 to 176"),
    (lambda w: w.sxid(1, 79), "event [0-9]+ is SXid 79, which does not exist"),
    (lambda w: w.identity(3, "pci", "00000000:18:00.0"), "gpus 0 and 3 share uuid, pci address or serial number"),
    (lambda w: w.identity(3, "pci", "18"), "gpu 3 pci 18 is not of the form"),
    (lambda w: w.lose_gpu(9), "cannot be understood: fault 9 lost"),
    (lambda w: w.event(3, "sxid", 20034, "1 x"), "cannot be understood: event"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_an_impossible_world_is_refused_and_the_file_stays(
    change: Callable[[World], object], message: str, held: World
) -> None:
    before = held.path.read_text()
    with pytest.raises(fake_nvml.ImpossibleWorldError, match=message):
        change(held)
    assert held.path.read_text() == before
    held.check()


def test_an_unknown_value_is_answered_with_the_known_ones(held: World) -> None:
    with pytest.raises(ValueError, match=r"there is no value 'temprature'; the values are .*temperature"):
        held.set(0, "temprature", 50)


def test_two_gpus_with_one_uuid_are_refused(held: World) -> None:
    held.identity(0, "uuid", "GPU-1")
    with pytest.raises(fake_nvml.ImpossibleWorldError, match="gpus 0 and 1 share uuid"):
        held.identity(1, "uuid", "GPU-1")


def test_boards_without_a_thing_cannot_be_given_it(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, board="a100-sxm")
    with pytest.raises(fake_nvml.ImpossibleWorldError, match="margin is set, the NVIDIA A100-SXM4-80GB reports none"):
        world.set(0, "margin", 50)
    with pytest.raises(fake_nvml.ImpossibleWorldError, match="fabric_state is set"):
        world.set(0, "fabric_state", 3)


def test_counts_fall_only_with_a_reset(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, stopped=True)
    world.set(0, "ecc_volatile_corrected_dram", 40)
    with pytest.raises(
        fake_nvml.ImpossibleWorldError, match="ecc_volatile_corrected_dram falls from 40 to 0 without a"
    ):
        world.set(0, "ecc_volatile_corrected_dram", 0)
    world.reset_gpu(0)
    assert world.reading(0, "ecc_volatile_corrected_dram") == 0
    assert world.reading(0, "ecc_aggregate_corrected_dram") == 40
    world.reboot()
    with pytest.raises(fake_nvml.ImpossibleWorldError, match="ecc_aggregate_corrected_dram falls from 40 to 3"):
        world.set(0, "ecc_aggregate_corrected_dram", 3)


def test_the_library_itself_refuses_at_init_and_keeps_the_last_good_world_later(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, stopped=True)
    good = world.path.read_text()
    bad = good + "gpu 3 power 900\n"
    source = """
    tell(code(n.nvmlInit))
    h = gpus()[3]
    sys.stdin.readline()
    tell([n.nvmlDeviceGetPowerUsage(h), n.nvmlDeviceGetPowerUsage(h)])
    """
    with children.start(world, source) as child:
        assert children.line(child) == 0
        world.path.write_text(bad)
        out, err = child.communicate("\n", timeout=30)
    assert out == "[85000, 85000]\n"
    assert err.count("refuses this world: gpu 3 power reaches 900 W") == 1
    code = "import pynvml\ntry:\n    pynvml.nvmlInit()\nexcept pynvml.NVMLError as e:\n    print(e.value)"
    environment = {**os.environ, **world.environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "999\n"
    assert "outrider's fake NVML refuses this world: gpu 3 power reaches 900 W" in done.stderr
    world.path.write_text(good + "gpu 3 pwer 100\n")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "cannot be understood: gpu 3 pwer 100; docs/fake-nvml.md lists the forms" in done.stderr


def test_without_a_world_file_there_are_eight_idle_h100s(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, count=2)
    world.path.unlink()
    source = "n.nvmlInit(); tell([n.nvmlDeviceGetCount(), n.nvmlDeviceGetName(gpus()[0])])"
    assert children.told(world, source) == [8, "NVIDIA H100 80GB HBM3"]


def test_values_ramp_swing_and_rise(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, stopped=True)
    world.ramp(0, "temperature", 80, 100)
    world.count_on(0, "pcie_replays", 0.5)
    world.set(1, "load", fake_nvml.steady(0.5).sine(0.4, 40))
    world.set(2, "load", fake_nvml.steady(0.1).square(0.8, 10, 0.75))
    world.set(3, "power", fake_nvml.steady(400).noise(20))
    world.advance(50)
    assert world.reading(0, "temperature") == pytest.approx(55)
    assert world.reading(0, "pcie_replays") == pytest.approx(25)
    assert world.reading(1, "load") == pytest.approx(0.9)
    assert world.reading(2, "load") == pytest.approx(0.9)
    draws = set()
    for _ in range(20):
        world.advance(1)
        draws.add(world.reading(3, "power"))
        assert 380 <= world.reading(3, "power") <= 420
    assert len(draws) == 20
    world.advance(100)
    assert world.reading(0, "temperature") == pytest.approx(80)


def test_energy_goes_on_through_changes_and_matches_the_power(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, stopped=True)
    source = "n.nvmlInit(); tell(n.nvmlDeviceGetTotalEnergyConsumption(gpus()[0]))"
    world.set(0, "power", 100)
    world.advance(10)
    world.set(0, "power", fake_nvml.steady(500).ramp(100, 10, 10))
    world.advance(20)  # 10 s from 500 to 600, 10 s at 600
    world.set(0, "power", fake_nvml.steady(200).square(100, 4, 0.25))
    world.advance(8)
    assert children.told(world, source) == pytest.approx(1000 * (1000 + 5500 + 6000 + 1800), abs=2)


def test_samples_of_power_come_at_fifty_a_second_and_only_newer_ones(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, stopped=True)
    world.advance(100)
    world.set(0, "power", fake_nvml.steady(300).square(300, 1, 0.5))
    source = """
    n.nvmlInit()
    h = gpus()[0]
    _, samples = n.nvmlDeviceGetSamples(h, 0, 0)
    stamps = [s.timeStamp for s in samples]
    _, newer = n.nvmlDeviceGetSamples(h, 0, stamps[-11])
    tell([{b - a for a, b in zip(stamps, stamps[1:])} <= {19999, 20000, 20001}, len(samples), len(newer),
          code(n.nvmlDeviceGetSamples, h, 0, stamps[-1]), sorted({s.sampleValue.uiVal for s in samples})])
    """
    assert children.told(world, source) == [True, 120, 10, 6, [300000, 600000]]


def test_a_scaled_world_runs_ahead_of_the_clock(tmp_path: pathlib.Path) -> None:
    wall = [1_700_000_000.0]
    world = World(tmp_path, scale=3600, clock=lambda: wall[0])
    world.count_on(0, "pcie_replays", 1)
    wall[0] += 2
    assert world.now() == 7200
    assert world.reading(0, "pcie_replays") == pytest.approx(7200)
    with pytest.raises(ValueError, match="stopped=True"):
        world.advance(1)
