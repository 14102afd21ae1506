"""Counters: judged on what they rose by, through falls, wraps, reboots and gaps, whatever the order of things."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_agent import readings
from outrider_agent.judgement import engine, measures, rules

RULE = rules.Rule(
    name="test",
    row="",
    signal="nvml",
    reading="counter",
    test=rules.Rises(5),
    kind="pcie-aer",
    severity="error",
    recovery="none",
    text="{device} {value}",
    source="",
    clear=rules.Clear(after_s=0.0),
)
COUNTS = st.integers(min_value=0, max_value=10_000)


class Node:
    def __init__(self, *tests: rules.Test) -> None:
        made = [dataclasses.replace(RULE, name=f"r{order}", test=test) for order, test in enumerate(tests)]
        self.judge = engine.Judge("n0", made or [RULE])
        self.at = 1e6
        self.boot = "a"

    def give(self, value: float | None, state: str = "value", step_s: float = 10.0) -> list[str]:
        self.at += step_s
        reading = readings.Reading("gpu0", "counter", value, "", state, True)
        sweep = readings.Sweep("nvml", self.at, 0.0, "ok", (reading,), context={"boot_id": self.boot})
        return [one.severity for one in self.judge.take(sweep) if one.kind == "pcie-aer"]


@given(st.lists(st.tuples(st.sampled_from(["rise", "reset", "reboot", "unreadable", "unsupported"]), COUNTS)))
@settings(max_examples=150, deadline=None)
def test_a_finding_is_told_exactly_when_a_counter_rose_by_enough(steps: list[tuple[str, int]]) -> None:
    node, base, bad = Node(), None, False
    for what, number in steps:
        if what in ("unreadable", "unsupported"):
            assert node.give(None, what) == []
            continue
        if what == "rise":
            value, rose = (base or 0) + number, number if base is not None else 0
        else:
            value, rose = number, (number - base if base is not None and number >= base else 0)
        over = []
        if what == "reboot":
            node.boot += "x"
            over = ["info"] if bad else []
            bad, rose = False, 0
        expected = over + (["error"] if rose >= 5 and not bad else [])
        unjudged = base is not None and value < base and what != "reboot"
        expected += ["info"] if bad and rose < 5 and not unjudged else []
        # Far apart: what comes and goes within the hour is told more patiently (test_findings).
        assert node.give(float(value), step_s=4000.0) == expected
        bad, base = (bad if unjudged else rose >= 5), value


@given(st.integers(0, 2**20), st.integers(0, 2**20), st.sampled_from([2**32, 2**64]))
def test_a_wrap_is_counted_through(before_end: int, after: int, end: int) -> None:
    if end == 2**64:  # beyond 2**53 a float cannot tell neighbours apart
        before_end, after = before_end * 4096 + 4096, after * 4096
    before = end - 1 - before_end
    assert measures.increase(before, after) == after + end - before


@given(st.floats(0, 2**31), st.floats(0, 2**31))
def test_any_other_fall_begins_anew(first: float, second: float) -> None:
    before, now = max(first, second), min(first, second)
    assert measures.increase(before, now) == (0 if before == now else None)


@given(st.lists(st.tuples(st.floats(1, 120), st.integers(0, 30)), min_size=2, max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_window_holds_what_rose_within_it(steps: list[tuple[float, int]]) -> None:
    node, value, history, bad = Node(rules.Rises(20, 60.0)), 0.0, [], False
    node.give(0.0)
    for step_s, more in steps:
        value += more
        history.append((node.at + step_s, more))
        told = node.give(value, step_s=step_s)
        now = sum(rose for at, rose in history if node.at - at <= 60.0) >= 20
        assert told == (["error"] if now and not bad else ["info"] if bad and not now else [])
        bad = now
        if told.count("error") and len(history) > 5:
            break  # from the third time within an hour on it is patient: see test_findings


@given(st.lists(st.integers(0, 300), min_size=1, max_size=500))
@settings(max_examples=30, deadline=None)
def test_what_a_window_remembers_is_bounded(steps: list[int]) -> None:
    node, value = Node(rules.Rises(10**9, 1e9)), 0.0
    for more in steps:
        value += more
        node.give(value)
    track = node.judge.cell("gpu0", "counter")[0]
    assert len(track.window) <= measures.STEPS_MAX
    assert sum(rose for _, rose in track.window) == value - steps[0]


def test_a_rate_is_measured_over_the_gap_of_an_unreadable_look() -> None:
    node = Node(rules.Faster(10.0))
    node.give(0.0)
    assert node.give(None, "unreadable") == []
    assert node.give(190.0) == [], "190 in 20 s is less than 10 a second"
    assert node.give(300.0) == ["error"]


def test_a_clock_that_is_set_makes_no_rate_and_no_hold() -> None:
    node = Node(rules.Faster(10.0))
    node.give(0.0)
    assert node.give(5000.0, step_s=-3600.0) == []
    assert node.give(5010.0) == []
