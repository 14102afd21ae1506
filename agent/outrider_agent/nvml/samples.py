"""Power as it was sampled, on its way from the helpers to signal ``power``.

One thread puts, another takes. Bounded: a minute of what the driver keeps for each GPU; the oldest goes first. The
driver's stamps are Unix time in microseconds by its own account; where that is far from ours, ours is taken to be right
and the difference is removed, the same for all GPUs, so that they stay on one line.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, NamedTuple

BATCHES_MAX: Final = 64 * 60
SAMPLES_MAX: Final = 1000  # of one GPU in one batch
APART_S: Final = 2.0  # clocks further apart than this, once the age of a sample is allowed for, are not the same


class Batch(NamedTuple):
    """Samples of one GPU: (Unix seconds, W), oldest first. ``buffered``: from the driver's buffer."""

    gpu: int
    samples: tuple[tuple[float, float], ...]
    buffered: bool


class Samples:
    """What was put and not yet taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: deque[Batch] = deque(maxlen=BATCHES_MAX)
        self._apart_s = 0.0

    def put(self, gpu: int, stamps_us: list[int], milliwatts: list[float], now: float) -> None:
        """Samples of the driver's buffer, heard at ``now`` (Unix seconds)."""
        if not stamps_us:
            return
        newest = max(stamps_us) / 1e6
        if abs(now - newest - self._apart_s) > APART_S:
            self._apart_s = now - newest if abs(now - newest) > APART_S else 0.0
        pairs = sorted(zip(stamps_us, milliwatts, strict=True))[-SAMPLES_MAX:]
        self._put(Batch(gpu, tuple((at / 1e6 + self._apart_s, power / 1e3) for at, power in pairs), True))

    def put_one(self, gpu: int, watts: float, now: float) -> None:
        """One reading, of a GPU whose driver gives no buffer."""
        self._put(Batch(gpu, ((now, watts),), False))

    def take(self) -> list[Batch]:
        """Everything since the last time."""
        with self._lock:
            found = list(self._batches)
            self._batches.clear()
        return found

    def _put(self, batch: Batch) -> None:
        with self._lock:
            self._batches.append(batch)
