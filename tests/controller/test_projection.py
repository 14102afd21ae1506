"""What people see: incidents, one incident explained, and how a job stands."""

from __future__ import annotations

import dataclasses
import json

import pytest

from outrider import records as spoken
from outrider import vocabulary
from outrider_controller import accounting, projection
from outrider_controller.core import records
from outrider_controller.core import state as states
from tests.controller.story import START, Story
from tests.core.world import World

INCIDENT_KEYS = {
    *("id", "job", "planned", "opened_at", "closed_at", "cause", "cause_group", "confidence", "suspects", "evidence"),
    *("action", "alternatives", "runbook", "from_checkpoint", "lost_steps", "phases", "policy_hash"),
    *("attempt_before", "attempt_after", "automatic", "sentence"),
}
STATUS_KEYS = {
    *("job", "state", "attempt", "step", "step_s", "tokens_per_s", "mfu", "since_at", "sentence", "nodes", "ranks"),
    "open_incident",
}


def seen(world: World, **ages: float) -> projection.ProgressView:
    """Every node heard a second ago but for ``ages``; every living rank told where it stands."""
    attempt = world.job.attempt
    generation = attempt.generation if attempt else 0
    ranks = {
        rank: spoken.RankProgress("job", generation, rank, rank % 2, 500 + rank, world.step, "step", world.now)
        for rank in world.alive
    }
    return projection.ProgressView(
        world.step or None, 0.5, 1000.0, ranks, {**dict.fromkeys(world.state.nodes, 1.0), **ages}
    )


def status(world: World, view: projection.ProgressView | None = None) -> dict[str, object]:
    found = projection.status(world.job, world.state.nodes, view or seen(world), world.now)
    assert set(found) >= STATUS_KEYS
    assert found["state"] in vocabulary.JOB_STATES
    json.dumps(found, allow_nan=False)
    return found


def node_states(found: dict[str, object]) -> dict[str, str]:
    nodes = found["nodes"]
    assert isinstance(nodes, list)
    assert {node["state"] for node in nodes} <= set(vocabulary.NODE_STATES)
    return {node["node"]: node["state"] for node in nodes}


def test_a_closed_incident_tells_its_whole_story() -> None:
    story = Story().submit().start(0, 2, 10).killed(fault=50, opened=51, decided=53, training=60, regained=64)
    (one,) = projection.incidents(story.rows)
    assert set(one) >= INCIDENT_KEYS
    assert (one["opened_at"], one["closed_at"]) == ("2027-01-15T08:00:50.000Z", "2027-01-15T08:01:04.000Z")
    assert one["detected_at"] == "2027-01-15T08:00:51.000Z"
    assert one["phases"] == {
        "detection_s": 1,
        "diagnosis_s": 2,
        "restart_s": 7,
        "redo_s": 4,
        "planned_s": 0,
        "held_s": 0,
    }
    assert one["length_s"] == 14
    assert (one["attempt_before"], one["attempt_after"], one["lost_steps"]) == (0, 1, 7)
    assert one["suspects"] == {"ranks": [3], "gpus": [], "nodes": ["n1"], "links": []}
    assert one["evidence"][0]["at"] == "2027-01-15T08:00:53.000Z"
    assert one["from_checkpoint"] == {"step": 40, "path": "/ckpt/step-40", "trust": "complete", "rejected": []}
    assert (one["action"], one["runbook"], one["automatic"]) == ("restart", "rank-killed", True)
    assert one["alternatives"][0]["action"] == "watch"
    assert one["sentence"] == (
        "rank 3 was killed, on n1; restarted on the same nodes from step 40; the lost step is regained"
    )


def test_an_incident_without_a_checkpoint_goes_back_to_the_beginning_and_not_to_step_nothing() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50).look(53, step=0).decide(53).plan(53, "llama-1", 0)
    (one,) = projection.incidents(story.rows)
    assert one["from_checkpoint"] == {"step": 0, "path": None, "trust": None, "rejected": []}
    assert "from the beginning" in one["sentence"]
    assert one["lost_steps"] == 47


