"""State and fact in, conclusions out: what the core does, and what it refuses to do."""

from __future__ import annotations

import dataclasses

import pytest

from outrider_controller.core import records
from tests.core.world import LOST_PEER, World


def effects(world: World, name: str) -> list[records.EffectRequested]:
    return [e for e in world.of(records.EffectRequested) if e.name == name]


def test_job_starts_on_the_first_nodes_in_natural_order_and_leaves_the_spare() -> None:
    world = World(nodes=11, ranks_per_node=1).submit()
    assert world.job.attempt is not None
    assert world.job.attempt.placement == tuple(f"n{i}" for i in range(11))


def test_job_waits_for_nodes_and_starts_when_they_come() -> None:
    world = World(nodes=2, spares=-1).submit()
    assert world.job.attempt is None
    assert world.job.state == "starting"
    world.join("n1")
    assert world.job.attempt is not None
    assert world.job.attempt.placement == ("n0", "n1")


def test_silent_agent_alone_never_interrupts_a_training_job() -> None:
    world = World().submit().train(3).silence("n0")
    for _ in range(60):
        world.wait(59).train(world.step + 1)
    assert world.job.state == "training"
    assert not world.of(records.IncidentOpened)
    world.join("n0", holds=True).train(6)
    assert not world.of(records.IncidentOpened)


def test_silent_node_and_a_job_that_stands_still_are_two_signs_and_a_spare_steps_in() -> None:
    world = World().submit().train(4, save_every=2).silence("n1").wait(50)
    assert not world.of(records.IncidentOpened)
    since = world.state.nodes["n1"].silent_since
    world.wait(30)
    assert world.of(records.IncidentOpened)[-1].fault_at == since
    assert (world.cause, world.decision) == ("node-lost", "restart-without-suspect")
    world.train(5)
    assert world.job.incident is None


def test_job_of_which_no_node_is_heard_is_left_alone_and_said_to_be_out_of_sight() -> None:
    world = World(nodes=1).submit().train(4).silence("n0").wait(600)
    assert not world.of(records.IncidentOpened)
    assert "a person should look" in world.of(records.Noted)[-1].text
    world.ask("hold").wait(20).ask("approve")
    assert world.job.attempt is not None
    assert world.job.attempt.placement == ("n1",), "a person who says so has it moved"


def test_job_without_marks_is_never_taken_for_standing_still() -> None:
    world = World(speaks=False).submit().wait(60).silence("n1").wait(600)
    assert world.job.state == "training"
    assert not world.of(records.IncidentOpened)


def test_agent_that_returns_without_its_ranks_opens_an_incident_for_the_time_it_fell_silent() -> None:
    world = World(nodes=1, spares=0).submit().train(4, save_every=2).silence("n0")
    since = world.now
    world.wait(30).join("n0", boot="b2")
    opened = world.of(records.IncidentOpened)[-1]
    assert opened.fault_at == since
    assert opened.lost_step == 4
    world.train(5)
    assert world.job.incident is None


def test_node_without_a_spare_is_waited_for_and_used_again_when_it_returns() -> None:
    world = World(spares=0).submit().train(4, save_every=2).vanish("n1").wait(20)
    assert world.job.state == "interrupted"
    assert world.state.nodes["n1"].mark == "lost"
    assert world.job.attempt is not None
    assert world.job.attempt.generation == 1
    world.join("n1", boot="b2")
    assert world.job.attempt.generation == 2
    assert world.state.nodes["n1"].mark == "clear"
    world.train(5)


def test_rank_killed_elsewhere_is_blamed_though_another_agent_has_been_silent_for_long() -> None:
    world = World().submit().train(3).silence("n0")
    for _ in range(10):
        world.wait(50).train(world.step + 1)
    world.die(3, signal="SIGKILL").wait(20)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks) == ("rank-killed", (3,))
    assert world.decision == "restart-without-suspect"


def test_death_reported_by_a_host_just_before_it_vanished_is_part_of_the_vanishing() -> None:
    world = World().submit().train(3)
    world.mute = True
    world._exit(0, signal="SIGKILL")
    world.vanish("n0").wait(10)
    assert world.cause == "node-lost"


def test_first_death_is_named_by_order_of_death_however_the_reports_arrive() -> None:
    world = World(nodes=1, ranks_per_node=4, spares=0).submit().train(3)
    world.mute = True
    late = dataclasses.replace(world)
    world._exit(2, code=1, log_tail=LOST_PEER)
    world.now -= 0.05
    world._exit(1, signal="SIGSEGV")
    world.now += 0.1
    world.unmute()
    assert late.name == world.name
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks) == ("rank-crashed", (1,))


def test_incident_closes_when_the_lost_step_is_regained_and_not_before() -> None:
    world = World().submit().train(10, save_every=4).die(0, signal="SIGKILL").train(9)
    assert world.job.incident is not None
    world.train(10)
    assert world.job.incident is None
    closed = world.of(records.IncidentClosed)[-1]
    assert (closed.outcome, closed.lost_steps, closed.attempt_after) == ("regained", 2, 1)


