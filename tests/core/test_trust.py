"""The ladder of trust: what is looked at, what takes a checkpoint out, and when a person has to be asked."""

from __future__ import annotations

from typing import Any

from outrider_controller.core import known, records, trust
from outrider_controller.core import state as states
from tests.core.world import World

CRASH: dict[str, Any] = {"code": 1, "error_type": "FloatingPointError", "error_message": "overflow"}
NOT_READ: dict[str, Any] = {
    "code": 1,
    "phase": "load",
    "error_type": "UnpicklingError",
    "error_message": "Weights only load failed",
    "error_where": "serialization.py:1633 in load",
}
CODE: dict[str, Any] = {"code": 1, "phase": "load", "error_type": "TypeError", "error_message": "load() got 'strict'"}


def effects(world: World, name: str) -> list[records.EffectRequested]:
    return [row for row in world.of(records.EffectRequested) if row.name == name]


def at_step(world: World, step: int) -> states.KnownCheckpoint:
    found = known.checkpoint(world.job, f"/ckpt/step-{step}")
    assert found is not None
    return found


def resumed(world: World) -> int:
    assert world.job.attempt is not None
    return world.job.attempt.resume_step


# --- what is looked at


def test_each_saved_checkpoint_is_looked_at_beside_training_and_its_verdict_is_kept() -> None:
    world = World().submit().train(9, save_every=4)
    assert [e.args["step"] for e in effects(world, "verify-checkpoint")] == [4, 8]
    assert [(k.step, k.trust) for k in world.job.checkpoints] == [(8, "hashed"), (4, "hashed")]
    world.die(3, signal="SIGKILL")
    asked = effects(world, "find-checkpoint")[-1].args
    assert asked["known"]["/ckpt/step-8"] == {"trust": "hashed", "fingerprint": "8:", "tree": "8:"}
    assert asked["before_step"] is None
    assert asked["distrusted"] == {}


def test_a_refusal_of_what_was_found_damaged_before_carries_the_reason_that_was_found() -> None:
    world = World().submit().train(9, save_every=4)
    world.damage(8).wait(601).die(3, signal="SIGKILL")
    asked = effects(world, "find-checkpoint")[-1].args
    assert asked["known"]["/ckpt/step-8"]["trust"] == "rejected"
    assert asked["known"]["/ckpt/step-8"]["why"] == "__3_0.distcp is not what was written"


def test_one_look_at_a_time_and_the_newest_first() -> None:
    world = World().submit().train(3)
    world.mute = True
    for step in (1, 2, 3):
        world.save(step)
    assert [e.args["step"] for e in effects(world, "verify-checkpoint")] == [1]
    world.unmute()
    assert [e.args["step"] for e in effects(world, "verify-checkpoint")] == [1, 3, 2]


def test_the_last_checkpoint_of_a_job_that_is_complete_is_looked_at_and_no_older_one() -> None:
    world = World().submit().train(3)
    world.mute = True
    for step in (1, 2, 3):
        world.save(step)
    world.finish()
    assert world.job.state == "completed"
    world.damage(3).unmute()
    assert [e.args["step"] for e in effects(world, "verify-checkpoint")] == [1, 3]
    assert at_step(world, 3).trust == "rejected"
    assert [row.cause for row in world.of(records.Diagnosed)] == ["checkpoint-corrupt"], "people are told"
    assert world.job.state == "completed"
    assert not [t for t in world.job.timers if t[0] == trust.LOOK_AGAIN]


def test_a_look_without_an_answer_is_not_repeated_at_once() -> None:
    world = World().submit().train(3)
    world.mute = True
    world.save(3)
    [look] = effects(world, "verify-checkpoint")
    world.effects_seen[look.effect] = look.name
    world.feed(records.EffectDone(world.now, world.name, look.effect, False, {}, "no such file system"))
    assert len(effects(world, "verify-checkpoint")) == 1
    world.unmute().wait(trust.LOOK_AGAIN_S + 1)
    assert len(effects(world, "verify-checkpoint")) == 2
    assert at_step(world, 3).trust == "hashed"


def test_a_checkpoint_that_is_gone_is_no_problem() -> None:
    world = World().submit().train(9, save_every=4)
    world.checkpoints.remove(8)
    world.wait(trust.LOOK_AGAIN_S + 1)
    assert known.checkpoint(world.job, "/ckpt/step-8") is None
    assert not world.of(records.IncidentOpened)


