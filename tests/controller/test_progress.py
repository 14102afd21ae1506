"""What marks and heartbeats amount to, and what of it reaches the core."""

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from outrider import records as spoken
from outrider import wire
from outrider_controller import progress
from outrider_controller.core import evolve, jobs, records
from outrider_controller.core import state as states


def state(generation: int = 1) -> states.State:
    """A job with one attempt under way."""
    spec = jobs.document(jobs.parse({"name": "demo", "command": ["x"]}))
    return evolve.evolve_all(
        states.State(),
        (
            records.JobSubmitted(0.0, "demo", spec),
            records.AttemptPlanned(1.0, "demo", generation - 1, generation, ("n0",)),
        ),
    )


def sample(step: int, at: float, rank: int = 0) -> spoken.StepSample:
    return spoken.StepSample(step, at, rank, tokens=100.0, loss=1.0, grad_norm=1.0)


def marks(*steps: spoken.StepSample, generation: int = 1, **more: object) -> wire.Marks:
    return wire.Marks("demo", generation, steps=steps, **more)  # type: ignore[arg-type]


def edges(seen: progress.Progress, now: states.State, at: float = 9.0) -> list[records.Fact]:
    return seen.edges("demo", now.jobs["demo"], at)


def test_the_first_mark_attaches_and_the_first_step_is_training() -> None:
    seen, now = progress.Progress(), state()
    seen.marks("n0", marks(attached=True, mesh="dp=2", flops_per_token=5.0), now, 2.0)
    [attached] = edges(seen, now)
    assert attached == records.Attached(9.0, "demo", 1, "dp=2", 5.0)
    now = evolve.evolve(now, attached)
    assert edges(seen, now) == []
    seen.marks("n0", marks(sample(0, 3.0)), now, 3.0)
    assert edges(seen, now) == [records.Training(9.0, "demo", 1, 0)]


def test_an_edge_is_found_again_until_it_is_recorded_and_never_after() -> None:
    seen, now = progress.Progress(), state()
    seen.marks("n0", marks(sample(5, 3.0)), now, 3.0)
    first = edges(seen, now)
    assert first == edges(seen, now)
    assert [fact.kind for fact in first] == ["attached", "training"]
    assert edges(seen, evolve.evolve_all(now, first)) == []


def test_a_watched_step_is_told_once_it_is_reached() -> None:
    seen, now = progress.Progress(), state()
    attempt = dataclasses.replace(now.jobs["demo"].attempt, training_at=2.0, generation=1)
    incident = states.OpenIncident("demo-1", 1.0, 1.0, planned=False, attempt=0, generation=0, lost_step=7)
    job = dataclasses.replace(now.jobs["demo"], attempt=attempt, incident=incident)
    seen.marks("n0", marks(sample(6, 3.0)), now, 3.0)
    assert not any(isinstance(f, records.StepReached) for f in seen.edges("demo", job, 9.0))
    seen.marks("n0", marks(sample(8, 4.0)), now, 4.0)
    assert records.StepReached(9.0, "demo", 1, 8) in seen.edges("demo", job, 9.0)


def test_a_checkpoint_that_several_ranks_tell_of_is_one_fact_with_its_stall() -> None:
    seen, now = progress.Progress(), state()
    told = tuple(spoken.CheckpointMark("/c/8", 8, 3.0, rank, 0.5) for rank in (0, 1))
    seen.marks("n0", marks(checkpoints=told), now, 3.0)
    [saved] = [f for f in edges(seen, now) if isinstance(f, records.CheckpointSaved)]
    assert saved == records.CheckpointSaved(9.0, "demo", 1, 8, "/c/8", 0.5)
    now = evolve.evolve(now, saved)
    seen.marks("n0", marks(checkpoints=told), now, 4.0)
    assert not any(isinstance(f, records.CheckpointSaved) for f in edges(seen, now))


def test_messages_of_an_older_generation_are_noted_once_and_change_nothing() -> None:
    seen, now = progress.Progress(), state(generation=3)
    seen.marks("n0", marks(sample(5, 1.0), generation=3), now, 1.0)
    notes = [seen.marks("n0", marks(sample(99, 2.0), generation=2), now, 2.0) for _ in range(3)]
    assert [len(rows) for rows in notes] == [1, 0, 0]
    assert "generation 2 from node n0 are ignored; the job is at generation 3" in notes[0][0].text  # type: ignore[union-attr]
    late = wire.Heartbeat(3.0, (spoken.RankProgress("demo", 1, 0, 0, 7, 99, "step", 3.0),))
    assert len(seen.heartbeat("n0", late, now, 3.0)) == 1
    assert seen.of("demo").newest_step == 5


def test_pace_is_the_median_of_late_and_outlives_a_restart_as_the_step_does_not() -> None:
    seen, now = progress.Progress(), state()
    for step, at in enumerate((0.0, 1.0, 2.0, 12.0, 13.0), start=1):
        seen.marks("n0", marks(sample(step, at)), now, at)
    assert (seen.of("demo").step_s, seen.of("demo").tokens_per_s) == (1.0, 100.0)
    seen.marks("n0", marks(generation=2), state(generation=2), 20.0)
    found = seen.of("demo")
    assert (found.step_s, found.newest_step, found.shown_step) == (1.0, None, 5)


