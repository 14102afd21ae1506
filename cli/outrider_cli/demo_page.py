"""The demo's page: served while the demo runs, said aloud, shown in a browser where there is one to show it.

Serving takes seconds and must not hold up the job, so it happens in a thread; a page that cannot be had costs one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import webbrowser
from typing import TYPE_CHECKING, Final

from outrider_cli import dashboard, errors

if TYPE_CHECKING:
    from outrider_cli import supervision

LINGER_S_MAX: Final = 900.0
DISPLAYS: Final = ("DISPLAY", "WAYLAND_DISPLAY")  # a browser in the terminal would take the demo's own place


class Page:
    """At most one page of one supervision."""

    def __init__(self) -> None:
        self._served: dashboard.Dashboard | None = None
        self._starting: asyncio.Task[None] | None = None

    def open(self, under: supervision.Supervision) -> None:
        """Begin to serve it, once, and return at once."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._open(under), name="demo-page")

    async def _open(self, under: supervision.Supervision) -> None:
        missing = [name for name in dashboard.NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            under.say(f"no page: {missing[0]} is not installed (pip install 'outrider[dashboard]')")
            return
        url, token = under.door()
        try:
            self._served = await asyncio.to_thread(
                dashboard.start, url, token, state=under.plan.state, job=under.plan.spec.name
            )
        except errors.CommandError as error:
            under.say(f"no page: {error}")
            return
        under.say(f"the page that follows this job: {self._served.url}")
        if sys.stdout.isatty() and any(map(os.environ.get, DISPLAYS)):
            await asyncio.to_thread(webbrowser.open, self._served.url)

    async def linger(self, under: supervision.Supervision) -> None:
        """Leave the page up while somebody is there to read it, until they press Ctrl-C or LINGER_S_MAX is over."""
        if self._served is None or not sys.stderr.isatty():
            return
        under.say(f"the page stays at {self._served.url} for {LINGER_S_MAX / 60:g} minutes; Ctrl-C leaves")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LINGER_S_MAX)

    async def close(self) -> None:
        """End it."""
        if self._starting is not None:
            # The thread that serves it cannot be told to stop, and what it started has to be ended.
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._served is not None:
            await asyncio.to_thread(self._served.stop)
