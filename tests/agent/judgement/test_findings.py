"""Findings: graver ones are told, those that come and go are not told for ever, and memory has a bound."""

import json

from outrider_agent import readings
from outrider_agent.judgement import engine, findings, rules, table
from tests.agent.judgement import drive


def sweep(
    at: float, *found: readings.Reading, signal: str = "nvml", boot: str = "first", **more: object
) -> readings.Sweep:
    return readings.Sweep(signal, at, 0.0, "ok", found, context={**drive.context(boot), **more})


def warm(at: float, celsius: float) -> readings.Sweep:
    limit = readings.Reading("gpu3", "temperature_max", 83.0, "C")
    return sweep(at, limit, readings.Reading("gpu3", "temperature", celsius, "C"))


def test_a_gpu_that_the_driver_no_longer_lists_is_named() -> None:
    judge = engine.Judge("n0")
    (found,) = judge.take(sweep(1e6, readings.Reading("gpu3", "nvml_code", 6.0)))
    assert (found.kind, found.severity, found.device) == ("gpu-lost", "fatal", "gpu3")


def test_a_port_that_never_worked_is_named_where_it_is_expected_and_no_other_takes_its_place() -> None:
    def told(judge: engine.Judge, active: float, expected: bool) -> list[str | None]:
        found: list[str | None] = []
        for second in range(0, 300, 60):
            seen = (
                readings.Reading("mlx5_0/1", "port_state", "DOWN"),
                readings.Reading("mlx5_0/1", "port_expected", expected),
                readings.Reading("", "ports_active", active),
            )
            look = readings.Sweep("infiniband", 1e6 + second, 0.0, "ok", seen)
            found += [one.device for one in judge.take(look) if one.kind == "port-down"]
        return found

    assert told(engine.Judge("n0"), 7.0, True) == ["mlx5_0/1"]
    assert told(engine.Judge("n0"), 7.0, False) == []
    assert told(engine.Judge("n0", expectations=rules.Expectations(ports=7)), 7.0, True) == []
    assert told(engine.Judge("n0", expectations=rules.Expectations(ports=8)), 7.0, True) == ["mlx5_0/1"]


def test_a_fabric_manager_that_is_down_is_told_where_nvml_says_nothing() -> None:
    judge = engine.Judge("n0")
    switches = readings.Reading("", "nvswitch_present", True)
    judge.take(readings.Sweep("inventory", 1e6, 0.0, "ok", (switches,)))
    stopped = readings.Reading("nvidia-fabricmanager", "service_active", "inactive")
    found = [
        one.kind
        for minute in range(1, 20)
        for one in judge.take(readings.Sweep("services", 1e6 + 60 * minute, 0.0, "ok", (stopped,)))
    ]
    assert found == ["service-stopped"]


def test_a_finding_that_turns_graver_is_told_again_and_ends_once() -> None:
    judge = engine.Judge("n0")
    told = [one for step in range(60) for one in judge.take(warm(1e6 + 10.0 * step, 85.0))]
    assert [(one.kind, one.severity) for one in told] == [("gpu-temperature", "warning"), ("gpu-temperature", "error")]
    assert told[1].evidence["was"] == "warning"
    assert (told[1].evidence["value"], told[1].evidence["bound"], told[1].evidence["unit"]) == (85.0, 83.0, "C")
    over = [one for step in range(60, 90) for one in judge.take(warm(1e6 + 10.0 * step, 70.0))]
    assert [(one.severity, one.evidence["cleared"], one.evidence["was"]) for one in over] == [("info", True, "error")]


def test_a_value_between_bound_and_easing_neither_begins_nor_ends() -> None:
    judge = engine.Judge("n0")
    assert not [one for step in range(20) for one in judge.take(warm(1e6 + 10.0 * step, 82.0))]
    assert [one for step in range(20, 24) for one in judge.take(warm(1e6 + 10.0 * step, 84.0))]
    assert not [one for step in range(24, 50) for one in judge.take(warm(1e6 + 10.0 * step, 82.0))]


def test_what_comes_and_goes_is_told_a_few_times_an_hour() -> None:
    judge = engine.Judge("n0")
    told = []
    for step in range(720):  # two hours: lost and back every half minute for ever
        code = 15.0 if step % 10 == 0 else 0.0
        told += judge.take(sweep(1e6 + 10.0 * step, readings.Reading("gpu3", "nvml_code", code)))
    assert len(told) <= 2 * findings.BEGINS_AN_HOUR
    over = [
        one
        for step in range(720, 1200)
        for one in judge.take(sweep(1e6 + 10.0 * step, readings.Reading("gpu3", "nvml_code", 0.0)))
    ]
    assert [one.severity for one in over] == ["info"], "once it stays away it is over"


