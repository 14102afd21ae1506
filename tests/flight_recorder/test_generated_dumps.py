"""The generator of dumps makes states that a job can be in, in the bytes that torch writes."""

import base64
import gzip
import json
import os
import pathlib
import pickle
import pickletools
import typing

import pytest

from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import cases, entries, execute, interleaved, layout, program, score

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded" / "flight_recorder" / "campaign"
MOVING = ("healthy", "idle", "slow-host", "slow-device")
MESHES = ("dp=2,pp=4,cp=2,tp=2", "tp=2,cp=4,pp=2,dp=1", "pp=16,tp=2", "cp=2,dp=4,tp=4", "dp=3,pp=3,tp=2")


def _documents(case: flight_recorder.Case) -> dict[int, dict[str, typing.Any]]:
    return {rank: json.loads(data) if data[:1] == b"{" else pickle.loads(data) for rank, data in case.dumps()}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_a_job_without_fault_ends_however_it_is_written(mesh: str, schedule: str) -> None:
    for batched in (True, False):
        for ring in (True, False):
            made = layout.lay_out(mesh)
            shape = program.Shape(schedule=schedule, batched=batched, ring=ring, sequence=ring, microbatches=4)
            stages = [program.step(made, shape, stage) for stage in range(made.size("pp"))]
            run = execute.Run(execute.Plan(made, stages, steps=2, ahead=0 if ring else 32))
            assert all(rank.ended and all(record.done for record in rank.records) for rank in run.ranks)


@pytest.mark.parametrize(("stages", "chunks", "microbatches"), [(2, 2, 2), (4, 2, 8), (3, 3, 6), (1, 2, 2)])
def test_the_interleaved_table_holds_every_chunk_once_and_after_what_it_needs(
    stages: int, chunks: int, microbatches: int
) -> None:
    last, over = stages * chunks - 1, []
    for row in interleaved.table(stages, chunks, microbatches):
        for place, action in enumerate(row):
            if action is None:
                continue
            assert action.chunk % stages == place
            if action.direction == interleaved.BACKWARD:
                before = action._replace(chunk=action.chunk + 1)
                assert (before if action.chunk < last else action._replace(direction=interleaved.FORWARD)) in over
            elif action.chunk:
                assert action._replace(chunk=action.chunk - 1) in over
        over += [action for action in row if action is not None]
    assert len(over) == len(set(over)) == 2 * stages * chunks * microbatches


def test_the_interleaved_table_says_which_number_of_microbatches_it_needs() -> None:
    with pytest.raises(ValueError, match="3 microbatches do not go round 2 stages; take a multiple of 2"):
        interleaved.table(2, 2, 3)


@pytest.mark.parametrize("mesh", ["dp=2,pp=4,cp=2,tp=2", "tp=2,cp=4,pp=2,dp=1", "cp=2,dp=4,tp=4", "dp=4,pp=3,tp=2"])
def test_a_job_with_experts_bundles_and_an_interleaved_pipeline_ends(mesh: str) -> None:
    made = layout.lay_out(mesh, "hash", "axis", experts=2, model=True)
    shape = program.Shape(schedule="interleaved", microbatches=2 * made.size("pp"), bundled=True)
    stages = [program.step(made, shape, stage) for stage in range(made.size("pp"))]
    run = execute.Run(execute.Plan(made, stages, steps=2, ahead=16))
    assert all(rank.ended and all(record.done for record in rank.records) for rank in run.ranks)
    assert {"ep", "tp"} <= {record.group.kind for rank in run.ranks for record in rank.records}
    assert len({group.name for group in made.groups}) == len(made.groups)
    counted = entries.Recorder(run, cases.START_NS).dump(0, entries.Settings()).entries
    assert [entry.record for entry in counted] == list(range(len(counted)))
    last = {entry.line.group.kind: entry for entry in counted}
    assert all(entry.op_id >= entry.cseq for entry in last.values())


def test_ranks_send_their_experts_unequal_numbers_of_tokens_and_that_is_no_fault() -> None:
    case = flight_recorder.make(2, 64, "stuck-ep", entries.Settings())
    found = [
        entry for dump in _documents(case).values() for entry in dump["entries"] if "to_all" in entry["profiling_name"]
    ]
    assert len({str(entry["input_sizes"]) for entry in found}) > 1
    assert any(entry["state"] == "completed" for entry in found)


