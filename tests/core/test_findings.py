"""What interrupts nothing is told of once and never lost; a step without a number interrupts and is not loaded."""

from __future__ import annotations

from outrider import records as spoken
from outrider_controller.core import known, records, trust
from tests.core.world import World


def full(world: World, node: str = "n0", mount: str = "/data", kind: str = "disk-full") -> World:
    world.seq += 1
    text = f"{mount} on {node} has no room"
    seen = spoken.Observation(world.seq, kind, "error", world.now, node, text, device=mount)
    return world.feed(records.Observed(world.now, world.name, seen, world.step or None))


def watched(world: World) -> list[records.IncidentOpened]:
    return [row for row in world.of(records.IncidentOpened) if not row.interrupted]


def notified(world: World, incident: str) -> list[str]:
    return [
        row.args["event"]
        for row in world.of(records.EffectRequested)
        if row.name == "notify" and row.incident == incident
    ]


# --- findings


def test_a_damaged_checkpoint_found_beside_training_is_told_once_and_stops_nothing() -> None:
    world = World().submit().train(9, save_every=4)
    world.damage(8).wait(trust.LOOK_AGAIN_S + 1)
    [opened] = watched(world)
    found, decided = world.of(records.Diagnosed)[-1], world.of(records.Decided)[-1]
    closed = world.of(records.IncidentClosed)[-1]
    assert (found.cause, decided.decision, closed.outcome) == ("checkpoint-corrupt", "watch", "watched")
    assert opened.at == found.at == decided.at == closed.at
    assert found.sentence == (
        "the newest checkpoint of step 8 was refused: __3_0.distcp is not what was written; "
        "the newest good one is of step 4"
    )
    assert decided.price_gpu_h == 0
    assert notified(world, opened.incident) == ["opened"]
    assert (world.job.state, world.job.incident) == ("training", None)
    assert not [e for e in world.of(records.EffectRequested) if e.name == "stop-attempt"]
    world.wait(3 * trust.LOOK_AGAIN_S)
    assert len(watched(world)) == 1
    world.die(3, signal="SIGKILL")
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 4


def test_a_repaired_checkpoint_is_trusted_anew_and_a_second_damage_is_news() -> None:
    world = World().submit().train(9, save_every=8)
    world.damage(8).wait(trust.LOOK_AGAIN_S + 1)
    assert [k.trust for k in world.job.checkpoints] == ["rejected"]
    world.damaged.clear()
    world.die(3, signal="SIGKILL")
    assert [k.trust for k in world.job.checkpoints] == ["hashed"]
    world.train(10)
    world.damage(8).wait(trust.LOOK_AGAIN_S + 1)
    assert len(watched(world)) == 2


def test_a_full_disk_is_told_once_until_it_has_room_again() -> None:
    world = World().submit().train(4)
    full(full(full(world), mount="/var"))
    assert [row.text for row in watched(world)] == ["/data on n0 has no room", "/var on n0 has no room"]
    assert {row.cause for row in world.of(records.Diagnosed)} == {"disk-full"}
    full(full(world, kind="disk-clear"))
    assert len(watched(world)) == 3


def test_rows_that_the_disk_refused_are_noted_and_told() -> None:
    world = World().submit().train(4)
    world.feed(records.RecordingFailed(world.now, world.name, world.now - 7, "database or disk is full"))
    [opened] = watched(world)
    assert opened.text == "the controller could record nothing for 7.0 s: database or disk is full"
    assert world.cause == "disk-full"
    assert any("nothing new was begun" in row.text for row in world.of(records.Noted))


def test_a_finding_during_an_incident_is_noted_and_becomes_one_of_its_own_afterwards() -> None:
    world = World().submit().train(7, save_every=4).die(3, signal="SIGKILL").train(5)
    assert world.job.incident is not None
    full(world)
    assert not watched(world)
    assert any("to be told of after it" in row.text for row in world.of(records.Noted))
    world.train(8)
    [opened] = watched(world)
    assert [row.incident for row in world.of(records.IncidentClosed)] == ["job-1", opened.incident]
    assert world.job.findings == ()


