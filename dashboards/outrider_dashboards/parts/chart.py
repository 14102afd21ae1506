"""A chart that follows growing curves without a blink.

Streamlit (1.67) mounts a chart anew whenever its content changes, which leaves a blank frame, every 2 seconds on a page
that follows a job. So there are two charts on one place. A new one is drawn while it is hidden, is shown at the next
refresh if the browser has drawn it by then, and only after that the other one is drawn anew. Curves are one refresh
behind the numbers above them, and of a long job they are drawn as seldom as a change of them could be seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import streamlit

OPTIONS: Final = {"displayModeBar": False, "responsive": True, "scrollZoom": False, "doubleClick": False}
STATE: Final = "chart"
LATE_S: Final = 4.0  # refreshes are wanted every 2 s
LATE_FACTOR: Final = 5.0
FORGETTING: Final = 0.8


@dataclass
class Pair:
    """The two charts of one viewer, as Plotly's JSON. ``shown``: which one can be seen; ``waiting``: the
    other is newer. An empty text is no chart yet.
    """

    drawn: list[str] = field(default_factory=list)
    shown: int = 0
    waiting: bool = False
    subject: Any = None
    edge: Any = None
    taken_at: float = 0.0  # monotonic
    ran_at: float | None = None
    gap_s: float = 0.0  # between refreshes of late, the longer ones remembered for a while

    def patience_s(self, now: float) -> float:
        """How long a chart must be left alone: a machine so busy that refreshes come late draws late as well."""
        gap_s = now - self.ran_at if self.ran_at is not None else 0.0
        self.ran_at, self.gap_s = now, max(gap_s, self.gap_s * FORGETTING)
        return self.gap_s * LATE_FACTOR if self.gap_s > LATE_S else 0.0

    def step(self, subject: Any) -> bool:
        """One refresh: show what was drawn before. Whether a new chart may be drawn now."""
        if self.drawn and subject == self.subject:
            was_waiting, self.waiting = self.waiting, False
            self.shown = 1 - self.shown if was_waiting else self.shown
            return not was_waiting
        self.drawn, self.shown, self.waiting, self.subject = [], 0, False, subject
        return True

    def take(self, newest: str) -> None:
        """Have ``newest`` drawn: hidden, unless nothing has been drawn yet."""
        if not self.drawn:
            self.drawn = [newest, ""]
        elif newest != self.drawn[self.shown]:
            self.drawn[1 - self.shown], self.waiting = newest, True


def show(figure: Callable[[], Any], subject: Any, edge: Any, every_s: float, alt: str) -> None:
    """Draw ``figure`` of ``subject`` (a job and a span of time, say): every ``every_s``, and when ``edge`` changes."""
    import plotly.io

    pair: Pair = streamlit.session_state.setdefault(STATE, Pair())
    now = time.monotonic()
    wait_s = pair.patience_s(now) or (0.0 if edge != pair.edge else every_s)
    if pair.step(subject) and (not pair.drawn or now - pair.taken_at >= wait_s):
        pair.take(figure().to_json())
        pair.edge, pair.taken_at = edge, now
    # Whatever is older hides once the newer one is there.
    newer = f".st-key-charts:has(.st-key-chart-{pair.shown} .main-svg)"
    streamlit.html(f"<style>{newer} .st-key-chart-{1 - pair.shown}{{visibility:hidden}}</style>")
    with streamlit.container(key="charts"):
        for place, drawn in enumerate(pair.drawn):
            with streamlit.container(key=f"chart-{place}"):
                if not drawn:
                    continue
                streamlit.plotly_chart(
                    plotly.io.from_json(drawn, skip_invalid=True),
                    key=f"chart-{place}-of",
                    theme=None,
                    config=OPTIONS,
                    alt=alt,
                )
