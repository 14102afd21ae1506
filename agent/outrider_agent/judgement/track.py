"""The state of one rule on one device: how long it was bad or good, and whether it is a finding.

Time counts from sample to sample, at most CREDIT_MAX_S for each, so that a stopped machine or a clock that was set
forward makes no hour of one sample. Samples that cannot be judged end a run of bad ones and clear nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from outrider_agent import readings
from outrider_agent.judgement import measures
from outrider_agent.judgement import rules as ruling
from outrider_agent.judgement.known import Known, Value

CREDIT_MAX_S: Final = 90.0
_DENIED: Final = "ermission denied"  # says that we may not look, and nothing of what is there
BEGINS, ENDS = "begins", "ends"
_BY_VALUE: Final = (ruling.OneOf, ruling.NoneOf, ruling.Bits)  # tests of nothing but the value itself
_BY_BOUND: Final = (ruling.Above, ruling.Below)
# Shared by the many tracks that keep none, because an empty deque is 0.7 KiB: nothing can be put into these.
_NO_WINDOW: Final[deque[tuple[float, float]]] = deque(maxlen=0)
_NO_SAMPLES: Final[deque[bool]] = deque(maxlen=0)


class Track:
    """Invariant: ``active`` exactly while its finding has it among its holders."""

    __slots__ = (
        "active",
        "bad_polls",
        "bad_s",
        "bad_since",
        "base",
        "bound",
        "by_value",
        "device",
        "error",
        "good_s",
        "grouped",
        "measure",
        "patience_s",
        "resting",
        "rule",
        "sampled_at",
        "samples",
        "unconfirmed",
        "unit",
        "value",
        "value_at",
        "window",
    )

    def __init__(self, rule: ruling.Rule, device: str) -> None:
        self.rule = rule
        self.device = device
        self.measure = measures.MEASURES[type(rule.test)]
        self.grouped = type(rule.test) in ruling.GROUPED  # judged by groups.Groups, which sees all devices of a look
        self.by_value = _by_value(rule)
        self.resting = False  # good by its value alone, with nothing counting: the same value again changes nothing
        self.active = False
        self.unconfirmed = False  # a finding from before a reboot, that no sample since has judged
        self.patience_s = 0.0  # what a finding that comes and goes must stay away for
        self.bad_polls = 0
        self.bad_s = 0.0
        self.bad_since = 0.0
        self.good_s = -1.0  # below 0: no good sample since the last bad one
        self.value: Value | None = None
        self.unit = ""
        self.error = ""  # what the reading says beside its value
        self.value_at = 0.0
        self.bound: Value | None = None
        self.base: Any = None  # the value before, as the test needs it
        self.window: deque[tuple[float, float]] = deque() if getattr(rule.test, "within_s", 0.0) else _NO_WINDOW
        self.samples: deque[bool] = deque(maxlen=rule.share.of) if rule.share else _NO_SAMPLES
        self.sampled_at = 0.0

    def take(self, reading: readings.Reading, at: float, known: Known) -> str:
        """BEGINS or ENDS where this sample makes the difference, else ""."""
        rule = self.rule
        value = reading.value
        if reading.state == "value" and value is not None:
            self.value, self.unit, self.error = value, reading.unit, reading.error
            bad = self.measure(self, rule.test, value, at, known)
            self.resting = self.by_value and bad is False and not self.active and not self.window
            # What is good is good at any time; what is bad counts only while it is asked for.
            if bad and rule.needs and not known.holds(rule.needs, self.device, at):
                bad = None
            return self.settle(bad, at)
        self.resting = False
        blind = reading.state == "unreadable" and rule.unreadable_is_bad and _DENIED not in reading.error
        if blind and known.holds(rule.needs, self.device, at):
            self.value = "unreadable"
            return self.settle(True, at)
        return self.settle(None, at, keep_base=True)

    def settle(self, bad: bool | None, at: float, keep_base: bool = False) -> str:
        """Hold, count and clear: what one judged sample changes."""
        credit = min(max(at - self.value_at, 0.0), CREDIT_MAX_S)
        if not keep_base:
            self.value_at = at
        if bad is None:
            self.bad_polls = 0
            return ""
        if self.rule.share:
            bad = self._share(bad, at)
        if bad is None:
            return ""
        if bad:
            self.good_s = -1.0
            self.unconfirmed = False
            self.bad_s = self.bad_s + credit if self.bad_polls else 0.0
            self.bad_since = self.bad_since if self.bad_polls else at
            self.bad_polls += 1
            if self.active or self.bad_polls < self.rule.polls or self.bad_s < self.rule.hold_s:
                return ""
            self.active = True
            return BEGINS
        self.bad_polls = 0
        return self._good(credit) if self.active else ""

    def rebooted(self) -> str:
        """The machine was started anew: what happened is over, what still is has to show itself."""
        self.window.clear()
        self.samples.clear()
        self.bad_polls = 0
        self.sampled_at = 0.0
        if type(self.rule.test) in (ruling.Rises, ruling.Faster, ruling.Flaps):
            self.base = None
        if not self.active:
            return ""
        if type(self.rule.test) in ruling.HAPPENED:
            return self.end()
        self.unconfirmed = True
        return ""

    def end(self, forget: bool = False) -> str:
        """Over, whatever the samples say; ``forget``: what led to it as well."""
        self.active = self.unconfirmed = False
        self.bad_polls = 0
        self.good_s = -1.0
        if forget:
            self.window.clear()
            self.samples.clear()
        return ENDS

    def _good(self, credit: float) -> str:
        if self.unconfirmed:
            return self.end()
        after_s = self.rule.clear.after_s
        if after_s is None:
            return ""
        self.good_s = self.good_s + credit if self.good_s >= 0 else 0.0
        if self.good_s < max(after_s, self.patience_s):
            return ""
        return self.end()

    def _share(self, bad: bool, at: float) -> bool | None:
        """None while an older finding has too few samples since a restart to be judged again."""
        share = self.rule.share
        assert share is not None
        if not self.samples or at - self.sampled_at >= share.every_s or at < self.sampled_at:
            self.samples.append(bad)
            self.sampled_at = at
        if self.unconfirmed:
            return bad
        found = sum(self.samples)
        if self.active and found < share.bad and len(self.samples) - found <= share.of - share.bad:
            return None
        return found >= share.bad


def _by_value(rule: ruling.Rule) -> bool:
    """Whether what is good stays good for as long as the value (of a counter: its last one) is the same."""
    test = rule.test
    if rule.share is not None:
        return False  # counts samples, whatever they say
    if isinstance(test, _BY_BOUND):
        return not (test.bound.reading or test.bound.expected)
    return isinstance(test, (*_BY_VALUE, ruling.Rises))
