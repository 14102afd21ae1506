"""Where every second went: from rows to bins, interruptions, MTTF and MFU."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from outrider import vocabulary
from outrider_controller import accounting, runbook_files, timeline
from outrider_controller.core import records
from tests.controller.story import START, Story
from tests.core.test_random_worlds import ALL_MOVES, move
from tests.core.world import World

POLICY = runbook_files.load()
OWNED = {"detection", "diagnosis", "restart", "redo", "planned", "held"}


def spent(story: Story, now: float) -> dict[str, float]:
    """Bins that are not empty, in whole milliseconds."""
    found = accounting.bins(accounting.segments(story.rows, story.job, START + now))
    return {name: round(seconds, 3) for name, seconds in found.items() if seconds}


def test_a_quiet_job_waits_starts_and_produces() -> None:
    story = Story().submit().start(4, 6, 10)
    assert spent(story, 3) == {"idle": 3}
    assert spent(story, 8) == {"idle": 4, "start": 4}
    assert spent(story, 60) == {"idle": 4, "start": 6, "productive": 50}


def test_an_incident_goes_through_its_phases_and_back_to_work() -> None:
    story = Story().submit().start(0, 2, 10).killed(fault=50, opened=51, decided=53, training=60, regained=64)
    expected = {"start": 10, "productive": 76, "detection": 1, "diagnosis": 2, "restart": 7, "redo": 4}
    assert spent(story, 100) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [(52, "diagnosis"), (56, "restart"), (62, "redo"), (70, "productive")],
)
def test_an_incident_under_way_is_counted_up_to_now(now: float, expected: str) -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50)
    story.look(53).decide(53).plan(53, story.incident, 40) if now > 53 else story
    story.run(57).train(60, 41) if now > 60 else story
    story.close(64) if now > 64 else story
    assert accounting.segments(story.rows, "llama", START + now)[-1].bin == expected


def test_a_checkpoint_stall_is_taken_out_of_the_productive_time_just_before_it() -> None:
    story = Story().submit().start(0, 2, 10).save(30, 20, 0.5).save(40, 30, 0.5)
    assert spent(story, 50) == {"start": 10, "productive": 39, "checkpoint": 1}
    stalls = [s for s in accounting.segments(story.rows, "llama", START + 50) if s.bin == "checkpoint"]
    assert [(s.begin - START, s.end - START) for s in stalls] == [(29.5, 30), (39.5, 40)]


def test_a_stall_longer_than_the_time_since_the_last_one_takes_that_time_and_no_more() -> None:
    story = Story().submit().start(0, 2, 10).save(12, 1, 5).save(13, 2, 5)
    assert spent(story, 20) == {"start": 10, "checkpoint": 3, "productive": 7}


def test_a_checkpoint_of_an_older_generation_takes_nothing() -> None:
    story = Story().submit().start(0, 2, 10)
    story.rows.append(records.CheckpointSaved(START + 20, "llama", 0, 5, "/old", 3.0))
    assert spent(story, 30) == {"start": 10, "productive": 20}


def test_a_checkpoint_while_lost_steps_are_re_done_stays_with_the_incident() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50).look(53).decide(53).plan(53, "llama-1", 40)
    story.run(55).train(60, 41).save(62, 44, 1.0).close(64)
    assert spent(story, 70)["redo"] == 4
    assert "checkpoint" not in spent(story, 70)


def test_a_second_fault_during_a_restart_begins_where_the_first_incident_ends() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50).look(53).decide(53).plan(53, "llama-1", 40).run(55)
    story.close(58, "superseded", None).open(58, fault_at=56).look(59).decide(59).plan(59, "llama-2", 40)
    story.run(61).train(65, 41).close(70)
    segments = accounting.segments(story.rows, "llama", START + 80)
    assert [(s.bin, s.incident, s.seconds) for s in segments if s.incident] == [
        ("detection", "llama-1", 1),
        ("diagnosis", "llama-1", 2),
        ("restart", "llama-1", 5),
        ("diagnosis", "llama-2", 1),
        ("restart", "llama-2", 6),
        ("redo", "llama-2", 5),
    ]


def test_a_fault_stamped_by_a_clock_that_is_far_behind_takes_nothing_before_its_attempt() -> None:
    story = Story().submit().start(5, 6, 10).open(51, fault_at=-9999)
    assert spent(story, 51) == {"idle": 5, "detection": 46}


def test_a_planned_stop_is_planned_until_the_next_first_step_and_held_while_a_person_is_waited_for() -> None:
    story = Story().submit().start(0, 2, 10).open(50, 50, planned="hold").look(52).move(52, "held", "a person holds it")
    story.decided(80, "restart", automatic=False).move(80, "interrupted").plan(81, "llama-1", 40)
    story.run(82).train(90, 41).close(95)
    expected = {"start": 10, "productive": 45, "planned": 12, "held": 28, "redo": 5}
    assert spent(story, 100) == expected


def test_a_job_held_after_a_failure_counts_as_held_until_it_is_given_up() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50).look(53).decide(53, "hold-for-person").move(53, "held", "why")
    story.move(90, "failed", "a person gave it up").close(90, "job-ended")
    assert spent(story, 500) == {"start": 10, "productive": 40, "detection": 1, "diagnosis": 2, "held": 37}
    report = accounting.report(story.rows, "llama", START + 500)
    assert (report["elapsed_s"], report["state"], report["ended_by"]) == (90, "failed", "person")


def test_a_hold_before_there_ever_was_an_attempt_is_idle_because_nothing_was_disturbed() -> None:
    story = Story().submit().move(5, "held", "a person holds it")
    assert spent(story, 20) == {"idle": 20}


def test_a_job_without_marks_is_productive_while_its_ranks_run() -> None:
    story = Story().submit().plan(2).run(4).move(34, "training", "it runs and sends no marks")
    assert spent(story, 60) == {"idle": 2, "start": 2, "productive": 56}


def test_a_job_without_marks_that_never_got_going_was_not_productive() -> None:
    story = Story(attended=False).submit().plan(0).run(2).open(4, 3.5, lost_step=None).look(5)
    story.decide(5, "hold-for-person").move(5, "failed", "why").close(5, "job-ended", None)
    assert spent(story, 60) == {"start": 3.5, "detection": 0.5, "diagnosis": 1}


def test_a_job_without_marks_completes_before_it_was_taken_for_running() -> None:
    story = Story().submit().plan(0).run(2).move(12, "completed", "all ranks ended with status 0")
    assert spent(story, 60) == {"start": 2, "productive": 10}


def test_the_second_life_of_a_name_is_counted_alone() -> None:
    story = Story().submit().start(0, 2, 10).move(50, "completed").submit(100).start(100, 101, 105)
    assert spent(story, 125) == {"start": 5, "productive": 20}


def test_a_submission_while_the_job_lives_begins_nothing() -> None:
    story = Story().submit().start(0, 2, 10)
    story.rows.append(records.JobSubmitted(START + 20, "llama", story.rows[0].spec))  # type: ignore[union-attr]
    assert spent(story, 30) == {"start": 10, "productive": 20}


def test_rows_of_another_job_and_of_nodes_change_nothing() -> None:
    story, other = Story().submit().start(0, 2, 10), Story("other").submit(3).start(3, 4, 5).open(20, 19)
    before = spent(story, 40)
    story.rows = [*other.rows, records.NodeSilent(START, "n0", START), *story.rows]
    assert spent(story, 40) == before


def test_a_clock_that_was_set_back_loses_no_second() -> None:
    story = Story().submit().start(0, 2, 10).killed(50, 51, 53, 60, 64).save(20, 3, 1.0)
    segments = accounting.segments(story.rows, "llama", START + 70)
    assert sum(s.seconds for s in segments) == pytest.approx(70, abs=1e-3)


def test_the_report_sums_up() -> None:
    story = Story().submit().start(0, 2, 10).save(40, 30, 1.0).killed(50, 51, 53, 60, 64)
    story.open(80, 80, planned="hold").look(81).move(81, "held").decided(85, "restart", automatic=False)
    story.move(85, "interrupted").plan(85, "llama-2", 40).run(86).train(90, 41).close(92)
    story.move(100, "completed", "all ranks ended with status 0")
    report = accounting.report(story.rows, "llama", START + 1000)
    assert report["elapsed_s"] == 100
    assert set(report["bins"]) == set(vocabulary.BINS)
    assert sum(report["bins"].values()) == pytest.approx(100, abs=1e-3)
    assert report["ettr"] == pytest.approx(report["bins"]["productive"] / 100)
    assert report["interruptions"] == {
        "total": 2,
        "watched": 0,
        "planned": 1,
        "unexpected": 1,
        "automatic": 1,
        "manual": 0,
    }
    assert report["by_cause"] == {"rank-killed": {"count": 1, "lost_s": 14}}
    assert report["by_cause_group"] == {"none": {"count": 1, "lost_s": 14}}
    assert report["mttf"]["hours"] == pytest.approx(100 / 3600)
    assert report["mttf"]["low"] < report["mttf"]["hours"] < report["mttf"]["high"]
    assert [one["id"] for one in report["incidents"]] == ["llama-1", "llama-2"]
    assert (report["state"], report["attempts"]) == ("completed", 3)


def test_without_an_interruption_only_the_lower_bound_of_the_mttf_is_known() -> None:
    found = accounting.report(Story().submit().start(0, 2, 10).rows, "llama", START + 3600)["mttf"]
    assert (found["hours"], found["high"]) == (None, None)
    assert found["low"] == pytest.approx(1 / 3.688879, rel=1e-5)


def test_a_job_that_no_restart_could_help_counts_as_manual() -> None:
    story = Story(attended=False).submit().start(0, 2, 10).open(51, 50).look(53).decide(53, "hold-for-person")
    story.move(53, "failed", "no restart can help").close(53, "job-ended")
    assert accounting.report(story.rows, "llama", START + 99)["interruptions"]["manual"] == 1


def test_mfu_is_given_while_training_and_with_downtime() -> None:
    story = Story().submit().start(0, 2, 10).move(100, "completed")
    devices = accounting.Devices(4, 989.4, "H100-SXM5")
    tokens = accounting.Throughput(90 * 1e6, "full")
    found = accounting.report(story.rows, "llama", START + 100, devices, tokens)["mfu"]
    assert found["while_training"] == pytest.approx(1e6 * 6e9 / (4 * 989.4e12))
    assert found["with_downtime"] == pytest.approx(found["while_training"] * 0.9)
    assert (found["flops_per_token"], found["convention"], found["reason"]) == (6e9, "full", None)


@pytest.mark.parametrize(
    ("devices", "tokens", "reason"),
    [
        (None, accounting.Throughput(1.0), "no accelerator"),
        (accounting.Devices(1, 1.0), None, "no tokens"),
    ],
)
def test_where_there_is_no_mfu_the_report_says_why(
    devices: accounting.Devices | None, tokens: accounting.Throughput | None, reason: str
) -> None:
    found = accounting.report(Story().submit().start(0, 2, 10).rows, "llama", START + 20, devices, tokens)["mfu"]
    assert (found["while_training"], found["with_downtime"]) == (None, None)
    assert reason in found["reason"]


def test_an_unknown_job_is_refused_with_the_jobs_that_are_there() -> None:
    with pytest.raises(accounting.UnknownJobError, match=r"'lama' is unknown; the ledger has llama"):
        accounting.report(Story().submit().rows, "lama", START)


MOMENTS = st.lists(st.floats(0, 1e6), min_size=40, max_size=40).map(sorted)
CHAPTERS = st.lists(st.sampled_from(["kill", "again", "hold", "plan-hold", "save", "end"]), max_size=8)


def written(chapters: list[str], moments: list[float], speaks: bool) -> Story:
    """A legal sequence of rows: chapters one after another, at moments that only go forward."""
    clock = itertools.chain(moments, itertools.repeat(moments[-1]))
    story = Story(speaks=speaks).submit(next(clock)).plan(next(clock)).run(next(clock))
    story = story.train(next(clock)) if speaks else story.move(next(clock), "training")
    for chapter in chapters:
        at = next(clock)
        if chapter == "save":
            story.save(at, 5, 3.0)
            continue
        if chapter == "end":
            return story.move(at, "completed")
        story.open(at, at - 2.0, planned="hold" if chapter == "plan-hold" else "").look(at)
        if chapter == "again":
            at = next(clock)
            story.decide(at).plan(at, story.incident, 40)
            at = next(clock)
            story.close(at, "superseded").open(at, at - 5.0).look(at)
        if chapter in ("hold", "plan-hold"):
            story.move(next(clock), "held").decided(next(clock), "restart", automatic=False)
            story.move(story.rows[-1].at - START, "interrupted")
        else:
            story.decide(next(clock))
        story.plan(story.rows[-1].at - START, story.incident, 40).run(next(clock))
        story = story.train(next(clock), 41) if speaks else story.move(next(clock), "training")
        story.close(next(clock))
    return story


def assert_sound(segments: list[timeline.Segment], begin: float, end: float) -> None:
    """Every second from ``begin`` to ``end`` is in exactly one bin, and the bins of an incident belong to one."""
    assert sum(accounting.bins(segments).values()) == pytest.approx(end - begin, abs=1e-3)
    for before, after in itertools.pairwise(segments):
        assert before.end == after.begin
    assert all((s.bin in OWNED) == (s.incident is not None) for s in segments)
    assert all(s.seconds > 0 for s in segments)


@settings(deadline=None)
@given(CHAPTERS, MOMENTS, st.booleans())
def test_bins_of_any_legal_history_sum_to_the_elapsed_time(
    chapters: list[str], moments: list[float], speaks: bool
) -> None:
    story = written(chapters, moments, speaks)
    life = timeline.lives(story.rows, "llama")[-1]
    end = life.ended_at or START + moments[-1] + 7
    assert_sound(timeline.of_life(life, end), life.submitted_at, end)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(ALL_MOVES), st.integers(0, 1000)), max_size=20), st.booleans())
@example([("suspect", 550)], False)
def test_what_the_core_writes_in_any_world_is_accounted_for_to_the_millisecond(
    moves: list[tuple[str, int]], speaks: bool
) -> None:
    world = World(policy=POLICY, speaks=speaks).submit().wait(40)
    for verb, number in moves:
        move(world, verb, number)
    report = accounting.report(world.rows, "job", world.now)
    assert_sound(accounting.segments(world.rows, "job", world.now), world.of(records.JobSubmitted)[0].at, world.now)
    assert sum(report["bins"].values()) == pytest.approx(report["elapsed_s"], abs=1e-3)
    for one in report["incidents"]:
        assert sum(one["phases"].values()) == pytest.approx(one["length_s"], abs=1e-3)
