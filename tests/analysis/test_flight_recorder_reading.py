"""Dumps of every form are read as plain values, and nothing in them is carried out."""

import json
import pathlib
import pickle
import random
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from outrider_analysis.flight_recorder import digest, model, ranges, reading

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded/flight_recorder"


def entry(**values: Any) -> dict[str, Any]:
    return {
        "record_id": 0,
        "pg_id": 3,
        "process_group": ("7", "mesh_dp"),
        "collective_seq_id": 5,
        "p2p_seq_id": 0,
        "op_id": 5,
        "profiling_name": "nccl:all_reduce",
        "input_sizes": [[16, 8]],
        "output_sizes": [[16, 8]],
        "input_dtypes": ["BFloat16"],
        "output_dtypes": ["BFloat16"],
        "state": "scheduled",
        "time_created_ns": 1_700_000_000_000_000_000,
        "time_discovered_completed_ns": None,
        "retired": False,
        "is_p2p": False,
        **values,
    }


def document(*entries: dict[str, Any], **values: Any) -> dict[str, Any]:
    config = {"7": {"name": "7", "desc": "mesh_dp", "ranks": "[0, 2]"}}
    return {"version": "2.10", "pg_config": config, "pg_status": {}, "entries": list(entries), **values}


def read(found: Any) -> reading.Dump:
    dump = reading.read(pickle.dumps(found, 2))
    assert isinstance(dump, reading.Dump)
    return dump


def test_pickle_and_json_give_the_same_digest() -> None:
    found = document(entry())
    one, other = read(found), reading.read(json.dumps(found).encode())
    assert isinstance(other, reading.Dump)
    assert (one.form, other.form) == ("pickle", "json")
    assert digest.Digester().rank(0, one) == digest.Digester().rank(0, other)


def test_a_bare_list_with_one_number_for_all_is_read() -> None:
    old = entry(seq_id=5)
    del old["collective_seq_id"]
    dump = read([old])
    assert dump.version == (1, 0)
    assert digest.Digester().rank(0, dump).unfinished[0].seq == 5


def test_version_2_10_follows_2_9_and_3_0_is_refused() -> None:
    assert read(document(version="2.9")).version < read(document(version="2.10")).version
    refused = reading.read(pickle.dumps(document(version="3.0"), 2))
    assert isinstance(refused, reading.Unreadable)
    assert "3.0" in refused.why


class Bomb:
    def __reduce__(self) -> Any:
        return (pathlib.Path.touch, (pathlib.Path("executed"),))


def test_a_pickle_that_asks_for_a_name_is_refused_and_not_executed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = reading.read(pickle.dumps(document(bomb=Bomb())))
    assert isinstance(refused, reading.Unreadable)
    assert refused.kind == "refused"
    assert "touch" in refused.why or "getattr" in refused.why or "Path" in refused.why
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (pickle.dumps(document(entry()), 2)[:-40], "damaged"),
        (b"{", "damaged"),
        (b"[" * 200_000, "damaged"),
        (b"\x80\x02K\x01.", "foreign"),
        (b'{"status": "ok"}', "foreign"),
    ],
)
def test_what_is_no_dump_is_told(data: bytes, kind: str) -> None:
    found = reading.read(data)
    assert isinstance(found, reading.Unreadable)
    assert found.kind == kind


def test_unknown_keys_are_kept_and_wrong_types_cost_their_entry_alone() -> None:
    dump = read(document(entry(), entry(collective_seq_id="six"), 7, entry(input_sizes=3), of_tomorrow={"a": 1}))
    assert dump.unknown == {"of_tomorrow": {"a": 1}}
    found = digest.Digester().rank(0, dump)
    assert found.unfinished_count == 1
    assert found.problems == (
        "entries: 1 are no mappings; passed over",
        "entries: 2 are not in the form of an entry; passed over",
    )


def test_a_cyclic_and_a_doubling_object_do_no_harm() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    doubling: Any = [1]
    for _ in range(60):
        doubling = [doubling, doubling]
    bad = [entry(input_sizes=cyclic), entry(input_sizes=doubling), entry(input_dtypes=doubling), entry(frames=cyclic)]
    found = digest.Digester().rank(0, read(document(*bad, entry())))
    assert found.unfinished_count == 2


