"""A job that stands still: looked at, and ended only where two independent signs agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider_controller.core import records
from tests.core.world import LOST_PEER, World

TIME_OUT = (Path(__file__).parents[1] / "recorded/job_log/gloo-peer-stopped.txt").read_text()


def looks(world: World) -> int:
    return sum(effect.name == "capture-evidence" for effect in world.of(records.EffectRequested))


def training(**more: object) -> World:
    return World(**more).submit().train(7, save_every=4)  # type: ignore[arg-type]


def test_silence_past_the_deadline_is_looked_at_and_nothing_is_stopped() -> None:
    world = training().hang(2, "spins").suspect(10)
    [looked] = world.of(records.Looked)
    assert (looked.verdict, looked.ranks, looked.agrees) == ("rank-hung", (2,), False)
    assert world.job.state == "training"
    assert not [e for e in world.of(records.EffectRequested) if e.name == "stop-attempt"]


def test_a_hung_rank_is_ended_once_two_looks_agree_and_the_time_is_over_and_not_before() -> None:
    world = training().hang(2, "spins")
    since = world.now
    world.suspect(10, act_s=20).wait(9)
    assert not world.of(records.IncidentOpened)
    world.wait(3)
    [opened] = world.of(records.IncidentOpened)
    assert (opened.opened_by, opened.fault_at, opened.lost_step) == ("stalled", since, 7)
    assert opened.at - since <= 22
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes, found.confidence) == ("rank-hung", (2,), ("n1",), 0.95)
    assert found.cause_group == "NCCL Watchdog Timeouts"
    kinds = [row["kind"] for row in found.evidence]
    assert kinds[:3] == ["silence", "stack", "waits"]
    assert "the last two alike" in next(row["text"] for row in found.evidence if row["kind"] == "looks")


def test_a_sign_of_progress_ends_the_suspicion_and_its_timer() -> None:
    world = training().hang(2, "spins").suspect(10).go_on(2).resume()
    assert world.job.attempt is not None
    assert world.job.attempt.suspicion is None
    assert records.TIMER_LOOK not in dict(world.job.timers)
    world.wait(600)
    assert not world.of(records.IncidentOpened)


def test_ranks_at_work_are_slow_and_never_ended_and_the_looks_grow_rare() -> None:
    world = training().hang(2, "works").suspect(10).wait(3600)
    assert not world.of(records.IncidentOpened)
    assert {row.verdict for row in world.of(records.Looked)} == {"working"}
    assert looks(world) <= 20
    world.go_on(2).resume().train(9)
    assert world.job.state == "training"


def test_time_doubles_for_each_look_that_finds_ranks_at_work() -> None:
    world = training().hang(2, "works").suspect(10, act_s=20).wait(1).hang(2, "spins").wait(21)
    assert not world.of(records.IncidentOpened), "40 s count now, and not 20"
    world.wait(15)
    assert world.cause == "rank-hung"


def test_a_job_that_was_slow_for_long_and_then_hangs_is_ended_within_the_hour() -> None:
    world = training().hang(2, "works").suspect(10).wait(2400)
    assert world.of(records.Looked)[-1].act_s == 3600
    world.hang(2, "spins").wait(2400)
    assert world.cause == "rank-hung"


@pytest.mark.parametrize("how", ["traced", "unseen"])
def test_what_a_debugger_holds_and_a_lone_job_that_nobody_can_look_at_is_left_alone(how: str) -> None:
    world = training()
    for rank in range(4) if how == "unseen" else (1,):
        world.hang(rank, how)
    world.suspect(10).wait(600)
    assert not world.of(records.IncidentOpened)
    assert {row.verdict for row in world.of(records.Looked)} == {"traced" if how == "traced" else "could-not-look"}


def test_a_job_that_was_suspended_as_a_whole_is_left_alone() -> None:
    world = training()
    for rank in range(4):
        world.hang(rank, "stopped")
    world.suspect(10).wait(300)
    assert not world.of(records.IncidentOpened)
    assert world.of(records.Looked)[-1].verdict == "suspended"


def test_a_look_that_fails_holds_nothing_up_and_ends_nothing() -> None:
    world = training(look_fails="no agent answered").hang(2, "spins").suspect(10).wait(120)
    assert not world.of(records.IncidentOpened)
    assert "no agent answered" in world.of(records.Looked)[-1].sentence
    world.look_fails = ""
    world.wait(120)
    assert world.cause == "rank-hung"


def test_a_look_that_is_never_answered_delays_no_other_road() -> None:
    world = training().hang(2, "spins")
    world.mute = True
    world.suspect(10).wait(60)
    assert looks(world) == 1, "one look at a time"
    world._exit(0, signal="SIGKILL")
    world.unmute().wait(15)
    assert world.cause == "rank-killed"


def test_a_node_that_falls_silent_meanwhile_keeps_anything_from_being_done_on_silence() -> None:
    world = training().hang(2, "spins").suspect(10).silence("n0").wait(40)
    assert not [row for row in world.of(records.IncidentOpened) if row.opened_by == "stalled"]


def test_a_stopped_rank_is_looked_at_at_once_and_ended_as_soon_as_the_job_stands_still() -> None:
    world = training()
    at = world.now
    world.hang(3, "stopped").wait(8)
    [opened] = world.of(records.IncidentOpened)
    assert opened.at - at < 8
    assert (world.cause, world.of(records.Diagnosed)[-1].ranks) == ("rank-stopped", (3,))
    assert not world.of(records.Suspected), "no deadline was needed"


def test_several_stopped_ranks_are_all_named() -> None:
    world = training().hang(1, "stopped").hang(3, "stopped").wait(8)
    assert world.of(records.Diagnosed)[-1].ranks == (1, 3)


def test_a_rank_that_was_stopped_for_a_moment_is_forgiven() -> None:
    world = training().hang(3, "stopped").go_on(3).wait(60)
    assert not world.of(records.IncidentOpened)
    assert world.job.attempt is not None
    assert world.job.attempt.suspicion is None
    assert records.TIMER_LOOK not in dict(world.job.timers)


def test_a_stopped_rank_in_a_job_that_goes_on_all_the_same_is_no_reason() -> None:
    world = training().hang(3, "stopped")
    for step in range(8, 60):
        world.step = step  # this job needs rank 3 for nothing
        world.wait(1)
    assert not world.of(records.IncidentOpened)


def test_a_stopped_rank_is_left_alone_where_stalls_are_switched_off() -> None:
    world = World()
    for index in range(3):
        world.join(f"n{index}")
    spec = {"name": "job", "command": ["x"], "nodes": 2, "ranks_per_node": 2, "limits": {"stall_s": 0}}
    world.feed(records.JobSubmitted(world.now, "job", spec)).train(5)
    world.hang(3, "stopped").wait(120)
    assert not looks(world)
    assert not world.of(records.IncidentOpened)


def test_where_all_wait_nobody_is_blamed_and_the_third_time_in_one_place_is_for_a_person() -> None:
    world = training()
    for _ in range(4):
        for rank in range(4):
            world.hang(rank, "waits")
        world.suspect(10).wait(15)
        if world.job.state == "held":
            break
        world.wait(300).train(8)
    assert [row.decision for row in world.of(records.Decided)] == ["restart"] * 3 + ["hold-for-person"]
    assert {row.cause for row in world.of(records.Diagnosed)} == {"job-stalled"}
    assert all(not row.ranks and not row.nodes for row in world.of(records.Diagnosed))


def test_a_node_that_hangs_again_and_again_is_replaced_by_a_spare() -> None:
    world = training()
    for number in range(3):
        world.hang(2 + number % 2, "sleeps" if number else "spins").suspect(10).wait(15).wait(60)
        world.train(world.step + 4, save_every=2)
    assert [row.decision for row in world.of(records.Decided)] == ["restart", "restart", "restart-without-suspect"]
    assert world.job.attempt is not None
    assert world.job.attempt.placement == ("n0", "n2")


@pytest.mark.parametrize("how", ["stopped", "spins"])
def test_time_outs_of_the_ranks_that_come_first_leave_the_one_that_did_not_die(how: str) -> None:
    world = training().hang(2, how)
    if how == "spins":
        world.suspect(10)
    world.mute = True
    world._exit(0, code=1, log_tail=TIME_OUT)
    for rank in (1, 3):
        world.now += 0.1
        world._exit(rank, code=1, log_tail=LOST_PEER)
    world.unmute().wait(15)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks) == (f"rank-{'hung' if how == 'spins' else how}", (2,))
    assert "gave up waiting by themselves" in found.sentence


def test_a_rank_that_is_killed_under_a_suspicion_is_a_killed_rank() -> None:
    world = training().hang(2, "spins").suspect(10)
    world.die(3, signal="SIGKILL").wait(15)
    assert (world.cause, world.of(records.Diagnosed)[-1].ranks) == ("rank-killed", (3,))


def test_last_words_of_ranks_that_are_being_ended_are_no_progress_and_take_nothing_back() -> None:
    world = training().hang(2, "spins").suspect(10)
    while not world.of(records.IncidentOpened):
        world.mute = world.of(records.Looked)[-1].agrees  # what follows from the next moment on stays on its way
        world.wait(max(0.0, dict(world.job.timers)[records.TIMER_LOOK] - world.now))
    world.resume().unmute().wait(15)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks) == ("rank-hung", (2,))


def test_a_stopped_rank_that_is_continued_so_that_it_can_be_ended_was_stopped_all_the_same() -> None:
    world = training().hang(3, "stopped")
    world.mute = True
    world.ask("hold")._told("rank-continued", 3)
    assert world.job.attempt is not None
    assert world.job.attempt.suspicion is not None
    assert world.job.attempt.suspicion.stopped == (3,)


def test_an_answer_that_comes_after_the_attempt_was_ended_changes_nothing() -> None:
    world = training().hang(2, "spins")
    world.mute = True
    world.suspect(10)
    world.ask("stop").unmute().wait(30)
    assert world.job.state == "failed"
    assert not world.of(records.Looked)


def test_a_new_attempt_begins_without_the_suspicion_of_the_old_one() -> None:
    world = training().hang(2, "spins").suspect(10).wait(15)
    assert world.job.attempt is not None
    assert world.job.attempt.suspicion is None
    world.train(8).wait(300)
    assert len(world.of(records.IncidentOpened)) == 1


def test_looks_from_before_a_controller_was_away_are_not_acted_on() -> None:
    world = training().hang(2, "spins").suspect(10).wait(6)
    assert world.of(records.Looked)[-1].agrees
    world.now += 600  # nobody was there to fire a timer
    before = looks(world)
    world.hung[2] = "works"
    world.wait(5)
    assert looks(world) > before
    assert not world.of(records.IncidentOpened)


def test_a_host_lost_between_its_first_mark_and_its_first_step_is_found() -> None:
    world = World().submit()
    attempt = world.job.attempt
    assert attempt is not None
    world.feed(records.Attached(world.now, world.name, attempt.generation)).silence("n1").wait(100)
    assert not world.of(records.IncidentOpened), "a start may take a while, and an agent may be restarting"
    world.wait(60)
    assert world.cause == "node-lost"


def test_sixteen_thousand_ranks_are_suspected_looked_at_and_diagnosed() -> None:
    world = World(nodes=8, ranks_per_node=2048, spares=0).submit().train(3, save_every=3)
    world.hang(912, "spins").suspect(10)
    size = max(len(repr(row)) for row in world.of(records.Looked))
    assert size < 10_000
    assert world.of(records.Looked)[-1].ranks == (912,)
