"""What the page says of every state, run as Streamlit runs it, without a browser."""

import pathlib
from typing import Any

import pytest

from tests.dashboards.answers import Answers, incident, report, samples, status

HELD = "demo is held: 20 restarts; outrider job approve lets it go on, outrider job reject ends it"
RUNBOOK = {"id": "rank-killed", "title": "A rank was killed", "text": "## Check\n\n    echo $HOME\n\nsee [x](y.md) $5"}


def test_without_a_job_it_says_what_to_do(page: Any) -> None:
    found = page()
    assert "No job yet" in found.text
    assert "outrider job start FILE" in found.text
    assert "outrider run" in found.text


def test_a_training_job_is_told_in_one_sentence_with_its_numbers(page: Any, answers: Answers) -> None:
    answers.give(status(), series=samples(41))
    found = page()
    for words in ("Training", "demo trains on n0: step 41", "1,024 tokens/s", "90.0 % of 1 min 40 s", "3.96"):
        assert words in found.text, words
    assert "MFU none no accelerator with a known peak" in found.text
    assert "1 simulated host on one machine" in found.text
    assert "n0 healthy simulated host" in found.text
    assert len(found.app.get("plotly_chart")) == 1
    assert "equals the 1 min 40 s elapsed" in found.text
    assert found.text.index("demo trains on n0") < found.text.index("Step 41")


def test_no_step_yet_and_no_rank_yet_are_said(page: Any, answers: Answers) -> None:
    waits = status(state="starting", attempt=None, step=None, step_s=None, tokens_per_s=None, nodes=[], ranks=[])
    answers.give(waits | {"sentence": "demo waits for nodes"}, report=report(bins={}, elapsed_s=0.0))
    found = page()
    for words in ("Starting", "demo waits for nodes", "none is finished yet", "the curves begin with the first"):
        assert words in found.text, words
    assert not found.app.get("plotly_chart")


def test_an_interruption_opens_to_its_evidence_and_its_runbook(page: Any, answers: Answers) -> None:
    answers.give(status(), report=report(incidents=[incident()]), series=samples(41))
    answers.documents["/v1/runbooks/rank-killed"] = RUNBOOK
    found = page()
    (head,) = found.heads()
    assert all(part in head for part in ("rank\\-killed", "rank 1 on n0 \\(simulated\\)", "took 6\\.0 s", "automatic"))
    assert "rank 1 was ended by SIGKILL" not in found.text
    assert "/v1/runbooks/rank-killed" not in answers.asked
    found.app.session_state["incident-demo-1"] = True
    found.run()
    for words in (
        "restart 4.0 s",
        "95% sure",
        "step 40, trusted as hashed",
        "3, trained again",
        "0 → 1",
        "a rank is gone",
    ):
        assert words in found.text, words
    assert "A rank was killed (rank-killed)" in found.text
    assert "&lt;b&gt;now&lt;/b&gt;" in found.html, "the words of a log must not become markup"
    found.app.session_state["runbook-demo-1"] = True
    found.run()
    (shown,) = [one.value for one in found.app.markdown if "Check" in one.value]
    assert shown == "#### Check\n\n    echo $HOME\n\nsee **x** \\$5"


def test_a_watched_incident_is_a_finding_and_no_interruption(page: Any, answers: Answers) -> None:
    watched = incident(id="demo-2", cause="checkpoint-torn", interrupted=False, action="watch", length_s=0.0)
    answers.give(status(), report=report(incidents=[watched]))
    found = page()
    assert "Findings (nothing was interrupted)" in found.text
    assert "Interruptions None so far." in found.text
    assert "nothing was interrupted" in found.heads()[0]
    assert "1 finding" in found.text


@pytest.mark.parametrize(("state", "ended_by", "shown"), [
    ("interrupted", None, "Interrupted"), ("completed", None, "Completed"), ("failed", None, "Failed"),
    ("failed", "person", "Stopped by a person"),
])  # fmt: skip
def test_each_state_has_its_word(page: Any, answers: Answers, state: str, ended_by: str | None, shown: str) -> None:
    answers.give(status(state=state, ended_by=ended_by, sentence=f"it is {state}"))
    found = page()
    assert f"{shown} it is {state}" in found.text.replace("&nbsp;", " ")
    assert ("What you can do" in found.text) == (shown == "Failed")


def test_a_held_job_says_the_exact_commands_and_the_runbook(
    page: Any, answers: Answers, tmp_path: pathlib.Path
) -> None:
    held = incident(closed_at=None, action="hold-for-person", automatic=False)
    answers.give(status(state="held", sentence=HELD, open_incident="demo-1"), report=report(incidents=[held]))
    answers.documents["/v1/runbooks/rank-killed"] = RUNBOOK
    found = page(state=str(tmp_path))
    for words in ("explain demo-1", "job approve --job demo", "job reject --job demo"):
        assert f"outrider {words} --state {tmp_path}" in found.text, words
    assert "Work from the runbook A rank was killed rank-killed" in found.text
    assert any("Runbook" in head for head in found.heads())
    assert f"outrider job approve --job demo --controller {answers.url}" in page().text


