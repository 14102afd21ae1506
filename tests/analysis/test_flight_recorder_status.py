"""What a live rank's flight record tells. Recorded answers: torch 2.13.0 (CPU build), gloo, 2 and 4 ranks."""

import json
import pathlib
import random
from typing import Any

import pytest

from outrider_analysis.flight_recorder import status

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded/flight_recorder"


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.json").read_bytes()


def changed(name: str, **values: Any) -> bytes:
    return json.dumps({**json.loads(recorded(name)), **values}).encode()


def entry(**values: Any) -> dict[str, Any]:
    """One entry as NCCL writes it: the keys of the format's page, with ``values`` in place."""
    return {
        "record_id": 0,
        "pg_id": 3,
        "process_group": ["7", "mesh_dp"],
        "collective_seq_id": 5,
        "p2p_seq_id": 0,
        "op_id": 5,
        "profiling_name": "nccl:all_reduce",
        "state": "scheduled",
        "time_created_ns": 1_700_000_000_000_000_000,
        "retired": False,
        "is_p2p": False,
        **values,
    }


def record(*entries: dict[str, Any], **values: Any) -> bytes:
    return json.dumps({"version": "2.10", "entries": list(entries), **values}).encode()


def test_a_rank_in_an_all_reduce_waits_for_that_and_not_for_the_three_before() -> None:
    found = status.read_status(recorded("blocked-in-all-reduce"))
    assert found.pending is not None
    assert (found.pending.op, found.pending.seq, found.pending.state) == ("all_reduce", 4, "scheduled")
    assert (found.pending.group, found.pending.description) == ("0", "default_pg")
    assert found.pending_count == 1
    assert found.groups == (status.Group("0", "default_pg", None, 5, -1, 3, 4, 0),)
    assert found.pending.created_at == pytest.approx(1795272988.6)


@pytest.mark.parametrize("name", ["blocked-in-recv", "nothing-pending", "before-the-first-group"])
def test_gloo_records_no_recv_so_nothing_is_pending(name: str) -> None:
    found = status.read_status(recorded(name))
    assert (found.pending, found.pending_count) == (None, 0)


def test_the_group_in_which_a_rank_waits_is_named() -> None:
    barrier = status.read_status(recorded("two-groups-in-barrier"))
    tensor = status.read_status(recorded("two-groups-in-tensor-group"))
    assert barrier.pending is not None
    assert (barrier.pending.group, barrier.pending.op) == ("0", "barrier")
    assert tensor.pending is not None
    assert (tensor.pending.group, tensor.pending.description, tensor.pending.seq) == ("2", "tp", 2)
    assert [group.name for group in tensor.groups] == ["0", "2"]


def test_the_counter_grows_with_every_operation_over_all_groups() -> None:
    names = ("before-the-first-group", "nothing-pending", "two-groups-in-tensor-group", "two-groups-in-barrier")
    assert [status.read_status(recorded(name)).enqueued for name in names] == [0, 3, 5, 7]


def test_the_counter_goes_on_where_the_ring_has_forgotten_and_where_a_group_is_gone() -> None:
    ring = record(entry(record_id=9_000, state="completed"), pg_status={})
    assert status.read_status(ring).enqueued == 9_001
    told = {"3": {"last_enqueued_collective": "40", "last_started_collective": 40, "last_completed_collective": "39"}}
    assert status.read_status(record(pg_status=told)).enqueued == 40


def test_nccl_names_members_and_started_operations_and_the_oldest_unfinished_one_counts() -> None:
    config = {
        "7": {"name": "7", "desc": "mesh_dp", "ranks": "[0, 2]"},
        "8": {"name": "8", "desc": "mesh_pp", "ranks": "[0, 1]"},
    }
    numbers = {"3": {f"last_{w}_collective": "6" for w in ("enqueued", "started", "completed")}}
    text = record(
        entry(state="completed", retired=True),
        entry(state="completed", retired=False, collective_seq_id=6),
        entry(state="started", collective_seq_id=7),
        entry(state="scheduled", is_p2p=True, p2p_seq_id=2, profiling_name="nccl:recv 3<-0"),
        pg_config=config,
        pg_status=numbers,
    )
    found = status.read_status(text)
    assert found.pending is not None
    assert (found.pending.seq, found.pending.state, found.pending_count) == (7, "started", 2)
    assert found.groups[0] == status.Group("7", "mesh_dp", (0, 2), 6, 6, 6, 7, 2)
    assert found.groups[1] == status.Group("8", "mesh_pp", (0, 1))


def test_what_timed_out_is_no_longer_waited_for() -> None:
    assert status.read_status(record(entry(retired=True))).pending is None


def test_a_recv_is_counted_by_its_own_number() -> None:
    waits = entry(is_p2p=True, p2p_seq_id=12, profiling_name="nccl:recv 3<-0")
    found = status.read_status(record(waits)).pending
    assert found is not None
    assert (found.op, found.seq, found.p2p) == ("recv 3<-0", 12, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"<h1>torch.distributed.WorkerServer</h1>", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "before 2.0"),
        (b"7", "no flight record"),
        (b"{}", "no flight record"),
        (b'{"status": "ok"}', "no flight record"),
        (b'{"version": "3.0", "entries": []}', "format '3.0'"),
        (b'{"version": 2.1, "entries": []}', "format '2.1'"),
        (b" " * (status.TEXT_BYTES_MAX + 1), "bytes; at most"),
    ],
)
def test_what_is_no_flight_record_is_refused_with_a_reason(text: bytes, words: str) -> None:
    with pytest.raises(status.StatusError, match=words):
        status.read_status(text)


@pytest.mark.parametrize(
    "values",
    [
        {"entries": "none"},
        {"entries": [None, 1, [], {}, {"pg_id": {}, "process_group": [1, 2], "record_id": True, "state": 4}]},
        {"pg_status": [1], "pg_config": [2]},
        {"pg_status": {"0": 3, "1": {"last_enqueued_collective": "many"}}},
        {"pg_config": {"0": 3, "1": {"ranks": "[0, -1]"}, "2": {"ranks": [0]}, "3": {"ranks": "[" * 5000}}},
        {"a_key_of_tomorrow": {"deep": [1, 2, 3]}},
    ],
)
def test_fields_of_another_form_count_as_absent(values: dict[str, Any]) -> None:
    found = status.read_status(changed("blocked-in-all-reduce", **values))
    assert all(group.ranks is None for group in found.groups)


def test_a_damaged_record_is_an_error_and_never_anything_else() -> None:
    whole, chance = recorded("two-groups-in-barrier"), random.Random(20)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randrange(1, 9)):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            status.read_status(bytes(damaged))
        except status.StatusError:
            refused += 1
    assert refused > 100
