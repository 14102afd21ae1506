"""Rules that need a whole look: a device against its siblings, devices that are gone, readings that should be there."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from outrider_agent import readings
from outrider_agent.judgement import rules as ruling
from outrider_agent.judgement import track

if TYPE_CHECKING:
    from outrider_agent.judgement.engine import Judge

PEERS_MIN: Final = 3
EQUAL_LOAD_PERCENT: Final = 15.0
LOADED_PERCENT: Final = 30.0
DEVICES_MAX: Final = 1024
Told = Iterator[tuple[track.Track, str]]


class Groups:
    """``seen``: devices by reading, for the rules of what may vanish."""

    def __init__(self, rules: Iterable[ruling.Rule]) -> None:
        rules = tuple(rules)
        self.seen: dict[str, set[str]] = {}
        alike = (ruling.Sibling, ruling.Unlike)
        self._siblings = frozenset(rule.reading for rule in rules if isinstance(rule.test, alike))
        self._vanish: dict[str, set[str]] = {}
        self._expected: dict[str, set[str]] = {}
        for rule in rules:
            if isinstance(rule.test, ruling.Vanished):
                self._vanish.setdefault(rule.signal, set()).add(rule.reading)
            if rule.absent_is_good:
                self._expected.setdefault(rule.signal, set()).add(rule.reading)

    def take(self, sweep: readings.Sweep, judge: Judge) -> Told:
        """What changes by what this look shows and does not show."""
        present: dict[str, dict[str, readings.Reading]] = {}
        vanish = self._vanish.get(sweep.signal, ())
        expected = self._expected.get(sweep.signal, ())
        for reading in sweep.readings:
            if reading.name in self._siblings or reading.name in vanish or reading.name in expected:
                present.setdefault(reading.name, {})[reading.device] = reading
        for name in self._siblings & present.keys():
            yield from _siblings(name, present[name], sweep, judge)
            yield from _unlike(name, present[name], sweep, judge)
        for name in vanish:
            yield from self._vanished(name, present.get(name, {}), sweep, judge)
        for name in expected:
            yield from _absent(name, present.get(name, {}), sweep, judge)

    def _vanished(self, name: str, present: dict[str, readings.Reading], sweep: readings.Sweep, judge: Judge) -> Told:
        seen = self.seen.setdefault(name, set())
        if not present and sweep.readings and sweep.state != "absent":
            return  # another class of readings of the same signal
        seen.update(list(present)[: DEVICES_MAX - len(seen)])
        for device in sorted(seen):
            for each in _tracks(judge, device, name, sweep, ruling.Vanished):
                each.value, each.bound = device in present, True
                if told := each.settle(device not in present, sweep.at):
                    yield each, told


def _unlike(name: str, present: dict[str, readings.Reading], sweep: readings.Sweep, judge: Judge) -> Told:
    values = {device: reading.value for device, reading in present.items() if reading.state == "value"}
    common = collections.Counter(values.values()).most_common(2)
    # Without a clear majority nobody knows who is the odd one out.
    usual = common[0][0] if len(values) > PEERS_MIN and common[0][1] > len(values) / 2 else None
    for device in present:
        for each in _tracks(judge, device, name, sweep, ruling.Unlike):
            each.value, each.bound = values.get(device), usual
            bad = None if usual is None or device not in values else values[device] != usual
            if told := each.settle(bad, sweep.at):
                yield each, told


def _siblings(name: str, present: dict[str, readings.Reading], sweep: readings.Sweep, judge: Judge) -> Told:
    values: dict[str, tuple[float, float]] = {}
    for device, reading in present.items():
        load = judge.known.load(device, sweep.at)
        if reading.state == "value" and isinstance(reading.value, int | float):
            values[device] = (float(reading.value), -1.0 if load is None else load)
    for device in present:
        for each in _tracks(judge, device, name, sweep, ruling.Sibling):
            if told := each.settle(_off(each, device, values), sweep.at):
                yield each, told


def _off(each: track.Track, device: str, values: dict[str, tuple[float, float]]) -> bool | None:
    test = each.rule.test
    assert isinstance(test, ruling.Sibling)
    if device not in values:
        return None
    value, load = values[device]
    others = [(other, its) for name, (other, its) in values.items() if name != device]
    peers = [other for other, its in others if test.any_load or abs(its - load) <= EQUAL_LOAD_PERCENT]
    if len(peers) < PEERS_MIN or (load < LOADED_PERCENT and not test.any_load):
        return None
    median = statistics.median(peers)
    by = abs(median) * test.by if test.relative else test.by
    each.value, each.bound = value, median + by if test.above else median - by
    return value > median + by if test.above else value < median - by


def _absent(name: str, present: dict[str, readings.Reading], sweep: readings.Sweep, judge: Judge) -> Told:
    if sweep.state != "ok":
        return
    for device, cell in list(judge.by_name.get(name, {}).items()):
        if device not in present:
            for each in cell:
                if each.rule.absent_is_good and each.rule.signal == sweep.signal and each.active:
                    each.value = None
                    if told := each.settle(False, sweep.at):
                        yield each, told


def _tracks(judge: Judge, device: str, name: str, sweep: readings.Sweep, test: type) -> list[track.Track]:
    return [
        each for each in judge.cell(device, name) if type(each.rule.test) is test and each.rule.signal == sweep.signal
    ]
