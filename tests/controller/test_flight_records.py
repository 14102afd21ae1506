"""Digests of nodes, merged and judged beside the event loop: the right rank, bounded, whatever a node sends."""

import asyncio
import copy
from typing import Any

import msgspec
import pytest

from outrider_analysis import stalls
from outrider_analysis.flight_recorder import digest, model, reading
from outrider_controller import flight_record_bounds, flight_records
from outrider_controller.core import flight_record
from outrider_simulator import flight_recorder
from tests.flight_recorder import answers

MESH = "dp=2,pp=2,cp=1,tp=2"
EACH = 2
LOOK = stalls.Verdict("job-stalled", (), 0.6, "all ranks wait", ("f.py in g",))


def case(name: str = "stuck-tp", seed: int = 3) -> flight_recorder.Case:
    return flight_recorder.make(seed, name=name, mesh=MESH)


def gathered(
    told: dict[str, Any], nodes: int = 4, mesh: str = MESH, evidence: Any = (), each: int = EACH
) -> dict[str, Any] | None:
    """The verdict after all of ``told`` has come; ``evidence`` are the looks at the ranks, ``each`` on a node."""

    async def work() -> dict[str, Any] | None:
        ranks = {f"n{place}": range(place * each, (place + 1) * each) for place in range(nodes)}
        gathering = flight_records.Gathering("job", ranks, mesh, nodes * each)
        for node, record in told.items():
            gathering.take(node, {"ranks": list(evidence), "flight_recorder": record})
            await asyncio.sleep(0)
        return await gathering.judged()

    return asyncio.run(work())


def verdict(told: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = gathered(told, **more)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["stuck-tp", "wrong-size", "device-late", "link", "healthy"])
def test_digests_of_the_nodes_give_the_verdict_that_the_dumps_give(name: str) -> None:
    made = case(name)
    found = verdict(answers.of(made, EACH))
    assert set(found["culprits"]) <= set(made.truth.allowed)
    assert (found["nodes_read"], found["nodes_asked"], found["ranks_read"]) == (4, 4, 8)
    assert found["graph"]["nodes"] or not found["findings"]
    if name == "stuck-tp":
        assert found["culprits"] == list(made.truth.culprits)
        assert found["files"].keys() == {str(rank) for rank in made.truth.culprits}


def test_nodes_without_flight_records_give_no_verdict_and_those_with_none_say_why() -> None:
    assert gathered({f"n{place}": None for place in range(4)}) is None
    empty: dict[str, Any] = {"digest": None, "files": {}, "notes": ["the recorder is off: TORCH_FR_BUFFER_SIZE is 0"]}
    found = verdict({f"n{place}": empty for place in range(4)})
    assert (found["verdict"], found["culprits"], found["confidence"], found["ranks_read"]) == ("unknown", [], 0.0, 0)
    assert found["notes"] == ["n0, n1, n2 and 1 more: the recorder is off: TORCH_FR_BUFFER_SIZE is 0"]


