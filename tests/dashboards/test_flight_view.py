"""What the view of the flight recorder says of every kind of hang, run as Streamlit runs it, without a browser."""

import copy
import html
from typing import Any

import pytest

from outrider_dashboards import records
from outrider_dashboards.parts import verdict, wait_graph
from tests.dashboards import verdicts
from tests.dashboards.answers import Answers, incident, report


@pytest.fixture
def view(page: Any) -> Any:
    return lambda: page(view="flight-recorder")


def test_before_a_hang_it_says_what_will_be_shown_and_how_to_try_it(view: Any, answers: Answers) -> None:
    assert "There is no job whose ranks could hang" in view().text
    answers.give(verdicts.status(), report=report(incidents=[incident()]))
    found = view()
    for words in ("No hang so far", "which rank broke which collective", "outrider demo --faults spin"):
        assert words in found.text, words
    suspected = {"silent": True, "since_s": 12.0, "look_s": 10.0, "act_s": 20.0, "basis": "six times the usual 2 s"}
    answers.give(verdicts.status(suspected=suspected))
    assert "their flight recorders are being looked at" in view().text


def test_a_verdict_is_one_sentence_with_the_culprits_place_its_stack_the_table_and_the_drawing(
    view: Any, answers: Answers
) -> None:
    record = verdicts.record("stuck-tp")
    record["findings"][0]["stack"] = ["/opt/job/train.py:214 in train_<step>"]
    record["files"] = {str(record["culprits"][0]): "n0:/var/dumps/rank_1"}
    answers.give(verdicts.status(attempt=1), report=report(incidents=[verdicts.hang(record)]))
    found = view()
    (culprit,) = record["culprits"]
    coords = record["findings"][0]["coords"][str(culprit)]
    assert record["sentence"] in found.text
    said = (f"▲ rank {culprit}", f"tp={coords['tp']}", "on n0 (simulated host)", "simulated hosts", "sure (0.9")
    for words in (*said, "Who waits for whom", "✕ absent", "○ waits", "rank-missing", "Dumps that were kept"):
        assert words in found.text, words
    assert "<b>train_&lt;step&gt;</b>" in found.html
    assert found.html.count('class="box culprit" style="left') == 1
    assert "Effective training time" not in found.text
    nodes = record["graph"]["nodes"]
    assert found.html.count('class="box ') == 2 * len(nodes), "each node once in the drawing and once in the list"


def test_the_place_is_where_the_rank_ran_then(view: Any, answers: Answers) -> None:
    record = verdicts.record("stuck-tp")
    (culprit,) = record["culprits"]
    answers.give(verdicts.status(attempt=0), report=report(incidents=[verdicts.hang(record)]))
    assert f"on n{culprit // 8} (simulated host), local rank {culprit % 8}" in view().text
    moved = verdicts.status(attempt=1)
    answers.give(moved, report=report(incidents=[verdicts.hang(record)]))
    text = view().text
    assert "on n0 (simulated host)" in text, "what the incident says, since the ranks may be elsewhere by now"
    assert "local rank" not in text


def test_an_unknown_shows_its_candidates_and_names_nobody(view: Any, answers: Answers) -> None:
    record = verdicts.record("killed-node", lost=tuple(range(8, 12)))
    assert record["verdict"] == "unknown"
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
    found = view()
    for words in ("Not decided", "One of these; the records do not tell which", "not sure", "left no dump"):
        assert words in found.text, words
    assert "named candidate" in found.html
    assert 'class="box culprit"' not in found.html
    assert 'class="named culprit"' not in found.html


def test_independent_roots_each_have_their_part(view: Any, answers: Answers) -> None:
    record = verdicts.record("stuck-tp")
    other = copy.deepcopy(record["findings"][0])
    other |= {"culprits": [15], "sentence": "Rank 15 is another one."}
    record["findings"].append(other)
    record["tables"].append(record["tables"][0])
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
    record["culprits"] = [5, 15]
    text = view().text
    for words in ("Fault 1: rank-missing", "Fault 2: rank-missing", "Rank 15 is another one.", record["sentence"]):
        assert words in text, words
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
    text = view().text
    assert "2 independent faults: ranks 5, 15." in text
    record["findings"][1] |= {"culprits": [], "verdict": "unknown"}
    record["culprits"] = [5]
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
    text = view().text
    assert "2 independent faults: rank 5, and 1 in which nobody is named." in text
    assert "rank-missing + unknown" in text


def test_a_culprit_stands_out_in_the_table_and_its_stack_says_of_which_moment_it_is(
    view: Any, answers: Answers
) -> None:
    for name, words in (("stuck-tp", "Its last call, which is over"), ("wrong-size", "The call in which it waits")):
        record = verdicts.record(name)
        answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
        found = view()
        assert found.html.count('<tr class="culprit">') == 1
        assert words in found.text
        assert html.escape(record["findings"][0]["next"]) in found.text
    old = verdicts.record("stuck-tp")  # as releases before told it
    del old["findings"][0]["stack_of"], old["findings"][0]["next"]
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(old)]))
    found = view()
    assert "Its stack, innermost first" in found.text
    assert "Next:" not in found.text


def test_a_dashed_line_is_explained_where_there_is_one() -> None:
    assert "closes a circle" in wait_graph.drawn(verdicts.record("both-receive")["graph"])
    assert "closes a circle" not in wait_graph.drawn(verdicts.record("stuck-tp")["graph"])


