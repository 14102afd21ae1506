"""The graph of waits and the table of a verdict: bounded, true to the waits, every rank in it at most once."""

import functools
import json
from typing import Any

import pytest

from outrider_analysis.flight_recorder import digest, merge, ranges, reading, verdict
from outrider_analysis.flight_recorder.verdict import drawing
from outrider_simulator import flight_recorder

SETTINGS = flight_recorder.Settings(ring=64)


@functools.cache
def judged(name: str, seed: int = 3, mesh: str = "dp=2,pp=2,cp=1,tp=4") -> verdict.Verdict:
    """The verdict over all dumps of a generated case."""
    case = flight_recorder.make(seed, name=name, mesh=mesh, settings=SETTINGS)
    return of(dict(case.dumps()))


def of(dumps: dict[int, bytes]) -> verdict.Verdict:
    digester = digest.Digester()
    read = [(rank, reading.read(data)) for rank, data in dumps.items()]
    node = digester.node(digester.rank(rank, dump) for rank, dump in read if isinstance(dump, reading.Dump))
    return verdict.judge(merge.merge([node]))


def members(node: dict[str, Any]) -> tuple[int, ...]:
    return ranges.decode(node["ranks"])


@pytest.mark.parametrize("name", flight_recorder.NAMES)
def test_every_rank_is_drawn_once_and_every_edge_joins_two_nodes(name: str) -> None:
    try:
        found = judged(name)
    except ValueError:  # no stage before the last to leave out, no second group: another mesh has it
        found = judged(name, mesh="dp=2,pp=4,cp=2,tp=2")
    for single_max in (0, 64):
        check(found, drawing.draw(found, single_max=single_max))


def check(found: verdict.Verdict, drawn: dict[str, Any]) -> None:
    """What holds for every drawing."""
    assert json.loads(json.dumps(drawn)) == drawn
    nodes = drawn["graph"]["nodes"]
    ranks = [rank for node in nodes for rank in members(node)]
    assert len(ranks) == len(set(ranks))
    assert set(ranks) >= {*found.culprits, *found.victims}
    for node in nodes:
        assert (node["rank"], node["count"]) == (members(node)[0], len(members(node)))
        assert node["role"] in drawing.ROLES
    names = {node["rank"] for node in nodes}
    assert all({edge["from"], edge["to"]} <= names and edge["from"] != edge["to"] for edge in drawn["graph"]["edges"])
    culprits = {rank for node in nodes if node["role"] == "culprit" for rank in members(node)}
    assert culprits == set(found.culprits)
    assert len(drawn["tables"]) == len(found.findings)


def test_all_victims_of_one_culprit_lead_to_it() -> None:
    found = judged("stuck-tp")
    graph = drawing.draw(found)["graph"]
    (culprit,) = found.culprits
    below: dict[int, set[int]] = {}
    for edge in graph["edges"]:
        below.setdefault(edge["to"], set()).add(edge["from"])
    reached, queue = {culprit}, [culprit]
    for node in queue:
        new = below.get(node, set()) - reached
        reached |= new
        queue += new
    assert reached == {node["rank"] for node in graph["nodes"]}
    assert {node["rank"]: node["distance"] for node in graph["nodes"]}[culprit] == 0


def test_the_table_says_who_waits_and_who_is_absent_and_who_left_no_dump() -> None:
    case = flight_recorder.make(3, name="stuck-tp", mesh="dp=2,pp=2,cp=1,tp=4", settings=SETTINGS)
    dumps = dict(case.dumps())
    found = of(dumps)
    (culprit,) = found.culprits
    (table,) = drawing.draw(found)["tables"]
    states = {row["state"]: row for row in table["rows"]}
    assert set(states) == {"waits", "not-there"}
    assert members(states["not-there"]) == (culprit,)
    assert "called" in states["not-there"]["more"]
    assert states["waits"]["count"] == table["size"] - 1
    gone = members(states["waits"])[0]
    del dumps[gone]
    drawn = drawing.draw(of(dumps))
    assert {row["state"] for row in drawn["tables"][0]["rows"]} == {"waits", "not-there", "no-dump"}
    assert any("left no dump" in said for said in drawn["limits"])


def test_who_called_what_is_told_where_members_called_different_things() -> None:
    found = judged("wrong-size")
    (table,) = drawing.draw(found)["tables"]
    calls = {row["call"]: members(row) for row in table["rows"]}
    assert len(calls) == 2
    assert all(calls)
    assert found.culprits in calls.values()


def test_a_large_job_is_a_drawing_that_a_person_can_follow() -> None:
    found = judged("stuck-dp", mesh="dp=8,pp=4,cp=1,tp=8")
    for single_max in (0, 10_000):
        drawn = drawing.draw(found, single_max=single_max)
        nodes = drawn["graph"]["nodes"]
        assert len(nodes) <= drawing.NODES_MAX
        assert len(drawn["graph"]["edges"]) <= drawing.EDGES_MAX
        assert sum(node["count"] for node in nodes) + drawn["graph"]["left_out"] == 256
    nodes = drawing.draw(found)["graph"]["nodes"]
    assert len(nodes) <= drawing.LEGIBLE_MAX
    assert [members(node) for node in nodes if node["role"] == "culprit"] == [found.culprits]
    assert len(json.dumps(drawing.draw(found))) < 64 * 1024


def test_nothing_is_drawn_where_nobody_waits() -> None:
    drawn = drawing.draw(judged("idle"))
    assert drawn["graph"] == {"nodes": [], "edges": [], "left_out": 0}
    assert drawn["tables"] == []
