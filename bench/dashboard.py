"""How long the page of a 54-day job on 16,384 GPUs takes to be seen, and to be brought up to date.

The controller is SYNTHETIC: a server that answers at once with made-up documents of that size (2,000 samples,
419 incidents as in the Llama 3 405B run, 16,384 ranks on 2,048 nodes). Page, Streamlit and Chromium are real. Printed:
the server's part of one refresh, and in Chromium the time from opening the page to its sentence and to its curves.

    python bench/dashboard.py [--opens 5]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import server
from typing import Any, Final
from urllib import parse

from outrider_cli import dashboard
from outrider_dashboards import looking, settings
from outrider_dashboards.parts import curves, headline, incidents, ranks, time_bins

DAYS: Final = 54
INCIDENTS: Final = 419
NODES: Final = 2048
PER_NODE: Final = 8
SAMPLES: Final = 2000
LENGTH_S: Final = 100.0
CAUSES: Final = ("gpu-lost", "rank-killed", "node-lost", "rank-hung", "checkpoint-torn")
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")

Json = dict[str, Any]
END: Final = datetime.now(UTC)
BEGIN: Final = END - timedelta(days=DAYS)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--opens", type=int, default=5, help="how often the page is opened")
    options = parser.parse_args()
    print(f"SYNTHETIC controller: {DAYS} days, {INCIDENTS} incidents, {NODES * PER_NODE:,} ranks, {SAMPLES} samples")
    url = _serve(_documents())
    _print("server's part of one refresh", [_refresh(url) for _ in range(options.opens)])
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        print("no Chromium here (apt-get install chromium): what a person waits for was not measured")
        return 0
    page = dashboard.start(url, "synthetic", place=dashboard.Place(port=0))
    try:
        seen = list(_opened(browser, page.url, options.opens))
    finally:
        page.stop()
    _print("opened, to its sentence (first open apart)", [sentence for sentence, _ in seen[1:]])
    _print("opened, to its curves (first open apart)", [chart for _, chart in seen[1:]])
    print(
        f"the first open after the server's start: {seen[0][0]:.2f} s to its sentence, {seen[0][1]:.2f} s to its curves"
    )
    return 0


def _print(what: str, seconds: list[float]) -> None:
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    listed = ", ".join(f"{value:.2f}" for value in seconds)
    print(f"{what}: median {statistics.median(seconds):.2f} s (of {listed}), load {load} on {os.cpu_count()} cores")


def _refresh(url: str) -> float:
    """Ask for everything and make all of the page, as for the first viewer."""
    begin = time.perf_counter()
    picture = looking.Looking(settings.Settings(url, "synthetic")).look(None)
    assert picture.report is not None, picture.problem
    headline.headline(picture, url, UTC, "UTC")
    headline.tiles(picture)
    curves.figure(picture, UTC).to_json()
    ranks.who_is_where(picture)
    time_bins.where_time_went(picture.report)
    for one in picture.report["incidents"][-15:]:
        incidents.head(one, UTC, set())
    return time.perf_counter() - begin


def _opened(browser: str, url: str, times: int) -> Iterator[tuple[float, float]]:
    from playwright import sync_api

    with sync_api.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for _ in range(times):
            page = made.new_context(viewport={"width": 1920, "height": 1080}).new_page()
            begin = time.perf_counter()
            page.goto(url)
            page.locator(".say").wait_for(timeout=120_000)
            sentence = time.perf_counter() - begin
            page.locator(".js-plotly-plot .main-svg >> visible=true").first.wait_for(timeout=120_000)
            yield sentence, time.perf_counter() - begin
            page.context.close()
        made.close()


def _serve(documents: dict[str, Json]) -> str:
    data = {path: json.dumps(document).encode() for path, document in documents.items()}

    class Handler(server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = data.get(parse.urlsplit(self.path).path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    made = server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{made.server_address[1]}"


def _documents() -> dict[str, Json]:
    chance = random.Random(0)
    opened = sorted(BEGIN + timedelta(seconds=chance.uniform(0, DAYS * 86_400 - LENGTH_S)) for _ in range(INCIDENTS))
    found = [_incident(number, at, chance) for number, at in enumerate(opened, start=1)]
    return {
        "/v1/jobs": {"jobs": [{"job": "synthetic", "state": "training"}]},
        "/v1/jobs/synthetic/status": _status(),
        "/v1/jobs/synthetic/report": _report(found),
        "/v1/jobs/synthetic/timeline": _timeline(opened),
        "/v1/jobs/synthetic/series": {"samples": [_sample(n, chance) for n in range(SAMPLES)], "thinned_from": 20_000},
    }


def _status() -> Json:
    rank: Json = {"pid": 4242, "step": 200_000, "phase": "step", "ended": None}
    ranks_ = [
        {"rank": n, "node": f"n{n // PER_NODE}", "local_rank": n % PER_NODE, **rank}
        | {"coords": {"pp": n // 1024, "dp": n // 8 % 128, "tp": n % 8}}
        for n in range(NODES * PER_NODE)
    ]
    node: Json = {"state": "healthy", "agent_seen_s": 0.6, "findings": [], "simulated": True, "why": ""}
    return {
        "job": "synthetic",
        "state": "training",
        "attempt": INCIDENTS,
        "step": 200_000,
        "step_s": 20.0,
        "tokens_per_s": 800_000.0,
        "mfu": 0.4,
        "since_at": _iso(END),
        "mesh": "pp=16,dp=128,tp=8",
        "sentence": "synthetic trains on n0, n1, n2 and 2045 more: step 200000, 20 s a step",
        "nodes": [{"node": f"n{n}", **node} for n in range(NODES)],
        "ranks": ranks_,
        "open_incident": None,
    }


def _report(found: list[Json]) -> Json:
    elapsed = DAYS * 86_400.0
    lost = INCIDENTS * LENGTH_S
    counts = {"total": INCIDENTS, "planned": 0, "unexpected": INCIDENTS, "automatic": INCIDENTS, "manual": 0}
    return {
        "job": "synthetic",
        "submitted_at": _iso(BEGIN),
        "ended_at": None,
        "elapsed_s": elapsed,
        "bins": {"productive": elapsed - lost, "restart": lost * 0.6, "redo": lost * 0.4},
        "ettr": 1 - lost / elapsed,
        "ettr_definition": "productive / elapsed (synthetic)",
        "interruptions": counts,
        "mfu": {"while_training": 0.4, "flops_per_token": 2.5e12, "peak_tflops": 989.5, "devices": NODES * PER_NODE},
        "incidents": found,
    }


def _incident(number: int, at: datetime, chance: random.Random) -> Json:
    rank = chance.randrange(NODES * PER_NODE)
    cause = chance.choice(CAUSES)
    text = {"at": _iso(at), "source": f"n{rank // PER_NODE}", "kind": "synthetic", "for": cause, "text": "made up " * 8}
    return {
        "id": f"synthetic-{number}",
        "opened_at": _iso(at),
        "closed_at": _iso(at + timedelta(seconds=LENGTH_S)),
        "length_s": LENGTH_S,
        "cause": cause,
        "confidence": 0.9,
        "suspects": {"ranks": [rank], "nodes": [f"n{rank // PER_NODE}"], "gpus": [], "links": []},
        "evidence": [text] * 10,
        "action": "restart",
        "alternatives": [{"action": "watch", "price_gpu_h": None, "why_not": "synthetic"}] * 3,
        "automatic": True,
        "phases": {"detection_s": 5.0, "diagnosis_s": 5.0, "restart_s": 50.0, "redo_s": 40.0},
        "sentence": "made up",
    }


def _timeline(opened: list[datetime]) -> Json:
    parts = (("detection", 0, 5), ("diagnosis", 5, 10), ("restart", 10, 60), ("redo", 60, 100))
    segments = [
        {"bin": name, "from_at": _iso(at + timedelta(seconds=first)), "to_at": _iso(at + timedelta(seconds=last))}
        for at in opened
        for name, first, last in parts
    ]
    return {"segments": segments, "attempts": [{"attempt": n, "planned_at": _iso(at)} for n, at in enumerate(opened)]}


def _sample(number: int, chance: random.Random) -> Json:
    at = BEGIN + timedelta(days=DAYS * number / SAMPLES)
    loss = 12 / (1 + number / 20) + 1.8 + chance.random() / 20
    tokens = {"tokens": 16e6, "step_s": 20 + chance.random()}
    return {"generation": 1, "step": number * 100, "at": _iso(at), "loss": loss, "grad_norm": 0.4, **tokens}


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    raise SystemExit(main())
