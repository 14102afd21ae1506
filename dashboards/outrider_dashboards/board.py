"""Puts the parts together and keeps them fresh: the views of one job, which follow it by themselves.

Everything lies in one fragment that runs again every REFRESH_S and on every click; Streamlit sends the browser what
changed. Parts have keys, so that what a viewer opened stays open, and what may be missing has a slot of its own, so
that nothing else moves (and is drawn anew) when it comes. Nothing here writes: the page can only look.
"""

from __future__ import annotations

import hmac
from datetime import tzinfo
from typing import Any, Final

import streamlit

from outrider_dashboards import flight_view, look, looking, reading, settings, words
from outrider_dashboards.parts import chart, curves, headline, incidents, ranks, time_bins

REFRESH_S: Final = 2.0
INCIDENTS_ON_A_PAGE: Final = 15
CHART_PART: Final = 0.005  # of the chart's width
CHART_EVERY_S_MAX: Final = 30.0
SPANS: Final = {"10 min": 600.0, "1 h": 3600.0, "1 d": 86400.0, "1 week": 7 * 86400.0}
OVERVIEW, RECORDS = "Overview", "Flight recorder"
VIEWS: Final = {OVERVIEW: "overview", RECORDS: "flight-recorder"}
NO_STEP: Final = '<div class="o soft">No step has been finished yet; the curves begin with the first.</div>'

Json = dict[str, Any]


def show() -> None:
    """The whole page."""
    streamlit.set_page_config(page_title="Outrider", page_icon=look.ICON, layout="wide")
    streamlit.html(look.style_sheet())
    if _let_in(_settings().viewer_token):
        _board()


@streamlit.cache_resource
def _settings() -> settings.Settings:
    return settings.from_environment()


@streamlit.cache_resource
def _looking() -> looking.Looking:
    """One for all viewers, so that ten of them ask the controller no more than one."""
    return looking.Looking(_settings())


def _let_in(wanted: str) -> bool:
    """Whether the viewer has given the token that this page asks for, if it asks for one."""
    if not wanted or streamlit.session_state.get("let_in"):
        return True
    with streamlit.form("viewer"):
        given = streamlit.text_input("Token of this page", type="password", autocomplete="current-password")
        asked = streamlit.form_submit_button("Open")
    if asked and hmac.compare_digest(given.encode(), wanted.encode()):
        streamlit.session_state["let_in"] = True
        streamlit.rerun()
    if asked:
        streamlit.error("This is not the token. Whoever serves the page has it (--viewer-token-file).")
    return False


@streamlit.fragment(run_every=REFRESH_S)
def _board() -> None:
    here = _looking()
    where, zone = words.zone(streamlit.context.timezone, streamlit.context.timezone_offset)
    job, last_s = _chosen()
    picture = here.look(job, last_s)
    _top(picture, job)
    if _view() == RECORDS:
        flight_view.show(picture, here.url, where, zone)
        return
    streamlit.html(headline.headline(picture, here.url, where, zone))
    with streamlit.container(key="what-to-do"):
        _what_to_do(picture, here)
    with streamlit.container(key="body"):
        if picture.status is not None:
            _body(picture, here, where, last_s)


def _view() -> str:
    """Which view is wanted; an address may ask for one: ``?view=flight-recorder``."""
    asked = next((name for name, word in VIEWS.items() if word == streamlit.query_params.get("view")), OVERVIEW)
    with streamlit.container(key="views"):
        chosen = streamlit.segmented_control(
            "View", list(VIEWS), default=asked, key="view", required=True, label_visibility="collapsed"
        )
    if VIEWS[chosen] != streamlit.query_params.get("view", VIEWS[OVERVIEW]):
        streamlit.query_params["view"] = VIEWS[chosen]
    return chosen


def _body(picture: looking.Picture, here: looking.Looking, where: tzinfo, last_s: float | None) -> None:
    streamlit.html(headline.tiles(picture) + (look.FADED if picture.kind else ""))
    left, right = streamlit.columns([1.45, 1], gap="medium")
    with left:
        _curves(picture, where, last_s)
        streamlit.html(ranks.who_is_where(picture))
    with right:
        streamlit.html(time_bins.where_time_went(picture.report))
        with streamlit.container(key="interruptions"):
            _incidents("Interruptions", reading.interruptions(picture), picture, here, where)
        with streamlit.container(key="findings"):
            _findings(picture, here, where)
    if picture.report and picture.report.get("ettr_definition"):
        said = words.safe(picture.report["ettr_definition"])
        streamlit.html(f'<div class="o soft">Effective training time ratio: {said}.</div>')


def _findings(picture: looking.Picture, here: looking.Looking, where: tzinfo) -> None:
    if watched := reading.findings(picture):
        _incidents("Findings (nothing was interrupted)", watched, picture, here, where)


def _chosen() -> tuple[str | None, float | None]:
    """The job that is picked, and how much of its past; None for the newest, and for all of it."""
    job = streamlit.session_state.get("job") or streamlit.query_params.get("job") or _settings().job or None
    return job, SPANS.get(str(streamlit.session_state.get("span")))