def test_heartbeats_tell_where_each_rank_stands_and_the_newest_word_counts() -> None:
    seen, now = progress.Progress(), state()
    for step, at in ((4, 10.0), (3, 9.0)):
        word = spoken.RankProgress("demo", 1, 2, 0, 77, step, "step", at)
        seen.heartbeat("n1", wire.Heartbeat(at, (word,)), now, at)
    assert seen.of("demo").ranks[2][1].step == 4
    assert seen.of("demo").newest_step == 4


def test_each_finished_step_reaches_the_series_once() -> None:
    seen, now = progress.Progress(), state()
    for rank in (0, 4):
        seen.marks("n0", marks(*(sample(step, float(step), rank) for step in (1, 2, 3))), now, 3.0)
    assert [found.sample.step for found in seen.take_samples("demo")] == [1, 2, 3]
    assert seen.take_samples("demo") == []


def test_jobs_and_ranks_of_nobody_are_passed_over() -> None:
    seen = progress.Progress()
    assert seen.marks("n0", marks(sample(1, 1.0)), states.State(), 1.0) == []
    assert seen.of("demo").newest_step is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20), st.floats(0, 100)), max_size=60))
def test_whatever_comes_in_whatever_order_each_edge_is_recorded_once(messages: list[tuple[int, int, float]]) -> None:
    seen, now, told = progress.Progress(), state(generation=2), list[records.Row]()
    for generation, step, at in messages:
        told += seen.marks("n0", marks(sample(step, at), generation=generation), now, at)
        fresh = edges(seen, now, at)
        told += fresh
        now = evolve.evolve_all(now, fresh)
    kinds = [row.kind for row in told]
    assert kinds.count("attached") <= 1
    assert kinds.count("training") <= 1
    assert kinds.count("noted") <= 2
    pace = seen.of("demo").step_s
    assert pace is None or (pace > 0 and math.isfinite(pace))


def bad(step: int, at: float, rank: int = 0) -> spoken.StepSample:
    return spoken.StepSample(step, at, rank, tokens=100.0, grad_norm=1.0, not_finite=("loss=nan",))


def test_a_loss_that_is_no_number_is_one_fact_with_the_losses_before_it() -> None:
    seen, now = progress.Progress(), state()
    seen.marks("n0", marks(sample(1, 3.0), sample(2, 4.0), bad(3, 5.0), bad(4, 6.0)), now, 6.0)
    [fact] = [f for f in edges(seen, now) if isinstance(f, records.NotFinite)]
    assert (fact.generation, fact.step, fact.what, fact.ranks, fact.others) == (1, 3, ("loss=nan",), (0,), ())
    assert [item["step"] for item in fact.before] == [1, 2]
    assert fact.stepped_at == 5.0
    now = evolve.evolve(now, fact)
    seen.marks("n0", marks(bad(5, 7.0)), now, 7.0)
    assert not any(isinstance(f, records.NotFinite) for f in edges(seen, now))


def test_a_loss_that_is_no_number_is_told_before_anything_that_came_of_the_step() -> None:
    seen, now = progress.Progress(), state()
    seen.marks("n0", marks(bad(3, 5.0), checkpoints=(spoken.CheckpointMark("/c/3", 3, 5.0, 0),)), now, 5.0)
    assert [f.kind for f in edges(seen, now)] == ["attached", "not-finite", "training", "checkpoint-saved"]


def test_the_other_nodes_word_on_the_step_tells_whose_numbers_are_gone() -> None:
    seen, now = progress.Progress(), state()
    seen.marks("n1", marks(sample(2, 4.0, rank=4)), now, 4.0)
    seen.marks("n0", marks(bad(3, 5.0)), now, 5.0)
    assert not any(isinstance(f, records.NotFinite) for f in edges(seen, now, 5.1))
    seen.marks("n1", marks(sample(3, 5.1, rank=4)), now, 5.2)
    [fact] = [f for f in edges(seen, now, 5.2) if isinstance(f, records.NotFinite)]
    assert (fact.ranks, fact.others) == ((0,), (4,))


def test_a_node_that_says_nothing_of_the_step_is_not_waited_for_long() -> None:
    seen, now = progress.Progress(), state()
    seen.marks("n1", marks(sample(2, 4.0, rank=4)), now, 4.0)
    seen.marks("n0", marks(bad(3, 5.0)), now, 5.0)
    [fact] = [f for f in edges(seen, now, 6.1) if isinstance(f, records.NotFinite)]
    assert (fact.ranks, fact.others) == ((0,), ())


def test_a_new_attempt_begins_with_numbers() -> None:
    seen, now = progress.Progress(), state()
    seen.marks("n0", marks(bad(3, 5.0)), now, 5.0)
    now = evolve.evolve(now, records.AttemptPlanned(6.0, "demo", 1, 2, ("n0",)))
    seen.marks("n0", marks(sample(3, 8.0), generation=2), now, 8.0)
    assert not any(isinstance(f, records.NotFinite) for f in edges(seen, now, 20.0))