def test_a_part_of_the_nodes_is_judged_and_what_is_missing_is_said() -> None:
    made = case()
    told = answers.of(made, EACH)
    whole = verdict(told)
    blind = next(node for node in told if made.truth.culprits[0] // EACH == int(node[1:]))
    told.pop(blind)
    found = verdict(told)
    assert found["confidence"] <= 0.75 <= whole["confidence"]
    assert "1 of 4 nodes had not answered" in found["notes"]


def spoilt(kind: str, record: dict[str, Any]) -> dict[str, Any]:
    """What a broken or hostile node may send in place of its digest."""
    digest: Any = copy.deepcopy(record["digest"])
    if kind == "huge":
        digest["unreadable"] = [["x" * 1_000_000, "why"]]
    elif kind == "wide":
        digest["memberships"] = {str(n): "0-1000000" for n in range(50)}
    elif kind == "wrong types":
        digest["ranks"][0][0] = "zero"
    elif kind == "no columns":
        digest["ranks"] = [[]]
    elif kind == "no object":
        digest = "digest"
    elif kind == "poison":
        digest["ranks"] = [
            [*row[:1], [[*group[:3], {}, [], *group[5:]] for group in row[1]], *row[2:]] for row in digest["ranks"]
        ]
    return {**record, "digest": digest}


@pytest.mark.parametrize("kind", ["huge", "wide", "wrong types", "no columns", "no object", "poison"])
def test_what_a_hostile_node_sends_costs_its_own_digest_alone_and_is_said(kind: str) -> None:
    made = case()
    told = answers.of(made, EACH)
    victim = next(node for node in told if made.truth.culprits[0] // EACH != int(node[1:]))
    told[victim] = spoilt(kind, told[victim])
    found = verdict(told)
    assert (found["nodes_read"], found["ranks_read"]) == (3, 6)
    assert any(note.startswith(f"{victim}: its digest does not count") for note in found["notes"]), found["notes"]
    assert set(found["culprits"]) <= set(made.truth.culprits)


def test_a_node_cannot_speak_for_ranks_of_another() -> None:
    made = case()
    told = answers.of(made, EACH)
    told["n1"] = {**told["n1"], "digest": told["n0"]["digest"]}
    found = verdict(told)
    assert found["ranks_read"] == 6
    assert any("n1: its digest tells of rank 0-1" in note for note in found["notes"])


def test_ranks_that_a_launcher_of_the_jobs_own_has_numbered_are_not_taken_for_ours() -> None:
    """torchrun as one rank a node: its trainers write as ranks 0 to 7, and it has an empty recorder of its own."""
    made = case()
    told = answers.of(made, 4)
    empty = reading.read(b'{"version": "2.10", "pg_config": {}, "pg_status": {}}')
    assert not isinstance(empty, reading.Unreadable)
    own = model.to_json(digest.Digester().node([digest.Digester().rank(1, empty, 0)]))
    told["n1"]["digest"]["ranks"] = [*msgspec.to_builtins(own["ranks"]), *told["n1"]["digest"]["ranks"]]
    found = verdict(told, nodes=2, each=1, mesh="")
    assert (found["verdict"], found["culprits"], found["ranks_read"]) == ("unknown", [], 0)
    assert sum("numbers them in another way" in note for note in found["notes"]) == 2, found["notes"]


def launched(told: dict[str, Any], world: int = 8) -> dict[str, Any]:
    """As nodes tell that run torchrun as their one rank, with four of its ranks below each."""
    for node, answer in told.items():
        ours = int(node.removeprefix("n"))
        answer["numbering"] = {"world": world, "ranks": {str(ours * 4 + each): ours for each in range(4)}}
    return told


def test_ranks_that_a_launcher_has_numbered_are_judged_by_its_numbers_where_the_nodes_tell_them() -> None:
    made = case()
    looks = [{"rank": rank, "state": "stopped"} for rank in range(2)]  # at torchrun itself
    found = verdict(launched(answers.of(made, 4)), nodes=2, each=1, mesh=MESH, evidence=looks)
    assert (found["culprits"], found["world"], found["ranks_read"]) == (list(made.truth.culprits), 8, 8)
    (culprit,) = made.truth.culprits
    assert found["sentence"].endswith(" (ranks by the numbers of the job's own launcher).")
    assert found["numbering"] == {"world": 8, "ranks": {str(culprit): [f"n{culprit // 4}", culprit // 4]}}
    assert f"rank {culprit} is on n{culprit // 4} below rank {culprit // 4} of the job" in found["notes"][0]
    read = flight_record.read("e1", {"flight_recorder": found})
    assert read is not None
    assert (read.verdict, read.culprits, read.candidates) == ("rank-missing", (), ()), "its numbers are not the job's"
    assert flight_record.join(LOOK, read) == flight_record.Joined(LOOK)


def test_a_numbering_that_cannot_be_or_that_few_nodes_tell_costs_those_nodes_alone() -> None:
    told = launched(answers.of(case(), 4))
    del told["n0"]["numbering"]
    found = verdict(told, nodes=2, each=1)
    assert any("numbers them in another way" in note for note in found["notes"])
    for bad in ({"world": 8, "ranks": {"4": 0}}, {"world": 8, "ranks": {"9": 1}}, {"world": True, "ranks": {}}, 7, {}):
        told = launched(answers.of(case(), 4))
        told["n1"]["numbering"] = bad
        found = verdict(told, nodes=2, each=1)
        assert found["nodes_read"] == 1
        assert any("n1: its digest does not count" in note and "number" in note for note in found["notes"])
    told = answers.of(case(), 2)
    told["n3"]["numbering"] = {"world": 8, "ranks": {"6": 6, "7": 7}}
    found = verdict(told, nodes=4, each=2)
    assert found["nodes_read"] == 3
    assert "numbering" not in found
    assert any("n3: ranks are numbered otherwise there" in note for note in found["notes"])


def test_a_mesh_that_does_not_fit_the_job_is_not_used() -> None:
    assert verdict(answers.of(case(), EACH), mesh="dp=64")["world"] == 8
    assert verdict(answers.of(case(), EACH), mesh="nonsense=2")["world"] == 8


def test_looks_at_the_ranks_reach_the_verdict_and_broken_ones_do_not_hurt() -> None:
    made = case()
    looks = [{"rank": rank, "state": "stopped" if rank in made.truth.culprits else "sleeping"} for rank in range(8)]
    assert verdict(answers.of(made, EACH), evidence=looks)["culprits"] == list(made.truth.culprits)
    assert verdict(answers.of(made, EACH), evidence=[7, {"rank": "x"}])["culprits"] == list(made.truth.culprits)


@pytest.mark.parametrize("living", [False, True])
def test_that_ranks_have_ended_does_not_clear_those_whose_records_tell_what_they_died_in(living: bool) -> None:
    """After a time-out all are gone, the one that they had waited for because we ended it; its record is not there."""
    made = case()
    [culprit] = made.truth.culprits
    told = answers.of(made, EACH)
    node = told[f"n{culprit // EACH}"]
    node["digest"]["ranks"] = [row for row in node["digest"]["ranks"] if row[0] != culprit]
    looks = [{"rank": rank, "state": "gone"} for rank in range(8)]
    if living:
        spins = {"state": "running", "cpu": 0.9, "moved": False, "frames": ["/job/data.py:12 in shuffle"]}
        looks[culprit] = {"rank": culprit, "answered": "py-spy", **spins}
    assert verdict(told, evidence=looks)["culprits"] == [culprit]


@pytest.mark.parametrize("name", ["stuck-tp", "device-late", "no-send", "two"])
def test_the_verdict_without_looks_is_told_beside_the_one_with_them(name: str) -> None:
    told = answers.of(case(name), EACH)
    plain = verdict(told)
    looks = [{"rank": rank, "state": "sleeping", "answered": "control"} for rank in range(8)]
    both = verdict(told, evidence=looks)
    assert "without_looks" not in plain
    assert both["without_looks"] == {key: plain[key] for key in ("verdict", "culprits", "confidence")}


def test_a_verdict_of_many_ranks_fits_into_a_row() -> None:
    many = list(range(50_000))
    finding = {
        "verdict": "rank-missing",
        "culprits": many,
        "candidates": [],
        "where": {"group": "g", "ranks": many, "op": "x" * 5000},
        "stack": ["frame"] * 500,
        "evidence": ["row\ud800"] * 500,
        "coords": {str(rank): {"tp": rank} for rank in many},
        "since_ns": 10**30,
    }
    whole = {
        "verdict": "rank-missing",
        "where": finding["where"],
        "victims": {
            "count": len(many),
            "ranks": many,
            "waits": [{"rank": rank, "on_group": "g", "for_ranks": many} for rank in range(500)],
        },
        "culprits": many,
        "findings": [finding] * 40,
        "absent": many,
        "unreadable": [{"file": "f", "error": "e"}] * 900,
        "graph": {"nodes": [{"rank": rank, "ranks": "0" * 1000} for rank in range(200)], "edges": []},
    }
    found = flight_record_bounds.bounded(whole)
    assert len(msgspec.json.encode(found)) <= flight_record_bounds.BYTES_MAX
    assert found["victims"]["count"] == found["where"]["size"] == found["absent_count"] == len(many)
    assert len(found["victims"]["waits"]) == flight_record_bounds.WAITS_MAX
    assert sum(len(item["evidence"]) for item in found["findings"]) <= flight_record_bounds.EVIDENCE_MAX
    assert found["findings"][0]["since_ns"] is None