def test_a_finding_that_waits_is_told_even_when_the_job_ends() -> None:
    world = World().submit().train(7, save_every=4).die(3, signal="SIGKILL").train(5)
    full(world).finish()
    assert world.job.state == "completed"
    assert len(watched(world)) == 1


def test_a_finding_is_no_interruption_to_the_brakes() -> None:
    world = World().submit().train(4)
    for number in range(10):
        full(world, mount=f"/m{number}")
    world.die(3, signal="SIGKILL")
    assert world.decision == "restart"
    assert world.job.restarts == 1


# --- no number


def test_a_nan_goes_back_to_the_checkpoint_before_it_and_never_to_one_after() -> None:
    world = World().submit().train(9, save_every=4).nan(7, before=({"step": 6, "loss": 3.2, "grad_norm": 0.5},))
    assert world.job.attempt is not None
    assert (world.cause, world.decision, world.job.attempt.resume_step) == ("loss-nan", "restart", 4)
    found = world.of(records.Diagnosed)[-1]
    assert [row["text"] for row in found.evidence][:2] == [
        "step 7 ended with loss=nan",
        "step 6: loss 3.2, grad_norm 0.5",
    ]
    distrusted = known.checkpoint(world.job, "/ckpt/step-8")
    assert distrusted is not None
    assert distrusted.distrust == "it was saved at or after step 7, whose loss=nan"
    [opened] = world.of(records.IncidentOpened)
    assert (opened.opened_by, opened.lost_step) == ("not-finite", 7)
    world.train(7)
    assert world.job.incident is None
    assert world.job.not_finite_step is None


def test_what_was_saved_before_the_news_came_is_not_loaded_either() -> None:
    world = World().submit().train(9, save_every=4)
    world.mute = True
    world.nan(7)
    world.save(9)
    world.unmute()
    assert {k.step for k in world.job.checkpoints if k.distrust} == {8, 9}
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 4


def test_a_kill_before_the_step_is_passed_does_not_lead_beyond_it() -> None:
    world = World().submit().train(9, save_every=4).nan(7).train(5).die(3, signal="SIGKILL")
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 4


def test_the_same_step_without_a_number_again_waits_for_a_person() -> None:
    world = World().submit().train(7, save_every=2).nan(7).train(7, save_every=1).nan(7)
    assert (world.cause, world.decision, world.job.state) == ("loss-nan", "hold-for-person", "held")
    assert "the same step 2 times" in world.job.why


def test_another_step_without_a_number_soon_after_the_same_load_takes_the_older_checkpoint() -> None:
    world = World().submit().train(9, save_every=4).die(3, signal="SIGKILL")
    world.train(10).nan(10).train(11).nan(11)
    assert world.job.attempt is not None
    assert (world.decision, world.job.attempt.resume_step) == ("restart", 4)


def test_a_nan_before_the_first_checkpoint_begins_from_the_beginning() -> None:
    world = World().submit().train(4, save_every=4).nan(3)
    assert world.job.attempt is not None
    assert (world.decision, world.job.attempt.resume_step) == ("restart", 0)


def test_one_rank_whose_numbers_alone_are_gone_is_the_suspect() -> None:
    world = World().submit().train(6, save_every=4).nan(6, ranks=(2,), others=(0,))
    found = world.of(records.Diagnosed)[-1]
    assert (found.ranks, found.nodes) == ((2,), ("n1",))
    world = World().submit().train(6, save_every=4).nan(6, ranks=(0, 2))
    assert world.of(records.Diagnosed)[-1].ranks == ()


def test_a_nan_of_an_older_attempt_or_a_second_one_changes_nothing() -> None:
    world = World().submit().train(9, save_every=4).nan(7)
    generation = world.job.generation
    world.feed(records.NotFinite(world.now, world.name, generation - 1, 8, ("loss=nan",)))
    assert (len(world.of(records.IncidentOpened)), world.job.generation) == (1, generation)
