"""Flight records beside the looks: what each is worth, what is done when they agree and when they do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from outrider_analysis import stalls
from outrider_controller.core import flight_record, records
from tests.core import recorded
from tests.core.test_hangs import TIME_OUT, training
from tests.core.world import World


def look(kind: str, *ranks: int, confidence: float = 0.95) -> stalls.Verdict:
    return stalls.Verdict(kind, ranks, confidence, "as seen", tuple(f"f.py in g{rank}" for rank in ranks))


def record(kind: str, *ranks: int, confidence: float = 0.9) -> records.FlightRecord:
    found = flight_record.read("job-e1", {"flight_recorder": recorded.verdict(kind, *ranks, confidence=confidence)})
    assert found is not None
    return found


GLOO_ABORT = """\
terminate called after throwing an instance of 'gloo::EnforceNotMet'
  what():  [enforce fail at /gloo/transport/tcp/pair.cc:456] op.preamble.length <= op.nbytes. 36 vs 32. Received data \
size doesn't match expected size. Is there a distributed collective mismatch in your code?
Fatal Python error: Aborted

Thread 0x00007fdaf2e7fb80 (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/venv/lib/python3.11/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/job/train.py", line 14 in reduce
"""
HUNG, STOPPED, ALL, WORK, BLIND = "rank-hung", "rank-stopped", "job-stalled", "working", "could-not-look"


@pytest.mark.parametrize(
    ("seen", "told", "kind", "ranks", "doubt", "confidence"),
    [
        # Agreement makes it surer than either.
        (look(HUNG, 2), record("rank-missing", 2), HUNG, (2,), False, 0.99),
        (look(HUNG, 2, confidence=0.5), record("rank-missing", 2), HUNG, (2,), False, 0.95),
        (look(STOPPED, 2), record("p2p-missing", 2), STOPPED, (2,), False, 0.99),
        (look(ALL, confidence=0.7), record("all-joined-stuck"), ALL, (), False, 0.97),
        # The record narrows what stacks alone could not tell apart.
        (look(HUNG, 1, 2, confidence=0.7), record("rank-missing", 2), HUNG, (2,), False, 0.97),
        (look(HUNG, 2), record("rank-missing", 1, 2), HUNG, (2,), False, 0.9),
        # What only the record shows, where every stack waits.
        (look(ALL, confidence=0.7), record("size-mismatch", 2), "collective-mismatch", (2,), False, 0.9),
        (look(ALL, confidence=0.7), record("device-stuck", 2), "device-stuck", (2,), False, 0.9),
        (look(ALL, confidence=0.7), record("rank-missing", 2), HUNG, (2,), True, 0.8),
        (look(HUNG, 2), record("collective-mismatch", 2), "collective-mismatch", (2,), False, 0.99),
        # Nobody could look: the record alone, less sure.
        (look(BLIND, confidence=0.0), record("rank-missing", 2), HUNG, (2,), False, 0.8),
        (look(BLIND, confidence=0.0), record("unknown", 1, 2, confidence=0.3), BLIND, (), False, 0.0),
        # Contradiction: less sure, and nobody's node.
        (look(HUNG, 2), record("rank-missing", 1), ALL, (), True, 0.6),
        (look(HUNG, 2), record("all-joined-stuck"), HUNG, (2,), True, 0.6),
        (look(HUNG, 2), record("unknown", 0, 1, confidence=0.3), HUNG, (2,), True, 0.6),
        (look(STOPPED, 2), record("rank-missing", 1), STOPPED, (2,), True, 0.8),
        # A record that names nobody, or not surely enough, changes nobody's name.
        (look(HUNG, 2), record("unknown", 1, 2, confidence=0.3), HUNG, (2,), False, 0.95),
        (look(HUNG, 2), record("none"), HUNG, (2,), False, 0.85),
        (look(HUNG, 2), record("rank-missing", 1, 3, confidence=0.5), HUNG, (2,), True, 0.6),
        (look(HUNG, 2, confidence=0.7), record("rank-missing", 2, confidence=0.5), HUNG, (2,), False, 0.85),
        (look(HUNG, 2), record("straggler", 1), HUNG, (2,), False, 0.85),
        (look(HUNG, 2), record("straggler", 2), HUNG, (2,), False, 0.85),
        (look(ALL, confidence=0.7), record("straggler", 2), ALL, (), False, 0.7),
        (look(STOPPED, 2), record("none"), STOPPED, (2,), False, 0.95),
        # Ranks at work are never called hung because of a record.
        (look(WORK, confidence=0.5), record("rank-missing", 2), WORK, (), False, 0.5),
        (look("suspended", 0, 1), record("rank-missing", 1), "suspended", (0, 1), False, 0.95),
    ],
)
def test_looks_and_record_are_weighed(
    seen: stalls.Verdict, told: Any, kind: str, ranks: tuple[int, ...], doubt: bool, confidence: float
) -> None:
    found = flight_record.join(seen, told)
    assert (found.verdict.kind, found.verdict.ranks, found.doubt) == (kind, ranks, doubt)
    assert found.verdict.confidence == pytest.approx(confidence, abs=0.006)


def test_what_the_looks_had_told_the_record_is_no_second_sign() -> None:
    def joined(culprits: list[int], confidence: float) -> float:
        without = {"verdict": "rank-missing", "culprits": culprits, "confidence": confidence}
        told = recorded.verdict("rank-missing", 2) | {"without_looks": without}
        found = flight_record.read("job-e1", {"flight_recorder": told})
        return flight_record.join(look(HUNG, 2, confidence=0.8), found).verdict.confidence

    assert joined([2], 0.6) == pytest.approx(0.92)
    assert joined([1], 0.9) == pytest.approx(0.8), "without the looks it had named another"
    assert joined([], 0.3) == pytest.approx(0.8)


def test_without_a_record_a_look_is_what_it_was() -> None:
    assert flight_record.join(look(HUNG, 2), None) == flight_record.Joined(look(HUNG, 2))
    assert flight_record.read("job-e1", {}) is None
    assert flight_record.read("job-e1", {"flight_recorder": {**recorded.verdict("none"), "ranks_read": 0}}) is None


@pytest.mark.parametrize("value", [None, 7, "text", [], {"ranks_read": True}, {"ranks_read": 4}])
def test_a_verdict_that_is_none_is_read_without_harm(value: Any) -> None:
    found = flight_record.read("job-e1", {"flight_recorder": value})
    assert found is None or flight_record.join(look(HUNG, 2), found).verdict.ranks == (2,)
    spoilt = dict.fromkeys(recorded.verdict("none"), value) | {"ranks_read": 1}
    assert flight_record.read("job-e1", {"flight_recorder": spoilt}) is not None


def hang_all(world: World) -> World:
    for rank in range(4):
        world.hang(rank, "waits")
    return world


def test_a_record_that_agrees_stands_in_the_evidence_and_makes_the_diagnosis_surer() -> None:
    world = training().hang(2, "spins")
    world.recorded = recorded.verdict("rank-missing", 2)
    world.suspect(10).wait(15)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes, found.confidence) == ("rank-hung", (2,), ("n1",), 0.99)
    assert found.flight_recorder in {row.effect for row in world.of(records.EffectDone)}
    texts = [row["text"] for row in found.evidence if row["kind"] in ("flight-recorder", "group", "stack")]
    assert any("Rank 2 never called all_reduce 41" in text for text in texts)
    assert any("waits: rank 0-3" in text for text in texts)
    assert any("train.py:40" in text for text in texts)


def test_a_table_tells_what_each_of_two_sides_called_and_a_group_without_a_description_by_its_name() -> None:
    result = recorded.verdict("size-mismatch", 2)
    row: dict[str, Any] = {"state": "waits", "more": "", "coords": {}}
    rows = [row | {"ranks": "0-1,3", "call": "all_reduce [16]"}, row | {"ranks": "2", "call": "all_reduce [8]"}]
    result["tables"] = [result["tables"][0] | {"description": "undefined", "rows": rows}]
    found = flight_record.read("effect", {flight_record.KEY: result})
    assert found is not None
    (line,) = found.table
    assert line.startswith("all_reduce number 41 of group 7 (4 ranks); waits: rank 0-1,3, called all_reduce [16]; ")
    assert line.endswith("; waits: rank 2, called all_reduce [8]")
    rows = [row | {"state": "not-there", "ranks": "4"}]
    result["tables"] = [result["tables"][0] | {"op": "send", "seq": 9, "from_to": [4, 0], "rows": rows}]
    found = flight_record.read("effect", {flight_record.KEY: result})
    assert found is not None
    assert found.table == ("send from rank 4 to rank 0 in group 7 (4 ranks); absent: rank 4",)


def test_a_stack_that_a_look_told_is_no_evidence_of_the_record_again() -> None:
    result = recorded.verdict("rank-missing", 2)
    for of, shown in (("last-call", True), ("look", False)):
        result["findings"][0]["stack_of"] = of
        found = flight_record.read("effect", {flight_record.KEY: result})
        assert found is not None
        assert bool(found.stack) is shown


def test_two_looks_have_to_agree_on_the_operation_before_a_record_ends_anything() -> None:
    world = hang_all(training())
    world.recorded = recorded.verdict("device-stuck", 2)
    world.suspect(10, act_s=10)
    assert not world.of(records.IncidentOpened), "one look is no look"
    world.recorded = recorded.verdict("device-stuck", 1)
    world.wait(6)
    looked = world.of(records.Looked)
    assert (looked[-2].ranks, looked[-1].verdict) == ((2,), "job-stalled")
    assert looked[-1].agrees, "the looks themselves agree, and the record told two different things"
    world.wait(30)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.nodes) == ("job-stalled", ())


@pytest.mark.parametrize(
    ("gpus", "named"), [({}, ("n1/gpu0",)), ({"2": "gpu5", "3": "gpu4"}, ("n1/gpu5",)), ({"2": "", "3": ""}, ())]
)
def test_a_stuck_device_is_the_one_that_its_rank_uses_and_none_where_that_is_not_known(
    gpus: dict[str, str], named: tuple[str, ...]
) -> None:
    world = hang_all(training(gpus=gpus))
    world.recorded = recorded.verdict("device-stuck", 2)
    world.suspect(10).wait(15)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.gpus) == ("device-stuck", (2,), named)


def test_records_that_come_and_go_never_keep_a_hang_from_being_ended() -> None:
    world = training().hang(2, "spins").suspect(10)
    for index in range(20):
        world.recorded = recorded.verdict("rank-missing", 1) if index % 2 else None
        world.wait(2)
    assert world.cause == "rank-hung"


def test_where_looks_and_record_contradict_each_other_nobodys_node_is_blamed() -> None:
    world = training().hang(2, "spins")
    world.recorded = recorded.verdict("rank-missing", 1)
    world.suspect(10).wait(25)
    found = world.of(records.Diagnosed)[-1]
    assert (found.ranks, found.nodes) == ((), ())
    assert found.confidence <= 0.6
    assert "but the flight record blames rank 1" in found.sentence


def test_ranks_at_work_are_not_ended_whatever_their_record_says() -> None:
    world = training().hang(2, "works")
    world.recorded = recorded.verdict("rank-missing", 2)
    world.suspect(10).wait(1200)
    assert not world.of(records.IncidentOpened)


def test_a_record_of_a_suspicion_that_went_by_blames_nobody_later() -> None:
    world = training().hang(2, "spins")
    world.recorded = recorded.verdict("rank-missing", 2)
    world.suspect(10).go_on(2).resume()
    world.recorded = None
    world.train(9).die(0, signal="SIGKILL")
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.flight_recorder) == ("rank-killed", (0,), "")


def gave_up(world: World) -> World:
    """Ranks 0, 1 and 3 end of their collective's time-out; rank 2 lives on."""
    world.mute = True
    for rank in (0, 1, 3):
        world._exit(rank, code=1, log_tail=TIME_OUT)
        world.now += 0.1
    return world.unmute()


def asked(world: World) -> list[records.EffectRequested]:
    return [row for row in world.of(records.EffectRequested) if row.name == "capture-evidence"]


def test_ranks_that_gave_up_by_themselves_are_asked_for_what_they_left_and_it_names_the_one() -> None:
    world = training()
    world.dumped = recorded.verdict("rank-missing", 2)
    gave_up(world)
    [effect] = asked(world)
    assert effect.incident == "job-1"
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes, found.confidence) == ("rank-hung", (2,), ("n1",), 0.8)
    assert found.flight_recorder == effect.effect
    assert "3 others gave up waiting by themselves" in found.sentence


