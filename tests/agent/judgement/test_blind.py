"""Could not look: told after more than three polls, once, and over once it can be looked at again."""

from outrider import records
from outrider_agent import readings
from outrider_agent.judgement import blind, engine
from tests.agent.judgement import drive


def look(signal: str, at: float, *found: readings.Reading, state: str = "ok", error: str = "") -> readings.Sweep:
    return readings.Sweep(signal, at, 0.0, state, found, error=error, context=drive.context())


def unreadable(device: str, name: str) -> readings.Reading:
    return readings.Reading(device, name, None, state="unreadable", counter=True, error="Invalid argument")


def told(judge: engine.Judge, *sweeps: readings.Sweep) -> list[records.Observation]:
    return [one for sweep in sweeps for one in judge.take(sweep)]


def test_a_signal_that_fails_is_told_at_the_fourth_poll_and_once() -> None:
    judge = engine.Judge("n0")
    failed = [look("nvml", 10.0 * step, state="failed", error="no answer") for step in range(1, 30)]
    assert told(judge, *failed[: blind.POLLS_MAX]) == []
    (one,) = told(judge, *failed[blind.POLLS_MAX :])
    assert (one.kind, one.severity, one.device, one.evidence["why"]) == (
        "could-not-look",
        "warning",
        "nvml",
        "no answer",
    )
    (over,) = told(judge, *(look("nvml", 400.0 + step) for step in range(6)))
    assert (over.severity, over.evidence["cleared"]) == ("info", True)


def test_a_look_that_never_comes_counts_like_one_that_fails() -> None:
    judge = engine.Judge("n0")
    heard = [one for step in range(10) for one in judge.silent("filesystems", 10.0 * step, "deadline of 5 s missed")]
    assert [(one.kind, one.device) for one in heard] == [("could-not-look", "filesystems")]
    assert "deadline of 5 s missed" in heard[0].text


def test_one_unreadable_counter_is_information_and_the_rest_is_judged() -> None:
    judge = engine.Judge("n0")
    bad = unreadable("mlx5_0/1", "port_rcv_errors")
    rising = [
        readings.Reading("mlx5_0/1", "local_link_integrity_errors", float(n), counter=True) for n in (0, 0, 0, 0, 1)
    ]
    found = told(judge, *(look("infiniband", 10.0 * n, bad, one) for n, one in enumerate(rising, 1)))
    assert [(one.kind, one.severity) for one in found] == [("could-not-look", "info"), ("port-errors", "fatal")]


def test_what_is_worth_knowing_and_cannot_be_read_is_a_warning() -> None:
    judge = engine.Judge("n0")
    (one,) = told(judge, *(look("nvml", 10.0 * n, unreadable("gpu3", "remap_failure")) for n in range(1, 9)))
    assert (one.kind, one.severity, one.device) == ("could-not-look", "warning", "gpu3")


def test_nobody_hears_that_a_lost_gpu_cannot_be_read() -> None:
    judge = engine.Judge("n0")
    lost = readings.Reading("gpu3", "nvml_code", 15.0)
    found = told(judge, *(look("nvml", 10.0 * n, lost, unreadable("gpu3", "temperature")) for n in range(1, 12)))
    assert [one.kind for one in found] == ["gpu-lost"]


def test_unreadable_readings_neither_begin_nor_end_a_finding() -> None:
    judge = engine.Judge("n0")
    assert told(judge, look("nvml", 10.0, readings.Reading("gpu3", "remap_failure", True)))
    found = told(judge, *(look("nvml", 20.0 + n, unreadable("gpu3", "remap_failure")) for n in range(20)))
    assert found == []


def test_what_was_never_there_is_not_missed_and_what_was_is() -> None:
    judge = engine.Judge("n0")
    assert told(judge, *(look("infiniband", 10.0 * n, state="absent") for n in range(1, 20))) == []
    told(judge, look("infiniband", 300.0))
    assert [one.kind for one in told(judge, *(look("infiniband", 300.0 + n, state="absent") for n in range(1, 9)))] == [
        "could-not-look"
    ]


def test_the_next_agent_does_not_repeat_it_and_ends_it() -> None:
    judge = engine.Judge("n0")
    told(judge, *(look("clock", 10.0 * n, state="failed", error="x") for n in range(1, 9)))
    other = engine.Judge("n0")
    other.restore(judge.memory())
    assert told(other, *(look("clock", 100.0 + n, state="failed", error="x") for n in range(1, 9))) == []
    assert [one.severity for one in told(other, *(look("clock", 200.0 + n) for n in range(1, 9)))] == ["info"]
