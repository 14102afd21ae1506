"""A long curve -> at most so many samples of it that look the same: what stands out in each stretch of time stays.

In: samples of one job, oldest first. Out: some of them, in order. Time is cut into equal stretches, and of each the
samples with the least and the greatest loss and step time are kept, and the first whose loss is no number; so neither
a spike nor a NaN goes missing, however far one looks out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from outrider_controller import series

KEPT_PER_STRETCH: Final = 5


def thin(samples: Sequence[series.Sample], points_max: int) -> list[series.Sample]:
    """At most ``points_max`` (10 or more) of ``samples``; all of them where there are no more than that."""
    if len(samples) <= points_max:
        return list(samples)
    begin, end = samples[0].at, max(sample.at for sample in samples)
    stretches = max(1, (points_max - 2) // KEPT_PER_STRETCH)
    width = (end - begin) / stretches or 1.0
    groups: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        place = min(max(int((sample.at - begin) / width), 0), stretches - 1)
        groups.setdefault(place, []).append(index)
    kept = {0, len(samples) - 1}
    for indices in groups.values():
        kept |= _standing_out(samples, indices)
    return [samples[index] for index in sorted(kept)]


def _standing_out(samples: Sequence[series.Sample], indices: list[int]) -> set[int]:
    kept: set[int] = set()
    for values in (
        [(loss, i) for i in indices if isinstance(loss := samples[i].loss, int | float)],
        [(step_s, i) for i in indices if (step_s := samples[i].step_s) is not None],
    ):
        if values:
            kept |= {min(values)[1], max(values)[1]}
    kept |= set([i for i in indices if isinstance(samples[i].loss, str)][:1])
    return kept or {indices[0]}
