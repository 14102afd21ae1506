"""Every rule of the table, alone: it begins when it should, is told once, and is over when its clear rule says so."""

import dataclasses

import pytest

from outrider import vocabulary
from outrider_agent import readings
from outrider_agent.judgement import blind, draft, engine, kernel, known, rules, table
from tests.agent.judgement import drive

ALL = [pytest.param(rule, id=rule.name) for rule in table.RULES]
CONDITIONAL = [
    pytest.param(rule, id=rule.name)
    for rule in table.RULES
    if set(rule.needs) - drive.HOLD_BY_THEMSELVES and rule.name != "retired-pages-rising"  # it is its own condition
]


@pytest.mark.parametrize("rule", ALL)
def test_a_rule_begins_once_and_ends_once(rule: rules.Rule) -> None:
    play = drive.Play(rule)
    assert not any(play.good() for _ in range(3)), "good samples are no finding"

    told, begun, samples = play.bad_until_told()
    assert [one.kind for one in told] == [rule.kind]
    (one,) = told
    assert (one.severity, one.seq, one.node) == (rule.severity, 0, "n0")
    assert one.recovery in vocabulary.RECOVERIES
    assert one.evidence["rule"] == rule.name
    assert one.evidence["reading"] == rule.reading
    assert one.evidence["source"] == rule.signal
    assert one.evidence["boot_id"] == "first"
    assert one.text == " ".join(one.text.split())
    assert "{" not in one.text
    assert play.at - begun >= rule.hold_s, "it is not told before it has held"
    assert samples >= rule.polls
    if rule.share:
        assert samples >= rule.share.bad

    if not isinstance(rule.test, rules.Fell):
        assert not any(play.bad() for _ in range(5)), "it is told once"
    over = play.good_until_told() if rule.clear.after_s is not None else _ended(play)
    assert [(o.kind, o.severity, o.device) for o in over] == [(rule.kind, "info", one.device)]
    assert over[0].evidence["cleared"] is True
    assert over[0].evidence["was"] == rule.severity
    assert over[0].evidence["since"] == one.evidence["since"]
    assert not any(play.good() for _ in range(3))


@pytest.mark.parametrize("rule", ALL)
def test_an_agent_that_starts_anew_repeats_no_finding_and_ends_it(rule: rules.Rule) -> None:
    play = drive.Play(rule)
    for _ in range(3):
        play.good()
    assert play.bad_until_told()[0]
    play.restart()
    if not isinstance(rule.test, rules.Fell):
        assert not any(play.bad() for _ in range(3))
    over = play.good_until_told() if rule.clear.after_s is not None else _ended(play)
    assert [(one.kind, one.severity) for one in over] == [(rule.kind, "info")]


def test_what_is_unsupported_is_no_finding() -> None:
    for rule in table.RULES:
        play = drive.Play(rule)
        for _ in range(20):
            assert not play.take([play.reading(None, "unsupported")]), rule.name


@pytest.mark.parametrize("rule", CONDITIONAL)
def test_a_rule_waits_for_what_it_needs(rule: rules.Rule) -> None:
    play = drive.Play(rule, conditions=False)
    play.judge = engine.Judge("n0", (rule,), rules.Expectations())
    play.good()
    nothing = readings.Sweep("nvml", play.at, 0.0, "ok", (), context={"boot_id": "first", "devices": {}})
    play.judge.take(nothing)
    told = []
    for _ in range(80):
        play.at += play.step_s
        sweep = readings.Sweep(rule.signal, play.at, 0.0, "ok", tuple(play._bad()), context={"boot_id": "first"})
        told += play.judge.take(sweep)
    assert not told


@pytest.mark.parametrize("rule", ALL)
def test_a_reboot_ends_what_is_not_seen_again(rule: rules.Rule) -> None:
    play = drive.Play(rule)
    for _ in range(3):
        play.good()
    assert play.bad_until_told()[0]
    play.boot_id = "second"
    play.count = 0.0
    play.step_s = 10.0
    told = [one for _ in range(3) for one in play.good()]
    assert [(one.kind, one.severity) for one in told] == [(rule.kind, "info")]