def test_an_open_incident_claims_nothing_that_is_not_known_yet() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50)
    (one,) = projection.incidents(story.rows, "llama", START + 55)
    assert one["phases"]["diagnosis_s"] == 4
    for key in ("closed_at", "cause", "action", "from_checkpoint", "lost_steps", "attempt_after", "policy_hash"):
        assert one[key] is None, key
    assert (one["confidence"], one["evidence"]) == (0.0, [])
    assert "the cause is being looked for" in one["sentence"]


def test_a_planned_incident_is_no_work_of_the_controller() -> None:
    story = Story().submit().start(0, 2, 10).open(50, 50, planned="hold").look(52).move(52, "held", "a person holds it")
    (one,) = projection.incidents(story.rows, now=START + 60)
    assert (one["planned"], one["automatic"], one["cause"]) == (True, False, None)
    assert (one["phases"]["planned_s"], one["phases"]["held_s"]) == (2, 8)


def test_a_held_incident_that_a_person_lets_go_on_is_manual_and_keeps_the_alternatives() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50).look(53).decide(53, "hold-for-person").move(53, "held")
    story.decided(90, "restart", automatic=False).move(90, "interrupted").plan(91, "llama-1", 40)
    (one,) = projection.incidents(story.rows)
    assert (one["automatic"], one["action"], one["phases"]["held_s"]) == (False, "restart", 37)


def test_incidents_of_all_jobs_come_in_the_order_in_which_they_were_opened() -> None:
    one = Story().submit().start(0, 2, 10).killed(50, 51, 53, 60, 64)
    other = Story("other").submit().start(0, 2, 10).killed(30, 31, 33, 40, 44)
    rows = sorted([*one.rows, *other.rows], key=lambda row: row.at)
    assert [i["id"] for i in projection.incidents(rows)] == ["other-1", "llama-1"]
    assert [i["id"] for i in projection.incidents(rows, "llama")] == ["llama-1"]
    assert projection.incidents(rows, "nobody") == []


def test_incidents_of_an_earlier_life_of_the_name_are_still_there() -> None:
    story = Story().submit().start(0, 2, 10).killed(50, 51, 53, 60, 64).move(70, "completed").submit(100)
    story.start(100, 101, 105).killed(150, 151, 153, 160, 164)
    assert [i["id"] for i in projection.incidents(story.rows)] == ["llama-1", "llama-2"]


def test_explain_tells_every_row_of_the_incident_in_order() -> None:
    world = World().submit().train(5, save_every=2).die(3, signal="SIGKILL").train(8)
    found = projection.explain(world.rows, "job-1")
    kinds = [line["kind"] for line in found["timeline"]]
    assert kinds[0] == "observed"
    assert kinds[-1] == "incident-closed"
    assert {"incident-opened", "diagnosed", "decided", "attempt-planned", "training"} <= set(kinds)
    assert [line["s"] for line in found["timeline"]] == sorted(line["s"] for line in found["timeline"])
    assert all(line["text"] for line in found["timeline"])


def test_explain_of_an_unknown_incident_names_the_ones_there_are() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50)
    with pytest.raises(projection.UnknownIncidentError, match="'llama-7' is unknown; the newest are llama-1"):
        projection.explain(story.rows, "llama-7")


def test_a_training_job_shows_its_pace_its_ranks_and_its_spare() -> None:
    world = World(nodes=2, spares=1).submit().train(5)
    job = dataclasses.replace(world.job, mesh="dp=2,tp=2")
    found = projection.status(job, world.state.nodes, seen(world), world.now)
    assert (found["state"], found["step"], found["step_s"]) == ("training", 5, 0.5)
    assert node_states(found) == {"n0": "healthy", "n1": "healthy", "n2": "spare"}
    assert found["ranks"][3] == {
        "rank": 3,
        "node": "n1",
        "local_rank": 1,
        "pid": 503,
        "step": 5,
        "phase": "step",
        "ended": None,
        "coords": {"dp": 1, "tp": 1, "pp": 0, "cp": 0},
    }
    assert found["sentence"] == "job trains on n0, n1: step 5, 0.5 s a step"


