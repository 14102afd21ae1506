"""Exact intervals, projections and checkpoint intervals, against published and independently computed values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_analysis import statistics


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [(1, 232.61, 51189.27), (3, 147.82, 2094.81), (10, 70.47, 270.26), (47, 20.736, 37.528), (419, 2.8106, 3.4120)],
)
def test_the_exact_interval_of_the_mean_time_to_failure(events: int, low: float, high: float) -> None:
    found = statistics.mean_time_to_failure(events, 1296)
    assert found.value == pytest.approx(1296 / events)
    assert found.low == pytest.approx(low, rel=5e-5)
    assert found.high == pytest.approx(high, rel=5e-5)


def test_without_a_failure_only_the_lower_bound_is_known() -> None:
    found = statistics.mean_time_to_failure(0, 1296)
    assert found.value is None
    assert found.low == pytest.approx(351.33, abs=0.005)
    assert found.high == math.inf


def test_ninety_per_cent_is_narrower_than_ninety_five() -> None:
    found = statistics.mean_time_to_failure(419, 1296, confidence=0.9)
    assert (found.low, found.high) == (pytest.approx(2.853, abs=5e-4), pytest.approx(3.358, abs=5e-4))


@pytest.mark.parametrize(
    ("rate", "nodes", "hours"),
    [
        (6.5e-3, 128, 28.85),
        (6.5e-3, 2048, 1.80),
        (6.5e-3, 16384, 0.23),
        (3.7887e-3, 2048, 3.09),
        (3.7887e-3, 12500, 0.51),
    ],
)
def test_the_time_between_failures_shrinks_with_the_nodes(rate: float, nodes: int, hours: float) -> None:
    assert statistics.projected_mttf_h(rate, nodes) == pytest.approx(hours, abs=0.005)


@pytest.mark.parametrize(
    ("mttf", "restart", "interval", "stall", "efficiency"),
    [
        (185.5847, 5, 5, 1 / 60, 0.9571301),
        (185.5847, 10, 10, 1 / 6, 0.90671328),
        (185.5847, 1, 0.5, 0.1 / 60, 0.98998246),
        (60, 10, 15, 1, 0.69246351),
    ],
)
def test_expected_efficiency_after_daly(
    mttf: float, restart: float, interval: float, stall: float, efficiency: float
) -> None:
    assert statistics.expected_efficiency(mttf, restart, interval, stall) == pytest.approx(efficiency, abs=1e-7)


@pytest.mark.parametrize(
    ("stall_s", "young", "daly"),
    [
        (0.1, 0.787, 0.785),
        (1, 2.487, 2.476),
        (5, 5.562, 5.506),
        (10, 7.865, 7.754),
        (60, 19.27, 18.60),
        (120, 27.25, 25.93),
    ],
)
def test_the_checkpoint_interval_after_young_and_after_daly(stall_s: float, young: float, daly: float) -> None:
    assert statistics.young_interval(stall_s / 60, 185.58) == pytest.approx(young, rel=1e-3)
    assert statistics.daly_interval(stall_s / 60, 185.58) == pytest.approx(daly, rel=1e-3)


def test_a_checkpoint_that_costs_more_than_it_saves_is_taken_once_per_failure() -> None:
    assert statistics.daly_interval(130, 60) == 60


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    # Two degrees of freedom: -2 ln(1-p). The others are the tables printed in textbooks.
    [(0.95, 2, -2 * math.log(0.05)), (0.5, 2, 2 * math.log(2)), (0.95, 1, 3.841459), (0.975, 10, 20.483177)],
)
def test_quantiles_of_chi_square(probability: float, degrees: int, value: float) -> None:
    assert statistics.chi2_quantile(probability, degrees) == pytest.approx(value, rel=1e-7)


@given(st.integers(1, 20_000), st.floats(0.001, 0.999))
def test_a_quantile_is_where_the_distribution_reaches_the_probability(degrees: int, probability: float) -> None:
    value = statistics.chi2_quantile(probability, degrees)
    assert statistics.gamma_p(degrees / 2, value / 2) == pytest.approx(probability, abs=1e-9)


@given(st.integers(0, 500), st.floats(0.01, 1e6))
def test_the_interval_holds_the_value(events: int, exposure: float) -> None:
    found = statistics.rate(events, exposure)
    assert found.low <= events / exposure <= found.high


@pytest.mark.parametrize(("events", "exposure", "confidence"), [(-1, 1.0, 0.95), (1, 0.0, 0.95), (1, 1.0, 1.0)])
def test_a_rate_of_nothing_is_refused_with_the_value(events: int, exposure: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="need"):
        statistics.rate(events, exposure, confidence)