def test_eighteen_links_of_a_gpu_are_one_finding_that_names_them() -> None:
    judge = engine.Judge("n0")
    links = [readings.Reading(f"gpu3/link{link}", "nvlink_state", 0.0) for link in range(18)]
    (one,) = judge.take(sweep(1e6, *links))
    assert (one.kind, one.device, one.evidence["places_count"]) == ("nvlink-down", "gpu3", 18)
    up = [readings.Reading(f"gpu3/link{link}", "nvlink_state", 1.0) for link in range(18)]
    assert [o.severity for step in range(1, 20) for o in judge.take(sweep(1e6 + 10 * step, *up))] == ["info"]


def test_a_board_that_answers_nothing_for_its_margin_raises_no_alarm() -> None:
    """Some H100 boards answer 0, or less, for a margin that they do not support."""
    judge = engine.Judge("n0")
    for margin in (0.0, -7.0):
        for step in range(100):
            found = (
                readings.Reading("gpu3", "temperature_margin", margin, "C"),
                readings.Reading("gpu3", "temperature_margin_slowdown", -2.0, "C"),
                readings.Reading("gpu3", "temperature", 45.0, "C"),
                readings.Reading("gpu3", "temperature_slowdown", 87.0, "C"),
            )
            assert judge.take(sweep(1e6 + 10.0 * step, *found)) == []


def test_simulated_data_says_so_in_every_observation() -> None:
    judge = engine.Judge("n0")
    (one,) = judge.take(sweep(1e6, readings.Reading("gpu3", "nvml_code", 15.0), simulated=True))
    assert one.evidence["simulated"] is True
    (real,) = engine.Judge("n0").take(sweep(1e6, readings.Reading("gpu3", "nvml_code", 15.0)))
    assert "simulated" not in real.evidence


def test_an_idle_gpu_may_train_its_link_down_and_a_busy_one_may_not() -> None:
    judge = engine.Judge("n0")

    def look(step: int, load: float, generation: float) -> list:
        found = (
            readings.Reading("gpu3", "utilization", load, "%"),
            readings.Reading("gpu3", "pcie_generation", generation),
            readings.Reading("gpu3", "pcie_generation_max", 5.0),
        )
        return judge.take(sweep(1e6 + 30.0 * step, *found))

    assert not [one for step in range(50) for one in look(step, 0.0, 1.0)]
    assert not [one for step in range(50, 52) for one in look(step, 99.0, 1.0)], "a link may need a moment"
    assert [one.kind for step in range(52, 60) for one in look(step, 99.0, 1.0)] == ["pcie-degraded"]
    assert not [one for step in range(60, 80) for one in look(step, 0.0, 1.0)], "idle again: it is not over by that"
    assert [one.severity for step in range(80, 90) for one in look(step, 99.0, 5.0)] == ["info"]


def test_memory_is_bounded_whatever_devices_appear() -> None:
    judge = engine.Judge("n0")
    for number in range(700):
        found = [
            readings.Reading(f"gpu{number}", name, 15.0) for name in ("nvml_code", "recovery_action", "memory_used")
        ]
        judge.take(sweep(1e6 + number, *found))
    assert len(judge.cells) <= engine.CELLS_MAX
    assert len(judge.book) <= findings.OPEN_MAX
    assert judge.forgotten > 0


def test_damaged_memory_counts_as_none_and_a_damaged_part_costs_no_other() -> None:
    for memory in (
        None,
        [],
        {},
        {"version": 99},
        {"version": 1, "tracks": 7, "events": [[1]], "blind": "x", "echoes": 3},
    ):
        judge = engine.Judge("n0")
        judge.restore(memory)
        assert [one.kind for one in judge.take(sweep(1e6, readings.Reading("gpu3", "nvml_code", 15.0)))] == ["gpu-lost"]
    judge = engine.Judge("n0")
    judge.take(sweep(1e6, readings.Reading("gpu3", "nvml_code", 15.0)))
    kept = json.loads(json.dumps(judge.memory()))
    kept["events"] = {"damaged": True}
    other = engine.Judge("n0")
    other.restore(kept)
    assert other.take(sweep(1e6 + 10, readings.Reading("gpu3", "nvml_code", 15.0))) == []


def test_counts_that_rose_while_no_agent_looked_are_seen_by_the_next() -> None:
    rule = next(rule for rule in table.RULES if rule.name == "link-downed")
    play = drive.Play(rule)
    play.good()
    play.restart()
    play.count += 1
    assert [one.kind for one in play.good()] == ["link-downed"]


def test_an_empty_set_of_rules_means_all_of_them() -> None:
    assert engine.Judge("n0", (), rules.Expectations()).rules == table.RULES


def test_cells_have_a_bound() -> None:
    judge = engine.Judge("n0")
    for number in range(engine.CELLS_MAX + 10):
        judge.cell(f"gpu{number}", "remap_failure")
    assert len(judge.cells) == engine.CELLS_MAX
    assert judge.forgotten == 10
