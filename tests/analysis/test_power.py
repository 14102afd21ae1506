"""The node's power from samples: sums, ramps, range, gaps, company, phases."""

import math

import pytest

from outrider_analysis import power

T0 = 1_700_000_000.0


def wave(gpu: int, begin: float, seconds: float, hertz: float, watts: object = None) -> list[tuple[float, float]]:
    give = watts if callable(watts) else lambda _: 100.0
    count = int(seconds * hertz)
    return [(T0 + begin + number / hertz, give(begin + number / hertz)) for number in range(count)]


def fed(meter: power.Meter, gpus: int, until: float, watts: object, hertz: float = 50.0) -> list[power.Summary]:
    """A look each second, as the signal looks."""
    found = []
    for second in range(int(until)):
        for gpu in range(gpus):
            # Each GPU is sampled at moments of its own.
            meter.add(gpu, [(at + gpu * 0.003, value) for at, value in wave(gpu, second, 1.0, hertz, watts)])
        found.append(meter.advance(T0 + second + 1))
    return found


def test_a_known_ramp_is_found_in_every_window() -> None:
    # 100 W a GPU, then up by 300 W a second for two seconds.
    summaries = fed(power.Meter(), 8, 14, lambda t: 100.0 + 300.0 * min(max(t - 2.0, 0.0), 2.0))
    assert summaries[0].watts == pytest.approx(800.0)
    assert summaries[0].ramps == {0.1: pytest.approx(0.0, abs=1e-6), 1.0: None, 10.0: None}
    assert max(s.ramps[0.1] or 0.0 for s in summaries) == pytest.approx(2400.0, rel=1e-3)
    assert max(s.ramps[1.0] or 0.0 for s in summaries) == pytest.approx(2400.0, rel=1e-3)
    assert max(s.ramps[10.0] or 0.0 for s in summaries) == pytest.approx(480.0, rel=1e-3)
    last = summaries[-1]
    assert last.watts == pytest.approx(5600.0)
    assert (last.range, last.hertz, last.gpus) == (pytest.approx(4800.0), pytest.approx(50.0, rel=0.01), 8)


def test_samples_that_were_told_before_count_once() -> None:
    meter = power.Meter()
    samples = wave(0, 0.0, 3.0, 50.0)
    meter.add(0, samples[:100])
    meter.add(0, samples[20:])
    meter.advance(T0 + 3)
    times = [point.at for point in meter.points]
    assert times == sorted(set(times))
    assert len(times) == pytest.approx(149, abs=2)


def test_sampled_once_a_second_the_fast_ramps_are_not_claimed() -> None:
    summaries = fed(power.Meter(), 2, 14, lambda t: 50.0 * t, hertz=1.0)
    last = summaries[-1]
    assert last.ramps[0.1] is None
    assert last.ramps[1.0] == pytest.approx(100.0, rel=0.05)
    assert last.ramps[10.0] == pytest.approx(100.0, rel=0.05)
    assert last.hertz == pytest.approx(1.0)


def test_a_gpu_that_joins_or_falls_silent_is_no_ramp() -> None:
    meter = power.Meter()
    ramps = []
    for second in range(20):
        for gpu in range(2):
            if gpu == 0 or 4 <= second < 8:
                meter.add(gpu, wave(gpu, second, 1.0, 50.0))
        summary = meter.advance(T0 + second + 1)
        ramps += [ramp for ramp in summary.ramps.values() if ramp is not None]
    assert max(ramps) == pytest.approx(0.0, abs=1e-6)
    assert {round(point.watts) for point in meter.points} == {100, 200}
    assert meter.advance(T0 + 20).gpus == 1


def test_a_gap_is_a_gap() -> None:
    meter = power.Meter()
    meter.add(0, wave(0, 0.0, 2.0, 50.0, lambda t: 100.0))
    meter.add(0, wave(0, 6.0, 2.0, 50.0, lambda t: 900.0))
    summary = meter.advance(T0 + 8)
    assert not any(T0 + 2.1 < point.at < T0 + 5.9 for point in meter.points)
    assert summary.ramps[1.0] == pytest.approx(0.0, abs=1e-6)


def test_memory_is_bounded_whatever_comes() -> None:
    meter = power.Meter()
    for gpu in range(80):
        meter.add(gpu, [(T0 + number / 50, 1.0) for number in range(9_000)])
        meter.add(gpu, [(math.nan, 1.0), (math.inf, 1.0)])
    meter.advance(T0 + 400)
    fed(power.Meter(), 1, 90, None)
    assert len(meter.points) <= power.POINTS_MAX
    assert len(meter._gpus) <= power.GPUS_MAX
    phases = power.Phases()
    for number in range(20_000):
        phases.note(power.Change(number % 500, f"phase{number}", T0 + number))
    phases.take([power.Point(T0 + number, 1.0, 0) for number in range(20_000)])
    assert len(phases.found) <= power.PHASES_MAX


def test_power_is_told_by_phase_of_most_ranks() -> None:
    phases = power.Phases()
    for rank in range(4):
        phases.note(power.Change(rank, "start", T0))
        phases.note(power.Change(rank, "step", T0 + 2 + 0.1 * rank))
        phases.note(power.Change(rank, "checkpoint", T0 + 6))
        phases.note(power.Change(rank, "step", T0 + 8))
    phases.note(power.Change(0, "evaluation", T0 + 9))  # one of four does not make the node's phase

    def watts(t: float) -> float:
        return 300.0 if t < 2.2 else 5000.0 if not 6 <= t < 8 else 1200.0

    points = [power.Point(T0 + number * 0.02, watts(number * 0.02), 0) for number in range(500)]
    phases.take(points[:250])
    phases.take(points[250:], points[200:250])
    assert set(phases.found) == {"start", "step", "checkpoint"}
    step, checkpoint = phases.found["step"], phases.found["checkpoint"]
    assert (step.mean, step.peak) == (pytest.approx(5000.0, rel=0.02), 5000.0)
    assert checkpoint.mean == pytest.approx(1200.0, rel=0.02)
    assert checkpoint.ramp == pytest.approx(3800.0, rel=0.02)  # the fall at its beginning
    assert checkpoint.seconds == pytest.approx(2.0, abs=0.05)
    assert sum(one.seconds for one in phases.found.values()) == pytest.approx(10.0, abs=0.1)