def test_fault_during_recovery_supersedes_the_incident_and_keeps_the_lost_step() -> None:
    world = World().submit().train(10, save_every=4).die(0, signal="SIGKILL").train(9).die(1, signal="SIGKILL")
    first, second = world.of(records.IncidentOpened)
    assert second.supersedes == first.incident
    assert second.lost_step == 10
    world.train(10)
    assert [c.outcome for c in world.of(records.IncidentClosed)] == ["superseded", "regained"]


def test_second_death_while_the_attempt_is_being_stopped_is_the_same_incident() -> None:
    world = World().submit().train(3)
    world.mute = True
    world._exit(0, signal="SIGKILL")
    world._exit(1, signal="SIGSEGV")
    world.unmute()
    assert len(world.of(records.IncidentOpened)) == 1
    assert len(effects(world, "stop-attempt")) == 1


def test_observations_of_an_older_generation_are_recorded_and_ignored() -> None:
    world = World().submit().train(3)
    world.die(0, signal="SIGKILL")
    stale = [r for r in world.rows if isinstance(r, records.Observed)][-1]
    before = world.job
    world.feed(dataclasses.replace(stale, at=world.now))
    assert world.job == before
    assert "ignored" in world.of(records.Noted)[-1].text


def test_same_exception_twice_ends_an_unattended_job_after_two_attempts() -> None:
    end = {"code": 1, "error_type": "ValueError", "error_message": "bad batch 17", "error_where": "train.py:3 in f"}
    world = World(attended=False).submit().die(1, **end).die(1, **{**end, "error_message": "bad batch 18"})
    assert world.job.state == "failed"
    assert len(world.of(records.AttemptPlanned)) == 2
    assert effects(world, "release-job")


def test_same_exception_after_a_newer_checkpoint_is_counted_anew() -> None:
    end = {"code": 1, "error_type": "ValueError", "error_message": "bad batch", "error_where": "train.py:3 in f"}
    world = World().submit().train(4, save_every=2).die(1, **end).train(6, save_every=2).die(1, **end)
    assert world.decision == "restart"


def test_ceiling_of_the_job_file_holds_over_every_runbook() -> None:
    world = World(max_restarts=1).submit().train(4, save_every=1).die(0, signal="SIGKILL")
    world.train(6, save_every=1).die(0, signal="SIGKILL")
    assert world.decision == "hold-for-person"
    assert "ceiling of 1" in world.of(records.Decided)[-1].reason


def test_node_blamed_again_and_again_gives_way_to_the_spare() -> None:
    world = World().submit()
    for step in range(4):
        world.train(world.step + 2, save_every=1).die(2, signal="SIGKILL")
        assert world.step == 2 * (step + 1)
    assert world.decision == "restart-without-suspect"
    assert world.job.attempt is not None
    assert world.job.attempt.placement == ("n0", "n2")
    assert world.state.nodes["n1"].mark == "cordoned"


def test_held_job_goes_on_when_a_person_approves_from_the_checkpoint_that_is_newest_then() -> None:
    world = World(max_restarts=0).submit().train(4, save_every=2).die(0, signal="SIGKILL")
    assert world.job.state == "held"
    world.wait(600)
    world.checkpoints.append(3)
    world.checkpoints.remove(4)
    world.ask("approve")
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 3
    assert world.of(records.Decided)[-1].automatic is False
    world.train(5)
    assert world.job.state == "training"


def test_held_job_ends_when_a_person_rejects() -> None:
    world = World(max_restarts=0).submit().train(4).die(0, signal="SIGKILL").ask("reject")
    assert (world.job.state, world.job.ended_by) == ("failed", "person")


def test_person_who_holds_a_job_stops_its_ranks_and_approving_starts_it_again() -> None:
    world = World().submit().train(4, save_every=2).ask("hold")
    assert world.job.state == "held"
    assert world.of(records.IncidentOpened)[-1].planned
    world.wait(100).ask("approve").train(5)
    assert world.job.state == "training"
    assert world.job.incident is None


def test_person_who_stops_a_job_ends_it_whatever_it_is_doing() -> None:
    for world in (World().submit(), World().submit().train(3), World(spares=-3).submit()):
        world.ask("stop")
        assert world.job.state == "failed"
        assert world.job.ended_by == "person"
        assert world.job.incident is None


def test_checkpoints_that_cannot_be_looked_at_are_never_taken_for_none() -> None:
    world = World().submit().train(4, save_every=2)
    world.unreadable = "/ckpt: Input/output error"
    world.die(0, signal="SIGKILL")
    assert world.job.state == "held"
    assert len(world.of(records.AttemptPlanned)) == 1
    world.wait(120)
    assert world.job.state == "held"
    world.unreadable = ""
    world.ask("approve")
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 4


def test_attempt_that_cannot_be_started_is_tried_once_more_and_then_held() -> None:
    world = World()
    world.start_fails = "n0: no such program: pythom"
    world.submit().wait(60)
    assert world.job.state == "held"
    assert len(world.of(records.AttemptPlanned)) == 2