@pytest.mark.parametrize(
    ("kind", "cause", "nodes"),
    [("size-mismatch", "collective-mismatch", ()), ("device-stuck", "device-stuck", ("n0",))],
)
def test_a_culprit_that_gave_up_too_is_named_where_only_the_record_tells(kind: str, cause: str, nodes: Any) -> None:
    world = training()
    world.dumped = recorded.verdict(kind, 1)
    gave_up(world)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes) == (cause, (1,), nodes)


def ended_by_gloo(world: World) -> World:
    """Rank 1, innocent, gets more of rank 2 than its call takes, and gloo ends it; the others lose a peer."""
    return world.die(1, signal="SIGABRT", log_tail=GLOO_ABORT)


@pytest.mark.parametrize("told", [None, recorded.verdict("rank-missing", 3), recorded.verdict("none")])
def test_a_size_that_did_not_fit_is_a_mismatch_of_which_the_log_names_nobody(told: Any) -> None:
    world = training()
    world.dumped = told
    ended_by_gloo(world)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes) == ("collective-mismatch", (), ())
    assert "rank 1 at step" in found.sentence
    assert "got 36 bytes from a peer where its call takes 32 (all_reduce at train.py:14 in reduce)" in found.sentence
    assert "which of them was wrong its log does not tell" in found.sentence
    assert (found.signature, world.decision) == ("collective-mismatch:gloo-size:all_reduce:reduce", "restart")
    assert any(row["kind"] == "echo" for row in found.evidence)
    assert not world.of(records.NodeMarked)
    ended_by_gloo(world.train(9))
    assert world.of(records.Decided)[-1].decision == "hold-for-person"


