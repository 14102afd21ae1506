"""A chart that follows growing curves without a blink.

Streamlit (1.67) mounts a chart anew whenever its content changes, which leaves one blank frame: every 2 seconds, on a
page that follows a job. So there are two charts on one place. A new one is drawn while it is hidden, and shown at the
next refresh, when it has long been drawn; the price is that curves are one refresh behind the numbers above them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import streamlit

OPTIONS: Final = {"displayModeBar": False, "responsive": True, "scrollZoom": False, "doubleClick": False}
STATE: Final = "chart"


@dataclass
class Pair:
    """The two charts of one viewer, as Plotly's JSON. ``shown``: which one can be seen; ``waiting``: the
    other is newer. An empty text is no chart yet.
    """

    drawn: list[str] = field(default_factory=list)
    shown: int = 0
    waiting: bool = False
    about: Any = None

    def take(self, newest: str, about: Any) -> None:
        """Show what was drawn before, and have ``newest`` drawn. Another subject (``about``) is shown at once."""
        if not self.drawn or about != self.about:
            self.drawn, self.shown, self.waiting, self.about = [newest, ""], 0, False, about
            return
        if self.waiting:
            self.shown, self.waiting = 1 - self.shown, False
        if newest != self.drawn[self.shown]:
            self.drawn[1 - self.shown], self.waiting = newest, True


def show(figure: Any, about: Any, alt: str) -> None:
    """Draw ``figure``, which is of ``about`` (a job and a span of time, say)."""
    import plotly.io

    pair: Pair = streamlit.session_state.setdefault(STATE, Pair())
    pair.take(figure.to_json(), about)
    hidden = f"<style>.st-key-chart-{1 - pair.shown}{{visibility:hidden}}</style>"
    streamlit.html(hidden)
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
