"""Makes metric families of one node's values: each sample with the node's own labels, and no more than there is room.

A family that is a counter under dcgm-exporter's name keeps that name, which OpenMetrics does not allow a counter: its
type is then ``unknown`` (untyped), so that a board's query is right whichever format was scraped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import core

SERIES_MAX: Final = 300
LEFT_OUT: Final = "outrider_agent_series_left_out"

Values = Mapping[Any, float]  # labels (name, value pairs) to value


class Maker:
    """``base``: labels of every sample."""

    def __init__(self, base: Mapping[str, str]) -> None:
        self._base = dict(base)

    def gauge(self, name: str, text: str, values: Values) -> core.Metric:
        """A value that rises and falls."""
        return self._fill(core.GaugeMetricFamily(name, text), "", values)

    def counter(self, name: str, text: str, values: Values) -> core.Metric:
        """A count; ``_total`` is added to its name."""
        return self._fill(core.CounterMetricFamily(name, text), "_total", values)

    def untyped(self, name: str, text: str, values: Values) -> core.Metric:
        """A count under a name that is not ours to end in ``_total``."""
        return self._fill(core.UnknownMetricFamily(name, text), "", values)

    def info(self, name: str, text: str, values: Values) -> core.Metric:
        """Something that is told by labels alone; ``_info`` is added to its name."""
        return self._fill(core.InfoMetricFamily(name, text), "_info", values)

    def _fill(self, family: core.Metric, suffix: str, values: Values) -> core.Metric:
        for labels, value in values.items():
            family.add_sample(f"{family.name}{suffix}", {**self._base, **dict(labels)}, float(value))
        return family


def bounded(families: Iterable[core.Metric], make: Maker, most: int = SERIES_MAX) -> Iterator[core.Metric]:
    """``families`` without those of no sample, at most ``most`` series; the last are left out, and counted."""
    room, left_out = most - 1, 0
    for family in families:
        kept = family.samples[:room]
        left_out += len(family.samples) - len(kept)
        room -= len(kept)
        family.samples = kept
        if kept:
            yield family
    yield make.gauge(LEFT_OUT, f"series beyond the {most} that a node may have", {(): left_out})
