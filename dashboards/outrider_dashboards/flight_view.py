"""The page "Flight recorder": the newest hang's verdict, who waits for whom, and the verdicts of earlier hangs."""

from __future__ import annotations

from datetime import tzinfo
from typing import Any, Final

import streamlit

from outrider_dashboards import look, looking, records
from outrider_dashboards.parts import headline, verdict

EARLIER_MAX: Final = 30

Json = dict[str, Any]


def show(picture: looking.Picture, url: str, where: tzinfo, zone: str) -> None:
    """All of it. While the controller is away the last picture stays, faded, below the word that it is away."""
    if picture.kind:
        streamlit.html(headline.headline(picture, url, where, zone))
    with streamlit.container(key="body"):
        found = records.hangs(picture)
        if picture.kind and not found:
            return
        if picture.kind:
            streamlit.html(look.FADED)
        if not found:
            streamlit.html(verdict.empty(picture))
            return
        _one(found[0], picture, where)
        with streamlit.container(key="earlier"):
            _earlier(found[1:], picture, where)


def _one(one: Json, picture: looking.Picture, where: tzinfo) -> None:
    streamlit.html(verdict.headline(one, picture, where))
    if records.record(one) is None:
        return
    streamlit.html(verdict.roots(one, picture))
    streamlit.html(verdict.graph(one))
    if open_points := verdict.limits(one):
        streamlit.html(open_points)


def _earlier(found: list[Json], picture: looking.Picture, where: tzinfo) -> None:
    streamlit.html('<div class="o"><h2>Earlier hangs</h2></div>')
    if not found:
        streamlit.html('<div class="o soft">None.</div>')
    for one in found[:EARLIER_MAX]:
        panel = streamlit.expander(verdict.head(one, where), key=f"hang-{one.get('id')}", on_change="rerun")
        if panel.open:
            with panel:
                _one(one, picture, where)
    if len(found) > EARLIER_MAX:
        streamlit.html(f'<div class="o soft">{len(found) - EARLIER_MAX} older ones: outrider incidents.</div>')
