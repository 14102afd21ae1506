"""How the page looks at a controller: seldom where it is dear, at once where something changed, never forgetting."""

import json
import pathlib
from datetime import UTC

import pytest

from outrider_dashboards import api, looking, settings, words
from tests.dashboards.answers import TOKEN, Answers, incident, report, samples, status


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def looker(answers: Answers, at: Time, **changes: str) -> looking.Looking:
    return looking.Looking(settings.Settings(answers.url, TOKEN, **changes), at)


def test_many_viewers_share_one_look(answers: Answers) -> None:
    answers.give(status())
    at = Time()
    found = looker(answers, at)
    for _ in range(10):
        assert found.look(None).status is not None
    assert answers.asked.count("/v1/jobs/demo/status") == 1
    at.now += looking.LOOK_EVERY_S
    found.look(None)
    assert answers.asked.count("/v1/jobs/demo/status") == 2


def test_a_dear_answer_is_asked_for_seldom_and_at_once_after_a_change(answers: Answers) -> None:
    at = Time()
    answers.give(status())
    found = looker(answers, at)
    slow = answers.answer

    def answer(path: str, authorization: str | None) -> tuple[int, dict[str, object]]:
        at.now += 1.0 if path.endswith("/report") else 0.0
        return slow(path, authorization)

    answers.answer = answer  # type: ignore[method-assign]
    for _ in range(5):
        found.look(None)
        at.now += 2.0
    assert answers.asked.count("/v1/jobs/demo/report") == 1
    assert answers.asked.count("/v1/jobs/demo/status") == 5
    answers.give(status(open_incident="demo-1", state="interrupted"), report=report(incidents=[incident()]))
    picture = found.look(None)
    assert picture.report is not None
    assert picture.report["incidents"]


def test_the_picture_stays_while_the_controller_is_away_and_it_is_found_at_its_new_address(
    answers: Answers, tmp_path: pathlib.Path
) -> None:
    at = Time()
    answers.give(status())
    found = looker(answers, at, state=str(tmp_path))
    before = found.look(None)
    answers.stop()
    at.now += 2.0
    away = found.look(None)
    assert (away.kind, away.status, away.taken_at) == ("away", before.status, before.taken_at)
    answers.port = 0
    answers.start()
    (tmp_path / "controller.json").write_text(json.dumps({"url": answers.url}))
    for _ in range(2):
        at.now += 2.0
        again = found.look(None)
    assert (again.kind, found.url) == ("", answers.url)


def test_what_is_kept_is_bounded(answers: Answers) -> None:
    answers.give(status(), series=samples(5000))
    found = looker(answers, Time())
    for number in range(50):
        found.look(f"job-{number}")
    assert len(found._views) <= looking.PICTURES_MAX
    series = found.look("demo").series
    assert len(series) <= looking.POINTS_MAX
    assert series[-1]["step"] == 4999


@pytest.mark.parametrize("data", [b"", b"[]", b"<html>", b'{"jobs": 3', b"\xff\xfe"])
def test_what_is_no_answer_of_a_controller_is_said(answers: Answers, data: bytes) -> None:
    with pytest.raises(api.AwayError, match="not as a controller does"):
        api.Api(answers.url)._read("/v1/jobs", 200, data)


def test_a_token_never_leaves_this_machine_unencrypted() -> None:
    with pytest.raises(api.AwayError, match="unencrypted"):
        api.Api("http://192.0.2.1:8470", TOKEN).get("/v1/jobs")


def test_words() -> None:
    assert [words.duration(s) for s in (0, 0.085, 6.2, 59.99, 252, 3600, 97_200)] == [
        *("0 s", "85 ms", "6.2 s", "1 min", "4 min 12 s", "1 h", "1 d 3 h")
    ]
    assert [words.share(v) for v in (None, 0.0, 0.0001, 0.9731)] == [words.DASH, "0.0 %", "< 0.1 %", "97.3 %"]
    assert [words.number(v) for v in (None, 16384, 425.725, 0.0123, "nan")] == [
        *(words.DASH, "16,384", "425.7", "0.0123", "nan")
    ]
    assert words.zone("Europe/Berlin", None)[1] == "Europe/Berlin"
    assert words.zone("No/Where", -120)[1] == "UTC+2 h"
    assert words.zone(None, None) == (UTC, "UTC")
    assert words.clock("2026-11-20T10:00:00Z", words.zone("Europe/Berlin", None)[0]) == "20 Nov 11:00:00"
    assert words.plain("a*b_[c](d) :red[x] $y$").count("\\") == 11
    assert words.safe('<a href="x">') == "&lt;a href=&quot;x&quot;&gt;"