def test_attempt_that_a_node_refuses_to_begin_is_no_fault_of_the_script() -> None:
    world = World()
    world.start_fails, world.start_seen = "n0: has room for 0 ranks", False
    world.submit().wait(60)
    assert world.cause == "unknown"
    assert world.job.state == "held"
    assert len(world.of(records.AttemptPlanned)) == 3


def test_job_without_marks_counts_as_training_after_a_while_and_completes() -> None:
    world = World(speaks=False).submit()
    assert world.job.state == "starting"
    world.wait(60)
    assert world.job.state == "training"
    world.finish()
    assert world.job.state == "completed"
    assert effects(world, "release-job")


def test_job_that_begins_to_speak_late_is_starting_until_its_first_step() -> None:
    world = World().submit().wait(60)
    assert world.job.state == "training"
    attempt = world.job.attempt
    assert attempt is not None
    world.feed(records.Attached(world.now, world.name, attempt.generation))
    assert world.job.state == "starting"


def test_rank_that_leaves_with_status_0_while_others_work_is_not_an_incident_by_itself() -> None:
    world = World().submit().train(3)
    world._exit(0, code=0)
    assert world.job.state == "training"
    assert not world.of(records.IncidentOpened)


def test_lost_keeper_is_an_incident_though_nobody_saw_the_ranks_die() -> None:
    world = World().submit().train(3)
    world.alive = {r: n for r, n in world.alive.items() if n != "n1"}
    world.observe("keeper-lost", "n1", "the keeper of job on n1 is gone").wait(15)
    assert world.cause == "rank-killed"


def test_cordoned_node_is_not_placed_on_and_uncordoning_starts_a_waiting_job() -> None:
    world = World(spares=0)
    world.join("n0").join("n1").ask("cordon", "n1")
    world.submit_only()
    assert world.job.attempt is None
    world.ask("uncordon", "n1")
    assert world.job.attempt is not None


def test_second_submission_under_a_live_name_is_noted_and_changes_nothing() -> None:
    world = World().submit().train(3)
    before = world.job
    world.submit_only()
    assert world.job == before


def test_job_submitted_again_after_its_end_never_uses_a_generation_twice() -> None:
    world = World().submit().train(3).finish()
    world.step = 0
    world.submit_only()
    assert world.job.attempt is not None
    assert world.job.attempt.generation == 2


@pytest.mark.parametrize("lost", ["before", "after"])
def test_unanswered_effects_are_still_pending_for_a_controller_that_starts_again(lost: str) -> None:
    world = World().submit().train(3)
    world.mute = True
    world._exit(0, signal="SIGKILL")
    wanted = {"stop-attempt", "find-checkpoint"}
    assert {e.name for e in world.job.pending} == wanted
    if lost == "after":
        world.unmute()
        assert not wanted & {e.name for e in world.job.pending}


def test_node_that_returns_with_ranks_of_an_older_attempt_is_told_to_end_them_before_it_is_used() -> None:
    world = World(spares=0).submit().train(4, save_every=2).silence("n1").die(0, signal="SIGKILL", echoes=False)
    world.wait(20)
    assert world.job.state == "interrupted"
    assert world.job.attempt is not None
    assert world.job.attempt.generation == 1
    world.mute = True
    world.join("n1", holds=True)
    stops = [e for e in world.job.pending if e.name == "stop-attempt"]
    assert [e.args["placement"] for e in stops] == [["n1"]]
    assert world.job.attempt.generation == 1
    world.unmute()
    assert world.job.attempt.generation == 2


@pytest.mark.parametrize("end", [{"signal": "SIGTERM"}, {"code": 0}])
def test_ranks_that_their_keeper_ended_by_itself_are_an_incident_and_no_completion(end: dict[str, object]) -> None:
    world = World(nodes=1, spares=0).submit().train(4, save_every=2).die(1, echoes=False, asked=True, **end)
    assert world.of(records.Diagnosed)[-1].cause == "rank-killed"
    assert "its keeper" in world.of(records.Diagnosed)[-1].sentence
    world.train(5)
    assert (world.job.state, world.job.attempts) == ("training", 2)


def test_host_that_is_back_before_it_counts_as_lost_is_blamed_all_the_same() -> None:
    world = World(spares=0).submit().train(4, save_every=2).silence("n1")
    world.mute = True
    world.alive = {rank: node for rank, node in world.alive.items() if node != "n1"}
    world.die(0, echoes=True, code=1, error_type="ConnectionResetError", error_message="Connection reset by peer")
    world.wait(2).join("n1", boot="b2")
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.nodes) == ("node-lost", ("n1",))
    world.train(5)
    assert world.job.attempts == 2


def test_node_that_lost_its_keeper_while_the_controller_was_away_is_not_taken_for_a_lost_node() -> None:
    world = World(nodes=1, spares=1).submit().train(4, save_every=2).silence("n0").wait(1).join("n0")
    assert world.of(records.Diagnosed)[-1].cause == "rank-killed"
    assert world.job.attempt is not None
    assert world.job.attempt.placement == ("n0",)
    assert world.state.nodes["n0"].mark == "clear"
