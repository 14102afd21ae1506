"""What people see of refused checkpoints, of findings that interrupt nothing, and of the work that was done."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_controller import accounting, incident_documents, projection, runbook_files, throughput, timeline
from outrider_controller.core import jobs, records
from outrider_controller.series import Sample
from tests.core.test_random_checkpoints import MOVES, move
from tests.core.world import World

POLICY = runbook_files.load()


def documents(world: World) -> list[dict[str, object]]:
    return incident_documents.incidents(world.rows, world.name, world.now)


def damaged_beside_training() -> World:
    world = World(policy=POLICY).submit().train(9, save_every=4)
    world.damage(8).wait(601)
    return world.train(12)


def test_a_finding_is_an_incident_that_interrupted_nothing() -> None:
    [one] = documents(damaged_beside_training())
    assert (one["interrupted"], one["cause"], one["action"]) == (False, "checkpoint-corrupt", "watch")
    assert (one["outcome"], one["length_s"], one["lost_steps"], one["automatic"]) == ("watched", 0, 0, True)
    assert set(one["phases"].values()) == {0.0}  # type: ignore[attr-defined]
    assert one["sentence"] == (
        "the newest checkpoint of step 8 was refused: __3_0.distcp is not what was written; "
        "the newest good one is of step 4; nothing was interrupted"
    )


def test_a_finding_is_counted_beside_the_interruptions_and_takes_no_second() -> None:
    world = damaged_beside_training()
    found = accounting.report(world.rows, world.name, world.now)
    assert (found["interruptions"]["total"], found["interruptions"]["watched"]) == (0, 1)
    assert found["by_cause"] == {}
    assert found["mttf"]["hours"] is None
    assert found["bins"]["detection"] == found["bins"]["redo"] == 0
    assert sum(found["bins"].values()) == pytest.approx(found["elapsed_s"], abs=1e-3)
    assert [one["interrupted"] for one in found["incidents"]] == [False]


def test_a_kill_with_a_damaged_newest_checkpoint_says_what_was_refused_and_what_was_used() -> None:
    world = World(policy=POLICY).submit().train(9, save_every=4)
    world.damage(8).die(3, signal="SIGKILL").train(12)
    [one] = documents(world)
    assert one["cause"] == "rank-killed"
    assert one["from_checkpoint"] == {
        "step": 4,
        "path": "/ckpt/step-4",
        "trust": "hashed",
        "rejected": [{"path": "/ckpt/step-8", "step": 8, "why": "__3_0.distcp: is not what was written"}],
    }
    assert one["lost_steps"] == 5
    assert "the newest checkpoint (step 8) was refused: file __3_0.distcp is not what was written" in str(
        one["sentence"]
    )
    assert "restarted on the same nodes from step 4" in str(one["sentence"])


def test_the_checkpoint_that_was_used_is_told_and_not_the_one_that_was_found_first() -> None:
    end = {"code": 1, "phase": "load", "error_type": "EOFError", "error_message": "Ran out of input"}
    world = World(policy=POLICY).submit().train(9, save_every=4).die(3, signal="SIGKILL").die(1, **end).train(10)
    first, second = documents(world)
    assert first["from_checkpoint"]["path"] == "/ckpt/step-8"  # type: ignore[index]
    assert second["from_checkpoint"]["path"] == "/ckpt/step-4"  # type: ignore[index]
    assert "could not load it" in str(second["sentence"])


def test_the_status_says_why_an_older_checkpoint_is_loaded() -> None:
    world = World(policy=POLICY).submit().train(9, save_every=4)
    world.damage(8).die(3, signal="SIGKILL")
    view = projection.ProgressView(step=9)
    sentence = projection.status(world.job, world.state.nodes, view, world.now)["sentence"]
    words = "from step 4, since the newest checkpoint of step 8 was refused: file __3_0.distcp is not what was written"
    assert words in sentence


def test_what_could_not_be_verified_in_time_is_told_wherever_the_checkpoint_is() -> None:
    world = World(policy=POLICY).submit().train(9, save_every=4).die(3, signal="SIGKILL").train(12)
    late = {"path": "/ckpt/step-8", "why": "was not verified within the 120 s of limits.verify_s"}
    rows = tuple(
        dataclasses.replace(row, result={**row.result, "passed_over": [late], "note": "complete, and no more"})
        if isinstance(row, records.EffectDone) and "judged" in row.result
        else row
        for row in world.rows
    )
    [one] = incident_documents.incidents(rows, world.name, world.now)
    found: Any = one["from_checkpoint"]
    assert (found["passed_over"], found["note"]) == ([late], "complete, and no more")
    assert f"the checkpoint step-8 {late['why']}, and was passed over" in str(one["sentence"])
    told = " ".join(line["text"] for line in projection.explain(rows, str(one["id"]), world.now)["timeline"])
    assert "passed over step-8: it was not verified" in told
    assert "(complete, and no more)" in told


def test_the_story_of_an_incident_tells_of_numbers_and_trust() -> None:
    world = World(policy=POLICY).submit().train(9, save_every=4).nan(7).train(15)
    lines = [line["text"] for line in projection.explain(world.rows, "job-1", world.now)["timeline"]]
    assert "step 7 ended with loss=nan" in lines
    assert "the checkpoint of step 8 is now rejected: it was saved at or after step 7, whose loss=nan" in lines


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 1000)), max_size=15))
def test_bins_sum_to_the_elapsed_time_whatever_is_found_beside_training(moves: list[tuple[str, int]]) -> None:
    world = World(policy=POLICY).submit()
    for verb, number in moves:
        move(world, verb, number)
    found = accounting.report(world.rows, world.name, world.now + 3)
    assert sum(found["bins"].values()) == pytest.approx(found["elapsed_s"], abs=1e-3)
    owned = {segment.incident for segment in timeline.segments(world.rows, world.name, world.now + 3)}
    beside = {row.incident for row in world.of(records.IncidentOpened) if not row.interrupted}
    assert not owned & beside
    counts = found["interruptions"]
    assert counts["total"] + counts["watched"] == len(found["incidents"])


# --- work done


def test_each_step_counts_once_however_often_it_was_trained() -> None:
    samples = [Sample(1, 1, 0.0, tokens=10.0), Sample(1, 2, 1.0, tokens=10.0), Sample(2, 2, 5.0, tokens=10.0)]
    done = throughput.of([*samples, Sample(2, 3, 6.0, tokens=10.0)], since_generation=1)
    assert done is not None
    assert done.tokens == 30


def test_steps_that_were_thinned_out_of_the_store_are_stood_for() -> None:
    samples = [Sample(1, step, float(step), tokens=10.0) for step in (1, 3, 5, 6, 7)]
    done = throughput.of(samples, since_generation=0)
    assert done is not None
    assert done.tokens == 70


def test_marks_of_a_former_life_of_the_name_do_not_count() -> None:
    assert throughput.of([Sample(1, 1, 0.0, tokens=10.0)], since_generation=2) is None
    assert throughput.of([Sample(1, 1, 0.0)], since_generation=0) is None


def test_mfu_needs_a_peak_and_says_what_it_was_counted_from() -> None:
    spec = jobs.parse({"name": "a", "command": ["x"], "ranks_per_node": 4, "peak_tflops": 2.5})
    assert throughput.devices(spec) == accounting.Devices(4, 2.5)
    assert throughput.devices(jobs.parse({"name": "a", "command": ["x"]})) is None
    world = World(policy=POLICY).submit()
    attempt = world.job.attempt
    assert attempt is not None
    world.feed(records.Attached(world.now, world.name, attempt.generation, None, 6e9)).train(10)
    samples = [Sample(attempt.generation, step, 0.0, tokens=1000.0) for step in range(1, 11)]
    done = throughput.of(samples, throughput.first_generation(world.rows, world.name))
    found = accounting.report(world.rows, world.name, world.now, throughput.devices(spec), done)
    mfu, productive = found["mfu"], found["bins"]["productive"]
    assert mfu["while_training"] == pytest.approx(10 * 1000 * 6e9 / productive / (4 * 2.5e12))
    assert mfu["with_downtime"] < mfu["while_training"]
    assert "peak_tflops" in mfu["convention"]
    assert mfu["reason"] is None
    assert "peak_tflops" in accounting.report(world.rows, world.name, world.now)["mfu"]["reason"]