def _top(picture: looking.Picture, job: str | None) -> None:
    names = [str(one["job"]) for one in picture.jobs]
    name = (picture.status or {}).get("job")
    shown = f' <span class="soft">/</span> {words.safe(name)}' if name else ""
    streamlit.html(f'<div class="o top"><span class="mark">Outrider{shown}</span></div>')
    with streamlit.container(key="picker"):
        _picker(picture, names, name, job)


def _picker(picture: looking.Picture, names: list[str], name: str | None, job: str | None) -> None:
    if len(names) > 1:
        states = {str(one["job"]): one.get("state") for one in picture.jobs}
        newest_first = names[::-1]
        streamlit.selectbox(
            "Job",
            newest_first,
            index=newest_first.index(name) if name in newest_first else 0,
            format_func=lambda each: f"{each} ({states.get(each)})",
            key="job",
        )
    if job is not None and job not in names and names:
        streamlit.warning(f"There is no job {job!r}; this is {name}.")


def _what_to_do(picture: looking.Picture, here: looking.Looking) -> None:
    if picture.kind or (picture.status or {}).get("state") not in ("held", "failed"):
        return
    one = reading.open_incident(picture) or next(iter(reading.interruptions(picture)), None)
    book = here.runbook(str(one["runbook"])) if one and one.get("runbook") else None
    told = headline.to_do(picture, _place(here), book)
    if told:
        streamlit.html(told)
        if book:
            _runbook(book, "runbook-now")


def _place(here: looking.Looking) -> str:
    state = _settings().state
    return f"--state {state}" if state else f"--controller {here.url}"


def _runbook(book: Json, key: str) -> None:
    panel = streamlit.expander(f"Runbook: {words.plain(book.get('title'))}", key=key, on_change="rerun")
    if panel.open:
        panel.markdown(words.runbook(str(book.get("text") or "")))


def _curves(picture: looking.Picture, where: tzinfo, last_s: float | None) -> None:
    with streamlit.container(border=True, key="curves"):
        keys = time_bins.legend(curves.bands(picture))
        more = "<span>┊ attempt</span>" if len(reading.attempts(picture)) > 0 else ""
        more += "<span>▲ interruption</span>" if reading.interruptions(picture) else ""
        streamlit.html(f'<div class="o"><h2>Over time</h2><div class="legend">{keys}{more}</div></div>')
        with streamlit.container(key="spans"):
            _spans(picture)
        with streamlit.container(key="no-step"):
            if not picture.series:
                streamlit.html(NO_STEP)
                return
        drawn = [title.partition(",")[0].lower() for title, _, _ in curves.rows(picture)]
        chart.show(
            lambda: curves.figure(picture, where, last_s),
            ((picture.status or {}).get("job"), last_s, len(drawn)),
            ((picture.status or {}).get("state"), len(reading.interruptions(picture)), len(reading.attempts(picture))),
            _pace_s(picture, last_s),
            f"{', '.join(drawn)} over time, with interruptions as bands",
        )
        reason = ((picture.report or {}).get("mfu") or {}).get("reason")
        if reason:
            streamlit.html(f'<div class="o soft">MFU is not drawn: {words.safe(reason)}.</div>')


def _pace_s(picture: looking.Picture, last_s: float | None) -> float:
    """How long until new samples move the curves by a part that can be seen."""
    shown_s = min(last_s or float("inf"), (picture.report or {}).get("elapsed_s") or 0.0)
    return min(max(REFRESH_S, shown_s * CHART_PART), CHART_EVERY_S_MAX)


def _spans(picture: looking.Picture) -> None:
    """How much of the past is shown; a short job has no choice."""
    elapsed = (picture.report or {}).get("elapsed_s") or 0.0
    fitting = [name for name, seconds in SPANS.items() if seconds < elapsed]
    if fitting:
        streamlit.segmented_control(
            "Shown", ["All", *fitting], default="All", key="span", required=True, label_visibility="collapsed"
        )


def _incidents(title: str, found: list[Json], picture: looking.Picture, here: looking.Looking, where: tzinfo) -> None:
    pretended = reading.simulated(picture)
    tag = ' <span class="tag">simulated hosts</span>' if pretended and found else ""
    streamlit.html(f'<div class="o"><h2>{words.safe(title)}{tag}</h2></div>')
    if not found:
        streamlit.html('<div class="o soft">None so far.</div>')
        return
    pages = -(-len(found) // INCIDENTS_ON_A_PAGE)
    page = 1
    if pages > 1:
        page = int(
            streamlit.number_input(
                f"Page of {pages}, the newest first", min_value=1, max_value=pages, step=1, key=f"page-{title}"
            )
        )
    for one in found[(page - 1) * INCIDENTS_ON_A_PAGE : page * INCIDENTS_ON_A_PAGE]:
        panel = streamlit.expander(
            incidents.head(one, where, pretended), key=f"incident-{one.get('id')}", on_change="rerun"
        )
        if panel.open:
            book = here.runbook(str(one["runbook"])) if one.get("runbook") else None
            panel.html(incidents.body(one, where, pretended, book))
            if book:
                with panel:
                    _runbook(book, f"runbook-{one.get('id')}")
