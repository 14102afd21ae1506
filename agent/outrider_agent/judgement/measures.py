"""What each test says of one sample: True is bad, False is good, None cannot be judged.

A counter is judged on its increase since the sample before. It wraps where it stood close below a power of two and
begins again close above zero; any other fall is a reset and becomes the new base, without a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from outrider_agent.judgement import rules as ruling
from outrider_agent.judgement.known import Known, Value

if TYPE_CHECKING:
    from outrider_agent.judgement.track import Track

WRAPS_AT: Final = (2**32, 2**64)
WRAP_SHARE: Final = 64  # how close to the end a counter stands before it wraps: a 64th of its range
STEPS_MAX: Final = 128  # increases kept within a window; older ones are summed up
Measure = Callable[["Track", Any, Value, float, Known], bool | None]


def increase(before: float, now: float) -> float | None:
    """How much a counter rose; None where it began anew."""
    if now >= before:
        return now - before
    for end in WRAPS_AT:
        if end - end / WRAP_SHARE <= before < end and now < end / WRAP_SHARE:
            return now + end - before
    return None


def above(track: Track, test: ruling.Above, value: Value, at: float, known: Known) -> bool | None:
    """Hysteresis by ``easing`` once it is a finding."""
    bound = track.bound = known.bound(test.bound, track.device)
    if bound is None or isinstance(value, str):
        return None
    if track.active and test.easing:
        return None if bound - test.easing < value <= bound else value > bound
    return value > bound


def below(track: Track, test: ruling.Below, value: Value, at: float, known: Known) -> bool | None:
    """The mirror of ``above``."""
    bound = track.bound = known.bound(test.bound, track.device)
    if bound is None or isinstance(value, str):
        return None
    if track.active and test.easing:
        return None if bound <= value < bound + test.easing else value < bound
    return value < bound


def one_of(track: Track, test: ruling.OneOf, value: Value, at: float, known: Known) -> bool | None:
    """Flags and codes."""
    return value in test.values


def none_of(track: Track, test: ruling.NoneOf, value: Value, at: float, known: Known) -> bool | None:
    """A state that should be another; with ``once`` only for what had been good."""
    track.bound = test.values[0]
    if value in test.values:
        track.base = True
        return False
    return None if test.once and not track.base else True


def bits(track: Track, test: ruling.Bits, value: Value, at: float, known: Known) -> bool | None:
    """Masks."""
    if isinstance(value, str):
        return None
    mask = int(value)
    return bool(mask & test.mask) and not mask & test.unless


def differs(track: Track, test: ruling.Differs, value: Value, at: float, known: Known) -> bool | None:
    """Several sources of one thing."""
    others = [other for name in test.readings if (other := known.value(track.device, name)) is not None]
    unlike = [other for other in others if other != value]
    track.bound = unlike[0] if unlike else value
    return bool(unlike) if others else None


def rises(track: Track, test: ruling.Rises, value: Value, at: float, known: Known) -> bool | None:
    """Increase since the last sample, or within a window of time."""
    more = _more(track, value)
    track.bound = test.by
    if more is None:
        track.window.clear()
        return None
    if not test.within_s:
        track.value = more
        return more >= test.by
    _remember(track, at, more, test.within_s)
    track.value = sum(step[1] for step in track.window)
    return bool(track.value >= test.by)


def faster(track: Track, test: ruling.Faster, value: Value, at: float, known: Known) -> bool | None:
    """Rate between two samples."""
    since = at - track.value_at
    more = _more(track, value)
    times = known.number(track.device, test.times_reading) if test.times_reading else 1.0
    if more is None or since <= 0 or times is None:
        return None
    track.bound = test.per_s * times
    track.value = more / since
    return bool(track.value > track.bound)


def changed(track: Track, test: ruling.Changed, value: Value, at: float, known: Known) -> bool | None:
    """Inventory: the value before is kept over reboots."""
    before, track.base = track.base, value
    if before is None or before == value:
        return False if before is not None else None
    track.bound = before
    return True


def flaps(track: Track, test: ruling.Flaps, value: Value, at: float, known: Known) -> bool | None:
    """``base`` is since when it is not good; the window holds the moments when it came back."""
    if value not in test.good:
        if track.base is None:
            track.base = at
    elif track.base is not None:
        if at - float(track.base) >= test.down_s:
            track.window.append((at, 1.0))
        track.base = None
    while track.window and at - track.window[0][0] > test.within_s:
        track.window.popleft()
    track.bound = test.times
    track.value = len(track.window)
    return len(track.window) >= test.times


def fell(track: Track, test: ruling.Fell, value: Value, at: float, known: Known) -> bool | None:
    """``base`` is the best so far."""
    if isinstance(value, str):
        return None
    if track.base is None or value > track.base:
        track.base = value
    track.bound = track.base
    return bool(value < track.base)


def by_the_group(track: Track, test: ruling.Test, value: Value, at: float, known: Known) -> bool | None:
    """Siblings and vanished devices are judged by the engine, which sees all of them."""
    return None


def _more(track: Track, value: Value) -> float | None:
    """The increase since the sample before; None for a first one and for one that begins anew."""
    if isinstance(value, str):
        return None
    before, track.base = track.base, value
    if before is None or isinstance(before, str):
        return None
    return increase(before, value)


def _remember(track: Track, at: float, more: float, within_s: float) -> None:
    window = track.window
    if more:
        if len(window) >= STEPS_MAX:
            _, first = window.popleft()
            at_next, second = window.popleft()
            window.appendleft((at_next, first + second))
        window.append((at, more))
    while window and at - window[0][0] > within_s:
        window.popleft()


MEASURES: Final[dict[type, Measure]] = {
    ruling.Above: above,
    ruling.Below: below,
    ruling.OneOf: one_of,
    ruling.NoneOf: none_of,
    ruling.Bits: bits,
    ruling.Differs: differs,
    ruling.Rises: rises,
    ruling.Faster: faster,
    ruling.Changed: changed,
    ruling.Flaps: flaps,
    ruling.Fell: fell,
    ruling.Sibling: by_the_group,
    ruling.Unlike: by_the_group,
    ruling.Vanished: by_the_group,
}