def test_a_node_that_is_not_heard_is_unknown_and_the_sentence_says_that_nobody_could_look() -> None:
    world = World().submit().train(5).silence("n1").wait(12)
    found = status(world)
    assert node_states(found)["n1"] == "unknown"
    assert found["state"] == "training"
    assert "could not look at n1: no word for 12 s" in str(found["sentence"])


@pytest.mark.parametrize("age", [None, 60.0])
def test_a_node_whose_heartbeats_stopped_is_never_healthy_even_before_it_counts_as_silent(age: float | None) -> None:
    world = World().submit().train(5)
    view = seen(world) if age is None else seen(world, n1=age)
    if age is None:
        view = dataclasses.replace(view, seen_s={"n0": 1.0})
    assert node_states(status(world, view))["n1"] == "unknown"


def test_nodes_taken_out_are_shown_as_what_they_were_marked() -> None:
    world = World().submit().train(5, save_every=2).vanish("n1").wait(20).ask("cordon", "n0")
    assert node_states(status(world)) | {"n2": ""} == {"n0": "cordoned", "n1": "lost", "n2": ""}


def test_a_node_that_another_job_holds_is_nobodys_spare() -> None:
    world = World().submit().train(5)
    view = dataclasses.replace(seen(world), taken=frozenset({"n2"}))
    assert node_states(status(world, view))["n2"] == "healthy"


def test_a_dead_rank_has_no_pid_and_says_how_it_ended() -> None:
    world = World().submit().train(5)
    world.mute = True
    view = seen(world)
    world._exit(3, signal="SIGKILL")
    found = status(world, view)
    ranks = found["ranks"]
    assert isinstance(ranks, list)
    assert (ranks[3]["pid"], ranks[3]["phase"], ranks[3]["ended"]) == (None, None, "SIGKILL")
    assert ranks[0]["pid"] == 500
    assert found["open_incident"] == "job-1"
    assert "rank-exited" in found["nodes"][1]["findings"]  # type: ignore[index]
    assert (found["step_s"], found["tokens_per_s"], found["mfu"]) == (None, None, None)


def test_the_pid_of_an_older_generation_is_not_shown() -> None:
    world = World().submit().train(5, save_every=2)
    old = seen(world)
    world.die(3, signal="SIGKILL")
    found = status(world, old)
    assert {rank["pid"] for rank in found["ranks"]} == {None}  # type: ignore[attr-defined]


def test_the_sentence_follows_the_job_from_waiting_to_its_end() -> None:
    world = World(nodes=2, spares=-1).submit()
    assert "waits for nodes: 2 with 2 slots each are needed" in str(status(world)["sentence"])
    world.join("n1")
    assert "the first step is not finished" in str(status(world)["sentence"])
    world.train(6, save_every=2).die(1, signal="SIGKILL")
    assert "decided: restart; attempt 1 is started on n0, n1 from step 6" in str(status(world)["sentence"])
    world.checkpoints = [2]
    world.train(9).die(0, signal="SIGKILL").train(4)
    assert "trains again after job-2 and re-does lost steps" in str(status(world)["sentence"])
    world.train(9).finish()
    assert status(world)["sentence"] == "job is complete at step 9: all 4 ranks ended with status 0"


def test_a_held_job_says_what_a_person_can_do() -> None:
    world = World().submit().train(3).ask("hold")
    found = status(world)
    assert found["state"] == "held"
    assert "outrider job approve" in str(found["sentence"])


def test_a_job_that_a_person_stopped_has_failed_and_says_by_whom() -> None:
    found = status(World().submit().train(3).ask("stop"))
    assert (found["state"], found["ended_by"]) == ("failed", "person")
    assert "has ended: a person stopped it" in str(found["sentence"])


