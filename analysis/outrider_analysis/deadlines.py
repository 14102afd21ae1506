"""How long a job may show no sign of progress before that is odd, learned from the job's own past.

In: how long each phase took in this job so far, and the job file's ``stall_s``. Out: a Deadline with the sentence that
explains it. A constant would be wrong for somebody: the largest job's steps take as long as the smallest job's start.

The bound is the largest of four, so that each covers what the others miss:

- the floor of the phase, from ``stall_s``; with no history it stands alone;
- RATIO times the typical duration, whatever the spread;
- a log-normal bound at FALSE_ALARM_RATE, made for a machine SLOWER times as slow as it was. Spread is the median
  absolute deviation, so that single outliers do not inflate it; a second mode (every tenth step evaluates) gets a bound
  of its own. Few samples make it wider, as if PRIOR_SAMPLES more with a spread of PRIOR_SPREAD had been seen;
- twice the longest duration seen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FALSE_ALARM_RATE: Final = 1e-6  # a phase that is well, taken for one that is odd
RATIO: Final = 6.0
SLOWER: Final = 3.0
ACT_OVER_LOOK: Final = 1.25  # looking comes first, and there is time for a second look before anything is done
PRIOR_SAMPLES: Final = 6
PRIOR_SPREAD: Final = 0.4  # of log seconds: two thirds of all durations within 0.67 and 1.5 times the typical one
SPREAD_MIN: Final = 0.05
MAD_TO_SPREAD: Final = 1.4826  # of a normal distribution
SECOND_MODE_OVER: Final = 2.0  # times the typical duration
SECOND_MODE_COUNT_MIN: Final = 3
SECOND_MODE_SHARE_MIN: Final = 0.01
DURATIONS_MAX: Final = 512  # of one phase; the older ones say little about now
NOTABLE: Final = 0.01  # of the floor
FURTHEST: Final = 6.0  # times the longest, and more of them while there are few: it may not have been seen yet

# Of ``stall_s``: when to look, when something may be done. Cold imports took 109 s on a loaded machine, and a first
# step compiles, so starting has the longest floor.
FLOORS: Final[dict[str, tuple[float, float]]] = {
    "start": (3.0, 6.0),
    "first-step": (1.5, 3.0),
    "step": (0.5, 1.0),
    "load": (1.5, 3.0),
    "checkpoint": (1.5, 3.0),
    "evaluation": (2.0, 4.0),
    "done": (2.0, 4.0),
}
# A first step that compiles may well take ten times the one that found its caches warm; the same holds for the phases
# that come too seldom to show how far they vary.
SELDOM_RATIO: Final = 12.0
OFTEN: Final = frozenset({"step"})
_NOUNS: Final = {
    "start": "starts",
    "first-step": "first steps",
    "step": "steps",
    "load": "loads",
    "checkpoint": "checkpoints",
    "evaluation": "evaluations",
    "done": "ends",
}


@dataclass(frozen=True)
class Deadline:
    """When silence in ``phase`` is worth a look, and how long it has to last before anything may be done.

    ``basis``: where the two come from, for people. ``typical_s``: the usual duration, None before there is one.
    """

    phase: str
    look_s: float
    act_s: float
    basis: str
    typical_s: float | None = None
    false_alarm_rate: float = FALSE_ALARM_RATE


def deadline(phase: str, durations: Sequence[float], stall_s: float, rate: float = FALSE_ALARM_RATE) -> Deadline:
    """The deadline of ``phase`` (a key of FLOORS) after ``durations`` (seconds, oldest first).

    ``stall_s`` scales the floors and must be above 0. Raises ValueError otherwise, and for an unknown phase.
    """
    if phase not in FLOORS:
        raise ValueError(f"phase {phase!r} has no deadline; the phases are {', '.join(FLOORS)}")
    if not stall_s > 0:
        raise ValueError(f"stall_s {stall_s}: must be above 0; 0 switches the detection of stalls off before this")
    floor_look, floor_act = (factor * stall_s for factor in FLOORS[phase])
    least = NOTABLE * floor_look
    seen = [max(value, least) for value in durations[-DURATIONS_MAX:] if math.isfinite(value)]
    if not seen:
        basis = f"this job has no {_NOUNS[phase]} to learn from yet; {_seconds(floor_look)} is the floor"
        return Deadline(phase, floor_look, floor_act, basis, None, rate)
    typical = statistics.median(seen)
    often = phase in OFTEN
    furthest = (FURTHEST * (1 + PRIOR_SAMPLES / len(seen)) if often else SLOWER) * max(seen)
    learned = max((RATIO if often else SELDOM_RATIO) * typical, min(bound(seen, rate), furthest))
    look = max(floor_look, learned)
    act = max(floor_act, learned * ACT_OVER_LOOK)
    took = f"{_NOUNS[phase]} of this job took {_seconds(typical)} (median of {len(seen)})"
    said = "is the floor" if learned <= floor_look else "is beyond that"
    return Deadline(phase, look, act, f"{took}; {_seconds(look)} without a sign {said}", typical, rate)


def largest(deadlines: Sequence[Deadline]) -> Deadline | None:
    """The most patient of several, as of a job whose ranks are in different phases; None of none."""
    return max(deadlines, key=lambda found: (found.act_s, found.look_s), default=None)


def bound(durations: Sequence[float], rate: float = FALSE_ALARM_RATE) -> float:
    """Seconds that a further duration exceeds with a probability of at most ``rate``, even on a slower machine."""
    typical = statistics.median(durations)
    slow = [value for value in durations if value > SECOND_MODE_OVER * typical]
    found = _lognormal(durations, rate)
    if len(slow) >= max(SECOND_MODE_COUNT_MIN, SECOND_MODE_SHARE_MIN * len(durations)):
        found = max(found, _lognormal(slow, rate))
    return max(SLOWER * found, 2.0 * max(durations))


def _lognormal(durations: Sequence[float], rate: float) -> float:
    logs = [math.log(value) for value in durations]
    middle = statistics.median(logs)
    own = MAD_TO_SPREAD * statistics.median(abs(value - middle) for value in logs)
    count = len(logs)
    pooled = math.sqrt((count * own**2 + PRIOR_SAMPLES * PRIOR_SPREAD**2) / (count + PRIOR_SAMPLES))
    # The spread itself is only known to about 1/sqrt(2 n) of its value; two of those are allowed for.
    spread = max(SPREAD_MIN, own * (1 + math.sqrt(2 / count)), pooled if count < DURATIONS_MAX // 4 else 0.0)
    far = statistics.NormalDist().inv_cdf(1 - rate)
    return math.exp(middle + far * spread * math.sqrt(1 + 1 / count))


def _seconds(value: float) -> str:
    """Seconds for people: 0.48 s, 12.5 s, 140 s."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    text = f"{value:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} s"