def test_members_of_a_batch_are_over_when_its_end_is() -> None:
    # torch leaves the members at "scheduled" for ever; seen in dumps of NCCL.
    part = {"is_p2p": True, "p2p_seq_id": 4, "collective_seq_id": 0}
    end = {"profiling_name": "nccl:coalesced", "record_id": 2, **part}
    members = [
        entry(profiling_name=f"nccl:{way}", record_id=i, **part) for i, way in enumerate(("send 0->1", "recv 0<-1"))
    ]
    over = digest.Digester().rank(0, read(document(*members, entry(state="completed", **end))))
    waits = digest.Digester().rank(0, read(document(*members, entry(**end))))
    assert (over.unfinished_count, waits.unfinished_count) == (0, 2)


def test_gloo_is_over_when_it_is_retired() -> None:
    data = (RECORDED / "blocked-in-all-reduce.json").read_bytes()
    dump = reading.read(data)
    assert isinstance(dump, reading.Dump)
    found = digest.Digester().rank(1, dump)
    assert found.gloo
    assert [(op.op, op.seq) for op in found.unfinished] == [("all_reduce", 4)]
    assert (found.groups[0].enqueued, found.groups[0].completed) == (4, 3)


def test_digests_travel_as_json_and_come_back_equal() -> None:
    shared = digest.Digester()
    dump = read(
        document(
            entry(state="completed"), entry(collective_seq_id=6, frames=[{"name": "f", "filename": "a.py", "line": 3}])
        )
    )
    node = shared.node([shared.rank(0, dump, taken_ns=17)], [("x", "empty")])
    assert model.from_json(json.loads(json.dumps(model.to_json(node)))) == node
    assert node.ranks[0].unfinished[0].stack == ("a.py:3 in f",)
    for damaged in (
        None,
        {},
        {**model.to_json(node), "ranks": [[1]]},
        {**model.to_json(node), "memberships": {"a": "x"}},
    ):
        with pytest.raises(model.DigestError):
            model.from_json(damaged)


def test_each_membership_text_is_parsed_once_whatever_its_spaces() -> None:
    shared = digest.Digester()
    assert shared.members("[0, 2]") == shared.members("[0,2]") != shared.members("[2, 0]")
    assert shared.members("[") == shared.members("[-1]") == shared.members("[[0]]") == ""


@pytest.mark.parametrize("ranks", [(), (3,), (0, 1, 2), (0, 8, 16), (5, 3, 1), (0, 1, 7, 9, 11, 12), (2, 2)])
def test_ranks_keep_their_order_as_text(ranks: tuple[int, ...]) -> None:
    assert ranges.decode(ranges.encode(ranks)) == ranks


def test_the_world_is_a_short_text_and_a_long_one_is_refused() -> None:
    assert ranges.encode(range(16_384)) == "0-16383"
    with pytest.raises(ValueError, match="at most"):
        ranges.decode("0-9999999")


def test_the_rank_is_the_tail_of_the_file_name() -> None:
    names = ("comm_lib_trace_rank_12", "node7-nccl_trace_rank_3.pkl", "fr.json", "rank_4.json")
    assert [reading.rank_of(name) for name in names] == [12, 3, None, 4]


@pytest.fixture
def bounded() -> Iterator[None]:
    """Half a gigabyte more than there is: a damaged length may ask for anything, so readers are bounded."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("bounded")
def test_thousands_of_damaged_dumps_end_in_an_answer() -> None:
    chance = random.Random(5)
    whole = pickle.dumps(document(*[entry(record_id=i, collective_seq_id=i) for i in range(4)]), 2)
    counts = {"Dump": 0, "Unreadable": 0}
    for _ in range(3_000):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.2 else whole)
        for _ in range(chance.randrange(1, 6)):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            found = reading.read(bytes(damaged))
        except MemoryError:
            continue  # a bound of the caller's process, and the size a damaged length asked for
        counts[type(found).__name__] += 1
        if isinstance(found, reading.Dump):
            digest.Digester().rank(0, found)
    assert min(counts.values()) > 150


def test_a_text_is_told_from_a_damaged_dump() -> None:
    text, cut = reading.read(b"rank 0 is fine\n"), reading.read(pickle.dumps({"entries": []}, 2)[:-4])
    assert isinstance(text, reading.Unreadable)
    assert text.kind == "foreign"
    assert text.why == "neither a pickle nor JSON: it begins with b'rank 0 is fine\\n'"
    assert isinstance(cut, reading.Unreadable)
    assert cut.kind == "damaged"