def test_what_lasts_over_a_reboot_is_not_told_again() -> None:
    rule = next(rule for rule in table.RULES if rule.name == "remap-failure")
    play = drive.Play(rule)
    assert play.bad()
    play.boot_id = "second"
    assert not any(play.bad() for _ in range(20))
    assert [one.severity for one in play.good()] == ["info"]


def test_a_finding_whose_device_never_comes_back_after_a_reboot_is_over() -> None:
    rule = next(rule for rule in table.RULES if rule.name == "sensor-alarm")
    play = drive.Play(rule)
    assert play.bad_until_told()[0]
    play.boot_id = "second"
    other = readings.Reading("hwmon7/temp1", rule.reading, False)
    told = [one for _ in range(120) for one in play.take([other])]
    assert [(one.severity, one.device) for one in told] == [("info", "hwmon0/temp1")]


def test_a_service_that_stopped_is_to_be_started_again_and_people_read_one_phrase_for_one_act() -> None:
    (stopped,) = [rule for rule in table.RULES if rule.name == "service-stopped"]
    assert vocabulary.recovery_words(stopped.recovery) == "restart the service"
    assert {vocabulary.recovery_words(word) for word in ("reboot", "reboot_node")} == {"reboot the node"}
    assert [vocabulary.recovery_words(word) for word in ("none", "", None)] == ["nothing"] * 3
    assert vocabulary.recovery_words("of_another_release") == "of another release"


def test_every_rule_is_whole() -> None:
    names = [rule.name for rule in table.RULES]
    assert len(names) == len(set(names))
    events = {meaning[0] for meaning in kernel.NVML_EVENTS.values() if meaning} | {kernel.UNKNOWN_EVENT[0], blind.KIND}
    for rule in table.RULES:
        assert rule.kind in vocabulary.OBSERVATION_KINDS, rule
        assert rule.severity in vocabulary.SEVERITIES, rule
        assert rule.recovery in vocabulary.RECOVERIES, rule
        assert {word for _, word in rule.answers} <= set(vocabulary.RECOVERIES), rule
        assert set(rule.needs) <= known.CONDITIONS.keys() == drive.CONDITIONS.keys(), rule
        assert rule.source, rule
        assert rule.text, rule
    assert events | {kind for kinds in kernel.ANSWERED.values() for kind in kinds} <= set(vocabulary.OBSERVATION_KINDS)


def test_every_fatal_rule_can_end_while_the_machine_runs_or_with_it() -> None:
    for rule in table.RULES:
        if rule.severity == "fatal":
            assert rule.clear.after_s is not None or rule.clear.reset or rule.clear.sentence.endswith("reboot"), rule
            assert rule.clear.after_s is None or 0 <= rule.clear.after_s <= 86_400, rule


def test_rules_of_one_finding_get_graver_with_time() -> None:
    """Where two rules say the same of the same reading, the graver one asks for more: longer, further or busier."""
    for rule in table.RULES:
        twins = [r for r in table.RULES if (r.kind, r.reading, r.test) == (rule.kind, rule.reading, rule.test)]
        for other in twins:
            if draft.GRAVITY[other.severity] > draft.GRAVITY[rule.severity]:
                assert other.hold_s > rule.hold_s or set(other.needs) - set(rule.needs), (rule.name, other.name)


def _ended(play: drive.Play) -> list:
    """By a reset where that ends it, else by a reboot; never by good samples."""
    for _ in range(300):
        assert not play.good()
    if play.rule.clear.reset:
        play.energy = 0.0
    else:
        play.boot_id = "second"
        play.count = 0.0
    return play.good()


def test_dataclasses_stay_frozen() -> None:
    for rule in table.RULES:
        with pytest.raises(dataclasses.FrozenInstanceError):
            rule.test.by = 3  # type: ignore[union-attr,misc]
        break
