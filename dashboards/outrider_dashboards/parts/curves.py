"""Loss, pace and MFU over time, with what interrupted them as bands and every attempt as a line.

In: the picture. Out: one Plotly figure whose rows share the axis of time. Bands are one trace for each colour and
not one shape for each incident: 419 incidents are drawn as quickly as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from plotly import graph_objects

from outrider_dashboards import look, looking, reading, words

Json = dict[str, Any]
ROW_HEIGHT_PX: Final = 165
GAP: Final = 0.09
ATTEMPTS_NAMED_MAX: Final = 12
BAND_WORDS: Final = ("detection", "diagnosis", "restart", "redo", "planned", "held")

Row = tuple[str, str, Callable[[Json], float | None]]


def rows(picture: looking.Picture) -> list[Row]:
    """Title, colour and value of each curve that there is something to draw of."""
    found: list[Row] = [("Loss", look.CURVE, lambda sample: _finite(sample.get("loss")))]
    if any(sample.get("tokens") for sample in picture.series):
        found.append(("Throughput, tokens/s", look.CURVE_OTHER, _tokens_per_s))
    else:
        found.append(("Step time, s", look.CURVE_OTHER, lambda sample: _finite(sample.get("step_s"))))
    per_token_s = _mfu_of_a_token_a_second((picture.report or {}).get("mfu") or {})
    if per_token_s is not None:
        found.append(("MFU, %", look.CURVE_THIRD, lambda sample: _times(_tokens_per_s(sample), 100 * per_token_s)))
    return found


def bands(picture: looking.Picture) -> list[str]:
    """The bins that are marked in the chart, in the order of the legend."""
    there = {str(segment.get("bin")) for segment in reading.segments(picture)}
    return [name for name in BAND_WORDS if name in there]


def figure(picture: looking.Picture, where: tzinfo, last_s: float | None = None) -> graph_objects.Figure:
    """The chart."""
    curves = rows(picture)
    begin, end = _span(picture, last_s)
    found = graph_objects.Figure()
    _mark(found, picture, where, begin)
    for number, (title, colour, value) in enumerate(curves, start=2):
        found.add_trace(_curve(picture.series, title, colour, value, number, where))
    found.update_layout(
        height=ROW_HEIGHT_PX * len(curves) + 40,
        margin={"l": 60, "r": 10, "t": 22, "b": 30},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": look.INK, "size": 12},
        showlegend=False,
        hovermode="closest",
        dragmode=False,  # a finger on the chart scrolls the page
        uirevision="one",
        xaxis={
            "range": [_local(begin, where), _local(end, where)],
            "anchor": f"y{len(curves) + 1}",
            "showgrid": False,
            "zeroline": False,
            "nticks": 5,
            "tickangle": 0,
            "automargin": False,
        },
        yaxis={"domain": [0, 1], "range": [0, 1], "visible": False, "fixedrange": True},
        **_axes(len(curves)),
        annotations=[_title(title, number, len(curves)) for number, (title, _, _) in enumerate(curves)],
    )
    return found


def _axes(count: int) -> Json:
    found: Json = {}
    for number in range(count):
        low, high = _domain(number, count)
        found[f"yaxis{number + 2}"] = {
            "domain": [low, high],
            "gridcolor": look.FAINT,
            "zeroline": False,
            "nticks": 5,
            "fixedrange": True,
            "tickformat": "~s" if number == 1 else None,
        }
    return found


def _domain(number: int, count: int) -> tuple[float, float]:
    height = (1 - GAP * (count - 1)) / count
    top = 1 - number * (height + GAP)
    return max(0.0, top - height), top


def _title(title: str, number: int, count: int) -> Json:
    return {
        "text": f"<b>{title}</b>",
        "x": 0,
        "xref": "paper",
        "y": _domain(number, count)[1],
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 12.5},
    }


def _curve(
    series: tuple[Json, ...], title: str, colour: str, value: Callable[[Json], float | None], number: int, where: tzinfo
) -> graph_objects.Scatter:
    times: list[str | None] = []
    values: list[float | None] = []
    told: list[list[Any]] = []
    generation: Any = None
    for sample in series:
        if (at := words.moment(sample.get("at"))) is None:
            continue
        if times and sample.get("generation") != generation:  # the line ends with its attempt
            times, values, told = [*times, times[-1]], [*values, None], [*told, ["", ""]]
        generation = sample.get("generation")
        times.append(_local(at, where))
        values.append(value(sample))
        told.append([sample.get("step"), at.strftime("%H:%M:%S")])
    return graph_objects.Scatter(
        x=times,
        y=values,
        yaxis=f"y{number}",
        mode="lines+markers" if len(times) < 3 else "lines",
        line={"color": colour, "width": 1.8},
        customdata=told,
        name=title,
        hovertemplate=f"%{{y:.4g}} ({title})<br>step %{{customdata[0]}}<br>%{{x|%d %b %H:%M:%S}} here, "
        "%{customdata[1]} UTC<extra></extra>",
    )


def _mark(found: graph_objects.Figure, picture: looking.Picture, where: tzinfo, begin: datetime) -> None:
    for name in bands(picture):
        times: list[str | None] = []
        for segment in reading.segments(picture):
            first, last = words.moment(segment.get("from_at")), words.moment(segment.get("to_at"))
            if segment.get("bin") == name and first is not None and last is not None and last >= begin:
                left, right = _local(first, where), _local(last, where)
                times += [left, left, right, right, left, None]
        colour = look.BANDS[name]
        heights = [0, 1, 1, 0, 0, None] * (len(times) // 6)
        found.add_trace(
            graph_objects.Scatter(
                x=times,
                y=heights,
                mode="lines",
                fill="toself",
                fillcolor=_clear(colour, 0.4),
                line={"width": 1, "color": _clear(colour, 0.75)},
                hoverinfo="skip",
                name=name,
            )
        )
    _mark_attempts(found, picture, where, begin)
    _mark_incidents(found, picture, where, begin)


def _mark_attempts(found: graph_objects.Figure, picture: looking.Picture, where: tzinfo, begin: datetime) -> None:
    planned = [(one, at) for one in reading.attempts(picture) if (at := words.moment(one.get("planned_at")))]
    later = [(one, at) for one, at in planned if at >= begin]
    if not later:
        return
    named = len(later) <= ATTEMPTS_NAMED_MAX
    times = [moment for _, at in later for moment in (_local(at, where), _local(at, where), None)]
    found.add_trace(
        graph_objects.Scatter(
            x=times,
            y=[0, 1, None] * len(later),
            mode="lines",
            line={"color": look.INK, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            name="attempts",
        )
    )
    found.add_trace(
        graph_objects.Scatter(
            x=[_local(at, where) for _, at in later],
            y=[1.0] * len(later),
            mode="text" if named else "none",
            text=[f" {one.get('attempt')}" for one, _ in later],
            textposition="bottom right",
            textfont={"size": 10.5, "color": look.INK},
            cliponaxis=False,
            hoverinfo="skip",
            name="attempts' numbers",
        )
    )


def _mark_incidents(found: graph_objects.Figure, picture: looking.Picture, where: tzinfo, begin: datetime) -> None:
    shown = [(one, at) for one in reading.incidents(picture) if (at := words.moment(one.get("opened_at")))]
    shown = [(one, at) for one, at in shown if at >= begin]
    pretended = reading.simulated(picture)
    found.add_trace(
        graph_objects.Scatter(
            x=[_local(at, where) for _, at in shown],
            y=[0.0] * len(shown),
            mode="markers",
            marker={
                "symbol": ["triangle-up" if one.get("interrupted", True) else "circle-open" for one, _ in shown],
                "size": 11 if len(shown) < 60 else 6,
                "color": look.BANDS["restart"],
                "line": {"width": 1, "color": look.INK},
            },
            cliponaxis=False,
            customdata=[
                [words.safe(one.get("id")), words.safe(one.get("cause") or "in diagnosis"), words.safe(
                    reading.whom(one, pretended)), at.strftime("%H:%M:%S")]
                for one, at in shown
            ],
            hovertemplate="<b>%{customdata[1]}</b> %{customdata[2]}<br>%{customdata[0]}, %{x|%d %b %H:%M:%S} here, "
            "%{customdata[3]} UTC<extra></extra>",
            name="incidents",
        )
    )  # fmt: skip


def _span(picture: looking.Picture, last_s: float | None) -> tuple[datetime, datetime]:
    """What the axis of time shows: the job's life, or the last of it."""
    report = picture.report or {}
    taken = datetime.fromtimestamp(picture.taken_at or 0.0, UTC)
    first = words.moment(picture.series[0].get("at")) if picture.series else None
    begin = words.moment(report.get("submitted_at")) or first or taken
    end = words.moment(report.get("ended_at")) or taken
    if last_s is not None:
        begin = max(begin, end - timedelta(seconds=last_s))
    return begin, max(end, begin + timedelta(seconds=10))


def _mfu_of_a_token_a_second(told: Json) -> float | None:
    """MFU at one token a second, None where the report cannot tell; MFU as PaLM defines it (arXiv:2204.02311)."""
    per_token, peak, devices = (told.get(key) for key in ("flops_per_token", "peak_tflops", "devices"))
    if not (per_token and peak and devices):
        return None
    return float(per_token) / (float(devices) * float(peak) * 1e12)


def _tokens_per_s(sample: Json) -> float | None:
    tokens, step_s = _finite(sample.get("tokens")), _finite(sample.get("step_s"))
    return tokens / step_s if tokens is not None and step_s else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _local(at: datetime, where: tzinfo) -> str:
    """Plotly draws the time that it is given, whatever its zone, so it is given the viewer's."""
    return at.astimezone(where).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]


def _clear(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