def test_a_size_that_did_not_fit_and_the_record_of_it_name_the_one_surely() -> None:
    world = training()
    world.dumped = recorded.verdict("size-mismatch", 2, confidence=0.75)
    ended_by_gloo(world)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes, found.confidence) == ("collective-mismatch", (2,), (), 0.95)
    assert found.sentence.startswith("Rank 2 called all_reduce 41 of mesh_dp with [8]")
    assert "rank 1 at step" in found.sentence
    assert any(row["kind"] == "flight-recorder" for row in found.evidence)


def test_a_rank_that_was_killed_explains_a_call_that_did_not_fit() -> None:
    world = training()
    world.mute = True
    world._exit(3, signal="SIGKILL")
    world.now += 0.1
    world._exit(1, signal="SIGABRT", log_tail=GLOO_ABORT)
    world.unmute().wait(15)
    assert (world.cause, world.of(records.Diagnosed)[-1].ranks) == ("rank-killed", (3,))


@pytest.mark.parametrize("told", [None, recorded.verdict("unknown", 1, 2, confidence=0.3), {"ranks_read": 0}])
def test_where_they_left_nothing_that_tells_the_job_goes_on_as_before(told: Any) -> None:
    world = training()
    world.dumped = told
    gave_up(world)
    assert len(asked(world)) == 1
    assert (world.cause, world.decision) == ("unknown", "restart")