def test_collectives_of_a_bundle_share_a_number_and_only_their_closing_entry_completes() -> None:
    made = layout.lay_out("dp=4,tp=4")
    stages = [program.step(made, program.Shape(bundled=True), 0)]
    recorder = entries.Recorder(execute.Run(execute.Plan(made, stages, steps=1)), cases.START_NS)
    found = [entry for entry in recorder.dump(5, entries.Settings()).entries if entry.line.group.kind == "dp"]
    gathers = [entry for entry in found if entry.cseq == 1]
    assert [entry.line.name for entry in gathers] == ["nccl:_all_gather_base"] * 2 + ["nccl:coalesced"]
    assert [entry.state for entry in gathers] == ["scheduled", "scheduled", "completed"]
    assert [entry.op_id for entry in gathers] == [1, 2, 2]


@pytest.mark.parametrize("name", cases.NAMES)
def test_a_case_is_the_same_for_the_same_seed_and_names_ranks_that_were_changed(name: str) -> None:
    one = flight_recorder.make(11, 64, name, entries.Settings(ring=64, stacks=False))
    two = flight_recorder.make(11, 64, name, entries.Settings(ring=64, stacks=False))
    assert one.document() == two.document()
    assert dict(one.dumps()) == dict(two.dumps())
    assert set(one.truth.culprits) <= set(one.truth.allowed) <= set(range(one.run.plan.layout.world))
    assert (name in ("healthy", "idle", "link")) == (not one.truth.culprits)


def test_what_is_blocked_waits_for_something_that_is_not_there() -> None:
    """No unfinished operation has everything it needs: else the state would not last."""
    for seed in range(12):
        case = flight_recorder.make(seed, 64, "stuck-tp")
        for rank in case.run.ranks:
            waiting = [record for record in rank.records if record.done is None]
            assert rank.stopped == (rank.number in case.truth.culprits)
            assert rank.stopped or waiting
            for record in waiting:
                if record.call.what == program.COLLECTIVE and record.arrived is not None:
                    assert any(_seq_done(case.run.ranks[other], record) for other in record.group.ranks)


@pytest.mark.parametrize("name", [name for name in cases.NAMES if name not in MOVING])
def test_every_host_that_was_not_stopped_waits_for_an_operation_that_is_not_over(name: str) -> None:
    for seed in range(3):
        case = flight_recorder.make(seed, 64, name)
        for rank in case.run.ranks:
            assert rank.stopped or (rank.parked is not None and rank.parked.done is None), (seed, rank.number)


def _seq_done(rank: execute.Rank, record: execute.Record) -> bool:
    """Whether this member has not started the operation."""
    own = [each for each in rank.records if each.group is record.group and each.cseq == record.cseq]
    return not any(each.arrived is not None and each.call.what == program.COLLECTIVE for each in own)


def test_sequence_numbers_counters_and_status_agree() -> None:
    case = flight_recorder.make(3, 64, "idle", entries.Settings(ring=2000, version="2.10"))
    for dump in _documents(case).values():
        for before, after in zip(dump["entries"], dump["entries"][1:], strict=False):
            assert after["record_id"] == before["record_id"] + 1
            assert after["time_created_ns"] > before["time_created_ns"]
        for entry in dump["entries"]:
            assert entry["is_p2p"] or entry["state"] == "completed"
            status = dump["pg_status"][str(entry["pg_id"])]
            assert status["last_completed_collective"] == status["last_enqueued_collective"]
        newest = {entry["pg_id"]: entry for entry in dump["entries"]}
        for pg_id, entry in newest.items():
            seq = entry["p2p_seq_id"] if entry["is_p2p"] else entry["collective_seq_id"]
            assert dump["pg_status"][str(pg_id)]["last_enqueued_collective"] == seq


def test_members_of_a_batch_never_change_their_state_and_stay_in_an_active_only_dump() -> None:
    made = layout.lay_out("pp=4,tp=4")
    stages = [program.step(made, program.Shape(batched=True), stage) for stage in range(4)]
    run = execute.Run(execute.Plan(made, stages, steps=1))
    recorder = entries.Recorder(run, cases.START_NS)
    found = recorder.dump(5, entries.Settings()).entries
    batched = [entry for entry in found if entry.line.p2p]
    assert {entry.state for entry in batched if entry.line.name != "nccl:coalesced"} == {"scheduled"}
    assert {entry.state for entry in batched if entry.line.name == "nccl:coalesced"} == {"completed"}
    active = recorder.dump(5, entries.Settings(active_only=True)).entries
    assert [entry.record for entry in active] == [entry.record for entry in batched if entry.state == "scheduled"]