def test_mfu_is_shown_only_where_the_peak_the_tokens_and_the_flops_are_known() -> None:
    world = World().submit().train(5)
    job = dataclasses.replace(world.job, flops_per_token=2e9)
    view = dataclasses.replace(seen(world), devices=accounting.Devices(4, 989.4))
    found = projection.status(job, world.state.nodes, view, world.now)
    assert found["mfu"] == pytest.approx(1000.0 * 2e9 / (4 * 989.4e12))
    assert projection.status(world.job, world.state.nodes, view, world.now)["mfu"] is None


def test_a_mesh_that_does_not_fit_the_ranks_gives_no_coordinates() -> None:
    world = World().submit().train(5)
    for mesh in ("dp=8", "nonsense"):
        found = projection.status(dataclasses.replace(world.job, mesh=mesh), world.state.nodes, seen(world), world.now)
        assert found["ranks"][0]["coords"] == {}


def test_many_nodes_are_counted_in_the_sentence_and_not_all_named() -> None:
    world = World(nodes=40, ranks_per_node=1).submit()
    assert "n0, n1, n2 and 37 more" in str(status(world)["sentence"])


def test_a_job_before_anything_was_heard_has_a_status() -> None:
    job = states.JobState(World().submit().job.spec, START, since_at=START)
    found = projection.status(job, {}, projection.ProgressView(), START)
    assert (found["nodes"], found["ranks"], found["attempt"]) == ([], [], None)


def test_the_story_of_a_stall_begins_with_the_silence_and_its_seconds_are_all_accounted_for() -> None:
    world = World().submit().train(7, save_every=4).hang(2, "spins").suspect(10).wait(15).train(9)
    [incident] = world.of(records.IncidentOpened)
    found = projection.explain(world.rows, incident.incident)
    told = [line["text"] for line in found["timeline"]]
    assert told[0].startswith("no sign of progress for 10 s in phase step (")
    looks = [text for text in told if text.startswith("looked at all ranks: rank 2 spins in data.py:12 in shuffle")]
    assert [text.endswith("(as at the look before)") for text in looks[:2]] == [False, True]
    assert (found["cause"], found["suspects"]["ranks"]) == ("rank-hung", [2])
    assert found["phases"]["detection_s"] == pytest.approx(incident.at - incident.fault_at)
    assert sum(found["phases"].values()) == pytest.approx(found["length_s"], abs=1e-3)
    report = accounting.report(world.rows, "job", world.now)
    assert sum(report["bins"].values()) == pytest.approx(report["elapsed_s"], abs=1e-3)


def test_documents_of_whatever_the_core_writes_are_plain_json() -> None:
    world = World().submit().train(5, save_every=2).vanish("n1").wait(20).train(8).ask("hold").ask("approve").train(12)
    json.dumps(accounting.report(world.rows, "job", world.now), allow_nan=False)
    for opened in world.of(records.IncidentOpened):
        json.dumps(projection.explain(world.rows, opened.incident), allow_nan=False)


def test_a_suspected_job_says_for_how_long_it_is_silent_and_what_was_seen_of_it() -> None:
    world = World().submit().train(3)
    assert status(world)["suspected"] is None
    attempt = world.job.attempt
    assert attempt is not None
    suspicion = states.Suspicion(
        world.now - 12.0, silent=True, phase="step", look_s=10.0, act_s=20.0, basis="6 times 2 s"
    )
    job = dataclasses.replace(world.job, attempt=dataclasses.replace(attempt, suspicion=suspicion))
    found = projection.status(job, world.state.nodes, seen(world), world.now)
    assert found["suspected"]["since_s"] == pytest.approx(12.0)
    assert found["suspected"]["basis"] == "6 times 2 s"
    assert "no sign of progress for 12 s" in found["sentence"]
    assert found["sentence"].endswith("; looking at all ranks")
    stopped = dataclasses.replace(suspicion, silent=False, stopped=(3,))
    job = dataclasses.replace(job, attempt=dataclasses.replace(attempt, suspicion=stopped))
    found = projection.status(job, world.state.nodes, seen(world), world.now)
    assert "rank 3 is stopped" in found["sentence"]
    assert "no sign of progress" not in found["sentence"]
