"""Ranks that are slow while the job goes on: who keeps the others waiting, and who only seems to."""

import pathlib

import pytest

from bench import _fr_ours
from outrider_analysis.flight_recorder import verdict
from outrider_simulator import flight_recorder
from tests.analysis.test_flight_recorder_verdict import START_NS, WORLD4, Rank, job, judged
from tests.flight_recorder.test_faults_found import dp, mesh, tp

MS = 1_000_000
NOW_NS = START_NS + 10**9


def timed(rank: Rank, group: str, spent_ms: float | None) -> None:
    """A collective that took so long on the device; None: it is not over."""
    rank.call(group, done=spent_ms is not None, time_discovered_started_ns=rank.at + 10_000_000)
    if spent_ms is not None:
        rank.entries[-1]["duration_ms"] = spent_ms


@pytest.mark.parametrize("pending", [0, 60])
def test_who_waits_for_nobody_is_the_slow_one_and_not_whom_it_makes_late_elsewhere(pending: int) -> None:
    """Rank 2 keeps 3 waiting in tp, so that both are last in dp. A host that calls far ahead hides nothing of it."""
    ranks = mesh()
    for number, rank in ranks.items():
        for _ in range(12):
            timed(rank, tp(number), {2: 0.1, 3: 8.0}.get(number, 0.2))
            timed(rank, dp(number), 0.1 if number in (2, 3) else 9.0)
        for _ in range(pending):
            timed(rank, tp(number), None)
    found = judged(ranks.values(), taken_ns=NOW_NS)
    assert (found.kind, found.culprits, found.confidence) == ("straggler", (2,), 0.8)
    assert "last in 12 of the 12 times that group mesh_tp (ranks 2-3) lost much" in found.findings[0].evidence


def test_of_two_that_are_late_together_none_is_named_where_their_own_group_tells_nothing() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        for _ in range(12):
            rank.call(tp(number))
            timed(rank, dp(number), 0.1 if number in (2, 3) else 9.0)
    assert judged(ranks.values(), taken_ns=NOW_NS).culprits == ()


@pytest.mark.parametrize("times", [3, 2])
def test_who_is_seldom_late_but_much_is_named_with_doubt_and_once_or_twice_is_chance(times: int) -> None:
    ranks = job(WORLD4, 4)
    for number, rank in ranks.items():
        for turn in range(24):
            late = turn % 8 == 3 and turn < 8 * times
            timed(rank, "0", 0.1 if number == 1 or not late else 90.0)
    found = judged(ranks.values(), taken_ns=NOW_NS)
    assert (found.culprits, found.confidence) == (((1,), 0.6) if times == 3 else ((), 0.9))


def test_a_straggler_by_the_times_of_calls_in_a_pipeline_is_named_with_doubt() -> None:
    """Who waits for a slow partner makes its calls late as well, so 0.6 is all that they tell there."""
    stages = {"1": ("mesh_dp", [0, 1, 2, 3]), "2": ("mesh_dp", [4, 5, 6, 7])}
    pipelines = {str(3 + at): ("mesh_pp", [at, at + 4]) for at in range(4)}
    for groups in (stages, stages | pipelines):
        ranks = job(groups, 8)
        for number, rank in ranks.items():
            for _ in range(20):
                if groups is not stages:
                    rank.call(str(3 + number % 4), "send" if number < 4 else "recv", peer=number ^ 4)
                rank.call("1" if number < 4 else "2")
                called = rank.at + (60 * MS if number == 2 else 0)
                rank.entries[-1] |= {"time_created_ns": called, "time_discovered_completed_ns": rank.at + 70 * MS}
                rank.at += 80 * MS
        found = judged(ranks.values(), taken_ns=max(rank.at for rank in ranks.values()))
        sure = 0.8 if groups is stages else 0.6
        assert (found.kind, found.culprits, found.confidence) == ("straggler", (2,), sure)


def test_by_a_moment_alone_no_device_is_named() -> None:
    """One dump was taken before the collective was over and the next one after, or the device of the first is stuck."""
    ranks = mesh()
    for number, rank in ranks.items():
        rank.call(tp(number), done=number != 4)
        if number != 4:
            rank.call("0", done=False)
    found = judged(ranks.values(), taken_ns=0)
    assert (found.kind, found.culprits, found.findings[0].candidates) == ("unknown", (), (4,))
    assert judged(ranks.values()).culprits == (4,)


@pytest.mark.parametrize("seed", [70007, 70021, 70023, 70111])
def test_slow_devices_are_named_where_times_on_them_are_recorded(tmp_path: pathlib.Path, seed: int) -> None:
    case = flight_recorder.make(seed, 64, "slow-device")
    flight_recorder.write(case, tmp_path)
    answer, _ = _fr_ours.analyze(tmp_path / "dumps", times=True)
    assert (answer["verdict"], tuple(answer["culprits"])) == ("straggler", case.truth.culprits)


def test_a_host_that_waits_for_a_slow_one_is_not_named_with_confidence(tmp_path: pathlib.Path) -> None:
    """Its ring holds so few calls that it looks slower than the one it waits for."""
    case = flight_recorder.make(70118, 64, "slow-host")
    flight_recorder.write(case, tmp_path)
    answer, _ = _fr_ours.analyze(tmp_path / "dumps", times=True)
    assert tuple(answer["culprits"]) in ((), case.truth.culprits) or answer["confidence"] < 0.7


@pytest.mark.parametrize("seed", [165, 231])
def test_nobody_is_named_in_these_healthy_jobs(tmp_path: pathlib.Path, seed: int) -> None:
    case = flight_recorder.make(seed, 1024)
    flight_recorder.write(case, tmp_path)
    assert case.truth.kinds == ("none",)
    answer, _ = _fr_ours.analyze(tmp_path / "dumps", times=True)
    assert answer["culprits"] == []


def test_it_is_said_where_a_slow_device_would_not_show() -> None:
    for known in (False, True):
        ranks = mesh()
        for number, rank in ranks.items():
            if known:
                timed(rank, tp(number), 0.1)
        found: verdict.Verdict = judged(ranks.values(), taken_ns=NOW_NS)
        assert found.kind == "none"
        assert ("A slow device would not show" in found.sentence) is not known
