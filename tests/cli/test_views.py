"""The documents of status, incidents, explain and report, as a terminal shows them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from outrider_cli import views
from outrider_controller import accounting, projection
from tests.controller.story import START, Story
from tests.controller.test_projection import seen
from tests.core.world import World


@pytest.fixture(scope="module")
def world() -> World:
    """A job that was killed, lost a host, was held by a person and goes on."""
    world = World().submit().train(50, save_every=5).die(3, signal="SIGKILL").train(60)
    return world.vanish("n0").wait(12).train(70, save_every=5).ask("hold").wait(30).ask("approve").train(80)


def status_of(world: World, mesh: str = "dp=2,pp=1,cp=1,tp=2") -> dict[str, Any]:
    job = dataclasses.replace(world.job, mesh=mesh)
    return projection.status(job, world.state.nodes, seen(world), world.now)


def test_status_begins_with_the_sentence_and_shows_nodes_and_ranks(world: World) -> None:
    text = views.status(status_of(world))
    assert text.startswith("job trains on n2, n1: step 80, 0.5 s a step\n")
    assert "n0 (simulated)  lost" in text
    assert "RANK  NODE  LOCAL  DP  PP  CP  TP  PID  STEP  PHASE" in text
    assert "2     n1    0      1   0   0   0   502  80    step" in text


def test_status_of_a_large_job_counts_its_ranks_by_node() -> None:
    large = World(nodes=20, ranks_per_node=8, spares=0).submit().train(2)
    text = views.status(status_of(large, mesh=""))
    assert "n19   8      2      8 step" in text
    assert len(text.splitlines()) < 60


def test_status_of_a_job_that_waits_has_dashes_and_no_zeros() -> None:
    waiting = World(nodes=2, spares=-1).submit()
    text = views.status(status_of(waiting))
    assert "step      -" in text
    assert "waits for nodes" in text


def test_incidents_are_a_table_with_one_line_each(world: World) -> None:
    lines = views.incidents({"incidents": projection.incidents(world.rows)}).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["INCIDENT", "OPENED", "CAUSE", "SUSPECT", "ACTION", "TOOK", "LOST", "STEPS", "STATE"]
    assert "rank-killed  rank 3 on n1    restart" in lines[1]
    assert "planned" in lines[3]


def test_no_incident_is_said_in_words() -> None:
    assert views.incidents({"incidents": []}) == "no incident so far\n"


def test_explain_shows_evidence_alternatives_phases_and_the_timeline(world: World) -> None:
    text = views.explain(projection.explain(world.rows, "job-2"))
    for part in (
        "node-lost, 90% sure",
        "runbooks/node-lost.md",
        "step 50, /ckpt/step-50 (hashed)",
    ):
        assert part in text
    for part in ("evidence\n", "WHY NOT", "a synchronous job cannot go on", "redo", "timeline"):
        assert part in text


def test_explain_of_an_incident_under_way_says_what_is_open() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50)
    text = views.explain(projection.explain(story.rows, "llama-1", START + 55))
    assert "still open" in text
    assert "not named" in text
    assert "evidence: none yet" in text


def test_the_report_adds_up_on_the_page(world: World) -> None:
    found = accounting.report(world.rows, "job", world.now)
    text = views.report(found)
    assert f"{found['elapsed_s']:,.3f}  100.00%" in text
    assert "interruptions: 3 (1 planned, 2 unexpected; of these 2 overcome without a person, 0 with one)" in text
    assert "MFU: none; no accelerator with a known peak" in text
    assert "ETTR: productive / elapsed" in text


def test_the_report_with_accelerators_shows_both_utilisations() -> None:
    story = Story().submit().start(0, 2, 10).move(100, "completed")
    found = accounting.report(
        story.rows, "llama", START + 100, accounting.Devices(4, 989.4), accounting.Throughput(27e6, "full")
    )
    text = views.report(found)
    assert "MFU: 45.48% while training, 40.93% with downtime" in text
    assert "no upper bound" in text


def test_no_line_is_wider_than_the_page(world: World) -> None:
    pages = [
        views.status(status_of(world)),
        views.incidents({"incidents": projection.incidents(world.rows)}),
        views.explain(projection.explain(world.rows, "job-1")),
        views.report(accounting.report(world.rows, "job", world.now)),
    ]
    assert max(len(line) for page in pages for line in page.splitlines()) <= views.WIDTH_MAX


def test_words_from_a_log_cannot_drive_the_terminal() -> None:
    story = Story().submit().start(0, 2, 10).open(51, 50)
    opened = next(i for i, row in enumerate(story.rows) if row.kind == "incident-opened")
    story.rows[opened] = dataclasses.replace(story.rows[opened], text="\x1b[2J\x07gone\r\n")  # type: ignore[call-arg]
    text = views.explain(projection.explain(story.rows, "llama-1"))
    assert "gone" in text
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "-"), (0.0, "0 ms"), (0.0851, "85 ms"), (0.9999, "1.0 s"), (6.24, "6.2 s"), (59.96, "1 min")),
        *((252, "4 min 12 s"), (3600, "1 h"), (3659, "1 h"), (97200, "1 d 3 h")),
    ],
)
def test_a_duration_is_told_in_at_most_two_parts(seconds: float | None, text: str) -> None:
    assert views.duration(seconds) == text


def test_a_time_that_is_no_time_is_left_as_it_is() -> None:
    assert views.clock("yesterday") == "yesterday"
    assert views.clock("2026-11-20T18:57:36.123Z") == "2026-11-20 18:57:36Z"
