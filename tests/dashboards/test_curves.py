"""The chart: gaps between attempts, bands where something interrupted, MFU where it can be counted, never too long."""

from datetime import UTC
from typing import Any

import pytest

from outrider_dashboards import looking
from outrider_dashboards.parts import chart, curves
from tests.dashboards.answers import incident, report, samples, status


def picture(**changes: Any) -> looking.Picture:
    given = {"status": status(), "report": report(), "series": tuple(samples(41)["samples"]), "taken_at": 1.7956e9}
    return looking.Picture(**{**given, **changes})


def trace(found: Any, name: str) -> Any:
    return next(one for one in found.data if one.name == name)


def test_the_line_breaks_where_an_attempt_ends() -> None:
    first, second = samples(10)["samples"], samples(20, generation=2)["samples"][10:]
    found = curves.figure(picture(series=(*first, *second)), UTC)
    losses = trace(found, "Loss").y
    assert len(losses) == 21
    assert [place for place, loss in enumerate(losses) if loss is None] == [10]


def test_a_loss_that_is_no_number_is_a_gap() -> None:
    odd = samples(5)["samples"]
    odd[2]["loss"] = "nan"
    assert trace(curves.figure(picture(series=tuple(odd)), UTC), "Loss").y[2] is None


def test_step_time_is_drawn_where_the_job_tells_no_tokens() -> None:
    assert [title for title, _, _ in curves.rows(picture())] == ["Loss", "Throughput, tokens/s"]
    silent = picture(series=tuple(samples(3, tokens=None)["samples"]))
    assert [title for title, _, _ in curves.rows(silent)] == ["Loss", "Step time, s"]


def test_mfu_is_drawn_where_the_report_tells_what_it_takes() -> None:
    told = report(mfu={"flops_per_token": 6e9, "peak_tflops": 989.5, "devices": 8, "reason": None})
    (_, _, (title, _, value)) = curves.rows(picture(report=told))
    assert title == "MFU, %"
    assert value({"tokens": 512.0, "step_s": 0.5}) == pytest.approx(100 * 1024 * 6e9 / (8 * 989.5e12))


def test_bands_come_from_the_timeline_and_else_from_the_phases() -> None:
    one = report(incidents=[incident()])
    assert curves.bands(picture(report=one)) == ["detection", "diagnosis", "restart", "redo"]
    restart = trace(curves.figure(picture(report=one), UTC), "restart")
    assert (restart.x[0], restart.x[2]) == ("2026-11-20T10:00:31.000", "2026-11-20T10:00:35.000")
    segment = {"bin": "held", "from_at": "2026-11-20T10:00:31Z", "to_at": "2026-11-20T10:00:32Z", "incident": "demo-1"}
    assert curves.bands(picture(report=one, timeline={"segments": [segment], "attempts": []})) == ["held"]


def test_four_hundred_incidents_are_few_traces_and_no_shapes() -> None:
    many = report(incidents=[incident(id=f"demo-{n}") for n in range(419)])
    found = curves.figure(picture(report=many), UTC)
    assert len(found.data) < 12
    assert not found.layout.shapes
    assert len(trace(found, "incidents").x) == 419


def test_a_new_chart_is_shown_once_it_has_been_drawn_hidden() -> None:
    pair = chart.Pair()
    seen = []
    for newest in "aabcdd":
        before = list(pair.drawn)
        if pair.step("demo"):
            pair.take(newest)
        seen.append(pair.drawn[pair.shown])
        assert not before or seen[-1] in before, "what is seen was drawn before"
        assert not before or pair.drawn[pair.shown] == seen[-2] or pair.drawn == before, (
            "the older one may still be seen"
        )
    assert seen == ["a", "a", "a", "b", "b", "d"]
    assert pair.step("another job")
    pair.take("other")
    assert pair.drawn[pair.shown] == "other"


def test_a_machine_that_refreshes_late_is_given_time_to_draw() -> None:
    pair = chart.Pair()
    assert [pair.patience_s(now) for now in (0.0, 2.0, 4.0)] == [0.0, 0.0, 0.0]
    late = pair.patience_s(12.0)
    assert late == 8.0 * chart.LATE_FACTOR
    assert 0.0 < pair.patience_s(14.0) < late
    for now in range(16, 60, 2):
        last = pair.patience_s(float(now))
    assert last == 0.0
