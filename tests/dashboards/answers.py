"""A controller's answers made up for one test, over real HTTP: what the page makes of states that are rare or brief."""

import json
import threading
from collections.abc import Iterator
from http import server
from typing import Any
from urllib import parse

import pytest

Json = dict[str, Any]
TOKEN = "token-of-this-test"


class Answers:
    """A server. ``documents``: path to what it answers; what is missing is answered with 404."""

    def __init__(self) -> None:
        self.documents: dict[str, Json] = {}
        self.asked: list[str] = []
        self._server: server.ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        outer = self

        class Handler(server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, document = outer.answer(parse.urlsplit(self.path).path, self.headers.get("Authorization"))
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Be away."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str, authorization: str | None) -> tuple[int, Json]:
        self.asked.append(path)
        if authorization != f"Bearer {TOKEN}":
            return 401, {"error": "this token is not known here", "remedy": "send another"}
        if path not in self.documents:
            return 404, {"error": f"there is nothing at {path}", "remedy": "see /openapi.json"}
        return 200, self.documents[path]

    def give(self, status: Json, **more: Json) -> None:
        """Answer for one job; ``more``: report, timeline, series."""
        name = status["job"]
        jobs = self.documents.setdefault("/v1/jobs", {"jobs": []})["jobs"]
        jobs[:] = [one for one in jobs if one["job"] != name] + [{"job": name, "state": status["state"]}]
        self.documents[f"/v1/jobs/{name}/status"] = status
        for key, document in ({"report": report(), "series": {"samples": []}} | more).items():
            self.documents[f"/v1/jobs/{name}/{key}"] = document


def status(**changes: Any) -> Json:
    """A job of two ranks that trains well."""
    ranks = [
        {"rank": rank, "node": "n0", "local_rank": rank, "pid": 100 + rank, "coords": {"dp": rank, "tp": 0}}
        | {"step": 41, "phase": "step", "ended": None}
        for rank in range(2)
    ]
    nodes = [{"node": "n0", "state": "healthy", "agent_seen_s": 0.5, "findings": [], "simulated": True, "why": ""}]
    return {
        "job": "demo",
        "state": "training",
        "ended_by": None,
        "attempt": 0,
        "generation": 1,
        "step": 41,
        "step_s": 0.5,
        "tokens_per_s": 1024.0,
        "mfu": None,
        "since_at": "2026-11-20T10:00:00.000Z",
        "mesh": "dp=2,tp=1",
        "nodes": nodes,
        "ranks": ranks,
        "open_incident": None,
        "sentence": "demo trains on n0: step 41, 0.5 s a step",
        "suspected": None,
        **changes,
    }


def report(**changes: Any) -> Json:
    """Its report."""
    return {
        "job": "demo",
        "state": "training",
        "submitted_at": "2026-11-20T10:00:00.000Z",
        "ended_at": None,
        "elapsed_s": 100.0,
        "bins": {"start": 4.0, "productive": 90.0, "restart": 6.0},
        "ettr": 0.9,
        "ettr_definition": "productive / elapsed",
        "incidents": [],
        "interruptions": {"total": 0, "planned": 0, "unexpected": 0, "automatic": 0, "manual": 0},
        "mfu": {"while_training": None, "reason": "no accelerator with a known peak: a CPU has none"},
        **changes,
    }


def incident(**changes: Any) -> Json:
    """A closed one."""
    phases = {"detection_s": 0.5, "diagnosis_s": 0.5, "restart_s": 4.0, "redo_s": 1.0, "planned_s": 0.0, "held_s": 0.0}
    evidence = {"at": "2026-11-20T10:00:30.000Z", "source": "n0", "kind": "rank-exited", "for": "rank-killed"}
    return {
        "id": "demo-1",
        "job": "demo",
        "planned": False,
        "opened_at": "2026-11-20T10:00:30.000Z",
        "closed_at": "2026-11-20T10:00:36.000Z",
        "length_s": 6.0,
        "outcome": "regained",
        "cause": "rank-killed",
        "cause_group": None,
        "confidence": 0.95,
        "text": "rank 1 ended",
        "automatic": True,
        "action": "restart",
        "suspects": {"ranks": [1], "gpus": [], "nodes": ["n0"], "links": []},
        "reason": "the runbook says restart",
        "evidence": [{**evidence, "text": "rank 1 was ended by SIGKILL <b>now</b>"}],
        "price_gpu_h": 0.01,
        "alternatives": [{"action": "watch", "price_gpu_h": None, "why_not": "a rank is gone"}],
        "runbook": "rank-killed",
        "lost_steps": 3,
        "phases": phases,
        "attempt_before": 0,
        "attempt_after": 1,
        "from_checkpoint": {"step": 40, "path": "/c/step-40", "trust": "hashed", "rejected": []},
        "sentence": "rank 1 was ended by SIGKILL; restarted on the same nodes from step 40",
        **changes,
    }


def samples(count: int, **changes: Any) -> Json:
    """Finished steps, two a second."""
    return {
        "samples": [
            {"generation": 1, "step": n, "at": f"2026-11-20T10:{n // 120:02}:{n // 2 % 60:02}.{n % 2 * 5}00Z"}
            | {"loss": 4.0 - n / 1000, "grad_norm": 1.0, "tokens": 512.0, "step_s": 0.5}
            | changes
            for n in range(count)
        ]
    }


def make() -> Iterator[Answers]:
    """A server that is gone afterwards."""
    made = Answers()
    made.documents["/v1/jobs"] = {"jobs": []}
    yield made
    made.stop()


answers = pytest.fixture(make)