def test_a_ring_keeps_the_newest() -> None:
    full = _documents(flight_recorder.make(5, 32, "stuck-dp", entries.Settings(ring=2000)))
    short = _documents(flight_recorder.make(5, 32, "stuck-dp", entries.Settings(ring=64)))
    assert any(len(dump["entries"]) > 64 for dump in full.values())
    for rank, dump in short.items():
        assert dump["entries"] == full[rank]["entries"][-64:]


def test_json_says_what_the_pickle_says() -> None:
    told = _documents(flight_recorder.make(9, 32, "wrong-op", entries.Settings(form="json")))
    written = _documents(flight_recorder.make(9, 32, "wrong-op", entries.Settings(stacks=False)))
    for rank, dump in written.items():
        for entry, other in zip(dump["entries"], told[rank].get("entries", []), strict=True):
            entry["process_group"] = list(entry["process_group"])
            for key in ("time_discovered_started_ns", "time_discovered_completed_ns"):
                entry[key] = entry[key] or 0
            assert entry == other
        assert dump["pg_config"] == told[rank]["pg_config"]


def test_the_pickle_has_the_form_of_torchs_own() -> None:
    """Opcode by opcode, with texts and numbers left out: the same keys in the same order, memoized alike."""
    case = json.loads(gzip.decompress((RECORDED / "idle.json.gz").read_bytes()))
    torchs = base64.b64decode(case["dumps"]["0"])
    ours = next(data for _, data in flight_recorder.make(1, 32, "idle", entries.Settings(stacks=False)).dumps())
    keys = set(pickle.loads(torchs)["entries"][0]) | set(pickle.loads(torchs))
    assert _entry_form(torchs, keys) == _entry_form(ours, keys)
    assert list(pickle.loads(torchs)) == list(pickle.loads(ours))


def _entry_form(data: bytes, keys: set[str]) -> list[str]:
    """Keys of the first entry with the kinds of opcodes between them, sizes of numbers aside."""
    form: list[str] = []
    inside = False
    for code, argument, _ in pickletools.genops(data):
        inside |= argument == "record_id"
        if inside and argument in keys:
            form.append(str(argument))
            if argument == "is_p2p":
                return form
        elif inside and form[-1] in ("record_id", "process_group", "collective_seq_id", "time_created_ns", "retired"):
            form.append("whole" if code.name in ("BININT1", "BININT2", "BININT") else code.name.replace("LONG_", ""))
    return form


@pytest.mark.parametrize(
    ("culprits", "named", "verdict", "confidence", "outcome"),
    [
        ([3, 5], [5, 3], "rank-missing", 0.9, "exact"),
        ([3, 5], [3], "rank-missing", 0.9, "subset"),
        ([3], [3, 4], "rank-missing", 0.69, "wrong"),
        ([3], [4], "rank-missing", 0.7, "confident wrong"),
        ([3], [], "unknown", 0.3, "unknown"),
        ([3], [], "none", 0.9, "missed"),
        ([], [], "rank-missing", 0.9, "unknown"),
        ([], [], "none", 0.9, "exact"),
        ([], [1], "straggler", 0.9, "confident wrong"),
    ],
)
def test_an_answer_is_scored_by_whom_it_names(
    culprits: list[int], named: list[int], verdict: str, confidence: float, outcome: str
) -> None:
    kinds = ["rank-missing"] if culprits else ["none"]
    truth = {"fault": "x", "kinds": kinds, "culprits": culprits, "allowed": culprits, "identifiable": "yes"}
    answer = {"verdict": verdict, "confidence": confidence, "culprits": named[:1], "findings": [{"culprits": named}]}
    assert score.score(truth | {"findings": []}, answer).outcome == outcome


@pytest.mark.slow
def test_torchs_own_loader_reads_what_is_written(tmp_path: pathlib.Path) -> None:
    from torch.distributed.flight_recorder.components import builder, loader

    case = flight_recorder.make(4, 32, "stuck-tp", entries.Settings(stacks=True, timing=True))
    flight_recorder.write(case, tmp_path)
    for rank in range(case.run.plan.layout.world):
        found = loader.read_dump(cases.PREFIX, os.path.join(tmp_path, "dumps", f"{cases.PREFIX}{rank}"))
        assert found["rank"] == rank
        groups = builder.build_groups_memberships({rank: found["pg_config"]})[0]
        assert len(groups) == len(typing.cast(dict[str, object], found["pg_config"]))