def test_a_look_that_is_under_way_holds_up_neither_a_restart_nor_the_end() -> None:
    world = World().submit().train(4)
    world.mute = True
    world.save(4)
    [look] = world.job.pending
    world.effects_seen[look.effect] = look.name  # it never answers
    world.unmute().die(2, signal="SIGKILL")
    assert resumed(world) == 4
    world.train(6).finish()
    assert world.job.state == "completed"
    assert [e.name for e in world.job.pending if e.name not in trust.ASIDE] == []


# --- survived


def test_ten_steps_from_a_load_make_a_checkpoint_survived() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").train(17)
    assert at_step(world, 8).trust == "hashed"
    world.train(18)
    assert at_step(world, 8).trust == "survived"
    [row] = world.of(records.CheckpointTrusted)
    assert (row.step, row.trust, row.why) == (8, "survived", "attempt 1 trained 10 steps from it")


def test_the_same_content_looked_at_again_has_still_survived() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").train(18).wait(trust.LOOK_AGAIN_S + 1)
    assert at_step(world, 8).trust == "survived"


# --- a load that fails on what it reads


def test_a_checkpoint_that_could_not_be_loaded_is_never_loaded_again() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").die(1, **NOT_READ)
    assert (world.cause, resumed(world)) == ("checkpoint-corrupt", 4)
    assert at_step(world, 8).distrust
    asked = [e.args["distrusted"] for e in effects(world, "find-checkpoint")]
    assert list(asked[-1]) == ["/ckpt/step-8"]
    world.train(30)
    assert world.job.incident is None


def test_a_torn_checkpoint_is_told_from_a_damaged_one() -> None:
    end = {**NOT_READ, "error_type": "EOFError", "error_message": "Ran out of input"}
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").die(1, **end)
    assert (world.cause, resumed(world)) == ("checkpoint-torn", 4)


def test_a_rank_killed_while_it_loads_says_nothing_about_the_checkpoint() -> None:
    world = World().submit().train(9, save_every=4)
    for _ in range(3):
        world.die(3, signal="SIGKILL", phase="load")
    assert (world.cause, resumed(world)) == ("rank-killed", 8)
    assert not world.of(records.CheckpointTrusted)


def test_a_node_lost_while_it_loads_says_nothing_about_the_checkpoint() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").vanish("n0").wait(20)
    assert (world.cause, resumed(world)) == ("node-lost", 8)
    assert not world.of(records.CheckpointTrusted)


def test_the_same_error_at_another_load_is_the_scripts_and_nobody_is_blamed_for_it() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").die(1, **CODE)
    assert (world.cause, resumed(world)) == ("checkpoint-corrupt", 4)
    world.die(1, **CODE)
    assert world.cause == "user-error"
    assert [k.distrust for k in world.job.checkpoints] == ["", ""]


def test_two_checkpoints_that_are_torn_alike_are_both_left_out() -> None:
    end = {**NOT_READ, "error_type": "EOFError", "error_message": "Ran out of input"}
    world = World().submit().train(13, save_every=4).die(3, signal="SIGKILL").die(1, **end).die(2, **end)
    assert (world.cause, resumed(world)) == ("checkpoint-torn", 4)
    assert [bool(k.distrust) for k in world.job.checkpoints] == [True, True, False]


def test_a_load_error_of_another_model_is_the_scripts_own() -> None:
    end = {**CODE, "error_type": "RuntimeError", "error_message": "Missing key in checkpoint state_dict: head."}
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").die(1, **end)
    assert world.cause == "user-error"
    assert not world.of(records.CheckpointTrusted)


# --- crashes soon after a load


def test_the_second_crash_soon_after_the_same_load_takes_the_checkpoint_out() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL")
    world.train(10).die(0, signal="SIGSEGV")
    assert resumed(world) == 8
    world.train(11).die(1, **CRASH)
    assert resumed(world) == 4
    assert "broke within 10 steps" in at_step(world, 8).distrust


def test_a_failure_that_struck_before_the_load_is_not_the_checkpoints() -> None:
    world = World().submit().train(9, save_every=4).die(0, signal="SIGSEGV")
    world.train(10).die(0, signal="SIGSEGV").train(10).die(0, signal="SIGSEGV")
    assert not world.of(records.CheckpointTrusted)


def test_a_crash_after_ten_steps_is_not_the_checkpoints() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL")
    for last in (20, 21):
        world.train(last).die(last % 4, **{**CRASH, "error_message": f"other {'x' * (last - 19)}"})
    assert [row.trust for row in world.of(records.CheckpointTrusted)] == ["survived", "survived"]