def test_a_suspected_stall_is_shown_with_what_it_waits_for(page: Any, answers: Answers) -> None:
    suspected = {"silent": True, "since_s": 12.0, "look_s": 10.0, "act_s": 20.0, "basis": "six times the usual 2 s"}
    sentence = "demo trains on n0: step 41; no sign of progress for 12 s; its ranks are being looked at"
    answers.give(status(sentence=sentence, suspected={**suspected, "stopped_ranks": [1], "looks": 1}))
    found = page()
    for words in ("Suspected stall", "no sign of progress for 12 s", "nothing is ended before 20.0 s", "six times"):
        assert words in found.text, words
    assert found.html.count('class="rank num culprit"') == 1


def test_an_unheard_node_and_a_silent_rank_never_look_healthy(page: Any, answers: Answers) -> None:
    unheard = status()
    unheard["nodes"][0] |= {"state": "unknown", "agent_seen_s": None}
    unheard["ranks"][1] |= {"step": None, "phase": None, "pid": None}
    answers.give(unheard)
    found = page()
    assert "? n0 could not look" in found.text
    assert "not heard" in found.text
    assert "healthy" not in found.text


def test_a_controller_that_goes_away_leaves_the_last_picture_with_its_age(page: Any, answers: Answers) -> None:
    answers.give(status(), series=samples(41))
    found = page()
    answers.stop()
    found.run()
    for words in ("Could not look", "nobody can say how the job is", "last picture", "the job was training then"):
        assert words in found.text, words
    assert "healthy when last seen" in found.text
    assert 'class="node calm"' in found.html
    assert 'class="state good"' not in found.html
    answers.start()
    assert "Could not look" not in found.run().text


def test_a_controller_that_was_never_there_and_one_that_refuses(page: Any, answers: Answers) -> None:
    assert "Not let in" in page(token="wrong").text
    assert "--token-file FILE" in page(token="wrong").text
    answers.stop()
    found = page()
    assert "Could not look" in found.text
    assert "It has not been seen since this page was served" in found.text
    assert not found.app.get("plotly_chart")


def test_several_jobs_can_be_picked(page: Any, answers: Answers) -> None:
    answers.give(status(job="first", sentence="first trains"))
    answers.give(status(job="second", state="completed", sentence="second is complete"))
    found = page()
    assert "first trains" in found.text, "a running job comes before one that is over"
    (picker,) = found.app.selectbox
    assert picker.options == ["second (completed)", "first (training)"]
    picker.select("second")
    assert "second is complete" in found.run().text
    assert "second is complete" in page(job="second").text


def test_an_older_controller_is_read_as_far_as_it_goes(page: Any, answers: Answers) -> None:
    answers.documents["/v1/jobs"] = {"jobs": [{"job": "demo"}]}
    answers.documents["/v1/jobs/demo/status"] = {"job": "demo", "state": "training"}
    answers.documents["/v1/jobs/demo/report"] = {"incidents": [{"id": "demo-1"}]}
    answers.documents["/v1/jobs/demo/series"] = samples(1, loss=None, tokens=None)
    found = page()
    assert "demo is training" in found.text
    found.app.session_state["incident-demo-1"] = True
    assert "No evidence has been written down yet" in found.run().text


def test_a_loss_that_is_no_number_is_told_as_it_is(page: Any, answers: Answers) -> None:
    answers.give(status(), series=samples(3, loss="nan"))
    assert "Loss nan" in page().text


def test_many_incidents_come_in_pages(page: Any, answers: Answers) -> None:
    many = [incident(id=f"demo-{n}") for n in range(1, 41)]
    answers.give(status(), report=report(incidents=many))
    found = page()
    assert len(found.heads()) == 15
    found.app.number_input[0].set_value(3)
    found.run()
    assert len(found.heads()) == 10


def test_a_page_that_asks_for_a_token_shows_nothing_before_it(page: Any, answers: Answers) -> None:
    answers.give(status())
    found = page(viewer_token="sesame")
    assert found.text.strip() == ""
    assert not answers.asked
    found.app.text_input[0].input("simsalabim")
    found.app.button[0].click()
    found.run()
    assert "not the token" in found.app.error[0].value
    assert not answers.asked
    found.app.text_input[0].input("sesame")
    found.app.button[0].click()
    found.run()
    assert "demo trains on n0" in found.run().text
