"""What `outrider fr` and `outrider explain` make of single parts of a verdict: lines that a person can tell apart."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_analysis.flight_recorder import digest, merge, reading, verdict
from outrider_analysis.flight_recorder.verdict import advice, drawing
from outrider_cli import fr_answer, fr_words, record_view
from outrider_simulator import flight_recorder

SETTINGS = flight_recorder.Settings(ring=64)
OURS = [
    "/venv/outrider_agent/keeper/user_code.py:54 in _run_script",
    "/venv/outrider_agent/keeper/__main__.py:46 in <module>",
]


def judged(name: str, mesh: str = "dp=2,pp=2,cp=1,tp=4", lost: tuple[int, ...] = (), seed: int = 3) -> verdict.Verdict:
    case = flight_recorder.make(seed, name=name, mesh=mesh, settings=SETTINGS)
    digester = digest.Digester()
    read = [(rank, reading.read(data)) for rank, data in case.dumps() if rank not in lost]
    node = digester.node(digester.rank(rank, dump) for rank, dump in read if isinstance(dump, reading.Dump))
    return verdict.judge(merge.merge([node]))


def document(found: verdict.Verdict) -> dict[str, Any]:
    return found.to_json() | drawing.draw(found) | {"seconds": {}, "notes": [], "unreadable": []}


def page(found: verdict.Verdict, **more: Any) -> list[str]:
    return list(fr_answer.lines(found, document(found) | more))


def explained(found: verdict.Verdict) -> list[tuple[str, str]]:
    return list(record_view.rows(document(found)))


@pytest.mark.parametrize(
    ("stack", "left"),
    [
        (["/job/train.py:4 in step", "/job/train.py:9 in <module>", *OURS], 2),
        (["/job/train.py:9 in <module>", "<frozen runpy>:88 in _run_code", "<frozen runpy>:198 in _run_module"], 1),
        (["/job/a.py:1 in f", "/usr/lib/python3.11/multiprocessing/process.py:108 in run", "/job/b.py:2 in main"], 3),
        (["/job/a.py:1 in f", "/usr/lib/python3.11/threading.py:982 in run"], 2),
        (["/job/a.py:1 in f", "/usr/lib/python3.11/threading.py:1002 in _bootstrap"], 1),
        (OURS, 2),  # a rank that never came to its program
        ([], 0),
    ],
)
def test_frames_that_only_started_the_program_are_left_out(stack: list[str], left: int) -> None:
    assert advice.frames(stack) == stack[:left]


def test_a_stack_says_of_which_moment_it_is() -> None:
    idle, waiting = judged("stuck-tp"), judged("both-receive")
    assert [found.to_json()["findings"][0]["stack_of"] for found in (idle, waiting)] == ["last-call", "wait"]
    assert any(line.startswith("last call  ") for line in page(idle)), "it is not where the rank is now"
    assert any("its last call, which is over" in " ".join(page(idle)[at : at + 2]) for at in range(40))
    assert any(line.startswith("stack  ") for line in page(waiting))
    assert "last call" in dict(explained(idle))
    assert "stack" in dict(explained(waiting))
    assert all(dict(explained(found))["next"] for found in (idle, waiting))


def test_two_lines_of_ranks_that_wait_say_what_each_called() -> None:
    found = judged("wrong-size")
    lines = [text for label, text in explained(found) if text.startswith("waits: ")]
    assert len(lines) == 2
    assert len({line.partition("called ")[2] for line in lines} - {""}) == 2


def test_a_group_without_a_description_goes_by_its_name() -> None:
    graph = {
        "nodes": [{"rank": 0, "ranks": "0", "count": 1}, {"rank": 1, "ranks": "1-3", "count": 3}],
        "edges": [{"from": 1, "to": 0, "group": "7", "description": "undefined", "op": "all_reduce", "seq": 4}],
    }
    table = {"group": "7", "description": "undefined", "op": "all_reduce", "seq": 4, "size": 4, "rows": []}
    rows = list(record_view.rows({"graph": graph, "tables": [table], "findings": []}))
    assert ("waits", "ranks 1-3 for rank 0 (all_reduce in group 7)") in rows
    assert ("blocked", "all_reduce number 4 in group 7, 4 ranks") in rows
    assert "undefined" not in str(rows)


def test_a_place_in_an_explanation_has_its_axes_in_the_usual_order() -> None:
    finding = {"culprits": [2], "coords": {"2": {"tp": 0, "pp": 1, "dp": 0}}}
    assert ("culprit", "2 (dp=0, pp=1, tp=0)") in list(record_view.rows({"findings": [finding]}))


def test_nothing_stuck_among_few_ranks_does_not_read_as_a_healthy_job() -> None:
    found = judged("idle", lost=tuple(range(1, 16)))
    lines = page(found)
    assert lines[0].startswith("Nothing that was read is stuck, but that is 1 of 16 ranks")
    assert any(line.startswith("verdict    none, not sure (0.0") for line in lines)
    assert any("15 of 16 ranks left no dump" in line for line in lines)


def test_what_several_findings_share_is_said_once() -> None:
    found = judged("two", "dp=2,pp=4,cp=1,tp=4")
    limits = ["the clocks are broken"]
    for finding in found.findings:
        finding.confidence = 0.5
    lines = page(found, limits=limits, tables=[document(found)["tables"][0]] * len(found.findings))
    assert len(found.findings) > 1
    assert sum("the clocks are broken" in line for line in lines) == 1
    blocked = [line for line in lines if line.startswith("First blocked")]
    assert [line.endswith("as above") for line in blocked] == [False, *[True] * (len(blocked) - 1)]


def test_files_that_cannot_be_read_for_one_reason_are_one_line() -> None:
    files = [{"file": f"log.{rank}", "error": "no dump"} for rank in range(16)] + [{"file": "x_5", "error": "empty"}]
    lines = page(judged("stuck-tp"), unreadable=files, notes=["is this its mesh?", "a word"])
    assert "  log.0 and 15 more: no dump" in lines
    assert "  x_5: empty" in lines
    assert lines[-2:] == ["Note: is this its mesh?", "Note: a word."]


def test_long_names_of_groups_leave_room_for_the_operation() -> None:
    lines = page(judged("wrong-size", "dp=2,pp=4,cp=1,tp=4", seed=5))
    assert any("TENSOR_MODEL_PARALLEL_GROUP" in line for line in lines)
    chain = lines[next(at for at, line in enumerate(lines) if line.startswith("Who waits for whom")) :]
    assert not any(line.endswith("...") for line in chain)
    assert max(map(len, lines)) <= fr_words.WIDTH