def test_a_checkpoint_saved_anew_under_its_old_name_has_no_past() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL").die(1, **NOT_READ)
    world.train(9, save_every=8)
    assert at_step(world, 8).distrust == ""
    world.die(2, signal="SIGKILL")
    assert resumed(world) == 8


# --- nothing left


def test_a_job_without_any_checkpoint_begins_from_the_beginning() -> None:
    world = World().submit().train(3).die(3, signal="SIGKILL")
    assert (world.decision, resumed(world)) == ("restart", 0)


def test_a_job_whose_checkpoints_are_all_refused_waits_for_a_person() -> None:
    world = World().submit().train(9, save_every=4)
    world.damage(4).damage(8).die(3, signal="SIGKILL")
    assert (world.cause, world.decision, world.job.state) == ("rank-killed", "hold-for-person", "held")
    assert "no checkpoint can be trusted: step 8 (step-8) and 1 more refused" in world.job.why
    world.ask("approve")
    assert world.job.state == "held"
    world.damaged.clear()
    world.ask("approve")
    assert resumed(world) == 8


def test_a_job_begins_anew_once_a_person_has_moved_the_refused_ones_away() -> None:
    world = World().submit().train(9, save_every=8)
    world.damage(8).die(3, signal="SIGKILL")
    assert world.job.state == "held"
    world.checkpoints.clear()
    world.ask("approve")
    assert (world.job.state, resumed(world)) == ("interrupted", 0)


def test_a_person_who_approves_lets_what_was_demoted_be_tried_again() -> None:
    world = World().submit().train(9, save_every=8).die(3, signal="SIGKILL").die(1, **NOT_READ)
    assert world.job.state == "held"
    assert world.decision == "hold-for-person"
    world.ask("approve")
    assert resumed(world) == 8


def test_a_first_save_that_was_cut_off_is_no_checkpoint() -> None:
    world = World().submit().train(3)
    world.checkpoints.append(3)  # nobody said that it was saved
    world.damaged["/ckpt/step-3"] = ("missing", "is missing: the checkpoint was never finished")
    world.checkpoint_file = ".metadata"
    world.die(3, signal="SIGKILL")
    assert (world.job.state, resumed(world)) == ("interrupted", 0)


def test_evidence_names_each_checkpoint_that_was_refused_on_the_way() -> None:
    world = World().submit().train(9, save_every=4)
    world.damage(8).die(3, signal="SIGKILL")
    assert (world.cause, resumed(world)) == ("rank-killed", 4)
    rows = [row for row in world.of(records.Diagnosed)[-1].evidence if row["kind"] == "checkpoint-refused"]
    assert [row["text"] for row in rows] == ["/ckpt/step-8 was refused: __3_0.distcp: is not what was written"]
    world.train(12)
    assert len(world.of(records.IncidentOpened)) == 1, "what the incident's evidence tells is not told once more"


# --- what is kept


def test_old_checkpoints_are_removed_only_once_a_newer_one_is_known_to_be_good() -> None:
    world = World(keep=2).submit().train(16, save_every=4)
    assert sorted(world.checkpoints) == [12, 16]
    assert {k.step for k in world.job.checkpoints} == {12, 16}


def test_what_the_running_attempt_was_loaded_from_is_protected() -> None:
    world = World(keep=1).submit().train(5, save_every=4).die(3, signal="SIGKILL").train(8, save_every=4)
    asked = effects(world, "prune-checkpoints")[-1].args
    assert asked == {"keep": 1, "protect": ["/ckpt/step-8", "/ckpt/step-4"]}
    assert sorted(world.checkpoints) == [4, 8]


def test_nothing_is_removed_while_the_newest_is_damaged() -> None:
    world = World(keep=1).submit().train(7, save_every=4)
    world.step = 7
    world.mute = True
    world.train(8, save_every=4)
    world.damage(8)
    world.unmute()
    assert sorted(world.checkpoints) == [4, 8]
    assert not effects(world, "prune-checkpoints")


def test_nothing_is_removed_unless_the_job_asks_for_it() -> None:
    world = World().submit().train(40, save_every=2)
    assert len(world.checkpoints) == 20
    assert not effects(world, "prune-checkpoints")


def test_what_is_known_of_checkpoints_is_bounded() -> None:
    world = World().submit().train(80, save_every=1)
    assert len(world.job.checkpoints) == states.CHECKPOINTS_KNOWN_MAX
    assert world.job.checkpoints[0].step == 80
