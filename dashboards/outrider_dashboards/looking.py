"""The newest picture of the controller, shared by everybody who has the page open.

In: the settings; which job and how much of its past is wanted. Out: a ``Picture``: what was answered, when, and what
went wrong since. The controller's real work goes first, so what took long to answer is asked for seldom; a change that
the short status shows (a state, an incident, an attempt) has everything asked for at once. While the controller is
away the last picture stays, with its age.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib import parse

from outrider_dashboards import api as api_module
from outrider_dashboards import settings as settings_module

LOOK_EVERY_S: Final = 1.5  # the page asks every 2 s; several viewers share one look
PATIENCE: Final = 15.0  # an answer that took so many seconds is asked for again after PATIENCE times as long
POINTS_MAX: Final = 2000
SAMPLES_MAX: Final = 20_000
PICTURES_MAX: Final = 16
RUNBOOKS_MAX: Final = 128

Json = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """What is known. ``problem``: why the newest look failed, empty while it succeeds; ``kind``: away or refused."""

    jobs: tuple[Json, ...] = ()
    status: Json | None = None
    report: Json | None = None
    timeline: Json | None = None
    series: tuple[Json, ...] = ()
    taken_at: float | None = None  # Unix time of the newest look that succeeded; None for none yet
    problem: str = ""
    kind: str = ""


@dataclass
class _View:
    """One job at one width of its past, as somebody looks at it."""

    picture: Picture = Picture()
    tried_at: float = float("-inf")  # monotonic
    took_s: dict[str, float] = field(default_factory=dict)
    asked_at: dict[str, float] = field(default_factory=dict)
    edge: tuple[Any, ...] = ()


class Looking:
    """Looks at one controller, for any number of threads."""

    def __init__(self, settings: settings_module.Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._api = self._to(settings.controller_url)
        self._lock = threading.Lock()
        self._views: dict[tuple[str, float | None], _View] = {}
        self._runbooks: dict[str, Json] = {}

    @property
    def url(self) -> str:
        """Where the controller was last looked for."""
        return self._api.url

    def look(self, job: str | None, last_s: float | None = None) -> Picture:
        """The picture of ``job`` (None: the newest), looked at now unless that was done a moment ago."""
        with self._lock:
            view = self._views.setdefault((job or "", last_s), _View())
            while len(self._views) > PICTURES_MAX:
                self._views.pop(next(iter(self._views)))
            if self._monotonic() - view.tried_at >= LOOK_EVERY_S:
                self._look(view, job, last_s)
                view.tried_at = self._monotonic()
            return view.picture

    def runbook(self, name: str) -> Json | None:
        """A cause's runbook, None where it cannot be had."""
        with self._lock:
            if name not in self._runbooks:
                try:
                    found = self._api.get(f"/v1/runbooks/{_quoted(name)}")
                except api_module.LookError:
                    return None
                if len(self._runbooks) >= RUNBOOKS_MAX:
                    self._runbooks.clear()
                self._runbooks[name] = found
            return self._runbooks[name]

    def _look(self, view: _View, job: str | None, last_s: float | None) -> None:
        try:
            view.picture = self._ask(view, job, last_s)
        except api_module.LookError as error:
            self._follow()
            kind = "refused" if isinstance(error, api_module.RefusedError) else "away"
            view.picture = replace(view.picture, problem=str(error), kind=kind)

    def _ask(self, view: _View, job: str | None, last_s: float | None) -> Picture:
        before = view.picture
        jobs = tuple(self._timed(view, "jobs", lambda: self._api.get("/v1/jobs")).get("jobs") or ())
        name = _chosen(jobs, job)
        if name is None:
            return Picture(jobs=jobs, taken_at=time.time())
        at = f"/v1/jobs/{_quoted(name)}"
        status = self._timed(view, "status", lambda: self._api.get(f"{at}/status"))
        edge = (name, *(status.get(key) for key in ("state", "attempt", "open_incident", "ended_by")))
        fresh, view.edge = edge != view.edge, edge
        found = replace(before if not fresh or _job(before) == name else Picture(), jobs=jobs, status=status)
        found = replace(found, problem="", kind="")
        if fresh or self._due(view, "report"):
            report = self._timed(view, "report", lambda: self._api.get(f"{at}/report"))
            timeline = self._optional(f"{at}/timeline")
            found = replace(found, report=report, timeline=timeline)
        if fresh or self._due(view, "series"):
            query = {"n": SAMPLES_MAX, "points": POINTS_MAX, "last_s": last_s}
            curve = self._timed(view, "series", lambda: self._api.get(f"{at}/series", **query))
            found = replace(found, series=_thinned(curve.get("samples") or []))
        return replace(found, taken_at=time.time())

    def _optional(self, path: str) -> Json | None:
        """What an older controller may not have."""
        try:
            return self._api.get(path)
        except api_module.NotThereError:
            return None

    def _timed(self, view: _View, what: str, ask: Callable[[], Json]) -> Json:
        begin = self._monotonic()
        found = ask()
        view.asked_at[what] = self._monotonic()
        view.took_s[what] = view.asked_at[what] - begin
        return found

    def _due(self, view: _View, what: str) -> bool:
        since = self._monotonic() - view.asked_at.get(what, float("-inf"))
        return since >= view.took_s.get(what, 0.0) * PATIENCE

    def _follow(self) -> None:
        """A controller that was started again on the same state directory may listen elsewhere."""
        if not self._settings.state:
            return
        state = Path(self._settings.state)
        try:
            url = json.loads((state / "controller.json").read_text(encoding="utf-8"))["url"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if isinstance(url, str) and url.rstrip("/") != self._api.url:
            self._api = self._to(url)

    def _to(self, url: str) -> api_module.Api:
        return api_module.Api(url, self._settings.token, self._settings.ca_file)


def _chosen(jobs: tuple[Json, ...], job: str | None) -> str | None:
    """The job that is meant; else the newest that runs; else the newest."""
    names = [str(one["job"]) for one in jobs]
    running = [str(one["job"]) for one in jobs if one.get("state") not in ("completed", "failed")]
    if job in names:
        return job
    found = running or names
    return found[-1] if found else None


def _job(picture: Picture) -> str | None:
    return picture.status.get("job") if picture.status else None


def _thinned(samples: list[Json]) -> tuple[Json, ...]:
    """A controller that cannot thin gives all; every so many are taken then, and the newest."""
    if len(samples) <= POINTS_MAX:
        return tuple(samples)
    stride = -(-len(samples) // (POINTS_MAX - 1))
    return (*samples[:-1:stride], samples[-1])


def _quoted(name: str) -> str:
    return parse.quote(name, safe="")