def test_earlier_hangs_are_a_list_that_opens(view: Any, answers: Answers) -> None:
    earlier = [
        verdicts.hang(verdicts.record("wrong-size"), 1),
        verdicts.hang(None, 2, opened_by="stalled"),
        incident(id="demo-9"),
        verdicts.hang(verdicts.record("stuck-tp"), 3),
    ]
    answers.give(verdicts.status(), report=report(incidents=earlier))
    found = view()
    heads = found.heads()
    assert len(heads) == 2
    assert "no flight records" in heads[0]
    assert "size\\-mismatch" in heads[1]
    assert records.record(earlier[0])["sentence"] not in found.text  # type: ignore[index]
    found.app.session_state["hang-demo-1"] = True
    assert records.record(earlier[0])["sentence"] in found.run().text  # type: ignore[index]


def test_a_hang_without_records_and_one_in_which_nothing_is_stuck(view: Any, answers: Answers) -> None:
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(None)]))
    assert "No flight record of incident demo-1 (job-stalled) could be read" in view().text
    record = verdicts.record("idle")
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
    found = view()
    assert "Nothing is stuck" in found.text
    assert 'class="state good"' in found.html


def test_a_controller_that_is_away_leaves_the_last_verdict_faded(view: Any, answers: Answers) -> None:
    record = verdicts.record("stuck-tp")
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
    found = view()
    answers.stop()
    found.run()
    assert "Could not look" in found.text
    assert "last picture" in found.text
    assert record["sentence"] in found.text
    answers.start()
    assert "Could not look" not in found.run().text
    answers.stop()
    assert "It has not been seen since this page was served" in view().text


def test_the_view_is_chosen_by_a_click_and_told_by_the_address(page: Any, answers: Answers) -> None:
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(verdicts.record("stuck-tp"))]))
    found = page()
    assert "Effective training time" in found.text
    found.app.session_state["view"] = "Flight recorder"
    found.run()
    assert "Who waits for whom" in found.text
    assert found.app.query_params["view"] in ("flight-recorder", ["flight-recorder"])


@pytest.mark.parametrize(
    "odd",
    [
        {"verdict": "none"},
        {"verdict": "new-kind", "sentence": None, "confidence": "high", "findings": [3, {}], "tables": "no"},
        {"verdict": "rank-missing", "findings": [{"culprits": [1], "coords": 7, "stack": 4, "evidence": {}}]},
        {"verdict": "unknown", "graph": {"nodes": [{"rank": "x"}, {"rank": 1}], "edges": [{"from": 1}, 5]}},
        {"verdict": "unknown", "tables": [{"rows": [{}, 1], "from_to": 3}], "findings": [{"verdict": "unknown"}]},
        {"verdict": "unknown", "graph": {}, "files": [], "limits": "x", "unreadable": [{}], "victims": None},
    ],
)
def test_a_record_of_another_release_breaks_nothing(view: Any, answers: Answers, odd: dict[str, Any]) -> None:
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(odd | {"culprits": []})]))
    assert "demo-1" in view().text


def test_words_of_a_dump_are_no_markup(view: Any, answers: Answers) -> None:
    record = verdicts.record("wrong-op")
    evil = "<script>alert(1)</script>"
    record["sentence"] = evil
    record["limits"], record["notes"] = [evil], [evil]
    record["files"] = {evil: evil}
    record |= {"world": evil, "ranks_read": evil, "victims": {"count": evil}}
    record["graph"]["left_out"] = evil
    for node in record["graph"]["nodes"]:
        node["ranks"] = evil
        if node["waits_in"]:
            node["waits_in"] |= {"description": evil, "op": evil}
    for table in record["tables"]:
        table |= {"description": evil, "op": evil, "size": evil}
        for row in table["rows"]:
            row |= {"more": evil, "call": evil, "state": evil, "count": evil}
    finding = record["findings"][0]
    finding |= {"stack": [evil, f"{evil} in {evil}"], "evidence": [evil], "coords": {evil: {evil: evil}}}
    answers.give(verdicts.status(), report=report(incidents=[verdicts.hang(record)]))
    html = view().html
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_arrows_lead_towards_roots_and_every_node_has_a_place_of_its_own() -> None:
    for name in ("stuck-tp", "both-receive", "swapped", "device-endless"):
        graph = verdicts.record(name, "dp=2,pp=4,cp=2,tp=2")["graph"]
        boxes = wait_graph._placed(graph["nodes"], graph["edges"])
        places = {(box.x, box.y) for box in boxes.values()}
        assert len(places) == len(boxes) == len(graph["nodes"])
        telling = wait_graph._telling(graph["nodes"], graph["edges"])
        near = {node["rank"]: node["distance"] for node in graph["nodes"]}
        led = {edge["from"] for edge in telling if near[edge["to"]] < near[edge["from"]]}
        assert led >= {rank for rank, distance in near.items() if distance}, name
        assert 'title="▲ rank ' in wait_graph.drawn(graph)


def test_every_verdict_has_a_word_and_a_shape() -> None:
    from outrider_analysis.flight_recorder import verdict as verdicts_of

    assert set(records.VERDICTS) == set(verdicts_of.VERDICTS)
    assert verdict.STATES.keys() >= {"finished", "waits", "behind", "not-there", "no-dump"}
