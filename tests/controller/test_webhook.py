"""The webhook, against a real server that behaves and one that does not."""

import asyncio
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider_controller import ledger
from outrider_controller.actions import webhook
from tests.controller import house

SECRET = b"a very secret word"


class Quick(clock.RealClock):
    """A clock that waits for nothing and remembers how long it was to wait."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


class Receiver:
    """Answers each request with the next of ``answers``, the last one for ever; 0 says nothing at all."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], bytes, str]] = []
        self.url = ""
        self.hold = threading.Event()

    def answer(self) -> int:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextlib.contextmanager
def receiver(*answers: int) -> Iterator[Receiver]:
    """A real HTTP server on a real port."""
    made = Receiver(*answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.requests.append((dict(self.headers), body, self.path))
            status = made.answer()
            if status == 0:
                made.hold.wait(20)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", made.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        made.hold.set()
        server.shutdown()


def send(url: str, time: clock.Clock | None = None, **changes: Any) -> str | None:
    """Send one event; why it was not delivered."""
    sink = webhook.Webhook(url, time or Quick(), SECRET, **changes)
    return asyncio.run(sink.send("ledger.demo-e3", "incident-opened", {"id": "demo-1", "cause": "rank-killed"}))


def test_an_event_is_posted_once_with_its_id_and_a_signature_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver(204) as there:
        assert send(there.url + "/hook") is None
    [(headers, body, path)] = there.requests
    assert path == "/hook"
    document = json.loads(body)
    assert document["event"] == "incident-opened"
    assert document["event_id"] == headers["X-Outrider-Event-Id"] == "ledger.demo-e3"
    assert document["incident"] == {"id": "demo-1", "cause": "rank-killed"}
    assert abs(datetime.fromisoformat(document["sent_at"]).timestamp() - time.time()) < 60
    expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    assert headers["X-Outrider-Signature"] == expected


def test_a_server_that_fails_for_a_while_is_tried_again_with_growing_waits() -> None:
    time = Quick()
    with receiver(500, 429, 503, 200) as there:
        assert send(there.url, time) is None
    assert len(there.requests) == 4
    assert time.waits == [0.5, 1.0, 2.0]
    assert len({headers["X-Outrider-Event-Id"] for headers, _, _ in there.requests}) == 1


def test_a_server_that_keeps_failing_is_given_up_on() -> None:
    with receiver(500) as there:
        assert send(there.url) == "webhook 127.0.0.1 answered 500; given up after 4 tries"
    assert len(there.requests) == webhook.TRIES_MAX


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410])
def test_an_answer_that_will_not_change_is_not_asked_for_again_and_no_redirect_is_followed(status: int) -> None:
    with receiver(status) as there:
        why = send(there.url)
    assert why is not None
    assert f"answered {status}" in why
    assert [path for _, _, path in there.requests] == ["/"]


def test_a_server_that_says_nothing_is_given_up_on_after_its_time() -> None:
    with receiver(0) as there:
        why = send(there.url, timeout_s=0.05)
    assert why is not None
    assert "cannot be reached: ReadTimeout" in why


def test_nobody_there_and_an_impossible_address_are_told() -> None:
    assert "cannot be reached: ConnectError" in (send("http://127.0.0.1:1") or "")
    assert send("http://a b/") is not None


def test_neither_secret_nor_path_is_ever_shown(caplog: pytest.LogCaptureFixture) -> None:
    with receiver(500) as there, caplog.at_level("DEBUG"):
        url = there.url + "/services/T000/secret-path"
        why = send(url) or ""
    sink = webhook.Webhook(url, Quick(), SECRET)
    for text in (
        repr(sink),
        sink.name,
        why,
        "\n".join(r.getMessage() for r in caplog.records if "httpcore" not in r.name),
    ):
        assert "secret" not in text


def test_opened_and_closed_incidents_reach_the_webhook_and_a_failing_one_harms_nothing(tmp_path: Path) -> None:
    async def work(url: str, secret_file: Path) -> None:
        given = {"webhook_url": url, "webhook_secret_file": secret_file}
        async with (
            house.controller(tmp_path / "s", **given) as running,
            house.agents(running, tmp_path / "s", "n0", "n1") as made,
        ):
            await house.training(running, made)
            await made[1].rank_dies(3)
            await house.until(lambda: len(made[1].ordered("start")) == 2, "the restart")
            await made[0].marks(1)
            await house.until(lambda: running.state.jobs["demo"].incident is None, "the incident closes")
            await house.until(lambda: not running.state.jobs["demo"].pending, "everybody is told")

    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    with receiver(503, 200, 404) as there:
        house.run(work(there.url, tmp_path / "secret"))
    events = [json.loads(body) for _, body, _ in there.requests]
    assert [event["event"] for event in events] == ["incident-opened", "incident-opened", "incident-closed"]
    assert {"id", "cause", "suspects", "phases", "sentence"} <= set(events[-1]["incident"])
    told = [
        row.result  # type: ignore[union-attr]
        for _, row in ledger.read(tmp_path / "s/ledger.db")
        if row.kind == "effect-done" and "delivered" in row.result  # type: ignore[union-attr]
    ]
    assert [bool(result["delivered"]) for result in told] == [True, False]
    assert "answered 404" in told[1]["failed"][0]["error"]
