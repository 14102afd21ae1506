"""Power at speed: from the fake driver's sample buffer, through a helper, to ramps and phases."""

import json
import pathlib
import time
from collections import deque

import pytest

from outrider.clock import RealClock
from outrider_agent import readings
from outrider_agent.nvml import samples
from outrider_agent.signals import power, ranks
from outrider_simulator import fake_nvml
from tests.agent.nvml_worlds import reading, until, value


def test_the_ramp_of_the_world_is_the_ramp_that_is_told(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path)
    with reading(world) as gpus:
        signal = power.Power(gpus)
        gpus.read()
        assert value(signal.read(), "", "power_node") == pytest.approx(8 * 85, rel=0.01)
        with world.together():
            for gpu in range(8):
                world.set(gpu, "power", fake_nvml.steady(85).ramp(600, world.now(), 1.5))
        told: list[readings.Sweep] = []

        def risen(_: readings.Sweep) -> bool:
            told.append(signal.read())
            return bool(told[-1].readings) and (value(told[-1], "", "power_node") or 0) > 8 * 680

        until(gpus, risen)
    fastest = max(value(sweep, "", "power_ramp_100ms") or 0.0 for sweep in told)
    assert fastest == pytest.approx(8 * 600 / 1.5, rel=0.1)
    assert value(told[-1], "", "sampling_hz") == pytest.approx(50.0, rel=0.1)
    assert value(told[-1], "", "power_dynamic_range") == pytest.approx(8 * 600, rel=0.02)
    assert told[-1].context["simulated"] is True
    assert value(told[-1], "gpu7", "power_samples") > 50
    assert {one.name for one in told[-1].readings} <= set(power.READINGS)
    assert len(signal.recent()) > 50


def test_without_a_buffer_power_is_known_as_often_as_it_is_read(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=2)
    world.unsupported(None, "nvmlDeviceGetSamples")
    with reading(world) as gpus:
        signal = power.Power(gpus)
        sweeps = []
        for _ in range(4):
            gpus.read()
            sweeps.append(signal.read())
            time.sleep(0.3)
    assert sweeps[-1].state in ("ok", "partial")
    assert 0 < value(sweeps[-1], "", "sampling_hz") < 10
    assert value(sweeps[-1], "", "power_ramp_100ms") in ("unsupported", None)


def test_without_gpus_there_is_no_power(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path)
    world.fail(None, "nvmlInit", 9, system=True)
    with reading(world) as gpus:
        gpus.read()
        assert power.Power(gpus).read().state == "absent"


def test_power_is_aligned_with_what_the_ranks_say(tmp_path: pathlib.Path) -> None:
    class Source:
        samples = samples.Samples()
        readers = type("Readers", (), {"hello": {"simulated": True}})()

    now = RealClock().now()
    changes = deque(
        [
            ranks.PhaseChange("old", 1, 0, "step", now - 30),
            ranks.PhaseChange("j", 2, 0, "step", now - 20),
            ranks.PhaseChange("j", 2, 0, "checkpoint", now - 10),
            ranks.PhaseChange("j", 2, 0, "step", now - 8),
        ]
    )
    at = [now - 18 + 0.02 * number for number in range(900)]
    watts = [300e3 if now - 10 <= moment < now - 8 else 700e3 for moment in at]
    Source.samples.put(0, [int(moment * 1e6) for moment in at], watts, now)
    sweep = power.Power(Source(), changes).read()  # type: ignore[arg-type]
    assert (sweep.context["job"], sweep.context["generation"]) == ("j", 2)
    assert value(sweep, "phase/checkpoint", "power_phase_mean") == pytest.approx(300, rel=0.05)
    assert value(sweep, "phase/step", "power_phase_peak") == pytest.approx(700)
    assert value(sweep, "phase/checkpoint", "power_phase_ramp") == pytest.approx(400, rel=0.05)
    assert not changes


def test_marks_leave_the_changes_of_phase_behind() -> None:
    board = ranks.Board()
    board.expect("j", 2, [0, 1])

    def mark(kind: str, at: float, **more: object) -> bytes:
        fields = {"v": 1, "kind": kind, "rank": 1, "local_rank": 1, "pid": 7, "job": "j", "gen": 2, "at": at, **more}
        return json.dumps(fields).encode()

    for datagram in (
        mark("attach", 1.0),
        mark("step", 2.0, step=1),
        mark("step", 3.0, step=2),
        mark("begin", 4.0, phase="collective-wait"),
        mark("end", 5.0, phase="collective-wait"),
        mark("done", 6.0),
    ):
        assert board.take(datagram, 9.0)
    assert [(change.phase, change.at) for change in board.changes] == [
        ("start", 1.0),
        ("step", 2.0),
        ("collective-wait", 4.0),
        ("step", 5.0),
        ("done", 6.0),
    ]


def test_a_driver_with_another_clock_is_brought_to_ours_and_its_gpus_stay_together() -> None:
    kept = samples.Samples()
    for gpu in (0, 1):
        kept.put(gpu, [5_000_000, 5_500_000], [100e3, 200e3], now=1000.0)
    first, second = kept.take()
    assert first.samples == second.samples == ((999.5, 100.0), (1000.0, 200.0))
    kept.put(0, [7_000_000], [100e3], now=1001.6)
    assert kept.take()[0].samples == ((1001.5, 100.0),)
    assert kept.take() == []
