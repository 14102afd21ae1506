"""Signs of progress and durations of phases, from what ranks say of themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outrider import records as spoken
from outrider import vocabulary
from outrider_analysis import deadlines
from outrider_controller import pace


def said(rank: int, at: float, step: int | None = None, phase: str = "step", **more: object) -> spoken.RankProgress:
    return spoken.RankProgress("demo", 1, rank, rank, 100 + rank, step, phase, at, **more)  # type: ignore[arg-type]


def begun(world_size: int = 2, planned_at: float = 0.0, **more: bool) -> pace.Pace:
    return pace.Pace(1, planned_at, world_size, **more)


def durations(found: pace.Pace) -> list[tuple[str, float]]:
    return [(item.phase, round(item.seconds, 6)) for item in found.take_news()]


def test_a_heartbeat_that_repeats_itself_is_no_sign_and_anything_new_is_one() -> None:
    found = begun()
    for now, word in [
        (1.0, said(0, 1.0, 3)),
        (2.0, said(0, 1.0, 3)),
        (3.0, said(0, 3.0, 4)),
        (4.0, said(0, 3.5, 4, "checkpoint")),
        (5.0, said(0, 3.5, 4, "checkpoint", collectives=7)),
        (6.0, said(0, 3.5, 4, "checkpoint", collectives=7)),
        (7.0, said(0, 2.0, 2)),  # a late message
    ]:
        found.take([word], now)
    assert (found.signs, found.sign_at) == (4, 5.0)


def test_starts_first_steps_steps_and_checkpoints_are_timed_each_by_itself() -> None:
    found = begun(planned_at=100.0)
    found.take([said(0, 9.0, None, "start"), said(1, 9.1, None, "start")], 109.0)
    found.take([said(0, 9.5, None, "load"), said(1, 9.5, None, "load")], 109.5)
    found.take([said(0, 11.5, None, "start"), said(1, 11.5, None, "start")], 111.5)
    found.take([said(0, 14.0, 1), said(1, 14.0, 1)], 114.0)
    found.take([said(0, 14.5, 2), said(1, 14.5, 2)], 114.5)
    found.take([said(0, 15.0, 2, "checkpoint")], 115.0)
    found.take([said(1, 15.5, 2, "checkpoint")], 115.5)
    found.take([said(0, 16.0, 2)], 116.0)
    found.take([said(1, 17.0, 2)], 117.0)
    found.take([said(0, 17.5, 3)], 117.5)
    found.take([said(0, 18.5, 5)], 118.5)
    assert durations(found) == [
        ("start", 9.0),
        ("load", 2.0),
        ("first-step", 2.5),
        ("step", 0.5),
        ("checkpoint", 2.0),  # from the first rank that entered to the last that left
        ("step", 1.5),  # since the end of the checkpoint
        ("step", 0.5),  # two steps in a second
    ]
    assert durations(found) == []


def test_the_patience_is_that_of_the_phases_in_which_ranks_are() -> None:
    found = begun(world_size=3)
    assert found.phases() == {"start"}
    found.take([said(0, 1.0, None, "start"), said(1, 1.0, None, "load")], 1.0)
    assert found.phases() == {"start", "first-step", "load"}, "the third rank has not come up"
    found.take([said(0, 2.0, 1)], 2.0)
    assert found.phases() == {"step", "load"}, "ranks that never speak do not make the job patient for ever"
    found.take([said(1, 3.0, 1, "evaluation"), said(2, 3.0, 1, "done")], 3.0)
    assert found.phases() == {"step", "evaluation", "done"}


def test_what_a_restarted_controller_hears_first_may_be_old_and_is_no_sign() -> None:
    found = begun(planned_at=50.0, first_heard_counts=False)
    found.take([said(0, 3.0, 7)], 52.0)
    assert (found.signs, found.sign_at, durations(found)) == (0, 50.0, [])
    found.take([said(0, 4.0, 8)], 53.0)
    assert (found.signs, found.sign_at) == (1, 53.0)
    assert durations(found) == [("step", 1.0)]


def test_a_job_that_only_counts_collectives_is_timed_by_them() -> None:
    found = begun()
    for at, count in [(1.0, 5), (3.0, 9), (5.0, 14)]:
        found.take([said(0, at, None, "start", source="collectives", collectives=count)], at)
    assert found.phases() == {"step"}
    assert durations(found) == [("start", 1.0), ("step", 2.0), ("step", 2.0)]


def test_a_job_whose_log_tells_every_tenth_step_is_timed_by_the_pauses_between_its_lines() -> None:
    found = begun(world_size=1)
    for at, step in ((5.0, 1), (23.0, 10), (43.0, 20), (63.0, 30)):
        found.take([said(0, at, step, source="log")], at)
    assert [item for item in durations(found) if item[0] == "step"] == [("step", 18.0), ("step", 20.0), ("step", 20.0)]


def test_the_ranks_that_are_silent_longest_are_named() -> None:
    found = begun(world_size=4)
    for rank, at in [(0, 4.0), (1, 2.0), (2, 3.0), (3, 2.0)]:
        found.take([said(rank, at, 1)], at)
    assert found.oldest(3) == (1, 3, 2)


words = st.builds(
    said,
    rank=st.integers(0, 3),
    at=st.floats(0, 100),
    step=st.none() | st.integers(0, 50),
    phase=st.sampled_from(vocabulary.PHASES),
    collectives=st.none() | st.integers(0, 9),
    source=st.sampled_from(("marks", "log", "collectives")),
)


@given(st.lists(st.tuples(words, st.floats(0.001, 5)), max_size=60), st.booleans())
def test_whatever_is_said_in_whatever_order_times_are_positive_and_phases_have_deadlines(
    messages: list[tuple[spoken.RankProgress, float]], first: bool
) -> None:
    found, now = begun(world_size=4, first_heard_counts=first), 0.0
    for word, pause in messages:
        now += pause
        found.take([word], now)
        assert found.sign_at <= now
        assert found.phases() <= set(deadlines.FLOORS)
        assert sum(found._phases.values()) == len(found.ranks)
    assert all(item.seconds > 0 and item.phase in deadlines.FLOORS for item in found.take_news())
