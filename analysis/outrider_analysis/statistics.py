"""How often something fails, how sure that number is, and what it means for checkpoints.

In: counts and exposures. Out: rates and mean times with exact Poisson intervals, through quantiles of the chi-square
distribution. Everything is unit-free: an exposure in hours gives times in hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE_DEFAULT = 0.95
ITERATIONS_MAX = 500  # both expansions need about 5 * sqrt(shape); beyond that they are past double precision
BISECTIONS_MAX = 200


@dataclass(frozen=True)
class Interval:
    """A value with its bounds. ``value`` is None where nothing can be said (no event yet); ``high`` may be infinite."""

    value: float | None
    low: float
    high: float
    confidence: float


def rate(events: int, exposure: float, confidence: float = CONFIDENCE_DEFAULT) -> Interval:
    """Events per unit of exposure with the exact (Garwood) interval: chi2(a/2; 2n)/2T to chi2(1-a/2; 2n+2)/2T."""
    if events < 0 or exposure <= 0:
        raise ValueError(f"events {events}, exposure {exposure}: need events >= 0 and an exposure above 0")
    tail = (1 - _checked(confidence)) / 2
    low = chi2_quantile(tail, 2 * events) / (2 * exposure) if events else 0.0
    high = chi2_quantile(1 - tail, 2 * events + 2) / (2 * exposure)
    return Interval(events / exposure, low, high, confidence)


def mean_time_to_failure(events: int, exposure: float, confidence: float = CONFIDENCE_DEFAULT) -> Interval:
    """Exposure per event, bounds the reciprocals of the rate's. Without an event only the lower bound is known."""
    per_unit = rate(events, exposure, confidence)
    value = exposure / events if events else None
    high = 1 / per_unit.low if per_unit.low else math.inf
    return Interval(value, 1 / per_unit.high, high, confidence)


def projected_mttf_h(failures_per_node_day: float, nodes: float) -> float:
    """Hours between failures of a job on ``nodes`` nodes, each failing independently at the given rate."""
    return 24 / (failures_per_node_day * nodes)


def young_interval(stall: float, mttf: float) -> float:
    """Checkpoint interval after Young (1974), from the stall of one checkpoint and the MTTF, all in one unit."""
    return math.sqrt(2 * stall * mttf)


def daly_interval(stall: float, mttf: float) -> float:
    """Checkpoint interval after Daly (2006), better than Young's where the stall is not small beside the MTTF."""
    if stall >= 2 * mttf:
        return mttf
    ratio = stall / (2 * mttf)
    return math.sqrt(2 * stall * mttf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall


def expected_efficiency(mttf: float, restart: float, interval: float, stall: float) -> float:
    """Useful over elapsed time for exponential faults (Daly 2006); ``restart`` includes detection, and can be hit."""
    return interval / (mttf * math.exp(restart / mttf) * math.expm1((interval + stall) / mttf))


def chi2_quantile(probability: float, degrees: int) -> float:
    """The value that a chi-square variable of ``degrees`` degrees of freedom stays below with ``probability``."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"probability {probability}, degrees {degrees}: need 0 < probability < 1 and degrees >= 1")
    shape = degrees / 2
    low, high = 0.0, max(1.0, 2.0 * shape)
    while gamma_p(shape, high) < probability:
        low, high = high, 2 * high
    for _ in range(BISECTIONS_MAX):  # bisection cannot leave its bracket; doubles run out long before the bound
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if gamma_p(shape, middle) < probability:
            low = middle
        else:
            high = middle
    return low + high


def gamma_p(shape: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(shape, x), by its series or its continued fraction."""
    if x <= 0:
        return 0.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        return scale * _series(shape, x)
    return 1 - scale * _continued_fraction(shape, x)


def _series(shape: float, x: float) -> float:
    term = total = 1 / shape
    for n in range(1, _iterations(shape)):
        term *= x / (shape + n)
        total += term
        if term < total * 1e-16:
            break
    return total


def _continued_fraction(shape: float, x: float) -> float:
    """Lentz's method for Q(shape, x) / scale; ``tiny`` stands in for a zero denominator."""
    tiny = 1e-300
    b = x + 1 - shape
    c, d = 1 / tiny, 1 / b
    total = d
    for n in range(1, _iterations(shape)):
        a = -n * (n - shape)
        b += 2
        d = 1 / (a * d + b or tiny)
        c = b + a / c or tiny
        total *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return total


def _iterations(shape: float) -> int:
    return ITERATIONS_MAX + int(10 * math.sqrt(shape))


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: need a number between 0 and 1, such as 0.95")
    return confidence
