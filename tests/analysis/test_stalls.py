"""Who holds a job up, told from one look at all ranks. Stacks of waits are recorded ones."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider import records
from outrider_analysis import stalls

RECORDED = Path(__file__).parents[1] / "recorded/stacks/gloo_waits.json"
WAITS: dict[str, tuple[str, ...]] = {name: tuple(frames) for name, frames in json.loads(RECORDED.read_text()).items()}
WITHOUT_FRAMES_OF_TORCH = {"irecv", "batch"}
SPIN = ("/job/data.py:12 in shuffle", "/job/train.py:40 in main", "/job/train.py:50 in <module>")
SCHEDULE = "/venv/lib/python3.11/site-packages/torch/distributed/pipelining/schedules.py"


def rank(number: int, **more: Any) -> records.RankEvidence:
    """A rank that waits in an all-reduce and was seen twice."""
    given: dict[str, Any] = {
        "state": "sleeping",
        "answered": "control",
        "cpu": 0.01,
        "frames": WAITS["all_reduce"],
        "moved": False,
    }
    return records.RankEvidence(number, 100 + number, **{**given, **more})


def spinning(number: int, **more: Any) -> records.RankEvidence:
    return rank(number, **{"state": "running", "cpu": 0.99, "frames": SPIN, **more})


def judge(*evidence: records.RankEvidence, world: int = 0, unanswered: tuple[int, ...] = ()) -> stalls.Verdict:
    return stalls.judge(stalls.group(evidence), world or len(evidence), unanswered)


def others(count: int, but: int, **more: Any) -> list[records.RankEvidence]:
    return [rank(number, **more) for number in range(count) if number != but]


@pytest.mark.parametrize("wait", sorted(set(WAITS) - WITHOUT_FRAMES_OF_TORCH))
def test_a_recorded_wait_is_read_as_one(wait: str) -> None:
    assert stalls.read(rank(0, frames=WAITS[wait])).kind == "waiting"


@pytest.mark.parametrize("wait", sorted(WITHOUT_FRAMES_OF_TORCH))
def test_a_wait_without_a_frame_of_torch_is_told_by_the_flight_recorder(wait: str) -> None:
    assert stalls.read(rank(0, frames=WAITS[wait])).kind == "blocked"
    found = stalls.read(rank(0, frames=WAITS[wait], pending=True, collective={"op": "gloo:all_reduce", "seq": 4}))
    assert (found.kind, found.awaited) == ("waiting", "all_reduce, number 4")


@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        (f"{SCHEDULE}:810 in _wait_batch_p2p", "waiting"),
        (f"{SCHEDULE}:900 in _step_microbatches", "blocked"),
        ("/v/site-packages/torch/distributed/tensor/_sharding_prop.py:300 in propagate", "blocked"),
        ("/v/site-packages/torch/distributed/checkpoint/filesystem.py:700 in write_data", "blocked"),
        (
            "/v/site-packages/torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py:430 in wait_for_unshard",
            "waiting",
        ),
        ("/v/site-packages/torch/autograd/graph.py:841 in _engine_run_backward", "waiting"),
        ("/v/site-packages/torch/cuda/__init__.py:1000 in synchronize", "waiting"),
        ("/v/site-packages/torch/distributed/distributed_c10d.py:3000 in _object_to_tensor", "blocked"),
    ],
)
def test_only_the_innermost_frame_tells_a_wait(inner: str, kind: str) -> None:
    under = (inner, f"{SCHEDULE}:100 in step", *SPIN[1:])
    assert stalls.read(rank(0, frames=under)).kind == kind


def test_a_backward_pass_that_burns_a_core_is_at_work_and_not_in_a_wait() -> None:
    frames = ("/v/site-packages/torch/autograd/graph.py:841 in _engine_run_backward", *SPIN[1:])
    assert stalls.read(rank(0, frames=frames, cpu=0.98, state="running")).kind == "spinning"


@pytest.mark.parametrize("culprit", range(8))
def test_a_rank_that_spins_while_all_others_wait_is_named_with_its_place_and_who_waits(culprit: int) -> None:
    found = judge(spinning(culprit), *others(8, culprit))
    assert (found.kind, found.ranks, found.confidence) == ("rank-hung", (culprit,), 0.95)
    assert found.sentence == (
        f"rank {culprit} spins in data.py:12 in shuffle and burns 0.99 of a core, outside any collective; "
        "7 others wait (a collective)"
    )
    assert found.rows[0].text.endswith(
        "the same at both looks: data.py:12 in shuffle < train.py:40 in main < train.py:50 in <module>"
    )


def test_a_rank_that_sleeps_outside_any_collective_is_blocked_and_it_is_said_on_what() -> None:
    lock = rank(2, frames=SPIN, blocked_on="futex_wait_queue")
    assert "sleeps in data.py:12 in shuffle (kernel: futex_wait_queue)" in judge(lock, *others(8, 2)).sentence
    storage = rank(2, frames=SPIN, state="disk", blocked_on="rpc_wait_bit_killable")
    assert "on storage" in judge(storage, *others(8, 2)).sentence
    loader = ("/py/lib/python3.11/selectors.py:415 in select", "/v/site-packages/torch/utils/data/dataloader.py:1 in f")
    assert "for its data loader" in judge(rank(2, frames=(*loader, *SPIN[1:])), *others(8, 2)).sentence


def test_stopped_ranks_are_named_whatever_the_others_do() -> None:
    stopped = {"state": "stopped", "frames": (), "answered": "proc", "moved": None}
    one = judge(rank(3, **stopped), spinning(5), *[rank(n) for n in (0, 1, 2, 4, 6, 7)])
    assert (one.kind, one.ranks, one.confidence) == ("rank-stopped", (3,), 0.95)
    two = judge(rank(3, **stopped), rank(4, **stopped), *[rank(n, moved=True) for n in (0, 1, 2)], world=5)
    assert (two.kind, two.ranks) == ("rank-stopped", (3, 4))


def test_a_job_that_is_suspended_as_a_whole_is_left_alone_and_a_lone_rank_is_not() -> None:
    stopped = {"state": "stopped", "frames": (), "answered": "proc"}
    assert judge(*[rank(n, **stopped) for n in range(4)]).kind == "suspended"
    assert judge(rank(0, **stopped)).kind == "rank-stopped"


def test_a_debugger_is_somebodys_business_and_no_fault() -> None:
    found = judge(rank(1, state="traced", frames=()), rank(2, state="stopped", frames=()), rank(0), rank(3))
    assert (found.kind, found.ranks) == ("traced", (1,))
    assert "rank 1 is held by a debugger; it is left alone" in found.sentence


def test_ranks_that_move_are_at_work_and_nobody_is_blamed() -> None:
    slow = judge(rank(0, frames=SPIN, moved=True, cpu=0.9), *others(8, 0))
    assert (slow.kind, slow.ranks) == ("working", ())
    pipeline = judge(*[rank(n, frames=SPIN, moved=True) for n in (2, 3)], *[rank(n) for n in (0, 1)], spinning(4))
    assert pipeline.kind == "working"


def test_most_ranks_computing_while_few_wait_is_no_hang() -> None:
    assert judge(*[spinning(n) for n in range(6)], rank(6), rank(7)).kind == "working"


def test_several_ranks_that_wait_for_storage_are_all_named() -> None:
    disk = [rank(n, state="disk", frames=SPIN) for n in range(6)]
    found = judge(*disk, rank(6), rank(7))
    assert (found.kind, found.ranks) == ("rank-hung", tuple(range(6)))


def test_where_all_wait_and_nobody_is_elsewhere_nobody_is_blamed() -> None:
    found = judge(*[rank(n) for n in range(8)])
    assert (found.kind, found.ranks) == ("job-stalled", ())
    assert found.sentence == "all 8 ranks that were looked at wait in a collective, and nobody is elsewhere"


def test_the_flight_recorder_beats_the_stack_but_not_a_lone_rank_that_burns_a_core_in_its_own_code() -> None:
    pending = {"pending": True, "collective": {"op": "gloo:all_reduce", "description": "dp", "seq": 41}}
    here = rank(0, frames=SPIN, **pending)
    assert stalls.read(here).kind == "waiting"
    found = judge(spinning(3, **pending), *others(8, 3, **pending))
    assert (found.kind, found.ranks, found.confidence) == ("rank-hung", (3,), 0.7)
    assert "wait (all_reduce of group dp, number 41)" in found.sentence
    on_gpu = judge(*[spinning(n, **pending) for n in range(8)])
    assert on_gpu.kind == "job-stalled", "with every host in the same synchronisation, no rank stands out"


def test_a_rank_that_answered_nothing_while_the_others_wait_is_the_candidate_and_nobody_is_sure() -> None:
    silent = rank(5, frames=(), moved=None, answered="none", error="py-spy gave no answer within 5 s")
    found = judge(silent, *others(8, 5))
    assert (found.kind, found.ranks, found.confidence) == ("rank-hung", (5,), 0.5)
    assert "py-spy gave no answer within 5 s" in found.sentence


def test_ranks_of_a_node_that_gave_no_answer_are_told_of_and_not_blamed() -> None:
    found = judge(*[rank(n) for n in range(4)], world=8, unanswered=(4, 5, 6, 7))
    assert (found.kind, found.ranks) == ("job-stalled", ())
    assert "could not look at rank 4-7" in found.sentence
    assert found.rows[-1] == stalls.Row((4, 5, 6, 7), "unseen", "its node gave no answer in time")


def test_where_nobody_could_be_looked_at_nothing_is_concluded() -> None:
    blind = [rank(n, frames=(), moved=None, answered="proc", error="no py-spy") for n in range(4)]
    for found in (judge(*blind), judge(world=4), judge(world=4, unanswered=(0, 1, 2, 3))):
        assert (found.kind, found.ranks, found.confidence) == ("could-not-look", (), 0.0)


def test_a_rank_whose_recorder_answers_while_its_interpreter_is_held_is_elsewhere() -> None:
    held = rank(1, frames=(), moved=None, pending=False, cpu=1.0, state="running")
    found = judge(held, *others(8, 1))
    assert (found.kind, found.ranks) == ("rank-hung", (1,))
    assert "holds its interpreter" in found.sentence


def test_without_any_known_collective_the_one_that_burns_a_core_while_all_sleep_is_named() -> None:
    asleep = {"frames": ("/job/exchange.py:9 in receive",)}
    found = judge(spinning(1), *others(4, 1, **asleep))
    assert (found.kind, found.ranks, found.confidence) == ("rank-hung", (1,), 0.7)
    same = judge(*[rank(n, **asleep) for n in range(4)])
    assert same.kind == "job-stalled"
    odd = judge(rank(2, frames=SPIN), *others(8, 2, **asleep))
    assert (odd.kind, odd.ranks, odd.confidence) == ("rank-hung", (2,), 0.5)
    # Its one peer sleeps while it connects to the store, of which no frame of torch tells.
    pair = judge(spinning(0), rank(1, frames=("/job/parallel.py:86 in gather", *SPIN[1:])))
    assert (pair.kind, pair.ranks, pair.confidence) == ("rank-hung", (0,), 0.5)


def test_two_looks_agree_on_the_ranks_that_stand_in_the_same_place() -> None:
    first, second = judge(spinning(1), *others(8, 1)), judge(spinning(1), spinning(4), *others(8, 1)[:5])
    flicker = spinning(1, frames=("/job/data.py:13 in shuffle", *SPIN[1:]))
    third = judge(flicker, *others(8, 1))
    elsewhere = judge(spinning(1, frames=("/job/other.py:1 in f", *SPIN[1:])), *others(8, 1))
    assert stalls.common((first.ranks, first.places), (second.ranks, second.places)) == (1,)
    assert stalls.common((first.ranks, first.places), (third.ranks, third.places)) == (1,)
    assert stalls.common((first.ranks, first.places), (elsewhere.ranks, elsewhere.places)) is None


def test_a_stack_that_was_seen_once_is_compared_line_by_line() -> None:
    once = [judge(spinning(1, moved=None, frames=(f"/job/data.py:{line} in f",)), *others(8, 1)) for line in (1, 2)]
    assert stalls.common((once[0].ranks, once[0].places), (once[1].ranks, once[1].places)) is None
    assert stalls.common((once[0].ranks, once[0].places), (once[0].ranks, once[0].places)) == (1,)


def test_looks_at_a_stalled_job_agree_while_it_waits_in_the_same_places() -> None:
    here, there = judge(*[rank(n) for n in range(4)]), judge(*[rank(n, frames=WAITS["recv"]) for n in range(4)])
    assert stalls.common((here.ranks, here.places), (here.ranks, here.places)) == ()
    assert stalls.common((here.ranks, here.places), (there.ranks, there.places)) is None


def test_sixteen_thousand_ranks_are_as_quick_as_the_few_kinds_there_are_and_as_small() -> None:
    evidence = [rank(n, cpu=0.001 * (n % 7), enqueued=4000) for n in range(16_384) if n != 912]
    began = time.process_time()
    groups = stalls.group([*evidence, spinning(912)])
    found = stalls.judge(groups, 16_384)
    print(f"16,384 ranks grouped and judged in {time.process_time() - began:.2f} s of CPU time")
    assert (found.kind, found.ranks, len(groups)) == ("rank-hung", (912,), 2)
    assert sum(len(row.text) for row in found.rows) < 4_000
    assert stalls.from_plain(json.loads(json.dumps(stalls.plain(groups)))) == groups


def test_as_many_kinds_as_ranks_are_bounded_and_no_rank_is_lost() -> None:
    evidence = [rank(n, frames=tuple(f"/job/f{n}.py:{line} in f" for line in range(60))) for n in range(3_000)]
    groups = stalls.group(evidence)
    assert len(groups) <= 256
    assert sorted(r for group in groups for r in group.ranks) == list(range(3_000))
    assert len(stalls.judge(groups, 3_000).rows) <= 12


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
broken = st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(records.RankEvidence)]), anything)


@settings(max_examples=40, deadline=None)
@given(st.lists(broken | anything, max_size=6))
def test_broken_answers_never_break_a_look(items: list[Any]) -> None:
    groups = stalls.from_plain(items)
    found = stalls.judge(groups, 8)
    assert found.kind in stalls.VERDICTS
    assert found.sentence


states = st.sampled_from(records.PROCESS_STATES)
any_rank = st.builds(
    records.RankEvidence,
    rank=st.integers(0, 7),
    pid=st.integers(1, 99),
    state=states,
    answered=st.sampled_from(records.ANSWERS),
    cpu=st.none() | st.floats(0, 1),
    frames=st.sampled_from([(), SPIN, *WAITS.values()]),
    moved=st.none() | st.booleans(),
    pending=st.none() | st.booleans(),
)


@given(st.lists(any_rank, max_size=8, unique_by=lambda e: e.rank))
def test_nobody_is_blamed_who_waits_works_or_was_not_looked_at(evidence: list[records.RankEvidence]) -> None:
    found = stalls.judge(stalls.group(evidence), 8)
    by_rank = {item.rank: stalls.read(item) for item in evidence}
    if found.kind in stalls.HUNG:
        assert all(by_rank[number].kind not in ("moving", "gone", "traced") for number in found.ranks)
        assert not any(reading.kind == "traced" for reading in by_rank.values())
    if found.kind in ("rank-hung", "job-stalled"):
        assert not any(reading.kind == "moving" for reading in by_rank.values()), "slowness is no hang"
    assert set(found.ranks) <= set(by_rank)