def test_a_question_that_is_not_answered_delays_the_restart_by_a_bounded_time() -> None:
    world = training()
    world.mute = True
    for rank in (0, 1, 3):
        world._exit(rank, code=1, log_tail=TIME_OUT)
    for effect in world.job.pending:
        world.mute = True
        world.perform(effect)
    assert [effect.name for effect in world.job.pending] == ["capture-evidence"]
    world.wait(11)
    assert not world.of(records.Diagnosed)
    world.wait(12)
    assert world.cause == "unknown"
    world.unmute()
    assert world.job.state == "starting" or world.of(records.AttemptPlanned)[-1].attempt == 1


@pytest.mark.parametrize("how", [{"signal": "SIGKILL"}, {"code": 1, "error_type": "KeyError", "error_message": "'x'"}])
def test_a_rank_that_died_of_its_own_explains_the_others_and_nobody_is_asked(how: dict[str, Any]) -> None:
    world = training()
    world.dumped = recorded.verdict("rank-missing", 3)
    world.die(1, **how)
    assert not asked(world)
    assert world.of(records.Diagnosed)[-1].ranks == (1,)


def test_a_node_that_vanished_explains_the_others_and_nobody_is_asked() -> None:
    world = training()
    world.dumped = recorded.verdict("rank-missing", 0)
    world.vanish("n1").wait(30)
    assert not asked(world)
    assert world.cause == "node-lost"


def test_a_gpu_that_broke_is_the_cause_and_the_record_stands_beside_it() -> None:
    world = hang_all(training())
    world.recorded = recorded.verdict("device-stuck", 2)
    world.suspect(10).find("n1", "xid", xid=119, device="gpu0").wait(20)
    found = world.of(records.Diagnosed)[-1]
    assert found.cause not in ("device-stuck", "unknown")
    assert found.nodes == ("n1",)
    assert any(row["kind"] == "flight-recorder" for row in found.evidence)


def test_the_same_mismatch_in_another_place_is_another_failure_and_bounded_all_the_same() -> None:
    world = hang_all(training())
    world.recorded = recorded.verdict("size-mismatch", 2)
    world.suspect(10).wait(15)
    first = world.of(records.Diagnosed)[-1]
    assert first.signature == "collective-mismatch:size-mismatch:all_reduce of mesh_dp"
    assert first.nodes == ()


def test_everything_that_is_kept_for_decisions_is_small() -> None:
    whole = recorded.verdict("rank-missing", *range(1000))
    whole["findings"] = whole["findings"] * 50
    whole["findings"][0]["evidence"] = ["x" * 10_000] * 1000
    found = flight_record.read("job-e1", {"flight_recorder": whole})
    assert found is not None
    assert len(repr(dataclasses.asdict(found))) < 12_000
